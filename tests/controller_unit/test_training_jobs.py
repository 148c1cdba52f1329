"""From pods to jobs: gangs are whole, strangers are alone, and odd objects are read as far as they go."""

from __future__ import annotations

import pytest
from training_builders import GPU, NOW, a_pod, a_raw_job, a_template

from tidefleet.cluster.kinds import JOB, JOB_SET, POD, PYTORCH_JOB, TRAIN_JOB
from tidefleet.controller.training import jobs

JOBS = {"template": {"spec": {"parallelism": 2, "completions": 2, "template": a_template(grace=300)}}, "replicas": 3}


def a_book() -> jobs.Book:
    """A TrainJob with its JobSet with its Job, a Job alone, and a PyTorchJob."""
    replicas = {"Master": {"template": a_template()}, "Worker": {"replicas": 3, "template": a_template(4)}}
    return jobs.book(
        [
            (TRAIN_JOB, a_raw_job("tj", kind=TRAIN_JOB, spec={"suspend": False})),
            (JOB_SET, a_raw_job("js", kind=JOB_SET, spec={"replicatedJobs": [JOBS]}, owner="uid-tj")),
            (JOB, a_raw_job("js-0", owner="uid-js")),
            (JOB, a_raw_job("alone", spec={"parallelism": 2, "template": a_template()})),
            (PYTORCH_JOB, a_raw_job("pt", kind=PYTORCH_JOB, spec={"pytorchReplicaSpecs": replicas})),
        ]
    )


def test_a_pod_belongs_to_the_outermost_job_and_a_stranger_to_itself():
    pods = [
        a_pod("a", owner="uid-js-0"),
        a_pod("b", "n1", owner="uid-js-0"),
        a_pod("c", owner="uid-alone"),
        a_pod("d", owner="uid-of-a-ray-cluster"),
        a_pod("e", phase="Failed"),
    ]
    groups = jobs.group_pods(pods, a_book())
    assert {uid: [pod.name for pod in found] for uid, found in groups.items()} == {
        "uid-tj": ["a", "b"],
        "uid-alone": ["c"],
        "uid-d": ["d"],
    }


def test_what_a_queue_keeps_together_is_together():
    pods = [a_pod("a", owner="uid-ray"), a_pod("b", "n1", owner="uid-ray"), a_pod("c"), a_pod("d"), a_pod("e")]
    queued = {"uid-ray": "uid-ray", "uid-c": "uid-w", "uid-d": "uid-w"}
    groups = jobs.group_pods(pods, jobs.Book(), queued)
    assert {uid: [pod.name for pod in found] for uid, found in groups.items()} == {
        "uid-ray": ["a", "b"],
        "uid-w": ["c", "d"],
        "uid-e": ["e"],
    }


def test_a_gang_is_one_job_on_all_its_nodes():
    book = a_book()
    pods = [a_pod("a", owner="uid-js-0"), a_pod("b", "n1", owner="uid-js-0"), a_pod("c", "n9", owner="uid-js-0")]
    job = jobs.job_of("uid-tj", book, pods, ["n0", "n1"])
    assert (job.kind, job.name, job.chips) == (TRAIN_JOB, "tj", 24)
    assert job.nodes == {"n0", "n1"}
    assert job.termination_seconds == 300


@pytest.mark.parametrize(("uid", "chips"), [("uid-tj", 48), ("uid-js", 48), ("uid-alone", 16), ("uid-pt", 20)])
def test_what_a_job_wants_is_read_from_its_templates(uid, chips):
    assert jobs.job_of(uid, a_book(), [], []).chips == chips


def test_pods_that_have_succeeded_are_not_wanted_again():
    spec = {"parallelism": 4, "completions": 4, "template": a_template()}
    book = jobs.book([(JOB, {**a_raw_job(spec=spec), "status": {"succeeded": 3}})])
    assert [(one.count, one.chips) for one in jobs.shapes_of("uid-train", book)] == [(1, {GPU: 8})]


def test_suspension_lies_where_the_kind_has_it():
    policy = {"runPolicy": {"suspend": True}}
    assert jobs.is_suspended(PYTORCH_JOB, a_raw_job(spec=policy))
    assert not jobs.is_suspended(JOB, a_raw_job(spec=policy))
    assert jobs.suspend_body(PYTORCH_JOB, suspend=True) == policy
    for kind in (JOB, JOB_SET, TRAIN_JOB):
        assert jobs.is_suspended(kind, a_raw_job(spec=jobs.suspend_body(kind, suspend=True)))


@pytest.mark.parametrize(
    "status",
    [
        {"conditions": [{"type": "Complete", "status": "True"}]},
        {"conditions": [{"type": "Succeeded", "status": "True"}]},
        {"terminalState": "Failed"},
    ],
)
def test_a_job_that_is_over_is_known_by_its_status(status):
    assert jobs.is_over({**a_raw_job(), "status": status})
    assert not jobs.is_over({**a_raw_job(), "status": {"conditions": [{"type": "Complete", "status": "False"}]}})


def test_what_owners_and_trainers_annotate_is_read_and_nonsense_is_not():
    notes = {
        "tidefleet.io/elastic": "2-6",
        "tidefleet.io/minimum-useful-seconds": "1800",
        "tidefleet.io/checkpointed-at": "2027-01-15T07:00:00Z",
    }
    later = a_pod("p", annotations={"tidefleet.io/checkpointed-at": "2027-01-15T07:30:00Z"})
    job = jobs.job_of("uid-train", jobs.book([(JOB, a_raw_job(annotations=notes))]), [later], [])
    assert (job.elastic, job.minimum_useful_seconds, job.checkpointed) == ((2, 6), 1800.0, NOW - 1800)
    assert [jobs.read_elastic(text) for text in ("6-2", "0-3", "x", "", "1-", "-1-3", "9" * 50 + "-1", None)] == [
        None
    ] * 8
    assert [jobs.read_minimum(text) for text in ("-5", "1.5", "many", None, "9999999")] == [600.0] * 5


def test_a_trainjobs_own_estimate_is_read_where_it_is_reported():
    raw = a_raw_job("tj", kind=TRAIN_JOB, spec={})
    raw["status"] = {"trainerStatus": {"progressPercentage": 40, "estimatedRemainingSeconds": 720}}
    assert jobs.job_of("uid-tj", jobs.book([(TRAIN_JOB, raw)]), [], []).seconds_left == 720.0


@pytest.mark.parametrize("spec", [None, {}, {"template": None}, {"replicatedJobs": [None, {"template": 3}]}, {"x": []}])
@pytest.mark.parametrize("kind", jobs.KINDS)
def test_odd_objects_are_read_as_far_as_they_go(kind, spec):
    raw = {"metadata": {"uid": "u", "annotations": {"a": 3}, "ownerReferences": ["x"]}, "spec": spec, "status": None}
    job = jobs.job_of("u", jobs.book([(kind, raw)]), [], [])
    assert job.chips == 0
    assert not jobs.is_over(raw)


def test_jobs_that_claim_each_other_do_not_go_round_in_circles():
    book = jobs.book([(JOB, a_raw_job("a", owner="uid-b")), (JOB, a_raw_job("b", owner="uid-a"))])
    assert book.root("uid-a") in ("uid-a", "uid-b")
    assert book.root("unknown") == ""


def test_a_lone_pod_is_a_job():
    job = jobs.lone_pod(a_pod("solo", "n3"))
    assert (job.kind, job.name, job.nodes, job.chips, job.running) == (POD, "solo", frozenset({"n3"}), 8, True)
