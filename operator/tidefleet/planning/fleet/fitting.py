"""Pools' plans made to fit what quotas and power leave, one pool after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tidefleet.planning.fleet.matrix import Bools
from tidefleet.planning.fleet.milp import FleetMilp
from tidefleet.planning.fleet.pools import rounded_up
from tidefleet.planning.fleet.solver import Answer, Outcome, solve

SHARE = 0.1
"""Share of the time left in which one pool is made to fit what the ones before it left."""

LEAST_SECONDS = 0.3
"""The least time of it."""


def fit_together(
    milp: FleetMilp,
    answers: Mapping[int, Outcome],
    shortlist: Bools,
    *,
    seconds: Callable[[], float],
    gap: float,
    cancelled: Callable[[], bool],
) -> dict[int, Outcome]:
    """The pools' answers, the dearest first, each made to fit in what quotas and power the ones before it left.

    Args:
        milp: the MILP of the whole.
        answers: by pool.
        shortlist: options over which a pool that does not fit is solved anew.
        seconds: time left.
        gap: relative gap at which such a pool is solved.
        cancelled: whether to stop.
    """
    matrix = milp.matrix
    rows = np.zeros(len(matrix.row_lower), dtype=np.bool_)
    rows[[one.row for one in milp.shared if one.kind in ("quota", "power")]] = True
    allowed = np.ones(len(matrix.cost), dtype=np.bool_)
    allowed[milp.columns.x] = (shortlist | (matrix.lower[milp.columns.n] > 0))[milp.problem.arc_option]
    left = matrix.row_upper.copy()
    fitted = dict(answers)
    found = [(owner, one) for owner, one in answers.items() if isinstance(one, Answer)]
    for owner, answer in sorted(found, key=lambda pair: -pair[1].objective):
        mine = matrix.owner == owner
        values = np.zeros(len(matrix.cost))
        values[mine] = answer.values
        if (matrix.activity(values)[rows] > left[rows] + 1e-9).any():
            columns = mine & allowed
            part = matrix.with_rows(matrix.row_lower, np.maximum(left, np.minimum(matrix.row_upper, 0.0)))
            part = part.part(columns, rows | (matrix.row_owner == owner))
            room = max(SHARE * seconds(), LEAST_SECONDS)
            start = rounded_up(part, room, cancelled)
            other = solve(part, seconds=room, gap=gap, start=start, cancelled=cancelled)
            values[mine] = 0.0
            if isinstance(other, Answer):
                values[columns] = other.values
                fitted[owner] = Answer(values[mine], other.objective, -np.inf, np.zeros(0), False)
            else:
                fitted[owner] = other
        left = np.where(rows, left - matrix.activity(values), left)
    return fitted
