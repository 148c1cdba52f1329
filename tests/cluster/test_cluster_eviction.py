"""Evictions: what a budget holds back, what is evicted all the same, and that none is repeated against a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes.client import ApiClient

from localcluster.cluster import Cluster
from localcluster.nodes import apply_nodes, nodes_for
from tidefleet.cluster.connection import connect
from tidefleet.cluster.kinds import PDB, POD, path
from tidefleet.cluster.lease import NoFence
from tidefleet.cluster.objects import Objects
from tidefleet.cluster.writes import Blocked, Conflict, Evict, Gone, Writer, Written

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]
NODE = "evictions"


@pytest.fixture(scope="module")
def node(cluster: Cluster) -> str:
    (manifest,) = nodes_for({"l40s": 1})
    manifest["metadata"]["name"] = NODE
    apply_nodes(cluster.kubeconfig, [manifest])
    return NODE


@pytest.fixture
def api(cluster: Cluster) -> Iterator[ApiClient]:
    client = connect(str(cluster.kubeconfig))
    yield client
    client.close()


@pytest.fixture
def writer(api: ApiClient) -> Writer:
    return Writer(api, NoFence())


def eventually(check: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30.0
    while not (answer := check()):
        assert time.monotonic() < deadline, "not within 30 s"
        time.sleep(0.05)
    return answer


class Bench:
    """A namespace with a running pod `one`, and perhaps budgets for it."""

    def __init__(self, cluster: Cluster, api: ApiClient, namespace: str) -> None:
        self.api, self.namespace, self.objects = cluster.api(), namespace, Objects(api)
        # The node controller of a running cluster creates the default account a moment after the namespace.
        eventually(lambda: self.api.exists(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"))

    def pod(self, *, stop: int = 0, grace: int = 600) -> dict[str, Any]:
        """The pod once it is Ready; it takes `stop` seconds to end."""
        meta = {
            "name": "one",
            "labels": {"app": "one"},
            "annotations": {"tidefleet.io/emulated-stop-seconds": str(stop)},
        }
        spec = {
            "nodeName": NODE,
            "terminationGracePeriodSeconds": grace,
            "containers": [{"name": "c", "image": "c"}],
        }
        self.api.create(path(POD, self.namespace), {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        return eventually(self.ready)  # type: ignore[no-any-return]

    def ready(self) -> dict[str, Any] | None:
        found = self.get()
        conditions = found["status"].get("conditions", []) if found else []
        return found if any(one["type"] == "Ready" and one["status"] == "True" for one in conditions) else None

    def get(self) -> dict[str, Any] | None:
        return self.objects.get(POD, self.namespace, "one")

    def budget(self, name: str = "all") -> None:
        """A budget that allows no disruption."""
        spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "one"}}}
        body = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec}
        self.api.create(path(PDB, self.namespace), body)
        eventually(lambda: self.api.get(path(PDB, self.namespace, name)).get("status", {}).get("observedGeneration"))


@pytest.fixture
def bench(cluster: Cluster, api: ApiClient, namespace: str, node: str) -> Bench:
    return Bench(cluster, api, namespace)


def eviction(pod: dict[str, Any], **what: Any) -> Evict:
    meta = pod["metadata"]
    fields = {"uid": meta["uid"], "resource_version": meta["resourceVersion"], **what}
    return Evict(namespace=meta["namespace"], name=meta["name"], reason="a test", decision_id="d-1", **fields)


def test_a_pod_without_a_budget_is_evicted(bench, writer):
    pod = bench.pod()
    assert isinstance(writer.execute(eviction(pod), dry_run=True), Written)
    assert bench.get()["metadata"].get("deletionTimestamp") is None
    assert isinstance(writer.execute(eviction(pod)), Written)
    eventually(lambda: bench.get() is None)
    assert isinstance(writer.execute(eviction(pod)), Gone)


def test_a_budget_blocks_at_once_and_the_eviction_is_not_repeated(bench, writer):
    pod = bench.pod()
    bench.budget()
    outcome = writer.execute(eviction(bench.get()))
    assert isinstance(outcome, Blocked)
    assert "disruption budget" in outcome.message
    assert writer.writes_total == 1
    assert bench.get()["metadata"]["uid"] == pod["metadata"]["uid"]


def test_two_budgets_for_a_pod_block_too(bench, writer):
    bench.pod()
    bench.budget("a")
    bench.budget("b")
    assert isinstance(writer.execute(eviction(bench.get())), Blocked)
    assert writer.writes_total == 1


def test_another_pod_of_the_name_or_another_state_of_it_is_not_evicted(bench, writer):
    pod = bench.pod()
    assert isinstance(writer.execute(eviction(pod, uid="11111111-2222-3333-4444-555555555555")), Conflict)
    bench.api.merge(path(POD, bench.namespace, "one"), {"metadata": {"annotations": {"moved": "on"}}})
    assert isinstance(writer.execute(eviction(pod)), Conflict)
    assert bench.get()["metadata"].get("deletionTimestamp") is None


def test_a_terminating_pod_gets_the_shorter_grace_whatever_its_budget_says(bench, writer):
    bench.pod(stop=600)
    bench.api.delete(path(POD, bench.namespace, "one"))
    assert bench.get()["metadata"]["deletionGracePeriodSeconds"] == 600
    bench.budget()
    assert isinstance(writer.execute(eviction(bench.get(), grace_seconds=1)), Written)
    eventually(lambda: bench.get() is None)


def test_a_grace_of_nothing_is_refused_since_the_accelerator_may_still_be_held():
    with pytest.raises(ValueError, match="expected at least 1"):
        Evict(namespace="n", name="p", uid="u", resource_version="1", reason="r", decision_id="d", grace_seconds=0)
