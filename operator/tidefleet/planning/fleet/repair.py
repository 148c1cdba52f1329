"""The whole fleet as one MILP, where its pools alone leave a gap: over a shortlist of options first, then over all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidefleet.planning.fleet import bound as bounds
from tidefleet.planning.fleet.largepool import whole
from tidefleet.planning.fleet.local import search
from tidefleet.planning.fleet.matrix import Bools, Floats
from tidefleet.planning.fleet.milp import FleetMilp
from tidefleet.planning.fleet.solver import Answer, Broken, NoPoint, solve

SEARCH_SHARE = 0.25
"""Share of the time in which replicas are moved one by one before the MILP."""


@dataclass(frozen=True, slots=True, eq=False)
class Repaired:
    """What was found.

    Attributes:
        plan: the cheapest plan of the fleet, where there is any.
        bound: no plan costs less, without the constant of the program; minus infinity where nothing new is known.
        ended: why there is no plan, as far as the solver says.
    """

    plan: Floats | None
    bound: float = float("-inf")
    ended: NoPoint | Broken | None = None


def repaired(
    milp: FleetMilp,
    best: Floats | None,
    used: Bools,
    *,
    gap: float,
    large: bool,
    done: Callable[[Floats], bool],
    seconds: Callable[[], float],
    cancelled: Callable[[], bool],
) -> Repaired:
    """A better plan of the whole, and for a fleet that is not large maybe a better bound.

    Args:
        milp: the MILP of the whole.
        best: its cheapest plan so far.
        used: options that any solution so far uses; handy ones join them for the shortlist.
        gap: relative gap at which it is solved.
        large: whether the MILP over all options would only be read.
        done: whether a plan is near enough to the bound.
        seconds: time left.
        cancelled: whether to stop.
    """
    matrix = milp.matrix

    def cheaper(plan: Floats | None, other: Floats) -> Floats:
        return other if plan is None or matrix.objective(other) < matrix.objective(plan) else plan

    shortlist = used | (matrix.lower[milp.columns.n] > 0) | bounds.handy(milp.problem, bounds.HANDY)
    columns = np.ones(len(matrix.cost), dtype=np.bool_)
    columns[milp.columns.x] = shortlist[milp.problem.arc_option]
    columns[milp.columns.n] = shortlist
    part = matrix.part(columns, np.ones(len(matrix.row_lower), dtype=np.bool_))
    if best is not None and not best[~columns].any():
        until = (1 - SEARCH_SHARE) * seconds()
        near = search(
            part,
            (np.cumsum(columns) - 1)[milp.columns.n[shortlist]],
            [best[milp.columns.n[shortlist]]],
            seconds=lambda: seconds() - until,
            cancelled=cancelled,
        )
        best = best if near is None else cheaper(best, whole(columns, near.values))
    found = solve(
        part,
        seconds=seconds() * (1.0 if large else 0.5),
        gap=0.5 * gap,
        start=None if best is None or best[~columns].any() else best[columns],
        cancelled=cancelled,
    )
    if isinstance(found, Answer):
        best = cheaper(best, whole(columns, found.values))
    if best is not None and (large or done(best)):
        return Repaired(best)
    outcome = solve(matrix, seconds=seconds(), gap=gap, start=best, cancelled=cancelled)
    match outcome:
        case Answer():
            return Repaired(cheaper(best, outcome.values), outcome.bound)
        case NoPoint() | Broken():
            return Repaired(best, ended=outcome)
        case _:
            return Repaired(best)
