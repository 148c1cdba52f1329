"""A fleet's program pool by pool: each as a program of its own, and their plans as one point of the whole."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tidefleet.planning.fleet import bound as bounds
from tidefleet.planning.fleet.halves import Half
from tidefleet.planning.fleet.largepool import LargePool, OwnLimits, own_limits
from tidefleet.planning.fleet.matrix import SHARED, Bools, Floats, Matrix
from tidefleet.planning.fleet.milp import FleetMilp
from tidefleet.planning.fleet.problem import AGGREGATED
from tidefleet.planning.fleet.solver import Answer, Outcome, OutOfTime, solve
from tidefleet.planning.fleet.strong import Arcs


class Poolwise:
    """A fleet in its pools.

    Args:
        milp: the MILP of the whole.
        relaxation: its linear relaxation.
    """

    def __init__(self, milp: FleetMilp, relaxation: bounds.Relaxation) -> None:
        self.milp, self.relaxation = milp, relaxation
        self._near = bounds.nearest(milp.problem, bounds.unit_cost(milp.problem), 2)
        self._sides = bounds.sides(milp.problem)
        self._own: dict[int, OwnLimits] = {}

    def pool(self, matrix: Matrix, owner: int, halves: tuple[Half, ...] = ()) -> LargePool:
        """A pool's part of the program, with its arcs found again in it.

        Args:
            matrix: the program, at some prices of the shared rows.
            owner: the pool.
            halves: limits of what pools take of shared rows.
        """
        p, columns = self.milp.problem, self.milp.columns
        mine, rows = matrix.owner == owner, matrix.row_owner == owner
        at, row_at = np.cumsum(mine) - 1, np.cumsum(rows) - 1
        options = p.option_pool == owner
        serve = self.milp.serve
        arcs = np.flatnonzero(p.option_pool[p.arc_option] == owner)
        option = p.arc_option[arcs]
        multiple = p.option_multiple[option].astype(np.float64)
        if owner not in self._own:
            self._own[owner] = own_limits(matrix, owner)
        own = self._own[owner]
        for half in halves:
            own = half.own(matrix, own) if half.owner == owner else own
        return LargePool(
            matrix.part(mine, rows).with_more_rows(own.row, own.column, own.value, own.upper),
            Arcs(at[columns.x[arcs]], at[columns.n[option]], self._sides[arcs], multiple),
            self._near[arcs],
            p.option_role[option] == AGGREGATED,
            at[columns.n[options]],
            row_at[self.milp.load[options]],
            row_at[serve[rows[serve]]],
            self.relaxation.values[mine],
            np.concatenate((self.relaxation.prices[rows], np.zeros(len(own.upper)))),
        )

    def together(self, plans: Mapping[int, Floats], seconds: float) -> Floats | None:
        """A plan of each pool as one point of the whole, or ``None`` where they exceed a shared limit."""
        matrix = self.milp.matrix
        if len(plans) < len(matrix.pools):
            return None
        values = np.zeros(len(matrix.cost))
        for owner, plan in plans.items():
            values[matrix.owner == owner] = plan
        mine, rows = matrix.owner == SHARED, matrix.row_owner == SHARED
        used = matrix.activity(np.where(mine, 0.0, values))
        rest = matrix.part(mine, rows)
        rest = rest.with_rows(rest.row_lower - used[rows], rest.row_upper - used[rows])
        answer = solve(rest, seconds=seconds)
        if not isinstance(answer, Answer):
            return None
        values[mine] = answer.values
        return values

    def in_use(self, owner: int, plan: Floats) -> Bools:
        """Which of a pool's options have replicas in a plan of it."""
        mine = np.zeros(len(self.milp.matrix.cost))
        mine[self.milp.matrix.owner == owner] = plan
        used: Bools = mine[self.milp.columns.n[self.milp.problem.option_pool == owner]] > 0.5
        return used

    def parts(self, answers: Mapping[int, Outcome]) -> Floats:
        """Each pool's bound."""
        parts = np.zeros(self.milp.problem.pools)
        for owner, one in answers.items():
            parts[owner] = one.bound if isinstance(one, Answer | OutOfTime) else -np.inf
        return parts


def plans_of(answers: Mapping[int, Outcome]) -> dict[int, Floats]:
    """The plans of the pools that have one."""
    return {owner: one.values for owner, one in answers.items() if isinstance(one, Answer)}
