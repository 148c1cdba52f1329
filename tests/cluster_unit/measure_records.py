"""Prints what slim records weigh: `python tests/cluster_unit/measure_records.py [pods]` (operator/ on PYTHONPATH).

Pods of 200 pools with the labels, annotations and statuses that real ones carry, each parsed from its own JSON text, so
that nothing is shared but what `records` shares itself.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc
import uuid
from collections.abc import Callable
from typing import Any

from tidefleet.cluster import records
from tidefleet.cluster.kinds import DEPLOYMENT, POD
from tidefleet.cluster.records import Record


def a_pod(number: int) -> str:
    pool = f"pool-{number % 200}"
    stamp = f"2026-11-22T{number % 24:02}:{number % 60:02}:00Z"
    condition = {"type": "Ready", "status": "True", "lastProbeTime": None, "lastTransitionTime": stamp}
    return json.dumps(
        {
            "metadata": {
                "namespace": f"team-{number % 20}",
                "name": f"{pool}-h100-{number % 200:010x}-{uuid.uuid4().hex[:5]}",
                "uid": str(uuid.uuid4()),
                "resourceVersion": str(1_000_000 + number),
                "creationTimestamp": stamp,
                "labels": {
                    "app.kubernetes.io/name": "vllm",
                    "app.kubernetes.io/instance": pool,
                    "pod-template-hash": f"{number % 200:010x}",
                    "tidefleet.io/pool": pool,
                    "tidefleet.io/accelerator": "h100-sxm",
                    "tidefleet.io/routable": "true",
                },
                "annotations": {"tidefleet.io/decision": f"d-{number % 200}", "other": "x" * 300},
                "ownerReferences": [{"uid": f"00000000-{number % 200:04}", "controller": True, "kind": "ReplicaSet"}],
            },
            "spec": {
                "nodeName": f"node-{number % 5000}",
                "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
                "containers": [
                    {
                        "name": "engine",
                        "ports": [{"name": "http", "containerPort": 8000}],
                        "resources": {
                            "limits": {"nvidia.com/gpu": "2"},
                            "requests": {"nvidia.com/gpu": "2", "cpu": "8"},
                        },
                    }
                ],
            },
            "status": {
                "phase": "Running",
                "podIP": f"10.{number % 250}.{number // 250 % 250}.7",
                "conditions": [condition, {**condition, "type": "PodScheduled"}],
                "containerStatuses": [{"restartCount": number % 2}],
            },
        }
    )


def a_node(number: int) -> str:
    labels = {f"feature.node.kubernetes.io/cpu-{one}": "true" for one in range(30)}
    return json.dumps(
        {
            "metadata": {
                "name": f"node-{number}",
                "uid": str(uuid.uuid4()),
                "resourceVersion": str(number),
                "labels": {**labels, "kubernetes.io/hostname": f"node-{number}", "tidefleet.io/duty": "serving"},
                "annotations": {"tidefleet.io/journal": json.dumps({"epoch": 7, "step": "Drain", "at": number})},
            },
            "spec": {"taints": [{"key": "tidefleet.io/duty", "value": "training", "effect": "NoSchedule"}]},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}],
                "allocatable": {"cpu": "192", "nvidia.com/gpu": "8"},
            },
        }
    )


def a_deployment(number: int) -> str:
    pod = json.loads(a_pod(number))
    return json.dumps(
        {
            "metadata": {**pod["metadata"], "managedFields": [{"manager": "tidefleet", "fieldsV1": {"f:spec": {}}}]},
            "spec": {
                "replicas": 5,
                "selector": {"matchLabels": {"app": f"a{number}"}},
                "template": {"metadata": {"labels": pod["metadata"]["labels"]}, "spec": pod["spec"]},
            },
            "status": {"readyReplicas": 5},
        }
    )


def weigh(what: str, make: Callable[[int], str], record: Callable[[dict[str, Any]], Record], count: int) -> None:
    """Print bytes and microseconds per record."""
    texts = [make(number) for number in range(count)]
    gc.collect()
    began = time.perf_counter()
    for text in texts:
        record(json.loads(text))
    seconds = time.perf_counter() - began
    for cache in (records._shared, records._shared_mapping, records._shared_items):
        cache.cache_clear()  # what is shared is weighed as well
    tracemalloc.start()
    kept = {number: record(json.loads(text)) for number, text in enumerate(texts)}
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{what}: {size / len(kept):,.0f} bytes and {seconds / count * 1e6:.0f} us per record ({count:,} records)")


if __name__ == "__main__":
    pods = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    weigh(POD.kind, a_pod, records.pod, pods)
    weigh("Node", a_node, records.node, pods // 2)
    weigh(DEPLOYMENT.kind, a_deployment, lambda raw: records.workload(DEPLOYMENT, raw), pods // 10)
