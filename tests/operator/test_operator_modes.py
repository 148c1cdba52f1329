"""What the operator may touch, and what a user's change does to what runs."""

from __future__ import annotations

import pytest
from operator_builders import DEPLOYMENT, INFERENCE_POOL, WORKLOAD_CLASS, Place, a_class, a_pool, a_template, kubectl

from tidefleet.cluster.writes import Apply, Write

pytestmark = pytest.mark.cluster


def templates(place: Place, pool: str = "chat") -> dict[str, dict]:
    """The pod templates of a pool's Deployments."""
    return {one["metadata"]["name"]: one["spec"]["template"] for one in place.deployments(pool).values()}


def test_mode_recommend_writes_only_status(place, operator_in_process):
    writes: list[Write] = []
    place.create(a_pool(mode="Recommend"), a_class(rate=20))
    op = operator_in_process(before_write=writes.append)
    op.settle()
    op.advance(2000)

    assert place.list(DEPLOYMENT) == []
    assert place.has("Ready", "True", "RecommendOnly")
    assert place.status()["plan"]["options"]
    mine = [one for one in writes if one.namespace]
    assert mine
    assert all(isinstance(one, Apply) and one.subresource == "status" for one in mine)

    place.set_spec(INFERENCE_POOL, "chat", mode="Scale")
    op.until(lambda: place.has("Ready", "True", "PlanAvailable"))
    assert place.replicas()
    running = place.replicas()
    place.set_spec(INFERENCE_POOL, "chat", mode="Recommend")
    place.set_spec(WORKLOAD_CLASS, "chat", demand={"requestsPerSecond": "60"})
    op.until(lambda: "60 requests/s" in place.status()["plan"]["reason"], step=20)
    op.advance(2000)
    assert place.replicas() == running


def test_kubectl_scale_pins_a_pool_and_null_unpins_it(place, operator_in_process):
    place.create(a_pool(), a_class(rate=2))
    op = operator_in_process()
    op.settle()
    kubectl(place, "scale", "tpool", "chat", "--replicas=3")
    op.until(lambda: sum(place.replicas().values()) == 3)
    op.settle()
    assert place.status()["plan"]["reason"].endswith("pinned to 3 replicas")
    kubectl(place, "scale", "tpool", "chat", "--current-replicas=3", "--replicas=2")
    op.until(lambda: sum(place.replicas().values()) == 2)

    place.set_spec(INFERENCE_POOL, "chat", pinnedReplicas=None)
    op.until(lambda: sum(place.replicas().values()) == 1, step=20)


def test_a_changed_template_rolls_out_and_keeps_replicas(place, operator_in_process):
    place.create(a_pool(), a_class(rate=40))
    op = operator_in_process()
    op.settle()
    replicas, names = place.replicas(), set(templates(place))

    serving = {"template": a_template("--seed=9"), "engine": {"type": "VLLM", "port": 8000}}
    serving["template"]["metadata"] = {"labels": {"version": "two"}}
    place.set_spec(INFERENCE_POOL, "chat", serving=serving)
    op.until(
        lambda: all(
            "--seed=9" in one["spec"]["containers"][0]["args"] and one["metadata"]["labels"]["version"] == "two"
            for one in templates(place).values()
        )
    )
    op.settle()
    assert set(templates(place)) == names
    assert place.replicas() == replicas

    place.merge(INFERENCE_POOL, "chat", {"spec": {"serving": {"template": {"metadata": None}}}})
    op.until(lambda: all("version" not in one["metadata"]["labels"] for one in templates(place).values()))


def test_a_restart_of_the_operator_changes_no_template(place, operator_in_process):
    place.create(a_pool(), a_class(rate=40))
    op = operator_in_process()
    op.settle()
    op.stop()
    before = {one["metadata"]["name"]: one["spec"] for one in place.list(DEPLOYMENT)}

    writes: list[Write] = []
    op = operator_in_process(before_write=writes.append)
    op.settle()
    op.advance(2000)
    op.settle()
    assert [one for one in writes if one.kind is DEPLOYMENT and "spec" in one.body] == []
    assert {one["metadata"]["name"]: one["spec"] for one in place.list(DEPLOYMENT)} == before


def test_what_a_user_adds_to_a_deployment_stays(place, operator_in_process):
    place.create(a_pool(), a_class())
    op = operator_in_process()
    op.settle()
    (name,) = templates(place)
    place.merge(DEPLOYMENT, name, {
        "metadata": {"labels": {"team": "a"}},
        "spec": {"template": {"metadata": {"annotations": {"sidecar": "yes"}}}},
    })  # fmt: skip
    op.settle()
    op.advance(2000)
    live = place.get(DEPLOYMENT, name)
    assert live["metadata"]["labels"]["team"] == "a"
    assert live["spec"]["template"]["metadata"]["annotations"]["sidecar"] == "yes"


def test_replicas_that_somebody_else_changes_are_put_right(place, operator_in_process):
    place.create(a_pool(), a_class())
    op = operator_in_process()
    op.settle()
    (name,) = templates(place)
    place.merge(DEPLOYMENT, name, {"spec": {"replicas": 0}})
    op.until(lambda: place.get(DEPLOYMENT, name)["spec"]["replicas"] == 1)


def test_a_deployment_that_somebody_deletes_comes_back(place, operator_in_process):
    place.create(a_pool(), a_class())
    op = operator_in_process()
    op.settle()
    (name,) = templates(place)
    uid = place.get(DEPLOYMENT, name)["metadata"]["uid"]
    place.delete(DEPLOYMENT, name)
    op.until(lambda: (place.get(DEPLOYMENT, name) or {"metadata": {"uid": uid}})["metadata"]["uid"] != uid)
    op.settle()


def test_a_deployment_with_forged_marks_is_left_alone(place, operator_in_process):
    place.create(a_pool(deletionPolicy="Delete"), a_class())
    op = operator_in_process()
    op.settle()
    (name,) = templates(place)
    real = place.get(DEPLOYMENT, name)
    forged = {
        "kind": "Deployment",
        "metadata": {
            "name": "forged",
            "labels": {"tidefleet.io/pool": "chat"},
            "annotations": {**real["metadata"]["annotations"], "tidefleet.io/epoch": "999999999"},
        },
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "forged"}},
            "template": {**a_template(), "metadata": {"labels": {"app": "forged"}, "annotations": {
                "tidefleet.io/engine": '{"accelerator":"forged"}'}}},
        },
    }  # fmt: skip
    place.create(forged)
    op.advance(1000)
    op.settle()
    place.delete(INFERENCE_POOL, "chat")
    op.until(lambda: place.get(INFERENCE_POOL, "chat") is None)
    op.advance()
    assert place.get(DEPLOYMENT, name) is None
    assert place.get(DEPLOYMENT, "forged")["spec"]["replicas"] == 2
