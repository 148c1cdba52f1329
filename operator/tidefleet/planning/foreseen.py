"""A forecast of usage as WorkloadClasses: what each declares of its own, beside what others call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from graphlib import TopologicalSorter
from typing import Any

from tidefleet.api import GROUP
from tidefleet.economics.lognormal import LengthLaw
from tidefleet.economics.personas import ClassForecast, DemandClass

MOST_REQUESTS_PER_SECOND = 999_999_999.0
"""What the API holds."""

MOST_TOKENS = 100_000_000
"""Of a request, in the API."""


class RateChoice(StrEnum):
    """Which figure of a forecast is declared."""

    BUSY_P95 = "busy-p95"
    BUSY_P50 = "busy-p50"
    BUSY_MEAN = "busy-mean"
    AVERAGE = "average"

    def of(self, one: ClassForecast) -> float:
        """Requests per second of a class, calls by other classes included."""
        match self:
            case RateChoice.BUSY_P95:
                return one.busy.p95
            case RateChoice.BUSY_P50:
                return one.busy.p50
            case RateChoice.BUSY_MEAN:
                return one.busy.mean
            case RateChoice.AVERAGE:
                return one.average.mean


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A class with its forecast, and where it goes.

    Attributes:
        pool: the InferencePool that serves it.
        spec: further fields of the WorkloadClass, e.g. objectives; none that the forecast says itself.
    """

    wclass: DemandClass
    forecast: ClassForecast
    pool: str
    spec: Mapping[str, Any] = field(default_factory=dict)


FORECAST_FIELDS = ("poolRef", "demand", "tokens", "callsPerTask", "calls")
"""Fields of a WorkloadClass's spec that a forecast writes."""


def own_rates(classes: Sequence[Foreseen], choice: RateChoice) -> dict[str, float]:
    """Requests per second that each class declares so that, with the calls of the others, it has what is forecast.

    Where calls alone come to more (their busiest hours need not be the same, and p95 do not add up), it is 0; so it is
    for a class that is only called, if calls come to all but a few percent: those are the chance in parts of calls.
    """
    known = {one.wclass.name: one for one in classes}
    called = TopologicalSorter({name: [to for to, _ in one.wclass.calls] for name, one in known.items()}).static_order()
    arriving, own = dict.fromkeys(known, 0.0), {}
    for name in reversed(list(called)):  # callers before those they call
        one = known[name]
        each = one.wclass.requests_per_task.mean
        implied = arriving[name] * each
        rest = choice.of(one.forecast) - implied
        own[name] = rest if rest > (1e-6 if one.forecast.direct_share > 0.0 else 0.05) * implied else 0.0
        for to, times in one.wclass.calls:
            arriving[to] += (own[name] + implied) / each * times
    return own


def manifests(classes: Sequence[Foreseen], namespace: str, choice: RateChoice) -> list[dict[str, Any]]:
    """WorkloadClasses that declare a forecast, in the order of the classes.

    Raises:
        ValueError: a class is asked for more than the API holds; the message names it.
    """
    rates = own_rates(classes, choice)
    found = []
    for one in classes:
        name, lengths = one.wclass.name, one.forecast.lengths
        rate = rates[name]
        if not rate <= MOST_REQUESTS_PER_SECOND:
            raise ValueError(
                f"class {name}: {rate:.3g} requests/s are forecast; expected at most {MOST_REQUESTS_PER_SECOND:g}, "
                "e.g. fewer users or uses a day"
            )
        tokens: dict[str, Any] = {
            "input": {"mean": max(1, round(lengths.input.mean)), **_p95(lengths.input)},
            "output": {"mean": round(lengths.output.mean), **_p95(lengths.output)},
        }
        if lengths.cached_share > 0.0:
            tokens["cachedShare"] = decimal(min(1.0, lengths.cached_share))
        if lengths.reasoning.mean > 0.0:
            cap = {} if lengths.reasoning.cap == math.inf else {"cap": round(lengths.reasoning.cap)}
            tokens["reasoning"] = {"mean": round(lengths.reasoning.mean), **_p95(lengths.reasoning), **cap}
        spec: dict[str, Any] = {
            "poolRef": {"name": one.pool},
            "demand": {"requestsPerSecond": decimal(rate, up=True)},
            "tokens": tokens,
        }
        if one.wclass.requests_per_task.mean != 1.0:
            spec["callsPerTask"] = decimal(one.wclass.requests_per_task.mean)
        if one.wclass.calls:
            spec["calls"] = [{"class": to, "perTask": decimal(times)} for to, times in one.wclass.calls]
        found.append(
            {
                "apiVersion": f"{GROUP}/v1alpha1",
                "kind": "WorkloadClass",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {**spec, **one.spec},
            }
        )
    return found


def _p95(one: LengthLaw) -> dict[str, int]:
    return {"p95": min(MOST_TOKENS, round(one.quantile(0.95)))} if one.sigma > 0.0 else {}


def decimal(value: float, *, up: bool = False) -> str:
    """A number as the API writes it, with four significant digits, or nine decimals where that is fewer."""
    if value <= 0.0:
        return "0"
    places = min(9, max(0, 3 - math.floor(math.log10(value))))
    scaled = value * 10.0**places
    whole = math.ceil(scaled * (1.0 - 1e-12)) if up else round(scaled)
    text = f"{whole / 10.0**places:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
