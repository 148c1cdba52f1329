"""One large pool by knapsacks: a bound over all its options, a plan over a few, and the MILP over those that matter.

The duals of the strong relaxation over a few options are good prices for L (``lagrange``) over all of them, and L says
which further options belong to the few.

Once a plan is known, the bound is raised towards an aim T below its cost. L says which replicas any plan cheaper than T
can have; the MILP over those alone has a bound b, and no plan of the pool costs less than min(b, T): it has such
replicas and costs at least b, or others and costs at least T. The nearer T is to L, the fewer options are left, so that
there is an aim for a pool of any size: first the one that leaves few enough, or half of the open gap, then higher ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tidefleet.planning.fleet.first import first_plan
from tidefleet.planning.fleet.lagrange import Knapsacks, Levels, ascend, covering, scales
from tidefleet.planning.fleet.largepool import Effort, LargePool, among, moved, moving, narrowed, option_of
from tidefleet.planning.fleet.matrix import Bools, Floats
from tidefleet.planning.fleet.solver import Answer, OutOfTime
from tidefleet.planning.fleet.strong import Arcs, Strong, gathered, strengthen

FEW = 20
"""Options of the first strong relaxation, and those of the first MILP."""

FRESH = 6
"""Options that join the few per round."""

MIDDLE = 80
"""Options over which L is raised; over all of them it is only checked."""

ROUNDS = 6
"""Times that strong relaxation and L take turns."""

RULED = 12_000
"""Arcs of the options left by L up to which their MILP is solved at once, however high the aim."""

MOST = 45_000
"""Arcs up to which the MILP of an aim is tried."""

LEAST = 5_000
"""Arcs for which there is always an aim."""

PER_SECOND = 1_400
"""Arcs of an aim's MILP per second that is left: one that does not get far beyond its root says nothing."""

CLOSE = 0.45
"""Share of the open gap by which an aim for a bound is higher than L where the MILP of a higher one is too large."""

REACH = 0.02
"""The most by which an aim is higher than L then, as a share of it."""

BEYOND = 0.3
"""Share of the gap that such a lower aim would leave at which its MILP ends: beyond the aim it finds better plans."""

MOVES_SHARE = 0.4
"""The most of the time in which single replicas of a plan are moved."""

MOVED = 28
"""Options that cost least to use, of which replicas are moved besides those of the few."""

FEW_SHARE = 0.45
"""Share of the time for a plan from a few options, before the bound is raised."""

FEW_GAP = 0.25
"""Share of the open gap at which that plan is near enough to the best of those options."""

STALLED = 0.95
"""Share of the open gap above which a turn that leaves it was in vain."""

TRIES = 3
"""Turns in vain, one after the other, after which a pool is given up."""

SLIVER = 0.03
"""Replicas in the strong relaxation up to which an option is left out of the first plan."""

SEARCH_SHARE = 0.06
"""Share of the time for a first plan in which single replicas are moved; the MILP of a few options does better."""

SEARCH_LEAST = 0.25
"""Seconds that this has at least."""

GRACE = 1.0
"""Seconds in which a pool without any plan still gets one, though its time is over."""

KEPT = 10_000
"""Arcs up to which a pool keeps the rows and the prices that it had at other costs: its MILP is solved sooner than
better ones are found."""

_MIXES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class Narrow:
    """The search of one pool in stages, so that all pools have a plan before any is improved.

    Attributes:
        plan: the best plan so far, with a bound of 'minus infinity'; ``None`` before there is one.
        bound: no plan of the pool costs less.
        fewest_tried: whether the MILP of the fewest options was ever solved.
        few_next: whether the next turn begins with the MILP of a few options, as after one in vain: a MILP that is cut
            off early was for nothing.
        stalls: turns in a row that were in vain.
        gathered: the pool with one row per option for those of the strong relaxation.
        pressure: what these rows were made with, here or in an earlier search; ``None`` before there is any.
    """

    pressure: Floats | None

    def __init__(
        self,
        pool: LargePool,
        knapsacks: Knapsacks,
        effort: Effort,
        start: Floats | None = None,
        earlier: Narrow | None = None,
    ) -> None:
        """Begin with what there is.

        Args:
            pool, knapsacks: the pool.
            effort: how well it has to be solved.
            start: a plan.
            earlier: the search of the same pool at other costs, whose prices and options are near those of this one.
        """
        self.pool, self.knapsacks, self.effort = pool, knapsacks, effort
        self.levels = knapsacks.at(pool.prices)
        self.plan: Answer | None = None
        self.few = pool.matrix.lower[pool.n] > 0
        self.known = None if earlier is None else earlier.few
        if earlier is not None:
            self.few = self.few | earlier.few
            self.levels = max(self.levels, knapsacks.at(earlier.levels.prices), key=lambda one: one.bound)
        self.bound = self.levels.bound
        if start is not None:
            self.plan = Answer(start, pool.matrix.objective(start), -np.inf, np.zeros(0), False)
            self.few |= start[pool.n] > 0.5
        else:
            use = pool.point[pool.n] * np.maximum(pool.matrix.cost[pool.n], 1e-9)
            self.plan = first_plan(knapsacks, pool.arcs.side // 2, np.lexsort((self.levels.least_use, -use)))
        self.used = self.few
        self.gathered = pool
        self.pressure = None if earlier is None else earlier.pressure
        self.few_next = self.fewest_tried = False
        self.stalls = 0

    def begin(self, seconds: Callable[[], float]) -> None:
        """Bound, options and a first plan."""
        budget = seconds()
        known = self.few
        if self.plan is not None and self.pressure is not None and len(self.pool.arcs.x) <= KEPT:
            self.gathered = replace(self.pool, matrix=gathered(self.pool.matrix, self.pool.arcs, self.pressure))
            if self._open(seconds):
                self._take(self._moved(self.plan, seconds))
            return
        few, self.levels, strong = _few(
            self.pool, self.knapsacks, self.effort, seconds, best=self.levels, known=self.known
        )
        self.few = few | known
        if strong is not None:
            self.pressure = strong.pressure
            matrix = gathered(self.pool.matrix, self.pool.arcs, strong.pressure)
            self.gathered = replace(self.pool, matrix=matrix)
        self.bound = self.levels.bound
        if self.known is None or self.plan is None:
            room = max(budget, 0.01)
            used, plan = _plan(self.pool, self.few, strong, effort=self.effort, seconds=seconds, budget=room)
            self.used = used | known
            self._take(plan)
        if self.plan is not None and self._open(seconds):
            self._take(self._moved(self.plan, seconds))

    def improve(self, seconds: Callable[[], float]) -> bool:
        """A better plan from the MILP of a few options, a better bound from that of what may be cheaper.

        Returns whether to call it again is of use, were there time.
        """
        if self.plan is None and not self.effort.cancelled():
            before = seconds()
            until = min(0.4 * before, before - GRACE)
            self.begin(lambda: seconds() - until)
        if not self._open(seconds):
            return False
        before = np.inf if self.plan is None else self.plan.objective - self.bound
        if (self.few_next or self.plan is None) and self._open(seconds):
            effort, share = self.effort, 0.7
            if self.plan is not None:
                wanted = max(self.effort.absolute_gap, min(FEW_GAP * before, 0.5 * REACH * abs(self.bound)))
                effort, share = replace(self.effort, absolute_gap=wanted), FEW_SHARE
            options = self._nearest() if self.fewest_tried else self.few | self.used
            self._take(among(self.gathered, options, self.plan, effort, seconds=share * seconds()))
            self.fewest_tried = True
        if self.plan is None:
            return True
        if self._open(seconds):
            self._raise(self.plan, seconds)
        in_vain = self.plan.objective - self.bound > STALLED * before
        self.few_next = in_vain and not self.few_next
        self.stalls = self.stalls + 1 if in_vain else 0
        return self.stalls < TRIES and not self.effort.enough(self.plan.objective, self.bound)

    def _moved(self, plan: Answer, seconds: Callable[[], float]) -> Answer | None:
        """A better plan by whole replicas of the few options, of those in use, and of those that cost least to use."""
        options = self.few | self.used | (plan.values[self.pool.n] > 0.5)
        options[np.argsort(self.levels.least_use, kind="stable")[:MOVED]] = True
        until = (1 - MOVES_SHARE) * seconds()
        start = [plan.values[self.pool.n]]
        return moved(self.pool, options, start, seconds=lambda: seconds() - until, cancelled=self.effort.cancelled)

    def _raise(self, plan: Answer, seconds: Callable[[], float]) -> None:
        """A better bound, and maybe a better plan, from the MILP of what can be cheaper than an aim."""
        aim = self._highest()
        limits, beyond = self._limits(aim), 1.0
        if self._arcs(limits) > min(RULED, max(LEAST, int(PER_SECOND * seconds()))):
            fit = min(MOST, max(LEAST, int(PER_SECOND * seconds())))
            beyond = BEYOND
            rise = min(CLOSE * (plan.objective - self.bound), REACH * abs(self.bound))
            for _ in range(12):
                aim = self.bound + rise
                limits = self._limits(aim)
                if self._arcs(limits) <= fit:
                    break
                rise *= 0.8
        effort = replace(self.effort, gap=0.0, absolute_gap=max(beyond * (plan.objective - aim), 1e-6))
        found = among(self.gathered, limits[1] > 0, plan, effort, seconds=seconds(), limits=limits)
        self._take(found)
        if isinstance(found, Answer | OutOfTime):
            self.bound = max(self.bound, min(found.bound, aim))

    def _nearest(self) -> Bools:
        """The few options and further ones that cost least to use, up to ``RULED`` arcs."""
        size = np.bincount(option_of(self.pool), minlength=len(self.pool.n))
        order = np.argsort(self.levels.least_use, kind="stable")
        keep = self.few | self.used
        keep[order[np.cumsum(size[order]) <= RULED]] = True
        return keep

    def _highest(self) -> float:
        """A bound at which the plan is surely near enough to it; infinite before there is a plan."""
        if self.plan is None:
            return np.inf
        cost = self.plan.objective
        return cost - 0.9 * max(self.effort.gap * abs(cost), self.effort.absolute_gap)

    def _limits(self, aim: float) -> tuple[Floats, Floats]:
        """Per option the least and the most replicas of the plan and of every plan that costs less than the aim."""
        least, most = self.knapsacks.limits(self.levels, max(aim - self.levels.bound, 0.0))
        if self.plan is None:
            return least, most
        known = np.rint(self.plan.values[self.pool.n])
        return np.minimum(least, known), np.maximum(most, known)

    def _arcs(self, limits: tuple[Floats, Floats]) -> int:
        """Arcs of the options that may be used within some limits."""
        size = np.bincount(option_of(self.pool), minlength=len(self.pool.n))
        return int(size[limits[1] > 0].sum())

    def answer(self) -> Answer | OutOfTime:
        """What is known."""
        if self.plan is None:
            return OutOfTime(self.bound)
        cost = self.plan.objective
        bound = min(self.bound, cost)
        return Answer(self.plan.values, cost, bound, np.zeros(0), self.effort.enough(cost, bound))

    def _open(self, seconds: Callable[[], float]) -> bool:
        """Whether there is anything left to do, and time for it."""
        done = self.plan is not None and self.effort.enough(self.plan.objective, self.bound)
        return not done and seconds() > 0 and not self.effort.cancelled()

    def _take(self, found: Answer | OutOfTime | None) -> None:
        if isinstance(found, Answer) and (self.plan is None or found.objective < self.plan.objective):
            self.plan = found


def _few(
    pool: LargePool,
    knapsacks: Knapsacks,
    effort: Effort,
    seconds: Callable[[], float],
    *,
    best: Levels,
    known: Bools | None,
) -> tuple[Bools, Levels, Strong | None]:
    """A few options that a good plan can do with, the best L found on the way, and the last strong relaxation.

    Where such options are ``known``, the strong relaxation begins with them.
    """
    budget = seconds()
    option, scale = option_of(pool), scales(pool.matrix, pool.serve, pool.prices)
    forced = pool.matrix.lower[pool.n] > 0

    def go_on() -> bool:
        return seconds() > 0.35 * budget and not effort.cancelled()

    def first(levels: Levels, count: int, mean: Floats | None = None) -> Bools:
        """The options nearest to use, and enough to reach every cell."""
        used = np.zeros(len(pool.n)) if mean is None else np.where(mean > 0.01, mean, 0.0)
        order = np.lexsort((levels.gain, levels.least_use, -used))
        taken = forced | covering((pool.arcs.side // 2)[pool.whole], option[pool.whole], order)
        taken[order[:count]] = True
        return taken

    def raised(middle: Bools, levels: Levels, steps: int, target: float) -> tuple[Levels, Floats]:
        """L raised over some options, and what all of them make of it."""
        some = moving(pool, middle).knapsacks
        found, mean = ascend(some, levels.prices, scale, steps=steps, target=target, go_on=go_on)
        every = np.zeros(len(pool.n))
        every[middle] = mean
        return knapsacks.at(found.prices), every

    middle = first(best, MIDDLE)
    if known is None:
        now, mean = raised(middle, best, 100, best.bound + 0.1 * abs(best.bound))
        best = max(best, now, key=lambda one: one.bound)
        few = first(best, FEW, mean)
    else:
        few = known | forced
    last: Strong | None = None
    for _ in range(ROUNDS):
        if not go_on():
            break
        strong = _strong(pool, few, lambda: seconds() - 0.3 * budget, effort.cancelled)
        if not np.isfinite(strong.bound):
            break
        last = strong
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
        near = max(0.1 * effort.gap * abs(strong.bound), 0.25 * effort.absolute_gap)
        if not len(fresh) or best.bound >= strong.bound - near:
            break
        few[fresh] = True
    return few, best, last


def _plan(
    pool: LargePool, few: Bools, last: Strong | None, *, effort: Effort, seconds: Callable[[], float], budget: float
) -> tuple[Bools, Answer | None]:
    """The options that the strong relaxation of the few uses, and a plan over them by local search."""
    cell, option = (pool.arcs.side // 2)[pool.whole], option_of(pool)
    strong = last or _strong(pool, few, lambda: max(seconds(), 0.1 * budget) - 0.05 * budget, effort.cancelled)
    used, starts = few, []
    if np.isfinite(strong.bound):
        replicas = strong.values[pool.n]
        used = covering(cell, option[pool.whole], np.argsort(-replicas, kind="stable"))
        used |= (replicas > SLIVER) | (pool.matrix.lower[pool.n] > 0)
        up = np.ceil(replicas - 1e-7)
        starts = [np.maximum(up, 1.0), up, np.rint(replicas)]
    until = seconds() - max(SEARCH_SHARE * budget, SEARCH_LEAST)
    found = moved(pool, used, starts, seconds=lambda: seconds() - until, cancelled=effort.cancelled)
    return used, found


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
    pressure = np.zeros(len(kept))
    pressure[kept] = strong.pressure
    return Strong(strong.bound, values, np.zeros(0), kept, strong.prices, pressure)
