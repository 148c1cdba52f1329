"""The page of `tidefleet compare -o html`: one self-contained file with charts, tables and notes, without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tidefleet.cli.compare_table import FULL_BAR_TIMES
from tidefleet.cli.cost_table import figure, milliseconds, usd
from tidefleet.cli.html import document
from tidefleet.cli.rows import reasons
from tidefleet.economics.ranking import METRICS

_COLOURS = {
    "replica": ("#1d6fb8", "#5aa9ee"),
    "pair": ("#7a4fb5", "#b795ec"),
    "api": ("#b4611a", "#eb9c54"),
    "odd": ("#a3122b", "#ff8095"),
}
_STYLE = """
.verdict { border-left: .3rem solid var(--odd); padding: .4rem .9rem; background: var(--panel); }
th, td { text-align: right; white-space: nowrap; }
th { vertical-align: bottom; }
.t { text-align: left; white-space: normal; min-width: 9rem; }
.odd { color: var(--odd); font-weight: 600; }
.Replica { fill: var(--replica); } .Pair { fill: var(--pair); } .Api { fill: var(--api); }
.path { fill: none; stroke: var(--soft); stroke-width: 1.5; opacity: .55; }
.first { stroke: var(--replica); stroke-width: 3.5; opacity: 1; }
.dot { fill: var(--soft); } .dot.first { fill: var(--replica); stroke: none; }
@media print { th, td { padding: .15rem .25rem; } }
"""

_KINDS = {"Replica": "one kind of replica", "Pair": "prefill and decode apart", "Api": "external API"}


def page(answer: Mapping[str, Any]) -> str:
    """The comparison as one HTML document; nothing is loaded from elsewhere."""
    entries: Sequence[Mapping[str, Any]] = sorted(answer["entries"], key=lambda row: row["rank"])
    several = len(answer["models"]) > 1
    title = f"What tokens of {', '.join(answer['models'])} cost"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(answer["workload"]["words"])}; load {answer["workload"]["utilisation"]:.0%}; '
        f"prices {escape(', '.join(answer['workload']['capacity_types']))}</p>",
    ]
    if entries:
        parts += [
            f'<p class="verdict">{escape(_capital(answer["misled_most"]))}.</p>',
            "<h2>Cost per million tokens</h2>",
            _key(entries),
            _bars(entries, several),
            '<h2 id="figures">The figures</h2>',
            _figures(entries, several),
        ]
        hosted = [row for row in entries if row["kind"] != "Api"]
        if len(hosted) > 1:
            parts += ["<h2>Where other metrics would rank them</h2>", _slopes(hosted, several), _metrics(answer)]
    parts += [_unpriced(answer["unpriced"]), _refused(answer["cannot_serve"])]
    if answer["notes"]:
        parts += ["<h2>Notes</h2>", "<ul>", *(f"<li>{escape(note)}</li>" for note in answer["notes"]), "</ul>"]
    skip = ("figures", "To the figures") if entries else None
    return document(title, parts, colours=_COLOURS, style=_STYLE, skip=skip)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _name(row: Mapping[str, Any], several: bool) -> str:
    return f"{row['model']} on {row['name']}" if several and row["kind"] != "Api" else str(row["name"])


def _how(row: Mapping[str, Any]) -> str:
    basis = "" if row["basis"] in ("OnDemand", "Api") else f", {row['basis']}"
    return f"{row['how']}{'~' if row['own_precision'] is False else ''}{basis}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _key(entries: Iterable[Mapping[str, Any]]) -> str:
    there = {row["kind"] for row in entries}
    marks = [
        f'<i style="background:var(--{kind.lower()})"></i>{words}' for kind, words in _KINDS.items() if kind in there
    ]
    return f'<p class="soft key">{"".join(marks)}</p>'


def _bars(entries: Sequence[Mapping[str, Any]], several: bool) -> str:
    least = min(row["usd_per_million_tokens"] for row in entries)
    step, left, room = 28, 400, 480
    body = []
    for index, row in enumerate(entries):
        y = index * step
        times = row["usd_per_million_tokens"] / least
        width = max(2.0, min(1.0, times / FULL_BAR_TIMES) * room)
        name = f"{row['rank']}. {_name(row, several)}"
        cut = f" (bar cut; {times:.3g} times the cheapest)" if times > FULL_BAR_TIMES else ""
        value = f"${usd(row['usd_per_million_tokens'])}{' ▶' if cut else ''}"
        body.append(
            f"<g><title>{escape(f'{name}, {_how(row)}: {value} per million tokens{cut}')}</title>"
            f'<text x="{left - 10}" y="{y + 18}" text-anchor="end">{escape(_short(name, 34))} '
            f'<tspan class="soft">{escape(_short(_how(row), 24))}</tspan></text>'
            f'<rect class="{row["kind"]}" x="{left}" y="{y + 5}" width="{width:.1f}" height="18" rx="2"/>'
            f'<text x="{left + width + 8:.1f}" y="{y + 18}">{escape(value)}</text></g>'
        )
    words = f"Bars of USD per million tokens for {len(entries)} choices; the same figures are in the table below."
    return (
        f'<svg viewBox="0 0 {left + room + 110} {len(entries) * step}" role="img" aria-label="{words}">'
        + "".join(body)
        + "</svg>"
    )


def _figures(entries: Sequence[Mapping[str, Any]], several: bool) -> str:
    quality = any(row["quality"] is not None for row in entries)
    heads = ["#", "What", "How", "$/1M", "$/1M in", "$/1M cached", "$/1M out", "$/task", "$/chip-h", "PFLOPS/$"]
    heads += ["TB/s/$", "tokens/s/W", "TTFT", "TPOT", "context", "provenance", "sigma"]
    heads += ["quality"] if quality else []
    body = []
    for row in entries:
        money = ("usd_per_million_tokens", "usd_per_million_input_tokens", "usd_per_million_cached_input_tokens")
        cells = [usd(row[name]) for name in (*money, "usd_per_million_output_tokens", "usd_per_task")]
        context = "-" if row["max_context_tokens"] is None else f"{row['max_context_tokens'] / 1000:.0f}k"
        tail = [milliseconds(row["ttft_seconds"]), milliseconds(row["tpot_seconds"]), context, row["provenance"]]
        tail.append("-" if row["sigma"] is None else f"{row['sigma']:.0%}")
        tail += [figure(row["quality"])] if quality else []
        since = f", {row['price_as_of']}" if row["price_as_of"] else ""
        body.append(
            f'<tr><td>{row["rank"]}</td><th scope="row" class="t">{escape(_name(row, several))}</th>'
            f'<td class="t" title="{escape(str(row["price_source"]) + since, quote=True)}">{escape(_how(row))}</td>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + "".join(_metric(row, name) for name in METRICS)
            + "".join(f"<td>{escape(str(cell))}</td>" for cell in tail)
            + "</tr>"
        )
    caption = (
        "A red figure ranks its row elsewhere than cost per token does; the arrow names the place it would give. "
        "~ weights narrower than the model's own. PFLOPS/$ and TB/s/$ are per USD an hour, dense, at the precision "
        "computed in."
    )
    return _table(caption, heads, body, "All figures")


def _metric(row: Mapping[str, Any], name: str) -> str:
    if name not in row["inverted"]:
        return f"<td>{escape(figure(row[name]))}</td>"
    rank, by_cost = row["ranks"][name], row["cost_ranks"][name]
    arrow = "↑" if rank < by_cost else "↓"
    words = f"place {rank} by this metric, {by_cost} by cost per token"
    return f'<td class="odd" title="{words}">{escape(figure(row[name]))} {arrow}{rank}</td>'


def _table(caption: str, heads: Sequence[str], body: Sequence[str], label: str) -> str:
    left = {"What", "How", "Because", "Other prices", "Metric", "First choice"}
    head = "".join(f'<th scope="col"{" class=t" if one in left else ""}>{escape(one)}</th>' for one in heads)
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label, quote=True)}" tabindex="0"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _slopes(hosted: Sequence[Mapping[str, Any]], several: bool) -> str:
    """One line per hosted entry through its place by cost and by each metric; a line that is not level is inverted."""
    columns = ["$/1M tokens", *(words for words, _ in METRICS.values())]
    left, gap, step, top = 330, 170, 24, 34
    body = [
        f'<text x="{left + i * gap}" y="16" text-anchor="middle" class="soft">{escape(one)}</text>'
        for i, one in enumerate(columns)
    ]
    for place, row in enumerate(hosted, 1):
        points = [(left, place)]
        points += [(left + i * gap, row["ranks"][name]) for i, name in enumerate(METRICS, 1) if name in row["ranks"]]
        spots = [(x, top + (rank - 0.5) * step) for x, rank in points]
        kind = " first" if place == 1 else ""
        path = " ".join(f"{x},{y:.0f}" for x, y in spots)
        places = ", ".join(f"{METRICS[name][0]} {rank}" for name, rank in row["ranks"].items())
        body.append(
            f"<g><title>{escape(f'{_name(row, several)}: {place} by cost; {places}')}</title>"
            f'<text x="{left - 14}" y="{spots[0][1] + 4:.0f}" text-anchor="end">'
            f"{escape(_short(_name(row, several), 30))} {escape(_short(_how(row), 14))}</text>"
            f'<polyline class="path{kind}" points="{path}"/>'
            + "".join(f'<circle class="dot{kind}" cx="{x}" cy="{y:.0f}" r="4"/>' for x, y in spots)
            + "</g>"
        )
    words = (
        "Place of each hosted choice by cost per token and by each other metric; the figures are in the table above."
    )
    size = f"0 0 {left + gap * len(METRICS) + 70} {top + step * len(hosted) + 6}"
    return f'<svg viewBox="{size}" role="img" aria-label="{words}">{"".join(body)}</svg>'


def _metrics(answer: Mapping[str, Any]) -> str:
    body = [
        f'<tr><th scope="row" class="t">{escape(one["words"])}</th><td class="t">{escape(one["first"])}</td>'
        f"<td>{one['times_the_cheapest']:.3g}</td><td>{one['inverted_pairs']} of {one['pairs']}</td></tr>"
        for one in answer["metrics"]
    ]
    heads = ["Metric", "First choice", "Cost per token over the cheapest", "Pairs the wrong way round"]
    return _table("What choosing by another metric would cost.", heads, body, "Other metrics") if body else ""


def _unpriced(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    body = []
    for row in rows:
        others = ", ".join(f"{kind} ${usd(price)}" for kind, price in row["other_prices"].items()) or "-"
        below = [row[f"wins_against_{name}_below_usd_per_chip_hour"] for name in ("hosted", "all")]
        body.append(
            f'<tr><th scope="row" class="t">{escape(str(row["name"]))}</th>'
            f'<td class="t">{escape(_how({**row, "basis": "OnDemand"}))}</td>'
            + "".join(f"<td>{escape(usd(one))}</td>" for one in below)
            + f'<td class="t">{escape(others)}</td></tr>'
        )
    heads = ["What", "How", "wins over hosted below $/chip-h", "wins over all below $/chip-h", "Other prices"]
    table = _table("Below this price per chip-hour a type would be the cheapest.", heads, body, "Types without a price")
    return f"<h2>Without a price</h2>\n{table}"


def _refused(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    body = [
        f'<tr><th scope="row" class="t">{escape(names)}</th><td class="t">{escape(because)}</td></tr>'
        for names, because in reasons(rows)
    ]
    return f"<h2>Cannot serve</h2>\n{_table('Why, at the widest try.', ['What', 'Because'], body, 'Cannot serve')}"
