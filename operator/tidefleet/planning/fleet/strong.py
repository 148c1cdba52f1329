"""A strong linear relaxation of one pool, grown by columns and rows: the bound of a pool too large for its MILP.

Without integers the MILP says nothing when a sliver of a replica serves a cell; x[c,o] <= n[o] holds for whole replicas
and closes most of that. There are as many such rows as arcs, and few of either matter: the relaxation begins with each
cell's nearest arcs and no such row, then alternately adds arcs that price out and rows that are broken.

In any round, prices y of the rows give the valid bound  y . limits + sum over cells of the least reduced cost of an arc
left
out, where that is negative: the shares of a cell's aggregated and prefill arcs add up to at most 1, and so do those of
its decode arcs. The bound holds however early the growth stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import highspy
import numpy as np

from tidefleet.planning.fleet.matrix import Bools, Floats, Ints, Matrix, summed
from tidefleet.planning.fleet.solver import quiet, to_highs

ROUNDS = 60
_BROKEN = 1e-4
_PER_SIDE = 5


@dataclass(frozen=True, slots=True, eq=False)
class Arcs:
    """The arcs of a pool's matrix: the column of each share x, of its option's n, its side, and the multiple m of n.

    ``side`` numbers cells twice: once for aggregated and prefill arcs, once for decode arcs.
    """

    x: Ints
    n: Ints
    side: Ints
    multiple: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Strong:
    """What the relaxation found.

    Attributes:
        bound: no plan of the pool costs less.
        values: its last point, one per column of the pool's matrix; 0 for arcs left out.
        reduced: reduced costs, one per column; of arcs left out 0.
        grown: which arcs took part at the end.
        prices: of the matrix's rows, in the round of the best bound.
        pressure: of each arc, what its row x <= m n is worth there: at least 0, and 0 where it has no such row.
    """

    bound: float
    values: Floats
    reduced: Floats
    grown: Bools
    prices: Floats
    pressure: Floats


def strengthen(
    matrix: Matrix,
    arcs: Arcs,
    near: Bools,
    *,
    seconds: Callable[[], float],
    cancelled: Callable[[], bool],
    enough: float = float("inf"),
) -> Strong:
    """Grow the relaxation until nothing is missing, the time is over, or the bound reaches ``enough``.

    Args:
        matrix: the pool's MILP.
        arcs: its arcs.
        near: which of them to begin with.
        seconds: time left.
        cancelled: whether to stop.
        enough: a bound beyond which nothing is gained.
    """
    columns = len(matrix.cost)
    active = np.ones(columns, dtype=np.bool_)
    active[arcs.x] = near
    where = np.full(columns, -1, dtype=np.int64)
    where[np.flatnonzero(active)] = np.arange(int(active.sum()))
    upper = matrix.upper.copy()
    upper[arcs.x] = np.inf  # serving a cell whole already keeps a share below 1
    rows = len(matrix.row_lower)
    highs = quiet()
    highs.setOptionValue("presolve", "off")  # each round starts from the last one's basis
    part = matrix.with_bounds(matrix.lower, upper).part(active, np.ones(rows, dtype=np.bool_))
    highs.passModel(to_highs(part.relaxed()))
    ruled = np.zeros(len(arcs.x), dtype=np.bool_)
    best = Strong(-np.inf, np.zeros(columns), np.zeros(columns), near, np.zeros(rows), np.zeros(len(arcs.x)))
    order = np.zeros(0, dtype=np.int64)
    for _ in range(ROUNDS):
        left = seconds()
        if left <= 0 or cancelled() or best.bound >= enough:
            break
        highs.setOptionValue("time_limit", highs.getRunTime() + left)
        highs.run()
        if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            break
        solution, objective = highs.getSolution(), highs.getInfo().objective_function_value
        values, prices = np.array(solution.col_value), np.array(solution.row_dual)
        inside = where[arcs.x] >= 0
        outside = matrix.priced(prices[:rows])[arcs.x]
        least = np.zeros(int(arcs.side.max(initial=0)) + 1)
        np.minimum.at(least, arcs.side[~inside], outside[~inside])
        bound = float(objective + least.sum())
        full = np.zeros(columns)
        full[where >= 0] = values[where[where >= 0]]
        reduced = np.zeros(columns)
        reduced[where >= 0] = np.array(solution.col_dual)[where[where >= 0]]
        now, pressure = prices[:rows], np.zeros(len(arcs.x))
        pressure[order] = np.maximum(-prices[rows:], 0.0)
        if bound <= best.bound:
            now, pressure = best.prices, best.pressure
        best = Strong(max(bound, best.bound), full, reduced, inside, now, pressure)
        broken = inside & ~ruled & (full[arcs.x] > arcs.multiple * full[arcs.n] + _BROKEN)
        missing = ~inside & (outside < -1e-6)
        if not broken.any() and not missing.any():
            break
        if missing.any():
            _add_columns(highs, matrix, arcs.x[_least(missing, outside, arcs.side)], where)
        if broken.any():
            _add_rows(highs, arcs, np.flatnonzero(broken), where)
            order = np.concatenate((order, np.flatnonzero(broken)))
            ruled |= broken
    highs.clear()
    return best


def gathered(matrix: Matrix, arcs: Arcs, pressure: Floats) -> Matrix:
    """The program with one more row per option: the rows x <= m n of its arcs, weighted by their pressure and added up.

    By the duality of linear programs these few rows together are worth as much as all the rows they were made of.
    """
    some = np.flatnonzero(pressure > 0)
    columns, row = np.unique(arcs.n[some], return_inverse=True)
    total, count = summed(row, pressure[some], len(columns)), np.bincount(row, minlength=len(columns))
    weight = pressure[some] * (count / np.maximum(total, 1e-300))[row]
    return matrix.with_more_rows(
        np.concatenate((row, np.arange(len(columns)))),
        np.concatenate((arcs.x[some], columns)),
        np.concatenate((weight, -summed(row, weight * arcs.multiple[some], len(columns)))),
        np.zeros(len(columns)),
    )


def _least(some: Bools, cost: Floats, side: Ints) -> Ints:
    """Of some arcs, the cheapest few of each side."""
    at = np.flatnonzero(some)
    order = np.lexsort((cost[at], side[at]))
    sides = side[at][order]
    first = np.concatenate(([True], sides[1:] != sides[:-1]))
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    return at[order][rank < _PER_SIDE]


def _add_columns(highs: highspy.Highs, matrix: Matrix, columns: Ints, where: Ints) -> None:
    counts = np.diff(matrix.start)[columns]
    start = np.concatenate(([0], np.cumsum(counts)))
    entries = np.repeat(matrix.start[columns] - start[:-1], counts) + np.arange(start[-1])
    base, count = highs.getNumCol(), len(columns)
    highs.addCols(
        count,
        matrix.cost[columns],
        np.zeros(count),
        np.full(count, np.inf),
        len(entries),
        start[:-1].astype(np.int32),
        matrix.row[entries].astype(np.int32),
        matrix.value[entries],
    )
    where[columns] = base + np.arange(count)


def _add_rows(highs: highspy.Highs, arcs: Arcs, some: Ints, where: Ints) -> None:
    """x - m n <= 0 for some arcs."""
    count = len(some)
    index = np.stack((where[arcs.x[some]], where[arcs.n[some]]), axis=1).ravel()
    value = np.stack((np.ones(count), -arcs.multiple[some]), axis=1).ravel()
    start = 2 * np.arange(count)
    highs.addRows(
        count,
        np.full(count, -np.inf),
        np.zeros(count),
        2 * count,
        start.astype(np.int32),
        index.astype(np.int32),
        value,
    )
