"""What is learned about requests: lengths, reasoning, prefix reuse and fan-out, from stated to observed.

A WorkloadClass states a quantity; engines (or a router) report it. The value in use is a mean of both, in which what is
stated counts as ``STATED_REQUESTS`` requests and what was observed as the requests it was observed over, at most
``MOST_REQUESTS`` (so that a change is followed within as many) and halved each ``HALF_LIFE_SECONDS`` (so that what was
learned long ago gives way to what is stated). Only ``Known`` readings teach anything, and each by a bounded step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter

from tidefleet.planning.demand import MEAN_SECONDS, Known, Lengths, Reading
from tidefleet.planning.options import ClassDemand

STATED_REQUESTS = 20.0
NOMINAL_REQUESTS = 1.0
"""Weight of lengths that nobody stated: the first requests replace them."""

MOST_REQUESTS = 500.0
HALF_LIFE_SECONDS = 2 * 86_400.0

STEP = 4.0
"""One reading moves what was learned by at most this factor."""


class Basis(StrEnum):
    """Where a value comes from: mostly from the WorkloadClass, or mostly from what was seen."""

    ASSUMED = "Assumed"
    OBSERVED = "Observed"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a quantity can be at all; a reading outside teaches nothing."""

    low: float
    high: float


BOUNDS: Mapping[str, Bounds] = {
    "input_tokens": Bounds(1.0, 1e7),
    "output_tokens": Bounds(1e-3, 1e7),
    "hit_share": Bounds(0.0, 1.0),
    "reasoning_share": Bounds(0.0, 1.0),
    "calls_per_task": Bounds(1.0, 1e4),
}
"""The quantities: means per request, shares of input and of output tokens, and requests per task."""

_SHARES = frozenset({"hit_share", "reasoning_share"})


@dataclass(frozen=True, slots=True)
class Learned:
    """One quantity as observed: its mean, over how many requests (``evidence``), and when last."""

    value: float
    evidence: float
    at: float

    def evidence_at(self, now: float) -> float:
        """Requests that the observation is still worth."""
        return float(self.evidence * math.exp2(-max(0.0, now - self.at) / HALF_LIFE_SECONDS))


@dataclass(frozen=True, slots=True)
class Blend:
    """A value in use: what it is, where it comes from, and the share of it that was observed (0..1)."""

    value: float | None
    basis: Basis
    observed: float


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything learned about a pool's requests, by quantity."""

    learned: Mapping[str, Learned] = field(default_factory=dict)

    def learn(self, reading: Reading | None) -> Observed:
        """With one more reading; Empty, Stale, impossible and repeated readings teach nothing."""
        if not isinstance(reading, Known) or not (math.isfinite(reading.at) and math.isfinite(reading.seconds)):
            return self
        count = reading.arriving * (reading.seconds if reading.seconds > 0 else MEAN_SECONDS)
        if not (math.isfinite(count) and count > 0):
            return self
        after = dict(self.learned)
        for name, bounds in BOUNDS.items():
            seen: float | None = getattr(reading, name)
            if seen is None or not bounds.low <= seen <= bounds.high:
                continue
            before = after.get(name)
            if before is None:
                after[name] = Learned(seen, min(count, MOST_REQUESTS), reading.at)
            elif reading.at > before.at:
                after[name] = _updated(name, before, seen, count, reading.at)
        return replace(self, learned=after)

    def blend(self, name: str, stated: float | None, *, now: float, weight: float = STATED_REQUESTS) -> Blend:
        """The value to plan with. ``weight``: how many requests the stated value counts as."""
        known = self.learned.get(name)
        evidence = known.evidence_at(now) if known else 0.0
        if known is None or evidence <= 0.0:
            return Blend(stated, Basis.ASSUMED, 0.0)
        if stated is None:
            return Blend(known.value, Basis.OBSERVED, 1.0)
        share = evidence / (evidence + weight)
        value = share * known.value + (1.0 - share) * stated
        return Blend(value, Basis.OBSERVED if share >= 0.5 else Basis.ASSUMED, share)

    def lengths(self, stated: Lengths, *, now: float, weight: float = STATED_REQUESTS) -> Lengths:
        """What was observed blended with what is stated; quantities that were never observed stay ``None``."""

        def used(name: str) -> float | None:
            return self.blend(name, getattr(stated, name), now=now, weight=weight).value if self.has(name) else None

        return Lengths(**{name: used(name) for name in Lengths.__dataclass_fields__})

    def has(self, name: str) -> bool:
        """Whether a quantity was ever observed."""
        return name in self.learned

    def basis(self, *, now: float, weight: float = STATED_REQUESTS) -> Basis:
        """Where the lengths of requests mostly come from."""
        found = (self.blend(name, 1.0, now=now, weight=weight).basis for name in ("input_tokens", "output_tokens"))
        return Basis.OBSERVED if all(one is Basis.OBSERVED for one in found) else Basis.ASSUMED


def _updated(name: str, before: Learned, seen: float, count: float, at: float) -> Learned:
    if name not in _SHARES:
        seen = min(before.value * STEP, max(before.value / STEP, seen))
    kept = min(before.evidence_at(at), max(0.0, MOST_REQUESTS - count))
    total = kept + min(count, MOST_REQUESTS)
    value = (before.value * kept + seen * min(count, MOST_REQUESTS)) / total
    return Learned(value, total, at)


def stated_lengths(classes: Sequence[ClassDemand]) -> Lengths:
    """The means over a mix of classes as their WorkloadClasses state them; shares sum to 1."""
    into = sum(one.share * one.shape.input_mean for one in classes)
    out = sum(one.share * one.shape.output_mean for one in classes)
    cached = sum(one.share * one.shape.input_mean * one.shape.cached_share for one in classes)
    thinking = sum(one.share * one.shape.reasoning_mean for one in classes)
    return Lengths(
        input_tokens=into or None,
        output_tokens=out or None,
        hit_share=cached / into if into else None,
        reasoning_share=thinking / out if out else None,
    )


class CallCycle(ValueError):
    """Classes call each other in a circle."""


def called_rates(
    tasks: Mapping[str, float],
    calls: Mapping[str, Mapping[str, float]],
    *,
    calls_per_task: Mapping[str, float] | None = None,
    observed: Mapping[str, Observed] | None = None,
    now: float = 0.0,
) -> dict[str, float]:
    """Requests per second of each class when tasks call further classes.

    Args:
        tasks: tasks per second that arrive from outside, by class.
        calls: by class, how many tasks of other classes one of its tasks asks for.
        calls_per_task: requests that one task of a class is itself, as stated (1 where absent); ``observed`` replaces
            it, by class, as it is learned.

    Raises:
        CallCycle: the calls form a circle; the message names it.
    """
    sorter = TopologicalSorter({name: calls.get(name, {}).keys() for name in (*tasks, *calls)})
    try:
        found = list(sorter.static_order())  # those that are called before their callers
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        raise CallCycle(f"classes call each other in a circle: {' -> '.join(circle)}") from error
    rates: dict[str, float] = {}
    arriving = dict.fromkeys(found, 0.0) | dict(tasks)
    for name in reversed(found):  # callers before those they call
        for other, per_task in calls.get(name, {}).items():
            arriving[other] += arriving[name] * per_task
        stated = (calls_per_task or {}).get(name, 1.0)
        seen = (observed or {}).get(name, Observed())
        rates[name] = arriving[name] * (seen.blend("calls_per_task", stated, now=now).value or stated)
    return rates
