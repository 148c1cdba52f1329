"""Replicas of several pods: LeaderWorkerSets on the controller of that project."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from flip_demand import QUICK
from operator_builders import (
    FLEET,
    INFERENCE_POOL,
    POD,
    WORKLOAD_CLASS,
    Place,
    a_class,
    a_pool,
    a_template,
    a_workload,
    adopting,
    an_accelerator,
    prepare,
)

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


def groups(place: Place, name: str = "mine") -> dict[str, list[bool]]:
    """Whether each pod of each group of a LeaderWorkerSet is ready, by group."""
    found: dict[str, list[bool]] = {}
    for pod in place.list(POD):
        if pod["metadata"]["labels"].get(SET_LABEL) == name and not pod["metadata"].get("deletionTimestamp"):
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
    empty = op.metric("tidefleet_empty_answers_total", source="engines")
    for _ in range(6):
        op.observe()
    assert place.has("DemandKnown", "True", "Known"), place.condition("DemandKnown")
    assert 1.8 < op.process._collector.reading((place.namespace, "chat")).median < 2.2
    assert op.metric("tidefleet_empty_answers_total", source="engines") == empty


def a_wide_pool(place: Place, **spec: Any) -> tuple[dict[str, Any], ...]:
    """A pool of replicas of four chips on nodes of two, and the accelerator that is so."""
    wide = place.unique("wide")
    wish = {"type": wide, "tensorParallel": [4]}
    return an_accelerator(wide, like="h100-sxm", chipsPerNode=2), a_pool(accelerators=[wish], **spec)


def own_set(place: Place) -> dict[str, Any]:
    """The one LeaderWorkerSet here."""
    (found,) = place.list(LEADER_WORKER_SET)
    return found


@pytest.mark.long
def test_a_replica_wider_than_a_node_is_made_scaled_changed_and_deleted(place, operator_in_process):
    place.create(*a_wide_pool(place, deletionPolicy="Delete"), a_class(rate=2))
    op = operator_in_process()
    op.settle()
    made = own_set(place)
    name = made["metadata"]["name"]
    assert not place.deployments()
    assert made["spec"]["leaderWorkerTemplate"]["size"] == 2
    assert made["spec"]["replicas"] == 1
    assert groups(place, name) == {"0": [True, True]}
    (option,) = place.status()["plan"]["options"]
    assert (option["workload"], option["chips"], option["ready"]) == (f"LeaderWorkerSet/{name}", 4, 1)

    place.set_spec(WORKLOAD_CLASS, "chat", demand={"requestsPerSecond": "100"})
    op.until(lambda: own_set(place)["spec"]["replicas"] > 1)
    op.settle()
    wanted = own_set(place)["spec"]["replicas"]
    assert groups(place, name) == {str(index): [True, True] for index in range(wanted)}

    serving = {"template": a_template("--seed=5"), "engine": {"type": "VLLM", "port": 8000}}
    place.set_spec(INFERENCE_POOL, "chat", serving=serving)

    def arguments(which: str) -> list[str]:
        found: list[str] = own_set(place)["spec"]["leaderWorkerTemplate"][which]["spec"]["containers"][0]["args"]
        return found

    op.until(lambda: "--seed=5" in arguments("leaderTemplate"))
    assert "--seed=5" in arguments("workerTemplate")
    assert "--headless" in arguments("workerTemplate")
    op.settle()
    before = own_set(place)["metadata"]["generation"]
    op.advance(100)
    assert own_set(place)["metadata"]["generation"] == before, "it is written again and again"

    op.stop()
    op = operator_in_process()
    op.settle()
    assert own_set(place)["metadata"]["generation"] == before, "a restart changed it"
    place.delete(INFERENCE_POOL, "chat")
    op.until(lambda: not place.list(LEADER_WORKER_SET))
    op.until(lambda: place.get(INFERENCE_POOL, "chat") is None)


def test_nodes_of_a_group_are_lent_together_or_not_at_all(flip_ground, place):
    ground = flip_ground(nodes=8)
    mine = a_set("mine", 2)
    for part in ("leaderTemplate", "workerTemplate"):
        mine["spec"]["leaderWorkerTemplate"][part]["spec"]["nodeSelector"] = {FLEET: ground.fleet}
    pool = an_adopter(replicas={"min": 1, "max": 2}, flipping=ground.flipping())
    place.create(mine, pool, a_class(rate=12))
    ground.start(flipping=QUICK)
    ground.until(lambda: groups(place) == {"0": [True, True], "1": [True, True]} and place.settled(), "two groups")

    def nodes_of(group: str) -> list[int]:
        index = "leaderworkerset.sigs.k8s.io/group-index"
        pods = [one for one in place.list(POD) if one["metadata"]["labels"].get(index) == group]
        return sorted(ground.names.index(one["spec"]["nodeName"]) for one in pods)

    first, last = nodes_of("0"), nodes_of("1")
    for group, asked in ((first, first[0]), (last, last[1])):
        ground.ask(asked, "training")
        told = f"mine removes its highest ordinal wherever that is; pod mine-{'0' if group == first else '1'}"
        said = partial(ground.events, "FlipRefused", group[0])  # of the whole group
        ground.until(lambda said=said, told=told: any(told in one for one in said()), told)
    assert ground.phases() == ["Serving"] * 8

    # The last group is what a set gives up first: what the plan gives up anyway may be lent, both nodes at once.
    place.set_spec(WORKLOAD_CLASS, "chat", demand={"requestsPerSecond": "1"})
    ground.until(lambda: set(groups(place)) == {"0"}, "one group is left", step=60.0)
    ground.ask(last[0], "training")
    ground.reaches("Training", last[0], step=5.0)
    assert groups(place) == {"0": [True, True]}
    assert [ground.phase(index) for index in first] == ["Serving", "Serving"]
    # The set is a user's own: its workers carry no label of the pool by which the watcher would know them.
    assert [one for one in ground.watcher.breaches if "is Serving and training pods hold it" not in one] == []
