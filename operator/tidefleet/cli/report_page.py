"""The page of `tidefleet report -o html`: one self-contained file, without scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from tidefleet.cli.html import document, framed, sections
from tidefleet.cli.report_table import clean, heading, shown_rows, told, used_columns
from tidefleet.cli.simulate_picture import COLOURS, PICTURE_STYLE, bars
from tidefleet.reporting.report import Report

_MOST_BARS = 25
_WASTED = {
    "wasted_errors_usd": "errors",
    "wasted_cut_usd": "cut requests",
    "wasted_failed_tasks_usd": "failed tasks",
}
_STYLE = (
    """
th, td { text-align: left; vertical-align: top; padding: .3rem .4rem; }
table { font-size: .82rem; }
.n { text-align: right; white-space: nowrap; }
th[scope=row] { overflow-wrap: anywhere; min-width: 7rem; }
nav a { margin-right: 1rem; }
.line th, .line td { color: var(--soft); }
.total th, .total td { border-top: 2px solid var(--ink); font-weight: 600; }
@media print { .n { white-space: normal; } th, td { padding: .2rem .25rem; } nav { display: none; } }
"""
    + PICTURE_STYLE
)


def page(made: Report) -> str:
    """A report as one HTML document; nothing is loaded from elsewhere. Figures are in ``data-value`` unrounded."""
    answer = made.as_json()
    parts = list(_parts(answer))
    return document(
        f"Report by {answer['by']}",
        [
            f"<h1>{escape(heading(answer))}</h1>",
            f'<p class="soft">From {escape(clean(answer["source"]))}. Usage is what tokens needed; allocated is their '
            "part of what was paid, and sums to it with the lines that nobody used.</p>",
            _savings(answer),
            *sections(parts),
        ],
        colours=COLOURS,
        style=_STYLE,
        skip=("rows", "To the table"),
    )


def _savings(answer: Mapping[str, Any]) -> str:
    saved = answer["savings_usd"]
    if saved is None:
        return ""
    return f'<p>Saved: <b data-value="{saved!r}">{told("savings_usd", saved)}</b>.</p>'


def _parts(answer: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Anchor, title and HTML of each part that there is something to show of."""
    rows = [*shown_rows(answer)]
    spent = [(clean(one["name"]), one["allocated_usd"], told("_usd", one["allocated_usd"])) for one in rows[:-1]]
    largest = sorted((one for one in spent if one[1] > 0.0), key=lambda one: -one[1])[:_MOST_BARS]
    if largest:
        yield "spent", "The bill", bars("Dollars of the bill", largest)
    yield "rows", f"By {answer['by']}", _rows(answer, rows)
    wasted = _wasted(answer["total"])
    if wasted:
        yield "wasted", "Used for nothing", bars("Dollars used for nothing", wasted)
    if answer["wasters"]:
        dollars = [
            (clean(f"{one['rule']}, {one['where']}"), one["usd"], told("_usd", one["usd"])) for one in answer["wasters"]
        ]
        yield (
            "wasters",
            "What cost more than it had to",
            bars("Dollars beyond what it had to cost", dollars) + _wasters(answer["wasters"]),
        )
    if answer["notes"]:
        yield "notes", "Notes", "".join(f"<p>{escape(clean(one))}</p>" for one in answer["notes"])


def _wasted(total: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    found = [(words, total[name]) for name, words in _WASTED.items()]
    found += [(f"computed again: {cause}", usd) for cause, usd in total["wasted_recomputed_usd"].items()]
    return [(words, usd, told("_usd", usd)) for words, usd in sorted(found, key=lambda one: -(one[1] or 0.0)) if usd]


def _rows(answer: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    columns = used_columns(rows)
    heads = "".join(f'<th scope="col" class="n">{escape(head)}</th>' for _, head in columns)
    kinds = ["row"] * len(answer["rows"]) + ["line"] * len(answer["lines"]) + ["total"]
    body = "".join(
        f'<tr class="{kind}"><th scope="row">{escape(clean(row["name"]))}</th>'
        + "".join(_cell(name, row.get(name)) for name, _ in columns)
        + "</tr>"
        for kind, row in zip(kinds, rows, strict=True)
    )
    return framed(
        "Rows and lines of the column ALLOCATED sum to the bill.", f'<th scope="col">{answer["by"]}</th>{heads}', body
    )


def _cell(name: str, value: Any) -> str:
    exact = "" if value is None else f' data-name="{name}" data-value="{value!r}"'
    return f'<td class="n"{exact}>{escape(told(name, value))}</td>'


def _wasters(found: Sequence[Mapping[str, Any]]) -> str:
    heads = "".join(
        f'<th scope="col">{one}</th>' for one in ("Rule", "Where", "USD", "Why", "What would mend it", "Threshold")
    )
    body = "".join(
        f'<tr><th scope="row">{escape(clean(one["rule"]))}</th><td>{escape(clean(one["where"]))}</td>'
        + _cell("_usd", one["usd"])
        + "".join(f"<td>{escape(clean(one[name]))}</td>" for name in ("why", "mend", "threshold"))
        + "</tr>"
        for one in found
    )
    return framed("These overlap: one change can mend several, so they are not summed.", heads, body)
