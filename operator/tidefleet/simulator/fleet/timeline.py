"""What became of a fleet: who served when, what was needed, and where the seconds went."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from tidefleet.simulator.fleet.demand import Array, Demand
from tidefleet.simulator.fleet.node import State
from tidefleet.simulator.fleet.spec import FleetSpec

CAUSES = (
    "thin batches",
    "node rounding",
    "lead",
    "forecast margin",
    "spare",
    "held",
    "not lent",
    "power",
    "outbound",
    "homebound",
    "no training",
    "recall losses",
    "down",
)
"""Where paid seconds go that are not needed, in the order in which they are told apart.

``held``: nodes stay that serving does not need, since a step, a dwell, a pause after a surge or the shortest loan that
pays holds them back. ``not lent``: nobody may lend them. ``power``: they are off, since the site has none for them.
"""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch in which a node is in one state, seconds of the scenario's clock, ``end`` excluded."""

    begin: float
    end: float
    state: State


@dataclass(frozen=True, slots=True)
class Flip:
    """A flip that ended: ``direction`` and ``result`` as the state machine names them, ``words`` why."""

    at: float
    node: str
    direction: str
    result: str
    words: str


@dataclass(frozen=True, slots=True)
class Change:
    """A node begins to take requests (``join``), takes no more (``leave``), or loses those it has (``kill``)."""

    at: float
    node: int
    what: str


@dataclass(frozen=True, slots=True)
class Utilization:
    """Needed over paid accelerator-seconds; ``lost`` by cause, and with ``ratio`` it sums to 1."""

    ratio: float
    lost: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """One run. Amounts are accelerator-seconds, times seconds of the scenario's clock; ``pool`` may be left out where
    there is only one.

    Attributes:
        demand: by pool, as it was met (surges included).
        nodes: names; pool_of: the pool whose demand each serves, in the same order; kind_of: the pool that says what
            each is.
        spans: of each node, without a gap from 0 to ``seconds``.
        capacity: by pool, (times, replicas that take requests from then on).
        planned: by pool, (times, replicas that the planner wanted from then on).
        flips: in order of time.
        needed: that online demand kept busy; filler: that deferrable work did; kept: training that counts.
        idle: serving that was not used, by cause; training_lost: by cause; training_idle: lent, and no job there.
        filler_rate: by pool, replicas that deferrable work keeps busy in each bin; filler_late: replica-seconds of it
            that came after their deadline, filler_left: that were not done at the end.
        spilled_seconds: by pool, replica-seconds of online demand that went to an external API.
        short_seconds: by pool, replica-seconds that online demand asked for beyond all that served, and nobody took.
        joules: of all nodes; 0 where no watts are known.
        off_for: the cause that nodes without replicas count for.
    """

    spec: FleetSpec
    planner: str
    demand: Mapping[str, Demand]
    nodes: tuple[str, ...]
    pool_of: tuple[str, ...]
    spans: tuple[tuple[Span, ...], ...]
    kind_of: tuple[str, ...]
    capacity: Mapping[str, tuple[list[float], list[float]]]
    planned: Mapping[str, tuple[list[float], list[float]]]
    flips: tuple[Flip, ...]
    needed: float
    filler: float
    kept: float
    idle: Mapping[str, float]
    training_lost: Mapping[str, float]
    training_idle: float
    filler_rate: Mapping[str, Array]
    filler_late: float
    filler_left: float
    spilled_seconds: Mapping[str, float]
    short_seconds: Mapping[str, float]
    joules: float = 0.0
    busy_seconds: float = 0.0
    off_for: str = "not lent"
    crashes: tuple[tuple[float, int, float], ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return self.spec.seconds

    # --- who serves --------------------------------------------------------------------------------------------------

    def serving(self, at: float, pool: str | None = None) -> tuple[int, ...]:
        """Numbers of the nodes that take requests at a time."""
        return tuple(
            number
            for number, spans in enumerate(self.spans)
            if self._is(number, pool) and _span_at(spans, at).state is State.SERVING
        )

    def changes(self, begin: float, end: float, pool: str | None = None) -> tuple[Change, ...]:
        """Nodes that begin or cease to take requests in (begin, end], in order of time."""
        found = []
        for number, spans in enumerate(self.spans):
            if not self._is(number, pool):
                continue
            for before, after in pairwise(spans):
                if begin < after.begin <= end and (before.state is State.SERVING) != (after.state is State.SERVING):
                    lost = after.state in (State.DOWN, State.GONE)
                    what = "join" if after.state is State.SERVING else "kill" if lost else "leave"
                    found.append(Change(after.begin, number, what))
        return tuple(sorted(found, key=lambda one: (one.at, one.node)))

    def replicas(self, at: float, pool: str | None = None) -> float:
        """Replicas that take requests at a time, each as many as it carries of the first kind."""
        return _value_at(self.capacity[self._pool(pool)], at)

    def wanted(self, at: float, pool: str | None = None) -> float:
        """Replicas that the planner wanted at a time, the spare included."""
        return _value_at(self.planned[self._pool(pool)], at)

    def short(self, at: float, pool: str | None = None) -> float:
        """Replicas that online demand keeps busy beyond those that serve; 0 when all is well."""
        name = self._pool(pool)
        return max(0.0, sum(self.demand[name].at(at)) - self.spilled(at, name) - self.replicas(at, name))

    def spilled(self, at: float, pool: str | None = None) -> float:
        """Replicas of online demand that an external API takes off at a time."""
        name = self._pool(pool)
        return self.demand[name].spilled(at, self.replicas(at, name) * self.spec.flips.fill)

    def filler_at(self, at: float, pool: str | None = None) -> float:
        """Replicas that deferrable work keeps busy at a time (mean of its bin)."""
        name = self._pool(pool)
        rates = self.filler_rate[name]
        return float(rates[min(len(rates) - 1, int(at // self.demand[name].seconds_per_bin))])

    # --- where the seconds went --------------------------------------------------------------------------------------

    def seconds_in(self, state: State, kind: str | None = None) -> float:
        """Accelerator-seconds that nodes spent in a state; of all, or of those that one pool describes."""
        chips = {one.name: one.chips for one in self.spec.pools}
        return sum(
            (span.end - span.begin) * chips[mine]
            for mine, spans in zip(self.kind_of, self.spans, strict=True)
            if kind is None or mine == kind
            for span in spans
            if span.state is state
        )

    @property
    def paid(self) -> float:
        """Accelerator-seconds that are paid for: all but those of nodes that were taken back."""
        return sum(self.seconds_in(one) for one in State if one is not State.GONE)

    def utilization(self) -> Utilization:
        """Needed over paid, and where the rest went."""
        paid = self.paid
        lost = dict.fromkeys(CAUSES, 0.0)
        for cause, seconds in self.idle.items():
            lost[cause] += seconds
        lost["outbound"] += self.seconds_in(State.OUTBOUND)
        lost["homebound"] += self.seconds_in(State.HOMEBOUND)
        lost[self.off_for] += self.seconds_in(State.IDLE)
        lost["no training"] += self.training_idle
        lost["recall losses"] += sum(self.training_lost.values())
        lost["down"] += self.seconds_in(State.DOWN)
        ratio = (self.needed + self.filler + self.kept) / paid if paid else 0.0
        return Utilization(ratio, {cause: seconds / paid if paid else 0.0 for cause, seconds in lost.items()})

    @property
    def busy(self) -> float:
        """Share of the paid seconds in which anything ran."""
        return self.busy_seconds / self.paid if self.paid else 0.0

    @property
    def usd(self) -> float:
        """Rent of all that is paid."""
        each = {one.name: one.usd_per_node_hour / 3600.0 for one in self.spec.pools}
        return sum(
            (span.end - span.begin) * each[kind]
            for kind, spans in zip(self.kind_of, self.spans, strict=True)
            for span in spans
            if span.state is not State.GONE
        )

    @property
    def training_gpu_hours(self) -> float:
        """Accelerator-hours of training that count."""
        return self.kept / 3600.0

    @property
    def training_gpu_hours_lost(self) -> float:
        """Accelerator-hours of training that were done in vain."""
        return sum(self.training_lost.values()) / 3600.0

    def ribbon(self, columns: int = 288) -> dict[str, object]:
        """For pictures: mean nodes in each state by column, and the nodes that online demand needs."""
        edges = np.linspace(0.0, self.seconds, columns + 1)
        width = self.seconds / columns
        rows = {str(state): np.zeros(columns) for state in State}
        for spans in self.spans:
            for one in spans:
                first, last = int(one.begin / width), min(columns - 1, int(one.end / width))
                for at in range(first, last + 1):
                    inside = min(one.end, edges[at + 1]) - max(one.begin, edges[at])
                    rows[str(one.state)][at] += max(0.0, inside) / width
        each = {one.name: one.replicas_per_node for one in self.spec.pools}
        middles = (edges[:-1] + edges[1:]) / 2.0
        needed = [sum(sum(one.at(at)) / each[name] for name, one in self.demand.items()) for at in middles]
        kept = {name: np.round(row, 6).tolist() for name, row in rows.items() if row.any()}
        return {"begin": 0.0, "seconds": width, **kept, "needed": np.round(needed, 6).tolist()}

    def _is(self, number: int, pool: str | None) -> bool:
        return pool is None or self.pool_of[number] == pool

    def _pool(self, pool: str | None) -> str:
        if pool is None and len(self.demand) > 1:
            raise ValueError(f"which pool? expected one of {', '.join(sorted(self.demand))}")
        return pool if pool is not None else next(iter(self.demand))


def _span_at(spans: tuple[Span, ...], at: float) -> Span:
    return spans[max(0, bisect_right(spans, at, key=lambda one: one.begin) - 1)]


def _value_at(steps: tuple[list[float], list[float]], at: float) -> float:
    times, values = steps
    place = bisect_right(times, at) - 1
    return values[max(0, place)] if values else 0
