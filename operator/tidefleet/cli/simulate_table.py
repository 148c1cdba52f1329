"""The tables and bars of `tidefleet simulate` in a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tidefleet.cli.compare_table import bar
from tidefleet.cli.output import json_text, print_table
from tidefleet.cli.simulate_rows import CLASS_HEADS, classes, columns_of, figures, lost, share, totals, usd
from tidefleet.simulator.run import Report

_WIDTH = 160
_BAR = 40


def print_scenarios(known: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """The scenarios that ship."""
    if as_json:
        typer.echo(json_text(known))
        return
    rows = [[escape(str(one[name])) for name in ("name", "kind", "summary")] for one in known]
    print_table("", ("SCENARIO", "KIND", "WHAT IT SHOWS"), rows)


def print_report(report: Report, *, capture: bool = False) -> str:
    """The report on stdout, or with ``capture`` as text."""
    console = Console(soft_wrap=False, file=io.StringIO(), width=_WIDTH) if capture else Console(soft_wrap=False)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    columns = columns_of(report)
    ours = columns[0].median
    many = f"{len(report.ours)} seeds, medians (least to most)" if len(report.ours) > 1 else "one seed"
    say(f"{report.scenario.name}: {report.scenario.summary} ({many}{', everything in detail' if report.full else ''})")
    names = [one.name for one in columns]
    for rows in (totals(columns), figures(columns)):
        if rows:
            console.print(_table(["FIGURE", *(f"#{one.upper()}" for one in names)], rows))
            say("")
    found = classes(report, ours)
    if found:
        heads = [name.upper() if index < 2 else f"#{name}" for index, name in enumerate(CLASS_HEADS)]
        console.print(_table(heads, found))
        say("")
    if ours.utilization is not None and ours.utilization_lost:
        say("Where the paid seconds went")
        steps = [("needed", ours.utilization), *lost(ours)]
        console.print(_table(["CAUSE", "#SHARE", ""], [(name, share(one), bar(one, _BAR)) for name, one in steps]))
        say("")
    if ours.usd_by_accelerator:
        console.print(
            _table(["ACCELERATOR", "#$/1M"], [(name, usd(one)) for name, one in ours.usd_by_accelerator.items()])
        )
    for line in ours.words:
        say(line)
    return console.file.getvalue() if isinstance(console.file, io.StringIO) else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head.lstrip("#"), justify="right" if head.startswith("#") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(one) for one in row))
    return table
