"""What endpoints are about to hold: the prompts of requests that were sent there and have no first token yet.

An index learns of blocks once an engine has computed them. A request that is sent where such a prompt waits or is
prefilled stands behind it in the engine's queue and finds its blocks there: the turns of a session that come faster
than they are served, and many requests at once with one system prompt, stay together.

Prompts are compared at a few places only, four to an octave. Keys are chained, so what agrees at one of them
agrees before it too; how far it goes on is searched in halves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.endpoint import Ticket
from tidefleet.routing.hashing import Keys

_STEPS = sorted({max(1, round(2.0 ** (quarter / 4.0))) for quarter in range(80)})
_PLACES: NDArray[np.intp] = np.array(_STEPS, np.intp) - 1
"""Blocks whose keys are compared, counted from 0."""


class Coming:
    """By key of a compared block, the prompts that begin with it."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[int, list[Ticket]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def begin(self, ticket: Ticket) -> None:
        """A request was sent to its endpoint."""
        for key in _compared(ticket.ask.keys):
            self._by_key.setdefault(key, []).append(ticket)

    def end(self, ticket: Ticket) -> None:
        """Its first token came, or none will; once for each ``begin``."""
        for key in _compared(ticket.ask.keys):
            tickets = self._by_key.get(key)
            if tickets is None or ticket not in tickets:
                continue
            tickets.remove(ticket)
            if not tickets:
                del self._by_key[key]

    def blocks(self, keys: Keys) -> dict[tuple[str, int], int]:
        """Leading blocks of a prompt that each endpoint (address, epoch) is about to have."""
        found: dict[tuple[str, int], int] = {}
        for key in reversed(_compared(keys)):
            for ticket in self._by_key.get(key, ()):
                where = (ticket.address, ticket.epoch)
                if where not in found:
                    found[where] = _common(keys, ticket.ask.keys)
        return found


def _compared(keys: Keys) -> list[int]:
    count = len(keys)
    found: list[int] = keys[_PLACES[: int(np.searchsorted(_PLACES, count))]].tolist()
    return found


def _common(one: Keys, other: Keys) -> int:
    """Blocks that two prompts begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[middle - 1] == other[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
