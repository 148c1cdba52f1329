"""The picture of the day as one HTML file that needs nothing else: charts, figures, and every decision in words."""

import json
from collections.abc import Sequence
from html import escape

from demo import draw, picture, ribbon, words
from demo.picture import Chart
from demo.summary import DaySummary, PoolDay

_GEOMETRY = draw.Geometry(width=960, left=52, right=10, bands=(96, 132, 78), gap=40, hours=3, titles=True)

_STYLE = """
*{box-sizing:border-box}
html{color-scheme:light dark}
body{margin:0 auto;max-width:1040px;padding:28px 24px 56px;background:var(--page);color:var(--ink);
 font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif}
h1{font-size:30px;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em;text-wrap:balance}
h2{font-size:20px;margin:0}
p{margin:0;color:var(--soft);max-width:75ch}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(148px,1fr));gap:12px;margin:24px 0 8px;padding:0}
.facts div{border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.facts dt{font-size:13px;color:var(--soft)}
.facts dd{margin:0;font-size:22px;font-weight:650;white-space:nowrap;font-variant-numeric:tabular-nums}
.legend{display:flex;flex-wrap:wrap;gap:6px 18px;font-size:14px;color:var(--soft);margin:14px 0 0;padding:0;
 list-style:none}
.legend svg{width:14px;height:14px;vertical-align:-2px;margin-right:6px}
section{margin-top:36px}
.head{display:flex;flex-wrap:wrap;align-items:baseline;gap:4px 14px;margin-bottom:8px}
.head .cost{margin-left:auto;font-weight:600}
.met{color:var(--good)}.missed{color:var(--bad)}
.chart{border-radius:8px;outline-offset:4px;touch-action:pan-y}
.chart:focus-visible,summary:focus-visible{outline:2px solid var(--a0)}
.chart svg{display:block;width:100%;height:auto}
output{display:block;min-height:3.2em;margin-top:4px;font-size:14px;color:var(--soft);font-variant-numeric:tabular-nums}
output b{color:var(--ink)}
details{margin-top:4px;font-size:14px}
summary{cursor:pointer;border-radius:4px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}
th,td{text-align:left;vertical-align:top;padding:5px 14px 5px 0;border-bottom:1px solid var(--line)}
td.n,th.n{text-align:right}
thead th{color:var(--soft);font-weight:500}
details td{color:var(--soft)}details td:first-child{color:var(--ink);white-space:nowrap}
footer{margin-top:40px;font-size:14px}
@media print{body{max-width:none;padding:0;print-color-adjust:exact;-webkit-print-color-adjust:exact}
 section{break-inside:avoid;margin-top:20px}output,details{display:none}html{color-scheme:light}}
"""

_SCRIPT = """
for (const box of document.querySelectorAll('.chart')) {
  const data = JSON.parse(box.querySelector('script').textContent), svg = box.querySelector('svg');
  const line = svg.querySelector('.cursor'), out = box.parentNode.querySelector('output');
  const idle = out.innerHTML;
  let at = -1;
  const part = (tag, text) => { const e = document.createElement(tag); e.textContent = text; return e; };
  const show = i => {
    at = Math.max(0, Math.min(data.rows.length - 1, i));
    const [x, words, told] = data.rows[at];
    line.setAttribute('x1', x); line.setAttribute('x2', x); line.style.visibility = 'visible';
    out.replaceChildren(part('b', words));
    for (const one of told) out.append(part('br', ''), part('span', one));
  };
  const near = x => {
    let best = 0;
    data.rows.forEach((row, i) => { if (Math.abs(row[0] - x) < Math.abs(data.rows[best][0] - x)) best = i; });
    return best;
  };
  const leave = () => { line.style.visibility = 'hidden'; out.innerHTML = idle; };
  svg.addEventListener('pointermove', e => {
    const r = svg.getBoundingClientRect();
    show(near((e.clientX - r.left) / r.width * svg.viewBox.baseVal.width));
  });
  svg.addEventListener('pointerleave', () => { if (document.activeElement !== box) leave(); });
  box.addEventListener('focus', () => show(at < 0 ? 0 : at));
  box.addEventListener('blur', leave);
  const told = by => {
    let i = at + by;
    while (data.rows[i] && !data.rows[i][2].length) i += by;
    if (data.rows[i]) show(i);
  };
  box.addEventListener('keydown', e => {
    const keys = {ArrowLeft: () => e.shiftKey ? told(-1) : show(at - 1),
      ArrowRight: () => e.shiftKey ? told(1) : show(at + 1),
      Home: () => show(0), End: () => show(data.rows.length - 1), Escape: () => box.blur()};
    if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
  });
}
"""


def render(shown: Sequence[Chart], summary: DaySummary) -> str:
    """The whole file."""
    first = shown[0].start if shown else 0.0
    keys = "".join(
        f'<li><svg viewBox="0 0 14 14" aria-hidden="true"><rect class="a{hue}" width="14" height="14" rx="3"/></svg>'
        f"{escape(name)}</li>"
        for name, hue in (picture.legend(shown) if shown else [])
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>tidefleet: a day of a fleet</title><style>{picture.style()}{_STYLE}{ribbon.STYLE}</style></head><body>"
        f"<header><h1>{escape(picture.headline(summary))}</h1>"
        f"<p>{escape(words.date(first))}: three pools with the demand of real traces, replayed in "
        f"{summary.real_seconds:.0f} seconds against the operator on a real Kubernetes control plane. "
        "Accelerators and engines are simulated; every figure comes from the operator's own status and metrics.</p>"
        f'{_facts(summary)}<ul class="legend">{keys}<li>dotted: planned replicas</li>'
        "<li>▲ ▼ ◆ decisions: more, fewer, as many replicas</li></ul></header>"
        f"<main>{''.join(_section(chart) for chart in shown)}{_night(shown, summary)}{_table(summary)}</main>"
        f"<footer><p>A fixed fleet is {escape(summary.method)}. Capacity is enough while the ready replicas, at the "
        "operating point that meets the objectives, carry the measured demand. The operator looks at the fleet at "
        f"most every {summary.pass_seconds / 60:.0f} minutes of this day, where production has 15 seconds: API server "
        "and pods keep to real time. So it meets a sudden rise later here, and with cruder readings. Demand: Azure "
        "Public Dataset 2024 (Microsoft, CC BY 4.0) for chat and code, ServeGen (Alibaba, Apache-2.0) for reasoning, "
        "scaled.</p></footer>"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _night(shown: Sequence[Chart], summary: DaySummary) -> str:
    return ribbon.section(summary.night, shown) if summary.night is not None else ""


def _facts(summary: DaySummary) -> str:
    decisions = sum(one.decisions for one in summary.pools)
    lost, asked = sum(one.lost_requests for one in summary.pools), sum(one.requests for one in summary.pools)
    streams = sum(one.streams_served for one in summary.pools)
    failed = sum(one.streams_failed for one in summary.pools)
    facts = [
        ("tokens", words.many(summary.tokens)),
        ("paid", words.usd(summary.dollars)),
        ("fixed fleets", words.usd(summary.static_dollars) if summary.static_dollars else "-"),
        ("requests lost", f"{100 * lost / (asked + lost):.2f} %" if asked + lost else "-"),
        ("decisions", str(decisions)),
        ("real streams", f"{streams} of {streams + failed}"),
    ]
    return f'<dl class="facts">{"".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)}</dl>'


def _section(chart: Chart) -> str:
    day = chart.day
    drawn = draw.pool(chart, _GEOMETRY, marks=True)
    target = f", target {words.usd(day.target_usd_per_million)}" if day.target_usd_per_million else ""
    cost = f"{words.usd(day.usd_per_million or 0.0)} per 1M tokens{target}"
    name, box = escape(day.pool), f"0 0 {_GEOMETRY.width:.0f} {_GEOMETRY.height:.0f}"
    data = json.dumps({"rows": _rows(chart, drawn)}, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")
    rows = "".join(
        f"<tr><td>{words.clock(one.told.at)}</td><td>{escape(', '.join(one.told.change))}</td>"
        f"<td>{escape(one.told.why)}</td></tr>"
        for one in chart.marks
    )
    return (
        f'<section aria-labelledby="{name}"><div class="head"><h2 id="{name}">{name}</h2><p>{escape(day.model)}</p>'
        f'<span class="cost {"met" if day.meets_target else "missed"}">{cost}</span></div>'
        f'<div class="chart" tabindex="0" role="group" aria-label="{name}: demand, replicas and cost over the day. '
        'Arrow keys move through the day, with Shift from decision to decision.">'
        f'<svg viewBox="{box}" role="img" aria-label="{escape(_in_words(day))}">{drawn.svg}</svg>'
        f'<script type="application/json">{data}</script></div>'
        '<output aria-live="polite">Point at the chart, or focus it and use the arrow keys (Shift: from decision to '
        f"decision).</output><details><summary>{len(chart.marks)} decisions in the operator's words</summary>"
        '<div class="scroll"><table><thead><tr><th>time</th><th>change</th><th>why</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details></section>"
    )


def _rows(chart: Chart, drawn: draw.Drawn) -> list[list[object]]:
    """What is read out at each moment: where it stands, the figures, and the decisions since the moment before."""
    span = chart.end - chart.start
    rows: list[list[object]] = []
    before = chart.start
    for one, cost in zip(chart.moments, chart.costs, strict=True):
        x = drawn.left + (one.at - chart.start) / span * (drawn.right - drawn.left)
        fleet = ", ".join(f"{count} {name}" for name, count in one.ready.items() if count) or "nothing"
        text = f"{words.clock(one.at)}  {words.rate(one.offered)} requests/s on {fleet}"
        text += f"; {words.usd(cost)} per 1M tokens" if cost is not None else ""
        told = [mark.text for mark in chart.marks if before < mark.told.at <= one.at]
        rows.append([round(x, 1), text, told])
        before = one.at
    return rows


def _in_words(day: PoolDay) -> str:
    least, most = day.replicas
    return (
        f"{day.pool}: {words.many(day.tokens)} tokens for {words.usd(day.dollars)}, {least} to {most} replicas on "
        f"{', '.join(day.accelerators) or 'nothing'}, enough capacity {words.percent(day.covered)} of the day"
    )


def _table(summary: DaySummary) -> str:
    heads = ("pool", "tokens", "paid", "$ / 1M", "target", "replicas", "accelerators", "enough capacity",
             "requests lost", "TTFT p95", "a fixed fleet")  # fmt: skip
    rows = []
    for one in summary.pools:
        ttft = "-" if one.ttft_p95_seconds is None else f"{one.ttft_p95_seconds:.2f} s"
        fixed = f"{words.usd(one.static_dollars)}: {one.static.fleet}" if one.static and one.static_dollars else "-"
        cells = (words.many(one.tokens), words.usd(one.dollars), words.usd(one.usd_per_million or 0.0),
                 words.usd(one.target_usd_per_million or 0.0), f"{one.replicas[0]} to {one.replicas[1]}",
                 ", ".join(one.accelerators), words.percent(one.covered), words.many(one.lost_requests),
                 ttft, fixed)  # fmt: skip
        rows.append(f"<tr><th>{escape(one.pool)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        f'<section><div class="head"><h2>The day in figures</h2></div><div class="scroll"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )
