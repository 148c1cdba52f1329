"""Which kinds of nodes carry a demand: the planner's own cheapest cover, slot by slot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from tidefleet.flipping.required import nodes_for
from tidefleet.planning.cover import Item, cheapest_cover
from tidefleet.simulator.fleet.spec import PoolSpec

STEP = 0.125
"""Replicas of the first kind to which a demand is rounded up before it is planned for: plans are kept by it."""

NEARLY = 1e-9


def nodes_by_kind(kinds: Sequence[PoolSpec], units: float, *, spare: int, most: Mapping[str, int]) -> dict[str, int]:
    """Nodes of each kind for a demand at the least rent, any ``spare`` of their replicas lost.

    Args:
        units: demand in replicas of the first kind, each loaded to its fill.
        most: nodes there are, by kind.

    Returns:
        Nodes by the kind's name; all that there are where they do not suffice.
    """
    rounded = math.ceil(units / STEP - NEARLY) * STEP
    found = _cover(tuple(kinds), rounded, spare, tuple(most[one.name] for one in kinds))
    return dict(zip((one.name for one in kinds), found, strict=True))


@lru_cache(maxsize=4096)
def _cover(kinds: tuple[PoolSpec, ...], units: float, spare: int, most: tuple[int, ...]) -> tuple[int, ...]:
    items = [
        Item(one.usd_per_node_hour / one.replicas_per_node, one.carries, one.name, one.chips // one.replicas_per_node)
        for one in kinds
    ]
    caps = {one.name: nodes * one.chips for one, nodes in zip(kinds, most, strict=True)}
    for less in range(spare + 1):
        found = cheapest_cover(items, units, spare=spare - less, type_caps=caps)
        if found is not None:
            return tuple(
                nodes_for(count, one.chips // one.replicas_per_node, one.chips)
                for count, one in zip(found.counts, kinds, strict=True)
            )
    return most


def in_order(kinds: Sequence[PoolSpec], units: float) -> dict[str, int]:
    """Nodes for a demand in replicas of the first kind, the first kind filled before the next is begun."""
    found, left = {}, units
    for one in kinds:
        nodes = min(one.nodes, max(0, math.ceil(left / one.units_per_node - NEARLY)))
        found[one.name] = nodes
        left -= nodes * one.units_per_node
    return found
