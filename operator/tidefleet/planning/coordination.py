"""Limits that pools share: the power of a site, and chips that cannot be had.

Each pool is planned alone and exactly. Where the plans together pass a limit that several pools share, the whole fleet
is solved as one MILP, and its answer is handed back to each pool as the most chips of a type that it may use. The pool
then plans again within them, so that what it says of itself stays true.

Sets: pools p, accelerator types t, sites j. Each pool is one cell (its whole mix, since replicas of a pool serve the
mix), each candidate an option, with load = demand / what one replica sustains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tidefleet.planning.fleet import (
    FleetPlan,
    FleetProblem,
    Infeasible,
    Limits,
    SolverFailed,
    solve,
)
from tidefleet.planning.options import PLANNING_UTILISATION, Candidate
from tidefleet.planning.problem import PoolPlan, PoolProblem, ShadowPrice
from tidefleet.planning.words import brief

UNSERVED_FACTOR = 50.0
"""Demand that is not served counts as so many times its cheapest rent, times 1 + priority: it is served before anything
is saved, and where not all of it can be, the higher priority is served first."""


@dataclass(frozen=True, slots=True)
class SiteLimit:
    """The power limit of one place.

    Attributes:
        limit_kw: most power of accelerators and facility, in kW.
        pue: facility power over the accelerators'.
        types: accelerator types whose nodes all stand there.
    """

    name: str
    limit_kw: float
    pue: float
    types: frozenset[str]


@dataclass(frozen=True, slots=True)
class SharedLimits:
    """What pools share.

    Attributes:
        chips: most chips of a type for all pools together, where no more can be had.
        sites: power limits.
    """

    chips: Mapping[str, int] = field(default_factory=dict)
    sites: tuple[SiteLimit, ...] = ()

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
    """

    caps: Mapping[tuple[str, str], int]
    reasons: Mapping[tuple[str, str], str]
    shadow_prices: tuple[ShadowPrice, ...] = ()
    usd_per_hour: float = 0.0
    bound_usd_per_hour: float = 0.0
    proven: bool = True
    shortfall: Mapping[str, float] = field(default_factory=dict)


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
    order = sorted(plans, key=lambda pair: (-pair[0].priority, pair[0].pool))
    at = {name: site for site in limits.sites for name in site.types}
    chips_left = {name: float(limit) for name, limit in limits.chips.items()}
    power_left = {site.name: site.limit_kw for site in limits.sites}
    caps: dict[tuple[str, str], int] = {}
    reasons: dict[tuple[str, str], str] = {}
    for only_running in (True, False):
        for problem, plan in order:
            for one in plan.chosen:
                name, size = one.option.accelerator, one.option.chips
                if name not in chips_left and name not in at:
                    continue
                runs = min(one.replicas, problem.running.get(one.option, 0))
                wanted = runs if only_running else one.replicas - runs
                room = float(wanted)
                if name in chips_left:
                    room = min(room, max(0.0, chips_left[name]) // size)
                drawn = kilowatts(one.candidate) * at[name].pue if name in at else 0.0
                if drawn > 0:
                    room = min(room, math.floor(max(0.0, power_left[at[name].name]) / drawn + 1e-9))
                granted = wanted if only_running else int(room)
                key = (problem.pool, name)
                caps[key] = caps.get(key, 0) + granted * size
                reasons[key] = _why(name, limits, at)
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
    return Coordination(caps, reasons, proven=False)


def _why(name: str, limits: SharedLimits, at: Mapping[str, SiteLimit]) -> str:
    if name in limits.chips:
        return f"pools share {limits.chips[name]} chips of {name}"
    return f"pools share {brief(at[name].limit_kw)} kW at {at[name].name}"


def fleet_problem(problems: Sequence[PoolProblem], limits: SharedLimits) -> FleetProblem:
    """The pools as one instance.

    A pool's own limit on a type makes a type of its own, whose quota is the smaller of both; the site's power counts it
    all the same.

    Raises:
        FleetProblemError: a pool's numbers are not usable.
    """
    types: dict[tuple[str, str], int] = {}
    quota: list[float] = []
    price: list[float] = []
    site_of: list[int] = []
    sites = {name: j for j, site in enumerate(limits.sites) for name in site.types}
    open_site = len(limits.sites)
    columns: dict[str, list[float]] = {
        name: []
        for name in (
            "option_pool", "option_type", "option_role", "option_fabric", "option_chips", "option_cost", "option_kw",
            "option_spot", "option_running", "arc_cell", "arc_option", "arc_load",
        )
    }  # fmt: skip
    spill, penalty = [], []
    for p, problem in enumerate(problems):
        rate = max(problem.requests_per_second, 1e-9)
        cheapest = math.inf
        for one in problem.market.candidates:
            name = one.option.accelerator
            own = problem.type_caps.get(name)
            key = (name, problem.pool if own is not None else "")
            if key not in types:
                types[key] = len(types)
                shared = float(limits.chips.get(name, math.inf))
                quota.append(min(shared, float(own)) if own is not None else shared)
                price.append(one.price.usd_per_chip_hour)
                site_of.append(sites.get(name, open_site))
            index = len(columns["option_pool"])
            load = rate / one.requests_per_second
            cheapest = min(cheapest, load / PLANNING_UTILISATION * one.usd_per_hour)
            for column, value in {
                "option_pool": p, "option_type": types[key], "option_role": 0, "option_fabric": 0,
                "option_chips": one.option.chips, "option_cost": one.usd_per_hour, "option_kw": kilowatts(one),
                "option_spot": 0, "option_running": problem.running.get(one.option, 0),
                "arc_cell": p, "arc_option": index, "arc_load": load,
            }.items():  # fmt: skip
                columns[column].append(value)
        spill.append(math.inf)
        penalty.append(UNSERVED_FACTOR * (1 + max(0, problem.priority)) * cheapest)
    low = [float(one.minimum if one.pinned is None else one.pinned) for one in problems]
    high = [float(one.maximum if one.pinned is None else one.pinned) for one in problems]
    spare = [one.spare if one.pinned is None else 0 for one in problems]
    whole = ("option_pool", "option_type", "option_role", "option_fabric", "option_chips", "option_running")
    arrays: dict[str, Any] = {
        name: np.array(values, dtype=np.int64 if name in (*whole, "arc_cell", "arc_option") else np.float64)
        for name, values in columns.items()
    }
    arrays["option_spot"] = arrays["option_spot"].astype(np.bool_)
    return FleetProblem(
        type_price=np.array(price),
        type_quota=np.array(quota),
        type_site=np.array(site_of, dtype=np.int64),
        site_limit_kw=np.array([*(site.limit_kw for site in limits.sites), math.inf]),
        site_pue=np.array([*(site.pue for site in limits.sites), 1.0]),
        cell_class=np.arange(len(problems), dtype=np.int64),
        cell_rate=np.array([max(one.requests_per_second, 1e-9) for one in problems]),
        cell_spill=np.array(spill),
        cell_penalty=np.array(penalty),
        pool_min=np.array(low),
        pool_max=np.array(high),
        pool_spare=np.array(spare, dtype=np.int64),
        **arrays,
    )


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
    answer = solve(fleet_problem(usable, limits), clock=clock, limits=Limits(seconds=seconds), cancelled=cancelled)
    if isinstance(answer, SolverFailed):
        return answer
    if isinstance(answer, Infeasible):
        return SolverFailed(f"no plan holds every limit: {answer.reason}")
    return _handed_back(usable, limits, answer)


def _handed_back(problems: Sequence[PoolProblem], limits: SharedLimits, plan: FleetPlan) -> Coordination:
    concerned = set(limits.chips) | {name for site in limits.sites for name in site.types}
    at = {name: site for site in limits.sites for name in site.types}
    caps: dict[tuple[str, str], int] = {}
    reasons: dict[tuple[str, str], str] = {}
    index = 0
    for problem in problems:
        for one in problem.market.candidates:
            name = one.option.accelerator
            if name in concerned:
                key = (problem.pool, name)
                caps[key] = caps.get(key, 0) + int(plan.replicas[index]) * one.option.chips
                reasons[key] = _why(name, limits, at)
            index += 1
    prices = []
    for site, usd in zip(limits.sites, plan.power_price, strict=False):
        if usd > 0:
            prices.append(ShadowPrice(f"one more kW at {site.name} would save ${brief(float(usd))}/h", float(usd)))
    told: set[str] = set()
    names = _names(problems)
    for binding in plan.binding:
        if binding.kind == "quota" and binding.usd_per_hour > 0:
            kind = names.get(binding.index, "")
            if kind in limits.chips and kind not in told:
                told.add(kind)
                saved = float(binding.usd_per_hour)
                prices.append(ShadowPrice(f"one more {kind} would save ${brief(saved)}/h", saved))
    return Coordination(
        caps=caps,
        reasons=reasons,
        shadow_prices=tuple(sorted(prices, key=lambda one: -one.usd_per_hour)),
        usd_per_hour=plan.usd_per_hour,
        bound_usd_per_hour=plan.bound,
        proven=plan.complete,
        shortfall={
            problem.pool: float(share) for problem, share in zip(problems, plan.shortfall, strict=True) if share > 1e-6
        },
    )


def _names(problems: Sequence[PoolProblem]) -> dict[int, str]:
    """Accelerator types by their index in the instance that ``fleet_problem`` makes."""
    types: dict[tuple[str, str], int] = {}
    for problem in problems:
        for one in problem.market.candidates:
            name = one.option.accelerator
            types.setdefault((name, problem.pool if name in problem.type_caps else ""), len(types))
    return {index: name for (name, _), index in types.items()}
