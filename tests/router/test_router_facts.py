"""Facts of endpoints out of what pods and pools say, sense and nonsense alike."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from router_ground import ENGINE, a_pool_object, a_served_pod, accelerators

from tidefleet.planning.options import Option
from tidefleet.router.discovery import ServedPool
from tidefleet.router.facts import UNKNOWN_KV_TOKENS, endpoint_of
from tidefleet.router.serving_pods import ranks_of, slim

TYPES = accelerators()


def endpoint(pool=None, *, args=None, labels=None, **facts):
    raw = a_served_pod(("10.0.0.7", 8000), "chat-0", **(labels or {}))
    raw["metadata"]["annotations"]["tidefleet.io/engine"] = json.dumps({**ENGINE, **facts})
    if args:
        raw["spec"]["containers"][0]["args"] = args
    (rank,) = ranks_of(slim(raw), "chat", (8000,))
    spec = pool or a_pool_object()
    return endpoint_of(rank, ServedPool("prod", "chat", spec, (), (), (rank,)), TYPES)


def test_a_known_replica_has_the_cost_models_speed_room_and_price():
    one, wide = endpoint(), endpoint(tensorParallel=4)
    assert one.address == "10.0.0.7:8000"
    assert 1e-6 < one.rates.prefill_seconds_per_token < 1e-4
    assert 200_000 < one.kv_capacity_tokens < 1e6
    assert wide.usd_per_second == pytest.approx(4 * one.usd_per_second)
    assert wide.kv_capacity_tokens > one.kv_capacity_tokens
    assert one.usd_per_second > 0


def test_a_pods_option_tells_as_what_it_is_paid_and_so_its_price():
    def of(kind):
        key = Option("h100-sxm", kind, 1, "Bf16", "Bf16").key("chat")
        return endpoint(labels={"tidefleet.io/option": key})

    spot, demand, unknown = of("Spot"), of("OnDemand"), endpoint(labels={"tidefleet.io/option": "0badcafe"})
    assert (spot.capacity_type, demand.capacity_type, unknown.capacity_type) == ("Spot", "OnDemand", "OnDemand")
    assert 0.0 < spot.usd_per_second < demand.usd_per_second == unknown.usd_per_second


def test_tiers_of_the_pool_are_tiers_of_its_endpoints_and_a_shared_one_has_a_name():
    tier = {"medium": "Shared", "maxBytesPerReplica": 10**12, "bytesPerSecond": 10**10, "latencyMicroseconds": 500}
    found = endpoint(a_pool_object(kvCache={"tiers": [tier]}))
    assert found.rates.tier_bytes_per_second == (0.0, 0.0, 1e10)
    assert found.rates.tier_latency_seconds[2] == pytest.approx(0.0005)
    assert found.store
    assert found.tier_tokens == (0.0, 0.0, pytest.approx(10**12 / found.rates.kv_bytes_per_token))
    assert found.room_of_tiers == found.tier_tokens
    unknown = endpoint(a_pool_object(kvCache={"tiers": [tier]}), accelerator="nobody-knows")
    assert unknown.rates.tier_bytes_per_second == (0.0, 0.0, 1e10)
    assert unknown.rates.kv_bytes_per_token == pytest.approx(found.rates.kv_bytes_per_token)


def test_hardware_that_nobody_knows_is_served_at_assumed_speed_and_no_price():
    found = endpoint(accelerator="nobody-knows")
    assert found.kv_capacity_tokens == UNKNOWN_KV_TOKENS
    assert found.usd_per_second == 0.0


def test_block_size_and_adapters_are_those_of_the_arguments():
    found = endpoint(args=["--block-size", "32", "--lora-modules", "legal=/a", "med=/b", "--max-model-len", "8192"])
    assert found.block_size == 32
    assert found.loras == {"legal", "med"}


NONSENSE = st.none() | st.integers() | st.text(max_size=20) | st.lists(st.integers(), max_size=2) | st.booleans()


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["model", "accelerator", "tensorParallel", "weights", "kv", "role", "config"]), NONSENSE
    )
)
def test_whatever_a_pod_says_it_becomes_an_endpoint(facts):
    found = endpoint(**facts)
    assert found.kv_capacity_tokens > 0
    assert found.rates.prefill_seconds_per_token > 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.text(max_size=30)
        | st.sampled_from(["--kv-events-config", "{", '{"endpoint": 5}', "--block-size", "0", "-1"])
    )
)
def test_whatever_its_arguments_are_it_becomes_an_endpoint(args):
    assert endpoint(args=args or ["x"]).block_size >= 1


@pytest.mark.parametrize(
    ("told", "room"),
    [({"hostKvBytes": 2**33}, 2**33), ({"hostKvBytes": 0}, 0), ({}, 2**38), ({"hostKvBytes": -1}, 2**38)],
)
def test_the_host_tier_has_the_room_that_the_pod_tells(told, room):
    tier = {"medium": "Host", "maxBytesPerReplica": 2**38, "bytesPerSecond": 10**10}
    found = endpoint(a_pool_object(kvCache={"tiers": [tier]}), **told)
    assert found.tier_tokens[0] == pytest.approx(room / found.rates.kv_bytes_per_token)
