"""`tidefleet report`: what a period cost, who spent it, what it earned, and where it was wasted."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tidefleet.cli.output import fail, json_text, put
from tidefleet.cli.report_table import csv_text, print_report
from tidefleet.reporting.files import RecordsError
from tidefleet.reporting.period import BadRange, Period, parse_range
from tidefleet.reporting.prometheus import add_bill, read_prometheus
from tidefleet.reporting.records import read_records
from tidefleet.reporting.report import Report, report_of
from tidefleet.reporting.values import By, Found
from tidefleet.telemetry.asking import Access, PrometheusError

MOST_ROWS = 10_000


class ReportForm(StrEnum):
    """What the command prints."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    HTML = "html"


def report(
    records: Annotated[
        list[Path] | None,
        typer.Option(help="Usage records: a file (.jsonl, .gz, .zst, .parquet) or a directory; may be repeated."),
    ] = None,
    prometheus: Annotated[
        str, typer.Option(help="A Prometheus that scrapes tidefleet; beside --records it says what was paid.")
    ] = "",
    prometheus_token_file: Annotated[
        Path | None, typer.Option(help="File with a bearer token for that Prometheus.")
    ] = None,
    by: Annotated[By, typer.Option(help="What a row stands for.")] = By.POOL,
    length: Annotated[
        str, typer.Option("--range", help="7d, 12h, 30m, 4w up to now, or FROM..TO, e.g. 2026-11-01..2026-11-08.")
    ] = "7d",
    top: Annotated[
        int, typer.Option(help="Rows; what is below the largest shares one more.", min=1, max=MOST_ROWS)
    ] = 50,
    form: Annotated[ReportForm, typer.Option("-o", "--output", help="table, json, csv or html.")] = ReportForm.TABLE,
    output_file: Annotated[Path | None, typer.Option(help="File to write to, instead of standard output.")] = None,
) -> None:
    """Divide a period's bill among tenants, teams, features, classes, pools or accelerators.

    Rows and lines sum to the bill. Usage is what tokens needed; allocated is their part of what was paid, and what
    nobody used is a line of its own.
    """
    try:
        period = parse_range(length, time.time())
        access = Access.with_file(prometheus, prometheus_token_file) if prometheus else None
        made = report_of(_found(records or [], access, by, period, top))
    except (BadRange, RecordsError, PrometheusError) as error:
        fail(str(error), 2)
    _write(made, form, output_file)


def _found(records: list[Path], access: Access | None, by: By, period: Period, top: int) -> Found:
    if records:
        found = read_records(records, by, period, top=top)
        if access is not None:
            add_bill(access, found)
        return found
    if access is None:
        fail(
            "nothing to read; expected --records PATH, --prometheus URL or both, e.g. --records usage.jsonl",
            2,
        )
    return read_prometheus(access, by, period)


def _write(made: Report, form: ReportForm, path: Path | None) -> None:
    match form:
        case ReportForm.JSON:
            text = json_text(made.as_json())
        case ReportForm.CSV:
            text = csv_text(made)
        case ReportForm.HTML:
            from tidefleet.cli.report_page import page  # noqa: PLC0415 - only where it is asked for

            text = page(made)
        case ReportForm.TABLE:
            if path is None:
                print_report(made)
                return
            text = print_report(made, capture=True)
    put(text, path)
