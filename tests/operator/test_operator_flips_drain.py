"""Flips whose way out is blocked: they are rolled back, and whoever served serves on, at every write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flip_faults import HOUR
from flip_streams import Streams, is_routable
from operator_builders import Place, a_class, eventually

from tidefleet.cluster.kinds import INFERENCE_POOL, PDB, POD
from tidefleet.cluster.writes import MergePatch, Write
from tidefleet.controller import process

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

LONG = 100_000
"""Tokens of a stream that outlives any drain of these tests."""


@pytest.fixture
def streams(place: Place) -> Iterator[Streams]:
    """Clients of this test."""
    with Streams(place) as running:
        yield running


def refusing(place: Place) -> dict:
    """A PodDisruptionBudget over the pool's pods that never allows an eviction."""
    spec = {"maxUnavailable": 0, "selector": {"matchLabels": {"tidefleet.io/pool": "chat"}}}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "never"}, "spec": spec}


def an_hpa(name: str, target: str) -> dict:
    """A HorizontalPodAutoscaler of a Deployment."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
            "minReplicas": 1,
            "maxReplicas": 4,
        },
    }


def test_an_eviction_that_a_budget_refuses_for_ever_is_rolled_back_and_the_node_serves_on_as_before(flip_ground, place):
    ground = flip_ground()
    place.api.create(place.path(PDB), refusing(place))
    place.create(ground.a_pool(flipping=ground.flipping(drain={"timeoutSeconds": 100})), a_class(rate=1))
    ground.start()
    ground.serve(1)
    (there,) = ground.serving_on()
    node, (pod,) = ground.node(there), ground.pods(there)
    ground.ask(there, "training")
    ground.reaches("Draining", there, step=2.0)
    refused = ground.op.metric("tidefleet_api_writes_total", kind="Pod", outcome="Blocked")
    for _ in range(3):
        ground.step(10.0)
    tries = ground.op.metric("tidefleet_api_writes_total", kind="Pod", outcome="Blocked") - refused
    assert 2 <= tries <= 4, "each pass tries once"
    assert ground.phase(there) == "Draining"
    story = ground.reaches("Serving", there, step=20.0)
    assert "disruption budget" in story["why"]
    assert "never" in story["why"]
    assert [one for one in ground.events("RolledBack", there) if "disruption budget" in one]
    ground.until(lambda: all(map(is_routable, ground.pods(there))), "it takes requests again")

    (after,) = ground.pods(there)
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    for field in ("labels", "annotations"):
        assert after["metadata"].get(field) == pod["metadata"].get(field)
    back = ground.node(there)
    assert back["spec"] == node["spec"]
    assert back["metadata"]["labels"] == {**node["metadata"]["labels"], "tidefleet.io/duty": "serving"}
    ours = {"tidefleet.io/flip"}
    notes = {key: value for key, value in back["metadata"]["annotations"].items() if key not in ours}
    assert notes == {key: value for key, value in node["metadata"]["annotations"].items() if key not in ours}
    assert ground.sound()


def test_a_stream_longer_than_the_drain_ends_whole_with_roll_back_and_is_cut_with_kill(flip_ground, place, streams):
    ground = flip_ground()
    place.create(ground.a_pool(flipping=ground.flipping(drain={"timeoutSeconds": 100})), a_class(rate=1))
    ground.start()
    ground.serve(1)
    (there,) = ground.serving_on()
    (pod,) = ground.pods(there)
    stream = streams.send(pod, 8000)
    ground.ask(there, "training")
    ground.reaches("Draining", there, step=2.0)
    assert not is_routable(ground.pods(there)[0])
    ground.step(90.0)
    assert ground.phase(there) == "Draining"
    story = ground.reaches("Serving", there, step=20.0)
    assert "1 requests in 1 replicas were left" in story["why"]
    ground.until(lambda: all(map(is_routable, ground.pods(there))), "it takes requests again")
    assert not stream.ended
    ground.until(lambda: stream.ended, "the stream ends", step=50.0)
    assert streams.broken == []

    place.set_spec(INFERENCE_POOL, "chat", flipping=ground.flipping(drain={"timeoutSeconds": 100, "onTimeout": "Kill"}))
    ground.step(HOUR + 60.0)
    ground.until(lambda: len(ground.serving_on()) == 1, "the surplus is gone", step=50.0)
    (there,) = ground.serving_on()
    (pod,) = ground.pods(there)
    stream = streams.send(pod, LONG)
    ground.ask(there, "training")
    ground.reaches("Draining", there, step=2.0)
    ground.step(90.0)
    assert ground.pods(there)
    assert not stream.ended
    ground.reaches("Training", there, step=20.0)
    assert not ground.pods(there)
    streams.wait()
    assert [one.split(":")[0] for one in streams.broken] == [pod["metadata"]["name"]]
    assert ground.sound()


def test_a_stream_that_comes_just_before_the_router_knows_is_waited_for(flip_ground, place, streams):
    ground = flip_ground()
    place.create(ground.a_pool(), a_class(rate=1))

    def at_last(write: Write) -> None:
        """One more request before its pod's label goes, which no reading of before can tell of."""
        if isinstance(write, MergePatch) and write.kind == POD and "labels" in write.body["metadata"]:
            (pod,) = [one for one in streams.routable() if one["metadata"]["name"] == write.name]
            streams.send(pod, 1000)

    ground.start(before_write=at_last)
    ground.serve(1)
    (there,) = ground.serving_on()
    ground.ask(there, "training")
    ground.reaches("Draining", there, step=2.0)
    (stream,) = streams.sent
    assert ground.pods(there)
    ground.reaches("Training", there, step=5.0)
    assert stream.is_whole, stream.problem
    assert ground.sound()


def test_an_autoscaler_on_a_pool_s_workload_in_mid_drain_is_told_and_the_flip_is_rolled_back(
    flip_ground, place, streams, monkeypatch
):
    monkeypatch.setattr(process, "LOOK_AROUND_SECONDS", 0.5)
    ground = flip_ground(nodes=4)
    place.create(ground.a_pool(), a_class(rate=1))
    ground.start()
    ground.serve(1)
    (there,) = ground.serving_on()
    (pod,) = ground.pods(there)
    stream = streams.send(pod, LONG)
    ground.ask(there, "training")
    ground.reaches("Draining", there, step=2.0)
    for _ in range(3):  # as a HorizontalPodAutoscaler does
        ground.scale(4)
        ground.step(5.0)
    assert ground.phase(there) == "Draining"
    assert not any(map(is_routable, ground.pods(there)))

    name = ground.deployment()["metadata"]["name"]
    hpas = f"/apis/autoscaling/v2/namespaces/{place.namespace}/horizontalpodautoscalers"
    place.api.create(hpas, an_hpa("theirs", name))
    story = ground.reaches("Serving", there)
    words = f"is also scaled by HorizontalPodAutoscaler {place.namespace}/theirs"
    assert words in story["why"]
    ground.until(lambda: all(map(is_routable, ground.pods(there))), "it takes requests again")
    assert not stream.ended
    ground.ask(there, "training")
    ground.until(lambda: [one for one in ground.events("FlipRefused", there) if words in one], "it is refused")
    place.api.delete(f"{hpas}/theirs")
    ground.step(HOUR)
    eventually(lambda: not ground.op.process._loop.flips.observer.autoscalers, "it is known to be gone")
    ground.until(lambda: sum(place.replicas().values()) == 1, "the plan's replicas", step=50.0)
    assert ground.sound()


def test_a_replica_set_that_removes_another_pod_than_planned_rolls_the_flip_back(flip_ground, place, streams):
    ground = flip_ground()
    place.create(ground.a_pool(), a_class(rate=1))
    ground.start()
    ground.serve(1)
    (there,) = ground.serving_on()
    (pod,) = ground.pods(there)
    ground.op.observe(310.0)  # from then on a workload is scaled down
    stream = streams.send(pod, 8000)
    ground.ask(there, "training")
    ground.reaches("Draining", there, step=5.0)
    (other,) = [index for index in ground.serving_on() if index != there]
    (spare,) = ground.pods(other)
    cost = {"controller.kubernetes.io/pod-deletion-cost": "-2000000"}
    place.merge(POD, spare["metadata"]["name"], {"metadata": {"annotations": cost}})
    ground.watcher.required.clear()  # no replica takes requests from when the wrong one goes until the roll-back
    ground.op.process._inventory._on_change = None  # a pass in between would put the other one back
    ground.scale(1)
    eventually(lambda: not ground.pods(other), "the wrong pod is gone")
    story = ground.reaches("Serving", there)
    assert "does not carry its demand without it" in story["why"]
    ground.until(lambda: any(map(is_routable, ground.pods(there))), "it takes requests again")
    ground.watcher.required[place.namespace, "chat"] = 1
    (after,) = ground.pods(there)
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    ground.until(lambda: stream.ended, "the stream ends", step=50.0)
    assert streams.broken == []
    assert sum(place.replicas().values()) == 1
    assert ground.sound()


def test_a_pod_that_stays_terminating_is_quarantined_with_the_reason_and_the_node_comes_back_without_it(
    flip_ground, place
):
    ground = flip_ground()
    place.create(ground.a_pool(), a_class(rate=1))
    ground.start()
    ground.serve(1)
    (there,) = ground.serving_on()
    (pod,) = ground.pods(there)
    ground.finalize(pod, "test.tidefleet.io/stays")
    ground.ask(there, "training")
    story = ground.reaches("Quarantined", there, step=50.0)
    assert "Verifying failed: 1 pods or claims still hold its accelerators" in story["why"]
    node = ground.node(there)
    assert [(one["key"], one["value"]) for one in node["spec"]["taints"]] == [("tidefleet.io/flip", "quarantined")]
    ground.until(lambda: place.has("Flipping", "True", "Quarantined"), "it is told")
    assert f"tidefleet flip {ground.names[there]} --release" in place.condition("Flipping")[2]
    assert any("still hold" in one for one in ground.events("Quarantined", there))

    for _ in range(4):
        ground.step(50.0)
    assert ground.phase(there) == "Quarantined"
    ground.finalize(pod)
    ground.ask(there, "release")
    ground.reaches("Verifying", there)
    ground.reaches("Serving", there, step=30.0)
    assert "tidefleet.io/flip-request" not in ground.node(there)["metadata"]["annotations"]
    assert not ground.node(there)["spec"].get("taints")
    assert ground.sound()
