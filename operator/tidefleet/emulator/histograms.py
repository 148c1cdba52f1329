"""Histograms filled by mass: a fluid of requests adds its distribution, a real stream adds one observation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Bucket bounds of vLLM's v1 engine (vllm/v1/metrics/loggers.py).
TTFT_BOUNDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
TOKEN_LATENCY_BOUNDS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_BOUNDS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip

SPREAD = 0.2
"""Inter-token latencies of a fluid lie within this share of their mean."""


def length_bounds(longest: int) -> tuple[float, ...]:
    """1, 2, 5, 10, ... up to the longest context, as vLLM builds its buckets of token counts."""
    bounds: list[float] = []
    power = 1
    while True:
        for mantissa in (1, 2, 5):
            if mantissa * power > max(1, longest):
                return tuple(bounds)
            bounds.append(float(mantissa * power))
        power *= 10


class Histogram:
    """Cumulative counts per bucket bound, with count and sum. Counts are real numbers; pages show their floor."""

    __slots__ = ("bounds", "count", "cumulative", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds: Floats = np.asarray(bounds, dtype=float)
        self.cumulative: Floats = np.zeros(len(bounds))
        self.count = 0.0
        self.total = 0.0

    def add(self, mass: float, distribution: Floats, total: float) -> None:
        """Add ``mass`` observations with this cumulative distribution at the bounds, summing to ``total``."""
        self.cumulative += mass * distribution
        self.count += mass
        self.total += total

    def observe(self, value: float, times: int = 1) -> None:
        """Add observations of one value."""
        self.cumulative[int(np.searchsorted(self.bounds, value)) :] += times
        self.count += times
        self.total += value * times


@dataclass(frozen=True, slots=True)
class Latencies:
    """What requests of a fluid experience at one moment, in seconds.

    Attributes:
        base: prefill and one decode step: the TTFT of a request that waits for nothing.
        prefill: T_p; prefill_load: rho, the load on the queue of prefills.
        wait_low, wait_high: time in the engine's waiting queue, from the start to the end of the moment.
        tpot: mean time per output token.
    """

    base: float
    prefill: float
    prefill_load: float
    wait_low: float
    wait_high: float
    tpot: float

    @property
    def wait(self) -> float:
        """Mean time in the waiting queue."""
        return 0.5 * (self.wait_low + self.wait_high)

    @property
    def ttft(self) -> float:
        """Mean time to first token: wait, delay behind other prefills, own prefill, one step."""
        return self.base + self.wait + self.prefill_load * self.prefill / (1.0 - self.prefill_load)

    def delay(self, quantile: float) -> float:
        """Delay behind other prefills at a quantile of the M/M/1 wait: P(delay > t) = rho e^(-(1-rho) t / T_p)."""
        beyond = max(1e-12, 1.0 - quantile)
        if beyond >= self.prefill_load:
            return 0.0
        return math.log(self.prefill_load / beyond) * self.prefill / (1.0 - self.prefill_load)

    def ttft_distribution(self, bounds: Floats) -> Floats:
        """P(TTFT <= bound) for each bound."""
        waits = np.linspace(self.wait_low, self.wait_high, 4 if self.wait_high > self.wait_low else 1)
        beyond = bounds[None, :] - self.base - waits[:, None]
        decay = (1.0 - self.prefill_load) / self.prefill
        tail = self.prefill_load * np.exp(-decay * np.maximum(0.0, beyond))
        return np.asarray(np.where(beyond >= 0.0, 1.0 - tail, 0.0).mean(axis=0))


def uniform(bounds: Floats, low: float, high: float) -> Floats:
    """P(x <= bound) of a uniform distribution; all at ``low`` when it has no width."""
    if high <= low:
        return (bounds >= low).astype(float)
    return np.clip((bounds - low) / (high - low), 0.0, 1.0)


def exponential(bounds: Floats, mean: float, shift: float = 0.0) -> Floats:
    """P(x <= bound) of a shifted exponential distribution with this mean beyond the shift."""
    beyond = np.maximum(0.0, bounds - shift)
    if mean <= 0.0:
        return (bounds >= shift).astype(float)
    return -np.expm1(-beyond / mean)
