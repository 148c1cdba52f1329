"""Prompt tokens that were prefilled although they had been computed before, and why they were computed again."""

from __future__ import annotations

from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.homes import Home
from tidefleet.routing.pick import Pick

EVICTED, MISROUTED, FLIP, RESTART, COLD = "evicted", "misrouted", "flip", "restart", "cold"
CAUSES = (EVICTED, MISROUTED, FLIP, RESTART, COLD)


def recomputed(
    pick: Pick, table: Endpoints, home: Home | None, *, address: str, cached_tokens: float, prompt_tokens: float
) -> tuple[int, str]:
    """Tokens and their one cause; 0 and nothing where all that was known to be computed was found.

    - ``flip``: the session's home left (for training, a smaller fleet or an upgrade) and it was moved.
    - ``restart``: the session's home is gone, or another engine has come to its address.
    - ``evicted``: the endpoint that answered was thought to hold more than it had.
    - ``cold``: another one held more, but this one had just started and held nothing of anybody.
    - ``misrouted``: another one held more.

    Less than one block of the prompt's keys is no difference. It is to be called before the request's account ends.

    Args:
        home: where the session lived before this request.
        address: the endpoint that answered.
        cached_tokens: as the engine told.
    """
    ask, terms = pick.ask, pick.terms
    least = cached_tokens + ask.block_size
    if home is not None:
        moved = bool(home.planned)
        if moved or not table.is_same(home.address, home.epoch):
            before = min(home.tokens, max(0.0, prompt_tokens - 1.0))
            if before >= least:
                return int(before - cached_tokens), FLIP if moved else RESTART
    held = terms.held_anywhere()
    at = pick.row if address == pick.address else None
    if at is None and address in terms.addresses:
        at = terms.addresses.index(address)
    here = held[at] if at is not None else 0
    if here >= least:
        return int(here - cached_tokens), EVICTED
    elsewhere = max(held, default=0)
    if elsewhere < least:
        return 0, ""
    row = table.position(address)
    started = row is not None and float(table.resident[row]) <= 0.0
    return int(elsewhere - cached_tokens), COLD if started else MISROUTED
