"""Who decides what serves and what trains: ours, put together as the operator puts it together, and others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tidefleet.flipping.lending import (
    HISTORY_DAYS,
    Lender,
    LendingMemory,
    LoanPlan,
    Needs,
    Round,
    ends_of,
    flights,
)
from tidefleet.flipping.observation import Stay, Wish
from tidefleet.flipping.phase import Phase
from tidefleet.flipping.required import needed_replicas
from tidefleet.flipping.staircase import Staircase, Terms, schedule
from tidefleet.flipping.value import flip_cost, loan_quantile
from tidefleet.planning.forecast import HORIZON_SLOTS, Forecast, forecast
from tidefleet.planning.slots import DAY_SLOTS, SLOT_SECONDS, Array, SlotHistory, SlotSeries, slot_of
from tidefleet.simulator.fleet.demand import Demand
from tidefleet.simulator.fleet.node import Node
from tidefleet.simulator.fleet.spec import FleetSpec, PoolSpec
from tidefleet.simulator.fleet.split import nodes_by_merit

PENALTY = 4.0
"""How many times its margin a serving hour costs that was missing: the operator's default."""

HOLD_SECONDS = 3600.0
"""What the forecast wants back within this time is not given up meanwhile, as in the operator."""

STEP_SHARE = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Situation:
    """What a planner may know at a pass. Times are Unix seconds.

    Attributes:
        prefill, decode: replicas that online demand keeps busy now.
        pool: what the first kind of its nodes is; kinds: all of them.
        ready: replicas that take requests now, in those of the first kind.
        nodes: of the pool, those that are on; the site's power may keep others off.
        order: the order in which so many of these nodes come home, by what training loses.
        waiting: replicas to have beyond these (by slot) for work that may wait, when so many of them are busy.
    """

    now: float
    spec: FleetSpec
    pool: PoolSpec
    kinds: tuple[PoolSpec, ...]
    nodes: Sequence[Node]
    prefill: float
    decode: float
    ready: float
    order: Callable[[Sequence[Node], int], Sequence[tuple[str, str]]]
    waiting: Callable[[Array, Array], Array]

    @property
    def needed(self) -> float:
        """Replicas that online demand keeps busy now."""
        return self.prefill + self.decode

    @property
    def most(self) -> float:
        """Replicas on nodes that are on, in those of the first kind."""
        return sum(one.spec.units_per_node for one in self.nodes)


@dataclass(frozen=True, slots=True)
class Decided:
    """What a planner came to: wishes by node, replicas that are to serve, and how many of them are spare (both in
    those of the first kind).

    ``nodes``: where replicas stop on nodes that stay, how many nodes are to have any, by kind.
    """

    wishes: Mapping[str, Wish]
    replicas: float
    spare: float
    nodes: Mapping[str, int] | None = None


class Planner(Protocol):
    """Decides for one pool, pass after pass."""

    name: str
    lends: bool
    passes: tuple[float, ...]
    """Seconds after the beginning of each slot at which it looks."""

    def measured(self, at: float, seconds: float, prefill: float, decode: float) -> None:
        """Rates that held in the seconds before a time (Unix seconds)."""

    def decide(self, seen: Situation) -> Decided:
        """What is to be done now."""

    def set_aside(self, nodes: Sequence[Node], spec: FleetSpec, pool: PoolSpec, peak: float) -> Sequence[Node]:
        """Nodes that train from the beginning on, for ever; ``peak`` is the busiest hour's need."""


PlannerOf = Callable[[PoolSpec, Demand], Planner]
"""Makes the planner of one pool."""


@dataclass(slots=True)
class Ours:
    """The operator's: forecast, staircase, and the choice of nodes, each as it is.

    Attributes:
        foresight: the true demand in place of a forecast, shape (slots,) from the slot ``first_slot`` on: what the
            forecast costs is the difference. Not a policy that anybody could run.
    """

    name: str = "ours"
    lends: bool = True
    passes: tuple[float, ...] = (0.0, 15.0, 30.0, 300.0, 600.0)
    foresight: Array | None = None
    first_slot: int = 0
    history: SlotHistory = field(default_factory=SlotHistory)
    memory: dict[str, LendingMemory] = field(default_factory=dict)
    planned_rate: float = 0.0
    _forecast: Forecast | None = None
    _slots: Array | None = None
    _extra: Array | None = None
    _made: int | None = None
    _scheduled: dict[str, tuple[object, LoanPlan]] = field(default_factory=dict)

    def measured(self, at: float, seconds: float, prefill: float, decode: float) -> None:
        """Into the history that forecasts are made from."""
        self.history.add(at, seconds, prefill, decode)

    def set_aside(self, nodes: Sequence[Node], spec: FleetSpec, pool: PoolSpec, peak: float) -> Sequence[Node]:
        """None: every node comes home when it is needed."""
        return ()

    def decide(self, seen: Situation) -> Decided:
        """One pass of the operator over one pool: a round for each kind of its nodes."""
        self._look_ahead(seen)
        needs, replicas, spare = self._needs(seen)
        now = seen.now
        known = self.history.series().known / DAY_SLOTS if self.foresight is None else HISTORY_DAYS
        closed = "" if known >= HISTORY_DAYS else f"{known:.1f} days of demand are known"
        wishes: dict[str, Wish] = {}
        for kind in seen.kinds:
            units = [one for one in seen.nodes if one.spec is kind]
            out, _ = flights(units, now, SLOT_SECONDS)
            step = max(1, int(STEP_SHARE * len(units)))
            decision = Round[Node](
                accelerator=kind.accelerator,
                units=units,
                seen={one.name: one.brief for one in units},
                needs=needs[kind.name],
                plan=self._plan(seen, kind, units, needs[kind.name]),
                lenders=[Lender(pool=f"simulated/{seen.pool.name}", queue="Simulated", closed=closed)],
                allowed=max(0, step - out),
                held_by="a step",
                recalls=(len(units), ""),
                requests={},
                memory=self.memory.setdefault(kind.name, LendingMemory()),
                recall_order=seen.order,
                now=now,
            ).decide()
            wishes |= decision.wishes
        return Decided(wishes, replicas, spare)

    # --- looking ahead -----------------------------------------------------------------------------------------------

    def _look_ahead(self, seen: Situation) -> None:
        """Once per slot: what is expected of each slot of the day to come, and what waits beside it."""
        slot = slot_of(seen.now)
        if self._made == slot:
            return
        self._made = slot
        point: Array | None
        if self.foresight is not None:
            begin = slot - self.first_slot
            rows = self.foresight[begin : begin + HORIZON_SLOTS]
            rows = rows if len(rows) else self.foresight[-1:]
            point = self._slots = np.concatenate([rows, np.full(HORIZON_SLOTS - len(rows), rows[-1])])
        else:
            series = self.history.series()
            total = SlotSeries(series.first, series.values.sum(axis=1, keepdims=True))
            self._forecast = forecast(total, now=seen.now, quantile=self._quantile(seen))
            known = len(self._forecast.upper) > 0
            self._slots = self._forecast.upper[:, 0] if known else None
            point = self._forecast.point[:, 0] if known else None
        self._extra = None
        if point is not None and self._slots is not None:
            replicas = np.asarray(self._replicas(self._slots, seen), dtype=np.float64)
            self._extra = seen.waiting(np.minimum(replicas, seen.most), point)

    def _quantile(self, seen: Situation) -> float:
        """What serving keeps: the scenario's quantile, or the newsvendor's where training has a price."""
        value = seen.spec.training.usd_per_gpu_hour
        if value is None or seen.pool.usd_per_node_hour <= 0:
            return seen.spec.flips.quantile
        return loan_quantile(
            penalty_multiple=PENALTY,
            margin_usd_per_chip_hour=seen.pool.usd_per_node_hour / seen.pool.chips,
            value_usd_per_chip_hour=value,
        )

    @staticmethod
    def _replicas(rates: Array, seen: Situation) -> tuple[int, ...]:
        """Replicas by slot for so much demand; the lead is the schedule's."""
        flips = seen.spec.flips
        return needed_replicas(rates, capacity=(1.0,), headroom=flips.fill, lead_slots=0, reserve=flips.spare_replicas)

    # --- what serving needs ------------------------------------------------------------------------------------------

    def _needs(self, seen: Situation) -> tuple[dict[str, Needs], float, float]:
        """Nodes by kind for the highest of what is asked for now and what is expected until a node could be home; how
        many replicas that is, and how many of them are spare."""
        times, flips = seen.spec.times, seen.spec.flips
        home = times.checkpoint_seconds + times.load_seconds + times.warm_seconds
        rate = max(seen.needed, self._highest(seen.now, home))
        rate = max(rate, min(self.planned_rate, self._highest(seen.now, HOLD_SECONDS)))
        self.planned_rate = rate
        extra = float(self._extra[0]) if self._extra is not None else 0.0
        surge = ""
        if seen.ready and seen.needed > flips.fill * seen.ready * (1.0 + 1e-9):
            words = f"{seen.needed / seen.ready:.0%} of what its ready replicas carry"
            surge = f"{seen.pool.name} is asked for {words}"
        most = {kind.name: sum(one.spec is kind for one in seen.nodes) for kind in seen.kinds}
        if len(seen.kinds) == 1:
            replicas = self._replicas(np.array([rate]), seen)[0] + extra
            nodes = {seen.pool.name: -(-replicas // seen.pool.replicas_per_node)}
            replicas = min(replicas, seen.most)
            spare: float = flips.spare_replicas
        else:
            chosen = nodes_by_merit(seen.kinds, rate / flips.fill + extra, spare=flips.spare_replicas, most=most)
            nodes = {name: float(count[0]) for name, count in chosen.items()}
            used = [(nodes[kind.name], kind) for kind in seen.kinds if nodes[kind.name]]
            replicas = sum(min(count, most[kind.name]) * kind.units_per_node for count, kind in used)
            spare = flips.spare_replicas * max((kind.carries for _, kind in used), default=0.0)
        return {name: Needs(min(int(count), most[name]), surge) for name, count in nodes.items()}, replicas, spare

    def _highest(self, now: float, seconds: float) -> float:
        if self._slots is None or self._made is None:
            return 0.0
        begin = slot_of(now) - self._made
        return float(self._slots[begin : slot_of(now + seconds) - self._made + 1].max(initial=0.0))

    def _plan(self, seen: Situation, kind: PoolSpec, units: Sequence[Node], needs: Needs) -> LoanPlan:
        """The loan schedule of a kind over the day to come."""
        away = sum(one.journal.phase.is_outbound or one.journal.phase is Phase.TRAINING for one in units)
        total = sum(one.present for one in units)
        key = (self._made, needs.nodes, away, total)
        kept = self._scheduled.get(kind.name)
        if kept is not None and kept[0] == key:
            return kept[1]
        plan = self._schedule(seen, kind, needs, on_loan=min(away, total), total=total)
        self._scheduled[kind.name] = (key, plan)
        return plan

    def _needed_nodes(self, seen: Situation, kind: PoolSpec, total: int) -> NDArray[np.int64]:
        """Nodes of a kind that serving needs in each slot of the day to come."""
        assert self._slots is not None  # noqa: S101 -- asked for only where something is forecast
        rates = self._slots[:DAY_SLOTS]
        extra = np.zeros(len(rates)) if self._extra is None else self._extra[: len(rates)]
        if len(seen.kinds) == 1:
            replicas = np.asarray(self._replicas(rates, seen), dtype=np.int64) + extra.astype(np.int64)
            return -(-replicas // kind.replicas_per_node)
        flips = seen.spec.flips
        most = {one.name: sum(node.spec is one for node in seen.nodes) for one in seen.kinds}
        units = rates / flips.fill + extra
        chosen = nodes_by_merit(seen.kinds, units, spare=flips.spare_replicas, most=most)
        return np.minimum(chosen[kind.name], total)

    def _schedule(self, seen: Situation, kind: PoolSpec, needs: Needs, *, on_loan: int, total: int) -> LoanPlan:
        start = slot_of(seen.now) * SLOT_SECONDS
        if self._slots is None:
            return LoanPlan(0, (), "nothing is forecast")
        pool, value = kind, seen.spec.training.usd_per_gpu_hour
        needed = self._needed_nodes(seen, kind, total)
        needed[0] = max(int(needed[0]), needs.nodes)
        cost = 0.0
        if value is not None:
            cost = flip_cost(chips=pool.chips, value_usd_per_chip_hour=value, times=seen.spec.times).usd
        made: Staircase = schedule(
            needed.tolist(),
            nodes=total,
            terms=Terms(
                slot_seconds=SLOT_SECONDS,
                usd_per_node_hour=None if value is None else pool.chips * value,
                flip_usd=cost,
                round_trip_seconds=seen.spec.times.round_trip_seconds,
                lead_slots=seen.spec.lead_slots,
                reserve=0,
                step_share=max(STEP_SHARE, 1.0 / max(1, total)),
            ),
            on_loan=on_loan,
        )
        words = f"serving needs {made.needed[0]} of {total} nodes until the next could be back"
        return LoanPlan(made.loans[0], ends_of(made.loans, start, SLOT_SECONDS), words)


@dataclass(slots=True)
class Fixed:
    """A fleet that never changes: with ``training`` the nodes beyond what the busiest hour needs train for ever."""

    name: str = "static split"
    training: bool = True
    lends: bool = False
    passes: tuple[float, ...] = (0.0,)

    def measured(self, at: float, seconds: float, prefill: float, decode: float) -> None:
        """Nothing is learned."""

    def set_aside(self, nodes: Sequence[Node], spec: FleetSpec, pool: PoolSpec, peak: float) -> Sequence[Node]:
        """The nodes above what the busiest hour needs, the fill and the spare included."""
        if not self.training:
            return ()
        left: float = math.ceil(peak / spec.flips.fill - 1e-9) + spec.flips.spare_replicas
        found = []
        for node in nodes:
            if left <= 1e-9:
                found.append(node)
            left -= node.spec.units_per_node
        return tuple(found)

    def decide(self, seen: Situation) -> Decided:
        """All that serve go on serving."""
        serving = sum(one.spec.units_per_node for one in seen.nodes if one.journal.phase is Phase.SERVING)
        need = min(serving, math.ceil(seen.needed / seen.spec.flips.fill - 1e-9))
        return Decided({one.name: Stay() for one in seen.nodes}, need, 0)
