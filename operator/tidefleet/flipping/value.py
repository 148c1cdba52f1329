"""What a loan is worth and what a flip costs: the quantile that serving keeps, and both sides of each decision."""

from __future__ import annotations

import math
from dataclasses import dataclass

HOUR = 3600.0

LEAST_QUANTILE = 0.5
"""Below the median a quantile of demand is a plan to be short, whatever training pays."""


@dataclass(frozen=True, slots=True)
class FlipTimes:
    """How long the parts of a round trip take, in seconds: those in which a node neither serves nor trains.

    Attributes:
        drain_seconds: from the cordon until the last request is done.
        start_seconds: until the training job's pods run.
        checkpoint_seconds: from the recall until the checkpoint is written.
        load_seconds: until the weights are loaded again.
        warm_seconds: until the replica is ready and its canary is answered.

    Raises:
        ValueError: a time is negative or not finite.
    """

    drain_seconds: float
    start_seconds: float
    checkpoint_seconds: float
    load_seconds: float
    warm_seconds: float

    def __post_init__(self) -> None:
        for name in ("drain_seconds", "start_seconds", "checkpoint_seconds", "load_seconds", "warm_seconds"):
            _not_negative(f"FlipTimes: {name}", getattr(self, name), "60")

    @property
    def round_trip_seconds(self) -> float:
        """Seconds that a node loses between serving, training and serving again."""
        return self.drain_seconds + self.start_seconds + self.checkpoint_seconds + self.load_seconds + self.warm_seconds


@dataclass(frozen=True, slots=True)
class Preemption:
    """What a recall before its time costs the job.

    Attributes:
        probability: that the loan ends by a recall which the job did not expect, 0 to 1.
        checkpoint_interval_seconds: between two checkpoints; half of it is lost on average.
        restart_seconds: until the job works again elsewhere.

    Raises:
        ValueError: the probability is no share, or a time is negative or not finite.
    """

    probability: float = 0.0
    checkpoint_interval_seconds: float = 0.0
    restart_seconds: float = 0.0

    def __post_init__(self) -> None:
        _share("Preemption: probability", self.probability)
        _not_negative("Preemption: checkpoint_interval_seconds", self.checkpoint_interval_seconds, "1800")
        _not_negative("Preemption: restart_seconds", self.restart_seconds, "60")


@dataclass(frozen=True, slots=True)
class LostCache:
    """KV tokens that a node forgets when it stops to serve.

    Attributes:
        tokens: cached on the node and nowhere else.
        usd_per_token: what computing one again costs (the price of an uncached input token).
        reuse_probability: that one would have been asked for again, 0 to 1.

    Raises:
        ValueError: the probability is no share, or another number is negative or not finite.
    """

    tokens: float = 0.0
    usd_per_token: float = 0.0
    reuse_probability: float = 0.0

    def __post_init__(self) -> None:
        _not_negative("LostCache: tokens", self.tokens, "2000000")
        _not_negative("LostCache: usd_per_token", self.usd_per_token, "0.0000002")
        _share("LostCache: reuse_probability", self.reuse_probability)


@dataclass(frozen=True, slots=True)
class FlipCost:
    """What one round trip of a node costs, in USD, by part."""

    time_usd: float
    preemption_usd: float
    cache_usd: float

    @property
    def usd(self) -> float:
        """All parts together."""
        return self.time_usd + self.preemption_usd + self.cache_usd


@dataclass(frozen=True, slots=True)
class Worth:
    """Both sides of a loan, in USD: what training on the nodes is worth, and what the flips cost."""

    saves_usd: float
    costs_usd: float

    @property
    def net_usd(self) -> float:
        """What is left."""
        return self.saves_usd - self.costs_usd

    @property
    def holds(self) -> bool:
        """Whether it pays; a side that is not a number never does."""
        return self.saves_usd > self.costs_usd

    @property
    def words(self) -> str:
        """Both sides as people read them, e.g. ``saves 48.00 USD, costs 3.20 USD``."""
        return f"saves {_usd(self.saves_usd)}, costs {_usd(self.costs_usd)}"


def loan_quantile(
    *,
    penalty_multiple: float,
    margin_usd_per_chip_hour: float,
    value_usd_per_chip_hour: float,
    least: float = LEAST_QUANTILE,
) -> float:
    """The quantile of demand that serving keeps: the newsvendor's pi*m / (pi*m + V), at least ``least``.

    A chip too few for serving loses pi*m an hour, a chip too many loses V. Where neither is worth anything the answer
    is 1: nothing is loaned for nothing. A margin below 0 counts as 0.

    Args:
        penalty_multiple: pi, what a miss costs over the margin it loses; at least 0.
        margin_usd_per_chip_hour: m, what serving earns in an hour of a chip, its rent not deducted.
        value_usd_per_chip_hour: V, what training is worth in an hour of a chip; at least 0.
        least: never below this quantile.

    Raises:
        ValueError: an argument is not finite, or is negative where it may not be.
    """
    _not_negative("penalty_multiple", penalty_multiple, "3")
    _not_negative("value_usd_per_chip_hour", value_usd_per_chip_hour, "1.10")
    _share("least", least)
    if not math.isfinite(margin_usd_per_chip_hour):
        raise ValueError(f"margin_usd_per_chip_hour is {margin_usd_per_chip_hour}; expected a number, e.g. 2.5")
    miss = penalty_multiple * max(0.0, margin_usd_per_chip_hour)
    if miss + value_usd_per_chip_hour <= 0.0:
        return 1.0
    return max(least, miss / (miss + value_usd_per_chip_hour))


def flip_cost(
    *,
    chips: int,
    value_usd_per_chip_hour: float,
    times: FlipTimes,
    preemption: Preemption | None = None,
    cache: LostCache | None = None,
) -> FlipCost:
    """What a round trip of one node costs.

    g*V*(drain + start + checkpoint + load + warm) + P(preempt)*g*V*(half a checkpoint interval + restart)
    + lost KV tokens * cost of one * P(reuse).

    Args:
        chips: g, chips of the node (or of the group that flips as one).
        value_usd_per_chip_hour: V, what training is worth in an hour of a chip.
        times: the parts of a round trip.
        preemption: what an early recall costs; absent: it is never early.
        cache: what the node forgets; absent: nothing of worth.

    Raises:
        ValueError: chips is not positive, or the value is negative or not finite.
    """
    if chips < 1:
        raise ValueError(f"chips is {chips}; expected a positive integer, e.g. 8")
    _not_negative("value_usd_per_chip_hour", value_usd_per_chip_hour, "1.10")
    preemption, cache = preemption or Preemption(), cache or LostCache()
    usd_per_second = chips * value_usd_per_chip_hour / HOUR
    lost = 0.5 * preemption.checkpoint_interval_seconds + preemption.restart_seconds
    return FlipCost(
        time_usd=usd_per_second * times.round_trip_seconds,
        preemption_usd=preemption.probability * usd_per_second * lost,
        cache_usd=cache.tokens * cache.usd_per_token * cache.reuse_probability,
    )


def _usd(amount: float) -> str:
    places = 2 if not math.isfinite(amount) or amount == 0 or abs(amount) >= 0.01 else 4
    return f"{amount:,.{places}f} USD"


def _not_negative(name: str, value: float, example: str) -> None:
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"{name} is {value}; expected a finite number of at least 0, e.g. {example}")


def _share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value}; expected a share from 0 to 1, e.g. 0.2")
