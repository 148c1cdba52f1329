"""Solves a fleet: each pool's MILP with the shared limits priced, then the whole repaired and bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tidefleet.planning.fleet import bound as bounds
from tidefleet.planning.fleet import shares
from tidefleet.planning.fleet.around import improved
from tidefleet.planning.fleet.explain import explained
from tidefleet.planning.fleet.first import serving_nothing
from tidefleet.planning.fleet.fitting import fit_together
from tidefleet.planning.fleet.halves import Part, halved
from tidefleet.planning.fleet.infeasible import why_infeasible
from tidefleet.planning.fleet.matrix import Floats, summed
from tidefleet.planning.fleet.merge import merge
from tidefleet.planning.fleet.milp import FleetMilp, build
from tidefleet.planning.fleet.nearby import Nearby
from tidefleet.planning.fleet.pools import PoolSearch
from tidefleet.planning.fleet.poolwise import Poolwise, plans_of
from tidefleet.planning.fleet.problem import FleetProblem
from tidefleet.planning.fleet.proposals import Proposals, Tried
from tidefleet.planning.fleet.repair import repaired
from tidefleet.planning.fleet.result import FleetPlan, FleetResult, Infeasible, SolverFailed
from tidefleet.planning.fleet.rounding import rounded
from tidefleet.planning.fleet.solver import Answer, Broken, NoPoint, Outcome, OutOfTime, raised
from tidefleet.planning.fleet.turn import Spread, Turn

FINISH = 2e-6
"""Seconds per arc kept back for checking the plan and putting it out."""

GRACE = 1.0
"""Seconds in which a fleet without any plan still gets the one that serves nothing, though its time is over."""

PRICE_TURNS = 30
"""Times that the pools are solved at other prices, while time is left and the gap is not reached."""

FINE = 0.2
"""Share of the gap to which the pools of a small fleet are solved where a shared limit has a price: what is open
between prices and whole replicas comes on top."""

MISLED = 0.003
"""Share by which plans at some prices may cost less than those that the prices came from."""

HALF_EASE = 0.005
"""Share by which limits are taken wider for prices within a half of the plans."""

FAR = 0.1
"""Share of what a mixture costs by which the best plan of a small fleet is above it, for that to be urgent."""

SURE = 1e-6
"""Relative cost by which two plans are surely not the same."""

NEAR_WORTH = 0.2
"""Share of the gap within a large fleet's pools from which on plans near theirs are sought."""

NEAR_ROOM = 0.03
"""Share of the bound that takes the place of the open gap while no plan of the fleet is known."""

SAME = 1e-4
"""Relative difference up to which prices count as those of an earlier turn."""

RISES = 0.05
"""Share of the open gap by which the bound has to rise in a turn, for prices to be sought further."""

PRICES_UNTIL = 0.3
"""Share of the time that is left for the whole when prices are no longer sought."""

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
        over: whether the turn that runs is of no more use.
        lower: no plan of the fleet costs less.
        used: options that any solution so far uses.
        proposals, tried, nearby: the pools' plans, the prices of the shared limits, and where plans were sought.
        searches, floors: each pool's search in the last turn, and what its cost is at least at the turn's prices.
    """

    def __init__(self, milp: FleetMilp, limits: Limits, watch: Watch, spread: Spread, workers: int) -> None:
        self.milp, self.limits, self.watch, self.spread, self.workers = milp, limits, watch, spread, workers
        self.searches: dict[int, PoolSearch] = {}
        self.best: Floats | None = None
        self.over: Callable[[], bool] = _never
        self.in_vain = False
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
        self.poolwise = Poolwise(self.milp, self.relaxation)
        self.proposals, self.nearby = Proposals(self.milp), Nearby(self.milp)
        self.tried = Tried(self.milp, np.concatenate((full, fresh)), bold=not self.large)
        failed = self._priced()
        if failed is not None:
            return failed
        if self.tight and not self._done():
            self._better(self._chosen())
        if self.tight and self.best is not None and not self.large:
            self._halve()
        if self.tight and self.best is not None and not self._done():
            self._better(self._around(self.best))
        if not self._done() and not (self.large and self.best is not None):
            failed = self._repair()
            if failed is not None:
                return failed
        if self.best is None and not watch.cancelled():
            self.best = serving_nothing(self.milp, GRACE)
        if self.best is None:
            return SolverFailed("the time was over before a plan was found")
        return explained(milp, self.best, self.lower, relaxation.prices, self.limits.gap)

    def _priced(self) -> FleetResult | None:
        """Turn after turn at better prices of the shared limits; a result only where there is no plan to be had."""
        watch, began = self.watch, self.watch.left()
        settled: list[Floats] = []
        seen: list[Floats] = []
        for count in range(PRICE_TURNS):
            before, known = watch.left(), self.lower
            prices = self.tried.next(count, self.proposals, before)
            if _among(prices, settled):
                break
            again = _among(prices, seen)
            seen.append(prices)
            turn = self._turn(prices)
            promised = -np.inf if again else self.proposals.least(prices) + bounds.shared_part(self.milp, prices)
            rough = self.tight and not self.large
            failed = self._taken(turn, prices, self._share(prices), rough=rough)
            if failed is not None:
                return failed
            worth = self.tried.paid(prices, self.paid) or again
            if rough and worth and not self._done():
                failed = self._taken(turn, prices, self._share(prices), known=promised)
            exact = not rough or (worth and not self.in_vain)
            if exact:
                settled.append(prices)
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
            if exact and not self.large and self._settled():
                break
            if exact and count >= 2 and self.lower - known < RISES * (self._cost() - self.lower) < np.inf:
                break
        return None

    def _settled(self) -> bool:
        """Whether the pools' plans of the last turn cost about what the cheapest mixture of all known plans does: no
        prices give a better bound."""
        mixture = self.proposals.mixture(self.tried.most, self.watch.left(), ease=0.0)
        if mixture is None:
            return False
        return mixture.cost + self.milp.constant - self.paid < RISES * (self._cost() - self.lower) < np.inf

    def _halve(self) -> None:
        """A better bound, and maybe a better plan, from halves of the plans."""
        parts = [Part(self.lower)]
        while not self._done() and not self.watch.cancelled():
            least = min(parts, key=lambda one: one.bound)
            two = halved(least, self.proposals, self.tried.most, enough=self._target(), seconds=self.watch.left)
            if two is None:
                return
            parts.remove(least)
            for one in two:
                bound = self._within(one)
                if bound <= least.bound:
                    return
                parts.append(replace(one, bound=bound))
            self.lower = max(self.lower, min(self._cost(), *(one.bound for one in parts)))

    def _within(self, part: Part) -> float:
        """A cost that no plan within a part is below."""
        bound = part.bound
        while self.watch.left() > 0 and not self.watch.cancelled():
            target = self._target()
            without = part.without(self.proposals)
            mixture = self.proposals.mixture(self.tried.most, self.watch.left(), without=without, ease=HALF_EASE)
            if mixture is None:
                break
            prices = bounds.shared_prices(self.milp, mixture.prices)
            shared = bounds.shared_part(self.milp, prices)
            turn = self._turn(prices, part)
            answers = self._ran(turn, shares.PROOF, lambda: turn.bound + shared >= target)  # noqa: B023 - within this turn
            if any(isinstance(answers[one.owner], NoPoint) for one in part.halves):
                return np.inf
            bound = max(bound, shared + float(self.poolwise.parts(answers).sum()))
            count = len(self.proposals.plans)
            self._propose(answers)
            self._better(self._together(plans_of(answers)))
            self._better(self._chosen())
            if bound >= target or len(self.proposals.plans) == count:
                break
        return bound

    def _propose(self, answers: dict[int, Outcome]) -> None:
        """Keep the pools' plans."""
        for owner, plan in plans_of(answers).items():
            self.used[self.milp.problem.option_pool == owner] |= self.poolwise.in_use(owner, plan)
            self.proposals.add(owner, plan)

    def _further(self, turn: Turn, prices: Floats) -> FleetResult | None:
        """More of a turn whose plans leave a gap: plans near them, and in a large fleet better ones at these prices."""
        self._near()
        soon = self.watch.left() < shares.FIT * self.limits.seconds
        if self.best is None and (self.large or soon):
            self._fit()
        if not self.large or self._wasted() >= self.open:
            return None
        # What is open is open within the pools, whatever the prices.
        failed = self._taken(turn, prices, shares.AGAIN)
        self._near()
        return failed

    def _share(self, prices: Floats) -> float:
        """Share of the time left for a turn."""
        if not self.tight:
            return shares.UNPRICED if not prices.any() and self.large else shares.POOLS
        if self.large:
            return shares.TURN if self.proposals.plans else shares.FIRST
        return shares.SMALL if self.best is None or self._far() else shares.PROOF

    def _taken(
        self, turn: Turn, prices: Floats, share: float, *, rough: bool = False, known: float = -np.inf
    ) -> FleetResult | None:
        """Run a turn in a share of the time left, and take what it brings; a result only where there is no plan.

        It ends early, and was ``in_vain``, where its plans cost so much less than those ``known`` before it do at these
        prices that the prices are wrong, and less than a bound has to be that ends the search.

        Afterwards ``answers`` are the pools', ``paid`` is what their plans cost at these prices, and ``open`` how far
        that is above their bounds.
        """
        milp = self.milp
        shared = bounds.shared_part(milp, prices)

        def over() -> bool:
            if not self.in_vain and turn.paid + shared < min(self._target(), known - MISLED * abs(known)):
                self.in_vain = self.watch.left() > shares.ANEW * self.limits.seconds
            return self.in_vain or turn.bound + shared >= self._target()

        self.in_vain = False
        answers = self._ran(turn, share, over, rough=rough)
        broken = [one for one in answers.values() if isinstance(one, Broken)]
        if broken and self.best is None:
            return SolverFailed(broken[0].why)
        if any(isinstance(one, NoPoint) for one in answers.values()):
            return why_infeasible(milp, self.watch.left, self.watch.cancelled)
        bound = self.tried.bound(prices, shared, self.poolwise.parts(answers))
        self.lower = max(self.lower, bound)
        self._propose(answers)
        together = self._together(plans_of(answers))
        self.tight = self.tight or together is None
        cost = sum(one.objective if isinstance(one, Answer) else np.inf for one in answers.values()) + shared
        self.open, self.paid = cost - bound, cost
        self._better(together)
        self.answers = answers
        return None

    def _ran(self, turn: Turn, share: float, over: Callable[[], bool], *, rough: bool = False) -> dict[int, Outcome]:
        """The pools' answers after a turn in a share of the time left, or until it is ``over``."""
        self.over = over
        found = turn.run(self.watch.clock() + share * self.watch.left(), rough=rough, over=over)
        self.over = _never
        return {owner: raised(one, float(self.floors[owner])) for owner, one in found.items()}

    def _fit(self) -> None:
        """The pools' plans of the last turn made to fit together."""
        fitted = fit_together(
            self.milp,
            self.answers,
            self.used | bounds.handy(self.milp.problem, 2 * bounds.HANDY),
            seconds=self.watch.left,
            gap=self.limits.gap,
            cancelled=self.watch.cancelled,
        )
        for owner, plan in plans_of(fitted).items():
            self.proposals.add(owner, plan)
        self._better(self._together(plans_of(fitted)))

    def _around(self, best: Floats) -> Floats:
        """The plan made better by few pools at a time, those farthest above their bound at the best prices first."""
        milp, matrix = self.milp, self.milp.matrix
        paid = summed(matrix.owner + 1, matrix.priced(self.tried.best) * best, milp.problem.pools + 1)[1:]
        slack = np.maximum(paid - self.tried.best_parts, 0.0)
        until = 0.0 if self.large else (1 - shares.AROUND) * self.watch.left()
        return improved(
            milp,
            best,
            self.used | bounds.handy(milp.problem, bounds.HANDY),
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
        share = shares.LARGE_NEAR if self.large else shares.NEAR
        share = shares.FAR if self._far() else share
        until = (1 - share) * self.watch.left()
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
                part=self.poolwise.pool,
                good=lambda owner: self.searches[owner].prices,
                spread=self.spread,
                seconds=lambda: self.watch.left() - until,
                cancelled=self.watch.cancelled,
            )
            if not more:
                return

    def _chosen(self) -> Floats | None:
        """The best of all proposals that fit together."""
        best, without = None, None
        if self.best is not None:
            best = self.proposals.known(self.best)
            # A plan this far above its pool's bound is part of no plan of the fleet that is cheaper than the best.
            room = self._cost() - self.tried.best_bound + SURE * abs(self._cost())
            above = self.proposals.at(self.tried.best) - self.tried.best_parts[self.proposals.owners]
            without = above > room
        share = shares.CHOICE_FAR if self._far() else shares.CHOICE
        chosen = self.proposals.choice(share * self.watch.left(), self.watch.cancelled, best=best, without=without)
        return None if chosen is None else self._together(chosen)

    def _far(self) -> bool:
        """Whether a small fleet has no plan yet that is near what a mixture of plans would cost."""
        return (
            not self.large
            and np.isfinite(self.tried.hoped)
            and self._cost() > self.tried.hoped + FAR * abs(self.tried.hoped)
        )

    def _done(self, plan: Floats | None = None) -> bool:
        """Whether a plan, or the best one, is near enough to the bound."""
        plan = self.best if plan is None else plan
        return plan is not None and self.lower >= self._target(plan)

    def _target(self, plan: Floats | None = None) -> float:
        """The bound at which a plan, or the best one, is near enough to it; infinite where there is none."""
        cost = self._cost(plan)
        return cost if cost == np.inf else cost - self.limits.gap * abs(cost)

    def _better(self, plan: Floats | None) -> None:
        """Keep a plan if it is the best so far."""
        if plan is not None and (self.best is None or self._cost(plan) < self._cost()):
            self.best = plan

    def _cost(self, plan: Floats | None = None) -> float:
        """USD per hour of a plan, or of the best one; infinite where there is none."""
        plan = self.best if plan is None else plan
        return np.inf if plan is None else self.milp.matrix.objective(plan) + self.milp.constant

    def _turn(self, prices: Floats, part: Part | None = None) -> Turn:
        """Every pool at some prices of the shared rows, of all plans or within a part of them."""
        halves, without = ((), None) if part is None else (part.halves, part.without(self.proposals))
        changed = {one.owner for one in halves}
        matrix = self.milp.matrix.with_cost(self.milp.matrix.priced(prices))
        owners = matrix.pools
        self.floors = bounds.pool_floors(self.milp, matrix, self.relaxation.prices)
        gap = (FINE if self.tight and not self.large else 1.0) * self.limits.gap
        searches = {
            one: PoolSearch(
                self.poolwise.pool(matrix, one, halves),
                gap=0.6 * gap,
                absolute_gap=0.4 * gap * abs(self.relaxation.bound) / max(1, len(owners)),
                cancelled=lambda: self.watch.cancelled() or self.over(),
                start=self.proposals.cheapest(one, prices, without),
                earlier=None if one in changed else self.searches.get(one),
            )
            for one in owners
        }
        self.searches |= {owner: one for owner, one in searches.items() if owner not in changed}
        spent = summed(matrix.owner + 1, self.relaxation.values * matrix.cost, self.milp.problem.pools + 1)[1:]
        return Turn(searches, spent, clock=self.watch.clock, spread=self.spread, workers=self.workers)

    def _together(self, plans: dict[int, Floats]) -> Floats | None:
        """A plan of each pool as one point of the whole, or ``None`` where they exceed a shared limit."""
        return self.poolwise.together(plans, max(1.0, self.watch.left()))

    def _repair(self) -> FleetResult | None:
        """The whole as one MILP; what ends the solve, where nothing else does."""
        found = repaired(
            self.milp,
            self.best,
            self.used,
            gap=self.limits.gap,
            large=self.large,
            done=self._done,
            seconds=self.watch.left,
            cancelled=self.watch.cancelled,
        )
        self._better(found.plan)
        self.lower = max(self.lower, found.bound + self.milp.constant)
        match found.ended:
            case NoPoint() if self.best is None:
                return why_infeasible(self.milp, self.watch.left, self.watch.cancelled)
            case Broken(why) if self.best is None:
                return SolverFailed(why)
        return None


def _never() -> bool:
    return False


def _among(prices: Floats, others: list[Floats]) -> bool:
    """Whether prices are those of an earlier turn."""
    return any(np.allclose(prices, one, rtol=SAME, atol=1e-9) for one in others)
