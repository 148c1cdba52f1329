"""The tables and bars of `tidefleet compare` in a terminal, readable from 80 columns."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tidefleet.cli.cost_table import figure, usd
from tidefleet.cli.rows import reasons
from tidefleet.economics.ranking import METRICS

FULL_BAR_TIMES = 8.0
"""A full bar is so many times the cheapest; dearer entries end in an arrow."""

_COLUMNS = {
    "usd_per_chip_hour": "$/CHIP-H",
    "dense_pflops_per_usd_hour": "PFLOPS/$",
    "hbm_terabytes_per_second_per_usd_hour": "TB/S/$",
    "output_tokens_per_second_per_watt": "TOK/S/W",
}
_BARS = " ▏▎▍▌▋▊▉█"


def print_comparison(answer: Mapping[str, Any], *, capture: bool = False) -> str:
    """The comparison on stdout, or with ``capture`` as text."""
    console = Console(soft_wrap=False, file=io.StringIO(), width=120) if capture else Console(soft_wrap=False)
    entries: Sequence[Mapping[str, Any]] = answer["entries"]
    console.print(f"{', '.join(answer['models'])}: {answer['workload']['words']}", highlight=False, markup=False)
    if entries:
        console.print(_chart(entries, console.width, several=len(answer["models"]) > 1))
        console.print(_metrics(entries))
        console.print(
            "^3, v7 at a figure: the place that ranking by it would give, higher or lower than by $/1M tokens",
            highlight=False,
            markup=False,
        )
        console.print(f"{answer['misled_most']}.", highlight=False, markup=False)
        sources = sorted({row["provenance"] for row in entries if row["kind"] != "Api"})
        if sources:
            console.print(f"speed from {', '.join(sources)}", highlight=False, markup=False)
    if answer["unpriced"]:
        console.print(_unpriced(answer["unpriced"]))
    if answer["cannot_serve"]:
        console.print(_refused(answer["cannot_serve"]))
    for note in answer["notes"]:
        console.print(f"note: {note}", highlight=False, markup=False)
    return console.file.getvalue() if isinstance(console.file, io.StringIO) else ""


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip("#"), justify="right" if column.startswith("#") else "left", overflow="fold")
    return table


def _chart(entries: Sequence[Mapping[str, Any]], width: int, *, several: bool) -> Table:
    table = _table("", "##", "WHAT", "HOW", "#$/1M", "")
    least = min(row["usd_per_million_tokens"] for row in entries)
    room = max(10, min(40, width - 62))
    for row in entries:
        share = row["usd_per_million_tokens"] / (FULL_BAR_TIMES * least)
        table.add_row(
            str(row["rank"]), _what(row, several), _how(row), usd(row["usd_per_million_tokens"]), bar(share, room)
        )
    return table


def bar(share: float, room: int) -> str:
    """A bar of so much of ``room`` cells, in eighths; one that is too long ends in an arrow."""
    if share > 1.0 + 1e-9:
        return "█" * (room - 1) + "▶"
    eighths = max(1, round(share * room * 8))
    return "█" * (eighths // 8) + _BARS[eighths % 8].strip()


def _what(row: Mapping[str, Any], several: bool) -> str:
    return f"{row['model']} on {row['name']}" if several and row["kind"] != "Api" else str(row["name"])


def _how(row: Mapping[str, Any]) -> str:
    basis = "" if row["basis"] in ("OnDemand", "Api") else f" {row['basis']}"
    return f"{row['how']}{'~' if row['own_precision'] is False else ''}{basis}"


def mark(row: Mapping[str, Any], name: str) -> str:
    """The place that a metric would give an entry whose rank by it inverts, e.g. ``^3``; empty otherwise."""
    if name not in row["inverted"]:
        return ""
    return f"{'^' if row['ranks'][name] < row['cost_ranks'][name] else 'v'}{row['ranks'][name]}"


def _metrics(entries: Sequence[Mapping[str, Any]]) -> Table:
    scored = any(row["quality"] is not None for row in entries)
    last = ("#$/TASK", "#CONTEXT", "#SIGMA", *(("#QUALITY",) if scored else ()))
    table = _table("", "##", "WHAT", *(f"#{_COLUMNS[name]}" for name in METRICS), *last)
    for row in entries:
        if row["kind"] == "Api":
            continue
        figures = [f"{figure(row[name])}{mark(row, name)}" for name in METRICS]
        figures += [usd(row["usd_per_task"]), f"{row['max_context_tokens'] / 1000:.0f}k", f"{row['sigma']:.0%}"]
        figures += [figure(row["quality"])] if scored else []
        table.add_row(str(row["rank"]), str(row["name"]), *figures)
    return table


def _unpriced(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(
        "without a price: what a chip-hour may cost to win",
        "WHAT",
        "HOW",
        "#OF HOSTED",
        "#OF ALL",
        "PRICES OF OTHER KINDS",
    )
    for row in rows:
        others = ", ".join(f"{kind} {usd(price)}" for kind, price in row["other_prices"].items())
        below = (row[f"wins_against_{name}_below_usd_per_chip_hour"] for name in ("hosted", "all"))
        table.add_row(str(row["name"]), _how({**row, "basis": "OnDemand"}), *(usd(one) for one in below), others)
    return table


def _refused(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("cannot serve", "WHAT", "BECAUSE")
    for names, because in reasons(rows):
        table.add_row(names, because)
    return table
