"""Which kinds of nodes carry a demand: the operator's order of merit, and the order of the scenario."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from numpy.typing import ArrayLike

from tidefleet.flipping.merit import Carrier, Ints, by_merit
from tidefleet.simulator.fleet.spec import PoolSpec

NEARLY = 1e-9


def nodes_by_merit(
    kinds: Sequence[PoolSpec], units: ArrayLike, *, spare: int, most: Mapping[str, int]
) -> Mapping[str, Ints]:
    """Nodes of each kind for a demand by slot, in the order of rent for what they carry, ``spare`` replicas lost.

    Args:
        units: demand in replicas of the first kind, each loaded to its fill.
        most: nodes there are, by kind.

    Returns:
        Nodes by slot, by the kind's name; all that there are where they do not suffice.
    """
    carriers = [
        Carrier(one.name, one.usd_per_node_hour, one.units_per_node, most[one.name], lost=spare * one.carries)
        for one in kinds
    ]
    return dict(zip((one.name for one in kinds), by_merit(carriers, units), strict=True))


def in_order(kinds: Sequence[PoolSpec], units: float) -> dict[str, int]:
    """Nodes for a demand in replicas of the first kind, the first kind filled before the next is begun."""
    found, left = {}, units
    for one in kinds:
        nodes = min(one.nodes, max(0, math.ceil(left / one.units_per_node - NEARLY)))
        found[one.name] = nodes
        left -= nodes * one.units_per_node
    return found
