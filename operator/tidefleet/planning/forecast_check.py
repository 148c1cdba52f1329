"""A forecast of usage against what was observed: how far off it was, whether its doubt explains that, what to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np

from tidefleet.economics.counts import Floats
from tidefleet.economics.personas import DAY_HOURS, WEEK_HOURS, ClassForecast
from tidefleet.planning.words import brief

HOUR = 3600.0
ENOUGH_HOURS = 24
"""Below this many hours nothing is said of a class but its ratio."""

MOST_SHIFT = 3
"""Hours that the busiest time of the day may be off before the shape is doubted."""

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class Seen:
    """What was observed of a class: its mean rate over ``seconds`` that begin at Unix time ``at``."""

    wclass: str
    at: float
    requests_per_second: float
    seconds: float = HOUR


@dataclass(frozen=True, slots=True)
class Checked:
    """One class, forecast and observed, over the same hours.

    Attributes:
        hours: observed.
        forecast, observed: mean requests per second; ``observed`` is ``None`` where there was nothing to see.
        ratio: observed over forecast; ``None`` where either is nothing.
        above_p95: share of the hours above their p95; 0.05 where the forecast is right.
        explained: what the forecast says of its own doubt covers the difference.
        shift_hours: by how much the observed day is later than the one forecast (earlier: below 0); ``None``: too few
            hours to tell.
        suggestion: one sentence.
    """

    name: str
    hours: float
    forecast: float
    observed: float | None
    ratio: float | None
    above_p95: float | None
    explained: bool
    shift_hours: int | None
    suggestion: str


def hour_of_week(at: float) -> int:
    """The hour of the week, from Monday 0:00 UTC, of a Unix time."""
    moment = datetime.fromtimestamp(at, tz=UTC)
    return moment.weekday() * DAY_HOURS + moment.hour


def words_of_hour(hour: int) -> str:
    """``Tue 09:00 UTC``."""
    return f"{DAYS[hour // DAY_HOURS % 7]} {hour % DAY_HOURS:02d}:00 UTC"


def months_between(start: date, at: float) -> int:
    """Whole months from the start to a Unix time; 0 before the start."""
    moment = datetime.fromtimestamp(at, tz=UTC)
    months = (moment.year - start.year) * 12 + moment.month - start.month - (moment.day < start.day)
    return max(0, months)


def check(
    seen: Iterable[Seen], forecast_at: Callable[[float], Mapping[str, ClassForecast]], names: Iterable[str]
) -> tuple[tuple[Checked, ...], tuple[str, ...]]:
    """Each class against what was observed of it, and the names of classes that were observed and not forecast.

    Args:
        seen: in any order. What begins within an hour is counted to it.
        forecast_at: the forecasts that hold at a Unix time, by class.
        names: of the classes.
    """
    by_class: dict[str, list[Seen]] = defaultdict(list)
    for one in seen:
        by_class[one.wclass].append(one)
    names = list(names)
    unknown = tuple(sorted(by_class.keys() - set(names)))
    return tuple(_checked(name, by_class.get(name, []), forecast_at) for name in names), unknown


def _checked(name: str, seen: list[Seen], forecast_at: Callable[[float], Mapping[str, ClassForecast]]) -> Checked:
    if not seen:
        return Checked(name, 0.0, 0.0, None, None, None, False, None, "nothing was observed; look again later")
    seconds = sum(one.seconds for one in seen)
    means, tops = np.zeros(len(seen)), np.zeros(len(seen))
    low = high = 0.0
    for index, one in enumerate(seen):
        found, hour = forecast_at(one.at)[name], hour_of_week(one.at)
        means[index], tops[index] = found.mean[hour], found.p95[hour]
        doubt = found.average.p95 / found.average.mean if found.average.mean > 0.0 else 1.0
        low += one.seconds * means[index] / doubt
        high += one.seconds * means[index] * doubt
    weights = np.array([one.seconds for one in seen])
    rates = np.array([one.requests_per_second for one in seen])
    expected, observed = (float((weights * values).sum() / seconds) for values in (means, rates))
    ratio = observed / expected if expected > 0.0 and observed > 0.0 else None
    above = float((weights * (rates > tops)).sum() / seconds)
    explained = bool(low <= observed * seconds <= high)
    shift = _shift(seen, means, rates)
    words = _suggestion(observed, expected, ratio, explained=explained, shift=shift, hours=seconds / HOUR)
    return Checked(name, seconds / HOUR, expected, observed, ratio, above, explained, shift, words)


def _shift(seen: list[Seen], means: Floats, rates: Floats) -> int | None:
    """Hours by which the observed day must be moved back to fit the forecast's best; ``None`` for too short a time."""
    if sum(one.seconds for one in seen) < ENOUGH_HOURS * HOUR:
        return None
    day, was, counts = np.zeros(DAY_HOURS), np.zeros(DAY_HOURS), np.zeros(DAY_HOURS)
    for one, mean, rate in zip(seen, means, rates, strict=True):
        hour = hour_of_week(one.at) % DAY_HOURS
        day[hour] += mean
        was[hour] += rate
        counts[hour] += 1.0
    if not counts.all():
        return None
    day, was = day / counts, was / counts
    day, was = day - day.mean(), was - was.mean()
    if not (np.abs(day).max() > 1e-9 and np.abs(was).max() > 1e-9):
        return None  # a flat day has no time of its own
    fits = [float((np.roll(day, shift) * was).sum()) for shift in range(DAY_HOURS)]
    best = int(np.argmax(fits))
    if fits[best] <= fits[0] * 1.02:
        return 0
    return best - DAY_HOURS if best > DAY_HOURS // 2 else best


def _suggestion(
    observed: float, expected: float, ratio: float | None, *, explained: bool, shift: int | None, hours: float
) -> str:
    if observed <= 0.0:
        return "no requests were observed; is it in use, and does the router know the class?"
    if ratio is None:
        return "nothing is forecast of it; add the features that ask for it"
    if hours < ENOUGH_HOURS:
        return f"only {brief(hours)} h were observed; look again after a day"
    words = []
    if explained:
        words.append("the amount is within what the forecast expects")
    else:
        words.append(f"multiply users, adoption or perDay of what asks for it by {brief(ratio, 3)}")
    if shift is not None and abs(shift) >= MOST_SHIFT:
        later = "later" if shift > 0 else "earlier"
        words.append(f"the day is {abs(shift)} h {later} than forecast; look at timeZone and shape")
    if hours >= WEEK_HOURS:
        words.append("a week is measured; demand: {source: Metrics} can replace the declared rate")
    return "; ".join(words)
