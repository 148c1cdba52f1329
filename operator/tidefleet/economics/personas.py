"""Demand before there are metrics: who uses what, how often, when, and what that asks of each class of requests.

Personas use features; a use is one task of the feature's class, which is some requests and may call tasks of further
classes. Users are independent, uses come at random, calls fall into the hour of their use. ``counts`` says how requests
add up; this module says what of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np

from tidefleet.economics.counts import Counts, Floats, Moments, Source, counted, of_count, of_law
from tidefleet.economics.external import TokenVector
from tidefleet.economics.lognormal import ZERO, LengthLaw, law
from tidefleet.economics.owned import HOURS_PER_MONTH
from tidefleet.economics.tasks import MOST_REQUESTS, RequestLengths

WEEK_HOURS = 168
DAY_HOURS = 24
_QUARTERS = 4
"""Clocks of all time zones differ from UTC by whole quarters of an hour."""

SHAPE_SLACK = 0.005
"""By how much shares of a day may miss 1: those that people write have two or three decimals."""

FIXED_ONE = law(1.0)


@dataclass(frozen=True, slots=True)
class WeekShape:
    """When uses are made, on the clock of those who make them.

    Attributes:
        hours: share of a day's uses in each of its 24 hours; they sum to 1.
        weekdays: uses of each day, Monday first, over a full day's, e.g. 1 for working days and 0.2 for the others.
    """

    hours: tuple[float, ...] = (1.0 / DAY_HOURS,) * DAY_HOURS
    weekdays: tuple[float, ...] = (1.0,) * 7

    def parts(self, zone: str, monday: date) -> Floats:
        """What part of a full day's uses falls into each hour of a week, which begins on Monday at 0:00 UTC.

        Raises:
            ZoneInfoNotFoundError: the zone does not exist.
        """
        return _parts(self, zone, monday)


@cache
def _parts(shape: WeekShape, zone: str, monday: date) -> Floats:
    local, start = ZoneInfo(zone), datetime(monday.year, monday.month, monday.day, tzinfo=UTC)
    total = math.fsum(shape.hours)
    parts = np.zeros(WEEK_HOURS)
    for quarter in range(WEEK_HOURS * _QUARTERS):
        at = (start + timedelta(minutes=15 * quarter)).astimezone(local)
        parts[quarter // _QUARTERS] += shape.weekdays[at.weekday()] * shape.hours[at.hour] / total / _QUARTERS
    parts.setflags(write=False)
    return parts


@dataclass(frozen=True, slots=True)
class Feature:
    """What people use: one use is one task of the class. ``lengths`` of its requests; ``None``: the class's own."""

    name: str
    wclass: str
    lengths: RequestLengths | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """How a persona uses a feature: this share of those who take part, so often on a full day (a law over them)."""

    feature: str
    per_day: LengthLaw
    adoption: float = 1.0


@dataclass(frozen=True, slots=True)
class Persona:
    """Users who are alike.

    Attributes:
        users: at the start.
        adoption: the share of them who take part, and how sure that is; capped at 1.
        ramp_months: months until that share is reached, in even steps; 0: at once.
        growth_per_month: of the users, e.g. 0.05.
        day: how busy a day is, for all of them together, over the mean day; of mean 1.
    """

    name: str
    users: float
    uses: tuple[Use, ...]
    adoption: LengthLaw = FIXED_ONE
    ramp_months: float = 0.0
    growth_per_month: float = 0.0
    zone: str = "UTC"
    shape: WeekShape = WeekShape()
    day: LengthLaw = FIXED_ONE

    def users_in(self, month: int) -> float:
        """Users in that month after the start; 0 is the first."""
        return float(self.users * (1.0 + self.growth_per_month) ** month)

    def ramp_in(self, month: int) -> float:
        """How much of the adoption is reached in that month, 0..1."""
        return min(1.0, (month + 1) / self.ramp_months) if self.ramp_months > 1.0 else 1.0


@dataclass(frozen=True, slots=True)
class DemandClass:
    """A class of requests.

    Attributes:
        requests_per_task: of its own, for one task.
        calls: tasks of other classes that one of its tasks asks for, on average.
        lengths: of its requests where no feature says, and of those that other classes ask for.
    """

    name: str
    requests_per_task: LengthLaw = FIXED_ONE
    calls: tuple[tuple[str, float], ...] = ()
    lengths: RequestLengths | None = None


@dataclass(frozen=True, slots=True)
class UsageModel:
    """Who uses what."""

    personas: tuple[Persona, ...]
    features: tuple[Feature, ...]
    classes: tuple[DemandClass, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """A rate per second: its mean, and what it does not pass with a probability of 50 % and 95 %."""

    mean: float
    p50: float
    p95: float


@dataclass(frozen=True, slots=True, eq=False)
class ClassForecast:
    """What is asked of one class in a month.

    Attributes:
        average: requests per second over a week.
        mean, p50, p95: requests per second in each of the 168 hours of a week, from Monday 0:00 UTC.
        direct_share: share of the requests that are of features, not of calls by other classes.
        lengths: of a request; the p95 is that of all features together.
        users: that take part, on average, and use it directly.
    """

    name: str
    average: Range
    mean: Floats
    p50: Floats
    p95: Floats
    direct_share: float
    lengths: RequestLengths
    users: float

    @property
    def busy_hour(self) -> int:
        """The hour of the week with the highest p95."""
        return int(np.argmax(self.p95))

    @property
    def busy(self) -> Range:
        """Requests per second in the busiest hour."""
        hour = self.busy_hour
        return Range(float(self.mean[hour]), float(self.p50[hour]), float(self.p95[hour]))

    @property
    def tokens_per_month(self) -> TokenVector:
        """Tokens of a month of mean length, on average."""
        return self.lengths.tokens().times(self.average.mean * 3600.0 * HOURS_PER_MONTH)


def week_of(start: date, month: int) -> date:
    """The Monday of the week that holds the day so many months after the start (or the last day of that month)."""
    years, index = divmod(start.month - 1 + month, 12)
    day = min(start.day, _days(start.year + years, index + 1))
    found = date(start.year + years, index + 1, day)
    return found - timedelta(days=found.weekday())


def _days(year: int, month: int) -> int:
    following = date(year + (month == 12), month % 12 + 1, 1)
    return (following - timedelta(days=1)).day


def requests_of_tasks(classes: Sequence[DemandClass]) -> Mapping[str, Mapping[str, Moments]]:
    """How many requests of each class a task of each class comes to, with all calls, by caller and then by class.

    Calls are whole numbers, as even as their mean allows, and independent of each other.

    Raises:
        ValueError: a class is called that does not exist, classes call each other in a circle, or a task comes to more
            than a billion requests; the message names them.
    """
    known = {one.name: one for one in classes}
    done: dict[str, dict[str, Moments]] = {}

    def visit(name: str, path: tuple[str, ...]) -> dict[str, Moments]:
        if name in path:
            circle = (*path[path.index(name) :], name)
            raise ValueError(
                f"class {circle[0]}: calls come back to it: {' -> '.join(circle)}; expected calls that do not, "
                "e.g. one call less"
            )
        if name in done:
            return done[name]
        one = known[name]
        found = {name: of_count(one.requests_per_task)}
        for to, times in one.calls:
            if to not in known:
                raise ValueError(
                    f'class {name}: calls "{to}"; expected a class of the same file, e.g. {sorted(known)[0]}'
                )
            calls = of_count(law(times))
            for other, requests in visit(to, (*path, name)).items():
                found[other] = found.get(other, Moments(0.0)) + calls.each(requests)
        if sum(requests.mean for requests in found.values()) > MOST_REQUESTS:
            raise ValueError(f"class {name}: a task comes to more than 1e9 requests; expected fewer calls, e.g. 2")
        done[name] = found
        return found

    for one in classes:
        visit(one.name, ())
    return done


def forecast(usage: UsageModel, start: date, month: int = 0) -> tuple[ClassForecast, ...]:
    """What is asked of each class in a month, in the order of the classes.

    Args:
        start: the day that the numbers of users hold for. One week stands for a month: that which holds this day.
        month: after the start, 0 = the first.

    Raises:
        ValueError: calls lead nowhere or in a circle, a feature or class does not exist, or a class has requests and
            nothing says how long they are.
    """
    trees, features = requests_of_tasks(usage.classes), _features(usage)
    monday = week_of(start, month)
    return tuple(_asked_of(one, usage.personas, features, trees, monday=monday, month=month) for one in usage.classes)


def _features(usage: UsageModel) -> dict[str, Feature]:
    features, classes = {one.name: one for one in usage.features}, sorted(one.name for one in usage.classes)
    for feature in usage.features:
        if feature.wclass not in classes:
            raise ValueError(
                f'feature {feature.name}: class is "{feature.wclass}"; expected a class of the same file, '
                f"e.g. {classes[0] if classes else 'chat'}"
            )
    for persona in usage.personas:
        for use in persona.uses:
            if use.feature not in features:
                raise ValueError(
                    f'persona {persona.name}: feature is "{use.feature}"; expected a feature of the same file, '
                    f"e.g. {next(iter(features), 'summarise')}"
                )
    return features


def _asked_of(
    one: DemandClass,
    personas: Iterable[Persona],
    features: Mapping[str, Feature],
    trees: Mapping[str, Mapping[str, Moments]],
    *,
    monday: date,
    month: int,
) -> ClassForecast:
    week, whole = _none(WEEK_HOURS), _none(1)
    lengths: list[tuple[float, RequestLengths]] = []
    users, direct = 0.0, 0.0
    for persona in personas:
        parts = persona.shape.parts(persona.zone, monday)
        taking_part = persona.users_in(month) * persona.adoption.mean * persona.ramp_in(month)
        sources, without = [], 1.0
        for use in persona.uses:
            feature = features[use.feature]
            requests = trees[feature.wclass].get(one.name)
            if requests is None:
                continue
            sources.append(Source(of_law(use.per_day, share=use.adoption), requests))
            if feature.wclass == one.name:
                without *= 1.0 - use.adoption
                own = taking_part * use.adoption * use.per_day.mean * float(parts.sum()) * one.requests_per_task.mean
                direct += own
                lengths.append((own, _lengths_of(feature, one)))
        users += taking_part * (1.0 - without)
        if sources:
            week += _counted(persona, month, parts, sources, persona.day)
            whole += _counted(persona, month, np.array([parts.sum()]), sources, _mean_day(persona.day, parts))
    total = float(whole.mean[0])
    if total - direct > 1e-9 * total:
        lengths.append((total - direct, _called_lengths(one, lengths)))
    each = Counts(week.mean / 3600.0, week.variance / 3600.0**2, week.third / 3600.0**3)
    seconds = WEEK_HOURS * 3600.0
    return ClassForecast(
        name=one.name,
        average=Range(
            *(float(value[0]) / seconds for value in (whole.mean, whole.quantile(0.5), whole.quantile(0.95)))
        ),
        mean=each.mean,
        p50=each.quantile(0.5),
        p95=each.quantile(0.95),
        direct_share=min(1.0, direct / total) if total > 0.0 else 1.0,
        lengths=mixed_lengths(lengths) if total > 0.0 else one.lengths or NO_LENGTHS,
        users=users,
    )


NO_LENGTHS = RequestLengths(ZERO, ZERO)
"""Of a class of which nothing is asked, and nothing is said."""


def _none(size: int) -> Counts:
    return Counts(*(np.zeros(size) for _ in range(3)))


def _counted(
    persona: Persona, month: int, parts: Floats, sources: Sequence[Source], day: LengthLaw | Moments
) -> Counts:
    adoption = of_law(persona.adoption, times=persona.ramp_in(month))
    busy = day if isinstance(day, Moments) else of_law(day)
    return counted(persona.users_in(month), adoption, busy, parts, sources)


def _mean_day(day: LengthLaw, parts: Floats) -> Moments:
    """How busy a week is: the mean over its days, which are independent, each for what it has of the week's uses."""
    one, days = of_law(day), parts.reshape(7, DAY_HOURS).sum(axis=1)
    if one.variance == 0.0 or not days.any():
        return one
    shares = days / days.sum()
    return Moments(one.mean, one.variance * float((shares**2).sum()), one.third * float((shares**3).sum()))


def _lengths_of(feature: Feature, wclass: DemandClass) -> RequestLengths:
    found = feature.lengths or wclass.lengths
    if found is None:
        raise ValueError(
            f"feature {feature.name}: tokens is missing, and class {wclass.name} has none either; expected how long "
            "requests are, e.g. {input: {mean: 1800, p95: 6000}, output: {mean: 300}}"
        )
    return found


def _called_lengths(wclass: DemandClass, direct: Sequence[tuple[float, RequestLengths]]) -> RequestLengths:
    if wclass.lengths is not None:
        return wclass.lengths
    if not direct:
        raise ValueError(
            f"class {wclass.name}: tokens is missing; expected how long the requests are that other classes ask for, "
            "e.g. {input: {mean: 500}, output: {mean: 0}}"
        )
    return mixed_lengths(direct)


def mixed_lengths(parts: Sequence[tuple[float, RequestLengths]]) -> RequestLengths:
    """Lengths of requests of which so many are like each of these: their mean, and their p95 if a law has both."""
    weights = [weight for weight, _ in parts]

    def mix(pick: Callable[[RequestLengths], LengthLaw]) -> LengthLaw:
        return _mixed([pick(one) for _, one in parts], weights)

    tokens = math.fsum(weight * one.input.mean for weight, one in parts)
    cached = math.fsum(weight * one.input.mean * one.cached_share for weight, one in parts)
    return RequestLengths(
        input=mix(lambda one: one.input),
        output=mix(lambda one: one.output),
        reasoning=mix(lambda one: one.reasoning),
        cached_share=cached / tokens if tokens > 0.0 else 0.0,
    )


def _mixed(laws: Sequence[LengthLaw], weights: Sequence[float]) -> LengthLaw:
    """The lognormal law with the mean and the p95 of a mixture."""
    total = math.fsum(weights)
    if all(one == laws[0] for one in laws) or total <= 0.0:
        return laws[0]
    mean = math.fsum(weight * one.mean for weight, one in zip(weights, laws, strict=True)) / total
    ends = [one.quantile(0.95) for one in laws]
    low, high = min(ends), max(ends)
    for _ in range(100):
        middle = 0.5 * (low + high)
        below = math.fsum(weight * one.share_below(middle) for weight, one in zip(weights, laws, strict=True)) / total
        low, high = (middle, high) if below < 0.95 else (low, middle)
    cap = max(one.cap for one in laws)
    return law(mean, min(high, cap), cap)
