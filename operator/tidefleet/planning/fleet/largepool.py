"""One large pool as a program, and what is solved over some of its options only: its MILP and a local search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidefleet.planning.fleet.lagrange import Knapsacks
from tidefleet.planning.fleet.local import search
from tidefleet.planning.fleet.matrix import SHARED, Bools, Floats, Ints, Matrix, summed
from tidefleet.planning.fleet.solver import Answer, OutOfTime, solve
from tidefleet.planning.fleet.strong import Arcs

_FAR = 1e15
"""Stands in for a bound that is infinite."""


@dataclass(frozen=True, slots=True, eq=False)
class LargePool:
    """A pool's program with what is known about it.

    Attributes:
        matrix: the program, shared limits priced into its costs.
        arcs: its arcs.
        near: arcs with which a strong relaxation of the whole pool begins.
        whole: arcs that serve a cell alone (aggregated ones).
        n: the column of each option's replicas.
        load: the row of each option's load.
        serve: the rows that serve a cell each.
        point: its point in the relaxation of the whole fleet.
        prices: its rows' prices there.
    """

    matrix: Matrix
    arcs: Arcs
    near: Bools
    whole: Bools
    n: Ints
    load: Ints
    serve: Ints
    point: Floats
    prices: Floats


@dataclass(frozen=True, slots=True)
class Effort:
    """How well: the gaps at which a pool is done, and whether the search was called off."""

    gap: float
    absolute_gap: float
    cancelled: Callable[[], bool]

    def enough(self, cost: float, bound: float) -> bool:
        """Whether a cost is near enough to a bound."""
        return cost - bound <= max(self.gap * abs(cost), self.absolute_gap)


@dataclass(frozen=True, slots=True, eq=False)
class OwnLimits:
    """Rows that hold for one pool alone, with entries by row and by column of the pool's program.

    Prices let a pool take more of a shared limit than there is, if it pays for it; it cannot take more than what the
    others leave at the least.
    """

    row: Ints
    column: Ints
    value: Floats
    upper: Floats


def own_limits(matrix: Matrix, owner: int) -> OwnLimits:
    """What a pool may take of the shared rows of the whole fleet's program, where it could take more than that.

    A limit is rounded down to a multiple of what all the pool's columns are multiples of, e.g. 19 chips in replicas of
    8 and 16 to 16.
    """
    mine, column = matrix.owner == owner, matrix.column
    shared = (matrix.row_owner == SHARED) & np.isfinite(matrix.row_upper)
    at_lower, at_upper = (matrix.value * np.clip(bound[column], -_FAR, _FAR) for bound in (matrix.lower, matrix.upper))
    of_me, rows = mine[column], len(matrix.row_upper)
    others = summed(matrix.row, np.where(of_me, 0.0, np.minimum(at_lower, at_upper)), rows)
    most = summed(matrix.row, np.where(of_me, np.maximum(at_lower, at_upper), 0.0), rows)
    limit = matrix.row_upper - others
    taken = np.flatnonzero(shared & (most > limit + 1e-9) & (others > -_FAR))
    at = np.full(rows, -1)
    at[taken] = np.arange(len(taken))
    entry = np.flatnonzero(of_me & (at[matrix.row] >= 0))
    row, value, upper = at[matrix.row[entry]], matrix.value[entry], limit[taken]
    chips = np.rint(value)
    for i in range(len(taken)):
        some = row == i
        if matrix.integer[column[entry[some]]].all() and (np.abs(chips[some] - value[some]) < 1e-9).all():
            unit = int(np.gcd.reduce(chips[some].astype(np.int64)))
            upper[i] = unit * np.floor(upper[i] / unit + 1e-9)
    return OwnLimits(row, (np.cumsum(mine) - 1)[column[entry]], value, upper)


def knapsacks_of(pool: LargePool) -> Knapsacks:
    """L of the whole pool."""
    return Knapsacks(pool.matrix, pool.arcs.x, pool.n, option_of(pool), pool.load)


def option_of(pool: LargePool) -> Ints:
    """The option of each arc, as an index of the pool's options."""
    index = np.zeros(len(pool.matrix.cost), dtype=np.int64)
    index[pool.n] = np.arange(len(pool.n))
    return index[pool.arcs.n]


def moved(
    pool: LargePool,
    options: Bools,
    starts: list[Floats],
    *,
    seconds: Callable[[], float],
    cancelled: Callable[[], bool],
) -> Answer | None:
    """The best plan over some options that local search finds, as a point of the whole pool.

    Args:
        pool: the pool.
        options: which of its options may be used.
        starts: replicas of all its options to begin from.
        seconds: time left.
        cancelled: whether to stop.
    """
    some = moving(pool, options)
    found = search(
        some.matrix,
        some.n,
        [one[options] for one in starts],
        seconds=seconds,
        cancelled=cancelled,
        knapsacks=some.knapsacks,
    )
    if found is None:
        return None
    return Answer(whole(some.columns, found.values), found.objective, -np.inf, np.zeros(0), False)


@dataclass(frozen=True, slots=True, eq=False)
class Moving:
    """Some options of a pool as a program whose replicas are moved.

    Attributes:
        matrix: the program.
        n: the columns of its replicas.
        knapsacks: the same as knapsacks.
        columns: which columns of the pool's program it has.
    """

    matrix: Matrix
    n: Ints
    knapsacks: Knapsacks
    columns: Bools


def moving(pool: LargePool, options: Bools) -> Moving:
    """The pool with these options only."""
    part, columns = narrowed(pool, options)
    at, of = np.cumsum(columns) - 1, option_of(pool)
    kept, index = options[of], np.cumsum(options) - 1
    n = at[pool.n[options]]
    return Moving(part, n, Knapsacks(part, at[pool.arcs.x[kept]], n, index[of[kept]], pool.load[options]), columns)


def among(
    pool: LargePool,
    options: Bools,
    best: Answer | None,
    effort: Effort,
    *,
    seconds: float,
    limits: tuple[Floats, Floats] | None = None,
) -> Answer | OutOfTime | None:
    """The MILP over some options, as a point of the whole pool; ``None`` where it has no point or failed.

    Args:
        pool: the pool.
        options: which of its options may be used.
        best: a plan to begin from.
        effort: the gaps at which to stop.
        seconds: the most time.
        limits: the least and the most replicas of each option, within the program's.
    """
    part, columns = narrowed(pool, options)
    if limits is not None:
        lower, upper = pool.matrix.lower.copy(), pool.matrix.upper.copy()
        lower[pool.n], upper[pool.n] = limits
        part = part.with_bounds(lower[columns], upper[columns])
    start = None if best is None or best.values[~columns].any() else best.values[columns]
    found = solve(
        part,
        seconds=seconds,
        gap=effort.gap,
        absolute_gap=effort.absolute_gap,
        start=start,
        searching=start is None,
        cancelled=effort.cancelled,
    )
    if isinstance(found, OutOfTime):
        return found
    if not isinstance(found, Answer):
        return None
    return Answer(whole(columns, found.values), found.objective, found.bound, np.zeros(0), found.complete)


def narrowed(pool: LargePool, options: Bools) -> tuple[Matrix, Bools]:
    """The pool's program with these options only (all rows stay), and which columns it has."""
    columns = columns_of(pool, options)
    return pool.matrix.part(columns, np.ones(len(pool.matrix.row_lower), dtype=np.bool_)), columns


def columns_of(pool: LargePool, options: Bools) -> Bools:
    """The columns of the pool's program that are left with these options only."""
    columns = np.ones(len(pool.matrix.cost), dtype=np.bool_)
    columns[pool.arcs.x] = options[option_of(pool)]
    columns[pool.n] = options
    return columns


def whole(columns: Bools, values: Floats) -> Floats:
    """A point over some columns as one of all of them."""
    found = np.zeros(len(columns))
    found[columns] = values
    return found
