"""The tables of `tidefleet report` in a terminal, and its CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tidefleet.reporting.report import Report

_WIDTH = 160

COLUMNS: Sequence[tuple[str, str]] = (
    ("requests", "REQUESTS"),
    ("tokens", "TOKENS"),
    ("cached_share", "CACHED"),
    ("usage_usd", "USAGE"),
    ("allocated_usd", "ALLOCATED"),
    ("idle_usd", "IDLE"),
    ("revenue_usd", "REVENUE"),
    ("margin_usd", "MARGIN"),
    ("usd_per_million_tokens", "$/1M"),
    ("usd_per_million_good_tokens", "$/1M GOOD"),
    ("slo_share", "SLO"),
    ("usd_per_successful_task", "$/TASK"),
    ("wasted_usd", "WASTED"),
)
"""What the table shows of a row, with its heads; a column that no row or line has anything in is left out."""

NARROW = frozenset(["requests", "allocated_usd", "margin_usd", "usd_per_million_tokens", "slo_share", "wasted_usd"])
"""Of these, what a terminal of less than ``_WIDE`` columns shows."""

_WIDE = 130


def shown_rows(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows, lines and total of a report's JSON form, as a table shows them: lines have a name and dollars alone."""
    for row in answer["rows"]:
        yield _more(row)
    for line in answer["lines"]:
        yield {"name": line["name"], "allocated_usd": line["usd"]}
    yield _more(answer["total"])


def _more(row: Mapping[str, Any]) -> dict[str, Any]:
    prompt = row["input_tokens"] + row["cached_tokens"]
    return {
        **row,
        "tokens": prompt + row["output_tokens"],
        "cached_share": row["cached_tokens"] / prompt if prompt else None,
    }


def used_columns(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The columns that any row but the total, which is last, has something in."""
    return [(name, head) for name, head in COLUMNS if any(row.get(name) is not None for row in rows[:-1])]


def told(name: str, value: Any) -> str:
    """A figure for people."""
    if value is None:
        return ""
    if name.endswith("_share"):
        return f"{value:.1%}"
    if name.startswith("usd_per"):
        return f"${value:#.3g}" if value < 100.0 else f"${value:,.0f}"
    if name.endswith("_usd"):
        return f"-{_dollars(-value)}" if value < 0.0 else _dollars(value)
    return many(value)


def many(count: float) -> str:
    """A count with three digits: 1.23M."""
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * factor:
            return f"{count / factor:.3g}{letter}"
    return f"{count:.3g}"


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if value >= 0.01 or value == 0.0 else f"${value:.2g}"


def clean(text: str) -> str:
    """Text from records without what moves a terminal's cursor."""
    return "".join(one if one.isprintable() else "�" for one in text)


def heading(answer: Mapping[str, Any]) -> str:
    """One line over the tables."""
    return f"{told('bill_usd', answer['bill_usd'])} from {answer['from']} to {answer['to']}, by {answer['by']}"


def print_report(made: Report, *, capture: bool = False) -> str:
    """The report on stdout, or with ``capture`` as text."""
    console = Console(soft_wrap=False, file=io.StringIO(), width=_WIDTH) if capture else Console(soft_wrap=False)

    def say(text: str) -> None:
        console.print(clean(text), highlight=False, markup=False)

    answer = made.as_json()
    rows = [*shown_rows(answer)]
    columns = [one for one in used_columns(rows) if console.width >= _WIDE or one[0] in NARROW]
    say(f"{heading(answer)} ({answer['source']})")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(answer["by"].upper(), overflow="fold")
    for _, head in columns:
        table.add_column(head, justify="right", overflow="fold")
    for row in rows:
        table.add_row(escape(clean(row["name"])), *(told(name, row.get(name)) for name, _ in columns))
    console.print(table)
    if answer["savings_usd"] is not None:
        say(f"saved: {told('savings_usd', answer['savings_usd'])}")
    if answer["wasters"]:
        say("")
        say("What cost more than it had to (these overlap: one change can mend several)")
        waste = Table(box=None, pad_edge=False, header_style="bold")
        for head in ("RULE", "WHERE", "#USD", "WHY", "WHAT WOULD MEND IT"):
            waste.add_column(head.lstrip("#"), justify="right" if head[0] == "#" else "left", overflow="fold")
        for one in answer["wasters"]:
            words = (one["rule"], one["where"], told("usd_usd", one["usd"]), one["why"], one["mend"])
            waste.add_row(*(escape(clean(word)) for word in words))
        console.print(waste)
    for note in answer["notes"]:
        say(f"note: {note}")
    return console.file.getvalue() if isinstance(console.file, io.StringIO) else ""


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(made: Report) -> str:
    """Rows, lines and total as CSV, with the names and figures of the JSON form; the first column says which it is.

    A name that a spreadsheet would take for a formula begins with an apostrophe.
    """
    answer = made.as_json()
    causes = sorted({cause for row in answer["rows"] for cause in row["wasted_recomputed_usd"]})
    names = [name for name in answer["total"] if name not in ("name", "wasted_recomputed_usd")]
    heads = ["kind", "name", *names, *(f"wasted_recomputed_{cause}_usd" for cause in causes)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)

    def write(kind: str, row: Mapping[str, Any]) -> None:
        name = clean(row["name"])
        recomputed = row.get("wasted_recomputed_usd", {})
        cells = [row.get(one) for one in names] + [recomputed.get(cause) for cause in causes]
        writer.writerow([kind, f"'{name}" if name.startswith(_FORMULA) else name, *map(_cell, cells)])

    for row in answer["rows"]:
        write("row", row)
    for line in answer["lines"]:
        write("line", {"name": line["name"], "allocated_usd": line["usd"]})
    write("total", answer["total"])
    return out.getvalue()


def _cell(value: Any) -> str:
    return "" if value is None else repr(value)
