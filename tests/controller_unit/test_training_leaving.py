"""Jobs that leave recalled nodes: who is asked, who is evicted in the end, and what goes on when nothing is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from training_builders import NOW, a_job, a_lending, a_node, a_pod

from tidefleet.api.flipping import LabelSelector, QueueKind, TrainingQueue
from tidefleet.cluster.kinds import POD, Kind
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import Evict, MergePatch
from tidefleet.controller.training import FaultReason, Lending, TrainingSeen, leaving, trainers
from tidefleet.controller.training.jobs import lone_pod
from tidefleet.controller.training.kueue import KueueTrainer
from tidefleet.controller.training.suspend import SuspendTrainer

LATE = a_node("n0", recall_by=NOW - 1)
SERVES = {"tidefleet.io/pool": "chat"}


def test_only_what_holds_accelerators_of_a_node_whose_time_is_over_is_overdue():
    lending = a_lending(LATE, a_node("n1", recall_by=NOW + 1), a_node("n2"))
    pods = [
        a_pod("b"),
        a_pod("a"),
        a_pod("done", phase="Failed"),
        a_pod("daemon", chips=0),
        a_pod("serves", labels=SERVES),
        a_pod("later", "n1"),
        a_pod("stays", "n2"),
        a_pod("elsewhere", "n9"),
    ]
    assert [pod.name for pod, _ in leaving.overdue(lending, pods, NOW)] == ["a", "b"]
    assert not leaving.overdue(lending, pods, NOW - 2)


@pytest.mark.parametrize(
    ("what", "evicted"),
    [
        ({}, True),
        ({"deleting": True, "ends": NOW + 1800}, True),
        ({"deleting": True, "ends": None}, True),
        ({"deleting": True, "ends": NOW + 1}, False),
        ({"deleting": True, "ends": NOW - 5}, False),
    ],
)
def test_a_pod_that_ends_by_itself_is_not_evicted_again(what, evicted):
    found = leaving.evictions([(a_pod("p", **what), "late")], real_now=NOW, decision_id="d")
    assert bool(found) is evicted
    assert all(isinstance(one, Evict) and one.grace_seconds == 1 for one in found)


def test_evictions_of_one_pass_are_bounded():
    pods = [(a_pod(f"p{index}"), "late") for index in range(leaving.MOST_EVICTIONS + 50)]
    assert len(leaving.evictions(pods, real_now=NOW, decision_id="d")) == leaving.MOST_EVICTIONS
    assert len(leaving.gentle_evictions(pods, decision_id="d")) == leaving.MOST_EVICTIONS


def test_a_job_that_loses_several_pods_is_lost_once():
    pods = [a_pod("a"), a_pod("b"), a_pod("lone")]
    groups = {"uid-gang": pods[:2], "uid-lone": pods[2:]}
    seen = TrainingSeen(jobs=(a_job("gang"), lone_pod(pods[2])))
    found = leaving.stops_of_strangers(a_lending(LATE), seen, pods, groups, set(), now=NOW)
    assert {uid: stop.job.name for uid, stop in found.items()} == {"uid-a": "gang", "uid-lone": "lone"}
    assert not leaving.stops_of_strangers(a_lending(LATE), seen, pods, groups, {"uid-gang", "uid-lone"}, now=NOW)


def test_a_question_that_no_longer_holds_is_taken_back_from_a_job_that_runs():
    asked = a_job(asked=NOW + 50, asked_at=NOW - 70)
    (write,) = leaving.asks(a_lending(a_node()), [asked], {}, NOW, decision_id="d")
    assert isinstance(write, MergePatch)
    assert set(write.body["metadata"]["annotations"].values()) == {None}
    assert not leaving.asks(a_lending(a_node()), [replace(asked, running=False)], {}, NOW, decision_id="d")


def test_a_lone_pod_is_asked_once():
    pod = a_pod("lone")
    (write,) = leaving.asks(
        a_lending(a_node(recall_by=NOW + 60)), [lone_pod(pod)], {pod.uid: [pod]}, NOW, decision_id="d"
    )
    assert (write.kind, write.name) == (POD, "lone")


class Silent:
    """An API server that does not answer."""

    def exists(self, kind: Kind) -> bool:
        raise Unreachable("nobody answers")

    def list(self, kind: Kind, *_: Any) -> Any:
        raise Unreachable("nobody answers")


@pytest.mark.parametrize("trainer", [KueueTrainer, SuspendTrainer])
def test_when_nothing_can_be_read_a_recall_still_ends_and_nothing_else_is_written(trainer):
    queue = TrainingQueue(kind=QueueKind.SUSPEND, selector=LabelSelector(matchLabels={"a": "b"}), clusterQueue="night")
    lending: Lending = a_lending(LATE, a_node("n1"), queue=queue)
    one = trainer(Silent(), real=lambda: NOW)
    seen = one.look(lending, [a_pod("p"), a_pod("q", "n1")], NOW)
    assert [fault.reason for fault in seen.faults] == [FaultReason.QUEUE_UNREADABLE]
    assert "prod/chat" in seen.faults[0].message
    assert not seen.readable
    assert [(type(write), write.name) for write in one.writes(lending, seen, NOW, decision_id="d")] == [(Evict, "p")]
    assert not one.stops(lending, seen, NOW)


def test_each_kind_of_queue_has_its_trainer():
    found = trainers(Silent())
    assert {kind: type(one) for kind, one in found.items()} == {
        QueueKind.KUEUE: KueueTrainer,
        QueueKind.SUSPEND: SuspendTrainer,
    }
