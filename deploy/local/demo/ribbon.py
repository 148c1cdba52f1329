"""The night on the page: which node was on which side when, under the load, and what the time went to."""

from collections.abc import Iterable, Sequence
from html import escape

from demo import nightly, words
from demo.draw import ceiling
from demo.ledger import MEANING
from demo.nightly import NightDay, Ribbon
from demo.picture import Chart

HOUR = 3600.0
_LEFT, _RIGHT, _WIDTH = 96.0, 10.0, 960.0
_TOP, _BAND, _ROW, _GAP = 18.0, 84.0, 11.0, 3.0
_GROUPS: dict[str, tuple[str, str]] = {
    "Training": ("a1", "trains"),
    "Cordoned": ("a3", "on its way to training"), "Draining": ("a3", "on its way to training"),
    "Verifying": ("a3", "on its way to training"),
    "Recalling": ("a5", "on its way back"), "Reclaiming": ("a5", "on its way back"),
    "Warming": ("a2", "replicas start"),
    "Quarantined": ("a6", "quarantined"),
}  # fmt: skip
_METHOD = (
    "Phases are those of the journal on each node; pods and engines are looked at several times a real second. Needed "
    "for serving is the demand at the operating point that meets the objectives; needed for training is what a "
    "checkpoint kept. Without loans are the same nodes and requests, with the hours away counted as idle. Each step of "
    "a flip takes a pass of the operator, which is real time: minutes of this day, where production has 15 seconds."
)
STYLE = ".serves{fill:var(--area);fill-opacity:.28}.night td.n{white-space:nowrap}"


def section(night: NightDay, shown: Sequence[Chart]) -> str:
    """The section of the page."""
    start, end = (shown[0].start, shown[0].end) if shown else (0.0, 1.0)
    height = _TOP + _BAND + 30 + len(night.ribbon) * (_ROW + _GAP) + 22
    label = f"{len(night.ribbon)} nodes: {night.loaned_node_hours:.0f} node-hours on loan to training"
    facts = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in nightly.in_words(night)
    )
    blocked = "".join(f"<li>{escape(one)}</li>" for one in night.blocked)
    told = f"<details><summary>what kept more nodes from being lent</summary><ul>{blocked}</ul></details>"
    return (
        '<section class="night" aria-labelledby="night"><div class="head"><h2 id="night">Nodes that train at night</h2>'
        f"<p>{escape(night.window)}</p></div>"
        f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">'
        f"{_load(shown, start, end)}{''.join(_rows(night.ribbon, start, end))}{_hours(start, end, height)}</svg>"
        f'<ul class="legend">{_legend(night.ribbon)}</ul>'
        f'<div class="scroll"><table><tbody>{facts}</tbody></table></div>{_causes(night)}'
        f"<p>{_METHOD}</p>{told if blocked else ''}</section>"
    )


def _x(at: float, start: float, end: float) -> float:
    return _LEFT + (at - start) / (end - start) * (_WIDTH - _LEFT - _RIGHT)


def _load(shown: Sequence[Chart], start: float, end: float) -> str:
    """The requests of all pools together; every pool is looked at in the same moments."""
    sums: dict[float, float] = {}
    for chart in shown:
        for one in chart.moments:
            sums[one.at] = sums.get(one.at, 0.0) + one.offered
    complete = {at for at in sums if all(any(one.at == at for one in chart.moments) for chart in shown)}
    points = sorted((at, value) for at, value in sums.items() if at in complete)
    title = f'<text class="strong" x="{_LEFT:.0f}" y="{_TOP - 6:.0f}">requests per second, all pools</text>'
    if len(points) < 2:
        return title
    top = ceiling(max(value for _, value in points))
    bottom = _TOP + _BAND
    line = "L".join(f"{_x(at, start, end):.1f} {bottom - value / top * _BAND:.1f}" for at, value in points)
    first = _x(points[0][0], start, end)
    lines = "".join(
        f'<line class="grid" x1="{_LEFT:.0f}" x2="{_WIDTH - _RIGHT:.0f}" y1="{bottom - share * _BAND:.1f}" '
        f'y2="{bottom - share * _BAND:.1f}"/>'
        + (
            f'<text x="{_LEFT - 5:.0f}" y="{bottom - share * _BAND + 4:.1f}" text-anchor="end">'
            f"{words.rate(share * top)}</text>"
            if share
            else ""
        )
        for share in (0.0, 0.5, 1.0)
    )
    return f'{title}{lines}<path class="area" d="M{line}V{bottom:.1f}H{first:.1f}Z"/><path class="ink" d="M{line}"/>'


def _rows(ribbon: Sequence[Ribbon], start: float, end: float) -> Iterable[str]:
    top = _TOP + _BAND + 26
    yield f'<text class="strong" x="{_LEFT:.0f}" y="{top - 6:.0f}">nodes</text>'
    for index, node in enumerate(ribbon):
        y = top + index * (_ROW + _GAP)
        yield f'<text x="{_LEFT - 5:.0f}" y="{y + _ROW - 2:.1f}" text-anchor="end">{escape(node.node)}</text>'
        bar = f'y="{y:.1f}" height="{_ROW:.0f}"'
        yield f'<rect class="serves" x="{_LEFT:.1f}" width="{_WIDTH - _LEFT - _RIGHT:.1f}" {bar}/>'
        if not node.phases:
            continue
        ends = [at for at, _, _ in node.phases[1:]] + [end]
        for (at, phase, why), until in zip(node.phases, ends, strict=True):
            if phase not in _GROUPS or until <= start:
                continue
            left, right = _x(max(at, start), start, end), _x(min(until, end), start, end)
            text = f"{node.node} {words.clock(at)} {phase}" + (f": {why}" if why else "")
            yield (
                f'<rect class="{_GROUPS[phase][0]}" x="{left:.1f}" width="{max(0.5, right - left):.1f}" {bar}>'
                f"<title>{escape(text)}</title></rect>"
            )


def _hours(start: float, end: float, height: float) -> str:
    marks = []
    first = int(start // HOUR)
    for hour in range(first, int(end // HOUR) + 1, 3):
        x = _x(hour * HOUR, start, end)
        anchor = "end" if x > _WIDTH - 20 else "middle"
        name = f"{24 if hour * HOUR >= end and hour % 24 == 0 else hour % 24:02d}"
        marks.append(f'<text x="{x:.1f}" y="{height - 5:.0f}" text-anchor="{anchor}">{name}</text>')
    return "".join(marks)


def _legend(ribbon: Sequence[Ribbon]) -> str:
    seen = {phase for node in ribbon for _, phase, _ in node.phases}
    shown = dict.fromkeys([("serves", "serves"), *(pair for phase, pair in _GROUPS.items() if phase in seen)])
    return "".join(
        f'<li><svg viewBox="0 0 14 14" aria-hidden="true"><rect class="{hue}" width="14" height="14" rx="3"/></svg>'
        f"{escape(name)}</li>"
        for hue, name in shown
    )


def _causes(night: NightDay) -> str:
    paid = night.paid_chip_seconds / HOUR
    rows = "".join(
        f'<tr><th>{escape(name)}</th><td class="n">{hours:,.1f}</td>'
        f'<td class="n">{words.percent(hours / paid) if paid else "-"}</td>'
        f"<td>{escape(MEANING.get(name, ''))}</td></tr>"
        for name, hours in nightly.where_it_went(night)
        if hours > 0
    )
    return (
        f'<div class="scroll"><table><thead><tr><th>what {paid:,.0f} accelerator-hours paid went to</th>'
        f'<th class="n">hours</th><th class="n">share</th><th></th></tr></thead><tbody>{rows}</tbody></table></div>'
    )
