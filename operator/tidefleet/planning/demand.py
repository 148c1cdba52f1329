"""What a pool is asked for: readings of demand, how far back they reach, and when they may lower capacity."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tidefleet.economics.shape import TokenShape
from tidefleet.planning.options import ClassDemand


@dataclass(frozen=True, slots=True)
class Known:
    """Demand that was measured (or stated). Rates are per second; lengths are means per request, ``None`` = not seen.

    ``hit_share`` is the share of prompt tokens found on the accelerators, ``tier_hit_share`` that of those fetched from
    KV tiers; ``seconds`` the time the rate was counted over, 0 for a rate that was not counted. ``median`` is that of
    the rates of the last minutes, ``None`` where none was counted. ``length_count`` is how many requests the lengths
    are means of. ``arrivals_per_second`` is what was measured without requests that wait to be worked off, ``None``
    where that is the rate itself; ``reasoning_share`` the share of output tokens that is not visible;
    ``calls_per_task`` requests for one task. ``first_token_seconds`` is the mean time to the first token of
    ``first_tokens`` requests in these seconds, the time in the queue included; ``None`` where it is not told.
    ``stated``: nobody measured it, somebody asks for a plan for it, at all hours.
    """

    at: float
    requests_per_second: float
    source: str
    input_tokens: float | None = None
    output_tokens: float | None = None
    hit_share: float | None = None
    seconds: float = 0.0
    median: float | None = None
    length_count: float = math.inf
    arrivals_per_second: float | None = None
    reasoning_share: float | None = None
    calls_per_task: float | None = None
    first_token_seconds: float | None = None
    first_tokens: float = 0.0
    tier_hit_share: float | None = None
    stated: bool = False

    @property
    def found_share(self) -> float | None:
        """Share of prompt tokens that were not computed, wherever they were found; ``None`` while it is not known."""
        return None if self.hit_share is None else min(1.0, self.hit_share + (self.tier_hit_share or 0.0))

    @property
    def arriving(self) -> float:
        """Requests per second that came: nothing that waits, and nothing declared, is counted in."""
        return self.requests_per_second if self.arrivals_per_second is None else self.arrivals_per_second


@dataclass(frozen=True, slots=True)
class Empty:
    """The source answered, and had nothing to say about this pool. That is not zero demand."""

    at: float
    source: str
    why: str


class Cause(StrEnum):
    """What kept a source from being read: too old, no answer, a value that is no number, or anything else unusable."""

    AGED = "Aged"
    UNREACHABLE = "Unreachable"
    NOT_A_NUMBER = "NotANumber"
    UNREADABLE = "Unreadable"


@dataclass(frozen=True, slots=True)
class Stale:
    """The source has not answered, or answered nonsense, since ``at``; ``why`` is the sentence about the ``cause``."""

    at: float
    source: str
    why: str
    cause: Cause = Cause.AGED


Reading = Known | Empty | Stale


def is_usable(value: float) -> bool:
    """Whether a sample can be trusted at all: finite and not negative."""
    return math.isfinite(value) and value >= 0.0


MEAN_SECONDS = 300.0
"""Readings are averaged over this time; a single one counts only as far as it is above what chance explains."""

CHANCE = 1.5
"""Standard deviations of a count that are put down to chance."""


@dataclass(slots=True)
class DemandHistory:
    """Recent known rates of one pool; decides the rate to plan for.

    Scaling up follows the newest reading at once, less what chance explains (requests arrive at random: a count of n
    has a standard deviation of its square root), or the mean of five minutes if that is higher. Scaling down follows
    the highest of that over ``window_seconds``, and not at all before readings span the window without a gap: a new
    leader knows nothing of the past, and nobody knows what happened in a gap.
    """

    window_seconds: float
    max_gap_seconds: float = math.inf
    _rates: deque[tuple[float, float, float]] = field(default_factory=deque)
    _since: float | None = None

    def add(self, reading: Known) -> None:
        """Remember a reading; ones that go back in time are ignored, unless by a gap: then the clock was set back."""
        if self._rates and reading.at <= self._rates[-1][0]:
            if self._rates[-1][0] - reading.at <= self.max_gap_seconds:
                return
            self._rates.clear()
            self._since = None
        if self._since is None or reading.at - self._rates[-1][0] > self.max_gap_seconds:
            self._since = reading.at
        rate = reading.requests_per_second
        sure = rate - CHANCE * math.sqrt(rate / reading.seconds) if reading.seconds > 0 else rate
        mean = self._mean(reading.at, rate)
        self._rates.append((reading.at, rate, max(sure, mean)))
        reach = max(self.window_seconds, MEAN_SECONDS)
        while len(self._rates) > 2 and self._rates[1][0] <= reading.at - reach:
            self._rates.popleft()

    def _mean(self, now: float, newest: float) -> float:
        recent = [rate for at, rate, _ in self._rates if at > now - MEAN_SECONDS] + [newest]
        return sum(recent) / len(recent)

    def spans_window(self, now: float) -> bool:
        """Whether readings reach back over the whole window without a gap, so that replicas may go down."""
        if self._since is None or now - self._rates[-1][0] > self.max_gap_seconds:
            return False
        return self._since <= now - self.window_seconds

    def planned_rate(self, now: float) -> float:
        """Requests per second to plan for: the highest within the window."""
        recent = [rate for at, _, rate in self._rates if at > now - self.window_seconds]
        return max(recent, default=self._rates[-1][2] if self._rates else 0.0)


class Ground(StrEnum):
    """What a planned rate rests on."""

    NOWCAST = "Nowcast"
    FORECAST = "Forecast"
    DECLARED = "Declared"


@dataclass(frozen=True, slots=True)
class Planned:
    """The rate to plan for, in requests per second, and which of the three it is."""

    requests_per_second: float
    ground: Ground


def planned_demand(nowcast: float, *, foreseen: float = 0.0, declared: float = 0.0, step: float = 0.0) -> Planned:
    """The highest of what is asked now, what is forecast for when new replicas serve, and what users declare.

    Args:
        nowcast: ``DemandHistory.planned_rate``, which is never below the mean of the last five minutes.
        foreseen: the quantile of the forecast at the lead of the pool's starts; 0 without a forecast.
        declared: the users' lower bound.
        step: share by which one must be above the nowcast to be told as the ground.
    """
    rate = max(nowcast, foreseen, declared)
    if rate <= nowcast * (1.0 + step):
        return Planned(rate, Ground.NOWCAST)
    return Planned(rate, Ground.DECLARED if declared >= foreseen else Ground.FORECAST)


LENGTH_STEP = 0.07
"""Measured lengths replace the ones in use once they differ by this share: noise must not make a new plan each loop.

By more where few requests were counted: lengths spread about as widely as their mean, so that the mean of n of them has
a standard deviation of 1 / sqrt(n).
"""

LENGTH_COUNT = 25.0
"""Requests whose mean lengths are worth more than what the user states."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean token lengths and cache hits that estimates are made with; ``None`` = not measured."""

    input_tokens: float | None = None
    output_tokens: float | None = None
    hit_share: float | None = None
    reasoning_share: float | None = None

    def follow(self, measured: Known | Lengths, stated: Lengths | None = None, *, count: float = math.inf) -> Lengths:
        """These lengths, or the measured ones where they have moved away from them, or from those stated.

        Args:
            count: requests that the lengths are means of; a reading says it itself.
        """
        if isinstance(measured, Known):
            count = measured.length_count
        if count < LENGTH_COUNT:
            return self
        step = max(LENGTH_STEP, 1.0 / math.sqrt(count))
        now = stated or Lengths()
        return Lengths(
            _moved(self.input_tokens, now.input_tokens, measured.input_tokens, step),
            _moved(self.output_tokens, now.output_tokens, measured.output_tokens, step),
            _moved_share(self.hit_share, now.hit_share, measured.hit_share, step / 2.0),
            _moved_share(self.reasoning_share, now.reasoning_share, measured.reasoning_share, step / 2.0),
        )


def _moved(used: float | None, stated: float | None, measured: float | None, step: float) -> float | None:
    if measured is None or measured <= 0:
        return used
    known = used if used is not None else stated
    if known and abs(measured / known - 1.0) <= step:
        return used
    return float(f"{measured:.3g}")


def _moved_share(used: float | None, stated: float | None, measured: float | None, step: float) -> float | None:
    if measured is None:
        return used
    measured = min(0.98, max(0.0, measured))
    known = used if used is not None else stated
    if known is not None and abs(measured - known) <= step:
        return used
    return round(measured, 2)


def observed_shapes(classes: Sequence[ClassDemand], lengths: Lengths) -> tuple[ClassDemand, ...]:
    """Classes with the lengths that were measured in place of those that were stated.

    A pool's engines report one mean over all its classes: every class is scaled by the same factor, so that the mix has
    the measured mean. The hit share replaces the stated one, and so does the share of reasoning in the output.
    """
    stated_input = sum(one.share * one.shape.input_mean for one in classes)
    stated_output = sum(one.share * one.shape.output_mean for one in classes)
    into = lengths.input_tokens / stated_input if lengths.input_tokens and stated_input else 1.0
    out = lengths.output_tokens / stated_output if lengths.output_tokens and stated_output else 1.0

    def scaled(shape: TokenShape) -> TokenShape:
        thinking = shape.reasoning_mean * out
        if lengths.reasoning_share is not None:
            thinking = shape.output_mean * out * lengths.reasoning_share
        return replace(
            shape,
            input_mean=shape.input_mean * into,
            input_p95=shape.input_p95 * into,
            output_mean=shape.output_mean * out,
            output_p95=shape.output_p95 * out,
            reasoning_mean=thinking,
            cached_share=shape.cached_share if lengths.hit_share is None else lengths.hit_share,
        )

    return tuple(replace(one, shape=scaled(one.shape)) for one in classes)


def with_shares(classes: Iterable[tuple[ClassDemand, float]]) -> tuple[ClassDemand, ...]:
    """Classes whose shares follow these weights and sum to 1; equal shares when all weights are 0."""
    pairs = list(classes)
    total = sum(weight for _, weight in pairs)
    even = 1.0 / len(pairs) if pairs else 0.0
    return tuple(replace(one, share=weight / total if total > 0 else even) for one, weight in pairs)
