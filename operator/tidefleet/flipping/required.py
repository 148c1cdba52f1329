"""From rates of demand to nodes that must serve: replicas per slot, and how they fit on nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

HEADROOM = 0.85
"""rho: share of a replica's capacity that is planned for."""

NEARLY = 1e-9
"""Share of a replica that is rounding, not demand."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many replicas a pool needs on one accelerator type, per slot.

    Attributes:
        pool: for messages.
        chips: of one replica.
        needed: per slot.

    Raises:
        ValueError: chips is not positive, or a number of replicas is negative.
    """

    pool: str
    chips: int
    needed: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.chips < 1:
            raise ValueError(f"Replicas of {self.pool}: chips is {self.chips}; expected a positive integer, e.g. 4")
        if any(one < 0 for one in self.needed):
            raise ValueError(
                f"Replicas of {self.pool}: needed has {min(self.needed)}; expected counts from 0 on, e.g. 3"
            )


def needed_replicas(
    rates: ArrayLike,
    *,
    capacity: Sequence[float],
    headroom: float = HEADROOM,
    lead_slots: int = 1,
    reserve: int = 1,
) -> tuple[int, ...]:
    """Replicas per slot: ceil(max over [t, t + lead] of the largest rate / (capacity * headroom)) + reserve.

    Beyond the last slot the demand is taken to be no higher than in it.

    Args:
        rates: demand at the quantile that serving keeps, shape (slots,) or (slots, quantities), e.g. prefill and decode
            tokens/s. A replica must carry each quantity; the one that needs most decides.
        capacity: what one replica sustains of each quantity, in the same units.
        headroom: share of it that is planned for, above 0 and at most 1.
        lead_slots: how far ahead of a demand its replicas are ready.
        reserve: replicas above the need.

    Raises:
        ValueError: a rate is negative or not finite (a gap is not a demand of zero: whoever knows no demand may loan
            nothing), or another argument is out of its range.
    """
    asked = np.asarray(rates, dtype=np.float64)
    asked = asked.reshape(-1, asked.shape[1] if asked.ndim == 2 else 1)
    limits = np.asarray(capacity, dtype=np.float64).reshape(-1)
    if not (np.isfinite(limits) & (limits > 0)).all() or not len(limits):
        raise ValueError(f"capacity is {tuple(capacity)}; expected positive numbers, e.g. (52000.0, 3100.0)")
    if asked.size and asked.shape[1] != len(limits):
        raise ValueError(f"rates have {asked.shape[1]} quantities; expected the {len(limits)} of capacity")
    if not 0.0 < headroom <= 1.0:
        raise ValueError(f"headroom is {headroom}; expected a share above 0 and at most 1, e.g. 0.85")
    if lead_slots < 0 or reserve < 0:
        raise ValueError(f"lead_slots is {lead_slots} and reserve {reserve}; expected numbers from 0 on, e.g. 1")
    usable = np.isfinite(asked) & (asked >= 0)
    if not usable.all():
        slot, which = (int(one) for one in np.argwhere(~usable)[0])
        raise ValueError(f"rates[{slot}] is {asked[slot, which]}; expected a finite rate of at least 0, e.g. 1200.0")
    if not asked.size:
        return ()
    replicas = (asked / (limits * headroom)).max(axis=1)
    highest = replicas.copy()
    for lead in range(1, min(lead_slots, len(replicas) - 1) + 1):
        highest[:-lead] = np.maximum(highest[:-lead], replicas[lead:])
    return tuple((np.ceil(highest - NEARLY * np.maximum(1.0, highest)).astype(np.int64) + reserve).tolist())


def needed_nodes(pools: Sequence[Replicas], *, chips_per_node: int) -> tuple[int, ...]:
    """Nodes of one accelerator type that the replicas of all its pools fill, per slot.

    Replicas share a node as far as its chips go, those of different pools too; none is split over nodes, except that a
    replica wider than a node takes whole nodes of its own. They are packed largest first, each into the fullest node
    that has room: where sizes divide one another, as powers of two do, no packing needs fewer nodes, and otherwise it
    needs a little more at most, which is the safe side.

    Raises:
        ValueError: chips_per_node is not positive, or the pools have different numbers of slots.
    """
    if chips_per_node < 1:
        raise ValueError(f"chips_per_node is {chips_per_node}; expected a positive integer, e.g. 8")
    lengths = {len(one.needed) for one in pools}
    if len(lengths) > 1:
        raise ValueError(f"pools have {sorted(lengths)} slots; expected the same number in all")
    if not pools:
        return ()
    sizes = tuple(sorted({one.chips for one in pools}, reverse=True))
    counts = np.zeros((len(pools[0].needed), len(sizes)), dtype=np.int64)
    for one in pools:
        counts[:, sizes.index(one.chips)] += np.asarray(one.needed, dtype=np.int64)
    return tuple(_packed(sizes, tuple(each), chips_per_node) for each in counts.tolist())


def nodes_for(replicas: float, chips: int, chips_per_node: int) -> int:
    """Whole nodes that so many replicas of so many chips each fill; a wider replica takes whole nodes of its own."""
    if replicas <= 0:
        return 0
    if chips >= chips_per_node:
        return math.ceil(replicas) * math.ceil(chips / max(1, chips_per_node))
    return math.ceil(math.ceil(replicas) / (chips_per_node // chips))


@lru_cache(maxsize=4096)
def _packed(sizes: tuple[int, ...], counts: tuple[int, ...], chips_per_node: int) -> int:
    """Nodes for so many replicas of each size, the sizes falling."""
    nodes = 0
    room: dict[int, int] = {}  # nodes in use, by the chips that are free on them
    for size, count in zip(sizes, counts, strict=True):
        if size >= chips_per_node:
            nodes += count * math.ceil(size / chips_per_node)
            continue
        left = count
        for free in sorted(room):
            if free >= size:
                taken = min(room[free], -(-left // (free // size)))
                room[free] -= taken
                left -= _fill(room, size, min(left, taken * (free // size)), free)
        nodes += -(-left // (chips_per_node // size))
        _fill(room, size, left, chips_per_node)
    return nodes


def _fill(room: dict[int, int], size: int, count: int, free: int) -> int:
    """Put so many replicas on nodes with ``free`` chips, each node filled before the next; how many were put."""
    each = free // size
    whole, rest = divmod(count, each)
    room[free - each * size] = room.get(free - each * size, 0) + whole
    if rest:
        room[free - rest * size] = room.get(free - rest * size, 0) + 1
    return count
