"""The pictures of a simulation's page, as SVG: nodes through the day, waterfall, percentiles, bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from tidefleet.cli.simulate_rows import OVERALL, Column, lost, plain, seconds, share
from tidefleet.simulator.result import Outcome
from tidefleet.simulator.run import Report

COLOURS = {
    "serving": ("#bfe3cb", "#24533a"),
    "outbound": ("#d9930d", "#f0b441"),
    "training": ("#2f6fb5", "#5aa9ee"),
    "homebound": ("#9a5bc4", "#c494ea"),
    "down": ("#c22a3a", "#ff8095"),
    "need": ("#16202a", "#e8edf2"),
    "good": ("#2e8b57", "#6cc48c"),
    "bad": ("#c22a3a", "#ff8095"),
    "bar": ("#2f6fb5", "#5aa9ee"),
}
PICTURE_STYLE = """
.scroll svg { min-width: 44rem; }
svg text { font-size: 12px; }
.grid { stroke: var(--line); stroke-width: 1; }
.need { fill: none; stroke: var(--need); stroke-width: 2; }
.serving { fill: var(--serving); } .outbound { fill: var(--outbound); } .training { fill: var(--training); }
.homebound { fill: var(--homebound); } .down { fill: var(--down); }
.good { fill: var(--good); } .bad { fill: var(--bad); } .bar { fill: var(--bar); }
.limit { stroke: var(--need); stroke-width: 2; stroke-dasharray: 4 3; }
.day:focus rect.edge { stroke: var(--focus); stroke-width: 2; }
.edge { fill: none; stroke: var(--line); }
@media print { .scroll svg { min-width: 0; } }
"""

STATES = ("serving", "outbound", "training", "homebound", "down")
_WORDS = {
    "serving": "serve",
    "outbound": "on their way to training",
    "training": "train",
    "homebound": "on their way back",
    "down": "down",
}
_LEFT, _WIDTH, _HEIGHT, _ROW = 170, 900, 190, 24
DAY = 86400.0
MOST_DAYS = 14


Scale = Callable[[float], float]


def _svg(height: float, words: str, parts: Sequence[str]) -> str:
    label = escape(words, quote=True)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<svg viewBox="0 0 {_LEFT + _WIDTH + 90} {height:.0f}" role="group" aria-label="{label}">'
        + "".join(parts)
        + "</svg></div>"
    )


# --- nodes through the day -------------------------------------------------------------------------------------------


def ribbon(outcome: Outcome) -> str:
    """For each day the nodes in each state, stacked over 24 hours, under the line of nodes needed; empty without."""
    found = outcome.ribbon
    step = float(found.get("seconds", 0.0) or 0.0)
    counts = {state: [float(one) for one in found.get(state, ())] for state in STATES}
    columns = max((len(one) for one in counts.values()), default=0)
    if step <= 0.0 or not columns:
        return ""
    begin = float(found.get("begin", 0.0))
    need = [float(one) for one in found.get("needed", ())]
    most = max([1.0, *need, *(sum(one[i] for one in counts.values() if i < len(one)) for i in range(columns))])
    per_day = max(1, round(DAY / step))
    before = round(begin % DAY / step)  # columns of the first day that are before the scenario's beginning
    key = "".join(f'<i style="background:var(--{one})"></i>{_WORDS[one]}' for one in STATES if any(counts[one]))
    days = [
        _day(counts, need, most, first, min(columns, first + per_day), step, begin)
        for first in range(-before, min(columns, per_day * MOST_DAYS), per_day)
    ]
    left_out = "" if columns <= per_day * MOST_DAYS else f" The first {MOST_DAYS} days."
    return (
        f'<p class="soft key">Nodes that{key}. Line: nodes needed.{left_out} Each day is one stop of the Tab key.</p>'
        + "".join(days)
    )


def _day(
    counts: dict[str, list[float]], need: Sequence[float], most: float, first: int, last: int, step: float, begin: float
) -> str:
    def x(index: float) -> float:
        return _LEFT + (index - first) * step / DAY * _WIDTH

    def y(nodes: float) -> float:
        return 8.0 + (1.0 - nodes / most) * (_HEIGHT - 40.0)

    start = max(0, first)
    number = int((begin + start * step) // DAY) + 1
    mean = {state: sum(each[start:last]) / max(1, last - start) for state, each in counts.items()}
    words = f"Day {number}: on average " + ", ".join(
        f"{plain(one)} {_WORDS[name]}" for name, one in mean.items() if one
    )
    if need[start:last]:
        words += f"; needed from {plain(min(need[start:last]))} to {plain(max(need[start:last]))} nodes"
    parts = [f'<g class="day" tabindex="0" role="img" aria-label="{escape(words, quote=True)}">']
    parts += [f"<title>{escape(words)}</title>"]
    base = [0.0] * (last - start)
    for state in STATES:
        each = counts[state][start:last]
        if not any(each):
            continue
        top = [low + more for low, more in zip(base, [*each, *[0.0] * (len(base) - len(each))], strict=True)]
        parts.append(_area(state, base, top, start, x, y))
        base = top
    line = "".join(
        f"{'M' if i == 0 else 'L'}{x(start + i):.1f},{y(one):.1f}H{x(start + i + 1):.1f}"
        for i, one in enumerate(need[start:last])
    )
    if line:
        parts.append(f'<path class="need" d="{line}"/>')
    parts.append(f'<rect class="edge" x="{_LEFT}" y="8" width="{_WIDTH}" height="{_HEIGHT - 40}"/></g>')
    for hour in range(0, 25, 3):
        at = _LEFT + hour / 24.0 * _WIDTH
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="8" y2="{_HEIGHT - 30}"/>')
        parts.append(f'<text class="soft" x="{at:.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{hour:02d}:00</text>')
    parts.append(f'<text x="{_LEFT - 8}" y="20" text-anchor="end">Day {number}</text>')
    parts.append(f'<text class="soft" x="{_LEFT - 8}" y="38" text-anchor="end">{plain(most)} nodes</text>')
    return _svg(_HEIGHT, words, parts)


def _area(state: str, base: Sequence[float], top: Sequence[float], first: int, x: Scale, y: Scale) -> str:
    """Steps between two heights, left to right above and back below."""
    above = "".join(f"L{x(first + i):.1f},{y(one):.1f}H{x(first + i + 1):.1f}" for i, one in enumerate(top))
    below = "".join(
        f"L{x(first + i + 1):.1f},{y(one):.1f}H{x(first + i):.1f}" for i, one in reversed(list(enumerate(base)))
    )
    return f'<path class="{state}" d="M{x(first):.1f},{y(base[0]):.1f}{above}{below}Z"/>'


# --- bars ------------------------------------------------------------------------------------------------------------


def bars(title: str, rows: Sequence[tuple[str, float, str]], most: float = 0.0) -> str:
    """A bar for each row: name, value, and the value in words. A full bar is ``most``, or the largest value."""
    most = most or max((one for _, one, _ in rows), default=0.0) or 1.0
    words = f"{title}: " + ", ".join(f"{name} {told}" for name, _, told in rows)
    parts = list(_bars([(name, one / most, told, "bar") for name, one, told in rows]))
    return _svg(len(rows) * _ROW + 8, words, parts)


def _bars(rows: Sequence[tuple[str, float, str, str]]) -> Iterator[str]:
    for index, (name, part, told, kind) in enumerate(rows):
        at = 4 + index * _ROW
        width = max(1.0, min(1.0, max(0.0, part)) * _WIDTH)
        shown = name if len(name) <= 24 else f"{name[:23]}…"
        yield f'<text x="{_LEFT - 8}" y="{at + 14}" text-anchor="end">{escape(shown)}</text>'
        yield f'<rect class="{kind}" x="{_LEFT}" y="{at}" width="{width:.1f}" height="{_ROW - 6}"/>'
        yield f'<text x="{_LEFT + width + 6:.1f}" y="{at + 14}">{escape(told)}</text>'


def waterfall(outcome: Outcome) -> str:
    """From all that is paid down to what is needed, a step for each cause; empty where it is not known."""
    if outcome.utilization is None or not outcome.utilization_lost:
        return ""
    rows = lost(outcome)
    parts: list[str] = []
    level = 1.0
    words = f"Of 100 % paid, {share(outcome.utilization)} is needed; lost: " + ", ".join(
        f"{name} {share(one)}" for name, one in rows
    )
    everything = [("paid", 0.0, 1.0, "bar"), *((name, 0.0, one, "bad") for name, one in rows)]
    for index, (name, _, size, kind) in enumerate(everything):
        begin = 0.0 if index == 0 else max(0.0, level - size)
        if index:
            level = begin
        parts += _step(index, name, begin, size, share(size), kind)
    parts += _step(len(everything), "needed", 0.0, outcome.utilization, share(outcome.utilization), "good")
    return _svg((len(everything) + 1) * _ROW + 8, words, parts)


def _step(index: int, name: str, begin: float, size: float, told: str, kind: str) -> Iterator[str]:
    at = 4 + index * _ROW
    left, width = _LEFT + begin * _WIDTH, max(1.0, size * _WIDTH)
    yield f'<text x="{_LEFT - 8}" y="{at + 14}" text-anchor="end">{escape(name[:24])}</text>'
    yield f'<rect class="{kind}" x="{left:.1f}" y="{at}" width="{width:.1f}" height="{_ROW - 6}"/>'
    yield f'<text x="{left + width + 6:.1f}" y="{at + 14}">{escape(told)}</text>'


def attained(report: Report, outcome: Outcome) -> str:
    """TTFT and TPOT at p50, p95 and p99 of each class as shares of its objective; 1 is the dashed line."""
    rows: list[tuple[str, float, str, str]] = []
    for one in report.scenario.classes:
        if one.objective is None:
            continue
        for label, found, limit in (
            ("TTFT", outcome.ttft_seconds.get(one.name), one.objective.ttft_seconds),
            ("TPOT", outcome.tpot_seconds.get(one.name), one.objective.tpot_seconds),
        ):
            for key in ("p50", "p95", "p99"):
                if found is not None and key in found:
                    part = found[key] / limit
                    told = f"{seconds(found[key])} of {seconds(limit)}"
                    rows.append((f"{one.name} {label} {key}", part / 2.0, told, "good" if part <= 1.0 else "bad"))
    if not rows:
        return ""
    middle = _LEFT + _WIDTH / 2.0
    height = len(rows) * _ROW + 24
    parts = [
        *_bars(rows),
        f'<line class="limit" x1="{middle}" x2="{middle}" y1="0" y2="{height - 20}"/>',
        f'<text class="soft" x="{middle}" y="{height - 6}" text-anchor="middle">objective</text>',
    ]
    words = "Percentiles against objectives: " + ", ".join(f"{name} {told}" for name, _, told, _ in rows)
    note = (
        '<p class="soft">The line is the objective at a short prompt; that of TTFT grows with the prompt, so a long '
        "prompt may pass it and be in time. The table says how many requests were.</p>"
    )
    return note + _svg(height, words, parts)


def balance(columns: Sequence[Column]) -> str:
    """Hit rate, and load of the busiest replica over the mean, of each policy; empty where neither is known."""
    hits = [(one.name, one.median.prefix_hit_ratio) for one in columns]
    loads = [(one.name, one.median.load_max_over_mean) for one in columns]
    found = ""
    known = [(name, value, share(value)) for name, value in hits if value is not None]
    if known:
        found += "<h3>Prompt tokens found in a cache</h3>" + bars("Hit rate", known, 1.0)
    known = [(name, value, plain(value)) for name, value in loads if value is not None]
    if known:
        found += "<h3>Load of the busiest replica over the mean (1 is even)</h3>" + bars("Balance", known)
    return found


__all__ = ["COLOURS", "OVERALL", "PICTURE_STYLE", "attained", "balance", "bars", "ribbon", "waterfall"]
