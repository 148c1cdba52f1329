"""What keeps a node from being flipped, before it sets out and on its way: marks, upgrades, people, other pods."""

from __future__ import annotations

import pytest
from operator_builders import POD, a_class, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


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
    told = {
        "tidefleet.io/do-not-flip": f"{name} is marked tidefleet.io/do-not-flip",
        "karpenter.sh/do-not-disrupt": f"{name} is marked as not to be disrupted",
    }
    for mark, words in told.items():
        place.merge(POD, name, {"metadata": {"annotations": {mark: "true"}}})
        # The marks of a pod and of a node come by watches of their own.
        eventually(lambda mark=mark: any(mark in one.annotations for one in ground.op.process._inventory.pods()))
        ground.ask(there, "training")
        ground.until(lambda: any(words in one for one in ground.events("FlipRefused", there)), words)
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
