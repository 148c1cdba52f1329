"""The page of `tidefleet flips -o html`: one self-contained file with ribbons under the load curve, without scripts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from html import escape

from tidefleet.api.flipping_status import FlipPhase
from tidefleet.cli.flips_day import STATES, Day, Ribbon, Span, state_of, unix
from tidefleet.cli.flips_table import summary, waiting_rows
from tidefleet.cli.html import document, table

_COLOURS = {
    "serving": ("#bfe3cb", "#24533a"),
    "training": ("#2f6fb5", "#5aa9ee"),
    "outbound": ("#d9930d", "#f0b441"),
    "homebound": ("#9a5bc4", "#c494ea"),
    "quarantined": ("#c22a3a", "#ff8095"),
    "need": ("#16202a", "#e8edf2"),
    "have": ("#57a773", "#6cc48c"),
}
_STYLE = """
.paused { border-left: .3rem solid var(--quarantined); padding: .4rem .9rem; background: var(--panel); }
.scroll svg { min-width: 44rem; }
th, td { text-align: left; vertical-align: top; }
.n { text-align: right; }
svg text { font-size: 12px; }
.grid { stroke: var(--line); stroke-width: 1; }
.now { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 2 3; }
.need { fill: none; stroke: var(--need); stroke-width: 2; }
.have { fill: var(--have); opacity: .28; }
.serving { fill: var(--serving); } .training { fill: var(--training); } .outbound { fill: var(--outbound); }
.homebound { fill: var(--homebound); } .quarantined { fill: var(--quarantined); }
.planned { opacity: .45; }
.unit:focus rect { stroke: var(--ink); stroke-width: 1.5; }
@media print { .scroll svg { min-width: 0; } }
"""

_WORDS = {
    "serving": "serves",
    "outbound": "on its way to training",
    "training": "trains",
    "homebound": "on its way back",
    "quarantined": "quarantined",
}
_LEFT, _WIDTH, _CURVE, _ROW = 190, 960, 110, 18


def page(days: Sequence[Day]) -> str:
    """The days of pools as one HTML document; nothing is loaded from elsewhere."""
    title = "Nodes between serving and training" if len(days) > 1 else f"{days[0].pool}: serving and training"
    told = days[0]
    as_of = f"{told.local(told.now).strftime('%a %d %b %Y, %H:%M')} ({told.zone_name})"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">The last and next 24 hours, as of {escape(as_of)}.</p>',
        *(part for index, day in enumerate(days) for part in _section(day, index)),
    ]
    return document(title, parts, colours=_COLOURS, style=_STYLE, skip=("units-0", "To the tables"))


def _section(day: Day, index: int) -> Iterator[str]:
    yield f'<section aria-labelledby="pool-{index}">'
    yield f'<h2 id="pool-{index}">{escape(day.pool)}</h2>'
    lines = summary(day)
    head, *rest = (line.strip() for line in lines)
    yield f"<p>{escape(head.removeprefix(f'{day.pool}: '))}</p>"
    for line in rest:
        mark = ' class="paused"' if line.startswith("paused:") else ' class="soft"'
        yield f"<p{mark}>{escape(line)}</p>"
    yield _key()
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="Timeline of {escape(day.pool, quote=True)}">'
    yield _picture(day)
    yield "</div>"
    yield f'<h3 id="units-{index}">Units</h3>'
    yield _units(day)
    if day.status.blocked:
        rows = [(one.unit or "-", one.why, one.would_have_to_change or "-") for one in day.status.blocked]
        yield "<h3>Loans that are not made</h3>"
        yield table(
            "A loan would be worth it; this speaks against it.",
            ("Unit", "Why", "Would have to change"),
            rows,
            numbers=(),
        )
    if day.status.waiting:
        yield "<h3>Training that waits</h3>"
        yield table(
            "Jobs in the queue.", ("Job", "Chips", "Expected start", "Waits for"), waiting_rows(day), numbers=()
        )
    if any(one is not None for one in day.needed):
        yield "<h3>Nodes by the hour</h3>"
        yield _hours(day)
    yield "</section>"


def _key() -> str:
    marks = "".join(f'<i style="background:var(--{state})"></i>{_WORDS[state]}' for state in STATES)
    return (
        f'<p class="soft key">{marks}. Pale after the dotted line: planned; which nodes will train is not fixed. '
        "Line: nodes needed; green area: nodes that serve.</p>"
    )


def _x(day: Day, moment: float) -> float:
    return _LEFT + (moment - day.begin) / (day.end - day.begin) * _WIDTH


def _picture(day: Day) -> str:
    height = _CURVE + 34 + len(day.rows) * _ROW + 8
    needs = [one for one in day.needed if one is not None]
    words = f"Nodes needed and the phases of {len(day.rows)} rows of nodes over two days"
    if needs:
        words += f"; needed: from {min(needs)} to {max(needs)} nodes"
    parts = [
        f'<svg viewBox="0 0 {_LEFT + _WIDTH + 10} {height}" role="group" aria-label="{words}; '
        f'the tables below say the same">',
        *_grid(day, height),
        *_curve(day),
        *(_row(day, one, _CURVE + 30 + index * _ROW) for index, one in enumerate(day.rows)),
        f'<line class="now" x1="{_x(day, day.now):.1f}" x2="{_x(day, day.now):.1f}" y1="4" y2="{height - 4}"/>',
        "</svg>",
    ]
    return "\n".join(parts)


def _grid(day: Day, height: int) -> Iterator[str]:
    """Every third hour of the wall clock; on a day with a change of clocks the distance differs."""
    slots = round((day.end - day.begin) / 900.0)
    last = ""
    for index in range(slots + 1):
        moment = day.begin + index * 900.0
        at = day.local(moment)
        if at.hour % 3 == 0 and at.minute < 15 and f"{at:%d%H}" != last:
            last = f"{at:%d%H}"
            x = _x(day, moment - at.minute * 60 - at.second)
            if x < _LEFT:
                continue
            label = at.strftime("%a %H:00") if at.hour == 0 else at.strftime("%H:00")
            yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{height - 6}"/>'
            yield f'<text class="soft" x="{x:.1f}" y="{_CURVE + 22}" text-anchor="middle">{label}</text>'


def _curve(day: Day) -> Iterator[str]:
    """Steps of the nodes needed over the area of those that serve."""
    most = max([1, day.nodes, *(one for one in day.needed if one is not None)])

    def y(nodes: float) -> float:
        return 8 + (1 - nodes / most) * (_CURVE - 12)

    if day.rows:
        edges = sorted({day.begin, day.end, *(span.begin for one in day.rows for span in one.spans)})
        points = [f"{_LEFT},{y(0):.1f}"]
        for begin, end in itertools.pairwise(edges):
            serving = day.shares(begin)["serving"]
            points += [f"{_x(day, begin):.1f},{y(serving):.1f}", f"{_x(day, end):.1f},{y(serving):.1f}"]
        points.append(f"{_LEFT + _WIDTH},{y(0):.1f}")
        yield f'<polygon class="have" points="{" ".join(points)}"/>'
    path: list[str] = []
    pen = "M"
    for index, nodes in enumerate(day.needed):
        if nodes is None:
            pen = "M"
            continue
        left = day.begin + index * day.slot_seconds
        path.append(f"{pen}{_x(day, left):.1f},{y(nodes):.1f}H{_x(day, left + day.slot_seconds):.1f}")
        pen = "L"
    if path:
        yield f'<path class="need" d="{"".join(path)}"/>'
    for nodes in (0, most):
        yield f'<text class="soft" x="{_LEFT - 8}" y="{y(nodes) + 4:.1f}" text-anchor="end">{nodes} nodes</text>'


def _row(day: Day, ribbon: Ribbon, y: float) -> str:
    name = ribbon.unit.name if ribbon.size == 1 else f"{ribbon.unit.name} (x{ribbon.size})"
    shown = name if len(name) <= 26 else f"{name[:12]}…{name[-13:]}"
    rects = "".join(_rect(day, one, y) for one in ribbon.spans)
    label = escape(f"{name}: {_sentence(day, ribbon)}", quote=True)
    return (
        f'<g class="unit" tabindex="0" role="img" aria-label="{label}">'
        f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(shown)}</text>{rects}</g>'
    )


def _rect(day: Day, span: Span, y: float) -> str:
    left, right = _x(day, max(span.begin, day.begin)), _x(day, min(span.end, day.end))
    if right <= left:
        return ""
    state = state_of(span.phase)
    planned = " planned" if span.planned else ""
    return (
        f'<rect class="{state}{planned}" x="{left:.1f}" y="{y}" width="{max(1.5, right - left):.1f}" '
        f'height="{_ROW - 4}"><title>{escape(_words(day, span))}</title></rect>'
    )


def _words(day: Day, span: Span) -> str:
    planned = "planned: " if span.planned else ""
    return f"{planned}{span.phase} {day.clock(span.begin)} to {day.clock(span.end)}"


def _sentence(day: Day, ribbon: Ribbon) -> str:
    """The spans in words; short ones on the way are left out, since the table of units names the present one."""
    moving = ("outbound", "homebound")
    told = [one for one in ribbon.spans if state_of(one.phase) not in moving or one.end >= day.now > one.begin]
    return ", ".join(_words(day, one) for one in told) or "nothing is known of it"


def _units(day: Day) -> str:
    order = sorted(day.ribbons, key=lambda one: (one.unit.phase is FlipPhase.SERVING, one.unit.name))
    rows = []
    for ribbon in order:
        unit = ribbon.unit
        since, until = ("-" if one is None else day.clock(unix(one)) for one in (unit.since, unit.until))
        trained = sum(
            min(one.end, day.now) - max(one.begin, day.begin)
            for one in ribbon.spans
            if one.phase is FlipPhase.TRAINING and not one.planned
        )
        nodes = ", ".join(unit.nodes) if unit.nodes and unit.nodes != (unit.name,) else ""
        name = f"{unit.name} ({nodes})" if nodes else unit.name
        rows.append((name, str(unit.phase), since, until, f"{trained / 3600:.1f} h", unit.why or "-"))
    return table(
        "Where each unit stands; hours trained are those of the last day.",
        ("Unit", "Phase", "Since", "Until", "Trained", "Why"),
        rows,
        numbers=(),
    )


def _hours(day: Day) -> str:
    """Needed, serving and training nodes at each full hour, as the curve shows them."""
    rows = []
    slots = round(3600.0 / day.slot_seconds) or 1
    for index in range(0, len(day.needed), slots):
        moment = day.begin + index * day.slot_seconds
        counts = day.shares(moment + 1.0)
        known = [one for one in day.needed[index : index + slots] if one is not None]
        planned = day.loaned[index]
        rows.append(
            (
                day.local(moment).strftime("%a %H:%M"),
                str(max(known)) if known else "-",
                str(counts["serving"]) if day.rows else "-",
                str(counts["training"]) if day.rows else "-",
                "-" if planned is None else str(planned),
            )
        )
    return table(
        "Needed is the most of the hour; the others are at its beginning.",
        ("From", "Needed", "Serving", "Training", "Loan planned"),
        rows,
        numbers=range(1, 5),
    )
