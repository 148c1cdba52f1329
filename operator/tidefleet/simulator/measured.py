"""The shape of demand as a Prometheus measured it: a range query of a rate, made into shapes of a scenario.

The query is evaluated every 600 s, at the end of each bin, so a rate over 10 minutes is the mean of its bin, e.g.
``sum by (class) (rate(vllm:request_success_total[10m]))``. One series is the shape of every class that people wait
for; several series differ in one label, whose values are names of classes. Only relative rates count: the scenario
says how much of the fleet the busiest hour needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidefleet.simulator.scenario import BIN_SECONDS, Scenario
from tidefleet.telemetry.asking import Access, Asking, PrometheusError, RefusedError

DAY_SECONDS, WEEK_SECONDS = 86_400.0, 604_800.0
LONGEST_SECONDS = 28 * DAY_SECONDS
MONDAY = 345_600.0
"""Unix seconds of the first Monday, 00:00 UTC."""
MOST_GAPS = 0.1
"""Share of the bins that may have no sample; they lie on the line between their neighbours."""


class MeasuredError(ValueError):
    """A Prometheus or its answer that is not usable; the message says what came and what was expected."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked: ``text`` in PromQL over ``seconds`` (whole bins) until ``until`` (Unix seconds)."""

    access: Access
    text: str
    seconds: float
    until: float


def ask(query: Query) -> Mapping[str, NDArray[np.float64]]:
    """Rates of each series by the value of the label that tells them apart (empty for one series), shape (bins,).

    The first bin is Monday's first where whole weeks are asked for, midnight's (UTC) where whole days are, and the
    first of the range otherwise; so the same hours and weekdays fall together, whenever it was asked.

    Raises:
        MeasuredError: it cannot be reached, refuses the query, or its answer is not usable.
    """
    bins = round(query.seconds / BIN_SECONDS)
    if not (1 <= bins <= LONGEST_SECONDS / BIN_SECONDS):
        raise MeasuredError(f"--range is {query.seconds:g} s; expected 600 s to 28 days, e.g. 7d")
    end = math.floor(query.until / BIN_SECONDS) * BIN_SECONDS
    begin = end - bins * BIN_SECONDS
    found = _by_label(_matrix(query, begin + BIN_SECONDS, end), query)
    rates = {name: _filled(name, samples, begin, bins) for name, samples in found.items()}
    if not any(values.sum() > 0.0 for values in rates.values()):
        raise MeasuredError(f"--query {query.text}: every rate is 0; expected demand, e.g. over another --range")
    period = next((one for one in (WEEK_SECONDS, DAY_SECONDS) if query.seconds % one == 0.0), None)
    if period is None:
        return rates
    first = MONDAY if period == WEEK_SECONDS else 0.0
    shift = round(((begin - first) % period) / BIN_SECONDS)
    return {name: np.roll(values, shift) for name, values in rates.items()}


def with_shapes(scenario: Scenario, rates: Mapping[str, NDArray[np.float64]]) -> Scenario:
    """The scenario with shapes that were measured.

    Raises:
        MeasuredError: a series is of no class, or its demand is 0 throughout.
    """
    online = [one for one in scenario.classes if one.deadline_seconds is None]
    if scenario.kind != "fleet" or not online:
        raise MeasuredError(
            f"--prometheus: scenario {scenario.name} is of kind {scenario.kind}; expected a fleet with classes"
        )
    if set(rates) == {""}:
        by_class = dict.fromkeys((one.name for one in online), rates[""])
    else:
        by_class = dict(rates)
        names = [one.name for one in scenario.classes]
        strange = sorted(set(rates) - set(names))
        if strange:
            raise MeasuredError(
                f"--query: a series is of {strange[0][:60]!r}; expected names of the scenario's classes, one series "
                f"each: {', '.join(names)}"
            )
    shapes = {name: _shape(name, values) for name, values in by_class.items()}
    return scenario.model_copy(update={"shapes": {**scenario.shapes, **shapes}})


def _shape(name: str, values: NDArray[np.float64]) -> tuple[float, ...]:
    mean = float(values.mean())
    if not mean > 0.0:
        raise MeasuredError(f"--query: the rate of {name!r} is 0 throughout; expected demand, or no such series")
    return tuple(round(float(one), 6) for one in values / mean)


def _matrix(query: Query, begin: float, end: float) -> list[dict[str, Any]]:
    asked = {"query": query.text, "start": f"{begin:.0f}", "end": f"{end:.0f}", "step": f"{BIN_SECONDS:.0f}"}
    try:
        with Asking(query.access) as asking:
            return asking.series("query_range", asked)
    except RefusedError as error:
        raise MeasuredError(f"--query {query.text}: {error}; expected a rate in PromQL") from None
    except PrometheusError as error:
        raise MeasuredError(str(error)) from None


def _by_label(series: Sequence[Mapping[str, Any]], query: Query) -> dict[str, Sequence[Any]]:
    if not series:
        raise MeasuredError(
            f"--query {query.text}: no series; expected at least one, e.g. "
            "sum(rate(vllm:request_success_total[10m])), over a --range that was scraped"
        )
    if len(series) == 1 and not series[0].get("metric"):
        return {"": series[0].get("values", ())}
    labels = [dict(one.get("metric", {})) for one in series]
    common = [name for name in labels[0] if all(set(one) == {name} for one in labels)]
    if not common:
        names = sorted({name for one in labels for name in one})
        raise MeasuredError(
            f"--query {query.text}: {len(series)} series with labels {', '.join(names)[:200]}; expected one series, or "
            "series with one label that says the class, e.g. sum by (class) (...)"
        )
    return {str(label[common[0]]): one.get("values", ()) for label, one in zip(labels, series, strict=True)}


def _filled(name: str, samples: Sequence[Any], begin: float, bins: int) -> NDArray[np.float64]:
    """Rates by bin; what was not sampled lies between its neighbours."""
    rates = np.full(bins, np.nan)
    for sample in samples:
        try:
            at, value = float(sample[0]), float(sample[1])
        except (TypeError, ValueError, IndexError, KeyError):
            raise MeasuredError(f"--query: a sample of {name or 'the series'} is {str(sample)[:60]}") from None
        place = round((at - begin) / BIN_SECONDS) - 1
        if 0 <= place < bins and math.isfinite(value):
            rates[place] = value
    if (rates < 0.0).any():
        raise MeasuredError(f"--query: a rate of {name or 'the series'} is {np.nanmin(rates):g}; expected 0 or more")
    known = np.flatnonzero(~np.isnan(rates))
    if len(known) < (1.0 - MOST_GAPS) * bins:
        raise MeasuredError(
            f"--query: {name or 'the series'} has {len(known)} samples in {bins} bins of 600 s; expected at least "
            f"{1.0 - MOST_GAPS:.0%} of them, e.g. over a shorter --range"
        )
    return np.asarray(np.interp(np.arange(bins), known, rates[known]), dtype=np.float64)
