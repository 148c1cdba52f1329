"""What a simulation came to: one value per seed, and their median."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

PERCENTILES = (50, 90, 95, 99)

Percentiles = Mapping[str, float]
"""``p50``, ``p90``, ``p95``, ``p99`` and ``mean``."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of one policy with one seed. ``None`` = the scenario does not say that.

    Attributes:
        utilization: accelerator-seconds needed over those paid: serving at the operating point of the strictest
            objective, and training steps that are kept. busy: the share of paid seconds in which anything ran.
        utilization_without_loans: the same with nothing lent to training.
        utilization_lost: points of utilisation by cause; with ``utilization`` they sum to 1.
        slo_attainment: share of requests within their objectives, by class, and ``overall``.
        prefix_hit_ratio: prompt tokens found in a cache, of all.
        load_max_over_mean: tokens of the busiest replica over the mean.
        usd_per_million_tokens: of all tokens, prompt and output; usd_by_class, usd_by_accelerator: $/1M likewise.
        joules_per_token: likewise; training_gpu_hours: kept; training_gpu_hours_lost: since the last checkpoint.
        flips: of nodes, either way.
        ttft_seconds, tpot_seconds: percentiles by class.
        utilization_se, slo_attainment_se: standard errors that come from sampling; 0 where everything was simulated.
        requests: simulated in detail; tokens: prompt and output of the whole time.
        ribbon: for pictures: ``begin`` (s), ``seconds`` per column, and per column the nodes in each state
            (``serving``, ``outbound``, ``training``, ``homebound``, ``down``) and ``needed``.
        figures: what else the scenario is about, by name with its unit.
        words: in sentences, what a reader should know of it.
    """

    utilization: float | None = None
    busy: float | None = None
    utilization_without_loans: float | None = None
    utilization_lost: Mapping[str, float] = field(default_factory=dict)
    slo_attainment: Mapping[str, float] = field(default_factory=dict)
    prefix_hit_ratio: float | None = None
    load_max_over_mean: float | None = None
    usd_per_million_tokens: float | None = None
    usd_total: float | None = None
    usd_by_class: Mapping[str, float] = field(default_factory=dict)
    usd_by_accelerator: Mapping[str, float] = field(default_factory=dict)
    joules_per_token: float | None = None
    training_gpu_hours: float | None = None
    training_gpu_hours_lost: float | None = None
    flips: float | None = None
    ttft_seconds: Mapping[str, Percentiles] = field(default_factory=dict)
    tpot_seconds: Mapping[str, Percentiles] = field(default_factory=dict)
    utilization_se: float | None = None
    slo_attainment_se: float | None = None
    requests: float | None = None
    tokens: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    ribbon: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Its values by name, those that are known."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: _plain(value) for name, value in found.items() if value is not None and value not in ({}, ())}


def median_of(outcomes: Sequence[Outcome]) -> Outcome:
    """The median of each number over seeds; ribbon and words of the first.

    Raises:
        ValueError: there is none.
    """
    if not outcomes:
        raise ValueError("median_of: no outcome; expected at least one")
    return Outcome(**{one.name: _median([getattr(each, one.name) for each in outcomes]) for one in fields(Outcome)})


def percentiles(values: Sequence[float]) -> Percentiles:
    """Of at least one value."""
    ranked = sorted(values)
    found = {f"p{one}": ranked[min(len(ranked) - 1, (len(ranked) * one) // 100)] for one in PERCENTILES}
    return {**found, "mean": sum(ranked) / len(ranked)}


def _median(values: Sequence[Any]) -> Any:
    known = [one for one in values if one is not None]
    if not known:
        return None
    first = known[0]
    if isinstance(first, bool | str | tuple) or (isinstance(first, Mapping) and "seconds" in first):
        return first
    if isinstance(first, Mapping):
        names = list(dict.fromkeys(name for one in known for name in one))
        return {name: _median([one[name] for one in known if name in one]) for name in names}
    return statistics.median(known)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value
