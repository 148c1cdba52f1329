"""Nodes on loan, pods and jobs for tests of the rules of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tidefleet.api.flipping import TrainingQueue
from tidefleet.cluster import records
from tidefleet.cluster.kinds import JOB, Kind
from tidefleet.cluster.records import Pod
from tidefleet.controller.training import Lending, LoanedNode, LoanType, TrainingJob

GPU = "nvidia.com/gpu"
NOW = 1_800_000_000.0


def a_node(name: str = "n0", **what: Any) -> LoanedNode:
    """A verified node of 8 H100 whose loan lasts two hours."""
    node = LoanedNode(name, "h100-sxm", GPU, 8, verified=True, until=NOW + 7200.0)
    return replace(node, **what)


def a_lending(*nodes: LoanedNode, **what: Any) -> Lending:
    """What pool prod/chat lends."""
    fields: dict[str, Any] = {
        "pool": ("prod", "chat"),
        "queue": TrainingQueue(clusterQueue="night"),
        "nodes": nodes,
        "types": (LoanType("h100-sxm", GPU, {"nvidia.com/gpu.product": "H100"}),),
        **what,
    }
    return Lending(**fields)


def a_pod(name: str, node: str = "n0", *, owner: str = "", chips: int = 8, **what: Any) -> Pod:
    """A running pod."""
    raw = {
        "metadata": {
            "namespace": "prod",
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": "7",
            "ownerReferences": [{"controller": True, "uid": owner}] if owner else [],
        },
        "spec": {"nodeName": node, "containers": [{"resources": {"limits": {GPU: chips}}}]},
        "status": {"phase": "Running"},
    }
    return replace(records.pod(raw), **what)


def a_template(chips: int = 8, grace: int = 30, **spec: Any) -> dict[str, Any]:
    """A pod template."""
    containers = [{"name": "train", "resources": {"limits": {GPU: chips}}}]
    return {"spec": {"terminationGracePeriodSeconds": grace, "containers": containers, **spec}}


def a_raw_job(
    name: str = "train", *, kind: Kind = JOB, spec: Mapping[str, Any] | None = None, owner: str = "", **meta: Any
) -> dict[str, Any]:
    """A job's object."""
    owners = [{"controller": True, "uid": owner, "apiVersion": "x", "kind": "x", "name": "x"}] if owner else []
    return {
        "apiVersion": kind.group_version,
        "kind": kind.kind,
        "metadata": {
            "namespace": "prod",
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": "3",
            "ownerReferences": owners,
            **meta,
        },
        "spec": {"template": a_template()} if spec is None else spec,
    }


def a_job(name: str = "train", **what: Any) -> TrainingJob:
    """A running job on n0."""
    job = TrainingJob(
        kind=JOB,
        namespace="prod",
        name=name,
        uid=f"uid-{name}",
        resource_version="3",
        chips=8,
        nodes=frozenset({"n0"}),
        running=True,
        started=NOW - 3600.0,
    )
    return replace(job, **what)
