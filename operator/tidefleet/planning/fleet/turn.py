"""One turn: every pool at the same prices of the shared limits, and how the time is dealt out among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tidefleet.planning.fleet.matrix import Floats
from tidefleet.planning.fleet.pools import PoolSearch
from tidefleet.planning.fleet.solver import Outcome

EARLY_SHARE = 0.6
"""Share of the time in which all large pools get a first plan and a bound, before any is improved."""

SHORTEST = 2.5e-5
"""Seconds per arc in which no large pool gets better."""

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


SMALL = 10_000
"""Arcs up to which most pools need far less than their share of the time to be done."""

SMALL_MORE = 3.0
"""How many shares each of such pools may take: the time of one that was cut off is lost."""


class Spread(Protocol):
    """Applies a function to each item, side by side where it can: ``map`` or an executor's ``map``."""

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterable[Any]:
        """Results in the order of the items."""


class Turn:
    """Searches of all pools; ``run`` may be called again for as long as there is time.

    Args:
        searches: by pool.
        spent: USD per hour that each pool costs in the relaxation. The dearest pools decide the gap of the whole: time
            is dealt out by size and by cost alike.
        clock: seconds since any moment.
        spread, workers: runs so many side by side.
    """

    def __init__(
        self,
        searches: Mapping[int, PoolSearch],
        spent: Floats,
        *,
        clock: Callable[[], float],
        spread: Spread,
        workers: int,
    ) -> None:
        self.owners, self.searches = list(searches), list(searches.values())
        self.clock, self.spread, self.workers = clock, spread, workers
        sizes = np.array([len(one.pool.matrix.cost) for one in self.searches], dtype=np.float64)
        cost = np.maximum(spent[self.owners], 0.0)
        self.weights = SIZE_WEIGHT * sizes / max(sizes.sum(), 1.0) + cost / max(cost.sum(), 1e-9)
        self.begun = False

    @property
    def paid(self) -> float:
        """What the pools' plans cost so far; infinite where a pool has none."""
        return sum(one.paid for one in self.searches)

    @property
    def bound(self) -> float:
        """What the pools' plans cost at least, as far as it is known."""
        return sum(one.bound for one in self.searches)

    def run(self, end: float, *, rough: bool = False, over: Callable[[], bool] = lambda: False) -> dict[int, Outcome]:
        """The best plan of each pool so far, with a bound, by some time of the clock.

        A ``rough`` run leaves large pools with their first plans and the bounds that come with them. Once it is
        ``over``, no pool is improved any further; searches under way have to be called off by what they ask.
        """
        early, kept = [i for i, one in enumerate(self.searches) if one.early], end - self.clock()
        if early and not self.begun:
            until = self.clock() + EARLY_SHARE * (end - self.clock())
            first = np.maximum(self.weights[early], EARLY_FLOOR * self.weights[early].mean())
            self._dealt(until, first.tolist(), [self.searches[i].begin for i in early], 1.0, last=True)
        self.begun = True
        while not rough and any(self.searches[i].hopeful for i in early) and end - self.clock() > LEAST * kept:
            if over():
                break
            self._improved(end, [self.searches[i] for i in early], self.weights[early])
        answers = self._dealt(end, self.weights.tolist(), [one.finish for one in self.searches], 1.5)
        return dict(zip(self.owners, answers, strict=True))

    def _improved(self, end: float, searches: list[PoolSearch], weights: Floats) -> None:
        """Once more for each large pool that has hope, most of the time for those with the widest gaps."""
        gaps = np.array([min(one.open_gap, MOST_OPEN * one.known) for one in searches])
        wild = np.array([one.open_gap > MOST_OPEN * one.known for one in searches])
        known = float(gaps[np.isfinite(gaps)].sum())
        weights = np.where(np.isfinite(gaps), 0.02 * weights + 2.0 * gaps / max(known, 1e-9), weights)
        hopeful = [i for i, one in enumerate(searches) if one.hopeful]
        now = self.clock()
        until = now + IMPROVE_SHARE * (end - now)
        weights = weights[hopeful]
        arcs = np.array([len(searches[i].pool.arcs.x) for i in hopeful])
        worth = weights * self.workers * (until - now) >= SHORTEST * arcs * weights.sum()
        worth |= (weights >= weights.max()) | wild[hopeful]
        stages = [searches[i].improve for i in np.array(hopeful)[worth]]
        # The widest gap first: its MILP is worth little unless it gets all of its share at once.
        more = 1.0 if arcs.max() > SMALL else SMALL_MORE
        self._dealt(until, weights[worth].tolist(), stages, more)

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
            now = self.clock()
            mine = now + part * (until - now)
            return stages[i](lambda: mine - self.clock())

        results = dict(zip(order, self.spread(run, order), strict=True))
        return [results[i] for i in range(len(stages))]
