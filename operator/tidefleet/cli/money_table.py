"""`tidefleet money -o table`: the answer as a person reads it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from tidefleet.planning.words import brief

POLICY_WORDS = {
    "plan": "the plan",
    "buy_now": "buying now",
    "wait": "waiting",
    "rent_only": "renting only",
}
_WIDTH = 110
_SIZES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def dollars(value: float | None) -> str:
    """USD, short: $1.23M; ``-`` where it is not known."""
    if value is None:
        return "-"
    for size, letter in _SIZES:
        if abs(value) >= size:
            return f"{'-' if value < 0 else ''}${abs(value) / size:,.3g}{letter}"
    return f"{'-' if value < 0 else ''}${abs(value):,.2f}"


def per_million(value: float | None) -> str:
    """USD per million tokens."""
    return "-" if value is None else f"${value:.4g}"


def amount(value: float) -> str:
    """Tokens or chips, short."""
    for size, letter in _SIZES:
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def percent(value: float | None) -> str:
    """A share as percent."""
    return "-" if value is None else f"{100.0 * value:,.1f} %" if abs(value) < 100 else f"{100.0 * value:,.0f} %"


def summary(answer: Mapping[str, Any]) -> list[str]:
    """The answer in sentences."""
    rate = percent(answer["irr"]) + (f" ({answer['irr_note']})" if answer["irr_note"] else "")
    rate = rate if answer["irr"] is not None else f"none: {answer['irr_note']}"
    back = answer["payback_months"]
    payback = answer["payback_note"] if back is None else f"after {back:.1f} months" if back else "nothing is laid out"
    users = answer["break_even_users"]
    told = answer["break_even_note"] if users is None else f"{users:,.0f} users in the first month"
    have = f" (the book has {answer['users']:,.0f})" if users is not None and answer["users"] else ""
    lines = [
        f"net present value {dollars(answer['npv_usd'])} over {answer['horizon_months']} months at "
        f"{percent(answer['discount_per_year'])} a year; rate of return {rate}",
        f"payback {payback}; break-even {told}{have}",
    ]
    orders = answer["orders"]
    if orders["npv_usd"] is not None:
        share = f"rate of return {percent(orders['irr'])}" if orders["irr"] is not None else orders["irr_note"]
        lines.append(f"buying and committing is worth {dollars(orders['npv_usd'])} against renting alone ({share})")
    return lines


def month_table(answer: Mapping[str, Any], every: int = 1) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows of the months; only each so-manieth, and the first and last."""
    heads = ("MONTH", "#TOKENS", "#COST", "#REVENUE", "#CASH FLOW", "#PURCHASES", "#SALES", "#CUMULATIVE NPV")
    last = answer["horizon_months"]
    rows = [
        (
            str(one["month"]) if one["month"] else "today",
            amount(one["tokens"]),
            *(
                dollars(one[name])
                for name in (
                    "cost_usd",
                    "revenue_usd",
                    "cash_flow_usd",
                    "capex_usd",
                    "sale_usd",
                    "cumulative_npv_usd",
                )
            ),
        )
        for one in answer["months"]
        if one["month"] in (0, 1, last) or one["month"] % every == 0
    ]
    return heads, rows


def pool_table(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows of the pools' prices."""
    heads = ("POOL", "#$/1M COST", "#$/1M EARNED", "#MARGIN", "#$/1M HOSTED", "#$/1M BOUGHT", "VERDICT")
    return heads, [
        (
            one["pool"],
            per_million(one["usd_per_million_tokens"]),
            per_million(one["revenue_usd_per_million_tokens"]),
            percent(one["margin"]),
            per_million(one["hosted_usd_per_million_tokens"]),
            per_million(one["external_usd_per_million_tokens"]),
            verdict(one),
        )
        for one in rows
    ]


def verdict(one: Mapping[str, Any]) -> str:
    """Whether a pool loses money, and whether its tokens are cheaper bought, in words."""
    words = {True: "loses money", False: "earns", None: "earns nothing known"}[one["loss_making"]]
    if one["loss_making_hosted"] and not one["loss_making"]:
        words = "loses money when hosted"
    bought = {True: ", cheaper bought outside", False: ", cheaper hosted", None: ""}[one["cheaper_bought"]]
    return words + bought


def regret_table(answer: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows of the policies: cost in the mean, regret in the mean and at most, and by the first scenarios."""
    shown = answer["scenarios"][:4]
    heads = ("POLICY", "#COST TODAY", "#REGRET", "#AT MOST", *(f"#{one['name'].upper()}" for one in shown))
    rows = [
        (
            POLICY_WORDS[one["policy"]] + (f" ({one['why_not']})" if one["why_not"] else ""),
            dollars(one["cost_usd_today"]),
            dollars(one["regret_usd"]),
            dollars(one["most_regret_usd"]),
            *(dollars(each["regret_usd"][one["policy"]]) for each in shown),
        )
        for one in answer["policies"]
    ]
    return heads, rows


DECISION_HEADS = ("POOL", "WHEN", "WHAT", "#CHIPS", "#TOKENS A MONTH")


def decision_rows(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Decisions as rows; the same done month after month is told once, with all its chips."""
    told: list[tuple[str, ...]] = []
    for run in _runs(sorted(rows, key=lambda one: (one["pool"], one["action"], one["type"], one["month"]))):
        first, last = run[0], run[-1]
        continuous = first["action"] in ("Rent", "External")
        when = "today" if first["month"] == 0 else f"month {first['month']}"
        if continuous:
            when = f"months {first['month'] + 1} to {last['until_month']}"
        elif last["month"] != first["month"]:
            when += f" to {last['month']}"
        chips = sum(one["chips"] for one in run)
        told.append(
            (
                first["pool"],
                when,
                _what(first, last, several=len(run) > 1),
                brief(chips, 3) if chips else "-",
                amount(sum(one["tokens_per_month"] for one in run)),
            )
        )
    return told


def _what(first: Mapping[str, Any], last: Mapping[str, Any], *, several: bool) -> str:
    name = first["type"]
    match first["action"]:
        case "Buy":
            return f"buy {name}" + ("" if several else f", in use until month {last['until_month']}")
        case "Reserve":
            return f"commit to {name} for {first['until_month'] - first['month']} months"
        case "Rent":
            return f"rent {name}"
        case "External":
            return f"buy tokens of {name}"
        case _:
            return f"sell {name}"


def _runs(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    run: list[Mapping[str, Any]] = []
    for one in rows:
        alike = run and all(run[-1][key] == one[key] for key in ("pool", "action", "type"))
        if alike and one["action"] not in ("Rent", "External") and one["month"] <= run[-1]["month"] + 1:
            length = one["until_month"] - one["month"], run[-1]["until_month"] - run[-1]["month"]
            if one["action"] != "Reserve" or length[0] == length[1]:
                run.append(one)
                continue
        if run:
            yield run
        run = [one]
    if run:
        yield run


def elasticity_lines(answer: Mapping[str, Any]) -> list[str]:
    """What a lower price does to demand and spend, in sentences."""
    return [
        f"e = {one['elasticity']:g}: the price falls to {percent(one['price_ratio'])}, demand goes to "
        f"{percent(one['tokens_ratio'])} and total spend to {percent(one['spend_ratio'])}"
        for one in answer["elasticity"]
    ]


def what_if_lines(change: Mapping[str, Any]) -> list[str]:
    """A what-if in sentences."""
    lines = [f"net present value {dollars(change['npv_usd_before'])} becomes {dollars(change['npv_usd'])}"]
    for key, one, many in (
        ("turn_loss_making", "turns loss-making when hosted", "turn loss-making when hosted"),
        ("become_cheaper_bought", "is then cheaper bought", "are then cheaper bought"),
    ):
        names = change[key]
        lines.append(f"{', '.join(names) or 'no pool'} {one if len(names) < 2 else many}")
    return lines


def print_money(answer: Mapping[str, Any], *, capture: bool = False) -> str:
    """The whole answer on standard output, or as text."""
    if not capture:
        _print(answer)
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        _print(answer)
    return text.getvalue()


def _print(answer: Mapping[str, Any]) -> None:
    typer.echo(f"{answer['book']}: {summary(answer)[0]}")
    for line in summary(answer)[1:]:
        typer.echo(f"  {line}")
    typer.echo("")
    _table("by month, mean of the scenarios", *month_table(answer, every=6 if answer["horizon_months"] > 12 else 1))
    decided = answer["decisions"]
    rows = decision_rows(decided["before_it_is_known"])
    if rows:
        _table(f"to decide before month {answer['known_from_month']}, whatever comes", DECISION_HEADS, rows)
    _table(
        f"all that is done if {decided['scenario']} comes", DECISION_HEADS, decision_rows(decided["in_that_scenario"])
    )
    _table("what each policy costs, and its regret against foresight", *regret_table(answer))
    _table("pools, in today's money", *pool_table(answer["pools"]))
    if answer["elasticity"]:
        typer.echo("if users pay what the plan saves against renting alone")
        for line in elasticity_lines(answer):
            typer.echo(f"  {line}")
        typer.echo("")
    if change := answer.get("what_if"):
        _table(f"what if {', '.join(change['questions'])}", *pool_table(change["pools"]))
        for line in what_if_lines(change):
            typer.echo(f"  {line}")
    for note in answer["notes"]:
        typer.echo(f"  {note}")


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head.lstrip("#"), justify="right" if head.startswith("#") else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=False, width=None if Console().is_terminal else _WIDTH).print(table)
    typer.echo("")
