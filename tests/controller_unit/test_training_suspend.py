"""Which jobs are started, suspended, shrunk and grown where there is no queue."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_builders import GPU, NOW, a_job, a_lending, a_node, a_pod

from tidefleet.api.flipping import LabelSelector
from tidefleet.cluster.records import Pod
from tidefleet.controller.training.room import PodShape
from tidefleet.controller.training.suspend import matches
from tidefleet.controller.training.suspend_plan import MARK, MARKED, Candidate, Decided, decide, why_unconfined


def a_candidate(name: str = "train", pods: int = 1, **what: Any) -> Candidate:
    """A job that is suspended and ours to start, of pods of 8; keywords of the job or of the candidate."""
    of_job = {key: what.pop(key) for key in list(what) if key in ("elastic", "priority", "created", "asked", "nodes")}
    job = replace(a_job(name, nodes=frozenset(), running=False), **of_job)
    fields = {"suspended": True, "marked": True, "parallelism": pods, **what}
    return Candidate(job=job, shapes=(PodShape(pods, {GPU: 8}),), **fields)


def running(
    name: str = "train", pods: int = 1, on: tuple[str, ...] = ("n0",), **what: Any
) -> tuple[Candidate, list[Pod]]:
    """A job that runs on these nodes, and its pods."""
    one = a_candidate(name, pods, suspended=False, marked=False, nodes=frozenset(on), **what)
    return one, [a_pod(f"{name}-{index}", node, owner=f"uid-{name}") for index, node in enumerate(on)]


def decided(*given: Candidate | tuple[Candidate, list[Pod]], nodes: Any = None, now: float = NOW) -> Decided:
    pairs = [one if isinstance(one, tuple) else (one, []) for one in given]
    lending = a_lending(*(nodes if nodes is not None else [a_node()]))
    pods = {one.job.uid: list(there) for one, there in pairs if there}
    return decide(lending, [one for one, _ in pairs], pods, now=now)


def test_the_oldest_is_started_first_within_its_priority():
    first, second = a_candidate("a", created=NOW - 100), a_candidate("b", created=NOW - 50)
    high = a_candidate("c", created=NOW, priority=5)
    found = decided(second, high, first, nodes=[a_node("n0"), a_node("n1")])
    assert {uid: write.suspend for uid, write in found.writes.items()} == {"uid-c": False, "uid-a": False}
    assert found.writes["uid-a"].notes[MARK] is None


def test_nothing_is_started_with_too_little_of_the_loan_left():
    assert not decided(a_candidate(), nodes=[a_node(until=NOW + 599)]).writes
    assert decided(a_candidate(), nodes=[a_node(until=NOW + 600)]).writes


@pytest.mark.parametrize("what", [{"marked": False}, {"managed": True}, {"unconfined": "no selector"}])
def test_what_is_not_ours_is_not_touched(what):
    assert not decided(a_candidate(**what)).writes
    one, pods = running(**{key: value for key, value in what.items() if key != "marked"})
    if what != {"marked": False}:
        assert not decided((one, pods), nodes=[a_node(recall_by=NOW - 1)]).writes


def test_one_that_was_not_suspended_waits_its_turn_with_our_mark():
    waiting = a_candidate(suspended=False, marked=False)
    write = decided(waiting, nodes=[]).writes["uid-train"]
    assert (write.suspend, dict(write.notes), write.stop) == (True, {MARK: MARKED}, None)
    assert not decided(waiting).writes, "there is room: its pods come by themselves"


def test_a_recalled_job_is_suspended_with_our_mark_and_what_it_loses():
    write = decided(running(), nodes=[a_node(recall_by=NOW - 1)]).writes["uid-train"]
    assert (write.suspend, write.notes[MARK]) == (True, MARKED)
    assert write.stop is not None
    assert write.stop.lost_chip_seconds == 8 * 3600


def test_a_job_with_pods_on_any_node_is_not_suspended_for_want_of_room():
    assert not decided(running(on=("elsewhere",)), nodes=[]).writes


def test_a_mark_on_a_running_job_is_taken_off():
    one, pods = running()
    write = decided((replace(one, marked=True), pods)).writes["uid-train"]
    assert (write.suspend, dict(write.notes)) == (None, {MARK: None})


def test_an_elastic_job_loses_its_recalled_pods_then_its_parallelism_and_is_not_suspended():
    nodes = [a_node("n0"), a_node("n1"), a_node("n2", recall_by=NOW - 1)]
    one, pods = running(pods=3, on=("n0", "n1", "n2"), elastic=(1, 3))
    found = decided((one, pods), nodes=nodes)
    assert not found.writes
    assert [pod.node for pod, _ in found.leave] == ["n2"]
    ending = [*pods[:2], replace(pods[2], deleting=True)]
    found = decided((one, ending), nodes=nodes)
    assert (found.writes["uid-train"].parallelism, found.leave) == (2, [])
    settled, rest = running(pods=2, on=("n0", "n1"), elastic=(1, 3))
    assert not decided((settled, rest), nodes=nodes).writes
    back = decided((settled, rest), nodes=[a_node("n0"), a_node("n1"), a_node("n2")])
    assert back.writes["uid-train"].parallelism == 3


def test_an_elastic_job_moves_rather_than_shrinks_where_there_is_room():
    nodes = [a_node("n0"), a_node("n1", recall_by=NOW + 60), a_node("n2")]
    one, pods = running(pods=2, on=("n0", "n1"), elastic=(1, 2))
    ending = [pods[0], replace(pods[1], deleting=True)]
    assert not decided((one, ending), nodes=nodes).writes


def test_an_elastic_job_below_its_least_leaves_whole():
    nodes = [a_node("n0"), a_node("n1", recall_by=NOW - 1)]
    found = decided(running(pods=2, on=("n0", "n1"), elastic=(2, 2)), nodes=nodes)
    assert found.writes["uid-train"].suspend is True


def test_an_elastic_job_starts_with_fewer_pods_where_that_is_enough():
    found = decided(a_candidate(pods=3, elastic=(1, 3)))
    assert (found.writes["uid-train"].parallelism, found.writes["uid-train"].suspend) == (1, None)
    assert not decided(a_candidate(pods=3, elastic=(2, 3))).writes


def test_waiting_jobs_come_before_growth():
    nodes = [a_node("n0"), a_node("n1")]
    found = decided(running(elastic=(1, 2)), a_candidate("other"), nodes=nodes)
    assert set(found.writes) == {"uid-other"}


GOOD = {
    "nodeSelector": {"tidefleet.io/duty": "training"},
    "tolerations": [{"key": "tidefleet.io/duty", "operator": "Exists"}],
}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (GOOD, ""),
        ({**GOOD, "tolerations": [{"operator": "Exists"}]}, ""),
        ({**GOOD, "tolerations": [{"key": "tidefleet.io/duty", "value": "training", "effect": "NoSchedule"}]}, ""),
        ({**GOOD, "tolerations": [{"key": "tidefleet.io/duty", "value": "serving"}]}, "do not tolerate the taint"),
        ({**GOOD, "tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}, "do not tolerate the taint"),
        ({**GOOD, "tolerations": ["odd"]}, "do not tolerate the taint"),
        ({**GOOD, "nodeSelector": {"tidefleet.io/duty": "serving"}}, "is serving; expected training"),
        ({}, "is absent; expected training"),
    ],
)
def test_jobs_have_to_be_confined_to_loaned_nodes(spec, words):
    why = why_unconfined([{"spec": spec}])
    assert words in why
    assert bool(words) == bool(why)


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ({"matchLabels": {"team": "a"}}, True),
        ({"matchLabels": {"team": "b"}}, False),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "c"]}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "gone", "operator": "NotIn", "values": ["a"]}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, False),
        ({}, True),
    ],
)
def test_a_selector_finds_as_kubernetes_does(selector, found):
    assert matches(LabelSelector(**selector), {"team": "a"}) is found


def test_the_job_of_the_how_to_would_be_started():
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "train-on-loaned-nodes.md").read_text("utf-8")
    blocks = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "kind: Job" in text]
    (job,) = [yaml.safe_load(text) for text in blocks]
    assert not why_unconfined([job["spec"]["template"]])
    assert job["metadata"]["annotations"][MARK] == MARKED
    assert job["spec"]["suspend"] is True
