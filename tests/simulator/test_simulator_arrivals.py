"""When sessions begin: as often as the shape says, as bursty as was measured, and never by a bin that is masked."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from tidefleet.simulator.scenario import BIN_SECONDS, Class, Pool, Scenario
from tidefleet.simulator.workload import load
from tidefleet.simulator.workload.arrivals import Mix, places, servegen

ROOT = Path(__file__).resolve().parents[2]
TRACES = Path(os.environ.get("TIDEFLEET_SHARED", ROOT.parent / "shared")) / "traces"
needs_traces = pytest.mark.skipif(not TRACES.exists(), reason=f"no traces at {TRACES}; TIDEFLEET_SHARED names another")


def a_mix(*clients):
    """Of (share, shape, weibull)."""
    shares, shapes, weibull = (np.array(column) for column in zip(*clients, strict=True))
    return Mix(np.arange(len(clients)), shares, shapes, weibull.astype(bool))


def weibull_cv(shape):
    first, second = math.gamma(1.0 + 1.0 / shape), math.gamma(1.0 + 2.0 / shape)
    return math.sqrt(second / first**2 - 1.0)


@pytest.mark.parametrize(
    ("shape", "weibull", "cv"),
    [
        (4.0, False, 0.5),
        (1.0, False, 1.0),
        (0.25, False, 2.0),
        (0.7, True, weibull_cv(0.7)),
        (2.0, True, weibull_cv(2.0)),
    ],
)
def test_gaps_of_a_client_vary_as_its_fit_says(shape, weibull, cv):
    rng = np.random.default_rng(1)
    found, _ = places(rng, 60_000.0, a_mix((1.0, shape, weibull)))
    gaps = np.diff(found)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_without_clients_arrivals_are_a_poisson_process():
    rng = np.random.default_rng(2)
    counts = [len(places(rng, 50.0, None)[0]) for _ in range(4000)]
    assert np.mean(counts) == pytest.approx(50.0, rel=0.01)
    assert np.var(counts) == pytest.approx(50.0, rel=0.1)
    gaps = np.diff(places(rng, 50_000.0, None)[0])
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.03)


def test_each_client_comes_as_often_as_its_share_and_all_lie_sorted_within_the_bin():
    rng = np.random.default_rng(3)
    mix = a_mix((0.7, 0.3, False), (0.2, 1.5, True), (0.1, 1.0, False))
    drawn = [places(rng, 200.0, mix) for _ in range(500)]
    whose = np.concatenate([one for _, one in drawn])
    assert len(whose) / 500 == pytest.approx(200.0, rel=0.01)
    assert np.bincount(whose) / len(whose) == pytest.approx(mix.shares, abs=0.01)
    assert all((np.diff(found) >= 0.0).all() and found.min() >= 0.0 and found.max() < 1.0 for found, _ in drawn)


def test_gaps_too_bursty_for_numbers_are_drawn_without_bursts():
    found, whose = places(np.random.default_rng(4), 50.0, a_mix((1.0, 1e-3, True)))
    assert len(found) == len(whose) > 20
    assert np.isfinite(found).all()


@needs_traces
def test_masked_bins_are_in_no_clients_rates_and_their_time_takes_those_of_a_day_before():
    clients = servegen(TRACES, "m-mid", ("interactive",))
    gone = 313_200.0
    assert not np.isin(np.arange(gone, gone + 12 * BIN_SECONDS, BIN_SECONDS), clients.times).any()
    before = clients.mix(gone - 86_400.0)
    found = clients.mix(gone)
    assert found.clients.tolist() == before.clients.tolist()
    assert found.shares == pytest.approx(before.shares)


@needs_traces
def test_sessions_of_a_class_come_at_the_rate_that_its_shape_and_scale_say():
    wclass = Class.model_validate({"name": "chat", "source": "azure2023-conv", "share": 1.0, "shape": "chat_global"})
    pool = Pool.model_validate(
        {"model": "llama-3.1-8b", "accelerator": "h100-sxm", "replicas": 4, "chipsPerReplica": 1}
    )
    scenario = Scenario(name="rates", kind="fleet", seconds=86_400.0, pools=(pool,), classes=(wclass,))
    workload = load(scenario, TRACES, seed=1).scale("chat", 0.2)
    rates = workload.rate("chat")
    begins = np.array([one.begins for one in workload.sessions("chat", 0.0, 86_400.0)])
    counts = np.histogram(begins, bins=np.arange(0.0, 86_401.0, BIN_SECONDS))[0]
    assert counts.sum() == pytest.approx(rates.sum() * BIN_SECONDS, rel=0.03)
    errors = (counts - rates * BIN_SECONDS) / np.sqrt(rates * BIN_SECONDS)
    assert np.abs(errors).max() < 4.5  # each bin's number is Poisson
    assert errors.std() == pytest.approx(1.0, abs=0.2)
