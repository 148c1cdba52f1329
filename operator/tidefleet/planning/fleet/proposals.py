"""Prices of the shared limits from plans that the pools proposed: column generation over whole plans.

Each pool's plan at some prices is a column: its cost and what it takes of each shared row. The cheapest mixture of
columns within the shared limits has duals that know how lumpy the plans are, which the linear relaxation's do not;
the cheapest choice of one column per pool within them is a plan of the fleet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidefleet.planning.fleet.bound import shared_prices
from tidefleet.planning.fleet.matrix import SHARED, Bools, Builder, Floats, Ints, Matrix, summed
from tidefleet.planning.fleet.milp import FleetMilp
from tidefleet.planning.fleet.solver import Answer, solve


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """What a pool's columns cost, and their entries in the shared rows."""

    cost: Floats
    row: Ints
    column: Ints
    value: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """A pool's plan by the columns that are not 0: few of many."""

    size: int
    index: Ints
    value: Floats

    @classmethod
    def of(cls, plan: Floats) -> Sparse:
        """A plan made sparse."""
        some = np.flatnonzero(plan)
        return cls(len(plan), some, plan[some])

    def dense(self) -> Floats:
        """One value per column."""
        plan = np.zeros(self.size)
        plan[self.index] = self.value
        return plan


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """The cheapest mixture of plans within the shared limits.

    Attributes:
        cost: what it costs, without the constant of the fleet's program.
        prices: per row of the fleet's program, its dual there.
        plans: the plans that are part of it, each with its pool.
        weights: per proposal, its share.
    """

    cost: float
    prices: Floats
    plans: tuple[tuple[int, Floats], ...]
    weights: Floats


class Proposals:
    """Plans of pools, and what follows from all of them together."""

    def __init__(self, milp: FleetMilp) -> None:
        self.matrix = matrix = milp.matrix
        self.rows = np.flatnonzero(matrix.row_owner == SHARED)
        self.mine = matrix.owner == SHARED
        at_row, column = np.full(len(matrix.row_lower), -1), matrix.column
        at_row[self.rows] = np.arange(len(self.rows))
        shared = at_row[matrix.row] >= 0
        whole = matrix.integer[column[shared]] & (matrix.value[shared] == np.rint(matrix.value[shared]))
        self.whole: Bools = summed(at_row[matrix.row[shared]], ~whole, len(self.rows)) == 0
        self._pools: dict[int, _Pool] = {}
        for owner in matrix.pools:
            columns = matrix.owner == owner
            entry = np.flatnonzero(shared & columns[column])
            at = np.cumsum(columns) - 1
            self._pools[owner] = _Pool(
                matrix.cost[columns], at_row[matrix.row[entry]], at[column[entry]], matrix.value[entry]
            )
        self.owners: list[int] = []
        self.plans: list[Sparse] = []
        self.costs: list[float] = []
        self.uses: list[Floats] = []
        self._seen: dict[tuple[int, bytes], int] = {}
        self._table: tuple[Ints, Floats] | None = None

    def add(self, owner: int, plan: Floats) -> int:
        """A plan of a pool, its columns' values, unless it is known; its place among the plans."""
        sparse, pool = Sparse.of(plan), self._pools[owner]
        key = (owner, sparse.index.tobytes() + np.round(sparse.value, 6).tobytes())
        if key in self._seen:
            return self._seen[key]
        self._seen[key], self._table = len(self.plans), None
        self.owners.append(owner)
        self.plans.append(sparse)
        self.costs.append(float(pool.cost @ plan))
        self.uses.append(summed(pool.row, pool.value * plan[pool.column], len(self.rows)))
        return self._seen[key]

    @property
    def table(self) -> tuple[Ints, Floats]:
        """The plans' pools, and a line for each plan of what it takes of every shared row."""
        if self._table is None:
            self._table = np.array(self.owners), np.array(self.uses)
        return self._table

    def known(self, plan: Floats) -> Floats:
        """A plan of the fleet as a choice of one plan per pool and the shared columns; its parts join the proposals."""
        places = [self.add(owner, plan[self.matrix.owner == owner]) for owner in self._pools]
        weights = np.zeros(len(self.plans))
        weights[places] = 1.0
        return np.concatenate((weights, plan[self.mine]))

    def cheapest(self, owner: int, prices: Floats, without: Bools | None = None) -> Floats | None:
        """Of a pool's plans the one that some prices of the rows make cheapest; ``None`` before there is any."""
        mine = np.array(self.owners) == owner
        if without is not None:
            mine &= ~without
        return self.plans[int(np.argmin(np.where(mine, self.at(prices), np.inf)))].dense() if mine.any() else None

    def least(self, prices: Floats) -> float:
        """What the cheapest plan of each pool costs at some prices of the rows; infinite before there is one of all."""
        if not self.plans:
            return np.inf
        least = np.full(len(self._pools), np.inf)
        np.minimum.at(least, np.searchsorted(list(self._pools), self.owners), self.at(prices))
        return float(least.sum())

    def at(self, prices: Floats) -> Floats:
        """What each plan costs at some prices of the rows."""
        found: Floats = np.array(self.costs) - self.table[1] @ prices[self.rows]
        return found

    def mixture(
        self, most: Floats, seconds: float, *, without: Bools | None = None, ease: float | None = None
    ) -> Mixture | None:
        """The cheapest mixture of plans; ``None`` where there is none, or the time is over.

        Args:
            most: per row of the fleet's program, the most that its price may be.
            seconds: time left.
            without: plans that are not to be part of it.
            ease: share by which limits are taken wider, instead of ``EASE``.
        """
        program = self._master(most[self.rows], EASE if ease is None else ease).relaxed()
        if without is not None:
            program = _less(program, without)
        answer = solve(program, seconds=seconds)
        if not isinstance(answer, Answer):
            return None
        found = np.zeros(len(self.matrix.row_lower))
        found[self.rows] = answer.row_prices[: len(self.rows)]
        weights = answer.values[: len(self.plans)]
        taken = np.flatnonzero(weights > 1e-6)
        plans = tuple((self.owners[i], self.plans[i].dense()) for i in taken)
        return Mixture(answer.objective, found, plans, weights)

    def choice(
        self, seconds: float, cancelled: Callable[[], bool], *, best: Floats | None = None, without: Bools | None = None
    ) -> dict[int, Floats] | None:
        """One plan per pool, the cheapest that fit together; ``None`` where none do.

        Args:
            seconds: time left.
            cancelled: whether to stop.
            best: a choice to begin from, as ``known`` says it.
            without: plans that are not to be taken.
        """
        program, count = self._master(None, 0.0), len(self.plans)
        if without is not None:
            program = _less(program, without)
        answer = solve(program, seconds=seconds, start=best, cancelled=cancelled)
        if not isinstance(answer, Answer):
            return None
        taken = np.flatnonzero(answer.values[:count] > 0.5)
        return {self.owners[i]: self.plans[i].dense() for i in taken}

    def _master(self, most: Floats | None, ease: float) -> Matrix:
        """Weights of the plans, the shared columns, and (with ``most``) how far each row may be exceeded at a price."""
        m, b, count = self.matrix, Builder(), len(self.plans)
        weights = b.add_columns(count, cost=self.costs, upper=1.0, integer=True)
        wider = 1.0 + ease * (m.row_upper[self.rows] > 0)
        rows = b.add_rows(len(self.rows), lower=m.row_lower[self.rows], upper=m.row_upper[self.rows] * wider)
        b.add_entries(rows[:, None], weights[None, :], self.table[1].T)
        shared = np.flatnonzero(self.mine)
        own = b.add_columns(
            len(shared), cost=m.cost[shared], lower=m.lower[shared], upper=m.upper[shared], integer=False
        )
        at_row, at_column = np.full(len(m.row_lower), -1), np.full(len(m.cost), -1)
        at_row[self.rows], at_column[shared] = rows, own
        column = m.column
        entry = np.flatnonzero(self.mine[column])
        b.add_entries(at_row[m.row[entry]], at_column[column[entry]], m.value[entry])
        if most is not None:
            for sign in (1.0, -1.0):
                b.add_entries(rows, b.add_columns(len(rows), cost=most), sign)
        pools, of = np.unique(self.owners, return_inverse=True)
        one = b.add_rows(len(pools), lower=1.0, upper=1.0)
        b.add_entries(one[of], weights, 1.0)
        return b.build()


EASE = 0.02
"""Share by which limits are taken wider for a mixture: its prices are seldom unique, and those that make the least of
limits are the better ones."""

NEARLY = 0.01
"""Share of what a mixture of plans costs by which the pools' plans at its prices may cost less, to be worth a bound."""


class Tried:
    """Which prices to try next: the relaxation's, parts of them, then mixtures of the best so far and the proposals'.

    Whole replicas leave part of a scarce limit unused, so the relaxation's prices are too high for them. The duals of
    a few proposals leap from turn to turn, so that they are taken half; those of many are taken whole until that fails.
    """

    FIRST = (1.0, 0.7)

    def __init__(self, milp: FleetMilp, full: Floats, *, bold: bool) -> None:
        """Begin with the relaxation's prices; ``bold`` where there are many plans for each turn of prices."""
        self.milp, self.full, self.bold = milp, full, bold
        self.best, self.best_bound, self.best_parts = full, -np.inf, np.full(milp.problem.pools, -np.inf)
        self.centre, self.centre_paid, self.rose, self.hoped = full, -np.inf, True, np.inf
        matrix, n = milp.matrix, np.zeros(len(milp.matrix.cost), dtype=np.bool_)
        n[milp.columns.n] = True
        entry = np.flatnonzero(n[matrix.column] & (matrix.row_owner[matrix.row] == SHARED))
        worth = np.zeros(len(full))
        np.maximum.at(worth, matrix.row[entry], matrix.cost[matrix.column[entry]] / np.abs(matrix.value[entry]))
        self.most = np.maximum(2.0 * np.abs(full), worth)

    def next(self, turn: int, proposals: Proposals, seconds: float) -> Floats:
        """Prices of the shared rows."""
        first = self.FIRST[:1] if self.bold else self.FIRST
        if turn == 0 or (turn < len(first) and self.full.any()):
            return first[turn] * self.full
        found = proposals.mixture(self.most, max(seconds, 0.1))
        if found is None:
            return self.best * (0.9 if turn % 2 else 1.1)
        self.hoped = found.cost + self.milp.constant
        new = 1.0 if self.bold and self.rose else 0.5
        centre = self.centre if self.bold else self.best
        mixed: Floats = new * shared_prices(self.milp, found.prices) + (1 - new) * centre
        return mixed

    def paid(self, prices: Floats, paid: float) -> bool:
        """Note what the pools' plans cost at some prices, which their bound may come near to.

        Returns:
            Whether it is near what the mixture that the prices came from had hoped for: plans that cost far less show
            that the mixture knew too few, and its prices are worth no exact bound.
        """
        self.rose = paid > self.centre_paid
        if self.rose:
            self.centre, self.centre_paid = prices, paid
        return paid >= self.hoped - NEARLY * abs(self.hoped)

    def bound(self, prices: Floats, shared: float, parts: Floats) -> float:
        """The bound that some prices gave, noted where it is the best: that of the shared part and of each pool."""
        bound = shared + float(parts.sum())
        if bound > self.best_bound:
            self.best, self.best_bound, self.best_parts = prices, bound, parts
        return bound


def _less(program: Matrix, without: Bools) -> Matrix:
    """The program without some of its plans, which are its first columns."""
    upper = program.upper.copy()
    upper[np.flatnonzero(without)] = 0.0
    return program.with_bounds(program.lower, upper)
