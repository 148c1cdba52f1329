"""From a point of the matrix to a plan: decision, costs, what binds and what one more would save."""

from __future__ import annotations

import numpy as np

from tidefleet.planning.fleet.matrix import Floats, Ints, summed
from tidefleet.planning.fleet.milp import FleetMilp
from tidefleet.planning.fleet.result import Binding, FleetPlan, SolverFailed
from tidefleet.planning.fleet.verify import (
    Decision,
    chips_on_nodes,
    chips_used,
    costs,
    pool_cost,
    power_used,
    violations,
)

_NEAR = 1e-6


def decision_of(milp: FleetMilp, values: Floats) -> Decision:
    """What a point decides."""
    p, columns = milp.problem, milp.columns
    tier = np.full(p.pools, -1, dtype=np.int64)
    taken = np.flatnonzero(values[columns.tier] > 0.5)
    tier[p.tier_pool[taken]] = taken
    replicas = milp.replicas(values)
    used = chips_on_nodes(p, replicas)
    per_node = np.maximum(p.type_chips_per_node, 1)
    nodes = np.where(p.type_chips_per_node > 0, np.ceil(used / per_node - 1e-9), 0).astype(np.int64)
    flow, spill, short = _shares(milp, values)
    return Decision(replicas, flow, spill, short, tier, nodes)


def _shares(milp: FleetMilp, values: Floats) -> tuple[Floats, Floats, Floats]:
    """Flows and what is spilled or short, without the solver's dust."""
    columns = milp.columns
    flow = np.clip(values[columns.x], 0.0, 1.0)
    return np.where(flow < 1e-9, 0.0, flow), _where(values, columns.spill), _where(values, columns.short)


def _where(values: Floats, columns: Ints) -> Floats:
    found = np.where(columns >= 0, np.append(values, 0.0)[columns], 0.0)
    return np.where(found < 1e-9, 0.0, np.clip(found, 0.0, 1.0))


def explained(milp: FleetMilp, values: Floats, bound: float, prices: Floats, gap: float) -> FleetPlan | SolverFailed:
    """The plan of a point, verified against the problem itself.

    Args:
        milp: the MILP with its problem.
        values: the point.
        bound: a valid lower bound of the cost.
        prices: duals of the linear relaxation, per row.
        gap: the relative gap that was asked for.
    """
    p = milp.problem
    if not np.isfinite(values).all() or not np.isfinite(bound):
        return SolverFailed("the solver's plan holds a value that is not a number")
    decision = decision_of(milp, values)
    broken = violations(p, decision, tolerance=2e-6)
    if broken:
        return SolverFailed(f"the solver's plan breaks a constraint: {broken[0]}")
    cost = costs(p, decision)
    if not np.isfinite(cost.total):
        return SolverFailed(f"the solver's plan costs {cost.total}")
    quota, power = np.zeros(len(p.type_price)), np.zeros(len(p.site_limit_kw))
    saves: dict[tuple[str, int], float] = {}
    for row in milp.shared:
        saves[row.kind, row.index] = max(0.0, -float(prices[row.row]))
        if row.kind == "quota":
            quota[row.index] = saves[row.kind, row.index]
        elif row.kind == "power":
            power[row.index] = saves[row.kind, row.index]
    bound = min(bound, cost.total)
    return FleetPlan(
        replicas=decision.replicas,
        flow=decision.flow,
        spill=decision.spill,
        shortfall=decision.shortfall,
        tier=decision.tier,
        nodes=decision.nodes,
        costs=cost,
        bound=bound,
        binding=_binding(milp, decision, saves),
        quota_price=quota,
        power_price=power,
        serve_price=np.asarray(prices)[milp.serve],
        complete=cost.total - bound <= gap * abs(cost.total) + 1e-9,
    )


def _binding(milp: FleetMilp, decision: Decision, saves: dict[tuple[str, int], float]) -> tuple[Binding, ...]:
    """Limits where not even the smallest replica of the option in question would still fit, or that cost something."""
    p = milp.problem
    used, power = chips_used(p, decision.replicas), power_used(p, decision.replicas)
    in_pool = summed(p.option_pool, decision.replicas, p.pools)
    spent = pool_cost(p, decision)
    smallest = np.full(len(used), np.inf)
    np.minimum.at(smallest, p.option_type, (p.option_chips * p.option_multiple).astype(np.float64))
    least = np.full(len(power), np.inf)
    site = p.type_site[p.option_type]
    np.minimum.at(least, site, p.site_pue[site] * p.option_kw * p.option_multiple)
    total = np.array([costs(p, decision).total])
    tight = (
        ("quota", used + smallest > p.type_quota + _NEAR, p.type_quota),
        ("power", power + least > p.site_limit_kw + _NEAR, p.site_limit_kw),
        ("pool_min", (p.pool_min > 0) & (in_pool <= p.pool_min + _NEAR), p.pool_min),
        ("pool_max", in_pool >= p.pool_max - _NEAR, p.pool_max),
        ("pool_budget", spent >= p.pool_budget - _NEAR * np.maximum(1.0, spent), p.pool_budget),
        ("budget", total >= p.budget * (1 - _NEAR), np.array([p.budget])),
    )
    found = [
        Binding(kind, int(i), float(limit[i]), saves.get((kind, int(i)), 0.0))
        for kind, binds, limit in tight
        for i in np.flatnonzero(binds)
    ]
    return tuple(sorted(found, key=lambda one: -one.usd_per_hour))
