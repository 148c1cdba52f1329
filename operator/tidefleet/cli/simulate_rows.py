"""What `tidefleet simulate` tells of a report, as rows of text: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tidefleet.simulator.result import Outcome, median_of
from tidefleet.simulator.run import OURS, Report

OVERALL = "overall"


def share(value: float) -> str:
    """A share as percent, with two decimals."""
    return f"{100.0 * value:.2f} %"


def plain(value: float) -> str:
    """A number with four figures, thousands grouped."""
    if value == 0.0 or not -1e15 < value < 1e15:
        return f"{value:g}"
    if abs(value) >= 1000.0:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.3g}"


def usd(value: float) -> str:
    """Dollars: cents from one dollar up, four figures below."""
    return f"${value:,.2f}" if abs(value) >= 1.0 else f"${value:.4g}"


def seconds(value: float) -> str:
    """Milliseconds below a second, with three figures."""
    return f"{1e3 * value:.3g} ms" if value < 0.9995 else f"{value:.2f} s"


Words = Callable[[float], str]

TOTALS: tuple[tuple[str, str, Words], ...] = (
    ("utilization", "utilisation (needed / paid)", share),
    ("utilization_se", "  its standard error", share),
    ("busy", "busy", share),
    ("utilization_without_loans", "utilisation without loans", share),
    ("slo_attainment", "requests within objectives", share),
    ("slo_attainment_se", "  its standard error", share),
    ("prefix_hit_ratio", "prompt tokens from a cache", share),
    ("load_max_over_mean", "load of the busiest replica / mean", plain),
    ("usd_per_million_tokens", "$ per 1M tokens", usd),
    ("usd_total", "$ in total", usd),
    ("joules_per_token", "joules per token", plain),
    ("training_gpu_hours", "training GPU-hours kept", plain),
    ("training_gpu_hours_lost", "training GPU-hours lost", plain),
    ("flips", "flips of nodes", plain),
    ("requests", "requests simulated", plain),
    ("tokens", "tokens", plain),
)
"""What is told of a run as a whole: field of ``Outcome``, words, and how its value reads."""


@dataclass(frozen=True, slots=True)
class Column:
    """One policy: the median over its seeds, and each seed's outcome."""

    name: str
    median: Outcome
    seeds: tuple[Outcome, ...]


def columns_of(report: Report) -> list[Column]:
    """Ours first, then the baselines."""
    runs = {OURS: report.ours, **report.baselines}
    return [Column(name, median_of(list(each.values())), tuple(each.values())) for name, each in runs.items()]


def value_of(outcome: Outcome, field: str) -> float | None:
    """A number of an outcome; of a mapping by class the overall one."""
    value: float | Mapping[str, float] | None = getattr(outcome, field)
    return value.get(OVERALL) if isinstance(value, Mapping) else value


def cell(column: Column, read: Callable[[Outcome], float | None], words: Words) -> str:
    """The median, and least and most over the seeds where they differ as they are told."""
    middle = read(column.median)
    if middle is None:
        return "-"
    known = [one for one in map(read, column.seeds) if one is not None]
    low, high = words(min(known, default=middle)), words(max(known, default=middle))
    return words(middle) if low == high else f"{words(middle)} ({low} to {high})"


def totals(columns: Sequence[Column]) -> list[tuple[str, ...]]:
    """A row for each figure that any policy has."""
    rows = []
    for field, label, words in TOTALS:
        cells = [cell(one, lambda outcome, field=field: value_of(outcome, field), words) for one in columns]  # type: ignore[misc]
        if any(one != "-" for one in cells):
            rows.append((label, *cells))
    return rows


def figures(columns: Sequence[Column]) -> list[tuple[str, ...]]:
    """What else the scenario is about, a row a figure."""
    names = dict.fromkeys(name for one in columns for name in one.median.figures)
    return [
        (name, *(cell(one, lambda outcome, name=name: outcome.figures.get(name), plain) for one in columns))  # type: ignore[misc]
        for name in names
    ]


CLASS_HEADS = ("class", "objective", "within", "TTFT p50", "p95", "p99", "TPOT p50", "p95", "p99", "$/1M")


def classes(report: Report, outcome: Outcome) -> list[tuple[str, ...]]:
    """A row for each class of ours: its objectives, and the percentiles that it got."""
    objectives = {
        one.name: f"{seconds(one.objective.ttft_seconds)} + {seconds(one.objective.ttft_seconds_per_thousand)}/1k, "
        f"{seconds(one.objective.tpot_seconds)}"
        for one in report.scenario.classes
        if one.objective is not None
    }
    maps = (outcome.slo_attainment, outcome.ttft_seconds, outcome.tpot_seconds, outcome.usd_by_class)
    names = [name for name in dict.fromkeys(name for one in maps for name in one) if name != OVERALL]
    rows = []
    for name in names:
        within, price = outcome.slo_attainment.get(name), outcome.usd_by_class.get(name)
        times = [
            seconds(found[key]) if (found := each.get(name)) is not None and key in found else "-"
            for each in (outcome.ttft_seconds, outcome.tpot_seconds)
            for key in ("p50", "p95", "p99")
        ]
        rows.append(
            (
                name,
                objectives.get(name, "-"),
                "-" if within is None else share(within),
                *times,
                "-" if price is None else usd(price),
            )
        )
    return rows


def lost(outcome: Outcome) -> list[tuple[str, float]]:
    """What utilisation lost, most first."""
    return sorted(outcome.utilization_lost.items(), key=lambda item: -item[1])
