"""One scalar per group: robust, held to 1 while little is known, and never moved by a faulty measurement."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.economics.calibration import FACTORS, PRIOR_SIGMA, UNCALIBRATED, Sample, calibrate

ratios = st.lists(st.floats(0.3, 3.0), min_size=1, max_size=60)


def samples(*values: float) -> list[Sample]:
    """Measurements so many times as long as modelled, at different scales."""
    return [Sample(value * 10.0**-n, 10.0**-n) for n, value in enumerate(values)]


def test_without_measurements_the_roofline_stands_as_it_is() -> None:
    assert calibrate([]) == UNCALIBRATED
    assert UNCALIBRATED.seconds(0.02) == 0.02
    assert UNCALIBRATED.provenance == "Roofline"


def test_many_equal_measurements_give_their_ratio() -> None:
    found = calibrate(Sample(0.03, 0.02) for _ in range(500))
    assert found.factor == pytest.approx(1.5, rel=1e-3)
    assert found.samples == 500
    assert found.provenance == "Group"
    assert found.sigma < 0.05
    assert found.seconds(0.1) == pytest.approx(0.15, rel=1e-3)


def test_one_measurement_moves_the_scalar_part_of_the_way() -> None:
    assert 1.0 < calibrate(samples(2.0)).factor < 1.9
    assert calibrate(samples(2.0)).factor < calibrate(samples(2.0, 2.0, 2.0, 2.0)).factor < 2.0


def test_a_looser_prior_trusts_measurements_more() -> None:
    few = samples(1.6, 1.6)
    assert calibrate(few, prior_sigma=0.05).factor < calibrate(few).factor < calibrate(few, prior_sigma=2.0).factor


def test_outliers_do_not_move_the_scalar() -> None:
    clean = calibrate(samples(*[1.2] * 9))
    spoilt = calibrate(samples(*[1.2] * 9, 80.0))
    assert spoilt.factor == pytest.approx(clean.factor, rel=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 0.0, -math.inf])
def test_measurements_that_are_no_times_are_counted_and_left_out(bad: float) -> None:
    found = calibrate([*samples(1.3, 1.3, 1.3), Sample(bad, 0.1), Sample(0.1, bad)])
    assert found.factor == calibrate(samples(1.3, 1.3, 1.3)).factor
    assert (found.samples, found.rejected) == (3, 2)
    nothing = calibrate([Sample(bad, 0.1)])
    assert (nothing.factor, nothing.samples, nothing.rejected) == (1.0, 0, 1)
    assert nothing.sigma == PRIOR_SIGMA


def test_an_absurd_ratio_is_held_to_the_bounds() -> None:
    assert calibrate(samples(*[900.0] * 50)).factor == FACTORS[1]
    assert calibrate(samples(*[1e-6] * 50)).factor == FACTORS[0]


@settings(deadline=None, max_examples=80)
@given(ratios)
def test_the_scalar_lies_between_1_and_the_median_and_its_error_is_finite(values: list[float]) -> None:
    found = calibrate(samples(*values))
    low, high = sorted((1.0, float(np.exp(np.median(np.log(values))))))
    assert low - 1e-9 <= found.factor <= high + 1e-9
    assert 0 < found.sigma < 3


@settings(deadline=None, max_examples=60)
@given(ratios)
def test_swapping_measured_and_modelled_inverts_the_scalar(values: list[float]) -> None:
    swapped = calibrate(Sample(one.modelled_seconds, one.measured_seconds) for one in samples(*values))
    assert swapped.factor * calibrate(samples(*values)).factor == pytest.approx(1.0)


def test_scattered_measurements_leave_a_larger_error_than_close_ones() -> None:
    close = calibrate(samples(1.2, 1.21, 1.19, 1.2, 1.2, 1.22, 1.18, 1.2))
    scattered = calibrate(samples(1.2, 2.0, 0.7, 1.2, 1.8, 0.8, 1.6, 1.0))
    assert scattered.sigma > close.sigma
