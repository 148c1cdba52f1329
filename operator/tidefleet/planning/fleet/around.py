"""A plan of the whole made better a few pools at a time, the other pools kept as they are.

What the kept pools use of a quota or of a site's power is taken off its limit; a few pools and the shared columns are
then one MILP over a shortlist of options, begun from the plan. A pool alone finds what is left to it; two together
can swap a scarce type, which neither of them could give up alone. The plan is feasible at every step and never dearer
than before, so the search can end whenever the time does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tidefleet.planning.fleet.local import search
from tidefleet.planning.fleet.matrix import SHARED, Bools, Floats
from tidefleet.planning.fleet.milp import FleetMilp
from tidefleet.planning.fleet.solver import Answer, solve
from tidefleet.planning.fleet.turn import Spread

MOST = 25_000
"""Shares of one MILP, above which pools are not taken together."""

LEAST_SECONDS = 0.05
"""Time left below which nothing more is tried."""

TURN = 0.25
"""The most of the time left that one MILP takes."""

MOVED = 8_000
"""Columns of a MILP above which single replicas are moved before it is solved."""

MOVES_SHARE = 0.4
"""The most of its time that this takes."""

HELPS = 1e-6
"""Relative saving below which a plan counts as no better."""


@dataclass(frozen=True, slots=True)
class _Room:
    """What one MILP has: how many at once divide what limits leave free, its time by a
    clock, and the gap at which it is done."""

    sharing: int
    clock: Callable[[], float]
    seconds: float
    worth: float
    cancelled: Callable[[], bool]


def improved(
    milp: FleetMilp,
    plan: Floats,
    shortlist: Bools,
    slack: Floats,
    *,
    spread: Spread,
    workers: int,
    enough: Callable[[Floats], bool],
    clock: Callable[[], float],
    seconds: Callable[[], float],
    cancelled: Callable[[], bool],
) -> Floats:
    """The plan, or a cheaper one.

    Args:
        milp: the MILP of the whole.
        plan: a feasible point of it.
        shortlist: options that may be used besides those the plan uses.
        slack: per pool, USD per hour by which its part of the plan may be too dear; those of most are tried first.
        spread, workers: applies a function to each item, so many side by side.
        enough: whether a plan is near enough to the bound.
        clock: seconds since any moment.
        seconds: time left by it.
        cancelled: whether to stop.
    """
    fruitless: set[tuple[int, ...]] = set()
    matrix = milp.matrix
    at_once = 1 if (matrix.owner == SHARED).any() else workers
    cost = matrix.objective(plan)
    while True:
        groups = [one for one in _groups(milp, plan, shortlist, slack) if one not in fruitless]
        batch: list[tuple[int, ...]] = []
        for one in groups:
            if len(batch) < at_once and not any(set(one) & set(other) for other in batch):
                batch.append(one)
        if not batch and at_once > 1:
            at_once, fruitless = 1, set()  # alone, a group has all that the limits leave free
            continue
        if not batch or seconds() < LEAST_SECONDS or cancelled() or enough(plan):
            return plan
        share, current = max(TURN * seconds(), LEAST_SECONDS), plan

        def again(pools: tuple[int, ...]) -> Floats:
            worth = max(0.05 * float(slack[list(pools)].sum()), 1e-6)  # noqa: B023 - called within this turn only
            limits = _Room(len(batch), clock, share, worth, cancelled)  # noqa: B023
            return _again(milp, current, pools, shortlist, limits)  # noqa: B023

        for pools, found in zip(batch, spread(again, batch), strict=True):
            mine = np.isin(matrix.owner, [*pools, SHARED])
            saved = float(matrix.cost[mine] @ (plan[mine] - found[mine]))
            if saved > HELPS * abs(cost):
                plan, cost = np.where(mine, found, plan), cost - saved
                slack = slack.copy()
                slack[list(pools)] -= saved / len(pools)
                # What this group freed or took may help any group that shares a limit with it.
                fruitless = {one for one in fruitless if not set(one) & set(pools)} if saved < 1e-3 * cost else set()
            fruitless.add(pools)


def _groups(milp: FleetMilp, plan: Floats, shortlist: Bools, slack: Floats) -> Iterator[tuple[int, ...]]:
    """Pools alone, then two and three together, those of most slack first."""
    p = milp.problem
    allowed = shortlist | (plan[milp.columns.n] > 0.5)
    size = np.bincount(p.option_pool[p.arc_option[allowed[p.arc_option]]], minlength=p.pools)
    some = [int(one) for one in np.argsort(-slack, kind="stable") if size[one]]
    for count in (1, 2, 3):
        groups = [
            tuple(sorted(one)) for one in combinations(some, count) if count == 1 or size[list(one)].sum() <= MOST
        ]
        yield from sorted(groups, key=lambda one: -float(slack[list(one)].sum()))


def _again(
    milp: FleetMilp,
    plan: Floats,
    pools: tuple[int, ...],
    shortlist: Bools,
    room: _Room,
) -> Floats:
    """The plan with some pools solved anew, or as it was."""
    matrix, p = milp.matrix, milp.problem
    free = np.isin(matrix.owner, [*pools, SHARED])
    rows = np.isin(matrix.row_owner, [*pools, SHARED])
    allowed = shortlist | (plan[milp.columns.n] > 0.5) | (matrix.lower[milp.columns.n] > 0)
    columns = free.copy()
    columns[milp.columns.x] &= allowed[p.arc_option]
    columns[milp.columns.n] &= allowed
    used, fixed = matrix.activity(plan), matrix.activity(np.where(columns, 0.0, plan))
    part_of = np.where(matrix.row_owner == SHARED, 1.0 / room.sharing, 1.0)
    lower = used + part_of * np.minimum(matrix.row_lower - used, 0.0) - fixed
    upper = used + part_of * np.maximum(matrix.row_upper - used, 0.0) - fixed
    part = matrix.with_rows(lower, upper).part(columns, rows)
    start = plan[columns]
    began = room.clock()

    def left(share: float) -> float:
        return share * room.seconds - (room.clock() - began)

    if len(part.cost) > MOVED:
        n = (np.cumsum(columns) - 1)[milp.columns.n[columns[milp.columns.n]]]
        moved = search(part, n, [start[n]], seconds=lambda: left(MOVES_SHARE), cancelled=room.cancelled)
        if moved is not None and moved.objective < part.objective(start):
            start = moved.values
    found = solve(part, seconds=left(1.0), gap=0.0, absolute_gap=room.worth, start=start, cancelled=room.cancelled)
    values = found.values if isinstance(found, Answer) else start
    better = plan.copy()
    better[columns] = values
    return better if matrix.violation(better) <= 2e-6 else plan
