"""The fleet that a scenario describes: pools of nodes, and on which terms they flip, train and fail."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tidefleet.flipping.observation import Terms
from tidefleet.flipping.staircase import lead_slots
from tidefleet.flipping.value import FlipTimes
from tidefleet.planning.slots import SLOT_SECONDS
from tidefleet.simulator.scenario import Faults, Flips, Pool, Scenario, Training


@dataclass(frozen=True, slots=True)
class Watts:
    """What a node draws, in watts: at its operating point, at rest, and in training."""

    serving: float
    resting: float
    training: float


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """Nodes of one kind that serve one demand, alone or beside nodes of other kinds.

    Attributes:
        demand: the pool whose demand they serve; their own, unless given.
        carries: demand that a replica carries, over what one of that pool's first kind does.
        nodes: that there are; ``replicas_per_node`` and ``chips`` of each.
        spot: how many of them are spot.
        watts: of a node; ``None`` where nobody says, and then nothing is limited by power.
        usd_per_node_hour: rent; 0 where nobody says.
    """

    name: str
    accelerator: str
    nodes: int
    replicas_per_node: int
    chips: int
    spot: int = 0
    watts: Watts | None = None
    usd_per_node_hour: float = 0.0
    demand: str = ""
    carries: float = 1.0

    @property
    def serves(self) -> str:
        """The pool whose demand it serves."""
        return self.demand or self.name

    @property
    def units_per_node(self) -> float:
        """Demand that a node carries, in replicas of the first kind."""
        return self.replicas_per_node * self.carries


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """All pools, and the terms of the scenario.

    Attributes:
        filler_top: share of its operating point that a serving replica reaches at most with deferrable work.
        watts: that the whole site may draw, cooling included; infinite where nothing limits it.
        pue: power of the site over that of its accelerators.
    """

    pools: tuple[PoolSpec, ...]
    flips: Flips
    training: Training
    faults: Faults
    seconds: float
    filler_top: float = 1.0
    watts: float = math.inf
    pue: float = 1.0

    def kinds(self, demand: str) -> tuple[PoolSpec, ...]:
        """Kinds of nodes that serve the demand of a pool, its own first."""
        return tuple(sorted((one for one in self.pools if one.serves == demand), key=lambda one: one.name != demand))

    @property
    def demands(self) -> tuple[str, ...]:
        """Pools that have a demand of their own."""
        return tuple(one.name for one in self.pools if one.serves == one.name)

    @property
    def times(self) -> FlipTimes:
        """The parts of a round trip."""
        own = self.flips
        return FlipTimes(
            own.drain_seconds, own.start_seconds, own.checkpoint_seconds, own.load_seconds, own.warm_seconds
        )

    @property
    def lead_slots(self) -> int:
        """Slots ahead of the demand they are for in which nodes are called home, as in the operator."""
        return lead_slots(self.flips.recall_seconds, SLOT_SECONDS)

    @property
    def terms(self) -> Terms:
        """How long the phases of a flip may take: what the operator grants, and never less than twice the usual."""
        own = self.flips
        start = own.load_seconds + own.warm_seconds
        usual = Terms()
        return Terms(
            dwell=own.dwell_seconds,
            drain=max(usual.drain, 2.0 * own.drain_seconds),
            warm=max(usual.warm, 2.0 * start),
            replace=max(usual.replace, 2.0 * start),
        )


def fleet_of(
    scenario: Scenario,
    *,
    watts: Mapping[str, Watts] | None = None,
    usd_per_chip_hour: Mapping[str, float] | None = None,
    carries: Mapping[str, float] | None = None,
) -> FleetSpec:
    """The fleet of a scenario.

    Args:
        watts: of a node, by pool.
        carries: of a replica, by pool that serves the demand of another; 1, unless given.
        usd_per_chip_hour: by accelerator, where a pool does not say itself.

    Raises:
        ValueError: it has no pool, or a pool's replicas do not fill whole nodes.
    """
    if not scenario.pools:
        raise ValueError(f"scenario {scenario.name}: pools is empty; expected at least one pool, e.g. 64 replicas")
    pools = tuple(
        _pool(scenario, one, watts or {}, usd_per_chip_hour or {}, (carries or {}).get(one.name, 1.0))
        for one in scenario.pools
    )
    return FleetSpec(
        pools=pools,
        flips=scenario.flips,
        training=scenario.training,
        faults=scenario.faults,
        seconds=scenario.seconds,
        filler_top=scenario.settings.get("fillerTop", 1.0),
        pue=scenario.site_pue,
        watts=math.inf if scenario.site_kilowatts is None else scenario.site_kilowatts * 1000.0,
    )


def _pool(
    scenario: Scenario, pool: Pool, watts: Mapping[str, Watts], prices: Mapping[str, float], carries: float
) -> PoolSpec:
    nodes, rest = divmod(pool.replicas, pool.replicas_per_node)
    if rest:
        raise ValueError(
            f"scenario {scenario.name}: pools.{pool.name}.replicas is {pool.replicas}; expected a multiple of "
            f"replicasPerNode, which is {pool.replicas_per_node}, e.g. {(nodes + 1) * pool.replicas_per_node}"
        )
    chips = pool.replicas_per_node * pool.chips_per_replica
    price = pool.usd_per_chip_hour if pool.usd_per_chip_hour is not None else prices.get(pool.accelerator, 0.0)
    return PoolSpec(
        name=pool.name,
        accelerator=pool.accelerator,
        nodes=nodes,
        replicas_per_node=pool.replicas_per_node,
        chips=chips,
        spot=round(pool.spot_share * nodes),
        watts=watts.get(pool.name),
        usd_per_node_hour=price * chips,
        demand=pool.serves or pool.name,
        carries=carries,
    )
