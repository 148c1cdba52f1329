"""What the inventory believes when our own write's answer and the watch disagree about the order of things."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client import ApiClient

from tidefleet.cluster.inventory import Inventory
from tidefleet.cluster.kinds import DEPLOYMENT, NODE, POD


def a_deployment(version: str, replicas: int, uid: str = "u1", **meta: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": "prod", "name": "chat", "uid": uid, "resourceVersion": version, **meta},
        "spec": {"replicas": replicas},
    }


def see(inventory: Inventory, type_: str, raw: dict[str, Any]) -> None:
    inventory.event(DEPLOYMENT, "", type_, raw, raw["metadata"]["resourceVersion"])


def replicas(inventory: Inventory) -> int | None:
    found = inventory.workload(DEPLOYMENT, "prod", "chat")
    return found.replicas if found is not None else None


@pytest.fixture
def inventory() -> Inventory:
    """An inventory that has listed one Deployment of one replica at version 100."""
    inventory = Inventory(ApiClient())
    inventory.replace(DEPLOYMENT, "", [inventory.convert(DEPLOYMENT, a_deployment("90", 1))], "100")
    return inventory


def test_our_write_shows_at_once_and_older_events_do_not_undo_it(inventory: Inventory) -> None:
    inventory.note_written(a_deployment("120", 5))
    assert replicas(inventory) == 5
    see(inventory, "MODIFIED", a_deployment("110", 2))
    assert replicas(inventory) == 5
    see(inventory, "MODIFIED", a_deployment("120", 5))
    see(inventory, "MODIFIED", a_deployment("130", 7))
    assert replicas(inventory) == 7


def test_an_answer_the_watch_has_overtaken_is_ignored(inventory: Inventory) -> None:
    see(inventory, "MODIFIED", a_deployment("130", 7))
    inventory.note_written(a_deployment("120", 5))
    assert replicas(inventory) == 7


def test_an_answer_does_not_bring_back_what_the_watch_saw_deleted(inventory: Inventory) -> None:
    see(inventory, "DELETED", a_deployment("130", 5))
    inventory.note_written(a_deployment("120", 5))
    assert replicas(inventory) is None


def test_the_deletion_of_the_old_object_leaves_the_new_one_we_created(inventory: Inventory) -> None:
    inventory.note_written(a_deployment("120", 5, uid="u2"))
    see(inventory, "DELETED", a_deployment("110", 1))
    assert replicas(inventory) == 5


def test_a_list_made_before_our_write_does_not_undo_it_and_a_later_one_does(inventory: Inventory) -> None:
    inventory.note_written(a_deployment("120", 5))
    inventory.replace(DEPLOYMENT, "", [], "115")
    assert replicas(inventory) == 5
    inventory.replace(DEPLOYMENT, "", [], "125")
    assert replicas(inventory) is None


def test_an_older_answer_of_ours_does_not_undo_a_later_one(inventory: Inventory) -> None:
    inventory.note_written(a_deployment("120", 5))
    inventory.note_written(a_deployment("119", 4))
    assert replicas(inventory) == 5


def test_versions_that_are_no_numbers_are_left_to_the_watch(inventory: Inventory) -> None:
    inventory.note_written(a_deployment("abc", 5))
    assert replicas(inventory) == 1
    see(inventory, "MODIFIED", a_deployment("xyz", 6))
    assert replicas(inventory) == 6


def test_answers_of_other_kinds_are_ignored(inventory: Inventory) -> None:
    for raw in (
        {},
        {"kind": "Status", "apiVersion": "v1", "metadata": {}},
        {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {"name": "chat", "uid": "u", "resourceVersion": "9"},
        },
        {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": None},
        a_deployment("120", 9, deletionTimestamp="2026-01-01T00:00:00Z"),
    ):
        inventory.note_written(raw)
    assert replicas(inventory) == 1


def test_a_node_outside_the_fleet_does_not_enter_by_our_own_write(inventory: Inventory) -> None:
    inventory.replace(NODE, "", [], "100")
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "u", "resourceVersion": "120"}}
    inventory.note_written(node)
    assert inventory.nodes() == []


def test_changes_are_told_once_and_heartbeats_never() -> None:
    told: list[str] = []
    inventory = Inventory(ApiClient(), on_change=told.append)
    see(inventory, "ADDED", a_deployment("1", 1))
    see(inventory, "MODIFIED", a_deployment("2", 1))
    inventory.event(DEPLOYMENT, "", "BOOKMARK", {"metadata": {"resourceVersion": "3"}}, "3")
    see(inventory, "MODIFIED", a_deployment("4", 2))
    see(inventory, "DELETED", a_deployment("5", 2))
    assert told == ["deployments"] * 3


def test_the_index_by_pool_follows_labels_and_deletions() -> None:
    inventory = Inventory(ApiClient())

    def see_pod(type_: str, version: str, pool: str | None) -> None:
        labels = {"tidefleet.io/pool": pool} if pool else {}
        meta = {"namespace": "prod", "name": "p", "uid": "u", "resourceVersion": version, "labels": labels}
        inventory.event(POD, "", type_, {"metadata": meta}, version)

    see_pod("ADDED", "1", "chat")
    see_pod("MODIFIED", "2", "code")
    assert inventory.pods_of_pool("prod", "chat") == []
    assert [one.name for one in inventory.pods_of_pool("prod", "code")] == ["p"]
    see_pod("MODIFIED", "3", None)
    assert inventory.pods_of_pool("prod", "code") == []
    assert len(inventory.pods("prod")) == 1
    see_pod("DELETED", "4", None)
    assert inventory.pods() == []
    assert (inventory._pods_by_namespace, inventory._pods_by_pool) == ({}, {})


def test_an_on_change_that_raises_does_not_stop_the_watch() -> None:
    def fail(_: str) -> None:
        raise RuntimeError

    inventory = Inventory(ApiClient(), on_change=fail)
    see(inventory, "ADDED", a_deployment("1", 1))
    assert replicas(inventory) == 1
