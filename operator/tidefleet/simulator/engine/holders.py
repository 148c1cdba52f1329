"""Which replicas hold the beginning of a prompt: the answers of ``routing.index``, for a simulation.

The router's index serves requests of any length at a bounded size; a simulation asks it thousands of times for each
second of its own, and knows every block of its replicas. A table from a block to the set of its holders, as bits,
answers the same several times as fast.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.rates import SHARED


@dataclass(frozen=True, slots=True)
class Held:
    """Leading blocks held, shape (tiers, slots): in that tier or a faster one (as ``routing.index.Hits``)."""

    blocks: NDArray[np.int32]


class Holders:
    """Blocks to replicas and tiers.

    Args:
        tiers: of which anything is told, the device's included: 1 to 4.
        shared: blocks of the store that all replicas read; ``None`` = there is none.
    """

    __slots__ = ("_free", "_members", "_shared", "_slots", "_tables", "_tiers")

    def __init__(self, *, tiers: int = 1, shared: Collection[int] | None = None) -> None:
        self._tiers = tiers
        self._tables: list[dict[int, int]] = [{} for _ in range(tiers)]
        self._shared = shared
        self._slots = 0
        self._members = 0
        self._free: list[int] = []

    def add(self) -> int:
        """A slot for a replica."""
        if not self._free:
            self._free.append(self._slots)
            self._slots += 1
        slot = self._free.pop()
        self._members |= 1 << slot
        return slot

    def drop(self, slot: int) -> None:
        """A replica is gone; what it held was removed before."""
        self._members &= ~(1 << slot)
        self._free.append(slot)

    def store(self, slot: int, keys: Sequence[int], *, tier: int = 0) -> None:
        """A replica holds these blocks. Those of the shared store are known without being told."""
        if tier == SHARED:
            return
        table, bit = self._tables[tier], 1 << slot
        get = table.get
        for key in keys:
            table[key] = get(key, 0) | bit

    def remove(self, slot: int, keys: Collection[int], *, tier: int = 0) -> None:
        """It holds them no more in this tier."""
        if tier == SHARED:
            return
        table, bit = self._tables[tier], 1 << slot
        for key in keys:
            left = table.get(key, 0) & ~bit
            if left:
                table[key] = left
            else:
                table.pop(key, None)

    def match(self, keys: Sequence[int]) -> Held:
        """What each replica holds of a prompt."""
        found = np.zeros((self._tiers, self._slots), np.int32)
        for tier in range(self._tiers):
            tables = [table.get for table in self._tables[: tier + 1]]
            shared = self._shared if tier == SHARED else None
            still, place = self._members, 0
            row = found[tier]
            for key in keys:
                mask = 0
                for get in tables:
                    mask |= get(key, 0)
                if shared is not None and key in shared:
                    mask = still
                kept = still & mask
                if kept != still:
                    _set(row, still & ~kept, place)
                    still = kept
                    if not kept:
                        break
                place += 1
            if still:
                _set(row, still, place)
        return Held(found)


_MANY = 8
"""From so many replicas on, setting them together is faster than one after the other."""


def _set(row: NDArray[np.int32], bits: int, value: int) -> None:
    if not value:
        return
    if bits.bit_count() >= _MANY:
        count = len(row)
        flags = np.frombuffer(bits.to_bytes((count + 7) // 8, "little"), np.uint8)
        row[np.unpackbits(flags, count=count, bitorder="little").view(np.bool_)] = value
        return
    while bits:
        low = bits & -bits
        row[low.bit_length() - 1] = value
        bits ^= low
