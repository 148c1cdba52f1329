"""Replicas behind a policy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from simulator_builders import a_session

from tidefleet.simulator.cluster import Cluster
from tidefleet.simulator.driving import Driver
from tidefleet.simulator.policies import POLICIES
from tidefleet.simulator.scenario import Class, Objective, Pool
from tidefleet.simulator.sessions import Session

POOL = Pool(
    model="llama-3.3-70b", accelerator="h200-sxm", replicas=4, chips_per_replica=4, kv_tokens=200_000, max_batch=64
)


def a_cluster(policy: str = "pick", *, pool: Pool = POOL, replicas: int = 4, **options: object) -> Cluster:
    cluster = Cluster(pool, policy=policy, **options)  # type: ignore[arg-type]
    for number in range(replicas):
        cluster.add(number)
    return cluster


def sessions(count: int, turns: int = 6, *, seed: int = 1, **options: object) -> list[Session]:
    begins = np.sort(np.random.default_rng(seed).uniform(0.0, 60.0, count))
    sizes = [2048 + 1024 * turn for turn in range(turns)]
    return [
        a_session(number, begins=float(begins[number]), tokens=sizes, common=64, **options)  # type: ignore[arg-type]
        for number in range(count)
    ]


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_serves_every_turn(policy: str) -> None:
    driver = Driver(a_cluster(policy), sessions(20))
    driver.run()
    assert len(driver.jobs) == 120
    assert all(one.came <= one.first <= one.done < math.inf for one in driver.jobs)


def test_the_pick_keeps_sessions_where_their_kv_lies_and_does_not_send_all_to_one() -> None:
    hits, loads = {}, {}
    for policy in ("pick", "round_robin"):
        cluster = a_cluster(policy)
        Driver(cluster, sessions(40, 8)).run()
        counts = cluster.counts()
        hits[policy] = counts.hit_tokens[0] / counts.prompt_tokens
        load = [one.counts.prompt_tokens for one in cluster.replicas.values()]
        loads[policy] = max(load) / (sum(load) / len(load))
    assert hits["pick"] > hits["round_robin"] + 0.1
    assert loads["pick"] < 1.4


def test_a_draining_replica_takes_nothing_more_and_ends_what_it_has() -> None:
    cluster = a_cluster()
    driver = Driver(cluster, sessions(30))
    driver.run(until=20.0)
    busy = max(cluster.replicas.values(), key=lambda one: one.requests).number
    there = [one for one in driver.jobs if one.replica == busy and one.done == math.inf]
    assert there
    cluster.drain(busy, 20.0)
    driver.run()
    assert all(one.replica == busy and one.done < math.inf for one in there)
    assert all(one.replica != busy for one in driver.jobs if one.came > 20.0)
    assert cluster.replicas[busy].requests == 0


def test_requests_of_a_killed_replica_are_served_elsewhere_and_what_was_lost_is_counted() -> None:
    cluster = a_cluster()
    seen: list[str] = []
    driver = Driver(cluster, sessions(30, output=400), happened=lambda what, job, now: seen.append(what))
    driver.run(until=30.0)
    busy = max(cluster.replicas.values(), key=lambda one: one.running).number
    lost = cluster.kill(busy, 30.0)
    driver.run()
    assert lost
    assert seen.count("lost") == len(lost)
    assert all(one.done < math.inf and one.replica != busy for one in lost)
    assert cluster.counts().recomputed_tokens["lost"] == pytest.approx(sum(one.recomputed for one in lost))
    assert all(one.done < math.inf for one in driver.jobs)


def test_a_replica_that_is_added_later_takes_its_share() -> None:
    cluster = a_cluster(replicas=1)
    driver = Driver(cluster, sessions(60))
    driver.run(until=20.0)
    cluster.add(7, 20.0)
    driver.run()
    assert cluster.replicas[7].counts.finished > 50


@pytest.mark.parametrize("policy", ["pick", "greedy"])
def test_a_turn_that_was_served_before_is_found_where_the_next_one_goes(policy: str) -> None:
    cluster = a_cluster(policy)
    found = sessions(12)
    for place, session in enumerate(found):
        cluster.keep(place % len(cluster.replicas), session, 2)
    jobs = []
    for place, session in enumerate(found):
        cluster.submit(session, 3, 10.0 * place)
        jobs += [job for what, job in cluster.advance(10.0 * place + 9.0) if what == "done"]
    assert len(jobs) == 12
    assert all(one.cached >= one.session.turns[2].tokens for one in jobs)


def test_without_any_replica_and_with_a_prompt_too_long_a_request_is_refused() -> None:
    cluster = a_cluster(replicas=0)
    job = cluster.submit(sessions(1)[0], 0, 0.0)
    assert cluster.advance(0.0) == [("refused", job)]
    cluster.add(0)
    long = cluster.submit(a_session(1, tokens=(300_000,)), 0, 1.0)
    assert cluster.advance(1.0) == [("refused", long)]
    assert "300100 tokens" in long.refused


def test_a_prefill_replica_sends_its_kv_to_the_one_that_decodes() -> None:
    cluster = a_cluster(replicas=0)
    for number, role in enumerate(("prefill", "prefill", "decode", "decode")):
        cluster.add(number, role=role)
    driver = Driver(cluster, sessions(20))
    driver.run()
    assert all(one.done < math.inf for one in driver.jobs)
    assert {one.replica for one in driver.jobs} <= {2, 3}
    sent = [one for one in driver.jobs if one.prefill_replica is not None]
    assert sent
    assert {one.prefill_replica for one in sent} <= {0, 1}
    there = sum(cluster.replicas[number].counts.prefilled_tokens for number in (0, 1))
    assert there >= sum(one.tokens for one in sent if one.at == 0)
    assert cluster.replicas[2].counts.finished + cluster.replicas[3].counts.finished == 120


def test_deferrable_work_is_done_in_slack_without_touching_those_who_wait() -> None:
    classes = [Class(name="chat", source="made", objective=Objective(ttft_seconds=1.0, tpot_seconds=0.05))]
    online = sessions(30)
    late = [
        a_session(1000 + number, tokens=(4096,), output=300, deadline=3600.0, wclass="batch") for number in range(80)
    ]
    alone = Driver(a_cluster(classes=classes), online)
    alone.run()
    both = Driver(a_cluster(classes=classes), sorted([*late, *online], key=lambda one: one.begins))
    both.run()
    batch = [one for one in both.jobs if one.is_deferrable]
    people = [one for one in both.jobs if not one.is_deferrable]
    assert len(batch) == 80
    assert all(one.done < 3600.0 for one in batch)
    before = sum(one.ttft_seconds for one in alone.jobs)
    assert sum(one.ttft_seconds for one in people) < 1.3 * before


def test_the_same_sessions_give_the_same_times() -> None:
    def times() -> list[float]:
        driver = Driver(a_cluster(), sessions(20))
        driver.run()
        return [one.done for one in driver.jobs]

    assert times() == times()


def test_refusing_requests_that_would_be_late_keeps_the_promise_of_those_that_are_let_in() -> None:
    classes = [Class(name="chat", source="made", objective=Objective(ttft_seconds=0.5, tpot_seconds=0.05))]
    flood = [a_session(number, begins=0.02 * number, tokens=(8192,), closed=False) for number in range(400)]
    driver = Driver(a_cluster(classes=classes, refuses=True), flood)
    driver.run()
    refused = [one for one in driver.jobs if one.refused]
    served = [one for one in driver.jobs if not one.refused]
    assert refused
    assert served
    assert np.quantile([one.ttft_seconds for one in served], 0.9) < 3.0
