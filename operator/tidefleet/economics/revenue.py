"""What tokens earn: by the token, by the seat, nothing, or an internal rate; and what that leaves of their cost.

A request's revenue is linear in its tokens whoever pays, so each way of paying comes down to prices per token
(``prices_of``), worked out once and multiplied for each request. A seat pays by the month: its request earns the part
of that which its tokens are of a month's, and what differs between users is told by the law of their use.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from tidefleet.economics.external import MILLION, TokenVector
from tidefleet.economics.lognormal import LengthLaw, checked, law

MOST_USD = 1e12
"""Of any price or cost."""


@dataclass(frozen=True, slots=True)
class PaidByToken:
    """USD per million tokens by kind; ``None`` for cached input or cache writes: as input.

    ``batch_discount`` is the share of the price that batch requests do not pay.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    batch_discount: float = 0.0


@dataclass(frozen=True, slots=True)
class PaidBySeat:
    """USD per seat and month.

    Attributes:
        seats: that are sold.
        use: tokens of one seat in a month, over seats, under its cap; ``None``: not known.
    """

    usd_per_month: float
    seats: float
    use: LengthLaw | None = None


@dataclass(frozen=True, slots=True)
class Free:
    """Nobody pays."""


@dataclass(frozen=True, slots=True)
class ChargedBack:
    """Another team is charged this rate, USD per million tokens of any kind."""

    usd_per_million_tokens: float


Revenue = PaidByToken | PaidBySeat | Free | ChargedBack


@dataclass(frozen=True, slots=True)
class Prices:
    """What one token earns, in USD by its kind; made by ``prices_of``."""

    uncached_input: float
    cached_input: float
    cache_write: float
    output: float
    batch_factor: float = 1.0

    def usd(self, uncached: float, cached: float, output: float, written: float = 0.0, batch: bool = False) -> float:
        """USD that these tokens earn; nothing is checked, for the router asks at every request.

        Args:
            uncached: prompt tokens that were not found in a cache.
            cached: prompt tokens that were.
            output: generated tokens, reasoning included.
            written: of ``uncached``, those written to a cache that is charged for.
            batch: whether the request may wait, and its discount holds.
        """
        earned = (
            (uncached - written) * self.uncached_input
            + cached * self.cached_input
            + written * self.cache_write
            + output * self.output
        )
        return earned * self.batch_factor if batch else earned

    def request_usd(
        self, prompt: float, cached: float, output: float, *, writes_cache: bool = False, batch: bool = False
    ) -> float:
        """USD that a request earns.

        Args:
            prompt: all of its prompt's tokens.
            cached: of them, found in a cache.
            output: generated tokens, reasoning included.
            writes_cache: whether its client asked for its prompt to be kept: what was not found is then written.
            batch: whether it may wait, and the batch discount holds.
        """
        held = min(prompt, cached)
        uncached = prompt - held
        return self.usd(uncached, held, output, uncached if writes_cache else 0.0, batch)


NOTHING = Prices(0.0, 0.0, 0.0, 0.0)


def seat_use(mean: float, p95: float = 0.0, cap: float = math.inf) -> LengthLaw:
    """Tokens that seats use in a month: a lognormal law, cut off at the cap; mean and p95 are of what is used under it.

    Raises:
        ValueError: a number is not usable, or the mean or the p95 is above the cap that nobody can pass.
    """
    mean = checked("tokensPerSeatMonth.mean", mean, example="2000000")
    p95 = checked("tokensPerSeatMonth.p95", p95, example="7000000")
    cap = checked("capTokensPerMonth", cap, least=1.0, most=math.inf, example="50000000")
    for name, value in (("mean", mean), ("p95", p95)):
        if value > cap:
            raise ValueError(
                f"tokensPerSeatMonth.{name} is {value:g}; expected at most capTokensPerMonth, which no seat passes, "
                f"e.g. {cap:g}"
            )
    return law(mean, p95, cap)


def prices_of(revenue: Revenue) -> Prices | None:
    """What a token earns; ``None`` for seats of which nobody knows how much they use.

    Raises:
        ValueError: a price is negative or not finite, or a discount is not a share.
    """
    match revenue:
        case Free():
            return NOTHING
        case ChargedBack(rate):
            each = checked("usdPerMillionTokens", rate, most=MOST_USD, example="0.80") / MILLION
            return Prices(each, each, each, each)
        case PaidBySeat():
            if revenue.use is None or revenue.use.mean <= 0.0:
                return None
            each = _seat_price(revenue) / revenue.use.mean
            return Prices(each, each, each, each)
        case PaidByToken():
            plain = checked("usdPerMillionInputTokens", revenue.input, most=MOST_USD, example="0.90")
            told = (
                ("usdPerMillionCachedInputTokens", revenue.cached_input, "0.09"),
                ("usdPerMillionCacheWriteTokens", revenue.cache_write, "1.10"),
            )
            cached, written = (
                plain if value is None else checked(name, value, most=MOST_USD, example=example)
                for name, value, example in told
            )
            output = checked("usdPerMillionOutputTokens", revenue.output, most=MOST_USD, example="3.60")
            discount = checked("batchDiscount", revenue.batch_discount, most=1.0, example="0.5")
            return Prices(plain / MILLION, cached / MILLION, written / MILLION, output / MILLION, 1.0 - discount)


def _seat_price(seat: PaidBySeat) -> float:
    return checked("usdPerMonth", seat.usd_per_month, least=1e-9, most=MOST_USD, example="20")


def month_revenue_usd(revenue: Revenue, tokens_per_month: TokenVector, *, batch: bool = False) -> float:
    """USD that a month of these tokens earns; seats pay whatever they use.

    Raises:
        ValueError: a count or a price is negative or not finite, or more tokens are written than there are uncached.
    """
    t = tokens_per_month
    for field in ("uncached_input", "cached_input", "output", "cache_write"):
        checked(field, getattr(t, field), most=1e24, example="1000")
    if t.cache_write > t.uncached_input * (1.0 + 1e-9):
        raise ValueError(
            f"cache_write is {t.cache_write:g}; expected at most uncached_input, e.g. {t.uncached_input:g}"
        )
    if isinstance(revenue, PaidBySeat):
        return _seat_price(revenue) * checked("seats", revenue.seats, example="5000")
    prices = prices_of(revenue) or NOTHING
    return prices.usd(t.uncached_input, t.cached_input, t.output, t.cache_write, batch)


@dataclass(frozen=True, slots=True)
class Margin:
    """What is earned and what it costs, USD of the same time."""

    revenue_usd: float
    cost_usd: float

    @property
    def usd(self) -> float:
        """What is left; negative: a loss."""
        return self.revenue_usd - self.cost_usd

    @property
    def share(self) -> float | None:
        """Revenue / cost - 1: 5.45 is 545 %, -1 is nothing earned; ``None`` where nothing is spent."""
        return self.revenue_usd / self.cost_usd - 1.0 if self.cost_usd > 0.0 else None

    def __add__(self, other: Margin) -> Margin:
        return Margin(self.revenue_usd + other.revenue_usd, self.cost_usd + other.cost_usd)


@dataclass(frozen=True, slots=True)
class Account:
    """What one tenant's requests of one class on one pool earned and cost; ``None`` earned: its class does not say.

    Empty names are of requests that name none.
    """

    pool: str
    wclass: str
    tenant: str
    revenue_usd: float | None
    cost_usd: float


def margins(accounts: Iterable[Account], key: Callable[[Account], str]) -> dict[str, Margin]:
    """Margins by class, pool or tenant, e.g. ``margins(accounts, lambda one: one.tenant)``; they sum to the same whole.

    An account without revenue earns nothing and still costs: the costs of every view sum to the bill.

    Raises:
        ValueError: an amount is negative or not finite.
    """
    earned: dict[str, list[float]] = defaultdict(list)
    spent: dict[str, list[float]] = defaultdict(list)
    for one in accounts:
        name = key(one)
        earned[name].append(checked("revenue_usd", one.revenue_usd or 0.0, most=1e18, example="100"))
        spent[name].append(checked("cost_usd", one.cost_usd, most=1e18, example="50"))
    return {name: Margin(math.fsum(earned[name]), math.fsum(spent[name])) for name in sorted(spent)}


@dataclass(frozen=True, slots=True)
class SeatMargin:
    """What seats earn and cost in a month, where tokens cost the same whoever uses them.

    Attributes:
        margin: of a mean seat, USD per month.
        loss_share: share of seats that cost more than they pay.
        loss_usd: what those cost beyond what they pay, USD per month and seat sold (theirs, spread over all).
        break_even_tokens: what a seat may use until it costs what it pays; ``inf`` where tokens cost nothing.
        break_even_cap: the cap at which a mean seat costs what it pays; ``inf`` where it pays without any cap.
        mean_tokens, capped_share: what a mean seat uses, and the share of seats that the cap stops.
    """

    margin: Margin
    loss_share: float
    loss_usd: float
    break_even_tokens: float
    break_even_cap: float
    mean_tokens: float
    capped_share: float


def seat_margin(revenue: PaidBySeat, usd_per_token: float) -> SeatMargin | None:
    """What seats of this use leave at this cost of a token; ``None`` where their use is not known.

    With X the use without a cap, c the cap, P the price and k the cost of a token, t = P / k pays for itself:

        share of loss = P(X > t) if t < c else 0        loss = k (E[min(X, c)] - E[min(X, t)]) for t < c
        margin = P - k E[min(X, c)]                     break-even cap: k E[min(X, c*)] = P, by bisection

    Raises:
        ValueError: the price or the cost is not usable.
    """
    use, price = revenue.use, _seat_price(revenue)
    cost = checked("usd_per_token", usd_per_token, most=1e6, example="0.000002")
    if use is None:
        return None
    pays_for = price / cost if cost > 0.0 and price / cost < 1e30 else math.inf
    uncapped = replace(use, cap=math.inf)
    loses = pays_for < use.cap
    return SeatMargin(
        margin=Margin(price, cost * use.mean),
        loss_share=max(0.0, 1.0 - uncapped.share_below(math.nextafter(pays_for, math.inf))) if loses else 0.0,
        loss_usd=max(0.0, cost * (use.mean - replace(use, cap=pays_for).mean)) if loses else 0.0,
        break_even_tokens=pays_for,
        break_even_cap=_cap_with_mean(uncapped, pays_for),
        mean_tokens=use.mean,
        capped_share=use.at_cap if use.cap < math.inf else 0.0,
    )


def _cap_with_mean(use: LengthLaw, mean: float) -> float:
    """The cap under which this use has so low a mean; ``inf`` where it has it without one.

    E[min(X, c)] rises with c from 0 to E[X] and never passes c, so the root lies at or above the mean.
    """
    if use.mean <= mean:
        return math.inf
    low = high = mean
    while replace(use, cap=high).mean < mean and high < 1e300:
        low, high = high, high * 2.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (middle, high) if replace(use, cap=middle).mean < mean else (low, middle)
    return high


def break_even_users(fixed_usd: float, contribution_usd: float) -> float:
    """Users whose contributions pay for what is spent without any of them: fixed / contribution, rounded up.

    Args:
        fixed_usd: USD per month.
        contribution_usd: what a user leaves beyond the cost of serving it, USD per month.

    Returns:
        A whole number; ``inf`` where a user leaves nothing, so that no number of them pays.

    Raises:
        ValueError: the fixed cost is negative, or a number is not finite.
    """
    fixed = checked("fixed_usd", fixed_usd, most=1e18, example="10000")
    left = checked("contribution_usd", contribution_usd, least=-MOST_USD, most=MOST_USD, example="12.5")
    if fixed == 0.0:
        return 0.0
    return float(math.ceil(fixed / left * (1.0 - 1e-12))) if left > 1e-300 and fixed / left < 1e300 else math.inf
