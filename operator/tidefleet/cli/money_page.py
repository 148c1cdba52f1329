"""The page of `tidefleet money -o html`: one self-contained file, without scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from tidefleet.cli.html import SECTIONS_STYLE, document, sections, table
from tidefleet.cli.money_picture import COLOURS, PICTURE_STYLE, capacity, cash, regret, worth
from tidefleet.cli.money_table import (
    DECISION_HEADS,
    decision_rows,
    dollars,
    elasticity_lines,
    month_table,
    percent,
    pool_table,
    regret_table,
    summary,
    what_if_lines,
)

_STYLE = SECTIONS_STYLE + PICTURE_STYLE
_MOST_SCENARIOS = 60


def page(answer: Mapping[str, Any]) -> str:
    """An answer as one HTML document; nothing is loaded from elsewhere."""
    parts = [one for one in _parts(answer) if one[2]]
    return document(
        f"{answer['book']}: money over {answer['horizon_months']} months",
        [
            f"<h1>{escape(answer['book'])}</h1>",
            *(f"<p>{escape(line[:1].upper() + line[1:])}.</p>" for line in summary(answer)),
            *sections(parts),
        ],
        colours=COLOURS,
        style=_STYLE,
        skip=("months", "To the table of months"),
    )


def _heads(heads: Sequence[str]) -> list[str]:
    return [one.lstrip("#").capitalize() if not one.startswith("#$") else one[1:] for one in heads]


def _parts(answer: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Anchor, title and HTML of each part."""
    yield "cash", "Cash flow", _soft("Mean of the scenarios. Purchases are paid when they are ordered.") + cash(answer)
    yield "worth", "Cumulative net present value", worth(answer)
    pools = [one["pool"] for one in answer["pools"]]
    pictures = [(pool, capacity(answer, pool)) for pool in pools]
    body = "".join(f"<h3>{escape(pool)}</h3>{picture}" for pool, picture in pictures if picture)
    yield "capacity", "Capacity over months", body and _soft("Tokens a month, mean of the scenarios.") + body
    decided = answer["decisions"]
    told = ""
    if rows := decision_rows(decided["before_it_is_known"]):
        note = f"To decide before month {answer['known_from_month']}, whatever comes."
        told += table(note, _heads(DECISION_HEADS), rows)
    if rows := decision_rows(decided["in_that_scenario"]):
        told += table(f"All that is done if {decided['scenario']} comes.", _heads(DECISION_HEADS), rows)
    yield "decisions", "Decisions", told
    heads, rows = regret_table(answer)
    note = "Regret is what a policy costs over knowing the scenario from the start. Dark: the mean; light: at most."
    yield "regret", "Regret", _soft(note) + regret(answer) + table("USD today.", _heads(heads), rows)
    yield "scenarios", "Scenarios", _scenarios(answer)
    heads, rows = pool_table(answer["pools"])
    yield "pools", "Pools", table("USD per million tokens over the horizon, in today's money.", _heads(heads), rows)
    if lines := elasticity_lines(answer):
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        yield "elasticity", "If users pay what the plan saves", f"<ul>{items}</ul>"
    if change := answer.get("what_if"):
        heads, rows = pool_table(change["pools"])
        words = "".join(f"<p>{escape(line[:1].upper() + line[1:])}.</p>" for line in what_if_lines(change))
        yield (
            "what-if",
            f"What if {', '.join(change['questions'])}",
            words + table("USD per million tokens, in today's money.", _heads(heads), rows),
        )
    heads, rows = month_table(answer)
    yield "months", "Months", table("Mean of the scenarios, USD.", _heads(heads), rows)
    if answer["notes"]:
        yield "notes", "Notes", "".join(f"<p>{escape(note)}</p>" for note in answer["notes"])


def _scenarios(answer: Mapping[str, Any]) -> str:
    shown = answer["scenarios"][:_MOST_SCENARIOS]
    rows = [
        (
            one["name"],
            percent(one["probability"]),
            dollars(one["npv_usd"]),
            percent(one["irr"]),
            "-" if one["payback_months"] is None else f"{one['payback_months']:.1f}",
            dollars(one["regret_usd"]["plan"]),
            dollars(one["regret_usd"]["buy_now"]),
            dollars(one["regret_usd"]["wait"]),
        )
        for one in shown
    ]
    heads = ("Scenario", "Probability", "NPV", "IRR", "Payback months", "Regret: plan", "Buying now", "Waiting")
    left = len(answer["scenarios"]) - len(shown)
    return table("By scenario." + (f" {left} more are in the JSON." if left else ""), heads, rows)


def _soft(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>'
