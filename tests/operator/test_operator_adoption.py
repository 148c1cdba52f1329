"""Workloads that exist already are only scaled, and only by one hand."""

from __future__ import annotations

import pytest
from operator_builders import DEPLOYMENT, INFERENCE_POOL, STATEFUL_SET, Place, a_class, a_pool, a_workload, adopting

from tidefleet.controller import process

pytestmark = pytest.mark.cluster


def an_adopter(name: str = "chat", *workloads: tuple[str, str], kind: str = "Deployment", **spec) -> dict:
    """A pool that adopts workloads."""
    serving = adopting(*(workloads or (("mine", "l40s"),)), kind=kind)
    return a_pool(name, serving=serving, accelerators=None, **spec)


def an_hpa(name: str, target: str) -> dict:
    """A HorizontalPodAutoscaler of a Deployment."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "minReplicas": 1,
            "maxReplicas": 9,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
        },
    }


def hpas(place: Place) -> str:
    """Where they are."""
    return f"/apis/autoscaling/v2/namespaces/{place.namespace}/horizontalpodautoscalers"


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_an_adopted_workload_is_only_scaled(place, operator_in_process, kind):
    which = DEPLOYMENT if kind == "Deployment" else STATEFUL_SET
    place.create(a_workload("mine", 1, kind=kind), an_adopter(kind=kind), a_class(rate=6))
    before = place.get(which, "mine")
    op = operator_in_process()
    op.settle()

    after = place.get(which, "mine")
    wanted = after["spec"]["replicas"]
    assert wanted > 1
    assert {**after["spec"], "replicas": 1} == before["spec"]
    assert after["metadata"]["labels"] == before["metadata"]["labels"]
    new = set(after["metadata"]["annotations"]) - set(before["metadata"].get("annotations", {}))
    assert {one for one in new if "tidefleet.io" in one} == {
        "tidefleet.io/adopted", "tidefleet.io/epoch", "tidefleet.io/decision-id",
    }  # fmt: skip
    assert place.has("Adopted", "True", "Adopted")
    labels = {"namespace": place.namespace, "pool": "chat", "workload": f"{kind}/mine", "accelerator": "l40s"}
    assert op.metric("tidefleet_pool_option_replicas", **labels, state="desired") == wanted
    assert op.metric("tidefleet_pool_option_replicas", **labels, state="ready") == wanted


def test_the_cheaper_of_two_adopted_workloads_grows(place, operator_in_process):
    place.create(a_workload("small", 1), a_workload("big", 1, accelerator="h100-sxm"))
    place.create(an_adopter("chat", ("small", "l40s"), ("big", "h100-sxm")), a_class(rate=5))
    op = operator_in_process()
    op.settle()
    op.advance(1000)
    op.settle(step=20)
    assert place.get(DEPLOYMENT, "small")["spec"]["replicas"] == 2
    assert place.get(DEPLOYMENT, "big")["spec"]["replicas"] == 0


def test_an_autoscaler_on_the_target_is_named_and_nothing_is_scaled(place, operator_in_process, monkeypatch):
    monkeypatch.setattr(process, "LOOK_AROUND_SECONDS", 1.0)
    place.create(a_workload("mine", 1), an_adopter(), a_class(rate=6))
    place.api.create(hpas(place), an_hpa("theirs", "mine"))
    op = operator_in_process()
    op.until(lambda: place.has("Adopted", "False", "HpaOnTarget"))

    message = place.condition("Adopted")[2]
    for word in (f"InferencePool {place.namespace}/chat", "Deployment mine", f"{place.namespace}/theirs",
                 "expected no other autoscaler", "tidefleet_pool_option_replicas"):  # fmt: skip
        assert word in message
    assert place.condition("Ready")[0] == "False"
    op.advance(1000)
    assert place.get(DEPLOYMENT, "mine")["metadata"]["generation"] == 1, "it was scaled all the same"

    place.api.delete(f"{hpas(place)}/theirs")
    op.settle()
    assert place.get(DEPLOYMENT, "mine")["spec"]["replicas"] > 1


def test_an_autoscaler_made_a_moment_before_the_pool_is_seen_in_time(place, operator_in_process, monkeypatch):
    monkeypatch.setattr(process, "LOOK_AROUND_SECONDS", 3600.0)
    place.create(a_workload("mine", 1))
    op = operator_in_process()
    place.api.create(hpas(place), an_hpa("theirs", "mine"))
    place.create(an_adopter(), a_class(rate=6))
    op.until(lambda: place.condition("Ready")[0] == "False")
    op.advance(1000)
    assert place.get(DEPLOYMENT, "mine")["metadata"]["generation"] == 1, "it was scaled all the same"


def test_in_mode_recommend_an_autoscaler_is_no_hindrance_and_can_follow_the_metric(place, operator_in_process):
    place.create(a_workload("mine", 1), an_adopter(mode="Recommend"), a_class(rate=6))
    op = operator_in_process()
    op.settle()
    assert place.get(DEPLOYMENT, "mine")["metadata"]["generation"] == 1
    labels = {"namespace": place.namespace, "pool": "chat", "workload": "Deployment/mine", "accelerator": "l40s"}
    assert op.metric("tidefleet_pool_option_replicas", **labels, state="desired") > 1
    assert op.metric("tidefleet_pool_option_replicas", **labels, state="ready") == 1


def test_of_two_pools_that_adopt_one_workload_the_second_is_told(place, operator_in_process):
    place.create(a_workload("mine", 1))
    place.create(an_adopter("first", replicas={"min": 2, "max": 4}), a_class("first"))
    place.create(an_adopter("second", replicas={"min": 7, "max": 8}), a_class("second"))
    op = operator_in_process()
    op.until(lambda: place.has("Adopted", "False", "AnotherPool", "second"))
    assert f"already adopted by InferencePool {place.namespace}/first" in place.condition("Adopted", "second")[2]
    op.settle("first")
    op.advance(1000)
    assert place.get(DEPLOYMENT, "mine")["spec"]["replicas"] == 2

    place.delete(INFERENCE_POOL, "first")
    op.until(lambda: place.get(DEPLOYMENT, "mine")["spec"]["replicas"] == 7)


def test_a_workload_that_does_not_exist_is_named(place, operator_in_process):
    place.create(an_adopter("chat", ("late", "l40s")), a_class())
    op = operator_in_process()
    op.until(lambda: place.has("Validated", "False", "WorkloadNotFound"), str(place.condition("Validated")))
    assert "late" in place.condition("Adopted")[2]

    place.create(a_workload("late", 1))
    op.settle()
