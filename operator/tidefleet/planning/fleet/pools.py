"""One pool: its MILP at once where it is tiny; else narrowed by knapsacks (``narrow``), or, where those do not apply,
a strong relaxation, shortlists of options, and then the MILP.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tidefleet.planning.fleet.largepool import Effort, LargePool, columns_of, knapsacks_of, whole
from tidefleet.planning.fleet.matrix import Bools, Floats, Matrix
from tidefleet.planning.fleet.narrow import GRACE, Narrow
from tidefleet.planning.fleet.solver import TOLERANCE, Answer, Broken, NoPoint, Outcome, OutOfTime, raised, solve
from tidefleet.planning.fleet.strong import strengthen

SMALL = 500
"""Arcs up to which a pool's MILP is solved at once."""

MEDIUM = 40_000
"""Arcs up to which the MILP is tried when shortlists leave a gap."""

SHORTLIST = 14
"""Options of one shortlist; the optimum seldom uses more than ten of one pool."""

TURNS = 6
"""Shortlists tried."""


class PoolSearch:
    """The search of one pool: ``begin`` gives a large one a plan and a bound early, each ``improve`` better ones.

    ``finish`` has to come last, and is all there is to a small one.
    """

    def __init__(
        self,
        pool: LargePool,
        *,
        gap: float,
        absolute_gap: float,
        cancelled: Callable[[], bool],
        start: Floats | None = None,
        earlier: PoolSearch | None = None,
    ) -> None:
        """Begin, from a plan and from the search of the same pool at other costs where there are any."""
        self.pool, self.gap, self.absolute_gap, self.cancelled = pool, gap, absolute_gap, cancelled
        self._narrow: Narrow | None = None
        self._outcome: Outcome | None = None
        if len(pool.arcs.x) > SMALL:
            knapsacks = knapsacks_of(pool)
            if knapsacks.usable:
                before = None if earlier is None else earlier._narrow
                self._narrow = Narrow(pool, knapsacks, Effort(gap, absolute_gap, cancelled), start, before)
        self.hopeful = self.early

    @property
    def early(self) -> bool:
        """Whether ``begin`` has anything to do."""
        return self._narrow is not None

    @property
    def prices(self) -> list[Floats]:
        """Prices of the pool's rows with which it has a high bound without its MILP, where any were sought."""
        return [] if self._narrow is None else [self._narrow.levels.prices]

    @property
    def open_gap(self) -> float:
        """Cost less bound once there is a plan, 0 where that is near enough; infinite before."""
        if self._narrow is None or self._narrow.plan is None:
            return float("inf")
        cost, bound = self._narrow.plan.objective, self._narrow.bound
        return 0.0 if cost - bound <= max(self.gap * abs(cost), self.absolute_gap) else cost - bound

    @property
    def paid(self) -> float:
        """What the pool's plan costs so far; infinite where there is none."""
        known = self._outcome if self._narrow is None else self._narrow.plan
        return known.objective if isinstance(known, Answer) else float("inf")

    @property
    def bound(self) -> float:
        """What the pool's plan costs at least, as far as it is known."""
        if self._narrow is not None:
            return self._narrow.bound
        return self._outcome.bound if isinstance(self._outcome, Answer | OutOfTime) else float("-inf")

    @property
    def known(self) -> float:
        """The size of the bound; infinite where there is none."""
        return float("inf") if self._narrow is None else abs(self._narrow.bound)

    def begin(self, seconds: Callable[[], float]) -> None:
        """A first plan with a bound, for a large pool."""
        if self._narrow is not None and seconds() > 0 and not self.cancelled():
            self._narrow.begin(seconds)

    def improve(self, seconds: Callable[[], float]) -> None:
        """A better plan or bound of a large pool that ``hopeful`` says can be had."""
        if self._narrow is not None and self.hopeful and seconds() > 0 and not self.cancelled():
            self.hopeful = self._narrow.improve(seconds)

    def finish(self, seconds: Callable[[], float]) -> Outcome:
        """The best plan found, with a bound."""
        if self._narrow is None:
            if self._outcome is None or isinstance(self._outcome, OutOfTime):
                self._outcome = self._alone(seconds)
            return self._outcome
        answer = self._narrow.answer()
        if isinstance(answer, Answer) or self.cancelled():
            return answer
        if seconds() > 0:
            return raised(self._alone(seconds), answer.bound)
        found = _at_once(self.pool, GRACE, self.cancelled)
        return answer if found is None else raised(found, answer.bound)

    def _alone(self, seconds: Callable[[], float]) -> Outcome:
        return solve_pool(
            self.pool, seconds=seconds, gap=self.gap, absolute_gap=self.absolute_gap, cancelled=self.cancelled
        )


def solve_pool(
    pool: LargePool,
    *,
    seconds: Callable[[], float],
    gap: float,
    absolute_gap: float,
    cancelled: Callable[[], bool],
) -> Outcome:
    """A plan of the pool with a bound, as ``solver.solve`` gives it.

    The first shortlist are the options that the relaxation uses most. Later ones keep what the best plan uses and take
    in others by their reduced cost; the search ends when the gap is reached or no shortlist helps any more.
    """
    if len(pool.arcs.x) <= SMALL:
        return solve(pool.matrix, seconds=seconds(), gap=gap, absolute_gap=absolute_gap, cancelled=cancelled)
    budget = seconds()
    first = _at_once(pool, budget, cancelled)
    kept_back = 0.6 if len(pool.arcs.x) <= MEDIUM else 0.4
    strong = strengthen(
        pool.matrix, pool.arcs, pool.near, seconds=lambda: seconds() - kept_back * budget, cancelled=cancelled
    )
    matrix = pool.matrix
    order = np.lexsort((strong.reduced[pool.n], -strong.values[pool.n] * np.maximum(matrix.cost[pool.n], 1e-9)))
    forced = matrix.lower[pool.n] > 0
    best = first
    tried = np.zeros(len(pool.n), dtype=np.bool_)
    for _ in range(TURNS):
        kept = forced | (best.values[pool.n] > 0.5 if best is not None and best is not first else False)
        room = max(2, SHORTLIST - int(kept.sum()))
        fresh = [o for o in order if not kept[o] and not tried[o]][:room]
        if not fresh:
            break
        shortlist = kept.copy()
        shortlist[fresh] = True
        tried |= shortlist
        left = seconds() - (0.3 * budget if len(pool.arcs.x) <= MEDIUM else 0.0)
        found = _among(pool, shortlist, best, seconds=left / 2, gap=0.4 * gap, cancelled=cancelled)
        if isinstance(found, Answer) and (best is None or found.objective < best.objective):
            best = found
        if best is not None and best.objective - strong.bound <= max(gap * abs(best.objective), absolute_gap):
            break
        if left <= 0.02 * budget or cancelled():
            break
    if best is None:
        best = _rounded(pool, strong.values)
    if best is None:
        # Where shortlists cannot serve everything, all options can, or nothing can.
        outcome = solve(matrix, seconds=max(seconds(), 1.0), gap=gap, cancelled=cancelled)
        if isinstance(outcome, Answer):
            bound = max(outcome.bound, strong.bound)
            return Answer(outcome.values, outcome.objective, bound, outcome.row_prices, outcome.complete)
        return OutOfTime(strong.bound) if isinstance(outcome, OutOfTime) else outcome
    bound = min(strong.bound, best.objective)
    open_gap = best.objective - bound > max(gap * abs(best.objective), absolute_gap)
    if open_gap and len(pool.arcs.x) <= MEDIUM:
        whole = solve(
            matrix, seconds=seconds(), gap=gap, absolute_gap=absolute_gap, start=best.values, cancelled=cancelled
        )
        if isinstance(whole, Answer | OutOfTime):
            bound = max(bound, whole.bound)
        if isinstance(whole, Answer) and whole.objective < best.objective:
            best = whole
    bound = min(bound, best.objective)
    done = best.objective - bound <= max(gap * abs(best.objective), absolute_gap)
    return Answer(best.values, best.objective, bound, np.zeros(0), done)


def _at_once(pool: LargePool, seconds: float, cancelled: Callable[[], bool]) -> Answer | None:
    """A plan without any search: the options that the relaxation of the whole uses most, rounded up."""
    matrix = pool.matrix
    use = pool.point[pool.n] * np.maximum(matrix.cost[pool.n], 1e-9)
    shortlist = matrix.lower[pool.n] > 0
    shortlist[np.argsort(-use, kind="stable")[:SHORTLIST]] = True
    allowed = np.zeros(len(matrix.cost), dtype=np.bool_)
    allowed[pool.n[shortlist]] = True
    columns = np.ones(len(matrix.cost), dtype=np.bool_)
    columns[pool.arcs.x] = allowed[pool.arcs.n]
    start = rounded_up(matrix.part(columns, np.ones(len(matrix.row_lower), dtype=np.bool_)), seconds, cancelled)
    if start is None:
        return None
    values = np.zeros(len(matrix.cost))
    values[columns] = start
    return Answer(values, matrix.objective(values), -np.inf, np.zeros(0), False)


def _rounded(pool: LargePool, values: Floats) -> Answer | None:
    """The relaxation's point with every number of replicas rounded up, if that is a plan."""
    rounded = np.where(pool.matrix.integer, np.ceil(values - 1e-9), values)
    if not values.any() or pool.matrix.violation(rounded) > TOLERANCE:
        return None
    return Answer(rounded, pool.matrix.objective(rounded), -np.inf, np.zeros(0), False)


def _among(
    pool: LargePool,
    shortlist: Bools,
    best: Answer | None,
    *,
    seconds: float,
    gap: float,
    cancelled: Callable[[], bool],
) -> Answer | NoPoint | OutOfTime | Broken:
    """The best plan over a shortlist, as a point of the whole pool."""
    matrix = pool.matrix
    columns = columns_of(pool, shortlist)
    part = matrix.part(columns, _touched(matrix, columns))
    outside = best is None or bool(best.values[~columns].any())
    start = rounded_up(part, seconds, cancelled) if best is None or outside else best.values[columns]
    found = solve(part, seconds=seconds, gap=gap, start=start, cancelled=cancelled)
    if start is not None and not (isinstance(found, Answer) and found.objective <= part.objective(start)):
        found = Answer(start, part.objective(start), -np.inf, np.zeros(0), False)
    if not isinstance(found, Answer):
        return found
    return Answer(whole(columns, found.values), found.objective, -np.inf, np.zeros(0), found.complete)


def rounded_up(matrix: Matrix, seconds: float, cancelled: Callable[[], bool]) -> Floats | None:
    """The linear relaxation's point with every number of replicas rounded up, if that is a plan: seldom far off."""
    relaxed = solve(matrix.relaxed(), seconds=seconds, cancelled=cancelled)
    if not isinstance(relaxed, Answer):
        return None
    rounded = np.where(matrix.integer, np.ceil(relaxed.values - 1e-7), relaxed.values)
    return rounded if matrix.violation(rounded) <= TOLERANCE else None


def _touched(matrix: Matrix, columns: Bools) -> Bools:
    """Rows that some of the columns are in, or that nothing satisfies by being empty."""
    touched = np.bincount(matrix.row[columns[matrix.column]], minlength=len(matrix.row_lower)) > 0
    return touched | (matrix.row_lower > 0) | (matrix.row_upper < 0)
