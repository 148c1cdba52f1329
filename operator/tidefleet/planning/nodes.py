"""Rent that is paid by whole nodes: how many a fleet's plans stand on, and what of them nothing uses.

Sets: pools p, groups e (an accelerator type and how it is paid for: nodes of two ways to pay are not the same nodes).
For each group, sum of the chips that plans hold <= B[e] * N[e] with N[e] whole; widths are powers of two as chips of a
node are, so that chips that fit by number also fit in place. What is not held is idle, and is a term of its own:
price[e] * (B[e] * N[e] - chips held), beside what each plan pays for its chips.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tidefleet.planning.options import SPOT, Candidate
from tidefleet.planning.problem import Chosen, IdleNodes, PoolProblem

RENTED = frozenset({"OnDemand", SPOT})
"""Ways to pay by which a node can be given back. What is reserved or owned is paid for, whether or not it is used."""

IDLE_SHARE = 0.05
"""Share of the fleet's rent below which idle chips of part-filled nodes are not worth a plan of all pools together."""

IDLE_USD_PER_HOUR = 1.0
"""The same in USD per hour."""

Group = tuple[str, str]


def group_of(one: Candidate) -> Group:
    """Accelerator type and capacity type: whose nodes its replicas stand on."""
    return one.option.accelerator, one.option.capacity_type


def payable(one: Candidate) -> float:
    """USD per hour of a replica, without what is owed in any case."""
    return one.usd_per_hour - one.committed_usd_per_hour


def is_rented(one: Candidate) -> bool:
    """Whether a node of its group costs rent that ends with it."""
    return one.option.capacity_type in RENTED and not one.price.committed


def node_rents(problems: Iterable[PoolProblem], nodes: Mapping[str, int]) -> dict[Group, float]:
    """USD per chip-hour of each group whose rent is paid by nodes of several chips."""
    found: dict[Group, float] = {}
    for problem in problems:
        for one in problem.market.candidates:
            if nodes.get(one.option.accelerator, 0) > 1 and is_rented(one):
                usd = one.price.usd_per_chip_hour
                found[group_of(one)] = min(found.get(group_of(one), usd), usd)
    return found


@dataclass(frozen=True, slots=True)
class Standing:
    """The nodes of a group that the plans of a fleet stand on.

    Attributes:
        held: chips held by all of them; ``by_pool`` those of each.
        usd_per_chip_hour: rent of an idle chip, 0 where it is owed in any case.
    """

    group: Group
    chips_per_node: int
    held: int
    by_pool: Mapping[str, int]
    usd_per_chip_hour: float

    @property
    def nodes(self) -> int:
        """Whole nodes."""
        return -(-self.held // self.chips_per_node)

    @property
    def idle(self) -> int:
        """Chips of them that nothing holds."""
        return self.nodes * self.chips_per_node - self.held

    @property
    def idle_usd_per_hour(self) -> float:
        """Their rent."""
        return self.idle * self.usd_per_chip_hour


Chosens = Mapping[str, Sequence[Chosen]]
"""What is chosen, by pool."""


def standing(
    chosen: Chosens, nodes: Mapping[str, int], held: Mapping[Group, int] | None = None
) -> tuple[Standing, ...]:
    """The nodes that these replicas stand on, by accelerator and capacity type.

    Args:
        nodes: chips of a node by type; types that are not in it are left out.
        held: chips that others hold.
    """
    by_group: dict[Group, dict[str, int]] = {}
    rent: dict[Group, float] = {}
    for pool, choices in chosen.items():
        for one in choices:
            group = group_of(one.candidate)
            if not one.replicas or nodes.get(group[0], 0) < 1:
                continue
            mine = by_group.setdefault(group, {})
            mine[pool] = mine.get(pool, 0) + one.replicas * one.option.chips
            usd = one.candidate.price.usd_per_chip_hour if is_rented(one.candidate) else 0.0
            rent[group] = min(rent.get(group, usd), usd)
    return tuple(
        Standing(group, nodes[group[0]], sum(mine.values()) + (held or {}).get(group, 0), mine, rent[group])
        for group, mine in sorted(by_group.items())
    )


def rent_of(chosen: Chosens) -> float:
    """USD per hour of the chips that are held, without what is owed in any case."""
    return sum(one.replicas * payable(one.candidate) for choices in chosen.values() for one in choices)


def idle_of(chosen: Chosens, nodes: Mapping[str, int], held: Mapping[Group, int] | None = None) -> float:
    """USD per hour of the idle chips of the nodes that these replicas stand on."""
    return sum(one.idle_usd_per_hour for one in standing(chosen, nodes, held))


def is_worth_a_plan(chosen: Chosens, nodes: Mapping[str, int], held: Mapping[Group, int] | None = None) -> bool:
    """Whether so much rent is paid for idle chips that all pools are planned together for it."""
    idle = idle_of(chosen, nodes, held)
    return idle > max(IDLE_USD_PER_HOUR, IDLE_SHARE * rent_of(chosen))


def idle_nodes(pool: str, found: Iterable[Standing]) -> tuple[IdleNodes, ...]:
    """What is told of the nodes that a pool stands on, its part of the idle rent by the chips that it holds."""
    return tuple(
        IdleNodes(
            accelerator=one.group[0],
            capacity_type=one.group[1],
            nodes=one.nodes,
            chips_per_node=one.chips_per_node,
            idle=one.idle,
            usd_per_hour=one.idle_usd_per_hour,
            own_usd_per_hour=one.idle_usd_per_hour * one.by_pool[pool] / one.held,
        )
        for one in found
        if one.by_pool.get(pool)
    )
