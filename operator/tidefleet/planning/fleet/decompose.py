"""Solves a fleet: each pool's MILP with the shared limits priced, then the whole repaired and bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tidefleet.planning.fleet import bound as bounds
from tidefleet.planning.fleet.around import improved
from tidefleet.planning.fleet.explain import explained
from tidefleet.planning.fleet.fitting import fit_together
from tidefleet.planning.fleet.infeasible import why_infeasible
from tidefleet.planning.fleet.largepool import LargePool, OwnLimits, own_limits, whole
from tidefleet.planning.fleet.local import search
from tidefleet.planning.fleet.matrix import SHARED, Bools, Floats, Matrix, summed
from tidefleet.planning.fleet.merge import merge
from tidefleet.planning.fleet.milp import FleetMilp, build
from tidefleet.planning.fleet.nearby import Nearby
from tidefleet.planning.fleet.pools import PoolSearch
from tidefleet.planning.fleet.problem import AGGREGATED, FleetProblem
from tidefleet.planning.fleet.proposals import Proposals, Tried
from tidefleet.planning.fleet.result import FleetPlan, FleetResult, Infeasible, SolverFailed
from tidefleet.planning.fleet.rounding import rounded
from tidefleet.planning.fleet.solver import Answer, Broken, NoPoint, Outcome, OutOfTime, raised
from tidefleet.planning.fleet.solver import solve as solve_matrix
from tidefleet.planning.fleet.strong import Arcs
from tidefleet.planning.fleet.turn import Spread, Turn

POOLS_SHARE = 0.8
"""Share of the time for the pools; the rest is for the whole, which needs little where no shared limit has a price."""

UNPRICED_SHARE = 0.95
"""The same for a large fleet in which no shared limit has a price."""

FINISH = 2e-6
"""Seconds per arc kept back for checking the plan and putting it out."""

PRICE_TURNS = 30
"""Times that the pools are solved at other prices, while time is left and the gap is not reached."""

TURN_SHARE = 0.25
"""Share of the time left for one turn."""

FIRST_SHARE = 0.45
"""The same for the first turn of a large fleet, whose other turns are few."""

SMALL_SHARE = 0.75
"""The same for any turn of a small one, which seldom needs it."""

FINE = 0.2
"""Share of the gap to which the pools of a small fleet are solved where a shared limit has a price: what is open
between prices and whole replicas comes on top."""

NEAR_SHARE = 0.28
"""Share of the time left after a turn in which plans near the pools' are sought."""

LARGE_NEAR_SHARE = 0.15
"""The same for a large fleet."""

NEAR_WORTH = 0.2
"""Share of the gap within a large fleet's pools from which on plans near theirs are sought."""

AGAIN_SHARE = 0.85
"""Share of the time left in which a large fleet's pools are solved further at the same prices."""

NEAR_ROOM = 0.03
"""Share of the bound that takes the place of the open gap while no plan of the fleet is known."""

SAME = 1e-4
"""Relative difference up to which prices count as those of an earlier turn."""

RISES = 0.05
"""Share of the open gap by which the bound has to rise in a turn, for prices to be sought further."""

SEARCH_SHARE = 0.25
"""Share of the time for the whole in which replicas are moved one by one before its MILP."""

AROUND_SHARE = 0.7
"""Share of the time left in which a small fleet's plan is made better a few pools at a time; for a large one, all."""

PRICES_UNTIL = 0.3
"""Share of the time that is left for the whole when prices are no longer sought."""

HANDY = 6
"""Options of each pool, the cheapest over its cells, that the repair may use besides those in use."""

LARGE = 60_000
"""Arcs from which on a fleet is large: its turns are few, and the MILP of the whole would only read it."""


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
    kept_back = min(0.1 * limits.seconds, 0.02 + FINISH * len(problem.arc_cell))
    watch = Watch(clock, clock() + limits.seconds - kept_back, cancelled)
    merged = merge(problem)
    result = _Search(build(merged.problem), limits, watch, spread, max(1, workers)).run()
    match result:
        case FleetPlan():
            return merged.split(result)
        case Infeasible() if merged.problem is not problem:
            return why_infeasible(build(problem), watch.left, cancelled)
        case _:
            return result


class _Search:
    """One solve: prices, pools, repair, bound.

    Attributes:
        best: the cheapest plan of the fleet so far.
        lower: no plan of the fleet costs less.
        used: options that any solution so far uses.
        proposals, tried, nearby: the pools' plans, the prices of the shared limits, and where plans were sought.
        searches, floors: each pool's search in the last turn, and what its cost is at least at the turn's prices.
    """

    def __init__(self, milp: FleetMilp, limits: Limits, watch: Watch, spread: Spread, workers: int) -> None:
        self.milp, self.limits, self.watch, self.spread, self.workers = milp, limits, watch, spread, workers
        self.near = bounds.nearest(milp.problem, bounds.unit_cost(milp.problem), 2)
        self.sides = bounds.sides(milp.problem)
        self.searches: dict[int, PoolSearch] = {}
        self.own: dict[int, OwnLimits] = {}
        self.best: Floats | None = None
        self.large = len(milp.columns.x) > LARGE

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
        self.lower = relaxation.bound + milp.constant
        self.used = relaxation.values[milp.columns.n] > 1e-6
        full = bounds.shared_prices(milp, relaxation.prices)
        self.tight = bool(full.any())
        if self.tight and not self.large:
            self.milp = rounded(milp)
        fresh = np.zeros(len(self.milp.matrix.row_lower) - len(full))  # the relaxation has no prices of these rows
        self.relaxation = replace(relaxation, prices=np.concatenate((relaxation.prices, fresh)))
        self.proposals, self.nearby = Proposals(self.milp), Nearby(self.milp)
        self.tried = Tried(self.milp, np.concatenate((full, fresh)), bold=not self.large)
        failed = self._priced()
        if failed is not None:
            return failed
        if self.tight and not self._done():
            self._better(self._chosen())
        if self.tight and self.best is not None and not self._done():
            self._better(self._around(self.best))
        if not self._done() and not (self.large and self.best is not None):
            failed = self._repair()
            if failed is not None:
                return failed
        if self.best is None:
            return SolverFailed("the time was over before a plan was found")
        return explained(milp, self.best, self.lower, relaxation.prices, self.limits.gap)

    def _priced(self) -> FleetResult | None:
        """Turn after turn at better prices of the shared limits; a result only where there is no plan to be had."""
        watch, began = self.watch, self.watch.left()
        asked: list[Floats] = []
        for count in range(PRICE_TURNS):
            before, known = watch.left(), self.lower
            prices = self.tried.next(count, self.proposals, before)
            if any(np.allclose(prices, one, rtol=SAME, atol=1e-9) for one in asked):
                break
            asked.append(prices)
            turn = self._turn(prices)
            rough = self.tight and not self.large
            failed = self._taken(turn, prices, self._share(prices), rough=rough)
            worth = self.tried.paid(prices, self.paid)
            if failed is None and rough and worth and not self._done():
                failed = self._taken(turn, prices, self._share(prices))
            taken = before - watch.left()
            if failed is None and self.tight and not self._done():
                failed = self._further(turn, prices)
            if failed is not None:
                return failed
            if self._done() or watch.cancelled() or not self.tight:
                break
            used = before - watch.left()
            if watch.left() < (max(1.5 * used, PRICES_UNTIL * began) if self.large else 0.9 * taken):
                break
            exact = worth or not rough
            if exact and count >= 2 and self.lower - known < RISES * (self._cost() - self.lower) < np.inf:
                break
        return None

    def _further(self, turn: Turn, prices: Floats) -> FleetResult | None:
        """More of a turn whose plans leave a gap: plans near them, and in a large fleet better ones at these prices."""
        self._near()
        if self.best is None:
            self._fit()
        if not self.large or self._wasted() >= self.open:
            return None
        # What is open is open within the pools, whatever the prices.
        failed = self._taken(turn, prices, AGAIN_SHARE)
        self._near()
        return failed

    def _share(self, prices: Floats) -> float:
        """Share of the time left for a turn."""
        if not self.tight:
            return UNPRICED_SHARE if not prices.any() and self.large else POOLS_SHARE
        if self.large:
            return TURN_SHARE if self.proposals.plans else FIRST_SHARE
        return SMALL_SHARE

    def _taken(self, turn: Turn, prices: Floats, share: float, *, rough: bool = False) -> FleetResult | None:
        """Run a turn in a share of the time left, and take what it brings; a result only where there is no plan.

        Afterwards ``answers`` are the pools', ``paid`` is what their plans cost at these prices, and ``open`` how far
        that is above their bounds.
        """
        milp = self.milp
        found = turn.run(self.watch.clock() + share * self.watch.left(), rough=rough)
        answers = {owner: raised(answer, float(self.floors[owner])) for owner, answer in found.items()}
        broken = [one for one in answers.values() if isinstance(one, Broken)]
        if broken and self.best is None:
            return SolverFailed(broken[0].why)
        if any(isinstance(one, NoPoint) for one in answers.values()):
            return why_infeasible(milp, self.watch.left, self.watch.cancelled)
        shared = bounds.shared_part(milp, prices)
        bound = self.tried.bound(prices, shared, self._parts(answers))
        self.lower = max(self.lower, bound)
        for owner, answer in answers.items():
            if isinstance(answer, Answer):
                self.used[milp.problem.option_pool == owner] |= self._in_use(owner, answer)
                self.proposals.add(owner, answer.values)
        together = self._together(answers)
        self.tight = self.tight or together is None
        cost = sum(one.objective if isinstance(one, Answer) else np.inf for one in answers.values()) + shared
        self.open, self.paid = cost - bound, cost
        self._better(together)
        self.answers = answers
        return None

    def _fit(self) -> None:
        """The pools' plans of the last turn made to fit together."""
        fitted = fit_together(
            self.milp,
            self.answers,
            self.used | bounds.handy(self.milp.problem, 2 * HANDY),
            seconds=self.watch.left,
            gap=self.limits.gap,
            cancelled=self.watch.cancelled,
        )
        for owner, answer in fitted.items():
            if isinstance(answer, Answer):
                self.proposals.add(owner, answer.values)
        self._better(self._together(fitted))

    def _parts(self, answers: dict[int, Outcome]) -> Floats:
        """Each pool's bound."""
        parts = np.zeros(self.milp.problem.pools)
        for owner, one in answers.items():
            parts[owner] = one.bound if isinstance(one, Answer | OutOfTime) else -np.inf
        return parts

    def _around(self, best: Floats) -> Floats:
        """The plan made better by few pools at a time, those farthest above their bound at the best prices first."""
        milp, matrix = self.milp, self.milp.matrix
        paid = summed(matrix.owner + 1, matrix.priced(self.tried.best) * best, milp.problem.pools + 1)[1:]
        slack = np.maximum(paid - self.tried.best_parts, 0.0)
        until = 0.0 if self.large else (1 - AROUND_SHARE) * self.watch.left()
        return improved(
            milp,
            best,
            self.used | bounds.handy(milp.problem, HANDY),
            slack,
            spread=self.spread,
            workers=self.workers,
            enough=self._done,
            clock=self.watch.clock,
            seconds=lambda: self.watch.left() - until,
            cancelled=self.watch.cancelled,
        )

    def _wasted(self) -> float:
        """What the best plan of the fleet costs above the pools' plans of the last turn, at its prices."""
        return self._cost() - self.paid

    def _near(self) -> None:
        """The best choice of one plan per pool, while more are found near those that a choice or a mixture takes.

        In a large fleet only for as long as there is more to be had of it than of better plans of the pools.
        """
        until = (1 - (LARGE_NEAR_SHARE if self.large else NEAR_SHARE)) * self.watch.left()
        while True:
            self._better(self._chosen())
            if self.large and self._wasted() < NEAR_WORTH * self.open:
                return
            if self._done() or self.watch.left() <= until or self.watch.cancelled():
                return
            room = NEAR_ROOM * abs(self.lower) if self.best is None else self._cost() - self.tried.best_bound
            more = self.nearby.more(
                self.proposals,
                self.tried,
                self.best,
                room=room,
                part=self._pool,
                good=lambda owner: self.searches[owner].prices,
                spread=self.spread,
                seconds=lambda: self.watch.left() - until,
                cancelled=self.watch.cancelled,
            )
            if not more:
                return

    def _chosen(self) -> Floats | None:
        """The best of all proposals that fit together."""
        chosen = self.proposals.choice(0.1 * self.watch.left(), self.watch.cancelled)
        if chosen is None or len(chosen) < len(self.milp.matrix.pools):
            return None
        return self._together({o: Answer(v, 0.0, -np.inf, np.zeros(0), False) for o, v in chosen.items()})

    def _done(self, plan: Floats | None = None) -> bool:
        """Whether a plan, or the best one, is near enough to the bound."""
        plan = self.best if plan is None else plan
        return plan is not None and self._cost(plan) - self.lower <= self.limits.gap * abs(self._cost(plan))

    def _better(self, plan: Floats | None) -> None:
        """Keep a plan if it is the best so far."""
        if plan is not None and (self.best is None or self._cost(plan) < self._cost()):
            self.best = plan

    def _cost(self, plan: Floats | None = None) -> float:
        """USD per hour of a plan, or of the best one; infinite where there is none."""
        plan = self.best if plan is None else plan
        return np.inf if plan is None else float(self.milp.matrix.cost @ plan) + self.milp.constant

    def _in_use(self, owner: int, answer: Answer) -> Bools:
        """Which of a pool's options have replicas in an answer for the pool."""
        mine = np.zeros(len(self.milp.matrix.cost))
        mine[self.milp.matrix.owner == owner] = answer.values
        used: Bools = mine[self.milp.columns.n[self.milp.problem.option_pool == owner]] > 0.5
        return used

    def _turn(self, prices: Floats) -> Turn:
        """Every pool at some prices of the shared rows."""
        matrix = self.milp.matrix.with_cost(self.milp.matrix.priced(prices))
        owners = matrix.pools
        self.floors = bounds.pool_floors(self.milp, matrix, self.relaxation.prices)
        gap = (FINE if self.tight and not self.large else 1.0) * self.limits.gap
        self.searches = {
            one: PoolSearch(
                self._pool(matrix, one),
                gap=0.6 * gap,
                absolute_gap=0.4 * gap * abs(self.relaxation.bound) / max(1, len(owners)),
                cancelled=self.watch.cancelled,
                start=self.proposals.cheapest(one, prices),
                earlier=self.searches.get(one),
            )
            for one in owners
        }
        spent = summed(matrix.owner + 1, self.relaxation.values * matrix.cost, self.milp.problem.pools + 1)[1:]
        return Turn(self.searches, spent, clock=self.watch.clock, spread=self.spread, workers=self.workers)

    def _pool(self, matrix: Matrix, owner: int) -> LargePool:
        """One pool's part of the matrix, with its arcs found again in it."""
        p, columns = self.milp.problem, self.milp.columns
        mine, rows = matrix.owner == owner, matrix.row_owner == owner
        at, row_at = np.cumsum(mine) - 1, np.cumsum(rows) - 1
        options = p.option_pool == owner
        serve = self.milp.serve
        arcs = np.flatnonzero(p.option_pool[p.arc_option] == owner)
        option = p.arc_option[arcs]
        multiple = p.option_multiple[option].astype(np.float64)
        if owner not in self.own:
            self.own[owner] = own_limits(matrix, owner)
        own = self.own[owner]
        return LargePool(
            matrix.part(mine, rows).with_more_rows(own.row, own.column, own.value, own.upper),
            Arcs(at[columns.x[arcs]], at[columns.n[option]], self.sides[arcs], multiple),
            self.near[arcs],
            p.option_role[option] == AGGREGATED,
            at[columns.n[options]],
            row_at[self.milp.load[options]],
            row_at[serve[rows[serve]]],
            self.relaxation.values[mine],
            np.concatenate((self.relaxation.prices[rows], np.zeros(len(own.upper)))),
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

    def _repair(self) -> FleetResult | None:
        """The whole as one MILP: first over the options any solution so far uses and handy ones, then over all.

        Returns what ends the solve, where nothing else does.
        """
        milp, matrix, watch = self.milp, self.milp.matrix, self.watch
        shortlist = self.used | (matrix.lower[milp.columns.n] > 0) | bounds.handy(milp.problem, HANDY)
        columns = np.ones(len(matrix.cost), dtype=np.bool_)
        columns[milp.columns.x] = shortlist[milp.problem.arc_option]
        columns[milp.columns.n] = shortlist
        part = matrix.part(columns, np.ones(len(matrix.row_lower), dtype=np.bool_))
        if self.best is not None and not self.best[~columns].any():
            until = (1 - SEARCH_SHARE) * watch.left()
            near = search(
                part,
                (np.cumsum(columns) - 1)[milp.columns.n[shortlist]],
                [self.best[milp.columns.n[shortlist]]],
                seconds=lambda: watch.left() - until,
                cancelled=watch.cancelled,
            )
            self._better(None if near is None else whole(columns, near.values))
        found = solve_matrix(
            part,
            seconds=watch.left() * (1.0 if self.large else 0.5),
            gap=0.5 * self.limits.gap,
            start=None if self.best is None or self.best[~columns].any() else self.best[columns],
            cancelled=watch.cancelled,
        )
        if isinstance(found, Answer):
            self._better(whole(columns, found.values))
        if self.best is not None and (self.large or self._done()):
            return None
        outcome = solve_matrix(
            matrix, seconds=watch.left(), gap=self.limits.gap, start=self.best, cancelled=watch.cancelled
        )
        if isinstance(outcome, Answer):
            self._better(outcome.values)
            self.lower = max(self.lower, outcome.bound + milp.constant)
        elif isinstance(outcome, NoPoint) and self.best is None:
            return why_infeasible(milp, watch.left, watch.cancelled)
        elif isinstance(outcome, Broken) and self.best is None:
            return SolverFailed(outcome.why)
        return None
