"""One large pool as a program, and what is solved over some of its options only: its MILP and a local search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidefleet.planning.fleet.lagrange import Knapsacks
from tidefleet.planning.fleet.local import search
from tidefleet.planning.fleet.matrix import Bools, Floats, Ints, Matrix
from tidefleet.planning.fleet.solver import Answer, OutOfTime, solve
from tidefleet.planning.fleet.strong import Arcs


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
    part, columns = narrowed(pool, options)
    at = np.cumsum(columns) - 1
    kept = options[option_of(pool)]
    index = np.cumsum(options) - 1
    knapsacks = Knapsacks(
        part,
        at[pool.arcs.x[kept]],
        at[pool.n[options]],
        index[option_of(pool)[kept]],
        pool.load[options],
    )
    found = search(
        part,
        at[pool.n[options]],
        [one[options] for one in starts],
        seconds=seconds,
        cancelled=cancelled,
        knapsacks=knapsacks,
    )
    if found is None:
        return None
    return Answer(whole(columns, found.values), found.objective, -np.inf, np.zeros(0), False)


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
