"""What a pool is asked for: the condition DemandKnown, the rate and mix to plan for, and whether capacity may go."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tidefleet.api import ConditionType, Reason, WorkloadClass
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decision import FALSE, TRUE, UNKNOWN, Verdict
from tidefleet.controller.view import PoolMemory, PoolView
from tidefleet.planning.demand import (
    MEAN_SECONDS,
    Cause,
    Empty,
    Ground,
    Known,
    Reading,
    Stale,
    observed_shapes,
    planned_demand,
)
from tidefleet.planning.from_api import NOMINAL_SHAPE, class_demands, declared_rate, deferred_rate, is_deferrable
from tidefleet.planning.observed import NOMINAL_REQUESTS, STATED_REQUESTS, stated_lengths
from tidefleet.planning.options import ClassDemand
from tidefleet.planning.words import brief

KIND = ConditionType.DEMAND_KNOWN
FRESH_PERIODS = 4.0
RATE_STEP, MOST_RATE_STEP = 0.03, 0.09
"""A measured rate that moves by less than this share is noise: it makes no new plan, and writes no status.

Where the mean of ``MEAN_SECONDS`` has a larger standard deviation, as that of a few requests a minute has, it is that,
up to the second figure. Plans leave ``1 - PLANNING_UTILISATION`` of each replica free, more than either.
"""

LEAD_STEP = 0.1
"""A forecast that asks for this much more than now is told as what leads the plan."""

HOLD_SECONDS = 3600.0
"""What the forecast wants back within this time is not given up meanwhile."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Demand as planned for.

    Attributes:
        known: it was measured or declared just now; otherwise only what runs may be planned.
        may_lower: readings span the scale-down window and nothing is missing.
        at_least: replicas that must stay whatever the plan says.
        held: why replicas are held, empty when they are not.
    """

    verdict: Verdict
    rate: float
    classes: tuple[ClassDemand, ...]
    known: bool
    may_lower: bool
    at_least: int = 0
    held: str = ""


def freshness_seconds(settings: OperatorConfiguration) -> float:
    """Age from which a reading is stale, and a gap from which the past is not known."""
    return max(60.0, FRESH_PERIODS * settings.period_seconds)


def asked(view: PoolView, memory: PoolMemory, settings: OperatorConfiguration) -> Asked:
    """The demand of a pool, from its classes and the newest reading of its engines."""
    found = _asked(view, memory, settings)
    if view.unreadable_classes and found.may_lower:
        names = ", ".join(view.unreadable_classes)
        return replace(found, may_lower=False, held=f"held: WorkloadClass {names} cannot be read")
    return found


def _asked(view: PoolView, memory: PoolMemory, settings: OperatorConfiguration) -> Asked:
    if not view.classes:
        message = "no usable WorkloadClass refers to this pool; it holds spec.replicas.min"
        nominal = (ClassDemand(name="unknown", share=1.0, shape=NOMINAL_SHAPE),)
        return Asked(Verdict(KIND, FALSE, Reason.NO_CLASSES, message), 0.0, nominal, False, False, held=message)
    steady = [one for one in view.classes if not is_deferrable(one)]
    declared = sum(declared_rate(one) or 0.0 for one in steady) + _called(view, steady)
    if all(declared_rate(one) is not None for one in steady):
        return _declared(view, memory, settings, steady, declared)
    reading = _aged(view.reading, view.now, freshness_seconds(settings))
    if isinstance(reading, Known):
        return _measured(view, memory, settings, steady, replace_rate(reading, declared))
    rate = memory.history.planned_rate(memory.last_known.at) if memory.last_known else declared
    rate = max(rate, memory.planned_rate)  # what was planned by forecast is held as well
    classes = observed_shapes(class_demands(view.classes, rate), memory.lengths)
    if reading is None:
        return Asked(
            Verdict(KIND, UNKNOWN, Reason.EMPTY, "not measured yet"), rate, classes, False, False, _waker(view)
        )
    running = any(one.desired for one in view.served)
    held = f"held: demand is not known ({reading.why})" if running else ""
    verdict = Verdict(KIND, FALSE, _reason(reading), f"{reading.why}; replicas are not lowered")
    return Asked(verdict, rate, classes, False, False, _waker(view), held)


def _called(view: PoolView, steady: list[WorkloadClass]) -> float:
    """Requests per second that other classes ask of measured ones: what is measured counts where it is more."""
    measured = [one.name for one in steady if declared_rate(one) is None]
    return sum(view.called[name].requests_per_second for name in measured if name in view.called)


def _calls(view: PoolView) -> str:
    """What other classes ask of this pool, in words; empty where they ask for nothing."""
    found = [view.called[one.name] for one in view.classes if one.name in view.called and not is_deferrable(one)]
    if not found:
        return ""
    rate = sum(one.requests_per_second for one in found)
    callers = sorted({name for one in found for name in one.callers})
    return f"; {brief(rate)} requests/s are calls of {', '.join(callers)}"


def _noise(rate: float) -> float:
    """Share of a rate that chance moves it by: requests come at random, and n of them have a deviation of sqrt(n)."""
    count = rate * MEAN_SECONDS
    return min(MOST_RATE_STEP, max(RATE_STEP, 1.0 / math.sqrt(count))) if count > 0 else RATE_STEP


def replace_rate(reading: Known, declared: float) -> Known:
    """The reading, with at least the declared rate."""
    return replace(reading, requests_per_second=max(reading.requests_per_second, declared))


def _waker(view: PoolView) -> int:
    """Replicas that measured demand needs to be seen at all: without any, nothing would tell that it is back."""
    return 1 if view.pool.spec.replicas.min == 0 and view.pool.spec.pinned_replicas is None else 0


def _aged(reading: Reading | None, now: float, limit: float) -> Reading | None:
    if isinstance(reading, Known) and now - reading.at > limit:
        return Stale(reading.at, reading.source, f"the engines were last read {now - reading.at:.0f} s ago")
    return reading


def _declared(
    view: PoolView,
    memory: PoolMemory,
    settings: OperatorConfiguration,
    steady: list[WorkloadClass],
    declared: float,
) -> Asked:
    rate = declared if steady else sum(deferred_rate(one) for one in view.classes)
    reading = Known(view.now, rate, "Declared")
    memory.history.add(reading)
    memory.last_known = reading
    count = len(steady or view.classes)
    message = f"{brief(rate)} requests/s are declared by {count} class{'es' if count > 1 else ''}" + _calls(view)
    classes = class_demands(view.classes, rate)
    rate = max(rate, memory.history.planned_rate(view.now))
    rate += _schedule(view, memory, settings, steady, classes, declared=rate)
    return Asked(
        verdict=Verdict(KIND, TRUE, Reason.DECLARED, message + _deferred(view, memory, steady)),
        rate=rate,
        classes=classes,
        known=True,
        may_lower=memory.history.spans_window(view.now),
    )


def _measured(
    view: PoolView, memory: PoolMemory, settings: OperatorConfiguration, steady: list[WorkloadClass], reading: Known
) -> Asked:
    memory.history.add(reading)
    memory.last_known = reading
    stated = class_demands(view.classes, reading.requests_per_second)
    _learn(view, memory, steady, stated, reading)
    split = len(steady) > 1
    message = f"measured by {reading.source}" + ("; split between classes by trafficShare" if split else "")
    mix = _shapes(steady, stated, memory)
    memory.ahead.note(reading, mix, gap=freshness_seconds(settings))
    memory.ahead.renew(f"{view.pool.namespace}/{view.pool.name}", view.now, settings)
    planned = planned_demand(
        memory.history.planned_rate(view.now),
        foreseen=memory.ahead.rate(view.now, mix, memory.ahead.lead_seconds(settings)),
        declared=sum(declared_rate(one) or 0.0 for one in steady) + _called(view, steady),
        step=LEAD_STEP,
    )
    always = reading.requests_per_second if reading.stated else None
    rate = planned.requests_per_second + _schedule(view, memory, settings, steady, mix, declared=always)
    rate = max(rate, min(memory.planned_rate, memory.ahead.rate(view.now, mix, HOLD_SECONDS)))
    if abs(rate - memory.planned_rate) > _noise(memory.planned_rate) * memory.planned_rate:
        memory.planned_rate = rate
    rate = memory.planned_rate
    classes = _shapes(steady, class_demands(view.classes, rate), memory)
    if provenance := memory.ahead.provenance():
        leads = planned.ground is Ground.FORECAST
        message += f"; {provenance}" + (f" asks for {brief(rate)} requests/s ahead of time" if leads else "")
    message += _calls(view) + _deferred(view, memory, steady)
    if _waker(view):
        message += "; one replica stays although spec.replicas.min is 0, since nothing else would see demand come back"
    return Asked(
        verdict=Verdict(KIND, TRUE, Reason.ASSUMED if split else Reason.KNOWN, message),
        rate=rate,
        classes=classes,
        known=True,
        may_lower=memory.history.spans_window(view.now),
        at_least=_waker(view),
    )


def _shapes(
    steady: list[WorkloadClass], classes: tuple[ClassDemand, ...], memory: PoolMemory
) -> tuple[ClassDemand, ...]:
    """The mix with measured lengths, where all of it is measured."""
    measured = all(one.spec.demand.source is not None for one in steady)
    return observed_shapes(classes, memory.lengths) if measured else classes


def _learn(
    view: PoolView, memory: PoolMemory, steady: list[WorkloadClass], stated: tuple[ClassDemand, ...], reading: Known
) -> None:
    """Lengths and multipliers: what the classes state until enough requests were seen."""
    memory.ahead.observed = memory.ahead.observed.learn(reading)
    memory.measured_classes = frozenset(one.name for one in steady if one.spec.demand.source is not None)
    weight = STATED_REQUESTS if all(one.spec.tokens is not None for one in steady) else NOMINAL_REQUESTS
    blended = memory.ahead.observed.lengths(stated_lengths(stated), now=view.now, weight=weight)
    memory.lengths = memory.lengths.follow(blended, stated_lengths(stated), count=reading.length_count)


def _schedule(
    view: PoolView,
    memory: PoolMemory,
    settings: OperatorConfiguration,
    steady: list[WorkloadClass],
    mix: tuple[ClassDemand, ...],
    *,
    declared: float | None = None,
) -> float:
    """Requests per second that deferrable work needs beyond what is idle before its deadline."""
    waiting = [one for one in view.classes if is_deferrable(one)]
    if not waiting or not steady:
        return 0.0
    ahead, work = memory.ahead, memory.waiting
    reading = _aged(view.reading, view.now, freshness_seconds(settings))
    work.progress(waiting, reading if isinstance(reading, Known) else None, view.now)
    if work.is_due(waiting, view.now):
        bounds = view.pool.spec.replicas
        expected = ahead.steady(view.now, mix, declared)
        work.schedule(waiting, mix, expected, now=view.now, least=max(bounds.min, _waker(view)), most=bounds.max)
    return work.beyond(view.now, ahead.lead_seconds(settings))


def _deferred(view: PoolView, memory: PoolMemory, steady: list[WorkloadClass]) -> str:
    names = [one.name for one in view.classes if is_deferrable(one)]
    told = f"; {memory.waiting.words(names)}" if names and steady else ""
    return told + "".join(f"; {one.words}" for _, one in sorted(view.trainers.items()))


_REASONS = {
    Cause.AGED: Reason.STALE,
    Cause.UNREADABLE: Reason.STALE,
    Cause.UNREACHABLE: Reason.UNREACHABLE,
    Cause.NOT_A_NUMBER: Reason.NOT_A_NUMBER,
}


def _reason(reading: Empty | Stale) -> Reason:
    return Reason.EMPTY if isinstance(reading, Empty) else _REASONS[reading.cause]
