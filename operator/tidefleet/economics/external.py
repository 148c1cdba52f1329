"""What an external API charges for the same tokens: prices by kind of token, provisioned throughput, or seats.

An unknown price is never 0: a provider without a price for a kind of token is charged at the price the provider's bill
would show (cached and cache-written tokens as input), and an offer without input and output prices does not exist.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tidefleet.economics.lognormal import checked
from tidefleet.economics.owned import HOURS_PER_MONTH

MILLION = 1e6


@dataclass(frozen=True, slots=True)
class TokenVector:
    """Tokens by kind: of a request, a task, or a month.

    Attributes:
        uncached_input: prompt tokens that are processed.
        cached_input: prompt tokens found in the prefix cache.
        output: generated tokens, reasoning included.
        cache_write: tokens written to a cache that charges for it; part of ``uncached_input``, not beside it.
        requests: requests they belong to, for offers that charge each.
    """

    uncached_input: float
    cached_input: float
    output: float
    cache_write: float = 0.0
    requests: float = 0.0

    @property
    def input(self) -> float:
        """All prompt tokens."""
        return self.uncached_input + self.cached_input

    @property
    def total(self) -> float:
        """All tokens."""
        return self.input + self.output

    def times(self, factor: float) -> TokenVector:
        """So many of them."""
        return TokenVector(
            self.uncached_input * factor,
            self.cached_input * factor,
            self.output * factor,
            self.cache_write * factor,
            self.requests * factor,
        )

    def __add__(self, other: TokenVector) -> TokenVector:
        return TokenVector(
            self.uncached_input + other.uncached_input,
            self.cached_input + other.cached_input,
            self.output + other.output,
            self.cache_write + other.cache_write,
            self.requests + other.requests,
        )


@dataclass(frozen=True, slots=True)
class PerToken:
    """USD per million tokens by kind. ``None`` for cached input or cache writes: billed as input.

    ``long_from_tokens``: prompts above this many tokens pay ``long`` for all their tokens; 0: one price for all.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    usd_per_thousand_requests: float = 0.0
    batch_discount: float = 0.0
    long_from_tokens: float = 0.0
    long: PerToken | None = None


@dataclass(frozen=True, slots=True)
class Provisioned:
    """Throughput bought by the unit: USD per unit and hour, and the tokens per second that one unit carries."""

    usd_per_unit_hour: float
    input_tokens_per_second: float
    output_tokens_per_second: float
    least_units: int = 1


@dataclass(frozen=True, slots=True)
class PerSeat:
    """USD per seat and month; ``tokens_per_month`` is what a seat may use, ``inf`` when nothing limits it."""

    usd_per_seat_month: float
    tokens_per_month: float = math.inf


@dataclass(frozen=True, slots=True)
class ExternalOffer:
    """One model at one provider.

    Attributes:
        provider, model: as the provider names them.
        billing: how it charges.
        as_of: ISO date from which the price holds; empty: unknown.
        source: where the price was read.
        region: where the data goes; empty: unknown.
        requests_per_minute: rate limit; ``inf`` when none is known.
        added_latency_seconds: latency on the way there.
    """

    provider: str
    model: str
    billing: PerToken | Provisioned | PerSeat
    as_of: str = ""
    source: str = ""
    region: str = ""
    requests_per_minute: float = math.inf
    added_latency_seconds: float = 0.0

    @property
    def name(self) -> str:
        """``provider/model`` for tables and sentences."""
        return f"{self.provider}/{self.model}"


def _checked_tokens(tokens: TokenVector) -> TokenVector:
    for field in ("uncached_input", "cached_input", "output", "cache_write", "requests"):
        checked(field, getattr(tokens, field), most=1e24, example="1000")
    if tokens.cache_write > tokens.uncached_input * (1.0 + 1e-9):
        raise ValueError(
            f"cache_write is {tokens.cache_write:g}; expected at most uncached_input, {tokens.uncached_input:g}"
        )
    return tokens


def token_usd(tokens: TokenVector, price: PerToken, *, prompt_tokens: float = 0.0, batch: bool = False) -> float:
    """USD for these tokens: the token vector times the price vector.

    Args:
        prompt_tokens: prompt length of one request, which decides between short and long prices.
        batch: whether the batch discount applies.

    Raises:
        ValueError: a count or a price is negative or not finite.
    """
    _checked_tokens(tokens)
    if price.long is not None and price.long_from_tokens and prompt_tokens > price.long_from_tokens:
        price = price.long
    per_input = checked("input price", price.input, most=1e6, example="0.90")
    per_output = checked("output price", price.output, most=1e6, example="3.60")
    per_hit = per_input if price.cached_input is None else checked("cached input price", price.cached_input, most=1e6)
    per_write = per_input if price.cache_write is None else checked("cache write price", price.cache_write, most=1e6)
    per_request = checked("price per thousand requests", price.usd_per_thousand_requests, most=1e6)
    plain = tokens.uncached_input - min(tokens.cache_write, tokens.uncached_input)
    usd = (
        plain * per_input + tokens.cache_write * per_write + tokens.cached_input * per_hit + tokens.output * per_output
    ) / MILLION + tokens.requests * per_request / 1000.0
    discount = checked("batch discount", price.batch_discount, most=1.0, example="0.5") if batch else 0.0
    return usd * (1.0 - discount)


def provisioned_units(tokens_per_month: TokenVector, offer: Provisioned, *, peak_to_mean: float = 1.0) -> int:
    """Units that carry this month's tokens at their peak: input and output draw on the same unit."""
    checked("peak_to_mean", peak_to_mean, least=1.0, most=1e6, example="2.5")
    seconds = HOURS_PER_MONTH * 3600.0
    in_rate = checked("input_tokens_per_second", offer.input_tokens_per_second, least=1e-9, example="5000")
    out_rate = checked("output_tokens_per_second", offer.output_tokens_per_second, least=1e-9, example="500")
    tokens = _checked_tokens(tokens_per_month)
    load = (tokens.input / in_rate + tokens.output / out_rate) / seconds * peak_to_mean
    if load > 1e9:
        raise ValueError(f"{load:.3g} units would be needed; expected a demand below 1e9 units")
    return max(offer.least_units, math.ceil(load - 1e-9))


def month_usd(
    offer: ExternalOffer,
    tokens_per_month: TokenVector,
    *,
    seats: int = 0,
    prompt_tokens: float = 0.0,
    batch: bool = False,
    peak_to_mean: float = 1.0,
) -> float:
    """USD that a month of these tokens costs at an offer.

    Args:
        seats: users, for an offer by the seat.
        prompt_tokens: mean prompt length, for prices that depend on it.
        peak_to_mean: peak demand over mean demand, for provisioned throughput.

    Raises:
        ValueError: a number cannot be used, or seats do not cover the tokens; the message says which.
    """
    match offer.billing:
        case PerToken() as price:
            return token_usd(tokens_per_month, price, prompt_tokens=prompt_tokens, batch=batch)
        case Provisioned() as price:
            hourly = checked("usd_per_unit_hour", price.usd_per_unit_hour, least=1e-9, most=1e9, example="20")
            return provisioned_units(tokens_per_month, price, peak_to_mean=peak_to_mean) * hourly * HOURS_PER_MONTH
        case PerSeat() as price:
            monthly = checked("usd_per_seat_month", price.usd_per_seat_month, least=1e-9, most=1e9, example="20")
            allowed = price.tokens_per_month * seats
            if seats < 1 or tokens_per_month.total > allowed:
                raise ValueError(
                    f"{offer.name}: {seats} seats allow {allowed:g} tokens a month; expected enough for "
                    f"{tokens_per_month.total:g}, e.g. {_seats_for(tokens_per_month.total, price)} seats"
                )
            return seats * monthly


def _seats_for(tokens: float, price: PerSeat) -> int:
    return 1 if price.tokens_per_month == math.inf else max(1, math.ceil(tokens / price.tokens_per_month))


def blended_usd_per_million(offer: ExternalOffer, tokens: TokenVector, *, prompt_tokens: float = 0.0) -> float:
    """USD per million tokens of this mix at an offer that charges by the token.

    Raises:
        ValueError: there are no tokens, or the offer does not charge by the token.
    """
    if not isinstance(offer.billing, PerToken):
        raise ValueError(f"{offer.name} does not charge by the token; give a month's tokens to month_usd")
    if tokens.total <= 0.0:
        raise ValueError("tokens are 0; expected at least one, e.g. output=300")
    return token_usd(tokens, offer.billing, prompt_tokens=prompt_tokens) / tokens.total * MILLION


def cheapest(offers: Iterable[ExternalOffer], tokens: TokenVector) -> ExternalOffer | None:
    """The offer by the token that charges least for this mix; ``None`` when there is none."""
    by_token = [one for one in offers if isinstance(one.billing, PerToken)]
    return min(by_token, key=lambda one: (blended_usd_per_million(one, tokens), one.name), default=None)


def margin(revenue_usd: float, cost_usd: float) -> float:
    """Revenue over cost, less one: 5.45 is 545 %.

    Raises:
        ValueError: the cost is not above 0, or the revenue is negative.
    """
    return checked("revenue", revenue_usd, example="100") / checked("cost", cost_usd, least=1e-12, example="50") - 1.0
