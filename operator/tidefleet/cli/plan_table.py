"""Plans as tables: the choice, what lost, what is wrong, and what a question changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from tidefleet.cli import margins
from tidefleet.cli.output import print_table
from tidefleet.controller.decision import Decision
from tidefleet.controller.status import decimal, pool_status
from tidefleet.economics.tasks import TaskCost
from tidefleet.planning.words import brief, sureness


def print_decision(decision: Decision, tasks: Mapping[str, TaskCost]) -> None:
    """One decision as tables."""
    pool = decision.view.pool
    status = pool_status(decision, before={}, generation=0, decision_id="", now=decision.view.now)
    paper = ("Ready", "Reconciling")  # nothing runs on paper
    status["conditions"] = [one for one in status["conditions"] if decision.plan is None or one["type"] not in paper]
    told = [f"a task of {name} costs ${brief(one.usd.mean)}, p95 ${brief(one.usd.p95)}" for name, one in tasks.items()]
    told += margins.lines(margins.earnings(decision))
    print_status(f"{pool.namespace}/{pool.name}", status, decision.reason, told)
    if decision.plan is not None and not decision.rate:
        typer.echo(f"  its demand is measured; to plan for some: --demand {pool.namespace}/{pool.name}=20\n")


def compared(before: Decision, after: Decision) -> dict[str, Any]:
    """What changes: the choice, and USD per hour before and after."""
    old = before.plan.usd_per_hour if before.plan else None
    new = after.plan.usd_per_hour if after.plan else None
    return {
        "choiceChanges": before.summary != after.summary,
        "usdPerHourBefore": old,
        "usdPerHourAfter": new,
        "usdPerHourDifference": None if old is None or new is None else new - old,
    }


def print_comparison(questions: Sequence[str], before: Sequence[Decision], after: Sequence[Decision]) -> None:
    """Pools before and after the questions, one line each."""
    rows = []
    for old, new in zip(before, after, strict=True):
        pool = old.view.pool
        change = compared(old, new)
        difference = change["usdPerHourDifference"]
        rents = [change["usdPerHourBefore"], change["usdPerHourAfter"]]
        rows.append(
            (
                f"{pool.namespace}/{pool.name}",
                old.summary,
                new.summary if change["choiceChanges"] else "as before",
                *("-" if one is None else f"{one:.2f}" for one in rents),
                "-" if difference is None else f"{difference:+.2f}",
            )
        )
    columns = ("POOL", "NOW", "THEN", "#$/H NOW", "#$/H THEN", "#CHANGE")
    print_table(f"what if {', '.join(questions)}", columns, rows)
    for new in after:
        name = f"{new.view.pool.namespace}/{new.view.pool.name}"
        if new.plan is None or new.plan.shortfall:
            typer.echo(f"  {name}: {new.reason}")
        for missed in new.plan.missed if new.plan is not None else ():
            typer.echo(f"  {name}: {missed.why}")
        if new.plan is not None and new.plan.spill is not None:
            typer.echo(f"  {name}: {new.plan.spill}")
        for one in new.plan.break_even if new.plan is not None else ():
            typer.echo(f"  {name}: the choice then changes at {one.what} = {decimal(one.at)}")


def _option_row(one: Mapping[str, Any]) -> tuple[str, ...]:
    names = (
        "accelerator",
        "capacityType",
        "tensorParallel",
        "weights",
        "kv",
        "replicas",
        "ready",
        "chips",
        "usdPerHour",
    )
    return tuple(str(one.get(name, "-")) for name in names)


def _sureness(options: Sequence[Mapping[str, Any]]) -> str:
    """What the options' estimates rest on, e.g. ``l40s calibrated live, ±4 %; h100-sxm roofline, ±25 %``."""
    told = {
        f"{one['accelerator']} {sureness(str(one['provenance']), float(one['sigma']))}": None
        for one in options
        if one.get("provenance") and one.get("sigma")
    }
    return "; ".join(told)


def _tier_lines(found: Mapping[str, Any] | None) -> list[str]:
    """How large KV tiers pay for themselves, and what that rests on."""
    if not found or not found.get("tiers"):
        return []
    lines = [f"KV tier {one['what']}" + (f"; {one['setUp']}" if one.get("setUp") else "") for one in found["tiers"]]
    if any(one["bytesPerReplica"] for one in found["tiers"]):
        saves = ("save" if found["use"] == "Counted" else "would save") + f" ${found['savesUsdPerHour']}/h in all"
        lines.append(f"KV tiers {saves} and hold KV up to {found['oversubscription']} times the room on the chips")
    return [*lines, f"KV tiers: {found['source']}"] if found.get("source") else lines


def print_status(name: str, status: dict[str, Any], reason: str, more: Sequence[str] = ()) -> None:
    """A pool's plan as its status tells it: the choice, the alternatives, break-even prices, and what is wrong.

    Args:
        more: lines on what it costs.
    """
    plan = status.get("plan") or {}
    typer.echo(f"{name}: {reason}")
    if plan.get("options"):
        print_table(
            "",
            ("ACCELERATOR", "CAPACITY", "#TP", "WEIGHTS", "KV", "#REPLICAS", "#READY", "#CHIPS", "#$/H"),
            [_option_row(one) for one in plan["options"]],
        )
        per_million = plan.get("usdPerMillionTokens")
        cost = f"${plan['usdPerHour']}/h (no plan can cost less than ${plan['lowerBoundUsdPerHour']}/h)"
        typer.echo(f"  cost {cost}" + (f", ${per_million} per 1M tokens" if per_million else ""))
        if "marginUsdPerHour" in plan:
            margin = plan["marginUsdPerHour"]
            left = f"-${margin[1:]}" if margin.startswith("-") else f"${margin}"
            typer.echo(f"  its classes earn ${plan['revenueUsdPerHour']}/h: margin {left}/h")
        for one in plan.get("nodes", ()):
            if one["idleChips"]:
                typer.echo(f"  {one['what']}")
        if plan.get("spill"):
            typer.echo(f"  {plan['spill']['what']}")
        for line in _tier_lines(plan.get("kvTiers")):
            typer.echo(f"  {line}")
        for line in more:
            typer.echo(f"  {line}")
        if sure := _sureness(plan["options"]):
            typer.echo(f"  estimates: {sure}")
    if plan.get("runnersUp"):
        rows = [(one["option"], one.get("usdPerMillionTokens", "-"), one["lostBecause"]) for one in plan["runnersUp"]]
        print_table("  what lost", ("  OPTION", "#$/1M", "BECAUSE"), [(f"  {a}", b, c) for a, b, c in rows])
    for one in plan.get("breakEven", ()):
        typer.echo(f"  the choice changes at {one['what']} = {one['at']}")
    for one in plan.get("shadowPrices", ()):
        typer.echo(f"  {one['what']}")
    for one in status.get("conditions", ()):
        neutral = one["type"] in ("Reconciling", "Flipping")
        if (one["status"] != "True" and not neutral) or (one["type"] == "Reconciling" and one["status"] == "True"):
            typer.echo(f"  {one['type']}={one['status']} ({one['reason']}): {one['message']}")
    typer.echo("")
