"""A cost below which no plan of the fleet can be: shared limits are priced, and each pool is bounded for itself.

For any prices y of the shared rows (quota, power, nodes, credits, budget), of the sign that their side demands,

  min{cost . v : all rows} >= y . limit + sum over pools of min{(cost - A' y) . v : the pool's rows} + the same over
  the shared columns within their bounds,

so a lower bound of each pool's own MILP gives one of the whole, whatever the prices. The duals of the linear relaxation
of the whole are the prices that make it largest when integrality is left aside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidefleet.planning.fleet.matrix import SHARED, Bools, Floats, Ints, Matrix, summed
from tidefleet.planning.fleet.milp import FleetMilp
from tidefleet.planning.fleet.problem import AGGREGATED, DECODE, FleetProblem
from tidefleet.planning.fleet.solver import Answer, Broken, NoPoint, OutOfTime, solve

NEAREST = 3
"""Arcs per cell, role and fabric, cheapest first, with which the relaxation of the whole begins."""

ROUNDS = 4
"""Times that arcs which price out are added to the relaxation."""

FEW_ROUNDS = 2
"""The same where one solve takes seconds."""

MANY = 300_000
"""Arcs above which it does."""

HANDY = 6
"""Options of each pool, the cheapest over its cells, that the whole may use besides those in use."""


@dataclass(frozen=True, slots=True, eq=False)
class Relaxation:
    """The linear relaxation of the whole: prices per row, its point, and a bound of the cost (without the constant)."""

    prices: Floats
    values: Floats
    bound: float


def unit_cost(problem: FleetProblem) -> Floats:
    """USD per hour of serving an arc's whole cell on its option, were replicas and nodes divisible."""
    p = problem
    start = np.where(p.option_running == 0, p.option_start_cost, 0.0)
    rent = np.where(p.type_chips_per_node > 0, p.type_node_cost / np.maximum(p.type_chips_per_node, 1), 0.0)
    node = rent[p.node_type] * p.option_chips
    return p.arc_load * ((p.option_cost + start + node) / p.option_capacity)[p.arc_option]


def nearest(problem: FleetProblem, cost: Floats, most: int) -> Bools:
    """Which arcs are among the cheapest so many of their cell, role and fabric."""
    p = problem
    group = (p.arc_cell * 3 + p.option_role[p.arc_option]) * (int(p.option_fabric.max(initial=0)) + 1)
    group = group + p.option_fabric[p.arc_option]
    order = np.lexsort((cost, group))
    sorted_group = group[order]
    first = np.concatenate(([True], np.diff(sorted_group) != 0)) if len(order) else np.zeros(0, dtype=np.bool_)
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    keep = np.zeros(len(order), dtype=np.bool_)
    keep[order] = rank < most
    return keep


def handy(problem: FleetProblem, most: int) -> Bools:
    """Which options are among the most useful of their pool: aggregated, cheap in most of its cells."""
    p = problem
    cost, whole = unit_cost(p), p.option_role[p.arc_option] == AGGREGATED
    least = np.full(len(p.cell_class), np.inf)
    np.minimum.at(least, p.arc_cell[whole], cost[whole])
    ratio = np.where(whole, np.maximum(least[p.arc_cell], 1e-12) / np.maximum(cost, 1e-12), 0.0)
    score = np.bincount(p.arc_option, np.where(np.isfinite(ratio), ratio, 0.0), len(p.option_pool))
    keep = np.zeros(len(p.option_pool), dtype=np.bool_)
    for pool in range(p.pools):
        mine = np.flatnonzero((p.option_pool == pool) & (score > 0))
        keep[mine[np.argsort(-score[mine], kind="stable")[:most]]] = True
    return keep


def relax(
    milp: FleetMilp, *, seconds: Callable[[], float], cancelled: Callable[[], bool]
) -> Relaxation | NoPoint | OutOfTime | Broken:
    """The relaxation, grown from each cell's nearest arcs until none prices out or the rounds are over."""
    p = milp.problem
    matrix = milp.matrix.with_bounds(milp.matrix.lower, milp.loose_upper)
    every = np.ones(len(matrix.cost), dtype=np.bool_)
    rows = np.ones(len(matrix.row_lower), dtype=np.bool_)
    arcs = nearest(p, unit_cost(p), NEAREST) | (len(p.arc_cell) < 20_000)
    turn, rounds = 0, FEW_ROUNDS if len(p.arc_cell) > MANY else ROUNDS
    while True:
        turn += 1
        columns = every.copy()
        columns[milp.columns.x] = arcs
        answer = solve(matrix.part(columns, rows).relaxed(), seconds=seconds(), cancelled=cancelled)
        if isinstance(answer, NoPoint) and not arcs.all():
            arcs = np.ones_like(arcs)
            continue
        if not isinstance(answer, Answer):
            return answer
        reduced = matrix.priced(answer.row_prices)[milp.columns.x]
        missing = ~arcs & (reduced < -1e-7 * (1.0 + np.abs(unit_cost(p))))
        shared_priced = bool((np.abs(answer.row_prices[matrix.row_owner == SHARED]) > 1e-9).any())
        if turn >= rounds or not missing.any() or not shared_priced:
            values = np.zeros(len(matrix.cost))
            values[columns] = answer.values
            return Relaxation(answer.row_prices, values, answer.objective + least_outside(p, ~arcs, reduced))
        arcs = arcs | (missing & nearest(p, np.where(missing, reduced, np.inf), NEAREST))


def sides(problem: FleetProblem) -> Ints:
    """Per arc, twice its cell, and one more for decode: the shares of a side add up to at most 1."""
    decodes: Ints = (problem.option_role[problem.arc_option] == DECODE).astype(np.int64)
    return 2 * problem.arc_cell + decodes


def least_outside(problem: FleetProblem, outside: Bools, reduced: Floats) -> float:
    """What arcs left out of a relaxation can lower its cost by at most, by their reduced costs (at most 0)."""
    least = np.zeros(2 * len(problem.cell_class))
    np.minimum.at(least, sides(problem)[outside], reduced[outside])
    return float(least.sum())


def shared_prices(milp: FleetMilp, prices: Floats) -> Floats:
    """Prices of the shared rows only, with the sign that a row's finite side demands; other rows are 0."""
    matrix = milp.matrix
    return matrix.usable(np.where(matrix.row_owner == SHARED, prices, 0.0))


def shared_part(milp: FleetMilp, prices: Floats) -> float:
    """What the priced rows and the shared columns contribute to the bound; ``prices`` as from ``shared_prices``."""
    matrix = milp.matrix
    limit = matrix.limits(prices)
    reduced = matrix.priced(prices)
    mine = matrix.owner == SHARED
    with np.errstate(invalid="ignore"):
        at_lower = np.where(reduced[mine] > 0, reduced[mine] * matrix.lower[mine], 0.0)
        at_upper = np.where(reduced[mine] < 0, reduced[mine] * matrix.upper[mine], 0.0)
    return float(prices @ limit + at_lower.sum() + at_upper.sum()) + milp.constant


def pool_floors(milp: FleetMilp, priced: Matrix, prices: Floats) -> Floats:
    """Per pool, a bound that the prices of the relaxation's rows prove without any further solving.

    Args:
        milp: the MILP.
        priced: its matrix with the shared rows already priced into the costs.
        prices: the relaxation's prices of all rows.
    """
    p, matrix = milp.problem, priced
    mine = matrix.usable(np.where(matrix.row_owner == SHARED, 0.0, prices))
    reduced = matrix.priced(mine)
    limit = matrix.limits(mine)
    arcs = np.zeros(len(matrix.cost), dtype=np.bool_)
    arcs[milp.columns.x] = True
    with np.errstate(invalid="ignore"):
        lowest = np.where(reduced > 0, reduced * matrix.lower, np.where(reduced < 0, reduced * matrix.upper, 0.0))
    least = np.zeros(2 * len(p.cell_class))
    np.minimum.at(least, sides(p), reduced[milp.columns.x])
    owner = np.full(len(p.cell_class), SHARED, dtype=np.int64)
    owner[p.arc_cell] = p.option_pool[p.arc_option]
    count = p.pools + 1
    total = summed(matrix.row_owner + 1, mine * limit, count)
    total += summed(matrix.owner[~arcs] + 1, lowest[~arcs], count)
    return (total + summed(np.repeat(owner, 2) + 1, least, count))[1:]


def served_alone(problem: FleetProblem) -> Ints:
    """Cells that no option can serve at all: no arc, or prefill without a decode option in reach (or the reverse)."""
    p = problem
    cells = len(p.cell_class)
    role, fabric = p.option_role[p.arc_option], p.option_fabric[p.arc_option]
    whole = np.zeros(cells, dtype=np.bool_)
    whole[p.arc_cell[role == 0]] = True
    width = int(p.option_fabric.max(initial=0)) + 1
    prefill = np.unique((p.arc_cell * width + fabric)[role == 1])
    decode = np.unique((p.arc_cell * width + fabric)[role == DECODE])
    whole[np.intersect1d(prefill, decode) // width] = True
    return np.flatnonzero(~whole)
