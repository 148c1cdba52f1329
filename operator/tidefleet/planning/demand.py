"""What a pool is asked for: readings of demand, how far back they reach, and when they may lower capacity."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from tidefleet.economics.serving import TokenShape
from tidefleet.planning.options import ClassDemand


@dataclass(frozen=True, slots=True)
class Known:
    """Demand that was measured (or stated). Rates are per second; lengths are means per request, ``None`` = not seen.

    ``hit_share`` is the share of prompt tokens found in prefix caches.
    """

    at: float
    requests_per_second: float
    source: str
    input_tokens: float | None = None
    output_tokens: float | None = None
    hit_share: float | None = None


@dataclass(frozen=True, slots=True)
class Empty:
    """The source answered, and had nothing to say about this pool. That is not zero demand."""

    at: float
    source: str
    why: str


@dataclass(frozen=True, slots=True)
class Stale:
    """The source has not answered, or answered nonsense, since ``at``."""

    at: float
    source: str
    why: str


Reading = Known | Empty | Stale


def is_usable(value: float) -> bool:
    """Whether a sample can be trusted at all: finite and not negative."""
    return math.isfinite(value) and value >= 0.0


@dataclass(slots=True)
class DemandHistory:
    """Recent known rates of one pool; decides the rate to plan for.

    Scaling up follows the newest reading at once; scaling down follows the highest of the last ``window_seconds``,
    and not at all before the history spans that window (a new leader knows nothing of the past).
    """

    window_seconds: float
    _rates: deque[tuple[float, float]] = field(default_factory=deque)

    def add(self, reading: Known) -> None:
        """Remember a reading; readings that go back in time are ignored."""
        if self._rates and reading.at <= self._rates[-1][0]:
            return
        self._rates.append((reading.at, reading.requests_per_second))
        while len(self._rates) > 2 and self._rates[1][0] <= reading.at - self.window_seconds:
            self._rates.popleft()

    def spans_window(self, now: float) -> bool:
        """Whether readings reach back over the whole window, so that replicas may go down."""
        return bool(self._rates) and self._rates[0][0] <= now - self.window_seconds

    def planned_rate(self, now: float) -> float:
        """Requests per second to plan for: the highest reading within the window."""
        recent = [rate for at, rate in self._rates if at > now - self.window_seconds]
        return max(recent, default=self._rates[-1][1] if self._rates else 0.0)


def _rounded(value: float) -> float:
    """A value on a grid of 5 % steps, so that measured noise does not make a new estimate each loop."""
    if value <= 0:
        return 0.0
    step = math.log(1.05)
    return float(f"{math.exp(round(math.log(value) / step) * step):.4g}")


def observed_shapes(classes: Sequence[ClassDemand], reading: Known) -> tuple[ClassDemand, ...]:
    """Classes with the lengths that were measured in place of those that were stated.

    A pool's engines report one mean over all its classes: every class is scaled by the same factor, so that the mix has
    the measured mean. The hit share replaces the stated one. Measured values are rounded to steps of 5 %.
    """
    stated_input = sum(one.share * one.shape.input_mean for one in classes)
    stated_output = sum(one.share * one.shape.output_mean for one in classes)
    into = _rounded(reading.input_tokens / stated_input) if reading.input_tokens and stated_input else 1.0
    out = _rounded(reading.output_tokens / stated_output) if reading.output_tokens and stated_output else 1.0
    hits = None if reading.hit_share is None else min(0.98, round(reading.hit_share * 20.0) / 20.0)

    def scaled(shape: TokenShape) -> TokenShape:
        return replace(
            shape,
            input_mean=shape.input_mean * into,
            input_p95=shape.input_p95 * into,
            output_mean=shape.output_mean * out,
            output_p95=shape.output_p95 * out,
            cached_share=shape.cached_share if hits is None else hits,
        )

    return tuple(replace(one, shape=scaled(one.shape)) for one in classes)


def with_shares(classes: Iterable[tuple[ClassDemand, float]]) -> tuple[ClassDemand, ...]:
    """Classes whose shares follow these weights and sum to 1; equal shares when all weights are 0."""
    pairs = list(classes)
    total = sum(weight for _, weight in pairs)
    even = 1.0 / len(pairs) if pairs else 0.0
    return tuple(replace(one, share=weight / total if total > 0 else even) for one, weight in pairs)
