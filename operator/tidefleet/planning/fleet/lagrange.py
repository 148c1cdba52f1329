"""The bound of one pool with every row priced but the load of its options: a sum of knapsacks, one per option.

For any prices y of the other rows, of the sign that their side demands,

  L(y) = y . limit + the other columns at their cheaper bound + sum over options of min over whole k of h(k),
  h(k) = k times the reduced cost of a replica + min{r . x : sum of load times share <= k, 0 <= x <= 1},

with r the reduced costs of the option's arcs. No plan of the pool costs less than L(y). h is convex in k and its inner
minimum fills the replicas in the order of gain per load, so that one sort of the arcs answers for all options. As k is
whole, the largest L is at least the bound of the linear relaxation with all the rows x[c,o] <= n[o], and often above.

L also says what any other k of an option costs at least: L - h(k*) + h(k), for all plans of the pool. Every plan below
a given cost keeps each k within ``Knapsacks.limits``, and does without an option whose first replica costs too much
already (``Levels.least_use``): that shrinks a pool to the options that matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidefleet.planning.fleet.matrix import Bools, Floats, Ints, Matrix, summed
from tidefleet.planning.fleet.neighbours import Floor

_ZERO, _ONE = np.zeros(1), np.ones(1)

_MEMORY = 0.1
"""Weight of the last iterate in the running means of an ascent."""

_PATIENCE = 8
"""Steps without a better bound after which an ascent takes shorter ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """L at some prices.

    Attributes:
        bound: L.
        prices: the prices, with the signs that their rows demand; 0 for load rows.
        replicas: the k of each option that attains L.
        gain: what each option lowers L by (h at its best k), at most 0 where no replicas are forced.
        least_use: how much L rises when an option that L leaves unused is used; 0 for the others.
        slope: per row, how L rises with its price.
    """

    bound: float
    prices: Floats
    replicas: Floats
    gain: Floats
    least_use: Floats
    slope: Floats


class Knapsacks:
    """A pool's program, made ready for many evaluations of L.

    Args:
        matrix: the pool's program.
        x: the column of each arc.
        n: the column of each option's replicas.
        option: the option of each arc, as an index of ``n``.
        load: the row of each option's load: sum of load times share - capacity times n <= 0.
    """

    def __init__(self, matrix: Matrix, x: Ints, n: Ints, option: Ints, load: Ints) -> None:
        self.matrix, self.n = matrix, n
        self.is_load = np.zeros(len(matrix.row_lower), dtype=np.bool_)
        self.is_load[load] = True
        column, of_load = matrix.column, self.is_load[matrix.row]
        size = np.zeros(len(matrix.cost))
        size[column[of_load]] = matrix.value[of_load]
        self.row, self.column, self.value = matrix.row[~of_load], column[~of_load], matrix.value[~of_load]
        self.x, self.option = x, option
        self.size, self.capacity = size[x], -size[n]
        self.other = np.ones(len(matrix.cost), dtype=np.bool_)
        self.other[x] = self.other[n] = False
        self.other_at = np.flatnonzero(self.other)

    @property
    def usable(self) -> bool:
        """Whether L is finite at all prices: no column without an upper limit, and every option has a load row."""
        m = self.matrix
        alone = np.bincount(m.row[self.is_load[m.row]], minlength=1).sum() == len(self.x) + len(self.n)
        finite = np.isfinite(m.lower).all() and np.isfinite(m.upper).all()
        return bool(alone and finite and (self.capacity > 0).all() and (self.size > 0).all())

    def signed(self, prices: Floats) -> Floats:
        """Prices with those set to 0 whose row has no limit on that side, and those of load rows."""
        return np.where(self.is_load, 0.0, self.matrix.usable(prices))

    def at(self, prices: Floats) -> Levels:
        """L at some prices."""
        m, y = self.matrix, self.signed(prices)
        columns, rows, count = len(m.cost), len(m.row_lower), len(self.n)
        reduced = self._reduced(y)
        limit = m.limits(y)
        point = np.zeros(columns)
        other = self.other_at
        point[other] = np.where(reduced[other] < 0, m.upper[other], m.lower[other])
        fills = self._fills(reduced)
        some, option, begin, cost = fills.arcs, fills.option, fills.begin, fills.cost
        pays = fills.gain[:-1] * self.capacity[option] > fills.size[:-1] * fills.unit[option]
        worth = np.bincount(option[pays], minlength=count)
        whole = np.floor((fills.filled[begin + worth] - fills.filled[begin]) / self.capacity + 1e-12)
        lower, upper = m.lower[self.n], m.upper[self.n]
        few = np.minimum(np.maximum(whole, lower), upper)
        many = np.minimum(np.maximum(whole + 1, lower), upper)
        (h_few, at_few, share_few), (h_many, at_many, share_many) = cost(few), cost(many)
        more = h_many < h_few
        k, h = np.where(more, many, few), np.where(more, h_many, h_few)
        used, _, _ = cost(np.minimum(np.maximum(whole, np.maximum(lower, 1.0)), upper))
        used = np.minimum(used, np.where(many >= 1, h_many, np.inf))
        point[self.n] = k
        if len(some):
            at, share = np.where(more, at_many, at_few)[option], np.where(more, share_many, share_few)[option]
            index = np.arange(len(some))
            point[self.x[some]] = np.where(index < at, 1.0, np.where(index == at, share, 0.0))
        activity = summed(self.row, self.value * point[self.column], rows)
        inside = np.minimum(np.maximum(activity, m.row_lower), m.row_upper)
        slope = np.where(y > 0, m.row_lower, np.where(y < 0, m.row_upper, inside)) - activity
        return Levels(
            bound=float(y @ limit + point[other] @ reduced[other] + h.sum()),
            prices=y,
            replicas=k,
            gain=h,
            least_use=np.where((k < 0.5) & (upper >= 1), np.maximum(used - h, 0.0), np.where(k < 0.5, np.inf, 0.0)),
            slope=np.where(self.is_load, 0.0, slope),
        )

    def limits(self, levels: Levels, room: float) -> tuple[Floats, Floats]:
        """Per option the least and the most replicas of any plan that costs less than L and so much on top.

        h is convex: on either side of its best k it only rises, so that halving finds where it has risen by ``room``.
        """
        m, best = self.matrix, levels.replicas
        lower, upper = m.lower[self.n], m.upper[self.n]
        cost = self._fills(self._reduced(levels.prices)).cost
        least, _, _ = cost(best)
        room = room * (1 + 1e-6) + 1e-9
        ends = []
        for away, far in ((-1.0, lower), (1.0, upper)):
            near, beyond = best.copy(), far + away
            while (np.abs(beyond - near) > 1).any():
                middle = np.rint(0.5 * (near + beyond))
                inside = cost(np.clip(middle, lower, upper))[0] - least < room
                near, beyond = np.where(inside, middle, near), np.where(inside, beyond, middle)
            ends.append(np.clip(near, lower, upper))
        return ends[0], ends[1]

    def floor(self, prices: Floats, least: Floats, width: int) -> Floor:
        """L as a function of the replicas: per option h of ``least`` and the whole numbers above it."""
        m, y = self.matrix, self.signed(prices)
        reduced = self._reduced(y)
        limit = m.limits(y)
        other = self.other_at
        at = np.where(reduced[other] < 0, m.upper[other], m.lower[other])
        fills = self._fills(reduced)
        table = fills.cost(least + np.arange(width)[:, None])[0].T
        return Floor(float(y @ limit + at @ reduced[other]), least, table)

    def _reduced(self, prices: Floats) -> Floats:
        return self.matrix.cost - summed(self.column, self.value * prices[self.row], len(self.matrix.cost))

    def _fills(self, reduced: Floats) -> _Fills:
        r = reduced[self.x]
        some = np.flatnonzero(r < 0)
        ratio = r[some] / self.size[some]
        # One key for option and ratio: sorting it takes a third of the time that sorting by two keys does.
        some = some[np.argsort(self.option[some] - 0.5 * ratio / ratio.min(initial=-1e-300))]
        option, size, gain = self.option[some], self.size[some], -r[some]
        first = option.searchsorted(np.arange(len(self.n) + 1))
        return _Fills(
            arcs=some,
            option=option,
            size=np.concatenate((size, _ONE)),
            gain=np.concatenate((gain, _ZERO)),
            filled=np.concatenate((_ZERO, size.cumsum())),
            gained=np.concatenate((_ZERO, gain.cumsum())),
            begin=first[:-1],
            end=first[1:],
            unit=reduced[self.n],
            capacity=self.capacity,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Fills:
    """The arcs that gain anything at some prices, by option and then by gain per load: the order they fill replicas.

    Attributes:
        arcs: the arcs, as indices of ``Knapsacks.x``.
        option: of each arc, its option.
        size, gain: of each arc, its load and gain, and one more entry for 'none'.
        filled, gained: load and gain of the arcs before each.
        begin, end: the places of each option's arcs.
        unit: the reduced cost of a replica of each option.
        capacity: what a replica of each option carries.
    """

    arcs: Ints
    option: Ints
    size: Floats
    gain: Floats
    filled: Floats
    gained: Floats
    begin: Ints
    end: Ints
    unit: Floats
    capacity: Floats

    def cost(self, k: Floats) -> tuple[Floats, Ints, Floats]:
        """h(k), how far the arcs are taken whole, and the share of the next one; ``k`` may have rows of its own."""
        begin, end, filled = self.begin, self.end, self.filled
        until = filled[begin] + self.capacity * k
        at = np.minimum(np.maximum(filled.searchsorted(until, side="right") - 1, begin), end)
        share = np.minimum(np.maximum((until - filled[at]) / self.size[at], 0.0), 1.0)
        share = np.where(at < end, share, 0.0)
        return self.unit * k - (self.gained[at] - self.gained[begin] + share * self.gain[at]), at, share


def scales(matrix: Matrix, serve: Ints, prices: Floats) -> Floats:
    """The size of a step per row: the price of serving a cell for its own row, the mean of its cells for another."""
    own = np.zeros(len(matrix.row_lower), dtype=np.bool_)
    own[serve] = True
    size = np.where(own, np.abs(prices), 0.0)
    typical = float(np.median(size[own])) if own.any() else 1.0
    size = np.where(own, np.maximum(size, 1e-3 * max(typical, 1e-9)), 0.0)
    column = matrix.column
    of_column = np.zeros(len(matrix.cost))
    mine = own[matrix.row]
    of_column[column[mine]] = size[matrix.row[mine]]
    seen = of_column[column]
    count = summed(matrix.row, seen > 0, len(size))
    mean = summed(matrix.row, seen, len(size)) / np.maximum(count, 1.0)
    return np.where(own, size, np.where(count > 0, mean, max(typical, 1e-9)))


def ascend(
    knapsacks: Knapsacks,
    start: Floats,
    scale: Floats,
    *,
    steps: int,
    target: float,
    go_on: Callable[[], bool],
) -> tuple[Levels, Floats]:
    """Raise L by steps along a running mean of its slopes, towards a cost that it may reach.

    Args:
        knapsacks: the pool.
        start: prices to begin from.
        scale: the size of a step per row.
        steps: the most steps.
        target: what L is hoped to reach; only the length of the steps depends on it.
        go_on: asked before each step.

    Returns:
        The best L, and the running mean of the replicas: near those of a linear optimum.
    """
    best = knapsacks.at(start)
    mean, slope, length, stalled = best.replicas.copy(), best.slope, 0.5, 0
    for _ in range(steps):
        size = float(((slope * scale) ** 2).sum())
        if length < 1e-4 or size <= 1e-18 or not go_on():
            break
        rise = length * max(target - best.bound, 1e-3 * abs(best.bound)) / size
        now = knapsacks.at(best.prices + rise * scale**2 * slope)
        agree = float((now.slope * scale) @ (slope * scale)) > 0
        slope = _MEMORY * now.slope + (1 - _MEMORY) * slope
        mean = _MEMORY * now.replicas + (1 - _MEMORY) * mean
        if now.bound > best.bound:
            best, stalled = now, 0
            length = min(1.3 * length, 2.0) if agree else length
        else:
            stalled += 1
            if stalled >= _PATIENCE:
                length, stalled = 0.66 * length, 0
    return best, mean


def covering(cell: Ints, option: Ints, order: Ints) -> Bools:
    """Options, in the order given, each of which reaches a cell that those before it do not; all cells are reached.

    Args:
        cell: the cell of each arc (any numbering).
        option: the option of each arc.
        order: the options, the most wanted first.
    """
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    best = np.full(int(cell.max(initial=-1)) + 1, len(order))
    np.minimum.at(best, cell, rank[option])
    taken = np.zeros(len(order), dtype=np.bool_)
    taken[order[np.unique(best[best < len(order)])]] = True
    return taken
