"""What others do with a fleet: no loans, a split once and for all, an autoscaler on queues, slices."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tidefleet.flipping.observation import Stay
from tidefleet.flipping.required import nodes_for
from tidefleet.simulator.fleet.demand import Demand
from tidefleet.simulator.fleet.node import Node
from tidefleet.simulator.fleet.planners import Decided, Fixed, Planner, PlannerOf, Situation
from tidefleet.simulator.fleet.slices import Type, replicas_by_slices
from tidefleet.simulator.fleet.spec import FleetSpec, PoolSpec
from tidefleet.simulator.fleet.split import in_order

SYNC_SECONDS = 15.0
STABLE_SECONDS = 300.0
TOLERANCE = 0.1
"""Of the HorizontalPodAutoscaler: how often it looks, how long it waits before it goes down, and what it ignores."""

QUEUE_TARGET = 1.0
"""Requests that may wait per replica: the autoscaler's target."""


@dataclass(slots=True)
class QueueAutoscaler:
    """A HorizontalPodAutoscaler on the length of the queue; nodes without a replica stand idle, since they are paid.

    The queue of a replica that is loaded to a share r of its operating point is taken as that of an M/M/1 queue,
    r^2 / (1 - r) requests (its mean number waiting), at most 50. Replicas asked for = ready * queue / target, within
    the tolerance of 10 %; down to the highest answer of the last 5 minutes; at most twice as many at once (or 4 more).
    """

    name: str = "queue autoscaler"
    lends: bool = False
    passes: tuple[float, ...] = tuple(SYNC_SECONDS * turn for turn in range(60))
    target: float = QUEUE_TARGET
    asked: int = 0
    _recent: deque[tuple[float, int]] = field(default_factory=deque)

    def measured(self, at: float, seconds: float, prefill: float, decode: float) -> None:
        """It looks at the present alone."""

    def set_aside(self, nodes: Sequence[Node], spec: FleetSpec, pool: PoolSpec, peak: float) -> Sequence[Node]:
        """None."""
        return ()

    def decide(self, seen: Situation) -> Decided:
        """One look of the autoscaler."""
        ready, most = max(1.0, seen.ready), sum(one.nodes * one.units_per_node for one in seen.kinds)
        self.asked = self.asked or math.floor(most)
        load = min(0.999, seen.needed / ready)
        ratio = min(50.0, load * load / (1.0 - load)) / self.target
        wanted = self.asked if abs(ratio - 1.0) <= TOLERANCE else math.ceil(ready * ratio - 1e-9)
        wanted = math.floor(max(1.0, min(wanted, max(2.0 * ready, ready + 4.0), most)))
        self._recent.append((seen.now, wanted))
        while self._recent[0][0] < seen.now - STABLE_SECONDS:
            self._recent.popleft()
        self.asked = max(one for _, one in self._recent) if wanted < self.asked else wanted
        nodes = in_order(seen.kinds, self.asked)
        return Decided({one.name: Stay() for one in seen.nodes}, self.asked, 0, nodes=nodes)


@dataclass(slots=True)
class Slices:
    """Planning by slices (Griggs et al., arXiv 2404.14527) for the present demand; see ``slices`` for the program.

    Attributes:
        shares: of the demand, by class; factor: slices that each class is cut into.
    """

    shares: tuple[float, ...] = (0.25, 0.25, 0.15, 0.15, 0.10, 0.10)
    factor: int = 8
    name: str = "slices"
    lends: bool = False
    passes: tuple[float, ...] = (0.0,)

    def measured(self, at: float, seconds: float, prefill: float, decode: float) -> None:
        """It plans for the present."""

    def set_aside(self, nodes: Sequence[Node], spec: FleetSpec, pool: PoolSpec, peak: float) -> Sequence[Node]:
        """None."""
        return ()

    def decide(self, seen: Situation) -> Decided:
        """Replicas for what is asked for now, slice by slice."""
        loads = [share / sum(self.shares) * seen.needed for share in self.shares]
        types = [
            Type(
                seen.spec.flips.fill * one.carries,
                one.usd_per_node_hour / one.replicas_per_node,
                one.nodes * one.replicas_per_node,
            )
            for one in seen.kinds
        ]
        counts = replicas_by_slices(loads, types, factor=self.factor)
        if not any(counts):
            counts = (1, *counts[1:])
        nodes = {
            one.name: nodes_for(count, one.chips // one.replicas_per_node, one.chips)
            for one, count in zip(seen.kinds, counts, strict=True)
        }
        replicas = sum(count * one.carries for one, count in zip(seen.kinds, counts, strict=True))
        return Decided({one.name: Stay() for one in seen.nodes}, replicas, 0, nodes=nodes)


def no_loans(pool: PoolSpec, demand: Demand) -> Planner:
    """Every node serves all the time."""
    return Fixed("no loans", training=False)


def static_split(pool: PoolSpec, demand: Demand) -> Planner:
    """What the busiest hour needs serves, the rest trains, for ever."""
    return Fixed("static split", training=True)


def queue_autoscaler(pool: PoolSpec, demand: Demand) -> Planner:
    """Replicas follow the queue; nobody trains."""
    return QueueAutoscaler()


def slices(pool: PoolSpec, demand: Demand) -> Planner:
    """Replicas by slices of the present demand; nobody trains."""
    return Slices()


RIVALS: Mapping[str, PlannerOf] = {
    "no-loans": no_loans,
    "static-split": static_split,
    "queue-autoscaler": queue_autoscaler,
    "slices": slices,
}
"""Planners that a run is compared with, by name."""
