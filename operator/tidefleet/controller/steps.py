"""From a plan to the replicas to ask for now: make before break, and no faster than spending may grow."""

from __future__ import annotations

from collections.abc import Mapping

from tidefleet.controller.decision import Target
from tidefleet.controller.groups import group_size
from tidefleet.controller.template import deployment_name
from tidefleet.controller.view import PoolMemory, PoolView, Served
from tidefleet.planning.options import PLANNING_UTILISATION, Market, Option
from tidefleet.planning.pool import PoolPlan
from tidefleet.planning.transition import Running, next_replicas


def step(
    view: PoolView, plan: PoolPlan, memory: PoolMemory, market: Market, *, may_lower: bool
) -> tuple[tuple[Target, ...], str]:
    """Replicas of each workload to ask for now, and the sentence about the spending limit when it binds."""
    pool = view.pool
    served = {one.name: one for one in view.served}
    names: dict[Option, str] = {one.option: one.name for one in view.served}
    target: dict[str, int] = {}
    for chosen in plan.chosen:
        option = chosen.option
        if option not in names:
            names[option] = deployment_name(pool.name, option)
            kind = view.kinds.get(option.accelerator)
            served[names[option]] = Served(names[option], option, None, group_size(option, kind) if kind else 1)
        target[names[option]] = chosen.replicas
    running = _running(view, plan, market)
    pinned = pool.spec.pinned_replicas is not None
    # Where even the plan falls short of the demand, the owner's limits win over it.
    required = min(plan.requests_per_second, plan.capacity)
    moving = {name: count for name, count in view.moving.items() if target.get(name)}
    wanted = next_replicas(
        {name: count + moving.get(name, 0) for name, count in target.items()},
        running,
        required=required,
        may_lower=may_lower or pinned,
    )
    for name, count in view.leaving.items():  # whatever holds the others: these serve nobody any more
        if name in running and wanted[name] == running[name].desired:
            wanted[name] = max(target.get(name, 0), wanted[name] - count)
    cost = {names[c.option]: c.usd_per_hour for c in market.candidates if c.option in names}
    capped = ""
    limit = pool.spec.cost_target.max_spend_increase_usd_per_hour
    now_cost = sum(one.desired * cost.get(one.name, 0.0) for one in view.served)
    memory.ledger.note(view.now, now_cost)
    if limit is not None:
        wanted, capped = _within_spending(wanted, running, cost, memory.ledger.ceiling(view.now, float(limit)), limit)
    targets = tuple(
        Target(served[name], target.get(name, 0), count)
        for name, count in sorted(wanted.items())
        if count or target.get(name, 0) or served[name].workload is not None
    )
    return targets, capped


def _running(view: PoolView, plan: PoolPlan, market: Market) -> dict[str, Running]:
    by_option = {c.option: c for c in market.candidates}
    ready = sum(one.ready for one in view.served)
    usual = plan.requests_per_second / ready if ready else 0.0  # of an option that is no candidate any more
    found = {}
    for one in view.served:
        if one.workload is None or one.name in view.conflicts:
            continue
        known = by_option.get(one.option)
        found[one.name] = Running(
            desired=one.desired,
            ready=one.ready,
            coverage=known.requests_per_second * PLANNING_UTILISATION if known else usual,
            usd_per_hour=known.usd_per_hour if known else float("inf"),
        )
    return found


def _within_spending(
    wanted: dict[str, int], running: Mapping[str, Running], cost: Mapping[str, float], ceiling: float, limit: object
) -> tuple[dict[str, int], str]:
    """Fewer new replicas where the hour's spending limit would be passed; what runs is never lowered for it."""
    total = sum(count * cost.get(name, 0.0) for name, count in wanted.items())
    if total <= ceiling + 1e-9:
        return wanted, ""
    limited = dict(wanted)
    for name in sorted(wanted, key=lambda name: -cost.get(name, 0.0)):
        floor = running[name].desired if name in running else 0
        while limited[name] > floor and total > ceiling + 1e-9:
            limited[name] -= 1
            total -= cost.get(name, 0.0)
    message = f"spending may rise by ${limit}/h within an hour (maxSpendIncreaseUsdPerHour), to ${ceiling:.2f}/h"
    return limited, message
