"""How many requests come in a time, from many users who are alike and independent: moments, and quantiles from them.

A user u of an app makes uses at random (Poisson) at a rate L_u D a: L_u is the user's own, uses on a full day, spread
over users; D is how busy the day is, the same for everybody, of mean 1; a is the time's part of a full day. A use makes
a random number C of requests. Each of N users has adopted the app with probability A, which is itself uncertain, and
then the same for everybody. With l, c, A^n, D^n raw moments, the cumulants of one user's requests of all features are

    k1 = D alpha                   alpha = sum a l1 c1
    k2 = D b1 + D^2 b2             b1 = sum a l1 c2              b2 = sum a^2 Var(L) c1^2
    k3 = D g1 + D^2 g2 + D^3 g3    g1 = sum a l1 c3              g2 = sum 3 a^2 Var(L) c1 c2
                                   g3 = sum a^3 K3(L) c1^3

(compound Poisson, and the law of total cumulance). Users who have not adopted make none, users add up, and A and D are
taken out by total cumulance once more. What chance does averages out over many users; what is uncertain about A and D
does not.

Quantiles are those of the shifted lognormal law with the same first three cumulants: exact for one lognormal factor,
and near the normal law where many independent users make the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tidefleet.economics.lognormal import LengthLaw

Floats = NDArray[np.float64]
_NORMAL = NormalDist()
_NOTHING = 1e-60
"""A deviation below which a count is what its mean is; the cube of a smaller one is no number."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Cumulants of a random number: mean, variance, third central moment."""

    mean: float
    variance: float = 0.0
    third: float = 0.0

    @property
    def raw(self) -> tuple[float, float, float]:
        """E[X], E[X^2], E[X^3]."""
        mean, variance, third = self.mean, self.variance, self.third
        return mean, variance + mean * mean, third + 3.0 * mean * variance + mean**3

    def __add__(self, other: Moments) -> Moments:
        """Of the sum of two independent numbers."""
        return Moments(self.mean + other.mean, self.variance + other.variance, self.third + other.third)

    def each(self, one: Moments) -> Moments:
        """Of the sum of so many independent numbers that are like ``one``."""
        return Moments(
            self.mean * one.mean,
            self.mean * one.variance + self.variance * one.mean**2,
            self.mean * one.third + 3.0 * self.variance * one.mean * one.variance + self.third * one.mean**3,
        )


def of_law(law: LengthLaw, *, share: float = 1.0, times: float = 1.0) -> Moments:
    """Of ``times`` a number of this law, which is 0 except with probability ``share``."""
    first, second, third = (
        share * moment * times**order
        for order, moment in enumerate((law.mean, law.second_moment, law.third_moment), start=1)
    )
    if law.sigma == 0.0 and share == 1.0:
        return Moments(first)
    variance = max(0.0, second - first * first)
    return Moments(first, variance, third - 3.0 * first * second + 2.0 * first**3)


def of_count(law: LengthLaw) -> Moments:
    """Of a whole number with this mean: as even as whole numbers can be where the law has no spread, else the law's."""
    if law.sigma > 0.0:
        return of_law(law)
    part = law.mean - math.floor(law.mean)
    return Moments(law.mean, part * (1.0 - part), part * (1.0 - part) * (1.0 - 2.0 * part))


@dataclass(frozen=True, slots=True)
class Source:
    """Requests of one feature: ``uses`` of one user on a full day, and ``requests`` of one use."""

    uses: Moments
    requests: Moments


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Cumulants of how many requests come in each of some times; arrays of the same shape."""

    mean: Floats
    variance: Floats
    third: Floats

    def __add__(self, other: Counts) -> Counts:
        """Of independent requests that come beside them."""
        return Counts(self.mean + other.mean, self.variance + other.variance, self.third + other.third)

    def quantile(self, share: float) -> Floats:
        """The count that is not passed with this probability, at least 0; ``share`` in (0, 1).

        With skewness g and y = ((g + sqrt(g^2 + 4)) / 2)^(1/3): sqrt(w - 1) = y - 1/y for w = exp(s^2), from
        g = (w + 2) sqrt(w - 1); a count of negative skewness is mirrored.
        """
        deviation = np.sqrt(np.maximum(self.variance, 0.0))
        spread = deviation > _NOTHING
        skew = np.where(spread, self.third / np.where(spread, deviation, 1.0) ** 3, 0.0)
        sign = np.where(skew < 0.0, -1.0, 1.0)
        z = sign * _NORMAL.inv_cdf(share)
        y = np.cbrt((np.abs(skew) + np.sqrt(skew * skew + 4.0)) / 2.0)
        root = y - 1.0 / y
        small = root < 1e-5
        root = np.where(small, 1.0, root)
        sigma = np.sqrt(np.log1p(root * root))
        # (exp(s z - s^2/2) - 1) / sqrt(w - 1): mean 0, deviation 1
        skewed = np.expm1(sigma * z - 0.5 * sigma * sigma) / root
        standard = np.where(small, z, skewed)
        return np.asarray(np.maximum(0.0, self.mean + sign * deviation * standard))


@dataclass(frozen=True, slots=True)
class Common:
    """What is the same for all users of a time and yet uncertain: raw moments E[X], E[X^2], E[X^3], and cumulants."""

    raw: tuple[float, float, float]
    variance: float
    third: float


def common(adoption: Moments, day: Moments) -> Common:
    """The product of adoption and how busy the day is, which are independent."""
    pairs = zip(adoption.raw, day.raw, strict=True)
    first, second, third = (one * other for one, other in pairs)
    if adoption.variance == day.variance == 0.0:
        return Common((first, second, third), 0.0, 0.0)
    return Common((first, second, third), second - first * first, third - 3.0 * first * second + 2.0 * first**3)


def counted(users: float, adoption: Moments, day: Moments, parts: Floats, sources: Sequence[Source]) -> Counts:
    """How many requests so many users make in each time, together.

    Args:
        users: N.
        adoption: the share of them who take part, the same for all and uncertain; within 0..1.
        day: how busy a day is over the mean day; of mean 1.
        parts: a, each time's part of a full day's uses.
        sources: what a user who takes part makes of each feature, independently.
    """
    alpha, b1, b2, g1, g2, g3 = (np.zeros_like(parts) for _ in range(6))
    for one in sources:
        c1, c2, c3 = one.requests.raw
        often, spread, third = one.uses.mean, one.uses.variance, one.uses.third
        alpha += parts * often * c1
        b1 += parts * often * c2
        b2 += parts**2 * spread * c1**2
        g1 += parts * often * c3
        g2 += 3.0 * parts**2 * spread * c1 * c2
        g3 += parts**3 * third * c1**3
    a1, a2, a3 = adoption.raw
    _, d2, d3 = day.raw
    both = common(adoption, day)
    # Of one user who takes part: E[m2], E[m3], and products that A and D tie together.
    m2 = b1 + (b2 + alpha**2) * d2
    m3 = g1 + (g2 + 3.0 * alpha * b1) * d2 + (g3 + 3.0 * alpha * b2 + alpha**3) * d3
    m1m2 = alpha * (b1 * d2 + (b2 + alpha**2) * d3)
    within2 = a1 * m2 - a2 * alpha**2 * d2
    within3 = a1 * m3 - 3.0 * a2 * m1m2 + 2.0 * a3 * alpha**3 * d3
    tied = a2 * m1m2 - a3 * alpha**3 * d3 - a1 * alpha * within2 if both.variance > 0.0 else np.zeros_like(parts)
    return Counts(
        mean=users * a1 * alpha,
        variance=users * within2 + users**2 * alpha**2 * both.variance,
        third=users * within3 + 3.0 * users**2 * tied + users**3 * alpha**3 * both.third,
    )
