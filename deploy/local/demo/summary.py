"""The day in figures: sums over what was recorded, as a value that terminal, JSON and page show alike."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from demo import nightly, words
from demo.counters import quantile
from demo.nightly import NightDay
from demo.record import Moment, Record, Told, covered_share, dollars_at, tokens_at
from demo.static_fleet import METHOD, StaticFleet


@dataclass(frozen=True, slots=True)
class PoolDay:
    """One pool's day.

    Attributes:
        covered: Share of the day in which the ready replicas carried the demand.
        ttft_p95_seconds: From the engines' histograms, by straight lines within a bucket; None when too few were read.
        static: The fixed fleet it is compared with.
    """

    pool: str
    model: str
    target_usd_per_million: float | None
    tokens: float
    dollars: float
    usd_per_million: float | None
    replicas: tuple[int, int]
    accelerators: Mapping[str, float]
    decisions: int
    requests: float
    lost_requests: float
    covered: float
    streams_served: int
    streams_failed: int
    streams_retried: int
    ttft_p95_seconds: float | None
    was_ready: bool
    static: StaticFleet | None = None
    static_dollars: float | None = None

    @property
    def meets_target(self) -> bool:
        """Whether the day's tokens cost no more than the target; true where there is none."""
        cost, target = self.usd_per_million, self.target_usd_per_million
        return target is None or (cost is not None and cost <= target)


@dataclass(frozen=True, slots=True)
class DaySummary:
    """All pools' days and the whole."""

    hours: float
    real_seconds: float
    pools: tuple[PoolDay, ...]
    dollars: float = 0.0
    tokens: float = 0.0
    static_dollars: float | None = None
    warnings: Mapping[str, int] = field(default_factory=dict)
    method: str = METHOD
    timings: Mapping[str, float] = field(default_factory=dict)
    decisions: tuple[Told, ...] = ()
    pass_seconds: float = 15.0
    night: NightDay | None = None

    @property
    def saved_share(self) -> float | None:
        """Share of the fixed fleet's bill that was not paid."""
        return 1.0 - self.dollars / self.static_dollars if self.static_dollars and self.tokens > 0 else None

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON's types."""
        return {**asdict(self), "saved_share": self.saved_share}


def summarise(
    record: Record,
    *,
    start: float,
    end: float,
    real_seconds: float,
    static: Mapping[str, StaticFleet],
    ttft_before: Mapping[str, Mapping[float, float]],
    timings: Mapping[str, float],
    pass_seconds: float,
    night: NightDay | None = None,
) -> DaySummary:
    """The summary of the time between two simulated moments."""
    hours = (end - start) / 3600.0
    with record.lock:
        pools = tuple(
            _pool_day(record, name, start, end, static=static.get(name), ttft_before=ttft_before.get(name, {}))
            for name in sorted(record.pools)
        )
    fixed = [one.static_dollars for one in pools]
    return DaySummary(
        hours=hours,
        real_seconds=real_seconds,
        pools=pools,
        dollars=sum(one.dollars for one in pools),
        tokens=sum(one.tokens for one in pools),
        static_dollars=sum(one or 0.0 for one in fixed) if fixed and all(fixed) else None,
        warnings=dict(record.warnings),
        timings=timings,
        pass_seconds=pass_seconds,
        night=night,
        decisions=tuple(one for one in record.told if start <= one.at <= end),
    )


def _pool_day(
    record: Record,
    name: str,
    start: float,
    end: float,
    *,
    static: StaticFleet | None,
    ttft_before: Mapping[float, float],
) -> PoolDay:
    now, moments = record.pools[name], record.moments.get(name, [])
    day = [one for one in moments if start <= one.at <= end]
    dollars = dollars_at(moments, end) - dollars_at(moments, start) if moments else 0.0
    tokens = tokens_at(moments, end) - tokens_at(moments, start) if moments else 0.0
    replicas = [one.replicas for one in day]
    streams = record.streams.get(name)
    latencies = {bound: count - ttft_before.get(bound, 0.0) for bound, count in record.ttft.get(name, {}).items()}
    return PoolDay(
        pool=name,
        model=now.model,
        target_usd_per_million=now.target,
        tokens=tokens,
        dollars=dollars,
        usd_per_million=dollars / tokens * 1e6 if tokens > 0 else None,
        replicas=(min(replicas, default=0), max(replicas, default=0)),
        accelerators=_spent_by_type(day),
        decisions=sum(start <= one.at <= end for one in record.told if one.pool == name),
        requests=_grown(day, "finished"),
        lost_requests=_grown(day, "lost"),
        covered=covered_share(day),
        streams_served=streams.served if streams else 0,
        streams_failed=streams.failed if streams else 0,
        streams_retried=streams.retried if streams else 0,
        ttft_p95_seconds=quantile(latencies, 0.95),
        was_ready=name in record.ready_since,
        static=static,
        static_dollars=static.usd_per_hour * (end - start) / 3600.0 if static else None,
    )


def _spent_by_type(day: list[Moment]) -> dict[str, float]:
    """Dollars by accelerator type, dearest first."""
    if not day:
        return {}
    spent = {name: total - day[0].usd.get(name, 0.0) for name, total in day[-1].usd.items()}
    return dict(sorted(((name, paid) for name, paid in spent.items() if paid > 0), key=lambda pair: -pair[1]))


def _grown(day: list[Moment], what: str) -> float:
    return float(getattr(day[-1], what) - getattr(day[0], what)) if day else 0.0


def render(summary: DaySummary) -> RenderableType:
    """The summary for a terminal."""
    table = Table(title=None, box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("the day", *(one.pool for one in summary.pools), "all"):
        table.add_column(title, justify="left" if title == "the day" else "right", no_wrap=True)
    pools = summary.pools

    def row(title: str, *cells: str, total: str = "", style: str = "") -> None:
        table.add_row(title, *cells, total, style=style)

    row("tokens", *(words.many(one.tokens) for one in pools), total=words.many(summary.tokens))
    row("dollars", *(words.usd(one.dollars) for one in pools), total=words.usd(summary.dollars))
    row("$ / 1M tokens", *(words.usd(one.usd_per_million or 0.0) for one in pools), style="bold")
    row("  target", *(words.usd(one.target_usd_per_million or 0.0) for one in pools), style="dim")
    row("replicas, least - most", *(f"{one.replicas[0]} - {one.replicas[1]}" for one in pools))
    row("accelerators", *("\n".join(one.accelerators) or "-" for one in pools))
    total = sum(one.decisions for one in pools)
    row("decisions", *(str(one.decisions) for one in pools), total=str(total))
    row("requests served", *(words.many(one.requests) for one in pools))
    row("requests lost", *(words.many(one.lost_requests) for one in pools))
    row("time with enough capacity", *(words.percent(one.covered) for one in pools))
    latencies = (one.ttft_p95_seconds for one in pools)
    row("TTFT p95", *("-" if value is None else f"{value:.2f} s" for value in latencies))
    row("real streams, failed", *(f"{one.streams_served}, {one.streams_failed}" for one in pools))
    row("a fixed fleet would be", *(words.usd(one.static_dollars or 0.0) for one in pools),
        total=words.usd(summary.static_dollars or 0.0), style="dim")  # fmt: skip
    row("  of", *((one.static.fleet.replace(" (", "\n(") if one.static else "-") for one in pools), style="dim")
    parts: list[RenderableType] = [table]
    if summary.saved_share is not None:
        line = Text("\nThe operator spent ")
        line.append(words.percent(abs(summary.saved_share)), style="bold green" if summary.saved_share > 0 else "bold")
        line.append(f" {'less' if summary.saved_share > 0 else 'more'} than fixed fleets would: {summary.method}.")
        parts.append(line)
    if summary.night is not None:
        parts.append(nightly.render(summary.night))
    if summary.warnings:
        parts.append(Text("\nWarnings in the operators' logs:", style="yellow"))
        parts += [Text(f"  {count} x {told}", style="yellow") for told, count in list(summary.warnings.items())[:5]]
    return Group(*parts)
