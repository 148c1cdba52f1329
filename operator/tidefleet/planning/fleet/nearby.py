"""Plans near those that a pool proposed: what the choice of one plan per pool needs most where limits are tight.

Prices of the shared limits make one plan of each pool the cheapest, but these plans seldom fit together: the best of
the fleet takes the second or the tenth best of some pools. At prices with the bound L, where pool p costs at least v_p,
a fleet cheaper than U has no plan of p that costs v_p + (U - L) or more. Neighbours of a known plan (``neighbours``)
that no floor lifts above that are solved for their flows, a small linear program each, and join the proposals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidefleet.planning.fleet.lagrange import Knapsacks
from tidefleet.planning.fleet.largepool import LargePool, knapsacks_of, moving, whole
from tidefleet.planning.fleet.local import Around, Flows
from tidefleet.planning.fleet.matrix import Bools, Floats, Matrix
from tidefleet.planning.fleet.milp import FleetMilp
from tidefleet.planning.fleet.proposals import Proposals, Sparse, Tried
from tidefleet.planning.fleet.turn import Spread

MOST = 40
"""Neighbours of one plan that are solved."""

FIRST = 24
"""The same while little is known of what a plan may cost: most would be worth a try."""

LOOSE = 0.04
"""Share of the fleet's bound that plans may cost above their pools' from which on little is known."""

WIDEST = 24
"""Options besides those of a plan that its neighbours may use."""


class Nearby:
    """What was sought so far, by pool: the replicas of plans whose neighbours are known, and of those that are solved.

    Args:
        milp: the MILP of the whole.
    """

    def __init__(self, milp: FleetMilp) -> None:
        self.milp = milp
        self._centres: set[tuple[int, bytes]] = set()
        self._known: dict[int, set[bytes]] = {}

    def more(
        self,
        proposals: Proposals,
        tried: Tried,
        best: Floats | None,
        *,
        room: float,
        part: Callable[[Matrix, int], LargePool],
        good: Callable[[int], list[Floats]],
        spread: Spread,
        seconds: Callable[[], float],
        cancelled: Callable[[], bool],
    ) -> bool:
        """Add plans near those of the cheapest mixture and of the best plan of the fleet.

        Args:
            proposals: the plans known, where the new ones are added.
            tried: prices with their bounds.
            best: the cheapest plan of the fleet, where there is one.
            room: what a pool's plan may cost above the pool's bound at the best prices.
            part: a pool of a program.
            good: prices of a pool's rows that are known to give a high bound of it.
            spread: applies a function to each item, side by side where it can.
            seconds: time left.
            cancelled: whether to stop.

        Returns:
            Whether any was added.
        """
        most = FIRST if room > LOOSE * abs(tried.best_bound) else MOST
        matrix = self.milp.matrix.with_cost(self.milp.matrix.priced(tried.best))
        mixture = proposals.mixture(tried.most, seconds())
        plans = [] if mixture is None else list(mixture.plans)
        if best is not None:
            plans += [(owner, best[matrix.owner == owner]) for owner in matrix.pools]
        work: dict[int, list[Floats]] = {}
        for owner, plan in plans:
            if (owner, plan.tobytes()) not in self._centres:
                self._centres.add((owner, plan.tobytes()))
                work.setdefault(owner, []).append(plan)

        def sought(owner: int) -> list[Sparse]:
            pool = part(matrix, owner)
            below = float(tried.best_parts[owner]) + room
            known = self._known.setdefault(owner, set())
            vicinity = Vicinity(pool, knapsacks_of(pool), good(owner), below, known, most, seconds, cancelled)
            return [found for plan in work[owner] for found in vicinity.near(plan)] if vicinity.usable else []

        found = list(zip(work, spread(sought, list(work)), strict=True))
        for owner, some in found:
            for plan in some:
                proposals.add(owner, plan.dense())
        return any(some for _, some in found)


@dataclass(frozen=True, slots=True, eq=False)
class Vicinity:
    """One pool in which plans are sought.

    Attributes:
        pool, knapsacks: the pool.
        good: prices of its rows that are known to give a high bound of it.
        below: what a plan has to cost less than.
        known: replicas, as bytes, that are not to be solved again; what is solved joins them.
        most: neighbours of one plan that are solved.
        seconds: time left.
        cancelled: whether to stop.
    """

    pool: LargePool
    knapsacks: Knapsacks
    good: list[Floats]
    below: float
    known: set[bytes]
    most: int
    seconds: Callable[[], float]
    cancelled: Callable[[], bool]

    @property
    def usable(self) -> bool:
        """Whether replicas are all that has to be whole, so that a linear program gives the rest."""
        return int(self.pool.matrix.integer.sum()) == len(self.pool.n) > 0 and self.knapsacks.usable

    def near(self, plan: Floats) -> list[Sparse]:
        """Plans near one, the most promising first."""
        found: list[Sparse] = []
        at = np.rint(plan[self.pool.n]) + 0.0  # no -0.0, whose bytes differ
        self.known.add(at.tobytes())
        options = at > 0.5
        few = moving(self.pool, options)
        first = Flows(few.matrix, few.n, self.seconds)
        first.cost(at[options])
        _, prices = first.point()
        first.close()
        if not len(prices):
            return found
        good = [*self.good, prices]
        options |= _promising(self.knapsacks, good, at, self.below)
        some, here = moving(self.pool, options), at[options]
        flows = Flows(some.matrix, some.n, self.seconds)
        flows.cost(here)
        _, prices = flows.point()
        around = Around(some.matrix, some.n, here, some.knapsacks)
        for one in (*good, prices) if len(prices) else good:
            around.add(one)
        neighbours = around.neighbours(here)
        for _ in range(self.most):
            floor, which = neighbours.best()
            if floor >= self.below or self.seconds() <= 0 or self.cancelled():
                break
            replicas = neighbours.replicas(which)
            neighbours.tried(which, np.inf)
            every = np.zeros(len(at))
            every[options] = replicas
            if every.tobytes() in self.known:
                continue
            self.known.add(every.tobytes())
            cost = flows.cost(replicas, self.below)
            values, prices = flows.point()
            if len(prices):
                around.add(prices)
                neighbours.take(around.floors[-1])
            if cost < self.below:
                values = np.clip(values, some.matrix.lower, some.matrix.upper)
                values[some.n] = replicas
                found.append(Sparse.of(whole(some.columns, values)))
        flows.close()
        return found


def _promising(knapsacks: Knapsacks, prices: list[Floats], at: Floats, below: float) -> Bools:
    """Options of which one more, with up to two replicas of others less, may cost less than this."""
    lower, upper = knapsacks.matrix.lower[knapsacks.n], knapsacks.matrix.upper[knapsacks.n]
    least, lowest = np.maximum(lower, at - 1), np.full(len(at), -np.inf)
    every, index = np.arange(len(at)), np.rint(at - least).astype(np.int64)
    for one in prices:
        floor = knapsacks.floor(one, least, 3)
        here = floor.table[every, index]
        more = np.where(at < upper - 0.5, floor.table[every, index + 1] - here, np.inf)
        less = np.sort(np.where(index > 0, floor.table[:, 0] - here, 0.0))[:2]
        lowest = np.maximum(lowest, floor.base + here.sum() + np.minimum(less, 0.0).sum() + more)
    promising: Bools = lowest < below
    promising[np.argsort(lowest, kind="stable")[WIDEST:]] = False
    return promising
