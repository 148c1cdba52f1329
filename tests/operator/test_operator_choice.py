"""From an applied pool to the cheapest accelerators, told the same way everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from operator_builders import (
    INFERENCE_POOL,
    WORKLOAD_CLASS,
    Place,
    a_class,
    a_pool,
    a_template,
    an_accelerator,
    kubectl,
    tidefleet,
)

pytestmark = pytest.mark.cluster


def engine_of(deployment: dict) -> dict:
    """The engine's container."""
    return next(one for one in deployment["spec"]["template"]["spec"]["containers"] if one["name"] == "engine")


def test_a_pool_with_declared_demand_gets_the_cheapest_accelerator(place, operator_in_process):
    place.create(a_pool(), a_class(rate=2))
    operator_in_process().settle()

    assert place.replicas() == {"l40s": 1}
    made = place.deployments()["l40s"]
    pod = made["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "nvidia.com/gpu.product": "NVIDIA-L40S",
        **a_template()["spec"]["nodeSelector"],
    }
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert engine_of(made)["resources"] == {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1"}}
    assert made["spec"]["template"]["metadata"]["labels"]["tidefleet.io/routable"] == "true"
    assert not made["metadata"].get("ownerReferences")
    assert "h100-sxm" in str(place.status()["plan"]["runnersUp"])
    assert [one["regarding"]["kind"] for one in place.events("Scaled")] == ["InferencePool"]


def test_the_engine_is_told_its_width_and_precisions(place, operator_in_process):
    wide = {"type": "h100-sxm", "tensorParallel": [4], "weights": ["Fp8"], "kv": ["Fp8"]}
    serving = {"template": a_template("-tp", "1", "--seed=7"), "engine": {"type": "VLLM", "port": 8000}}
    place.create(a_pool(accelerators=[wide], serving=serving, model={"name": "llama-3.3-70b"}), a_class(rate=1))
    operator_in_process().settle()

    engine = engine_of(place.deployments()["h100-sxm"])
    assert engine["args"][1:] == ["--seed=7", "--tensor-parallel-size=4", "--quantization=fp8", "--kv-cache-dtype=fp8"]
    assert engine["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert place.status()["accelerators"] == "1 h100-sxm (fp8, tp4)"


def test_kubectl_shows_the_choice_in_columns(place, operator_in_process):
    place.create(a_pool(), a_class(rate=2))
    operator_in_process().settle()

    head, row = kubectl(place, "get", "tpool").splitlines()
    assert [word for word in head.split() if word in ("READY", "ACCELERATORS", "$/1M", "REASON")] == [
        "READY",
        "ACCELERATORS",
        "$/1M",
        "REASON",
    ]
    status = place.status()
    for value in ("True", status["accelerators"], status["plan"]["usdPerMillionTokens"], "PlanAvailable"):
        assert value in row


def test_explain_tells_the_story_of_the_status(place, operator_in_process):
    place.create(a_pool(), a_class(rate=40))
    operator_in_process().settle()

    code, text = tidefleet("explain", f"{place.namespace}/chat", "--kubeconfig", place.cluster.kubeconfig)
    plan = place.status()["plan"]
    assert code == 0
    assert text.startswith(f"{place.namespace}/chat: {plan['reason']}\n")
    for one in plan["runnersUp"]:
        assert one["lostBecause"] in text
    assert f"decision {place.status()['decisionId']}" in text


DISK = {
    "medium": "Disk",
    "maxBytesPerReplica": 2**43,
    "bytesPerSecond": 20_000_000_000,
    "usdPerGibMonth": "0.02",
    "sizing": "Planned",
}


@pytest.mark.parametrize(("rate", "spec"), [(0.5, {}), (12, {}), (40, {"kvCache": {"tiers": [DISK]}})])
def test_planning_offline_agrees_with_the_operator(place, operator_in_process, tmp_path: Path, rate, spec):
    made = [a_pool(**spec), a_class(rate=rate, turnsPerSession="9")]
    place.create(*made)
    operator_in_process().settle()

    file = tmp_path / "pool.yaml"
    file.write_text(
        yaml.safe_dump_all(
            {
                "apiVersion": INFERENCE_POOL.group_version,
                **one,
                "metadata": {**one["metadata"], "namespace": place.namespace},
            }
            for one in made
        )
    )
    code, text = tidefleet("plan", "-f", file, "-o", "json")
    assert code == 0, text
    (offline,) = json.loads(text)
    ours = place.status()["plan"]
    theirs = offline["plan"]
    assert ("kvTiers" in ours) == bool(spec)
    if spec:
        assert ours["kvTiers"]["use"] == "Counted"
        code, told = tidefleet("explain", f"{place.namespace}/chat", "--kubeconfig", place.cluster.kubeconfig)
        assert code == 0
        assert ours["kvTiers"]["tiers"][0]["what"] in told
    for one in (*ours["options"], *theirs["options"]):
        one.pop("ready")
    # On paper nothing runs; what runs is left only for a price that pays for the move.
    now, then = ({one["what"]: float(one["at"]) for one in plan.pop("breakEven", ())} for plan in (ours, theirs))
    chosen = {f"{one['accelerator']} USD per chip-hour" for one in ours["options"]}
    assert set(now) == set(then)
    assert all(now[what] > then[what] if what in chosen else now[what] < then[what] for what in now)
    assert theirs == ours
    assert offline["accelerators"] == place.status()["accelerators"]


def test_a_small_pool_moves_to_the_idle_chips_of_another_pools_node(place, operator_in_process):
    place.create(
        a_pool("big", accelerators=[{"type": "h100-sxm", "tensorParallel": [1]}]),
        a_class("big", rate=5),
        a_pool(),
        a_class(rate=2),
    )
    op = operator_in_process(wholeNodes=True)

    def filled() -> bool:
        options = {one["accelerator"]: one["replicas"] for one in place.status().get("plan", {}).get("options", ())}
        return options.get("h100-sxm", 0) > 0 and not options.get("l40s")

    op.until(filled, "chat on the node of big", step=60.0)
    op.settle("chat", "big")
    assert filled()
    plan = place.status()["plan"]
    assert "the whole nodes that all pools stand on cost $" in plan["reason"]
    (nodes,) = plan["nodes"]
    assert (nodes["accelerator"], nodes["nodes"]) == ("h100-sxm", 1)
    assert f"{nodes['idleChips']} of 8 chips of a node of h100-sxm idle: $" in nodes["what"]


def test_a_missed_cost_target_is_said_and_met_again(place, operator_in_process):
    place.create(a_pool(costTarget={"usdPerMillionTokens": "0.01"}), a_class(rate=2))
    op = operator_in_process()
    op.settle()
    assert place.has("TargetsMet", "False", "CostTargetMissed")
    assert "above the target of $0.01" in place.condition("TargetsMet")[2]

    place.set_spec(INFERENCE_POOL, "chat", costTarget={"usdPerMillionTokens": "5"})
    op.until(lambda: place.has("TargetsMet", "True", "Met"))


def test_a_pool_without_classes_holds_its_minimum(place, operator_in_process):
    place.create(a_pool(replicas={"min": 2, "max": 4}))
    op = operator_in_process()
    op.settle()
    assert sum(place.replicas().values()) == 2
    assert place.has("DemandKnown", "False", "NoClasses")

    place.create(a_class(rate=30))
    op.until(lambda: place.has("DemandKnown", "True", "Declared"))
    op.until(lambda: sum(place.replicas().values()) > 2)


def test_a_price_of_ones_own_is_told_from_the_catalogues(place: Place, operator_in_process):
    mine = place.unique("mine")
    place.create(an_accelerator(mine, "0.40"), a_pool(accelerators=[{"type": mine}, {"type": "l40s"}]), a_class())
    op = operator_in_process()
    op.settle()
    assert list(place.replicas()) == [mine]
    assert place.has("PricingFresh", "True", "Fresh")
    assert op.metric("tidefleet_accelerator_price_usd_per_hour", accelerator=mine, capacity_type="OnDemand",
                     source="User") == 0.4  # fmt: skip

    place.set_spec(WORKLOAD_CLASS, "chat", demand={"requestsPerSecond": "5"})
    place.set_spec(INFERENCE_POOL, "chat", accelerators=[{"type": "l40s"}])
    op.until(lambda: place.replicas().get("l40s"))
    op.until(lambda: place.has("PricingFresh", "False", "CatalogueOnly"))
