"""A plan checked against the problem itself, constraint by constraint, without the matrix it was solved with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidefleet.planning.fleet.matrix import summed
from tidefleet.planning.fleet.milp import carried_share
from tidefleet.planning.fleet.problem import AGGREGATED, DECODE, PREFILL, FleetProblem, Floats, Ints
from tidefleet.planning.fleet.result import Costs


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What a plan decides: replicas per option, shares per arc and cell, the KV tier per pool, nodes per type."""

    replicas: Ints
    flow: Floats
    spill: Floats
    shortfall: Floats
    tier: Ints
    nodes: Ints


def chips_used(problem: FleetProblem, replicas: Ints) -> Floats:
    """Chips in use per type."""
    return summed(problem.option_type, replicas * problem.option_chips, len(problem.type_price))


def chips_on_nodes(problem: FleetProblem, replicas: Ints) -> Floats:
    """Chips in use on the nodes of each type."""
    return summed(problem.node_type, replicas * problem.option_chips, len(problem.type_price))


def power_used(problem: FleetProblem, replicas: Ints) -> Floats:
    """kW per site, PUE included."""
    p = problem
    kw = summed(p.type_site[p.option_type], replicas * p.option_kw, len(p.site_limit_kw))
    return kw * p.site_pue


def pool_cost(problem: FleetProblem, decision: Decision) -> Floats:
    """What each pool's budget is compared with: replicas, storage and spill, USD per hour."""
    p = problem
    cost = summed(p.option_pool, decision.replicas * p.option_cost, p.pools)
    taken = decision.tier[decision.tier >= 0]
    cost += summed(p.tier_pool[taken], p.tier_cost[taken], p.pools)
    owner = np.full(p.classes, -1, dtype=np.int64)
    owner[p.cell_class[p.arc_cell]] = p.option_pool[p.arc_option]
    pool = owner[p.cell_class]
    spilled = decision.spill > 0
    spent = np.where(spilled, decision.spill * np.where(spilled, p.cell_spill, 0.0), 0.0)
    return cost + summed(pool[pool >= 0], spent[pool >= 0], p.pools)


def costs(problem: FleetProblem, decision: Decision) -> Costs:
    """What the plan costs, from its decision alone."""
    p, d = problem, decision
    started = np.maximum(d.replicas - p.option_running, 0)
    stopped = np.maximum(p.option_running - d.replicas, 0)
    used = chips_used(p, d.replicas)
    firm = summed(p.option_type, np.where(p.option_spot, 0, d.replicas * p.option_chips), len(p.type_price))
    reserved = np.minimum(p.type_reserved, firm)
    night = np.minimum(p.type_night_chips, used - reserved)
    replicas = float(d.replicas @ p.option_cost)
    storage = float(p.tier_cost[d.tier[d.tier >= 0]].sum())
    nodes = float(d.nodes @ p.type_node_cost)
    spill = _product(d.spill, p.cell_spill)
    over = float(np.maximum(pool_cost(p, d) - p.pool_budget, 0.0).sum())
    spent = replicas + storage + nodes + spill - float(reserved @ p.type_price)
    return Costs(
        replicas=replicas,
        starts_and_stops=float(started @ p.option_start_cost + stopped @ p.option_stop_cost),
        nodes=nodes,
        storage=storage,
        spill=spill,
        shortfall=_product(d.shortfall, p.cell_penalty),
        credits=-float(reserved @ p.type_price + night @ p.type_night_value),
        budget_penalty=p.budget_penalty * (over + max(spent - p.budget, 0.0)),
    )


def _product(shares: Floats, prices: Floats) -> float:
    some = shares > 0
    return float(shares[some] @ prices[some])


def violations(problem: FleetProblem, decision: Decision, tolerance: float = 1e-6) -> list[str]:
    """Every constraint that the decision breaks by more than the tolerance (relative to its limit, at least 1)."""
    p, d = problem, decision
    role = p.option_role[p.arc_option]
    found: list[str] = []

    def at_most(what: str, value: Floats, limit: Floats) -> None:
        bad = np.flatnonzero(
            ~(value <= limit + tolerance * np.maximum(1.0, np.where(np.isfinite(limit), np.abs(limit), 1.0)))
        )
        found.extend(f"{what}[{i}] is {value[i]:.9g}; at most {limit[i]:.9g}" for i in bad[:3])

    served = summed(p.arc_cell, np.where(role == DECODE, 0.0, d.flow), len(p.cell_class))
    served = served + d.spill + d.shortfall
    at_most("served share of cell", served, np.ones(len(served)))
    at_most("unserved share of cell", 1.0 - served, np.zeros(len(served)))
    at_most("spill without a price in cell", np.where(np.isfinite(p.cell_spill), 0.0, d.spill), np.zeros(len(served)))
    at_most("shortfall of cell", np.where(np.isfinite(p.cell_penalty), 0.0, d.shortfall), np.zeros(len(served)))
    for what, shares in (("flow", d.flow), ("spill", d.spill), ("shortfall", d.shortfall)):
        at_most(f"negative {what}", -shares, np.zeros(len(shares)))
    width = int(p.option_fabric.max(initial=0)) + 1
    pair = p.arc_cell * width + p.option_fabric[p.arc_option]
    moved = np.where(role == PREFILL, d.flow, np.where(role == DECODE, -d.flow, 0.0))
    moved = summed(pair, moved, int(pair.max(initial=0)) + 1)
    at_most("prefill without decode in cell and fabric", np.abs(moved), np.zeros(len(moved)))
    load = summed(p.arc_option, p.arc_load * d.flow, len(p.option_pool))
    at_most("load of option", load, p.option_capacity * d.replicas)
    at_most("replicas of option", d.replicas.astype(np.float64), p.option_max)
    at_most("missing replicas of option", p.option_min - d.replicas, np.zeros(len(load)))
    at_most("broken racks of option", (d.replicas % p.option_multiple).astype(np.float64), np.zeros(len(load)))
    used = chips_used(p, d.replicas)
    at_most("chips of type", used, p.type_quota)
    held = np.where(p.type_chips_per_node > 0, chips_on_nodes(p, d.replicas) - d.nodes * p.type_chips_per_node, 0.0)
    at_most("chips beyond nodes of type", held, 0.0 * used)
    at_most("kW of site", power_used(p, d.replicas), p.site_limit_kw)
    for decodes in (False, True):
        spot = np.where(p.option_spot[p.arc_option] & ((role == DECODE) == decodes), d.flow, 0.0)
        rate = summed(p.cell_class[p.arc_cell], spot * p.cell_rate[p.arc_cell], p.classes)
        at_most("spot rate of class", rate, p.class_spot_limit * summed(p.cell_class, p.cell_rate, p.classes))
    in_pool = summed(p.option_pool, d.replicas, p.pools)
    at_most("replicas of pool", in_pool, p.pool_max)
    at_most("missing replicas of pool", p.pool_min - in_pool, np.zeros(p.pools))
    of_tier = p.option_tier >= 0
    wrong = of_tier & (d.tier[p.option_pool] != p.option_tier) & (d.replicas > 0)
    at_most("options of a KV tier not taken", wrong.astype(np.float64), np.zeros(len(load)))
    carried = carried_share(p)
    for one in np.flatnonzero(p.pool_spare > 0):
        for which in (AGGREGATED, PREFILL, DECODE):
            mine = (p.option_pool == one) & (p.option_role == which)
            size = carried * p.option_capacity
            free = float((carried * (p.option_capacity * d.replicas - load))[mine].sum())
            lost = float(p.pool_spare[one] * size[mine & (d.replicas > 0)].max(initial=0.0))
            at_most(f"spare of pool {one}, short by", np.array([lost - free]), np.zeros(1))
    return found
