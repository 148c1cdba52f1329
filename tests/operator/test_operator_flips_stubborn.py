"""Training that does not answer when its node is recalled: it goes all the same, and what was lost is told."""

from __future__ import annotations

import pytest
from flip_faults import SLOT, Ground
from operator_builders import Place, a_class

from tidefleet.cluster.kinds import INFERENCE_POOL, JOB, WORKLOAD_CLASS

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

STUBBORN = {"grace": 1800, "stop": 1800}
"""A pod that ignores SIGTERM, with half an hour before it is killed."""


def lent(ground: Ground, index: int) -> None:
    """Have a node lent by hand."""
    ground.ask(index, "training")
    ground.reaches("Training", index, step=5.0)


def trains(ground: Ground, name: str) -> int:
    """The node on which a job's pod runs."""
    running = lambda: [one for one in ground.job_pods(name) if one["status"].get("phase") == "Running"]  # noqa: E731
    ground.until(running, f"{name} trains")
    return ground.names.index(running()[0]["spec"]["nodeName"])


def lost_seconds(ground: Ground, place: Place, cause: str) -> float:
    """Chip-seconds of work that the metric says were lost."""
    name = "tidefleet_training_lost_chip_seconds_total"
    return ground.op.metric(name, namespace=place.namespace, pool="chat", cause=cause)


def test_a_job_that_acknowledges_nothing_is_ended_after_the_grace_and_its_lost_work_is_told(flip_ground, place):
    ground = flip_ground()
    place.create(ground.a_pool(), a_class(rate=1))
    ground.start()
    ground.serve(1)
    free = next(index for index in range(3) if index not in ground.serving_on())
    lent(ground, free)
    ground.a_job("deaf", **STUBBORN)
    assert trains(ground, "deaf") == free
    ground.step(600.0)
    ground.ask(free, "serving")
    ground.reaches("Recalling", free)
    ground.step(30.0)
    asked = place.get(JOB, "deaf")["metadata"]["annotations"]
    assert {"tidefleet.io/checkpoint-by", "tidefleet.io/checkpoint-asked-at"} <= set(asked)
    (pod,) = ground.job_pods("deaf")
    assert pod["metadata"]["annotations"]["tidefleet.io/checkpoint-by"] == asked["tidefleet.io/checkpoint-by"]
    assert "deletionTimestamp" not in pod["metadata"], "it has time to answer"
    ground.step(40.0)  # half of the grace is left: it hears SIGTERM
    ground.until(lambda: "deletionTimestamp" in ground.job_pods("deaf")[0]["metadata"], "it is told to end")
    assert ground.phase(free) == "Recalling"
    ground.step(60.0)  # the grace is over
    ground.until(lambda: not ground.job_pods("deaf"), "it is ended")
    ground.reaches("Serving", free, step=20.0)
    (told,) = [one["note"] for one in place.events("TrainingStopped")]
    assert "deaf" in told
    assert "no checkpoint was told" in told
    lost = lost_seconds(ground, place, "Recall")
    assert lost == pytest.approx(670.0, abs=60.0), "since it started"
    assert f"{lost / 3600.0:.2f} accelerator-hours of its work are lost" in told
    assert place.get(JOB, "deaf")["spec"]["suspend"] is True
    assert ground.sound()


def test_a_surge_gets_its_node_from_a_job_that_ignores_sigterm_and_another_one_for_what_never_ends(
    flip_ground, place, engines
):
    ground = flip_ground(nodes=5)
    place.create(ground.a_pool(), a_class(rate=1))
    ground.start()
    ground.serve(1)
    free = [index for index in range(5) if index not in ground.serving_on()]
    deaf, stuck = free[:2]
    for index, name, finalizers in ((deaf, "deaf", ()), (stuck, "stuck", ("test.tidefleet.io/stays",))):
        lent(ground, index)
        ground.a_job(name, finalizers=finalizers, **STUBBORN)
        assert trains(ground, name) == index
        ground.step(SLOT)
    assert [ground.phase(index) for index in (deaf, stuck)] == ["Training", "Training"]

    place.set_spec(INFERENCE_POOL, "chat", replicas={"min": 1, "max": 4})
    place.set_spec(WORKLOAD_CLASS, "chat", demand={"requestsPerSecond": "100"})
    engines.load(50.0)
    hurried = lambda: ground.journal(deaf).get("surge") and ground.journal(stuck).get("surge")  # noqa: E731
    ground.until(hurried, "both are recalled in a hurry", step=2.0)
    assert [ground.phase(index) for index in (deaf, stuck)] == ["Recalling", "Recalling"]
    engines.load(0.5)
    begun = ground.clock.now()
    ground.until(lambda: ground.phase(deaf) == "Warming", "the deaf one is ended", step=5.0)
    assert ground.clock.now() - begun <= 60.0, "the grace of a surge, not that of its pod"
    ground.until(lambda: sum(place.ready_replicas().values()) == 4, "all that is needed serves", step=5.0)
    assert ground.pods(deaf)
    assert ground.clock.now() - begun <= 120.0
    assert ground.phase(stuck) in ("Recalling", "Reclaiming")
    story = ground.reaches("Quarantined", stuck, step=20.0)
    assert "Reclaiming failed: 1 pods or claims still hold its accelerators" in story["why"]
    assert "--release" in place.condition("Flipping")[2]
    ground.until(lambda: place.settled() and ground.phase(deaf) == "Serving", "it serves without that node", step=5.0)
    assert not ground.pods(stuck)
    assert len(place.events("TrainingStopped")) == 2
    assert lost_seconds(ground, place, "Surge") > 2 * SLOT

    (pod,) = ground.job_pods("stuck")
    ground.finalize(pod)
    ground.ask(stuck, "release")
    ground.reaches("Serving", stuck, step=20.0)
    assert ground.sound()
