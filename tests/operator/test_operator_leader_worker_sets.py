"""Replicas of several pods: LeaderWorkerSets on the controller of that project."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from operator_builders import POD, WORKLOAD_CLASS, Place, a_class, a_pool, a_workload, adopting, prepare

from localcluster.controlplane import ControlPlane
from localcluster.leaderworkersets import SET_LABEL, start_leader_worker_sets
from tidefleet.cluster.kinds import LEADER_WORKER_SET

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    """A control plane of this module's own: the others are without LeaderWorkerSets."""
    with ControlPlane() as running:
        start_leader_worker_sets(running)
        yield running


@pytest.fixture(scope="module")
def fleet(cluster: ControlPlane) -> ControlPlane:
    """That one with our definitions and nodes."""
    prepare(cluster)
    return cluster


def a_set(name: str, replicas: int = 1, *, size: int = 2, engine: str = "") -> dict[str, Any]:
    """What a user runs already: groups of pods with a chip each, of which the first serves."""
    worker = {"spec": a_workload(name)["spec"]["template"]["spec"]}
    labels = {"tidefleet.io/pool": "chat", "tidefleet.io/routable": "true"}
    facts = {"labels": labels, "annotations": {"tidefleet.io/engine": engine}} if engine else {}
    return {
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "leaderWorkerTemplate": {
                "size": size,
                "leaderTemplate": {**worker, "metadata": facts},
                "workerTemplate": worker,
            },
        },
    }


def an_adopter(chips: int = 2, **spec: Any) -> dict[str, Any]:
    """A pool that adopts the LeaderWorkerSet `mine`."""
    serving = adopting(("mine", "l40s"), kind="LeaderWorkerSet")
    serving["workloads"][0]["chipsPerReplica"] = chips
    return a_pool(serving=serving, accelerators=None, **spec)


def groups(place: Place) -> dict[str, list[bool]]:
    """Whether each pod of each group is ready, by group."""
    found: dict[str, list[bool]] = {}
    for pod in place.list(POD):
        if pod["metadata"]["labels"].get(SET_LABEL) == "mine" and not pod["metadata"].get("deletionTimestamp"):
            ready = any(
                one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ())
            )
            found.setdefault(pod["metadata"]["labels"]["leaderworkerset.sigs.k8s.io/group-index"], []).append(ready)
    return found


def test_an_adopted_leader_worker_set_is_scaled_and_its_groups_come_up(place, operator_in_process):
    place.create(a_set("mine", 1), an_adopter(), a_class(rate=12))
    before = place.get(LEADER_WORKER_SET, "mine")
    op = operator_in_process()
    op.settle()

    after = place.get(LEADER_WORKER_SET, "mine")
    wanted = after["spec"]["replicas"]
    assert wanted > 1
    assert {**after["spec"], "replicas": 1} == before["spec"]
    assert groups(place) == {str(index): [True, True] for index in range(wanted)}
    assert place.status()["accelerators"] == f"{wanted} l40s (bf16, tp2)"
    assert place.status()["plan"]["options"][0]["chips"] == 2 * wanted
    labels = {"namespace": place.namespace, "pool": "chat", "workload": "LeaderWorkerSet/mine", "accelerator": "l40s"}
    assert op.metric("tidefleet_pool_option_replicas", **labels, state="ready") == wanted

    place.set_spec(WORKLOAD_CLASS, "chat", demand={"requestsPerSecond": "1"})
    op.until(lambda: place.get(LEADER_WORKER_SET, "mine")["spec"]["replicas"] == 1, step=40)
    op.until(lambda: groups(place) == {"0": [True, True]})


def test_only_the_leader_of_a_group_is_measured(place, operator_in_process, engines):
    """The workers answer nothing: read as engines that fail they would double the demand of the others."""
    engine = '{"model":"llama-3.1-8b","accelerator":"l40s","tensorParallel":2,"weights":"Bf16","kv":"Bf16","port":8000}'
    place.create(a_set("mine", 1, engine=engine), an_adopter(), a_class(rate=None))
    op = operator_in_process()
    op.until(lambda: engines.count() == 1 and groups(place) == {"0": [True, True]})
    engines.load(2.0)
    for _ in range(6):
        op.observe()
    assert place.has("DemandKnown", "True", "Known"), place.condition("DemandKnown")
    assert 1.8 < op.process._collector.reading((place.namespace, "chat")).mean < 2.2
    assert op.metric("tidefleet_empty_answers_total", source="engines") == 0
