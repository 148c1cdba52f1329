"""The plan of one pool: the cheapest set of options for its demand, why it won, and what the others would have cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tidefleet.economics.owned import HOURS_PER_MONTH
from tidefleet.planning.options import PLANNING_UTILISATION, SPOT, Candidate
from tidefleet.planning.problem import (
    BreakEven,
    Chosen,
    Missed,
    NothingFits,
    PoolPlan,
    PoolProblem,
    RunnerUp,
    ShadowPrice,
    TierChoices,
    TierPlan,
    describe,
    per_million,
    tokens_per_request,
)
from tidefleet.planning.rivals import (
    Rival,
    apart_rivals,
    external_rivals,
    priced_offers,
    rejections,
    runner_up,
    single_type_rivals,
    without_price,
)
from tidefleet.planning.shadow import shadow_prices
from tidefleet.planning.solution import Solution, bound, least_replicas, solve
from tidefleet.planning.spill import spill_of
from tidefleet.planning.tiers import best_choice, frozen, sized
from tidefleet.planning.turning import HORIZON_SECONDS, SWITCH_FACTOR, SWITCH_SAVING, turning_prices
from tidefleet.planning.words import brief

__all__ = [
    "BreakEven",
    "Chosen",
    "Missed",
    "NothingFits",
    "PoolPlan",
    "PoolProblem",
    "RunnerUp",
    "ShadowPrice",
    "advised_tiers",
    "describe",
    "plan_pool",
]

SAME_COST = 0.005
"""Below this share a difference in cost is none."""


@dataclass(frozen=True, slots=True)
class _Best:
    """What a pool should have.

    Attributes:
        floor: USD per hour, without what is owed in any case, below which no plan is.
        kept: why it keeps what it runs where others are cheaper, in words; ``kept_for`` in one.
    """

    solution: Solution
    floor: float
    kept: str = ""
    kept_for: str = ""


_TOLD = 6
"""Accelerator types told before other kinds of alternatives: the status holds sixteen lines in all."""


def plan_pool(problem: PoolProblem) -> PoolPlan | NothingFits:
    """The cheapest plan for a pool, unless the present accelerators are so close that moving is not worth it.

    Moving is what takes replicas away that run, in favour of another option. A plan that keeps them all and adds some
    of another option moves nothing: growth, or a first plan of several options of which one is still missing.

    A pool whose KV tiers may have several sizes is planned under each, and has the cheapest with its tiers counted.
    """
    if not problem.market.candidates:
        losers = without_price(problem, None) + rejections(problem)
        return NothingFits(problem.pool, _nothing_fits(losers), losers)
    if problem.tiers is None or not problem.tiers.choices:
        return _explain(problem, _best(problem))
    mine, best, told = _sizes(problem, problem.tiers, counted=True)
    return replace(_explain(mine, best), tiers=told)


def advised_tiers(problem: PoolProblem, choices: TierChoices) -> TierPlan | None:
    """How large KV tiers would pay for themselves, for a plan that does not count on them."""
    return _sizes(problem, choices, counted=False)[2] if choices.choices else None


def _sizes(problem: PoolProblem, choices: TierChoices, *, counted: bool) -> tuple[PoolProblem, _Best, TierPlan]:
    """The pool under the choice of sizes that is cheapest, what it should have, and what is told of the choice."""
    mine = [frozen(replace(problem, tiers=choices), index) for index in range(len(choices.choices))]
    best = [_best(one) for one in mine]
    rollout = SWITCH_FACTOR * problem.start_seconds / HORIZON_SECONDS  # every replica is started anew beside the old
    saving = max(SWITCH_SAVING, rollout) if problem.may_switch else math.inf
    index = best_choice(choices, [one.solution for one in best], saving=saving)
    found = []
    for one, each in zip(mine, best, strict=True):
        counts = zip(one.market.candidates, each.solution.counts, strict=True)
        found.append((each.solution, [Chosen(candidate, n) for candidate, n in counts if n]))
    least = replace(
        best[index], floor=min(one.floor for one in best)
    )  # the sizes may be kept although others cost less
    return mine[index], least, sized(choices, found, index, counted=counted)


def _best(problem: PoolProblem) -> _Best:
    """What the pool should have, and why it keeps what it runs where others are cheaper."""
    candidates = problem.market.candidates
    best = solve(problem, candidates)
    floor = _floor(problem, best)
    in_use = [c for c in candidates if problem.running.get(c.option)]
    if not in_use or not _moves(problem, candidates, best.counts):
        return _Best(best, floor)
    kept = solve(problem, in_use)
    saving = kept.cost - best.cost
    needed = _saving_needed(problem, candidates, best, kept)
    worth_it = saving > needed
    if kept.shortfall > best.shortfall or (worth_it and problem.may_switch):
        return _Best(best, floor)
    better = describe((c.option, n) for c, n in zip(candidates, best.counts, strict=True))
    share = saving / kept.cost if kept.cost else 0.0
    why = (
        "held until the dwell since the last change has passed"
        if worth_it
        else f"below the ${brief(needed)}/h that moving must save"
    )
    alike = saving <= SAME_COST * kept.cost
    told = "; others cost as much" if alike else f"; {better} would save ${brief(saving)}/h ({share:.0%}), {why}"
    by_option = dict(zip((c.option for c in in_use), kept.counts, strict=True))
    counts = tuple(by_option.get(c.option, 0) for c in candidates)
    return _Best(replace(kept, counts=counts), floor, told, "Dwell" if worth_it else "Saving")


def _floor(problem: PoolProblem, best: Solution) -> float:
    """USD per hour below which no plan is, whatever limits on chips are lifted: the optimum where it is proven."""
    floor = bound(problem)
    if problem.caps and best.proven:
        best = solve(replace(problem, type_caps={}, steered={}), problem.market.candidates)
    whole = best.proven and not best.shortfall and not best.spare_missing
    return max(floor, best.cost) if whole else floor


def _saving_needed(problem: PoolProblem, candidates: Sequence[Candidate], best: Solution, kept: Solution) -> float:
    """USD per hour that a change must save: several times what it costs over the horizon, and a least share.

    While new replicas start, the old ones go on: what arrives is paid beside them for ``start_seconds``.
    """
    arriving = sum(
        max(0, n - problem.running.get(c.option, 0)) * c.usd_per_hour
        for c, n in zip(candidates, best.counts, strict=True)
    )
    moving = arriving * problem.start_seconds / HORIZON_SECONDS
    return max(SWITCH_SAVING * kept.cost, SWITCH_FACTOR * moving)


def _moves(problem: PoolProblem, candidates: Sequence[Candidate], counts: Sequence[int]) -> bool:
    """Whether an option that does not run would take the place of replicas that do."""
    now = [problem.running.get(c.option, 0) for c in candidates]
    arrives = any(n and not m for n, m in zip(counts, now, strict=True))
    return arrives and any(n < m for n, m in zip(counts, now, strict=True))


def _explain(problem: PoolProblem, best: _Best) -> PoolPlan:
    candidates, solution = problem.market.candidates, best.solution
    chosen = tuple(
        sorted(
            (Chosen(c, n) for c, n in zip(candidates, solution.counts, strict=True) if n),
            key=lambda one: -one.replicas * one.candidate.usd_per_hour,
        )
    )
    committed = sum(one.replicas * one.candidate.committed_usd_per_hour for one in chosen)
    cost = solution.cost + committed  # whatever else were chosen, it would be owed beside it
    tokens = problem.requests_per_second * tokens_per_request(problem)
    per_token = per_million(cost, tokens * (1.0 - solution.shortfall))  # what is not served costs nothing
    chosen_types = {one.option.accelerator for one in chosen}
    rivals = single_type_rivals(problem, chosen_types, committed)
    losers = [runner_up(problem, one, cost, tokens) for one in rivals]
    alone = [
        one
        for one in rivals
        if one.solution.shortfall <= solution.shortfall and one.solution.spare_missing <= solution.spare_missing
    ]
    savings = max(0.0, min((one.solution.cost for one in alone), default=cost) - cost) if len(chosen_types) > 1 else 0.0
    power = sum(one.replicas * one.candidate.electricity_usd_per_hour for one in chosen)
    storage = sum(one.replicas * one.candidate.storage_usd_per_hour for one in chosen)
    outsiders = [one for one in alone if one.accelerator not in chosen_types]
    others = tuple(one.chosen for one in outsiders)
    # One that is led by the whole nodes of all pools is compared where all of them are known.
    break_even = () if problem.steered else turning_prices(problem, chosen, others)
    capacity = sum(one.replicas * one.candidate.requests_per_second for one in chosen) * PLANNING_UTILISATION
    missed = _missed(problem, replace(solution, cost=cost), per_token)
    outside, outside_even = external_rivals(problem, cost - committed)
    return PoolPlan(
        pool=problem.pool,
        chosen=chosen,
        requests_per_second=problem.requests_per_second,
        tokens_per_second=tokens,
        capacity=capacity,
        usd_per_hour=cost,
        lower_bound_usd_per_hour=min(cost, best.floor + committed),
        usd_per_million_tokens=per_token,
        savings_usd_per_hour=savings,
        shortfall=solution.shortfall,
        missed=missed,
        runners_up=(
            tuple(losers[:_TOLD])
            + apart_rivals(problem, cost - committed)
            + outside
            + tuple(losers[_TOLD:])
            + without_price(problem, cost - committed)
            + rejections(problem)
        ),
        # A plan that carries a part of the demand is no price for all of it.
        break_even=break_even if solution.shortfall > 0 else (*break_even, *outside_even),
        reason=_reason(
            problem,
            chosen,
            cost=cost,
            power=power,
            storage=storage,
            committed=committed,
            per_million=per_token,
            outsiders=outsiders,
            shortfall=solution.shortfall,
            kept=best.kept,
            proven=solution.proven,
        ),
        proven=solution.proven,
        kept=best.kept_for,
        shadow_prices=shadow_prices(problem, solution),
        others=others if problem.steered else (),
        spill=spill_of(problem, chosen, solution.shortfall, priced_offers(problem)),
    )


def _nothing_fits(losers: Sequence[RunnerUp]) -> str:
    shown = "; ".join(f"{one.option}: {one.lost_because}" for one in losers[:3])
    more = f"; and {len(losers) - 3} more" if len(losers) > 3 else ""
    return f"no accelerator can serve this pool ({shown}{more})" if losers else "no AcceleratorType exists"


def _missed(problem: PoolProblem, solution: Solution, per_million: float | None) -> tuple[Missed, ...]:
    missed = []
    cost, shortfall = solution.cost, solution.shortfall
    target, budget = problem.target_usd_per_million_tokens, problem.monthly_budget_usd
    if target is not None and per_million is not None and per_million > target:
        why = f"${brief(per_million, 3)} per 1M tokens is above the target of ${target:g}"
        missed.append(Missed("CostTarget", why))
    if budget is not None and cost * HOURS_PER_MONTH > budget:
        why = f"${brief(cost * HOURS_PER_MONTH)} a month is above the budget of ${budget:,.0f}"
        missed.append(Missed("Budget", why))
    if shortfall > 0:
        missed.append(Missed("Capacity", f"{shortfall:.0%} of the demand has no capacity: {_limits(problem)}"))
    least = least_replicas(problem) if problem.pinned is None else problem.pinned
    if short := max(0, least - sum(solution.counts)):
        limits = _limits(replace(problem, pinned=None))
        missed.append(Missed("Replicas", f"{short} of the {least} replicas asked for at least cannot be had: {limits}"))
    if solution.spare_missing:
        why = f"{solution.spare_missing} of {problem.spare} spare replicas cannot be had: {_limits(problem)}"
        missed.append(Missed("Spare", why))
    return tuple(missed)


def _limits(problem: PoolProblem) -> str:
    if problem.pinned is not None:
        return f"pinned to {problem.pinned} replicas"
    limits = dict.fromkeys(problem.cap_reasons[name] for name in sorted(problem.cap_reasons))
    for one in problem.market.candidates:
        if one.multiple > problem.maximum:
            whole = f"a rack of {one.option.accelerator} holds {one.multiple} replicas"
            limits[f"{whole}, and at most {problem.maximum} are allowed"] = None
    if problem.spot_share < 1.0 and any(one.option.capacity_type == SPOT for one in problem.market.candidates):
        limits[f"at most {problem.spot_share:.0%} of it may be on spot"] = None
    return "; ".join(limits) or f"at most {problem.maximum} replicas are allowed"


def _reason(
    problem: PoolProblem,
    chosen: Sequence[Chosen],
    *,
    cost: float,
    power: float,
    storage: float,
    committed: float,
    per_million: float | None,
    outsiders: Sequence[Rival],
    shortfall: float,
    kept: str,
    proven: bool,
) -> str:
    phrase = describe((one.option, one.replicas) for one in chosen)
    if problem.pinned is not None:
        return f"{phrase}: pinned to {problem.pinned} replicas"
    if problem.requests_per_second <= 0:
        return f"{phrase}: no demand, held at {problem.minimum} replicas"
    price = f" at ${brief(per_million)} per 1M tokens" if per_million is not None else ""
    best = "cheapest" if proven else "cheapest found"
    text = f"{phrase}: {best} for {brief(problem.requests_per_second)} requests/s{price}"
    if shortfall:
        text = f"{phrase}: the most that the limits allow for {brief(problem.requests_per_second)} requests/s{price}"
    elif kept:
        text = f"{phrase}: kept for {brief(problem.requests_per_second)} requests/s{price}{kept}"
    elif outsiders and not problem.steered:
        rival = outsiders[0]
        share = rival.solution.cost / cost - 1.0 if cost else 0.0
        text += f"; next is {rival.option}, {share:+.0%}"
    if committed:
        text += f"; ${brief(committed)}/h of ${brief(cost)}/h are owed for reserved chips in any case"
    if problem.steered:
        text += f"; {problem.steered_because}"
    for one in chosen:
        if one.candidate.multiple > 1:
            chips, of = one.replicas * one.option.chips, one.candidate.multiple * one.option.chips
            racks = chips // of
            text += f"; {racks} whole {'rack' if racks == 1 else 'racks'} of {of} {one.option.accelerator}"
    if power:
        text += f"; ${brief(power)}/h of ${brief(cost)}/h are electricity"
    if storage:
        text += f"; ${brief(storage)}/h of ${brief(cost)}/h are KV tiers"
    return text
