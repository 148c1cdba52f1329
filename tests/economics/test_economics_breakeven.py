"""Host or buy: break-even volumes over whole replicas against brute force, loads, prices, growth."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tidefleet.economics.breakeven import (
    Hosting,
    break_even_price,
    break_even_price_ratio,
    break_even_utilisation,
    break_even_volume,
    grown,
    host_or_buy,
    months_until,
)

BAD = [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e300, None, "3"]


def cheaper(hosting: Hosting, volume: float, price: float) -> bool:
    return hosting.usd_per_month(volume) <= volume * price / 1e6 * (1 + 1e-9)


def test_one_replica_breaks_even_where_the_api_bill_is_its_cost() -> None:
    found = break_even_volume(Hosting(3000.0, 10e9), 0.60)
    assert found.first == pytest.approx(3000.0 / 0.60e-6)
    assert found.always == pytest.approx(5e9)  # a second replica earns its cost at once: 10B * 0.60 = 2 * 3000
    assert found.replicas == 1


def test_the_stairs_of_whole_replicas_make_hosting_lose_again_before_it_wins_for_good() -> None:
    hosting = Hosting(3000.0, 10e9)
    found = break_even_volume(hosting, 0.40)  # a full replica earns 4000: C = 3000, gain 1000
    assert found.first == pytest.approx(7.5e9)
    assert found.always == pytest.approx(22.5e9)  # step 2 ends at 20B with 6000 of 8000; step 3 starts at 9000 of 8000
    assert not cheaper(hosting, 10.5e9, 0.40)
    assert cheaper(hosting, 15.1e9, 0.40)
    assert not cheaper(hosting, 20.5e9, 0.40)
    assert cheaper(hosting, 30.5e9, 0.40)


def test_hosting_that_costs_more_than_a_full_replica_earns_never_breaks_even() -> None:
    found = break_even_volume(Hosting(3000.0, 10e9), 0.29)
    assert (found.first, found.always, found.replicas) == (math.inf, math.inf, 0)
    exact = break_even_volume(Hosting(3000.0, 10e9), 0.30)
    assert (exact.first, exact.always) == (pytest.approx(10e9), math.inf)


@given(
    cost=st.floats(100.0, 1e5), each=st.floats(1e8, 1e11), price=st.floats(0.01, 10.0), minimum=st.integers(0, 4),
    spare=st.integers(0, 3), fixed=st.floats(0.0, 1e5),
)  # fmt: skip
def test_break_even_volumes_agree_with_trying_every_step(
    *, cost: float, each: float, price: float, minimum: int, spare: int, fixed: float
) -> None:
    hosting = Hosting(cost, each, minimum, spare, fixed)
    gain = price * each / 1e6 - cost
    assume(abs(gain) > 1e-6 * cost)
    found = break_even_volume(hosting, price)
    steps = range(max(1, minimum), 400)
    wins = []  # volumes at which hosting starts to win, step by step; and whether it loses anywhere in the step
    loses = []
    for n in steps:
        usd = (n + spare) * cost + fixed
        low = 0.0 if n == max(1, minimum) else (n - 1) * each
        at = usd / (price / 1e6)
        if at <= n * each * (1 + 1e-9):
            wins.append(max(at, low))
        loses.append(at > low * (1 + 1e-9))
    if found.first < 395 * each:
        assert wins
        assert found.first == pytest.approx(wins[0], rel=1e-6)
        full = found.first / each  # where it is a step's last volume, the next one already needs another replica
        last = abs(full - round(full)) < 1e-6
        assert last or cheaper(hosting, found.first * (1 + 1e-6), price) or found.first > 394 * each
        assert not cheaper(hosting, found.first * (1 - 1e-6), price)
    elif found.first == math.inf:
        assert not wins
    if found.always < 390 * each:
        last = max(n for n, lost in zip(steps, loses, strict=True) if lost)
        assert found.always == pytest.approx(((last + spare) * cost + fixed) / (price / 1e6), rel=1e-6)
        for factor in (1.0001, 1.3, 2.0, 3.7, 10.0):
            assert cheaper(hosting, found.always * factor, price)
    assert found.first <= found.always


@given(price=st.floats(0.01, 100.0), lower=st.floats(0.1, 1.0))
def test_a_cheaper_api_never_lowers_the_break_even_volume(price: float, lower: float) -> None:
    hosting = Hosting(3000.0, 10e9, minimum=1, spare=1)
    dear, cheap = break_even_volume(hosting, price), break_even_volume(hosting, price * lower)
    assert cheap.first >= dear.first * (1 - 1e-9)
    assert cheap.always >= dear.always * (1 - 1e-9)


def test_break_even_load_and_prices_have_their_closed_forms() -> None:
    assert break_even_utilisation(6.0, 20e6, 0.60) == pytest.approx(0.5)
    assert break_even_utilisation(6.0, 5e6, 0.60) == pytest.approx(2.0)
    assert break_even_price_ratio(9e6, 5e6) == pytest.approx(1.8)
    assert break_even_price(0.60, 5e6) == pytest.approx(3.0)
    ratio = break_even_price_ratio(9e6, 5e6)
    assert 3.0 * ratio / 9e6 == pytest.approx(3.0 / 5e6)  # at that ratio both chips' tokens cost the same


def test_the_line_says_what_is_cheaper_with_both_bills_and_both_volumes() -> None:
    hosting = Hosting(3000.0, 10e9)
    found = host_or_buy(hosting, tokens_per_month=12e9, api_usd_per_million_tokens=0.40, api="together/llama-3.3-70b")
    assert (found.choice, found.replicas) == ("Buy", 2)
    assert str(found) == (
        "buy: for 12B tokens a month 2 replicas cost $6,000, together/llama-3.3-70b $4,800; "
        "hosting is cheaper from 7.5B a month, at every volume from 22.5B"
    )
    assert host_or_buy(hosting, tokens_per_month=9e9, api_usd_per_million_tokens=0.40).choice == "Host"
    never = host_or_buy(hosting, tokens_per_month=9e9, api_usd_per_million_tokens=0.20)
    assert "not cheaper at any volume" in never.sentence
    nothing = host_or_buy(hosting, tokens_per_month=0.0, api_usd_per_million_tokens=0.40)
    assert (nothing.choice, nothing.buy_usd_per_month, nothing.host_usd_per_month) == ("Buy", 0.0, 3000.0)


def test_growth_is_compound_and_stops_at_its_cap() -> None:
    assert grown(1e9, growth_per_month=0.1, months=12) == pytest.approx(1e9 * 1.1**12)
    assert grown(1e9, growth_per_month=0.1, months=12, cap=2e9) == 2e9
    assert grown(1e9, growth_per_month=100.0, months=1200, cap=1e15) == 1e15
    assert grown(0.0, growth_per_month=100.0, months=1200) == 0.0
    when = months_until(1e9, 5e9, growth_per_month=0.1)
    assert grown(1e9, growth_per_month=0.1, months=when) == pytest.approx(5e9)
    assert months_until(5e9, 1e9, growth_per_month=0.1) == 0.0
    for never in (
        months_until(1e9, math.inf, growth_per_month=0.1),
        months_until(1e9, 5e9, growth_per_month=0.0),
        months_until(1e9, 5e9, growth_per_month=0.1, cap=4e9),
        months_until(0.0, 5e9, growth_per_month=0.1),
    ):
        assert never == math.inf


@pytest.mark.parametrize("value", BAD)
def test_hostile_numbers_are_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match="usd_per_replica_month is"):
        break_even_volume(Hosting(value, 10e9), 0.4)
    with pytest.raises(ValueError, match="tokens_per_replica_month is"):
        break_even_volume(Hosting(3000.0, value), 0.4)
    with pytest.raises(ValueError, match="api_usd_per_million_tokens is"):
        break_even_volume(Hosting(3000.0, 10e9), value)
    with pytest.raises(ValueError, match="usd_per_hour is"):
        break_even_utilisation(value, 1e6, 0.4)
    with pytest.raises(ValueError, match="tokens_per_chip_hour is"):
        break_even_price_ratio(value, 1e6)
    if value != 0.0:
        with pytest.raises(ValueError, match="tokens_per_month is"):
            host_or_buy(Hosting(3000.0, 10e9), tokens_per_month=value, api_usd_per_million_tokens=0.4)
        with pytest.raises(ValueError, match="volume is"):
            grown(value, growth_per_month=0.1, months=1.0)
    with pytest.raises(ValueError, match="expected at most 1e9 replicas"):
        Hosting(3000.0, 1.0).replicas(1e12)
