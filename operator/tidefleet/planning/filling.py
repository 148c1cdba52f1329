"""Pools planned together where idle chips of part-filled nodes are dear: who should use which type instead.

Each pool's own plan counts chips. Where the nodes that all of them stand on have much rent that nothing uses, the whole
fleet is solved with whole nodes (``tidefleet.planning.coordination.fleet_problem``), and its answer is handed back to
the pools it concerns as caps on groups of chips (a type and how it is paid for): none of those it does without, as many
of the others as it takes, and any number of the one that is dearest alone, so that a pool can still grow (unless only
exact numbers lead to the answer). Each pool then plans again within them, and the answer counts only if these plans
together cost less. Nothing is a limit here: a pool that would come out short is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tidefleet.planning.coordination import SharedLimits, solve_shared
from tidefleet.planning.fleet import SolverFailed
from tidefleet.planning.nodes import Chosens, idle_nodes, idle_of, rent_of, standing
from tidefleet.planning.pool import SAME_COST
from tidefleet.planning.problem import Chosen, PoolPlan, PoolProblem
from tidefleet.planning.solution import chip_group, solve
from tidefleet.planning.tiers import frozen
from tidefleet.planning.turning import HORIZON_SECONDS, SWITCH_FACTOR, SWITCH_SAVING
from tidefleet.planning.words import brief

Plans = Sequence[tuple[PoolProblem, PoolPlan]]


@dataclass(frozen=True, slots=True)
class Filling:
    """What pools should use so that the whole nodes of all of them cost least.

    Attributes:
        caps: most chips by pool and group (``tidefleet.planning.solution.chip_group``), for pools that should plan
            otherwise than alone; empty where their own plans are as good.
        because: why, in words.
        usd_per_hour: rent of all pools and of idle chips within them; ``alone_usd_per_hour`` of the pools' own plans,
            ``bound_usd_per_hour`` below which no plan of all pools can be.
        proven: whether the gap asked for was reached.
    """

    caps: Mapping[tuple[str, str], int] = field(default_factory=dict)
    because: str = ""
    usd_per_hour: float = 0.0
    alone_usd_per_hour: float = 0.0
    bound_usd_per_hour: float = 0.0
    proven: bool = True


def fill(
    plans: Plans,
    limits: SharedLimits,
    *,
    clock: Callable[[], float],
    seconds: float = 5.0,
    cancelled: Callable[[], bool] = lambda: False,
) -> Filling | SolverFailed:
    """What each pool should use so that the whole nodes of all of them cost least.

    What runs is moved only where that saves more than moving costs, as for a pool alone, and never for a pool whose
    dwell since its last change has not passed.

    Args:
        plans: every pool with the plan it has alone; sizes of KV tiers stay as it has them.
        limits: what they share, the sizes of nodes among it.
        clock: seconds since any moment; ``seconds`` are allowed.
        cancelled: asked often; once true the best plan so far counts.
    """
    usable = [
        (frozen(problem, plan.tiers.choice if plan.tiers is not None else -1), plan)
        for problem, plan in plans
        if problem.market.candidates
    ]
    if not usable:
        return Filling()
    asked = [_movable(problem) for problem, _ in usable]
    answer = solve_shared(asked, limits, clock=clock, seconds=seconds, cancelled=cancelled)
    if isinstance(answer, SolverFailed):
        return answer
    alone: dict[str, Sequence[Chosen]] = {problem.pool: plan.chosen for problem, plan in usable}
    filled = dict(alone)
    caps: dict[str, dict[str, int]] = {}
    index = 0
    for (problem, plan), movable in zip(usable, asked, strict=True):
        count = len(movable.market.candidates)
        taken = [
            Chosen(one, int(n))
            for one, n in zip(movable.market.candidates, answer.replicas[index : index + count], strict=True)
            if n
        ]
        index += count
        found = _steered(problem, plan, taken)
        if found is not None:
            caps[problem.pool], filled[problem.pool] = found
    stay = {problem.pool: _kept(problem, plan) for problem, plan in usable}
    free = {problem.pool: _free(problem) for problem, _ in usable}
    plain = (("alone", alone), ("filled", filled), ("stay", stay), ("free", free))
    cost = {name: _cost(one, limits) for name, one in plain}
    best, usd = filled, cost["filled"]
    if cost["alone"] - usd <= SAME_COST * cost["alone"]:
        best, usd = alone, cost["alone"]
    if cost["stay"] - usd <= _saving_needed(usable, stay, best, limits):
        best, usd = (stay, cost["stay"]) if cost["stay"] <= cost["alone"] * (1 + 1e-9) else (alone, cost["alone"])
    own = {pool: (_counts(alone[pool]), _counts(free[pool])) for pool in best}  # now, and once nothing holds it back
    others = {pool for pool in best if any(_counts(best[pool]) != one for one in own[pool])}
    if best is not filled:
        steered = {problem.pool: _steered(problem, plan, best[problem.pool]) for problem, plan in usable}
        caps = {pool: one[0] for pool, one in steered.items() if one and _counts(one[1]) == _counts(best[pool])}
    saves = max(cost["alone"], cost["free"]) - usd
    if saves < 0 or (best is alone and cost["free"] <= usd) or (best is not filled and not others <= caps.keys()):
        return Filling({}, "", cost["alone"], cost["alone"], min(answer.bound, cost["alone"]), answer.complete)
    why = "the whole nodes that all pools stand on cost " + (
        f"${brief(saves)}/h less so" if saves > SAME_COST * usd else "no more so"
    )
    handed = {(pool, group): cap for pool, mine in caps.items() if pool in others for group, cap in mine.items()}
    return Filling(
        caps=handed,
        because=why,
        usd_per_hour=usd,
        alone_usd_per_hour=cost["alone"],
        bound_usd_per_hour=min(answer.bound, usd),
        proven=answer.complete,
    )


def _cost(chosen: Chosens, limits: SharedLimits) -> float:
    return rent_of(chosen) + idle_of(chosen, limits.nodes, limits.held)


def _counts(chosen: Sequence[Chosen]) -> dict[object, int]:
    return {one.option: one.replicas for one in chosen if one.replicas}


def _in_use(problem: PoolProblem) -> PoolProblem:
    """The pool with nothing to choose from but what it runs."""
    here = tuple(one for one in problem.market.candidates if problem.running.get(one.option))
    return replace(problem, market=replace(problem.market, candidates=here))


def _movable(problem: PoolProblem) -> PoolProblem:
    """The pool as the fleet may plan it: one that may not change yet keeps the options that it runs."""
    here = _in_use(problem)
    return problem if problem.may_switch or not here.market.candidates else here


def _kept(problem: PoolProblem, plan: PoolPlan) -> Sequence[Chosen]:
    """What a pool has when nothing is moved: its plan of what it runs, else the one it has alone."""
    here = _in_use(problem).market.candidates
    if not here:
        return plan.chosen
    found = solve(problem, here)
    if found.shortfall > plan.shortfall or found.spare_missing:
        return plan.chosen
    return [Chosen(one, n) for one, n in zip(here, found.counts, strict=True) if n]


def _free(problem: PoolProblem) -> Sequence[Chosen]:
    """What is cheapest for a pool alone, whatever it runs."""
    found = solve(problem, problem.market.candidates)
    return [Chosen(one, n) for one, n in zip(problem.market.candidates, found.counts, strict=True) if n]


def _caps(problem: PoolProblem, taken: Sequence[Chosen]) -> list[dict[str, int]]:
    """Caps by group under which a pool alone may come to what was taken: one for each group that is left to grow.

    The first leaves the group that is dearest alone, which the pool fills last. Whole replicas can make another one
    the last, or need a cap on each of several. No caps are needed for a pool that takes nothing.
    """
    if not taken:
        return [{}]
    chips: dict[str, int] = {}
    for one in taken:
        group = chip_group(one.option)
        chips[group] = chips.get(group, 0) + one.replicas * one.option.chips
    groups = dict.fromkeys(chip_group(one.option) for one in problem.market.candidates)
    grow = [chip_group(one.option) for one in sorted(taken, key=lambda one: -one.candidate.usd_per_request)]
    last = [*dict.fromkeys(grow), *([""] if len(chips) > 1 else [])]
    return [{group: chips.get(group, 0) for group in groups if group != grows} for grows in last]


def _steered(
    problem: PoolProblem, plan: PoolPlan, taken: Sequence[Chosen]
) -> tuple[dict[str, int], Sequence[Chosen]] | None:
    """Caps, and what the pool alone comes to within them: what was taken, else what comes nearest in kind."""
    nearest: tuple[dict[str, int], Sequence[Chosen]] | None = None
    for caps in _caps(problem, taken):
        found = _within(problem, plan, caps)
        if found is not None and _counts(found) == _counts(taken):
            return caps, found
        if found is not None and nearest is None:
            nearest = caps, found
    return nearest


def _within(problem: PoolProblem, plan: PoolPlan, caps: Mapping[str, int]) -> Sequence[Chosen] | None:
    """What a pool alone comes to within these caps; ``None`` where it would serve less than with its own plan."""
    candidates = problem.market.candidates
    found = solve(replace(problem, steered=caps), candidates)
    alone_lacks_spare = any(one.what == "Spare" for one in plan.missed)
    if found.shortfall > plan.shortfall + 1e-9 or (found.spare_missing and not alone_lacks_spare):
        return None
    return [Chosen(one, n) for one, n in zip(candidates, found.counts, strict=True) if n]


def _saving_needed(plans: Plans, stay: Chosens, best: Chosens, limits: SharedLimits) -> float:
    """USD per hour that moving what runs must save, by what the pools that move pay now; 0 where none moves."""
    there = standing(stay, limits.nodes, limits.held)
    moved = moving = 0.0
    for problem, _ in plans:
        arriving = [
            (one, one.replicas - problem.running.get(one.option, 0))
            for one in best[problem.pool]
            if one.replicas > problem.running.get(one.option, 0)
        ]
        left = _counts(best[problem.pool])
        leaves = any(left.get(option, 0) < n for option, n in problem.running.items())
        if not leaves or all(problem.running.get(one.option) for one, _ in arriving):
            continue
        moved += rent_of({"": stay[problem.pool]})
        moved += sum(one.own_usd_per_hour for one in idle_nodes(problem.pool, there))
        moving += sum(n * one.candidate.usd_per_hour for one, n in arriving) * problem.start_seconds / HORIZON_SECONDS
    return max(SWITCH_SAVING * moved, SWITCH_FACTOR * moving)
