"""From which volume, load or price another choice is cheaper, and host or buy in one sentence.

Hosting costs whole replicas, an API costs tokens: with n = max(minimum, ceil(V/K)) + spare replicas of C USD a month
and K tokens a month each, F USD fixed and p USD per token outside, hosting is cheaper where n C + F < p V. The stairs
make that true on some stretches and false on others, so two volumes are told: the first at which hosting wins, and the
one beyond which it always does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tidefleet.economics.lognormal import checked

MILLION = 1e6
_MOST_REPLICAS = 10**9


@dataclass(frozen=True, slots=True)
class Hosting:
    """What hosting costs and carries.

    Attributes:
        usd_per_replica_month: everything one replica costs in a month.
        tokens_per_replica_month: what one replica carries at the load it is planned for, in tokens of the same mix.
        minimum: replicas kept whatever the volume; spare: replicas beyond what the volume needs.
        fixed_usd_per_month: what hosting costs beside its replicas.
    """

    usd_per_replica_month: float
    tokens_per_replica_month: float
    minimum: int = 1
    spare: int = 0
    fixed_usd_per_month: float = 0.0

    def replicas(self, tokens_per_month: float) -> int:
        """Replicas that a volume needs.

        Raises:
            ValueError: a number is not usable, or more than 1e9 replicas would be needed.
        """
        volume = checked("tokens_per_month", tokens_per_month, most=1e24, example="1e9")
        each = checked("tokens_per_replica_month", self.tokens_per_replica_month, least=1e-9, most=1e18, example="5e9")
        needed = volume / each
        if needed > _MOST_REPLICAS:
            raise ValueError(f"tokens_per_month is {volume:g}; expected at most 1e9 replicas of {each:g} tokens")
        return max(self.minimum, math.ceil(needed * (1.0 - 1e-12))) + self.spare

    def usd_per_month(self, tokens_per_month: float) -> float:
        """USD a month for a volume."""
        return self.replicas(tokens_per_month) * self.usd_per_replica_month + self.fixed_usd_per_month


@dataclass(frozen=True, slots=True)
class BreakEvenVolume:
    """Tokens a month from which hosting is cheaper; ``inf`` where it never is.

    Attributes:
        first: the smallest volume at which hosting costs no more.
        always: the volume beyond which hosting is never dearer again, next replica or not.
        replicas: replicas at ``first``; 0 where there is no such volume.
    """

    first: float
    always: float
    replicas: int


def break_even_volume(hosting: Hosting, api_usd_per_million_tokens: float) -> BreakEvenVolume:
    """The volumes at which hosting and an API cost the same.

    With G = p K - C, what a full replica earns over its cost: in step n hosting wins from ((n + s) C + F)/p, which lies
    in the step when n >= (s C + F)/G; it wins at the foot of step n + 1 too when n >= ((s + 1) C + F)/G.

    Raises:
        ValueError: a cost, capacity or price is not above 0, or is not finite.
    """
    cost = checked("usd_per_replica_month", hosting.usd_per_replica_month, least=1e-12, most=1e12, example="3000")
    each = checked("tokens_per_replica_month", hosting.tokens_per_replica_month, least=1e-9, most=1e18, example="5e9")
    fixed = checked("fixed_usd_per_month", hosting.fixed_usd_per_month, most=1e15, example="0")
    minimum = int(checked("minimum", hosting.minimum, most=1e6, example="1"))
    spare = int(checked("spare", hosting.spare, most=1e6, example="0"))
    price = checked("api_usd_per_million_tokens", api_usd_per_million_tokens, least=1e-12, most=1e9, example="0.60")
    per_token = price / MILLION
    gain = per_token * each - cost
    still = max(minimum, 1)

    def volume(steps: int) -> float:
        return ((steps + spare) * cost + fixed) / per_token

    first, at = math.inf, 0
    if (still + spare) * cost + fixed <= per_token * each * still * (1.0 + 1e-12):
        first, at = volume(still), still
    elif gain > 0.0 and (spare * cost + fixed) / gain < _MOST_REPLICAS:
        at = max(still + 1, math.ceil((spare * cost + fixed) / gain * (1.0 - 1e-12)))
        first = volume(at)
    always = math.inf
    if gain > 0.0 and ((spare + 1) * cost + fixed) / gain < _MOST_REPLICAS:
        always = volume(max(still, math.ceil(((spare + 1) * cost + fixed) / gain * (1.0 - 1e-12))))
    return BreakEvenVolume(first, always, at + spare if at else 0)


def break_even_utilisation(
    usd_per_hour: float, tokens_per_hour_when_full: float, api_usd_per_million_tokens: float
) -> float:
    """Share of a replica's capacity at which it costs what the API does; above 1: not even when full.

    Raises:
        ValueError: a number is not above 0 or not finite.
    """
    cost = checked("usd_per_hour", usd_per_hour, least=1e-12, most=1e9, example="5.50")
    tokens = checked("tokens_per_hour", tokens_per_hour_when_full, least=1e-9, most=1e18, example="9e6")
    price = checked("api_usd_per_million_tokens", api_usd_per_million_tokens, least=1e-12, most=1e9, example="0.60")
    return cost / (tokens * price / MILLION)


def break_even_price_ratio(tokens_per_chip_hour: float, other_tokens_per_chip_hour: float) -> float:
    """How many times the other's price one chip may cost before its tokens are dearer: the ratio of their speeds.

    Raises:
        ValueError: a speed is not above 0 or not finite.
    """
    mine = checked("tokens_per_chip_hour", tokens_per_chip_hour, least=1e-9, most=1e18, example="9e6")
    other = checked("other_tokens_per_chip_hour", other_tokens_per_chip_hour, least=1e-9, most=1e18, example="5e6")
    return mine / other


def break_even_price(usd_per_million_tokens: float, tokens_per_chip_hour: float) -> float:
    """USD per chip-hour at which a chip's tokens cost this much: where an unpriced type would start to win.

    Raises:
        ValueError: a number is negative or not finite.
    """
    target = checked("usd_per_million_tokens", usd_per_million_tokens, most=1e9, example="0.60")
    return target * checked("tokens_per_chip_hour", tokens_per_chip_hour, most=1e18, example="9e6") / MILLION


def grown(volume: float, *, growth_per_month: float, months: float, cap: float = math.inf) -> float:
    """Tokens a month after some months of growth: min(cap, V (1 + g)^t); growth may be negative.

    Raises:
        ValueError: a number is not usable, or the growth is not above -1.
    """
    start = checked("volume", volume, most=1e24, example="1e9")
    rate = checked("growth_per_month", growth_per_month, least=-0.999, most=100.0, example="0.1")
    time = checked("months", months, most=1200.0, example="12")
    limit = checked("cap", cap, most=math.inf, example="1e12")
    exponent = time * math.log1p(rate)
    return min(limit, start * math.exp(exponent)) if exponent < 600.0 else (limit if start else 0.0)


def months_until(volume: float, target: float, *, growth_per_month: float, cap: float = math.inf) -> float:
    """Months until a growing volume reaches a target, such as a break-even volume: ln(target/V)/ln(1 + g).

    0 when it is there already, ``inf`` when it never gets there.

    Raises:
        ValueError: a number is not usable, or the growth is not above -1.
    """
    start = checked("volume", volume, most=1e24, example="1e9")
    goal = checked("target", target, most=math.inf, example="5e9")
    rate = checked("growth_per_month", growth_per_month, least=-0.999, most=100.0, example="0.1")
    limit = checked("cap", cap, most=math.inf, example="1e12")
    if min(start, limit) >= goal:
        return 0.0
    if start == 0.0 or rate <= 0.0 or goal > limit or goal == math.inf:
        return math.inf
    return math.log(goal / start) / math.log1p(rate)


@dataclass(frozen=True, slots=True)
class HostOrBuy:
    """Which is cheaper for a volume, with the figures and one sentence."""

    choice: Literal["Host", "Buy"]
    host_usd_per_month: float
    buy_usd_per_month: float
    replicas: int
    break_even: BreakEvenVolume
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def host_or_buy(
    hosting: Hosting, *, tokens_per_month: float, api_usd_per_million_tokens: float, api: str = "the API"
) -> HostOrBuy:
    """Host, or buy the same tokens outside; equal costs are hosted.

    Args:
        tokens_per_month: volume of the mix that capacity and price are given for.
        api: the offer's name for the sentence, e.g. ``together/llama-3.3-70b``.

    Raises:
        ValueError: a number is not usable.
    """
    volumes = break_even_volume(hosting, api_usd_per_million_tokens)
    replicas = hosting.replicas(tokens_per_month)
    host = hosting.usd_per_month(tokens_per_month)
    buy = tokens_per_month * api_usd_per_million_tokens / MILLION
    choice: Literal["Host", "Buy"] = "Host" if host <= buy * (1.0 + 1e-12) else "Buy"
    much = "replica costs" if replicas == 1 else "replicas cost"
    sentence = (
        f"{choice.lower()}: for {_tokens(tokens_per_month)} tokens a month {replicas} {much} {_usd(host)}, "
        f"{api} {_usd(buy)}; {_when(volumes)}"
    )
    return HostOrBuy(choice, host, buy, replicas, volumes, sentence)


def _when(volumes: BreakEvenVolume) -> str:
    if volumes.first == math.inf:
        return "hosting is not cheaper at any volume at this price"
    if volumes.always == math.inf:
        return f"hosting breaks even at {_tokens(volumes.first)} a month and never stays cheaper"
    if volumes.always <= volumes.first * (1.0 + 1e-9):
        return f"hosting is cheaper from {_tokens(volumes.first)} a month"
    return f"hosting is cheaper from {_tokens(volumes.first)} a month, at every volume from {_tokens(volumes.always)}"


def _tokens(count: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"


def _usd(amount: float) -> str:
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:.2f}"
