"""A fleet from event to event: ``run_fluid`` gives the timeline of one scenario under one planner."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tidefleet.flipping.phase import Phase
from tidefleet.planning.slots import SLOT_SECONDS, Array, slot_of
from tidefleet.simulator.catalogued import price_of
from tidefleet.simulator.fleet.demand import Demand
from tidefleet.simulator.fleet.faults import Fault, Kind, drawn
from tidefleet.simulator.fleet.filler import Filler
from tidefleet.simulator.fleet.losses import Losses
from tidefleet.simulator.fleet.node import Node, State, a_node, lent
from tidefleet.simulator.fleet.planners import Decided, Ours, Planner, PlannerOf, Situation
from tidefleet.simulator.fleet.power import draw, node_watts, room
from tidefleet.simulator.fleet.spec import FleetSpec, PoolSpec, Watts, fleet_of
from tidefleet.simulator.fleet.timeline import Flip, Span, Timeline
from tidefleet.simulator.fleet.training import Arrival, Trainers
from tidefleet.simulator.scenario import Scenario

ORIGIN = 1_704_067_200.0
"""Unix seconds of a scenario's begin: Monday, 2024-01-01 00:00 UTC."""

Progress = Callable[[float], None]
"""Called with the share of the scenario that is done."""


def ours(pool: PoolSpec, demand: Demand) -> Planner:
    """The operator's planner."""
    return Ours()


def foreseeing(pool: PoolSpec, demand: Demand) -> Planner:
    """The operator's planner with the true demand in place of a forecast: what forecasting costs is the difference."""
    return Ours(name="foreseeing", foresight=demand.by_slot(SLOT_SECONDS), first_slot=slot_of(ORIGIN))


def described(scenario: Scenario) -> FleetSpec:
    """The fleet of a scenario, with the power and the list prices of the shipped catalogue.

    Raises:
        ValueError: it has no pool, an accelerator is unknown, or a pool's replicas do not fill whole nodes.
    """
    watts, prices = dict[str, Watts](), dict[str, float]()
    for one in scenario.pools:
        found = node_watts(one.accelerator, one.replicas_per_node * one.chips_per_replica)
        price = price_of(one)
        if found is not None:
            watts[one.name] = found
        if price is not None:
            prices[one.accelerator] = price
    return fleet_of(scenario, watts=watts, usd_per_chip_hour=prices)


def run_fluid(
    scenario: Scenario | FleetSpec,
    demand: Demand | Mapping[str, Demand],
    *,
    seed: int,
    planner: PlannerOf = ours,
    backlog: Iterable[Arrival] = (),
    progress: Progress | None = None,
) -> Timeline:
    """Every plan and every flip of a scenario, with demand as a fluid.

    Args:
        scenario: or the fleet it describes, where more is known of it than the scenario says.
        demand: of its pool, or by pool.
        seed: of what goes wrong.
        planner: makes the planner of each pool.
        backlog: training jobs in order of arrival (of the whole fleet); an endless backlog needs none.

    Raises:
        ValueError: a pool has no demand, or there is demand for none of the pools.
    """
    spec = scenario if isinstance(scenario, FleetSpec) else described(scenario)
    given = {spec.pools[0].name: demand} if isinstance(demand, Demand) else dict(demand)
    names = [one.name for one in spec.pools]
    if sorted(names) != sorted(given):
        raise ValueError(f"demand is of pools {sorted(given)}; expected one for each of {sorted(names)}")
    return _Fleet(spec, given, seed=seed, planner=planner, backlog=backlog).run(progress)


@dataclass(slots=True, eq=False)
class _Pool:
    """One pool under way."""

    spec: PoolSpec
    demand: Demand
    planner: Planner
    nodes: list[Node]
    losses: Losses
    filler: Filler
    ready: int = 0
    decided: Decided = field(default_factory=lambda: Decided({}, 0, 0))
    measured_at: float = 0.0
    joules: float = 0.0
    counts: dict[State, int] = field(default_factory=dict)
    capacity: tuple[list[float], list[int]] = field(default_factory=lambda: ([], []))
    planned: tuple[list[float], list[int]] = field(default_factory=lambda: ([], []))


class _Fleet:
    """All pools, what trains on them, and the events to come. Times are Unix seconds."""

    def __init__(
        self,
        spec: FleetSpec,
        demand: Mapping[str, Demand],
        *,
        seed: int,
        planner: PlannerOf,
        backlog: Iterable[Arrival],
    ) -> None:
        self.spec, self.now, self.end = spec, ORIGIN, ORIGIN + spec.seconds
        self.seed = seed
        self.trainers = Trainers.of(spec.training, spec.flips.checkpoint_seconds, backlog)
        self.pools = [self._pool(one, demand[one.name], planner) for one in spec.pools]
        self.nodes = [node for pool in self.pools for node in pool.nodes]
        self.pool_of = {one.spec.name: one for one in self.pools}
        self.events: list[tuple[float, int, str, object]] = []
        self.numbers: Iterator[int] = itertools.count()
        self.states = {node.name: State.SERVING for node in self.nodes}
        self.since = dict.fromkeys(self.states, ORIGIN)
        self.spans: dict[str, list[Span]] = {node.name: [] for node in self.nodes}
        self.counted = dict.fromkeys(self.states, 0)
        self.flips: list[Flip] = []
        self.due = dict.fromkeys(self.states, 0.0)
        self.most_watts = self.over_seconds = 0.0
        self.crashes: list[tuple[float, int, float]] = []
        self.next_end = math.inf

    def _pool(self, spec: PoolSpec, demand: Demand, planner: PlannerOf) -> _Pool:
        flips, width = self.spec.flips, len(str(spec.nodes - 1))
        nodes = [
            a_node(f"{spec.name}-{number:0{width}d}", spec, flips, self.spec.terms, spot=number < spec.spot)
            for number in range(spec.nodes)
        ]
        made = planner(spec, demand)
        losses = Losses(self.spec, spec, demand, lends=made.lends)
        pool = _Pool(spec, demand, made, nodes, losses, Filler(demand.deadline_seconds), measured_at=ORIGIN)
        pool.counts[State.SERVING] = len(nodes)
        if demand.history is not None:
            begin = ORIGIN - len(demand.history) * demand.seconds_per_bin
            for number, (prefill, decode) in enumerate(demand.history.tolist()):
                made.measured(begin + (number + 1) * demand.seconds_per_bin, demand.seconds_per_bin, prefill, decode)
        return pool

    # --- events ------------------------------------------------------------------------------------------------------

    def run(self, progress: Progress | None) -> Timeline:
        """From begin to end."""
        for pool in self.pools:
            for node in pool.planner.set_aside(pool.nodes, self.spec, pool.spec, pool.demand.busiest_hour()):
                lent(node, self.now)
                self.trainers.offer(node.name, node.spec.chips, 0.0)
            self._at(self.now, "bin", pool)
            self._at(self.now, "pass", (pool, 0))
        for node in self.nodes:
            self._note(node)
        self._draw_faults()
        told = 0
        while self.events and self.events[0][0] < self.end:
            at = self.events[0][0]
            self._to(at)
            while self.events and self.events[0][0] <= at:
                _, _, what, about = heapq.heappop(self.events)
                self._happen(what, about)
            if progress is not None and int(100.0 * (at - ORIGIN) / self.spec.seconds) > told:
                told = int(100.0 * (at - ORIGIN) / self.spec.seconds)
                progress(told / 100.0)
        self._to(self.end)
        return self._timeline()

    def _at(self, when: float, what: str, about: object) -> None:
        if when < self.end:
            heapq.heappush(self.events, (when, next(self.numbers), what, about))

    def _happen(self, what: str, about: object) -> None:
        match what, about:
            case "bin", _Pool() as pool:  # nothing changes but the demand, which time is counted by
                self._at(self.now + pool.demand.seconds_per_bin, "bin", pool)
            case "pass", (_Pool() as pool, int(turn)):
                self._pass(pool)
                turns = pool.planner.passes
                slot = slot_of(self.now) + (turn + 1 == len(turns))
                self._at(slot * SLOT_SECONDS + turns[(turn + 1) % len(turns)], "pass", (pool, (turn + 1) % len(turns)))
            case "node", Node() as node:
                if self.due[node.name] <= self.now:
                    self._settle(node)
            case "training", _:
                if self.now >= self.next_end:
                    self.next_end = math.inf
                    self.trainers.advance(self.now - ORIGIN)
                    self._at_next_end()
            case "fault", Fault() as fault:
                self._break(fault)
            case "mend", Fault() as fault:
                self._mend(fault)
            case "refill", _:
                self.trainers.fill(self.now - ORIGIN)
                self._at_next_end()

    def _draw_faults(self) -> None:
        spot, counts = [one.spot for one in self.nodes], [one.spec.replicas_per_node for one in self.nodes]
        for fault in drawn(self.spec, spot, counts, seed=self.seed):
            self._at(ORIGIN + fault.at, "fault", fault)

    def _break(self, fault: Fault) -> None:
        """A fault begins; one of a node that has the like already is no second one."""
        node = self.nodes[fault.node]
        match fault.kind:
            case Kind.FAILURE if not node.unhealthy:
                node.unhealthy = "its devices have failed"
            case Kind.RECLAIM if node.present:
                node.present = False
            case Kind.CRASH if node.replicas(self.now):
                node.broken += 1
                self.crashes.append((fault.at, fault.node, fault.until))
            case _:
                return
        self._settle(node)
        self._at(ORIGIN + fault.until, "mend", fault)

    def _mend(self, fault: Fault) -> None:
        """A fault ends: the node begins again with nothing on it."""
        node = self.nodes[fault.node]
        match fault.kind:
            case Kind.FAILURE:
                node.unhealthy = ""
            case Kind.RECLAIM:
                node.present = True
            case Kind.CRASH:
                node.broken = max(0, node.broken - 1)
        if fault.kind is not Kind.CRASH and node.journal.phase in (Phase.SERVING, Phase.PLANNED):
            node.fresh(self.now)
        self._settle(node)

    def _to(self, when: float) -> None:
        """Count the time until then: nothing changes before."""
        if when <= self.now:
            return
        for pool in self.pools:
            pool.losses.count(self.now - ORIGIN, when - ORIGIN, pool.ready, pool.decided, pool.filler)
            pool.losses.broken(when - self.now, sum(one.broken for one in pool.nodes if one.replicas(self.now)))
        self._draw(when - self.now)
        self.now = when

    def _draw(self, seconds: float) -> None:
        """Count what all nodes draw."""
        total = 0.0
        for pool in self.pools:
            if pool.spec.watts is not None:
                watts = draw(pool.spec.watts, pool.counts, pool.losses.load)
                pool.joules += watts * seconds
                total += watts
        self.most_watts = max(self.most_watts, total)
        if total > self.spec.watts * (1.0 + 1e-9):
            self.over_seconds += seconds

    # --- decisions ---------------------------------------------------------------------------------------------------

    def _pass(self, pool: _Pool) -> None:
        """One look of a planner at its pool, and what follows at once."""
        at = self.now - ORIGIN
        if self.now > pool.measured_at:
            rates = pool.demand.mean(pool.measured_at - ORIGIN, at)
            pool.planner.measured(self.now, self.now - pool.measured_at, *rates)
            pool.measured_at = self.now
        prefill, decode = pool.demand.at(at)
        allowed = room(self.spec, pool.spec, needed=-(-pool.decided.replicas // pool.spec.replicas_per_node))
        pool.decided = pool.planner.decide(
            Situation(
                now=self.now,
                spec=self.spec,
                pool=pool.spec,
                nodes=pool.nodes,
                prefill=prefill,
                decode=decode,
                ready=pool.ready,
                order=lambda nodes, back: self.trainers.order(
                    [(one.name, one.spec.chips) for one in nodes], back, self.now - ORIGIN
                ),
                most_loans=allowed.training,
                waiting=lambda replicas, point: self._waiting(pool, replicas, point),
            )
        )
        _step(pool.planned, at, pool.decided.replicas)
        for node in pool.nodes:
            node.wish = pool.decided.wishes.get(node.name, node.wish)
        away = sum(one.journal.phase is not Phase.SERVING for one in pool.nodes)
        on = min(pool.spec.nodes if pool.decided.nodes is None else pool.decided.nodes, allowed.on - away)
        if on < pool.spec.nodes - away or not all(one.wanted for one in pool.nodes):
            self._have(pool, max(0, on))
        for node in pool.nodes:
            if node.is_due(self.now):
                self._settle(node)

    def _waiting(self, pool: _Pool, replicas: Array, point: Array) -> Array:
        most = pool.spec.nodes * pool.spec.replicas_per_node
        return pool.filler.plan(replicas, point, now=self.now - ORIGIN, top=self.spec.filler_top, most=most)

    def _kept(self, node: Node) -> bool:
        """Whether the replicas that are wanted are ready without those on a node."""
        pool = self.pool_of[node.pool]
        return pool.ready - self.counted[node.name] >= pool.decided.replicas

    def _settle(self, node: Node) -> None:
        """Everything that is due on a node now."""
        for one in node.moves(self.now, capacity_kept=self._kept, leave=self._leave, changed=self._note):
            if one.result:
                self.flips.append(Flip(self.now - ORIGIN, node.name, one.direction, one.result, one.words))
        self._note(node)
        due = node.next_event(self.now)
        if due != self.due[node.name]:
            self.due[node.name] = due
            self._at(due, "node", node)

    def _have(self, pool: _Pool, count: int) -> None:
        """Have replicas on so many nodes that serve, the first ones; those that get some start them."""
        there = [one for one in pool.nodes if one.present and not one.unhealthy and one.journal.phase is Phase.SERVING]
        for place, node in enumerate(there):
            wanted = place < count
            if wanted != node.wanted:
                node.wanted = wanted
                if wanted:
                    node.fresh(self.now)
                self._settle(node)

    def _leave(self, node: Node, urgent: bool) -> float:
        """Training is asked to leave a node: when it will be gone."""
        at = self.now - ORIGIN
        grace = (node.terms.surge_grace if urgent else node.terms.grace) + node.terms.evict
        seconds = self.spec.flips.checkpoint_seconds
        well = node.present and not node.unhealthy
        saved = well and seconds <= grace
        cause = "recall" if well else "fault" if node.present else "reclaim"
        had = self.trainers.withdraw(node.name, at, saved=saved, cause=cause)
        self._at(self.now + seconds if saved else self.now, "refill", None)
        return self.now + min(seconds, grace) if had and well else self.now

    # --- what is counted ---------------------------------------------------------------------------------------------

    def _note(self, node: Node) -> None:
        """A node may have changed its state."""
        now, pool = self.now, self.pool_of[node.pool]
        replicas, state = node.replicas(now), node.state(now)
        if replicas != self.counted[node.name]:
            pool.ready += replicas - self.counted[node.name]
            self.counted[node.name] = replicas
            _step(pool.capacity, now - ORIGIN, pool.ready)
        before = self.states[node.name]
        if state is before:
            return
        self._close(node.name, now)
        self.states[node.name] = state
        pool.counts[before] -= 1
        pool.counts[state] = pool.counts.get(state, 0) + 1
        if state is State.TRAINING:
            self.trainers.offer(node.name, node.spec.chips, now - ORIGIN)
            self._at_next_end()

    def _close(self, name: str, now: float) -> None:
        begin = self.since[name] - ORIGIN
        if now - ORIGIN > begin:
            self.spans[name].append(Span(begin, now - ORIGIN, self.states[name]))
            self.since[name] = now

    def _at_next_end(self) -> None:
        """Look at the trainers when the next job is done; once, however often this is called."""
        when = ORIGIN + self.trainers.next_end()
        if when < self.next_end:
            self.next_end = when
            self._at(when, "training", None)

    def _timeline(self) -> Timeline:
        self.trainers.close(self.now - ORIGIN)
        for name in self.spans:
            self._close(name, self.now)
        chips = {one.spec.name: one.spec.chips / one.spec.replicas_per_node for one in self.pools}
        idle: dict[str, float] = {}
        for pool in self.pools:
            for cause, seconds in pool.losses.idle.items():
                idle[cause] = idle.get(cause, 0.0) + seconds * chips[pool.spec.name]
        training = sum(
            (span.end - span.begin) * node.spec.chips
            for node in self.nodes
            for span in self.spans[node.name]
            if span.state is State.TRAINING
        )
        worked = self.trainers.kept + sum(self.trainers.lost.values())
        return Timeline(
            spec=self.spec,
            planner=self.pools[0].planner.name,
            demand={one.spec.name: one.demand for one in self.pools},
            nodes=tuple(node.name for node in self.nodes),
            pool_of=tuple(node.pool for node in self.nodes),
            spans=tuple(tuple(self.spans[node.name]) for node in self.nodes),
            capacity={one.spec.name: one.capacity for one in self.pools},
            planned={one.spec.name: one.planned for one in self.pools},
            flips=tuple(self.flips),
            needed=sum(one.losses.needed * chips[one.spec.name] for one in self.pools),
            filler=sum(one.filler.done * chips[one.spec.name] for one in self.pools),
            kept=self.trainers.kept,
            idle=idle,
            training_lost=dict(self.trainers.lost),
            training_idle=training - worked,
            filler_rate={one.spec.name: one.losses.filler_rate for one in self.pools},
            filler_late=sum(one.filler.late for one in self.pools),
            filler_left=sum(one.filler.left for one in self.pools),
            short_seconds={one.spec.name: one.losses.short for one in self.pools},
            joules=sum(one.joules for one in self.pools),
            crashes=tuple(self.crashes),
            busy_seconds=sum(one.losses.busy * chips[one.spec.name] for one in self.pools) + worked,
            figures={
                "jobs_finished": float(self.trainers.finished),
                "jobs_stopped": float(self.trainers.stopped),
                "most_kilowatts": self.most_watts / 1000.0,
                "over_power_seconds": self.over_seconds,
                "filler_units": float(max(one.filler.most_units for one in self.pools)),
            },
        )


def _step(steps: tuple[list[float], list[int]], at: float, value: int) -> None:
    """Note a value from a time on."""
    times, values = steps
    if times and times[-1] == at:
        values[-1] = value
    elif not values or values[-1] != value:
        times.append(at)
        values.append(value)
