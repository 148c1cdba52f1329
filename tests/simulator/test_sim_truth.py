"""What queueing theory and the cost model say of a replica, simulated."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from simulator_builders import RATES, a_job, a_replica, run

from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import TokenShape
from tidefleet.simulator.engine.blocks import Blocks
from tidefleet.simulator.engine.facts import facts_of
from tidefleet.simulator.engine.job import Job
from tidefleet.simulator.engine.replica import Replica
from tidefleet.simulator.load import load_scenario, shipped
from tidefleet.simulator.sessions import Session, Turn


def erlang_wait(servers: int, load: float) -> float:
    """Mean wait of M/M/c in service times."""
    offered = servers * load
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) / (1.0 - load)
    return last / (sum(terms) + last) / (servers * (1.0 - load))


@pytest.mark.parametrize(("servers", "load"), [(1, 0.7), (4, 0.8)])
def test_a_batch_of_c_places_waits_as_m_m_c_does(servers: int, load: float) -> None:
    rng = np.random.default_rng(5)
    steps = rng.geometric(1.0 / 400.0, 60_000) + 1
    service = 400.0 * 0.01
    arrivals = np.cumsum(rng.exponential(service / (servers * load), len(steps)))
    replica = a_replica(max_batch=servers, kv_tokens=1e9)
    jobs = []
    for number, (at, output) in enumerate(zip(arrivals.tolist(), steps.tolist(), strict=True)):
        session = Session(number, at, "x", 64, (Turn(0.0, 1, output, np.empty(0, np.uint64)),))
        jobs.append(Job(session, 0, at, number))
    run(replica, jobs)
    waits = [one.ttft_seconds - RATES.prefill_floor_seconds for one in jobs]
    assert np.mean(waits) == pytest.approx(erlang_wait(servers, load) * service, rel=0.1)


def test_little_s_law_holds_for_running_requests() -> None:
    rng = np.random.default_rng(6)
    replica = a_replica()
    arrivals = np.cumsum(rng.exponential(0.2, 3000))
    jobs = [a_job(number, came=float(at), tokens=640, output=100) for number, at in enumerate(arrivals)]
    run(replica, jobs)
    decoding = sum(one.done - one.first for one in jobs)
    assert replica.counts.batch_seconds == pytest.approx(decoding, rel=1e-6)


POOLS = {
    (pool.model, pool.accelerator, pool.chips_per_replica, pool.weights, pool.kv): pool
    for name in shipped()
    for scenario in [load_scenario(name)]
    if scenario.kind != "study"
    for pool in scenario.pools
}


@pytest.mark.parametrize("key", sorted(POOLS), ids=lambda key: f"{key[0]}-{key[1]}-{key[2]}")
@pytest.mark.parametrize(("prompt", "output", "places"), [(2000, 300, 48), (8000, 200, 24)])
def test_a_saturated_replica_does_what_the_cost_model_says(
    key: tuple[str, str, int, str, str], prompt: int, output: int, places: int
) -> None:
    facts = facts_of(POOLS[key])
    replica = Replica(0, facts.timing(), Blocks(1e9), max_batch=places)
    jobs = []
    for number in range(30 * places):
        # answers of different lengths, so that requests do not end together
        length = output // 2 + number * 37 % output
        session = Session(number, 0.0, "x", 64, (Turn(0.0, prompt, length, np.empty(0, np.uint64)),))
        jobs.append(Job(session, 0, 0.0, number))
    for job in jobs:
        replica.submit(job, 0.0)
    replica.advance(0.2 * len(jobs) * facts.rates.prefill_seconds(prompt))
    begun, before = replica.at, dataclasses.replace(replica.counts)
    while replica.waiting > 2 * places:
        replica.advance(replica.next())
    passed = replica.at - begun
    batch = (replica.counts.batch_seconds - before.batch_seconds) / passed
    simulated = (replica.counts.output_tokens - before.output_tokens) / passed
    mean = float(np.mean([job.output for job in jobs]))
    expected = estimate(facts.copy, TokenShape(prompt, mean), batch=batch)
    assert isinstance(expected, Estimate)
    assert batch > places / 3
    assert simulated == pytest.approx(expected.output_tokens_per_second, rel=0.05)
