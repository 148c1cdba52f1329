"""What `tidefleet demand` tells of a forecast, as JSON and as rows of text."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidefleet.api import WorkloadClass
from tidefleet.economics.lognormal import LengthLaw
from tidefleet.economics.personas import ClassForecast, Range
from tidefleet.economics.revenue import month_revenue_usd
from tidefleet.planning.earning import revenue_of
from tidefleet.planning.forecast_check import Checked, words_of_hour
from tidefleet.planning.words import brief

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Month:
    """The forecast of one month after the start, 0 = the first; by class."""

    number: int
    week_of: datetime.date
    classes: Mapping[str, ClassForecast]


@dataclass(frozen=True, slots=True)
class Told:
    """Everything that is told of one file.

    Attributes:
        chosen: the month that is told in full; ``months`` are all that were asked for.
        objects: the WorkloadClasses of the chosen month; ``pools`` by class.
        checked: the classes against what was observed, ``unknown`` classes that were observed and are not forecast.
    """

    source: str
    namespace: str
    start: datetime.date
    chosen: Month
    months: Sequence[Month]
    objects: Sequence[WorkloadClass]
    manifests: Sequence[Mapping[str, Any]]
    pools: Mapping[str, str]
    notes: Sequence[str] = ()
    checked: Sequence[Checked] = ()
    unknown: Sequence[str] = field(default_factory=tuple)

    def revenue_usd_per_month(self, name: str) -> float | None:
        """What a class earns in the chosen month; ``None`` where it does not say how it is paid."""
        found = next(one for one in self.objects if one.name == name)
        revenue = revenue_of(found)
        return None if revenue is None else month_revenue_usd(revenue, self.chosen.classes[name].tokens_per_month)


# --- JSON ------------------------------------------------------------------------------------------------------------


def as_json(told: Told) -> dict[str, Any]:
    """The whole answer; units are in the names."""
    answer: dict[str, Any] = {
        "namespace": told.namespace,
        "start": told.start.isoformat(),
        "month": told.chosen.number,
        "weekOf": told.chosen.week_of.isoformat(),
        "classes": [_class_json(told, one) for one in told.chosen.classes.values()],
        "months": [_month_json(one) for one in told.months],
        "manifests": list(told.manifests),
        "notes": list(told.notes),
    }
    if told.checked:
        answer["observed"] = [_checked_json(one) for one in told.checked]
        answer["observedWithoutForecast"] = list(told.unknown)
    return answer


def _range_json(one: Range) -> dict[str, float]:
    return {"mean": one.mean, "p50": one.p50, "p95": one.p95}


def _law_json(one: LengthLaw) -> dict[str, float]:
    return {"mean": one.mean, **({"p95": one.quantile(0.95)} if one.sigma > 0.0 else {})}


def _class_json(told: Told, one: ClassForecast) -> dict[str, Any]:
    tokens, lengths = one.tokens_per_month, one.lengths
    return {
        "name": one.name,
        "pool": told.pools[one.name],
        "users": one.users,
        "directShare": one.direct_share,
        "averageRequestsPerSecond": _range_json(one.average),
        "busyHour": words_of_hour(one.busy_hour),
        "busyHourOfWeek": one.busy_hour,
        "busyRequestsPerSecond": _range_json(one.busy),
        "tokensPerRequest": {
            "input": _law_json(lengths.input),
            "output": _law_json(lengths.output),
            **({"reasoning": _law_json(lengths.reasoning)} if lengths.reasoning.mean else {}),
            "cachedShare": lengths.cached_share,
        },
        "requestsPerMonth": tokens.requests,
        "tokensPerMonth": {
            "uncachedInput": tokens.uncached_input,
            "cachedInput": tokens.cached_input,
            "output": tokens.output,
        },
        "revenueUsdPerMonth": told.revenue_usd_per_month(one.name),
        "weekRequestsPerSecond": {"mean": one.mean.tolist(), "p50": one.p50.tolist(), "p95": one.p95.tolist()},
    }


def _month_json(month: Month) -> dict[str, Any]:
    return {
        "month": month.number,
        "weekOf": month.week_of.isoformat(),
        "classes": {
            name: {
                "users": one.users,
                "averageRequestsPerSecond": _range_json(one.average),
                "busyRequestsPerSecond": _range_json(one.busy),
                "tokensPerMonth": one.tokens_per_month.total,
            }
            for name, one in month.classes.items()
        },
    }


def _checked_json(one: Checked) -> dict[str, Any]:
    return {
        "name": one.name,
        "hours": one.hours,
        "forecastRequestsPerSecond": one.forecast,
        "observedRequestsPerSecond": one.observed,
        "ratio": one.ratio,
        "shareOfHoursAboveP95": one.above_p95,
        "withinForecast": one.explained,
        "shiftHours": one.shift_hours,
        "suggestion": one.suggestion,
    }


# --- rows ------------------------------------------------------------------------------------------------------------

CLASS_HEADS = (
    "CLASS", "#USERS", "#AVERAGE/S", "BUSY (UTC)", "#MEAN/S", "#P50/S", "#P95/S", "#INPUT", "#OUTPUT", "#TOKENS/MONTH",
)  # fmt: skip
MONTH_HEADS = ("MONTH", "WEEK OF", "CLASS", "#USERS", "#AVERAGE/S", "#BUSY P50/S", "#BUSY P95/S", "#TOKENS/MONTH")
CHECK_HEADS = ("CLASS", "#HOURS", "#FORECAST/S", "#OBSERVED/S", "#RATIO", "#ABOVE P95", "WHAT TO DO")


def short(value: float) -> str:
    """A number with three figures and a thousand, million, billion or trillion in one letter, e.g. ``73.9M``."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{brief(value / (1e3 if letter == 'k' else size), 3)}{letter}"
    return brief(value, 3)


def class_rows(told: Told) -> Iterator[Row]:
    """A row for each class, under ``CLASS_HEADS``."""
    for one in told.chosen.classes.values():
        busy = one.busy
        yield (
            one.name,
            short(one.users) if one.direct_share > 0.0 else "called",
            brief(one.average.mean, 3),
            words_of_hour(one.busy_hour).removesuffix(" UTC"),
            brief(busy.mean, 3),
            brief(busy.p50, 3),
            brief(busy.p95, 3),
            short(one.lengths.input.mean),
            short(one.lengths.output.mean),
            short(one.tokens_per_month.total),
        )


def month_rows(told: Told) -> Iterator[Row]:
    """A row for each month and class, under ``MONTH_HEADS``."""
    for month in told.months:
        for name, one in month.classes.items():
            yield (
                str(month.number),
                month.week_of.isoformat(),
                name,
                short(one.users),
                brief(one.average.mean, 3),
                brief(one.busy.p50, 3),
                brief(one.busy.p95, 3),
                short(one.tokens_per_month.total),
            )


def check_rows(told: Told) -> Iterator[Row]:
    """A row for each class that was looked for, under ``CHECK_HEADS``."""
    for one in told.checked:
        yield (
            one.name,
            brief(one.hours, 3),
            brief(one.forecast, 3) if one.observed is not None else "-",
            "-" if one.observed is None else brief(one.observed, 3),
            "-" if one.ratio is None else f"{one.ratio:.2f}",
            "-" if one.above_p95 is None else f"{100.0 * one.above_p95:.0f} %",
            one.suggestion,
        )
