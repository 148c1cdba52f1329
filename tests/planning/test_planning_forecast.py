"""Forecasts: the pattern that is known is used, errors of the past calibrate the quantile, and gaps are not zeros."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.planning.forecast import COMMIT_SLOTS, HIGHEST, HORIZON_SLOTS, Forecast, Step, forecast
from tidefleet.planning.slots import DAY_SLOTS, SLOT_SECONDS, WEEK_SLOTS, SlotSeries

MONDAY = 19_676 * DAY_SLOTS


def a_day(slots: np.ndarray, *, weekend: float = 0.4) -> np.ndarray:
    """A smooth day that peaks at noon; weekends have a share of it."""
    day = 1.0 + 0.8 * np.sin(2 * np.pi * (slots % DAY_SLOTS) / DAY_SLOTS - math.pi / 2)
    return day * np.where(slots % WEEK_SLOTS >= 5 * DAY_SLOTS, weekend, 1.0)


def a_series(slots: int, *, noise: float = 0.0, seed: int = 0, scale: float = 1000.0) -> SlotSeries:
    rng = np.random.default_rng(seed)
    shape = a_day(np.arange(slots)) * scale
    factor = rng.gamma(1 / noise**2, noise**2, slots) if noise else np.ones(slots)
    return SlotSeries(MONDAY, np.stack([shape * factor, shape * factor / 4], 1))


def at(slot: int, series: SlotSeries, **options: float) -> Forecast:
    return forecast(series, now=(MONDAY + slot) * SLOT_SECONDS + 1.0, **options)


def test_a_weekly_pattern_is_followed_into_the_weekend() -> None:
    truth = a_day(np.arange(4 * WEEK_SLOTS)) * 1000.0
    friday = 2 * WEEK_SLOTS + 4 * DAY_SLOTS + 48
    found = at(friday, a_series(friday))
    assert found.provenance.step is Step.WEEKLY
    assert found.first == MONDAY + friday
    assert found.point.shape == found.upper.shape == (HORIZON_SLOTS, 2)
    close = np.isclose(found.point[:, 0], truth[friday : friday + HORIZON_SLOTS], rtol=0.1, atol=30)
    assert np.mean(close) > 0.97  # all but the two slots on either side of Friday's last midnight
    assert np.allclose(found.point[:, 1] * 4, found.point[:, 0])


def test_less_than_a_week_gives_the_daily_pattern_and_less_than_a_day_none() -> None:
    three_days = at(3 * DAY_SLOTS, a_series(3 * DAY_SLOTS))
    assert three_days.provenance.step is Step.DAILY
    assert "less than a week" in str(three_days.provenance)
    assert three_days.point[48, 0] == pytest.approx(1800, rel=0.1)
    young = at(90, a_series(90))
    assert young.provenance.step is Step.NOWCAST
    assert "less than a day" in str(young.provenance)
    assert young.highest(MONDAY * SLOT_SECONDS, 3600.0) is None
    assert at(0, a_series(0)).provenance.step is Step.NOWCAST


def test_a_morning_is_known_before_it_comes() -> None:
    night = 2 * WEEK_SLOTS + DAY_SLOTS + 24  # six o'clock: half-way up from midnight to noon
    found = at(night, a_series(night))
    now = (MONDAY + night) * SLOT_SECONDS
    soon, later = found.highest(now, 600.0), found.highest(now, 2 * 3600.0)
    assert soon is not None
    assert later is not None
    assert soon[0] < 1100.0
    assert later[0] > 1350.0


def test_the_highest_of_a_time_covers_every_slot_it_touches() -> None:
    found = at(3 * DAY_SLOTS, a_series(3 * DAY_SLOTS))
    now = found.first * SLOT_SECONDS
    upper = found.upper[:, 0]
    assert found.highest(now, 0.0)[0] == upper[0]
    assert found.highest(now + 890.0, 20.0)[0] == max(upper[:2])
    assert found.highest(now + 10 * SLOT_SECONDS, SLOT_SECONDS)[0] == max(upper[10:12])
    assert found.highest(now + HORIZON_SLOTS * SLOT_SECONDS, 60.0) is None
    assert len(found.committed) == COMMIT_SLOTS


def test_growth_since_last_week_is_followed_and_damped() -> None:
    values = a_series(3 * WEEK_SLOTS).values.copy()
    values[-DAY_SLOTS:] *= 1.5
    found = at(3 * WEEK_SLOTS, SlotSeries(MONDAY, values))
    usual = at(3 * WEEK_SLOTS, a_series(3 * WEEK_SLOTS))
    growth = found.point[:, 0] / usual.point[:, 0]
    assert growth[0] > 1.25
    assert 1.0 < growth[-1] < growth[0]


def test_a_day_of_twenty_times_the_demand_does_not_make_a_forecast_without_bounds() -> None:
    values = a_series(3 * WEEK_SLOTS).values.copy()
    values[-4:] *= 20
    found = at(3 * WEEK_SLOTS, SlotSeries(MONDAY, values))
    assert found.upper.max() <= HIGHEST * np.nanmax(values)
    assert np.isfinite(found.upper).all()


def test_an_outburst_of_minutes_does_not_come_back_a_week_later() -> None:
    values = a_series(2 * WEEK_SLOTS).values.copy()
    values[WEEK_SLOTS + 2 * DAY_SLOTS + 40] *= 1000
    wednesday = 2 * WEEK_SLOTS + 2 * DAY_SLOTS + 36
    values = np.concatenate([values, a_series(wednesday).values[2 * WEEK_SLOTS :]])
    hit, usual = at(wednesday, SlotSeries(MONDAY, values)), at(wednesday, a_series(wednesday))
    assert hit.point[4, 0] < 3.5 * usual.point[4, 0]
    assert hit.point[20, 0] == pytest.approx(usual.point[20, 0], rel=0.3)


def test_a_job_of_every_hour_is_a_pattern() -> None:
    slots = np.arange(3 * DAY_SLOTS)
    rate = np.where(slots % 4 == 1, 400.0, 0.0)
    found = at(len(slots), SlotSeries(MONDAY, np.stack([rate, rate], 1)))
    assert found.upper[:96:4].max() < found.upper[1:96:4].min()


def test_gaps_are_not_zeros() -> None:
    whole = a_series(3 * WEEK_SLOTS)
    values = whole.values.copy()
    rng = np.random.default_rng(1)
    values[rng.random(len(values)) < 0.2] = np.nan
    values[-10:] = np.nan  # nothing has answered for two and a half hours
    holed, full = at(3 * WEEK_SLOTS, SlotSeries(MONDAY, values)), at(3 * WEEK_SLOTS, whole)
    assert holed.provenance.step is Step.WEEKLY
    assert np.allclose(holed.point, full.point, rtol=0.25, atol=40)


def test_a_past_that_ended_long_ago_says_less() -> None:
    series = a_series(3 * WEEK_SLOTS)
    three_days = at(3 * WEEK_SLOTS + 3 * DAY_SLOTS, series)
    assert three_days.provenance.step is Step.WEEKLY
    truth = a_day(np.arange(3 * DAY_SLOTS, 4 * DAY_SLOTS)) * 1000.0
    assert np.allclose(three_days.point[:96, 0], truth, rtol=0.1, atol=40)
    assert at(3 * WEEK_SLOTS + 8 * DAY_SLOTS, series).provenance.step is Step.NOWCAST


def test_what_comes_after_now_is_not_looked_at() -> None:
    values = a_series(3 * WEEK_SLOTS, noise=0.2).values
    cut = 2 * WEEK_SLOTS + 100
    changed = values.copy()
    changed[cut:] = 1e9
    one, two = at(cut, SlotSeries(MONDAY, values.copy())), at(cut, SlotSeries(MONDAY, changed))
    assert np.array_equal(one.upper, two.upper)
    again = at(cut, SlotSeries(MONDAY, values.copy()))
    assert np.array_equal(one.point, again.point)


@pytest.mark.parametrize("quantile", [0.5, 0.8, 0.9, 0.95])
def test_the_quantile_covers_its_share_of_what_comes(quantile: float) -> None:
    series = a_series(5 * WEEK_SLOTS, noise=0.25, seed=3)
    under = []
    for origin in range(3 * WEEK_SLOTS, 5 * WEEK_SLOTS - 96, 13):
        found = at(origin, series, quantile=quantile)
        under += [series.values[origin + lead, 0] <= found.upper[lead, 0] for lead in (0, 3, 15, 95)]
    assert np.mean(under) == pytest.approx(quantile, abs=0.06)


@pytest.mark.parametrize("quantile", [0.0, 1.0, -1.0, math.nan])
def test_a_quantile_must_be_one(quantile: float) -> None:
    with pytest.raises(ValueError, match="quantile"):
        forecast(a_series(DAY_SLOTS), now=MONDAY * SLOT_SECONDS, quantile=quantile)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 5 * WEEK_SLOTS),
    st.integers(0, 300),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 1e-6, 1.0, 1e12]),
    st.floats(0, 0.95),
)
def test_a_forecast_is_finite_and_never_negative(slots: int, late: int, seed: int, scale: float, holes: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.exponential(1.0, (slots, 2)) * scale * (rng.random((slots, 1)) > 0.2)
    values[rng.random(slots) < holes] = np.nan
    found = at(slots + late, SlotSeries(MONDAY, values))
    assert np.isfinite(found.point).all()
    assert np.isfinite(found.upper).all()
    assert (found.point >= 0).all()
    assert (found.upper >= 0).all()
    if len(found.upper):
        assert found.upper.max() <= HIGHEST * np.nanmax(values) + 1e-9
    else:
        assert found.provenance.step is Step.NOWCAST


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-3, 1e6), st.integers(0, 1000))
def test_a_forecast_has_no_scale_of_its_own(factor: float, seed: int) -> None:
    values = a_series(10 * DAY_SLOTS, noise=0.3, seed=seed).values
    one = at(10 * DAY_SLOTS, SlotSeries(MONDAY, values.copy()))
    two = at(10 * DAY_SLOTS, SlotSeries(MONDAY, values * factor))
    assert np.allclose(two.upper, one.upper * factor, rtol=1e-6)


def test_on_a_real_week_the_forecast_beats_yesterday_and_the_newest_value() -> None:
    root = Path(os.environ.get("TIDEFLEET_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    file = root / "traces" / "fleet_shape_7d_10min.csv"
    if not file.exists():
        pytest.skip("no fleet_shape_7d_10min.csv; set TIDEFLEET_SHARED to the directory that has traces/")
    with file.open() as lines:
        rates = np.array([float(row["chat_cn"]) for row in csv.DictReader(lines)])
    rates = rates.reshape(-1, 3) @ np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]]) / 3.0
    week = SlotSeries(MONDAY, rates.reshape(-1, 1))
    errors: dict[str, list[float]] = {"forecast": [], "yesterday": [], "newest": []}
    for origin in range(2 * DAY_SLOTS, WEEK_SLOTS - 4, 5):
        actual = week.values[origin + 3, 0]
        errors["forecast"].append(abs(at(origin, week).point[3, 0] - actual))
        errors["yesterday"].append(abs(week.values[origin + 3 - DAY_SLOTS, 0] - actual))
        errors["newest"].append(abs(week.values[origin - 1, 0] - actual))
    mean = {name: float(np.mean(each)) for name, each in errors.items()}
    assert mean["forecast"] < 0.95 * min(mean["yesterday"], mean["newest"]), mean
