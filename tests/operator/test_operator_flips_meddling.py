"""Hands that meddle with a node in a flip: people, GitOps tools, drivers."""

from __future__ import annotations

import pytest
from flip_demand import QUICK
from flip_faults import SLOT, Ground
from operator_builders import a_class

from tidefleet.cluster.kinds import NODE

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

DUTY, JOURNAL = "tidefleet.io/duty", "tidefleet.io/flip"


def taints(ground: Ground, index: int) -> list[str]:
    """Keys of the taints of a node."""
    return [one["key"] for one in ground.node(index)["spec"].get("taints") or ()]


def two_lent(ground: Ground) -> list[int]:
    """Nodes without a replica, two of which train."""
    ground.place.create(ground.a_pool(), a_class(rate=1))
    ground.start(flipping=QUICK)
    ground.serve(1)
    free = [index for index in range(len(ground.names)) if index not in ground.serving_on()]
    for index in free[:2]:
        ground.ask(index, "training")
        ground.reaches("Training", index, step=5.0)
        ground.step(SLOT)
    return free


def test_a_tool_that_reverts_our_marks_meets_them_again_and_is_named_and_told_of(flip_ground, place):
    ground = flip_ground(nodes=4)
    index = two_lent(ground)[0]
    where = place.path(NODE, ground.names[index])
    training = [{"key": DUTY, "value": "training", "effect": "NoSchedule"}]
    # A tool that owns the taints takes ours off, and one that owns labels says that the node serves.
    for _ in range(3):
        body = {
            "metadata": {"labels": {DUTY: "serving"}},
            "spec": {"taints": [{"key": "theirs", "effect": "NoSchedule"}]},
        }
        place.api.merge(f"{where}?fieldManager=argocd", body)
        ground.until(lambda: DUTY in taints(ground, index), "the taint is back", step=2.0)
        assert ground.node(index)["metadata"]["labels"][DUTY] == "training"
    assert "theirs" in taints(ground, index), "what others put there stays"
    told = ground.events("LabelsReverted", index)
    assert any("argocd" in one for one in told), told
    ground.until(
        lambda: place.has("Flipping", "True", "LabelsReverted") or "argocd" in str(place.condition("Flipping"))
    )
    writes = ground.op.writes
    for _ in range(4):
        ground.step(2.0)
    assert ground.op.writes - writes <= 2, "nothing is written while nobody meddles"
    assert ground.phase(index) == "Training"
    assert {"key": DUTY, **training[0]} in [
        {key: one.get(key) for key in ("key", "value", "effect")} for one in ground.node(index)["spec"]["taints"]
    ]


def test_a_cordon_and_an_upgrade_call_off_what_has_not_been_lent_and_wait_for_what_has(flip_ground, place):
    ground = flip_ground(nodes=6)
    lent, other, *_ = two_lent(ground)
    upgrade = {"nvidia.com/gpu-driver-upgrade-state": "drain-required"}
    ground.mark(lent, spec={"unschedulable": True})
    ground.mark(other, labels=upgrade)
    for _ in range(3):
        ground.step(30.0)
    assert [ground.phase(lent), ground.phase(other)] == ["Training", "Training"], "a job is not ended for it"
    assert ground.node(other)["metadata"]["labels"].get("nvidia.com/gpu-driver-upgrade.skip") is None
    for index in (lent, other):
        ground.ask(index, "serving")
    ground.until(
        lambda: {ground.phase(lent), ground.phase(other)} <= {"Warming", "Serving"}, "they come back", step=5.0
    )
    assert ground.node(lent)["spec"]["unschedulable"] is True, "a person's cordon is the person's"
    assert "tidefleet.io/flip" not in taints(ground, lent)

    ground.step(SLOT)
    (there,) = ground.serving_on()
    seen: list[str] = []
    for words, change in (
        ("cordoned", {"spec": {"unschedulable": True}}),
        ("MIG", {"labels": {"nvidia.com/mig.config": "all-1g", "nvidia.com/mig.config.state": "pending"}}),
    ):
        ground.ask(there, "training")
        ground.until(lambda: ground.phase(there) in ("Cordoned", "Draining"), "it is on its way", step=1.0)
        ground.mark(there, **change)
        ground.reaches("Serving", there, step=1.0)
        seen = [one for reason in ("RolledBack", "FlipCalledOff") for one in ground.events(reason, there)]
        assert any(words in one for one in seen), seen
        ground.mark(there, **{field: dict.fromkeys(value) for field, value in change.items()})
        ground.step(SLOT)
    ground.until(lambda: not [one for one in taints(ground, there) if one.startswith("tidefleet.io/")], "it is clean")
    assert ground.sound()
