"""Replicas wider than a node: when they may be planned, and the LeaderWorkerSet that they become."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from controller_builders import a_kind, a_pool, a_served, a_view, an_option

from tidefleet.api import AcceleratorType, InferencePool, Reason
from tidefleet.cluster.kinds import DEPLOYMENT, LEADER_WORKER_SET
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.decision import Decision
from tidefleet.controller.groups import group_size, workload_for
from tidefleet.controller.view import PoolMemory, Served
from tidefleet.planning.demand import DemandHistory, Known
from tidefleet.planning.options import EstimateMemo

H100 = a_kind("h100-sxm", prices=[{"capacityType": "OnDemand", "usdPerChipHour": "2.00"}])
PROBE = {"httpGet": {"path": "/health", "port": 8000}}
TEMPLATE: dict[str, Any] = {
    "spec": {
        "containers": [
            {"name": "proxy", "image": "proxy"},
            {"name": "engine", "image": "vllm", "args": ["--model=m", "--headless"], "readinessProbe": PROBE},
        ]
    }
}


def pool(width: int = 16, *, engine: str = "VLLM", command: list[str] | None = None) -> InferencePool:
    """A pool whose owner wants replicas of this many chips."""
    template = TEMPLATE
    if command is not None:
        container = {"name": "engine", "image": "x", "command": command}
        template = {"spec": {"containers": [container]}}
    serving = {"template": template, "engine": {"type": engine, "port": 8000}}
    return a_pool(serving=serving, accelerators=[{"type": "h100-sxm", "tensorParallel": [width]}])


def decided(width: int, *, groups: bool, engine: str = "VLLM", served: tuple[Served, ...] = ()) -> Decision:
    """The decision about it for five requests a second."""
    now = 1_800_000_000.0
    reading = Known(now, 5.0, "Engines")
    view = replace(a_view(pool(width, engine=engine), H100, reading=reading, served=served), groups=groups)
    return decide(view, PoolMemory(DemandHistory(600.0)), OperatorConfiguration(), EstimateMemo())


def test_a_replica_wider_than_a_node_is_a_leader_worker_set_where_there_are_any() -> None:
    (target,) = decided(16, groups=True).targets
    assert (target.served.kind, target.served.group) == (LEADER_WORKER_SET, 2)
    assert target.planned >= 1
    (narrow,) = decided(8, groups=True).targets
    assert (narrow.served.kind, narrow.served.group) == (DEPLOYMENT, 1)


@pytest.mark.parametrize(
    ("width", "groups", "engine"), [(16, False, "VLLM"), (12, True, "VLLM"), (16, True, "Other")],
    ids=["no LeaderWorkerSets", "half a node", "an unknown engine"],
)  # fmt: skip
def test_otherwise_it_is_rejected_and_the_reason_is_told(width: int, groups: bool, engine: str) -> None:
    decision = decided(width, groups=groups, engine=engine)
    assert not decision.targets
    assert f"{width} chips a replica do not fit a node of 8" in decision.reason
    assert decision.verdicts[2].reason is Reason.NO_CANDIDATE_FITS


def test_groups_that_run_stay_candidates_while_nobody_knows_whether_the_kind_is_served() -> None:
    running = replace(a_served(pool(), an_option("h100-sxm", tp=16), replicas=2), group=2)
    (target,) = decided(16, groups=False, served=(running,)).targets
    assert target.desired == 2


def group(one: InferencePool, width: int = 16, kind: AcceleratorType = H100) -> dict[str, Any]:
    """The LeaderWorkerSet of an option of it."""
    option = an_option(kind.name, tp=width)
    served = Served("chat-x", option, None, group_size(option, kind))
    body = workload_for(one, served, kind, native_weights="Bf16", replicas=3)
    assert body["spec"]["replicas"] == 3
    found: dict[str, Any] = body["spec"]["leaderWorkerTemplate"]
    return found


def engine_of(template: dict[str, Any]) -> dict[str, Any]:
    """The engine's container."""
    found: dict[str, Any] = next(one for one in template["spec"]["containers"] if one["name"] == "engine")
    return found


def test_the_pods_of_a_group_share_the_chips_and_find_their_leader() -> None:
    made = group(pool())
    assert made["size"] == 2
    leader, worker = engine_of(made["leaderTemplate"]), engine_of(made["workerTemplate"])
    for one in (leader, worker):
        assert one["resources"]["limits"] == one["resources"]["requests"] == {"nvidia.com/gpu": "8"}
    common = [
        "--model=m", "--tensor-parallel-size=16", "--nnodes=2", "--node-rank=$(LWS_WORKER_INDEX)",
        "--distributed-executor-backend=mp", "--master-addr=$(LWS_LEADER_ADDRESS)",
    ]  # fmt: skip
    assert leader["args"] == common
    assert worker["args"] == [*common, "--headless"]
    assert [one["name"] for one in made["workerTemplate"]["spec"]["containers"]] == ["proxy", "engine"]


def test_only_the_leader_of_a_group_is_routable_probed_and_emulated() -> None:
    made = group(pool())
    leader, worker = made["leaderTemplate"], made["workerTemplate"]
    assert engine_of(leader)["readinessProbe"] == PROBE
    assert "readinessProbe" not in engine_of(worker)
    assert leader["metadata"]["labels"]["tidefleet.io/routable"] == "true"
    assert worker["metadata"]["labels"].keys() == {"tidefleet.io/pool", "tidefleet.io/option"}
    assert "tidefleet.io/engine" in leader["metadata"]["annotations"]
    assert not worker["metadata"]["annotations"]


def test_sglang_is_joined_by_its_own_arguments() -> None:
    made = group(pool(32, engine="SGLang", command=["python", "-m", "sglang.launch_server", "--nnodes", "9"]), 32)
    assert made["size"] == 4
    for template in (made["leaderTemplate"], made["workerTemplate"]):
        assert engine_of(template)["command"] == [
            "python", "-m", "sglang.launch_server", "--tp=32", "--nnodes=4", "--node-rank=$(LWS_WORKER_INDEX)",
            "--dist-init-addr=$(LWS_LEADER_ADDRESS):20000",
        ]  # fmt: skip


@pytest.mark.parametrize(("width", "size"), [(1, 1), (8, 1), (9, 2), (16, 2), (64, 8)])
def test_a_group_has_as_many_pods_as_nodes_are_needed(width: int, size: int) -> None:
    assert group_size(an_option("h100-sxm", tp=width), H100) == size


def test_the_pods_of_a_group_keep_to_one_rack_beside_what_the_template_prefers() -> None:
    wish = {"weight": 1, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {}}}
    affinity = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}
    template = {"spec": {**TEMPLATE["spec"], "affinity": affinity}}
    one = a_pool(serving={"template": template}, accelerators=[{"type": "gb200-nvl72", "tensorParallel": [8]}])
    made = group(one, 8, a_kind("gb200-nvl72"))
    for pod in (made["leaderTemplate"], made["workerTemplate"]):
        first, together = pod["spec"]["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        assert first == wish
        assert together["podAffinityTerm"] == {
            "topologyKey": "nvidia.com/gpu.clique",
            "labelSelector": {"matchLabels": {"leaderworkerset.sigs.k8s.io/name": "chat-x"}},
            "matchLabelKeys": ["leaderworkerset.sigs.k8s.io/group-index"],
        }
    assert "affinity" not in group(pool())["leaderTemplate"]["spec"]
