"""Training through Kueue, on its own controller: quota, check, recall of single Workloads, and what goes wrong."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from operator_objects import ROOT, eventually
from training_ground import CHIPS, Ground

from localcluster.controlplane import ControlPlane
from localcluster.jobsets import start_job_sets
from localcluster.kueue import NoPlaceForCertificate, start_kueue
from tidefleet.api.flipping import TrainingQueue
from tidefleet.cluster.kinds import ADMISSION_CHECK, CLUSTER_QUEUE, COHORT, JOB, KUEUE_WORKLOAD, LOCAL_QUEUE, POD, path
from tidefleet.cluster.writes import Create, Evict, MergePatch, Written
from tidefleet.controller.training import FaultReason, Lending, LoanType
from tidefleet.controller.training.checkpoint import write_time
from tidefleet.controller.training.kueue import abandoned
from tidefleet.controller.training.kueue_objects import CHECK, PARKED, cohort_name, faults_of_queue
from tidefleet.controller.training.kueue_plan import STUCK_SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


def with_kueue(cluster: ControlPlane) -> None:
    """Start Kueue there, or skip with the reason."""
    try:
        start_kueue(cluster)
    except NoPlaceForCertificate as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    """A control plane of this module's own, with JobSet and Kueue."""
    with ControlPlane() as running:
        start_job_sets(running)
        with_kueue(running)
        yield running


@pytest.fixture
def ground(cluster: ControlPlane, namespace: str) -> Iterator[Callable[..., Ground]]:
    """Starts a night; with a ClusterQueue in order unless its spec is changed by keywords (None: there is none)."""
    started: list[Ground] = []

    def start(*, nodes: int = 2, queue: dict[str, Any] | None = {}, verified: bool = True) -> Ground:  # noqa: B006
        one = Ground(cluster, namespace, TrainingQueue(clusterQueue=f"night-{namespace[-6:]}"), nodes=nodes)
        started.append(one)
        if queue is not None:
            one.a_cluster_queue(**queue)
        one.change(verified=verified)
        return one

    yield start
    for one in started:
        one.clean()


def active(ground: Ground) -> bool:
    """Whether the ClusterQueue is Active."""
    conditions = ground.get(CLUSTER_QUEUE, ground.queue.cluster_queue or "").get("status", {}).get("conditions", [])
    return any(one["type"] == "Active" and one["status"] == "True" for one in conditions)


def test_a_job_borrows_what_is_on_loan_and_runs_there_once_the_nodes_are_verified(ground):
    night = ground(verified=False)
    night.until(lambda: active(night), "flavor and check make the ClusterQueue active")
    assert night.quota() == 0
    night.a_job("train", pods=2)
    night.passes()
    assert not night.is_true("train", "QuotaReserved")
    assert "QuotaReserved" not in night.job("train").waiting_why
    assert night.job("train").waiting_why
    assert night.look().admission_stopped

    night.change(verified=True)
    night.until(lambda: len(night.places("train")) == 2)
    assert night.quota() == 2 * CHIPS
    assert set(night.places("train")) == set(night.nodes)
    assert night.check("train")["state"] == "Ready"
    seen = night.look()
    assert not seen.faults
    assert seen.published_chips == {night.type: 2 * CHIPS}
    job = night.job("train")
    assert (job.kind, job.running, job.chips, job.nodes) == (JOB, True, 2 * CHIPS, frozenset(night.nodes))
    assert night.quiet(), "it is written again and again"


def test_of_two_workloads_one_is_recalled_and_the_other_goes_on(ground):
    night = ground()
    night.next_window = night.now() + 18 * 3600
    for name in ("one", "two"):
        night.a_job(name)
    night.until(lambda: night.places("one") and night.places("two"))
    (lost,) = night.places("one")
    index = [night.node(0), night.node(1)].index(lost)
    deadline = night.recall(index)
    night.step()
    assert night.quota() == CHIPS, "quota is lowered first"
    assert night.get(JOB, "one")["metadata"]["annotations"]["tidefleet.io/checkpoint-by"] == write_time(deadline)
    (pod,) = night.raw_pods("one")
    assert pod["metadata"]["annotations"]["tidefleet.io/checkpoint-by"] == write_time(deadline)
    night.passes()
    assert night.places("one") == [lost], "it may write its checkpoint"
    assert not night.stopped

    night.annotate(POD, pod["metadata"]["name"], checkpointed_at=write_time(night.now()))
    night.until(lambda: not night.raw_pods("one"))
    assert [(stop.job.name, stop.lost_chip_seconds < 3 * CHIPS) for stop in night.stopped] == [("one", True)]
    assert night.job("one").expected_start == night.next_window
    assert night.get(JOB, "one")["spec"]["suspend"] is True

    # What it was evicted from is taken back by nobody: neither by itself nor by the next in the queue.
    night.a_job("three")
    night.passes()
    assert not night.raw_pods("one")
    assert not night.raw_pods("three")
    assert len(night.places("two")) == 1
    assert night.quota() == CHIPS
    assert "checkpoint-by" not in str(night.get(JOB, "two")["metadata"].get("annotations"))
    assert night.quiet()


def test_a_recalled_workload_comes_back_when_there_is_room_again(ground):
    night = ground(nodes=1)
    night.a_job("train")
    night.until(lambda: night.places("train"))
    night.recall(0, seconds=1)
    night.until(lambda: not night.raw_pods("train") and not night.is_true("train", "QuotaReserved"))
    night.change(recall_by=None)
    night.until(lambda: night.places("train"))
    night.until(night.quiet)
    assert "tidefleet.io/checkpoint-by" not in night.get(JOB, "train")["metadata"].get("annotations", {})


def test_without_an_acknowledgement_pods_get_the_signal_in_time_and_those_that_ignore_it_are_evicted(ground):
    night = ground(nodes=1)
    night.a_job("stubborn", grace=1800, stop=1800)
    night.until(lambda: night.places("stubborn"))
    deadline = night.recall(0, seconds=120)
    night.passes(2)
    assert night.places("stubborn")
    night.ahead = deadline - 59 - time.time()  # the half of the grace that is the signal's
    night.until(lambda: night.raw_pods("stubborn")[0]["metadata"].get("deletionTimestamp"))
    assert [stop.job.name for stop in night.stopped] == ["stubborn"]
    assert night.stopped[0].lost_chip_seconds > 0
    night.passes(3)
    assert night.raw_pods("stubborn"), "it ignores SIGTERM"
    assert not any(isinstance(write, Evict) for write, _ in night.written)
    night.ahead = deadline + 1 - time.time()
    night.until(lambda: not night.raw_pods("stubborn"))
    evictions = [(write, outcome) for write, outcome in night.written if isinstance(write, Evict)]
    assert evictions
    assert isinstance(evictions[0][1], Written)


def test_quota_that_is_free_while_pods_are_still_ending_lets_nobody_in(ground):
    night = ground(nodes=1)
    night.a_job("slow", grace=1800, stop=1800)
    night.until(lambda: night.places("slow"))
    night.api.delete(night.path(JOB, "slow"), {"propagationPolicy": "Background"})
    night.a_job("next")
    night.until(lambda: night.is_true("next", "QuotaReserved"), "Kueue counts the quota as free")
    night.passes()
    assert night.check("next")["state"] == "Pending"
    assert not night.is_true("next", "Admitted")
    assert "still ending" in night.check("next")["message"]
    assert "still ending" in night.job("next").waiting_why
    (pod,) = night.raw_pods("slow")
    night.api.delete(night.path(POD, pod["metadata"]["name"]), {"gracePeriodSeconds": 0})
    night.until(lambda: night.places("next"))


def test_a_retry_that_kueue_does_not_act_on_is_taken_out_of_the_queue_and_put_back(ground):
    night = ground(nodes=1)
    night.a_job("train")
    night.until(lambda: night.places("train"))
    night.until(night.quiet)
    # With requeueAfterSeconds Kueue waits for these first, and evicts nobody before.
    name = night.workload("train")["metadata"]["name"]
    state = night.check("train") | {
        "state": "Retry", "lastTransitionTime": write_time(night.now()), "requeueAfterSeconds": 3600,
    }  # fmt: skip
    night.merge(KUEUE_WORKLOAD, name, {"status": {"admissionChecks": [state]}}, "status")
    night.passes(8)
    assert night.check("train")["state"] == "Retry", "Kueue leaves it so"
    assert night.places("train")

    night.ahead = STUCK_SECONDS + 5
    seen = night.step()
    assert [fault.reason for fault in seen.faults] == [FaultReason.WORKLOAD_STUCK]
    assert night.workload("train")["spec"]["active"] is False
    assert PARKED in night.workload("train")["metadata"]["annotations"]
    night.until(lambda: not night.raw_pods("train"))
    night.until(lambda: night.places("train"))
    assert night.workload("train")["spec"]["active"] is True
    assert PARKED not in night.workload("train")["metadata"].get("annotations", {})
    assert not night.look().faults


def test_a_workload_that_somebody_else_deactivated_stays_so(ground):
    night = ground(nodes=1)
    night.a_job("train")
    night.until(lambda: night.places("train"))
    night.merge(KUEUE_WORKLOAD, night.workload("train")["metadata"]["name"], {"spec": {"active": False}})
    night.until(lambda: not night.raw_pods("train"))
    night.ahead = STUCK_SECONDS + 5
    night.passes()
    assert night.workload("train")["spec"]["active"] is False
    assert "somebody else" in night.job("train").waiting_why


def test_quota_below_usage_is_said_and_evicts_nothing(ground):
    night = ground()
    for name in ("one", "two"):
        night.a_job(name)
    night.until(lambda: night.places("one") and night.places("two"))
    (lost,) = night.places("one")
    del night.nodes[lost]  # its node is not on loan any more, whatever became of it
    night.step()
    assert night.quota() == CHIPS
    faults = eventually(lambda: [one for one in night.look().faults if one.reason == FaultReason.QUOTA_BELOW_USAGE])
    assert f"{2 * CHIPS} accelerators" in faults[0].message
    assert f"but {CHIPS} are" in faults[0].message
    night.a_job("three")
    night.passes()
    assert night.places("one")
    assert night.places("two")
    assert not night.raw_pods("three")
    night.api.delete(night.path(JOB, "two"), {"propagationPolicy": "Background"})
    night.until(lambda: not night.look().faults)


def test_a_gang_leaves_whole_when_one_of_its_nodes_is_recalled(ground):
    night = ground()
    night.a_job_set("gang", pods=2)
    night.until(lambda: len(night.places("gang")) == 2)
    job = night.job("gang")
    assert (job.kind.kind, job.chips, len(job.nodes)) == ("JobSet", 2 * CHIPS, 2)
    night.recall(1, seconds=2)
    night.until(lambda: not night.raw_pods("gang"))
    assert [stop.job.name for stop in night.stopped] == ["gang"]
    assert not night.is_true("gang", "Admitted")
    assert night.quota() == CHIPS


def test_a_job_is_not_let_in_with_less_left_than_it_can_use(ground):
    night = ground(nodes=1)
    night.change(until=night.now() + 900)
    night.a_job("long", annotations={"tidefleet.io/minimum-useful-seconds": "1800"})
    night.until(lambda: night.is_true("long", "QuotaReserved"))
    night.passes()
    assert not night.raw_pods("long")
    assert "minimum useful time" in night.check("long")["message"]
    night.change(until=night.now() + 3600)
    night.until(lambda: night.places("long"))


def test_kueue_undoes_a_suspension_of_its_jobs_which_is_why_we_write_none(ground):
    night = ground(nodes=1)
    night.a_job("train")
    night.until(lambda: night.places("train"))
    night.merge(JOB, "train", {"spec": {"suspend": True}})
    eventually(lambda: night.get(JOB, "train")["spec"]["suspend"] is False)
    night.until(lambda: night.places("train"))
    night.recall(0, seconds=1)
    night.until(lambda: not night.raw_pods("train"))
    assert not [
        write for write, _ in night.written if isinstance(write, MergePatch) and "suspend" in write.body.get("spec", {})
    ]


def test_the_cohort_is_ours_alone_and_what_others_write_into_it_is_put_right(ground):
    night = ground(nodes=1)
    night.until(lambda: night.quota() == CHIPS)
    name = cohort_name((night.namespace, "chat"))
    group = night.get(COHORT, name)["spec"]["resourceGroups"][0]
    group["flavors"][0]["resources"][0]["nominalQuota"] = "999"
    night.merge(COHORT, name, {"spec": {"resourceGroups": [group]}})
    assert night.quota() == 999
    night.step()
    assert night.quota() == CHIPS
    assert not abandoned(night.objects, [(night.namespace, "chat")], decision_id="d-1")
    (deletion,) = abandoned(night.objects, [(night.namespace, "other")], decision_id="d-1")
    assert (deletion.kind, deletion.name) == (COHORT, name)
    night.merge(COHORT, name, {"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}}})
    assert not abandoned(night.objects, [], decision_id="d-1")
    night.change(verified=False)
    seen = night.step()
    assert FaultReason.NAME_TAKEN in [fault.reason for fault in seen.faults]
    assert night.quota() == CHIPS, "it is another's now"


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        (None, FaultReason.QUEUE_NOT_FOUND, "does not exist"),
        ({"cohortName": "somewhere"}, FaultReason.QUEUE_NOT_IN_COHORT, "spec.cohortName is 'somewhere'; expected"),
        ({"cohortName": None}, FaultReason.QUEUE_NOT_IN_COHORT, "spec.cohortName is absent"),
        ({"admissionChecksStrategy": None}, FaultReason.QUEUE_WITHOUT_CHECK, "has none; expected tidefleet-loan"),
        ({"resourceGroups": None}, FaultReason.QUEUE_WITHOUT_FLAVOR, "has the flavors none"),
        ({"stopPolicy": "Hold"}, FaultReason.QUEUE_INACTIVE, "Stopped"),
    ],
)
def test_a_cluster_queue_that_cannot_borrow_is_said_with_what_would_have_to_change(ground, spec, reason, words):
    night = ground(nodes=1, queue=spec)
    night.passes(1)
    night.ahead = 20.0

    def found() -> bool:
        night.step()
        faults = {one.reason: one.message for one in night.look().faults}
        return reason in faults and words in faults[reason] and "e.g." in faults[reason] + "e.g." * (spec is None)

    eventually(found)
    assert {one.reason for one in night.look().faults} == {reason}


def test_kueue_may_come_later(namespace):
    with ControlPlane() as cluster:
        cluster.api().create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        night = Ground(cluster, namespace, TrainingQueue(clusterQueue="night"), nodes=1)
        night.change(verified=True)
        seen = night.step()
        assert [one.reason for one in seen.faults] == [FaultReason.KUEUE_ABSENT]
        assert "kind: Suspend" in seen.faults[0].message
        assert seen.admission_stopped
        assert not night.written
        with_kueue(cluster)
        night.until(lambda: night.quota() == CHIPS)
        assert any(isinstance(write, Create) and write.kind == ADMISSION_CHECK for write, _ in night.written)
        assert night.get(ADMISSION_CHECK, CHECK)["spec"]["controllerName"] == "tidefleet.io/loan"
        night.a_cluster_queue()
        night.a_job("train")
        night.until(lambda: night.places("train"))


def test_the_queues_of_the_how_to_are_in_order(cluster):
    page = (ROOT / "docs" / "how-to" / "train-on-loaned-nodes.md").read_text(encoding="utf-8")
    blocks = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "kueue.x-k8s.io" in text]
    documents = [one for text in blocks for one in yaml.safe_load_all(text)]
    api = cluster.api()
    if not api.exists("/api/v1/namespaces/research"):
        api.create("/api/v1/namespaces", {"metadata": {"name": "research"}})
    for one in documents:
        kind = {"ClusterQueue": CLUSTER_QUEUE, "LocalQueue": LOCAL_QUEUE}[one["kind"]]
        where = path(kind, one["metadata"].get("namespace"), one["metadata"]["name"])
        api.apply(where, one)
        if kind == CLUSTER_QUEUE:
            h100 = LoanType("h100-sxm", "nvidia.com/gpu")
            queue = TrainingQueue(clusterQueue=one["metadata"]["name"])
            lending = Lending(pool=("prod", "chat"), queue=queue, nodes=(), types=(h100,))
            assert not faults_of_queue("night", api.get(where), lending, settled=False)
        api.delete(where)
    assert [one["kind"] for one in documents] == ["ClusterQueue", "LocalQueue"]
