"""The nodes that serving needed in the last day, carried on from one status to the next: no process remembers them."""

from __future__ import annotations

from tidefleet.api.flipping_status import MOST_SLOTS, FlippingStatus


def needed_before(status: FlippingStatus | None, slot_start: float | None) -> list[int]:
    """Nodes needed in each slot before one, oldest first; the last ends where it begins.

    What the status so far had of the past, and of what was ahead of it the slots that have gone by: while the status is
    written each slot, each of those is what was needed in it. After a pause of the operator it is what was foreseen.

    Args:
        status: as it was last written; ``None`` without one.
        slot_start: beginning of the present slot (Unix seconds).
    """
    if status is None or status.slot_start is None or slot_start is None:
        return []
    passed = round((slot_start - status.slot_start.timestamp()) / status.slot_seconds)
    if passed < 0 or passed > len(status.needed):
        return []  # a clock that went back, or a gap that nothing is known of
    return [*status.needed_before, *status.needed[:passed]][-MOST_SLOTS:]
