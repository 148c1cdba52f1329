"""The page of `tidefleet demand -o html`: a week of each class, months, and what was observed; without scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from tidefleet.cli.demand_rows import (
    CHECK_HEADS,
    CLASS_HEADS,
    MONTH_HEADS,
    Row,
    Told,
    check_rows,
    class_rows,
    month_rows,
)
from tidefleet.cli.html import document, table
from tidefleet.economics.counts import Floats
from tidefleet.economics.personas import DAY_HOURS, WEEK_HOURS, ClassForecast
from tidefleet.planning.forecast_check import DAYS, Seen, hour_of_week, words_of_hour
from tidefleet.planning.words import brief

_COLOURS = {
    "band": ("#cfe0f3", "#24405f"),
    "mean": ("#2f6fb5", "#5aa9ee"),
    "top": ("#1b4f86", "#9cccf7"),
    "seen": ("#b3560a", "#f0a04b"),
}
_STYLE = """
th, td { text-align: left; vertical-align: top; }
.n { text-align: right; white-space: nowrap; }
.scroll svg { min-width: 44rem; }
svg text { font-size: 12px; }
.grid { stroke: var(--line); stroke-width: 1; }
.band { fill: var(--band); }
.mean { fill: none; stroke: var(--mean); stroke-width: 2; }
.top { fill: none; stroke: var(--top); stroke-width: 1.5; stroke-dasharray: 5 3; }
.seen { fill: var(--seen); }
@media print { .scroll svg { min-width: 0; } .n { white-space: normal; } }
"""
_LEFT, _WIDTH, _HEIGHT = 90, 980, 220


def page(told: Told, seen: Sequence[Seen] = ()) -> str:
    """A forecast as one HTML document; nothing is loaded from elsewhere.

    Args:
        seen: what was observed, drawn as points into the week.
    """
    title = f"Demand foreseen in {told.namespace}"
    return document(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">Month {told.chosen.number} after {told.start.isoformat()}, from '
            f"{escape(told.source)}. Hours are those of the week of {told.chosen.week_of.isoformat()}, in UTC.</p>",
            "<h2>A week</h2>",
            '<p class="soft key">Requests per second in each hour:'
            '<i style="background:var(--band)"></i>between p50 and p95'
            '<i style="background:var(--mean)"></i>mean<i style="background:var(--top)"></i>p95 (dashed)'
            + ('<i style="background:var(--seen)"></i>observed' if seen else "")
            + "</p>",
            *(_week(one, [each for each in seen if each.wclass == one.name]) for one in told.chosen.classes.values()),
            '<h2 id="classes">Classes</h2>',
            _table(
                "Requests per second, calls by other classes included; tokens of a request.",
                CLASS_HEADS,
                class_rows(told),
            ),
            *(
                ("<h2>Months</h2>", _table("Users grow and adopt month by month.", MONTH_HEADS, month_rows(told)))
                if len(told.months) > 1
                else ()
            ),
            *(
                ("<h2>Forecast and observation</h2>", _table("Over the same hours.", CHECK_HEADS, check_rows(told)))
                if told.checked
                else ()
            ),
            *(f'<p class="soft">{escape(note)}</p>' for note in told.notes),
        ],
        colours=_COLOURS,
        style=_STYLE,
        skip=("classes", "To the table of classes"),
    )


def _table(caption: str, heads: Sequence[str], rows: Iterator[Row]) -> str:
    return table(caption, [one.lstrip("#").capitalize() for one in heads], list(rows))


def _x(hour: float) -> float:
    return _LEFT + hour / WEEK_HOURS * _WIDTH


def _week(one: ClassForecast, seen: Sequence[Seen]) -> str:
    busy = one.busy
    most = max([float(one.p95.max()), *(each.requests_per_second for each in seen)]) or 1.0

    def y(rate: float) -> float:
        return 10.0 + (1.0 - rate / most) * (_HEIGHT - 44.0)

    words = (
        f"{one.name}: {brief(one.average.mean, 3)} requests/s on average; busiest {words_of_hour(one.busy_hour)} with "
        f"{brief(busy.mean, 3)} (p50 {brief(busy.p50, 3)}, p95 {brief(busy.p95, 3)})"
    )
    label = escape(words, quote=True)
    parts = [f"<title>{escape(words)}</title>", *_grid(most)]
    parts.append(f'<path class="band" d="{_steps(one.p95, y)}{_back(one.p50, y)}Z"/>')
    parts.append(f'<path class="mean" d="{_steps(one.mean, y)}"/>')
    parts.append(f'<path class="top" d="{_steps(one.p95, y)}"/>')
    parts += [
        f'<circle class="seen" cx="{_x(hour + 0.5):.1f}" cy="{y(rate):.1f}" r="2.5"/>'
        for hour, rate in ((hour_of_week(each.at), each.requests_per_second) for each in seen)
    ]
    box = f"0 0 {_LEFT + _WIDTH + 20} {_HEIGHT}"
    return (
        f"<h3>{escape(one.name)}</h3><p>{escape(words)}.</p>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<svg viewBox="{box}" role="img" aria-label="{label}">{"".join(parts)}</svg></div>'
    )


def _grid(most: float) -> Iterator[str]:
    bottom = _HEIGHT - 34.0
    for day in range(8):
        at = _x(day * DAY_HOURS)
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="10" y2="{bottom:.1f}"/>'
        if day < 7:
            middle = _x((day + 0.5) * DAY_HOURS)
            yield f'<text class="soft" x="{middle:.1f}" y="{_HEIGHT - 16}" text-anchor="middle">{DAYS[day]}</text>'
    for part in (0.0, 0.5, 1.0):
        at = 10.0 + (1.0 - part) * (_HEIGHT - 44.0)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text class="soft" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{brief(part * most, 3)}/s</text>'


def _steps(rates: Floats, y: Callable[[float], float]) -> str:
    """From left to right, level within each hour."""
    return f"M{_x(0):.1f},{y(float(rates[0])):.1f}" + "".join(
        f"V{y(float(rate)):.1f}H{_x(hour + 1):.1f}" for hour, rate in enumerate(rates)
    )


def _back(rates: Floats, y: Callable[[float], float]) -> str:
    """From right to left, level within each hour."""
    return "".join(f"V{y(float(rates[hour])):.1f}H{_x(hour):.1f}" for hour in reversed(range(len(rates))))
