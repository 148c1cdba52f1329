"""What simulated pods do: addresses, readiness, faults, jobs."""

import functools
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from localcluster.cluster import Cluster
from localcluster.nodes import NodeKind, apply_nodes, nodes_for

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

FAULT = "tidefleet.io/emulated-fault"
NODES = 3


def eventually(condition: Callable[[], bool], *, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def selector(cluster: Cluster) -> Iterator[dict[str, str]]:
    """Nodes of this module's own with two chips each; yields the labels that select them."""
    name = f"chip-{uuid.uuid4().hex[:6]}"
    labels = {"test.tidefleet.io/nodes": name}
    kind = NodeKind(accelerator=name, vendor="None", resource_name="example.com/chip", chips_per_node=2, labels=labels)
    nodes = nodes_for({name: NODES}, kinds={name: kind})
    apply_nodes(cluster.kubeconfig, nodes)
    yield labels
    for node in nodes:
        cluster.api().delete(f"/api/v1/nodes/{node['metadata']['name']}")


def pod_spec(selector: dict[str, str], *, chips: int = 1) -> dict[str, Any]:
    container = {
        "name": "engine",
        "image": "engine",
        "ports": [{"containerPort": 8000}],
        "resources": {"limits": {"example.com/chip": str(chips)}},
    }
    return {"nodeSelector": selector, "containers": [container], "terminationGracePeriodSeconds": 3600}


def a_pod(cluster: Cluster, namespace: str, selector: dict[str, str], **annotations: str) -> str:
    eventually(lambda: cluster.api().exists(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"))
    path = f"/api/v1/namespaces/{namespace}/pods"
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "p-",
            "annotations": {f"tidefleet.io/{key.replace('_', '-')}": text for key, text in annotations.items()},
        },
        "spec": pod_spec(selector, chips=0),
    }
    return f"{path}/{cluster.api().create(path, body)['metadata']['name']}"


def condition(pod: dict[str, Any], kind: str) -> dict[str, Any]:
    found = [entry for entry in pod["status"].get("conditions", []) if entry["type"] == kind]
    return found[0] if found else {"status": "Unknown"}


def is_ready(cluster: Cluster, path: str) -> bool:
    return bool(condition(cluster.api().get(path), "Ready")["status"] == "True")


def is_gone(cluster: Cluster, path: str) -> bool:
    return not cluster.api().exists(path)


def test_a_deployment_becomes_available_on_addresses_one_can_listen_on(
    cluster: Cluster, namespace: str, selector: dict[str, str]
) -> None:
    api = cluster.api()
    replicas = NODES * 2
    api.create(
        f"/apis/apps/v1/namespaces/{namespace}/deployments",
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod_spec(selector)},
            },
        },
    )
    deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/web"
    eventually(lambda: api.get(deployment)["status"].get("availableReplicas") == replicas)
    pods = api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    assert len({pod["spec"]["nodeName"] for pod in pods}) == NODES
    addresses = [pod["status"]["podIP"] for pod in pods]
    assert len(set(addresses)) == replicas
    for address in addresses:
        assert address.startswith("127.")
        with socket.create_server((address, 8000)) as server, socket.create_connection((address, 8000)) as client:
            accepted, _ = server.accept()
            with accepted:
                assert client.getpeername() == (address, 8000)


def test_more_chips_than_a_node_has_leave_a_pod_unscheduled(
    cluster: Cluster, namespace: str, selector: dict[str, str]
) -> None:
    eventually(lambda: cluster.api().exists(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"))
    path = f"/api/v1/namespaces/{namespace}/pods"
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "big"},
        "spec": pod_spec(selector, chips=3),
    }
    cluster.api().create(path, body)
    eventually(lambda: condition(cluster.api().get(f"{path}/big"), "PodScheduled").get("reason") == "Unschedulable")


def test_a_pod_is_not_ready_before_its_start_time_has_passed(
    cluster: Cluster, namespace: str, selector: dict[str, str]
) -> None:
    quick = a_pod(cluster, namespace, selector)
    slow = a_pod(cluster, namespace, selector, emulated_start_seconds="3600")
    eventually(lambda: is_ready(cluster, quick))
    assert cluster.api().get(slow)["status"]["phase"] == "Pending"
    soon = a_pod(cluster, namespace, selector, emulated_start_seconds="2")
    eventually(lambda: is_ready(cluster, soon))


def test_a_pod_that_is_never_ready_runs_and_recovers_when_the_fault_is_removed(
    cluster: Cluster, namespace: str, selector: dict[str, str]
) -> None:
    pod = a_pod(cluster, namespace, selector, emulated_fault="never-ready")
    eventually(lambda: cluster.api().get(pod)["status"]["phase"] == "Running")
    assert not is_ready(cluster, pod)
    address = cluster.api().get(pod)["status"]["podIP"]
    cluster.api().merge(pod, {"metadata": {"annotations": {FAULT: None}}})
    eventually(lambda: is_ready(cluster, pod))
    assert cluster.api().get(pod)["status"]["podIP"] == address
    cluster.api().merge(pod, {"metadata": {"annotations": {FAULT: "never-ready"}}})
    eventually(lambda: not is_ready(cluster, pod))


def test_a_crash_loop_counts_its_restarts(cluster: Cluster, namespace: str, selector: dict[str, str]) -> None:
    pod = a_pod(cluster, namespace, selector, emulated_fault="crash-loop")

    def engine() -> dict[str, Any]:
        statuses = cluster.api().get(pod)["status"].get("containerStatuses")
        return dict(statuses[0]) if statuses else {"restartCount": 0}

    eventually(lambda: engine()["restartCount"] >= 2)
    assert engine()["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert not is_ready(cluster, pod)
    cluster.api().merge(pod, {"metadata": {"annotations": {FAULT: None}}})
    eventually(lambda: is_ready(cluster, pod))
    assert engine()["restartCount"] >= 2
    assert "running" in engine()["state"]


def test_a_deleted_pod_stays_for_its_stop_time(cluster: Cluster, namespace: str, selector: dict[str, str]) -> None:
    at_once = a_pod(cluster, namespace, selector)
    soon = a_pod(cluster, namespace, selector, emulated_stop_seconds="2")
    much_later = a_pod(cluster, namespace, selector, emulated_stop_seconds="3000")
    for pod in (much_later, soon, at_once):
        eventually(functools.partial(is_ready, cluster, pod))
        cluster.api().delete(pod)
    for pod in (at_once, soon):
        eventually(functools.partial(is_gone, cluster, pod))
    assert cluster.api().get(much_later)["metadata"]["deletionTimestamp"]
    cluster.api().delete(much_later, {"gracePeriodSeconds": 0})
    eventually(functools.partial(is_gone, cluster, much_later))


def test_a_job_completes_after_its_run_time(cluster: Cluster, namespace: str, selector: dict[str, str]) -> None:
    api = cluster.api()
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    for name, seconds in (("short", "1"), ("long", "3600")):
        api.create(
            jobs,
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": name},
                "spec": {
                    "template": {
                        "metadata": {"annotations": {"tidefleet.io/emulated-run-seconds": seconds}},
                        "spec": {**pod_spec(selector, chips=0), "restartPolicy": "Never"},
                    }
                },
            },
        )
    eventually(lambda: api.get(f"{jobs}/short")["status"].get("succeeded") == 1)
    eventually(lambda: api.get(f"{jobs}/long")["status"].get("ready") == 1)
    assert not api.get(f"{jobs}/long")["status"].get("succeeded")


def test_a_node_can_be_made_not_ready_and_ready_again(cluster: Cluster, selector: dict[str, str]) -> None:
    node = f"/api/v1/nodes/{selector['test.tidefleet.io/nodes']}-0"
    eventually(lambda: is_ready(cluster, node))
    cluster.api().merge(node, {"metadata": {"annotations": {FAULT: "not-ready"}}})
    eventually(lambda: not is_ready(cluster, node))
    cluster.api().merge(node, {"metadata": {"annotations": {FAULT: None}}})
    eventually(lambda: is_ready(cluster, node))


def test_applying_nodes_again_keeps_what_others_put_on_them(cluster: Cluster, selector: dict[str, str]) -> None:
    name = selector["test.tidefleet.io/nodes"]
    node = f"/api/v1/nodes/{name}-1"
    taint = {"key": "test.tidefleet.io/loan", "effect": "PreferNoSchedule"}
    eventually(lambda: is_ready(cluster, node))
    cluster.api().merge(node, {"spec": {"taints": [taint]}, "metadata": {"labels": {"flipped": "yes"}}})
    kind = NodeKind(accelerator=name, vendor="", resource_name="example.com/chip", chips_per_node=2, labels=selector)
    apply_nodes(cluster.kubeconfig, nodes_for({name: NODES}, kinds={name: kind}))
    applied = cluster.api().get(node)
    assert applied["spec"]["taints"] == [taint]
    assert applied["metadata"]["labels"]["flipped"] == "yes"
