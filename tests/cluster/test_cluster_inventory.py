"""The inventory against a real API server, undisturbed and through every disturbance we know of."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cluster_faults import FaultyApi
from kubernetes.client import ApiClient

from localcluster.api import ApiError
from localcluster.cluster import Cluster
from tidefleet.cluster.connection import connect
from tidefleet.cluster.inventory import Inventory
from tidefleet.cluster.kinds import DEPLOYMENT, LEADER_WORKER_SET, NODE, POD, path
from tidefleet.cluster.labels import POOL_LABEL
from tidefleet.cluster.lease import NoFence
from tidefleet.cluster.objects import Objects
from tidefleet.cluster.records import Pod
from tidefleet.cluster.reflector import Pace
from tidefleet.cluster.writes import MergePatch, Writer, Written

pytestmark = pytest.mark.cluster
WATCHES = 4  # pods, nodes, deployments, statefulsets
QUICK = Pace(stall_seconds=60.0, first_backoff_seconds=0.1, last_backoff_seconds=0.5, discovery_seconds=0.5)


@pytest.fixture
def api(cluster: Cluster) -> Iterator[ApiClient]:
    client = connect(str(cluster.kubeconfig))
    yield client
    client.close()


@contextmanager
def an_inventory(api: ApiClient, *namespaces: str, pace: Pace = QUICK, **options: Any) -> Iterator[Inventory]:
    inventory = Inventory(api, namespaces, pace=pace, **options)
    inventory.start()
    try:
        assert inventory.wait_synced(20.0), inventory.errors()
        yield inventory
    finally:
        began = time.monotonic()
        inventory.stop()
        assert time.monotonic() - began < 4.0, "a silent watch must not hold up the end"


@pytest.fixture
def namespace(cluster: Cluster, namespace: str) -> str:
    """A namespace that takes pods: its default ServiceAccount is there."""
    until(lambda: cluster.api().exists(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"))
    return namespace


def until(probe: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Return what `probe` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := probe()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value


def a_pod(name: str, pool: str = "chat", chips: int = 0) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "engine", "image": "x", "ports": [{"name": "http", "containerPort": 8000}]}
    if chips:
        container["resources"] = {"limits": {"tidefleet.test/chip": str(chips)}}
    labels = {POOL_LABEL: pool} if pool else {}
    # A selector that no node matches: it stays as it is created, whatever runs in the cluster.
    spec = {"containers": [container], "nodeSelector": {"no-such-node": "x"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def a_deployment(name: str, replicas: int = 0) -> dict[str, Any]:
    labels = {"app": name}
    spec = {"containers": [{"name": "engine", "image": "x"}], "nodeSelector": {"no-such-node": "x"}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def create_pod(cluster: Cluster, namespace: str, name: str, **options: Any) -> None:
    cluster.api().create(path(POD, namespace), a_pod(name, **options))


def delete_pod(cluster: Cluster, namespace: str, name: str) -> None:
    cluster.api().delete(path(POD, namespace, name), {"gracePeriodSeconds": 0})


def names(inventory: Inventory, namespace: str) -> set[str]:
    return {one.name for one in inventory.pods(namespace)}


def test_what_is_created_changed_and_deleted_is_seen(cluster: Cluster, api: ApiClient, namespace: str) -> None:
    create_pod(cluster, namespace, "before", chips=2)
    told: list[str] = []
    with an_inventory(api, namespace, on_change=told.append) as inventory:
        (pod,) = inventory.pods(namespace)
        assert (pod.name, pod.chips, pod.ports) == ("before", {"tidefleet.test/chip": 2}, (("http", 8000),))
        create_pod(cluster, namespace, "after")
        until(lambda: names(inventory, namespace) == {"before", "after"})
        until(lambda: all(one.unschedulable_since for one in inventory.pods(namespace)))
        assert "pods" in told
        assert {one.name for one in inventory.pods_of_pool(namespace, "chat")} == {"before", "after"}
        cluster.api().merge(path(POD, namespace, "after"), {"metadata": {"labels": {POOL_LABEL: "code"}}})
        until(lambda: {one.name for one in inventory.pods_of_pool(namespace, "code")} == {"after"})
        assert {one.name for one in inventory.pods_of_pool(namespace, "chat")} == {"before"}
        assert inventory.pods(None, {POOL_LABEL: "code"}) == inventory.pods(namespace, {POOL_LABEL: "code"})
        delete_pod(cluster, namespace, "before")
        until(lambda: names(inventory, namespace) == {"after"})
        assert inventory.pods_of_pool(namespace, "chat") == []


def test_workloads_are_seen_with_their_status(cluster: Cluster, api: ApiClient, namespace: str) -> None:
    with an_inventory(api, namespace) as inventory:
        cluster.api().create(path(DEPLOYMENT, namespace), a_deployment("chat", replicas=2))
        found = until(lambda: inventory.workload(DEPLOYMENT, namespace, "chat"))
        assert (found.kind, found.replicas, found.selector) == (DEPLOYMENT, 2, {"app": "chat"})
        until(lambda: len(inventory.pods(namespace)) == 2)
        assert [one.name for one in inventory.workloads(namespace)] == ["chat"]
        assert inventory.workload(LEADER_WORKER_SET, namespace, "chat") is None


def test_nodes_of_the_fleet_are_those_the_selector_matches(cluster: Cluster, api: ApiClient) -> None:
    mark = f"fleet-{uuid.uuid4().hex[:8]}"
    client = cluster.api()
    for name, labels in ((f"{mark}-in", {mark: "yes"}), (f"{mark}-out", {})):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        client.create(path(NODE, None), node)
    try:
        with an_inventory(api, "default", node_selector=f"{mark}=yes") as inventory:
            assert [one.name for one in inventory.nodes()] == [f"{mark}-in"]
            client.merge(path(NODE, None, f"{mark}-out"), {"metadata": {"labels": {mark: "yes"}}})
            until(lambda: inventory.node(f"{mark}-out"))
            client.merge(path(NODE, None, f"{mark}-in"), {"metadata": {"labels": {mark: None}}})
            until(lambda: inventory.node(f"{mark}-in") is None)
    finally:
        for name in (f"{mark}-in", f"{mark}-out"):
            client.delete(path(NODE, None, name))


def test_several_namespaces_are_watched_and_no_others(cluster: Cluster, api: ApiClient, namespace: str) -> None:
    other = f"{namespace}-b"
    cluster.api().create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    try:
        with an_inventory(api, namespace, other) as both, an_inventory(api, namespace) as one:
            create_pod(cluster, namespace, "a")
            create_pod(cluster, other, "b")
            until(lambda: names(both, other) == {"b"} and names(both, namespace) == {"a"})
            until(lambda: names(one, namespace) == {"a"})
            assert names(one, other) == set()
    finally:
        cluster.api().delete(f"/api/v1/namespaces/{other}")


def test_deletions_missed_while_the_watch_had_expired_are_found(
    cluster: Cluster, api: ApiClient, namespace: str
) -> None:
    for name in ("stays", "goes"):
        create_pod(cluster, namespace, name)
    with FaultyApi(api) as proxy, an_inventory(proxy.api, namespace) as inventory:
        until(lambda: proxy.open_watches == WATCHES)
        proxy.forgetful, proxy.status = True, 503
        proxy.cut()
        delete_pod(cluster, namespace, "goes")
        create_pod(cluster, namespace, "comes")
        time.sleep(0.3)
        lists = proxy.count(r"GET .*/pods\?limit")
        assert names(inventory, namespace) == {"stays", "goes"}
        proxy.status = 0
        until(lambda: proxy.count(r"GET .*/pods\?watch=true") and proxy.count(r"GET .*/pods\?limit") > lists)
        proxy.forgetful = False
        until(lambda: names(inventory, namespace) == {"stays", "comes"})
        create_pod(cluster, namespace, "later")
        until(lambda: "later" in names(inventory, namespace))


def test_a_broken_watch_is_resumed_without_listing_again(cluster: Cluster, api: ApiClient, namespace: str) -> None:
    with FaultyApi(api) as proxy, an_inventory(proxy.api, namespace) as inventory:
        lists = proxy.count(r"/pods\?limit")
        for number in range(2):
            until(lambda: proxy.open_watches == WATCHES)
            proxy.cut()
            create_pod(cluster, namespace, f"p{number}")
            until(lambda number=number: f"p{number}" in names(inventory, namespace))
        assert proxy.count(r"/pods\?limit") == lists
        until(lambda: proxy.count(r"/pods\?watch=true") >= 3)


def test_a_watch_that_stalls_silently_is_noticed(cluster: Cluster, api: ApiClient, namespace: str) -> None:
    pace = Pace(stall_seconds=1.0, first_backoff_seconds=0.1, last_backoff_seconds=0.5)
    with FaultyApi(api) as proxy, an_inventory(proxy.api, namespace, pace=pace) as inventory:
        until(lambda: proxy.open_watches == WATCHES)
        proxy.stalled = True
        create_pod(cluster, namespace, "unseen")
        time.sleep(0.3)
        assert names(inventory, namespace) == set()
        until(lambda: proxy.count(r"/pods\?watch=true") >= 2)
        proxy.stalled = False
        until(lambda: names(inventory, namespace) == {"unseen"})
        assert time.time() - inventory.last_sync()["pods"] < 5.0


@pytest.mark.parametrize("status", [429, 500])
def test_a_storm_of_errors_is_met_with_patience(cluster: Cluster, api: ApiClient, namespace: str, status: int) -> None:
    with FaultyApi(api) as proxy, an_inventory(proxy.api, namespace) as inventory:
        until(lambda: proxy.open_watches == WATCHES)
        proxy.status, proxy.retry_after = status, "1"
        proxy.cut()
        before = len(proxy.requests)
        create_pod(cluster, namespace, "seen-later")
        time.sleep(2.0)
        assert len(proxy.requests) - before <= 4 * 5, "Retry-After: 1 allows each of five watches about three attempts"
        proxy.status = 0
        until(lambda: names(inventory, namespace) == {"seen-later"})


def test_an_api_server_that_restarts_is_found_again(cluster: Cluster, api: ApiClient, namespace: str) -> None:
    if not hasattr(cluster, "restart"):
        pytest.skip("this cluster's API server is not ours to restart")
    create_pod(cluster, namespace, "before")
    with an_inventory(api, namespace) as inventory:
        cluster.restart("kube-apiserver")
        delete_pod(cluster, namespace, "before")
        create_pod(cluster, namespace, "after")
        until(lambda: names(inventory, namespace) == {"after"}, 30.0)


def test_an_api_server_that_hangs_is_noticed(cluster: Cluster, api: ApiClient, namespace: str) -> None:
    if not hasattr(cluster, "pause"):
        pytest.skip("this cluster's API server is not ours to stop")
    pace = Pace(stall_seconds=1.0, list_seconds=1.0, first_backoff_seconds=0.1, last_backoff_seconds=0.5)
    with an_inventory(api, namespace, pace=pace) as inventory:
        cluster.pause("kube-apiserver")
        paused = time.time()
        time.sleep(3.0)
        last = inventory.last_sync()["pods"]
        cluster.resume("kube-apiserver")
        assert last < paused + 1.0, "the age of the watch tells"
        create_pod(cluster, namespace, "after")
        until(lambda: names(inventory, namespace) == {"after"})


def a_crd() -> dict[str, Any]:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "leaderworkersets.leaderworkerset.x-k8s.io"},
        "spec": {
            "group": "leaderworkerset.x-k8s.io",
            "scope": "Namespaced",
            "names": {"plural": "leaderworkersets", "kind": "LeaderWorkerSet", "singular": "leaderworkerset"},
            "versions": [version],
        },
    }


def test_leader_worker_sets_may_arrive_later_and_go_again(cluster: Cluster, api: ApiClient, namespace: str) -> None:
    client = cluster.api()
    if Objects(api).exists(LEADER_WORKER_SET):
        pytest.skip("the CRD of LeaderWorkerSet is installed in this cluster")
    address = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    with an_inventory(api, namespace) as inventory:
        assert inventory.last_sync()["leaderworkersets"] > 0
        client.create(address, a_crd())
        try:
            thing = {
                "apiVersion": LEADER_WORKER_SET.group_version,
                "kind": LEADER_WORKER_SET.kind,
                "metadata": {"name": "big"},
                "spec": {"replicas": 2, "leaderWorkerTemplate": {"size": 3}},
            }

            def created() -> bool:
                try:
                    client.create(path(LEADER_WORKER_SET, namespace), thing)
                except ApiError:
                    return False
                return True

            until(created)
            found = until(lambda: inventory.workload(LEADER_WORKER_SET, namespace, "big"))
            assert (found.replicas, found.pods_per_replica) == (2, 3)
        finally:
            client.delete(f"{address}/leaderworkersets.leaderworkerset.x-k8s.io")
        until(lambda: inventory.workloads(namespace) == [], 40.0)


def test_a_missing_verb_is_told_and_the_rest_goes_on(cluster: Cluster, namespace: str) -> None:
    weak = connect(str(cluster.service_account_kubeconfig(namespace, "default")))
    inventory = Inventory(weak, [namespace], pace=QUICK)
    inventory.start()
    try:
        assert not inventory.wait_synced(1.0)
        assert "is forbidden" in inventory.errors()["pods"]
        assert "leaderworkersets" not in inventory.errors(), "an absent optional kind needs no verb"
    finally:
        inventory.stop()


def test_our_own_write_is_seen_before_the_watch_shows_it(cluster: Cluster, api: ApiClient, namespace: str) -> None:
    body = a_pod("gated")
    body["spec"]["schedulingGates"] = [{"name": "tidefleet.io/test"}]  # nobody else writes it
    cluster.api().create(path(POD, namespace), body)

    def an_annotation(pod: Pod, value: str) -> MergePatch:
        return MergePatch(
            kind=POD,
            namespace=namespace,
            name=pod.name,
            body={"metadata": {"annotations": {"tidefleet.io/epoch": value}}},
            uid=pod.uid,
            resource_version=pod.resource_version,
            reason="a test",
            decision_id="d",
        )

    with FaultyApi(api) as proxy, an_inventory(proxy.api, namespace) as inventory:
        until(lambda: proxy.open_watches == WATCHES)
        proxy.stalled = True
        writer = Writer(api, NoFence())
        for value in ("7", "8"):  # the second rests on the first, with no round trip through the watch
            (pod,) = inventory.pods(namespace)
            outcome = writer.execute(an_annotation(pod, value))
            assert isinstance(outcome, Written), outcome
            inventory.note_written(outcome.object)
            (pod,) = inventory.pods(namespace)
            assert pod.annotations == {"tidefleet.io/epoch": value}
