"""How a cost or a time is spread over requests: weighted values that are added, scaled and mixed without chance.

Deterministic quadrature: a law becomes buckets of known probability and exact mean; sums are convolutions that are
brought back to the same number of buckets, each keeping its mean. So means are exact, whatever the number of terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tidefleet.economics.lognormal import LengthLaw

Floats = NDArray[np.float64]

# Bucket edges as probabilities: even in the body, finer towards both ends, so that p99 and p99.9 are resolved.
_TAIL = 10.0 ** -np.arange(6.0, 2.0, -0.25)
EDGES: Floats = np.unique(np.concatenate([[0.0], _TAIL, np.linspace(0.01, 0.99, 99), 1.0 - _TAIL, [1.0]]))
_WEIGHTS: Floats = np.diff(EDGES)


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution: ``values`` in ascending order, with ``weights`` that sum to 1."""

    values: Floats
    weights: Floats

    @property
    def mean(self) -> float:
        """The mean."""
        return float(self.values @ self.weights)

    @property
    def variance(self) -> float:
        """The variance of the buckets' values, a little below that of the law they stand for."""
        return float(((self.values - self.mean) ** 2) @ self.weights)

    def quantile(self, share: float) -> float:
        """The value that this share stays at or below; ``share`` in (0, 1).

        Interpolated between buckets over -ln(1 - share), in which an exponential tail is a straight line.
        """
        if len(self.values) == 1:
            return float(self.values[0])
        above = np.cumsum(self.weights[::-1])[::-1] - self.weights / 2.0
        return float(np.interp(-np.log(1.0 - share), -np.log(above), self.values))

    def __add__(self, other: Spread) -> Spread:
        """The sum of two independent values."""
        if len(self.values) == 1 or len(other.values) == 1:
            fixed, free = (self, other) if len(self.values) == 1 else (other, self)
            return Spread(free.values + fixed.values[0], free.weights)
        values = np.add.outer(self.values, other.values).ravel()
        weights = np.multiply.outer(self.weights, other.weights).ravel()
        return _gathered(values, weights)

    def scaled(self, factor: float) -> Spread:
        """Every value times ``factor``, at least 0."""
        return Spread(self.values * factor, self.weights)


NOTHING = Spread(np.zeros(1), np.ones(1))
"""Always 0."""


def fixed(value: float) -> Spread:
    """Always the same value."""
    return Spread(np.array([float(value)]), np.ones(1))


def of_law(law: LengthLaw) -> Spread:
    """The lengths of a law, in buckets that keep its mean."""
    if law.sigma == 0.0:
        return fixed(law.mean)
    means = [law.mean_between(low, high) for low, high in pairwise(EDGES.tolist())]
    return Spread(np.maximum.accumulate(np.array(means)), _WEIGHTS)


def of_quantiles(quantile: Callable[[Floats], Floats]) -> Spread:
    """A distribution from its quantile function, taken at the middle of each bucket."""
    return Spread(np.asarray(quantile((EDGES[:-1] + EDGES[1:]) / 2.0), dtype=float), _WEIGHTS)


def mixed(parts: Sequence[tuple[float, Spread]]) -> Spread:
    """One of several, each with its share; shares sum to 1."""
    kept = [(share, part) for share, part in parts if share > 0.0]
    if len(kept) == 1:
        return kept[0][1]
    values = np.concatenate([part.values for _, part in kept])
    weights = np.concatenate([share * part.weights for share, part in kept])
    return _gathered(values, weights)


def repeated(one: Spread, times: float) -> Spread:
    """The sum of ``times`` independent values; a fraction is one more with that probability."""
    whole = int(times)
    total, power, left = NOTHING, one, whole
    while left:
        if left & 1:
            total = total + power
        left >>= 1
        if left:
            power = power + power
    rest = times - whole
    return mixed([(1.0 - rest, total), (rest, total + one)]) if rest > 0.0 else total


def _gathered(values: Floats, weights: Floats) -> Spread:
    """Many weighted values as one bucket for each step between ``EDGES``, with the mean of each kept."""
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    up_to = np.concatenate([[0.0], np.cumsum(weights)])
    sums = np.concatenate([[0.0], np.cumsum(values * weights)])
    edges = EDGES * up_to[-1]
    # A value whose weight lies across an edge is split there: the partial sums are linear between values.
    inside = np.diff(np.interp(edges, up_to, sums))
    width = np.diff(edges)
    return Spread(np.maximum.accumulate(inside / width), width / up_to[-1])
