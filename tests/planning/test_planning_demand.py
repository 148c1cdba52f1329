"""Demand: what is remembered, when it may lower replicas, and how measured lengths replace stated ones."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.economics.shape import TokenShape
from tidefleet.planning.demand import (
    MEAN_SECONDS,
    DemandHistory,
    Ground,
    Known,
    Lengths,
    is_usable,
    observed_shapes,
    planned_demand,
    with_shares,
)
from tidefleet.planning.options import ClassDemand
from tidefleet.planning.spending import SpendingLedger
from tidefleet.planning.words import brief, rounded, rounded_down


def a_history(*readings: tuple[float, float], window: float = 600.0) -> DemandHistory:
    history = DemandHistory(window)
    for at, rate in readings:
        history.add(Known(at, rate, "Engines"))
    return history


def test_scaling_up_follows_the_newest_reading_at_once() -> None:
    assert a_history((0, 5.0), (15, 50.0)).planned_rate(15) == 50.0


def test_scaling_down_follows_the_highest_of_the_window() -> None:
    history = a_history((0, 50.0), (301, 5.0), (890, 4.0))
    assert history.planned_rate(301) == 50.0
    assert history.planned_rate(601) == 5.0
    assert history.planned_rate(902) == 4.0


def test_the_mean_of_five_minutes_counts_where_it_is_higher_than_the_newest_reading() -> None:
    history = a_history((0, 9.0), (60, 9.0), (120, 3.0), window=30.0)
    assert history.planned_rate(120) == 7.0


def test_a_clock_that_is_set_back_freezes_no_demand_and_lowers_nothing() -> None:
    history = DemandHistory(600.0, max_gap_seconds=60.0)
    for at in range(3600, 4800, 15):
        history.add(Known(float(at), 10.0, "Engines"))
    history.add(Known(4770.0, 99.0, "Engines"))  # late by seconds: it says nothing more
    assert history.planned_rate(4785.0) == 10.0
    history.add(Known(1000.0, 20.0, "Engines"))
    history.add(Known(1015.0, 30.0, "Engines"))
    assert history.planned_rate(1015.0) == 30.0
    assert not history.spans_window(1015.0)


def test_a_reading_counts_as_far_as_chance_does_not_explain_it() -> None:
    def after(rate: float) -> float:
        history = DemandHistory(0.0)
        for at in range(0, 150, 15):
            history.add(Known(float(at), 10.0, "Engines", seconds=15.0))
        history.add(Known(150.0, rate, "Engines", seconds=15.0))
        return history.planned_rate(150.0)

    # 165 requests in 15 s where 150 come on average are within 1.5 standard deviations (13 each): chance.
    assert after(11.0) == pytest.approx(10.0, abs=0.1)
    # 600 are not: all but 1.5 * sqrt(600) / 15 = 2.4 of the 40 requests/s are followed at once.
    assert after(40.0) == pytest.approx(37.55, abs=0.01)


def test_a_young_history_lowers_nothing() -> None:
    history = a_history((100, 5.0), (500, 5.0))
    assert not history.spans_window(699)
    assert history.spans_window(700)
    assert not DemandHistory(600.0).spans_window(1e9)
    assert DemandHistory(600.0).planned_rate(1e9) == 0.0


def test_nobody_knows_what_happened_in_a_gap() -> None:
    history = DemandHistory(600.0, max_gap_seconds=60.0)
    for at in (*range(0, 700, 50), 800):  # nothing between 650 and 800
        history.add(Known(float(at), 5.0, "Engines"))
    assert not history.spans_window(800)
    for at in range(850, 1450, 50):
        history.add(Known(float(at), 5.0, "Engines"))
    assert history.spans_window(1400)
    assert not history.spans_window(1461)  # the newest is too old itself


def test_a_long_silence_leaves_the_last_reading_in_force() -> None:
    history = a_history((0, 50.0), (400, 7.0))
    assert history.planned_rate(10_000) == 7.0


def test_readings_that_go_back_in_time_are_ignored() -> None:
    history = a_history((100, 5.0), (50, 99.0), (100, 99.0))
    assert history.planned_rate(100) == 5.0


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 5000).map(float), st.integers(0, 100).map(float)), min_size=1, max_size=40),
    st.integers(0, 1000).map(float),
)
def test_the_planned_rate_is_at_least_the_newest_and_at_most_the_highest_within_reach(
    readings: list[tuple[float, float]], window: float
) -> None:
    history = a_history(*readings, window=window)
    kept: list[tuple[float, float]] = []
    for at, rate in readings:
        if not kept or at > kept[-1][0]:
            kept.append((at, rate))
    now, newest = kept[-1]
    recent = [rate for at, rate in kept if at > now - window] or [newest]
    reach = [rate for at, rate in kept if at > now - window - MEAN_SECONDS] or [newest]
    assert max(recent) <= history.planned_rate(now) <= max(reach) + 1e-9
    assert history.spans_window(now) == (kept[0][0] <= now - window)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-9])
def test_nonsense_is_not_usable(value: float) -> None:
    assert not is_usable(value)
    assert is_usable(0.0)


@settings(deadline=None, max_examples=100)
@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 0.1))
def test_the_highest_of_nowcast_forecast_and_what_is_declared_is_planned_for(now, foreseen, declared, step) -> None:
    found = planned_demand(now, foreseen=foreseen, declared=declared, step=step)
    assert found.requests_per_second == max(now, foreseen, declared)
    named = {Ground.NOWCAST: now, Ground.FORECAST: foreseen, Ground.DECLARED: declared}[found.ground]
    assert found.requests_per_second <= named * (1 + step)


# --- lengths ---------------------------------------------------------------------------------------------------------


def a_class(name: str, share: float, into: float, out: float, cached: float = 0.2) -> ClassDemand:
    return ClassDemand(name, share, TokenShape(into, out, into * 3, out * 3, cached))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.floats(10, 50_000), st.floats(10, 5000)), min_size=1, max_size=4),
    st.floats(10, 100_000),
    st.floats(10, 10_000),
    st.floats(0, 1),
)
def test_the_mix_takes_on_the_measured_means(parts, into, out, hits) -> None:
    classes = with_shares((a_class(f"c{i}", 0.0, a, b), weight) for i, (weight, a, b) in enumerate(parts))
    assert sum(one.share for one in classes) == pytest.approx(1)
    after = observed_shapes(classes, Lengths().follow(Known(0.0, 1.0, "Engines", into, out, hits)))
    assert sum(one.share * one.shape.input_mean for one in after) == pytest.approx(into, rel=0.006)
    assert sum(one.share * one.shape.output_mean for one in after) == pytest.approx(out, rel=0.006)
    for one, before in zip(after, classes, strict=True):
        assert one.shape.input_p95 == pytest.approx(3 * one.shape.input_mean)
        assert one.shape.cached_share == pytest.approx(min(0.98, hits), abs=0.006)
        assert one.share == before.share


def test_noise_gives_the_same_lengths_and_so_the_same_plan() -> None:
    used = Lengths().follow(Known(0, 1, "Engines", 1500, 210, 0.31))
    for factor in (1.05, 0.95, 1.02):
        assert used.follow(Known(0, 1, "Engines", 1500 * factor, 210 * factor, 0.31 * factor)) == used
    assert used.follow(Known(0, 1, "Engines", 1700, 210, 0.31)).input_tokens == 1700
    assert used.follow(Known(0, 1, "Engines", 1700, 210, 0.31, length_count=30.0)) == used
    assert used.follow(Known(0, 1, "Engines", 9000, 900, 0.31, length_count=24.0)) == used
    assert Lengths().follow(Known(0, 1, "Engines", 1550, 215, 0.33), used) == Lengths()
    assert Lengths().follow(Known(0, 1, "Engines", 1700, 215, 0.33), used) == Lengths(1700.0)
    assert used.follow(Known(0, 1, "Engines", 1500, 210, 0.5)).hit_share == 0.5


def test_what_was_not_measured_stays_as_it_was() -> None:
    classes = (a_class("chat", 1.0, 1000, 200),)
    assert observed_shapes(classes, Lengths()) == classes
    assert Lengths().follow(Known(0, 1, "Engines", input_tokens=0.0, output_tokens=0.0)) == Lengths()
    assert Lengths(1500.0, 210.0, 0.3).follow(Known(0, 1, "Engines")) == Lengths(1500.0, 210.0, 0.3)


def test_shares_without_weights_are_even() -> None:
    even = with_shares((a_class(name, 0.0, 1, 1), 0.0) for name in "ab")
    assert [one.share for one in even] == [0.5, 0.5]
    assert with_shares([]) == ()


# --- spending --------------------------------------------------------------------------------------------------------


def test_an_hours_decisions_may_add_so_much_and_no_more() -> None:
    ledger = SpendingLedger()
    ledger.note(0.0, 10.0)
    assert ledger.ceiling(60.0, 5.0) == 15.0
    ledger.note(60.0, 15.0)
    assert ledger.ceiling(3600.0, 5.0) == 15.0  # the lowest of the last hour is still 10
    assert ledger.ceiling(3601.0, 5.0) == 20.0
    assert SpendingLedger().ceiling(0.0, 5.0) == 5.0


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.floats(1, 1000), st.floats(0, 500)), min_size=1, max_size=60), st.floats(1, 50))
def test_rent_never_rises_by_more_than_the_limit_within_an_hour(steps, limit) -> None:
    ledger, now, past = SpendingLedger(), 0.0, [(0.0, 0.0)]
    ledger.note(0.0, 0.0)
    for seconds, wished in steps:
        now += seconds
        rent = min(wished, ledger.ceiling(now, limit))
        ledger.note(now, rent)
        past.append((now, rent))
        lowest = min(one for at, one in past if at >= now - 3600)
        assert rent <= lowest + limit + 1e-9 or lowest == rent


# --- numbers in words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.4234, "0.42"),
        (7.26, "7.3"),
        (1234.0, "1,200"),
        (0.000012345, "0.000012"),
        (99.6, "100"),
        (-3.14, "-3.1"),
    ],
)
def test_numbers_are_short_and_without_exponents(value: float, text: str) -> None:
    assert brief(value) == text


@settings(deadline=None, max_examples=300)
@given(st.floats(1e-9, 1e12), st.integers(1, 4))
def test_rounding_keeps_so_many_digits(value: float, digits: int) -> None:
    text = brief(value, digits)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(rounded(value, digits))
    assert rounded(value, digits) == pytest.approx(value, rel=0.5 * 10 ** (1 - digits) + 1e-12)
    assert rounded_down(value, digits) <= value
    assert rounded_down(value, digits) == pytest.approx(value, rel=10 ** (1 - digits) + 1e-12)
