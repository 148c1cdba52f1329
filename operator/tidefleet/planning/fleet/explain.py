"""From a point of the matrix to a plan: decision, costs, what binds and what one more would save."""

from __future__ import annotations

import numpy as np

from tidefleet.planning.fleet.matrix import Floats, Ints
from tidefleet.planning.fleet.milp import FleetMilp
from tidefleet.planning.fleet.result import Binding, FleetPlan, SolverFailed
from tidefleet.planning.fleet.verify import Decision, chips_used, costs, pool_cost, power_used, violations

_NEAR = 1e-6


def decision_of(milp: FleetMilp, values: Floats) -> Decision:
    """What a point decides."""
    p, columns = milp.problem, milp.columns
    tier = np.full(p.pools, -1, dtype=np.int64)
    taken = np.flatnonzero(values[columns.tier] > 0.5)
    tier[p.tier_pool[taken]] = taken
    replicas = milp.replicas(values)
    used = chips_used(p, replicas)
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
    in_pool = np.bincount(p.option_pool, decision.replicas, p.pools)
    spent = pool_cost(p, decision)
    found: list[Binding] = []
    smallest = np.full(len(used), np.inf)
    np.minimum.at(smallest, p.option_type, (p.option_chips * p.option_multiple).astype(np.float64))
    for t in np.flatnonzero(used + smallest > p.type_quota + _NEAR):
        found.append(Binding("quota", int(t), float(p.type_quota[t]), saves.get(("quota", int(t)), 0.0)))
    least = np.full(len(power), np.inf)
    site = p.type_site[p.option_type]
    np.minimum.at(least, site, p.site_pue[site] * p.option_kw * p.option_multiple)
    for j in np.flatnonzero(power + least > p.site_limit_kw + _NEAR):
        found.append(Binding("power", int(j), float(p.site_limit_kw[j]), saves.get(("power", int(j)), 0.0)))
    for pool in np.flatnonzero((p.pool_min > 0) & (in_pool <= p.pool_min + _NEAR)):
        found.append(Binding("pool_min", int(pool), float(p.pool_min[pool]), 0.0))
    for pool in np.flatnonzero(in_pool >= p.pool_max - _NEAR):
        found.append(Binding("pool_max", int(pool), float(p.pool_max[pool]), 0.0))
    for pool in np.flatnonzero(spent >= p.pool_budget - _NEAR * np.maximum(1.0, spent)):
        found.append(Binding("pool_budget", int(pool), float(p.pool_budget[pool]), 0.0))
    if np.isfinite(p.budget) and costs(p, decision).total >= p.budget * (1 - _NEAR):
        found.append(Binding("budget", 0, float(p.budget), saves.get(("budget", 0), 0.0)))
    return tuple(sorted(found, key=lambda one: -one.usd_per_hour))
