"""What endpoints are about to hold: the prompts of requests that were sent there and have no first token yet.

An index learns of blocks once an engine has computed them. A request that is sent where such a prompt waits or is
prefilled stands behind it in the engine's queue and finds its blocks there: the turns of a session that come faster
than they are served, and many requests at once with one system prompt, stay together.

Prompts are compared at a few places only, two to an octave. Keys are chained, so what agrees at one of them agrees
before it too. How far it goes on is searched in halves, in the last prompt there that agrees so far.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.endpoint import Ticket
from tidefleet.routing.hashing import Keys

Where = tuple[str, int]
"""Address and epoch of an endpoint."""

_PLACES: NDArray[np.intp] = np.array(sorted({*(1 << bit for bit in range(22)), *(3 << bit for bit in range(21))})) - 1
"""Blocks whose keys are compared, counted from 0."""


class Coming:
    """By key of a compared block and endpoint: how many prompts on their way begin so, and the last one."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[int, dict[Where, tuple[int, Keys]]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def begin(self, ticket: Ticket) -> None:
        """A request was sent to its endpoint."""
        keys, where = ticket.ask.keys, (ticket.address, ticket.epoch)
        for key in _compared(keys):
            there = self._by_key.get(key)
            if there is None:
                self._by_key[key] = {where: (1, keys)}
            else:
                old = there.get(where)
                there[where] = (1 if old is None else old[0] + 1, keys)

    def end(self, ticket: Ticket) -> None:
        """Its first token came, or none will; once for each ``begin``."""
        where = (ticket.address, ticket.epoch)
        for key in _compared(ticket.ask.keys):
            there = self._by_key[key]
            count, keys = there[where]
            if count > 1:
                there[where] = (count - 1, keys)
            elif len(there) > 1:
                del there[where]
            else:
                del self._by_key[key]

    def blocks(self, keys: Keys) -> dict[Where, int]:
        """Leading blocks of a prompt that endpoints are about to have, of those that will have any.

        Of several prompts at one endpoint the last one counts of those that have most in common with it, to within half
        an octave.
        """
        found: dict[Where, int] = {}
        for key in reversed(_compared(keys)):
            there = self._by_key.get(key)
            if there is None or len(there) == len(found):
                continue
            for where, (_, other) in there.items():
                if where not in found:
                    found[where] = _common(keys, other)
        return found


def _compared(keys: Keys) -> list[Any]:
    found: list[Any] = keys[_PLACES[: int(_PLACES.searchsorted(len(keys)))]].tolist()
    return found


def _common(one: Keys, other: Keys) -> int:
    """Blocks that two prompts begin with."""
    low, high = 0, min(len(one), len(other))
    if one[high - 1] == other[high - 1]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if one[middle - 1] == other[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
