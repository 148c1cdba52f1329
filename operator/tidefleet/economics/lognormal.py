"""How long requests are: a lognormal law from a mean and a 95th percentile, cut off where the engine cuts it.

Token lengths of production services are close to lognormal in their body (ServeGen, Azure LLM inference traces). Means
alone misprice what grows faster than the length or is capped, and say nothing of the dearest requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

_NORMAL = NormalDist()
Z95 = _NORMAL.inv_cdf(0.95)
"""Standard normal quantile at 95 %, 1.6449."""

HIGHEST_P95_TO_MEAN = math.exp(Z95 * Z95 / 2.0)
"""No lognormal has a 95th percentile above 3.87 times its mean: exp(z s - s^2/2) is largest at s = z."""

LARGEST = 1e15
"""Of any length; beyond it products of lengths and rates lose their meaning."""


def checked(name: str, value: float, *, least: float = 0.0, most: float = LARGEST, example: str = "300") -> float:
    """The value, when it is a number of that range.

    Raises:
        ValueError: it is not; the message names the field, what came, what was expected and an example.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        shown = str(value)[:40]
        raise ValueError(f"{name} is {shown}; expected a number from {least:g} to {most:g}, e.g. {example}")
    return float(value)


def _phi(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


@dataclass(frozen=True, slots=True)
class LengthLaw:
    """min(X, cap), where ln X is normal with mean ``mu`` and deviation ``sigma``. Make one with ``law``.

    Attributes:
        mu: mean of ln X; ``-inf`` for a length that is always 0.
        sigma: deviation of ln X; 0 for a fixed length.
        cap: longest length, in tokens; ``inf`` for none.
        note: how the law departs from what was stated; empty when it does not.
    """

    mu: float
    sigma: float
    cap: float = math.inf
    note: str = ""

    @property
    def mean(self) -> float:
        """E[min(X, c)] = exp(mu + s^2/2) Phi((ln c - mu)/s - s) + c Phi((mu - ln c)/s)."""
        return self._moment(1)

    @property
    def second_moment(self) -> float:
        """E[min(X, c)^2], for variances."""
        return self._moment(2)

    @property
    def third_moment(self) -> float:
        """E[min(X, c)^3], for the skewness of sums."""
        return self._moment(3)

    @property
    def variance(self) -> float:
        """Variance of the length, in tokens squared."""
        return max(0.0, self.second_moment - self.mean**2)

    @property
    def at_cap(self) -> float:
        """Share of requests that are cut off at the cap."""
        return 1.0 - self.share_below(self.cap)

    def _moment(self, order: int) -> float:
        if self.mu == -math.inf:
            return 0.0
        if self.sigma == 0.0 or self.cap == 0.0:
            return min(math.exp(self.mu), self.cap) ** order
        whole = math.exp(order * self.mu + (order * self.sigma) ** 2 / 2.0)
        if self.cap == math.inf:
            return whole
        edge = (math.log(self.cap) - self.mu) / self.sigma
        return whole * _phi(edge - order * self.sigma) + self.cap**order * _phi(-edge)

    def share_below(self, length: float) -> float:
        """Share of requests strictly shorter than this."""
        if length <= 0.0:
            return 0.0
        if self.mu == -math.inf or length > self.cap or length == math.inf:
            return 1.0
        if self.sigma == 0.0:
            return 1.0 if math.exp(self.mu) < length else 0.0
        return _phi((math.log(length) - self.mu) / self.sigma)

    def mean_between(self, low: float, high: float) -> float:
        """Mean length of the requests between two quantiles, 0 <= low < high <= 1: what a bucket of them costs."""
        if self.mu == -math.inf or self.sigma == 0.0:
            return self.mean
        return (self._below(high) - self._below(low)) / (high - low)

    def _below(self, share: float) -> float:
        """E[length; length among the shortest ``share``]: the partial expectation."""
        if share <= 0.0:
            return 0.0
        edge = math.inf if self.cap == math.inf else (math.log(self.cap) - self.mu) / self.sigma
        z = _NORMAL.inv_cdf(share) if share < 1.0 else math.inf
        body = math.exp(self.mu + self.sigma**2 / 2.0) * _phi(min(z, edge) - self.sigma)
        return body + (self.cap * (share - _phi(edge)) if z > edge else 0.0)

    def quantile(self, share: float) -> float:
        """The length that this share of requests stays at or below; ``share`` in (0, 1).

        Raises:
            ValueError: share is not in (0, 1).
        """
        if not 0.0 < share < 1.0:
            raise ValueError(f"share is {share}; expected a share between 0 and 1, e.g. 0.95")
        if self.mu == -math.inf:
            return 0.0
        return min(self.cap, math.exp(self.mu + self.sigma * _NORMAL.inv_cdf(share)))

    def capped(self, cap: float) -> LengthLaw:
        """The same demand under a tighter cap: what is longer is cut off, so the mean falls."""
        return replace(self, cap=min(self.cap, checked("cap", cap, most=math.inf, example="16000")))

    def scaled(self, factor: float) -> LengthLaw:
        """Every length times ``factor``, above 0; the cap too."""
        factor = checked("factor", factor, example="0.5")
        if factor == 0.0:
            return ZERO
        return replace(self, mu=self.mu + math.log(factor), cap=self.cap * factor)


ZERO = LengthLaw(-math.inf, 0.0)
"""A length that is always 0."""


def law(mean: float, p95: float = 0.0, cap: float = math.inf) -> LengthLaw:
    """The law with this mean and this 95th percentile.

    s = z - sqrt(z^2 - 2 ln(p95/mean)), mu = ln mean - s^2/2, the smaller of the two roots. With a cap, ``mean`` and
    ``p95`` are those of the capped lengths, which is what engines report; mu and s are then found by bisection.

    Args:
        mean: mean length in tokens.
        p95: 95th percentile in tokens; 0: unknown, and every request then has the mean length.
        cap: longest length in tokens.

    Returns:
        A law whose mean is ``mean``. Where no lognormal has both, the mean holds, the spread is the nearest that one
        has, and ``note`` says so.

    Raises:
        ValueError: a number is negative, not finite or absurdly large, or the mean is above the cap.
    """
    mean = checked("mean", mean, example="1800")
    p95 = checked("p95", p95, example="6000")
    cap = checked("cap", cap, most=math.inf, example="16000")
    if mean == 0.0:
        return replace(ZERO, cap=cap)
    if mean > cap:
        raise ValueError(f"mean is {mean:g}; expected at most the cap of {cap:g}, e.g. {cap / 4:g}")
    if p95 <= mean:
        low = "" if p95 in (0.0, mean) else f"p95 of {p95:g} is below the mean of {mean:g}; taken as a fixed length"
        return LengthLaw(math.log(mean), 0.0, cap, low)
    if cap == math.inf:
        room = Z95 * Z95 - 2.0 * math.log(p95 / mean)
        if room < 0.0:
            return LengthLaw(
                math.log(mean) - Z95 * Z95 / 2.0, Z95, cap, _too_wide(mean, p95, mean * HIGHEST_P95_TO_MEAN)
            )
        sigma = Z95 - math.sqrt(room)
        return LengthLaw(math.log(mean) - sigma * sigma / 2.0, sigma, cap)
    return _capped_law(mean, min(p95, cap), cap)


def _too_wide(mean: float, p95: float, reached: float) -> str:
    return f"no lognormal of mean {mean:g} has a p95 of {p95:g}; the widest, with {reached:.4g}, is taken"


def _capped_law(mean: float, p95: float, cap: float) -> LengthLaw:
    """The law of min(X, cap) with this mean and p95; along mu = ln p95 - z s the mean first falls with s."""

    def at(sigma: float) -> LengthLaw:
        return LengthLaw(math.log(p95) - Z95 * sigma, sigma, cap)

    lowest = min(range(1, 401), key=lambda step: at(step / 100.0).mean) / 100.0
    if at(lowest).mean > mean:
        tries = [_with_mean(mean, step / 10.0, cap) for step in range(5, 41)]
        widest = max(tries, key=lambda one: one.quantile(0.95))
        return replace(widest, note=_too_wide(mean, p95, widest.quantile(0.95)))
    low, high = 0.0, lowest
    for _ in range(80):
        middle = (low + high) / 2.0
        low, high = (middle, high) if at(middle).mean > mean else (low, middle)
    return at(high)


def _with_mean(mean: float, sigma: float, cap: float) -> LengthLaw:
    """The law of this spread and cap whose capped mean is ``mean``."""
    low, high = math.log(mean) - sigma * sigma, math.log(mean) + 40.0
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if LengthLaw(middle, sigma, cap).mean < mean else (low, middle)
    return LengthLaw(high, sigma, cap)
