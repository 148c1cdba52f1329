"""One large pool by knapsacks: a bound over all its options, a plan over a few, and the MILP over those that matter.

The duals of the strong relaxation over a few options are good prices for L (``lagrange``) over all of them, and L says
which further options belong to the few. Once a plan is known, L rules out most options for every better plan, and what
is left is often small enough for its MILP, whose bound then holds for the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidefleet.planning.fleet.lagrange import Knapsacks, Levels, ascend, covering, scales
from tidefleet.planning.fleet.local import search
from tidefleet.planning.fleet.matrix import Bools, Floats, Ints, Matrix
from tidefleet.planning.fleet.solver import Answer, OutOfTime, solve
from tidefleet.planning.fleet.strong import Arcs, Strong, strengthen

FEW = 20
"""Options of the first strong relaxation, and those of the first MILP."""

FRESH = 6
"""Options that join the few per round."""

MIDDLE = 80
"""Options over which L is raised; over all of them it is only checked."""

ROUNDS = 6
"""Times that strong relaxation and L take turns."""

RULED = 12_000
"""Arcs of the options left by L up to which their MILP is tried."""

SLIVER = 0.03
"""Replicas in the strong relaxation up to which an option is left out of the first plan."""

_MIXES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


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
    """How long and how well: seconds left, whether it was called off, and the gaps at which a pool is done."""

    seconds: Callable[[], float]
    cancelled: Callable[[], bool]
    gap: float
    absolute_gap: float

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


def solve_narrowed(pool: LargePool, knapsacks: Knapsacks, effort: Effort) -> Answer | None:
    """A plan with a bound, or ``None`` where none was found over a few options."""
    budget = effort.seconds()
    few, levels = _few(pool, knapsacks, effort, budget)
    plan = _plan(pool, few, levels, effort, budget)
    if plan is None:
        return None
    bound = levels.bound
    if not effort.enough(plan.objective, bound) and effort.seconds() > 0.05 * budget and not effort.cancelled():
        keep = levels.least_use <= (plan.objective - bound) * (1 + 1e-6) + 1e-9
        option = option_of(pool)
        exact = int(keep[option].sum()) <= RULED
        if not exact:
            order = np.argsort(levels.least_use, kind="stable")
            arcs = np.cumsum(np.bincount(option, minlength=len(pool.n))[order])
            keep = few.copy()
            keep[order[arcs <= RULED]] = True
        found = among(pool, keep, plan, effort, seconds=effort.seconds())
        if isinstance(found, Answer) and exact:
            # Every cheaper plan makes do with the options kept.
            bound = max(bound, min(found.bound, plan.objective))
        if isinstance(found, Answer) and found.objective < plan.objective:
            plan = found
    bound = min(bound, plan.objective)
    return Answer(plan.values, plan.objective, bound, np.zeros(0), effort.enough(plan.objective, bound))


def _few(pool: LargePool, knapsacks: Knapsacks, effort: Effort, budget: float) -> tuple[Bools, Levels]:
    """A few options that a good plan can do with, and the best L found on the way."""
    option, scale = option_of(pool), scales(pool.matrix, pool.serve, pool.prices)
    forced = pool.matrix.lower[pool.n] > 0
    best = knapsacks.at(pool.prices)

    def go_on() -> bool:
        return effort.seconds() > 0.55 * budget and not effort.cancelled()

    def first(levels: Levels, count: int, mean: Floats | None = None) -> Bools:
        """The options nearest to use, and enough to reach every cell."""
        used = np.zeros(len(pool.n)) if mean is None else np.where(mean > 0.01, mean, 0.0)
        order = np.lexsort((levels.gain, levels.least_use, -used))
        taken = forced | covering((pool.arcs.side // 2)[pool.whole], option[pool.whole], order)
        taken[order[:count]] = True
        return taken

    def raised(middle: Bools, levels: Levels, steps: int, target: float) -> tuple[Levels, Floats]:
        """L raised over some options, and what all of them make of it."""
        part, columns = narrowed(pool, middle)
        at = np.cumsum(columns) - 1
        kept = middle[option]
        index = np.cumsum(middle) - 1
        some = Knapsacks(part, at[pool.arcs.x[kept]], at[pool.n[middle]], index[option[kept]], pool.load[middle])
        found, mean = ascend(some, levels.prices, scale, steps=steps, target=target, go_on=go_on)
        every = np.zeros(len(pool.n))
        every[middle] = mean
        return knapsacks.at(found.prices), every

    middle = first(best, MIDDLE)
    now, mean = raised(middle, best, 100, best.bound + 0.1 * abs(best.bound))
    best = max(best, now, key=lambda one: one.bound)
    few = first(best, FEW, mean)
    for _ in range(ROUNDS):
        if not go_on():
            break
        strong = _strong(pool, few, lambda: effort.seconds() - 0.5 * budget, effort.cancelled)
        if not np.isfinite(strong.bound):
            break
        there = knapsacks.at(strong.prices)
        mixes = [there if w == 1.0 else knapsacks.at(w * there.prices + (1 - w) * best.prices) for w in _MIXES]
        mix = max(mixes, key=lambda one: one.bound)
        wanted = np.minimum(there.gain, np.where(few, 0.0, mix.gain))
        wanted = np.where(few | (wanted > -1e-7 * max(1.0, abs(strong.bound))), np.inf, wanted)
        best = max(best, mix, key=lambda one: one.bound)
        fresh = np.argsort(wanted, kind="stable")[:FRESH]
        fresh = fresh[np.isfinite(wanted[fresh])]
        middle |= few
        middle[fresh] = True
        now, mean = raised(middle, best, 60, max(strong.bound, best.bound + 0.002 * abs(best.bound)))
        best = max(best, now, key=lambda one: one.bound)
        if not len(fresh) or best.bound >= strong.bound - 0.1 * effort.gap * abs(strong.bound):
            break
        few[fresh] = True
    return few, best


def _plan(pool: LargePool, few: Bools, levels: Levels, effort: Effort, budget: float) -> Answer | None:
    """The best plan found over the options that the strong relaxation of the few uses."""
    strong = _strong(pool, few, lambda: max(effort.seconds() - 0.4 * budget, 0.1 * budget), effort.cancelled)
    if not np.isfinite(strong.bound):
        found = among(pool, few, None, effort, seconds=0.6 * effort.seconds())
        return found if isinstance(found, Answer) else None
    option, replicas = option_of(pool), strong.values[pool.n]
    used = covering((pool.arcs.side // 2)[pool.whole], option[pool.whole], np.argsort(-replicas, kind="stable"))
    used |= (replicas > SLIVER) | (pool.matrix.lower[pool.n] > 0)
    part, columns = narrowed(pool, used)
    at = np.cumsum(columns) - 1
    until = effort.seconds() - 0.15 * budget
    near = search(
        part,
        at[pool.n[used]],
        [np.rint(replicas[used]), np.ceil(replicas[used] - 1e-7)],
        seconds=lambda: effort.seconds() - until,
        cancelled=effort.cancelled,
    )
    best = None
    if near is not None:
        values = np.zeros(len(columns))
        values[columns] = near.values
        best = Answer(values, near.objective, -np.inf, np.zeros(0), False)
    if best is not None and effort.enough(best.objective, levels.bound):
        return best
    other = among(pool, used, best, effort, seconds=0.5 * effort.seconds())
    if isinstance(other, Answer) and (best is None or other.objective < best.objective):
        best = other
    return best


def _strong(pool: LargePool, few: Bools, seconds: Callable[[], float], cancelled: Callable[[], bool]) -> Strong:
    """The strong relaxation over a few options; its values and prices are those of the whole pool's matrix."""
    part, columns = narrowed(pool, few)
    at = np.cumsum(columns) - 1
    kept = few[option_of(pool)]
    arcs = Arcs(at[pool.arcs.x[kept]], at[pool.arcs.n[kept]], pool.arcs.side[kept], pool.arcs.multiple[kept])
    every = np.ones(int(kept.sum()), dtype=np.bool_)
    strong = strengthen(part, arcs, every, seconds=seconds, cancelled=cancelled)
    values = np.zeros(len(columns))
    values[columns] = strong.values
    return Strong(strong.bound, values, np.zeros(0), kept, strong.prices)


def among(
    pool: LargePool, options: Bools, best: Answer | None, effort: Effort, *, seconds: float
) -> Answer | OutOfTime | None:
    """The MILP over some options, as a point of the whole pool; ``None`` where it has no point or failed."""
    part, columns = narrowed(pool, options)
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
    values = np.zeros(len(columns))
    values[columns] = found.values
    return Answer(values, found.objective, found.bound, np.zeros(0), found.complete)


def narrowed(pool: LargePool, options: Bools) -> tuple[Matrix, Bools]:
    """The pool's program with these options only (all rows stay), and which columns it has."""
    matrix = pool.matrix
    allowed = np.zeros(len(matrix.cost), dtype=np.bool_)
    allowed[pool.n[options]] = True
    columns = np.ones(len(matrix.cost), dtype=np.bool_)
    columns[pool.arcs.x] = allowed[pool.arcs.n]
    columns[pool.n] = options
    return matrix.part(columns, np.ones(len(matrix.row_lower), dtype=np.bool_)), columns
