"""The memory of demand: slots, gaps, bounds, and the text that it survives a restart in."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.planning.slots import MAX_SLOTS, SLOT_SECONDS, SlotHistory, SlotSeries, UnusableHistory, slot_of

START = 2_000_000 * SLOT_SECONDS


def a_history(*rates: float | None, period: float = 100.0) -> SlotHistory:
    """One prefill rate per slot, in readings of `period` seconds; None = not read. Decode is a fifth of it."""
    history = SlotHistory()
    for i, rate in enumerate(rates):
        for k in range(1, int(SLOT_SECONDS / period) + 1):
            if rate is not None:
                history.add(START + i * SLOT_SECONDS + k * period, period, rate, rate / 5)
    return history


def prefill(history: SlotHistory) -> list[float]:
    return [float(one) for one in history.series().values[:, 0]]


def test_a_slot_holds_the_mean_of_its_readings() -> None:
    history = SlotHistory()
    for at, rate in ((300.0, 9.0), (600.0, 3.0), (900.0, 6.0), (901.0, 1.0)):
        history.add(START + at, 300.0 if at <= 900 else 1.0, rate, 2 * rate)
    assert history.series().first == slot_of(START)
    assert history.series().values.tolist() == [[6.0, 12.0]]


def test_readings_longer_than_a_slot_count_in_each_of_them() -> None:
    history = SlotHistory()
    history.add(START + 3 * SLOT_SECONDS, 3 * SLOT_SECONDS, 7.0, 1.0)
    assert prefill(history) == [7.0, 7.0, 7.0]


def test_what_was_not_measured_is_a_gap_and_not_zero() -> None:
    history = a_history(5.0, None, None, 0.0, 8.0)
    values = prefill(history)
    assert values[0] == 5.0
    assert math.isnan(values[1])
    assert math.isnan(values[2])
    assert values[3:] == [0.0, 8.0]


def test_a_slot_that_readings_hardly_cover_is_a_gap() -> None:
    history = SlotHistory()
    history.add(START + 300.0, 300.0, 5.0, 5.0)
    history.add(START + SLOT_SECONDS + 600.0, 600.0, 6.0, 6.0)
    history.add(START + 2 * SLOT_SECONDS + 1.0, 1.0, 6.0, 6.0)
    values = prefill(history)
    assert math.isnan(values[0])
    assert values[1] == 6.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 1e16])
def test_a_faulty_sample_is_left_out(bad: float) -> None:
    history = a_history(5.0)
    history.add(START + 950.0, 50.0, bad, 1.0)
    history.add(START + 960.0, 50.0, 1.0, bad)
    history.add(START + 970.0, bad if bad != 1e16 else math.nan, 1.0, 1.0)
    history.add(math.nan, 50.0, 1.0, 1.0)
    assert prefill(history) == [5.0]
    assert history.end == slot_of(START) + 1


def test_time_that_goes_back_is_ignored() -> None:
    history = a_history(5.0, 6.0)
    history.add(START + 10.0, 10.0, 1e6, 1e6)
    assert prefill(history) == [5.0, 6.0]


def test_five_weeks_are_kept_and_no_more() -> None:
    history = SlotHistory()
    for day in range(50):
        history.add(START + (day + 1) * 86_400.0, 86_400.0, float(day), 0.0)
    series = history.series()
    assert MAX_SLOTS - 2 * 96 <= len(series.values) <= MAX_SLOTS
    assert series.end == slot_of(START) + 50 * 96
    assert series.values[-1, 0] == 49.0
    assert history._values.nbytes <= MAX_SLOTS * 8


def test_a_silence_of_years_costs_nothing() -> None:
    history = a_history(5.0)
    history.add(START + 1e9, 900.0, 7.0, 7.0)
    history.add(START + 1e9 + 900, 900.0, 7.0, 7.0)
    assert len(history.series().values) < 10
    assert prefill(history)[-1] == 7.0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1e9)), min_size=1, max_size=30))
def test_a_history_survives_in_text_to_within_a_percent(rates: list[float | None]) -> None:
    history = a_history(*rates, period=450.0)
    again = SlotHistory.unpack(history.pack(), now=START + 1e6)
    one, two = history.series(), again.series()
    assert (one.first, one.end) == (two.first, two.end)
    assert np.array_equal(np.isnan(one.values), np.isnan(two.values))
    known = np.isfinite(one.values)
    assert np.allclose(one.values[known], two.values[known], rtol=0.0051, atol=1e-4)
    again.add(START + 60 * SLOT_SECONDS, SLOT_SECONDS, 3.0, 3.0)
    assert prefill(again)[-1] == 3.0


def test_a_history_from_a_clock_ahead_is_cut_at_now() -> None:
    history = a_history(1.0, 2.0, 3.0)
    again = SlotHistory.unpack(history.pack(), now=START + 2 * SLOT_SECONDS + 5)
    assert prefill(again) == pytest.approx([1.0, 2.0], rel=0.01)
    again.add(START + 3 * SLOT_SECONDS, SLOT_SECONDS, 9.0, 9.0)
    assert prefill(again)[-1] == 9.0


def test_five_weeks_of_traffic_take_less_than_ten_kilobytes() -> None:
    rng = np.random.default_rng(0)
    history = SlotHistory()
    for i in range(MAX_SLOTS):
        rate = rng.gamma(50.0, 100.0 * (1 + 0.5 * math.sin(i / 96 * 2 * math.pi)))
        history.add(START + (i + 1) * SLOT_SECONDS, SLOT_SECONDS, rate, rate / 4)
    assert len(history.pack()) < 10_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "2:1:1:AAAA",
        "1:1:1:!!!!",
        "1:1:1:AAAA",
        "1:1:999999:eJwDAAAAAAE=",
        "1:-1:1:eJwDAAAAAAE=",
        "1:1:1:eJwDAAAAAAE=",
        "1:1:3:" + "A" * 70_000,
        SlotHistory().pack().replace("1:0:0:", "1:0:5:"),
    ],
)
def test_a_text_that_is_no_history_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(UnusableHistory, match="expected"):
        SlotHistory.unpack(text, now=START)


def test_a_series_cannot_be_changed_and_has_two_axes() -> None:
    series = a_history(5.0).series()
    with pytest.raises(ValueError):
        series.values[0] = 1.0
    with pytest.raises(ValueError, match="shape"):
        SlotSeries(0, np.zeros(3))
