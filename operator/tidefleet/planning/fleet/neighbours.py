"""The neighbours of a whole number of replicas per option, and which of them can still be cheaper.

A neighbour has up to two replicas less and up to two more. Any prices of the flows' rows give a floor of the cost of
all of them at once, as a sum over options (``lagrange``): so each program of flows that is solved for one neighbour,
to the end or not, also says of thousands of others that they cannot help. The few that no floor rules out are tried,
the most promising first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidefleet.planning.fleet.matrix import Floats, Ints

MOST = 300_000
"""Neighbours above which two replicas more are only looked at together where one is less, or not at all."""


@dataclass(frozen=True, slots=True, eq=False)
class Floor:
    """No point with k replicas costs less than ``base`` + sum over options of ``table[option, k - first[option]]``."""

    base: float
    first: Floats
    table: Floats


class Neighbours:
    """The neighbours of some replicas and the highest floor of each.

    Args:
        at: replicas per option.
        lower, upper: the least and the most of each, within the tables of all floors.
    """

    def __init__(self, at: Floats, lower: Floats, upper: Floats) -> None:
        self.at = at
        self.less = _changes(at - lower, -1.0)
        self.more = _changes(upper - at, 1.0)
        if self.less.count * self.more.count > MOST:
            self.more = _changes(np.minimum(upper - at, 1.0), 1.0, pairs=False)
        if self.less.count * self.more.count > MOST:
            self.less = _changes(np.minimum(at - lower, 1.0), -1.0, pairs=False)
        self.floor = np.full((self.less.count, self.more.count), -np.inf)
        self.floor[0, 0] = np.inf
        one, other = self.less.option, self.more.option
        for i in range(one.shape[1]):
            for j in range(other.shape[1]):
                void = (one[:, i, None] == other[None, :, j]) & (one[:, i, None] >= 0)
                self.floor[void] = np.inf

    def take(self, floor: Floor) -> None:
        """Raise every neighbour's floor to this one."""
        index, every = np.rint(self.at - floor.first).astype(np.int64), np.arange(len(self.at))
        last = floor.table.shape[1] - 1
        here = floor.table[every, index]
        steps = np.stack([floor.table[every, np.clip(index + k, 0, last)] - here for k in (-2, -1, 1, 2)])
        less = self.less.changed(steps[1], steps[0])
        more = self.more.changed(steps[2], steps[3])
        np.maximum(self.floor, (floor.base + here.sum() + less)[:, None] + more[None, :], out=self.floor)

    def best(self) -> tuple[float, int]:
        """The lowest floor, and whose it is."""
        which = int(np.argmin(self.floor))
        return float(self.floor.flat[which]), which

    def replicas(self, which: int) -> Floats:
        """A neighbour's replicas."""
        result = self.at.copy()
        for changes, i in zip((self.less, self.more), divmod(which, self.more.count), strict=True):
            some = changes.option[i]
            np.add.at(result, some[some >= 0], changes.sign)
        return result

    def tried(self, which: int, cost: float) -> None:
        """Note that a neighbour costs no less than this."""
        self.floor.flat[which] = max(float(self.floor.flat[which]), cost)


@dataclass(frozen=True, slots=True, eq=False)
class _Changes:
    """Up to two replicas of one sign: the options of each change, -1 where there is none."""

    option: Ints
    sign: float

    @property
    def count(self) -> int:
        return len(self.option)

    def changed(self, one: Floats, two: Floats) -> Floats:
        """What each change adds, given what one replica of an option adds and what two of it do."""
        a, b = self.option[:, 0], self.option[:, 1]
        single, double = np.append(one, 0.0), np.append(two, 0.0)
        return np.where(a == b, double[a], single[a] + single[b])


def _changes(room: Floats, sign: float, *, pairs: bool = True) -> _Changes:
    """No change, one replica of an option, and two of one or two options, where there is room."""
    some = np.flatnonzero(room > 0.5)
    options = [np.array([[-1, -1]]), np.stack((some, np.full(len(some), -1)), axis=1)]
    if pairs:
        a, b = np.triu_indices(len(some))
        two = np.stack((some[a], some[b]), axis=1)
        options.append(two[(a != b) | (room[two[:, 0]] > 1.5)])
    return _Changes(np.concatenate(options).astype(np.int64), sign)
