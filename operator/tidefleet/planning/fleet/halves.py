"""The plans of a fleet in two halves, where the prices of the shared limits cannot close the gap between them.

The cheapest mixture of plans takes half of one plan of a pool and half of another: no price of a scarce type tells that
two such halves are no plan. Every plan takes either at most m chips of the type in that pool, or at least m + 1; within
each half the best prices are others, and the cheapest mixture is dearer. No plan of the fleet costs less than the lower
of the two halves' bounds. Halves are halved again while that bound is too low (branch and price; C. Barnhart et al.,
"Branch-and-price: column generation for solving huge integer programs", Operations Research 46, 1998).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidefleet.planning.fleet.largepool import OwnLimits
from tidefleet.planning.fleet.matrix import Bools, Floats, Matrix
from tidefleet.planning.fleet.proposals import Proposals

MOST = 40
"""Ways to halve whose mixtures are looked at."""


@dataclass(frozen=True, slots=True)
class Half:
    """What a pool takes of a shared row: ``sign`` times that is at most ``limit``."""

    owner: int
    row: int
    sign: float
    limit: float

    def own(self, matrix: Matrix, own: OwnLimits) -> OwnLimits:
        """The limits of the pool with this one.

        Args:
            matrix: the fleet's program.
            own: the pool's limits so far.
        """
        mine, column = matrix.owner == self.owner, matrix.column
        entry = np.flatnonzero((matrix.row == self.row) & mine[column])
        return OwnLimits(
            np.concatenate((own.row, np.full(len(entry), len(own.upper)))),
            np.concatenate((own.column, (np.cumsum(mine) - 1)[column[entry]])),
            np.concatenate((own.value, self.sign * matrix.value[entry])),
            np.append(own.upper, self.limit),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """The plans within some halves; none of them costs less than ``bound``."""

    bound: float
    halves: tuple[Half, ...] = ()

    def without(self, proposals: Proposals) -> Bools:
        """Which proposals are not part of it."""
        owners, uses = proposals.table
        out = np.zeros(len(owners), dtype=np.bool_)
        for one in self.halves:
            use = uses[:, np.searchsorted(proposals.rows, one.row)]
            out |= (owners == one.owner) & (one.sign * use > one.limit + 1e-6)
        return out


def halved(
    part: Part, proposals: Proposals, most: Floats, *, enough: float, seconds: Callable[[], float]
) -> tuple[Part, Part] | None:
    """Two halves of a part, those whose cheaper mixture is dearest; ``None`` where its mixture is no mixture.

    Args:
        part: the plans to halve.
        proposals: plans of the pools.
        most: per row of the fleet's program, the most that its price may be.
        enough: a cost beyond which a dearer mixture is no better.
        seconds: time left.
    """
    without = part.without(proposals)
    mixture = proposals.mixture(most, seconds(), without=without, ease=0.0)
    if mixture is None:
        return None
    owners, uses = proposals.table
    best: tuple[Part, Part] | None = None
    dearest, seen = -np.inf, set[tuple[int, bytes]]()
    for owner in sorted({one for one, _ in mixture.plans}):
        mine = np.flatnonzero((owners == owner) & (mixture.weights > 1e-6))
        for k, row in enumerate(proposals.rows):
            use = uses[mine, k]
            every = uses[owners == owner, k]
            if use.max() - use.min() < 0.5 or not proposals.whole[k]:
                continue
            middle = min(float(np.floor(mixture.weights[mine] @ use + 1e-9)), float(use.max()) - 1.0)
            key = (owner, (every > middle).tobytes())
            if key in seen or len(seen) >= MOST or seconds() <= 0:
                continue
            seen.add(key)
            sides = Half(owner, int(row), 1.0, middle), Half(owner, int(row), -1.0, -middle - 1.0)
            parts = tuple(Part(part.bound, (*part.halves, one)) for one in sides)
            costs = [proposals.mixture(most, seconds(), without=one.without(proposals), ease=0.0) for one in parts]
            least = min(np.inf if one is None else one.cost for one in costs)
            if min(least, enough) > dearest:
                best, dearest = (parts[0], parts[1]), min(least, enough)
    return best
