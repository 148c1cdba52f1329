"""What tokens earn by each way of paying, what that leaves, and which seats cost more than they pay."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from tidefleet.economics.external import PerToken, TokenVector, token_usd
from tidefleet.economics.external import margin as margin_share
from tidefleet.economics.lognormal import LengthLaw
from tidefleet.economics.revenue import (
    Account,
    ChargedBack,
    Free,
    Margin,
    PaidBySeat,
    PaidByToken,
    break_even_users,
    margins,
    month_revenue_usd,
    prices_of,
    seat_margin,
    seat_use,
)

USAGE = PaidByToken(input=2.0, output=10.0, cached_input=0.2, cache_write=2.5, batch_discount=0.5)
MONTH = TokenVector(uncached_input=3e9, cached_input=6e9, output=1e9, cache_write=1e9)
SEATS = PaidBySeat(20.0, 5000, seat_use(2e6, 7e6, cap=9e6))


SEATS_SAMPLED = 100_000
NORMALS = np.array([NormalDist().inv_cdf((i + 0.5) / SEATS_SAMPLED) for i in range(SEATS_SAMPLED)])
"""The middles of as many equal parts of the normal law's quantiles."""


def sampled(use: LengthLaw) -> np.ndarray:
    """Tokens of as many seats without a cap."""
    return np.exp(use.mu + use.sigma * NORMALS)


def test_tokens_earn_their_prices_by_kind() -> None:
    usd = 2e9 * 2.0 + 1e9 * 2.5 + 6e9 * 0.2 + 1e9 * 10.0
    assert month_revenue_usd(USAGE, MONTH) == pytest.approx(usd / 1e6)
    assert month_revenue_usd(USAGE, MONTH, batch=True) == pytest.approx(usd / 2e6)


def test_what_we_charge_is_what_an_api_of_the_same_prices_bills() -> None:
    offer = PerToken(input=2.0, output=10.0, cached_input=0.2, cache_write=2.5, batch_discount=0.5)
    for batch in (False, True):
        assert month_revenue_usd(USAGE, MONTH, batch=batch) == pytest.approx(token_usd(MONTH, offer, batch=batch))


def test_cached_and_written_tokens_without_a_price_of_their_own_are_input() -> None:
    plain = PaidByToken(input=2.0, output=10.0)
    assert month_revenue_usd(plain, MONTH) == pytest.approx((9e9 * 2.0 + 1e9 * 10.0) / 1e6)


def test_an_internal_rate_counts_every_token_and_free_ones_earn_nothing() -> None:
    assert month_revenue_usd(ChargedBack(0.8), MONTH) == pytest.approx(10e9 * 0.8 / 1e6)
    assert month_revenue_usd(Free(), MONTH) == 0.0


def test_seats_pay_by_the_month_and_their_tokens_share_that() -> None:
    assert month_revenue_usd(SEATS, MONTH) == 100_000.0
    prices = prices_of(SEATS)
    assert prices is not None
    assert prices.usd(1e6, 0.5e6, 0.5e6) == pytest.approx(20.0), "what a mean seat uses earns its price"
    assert prices_of(PaidBySeat(20.0, 5000)) is None


def test_the_seats_that_cost_more_than_they_pay_are_those_beyond_what_the_price_buys() -> None:
    """Against a sum over 100,000 seats."""
    cost = 6e-6
    found = seat_margin(SEATS, cost)
    assert found is not None
    assert SEATS.use is not None
    tokens = np.minimum(sampled(SEATS.use), SEATS.use.cap)
    spent = tokens * cost
    assert found.margin.usd == pytest.approx(20.0 - spent.mean(), rel=1e-4)
    assert found.loss_share == pytest.approx((spent > 20.0).mean(), abs=2e-5)
    assert found.loss_share > 0.1
    assert found.loss_usd == pytest.approx(np.maximum(spent - 20.0, 0.0).mean(), rel=1e-4)
    assert found.capped_share == pytest.approx((tokens >= SEATS.use.cap).mean(), abs=2e-5)


def test_a_cap_at_what_the_price_buys_leaves_no_seat_at_a_loss() -> None:
    found = seat_margin(PaidBySeat(20.0, 5000, seat_use(2e6, 3e6, cap=3.2e6)), 20.0 / 3.2e6)
    assert found is not None
    assert (found.loss_share, found.loss_usd) == (0.0, 0.0)
    assert found.break_even_tokens == pytest.approx(3.2e6)


def test_the_break_even_cap_makes_a_mean_seat_cost_what_it_pays() -> None:
    seats = PaidBySeat(20.0, 5000, seat_use(2e6, 7e6))
    cost = 12e-6
    found = seat_margin(seats, cost)
    assert found is not None
    assert seats.use is not None
    assert found.margin.usd < 0.0
    assert np.minimum(sampled(seats.use), found.break_even_cap).mean() * cost == pytest.approx(20.0, rel=1e-4)
    assert found.break_even_cap > found.break_even_tokens, "seats below the mean pay for some above"


def test_seats_that_pay_without_a_cap_need_none() -> None:
    found = seat_margin(PaidBySeat(20.0, 5000, seat_use(2e6, 7e6)), 1e-6)
    assert found is not None
    assert found.break_even_cap == math.inf
    free = seat_margin(PaidBySeat(20.0, 5000, seat_use(2e6, 7e6)), 0.0)
    assert free is not None
    assert (free.loss_share, free.break_even_tokens) == (0.0, math.inf)
    assert seat_margin(PaidBySeat(20.0, 5000), 1e-6) is None


@pytest.mark.parametrize(("cost", "share"), [(9.9e-6, 0.0), (1e-5, 0.0), (1.01e-5, 1.0)])
def test_seats_that_all_use_the_same_all_lose_or_none(cost: float, share: float) -> None:
    found = seat_margin(PaidBySeat(20.0, 1, LengthLaw(math.log(2e6), 0.0)), cost)
    assert found is not None
    assert found.loss_share == share


def test_users_break_even_where_their_contributions_pay_what_is_fixed() -> None:
    assert break_even_users(10_000.0, 12.5) == 800.0
    assert break_even_users(10_001.0, 12.5) == 801.0
    assert break_even_users(0.0, -1.0) == 0.0
    assert break_even_users(10_000.0, 0.0) == math.inf
    assert break_even_users(10_000.0, -3.0) == math.inf


def test_margins_by_class_pool_and_tenant_sum_to_the_same() -> None:
    rng = np.random.default_rng(8)
    accounts = [
        Account(f"pool-{rng.integers(3)}", f"class-{rng.integers(5)}", f"tenant-{rng.integers(40)}", *rng.random(2))
        for _ in range(500)
    ]
    accounts.append(Account("pool-0", "class-0", "", None, 3.0))
    for key in (lambda one: one.wclass, lambda one: one.pool, lambda one: one.tenant):
        found = margins(accounts, key)
        whole = sum(found.values(), Margin(0.0, 0.0))
        assert whole.cost_usd == pytest.approx(sum(one.cost_usd for one in accounts))
        assert whole.revenue_usd == pytest.approx(sum(one.revenue_usd or 0.0 for one in accounts))
    assert margins(accounts, lambda one: one.tenant)[""] == Margin(0.0, 3.0)


def test_a_margin_is_revenue_over_cost_less_one() -> None:
    assert Margin(562_027.0, 87_072.0).share == pytest.approx(margin_share(562_027.0, 87_072.0))
    assert Margin(0.0, 5.0).share == -1.0
    assert Margin(5.0, 0.0).share is None
    assert Margin(3.0, 5.0).usd == -2.0


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda: seat_use(5e6, 0.0, cap=1e6), "tokensPerSeatMonth.mean is 5e+06; expected at most capTokensPerMonth"),
        (lambda: seat_use(5e5, 2e6, cap=1e6), "tokensPerSeatMonth.p95 is 2e+06; expected at most capTokensPerMonth"),
        (lambda: seat_use(math.nan), "tokensPerSeatMonth.mean is nan"),
        (lambda: seat_use(1e6, cap=0.0), "capTokensPerMonth is 0"),
        (lambda: prices_of(PaidByToken(-1.0, 2.0)), "usdPerMillionInputTokens is -1.0"),
        (lambda: prices_of(PaidByToken(1.0, math.inf)), "usdPerMillionOutputTokens is inf"),
        (lambda: prices_of(PaidByToken(1.0, 2.0, cached_input=math.nan)), "usdPerMillionCachedInputTokens is nan"),
        (lambda: prices_of(PaidByToken(1.0, 2.0, batch_discount=1.5)), "batchDiscount is 1.5"),
        (lambda: prices_of(ChargedBack(-0.1)), "usdPerMillionTokens is -0.1"),
        (lambda: prices_of(PaidBySeat(0.0, 1, seat_use(1e6))), "usdPerMonth is 0.0"),
        (lambda: month_revenue_usd(USAGE, TokenVector(1.0, 0.0, 0.0, cache_write=2.0)), "cache_write is 2"),
        (lambda: month_revenue_usd(USAGE, TokenVector(-1.0, 0.0, 0.0)), "uncached_input is -1.0"),
        (lambda: month_revenue_usd(PaidBySeat(20.0, -1), MONTH), "seats is -1"),
        (lambda: seat_margin(SEATS, -1.0), "usd_per_token is -1.0"),
        (lambda: break_even_users(-1.0, 1.0), "fixed_usd is -1.0"),
        (lambda: break_even_users(1.0, math.nan), "contribution_usd is nan"),
        (lambda: margins([Account("p", "c", "t", 1.0, -2.0)], lambda one: one.pool), "cost_usd is -2.0"),
    ],
)
def test_what_contradicts_itself_is_named(made: object, named: str) -> None:
    with pytest.raises(ValueError, match="expected") as told:
        made()  # type: ignore[operator]
    assert named in str(told.value)
    assert "e.g." in str(told.value)


def test_a_request_pays_for_what_is_written_only_where_its_client_asked_for_that() -> None:
    prices = prices_of(USAGE)
    assert prices is not None
    found = prices.request_usd(1000.0, 600.0, 100.0)
    assert found == pytest.approx((400 * 2.0 + 600 * 0.2 + 100 * 10.0) / 1e6)
    written = prices.request_usd(1000.0, 600.0, 100.0, writes_cache=True)
    assert written == pytest.approx((400 * 2.5 + 600 * 0.2 + 100 * 10.0) / 1e6)
    assert prices.request_usd(1000.0, 600.0, 100.0, batch=True) == pytest.approx(found / 2)
    assert prices.request_usd(1000.0, 5000.0, 0.0) == pytest.approx(1000 * 0.2 / 1e6), "no more is found than there is"
