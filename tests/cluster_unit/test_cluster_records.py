"""Slim records: right on ordinary objects, and built from anything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidefleet.cluster import records
from tidefleet.cluster.kinds import DEPLOYMENT, LEADER_WORKER_SET, NODE, POD, path
from tidefleet.cluster.records import Taint


def a_pod(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "prod",
            "name": "chat-1",
            "uid": "u1",
            "resourceVersion": "7",
            "creationTimestamp": "2026-11-22T12:00:00Z",
            "labels": {"tidefleet.io/pool": "chat"},
            "annotations": {"tidefleet.io/epoch": "3", "kubectl.kubernetes.io/last-applied": "x" * 1000},
            "ownerReferences": [{"uid": "other"}, {"uid": "rs", "controller": True}],
        },
        "spec": {
            "nodeName": "n1",
            "nodeSelector": {"gpu": "h100"},
            "containers": [
                {
                    "resources": {"limits": {"nvidia.com/gpu": "2", "cpu": "4"}},
                    "ports": [{"name": "http", "containerPort": 8000}],
                },
                {"resources": {"requests": {"nvidia.com/gpu": 1, "memory": "1Gi"}}, "ports": [{"containerPort": 9000}]},
            ],
        },
        "status": status,
    }


def test_a_pod_record_keeps_what_decisions_need() -> None:
    pod = records.pod(
        a_pod(
            phase="Running",
            podIP="127.1.0.2",
            conditions=[{"type": "Ready", "status": "True"}],
            containerStatuses=[{"restartCount": 2}, {"restartCount": 1}],
        )
    )
    assert (pod.namespace, pod.name, pod.node, pod.phase, pod.ready) == ("prod", "chat-1", "n1", "Running", True)
    assert pod.chips == {"nvidia.com/gpu": 3}
    assert pod.ports == (("http", 8000), ("", 9000))
    assert pod.annotations == {"tidefleet.io/epoch": "3"}
    assert (pod.owner_uid, pod.restarts, pod.created) == ("rs", 3, 1795348800.0)
    assert pod.unschedulable_since is None


def test_a_pod_that_does_not_fit_says_since_when_and_why() -> None:
    pod = records.pod(
        a_pod(
            conditions=[
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "lastTransitionTime": "2026-11-22T12:00:05Z",
                    "message": "0/5 nodes are available",
                }
            ]
        )
    )
    assert pod.unschedulable_since == pod.created + 5
    assert pod.unschedulable_message == "0/5 nodes are available"


def test_a_scheduling_gate_is_not_a_lack_of_capacity() -> None:
    gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gates"}
    pod = records.pod(a_pod(conditions=[gated]))
    assert (pod.unschedulable_since, pod.unschedulable_message) == (None, "")


def test_chips_are_counted_as_the_scheduler_counts_them() -> None:
    raw = a_pod()
    raw["spec"]["initContainers"] = [
        {"resources": {"limits": {"nvidia.com/gpu": "8"}}},
        {"restartPolicy": "Always", "resources": {"limits": {"example.com/nic": "1"}}},
    ]
    assert records.pod(raw).chips == {"nvidia.com/gpu": 8, "example.com/nic": 1}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8", 8),
        (8, 8),
        ("1k", 1000),
        ("2Ki", 2048),
        ("1500m", 1),
        ("x", 0),
        (None, 0),
        (True, 0),
        ("-3", 0),
        ("1e3", 1000),
    ],
)
def test_quantities_are_read_as_whole_numbers(text: object, number: int) -> None:
    assert records.quantity(text) == number


def test_a_node_record_keeps_taints_and_devices() -> None:
    node = records.node(
        {
            "metadata": {"name": "n1", "uid": "u", "labels": {"a": "b"}},
            "spec": {
                "unschedulable": True,
                "taints": [{"key": "tidefleet.io/duty", "value": "x", "effect": "NoSchedule"}],
            },
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}],
                "allocatable": {"cpu": "64", "nvidia.com/gpu": "8", "attachable-volumes-x": "3", "hugepages-2Mi": "0"},
            },
        }
    )
    assert node.taints == (Taint("tidefleet.io/duty", "x", "NoSchedule"),)
    assert node.allocatable == {"nvidia.com/gpu": 8}
    assert (node.ready, node.unschedulable) == (True, True)
    assert node.conditions == {"Ready": "True", "DiskPressure": "False"}


def a_deployment() -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "prod",
            "name": "chat",
            "generation": 3,
            "managedFields": [
                {"manager": "tidefleet", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
                {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {}}}},
                {"manager": "hpa", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
            ],
        },
        "spec": {
            "replicas": 4,
            "selector": {"matchLabels": {"app": "chat"}},
            "template": {
                "spec": {"containers": [{"resources": {"limits": {"amd.com/gpu": "2"}}}], "nodeSelector": {"x": "y"}}
            },
        },
        "status": {"readyReplicas": 3, "availableReplicas": 2, "updatedReplicas": 1, "observedGeneration": 2},
    }


def test_a_workload_record_names_who_owns_its_replicas() -> None:
    workload = records.workload(DEPLOYMENT, a_deployment())
    assert workload.replicas_managers == ("hpa", "tidefleet")
    assert (workload.replicas, workload.ready_replicas, workload.available_replicas) == (4, 3, 2)
    assert (workload.updated_replicas, workload.generation, workload.observed_generation) == (1, 3, 2)
    assert workload.chips_per_pod == {"amd.com/gpu": 2}
    assert workload.selector == {"app": "chat"}
    assert not workload.match_expressions_present


def test_the_template_hash_does_not_depend_on_the_order_of_keys() -> None:
    one, other = a_deployment(), a_deployment()
    template = other["spec"]["template"]["spec"]
    other["spec"]["template"]["spec"] = dict(reversed(template.items()))
    assert records.workload(DEPLOYMENT, one).template_hash == records.workload(DEPLOYMENT, other).template_hash
    template["nodeSelector"]["x"] = "z"
    other["spec"]["template"]["spec"] = template
    assert records.workload(DEPLOYMENT, one).template_hash != records.workload(DEPLOYMENT, other).template_hash


def test_replicas_left_out_are_one_and_zero_stays_zero() -> None:
    raw = a_deployment()
    raw["spec"]["replicas"] = 0
    assert records.workload(DEPLOYMENT, raw).replicas == 0
    del raw["spec"]["replicas"]
    assert records.workload(DEPLOYMENT, raw).replicas == 1


def test_a_leader_worker_set_counts_pods_of_a_group() -> None:
    worker = {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": 8}}}]}}
    raw = {
        "metadata": {"namespace": "prod", "name": "big"},
        "spec": {"replicas": 2, "leaderWorkerTemplate": {"size": 4, "workerTemplate": worker}},
        "status": {"readyReplicas": 1},
    }
    workload = records.workload(LEADER_WORKER_SET, raw)
    assert (workload.pods_per_replica, workload.chips_per_pod) == (4, {"nvidia.com/gpu": 8})
    assert workload.available_replicas == 1
    assert workload.selector == {"leaderworkerset.sigs.k8s.io/name": "big"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.from_regex(
    "(name|labels|annotations|ownerReferences|creationTimestamp|managedFields|containers|initContainers|nodeSelector"
    "|taints|replicas|selector|template|leaderWorkerTemplate|conditions|containerStatuses|allocatable|readyReplicas)",
    fullmatch=True,
)
ODD = st.fixed_dictionaries(
    {}, optional={one: JSON | st.dictionaries(FIELDS, JSON) for one in ("metadata", "spec", "status")}
)


@given(ODD)
def test_a_record_is_built_from_anything(raw: dict[str, Any]) -> None:
    records.pod(raw)
    records.node(raw)
    records.workload(DEPLOYMENT, raw)
    records.workload(LEADER_WORKER_SET, raw)


def test_equal_labels_are_shared_between_records() -> None:
    assert records.pod(a_pod()).labels is records.pod(a_pod()).labels


def test_a_heartbeat_is_no_change() -> None:
    raw = a_pod(phase="Running")
    one = records.pod(raw)
    raw["metadata"]["resourceVersion"] = "8"
    assert records.same_but_version(one, records.pod(raw))
    raw["status"]["phase"] = "Failed"
    assert not records.same_but_version(one, records.pod(raw))


def test_addresses_are_the_api_servers() -> None:
    assert path(POD, "a", "b") == "/api/v1/namespaces/a/pods/b"
    assert path(POD, None) == "/api/v1/pods"
    assert path(NODE, "", "n1") == "/api/v1/nodes/n1"
    assert path(DEPLOYMENT, "a", "b", "scale") == "/apis/apps/v1/namespaces/a/deployments/b/scale"
    assert path(POD, "a", "../../nodes") == "/api/v1/namespaces/a/pods/..%2F..%2Fnodes"
    with pytest.raises(ValueError, match="needs its namespace"):
        path(POD, "", "b")
