"""What keeps a node from being flipped, before it sets out and on its way: marks, upgrades, people, other pods."""

from __future__ import annotations

import pytest
from operator_builders import POD, a_class

pytestmark = pytest.mark.cluster


def test_marks_and_upgrades_and_other_pods_refuse_a_loan_with_the_reason(flip_ground, place):
    ground = flip_ground(nodes=5)
    place.create(ground.a_pool(), a_class(rate=1))
    ground.start()
    ground.serve(1)
    (there,) = ground.serving_on()
    free = next(index for index in range(5) if index != there)
    cases = {
        "is cordoned": {"spec": {"unschedulable": True}},
        "do-not-flip for": {"annotations": {"tidefleet.io/do-not-flip": "90m"}},
        "is not understood": {"annotations": {"tidefleet.io/do-not-flip": "soon"}},
        "its driver is being upgraded": {"labels": {"nvidia.com/gpu-driver-upgrade-state": "drain-required"}},
        "its MIG configuration all-1g is pending": {
            "labels": {"nvidia.com/mig.config": "all-1g", "nvidia.com/mig.config.state": "pending"}
        },
        "is marked karpenter.sh/do-not-disrupt": {"annotations": {"karpenter.sh/do-not-disrupt": "true"}},
        "scale-down-disabled": {"annotations": {"cluster-autoscaler.kubernetes.io/scale-down-disabled": "true"}},
        "the taint karpenter.sh/disrupted": {
            "spec": {"taints": [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]}
        },
    }
    for words, change in cases.items():
        ground.mark(free, **change)
        ground.ask(free, "training")
        ground.until(lambda words=words: any(words in one for one in ground.events("FlipRefused", free)), words)
        undone = {field: dict.fromkeys(value) for field, value in change.items()}
        ground.mark(free, **undone)
    (pod,) = ground.pods(there)
    name = pod["metadata"]["name"]
    for mark in ("tidefleet.io/do-not-flip", "karpenter.sh/do-not-disrupt"):
        place.merge(POD, name, {"metadata": {"annotations": {mark: "true"}}})
        ground.ask(there, "training")
        ground.until(lambda: any(name in one for one in ground.events("FlipRefused", there)), mark)
        place.merge(POD, name, {"metadata": {"annotations": {mark: None}}})
    assert "tidefleet.io/flip" not in ground.node(there)["metadata"]["annotations"]
    ground.ask(free, "training")
    ground.reaches("Training", free, step=5.0)
    assert ground.sound()


def test_a_pod_of_somebody_else_refuses_the_loan_and_is_left_alone(flip_ground, place):
    ground = flip_ground()
    place.create(ground.a_pool(), a_class(rate=1))
    ground.start()
    ground.serve(1)
    (there,) = ground.serving_on()
    free = next(index for index in range(3) if index != there)
    ground.pod_of_somebody("foreign", free)
    ground.ask(free, "training")
    ground.until(lambda: any("foreign of somebody else" in one for one in ground.events("FlipRefused", free)))
    assert place.get(POD, "foreign")["status"]["phase"] == "Running"
    assert ground.phase(free) == "Serving"


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("is cordoned", {"spec": {"unschedulable": True}}),
        (
            "its MIG configuration",
            {"labels": {"nvidia.com/mig.config": "all-1g", "nvidia.com/mig.config.state": "pending"}},
        ),
        ("its driver is being upgraded", {"labels": {"nvidia.com/gpu-driver-upgrade-state": "cordon-required"}}),
    ],
)
def test_what_appears_on_a_node_in_mid_drain_rolls_the_flip_back_and_stays(flip_ground, place, engines, words, change):
    ground = flip_ground()
    place.create(ground.a_pool(), a_class(rate=1))
    ground.start()
    ground.serve(1)
    (there,) = ground.serving_on()
    engines.fault("hang", ground.pods(there)[0]["metadata"]["name"])
    ground.ask(there, "training")
    ground.reaches("Draining", there, step=2.0)
    ground.mark(there, **change)
    assert words in ground.reaches("Serving", there)["why"]
    node = ground.node(there)
    for field, keys in change.items():
        held = node["spec"] if field == "spec" else node["metadata"][field]
        assert {key: held.get(key) for key in keys} == keys
    keys = [one["key"] for one in node["spec"].get("taints", ())]
    assert not [key for key in keys if key.startswith("tidefleet.io/")]
    assert ground.sound()


def test_marks_that_a_gitops_tool_reverts_in_mid_flip_are_put_back_and_told(flip_ground, place, engines):
    ground = flip_ground()
    place.create(ground.a_pool(), a_class(rate=1))
    ground.start()
    ground.serve(1)
    (there,) = ground.serving_on()
    free = next(index for index in range(3) if index != there)
    ground.ask(free, "training")
    ground.reaches("Training", free, step=5.0)
    ground.mark(free, labels={"tidefleet.io/duty": None}, spec={"taints": None})
    ground.until(lambda: ground.node(free)["metadata"]["labels"].get("tidefleet.io/duty") == "training")
    assert [one["key"] for one in ground.node(free)["spec"]["taints"]] == ["tidefleet.io/duty"]
    ground.until(lambda: ground.events("LabelsReverted", free), "it is told")
    ground.mark(free, annotations={"tidefleet.io/flip": None})
    journal = ground.reaches("Quarantined", free)
    assert "no journal that can be read" in journal["why"]
    ground.reaches("Serving", free, step=60.0)
    assert ground.sound()
