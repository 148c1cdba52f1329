"""The checkpoint handshake: when a job is asked, when it is stopped, and what that loses."""

from __future__ import annotations

import pytest
from training_builders import NOW, a_job, a_lending, a_node, a_pod

from tidefleet.cluster.kinds import JOB, POD
from tidefleet.controller.training import checkpoint
from tidefleet.controller.training.checkpoint import read_time, write_time

BY = NOW + 120.0
LENDING = a_lending(a_node("n0", recall_by=BY), a_node("n1"))
ASKED = a_job(asked=BY, asked_at=NOW)


def test_a_job_leaves_with_the_first_of_its_nodes():
    lending = a_lending(a_node("n0", recall_by=BY), a_node("n1", recall_by=BY - 60), a_node("n2"))
    assert checkpoint.deadline_of(a_job(nodes=frozenset({"n0", "n1"})), lending) == BY - 60
    assert checkpoint.deadline_of(a_job(nodes=frozenset({"n2"})), lending) is None


def test_the_question_goes_to_job_and_pods_once_with_the_absolute_deadline():
    writes = checkpoint.ask(a_job(), [a_pod("p"), a_pod("gone", deleting=True)], BY, NOW, decision_id="d")
    assert [(write.kind, write.name) for write in writes] == [(JOB, "train"), (POD, "p")]
    notes = writes[0].body["metadata"]["annotations"]
    assert notes == {checkpoint.CHECKPOINT_BY: write_time(BY), checkpoint.ASKED_AT: write_time(NOW)}
    assert (writes[0].uid, writes[0].resource_version) == ("uid-train", "3")
    told = a_pod("p", annotations={checkpoint.CHECKPOINT_BY: write_time(BY)})
    assert not checkpoint.ask(ASKED, [told], BY, NOW + 15, decision_id="d")


def test_a_surge_moves_the_deadline_and_not_the_time_of_asking():
    (write,) = checkpoint.ask(ASKED, [], NOW + 30, NOW + 10, decision_id="d")
    assert write.body["metadata"]["annotations"] == {
        checkpoint.CHECKPOINT_BY: write_time(NOW + 30),
        checkpoint.ASKED_AT: write_time(NOW),
    }


def test_a_question_left_from_an_earlier_recall_is_no_question_now():
    old = a_job(asked=NOW - 500, asked_at=NOW - 620, checkpointed=NOW - 550)
    assert not checkpoint.is_answered(old, BY)
    assert checkpoint.why_stop(old, LENDING, NOW) == ""
    (write,) = checkpoint.ask(old, [], BY, NOW, decision_id="d")
    assert write.body["metadata"]["annotations"][checkpoint.ASKED_AT] == write_time(NOW)


@pytest.mark.parametrize(
    ("told", "after", "words"),
    [
        (None, 0, ""),
        (NOW - 5, 0, ""),  # an earlier checkpoint is no answer
        (NOW + 3, 5, "its checkpoint of 2027-01-15T08:00:03Z is complete"),
        (None, 89, ""),
        (None, 90, "its pods get the signal to end by 2027-01-15T08:02:00Z"),
        (None, 120, "no checkpoint was told by 2027-01-15T08:02:00Z"),
    ],
)
def test_a_job_is_stopped_at_its_answer_or_early_enough_for_the_signal(told, after, words):
    job = a_job(asked=BY, asked_at=NOW, checkpointed=told)
    why = checkpoint.why_stop(job, LENDING, NOW + after)
    assert words in why
    assert bool(words) == bool(why)


def test_the_signal_takes_at_most_half_of_the_time_there_is():
    slow = a_job(asked=BY, asked_at=NOW, termination_seconds=1800.0)
    assert checkpoint.stop_at(slow, LENDING, BY) == BY - 60
    assert checkpoint.stop_at(a_job(), LENDING, BY) == BY - 30


def test_what_is_lost_counts_from_the_last_checkpoint_else_from_the_start():
    assert checkpoint.lost_chip_seconds(a_job(checkpointed=NOW - 600), NOW) == 8 * 600
    assert checkpoint.lost_chip_seconds(a_job(), NOW) == 8 * 3600
    assert checkpoint.lost_chip_seconds(a_job(checkpointed=NOW - 9000), NOW) == 8 * 3600, "one of an earlier run"
    assert checkpoint.lost_chip_seconds(a_job(started=None), NOW) == 0


def test_times_are_read_with_their_zone_and_nonsense_is_no_time():
    assert read_time("2027-01-15T08:00:00Z") == NOW
    assert read_time("2027-01-15T09:00:00+01:00") == NOW
    assert [read_time(text) for text in (None, "", "soon", "2027-01-15T08:00:00", "x" * 10_000)] == [None] * 5
    assert write_time(NOW + 0.9) == "2027-01-15T08:00:00Z"
