"""Capacity that could not be had: how long replicas have waited, and what is planned around for a while."""

from __future__ import annotations

from collections.abc import Mapping

from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.view import Chips, PoolMemory, PoolView
from tidefleet.planning.options import Allowed


def chip_limits(
    view: PoolView, memory: PoolMemory, settings: OperatorConfiguration, allowed: Mapping[str, Allowed]
) -> tuple[dict[str, int], dict[str, str]]:
    """Most chips per accelerator type, by the owner's limit and by capacity that was refused, and why.

    Refused means: pods waited for a node longer than ``capacityWaitSeconds``, or have one and did not become ready for
    longer than ``startTimeoutSeconds`` while none of their type is ready. It is asked for again later.
    """
    caps = {name: one.max_chips for name, one in allowed.items() if one.max_chips is not None}
    reasons = {name: f"maxChips of {name} is {limit}" for name, limit in caps.items()}
    for name, chips in view.reserved.items():
        caps[f"{name} Reserved"] = chips
        reasons[f"{name} Reserved"] = f"{chips} chips of {name} are reserved for this pool to use"
    held = chips_by_type(view)
    _note(memory.pending_since, {name for name, one in held.items() if one.waiting}, view.now)
    _note(memory.starting_since, {name for name, one in held.items() if one.scheduled and not one.ready}, view.now)
    for since, limit, why in (
        (memory.pending_since, settings.capacity_wait_seconds, "no more nodes came"),
        (memory.starting_since, settings.start_timeout_seconds, "no replica became ready"),
    ):
        for name, at in since.items():
            if view.now - at >= limit and name not in memory.refused_until:
                memory.refused_until[name] = view.now + settings.capacity_refused_seconds
                memory.refused_why[name] = why
    for name, until in list(memory.refused_until.items()):
        if until <= view.now:
            for each in (memory.refused_until, memory.pending_since, memory.starting_since, memory.refused_why):
                each.pop(name, None)
            continue
        has = held.get(name, Chips()).scheduled if memory.refused_why.get(name) == "no more nodes came" else 0
        caps[name] = min(caps.get(name, has), has)
        reasons[name] = (
            f"{memory.refused_why.get(name, 'refused')} for {name} beyond {has} chips; asked for again later"
        )
    return caps, reasons


def chips_by_type(view: PoolView) -> dict[str, Chips]:
    """Chips of a pool by accelerator type, over all capacity types."""
    held: dict[str, Chips] = {}
    for (name, _), one in view.chips.items():
        before = held.get(name, Chips())
        held[name] = Chips(
            before.scheduled + one.scheduled,
            before.ready + one.ready,
            before.waiting + one.waiting,
            before.waiting_pods + one.waiting_pods,
            min(before.why, one.why) if before.why and one.why else before.why or one.why,
        )
    return held


def _note(since: dict[str, float], now_so: set[str], now: float) -> None:
    for name in now_so:
        since.setdefault(name, now)
    for name in [name for name in since if name not in now_so]:
        del since[name]
