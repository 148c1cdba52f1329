"""Solves a fleet: each pool's MILP with the shared limits priced, then the whole repaired and bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tidefleet.planning.fleet import bound as bounds
from tidefleet.planning.fleet.explain import explained
from tidefleet.planning.fleet.infeasible import why_infeasible
from tidefleet.planning.fleet.matrix import SHARED, Floats, Matrix, summed
from tidefleet.planning.fleet.milp import FleetMilp, build
from tidefleet.planning.fleet.pools import LargePool, solve_pool
from tidefleet.planning.fleet.problem import FleetProblem
from tidefleet.planning.fleet.result import FleetResult, SolverFailed
from tidefleet.planning.fleet.solver import Answer, Broken, NoPoint, Outcome, OutOfTime
from tidefleet.planning.fleet.solver import solve as solve_matrix
from tidefleet.planning.fleet.strong import Arcs

POOLS_SHARE = 0.8
"""Share of the time for the pools; the rest is for the whole."""

LARGE = 60_000
"""Arcs above which the repaired plan is not handed to the MILP of the whole, which would only read it."""


class Spread(Protocol):
    """Applies a function to each item, side by side where it can: ``map`` or an executor's ``map``."""

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterable[Any]:
        """Results in the order of the items."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop: ``gap`` relative to the cost of the fleet, ``seconds`` of wall-clock time."""

    gap: float = 0.004
    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Watch:
    """What is left of the time, and whether somebody called it off."""

    clock: Callable[[], float]
    until: float
    cancelled: Callable[[], bool]

    def left(self) -> float:
        """Seconds left."""
        return self.until - self.clock()


def solve(
    problem: FleetProblem,
    *,
    clock: Callable[[], float],
    limits: Limits | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    spread: Spread = map,
    workers: int = 1,
) -> FleetResult:
    """The cheapest plan found, with a bound; or why there is none.

    Args:
        problem: the instance.
        clock: seconds since any moment, such as ``time.monotonic``.
        limits: when to stop.
        cancelled: asked often, also from the threads of ``spread``; once true, the best plan so far is returned soon.
        spread: how pools are solved side by side, e.g. the ``map`` of a thread pool (HiGHS lets go of the interpreter).
        workers: how many pools ``spread`` solves at once, which decides how the time is dealt out.

    Returns:
        ``FleetPlan``, ``Infeasible``, or ``SolverFailed`` when no plan was found in time or the solver broke.
    """
    limits = limits or Limits()
    watch = Watch(clock, clock() + limits.seconds, cancelled)
    milp = build(problem)
    search = _Search(milp, limits, watch, spread, max(1, workers))
    return search.run()


@dataclass(frozen=True, slots=True)
class _Task:
    owner: int
    pool: LargePool


class _Search:
    """One solve: prices, pools, repair, bound."""

    def __init__(self, milp: FleetMilp, limits: Limits, watch: Watch, spread: Spread, workers: int) -> None:
        self.milp, self.limits, self.watch, self.spread, self.workers = milp, limits, watch, spread, workers
        self.near = bounds.nearest(milp.problem, bounds.unit_cost(milp.problem), 2)
        self.sides = bounds.sides(milp.problem)

    def run(self) -> FleetResult:
        """The result."""
        milp, watch = self.milp, self.watch
        relaxation = bounds.relax(milp, seconds=watch.left, cancelled=watch.cancelled)
        match relaxation:
            case NoPoint():
                return why_infeasible(milp, watch.left, watch.cancelled)
            case OutOfTime():
                return SolverFailed("the time was over before the linear relaxation was solved")
            case Broken(why):
                return SolverFailed(why)
        prices = bounds.shared_prices(milp, relaxation.prices)
        answers = self._pools(prices, relaxation)
        broken = [one for one in answers.values() if isinstance(one, Broken)]
        if broken:
            return SolverFailed(broken[0].why)
        if any(isinstance(one, NoPoint) for one in answers.values()):
            return why_infeasible(milp, watch.left, watch.cancelled)
        parts = [one.bound for one in answers.values() if isinstance(one, Answer | OutOfTime)]
        lower = max(bounds.shared_part(milp, prices) + sum(parts), relaxation.bound + milp.constant)
        values = self._together(answers)
        best: Floats | None = values
        if best is None or self._cost(best) - lower > self.limits.gap * abs(self._cost(best)):
            outcome = self._repair(answers, relaxation, best, lower)
            match outcome:
                case Answer():
                    best = outcome.values
                    lower = max(lower, outcome.bound)
                case NoPoint() if best is None:
                    return why_infeasible(milp, watch.left, watch.cancelled)
                case Broken(why) if best is None:
                    return SolverFailed(why)
        if best is None:
            return SolverFailed("the time was over before a plan was found")
        return explained(milp, best, lower, relaxation.prices, self.limits.gap)

    def _cost(self, values: Floats) -> float:
        return float(self.milp.matrix.cost @ values) + self.milp.constant

    def _pools(self, prices: Floats, relaxation: bounds.Relaxation) -> dict[int, Outcome]:
        matrix = self.milp.matrix.with_cost(self.milp.matrix.priced(prices))
        owners = [int(one) for one in np.unique(matrix.owner) if one != SHARED]
        tasks = [_Task(one, self._pool(matrix, one)) for one in owners]
        # The dearest pools first: they decide the gap of the whole. Time is dealt out by size and by cost alike.
        spent = summed(matrix.owner + 1, relaxation.values * matrix.cost, self.milp.problem.pools + 1)[1:]
        sizes = np.array([len(one.pool.matrix.cost) for one in tasks], dtype=np.float64)
        cost = np.array([max(spent[one.owner], 0.0) for one in tasks])
        weights = sizes / max(sizes.sum(), 1.0) + cost / max(cost.sum(), 1e-9)
        order = np.argsort(-weights, kind="stable")
        tasks = [tasks[i] for i in order]
        waiting = {task.owner: float(weights[i]) for task, i in zip(tasks, order, strict=True)}
        end = self.watch.clock() + POOLS_SHARE * self.watch.left()
        spare = 0.4 * self.limits.gap * abs(relaxation.bound) / max(1, len(owners))

        def run(task: _Task) -> Outcome:
            """Each pool gets its share of the time left, and half as much again, since few need all of it."""
            total = sum(list(waiting.values()))
            part = min(1.0, 1.5 * self.workers * waiting.pop(task.owner) / max(total, 1e-9))
            now = self.watch.clock()
            until = now + part * (end - now)
            return solve_pool(
                task.pool,
                seconds=lambda: until - self.watch.clock(),
                gap=0.6 * self.limits.gap,
                absolute_gap=spare,
                cancelled=self.watch.cancelled,
            )

        return {task.owner: answer for task, answer in zip(tasks, self.spread(run, tasks), strict=True)}

    def _pool(self, matrix: Matrix, owner: int) -> LargePool:
        """One pool's part of the matrix, with its arcs found again in it."""
        p, columns = self.milp.problem, self.milp.columns
        mine = matrix.owner == owner
        at = np.cumsum(mine) - 1
        arcs = np.flatnonzero(p.option_pool[p.arc_option] == owner)
        option = p.arc_option[arcs]
        multiple = p.option_multiple[option].astype(np.float64)
        return LargePool(
            matrix.part(mine, matrix.row_owner == owner),
            Arcs(at[columns.x[arcs]], at[columns.n[option]], self.sides[arcs], multiple),
            self.near[arcs],
            at[columns.n[p.option_pool == owner]],
        )

    def _together(self, answers: dict[int, Outcome]) -> Floats | None:
        """The pools' answers as one point of the whole, or ``None`` where they exceed a shared limit."""
        matrix = self.milp.matrix
        values = np.zeros(len(matrix.cost))
        for owner, answer in answers.items():
            if not isinstance(answer, Answer):
                return None
            values[matrix.owner == owner] = answer.values
        mine, rows = matrix.owner == SHARED, matrix.row_owner == SHARED
        used = matrix.activity(np.where(mine, 0.0, values))
        rest = matrix.part(mine, rows)
        rest = rest.with_rows(rest.row_lower - used[rows], rest.row_upper - used[rows])
        answer = solve_matrix(rest, seconds=max(1.0, self.watch.left()))
        if not isinstance(answer, Answer):
            return None
        values[mine] = answer.values
        return values

    def _repair(
        self, answers: dict[int, Outcome], relaxation: bounds.Relaxation, best: Floats | None, lower: float
    ) -> Outcome:
        """The whole as one MILP: first over the options that any solution so far uses, then over all of them."""
        milp, matrix, watch = self.milp, self.milp.matrix, self.watch
        small = len(milp.columns.x) <= LARGE
        if best is None:
            used = np.zeros(len(matrix.cost))
            for owner, answer in answers.items():
                if isinstance(answer, Answer):
                    used[matrix.owner == owner] = answer.values
            n = milp.columns.n
            open_ = (used[n] > 0.5) | (relaxation.values[n] > 1e-6) | (matrix.lower[n] > 0)
            columns = np.ones(len(matrix.cost), dtype=np.bool_)
            columns[milp.columns.x] = open_[milp.problem.arc_option]
            part = matrix.part(columns, np.ones(len(matrix.row_lower), dtype=np.bool_))
            seconds = watch.left() * (0.4 if small else 1.0)
            answer = solve_matrix(part, seconds=seconds, gap=0.5 * self.limits.gap, cancelled=watch.cancelled)
            if isinstance(answer, Answer):
                best = np.zeros(len(matrix.cost))
                best[columns] = answer.values
        if best is not None and (not small or self._cost(best) - lower <= self.limits.gap * abs(self._cost(best))):
            return Answer(best, self._cost(best), -np.inf, np.zeros(0), False)
        outcome = solve_matrix(matrix, seconds=watch.left(), gap=self.limits.gap, start=best, cancelled=watch.cancelled)
        if isinstance(outcome, Answer):
            return Answer(
                outcome.values, self._cost(outcome.values), outcome.bound + milp.constant, np.zeros(0), outcome.complete
            )
        if best is not None:
            return Answer(best, self._cost(best), -np.inf, np.zeros(0), False)
        return outcome
