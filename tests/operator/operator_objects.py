"""Objects for the operator's tests, as a user would write them, and the nodes that they run on."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from localcluster.cluster import Cluster
from localcluster.loader import LOADER
from localcluster.nodes import apply_nodes, node_kinds, nodes_for
from tidefleet import catalogue

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]

FLEET = "tidefleet.io/test-fleet"
"""Label of the nodes that these tests share; the operators under test see no others."""

MODEL = "llama-3.1-8b"
STEP = 50.0
"""Most seconds of the clock between two passes: after a minute without a reading the past counts as unknown."""

DEADLINE = 120.0
"""Real seconds after which something has not happened; far beyond what a loaded machine needs."""


def eventually(
    check: Callable[[], T],
    what: str = "",
    *,
    seconds: float = DEADLINE,
    pause: float = 0.05,
    rest: Callable[[], object] | None = None,
) -> T:
    """The first true answer of `check`; an assertion that fails counts as no answer and is shown at the end.

    Between two tries it sleeps for `pause` seconds, or does `rest`, which returns when there is news, or soon.
    """
    deadline = time.monotonic() + seconds
    while True:
        last: AssertionError | None = None
        try:
            if answer := check():
                return answer
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or last or check}") from last
        rest() if rest is not None else time.sleep(pause)


# --- objects -------------------------------------------------------------------------------------------------------


def a_template(*arguments: str, containers: Sequence[str] = ("engine",), **pod: Any) -> dict[str, Any]:
    """A pod template with an engine on port 8000."""
    engine = {
        "image": "vllm/vllm-openai:v0.32.0",
        "args": [f"--model={MODEL}", *arguments],
        "ports": [{"name": "http", "containerPort": 8000}],
    }
    return {
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": {FLEET: "operator"},
            "containers": [{"name": name, **engine} for name in containers],
            **pod,
        }
    }


def a_pool(name: str = "chat", **spec: Any) -> dict[str, Any]:
    """An InferencePool of llama-3.1-8b on L40S or H100; `spec` replaces fields, and None takes one away."""
    fields = {
        "model": {"name": MODEL},
        "serving": {"template": a_template(), "engine": {"type": "VLLM", "port": 8000}},
        "accelerators": [{"type": "l40s"}, {"type": "h100-sxm"}],
        "replicas": {"min": 1, "max": 16},
        **spec,
    }
    kept = {key: value for key, value in fields.items() if value is not None}
    return {"kind": "InferencePool", "metadata": {"name": name}, "spec": kept}


def a_class(pool: str = "chat", rate: float | None = 2.0, **spec: Any) -> dict[str, Any]:
    """A WorkloadClass of a pool: its declared requests per second, or measured ones with None."""
    return {
        "kind": "WorkloadClass",
        "metadata": {"name": pool},
        "spec": {
            "poolRef": {"name": pool},
            "demand": {"source": "Metrics"} if rate is None else {"requestsPerSecond": f"{rate:g}"},
            "tokens": {"input": {"mean": 1000, "p95": 3000}, "output": {"mean": 200, "p95": 500}},
            "objectives": [
                {"metric": "TTFT", "percentile": 95, "milliseconds": 1500},
                {"metric": "TPOT", "percentile": 95, "milliseconds": 60},
            ],
            **spec,
        },
    }


def an_accelerator(name: str, price: str = "2.00", *, like: str = "l40s", **spec: Any) -> dict[str, Any]:
    """An AcceleratorType that a user made, on the nodes of `like` unless `spec` says otherwise."""
    shipped = next(one for one in catalogue.accelerator_manifests() if one["metadata"]["name"] == like)
    return {
        "kind": "AcceleratorType",
        "metadata": {"name": name},
        "spec": {
            **copy.deepcopy(dict(shipped["spec"])),
            "prices": [{"capacityType": "OnDemand", "usdPerChipHour": price}],
            **spec,
        },
    }


def a_workload(name: str, replicas: int = 2, *, kind: str = "Deployment", accelerator: str = "l40s") -> dict[str, Any]:
    """What a user runs already: a Deployment or StatefulSet with one chip a replica."""
    labels = {"app": name}
    template = a_template()
    shipped = next(one for one in catalogue.accelerator_manifests() if one["metadata"]["name"] == accelerator)
    template["metadata"] = {"labels": labels}
    template["spec"]["nodeSelector"] |= shipped["spec"]["nodeSelector"]
    template["spec"]["containers"][0]["resources"] = {"limits": {shipped["spec"]["resourceName"]: 1}}
    more = {"serviceName": name} if kind == "StatefulSet" else {}
    return {
        "kind": kind,
        "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template, **more},
    }


def adopting(*workloads: tuple[str, str], kind: str = "Deployment", **spec: Any) -> dict[str, Any]:
    """The `serving` of a pool that adopts workloads, each with its accelerator."""
    return {
        "workloads": [
            {"kind": kind, "name": name, "accelerator": accelerator, "chipsPerReplica": 1}
            for name, accelerator in workloads
        ],
        "engine": {"type": "VLLM", "port": 8000},
        **spec,
    }


NODES = {"l40s": 10, "h100-sxm": 6, "h200-sxm": 2, "mi300x": 2}
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def prepare(cluster: Cluster) -> None:
    """Our definitions, and the nodes that all tests on a cluster share."""
    api = cluster.api()
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        definition = yaml.load(file.read_text(), LOADER)  # noqa: S506 - a safe loader
        api.apply(f"{DEFINITIONS}/{definition['metadata']['name']}", definition)
        plural = definition["spec"]["names"]["plural"]
        eventually(lambda plural=plural: api.is_ok(f"/apis/tidefleet.io/v1alpha1/{plural}"), f"{plural} to be served")
    kinds = {name: dataclasses.replace(kind, chips_per_node=8) for name, kind in node_kinds().items()}
    nodes = nodes_for(NODES, kinds=kinds, labels={FLEET: "operator"})
    for node in nodes:
        node["metadata"]["name"] = f"operator-{node['metadata']['name']}"
    apply_nodes(cluster.kubeconfig, nodes)
