"""What a flip costs and which quantile of demand serving keeps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidefleet.flipping.value import FlipTimes, LostCache, Preemption, Worth, flip_cost, loan_quantile

TIMES = FlipTimes(drain_seconds=120, start_seconds=60, checkpoint_seconds=21, load_seconds=48, warm_seconds=51)


def test_the_quantile_is_the_newsvendors() -> None:
    found = loan_quantile(penalty_multiple=3, margin_usd_per_chip_hour=1.5, value_usd_per_chip_hour=0.5)
    assert found == pytest.approx(0.9)


@given(st.floats(0, 20), st.floats(0, 20), st.floats(0.01, 20), st.floats(0.01, 20))
def test_a_dearer_miss_keeps_more_and_dearer_training_less(pi: float, margin: float, value: float, more: float) -> None:
    def quantile(pi: float, value: float) -> float:
        return loan_quantile(penalty_multiple=pi, margin_usd_per_chip_hour=margin, value_usd_per_chip_hour=value)

    assert 0.5 <= quantile(pi, value) <= quantile(pi + more, value) <= 1.0
    assert quantile(pi, value) >= quantile(pi, value + more)


def test_the_quantile_never_plans_to_be_short_and_loans_nothing_for_nothing() -> None:
    assert loan_quantile(penalty_multiple=1, margin_usd_per_chip_hour=-2.0, value_usd_per_chip_hour=1.0) == 0.5
    assert loan_quantile(penalty_multiple=3, margin_usd_per_chip_hour=2.0, value_usd_per_chip_hour=0.0) == 1.0
    assert loan_quantile(penalty_multiple=0, margin_usd_per_chip_hour=0.0, value_usd_per_chip_hour=0.0) == 1.0


def test_a_flip_costs_its_time_what_a_recall_loses_and_what_is_forgotten() -> None:
    cost = flip_cost(
        chips=8,
        value_usd_per_chip_hour=1.5,
        times=TIMES,
        preemption=Preemption(probability=0.25, checkpoint_interval_seconds=1800, restart_seconds=300),
        cache=LostCache(tokens=2e6, usd_per_token=2e-7, reuse_probability=0.5),
    )
    assert TIMES.round_trip_seconds == 300
    assert cost.time_usd == pytest.approx(8 * 1.5 * 300 / 3600)
    assert cost.preemption_usd == pytest.approx(0.25 * 8 * 1.5 * 1200 / 3600)
    assert cost.cache_usd == pytest.approx(0.2)
    assert cost.usd == pytest.approx(1.0 + 1.0 + 0.2)


def test_what_is_not_said_costs_nothing() -> None:
    cost = flip_cost(chips=1, value_usd_per_chip_hour=0.0, times=TIMES)
    assert (cost.usd, cost.preemption_usd, cost.cache_usd) == (0.0, 0.0, 0.0)


def test_worth_tells_both_sides() -> None:
    assert Worth(1234.5, 3.2).words == "saves 1,234.50 USD, costs 3.20 USD"
    assert Worth(0.0012, 0.0).words == "saves 0.0012 USD, costs 0.00 USD"
    assert Worth(4.0, 3.0).holds
    assert Worth(4.0, 3.0).net_usd == 1.0
    assert not Worth(3.0, 3.0).holds
    assert not Worth(math.nan, 3.0).holds


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_numbers_that_make_no_sense_are_refused_by_name(wrong: float) -> None:
    with pytest.raises(ValueError, match="FlipTimes: load_seconds is"):
        FlipTimes(1, 1, 1, wrong, 1)
    with pytest.raises(ValueError, match="LostCache: tokens is"):
        LostCache(tokens=wrong)
    with pytest.raises(ValueError, match=r"Preemption: probability is .*; expected a share from 0 to 1"):
        Preemption(probability=wrong)
    with pytest.raises(ValueError, match="value_usd_per_chip_hour is"):
        flip_cost(chips=8, value_usd_per_chip_hour=wrong, times=TIMES)
    with pytest.raises(ValueError, match="penalty_multiple is"):
        loan_quantile(penalty_multiple=wrong, margin_usd_per_chip_hour=1.0, value_usd_per_chip_hour=1.0)


def test_a_node_without_chips_and_a_margin_that_is_no_number_are_refused() -> None:
    with pytest.raises(ValueError, match="chips is 0; expected a positive integer"):
        flip_cost(chips=0, value_usd_per_chip_hour=1.0, times=TIMES)
    with pytest.raises(ValueError, match="margin_usd_per_chip_hour is nan"):
        loan_quantile(penalty_multiple=1.0, margin_usd_per_chip_hour=math.nan, value_usd_per_chip_hour=1.0)
