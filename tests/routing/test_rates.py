"""Speeds of an endpoint as coefficients of the roofline."""

import math

import numpy as np
import pytest

from tidefleet.catalogue import accelerator_types, models
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill
from tidefleet.planning.from_api import accelerator_of
from tidefleet.routing.rates import DEVICE, HOST, SHARED, Rates, rates_of


@pytest.fixture(scope="module")
def replica():
    return Replica(models()["llama-3.3-70b"], accelerator_of(accelerator_types()["h200-sxm"]), 4, "Fp8", "Fp8")


@pytest.mark.parametrize(("uncached", "cached"), [(2000.0, 0.0), (8000.0, 30_000.0), (30_000.0, 0.0)])
def test_prefill_is_within_an_eighth_of_the_roofline(replica, uncached, cached):
    exact = float(prefill(replica, np.array([uncached]), np.array([cached])).seconds[0])
    assert rates_of(replica).prefill_seconds(uncached, cached) == pytest.approx(exact, rel=0.125)


@pytest.mark.parametrize(("batch", "context"), [(1.0, 4000.0), (32.0, 4000.0), (200.0, 2000.0)])
def test_a_decode_step_is_within_a_quarter_of_the_roofline(replica, batch, context):
    exact = float(decode_step(replica, np.array([batch]), np.array([context])).seconds[0])
    assert rates_of(replica).tpot_seconds(batch, batch * context) == pytest.approx(exact, rel=0.25)


def test_a_fetch_takes_latency_and_bytes_and_a_missing_tier_for_ever():
    rates = Rates(1e-4, kv_bytes_per_token=1000.0, tier_bytes_per_second=(1e6, 0.0, 0.0))
    assert rates.fetch_seconds(1000.0, HOST) == pytest.approx(1.001)
    assert rates.fetch_seconds(1000.0, SHARED) == math.inf
    assert rates.fetch_seconds(1000.0, DEVICE) == 0.0


def test_a_speed_that_is_not_positive_is_an_error_with_an_example():
    with pytest.raises(ValueError, match=r"prefill_seconds_per_token 0.0 .* e.g. 0.0001"):
        Rates(0.0)
