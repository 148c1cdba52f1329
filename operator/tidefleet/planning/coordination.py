"""Limits that pools share: the power of a site, and chips that cannot be had.

Each pool is planned alone and exactly. Where the plans together pass a limit that several pools share, the whole fleet
is solved as one MILP, and its answer is handed back to each pool as the most chips of a type that it may use. The pool
then plans again within them, so that what it says of itself stays true.

Sets: pools p, accelerator types t, sites j. Each pool is one cell (its whole mix, since replicas of a pool serve the
mix), each candidate an option, with load = demand / what one replica sustains.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tidefleet.planning.fleet import (
    AGGREGATED,
    FleetPlan,
    FleetProblem,
    FleetProblemError,
    Infeasible,
    Limit,
    Limits,
    SolverFailed,
    solve,
)
from tidefleet.planning.nodes import group_of, node_rents, payable
from tidefleet.planning.options import PLANNING_UTILISATION, SPOT, Candidate, Option
from tidefleet.planning.problem import PoolPlan, PoolProblem, ShadowPrice
from tidefleet.planning.solution import chip_group, least_replicas
from tidefleet.planning.words import brief

UNSERVED_FACTOR = 50.0
"""Demand that is not served counts as so many times its cheapest rent, times 1 + priority: it is served before anything
is saved, and where not all of it can be, the higher priority is served first."""


_SOME = 1e-6


@dataclass(frozen=True, slots=True)
class SiteLimit:
    """The power limit of one place.

    Attributes:
        limit_kw: most power of accelerators and facility, in kW.
        pue: facility power over the accelerators'.
        types: accelerator types whose nodes all stand there.
        selector: labels of the nodes that stand there; empty where only the types are known.
    """

    name: str
    limit_kw: float
    pue: float
    types: frozenset[str]
    selector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SharedLimits:
    """What pools share.

    Attributes:
        chips: most chips of a type for all pools together, where no more can be had.
        sites: power limits.
        nodes: chips of a node by type, where rent is paid by whole nodes; a type that is not in it is paid by the chip.
        held: chips on such nodes that are held beside these pools, by accelerator and capacity type.
    """

    chips: Mapping[str, int] = field(default_factory=dict)
    sites: tuple[SiteLimit, ...] = ()
    nodes: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.chips or self.sites)


@dataclass(frozen=True, slots=True)
class Coordination:
    """What the pools may use, and why.

    Attributes:
        caps: most chips by pool and accelerator type, for pools and types that a shared limit concerns.
        reasons: why, by the same keys.
        shadow_prices: what one more unit of each limit would save over the fleet, USD per hour.
        usd_per_hour, bound_usd_per_hour: of the whole fleet, and the proven bound; equal signs of life for the caller.
        proven: whether the gap asked for was reached.
        shortfall: pools whose demand the limits leave partly unserved, with the share.
        replicas: what the caps are made of, by pool and option, for what a shared limit concerns.
    """

    caps: Mapping[tuple[str, str], int]
    reasons: Mapping[tuple[str, str], str]
    shadow_prices: tuple[ShadowPrice, ...] = ()
    usd_per_hour: float = 0.0
    bound_usd_per_hour: float = 0.0
    proven: bool = True
    shortfall: Mapping[str, float] = field(default_factory=dict)
    replicas: Mapping[tuple[str, Option], int] = field(default_factory=dict)


def kilowatts(candidate: Candidate) -> float:
    """Power of one replica at its operating point, without PUE: measured or modelled watts, else TDP, else 0."""
    watts = [one.watts_per_chip or one.replica.accelerator.tdp_watts or 0.0 for one in candidate.estimates]
    return max(watts, default=0.0) * candidate.option.chips / 1000.0


def exceeded(plans: Sequence[tuple[PoolProblem, PoolPlan]], limits: SharedLimits) -> tuple[str, ...]:
    """The shared limits that these plans together pass, in words; none means that nothing has to be coordinated."""
    chips: dict[str, int] = {}
    power: dict[str, float] = {}
    for _, plan in plans:
        for one in plan.chosen:
            name = one.option.accelerator
            chips[name] = chips.get(name, 0) + one.replicas * one.option.chips
            power[name] = power.get(name, 0.0) + one.replicas * kilowatts(one.candidate)
    found = [
        f"{chips[name]} chips of {name} are wanted, {limit} can be had"
        for name, limit in limits.chips.items()
        if chips.get(name, 0) > limit
    ]
    for site in limits.sites:
        used = site.pue * sum(power.get(name, 0.0) for name in site.types)
        if used > site.limit_kw * (1 + 1e-9):
            found.append(f"{brief(used)} kW are wanted at {site.name}, {brief(site.limit_kw)} kW is its limit")
    return tuple(found)


def first_come(plans: Sequence[tuple[PoolProblem, PoolPlan]], limits: SharedLimits) -> Coordination:
    """What pools may use when nobody has solved the fleet yet: what runs stays, then the higher priority comes first.

    Holds every limit that what runs holds already, at once and without a solver; it may cost more than needed.
    """
    first: dict[tuple[str, Option], int] = {}
    for problem, plan in plans:
        planned = {one.option: one.replicas for one in plan.chosen}
        for option, runs in problem.running.items():
            first[problem.pool, option] = min(planned.get(option, runs), runs)  # what it moves away from serves on
    return _dealt(plans, limits, first)


def carried_on(
    plans: Sequence[tuple[PoolProblem, PoolPlan]], limits: SharedLimits, answer: Coordination
) -> Coordination | None:
    """A solution's grants for plans that have changed since, and the rest of the limits dealt out by priority.

    ``None`` when they do not hold the limits as these are now. A pool that the solution does not know gets of the rest.
    """
    found = _dealt(plans, limits, answer.replicas)
    chips: dict[str, float] = {}
    power: dict[str, float] = {}
    for problem, _ in plans:
        for one in problem.market.candidates:
            name, count = one.option.accelerator, found.replicas.get((problem.pool, one.option), 0)
            chips[name] = chips.get(name, 0.0) + count * one.option.chips
            power[name] = power.get(name, 0.0) + count * kilowatts(one)
    holds = all(chips.get(name, 0.0) <= limit for name, limit in limits.chips.items()) and all(
        site.pue * sum(power.get(name, 0.0) for name in site.types) <= site.limit_kw * (1 + _SOME)
        for site in limits.sites
    )
    return found if holds else None


def _dealt(
    plans: Sequence[tuple[PoolProblem, PoolPlan]], limits: SharedLimits, first: Mapping[tuple[str, Option], int]
) -> Coordination:
    """Grants of ``first`` (replicas by pool and option) to all, then of what is left what plans want, by priority."""
    order = sorted(plans, key=lambda pair: (-pair[0].priority, pair[0].pool))
    at = {name: site for site in limits.sites for name in site.types}
    chips_left = {name: float(limit) for name, limit in limits.chips.items()}
    power_left = {site.name: site.limit_kw for site in limits.sites}
    caps: dict[tuple[str, str], int] = {}
    reasons: dict[tuple[str, str], str] = {}
    replicas: dict[tuple[str, Option], int] = {}
    for is_first in (True, False):
        for problem, plan in order:
            planned = {one.option: one.replicas for one in plan.chosen}
            for one in problem.market.candidates:
                name, size = one.option.accelerator, one.option.chips
                given = first.get((problem.pool, one.option), 0)
                wanted = given if is_first else planned.get(one.option, 0) - given
                if wanted <= 0 or (name not in chips_left and name not in at):
                    continue
                room = float(wanted)
                if name in chips_left:
                    room = min(room, max(0.0, chips_left[name]) // size)
                drawn = kilowatts(one) * at[name].pue if name in at else 0.0
                if drawn > 0:
                    room = min(room, math.floor(max(0.0, power_left[at[name].name]) / drawn + 1e-9))
                granted = wanted if is_first else int(room) // one.multiple * one.multiple
                key = (problem.pool, name)
                caps[key] = caps.get(key, 0) + granted * size
                reasons[key] = _why(name, limits, at)
                replicas[problem.pool, one.option] = replicas.get((problem.pool, one.option), 0) + granted
                if name in chips_left:
                    chips_left[name] -= granted * size
                if name in at:
                    power_left[at[name].name] -= granted * drawn
    for problem, _ in order:
        for candidate in problem.market.candidates:
            name = candidate.option.accelerator
            if name in chips_left or name in at:
                caps.setdefault((problem.pool, name), 0)
                reasons.setdefault((problem.pool, name), _why(name, limits, at))
    return Coordination(caps, reasons, proven=False, replicas=replicas)


def _why(name: str, limits: SharedLimits, at: Mapping[str, SiteLimit]) -> str:
    if name in limits.chips:
        return f"pools share {limits.chips[name]} chips of {name}"
    return f"pools share {brief(at[name].limit_kw)} kW at {at[name].name}"


def fleet_problem(problems: Sequence[PoolProblem], limits: SharedLimits) -> FleetProblem:
    """The pools as one instance; a pool without demand has bounds and no cell.

    Where a type is limited for all pools, a pool's own limit on it bounds each of its options; elsewhere that limit
    makes a type of the pool's own. Where rent is paid by whole nodes, each way to pay for a type has nodes of its own,
    as one more type each: their rent is all in the nodes, and the options cost what is left. Chips that others hold
    there are one replica of a pool without demand. Replicas that are bought by whole racks are so here, too, but for
    pinned pools. Each choice of sizes of KV tiers has options of its own, with the rent of the tiers in their cost.

    Raises:
        FleetProblemError: a pool's numbers are not usable.
    """
    kinds = _types(problems, limits)
    at = {name: j for j, site in enumerate(limits.sites) for name in site.types}
    every = [(p, problem, one, h) for p, problem in enumerate(problems) for one, h in _variants(problem)]
    options = [(p, problem, one) for p, problem, one, _ in every]
    first_tier = _first_tiers(problems)
    asking = [p for p, problem in enumerate(problems) if problem.requests_per_second > 0]
    cell_of = {p: cell for cell, p in enumerate(asking)}
    arcs = [(cell_of[p], o, one) for o, (p, _, one) in enumerate(options) if p in cell_of]
    quota = []
    for name, pool in kinds:
        own = next((float(one.type_caps[name]) for one in problems if one.pool == pool), math.inf)
        quota.append(min(own, float(limits.chips.get(name, math.inf))))
    price = {_type_of(problem, one, limits): one.price.usd_per_chip_hour for _, problem, one in options}

    def bounded(problem: PoolProblem, one: Candidate) -> float:
        names = (one.option.accelerator, chip_group(one.option))
        own = min(float(problem.type_caps.get(name, math.inf)) for name in names)
        return float(own // one.option.chips) if own < math.inf else math.inf

    def bound_of(problem: PoolProblem, bound: int) -> float:
        return float(bound if problem.pinned is None else problem.pinned)

    rates = np.array([problems[p].requests_per_second for p in asking])
    loads = np.array([rates[cell] / one.requests_per_second for cell, _, one in arcs])
    alone = np.full(len(asking), math.inf)
    for (cell, _, one), load in zip(arcs, loads, strict=True):
        alone[cell] = min(alone[cell], load / PLANNING_UTILISATION * one.usd_per_hour)
    importance = np.array([1.0 + max(0, problems[p].priority) for p in asking])
    rents = node_rents(problems, limits.nodes)
    groups = {group: len(kinds) + i for i, group in enumerate(rents)}
    others = {groups[group]: chips for group, chips in limits.held.items() if chips > 0 and group in groups}
    none = [0] * len(others)
    apart = 1 if others else 0
    count = len(options) + len(others)
    return FleetProblem(
        type_price=np.array([*(price[kind] for kind in kinds), *rents.values()]),
        type_quota=np.array([*quota, *(math.inf for _ in rents)]),
        type_site=np.array(
            [*(at.get(name, len(limits.sites)) for name, _ in kinds), *(len(limits.sites) for _ in rents)],
            dtype=np.int64,
        ),
        type_chips_per_node=np.array([*(0 for _ in kinds), *(limits.nodes[name] for name, _ in rents)], dtype=np.int64),
        type_node_cost=np.array(
            [*(0.0 for _ in kinds), *(limits.nodes[name] * usd for (name, _), usd in rents.items())]
        ),
        site_limit_kw=np.array([*(site.limit_kw for site in limits.sites), math.inf]),
        site_pue=np.array([*(site.pue for site in limits.sites), 1.0]),
        option_pool=np.array([*(p for p, _, _ in options), *(len(problems) for _ in others)], dtype=np.int64),
        option_type=np.array(
            [*(kinds[_type_of(problem, one, limits)] for _, problem, one in options), *others], dtype=np.int64
        ),
        option_role=np.full(count, AGGREGATED),
        option_fabric=np.zeros(count, dtype=np.int64),
        option_chips=np.array([*(one.option.chips for _, _, one in options), *others.values()], dtype=np.int64),
        option_cost=np.array(
            [
                *(max(0.0, payable(one) - one.option.chips * rents.get(group_of(one), 0.0)) for _, _, one in options),
                *none,
            ]
        ),
        option_node=np.array([*(groups.get(group_of(one), -1) for _, _, one in options), *others], dtype=np.int64),
        option_kw=np.array([*(kilowatts(one) for _, _, one in options), *none]),
        option_spot=np.array([*(one.option.capacity_type == SPOT for _, _, one in options), *none], dtype=np.bool_),
        option_min=np.array([0.0] * len(options) + [1.0] * len(others)),
        option_multiple=np.array(
            [*(one.multiple if problem.pinned is None else 1 for _, problem, one in options), *(1 for _ in others)],
            dtype=np.int64,
        ),
        option_tier=np.array(
            [*(first_tier[p] + h if h >= 0 else -1 for p, _, _, h in every), *(-1 for _ in others)], dtype=np.int64
        ),
        tier_pool=np.array(
            [p for p, one in enumerate(problems) if one.tiers is not None for _ in one.tiers.choices], dtype=np.int64
        ),
        option_max=np.array([*(bounded(problem, one) for _, problem, one in options), *(1.0 for _ in others)]),
        class_spot_limit=np.array(
            [problems[p].spot_share if problems[p].pinned is None else 1.0 for p in asking], dtype=np.float64
        ),
        cell_class=np.arange(len(asking), dtype=np.int64),
        cell_rate=rates,
        cell_spill=np.full(len(asking), math.inf),
        cell_penalty=UNSERVED_FACTOR * importance * alone,
        arc_cell=np.array([cell for cell, _, _ in arcs], dtype=np.int64),
        arc_option=np.array([o for _, o, _ in arcs], dtype=np.int64),
        arc_load=loads,
        pool_min=np.array([*(bound_of(one, least_replicas(one)) for one in problems), *([0.0] * apart)]),
        pool_max=np.array([*(bound_of(one, one.maximum) for one in problems), *([math.inf] * apart)]),
        pool_spare=np.array(
            [
                *(one.spare if one.pinned is None and one.requests_per_second > 0 else 0 for one in problems),
                *([0] * apart),
            ],
            dtype=np.int64,
        ),
    )


def _variants(problem: PoolProblem) -> list[tuple[Candidate, int]]:
    """The pool's candidates, by choice of the sizes of its KV tiers where there are several; -1 where there are not."""
    if problem.tiers is None or not problem.tiers.choices:
        return [(one, -1) for one in problem.market.candidates]
    return [(one, h) for h, choice in enumerate(problem.tiers.choices) for one in choice.market.candidates]


def _first_tiers(problems: Sequence[PoolProblem]) -> list[int]:
    """Index of each pool's first choice of sizes."""
    counts = [0 if one.tiers is None else len(one.tiers.choices) for one in problems]
    return [0, *itertools.accumulate(counts)][: len(problems)]


def _type_of(problem: PoolProblem, one: Candidate, limits: SharedLimits) -> tuple[str, str]:
    name = one.option.accelerator
    return name, problem.pool if name in problem.type_caps and name not in limits.chips else ""


def _types(problems: Sequence[PoolProblem], limits: SharedLimits) -> dict[tuple[str, str], int]:
    """Index of each type of the instance by (accelerator, pool whose own limit makes it, or empty)."""
    found: dict[tuple[str, str], int] = {}
    for problem in problems:
        for one in problem.market.candidates:
            found.setdefault(_type_of(problem, one, limits), len(found))
    return found


def coordinate(
    problems: Sequence[PoolProblem],
    limits: SharedLimits,
    *,
    clock: Callable[[], float],
    seconds: float = 5.0,
    cancelled: Callable[[], bool] = lambda: False,
) -> Coordination | SolverFailed:
    """What each pool may use so that the shared limits hold and the fleet costs least.

    Args:
        problems: every pool that can be planned; those without candidates are left out.
        clock: seconds since any moment; ``seconds`` are allowed.
        cancelled: asked often; once true the best plan so far counts.
    """
    usable = [one for one in problems if one.market.candidates]
    if not usable:
        return Coordination({}, {})
    answer = solve_shared(usable, limits, clock=clock, seconds=seconds, cancelled=cancelled)
    return answer if isinstance(answer, SolverFailed) else _handed_back(usable, limits, answer)


def solve_shared(
    problems: Sequence[PoolProblem],
    limits: SharedLimits,
    *,
    clock: Callable[[], float],
    seconds: float,
    cancelled: Callable[[], bool],
) -> FleetPlan | SolverFailed:
    """The pools as one fleet, solved; a failure says which pools cannot be had within which limits, by their names."""
    try:
        problem = fleet_problem(problems, limits)
    except FleetProblemError as error:
        return SolverFailed(f"a demand, price or limit is out of all bounds ({error})")
    answer = solve(problem, clock=clock, limits=Limits(seconds=seconds), cancelled=cancelled)
    return SolverFailed(_unmet(problems, limits, answer)) if isinstance(answer, Infeasible) else answer


def _unmet(problems: Sequence[PoolProblem], limits: SharedLimits, found: Infeasible) -> str:
    """The smallest set of pools that cannot have what they ask for, and the limits that stop them."""
    asking = [one.pool for one in problems if one.requests_per_second > 0]
    least = [one.pool for one in problems if one.pinned or (one.pinned is None and one.minimum)]
    pools = list(dict.fromkeys(asking[one] for one in found.cells))
    who = f"the demand of {', '.join(pools)}" if pools else f"the least replicas of {', '.join(least)}"
    stops = list(dict.fromkeys(_limit_words(problems, limits, one) for one in found.limits))
    return f"{who} cannot be had within {', '.join(stops)}" if stops else f"{who} cannot be had, whatever the limits"


def _limit_words(problems: Sequence[PoolProblem], limits: SharedLimits, one: Limit) -> str:
    match one.kind:
        case "quota":
            kinds = list(_types(problems, limits))
            if one.index < len(kinds):
                name, pool = kinds[one.index]
                own = next((each.type_caps.get(name) for each in problems if each.pool == pool), None)
                return f"{limits.chips.get(name, own)} chips of {name}"
            return "the chips of whole nodes"
        case "power":
            site = limits.sites[one.index]
            return f"{brief(site.limit_kw)} kW at {site.name}"
        case "option_max":
            every = [(problem, each) for problem in problems for each, _ in _variants(problem)]
            problem, each = every[one.index]
            return f"the chips of {each.option.accelerator} that {problem.pool} may use"
        case "pool_max":
            return f"replicas.max of {problems[one.index].pool}"
        case "spot":
            return f"maxSpotShare of {[each.pool for each in problems if each.requests_per_second > 0][one.index]}"
        case _:
            return f"replicas.spare of {problems[one.index].pool}"


def _handed_back(problems: Sequence[PoolProblem], limits: SharedLimits, plan: FleetPlan) -> Coordination:
    asking = [one for one in problems if one.requests_per_second > 0]
    concerned = set(limits.chips) | {name for site in limits.sites for name in site.types}
    at = {name: site for site in limits.sites for name in site.types}
    caps: dict[tuple[str, str], int] = {}
    reasons: dict[tuple[str, str], str] = {}
    replicas: dict[tuple[str, Option], int] = {}
    index = 0
    for problem in problems:
        for one, _ in _variants(problem):
            name = one.option.accelerator
            if name in concerned:
                key = (problem.pool, name)
                caps[key] = caps.get(key, 0) + int(plan.replicas[index]) * one.option.chips
                reasons[key] = _why(name, limits, at)
                of = (problem.pool, one.option)
                replicas[of] = replicas.get(of, 0) + int(plan.replicas[index])
            index += 1
    prices: list[ShadowPrice] = []
    unserved = bool(np.any(plan.shortfall > _SOME))  # then a price is what demand is worth here, and no saving
    for site, usd in zip(limits.sites, plan.power_price, strict=False):
        if usd > 0 and not unserved:
            prices.append(
                ShadowPrice(f"one more kW at {site.name} would save ${brief(float(usd))}/h over all pools", float(usd))
            )
    told: set[str] = set()
    names = {index: name for (name, _), index in _types(problems, limits).items()}
    for binding in plan.binding:
        if binding.kind == "quota" and binding.usd_per_hour > 0 and not unserved:
            kind = names.get(binding.index, "")
            if kind in limits.chips and kind not in told:
                told.add(kind)
                saved = float(binding.usd_per_hour)
                prices.append(ShadowPrice(f"one more {kind} would save ${brief(saved)}/h over all pools", saved))
    return Coordination(
        caps=caps,
        reasons=reasons,
        shadow_prices=tuple(sorted(prices, key=lambda one: -one.usd_per_hour)),
        usd_per_hour=plan.usd_per_hour,
        bound_usd_per_hour=plan.bound,
        proven=plan.complete,
        shortfall={
            problem.pool: float(share) for problem, share in zip(asking, plan.shortfall, strict=True) if share > _SOME
        },
        replicas=replicas,
    )
