"""Local search over whole replicas: one linear program of the flows, solved again and again from its last basis.

With the replicas n given, the cost V(n) of the best flows is convex in n. Every solve of V gives prices, and these a
floor of V everywhere (``neighbours``): the neighbour with the lowest one is tried next, the first that helps is taken,
and the search ends where no neighbour's floor is below the cost of the plan. A solve ends as soon as it is sure not to
help. A step costs milliseconds, so a plan is there early however large the pool, and it only gets better.
"""

from __future__ import annotations

from collections.abc import Callable

import highspy
import numpy as np

from tidefleet.planning.fleet.lagrange import Knapsacks
from tidefleet.planning.fleet.matrix import Floats, Ints, Matrix
from tidefleet.planning.fleet.neighbours import Floor, Neighbours
from tidefleet.planning.fleet.solver import TOLERANCE, Answer, quiet, to_highs

_HELPS = 1e-5
"""Relative saving below which a neighbour is not worth its step."""

REACH = 12
"""Replicas on either side of a start over which a floor is tabled; beyond, the search begins anew."""

_FLOORS = 250
"""Floors kept."""


def search(
    matrix: Matrix,
    n: Ints,
    starts: list[Floats],
    *,
    seconds: Callable[[], float],
    cancelled: Callable[[], bool],
    knapsacks: Knapsacks | None = None,
) -> Answer | None:
    """The best point found; ``None`` where no start has one, one is no number, or other columns must be whole.

    Args:
        matrix: the program.
        n: the columns of the replicas.
        starts: whole replicas to begin from; the cheapest is taken. Those of the linear relaxation, rounded up, stand
            in where none serves everything.
        seconds: time left.
        cancelled: whether to stop.
        knapsacks: of the same program and replicas, where there are any: their floors are higher than plain tangents.
    """
    rest = matrix.integer.copy()
    rest[n] = False
    if rest.any() or not len(n) or not all(np.isfinite(one).all() for one in starts):
        return None
    lower, upper = matrix.lower[n], matrix.upper[n]
    flows = Flows(matrix, n, seconds)

    def stop() -> bool:
        return seconds() <= 0 or cancelled()

    best: Floats | None = None
    cost = np.inf
    point, prices = np.zeros(0), np.zeros(0)
    for one in [*starts, None]:
        if stop() or (one is None and np.isfinite(cost)):
            break
        start = np.clip(np.rint(flows.relaxed(lower, upper) if one is None else one), lower, upper)
        dear = flows.cost(start)
        if dear < cost:
            best, cost = start, dear
            point, prices = flows.point()
    if best is None:
        return None
    centre: Floats | None = None
    while (centre is None or (np.abs(best - centre) > REACH - 2).any()) and not stop():
        centre = best
        around = Around(matrix, n, centre, knapsacks)
        around.add(prices)
        neighbours = around.neighbours(best)
        while not stop():
            floor, which = neighbours.best()
            if floor >= cost - _HELPS * max(1.0, abs(cost)):
                break
            step = neighbours.replicas(which)
            enough = cost - 0.1 * _HELPS * max(1.0, abs(cost))
            tried = flows.cost(step, enough)
            values, prices = flows.point()
            if len(prices):
                around.add(prices)
            if tried < enough:
                best, cost, point = step, tried, values
                neighbours = around.neighbours(best)
            else:
                neighbours.take(around.floors[-1])
                neighbours.tried(which, cost)
    flows.close()
    values = np.clip(point, matrix.lower, matrix.upper)
    values[n] = best
    if matrix.violation(values) > TOLERANCE:
        return None
    return Answer(values, matrix.objective(values), -np.inf, np.zeros(0), False)


class Around:
    """Floors tabled around a centre."""

    def __init__(self, matrix: Matrix, n: Ints, centre: Floats, knapsacks: Knapsacks | None) -> None:
        self.matrix, self.n, self.knapsacks = matrix, n, knapsacks
        self.least = np.maximum(matrix.lower[n], centre - REACH)
        self.most = np.minimum(matrix.upper[n], centre + REACH)
        self.floors: list[Floor] = []

    def add(self, prices: Floats) -> None:
        """The floor that some prices of the rows give."""
        width = int((self.most - self.least).max(initial=0)) + 1
        if self.knapsacks is not None:
            floor = self.knapsacks.floor(prices, self.least, width)
        else:
            floor = tangent(self.matrix, self.n, prices, self.least, width)
        self.floors = [*self.floors[-_FLOORS:], floor]

    def neighbours(self, at: Floats) -> Neighbours:
        """The neighbours of some replicas, with all floors."""
        result = Neighbours(at, self.least, self.most)
        for one in self.floors:
            result.take(one)
        return result


def tangent(matrix: Matrix, n: Ints, prices: Floats, least: Floats, width: int) -> Floor:
    """The floor of prices of all rows: linear in each n.

    A column without an upper limit whose reduced cost is negative, which only rounding can bring about, counts as 0.
    """
    y = matrix.usable(prices)
    limit = matrix.limits(y)
    reduced = matrix.priced(y)
    slope = reduced[n]
    reduced[n] = 0.0
    bound = np.where(reduced > 0, matrix.lower, np.where(reduced < 0, matrix.upper, 0.0))
    bound = np.where(np.isfinite(bound), bound, 0.0)
    return Floor(float(y @ limit + reduced @ bound), least, slope[:, None] * (least[:, None] + np.arange(width)))


class Flows:
    """The linear program of the flows for given replicas."""

    def __init__(self, matrix: Matrix, n: Ints, seconds: Callable[[], float]) -> None:
        self.n, self.at, self.seconds = n, n.astype(np.int32), seconds
        self.highs = quiet()
        self.highs.passModel(to_highs(matrix.relaxed()))

    def cost(self, replicas: Floats, enough: float = np.inf) -> float:
        """V(n), infinite where it is above ``enough``, where nothing serves everything, or the time is over."""
        self.highs.setOptionValue("objective_bound", enough)
        self._solve(replicas, replicas)
        if self.highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return np.inf
        return float(self.highs.getInfo().objective_function_value)

    def relaxed(self, lower: Floats, upper: Floats) -> Floats:
        """The replicas of the linear relaxation, rounded up; ``upper`` where it was not solved."""
        self.highs.setOptionValue("objective_bound", np.inf)
        self._solve(lower, upper)
        if self.highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return upper
        rounded: Floats = np.ceil(np.array(self.highs.getSolution().col_value)[self.n] - 1e-7)
        return rounded

    def _solve(self, lower: Floats, upper: Floats) -> None:
        self.highs.changeColsBounds(len(self.at), self.at, lower, upper)
        self.highs.setOptionValue("time_limit", self.highs.getRunTime() + max(self.seconds(), 0.01))
        self.highs.run()

    def point(self) -> tuple[Floats, Floats]:
        """The last point and its prices; no prices where the last solve has none."""
        solution = self.highs.getSolution()
        prices = np.array(solution.row_dual) if solution.dual_valid else np.zeros(0)
        return np.array(solution.col_value), prices

    def close(self) -> None:
        """Give the memory back."""
        self.highs.clear()
