"""Training without a queue: Jobs and JobSets suspended and started on their own controllers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from operator_objects import eventually
from training_ground import CHIPS, Ground

from localcluster.controlplane import ControlPlane
from localcluster.jobsets import start_job_sets
from tidefleet.api.flipping import LabelSelector, QueueKind, TrainingQueue
from tidefleet.cluster.kinds import JOB, JOB_SET, NODE, POD, Kind
from tidefleet.cluster.writes import Evict
from tidefleet.controller.training import FaultReason
from tidefleet.controller.training.checkpoint import write_time
from tidefleet.controller.training.suspend_plan import MARK, MARKED

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

DUTY = {"tidefleet.io/duty": "training"}
TEAM = {"team": "research"}
OURS = {MARK: MARKED}


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    """A control plane of this module's own, with JobSets."""
    with ControlPlane() as running:
        start_job_sets(running)
        yield running


@pytest.fixture
def ground(cluster: ControlPlane, namespace: str) -> Iterator[Callable[..., Ground]]:
    """Starts a night with verified nodes."""
    started: list[Ground] = []
    queue = TrainingQueue(kind=QueueKind.SUSPEND, selector=LabelSelector(matchLabels=TEAM))

    def start(*, nodes: int = 2, verified: bool = True) -> Ground:
        one = Ground(cluster, namespace, queue, nodes=nodes)
        started.append(one)
        one.change(verified=verified)
        return one

    yield start
    for one in started:
        one.clean()


def a_job(night: Ground, name: str, **what: Any) -> None:
    """Create a Job of the team that can run on this test's nodes only."""
    night.a_job(name, **{"labels": TEAM, "selector": {**night.selector, **DUTY}, **what})


def a_job_set(night: Ground, name: str, **what: Any) -> None:
    """Create such a JobSet."""
    night.a_job_set(name, **{"labels": TEAM, "selector": {**night.selector, **DUTY}, **what})


def suspended(night: Ground, name: str, kind: Kind = JOB) -> bool:
    """Whether a job is suspended by its spec."""
    return bool(night.get(kind, name)["spec"].get("suspend"))


def mark(night: Ground, name: str, kind: Kind = JOB) -> str | None:
    """Our mark on a job."""
    found: str | None = night.get(kind, name)["metadata"].get("annotations", {}).get(MARK)
    return found


def test_a_job_waits_suspended_until_nodes_are_verified_and_is_started_then(ground):
    night = ground(verified=False)
    a_job(night, "ours", suspend=True, annotations=OURS)
    a_job(night, "eager")  # its owner did not suspend it
    night.passes()
    assert suspended(night, "ours")
    assert suspended(night, "eager")
    assert mark(night, "eager") == MARKED
    assert "waits" in night.job("eager").waiting_why
    night.change(verified=True)
    night.until(lambda: night.places("ours") and night.places("eager"))
    assert mark(night, "ours") is None
    assert mark(night, "eager") is None
    job = night.job("ours")
    assert (job.kind, job.running, job.chips, len(job.nodes)) == (JOB, True, CHIPS, 1)
    assert night.quiet(), "it is written again and again"


def test_jobs_are_started_oldest_first_within_their_priority_and_only_onto_what_is_free(ground, cluster):
    night = ground(nodes=2, verified=False)
    for name in ("first", "second", "third"):
        a_job(night, name, suspend=True, annotations=OURS, run=3 if name != "third" else None)
        time.sleep(1.1)  # an object's age is told in seconds
    night.change(verified=True)
    night.until(lambda: night.places("first") and night.places("second"))
    assert suspended(night, "third")
    night.until(lambda: night.places("third"))


def test_a_suspension_by_a_human_is_never_undone(ground):
    night = ground(nodes=1)
    a_job(night, "theirs", suspend=True)
    night.passes()
    assert suspended(night, "theirs")
    assert f"annotate it with {MARK}: {MARKED}" in night.job("theirs").waiting_why
    night.merge(JOB, "theirs", {"metadata": {"annotations": OURS}})
    night.until(lambda: night.places("theirs"))
    night.merge(JOB, "theirs", {"spec": {"suspend": True}})
    night.until(lambda: not night.raw_pods("theirs"))
    night.passes()
    assert suspended(night, "theirs")
    assert night.quiet()


def test_a_job_set_is_recalled_whole_after_its_checkpoint_and_comes_back_the_next_night(ground):
    night = ground()
    a_job_set(night, "gang", suspend=True, annotations=OURS)
    night.until(lambda: len(night.places("gang")) == 2)
    deadline = night.recall(0)
    night.passes(3)
    notes = night.get(JOB_SET, "gang")["metadata"]["annotations"]
    assert notes["tidefleet.io/checkpoint-by"] == write_time(deadline)
    assert {one["metadata"]["annotations"]["tidefleet.io/checkpoint-by"] for one in night.raw_pods("gang")} == {
        write_time(deadline)
    }
    assert len(night.places("gang")) == 2
    written = night.now()
    night.annotate(JOB_SET, "gang", checkpointed_at=write_time(written))
    night.until(lambda: not night.raw_pods("gang"))
    since = night.now() - written + 1.0  # times in annotations are whole seconds
    assert suspended(night, "gang", JOB_SET)
    assert mark(night, "gang", JOB_SET) == MARKED
    assert [(stop.job.kind, stop.job.name) for stop in night.stopped] == [(JOB_SET, "gang")]
    assert night.stopped[0].lost_chip_seconds <= 2 * CHIPS * since
    night.passes()
    assert not night.raw_pods("gang"), "one node is not enough for it"
    night.change(recall_by=None)
    night.until(lambda: len(night.places("gang")) == 2)
    assert mark(night, "gang", JOB_SET) is None
    assert "tidefleet.io/checkpoint-by" not in night.get(JOB_SET, "gang")["metadata"]["annotations"]


def test_a_job_that_ignores_everything_is_evicted_when_its_time_is_over(ground):
    night = ground(nodes=1)
    a_job(night, "stubborn", grace=1800, stop=1800, suspend=True, annotations=OURS)
    night.until(lambda: night.places("stubborn"))
    deadline = night.recall(0, seconds=120)
    night.ahead = deadline - 59 - time.time()
    night.until(lambda: suspended(night, "stubborn"))
    night.passes(3)
    assert night.raw_pods("stubborn"), "it ignores SIGTERM"
    a_job(night, "next", suspend=True, annotations=OURS)
    night.passes(2)
    assert suspended(night, "next")
    night.ahead = deadline + 1 - time.time()
    night.until(lambda: not night.raw_pods("stubborn"))
    assert [write.grace_seconds for write, _ in night.written if isinstance(write, Evict)][:1] == [1]
    assert [stop.job.name for stop in night.stopped] == ["stubborn"]


def test_an_elastic_job_gives_up_workers_before_a_whole_job_goes_and_grows_again(ground):
    night = ground(nodes=3)
    a_job(night, "elastic", pods=3, suspend=True, annotations={**OURS, "tidefleet.io/elastic": "1-3"})
    night.merge(JOB, "elastic", {"spec": {"completions": 3}})
    night.until(lambda: len(night.places("elastic")) == 3)
    stay = {night.node(0), night.node(1)}
    night.api.merge(night.path(NODE, night.node(2)), {"spec": {"unschedulable": True}})
    night.recall(2)
    night.until(lambda: set(night.places("elastic")) == stay and night.get(JOB, "elastic")["spec"]["parallelism"] == 2)
    assert not suspended(night, "elastic")
    assert not night.stopped
    night.passes(3)
    assert set(night.places("elastic")) == stay
    assert night.quiet()
    night.api.merge(night.path(NODE, night.node(2)), {"spec": {"unschedulable": False}})
    night.change(2, recall_by=None)
    night.until(lambda: len(night.places("elastic")) == 3)


def test_a_pod_of_nobody_we_know_is_asked_and_then_evicted(ground):
    night = ground(nodes=1)
    template = night.template(selector={**night.selector, **DUTY})
    night.create(POD, {"metadata": {"name": "lone", **template["metadata"]}, "spec": template["spec"]})
    eventually(lambda: night.get(POD, "lone")["status"].get("phase") == "Running")
    deadline = night.recall(0, seconds=60)
    night.passes(2)
    assert night.get(POD, "lone")["metadata"]["annotations"]["tidefleet.io/checkpoint-by"] == write_time(deadline)
    night.ahead = 61.0
    night.until(lambda: not night.get(POD, "lone"))
    assert [(stop.job.kind, stop.job.name) for stop in night.stopped] == [(POD, "lone")]


def test_jobs_that_could_run_elsewhere_or_that_another_manages_are_left_alone_and_it_is_said(ground):
    night = ground(nodes=1)
    a_job(night, "anywhere", selector=None, suspend=True, annotations=OURS)
    a_job(night, "queued", suspend=True, labels={**TEAM, "kueue.x-k8s.io/queue-name": "night"})
    night.passes()
    assert suspended(night, "anywhere")
    assert "nodeSelector tidefleet.io/duty is absent; expected training" in night.job("anywhere").waiting_why
    assert suspended(night, "queued")
    (fault,) = night.look().faults
    assert fault.reason == FaultReason.MANAGED_BY_ANOTHER
    assert "queued" in fault.message
    assert not night.written
