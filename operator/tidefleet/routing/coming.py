"""What endpoints are about to hold: the prompts of requests that were sent there and have no first token yet.

An index learns of blocks once an engine has computed them. A request that is sent where such a prompt waits or is
prefilled stands behind it in the engine's queue and finds its blocks there: the turns of a session that come faster
than they are served, and many requests at once with one system prompt, stay together.

Prompts are compared at a few places only, two to an octave. Keys are chained, so what agrees at one of them agrees
before it too. How far it goes on is searched in halves, in the last prompt there that agrees so far.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.endpoint import Ticket
from tidefleet.routing.hashing import Keys
from tidefleet.routing.request import Ask

Where = tuple[str, int]
"""Address and epoch of an endpoint."""

_BLOCKS: list[int] = sorted({*(1 << bit for bit in range(22)), *(3 << bit for bit in range(21))})
"""A prompt's keys are compared after so many blocks."""

_CUTS: list[NDArray[np.intp]] = [np.array(_BLOCKS[:count], np.intp) - 1 for count in range(len(_BLOCKS) + 1)]
"""Where these keys lie, of a prompt that is long enough for the first ones of them."""

_BOUNDS: list[int] = [*(one - 1 for one in _BLOCKS[1:]), 1 << 62]
"""Prompts that differ at the next place have at most so many blocks in common."""


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
        ticket.compared = _compared(keys)
        for key in ticket.compared:
            there = self._by_key.get(key)
            if there is None:
                self._by_key[key] = {where: (1, keys)}
            else:
                old = there.get(where)
                there[where] = (1 if old is None else old[0] + 1, keys)

    def end(self, ticket: Ticket) -> None:
        """Its first token came, or none will; once for each ``begin``."""
        where = (ticket.address, ticket.epoch)
        for key in ticket.compared:
            there = self._by_key[key]
            count, keys = there[where]
            if count > 1:
                there[where] = (count - 1, keys)
            elif len(there) > 1:
                del there[where]
            else:
                del self._by_key[key]

    def blocks(self, keys: Keys, beyond: int = 0) -> list[tuple[Where, int, Keys]]:
        """Endpoints that are about to have more than ``beyond`` of a prompt's leading blocks, those with most first.

        With each a bound of these blocks, and the keys of a prompt to search with ``common``. Of several prompts at one
        endpoint that is the last of those that have most in common with this one, to within half an octave.
        """
        found: list[tuple[Where, int, Keys]] = []
        seen: set[Where] = set()
        compared = _compared(keys)
        for place in range(len(compared) - 1, -1, -1):
            bound = _BOUNDS[place]
            if bound <= beyond:
                break
            there = self._by_key.get(compared[place])
            if there is None or len(there) == len(seen):
                continue
            for where, (_, other) in there.items():
                if where not in seen:
                    seen.add(where)
                    found.append((where, bound, other))
        return found


def _compared(keys: Keys) -> list[Any]:
    found: list[Any] = keys[_CUTS[bisect_right(_BLOCKS, len(keys))]].tolist()
    return found


def common(one: Keys, other: Keys) -> int:
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


def coming_tokens(
    coming: Coming, ask: Ask, held: Sequence[float], rows: Mapping[str, int], is_same: Callable[[str, int], bool]
) -> list[tuple[int, float]]:
    """Rows that are about to hold more of a prompt than they do, and how many tokens of it.

    Args:
        held: tokens by row; rows: by address; is_same: whether an endpoint is still the one with that epoch.
    """
    size, found = ask.block_size, []
    for (address, epoch), bound, keys in coming.blocks(ask.keys, int(min(held)) // size):
        if is_same(address, epoch):
            at = rows[address]
            if bound * size > held[at] and (tokens := float(common(ask.keys, keys) * size)) > held[at]:
                found.append((at, tokens))
    return found
