"""The policies of peers, where they differ from one another."""

from __future__ import annotations

from simulator_builders import a_session

from tidefleet.simulator.cluster import Cluster
from tidefleet.simulator.scenario import Pool

POOL = Pool(model="llama-3.3-70b", accelerator="h200-sxm", replicas=2, chips_per_replica=4, kv_tokens=100_000)


def a_cluster(policy: str) -> Cluster:
    cluster = Cluster(POOL, policy=policy)
    cluster.add(0)
    cluster.add(1)
    return cluster


def test_dynamo_leaves_a_prefix_for_less_decode_load_and_its_tuned_weights_stay() -> None:
    stays = {}
    for policy in ("dynamo", "dynamo_tuned"):
        cluster = a_cluster(policy)
        home = a_session(0, tokens=(8192, 8704))
        first = cluster.submit(home, 0, 0.0)
        cluster.advance(60.0)
        assert first.replica is not None
        other = 1 - first.replica
        cluster.drain(other, 60.0)
        for number in range(1, 4):  # 24,576 tokens decode where the prefix of 8,192 lies
            cluster.submit(a_session(number, tokens=(8192,), output=4000), 0, 60.0)
        cluster.kill(other, 60.0)
        cluster.add(other, 60.0)
        cluster.advance(65.0)
        stays[policy] = cluster.submit(home, 1, 65.0).replica == first.replica
    assert stays == {"dynamo": False, "dynamo_tuned": True}


def test_dynamo_counts_the_blocks_of_its_requests_and_forgets_them_when_they_end() -> None:
    cluster = a_cluster("dynamo")
    for number in range(6):
        cluster.submit(a_session(number, tokens=(4096,), common=1024), 0, 0.1 * number)
    cluster.advance(1000.0)
    policy = cluster.policy
    assert all(value == 0 for value in vars(policy)["_decode"].values())
    assert all(value == 0 for value in vars(policy)["_prefill"].values())


def test_llmd_stays_with_a_prefix_until_its_endpoint_is_saturated() -> None:
    replicas = {}
    for policy in ("llmd", "llmd_precise"):
        cluster = a_cluster(policy)
        home = a_session(0, tokens=(16_384, 16_896))
        first = cluster.submit(home, 0, 0.0)
        cluster.advance(60.0)
        assert first.replica is not None
        other = 1 - first.replica
        cluster.drain(other, 60.0)
        for number in range(1, 12):  # all go to the one that is left
            cluster.submit(a_session(number, tokens=(30_000,), output=2000), 0, 61.0)
        cluster.kill(other, 61.5)
        cluster.add(other, 61.5)
        cluster.advance(62.0)
        assert cluster.replicas[first.replica].queued > 5
        replicas[policy] = cluster.submit(home, 1, 62.0).replica == first.replica
    assert replicas["llmd"] is False


def test_the_approximate_scorer_believes_what_the_engine_has_long_evicted() -> None:
    cluster = a_cluster("llmd_approximate")
    home = a_session(0, tokens=(8192, 8704))
    first = cluster.submit(home, 0, 0.0)
    cluster.advance(60.0)
    assert first.replica is not None
    cluster.replicas[first.replica].blocks.clear()
    again = cluster.submit(home, 1, 70.0)
    cluster.advance(200.0)
    assert again.replica == first.replica
    assert again.cached == 0
