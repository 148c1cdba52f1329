"""Local search over whole replicas: one linear program of the flows, solved again and again from its last basis.

With the replicas n given, the cost V(n) of the best flows is convex in n, and the reduced costs d of n say by how much
a move can help at most: V(n + e) >= V(n) + d . e. Moves (one more, one less, one for another) are tried in the order of
that promise, the first that helps is taken, and those that cannot help are never tried. A step costs milliseconds, so a
plan is there early however large the pool, and it only gets better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import highspy
import numpy as np

from tidefleet.planning.fleet.matrix import Floats, Ints, Matrix
from tidefleet.planning.fleet.solver import TOLERANCE, Answer, quiet, to_highs

_HELPS = 1e-6
"""Relative saving below which a move is not worth its step."""


def search(
    matrix: Matrix, n: Ints, starts: list[Floats], *, seconds: Callable[[], float], cancelled: Callable[[], bool]
) -> Answer | None:
    """The best point found, or ``None`` where none of the starts has one (or other columns must be whole).

    Args:
        matrix: the program.
        n: the columns of the replicas.
        starts: whole replicas to begin from; the cheapest is taken. Those of the linear relaxation, rounded up, stand
            in where none serves everything.
        seconds: time left.
        cancelled: whether to stop.
    """
    rest = matrix.integer.copy()
    rest[n] = False
    if rest.any() or not len(n):
        return None
    lower, upper = matrix.lower[n], matrix.upper[n]
    flows = _Flows(matrix, n, seconds)
    best: Floats | None = None
    cost, point, slope = np.inf, np.zeros(0), np.zeros(0)
    for one in [*starts, None]:
        if seconds() <= 0 or cancelled():
            break
        if one is None and np.isfinite(cost):
            break
        start = np.clip(np.rint(flows.relaxed(lower, upper) if one is None else one), lower, upper)
        dear = flows.cost(start)
        if dear < cost:
            best, cost = start, dear
            point, slope = flows.point()
    if best is None:
        return None
    helped = True
    while helped:
        helped = False
        for step in _moves(slope, best, lower, upper):
            if seconds() <= 0 or cancelled():
                break
            tried = flows.cost(best + step)
            if tried < cost - _HELPS * max(1.0, abs(cost)):
                best, cost, helped = best + step, tried, True
                point, slope = flows.point()
                break
    flows.close()
    values = np.clip(point, matrix.lower, matrix.upper)
    values[n] = best
    if matrix.violation(values) > TOLERANCE:
        return None
    return Answer(values, float(matrix.cost @ values), -np.inf, np.zeros(0), False)


class _Flows:
    """The linear program of the flows for given replicas."""

    def __init__(self, matrix: Matrix, n: Ints, seconds: Callable[[], float]) -> None:
        self.n, self.at, self.seconds = n, n.astype(np.int32), seconds
        self.highs = quiet()
        self.highs.passModel(to_highs(matrix.relaxed()))

    def cost(self, replicas: Floats) -> float:
        """V(n), infinite where nothing serves everything or the time is over."""
        self._solve(replicas, replicas)
        if self.highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return np.inf
        return float(self.highs.getInfo().objective_function_value)

    def relaxed(self, lower: Floats, upper: Floats) -> Floats:
        """The replicas of the linear relaxation, rounded up; ``upper`` where it was not solved."""
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
        """The last point, and how V moves with each n there."""
        solution = self.highs.getSolution()
        return np.array(solution.col_value), np.array(solution.col_dual)[self.n]

    def close(self) -> None:
        """Give the memory back."""
        self.highs.clear()


def _moves(slope: Floats, n: Floats, lower: Floats, upper: Floats) -> Iterator[Floats]:
    """Steps that may help, the most promising first."""
    count = len(n)
    every = np.eye(count)
    up = np.flatnonzero((n < upper) & (slope < 0))
    down = np.flatnonzero((n > lower) & (slope > 0))
    moves = [(-slope[i], every[i]) for i in up] + [(slope[i], -every[i]) for i in down]
    for i in np.flatnonzero(n > lower):
        others = np.flatnonzero((n < upper) & (slope < slope[i]))
        moves += [(slope[i] - slope[j], every[j] - every[i]) for j in others]
    order = np.argsort([-promise for promise, _ in moves], kind="stable")
    return (moves[i][1] for i in order)
