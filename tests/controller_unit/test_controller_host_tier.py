"""Who sets engines up with the KV tier in host memory, how large it may be there, and what that comes to."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from controller_builders import AGENT, H100, HOST, NOW, SHIPPED, a_pool, a_served, a_view, an_option

from tidefleet.api import InferencePool
from tidefleet.api.inference_pool_status import PlanStatus, TierSetBy
from tidefleet.controller import marks
from tidefleet.controller.act import tier_of
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.decision import Decision, Target
from tidefleet.controller.groups import workload_for
from tidefleet.controller.host_tier import host_setup
from tidefleet.controller.kv_tiers import limits_of
from tidefleet.controller.status import pool_status
from tidefleet.controller.tier_watch import Sight
from tidefleet.controller.view import PoolMemory, Served
from tidefleet.planning.demand import DemandHistory
from tidefleet.planning.options import EstimateMemo

GIB = 2**30
MEMO = EstimateMemo()
PLANNED = {**HOST, "sizing": "Planned"}


def the_pool(
    *arguments: str, engine: str = "VLLM", version: str | None = None, resources: Any = None, **tier: Any
) -> InferencePool:
    """A pool of long prompts that come again, on two H100s a replica."""
    container: dict[str, Any] = {"name": "engine", "image": "engine", "args": ["--model=m", *arguments]}
    if resources is not None:
        container["resources"] = resources
    return a_pool(
        accelerators=[{"type": "h100-sxm", "tensorParallel": [2]}],
        serving={
            "template": {"spec": {"containers": [container]}},
            "engine": {"type": engine, "port": 8000, **({"version": version} if version else {})},
        },
        kvCache={"tiers": [{**PLANNED, **tier}]},
    )


def decided(pool: InferencePool, memory: PoolMemory | None = None, **changes: Any) -> Decision:
    view = a_view(pool, H100, **{"classes": (AGENT,), **changes})
    return decide(view, memory or PoolMemory(DemandHistory(600.0)), OperatorConfiguration(), MEMO)


def told(decision: Decision) -> dict[str, Any]:
    status = pool_status(decision, before={}, generation=1, decision_id="d", now=NOW)
    PlanStatus.model_validate(status["plan"], by_alias=True, by_name=False, extra="forbid")
    (found,) = status["plan"]["kvTiers"]["tiers"]
    return dict(found)


def engine_of(pool: InferencePool, host_bytes: float, group: int = 1, width: int = 2) -> dict[str, Any]:
    option = an_option("h100-sxm", tp=width)
    body = workload_for(
        pool, Served("x", option, None, group), SHIPPED["h100-sxm"],
        native_weights="Bf16", replicas=1, host_bytes=host_bytes,
    )  # fmt: skip
    if group > 1:
        return dict(body["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]["containers"][0])
    return dict(body["spec"]["template"]["spec"]["containers"][0])


# --- who -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "by", "because"),
    [
        (the_pool(), "Operator", ""),
        (the_pool(version="0.32.0"), "Operator", ""),
        (the_pool(version="nightly"), "Operator", ""),
        (the_pool(version="0.13.0"), "Owner", "0.13.0 is older than 0.14"),
        (the_pool(engine="SGLang"), "Operator", ""),
        (the_pool(engine="SGLang", version="v0.4.9"), "Owner", "v0.4.9 is older than 0.5.9"),
        (the_pool(engine="SGLang", version="0.5.8"), "Owner", "0.5.8 is older than 0.5.9"),
        (the_pool(engine="SGLang", version="0.5"), "Operator", ""),
        (the_pool(engine="SGLang", version="0.5.10"), "Operator", ""),
        (the_pool(engine="Other"), "Owner", "type Other"),
        (the_pool("--kv-offloading-size=64"), "Template", "the template sets --kv-offloading-size"),
        (the_pool("--kv-transfer-config={}"), "Owner", "which does not tell its room"),
        (the_pool("--enable-hierarchical-cache", engine="SGLang"), "Owner", "which does not tell its room"),
        (the_pool("--disable-radix-cache", engine="SGLang"), "Owner", "sets --disable-radix-cache, beside which"),
        (the_pool("--disaggregation-mode=decode", engine="SGLang"), "Owner", "sets --disaggregation-mode decode"),
        (the_pool("--disaggregation-mode=prefill", engine="SGLang"), "Operator", ""),
        (the_pool(resources={"limits": {"memory": "80Gi"}}), "Operator", "leaves 64 GiB beside 16 GiB"),
    ],
)
def test_who_sets_it_up(pool: InferencePool, by: str, because: str) -> None:
    found = host_setup(pool)
    assert found.by is TierSetBy(by)
    assert because in found.because
    assert bool(because) == bool(found.because)


@pytest.mark.parametrize("model", ["nemotron-nano-9b-v2", "gpt-oss-120b"])
@pytest.mark.parametrize(("version", "by"), [("0.22.1", "Owner"), ("0.23.0", "Operator"), (None, "Operator")])
def test_layers_of_several_kinds_need_a_newer_vllm(model: str, version: str | None, by: str) -> None:
    pool = the_pool(version=version)
    mixed = pool.model_copy(update={"spec": pool.spec.model_copy(update={"model": type(pool.spec.model)(name=model)})})
    assert host_setup(mixed).by is TierSetBy(by)
    assert ("older than 0.23, which a model with windowed" in host_setup(mixed).because) == (by == "Owner")


@pytest.mark.parametrize("arguments", [{}, {"args": []}])
def test_arguments_that_would_replace_those_of_the_image_are_not_added(arguments: dict[str, list[str]]) -> None:
    pool = a_pool(serving={"template": {"spec": {"containers": [{"name": "engine", "image": "x", **arguments}]}}})
    assert host_setup(pool).by is TierSetBy.OWNER
    assert "would replace the image's" in host_setup(pool).because


# --- what the plan makes of it ---------------------------------------------------------------------------------------


def test_engines_are_started_with_the_size_that_the_plan_says() -> None:
    found = decided(the_pool())
    size = told(found)["bytesPerReplica"]
    assert size > 0
    assert found.host_bytes == size
    assert told(found)["setBy"] == "Operator"
    assert f"--kv-offloading-size={size / GIB:g} --kv-offloading-backend=native" in told(found)["setUp"]


@pytest.mark.parametrize("gib", [64, 2048])
def test_what_the_template_says_is_the_size_that_the_plan_takes(gib: int) -> None:
    found = decided(the_pool(f"--kv-offloading-size={gib}"))
    assert told(found)["bytesPerReplica"] == gib * GIB
    assert told(found)["setBy"] == "Template"
    assert ("not the 2048 that the tier names" in told(found)["setUp"]) == (gib != 2048)
    assert found.host_bytes == 0.0  # nothing of ours beside it
    assert found.plan is not None
    assert found.plan.tiers is not None
    assert found.plan.tiers.counted


def test_a_limit_of_memory_bounds_the_tier_and_the_status_says_so() -> None:
    free, bound = decided(the_pool()), decided(the_pool(resources={"limits": {"memory": "80Gi"}}))
    assert free.host_bytes is not None
    assert bound.host_bytes is not None
    assert bound.host_bytes <= 64 * GIB < free.host_bytes
    assert "limits.memory of 80 GiB leaves 64 GiB" in told(bound)["setUp"]
    none = decided(the_pool(resources={"limits": {"memory": "12Gi"}}))
    assert none.host_bytes == 0.0
    assert told(none)["bytesPerReplica"] == 0
    assert "leaves 0 GiB" in told(none)["setUp"]


def test_a_size_that_sglang_would_not_start_with_is_none() -> None:
    few = {"maxBytesPerReplica": 60 * 10**9}  # less than two H100s keep themselves
    assert told(decided(the_pool(engine="SGLang", **few)))["bytesPerReplica"] == 0
    large = decided(the_pool(engine="SGLang"))
    assert large.plan is not None
    (chosen,) = large.plan.chosen
    room = chosen.candidate.estimates[0].memory.kv_room * 2
    assert told(large)["bytesPerReplica"] > 1.25 * room


def test_sglang_is_asked_for_whole_gigabytes_of_each_rank_and_the_plan_knows() -> None:
    (limit,) = limits_of(the_pool(engine="SGLang"))
    assert limit.started(401.9e9, 2) == 400e9
    assert limit.started(1.9e9, 2) == 0.0
    (other,) = limits_of(the_pool())
    assert other.started(401.9e9, 2) == 401.9e9


def test_tiers_of_a_given_size_and_of_adopted_workloads_are_left_to_the_owner() -> None:
    fixed = decided(the_pool(sizing="Fixed"))
    assert fixed.host_bytes == 0.0
    assert (told(fixed)["setBy"], told(fixed)["setUp"]) == ("Owner", "set the engines up with it")


# --- what runs -------------------------------------------------------------------------------------------------------


def running(pool: InferencePool, size: float, replicas: int = 3) -> Served:
    served = a_served(pool, an_option("h100-sxm", tp=2), replicas=replicas)
    assert served.workload is not None
    return replace(
        served, workload=replace(served.workload, annotations={marks.HOST_TIER_ANNOTATION: str(round(size))})
    )


def test_the_running_size_stays_while_another_saves_less_than_starting_all_engines_anew() -> None:
    pool = the_pool(usdPerGibMonth="0.40")
    assert decided(pool).host_bytes == 1024 * GIB
    kept = decided(pool, served=(running(pool, 2048 * GIB),))  # half of it would save $1.7/h of $21/h
    assert kept.host_bytes == 2048 * GIB
    assert told(kept)["bytesPerReplica"] == 2048 * GIB
    left = decided(pool, served=(running(pool, 128 * GIB),))  # with four replicas instead of three
    assert left.host_bytes == 1024 * GIB


def test_within_the_dwell_no_size_changes() -> None:
    pool, memory = the_pool(), PoolMemory(DemandHistory(600.0))
    memory.last_switch = NOW - 60.0
    held = decided(pool, memory, served=(running(pool, 0, replicas=8),))
    assert held.host_bytes == 0.0


def test_a_tier_without_hits_stays_where_it_is_and_is_paid_for() -> None:
    pool, memory = the_pool(), PoolMemory(DemandHistory(600.0))
    memory.tiers.watch.sight, memory.tiers.watch.expected = Sight.MISSED, 0.3
    served = running(pool, 64 * GIB)
    found = decided(pool, memory, served=(served,))
    assert found.host_bytes is None
    assert tier_of(found, Target(served, 3, 3)) == 64 * GIB
    without = decided(the_pool("--kv-transfer-config={}"))
    assert without.host_bytes == 0.0


def test_a_tier_that_the_owner_takes_away_is_taken_from_the_engines() -> None:
    pool = the_pool(sizing="Fixed")
    served = running(pool, 64 * GIB)
    for planned in (3, 0):
        assert tier_of(decided(pool, served=(served,)), Target(served, planned, 3)) == 0


@pytest.mark.parametrize("size", [0, 64 * GIB])
def test_engines_of_an_accelerator_that_leaves_are_not_started_anew_for_a_size(size: int) -> None:
    pool = the_pool()
    served, found = running(pool, size), decided(pool)
    assert found.host_bytes not in (None, 0.0, size)
    assert tier_of(found, Target(served, 0, 3)) == size
    assert tier_of(found, Target(served, 3, 3)) == found.host_bytes


def test_replicas_wait_for_the_first_hits_before_they_go_down_but_not_for_ever() -> None:
    from tidefleet.controller.tier_watch import TierSeen

    pool, memory = the_pool(), PoolMemory(DemandHistory(600.0))
    size = decided(pool).host_bytes
    assert size is not None
    served = running(pool, size, replicas=8)
    seen = TierSeen(1e6, 0.0, 0.0)
    asked = [
        sum(t.desired for t in decided(pool, memory, served=(served,), tiers_seen=seen, now=NOW + after).targets)
        for after in (0.0, 15.0, 1800.0, 3600.0, 3616.0)
    ]
    assert asked[:4] == [8, 8, 8, 8]
    assert asked[4] < 8


# --- the workload ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "size", "expected"),
    [
        ("VLLM", 64 * GIB, ["--kv-offloading-size=64", "--kv-offloading-backend=native"]),
        ("VLLM", 1.5 * GIB, ["--kv-offloading-size=1.5", "--kv-offloading-backend=native"]),
        ("SGLang", 400e9, ["--enable-hierarchical-cache", "--hicache-size=200"]),  # of each of two ranks
        ("SGLang", 401.9e9, ["--enable-hierarchical-cache", "--hicache-size=200"]),
        ("VLLM", 0.0, []),
    ],
)
def test_arguments_of_an_engine(engine: str, size: float, expected: list[str]) -> None:
    made, bare = engine_of(the_pool(engine=engine), size), engine_of(the_pool(engine=engine), 0.0)
    assert made["args"] == bare["args"] + expected


@pytest.mark.parametrize(
    ("resources", "memory"),
    [
        (None, str(64 * GIB)),
        ({"requests": {"memory": "32Gi"}}, str(96 * GIB)),
        ({"requests": {"memory": "32Gi"}, "limits": {"memory": "80Gi"}}, str(80 * GIB)),
        ({"limits": {"memory": "80Gi"}}, None),  # the limit is the request already
    ],
)
def test_the_container_asks_for_memory_that_holds_the_tier(resources: Any, memory: str | None) -> None:
    made = engine_of(the_pool(resources=resources), 64 * GIB)["resources"]
    assert made["requests"].get("memory") == memory
    assert made["requests"]["nvidia.com/gpu"] == "2"
    assert made["limits"].get("memory") == ((resources or {}).get("limits") or {}).get("memory")
    bare = engine_of(the_pool(resources=resources), 0.0)["resources"]
    assert bare["requests"].get("memory") == ((resources or {}).get("requests") or {}).get("memory")


def test_the_workload_remembers_the_size_and_its_pods_tell_it() -> None:
    option = an_option("h100-sxm", tp=2)
    body = workload_for(
        the_pool(), Served("x", option, None), SHIPPED["h100-sxm"],
        native_weights="Bf16", replicas=1, host_bytes=64 * GIB,
    )  # fmt: skip
    assert marks.read_host_tier(body["metadata"]["annotations"]) == 64 * GIB
    facts = json.loads(body["spec"]["template"]["metadata"]["annotations"][marks.ENGINE_ANNOTATION])
    assert facts["hostKvBytes"] == 64 * GIB


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        (the_pool(), 0),  # the plan may do without
        (the_pool("--kv-offloading-size=8"), 8 * GIB),
        (the_pool("--kv-transfer-config={}"), None),
        (the_pool(sizing="Fixed"), None),
        (the_pool(engine="Other"), None),
    ],
)
def test_pods_tell_that_they_have_no_tier_only_where_that_is_known(pool: InferencePool, told: int | None) -> None:
    option = an_option("h100-sxm", tp=2)
    body = workload_for(pool, Served("x", option, None), SHIPPED["h100-sxm"], native_weights="Bf16", replicas=1)
    facts = json.loads(body["spec"]["template"]["metadata"]["annotations"][marks.ENGINE_ANNOTATION])
    assert facts.get("hostKvBytes") == told


def test_a_replica_on_several_nodes_has_no_tier_of_ours() -> None:
    made = engine_of(the_pool(), 64 * GIB, group=2, width=16)
    assert not [one for one in made["args"] if "offloading" in one]


@pytest.mark.parametrize("text", ["", "x", "-1", "1e9", "9" * 30, "1.5"])
def test_a_forged_size_is_none(text: str) -> None:
    assert marks.read_host_tier({marks.HOST_TIER_ANNOTATION: text}) == 0
