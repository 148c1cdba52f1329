"""Flips whose way out is blocked: they are rolled back, and whoever served serves on, at every write."""

from __future__ import annotations

import pytest
from operator_builders import a_class

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


def test_a_node_with_a_replica_is_lent_by_hand_and_comes_back(flip_ground, place):
    ground = flip_ground()
    place.create(ground.a_pool(), a_class(rate=1))
    ground.start()
    ground.serve(1)
    (there,) = ground.serving_on()
    ground.ask(there, "training")
    ground.reaches("Training", there, step=5.0)
    ground.ask(there, "serving")
    ground.reaches("Serving", there, step=20.0)
    assert ground.sound()
<<<<<<< HEAD


def test_requests_that_outlive_the_drain_roll_the_flip_back_and_their_replica_takes_requests_again(
    flip_ground, place, engines
):
    ground = flip_ground()
    there = drained(ground, place, engines, drain={"timeoutSeconds": 100})
    (pod,) = ground.pods(there)
    assert not is_routable(pod)
    ground.step(90.0)
    assert ground.phase(there) == "Draining"
    assert ground.pods(there)
    ground.reaches("Serving", there, step=20.0)
    ground.until(lambda: any(map(is_routable, ground.pods(there))), "it takes requests again")
    assert "requests in 1 replicas were left" in ground.journal(there)["why"]
    assert ground.events("RolledBack", there)
    assert not ground.node(there)["spec"].get("taints")
    assert ground.sound()


def test_requests_that_outlive_the_drain_are_ended_where_the_owner_says_so(flip_ground, place, engines):
    ground = flip_ground()
    there = drained(ground, place, engines, drain={"timeoutSeconds": 100, "onTimeout": "Kill"})
    ground.step(90.0)
    assert ground.pods(there)
    ground.reaches("Training", there, step=20.0)
    assert not ground.pods(there)
    assert ground.sound()


def test_an_autoscaler_that_scales_back_up_in_mid_drain_changes_nothing(flip_ground, place, engines):
    ground = flip_ground(nodes=4)
    there = drained(ground, place, engines)
    (pod,) = ground.pods(there)
    for _ in range(3):
        ground.scale(4)
        ground.step(5.0)
    assert ground.phase(there) == "Draining"
    assert not any(map(is_routable, ground.pods(there)))
    engines.fault("", pod["metadata"]["name"])
    ground.reaches("Training", there, step=5.0)
    ground.until(lambda: sum(place.replicas().values()) == 1, "the plan's replicas")
    assert not ground.pods(there)
    assert ground.sound()


def test_another_replica_that_goes_in_mid_drain_rolls_the_flip_back(flip_ground, place, engines):
    ground = flip_ground()
    there = drained(ground, place, engines)
    ground.watcher.required.clear()  # the only other replica is about to be taken away
    (other,) = [index for index in ground.serving_on() if index != there]
    for pod in ground.pods(other):
        place.merge(
            POD, pod["metadata"]["name"], {"metadata": {"annotations": {"tidefleet.io/emulated-fault": "never-ready"}}}
        )
        raw = [one for one in pod["status"]["conditions"] if one["type"] != "Ready"]
        bad = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
        ground.api.merge(place.path(POD, pod["metadata"]["name"], "status"), {"status": {"conditions": [*raw, bad]}})
    ground.reaches("Serving", there)
    ground.until(lambda: any(map(is_routable, ground.pods(there))), "it takes requests again")
    assert "does not carry its demand without it" in ground.journal(there)["why"]
    assert ground.sound()


def test_a_pod_that_stays_terminating_is_quarantined_and_released_when_it_is_gone(flip_ground, place, engines):
    ground = flip_ground()
    there = drained(ground, place, engines, drain={"timeoutSeconds": 100})
    (pod,) = ground.pods(there)
    ground.finalize(pod, FINALIZER)
    engines.fault("", pod["metadata"]["name"])
    journal = ground.reaches("Quarantined", there, step=20.0)
    assert "1 pods or claims still hold its accelerators" in journal["why"]
    assert place.has("Flipping", "True", "Quarantined"), place.condition("Flipping")
    assert f"tidefleet flip {ground.names[there]} --release" in place.condition("Flipping")[2]
    ground.finalize(pod)
    ground.reaches("Serving", there, step=60.0)
    assert ground.sound()
=======
>>>>>>> flip-faults
