"""Changing accelerators: make before break, after the dwell, and around capacity that cannot be had."""

from __future__ import annotations

import dataclasses

import pytest
from operator_builders import (
    ACCELERATOR_TYPE,
    DEPLOYMENT,
    FLEET,
    INFERENCE_POOL,
    WORKLOAD_CLASS,
    Place,
    a_class,
    a_pool,
    an_accelerator,
)

from localcluster.nodes import apply_nodes, node_kinds, nodes_for
from tidefleet.cluster.writes import MergePatch, Write

pytestmark = pytest.mark.cluster

DWELL = 900.0
WAIT = 300.0
REFUSED = 1800.0


def two_types(place: Place, one: str = "2.00", other: str = "3.00") -> tuple[str, str]:
    """Two accelerators that differ in nothing but their price, and a pool that may use both."""
    names = place.unique("one"), place.unique("other")
    place.create(an_accelerator(names[0], one), an_accelerator(names[1], other))
    place.create(a_pool(accelerators=[{"type": name} for name in names]), a_class(rate=8))
    return names


def set_price(place: Place, name: str, price: str) -> None:
    """Change what an accelerator costs."""
    place.set_spec(ACCELERATOR_TYPE, name, prices=[{"capacityType": "OnDemand", "usdPerChipHour": price}])


def test_a_cheaper_accelerator_takes_over_after_the_dwell_and_before_the_old_one_goes(place, operator_in_process):
    one, other = two_types(place)
    served: list[int] = []

    def watch(write: Write) -> None:
        """Whenever replicas are taken away: how many ready ones stay."""
        if isinstance(write, MergePatch) and write.kind is DEPLOYMENT and "replicas" in write.body.get("spec", {}):
            live = {each["metadata"]["name"]: each for each in place.list(DEPLOYMENT)}
            left = {name: each.get("status", {}).get("readyReplicas", 0) for name, each in live.items()}
            left[write.name] = min(left[write.name], write.body["spec"]["replicas"])
            served.append(sum(left.values()))

    op = operator_in_process(before_write=watch)
    op.settle()
    needed = place.replicas()[one]
    assert place.replicas() == {one: needed}
    assert needed >= 2
    began = op.clock.now()

    set_price(place, one, "9.00")
    op.until(lambda: "dwell" in place.status()["plan"]["reason"], "waiting for the dwell", step=20)
    assert place.has("Reconciling", "False", "Dwelling")
    op.advance(began + DWELL - 30 - op.clock.now())
    op.advance()
    assert place.replicas() == {one: needed}

    op.until(lambda: place.replicas().get(other) == needed, "the new ones are asked for", step=10)
    assert op.clock.now() >= began + DWELL
    op.until(lambda: place.replicas() == {one: 0, other: needed}, "the old ones are gone", step=10)
    op.settle(step=10)
    assert served
    assert min(served) >= needed, "ready replicas after each write that took some away"
    assert place.status()["accelerators"] == f"{needed} {other} (bf16, tp1)"


def test_a_small_saving_moves_nobody(place, operator_in_process):
    one, _ = two_types(place, "3.00", "3.00")
    op = operator_in_process()
    op.settle()
    (first,) = place.replicas()
    set_price(place, first, "3.20")
    op.until(lambda: "that moving must save" in place.status()["plan"]["reason"], step=20)
    op.advance(3 * DWELL)
    assert list(place.replicas()) == [first]


def test_replicas_grow_on_the_present_accelerator_within_the_dwell(place, operator_in_process):
    one, _ = two_types(place)
    op = operator_in_process()
    op.settle()
    before = place.replicas()[one]
    set_price(place, one, "9.00")
    place.set_spec(WORKLOAD_CLASS, "chat", demand={"requestsPerSecond": "16"})
    op.until(lambda: place.replicas()[one] > before)
    assert list(place.replicas()) == [one]


@pytest.fixture
def scarce(place):
    """An accelerator with the best price and one node of two chips, on the shared fleet."""
    name = place.unique("scarce")
    kind = node_kinds()["l40s"]
    label = {"test-accelerator": name}
    (node,) = nodes_for(
        {"l40s": 1}, kinds={"l40s": dataclasses.replace(kind, labels=label, chips_per_node=2)},
        labels={FLEET: "operator"},
    )  # fmt: skip
    node["metadata"]["name"] = name
    apply_nodes(place.cluster.kubeconfig, [node])
    place.create(an_accelerator(name, "0.50", nodeSelector=label))
    yield name
    place.api.delete(f"/api/v1/nodes/{name}")


def test_capacity_that_is_not_there_is_waited_for_then_planned_around_then_asked_for_again(
    place, operator_in_process, scarce
):
    place.create(a_pool(accelerators=[{"type": scarce}, {"type": "l40s"}]), a_class(rate=14))
    op = operator_in_process()
    op.until(lambda: place.has("CapacityAvailable", "False", "Pending"), "pods without a node")
    wanted = place.replicas()[scarce]
    assert wanted > 2
    assert place.replicas() == {scarce: wanted}
    began = place.condition("CapacityAvailable")[2]
    assert f"waiting for {wanted - 2} chips of {scarce} since 20" in began
    assert place.condition("Ready")[1] == "WaitingForReplicas"

    op.advance(WAIT / 2)
    op.advance()
    assert place.condition("CapacityAvailable")[2] == began, "the moment since when does not move"
    assert place.replicas() == {scarce: wanted}

    op.until(lambda: place.replicas().get("l40s", 0) >= 1, "planned around", step=30)
    op.until(lambda: place.has("CapacityAvailable", "False", "Refused"), "said so")
    assert scarce in place.condition("CapacityAvailable")[2]
    op.until(lambda: place.replicas()[scarce] == 2, "those that wait are given up")
    op.settle()
    assert any("no more nodes came" in one["lostBecause"] for one in place.status()["plan"]["runnersUp"])

    op.advance(REFUSED)
    op.advance(DWELL)
    op.until(lambda: place.replicas()[scarce] > 2, "asked for again", step=60)


def test_a_node_that_comes_late_ends_the_wait(place, operator_in_process, scarce):
    place.create(a_pool(accelerators=[{"type": scarce}]), a_class(rate=14))
    op = operator_in_process()
    op.until(lambda: place.has("CapacityAvailable", "False", "Pending"))
    op.advance(WAIT * 2)
    op.until(lambda: place.condition("CapacityAvailable")[0] == "False")
    assert sum(place.replicas().values()) >= 2, "nothing that runs is taken away"

    node = place.api.get(f"/api/v1/nodes/{scarce}")
    place.api.merge(f"/api/v1/nodes/{scarce}/status", {
        "status": {kind: {**node["status"][kind], "nvidia.com/gpu": "8"} for kind in ("allocatable", "capacity")}
    })  # fmt: skip
    op.advance(REFUSED)
    op.settle(step=30)
    assert place.has("CapacityAvailable", "True", "Available")


def test_the_spending_limit_slows_growth_and_says_so(place, operator_in_process):
    place.create(
        a_pool(accelerators=[{"type": "l40s"}], costTarget={"maxSpendIncreaseUsdPerHour": "4"}), a_class(rate=2)
    )
    op = operator_in_process()
    op.settle()
    place.set_spec(WORKLOAD_CLASS, "chat", demand={"requestsPerSecond": "20"})
    op.until(lambda: place.has("TargetsMet", "False", "SpendCapReached"))
    limited = place.replicas()["l40s"]
    assert 1 < limited < 7
    op.until(lambda: place.replicas()["l40s"] > limited, "an hour later", step=50)
    place.set_spec(INFERENCE_POOL, "chat", costTarget={})
    place.merge(INFERENCE_POOL, "chat", {"spec": {"costTarget": None}})
    op.settle(step=60)
    assert place.has("TargetsMet", "True", "NoTarget")
