"""The page of `tidefleet simulate -o html`: one self-contained file, without scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from tidefleet.cli.html import SECTIONS_STYLE, document, sections, table
from tidefleet.cli.simulate_picture import COLOURS, PICTURE_STYLE, attained, balance, bars, ribbon, waterfall
from tidefleet.cli.simulate_rows import (
    CLASS_HEADS,
    Column,
    classes,
    columns_of,
    figures,
    lost,
    share,
    totals,
    usd,
)
from tidefleet.simulator.run import Report

_STYLE = SECTIONS_STYLE + PICTURE_STYLE


def page(report: Report) -> str:
    """A report as one HTML document; nothing is loaded from elsewhere."""
    columns = columns_of(report)
    parts = list(_parts(report, columns))
    many = f"median of {len(report.ours)} seeds" if len(report.ours) > 1 else f"seed {next(iter(report.ours))}"
    return document(
        f"{report.scenario.name}: simulation",
        [
            f"<h1>{escape(report.scenario.name)}</h1>",
            f'<p class="soft">{escape(report.scenario.summary)} {escape(many.capitalize())}.</p>',
            *sections(parts),
        ],
        colours=COLOURS,
        style=_STYLE,
        skip=(parts[-1][0], "To the last table") if parts else None,
    )


def _parts(report: Report, columns: Sequence[Column]) -> Iterator[tuple[str, str, str]]:
    """Anchor, title and HTML of each part that there is something to show of."""
    ours = columns[0].median
    heads = ("Figure", *(one.name for one in columns))
    if ours.words:
        yield "words", "In words", "".join(f"<p>{escape(one)}</p>" for one in ours.words)
    if rows := totals(columns):
        yield "totals", "The whole run", table("Least and most over the seeds in parentheses.", heads, rows)
    if picture := ribbon(ours):
        yield "day", "Nodes through the day", picture
    if picture := waterfall(ours):
        told = [("needed", share(ours.utilization or 0.0)), *((name, share(one)) for name, one in lost(ours))]
        yield (
            "waterfall",
            "Where the paid seconds went",
            picture + table("Shares sum to all that is paid.", ("Cause", "Share"), told),
        )
    if rows := classes(report, ours):
        body = attained(report, ours) + table("Objectives: TTFT by prompt length, and mean TPOT.", CLASS_HEADS, rows)
        yield "classes", "Percentiles against objectives", body
    for name, title, prices in (
        ("class-usd", "$ per 1M tokens by class", ours.usd_by_class),
        ("accelerator-usd", "$ per 1M tokens by accelerator", ours.usd_by_accelerator),
    ):
        if prices:
            yield name, title, bars(title, [(key, value, usd(value)) for key, value in prices.items()])
    if body := balance(columns):
        yield "balance", "Hit rate and balance", body
    if rows := figures(columns):
        yield "figures", "Figures", table("What this scenario is about; units are in the names.", heads, rows)
