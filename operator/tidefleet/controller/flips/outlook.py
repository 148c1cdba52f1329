"""What serving needs of each accelerator type, now and in the day to come, and what may be lent by that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from tidefleet.api import AcceleratorType, ConditionType, InferencePool, Reason
from tidefleet.api.flipping import FlippingPolicy, FlipReason
from tidefleet.controller.ahead import requests_of
from tidefleet.controller.collector import PoolKey
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decision import TRUE, Decision
from tidefleet.controller.flips.lenders import Openness, Standing
from tidefleet.controller.flips.units import Unit
from tidefleet.controller.view import PoolMemory, PoolView
from tidefleet.flipping.budgets import allowance
from tidefleet.flipping.lending import HISTORY_DAYS, LoanPlan, Needs, TypeDecision, ends_of, flights
from tidefleet.flipping.merit import NEARLY, Carrier, by_merit, order
from tidefleet.flipping.phase import Phase
from tidefleet.flipping.required import nodes_for
from tidefleet.flipping.staircase import STEP_SHARE, Terms, lead_slots, schedule
from tidefleet.flipping.value import FlipTimes, Worth, flip_cost, loan_quantile
from tidefleet.flipping.windows import next_opening, open_slots, open_window
from tidefleet.planning.demand import Known
from tidefleet.planning.forecast import Forecast, forecast
from tidefleet.planning.options import PLANNING_UTILISATION, Candidate, Option
from tidefleet.planning.slots import DAY_SLOTS, SLOT_SECONDS, slot_of

USUAL_QUANTILE = 0.95
"""Quantile of the demand that loans are made by where nobody says what training is worth."""

Slots = NDArray[np.int64]


def lends(pool: InferencePool) -> bool:
    """Whether the owner lets a pool lend at all."""
    return pool.spec.flipping.policy is not FlippingPolicy.NEVER


def is_declared(view: PoolView) -> bool:
    """Whether the demand of every class is declared: there is nothing to be measured, and nothing to be forecast."""
    return bool(view.classes) and all(one.spec.demand.requests_per_second is not None for one in view.classes)


def types_of(view: PoolView) -> frozenset[str]:
    """Accelerator types that a pool runs on, or names."""
    running = {one.option.accelerator for one in view.served if one.desired or one.ready}
    return frozenset(running | {one.type for one in view.pool.spec.accelerators})


# --- the owner's terms -----------------------------------------------------------------------------------------------


def openness(
    pool: InferencePool, memory: PoolMemory | None, now: float, settings: OperatorConfiguration, declared: bool
) -> Openness:
    """Whether windows and what is known of the demand allow loans now.

    Args:
        declared: whether the demand of every class is declared, so that there is nothing to be measured.
    """
    spec = pool.spec.flipping
    zone_name = spec.windows[0].time_zone if spec.windows else "UTC"
    zone = zone_of(zone_name)
    ends: float | None = None
    if spec.windows:
        window, upcoming = open_window(spec.windows, now), next_opening(spec.windows, now)
        recall = settings.flipping.recall_seconds
        if window is None or now >= window.end - recall:
            closed = "no window is open" if window is None else "the window is about to close"
            begins = upcoming.start if upcoming is not None else None
            return Openness(closed=closed, next_opening=begins, zone=zone, zone_name=zone_name)
        ends = window.end - recall
    if spec.policy is FlippingPolicy.FORECAST and not declared:
        known = memory.ahead.history.series().known / DAY_SLOTS if memory is not None else 0.0
        fresh = memory is not None and memory.last_known is not None
        if known < HISTORY_DAYS:
            closed = f"{known:.1f} days of demand are known; a forecast that nodes are lent by needs {HISTORY_DAYS:.0f}"
            return Openness(closed=closed, reason=Reason.HISTORY_TOO_SHORT, zone=zone, zone_name=zone_name)
        if not fresh:
            return Openness(
                closed="the demand is not measured at present",
                reason=Reason.METRICS_STALE,
                zone=zone,
                zone_name=zone_name,
            )
    return Openness(ends=ends, zone=zone, zone_name=zone_name)


def zone_of(name: str) -> tzinfo:
    """A time zone; UTC where the name is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC


def allowed_now(
    kind: AcceleratorType, units: Sequence[Unit], pools: Sequence[InferencePool], now: float
) -> tuple[int, str]:
    """Nodes of a type that may set out now, and what limits that: the step, and the budgets of the pools that lend."""
    nodes = sum(one.size for one in units)
    out, back = flights(units, now, SLOT_SECONDS)
    step = max(largest(units), int(STEP_SHARE * nodes))
    in_flight = {FlipReason.LOAN: out, FlipReason.RECALL: back}
    least = step - out, f"a step of {step} of the {nodes} nodes of {kind.name}"
    return _least_allowed(FlipReason.LOAN, pools, now, nodes=nodes, in_flight=in_flight, least=least)


def recalls_allowed(units: Sequence[Unit], pools: Sequence[InferencePool], now: float) -> tuple[int, str]:
    """Nodes of a type that the schedule may call back before their loans end, and what limits that: budgets alone."""
    nodes = sum(one.size for one in units)
    back = sum(one.size for one in units if one.journal.phase.is_homebound)
    out = sum(one.size for one in units if one.journal.phase.is_outbound)
    in_flight = {FlipReason.LOAN: out, FlipReason.RECALL: back}
    return _least_allowed(FlipReason.RECALL, pools, now, nodes=nodes, in_flight=in_flight, least=(nodes, ""))


def _least_allowed(
    reason: FlipReason,
    pools: Sequence[InferencePool],
    now: float,
    *,
    nodes: int,
    in_flight: Mapping[FlipReason, int],
    least: tuple[int, str],
) -> tuple[int, str]:
    """The least that any pool that lends allows, and what limits it."""
    allowed, held_by = least
    for pool in pools:
        if not lends(pool):
            continue
        found = allowance(pool.spec.flipping.budgets, reason, now, nodes=nodes, in_flight=in_flight)
        if found.flips < allowed:
            allowed, held_by = found.flips, f"{pool}: {found.held_by}"
    return max(0, allowed), held_by


def largest(units: Sequence[Unit]) -> int:
    """Nodes of the largest unit, at least 1: a step is never less, or a group that large could not be lent at all."""
    return max((one.size for one in units), default=1)


# --- what serving needs ----------------------------------------------------------------------------------------------


def _chips_per_node(kind: AcceleratorType, units: Sequence[Unit]) -> int:
    sizes = [one.chips // max(1, len(one.nodes)) for one in units if one.chips]
    return min(sizes) if sizes else (kind.spec.chips_per_node or 1)


def needs_of(
    kind: AcceleratorType,
    units: Sequence[Unit],
    pools: Mapping[PoolKey, PoolView],
    decisions: Mapping[PoolKey, Decision],
    late: Mapping[PoolKey, str],
) -> Needs:
    """Nodes of a type that the planned replicas of all pools fill, with one in reserve where no spare is planned.

    A pool whose first tokens come too late (``late`` says how) needs one node more than its plan fills.
    """
    per_node = _chips_per_node(kind, units)
    nodes, surge, stale, known = 0, "", "", True
    for key, view in pools.items():
        decision = decisions.get(key)
        counts: dict[int, int] = {}
        if decision is None or decision.plan is None:
            known = known and not any(one.desired for one in view.served)
            for one in view.served:
                if one.option.accelerator == kind.name:
                    width = one.option.tensor_parallel
                    counts[width] = counts.get(width, 0) + one.desired
        else:
            for target in decision.targets:
                option = target.served.option
                if option.accelerator == kind.name:
                    counts[option.tensor_parallel] = counts.get(option.tensor_parallel, 0) + target.planned
            surge = surge or _surge(view, decision)
            stale = stale or _stale(view, decision)
        if counts and not view.pool.spec.replicas.spare and lends(view.pool):
            widest = max(counts)
            counts[widest] += 1 if counts[widest] else 0
        nodes += sum(nodes_for(count, width, per_node) for width, count in counts.items())
        if key in late and any(counts.values()):
            surge, nodes = surge or late[key], nodes + 1
    return Needs(nodes, surge, known, stale)


def _stale(view: PoolView, decision: Decision) -> str:
    """Why the demand that a pool is planned for is not what is asked for now; empty when it is."""
    for one in decision.verdicts:
        if one.type is ConditionType.DEMAND_KNOWN and one.status != TRUE and one.reason is not Reason.NO_CLASSES:
            return f"the demand of {view.pool} is not known: {one.message}"
    return ""


def _surge(view: PoolView, decision: Decision) -> str:
    """Why demand surges: what is asked for now is more than what is ready carries at planning utilisation.

    What is planned ahead of a forecast rise is none, and neither is a single reading that the plan does not believe.
    """
    rate = decision.rate
    if isinstance(view.reading, Known) and not is_declared(view):
        rate = min(rate, view.reading.requests_per_second)
    candidates = {one.option: one for one in decision.market.candidates} if decision.market is not None else {}
    ready = sum(
        one.ready * candidates[one.option].requests_per_second for one in view.served if one.option in candidates
    )
    if rate <= 0 or ready <= 0 or rate <= PLANNING_UTILISATION * ready:
        return ""
    share = rate / ready
    return f"{view.pool} is asked for {rate:.3g} requests/s, {share:.0%} of what its ready replicas carry"


# --- the day to come -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected of a type from the present slot on.

    Attributes:
        slot_start: beginning of the first slot (Unix seconds).
        needed, loans: nodes by slot; empty where there is no forecast.
        plan: what that comes to now.
        quantile: of the demand that the loans are made by; ``None`` without a forecast.
        worth: of the next loan; ``None`` where nobody said what training is worth.
    """

    slot_start: float
    needed: tuple[int, ...]
    loans: tuple[int, ...]
    plan: LoanPlan
    quantile: float | None = None
    worth: Worth | None = None

    def next_change(self, now: float) -> tuple[float, int] | None:
        """When the number of loans changes next, and by how many nodes; ``None`` when it does not within the day."""
        for place in range(1, len(self.loans)):
            if self.loans[place] != self.loans[0]:
                return self.slot_start + place * SLOT_SECONDS, self.loans[place] - self.loans[0]
        return None


@dataclass(frozen=True, slots=True)
class TypeRound:
    """All that a pass found about one accelerator type.

    Attributes:
        allowed, recalls: nodes that may set out now, and that may be called back before their time.
        at_home: nodes that serve, or soon will.
        lenders: the pools (``namespace/name``) that may lend it.
    """

    accelerator: str
    needs: Needs
    ahead: Outlook
    decision: TypeDecision
    allowed: int
    recalls: int
    at_home: int
    lenders: frozenset[str]


@dataclass(slots=True)
class Outlooks:
    """Makes forecasts for loans once per slot and pool, and keeps them for the slot."""

    _forecasts: dict[tuple[PoolKey, float], tuple[int, Forecast]] = field(default_factory=dict)

    def of(
        self,
        kind: AcceleratorType,
        units: Sequence[Unit],
        *,
        needs: Needs,
        pools: Mapping[PoolKey, PoolView],
        decisions: Mapping[PoolKey, Decision],
        standings: Mapping[PoolKey, Standing],
        memory_of: Callable[[PoolKey], PoolMemory | None],
        now: float,
        settings: OperatorConfiguration,
    ) -> Outlook:
        """The outlook for one type, over a day."""
        total = sum(one.size for one in units if not one.missing)
        per_node = _chips_per_node(kind, units)
        lender = next((pools[key].pool for key in standings if key in pools), None)
        value = value_of(lender)
        limits = settings.flipping
        quantile = None
        if value is not None:
            quantile = loan_quantile(
                penalty_multiple=limits.penalty,
                margin_usd_per_chip_hour=_price(kind),
                value_usd_per_chip_hour=value,
            )
        needed = np.zeros(DAY_SLOTS, dtype=np.int64)
        for key, view in pools.items():
            needed += self._needed(
                key,
                view,
                decisions.get(key),
                memory_of(key),
                kind,
                per_node=per_node,
                quantile=quantile or USUAL_QUANTILE,
                now=now,
            )
        needed[0] = max(needed[0], needs.nodes)
        start = slot_of(now) * SLOT_SECONDS
        cost = 0.0
        if value is not None:
            trip = limits.round_trip_seconds / 5.0
            times = FlipTimes(trip, trip, trip, trip, trip)
            cost = flip_cost(chips=per_node, value_usd_per_chip_hour=value, times=times).usd
        made = schedule(
            needed.tolist(),
            nodes=total,
            terms=Terms(
                slot_seconds=SLOT_SECONDS,
                usd_per_node_hour=None if value is None else per_node * value,
                flip_usd=cost,
                round_trip_seconds=limits.round_trip_seconds,
                lead_slots=lead_slots(limits.recall_seconds, SLOT_SECONDS),
                reserve=0,
                step_share=min(1.0, max(STEP_SHARE, largest(units) / max(1, total))),
            ),
            on_loan=sum(
                one.size for one in units if one.journal.phase.is_outbound or one.journal.phase is Phase.TRAINING
            ),
            allowed=_open_slots(lender, start, settings),
        )
        ends = ends_of(made.loans, start, SLOT_SECONDS)
        worth = made.worth if value is not None and made.loans[0] else None
        words = f"serving needs {made.needed[0]} of {total} nodes of {kind.name} until the next could be back"
        words = f"{words}; {worth.words}" if worth is not None else words
        plan = LoanPlan(made.loans[0], ends, words)
        return Outlook(start, tuple(needed.tolist()), made.loans, plan, quantile, worth)

    def _needed(
        self,
        key: PoolKey,
        view: PoolView,
        decision: Decision | None,
        memory: PoolMemory | None,
        kind: AcceleratorType,
        *,
        per_node: int,
        quantile: float,
        now: float,
        slots: int = DAY_SLOTS,
    ) -> Slots:
        """Nodes of a type that a pool needs in each slot: as now where nothing is forecast."""
        running = [one for one in view.served if one.option.accelerator == kind.name]
        if decision is None or decision.plan is None or decision.market is None:
            count = sum(nodes_for(one.desired, one.option.tensor_parallel, per_node) for one in running)
            return np.full(slots, count, dtype=np.int64)
        planned = {one.served.option: one.planned for one in decision.targets if one.planned}
        rates = self._rates(key, decision, memory, quantile=quantile, now=now, slots=slots)
        bounds, found = view.pool.spec.replicas, np.zeros(slots, dtype=np.int64)
        needed = {}
        if rates is not None:
            needed = replicas_ahead(planned, decision.market.candidates, rates, spare=bounds.spare, least=bounds.min)
        for option, count in planned.items():
            if option.accelerator != kind.name:
                continue
            replicas = needed.get(option, np.full(slots, count, dtype=np.int64))
            reserve = 0 if bounds.spare or not lends(view.pool) else 1
            found += np.array(
                [nodes_for(one + reserve if one else 0, option.tensor_parallel, per_node) for one in replicas.tolist()]
            )
        return found

    def _rates(
        self, key: PoolKey, decision: Decision, memory: PoolMemory | None, *, quantile: float, now: float, slots: int
    ) -> NDArray[np.float64] | None:
        """Requests per second in each slot at a quantile; ``None`` where nothing is forecast."""
        if memory is None or decision.view.pool.spec.pinned_replicas is not None:
            return None
        kept = self._forecasts.get((key, quantile))
        if kept is None or kept[0] != slot_of(now):
            made = forecast(memory.ahead.history.series(), now=now, quantile=quantile)
            self._forecasts = {k: v for k, v in self._forecasts.items() if k[0] != key}
            kept = self._forecasts[key, quantile] = (slot_of(now), made)
        rows = kept[1].upper[max(0, slot_of(now) - kept[1].first) :]
        if not len(rows):
            return None
        rates = requests_of(rows, decision.classes)
        return np.asarray(np.concatenate([rates, np.full(max(0, slots - len(rates)), rates.max())])[:slots])


def replicas_ahead(
    planned: Mapping[Option, int],
    candidates: Iterable[Candidate],
    rates: NDArray[np.float64],
    *,
    spare: int,
    least: int,
) -> dict[Option, Slots]:
    """Replicas of each planned option that serving needs in each slot.

    Where less is asked for than the plan carries, those stay to the last that cost least for what they carry, as in the
    plans to come: the others are free to be lent. Where more is, all grow alike.

    Args:
        planned: replicas by option, spare ones included.
        rates: requests per second, by slot.
        least: replicas of all options together, whatever is asked for.

    Returns:
        By option; one that is no candidate any more is not in it.
    """
    carriers = {
        one.option: Carrier(
            str(one.option),
            max(0.0, one.usd_per_hour),
            one.requests_per_second * PLANNING_UTILISATION,
            planned[one.option],
            lost=spare * one.requests_per_second * PLANNING_UTILISATION,
        )
        for one in candidates
        if one.option in planned and one.requests_per_second > 0
    }
    kinds = list(carriers.values())
    whole = sum(one.carries * one.most for one in kinds)
    if whole <= 0:
        return {}
    counts = by_merit(kinds, rates)
    for place in order(kinds):
        counts[place] = np.minimum(counts[place] + np.maximum(0, least - counts.sum(axis=0)), kinds[place].most)
    growth = np.maximum(1.0, (rates + max(one.lost for one in kinds)) / whole)
    grown = np.ceil(counts * growth - NEARLY).astype(np.int64)
    return dict(zip(carriers, grown, strict=True))


def _open_slots(pool: InferencePool | None, start: float, settings: OperatorConfiguration) -> Sequence[bool]:
    """Slots in which the owner's windows allow loans, all but the time of a recall; all of them without windows."""
    if pool is None or not lends(pool):
        return [False] * DAY_SLOTS
    windows = pool.spec.flipping.windows
    if not windows:
        return [True] * DAY_SLOTS
    recall = settings.flipping.recall_seconds
    back = open_slots(windows, start + recall, slots=DAY_SLOTS, slot_seconds=SLOT_SECONDS)
    return [
        here and soon
        for here, soon in zip(open_slots(windows, start, slots=DAY_SLOTS, slot_seconds=SLOT_SECONDS), back, strict=True)
    ]


def value_of(pool: InferencePool | None) -> float | None:
    """USD that training is worth in an hour of one accelerator; ``None`` where nobody says."""
    training = pool.spec.flipping.training if pool is not None else None
    value = training.value_usd_per_chip_hour if training is not None else None
    return None if value is None else float(value)


def _price(kind: AcceleratorType) -> float:
    """USD per chip-hour, on demand where that is listed; what a serving hour is worth at the least."""
    prices = [float(one.usd_per_chip_hour) for one in kind.spec.prices]
    return max(prices, default=0.0)
