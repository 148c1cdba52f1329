"""Solves a fleet: each pool's MILP with the shared limits priced, then the whole repaired and bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tidefleet.planning.fleet import bound as bounds
from tidefleet.planning.fleet.around import improved
from tidefleet.planning.fleet.explain import explained
from tidefleet.planning.fleet.infeasible import why_infeasible
from tidefleet.planning.fleet.largepool import LargePool
from tidefleet.planning.fleet.local import search
from tidefleet.planning.fleet.matrix import SHARED, Bools, Floats, Matrix, summed
from tidefleet.planning.fleet.merge import merge
from tidefleet.planning.fleet.milp import FleetMilp, build
from tidefleet.planning.fleet.pools import PoolSearch, rounded_up
from tidefleet.planning.fleet.problem import AGGREGATED, FleetProblem
from tidefleet.planning.fleet.proposals import Proposals, Tried
from tidefleet.planning.fleet.result import FleetPlan, FleetResult, Infeasible, SolverFailed
from tidefleet.planning.fleet.solver import Answer, Broken, NoPoint, Outcome, OutOfTime, raised
from tidefleet.planning.fleet.solver import solve as solve_matrix
from tidefleet.planning.fleet.strong import Arcs

POOLS_SHARE = 0.8
"""Share of the time for the pools; the rest is for the whole, which needs little where no shared limit has a price."""

UNPRICED_SHARE = 0.95
"""The same for a large fleet in which no shared limit has a price."""

FINISH = 2e-6
"""Seconds per arc kept back for checking the plan and putting it out."""

EARLY_SHARE = 0.6
"""Share of that time in which all large pools get a first plan and a bound, before any is improved."""

SHORTEST = 2.5
"""Seconds of a turn in which no large pool gets better."""

IMPROVE_SHARE = 0.85
"""Share of the time left for the pools in which each large one is improved once more."""

MOST_OPEN = 0.1
"""Share of a pool's bound up to which its open gap counts when time is dealt out: a first plan may be far too dear."""

LEAST = 0.05
"""Share of the pools' time below which none is improved any more."""

EARLY_FLOOR = 0.6
"""Least share of that time for a pool, relative to the mean."""

SIZE_WEIGHT = 0.25
"""How much a pool's size counts against its cost when the time is dealt out."""

PRICE_TURNS = 30
"""Times that the pools are solved at other prices, while time is left and the gap is not reached."""

TURN_SHARE = 0.25
"""Share of the time left for one turn."""

FIRST_SHARE = 0.45
"""The same for the first turn of a large fleet, whose other turns are few."""

FITTED_SHARE = 0.1
"""Share of the time left in which one pool is made to fit what the ones before it left."""

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
    """One solve: prices, pools, repair, bound."""

    def __init__(self, milp: FleetMilp, limits: Limits, watch: Watch, spread: Spread, workers: int) -> None:
        self.milp, self.limits, self.watch, self.spread, self.workers = milp, limits, watch, spread, workers
        self.near = bounds.nearest(milp.problem, bounds.unit_cost(milp.problem), 2)
        self.sides = bounds.sides(milp.problem)
        self.searches: dict[int, PoolSearch] = {}

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
        lower, best = relaxation.bound + milp.constant, None
        used = relaxation.values[milp.columns.n] > 1e-6
        full = bounds.shared_prices(milp, relaxation.prices)
        proposals = Proposals(milp)
        tried = Tried(milp, full)
        began = watch.left()
        tight, large = bool(full.any()), len(milp.columns.x) > LARGE
        for turn in range(PRICE_TURNS):
            before, known = watch.left(), lower
            prices = tried.next(turn, proposals, watch.left())
            share = FIRST_SHARE if large and not proposals.plans else TURN_SHARE
            answers = self._pools(prices, relaxation, proposals, share if tight else None)
            broken = [one for one in answers.values() if isinstance(one, Broken)]
            if broken and best is None:
                return SolverFailed(broken[0].why)
            if any(isinstance(one, NoPoint) for one in answers.values()):
                return why_infeasible(milp, watch.left, watch.cancelled)
            lower = max(lower, tried.bound(prices, bounds.shared_part(milp, prices), self._parts(answers)))
            for owner, answer in answers.items():
                if isinstance(answer, Answer):
                    used[milp.problem.option_pool == owner] |= self._in_use(owner, answer)
                    proposals.add(owner, answer.values)
            together = self._together(answers)
            tight = tight or together is None
            if together is None and turn < 2:
                fitted = self._fitted(answers, used)
                together = self._together(fitted)
                for owner, answer in fitted.items():
                    if isinstance(answer, Answer):
                        proposals.add(owner, answer.values)
            best = self._better(best, together)
            if self._done(best, lower) or watch.cancelled() or not tight:
                break
            if watch.left() < max(1.5 * (before - watch.left()), PRICES_UNTIL * began):
                break
            risen = lower - known
            if turn >= 2 and best is not None and risen < RISES * (self._cost(best) - lower):
                break
        if tight and not self._done(best, lower):
            best = self._better(best, self._chosen(proposals))
        if tight and best is not None and not self._done(best, lower):
            best = self._around(best, used, tried, lower)
        if not self._done(best, lower) and not (large and best is not None):
            outcome = self._repair(used, best, lower)
            match outcome:
                case Answer():
                    best = self._better(best, outcome.values)
                    lower = max(lower, outcome.bound)
                case NoPoint() if best is None:
                    return why_infeasible(milp, watch.left, watch.cancelled)
                case Broken(why) if best is None:
                    return SolverFailed(why)
        if best is None:
            return SolverFailed("the time was over before a plan was found")
        return explained(milp, best, lower, relaxation.prices, self.limits.gap)

    def _fitted(self, answers: dict[int, Outcome], used: Bools) -> dict[int, Outcome]:
        """The pools' answers, the dearest first, each made to fit in what quotas and power the ones before it left.

        A pool that does not fit is solved anew over the options in use anywhere and its handy ones.
        """
        milp, matrix = self.milp, self.milp.matrix
        rows = np.zeros(len(matrix.row_lower), dtype=np.bool_)
        rows[[one.row for one in milp.shared if one.kind in ("quota", "power")]] = True
        shortlist = used | (matrix.lower[milp.columns.n] > 0) | bounds.handy(milp.problem, 2 * HANDY)
        allowed = np.ones(len(matrix.cost), dtype=np.bool_)
        allowed[milp.columns.x] = shortlist[milp.problem.arc_option]
        left = matrix.row_upper.copy()
        fitted = dict(answers)
        found = [(owner, one) for owner, one in answers.items() if isinstance(one, Answer)]
        for owner, answer in sorted(found, key=lambda pair: -pair[1].objective):
            mine = matrix.owner == owner
            values = np.zeros(len(matrix.cost))
            values[mine] = answer.values
            fitted[owner] = answer
            if (matrix.activity(values)[rows] > left[rows] + 1e-9).any():
                columns = mine & allowed
                part = matrix.with_rows(matrix.row_lower, np.maximum(left, np.minimum(matrix.row_upper, 0.0)))
                part = part.part(columns, rows | (matrix.row_owner == owner))
                seconds, cancelled = max(FITTED_SHARE * self.watch.left(), 0.3), self.watch.cancelled
                start = rounded_up(part, seconds, cancelled)
                other = solve_matrix(part, seconds=seconds, gap=self.limits.gap, start=start, cancelled=cancelled)
                values[mine] = 0.0
                if isinstance(other, Answer):
                    values[columns] = other.values
                    fitted[owner] = Answer(values[mine], other.objective, -np.inf, np.zeros(0), False)
                else:
                    fitted[owner] = other
            left = np.where(rows, left - matrix.activity(values), left)
        return fitted

    def _parts(self, answers: dict[int, Outcome]) -> Floats:
        """Each pool's bound."""
        parts = np.zeros(self.milp.problem.pools)
        for owner, one in answers.items():
            parts[owner] = one.bound if isinstance(one, Answer | OutOfTime) else -np.inf
        return parts

    def _around(self, best: Floats, used: Bools, tried: Tried, lower: float) -> Floats:
        """The plan made better by few pools at a time, those farthest above their bound at the best prices first."""
        milp, matrix = self.milp, self.milp.matrix
        paid = summed(matrix.owner + 1, matrix.priced(tried.best) * best, milp.problem.pools + 1)[1:]
        slack = np.maximum(paid - tried.best_parts, 0.0)
        until = (1 - AROUND_SHARE) * self.watch.left() if len(milp.columns.x) <= LARGE else 0.0
        return improved(
            milp,
            best,
            used | bounds.handy(milp.problem, HANDY),
            slack,
            spread=self.spread,
            workers=self.workers,
            enough=lambda plan: self._done(plan, lower),
            clock=self.watch.clock,
            seconds=lambda: self.watch.left() - until,
            cancelled=self.watch.cancelled,
        )

    def _chosen(self, proposals: Proposals) -> Floats | None:
        """The best of all proposals that fit together."""
        chosen = proposals.choice(0.1 * self.watch.left(), self.watch.cancelled)
        if chosen is None or len(chosen) < len(np.unique(self.milp.matrix.owner[self.milp.matrix.owner != SHARED])):
            return None
        return self._together({o: Answer(v, 0.0, -np.inf, np.zeros(0), False) for o, v in chosen.items()})

    def _done(self, best: Floats | None, lower: float) -> bool:
        return best is not None and self._cost(best) - lower <= self.limits.gap * abs(self._cost(best))

    def _better(self, one: Floats | None, other: Floats | None) -> Floats | None:
        if one is None or other is None:
            return other if one is None else one
        return one if self._cost(one) <= self._cost(other) else other

    def _in_use(self, owner: int, answer: Answer) -> Bools:
        """Which of a pool's options have replicas in an answer for the pool."""
        mine = np.zeros(len(self.milp.matrix.cost))
        mine[self.milp.matrix.owner == owner] = answer.values
        used: Bools = mine[self.milp.columns.n[self.milp.problem.option_pool == owner]] > 0.5
        return used

    def _cost(self, values: Floats) -> float:
        return float(self.milp.matrix.cost @ values) + self.milp.constant

    def _pools(
        self, prices: Floats, relaxation: bounds.Relaxation, proposals: Proposals, share: float | None
    ) -> dict[int, Outcome]:
        """Every pool at some prices of the shared rows, in a share of the time left."""
        matrix = self.milp.matrix.with_cost(self.milp.matrix.priced(prices))
        owners = [int(one) for one in np.unique(matrix.owner) if one != SHARED]
        spare = 0.4 * self.limits.gap * abs(relaxation.bound) / max(1, len(owners))
        searches = [
            PoolSearch(
                self._pool(matrix, one, relaxation),
                gap=0.6 * self.limits.gap,
                absolute_gap=spare,
                cancelled=self.watch.cancelled,
                start=proposals.cheapest(one, matrix.cost[matrix.owner == one]),
                earlier=self.searches.get(one),
            )
            for one in owners
        ]
        self.searches = dict(zip(owners, searches, strict=True))
        # The dearest pools first: they decide the gap of the whole. Time is dealt out by size and by cost alike.
        spent = summed(matrix.owner + 1, relaxation.values * matrix.cost, self.milp.problem.pools + 1)[1:]
        sizes = np.array([len(one.pool.matrix.cost) for one in searches], dtype=np.float64)
        cost = np.maximum(spent[owners], 0.0)
        weights = SIZE_WEIGHT * sizes / max(sizes.sum(), 1.0) + cost / max(cost.sum(), 1e-9)
        alone = not prices.any() and len(self.milp.columns.x) > LARGE
        share = share or (UNPRICED_SHARE if alone else POOLS_SHARE)
        end = self.watch.clock() + share * self.watch.left()
        early, kept = [i for i, one in enumerate(searches) if one.early], end - self.watch.clock()
        if early:
            until = self.watch.clock() + EARLY_SHARE * (end - self.watch.clock())
            first = np.maximum(weights[early], EARLY_FLOOR * weights[early].mean())
            self._dealt(until, first.tolist(), [searches[i].begin for i in early], 1.0, last=True)
            while any(searches[i].hopeful for i in early) and end - self.watch.clock() > LEAST * kept:
                self._improved(end, [searches[i] for i in early], weights[early])
        answers = self._dealt(end, weights.tolist(), [one.finish for one in searches], 1.5)
        floors = bounds.pool_floors(self.milp, matrix, relaxation.prices)
        return {owner: raised(answer, float(floors[owner])) for owner, answer in zip(owners, answers, strict=True)}

    def _improved(self, end: float, searches: list[PoolSearch], weights: Floats) -> None:
        """One more turn for each large pool that has hope, most of it for those with the widest gaps."""
        gaps = np.array([min(one.open_gap, MOST_OPEN * one.known) for one in searches])
        wild = np.array([one.open_gap > MOST_OPEN * one.known for one in searches])
        known = float(gaps[np.isfinite(gaps)].sum())
        weights = np.where(np.isfinite(gaps), 0.02 * weights + 2.0 * gaps / max(known, 1e-9), weights)
        hopeful = [i for i, one in enumerate(searches) if one.hopeful]
        now = self.watch.clock()
        until = now + IMPROVE_SHARE * (end - now)
        weights = weights[hopeful]
        worth = weights * self.workers * (until - now) >= SHORTEST * weights.sum()
        worth |= (weights >= weights.max()) | wild[hopeful]
        stages = [searches[i].improve for i in np.array(hopeful)[worth]]
        # The widest gap first: its MILP is worth little unless it gets all of its share at once.
        self._dealt(until, weights[worth].tolist(), stages, 1.0)

    def _dealt(
        self,
        until: float,
        weights: list[float],
        stages: Sequence[Callable[[Callable[[], float]], Any]],
        more: float,
        *,
        last: bool = False,
    ) -> list[Any]:
        """Stages side by side, each told what is left of its share of the time, times ``more``.

        Those of most weight go first; where few need all of their share, it may be more than 1. Or they go ``last``,
        and get what the others leave: that wastes least where every stage takes all that it is given.
        """
        order = sorted(range(len(stages)), key=lambda i: weights[i] if last else -weights[i])
        waiting = {i: weights[i] for i in order}

        def run(i: int) -> Any:
            total = sum(list(waiting.values()))
            part = min(1.0, more * self.workers * waiting.pop(i) / max(total, 1e-9))
            now = self.watch.clock()
            mine = now + part * (until - now)
            return stages[i](lambda: mine - self.watch.clock())

        results = dict(zip(order, self.spread(run, order), strict=True))
        return [results[i] for i in range(len(stages))]

    def _pool(self, matrix: Matrix, owner: int, relaxation: bounds.Relaxation) -> LargePool:
        """One pool's part of the matrix, with its arcs found again in it."""
        p, columns = self.milp.problem, self.milp.columns
        mine, rows = matrix.owner == owner, matrix.row_owner == owner
        at, row_at = np.cumsum(mine) - 1, np.cumsum(rows) - 1
        options = p.option_pool == owner
        serve = self.milp.serve
        arcs = np.flatnonzero(p.option_pool[p.arc_option] == owner)
        option = p.arc_option[arcs]
        multiple = p.option_multiple[option].astype(np.float64)
        return LargePool(
            matrix.part(mine, rows),
            Arcs(at[columns.x[arcs]], at[columns.n[option]], self.sides[arcs], multiple),
            self.near[arcs],
            p.option_role[option] == AGGREGATED,
            at[columns.n[options]],
            row_at[self.milp.load[options]],
            row_at[serve[rows[serve]]],
            relaxation.values[mine],
            relaxation.prices[rows],
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

    def _repair(self, used: Bools, best: Floats | None, lower: float) -> Outcome:
        """The whole as one MILP: first over the options any solution so far uses and handy ones, then over all."""
        milp, matrix, watch = self.milp, self.milp.matrix, self.watch
        small = len(milp.columns.x) <= LARGE
        shortlist = used | (matrix.lower[milp.columns.n] > 0) | bounds.handy(milp.problem, HANDY)
        columns = np.ones(len(matrix.cost), dtype=np.bool_)
        columns[milp.columns.x] = shortlist[milp.problem.arc_option]
        columns[milp.columns.n] = shortlist
        part = matrix.part(columns, np.ones(len(matrix.row_lower), dtype=np.bool_))
        if best is not None and not best[~columns].any():
            until = (1 - SEARCH_SHARE) * watch.left()
            near = search(
                part,
                (np.cumsum(columns) - 1)[milp.columns.n[shortlist]],
                [best[milp.columns.n[shortlist]]],
                seconds=lambda: watch.left() - until,
                cancelled=watch.cancelled,
            )
            if near is not None:
                values = np.zeros(len(matrix.cost))
                values[columns] = near.values
                best = self._better(best, values)
        found = solve_matrix(
            part,
            seconds=watch.left() * (0.5 if small else 1.0),
            gap=0.5 * self.limits.gap,
            start=None if best is None or best[~columns].any() else best[columns],
            cancelled=watch.cancelled,
        )
        if isinstance(found, Answer):
            values = np.zeros(len(matrix.cost))
            values[columns] = found.values
            best = self._better(best, values)
        if best is not None and (not small or self._done(best, lower)):
            return Answer(best, self._cost(best), -np.inf, np.zeros(0), False)
        whole = solve_matrix(
            matrix, seconds=watch.left(), gap=self.limits.gap, start=best, stop_at=None, cancelled=watch.cancelled
        )
        if isinstance(whole, Answer):
            bound = whole.bound + milp.constant
            return Answer(whole.values, self._cost(whole.values), bound, np.zeros(0), whole.complete)
        if best is not None:
            return Answer(best, self._cost(best), -np.inf, np.zeros(0), False)
        return whole
