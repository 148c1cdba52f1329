"""Lengths: laws from a mean and a 95th percentile, caps, and sums without chance."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidefleet.economics.lognormal import HIGHEST_P95_TO_MEAN, ZERO, law
from tidefleet.economics.spread import fixed, mixed, of_law, repeated

BAD = [math.nan, math.inf, -math.inf, -1.0, 1e300, True, None, "300", [1]]


@pytest.mark.parametrize(("mean", "p95"), [(1800.0, 6000.0), (204.0, 451.0), (100.0, 101.0), (1.0, 3.8), (1e-3, 2e-3)])
def test_a_law_has_the_mean_and_the_95th_percentile_it_was_made_from(mean: float, p95: float) -> None:
    found = law(mean, p95)
    assert found.mean == pytest.approx(mean)
    assert found.quantile(0.95) == pytest.approx(p95)
    assert found.share_below(p95) == pytest.approx(0.95)
    assert found.note == ""


def test_the_moments_are_those_of_the_textbook() -> None:
    found = law(math.exp(0.5), math.exp(NormalDist().inv_cdf(0.95)))  # mu = 0, sigma = 1
    assert (found.mu, found.sigma) == (pytest.approx(0.0, abs=1e-9), pytest.approx(1.0))
    assert found.second_moment == pytest.approx(math.exp(2.0))
    assert found.variance == pytest.approx(math.exp(2.0) - math.exp(1.0))
    assert found.quantile(0.5) == pytest.approx(1.0)
    assert found.mean_between(0.0, 1.0) == pytest.approx(found.mean)


def test_a_mean_alone_is_a_fixed_length_and_zero_stays_zero() -> None:
    assert law(300.0).quantile(0.99) == pytest.approx(300.0)
    assert law(300.0).variance == 0.0
    assert (law(0.0).mean, law(0.0).quantile(0.99), law(0.0).variance) == (0.0, 0.0, 0.0)
    assert (ZERO.mean, ZERO.share_below(1.0)) == (0.0, 1.0)


def test_what_no_lognormal_can_have_is_said_and_the_mean_is_kept() -> None:
    wide = law(1430.0, 8419.0)
    assert wide.mean == pytest.approx(1430.0)
    assert wide.quantile(0.95) == pytest.approx(1430.0 * HIGHEST_P95_TO_MEAN)
    assert "p95 of 8419" in wide.note
    assert "5531" in wide.note
    low = law(1000.0, 900.0)
    assert low.quantile(0.95) == pytest.approx(1000.0)
    assert "p95 of 900" in low.note


def test_a_stated_mean_and_p95_are_those_that_the_engine_reports_under_its_cap() -> None:
    found = law(2000.0, 8000.0, 16000.0)
    assert found.mean == pytest.approx(2000.0)
    assert found.quantile(0.95) == pytest.approx(8000.0)
    assert found.quantile(0.999) == 16000.0
    half_cut = law(2000.0, 16000.0, 16000.0)
    assert half_cut.mean == pytest.approx(2000.0)
    assert half_cut.at_cap == pytest.approx(0.05)


def test_the_capped_mean_is_the_integral_of_the_capped_quantile_function() -> None:
    found = law(1800.0, 6000.0).capped(4000.0)
    shares = (np.arange(200_000) + 0.5) / 200_000
    lengths = np.minimum(4000.0, np.exp(found.mu + found.sigma * np.array([NormalDist().inv_cdf(s) for s in shares])))
    assert found.mean == pytest.approx(lengths.mean(), rel=1e-4)
    assert found.second_moment == pytest.approx((lengths**2).mean(), rel=1e-4)


@given(
    mean=st.floats(1e-3, 1e9), ratio=st.floats(1.0, 20.0), caps=st.lists(st.floats(1.0, 1e4), min_size=2, max_size=2)
)
def test_a_tighter_cap_never_lengthens_anything(mean: float, ratio: float, caps: list[float]) -> None:
    free = law(mean, mean * ratio)
    tight, loose = sorted(cap * mean for cap in caps)
    assert free.capped(tight).mean <= free.capped(loose).mean * (1 + 1e-9) <= free.mean * (1 + 1e-6)
    assert free.capped(tight).mean <= tight * (1 + 1e-9)
    assert free.capped(tight).quantile(0.99) <= free.capped(loose).quantile(0.99)


@given(mean=st.floats(0.0, 1e12), p95=st.floats(0.0, 1e12), cap=st.floats(0.0, 1e12))
def test_a_law_keeps_its_mean_whatever_is_stated(mean: float, p95: float, cap: float) -> None:
    if mean > cap:
        with pytest.raises(ValueError, match="at most the cap"):
            law(mean, p95, cap)
        return
    found = law(mean, p95, cap)
    assert found.mean == pytest.approx(mean, rel=1e-6)
    assert found.quantile(0.5) <= found.quantile(0.95) <= found.quantile(0.99) <= cap


@pytest.mark.parametrize("value", BAD)
def test_a_length_that_is_no_number_is_refused_by_name(value: object) -> None:
    for name, arguments in (("mean", (value, 10.0)), ("p95", (5.0, value))):
        with pytest.raises(ValueError, match=rf"{name} is .*expected a number.*e\.g\."):
            law(*arguments)  # type: ignore[arg-type]
    if value not in (math.inf, 1e300):  # no cap at all
        with pytest.raises(ValueError, match="cap is"):
            law(5.0, 10.0, value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="share is"):
        law(5.0, 10.0).quantile(1.0)


# --- spreads ---------------------------------------------------------------------------------------------------------


def test_a_spread_has_the_mean_and_the_tail_of_its_law() -> None:
    one = law(1800.0, 6000.0)
    spread = of_law(one)
    assert spread.mean == pytest.approx(1800.0)
    for share, within in ((0.5, 0.01), (0.9, 0.01), (0.95, 0.01), (0.99, 0.05), (0.999, 0.05)):
        assert spread.quantile(share) == pytest.approx(one.quantile(share), rel=within)
    assert spread.variance == pytest.approx(one.variance, rel=0.05)


def test_a_sum_of_lognormals_has_the_percentiles_that_sampling_finds() -> None:
    one = law(1800.0, 6000.0)
    total = repeated(of_law(one), 20)
    assert total.mean == pytest.approx(20 * 1800.0)
    draws = np.exp(np.random.default_rng(7).normal(one.mu, one.sigma, (100_000, 20))).sum(axis=1)
    for share in (0.05, 0.5, 0.95, 0.99):
        assert total.quantile(share) == pytest.approx(np.percentile(draws, 100 * share), rel=0.02)


def test_sums_and_mixtures_keep_their_means_and_a_fraction_is_one_more_now_and_then() -> None:
    one, two = of_law(law(100.0, 300.0)), of_law(law(50.0, 60.0))
    assert (one + two).mean == pytest.approx(150.0)
    assert repeated(one, 2.5).mean == pytest.approx(250.0)
    assert repeated(fixed(1.0), 0.25).mean == pytest.approx(0.25)
    assert repeated(one, 0.0).mean == 0.0
    half = mixed([(0.5, fixed(0.0)), (0.5, fixed(10.0))])
    assert half.mean == pytest.approx(5.0)
    assert (half.quantile(0.1), half.quantile(0.9)) == (pytest.approx(0.0, abs=1e-9), pytest.approx(10.0))
    assert repeated(half, 1e6).mean == pytest.approx(5e6)
    assert (one + two).weights.sum() == pytest.approx(1.0)
