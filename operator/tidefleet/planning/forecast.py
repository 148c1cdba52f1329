"""What a pool will be asked for in the next 48 hours, with a quantile that its own past errors calibrate.

Model. For slot s forecast from origin o (h = s - o slots ahead), with y the past of one quantity:

    season(s)  = y at the same slot of earlier weeks (mean of two, median from three on), averaged with its neighbours;
                 with less than a week, the same slot of earlier days; slots far above the hours around them are cut
    short(o)   = sum of y over the last SHORT slots / sum of their seasons        (where the day is now)
    long(o)    = the same over the last day                                       (the trend since the season)
    rule 1     = season(s) * (1 + (long - 1) * LONG_DAMPING^h + (short - long) * SHORT_DAMPING^h)
    rule 2     = season(s) * (1 + (long - 1) * LONG_DAMPING^h)
    rule 3     = y at the same slot of the newest earlier week (day), averaged with its neighbours; beyond NEWEST_LEADS
    rule 4     = the newest value; only up to NEWEST_LEADS slots ahead
    point(s)   = the rules, weighed by the inverse SHARPNESS-th power of the mean error each has made h slots ahead

which is the seasonal naive forecast with a damped trend (Gardner and McKenzie 1985), multiplicative because traffic is,
combined with the naive one (Bates and Granger 1969), which is better a few slots ahead where days do not repeat.

Quantile. Split conformal prediction (Papadopoulos et al. 2002; Vovk et al. 2005): the forecast is made again for every
slot of the past from what was known then, and the ceil((n + 1) q)-th smallest of the n relative errors is added. Errors
are taken by hour of the week (with the hours beside it); where those are few, by hour of the day; where those are few,
all of them. This is done for some leads, and between them margins are interpolated.

Pure: ``now`` comes in, nothing is random.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidefleet.planning.slots import DAY_SLOTS, WEEK_SLOTS, Array, SlotSeries, slot_of

HORIZON_SLOTS = 192
"""48 hours are planned for."""

COMMIT_SLOTS = 16
"""The first 4 hours of a plan are a commitment: work may be promised against them."""

KNOWN_SHARE = 0.7
"""Share of a day's (a week's) slots that must have been measured for its pattern to be used."""

LEADS = (1, 3, 7, 15, 47, 95, 191)
"""Leads in slots at which errors are measured; none is a whole number of hours, which hourly jobs would flatter."""

NEWEST_LEADS = 15
"""Beyond this lead the newest value is no rule: a day ahead it would be as good as the day before, and nowhere else."""

SHORT = 4
SHORT_DAMPING = 0.92
LONG_DAMPING = 0.99
MOST_TREND = 2.0
"""A trend is at most a doubling, or a halving, of the season."""

HIGHEST = 1.5
"""No quantile is above this many times the highest slot ever measured."""

FLOOR = 0.05
"""Errors are relative to the forecast, but to at least this share of the mean: nights must not blow them up."""

ENOUGH = {WEEK_SLOTS: 36, DAY_SLOTS: 60}
"""Errors from which an hour of the week, or of the day, has a margin of its own: twelve come a week (a day)."""

ERROR_SEASONS = 14
"""Days (weeks) back from which the errors of an hour are taken."""

SHARPNESS = 3.0
"""How strongly the rule with the smaller past error is preferred."""

NEAR = (0.5, 0.1, 0.0, 0.4)
FAR = (0.4, 0.3, 0.3, 0.0)
"""Shares of the rules before there are errors to judge by; half a day of errors counts as much. 0 is left out."""

SPIKE = 3.0
"""In a season a slot counts for at most this many times the median of the two hours around it, or the mean of all."""

SEASONS = 4
"""Seasons (weeks, or days) that are averaged at most."""


class Step(StrEnum):
    """What a forecast could be made from, best first."""

    WEEKLY = "weekly"
    DAILY = "daily"
    NOWCAST = "nowcast"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a forecast stands on: its step, days of history that were measured, and how many errors calibrate it."""

    step: Step
    days: float
    errors: int = 0

    def __str__(self) -> str:
        match self.step:
            case Step.WEEKLY:
                return f"forecast from the weekly pattern of {self.days:.0f} days"
            case Step.DAILY:
                return "forecast from the daily pattern, less than a week is known"
            case _:
                return "no forecast, less than a day is known"


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """Rates of the next 48 hours.

    Attributes:
        first: the first slot forecast, as ``slots.slot_of`` counts.
        point, upper: shape (slots, quantities), tokens per second: the forecast, and its quantile ``quantile``.
            Both are empty when there is too little history.
    """

    first: int
    point: Array
    upper: Array
    quantile: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self.point.flags.writeable = self.upper.flags.writeable = False

    def highest(self, now: float, seconds: float) -> Array | None:
        """The highest quantile of each quantity in the slots that touch ``now`` to ``now + seconds``.

        ``None`` when the forecast does not reach into that time.
        """
        begin, end = slot_of(now) - self.first, slot_of(now + max(0.0, seconds)) - self.first + 1
        rows = self.upper[max(0, begin) : max(0, end)]
        return None if not len(rows) else np.asarray(rows.max(axis=0), dtype=np.float64)

    @property
    def committed(self) -> Array:
        """The quantile over the 4 hours that are a commitment."""
        return self.upper[:COMMIT_SLOTS]


def forecast(series: SlotSeries, *, now: float, quantile: float = 0.9) -> Forecast:
    """The forecast for the 48 hours from the slot that ``now`` (Unix seconds) is in.

    Args:
        series: what was measured; gaps are NaN and are never read as zero.
        quantile: share of slots that stay below ``upper``, in (0, 1).

    Raises:
        ValueError: the quantile is not between 0 and 1.
    """
    if not 0.0 < quantile < 1.0:
        raise ValueError(f"forecast: quantile is {quantile}; expected a number between 0 and 1, e.g. 0.9")
    first = slot_of(now)
    values = _until(series, first)
    days = float(np.isfinite(values).all(axis=1).sum()) / DAY_SLOTS
    step = _step(values, first - (series.first + len(values)))
    if step is Step.NOWCAST:
        nothing = np.empty((0, series.values.shape[1]))
        return Forecast(first, nothing, nothing, quantile, Provenance(step, days))
    period = WEEK_SLOTS if step is Step.WEEKLY else DAY_SLOTS
    late = first - (series.first + len(values))  # slots since the last one measured
    points, uppers, errors = [], [], 0
    for column in range(values.shape[1]):
        y = values[:, column]
        point, upper, count = _one(y, period, late, series.first, quantile)
        points.append(point)
        uppers.append(upper)
        errors = max(errors, count)
    return Forecast(first, np.stack(points, 1), np.stack(uppers, 1), quantile, Provenance(step, days, errors))


def _until(series: SlotSeries, first: int) -> Array:
    """Slots that are over, without unknown ones at the end."""
    values = series.values[: max(0, first - series.first)]
    known = np.flatnonzero(np.isfinite(values).all(axis=1))
    return values[: known[-1] + 1] if len(known) else values[:0]


def _step(values: Array, late: int) -> Step:
    """The best pattern that is known: most of the last week, or day, and not too long ago."""
    known: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=1))

    def is_known(period: int) -> bool:
        return len(values) >= period and late < period and float(np.mean(known[-period:])) >= KNOWN_SHARE

    if is_known(WEEK_SLOTS):
        return Step.WEEKLY
    return Step.DAILY if is_known(DAY_SLOTS) else Step.NOWCAST


def _one(y: Array, period: int, late: int, origin: int, quantile: float) -> tuple[Array, Array, int]:
    """Point, quantile and number of errors of one quantity for HORIZON_SLOTS slots from ``len(y) + late``."""
    n = len(y)
    mean = float(np.nanmean(y))
    floor = max(FLOOR * mean, 1e-12)
    ahead = np.arange(late, late + HORIZON_SLOTS) + 1  # leads of the slots forecast, from the last one measured
    # An outburst of minutes is no pattern that would come back next week.
    usual = np.minimum(y, SPIKE * np.maximum(_around(y), mean))
    season, latest = _seasons(usual, period, n + late + HORIZON_SLOTS)
    rows = _rows(y, season[:n])
    now = _Rows(*(column[n - 1 : n] for column in rows))
    to_come = [np.where(np.isfinite(one[n + late :]), one[n + late :], mean) for one in (season, latest)]
    slots = origin + n + late + np.arange(HORIZON_SLOTS)
    shares, margins, counts = [], [], []
    for lead in LEADS:
        more = (lead - 1) // period * period  # further back: the newest season was not over when this was forecast
        then = [np.append(np.full(min(more, n), np.nan), one[: max(0, n - more)])[lead:] for one in (season, latest)]
        before = _Rows(*(column[: max(0, n - lead)] for column in rows))
        made = _rules(then[0], then[1], before, np.full(max(0, n - lead), lead))
        share = _shares(made, y[lead:], NEAR if lead <= NEWEST_LEADS else FAR)
        shares.append(share)
        errors = np.full(n, np.nan)
        mixed = np.tensordot(share, made, axes=1)
        errors[lead:] = (y[lead:] - mixed) / np.maximum(mixed, floor)
        margin, count = _margins(errors, origin, slots, quantile)
        margins.append(margin)
        counts.append(count)
    rules = _rules(to_come[0], to_come[1], now, ahead)
    point = np.maximum(0.0, (_between(np.stack(shares).reshape(len(LEADS), -1, 1), ahead) * rules).sum(axis=0))
    margin = _between(np.stack(margins)[:, np.newaxis, :], ahead)[0]
    upper = np.minimum(point + margin * np.maximum(point, floor), HIGHEST * float(np.nanmax(y)))
    return point, np.maximum(0.0, upper), max(counts)


class _Rows(NamedTuple):
    """What is known at each slot of the past: levels against the season, and the newest values."""

    short: Array
    long: Array
    last: Array


def _rows(y: Array, season: Array) -> _Rows:
    short, long = _levels(y, season)
    return _Rows(short, long, _newest(y))


def _newest(y: Array) -> Array:
    """The last known value at each slot."""
    at = np.maximum.accumulate(np.where(np.isfinite(y), np.arange(len(y)), 0))
    return np.asarray(y[at], dtype=np.float64)


def _rules(season: Array, latest: Array, known: _Rows, lead: NDArray[np.int64]) -> Array:
    """What each rule forecasts, shape (rules, slots): rules 1 to 4 of the model."""
    slow, fast = np.power(LONG_DAMPING, lead), np.power(SHORT_DAMPING, lead)
    daily = 1.0 + (known.long - 1.0) * slow
    both = daily + (known.short - known.long) * fast
    last = np.broadcast_to(known.last, np.shape(season))
    known_season = np.where(np.isfinite(season), season, last)
    return np.stack([known_season * both, known_season * daily, np.where(np.isfinite(latest), latest, last), last])


def _seasons(y: Array, period: int, length: int) -> tuple[Array, Array]:
    """Of each slot, what several earlier periods say and what the newest one says; by days where no week is known."""
    found = []
    for count in (SEASONS, 1):
        season = _smooth(_season(y, period, length, count))
        if period != DAY_SLOTS:
            season = np.where(np.isfinite(season), season, _smooth(_season(y, DAY_SLOTS, length, count)))
        found.append(season)
    return found[0], found[1]


def _shares(made: Array, actual: Array, prior: tuple[float, ...]) -> Array:
    """How much each rule counts, by the inverse of its mean error in the last week; ``prior`` before there are any."""
    gone = np.abs(made[:, -WEEK_SLOTS:] - actual[-WEEK_SLOTS:])
    known = np.isfinite(gone).all(axis=0)
    count = int(known.sum())
    wanted = np.asarray(prior)
    if not count:
        return wanted
    mean = gone[:, known].mean(axis=1)
    scores = (wanted > 0) / np.maximum(mean, 1e-9 * max(1.0, float(mean.max()))) ** SHARPNESS
    weight = count / (count + DAY_SLOTS / 2.0)
    return np.asarray(weight * scores / scores.sum() + (1.0 - weight) * wanted, dtype=np.float64)


def _season(y: Array, period: int, length: int, seasons: int) -> Array:
    """What earlier periods say about each slot, from past values only; NaN where they say nothing.

    A slot beyond the end of the past by more than a period looks back a whole number of periods further.
    """
    n = len(y)
    lags = np.full((seasons, length), np.nan)
    slots = np.arange(length)
    back = np.maximum(1, -(-(slots - n + 1) // period))  # periods back to the newest known one
    for i in range(seasons):
        at = slots - (back + i) * period
        good = at >= 0
        lags[i, good] = y[at[good]]
    return _middle(lags)


def _around(y: Array) -> Array:
    """The median of the known values within an hour of each slot; infinite where there is none."""
    padded = np.pad(y, 4, constant_values=np.nan)
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(padded, 9), axis=1)  # NaN goes last
    count = np.isfinite(windows).sum(axis=1)
    middle = windows[np.arange(len(y)), np.maximum(0, count // 2)]
    return np.where(count > 0, middle, np.inf)


def _middle(lags: Array) -> Array:
    """The median over the first axis from three values on, else the mean; NaN without any."""
    order = np.sort(lags, axis=0)  # NaN goes last
    count = np.isfinite(lags).sum(axis=0)
    columns = np.arange(lags.shape[1])
    low, high = np.maximum(0, (count - 1) // 2), np.maximum(0, count // 2)
    return np.asarray((order[low, columns] + order[high, columns]) / 2.0, dtype=np.float64)


def _smooth(x: Array) -> Array:
    """Each value averaged with its neighbours (weights 1, 2, 1), unknown ones left out."""
    known = np.isfinite(x)
    value, weight = np.where(known, x, 0.0), known.astype(np.float64)
    total, count = 2.0 * value, 2.0 * weight
    for shift in (1, -1):
        rolled, mask = np.roll(value, shift), np.roll(weight, shift)
        edge = 0 if shift == 1 else -1
        rolled[edge] = mask[edge] = 0.0
        total, count = total + rolled, count + mask
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan)


def _levels(y: Array, season: Array) -> tuple[Array, Array]:
    """Actual over season in the last SHORT slots and in the last day, at each slot; 1 where nobody knows."""
    both = np.isfinite(y) & np.isfinite(season)
    actual = np.cumsum(np.where(both, y, 0.0))
    expected = np.cumsum(np.where(both, season, 0.0))
    levels = []
    for span in (SHORT, DAY_SLOTS):
        a, e = actual.copy(), expected.copy()
        a[span:] -= actual[:-span]
        e[span:] -= expected[:-span]
        tiny = 1e-9 * max(1.0, float(expected[-1]) if len(expected) else 1.0)
        ratio = np.where(e > tiny, a / np.maximum(e, tiny), 1.0)
        levels.append(np.clip(ratio, 1.0 / MOST_TREND, MOST_TREND))
    return levels[0], levels[1]


def _margins(errors: Array, origin: int, slots: NDArray[np.int64], quantile: float) -> tuple[Array, int]:
    """The conformal margin of each slot to come, and of how many errors the best bucket was made."""
    n = len(errors)
    every, total = _conformal(errors[np.newaxis, :], quantile)
    hours = np.unique(slots // 4)
    found = np.full(len(hours), every[0])
    # Slots (0 = the first of the past) in the hour, the one before and the one after, a week or a day apart.
    few = np.ones(len(hours), dtype=bool)
    for period in (WEEK_SLOTS, DAY_SLOTS):
        if n < period or not few.any():
            continue
        base = hours[:, np.newaxis] * 4 + np.arange(-4, 8)[np.newaxis, :] - origin
        back = np.arange(1, min(ERROR_SEASONS, n // period + 1) + 1) * period
        at = (base[:, :, np.newaxis] - back).reshape(len(hours), -1)
        inside = (at >= 0) & (at < n)
        taken = np.where(inside, errors[np.clip(at, 0, n - 1)], np.nan)
        margin, count = _conformal(taken, quantile)
        found = np.where(few & (count >= ENOUGH[period]), margin, found)
        few &= count < ENOUGH[period]
    index = np.searchsorted(hours, slots // 4)
    return found[index], int(total[0])


def _conformal(errors: Array, quantile: float) -> tuple[Array, NDArray[np.int64]]:
    """The ceil((n + 1) q)-th smallest of the n known errors of each row (the largest if there are fewer), and n."""
    order = np.sort(errors, axis=1)  # NaN goes last
    count = np.isfinite(errors).sum(axis=1)
    rank = np.minimum(np.ceil((count + 1) * quantile).astype(np.int64), count) - 1
    rows = np.arange(len(errors))
    return np.where(count > 0, order[rows, np.maximum(rank, 0)], 0.0), count


def _between(table: Array, ahead: NDArray[np.int64]) -> Array:
    """Values at each lead of ``ahead`` from those at LEADS: shape (leads, rows, 1 or slots) to (rows, slots)."""
    leads = np.asarray(LEADS, dtype=np.float64)
    at = np.clip(ahead.astype(np.float64), leads[0], leads[-1])
    right = np.clip(np.searchsorted(leads, at), 1, len(leads) - 1)
    share = (at - leads[right - 1]) / (leads[right] - leads[right - 1])
    wide = np.broadcast_to(table, (*table.shape[:2], len(ahead)))
    columns = np.arange(len(ahead))
    left = wide[right - 1, :, columns].T
    return np.asarray(left * (1 - share) + wide[right, :, columns].T * share, dtype=np.float64)
