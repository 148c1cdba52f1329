"""Simulated accelerator nodes: what a node of each kind looks like, and creating many at once."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from localcluster.api import ApiClient, ApiError
from localcluster.errors import LocalClusterError
from localcluster.loader import LOADER

SIMULATED_LABEL = "tidefleet.io/simulated"
CATALOGUE = (
    Path(__file__).resolve().parents[3] / "operator" / "tidefleet" / "catalogue" / "data" / "acceleratortypes.yaml"
)
_PARALLEL_REQUESTS = 16
_PODS_PER_NODE = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKind:
    """What every node of one accelerator type has in common.

    Attributes:
        accelerator: Name of the AcceleratorType, e.g. h100-sxm.
        vendor: NVIDIA, AMD, Google, AWS or Intel.
        resource_name: Extended resource the vendor's device plugin reports, e.g. nvidia.com/gpu.
        chips_per_node: How many of them a node has.
        labels: What the vendor's feature discovery writes, which the AcceleratorType's nodeSelector matches.
        taints: Taints of every node, as in a Node's spec.taints.
        cpu: CPUs a node offers, as a Kubernetes quantity.
        memory: Memory a node offers, as a Kubernetes quantity.
    """

    accelerator: str
    vendor: str
    resource_name: str
    chips_per_node: int
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()
    cpu: str = "192"
    memory: str = "2Ti"


def node_kinds() -> dict[str, NodeKind]:
    """Every kind of node that the operator's own catalogue describes, by accelerator."""
    return node_kinds_from_catalogue(CATALOGUE)


def node_kinds_from_catalogue(path: Path) -> dict[str, NodeKind]:
    """The kinds of node that the AcceleratorType documents of a YAML file describe.

    An AcceleratorType without a nodeSelector is for planning only and gives none.

    Raises:
        LocalClusterError: A document lacks a field; the message names it.
    """
    kinds: dict[str, NodeKind] = {}
    for document in yaml.load_all(path.read_text(encoding="utf-8"), Loader=LOADER):
        if not document or document.get("kind") != "AcceleratorType":
            continue
        name, spec = document["metadata"]["name"], document["spec"]
        if not spec.get("nodeSelector") or not spec.get("resourceName"):
            continue
        if "chipsPerNode" not in spec:
            raise LocalClusterError(f"{path}: AcceleratorType {name}: no spec.chipsPerNode; expected e.g. 8")
        kinds[name] = NodeKind(
            accelerator=name,
            vendor=spec.get("vendor", ""),
            resource_name=spec["resourceName"],
            chips_per_node=int(spec["chipsPerNode"]),
            labels=dict(spec["nodeSelector"]),
        )
    return kinds


def nodes_for(
    counts: Mapping[str, int],
    *,
    kinds: Mapping[str, NodeKind] | None = None,
    labels: Mapping[str, str] | None = None,
    zones: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Node manifests, named <accelerator>-0, <accelerator>-1, ...

    Args:
        counts: How many nodes of each accelerator, e.g. {"h100-sxm": 4, "mi300x": 2}.
        kinds: The kinds to choose from; `node_kinds()` if not given.
        labels: Labels of every node, over those of its kind.
        zones: Values of topology.kubernetes.io/zone, dealt in turn.

    Raises:
        LocalClusterError: An accelerator is not among the kinds.
    """
    known = node_kinds() if kinds is None else kinds
    dealt = tuple(zones)
    nodes: list[dict[str, Any]] = []
    for accelerator, count in counts.items():
        if accelerator not in known:
            raise LocalClusterError(f"accelerator {accelerator!r} is unknown; expected one of {', '.join(known)}")
        for index in range(count):
            zone = {"topology.kubernetes.io/zone": dealt[len(nodes) % len(dealt)]} if dealt else {}
            nodes.append(_node(known[accelerator], index, {**zone, **(labels or {})}))
    return nodes


def parse_counts(text: str) -> dict[str, int]:
    """The counts written as h100-sxm=4,mi300x=2.

    Raises:
        LocalClusterError: A part is not name=count.
    """
    counts: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, count = part.partition("=")
        if not name or not count.isdecimal():
            raise LocalClusterError(f"nodes {part!r}: expected accelerator=count, e.g. h100-sxm=4")
        counts[name] = counts.get(name, 0) + int(count)
    return counts


def apply_nodes(kubeconfig: Path, nodes: Iterable[Mapping[str, Any]]) -> None:
    """Create the nodes, or bring labels, annotations and taints of existing ones to what the manifests say.

    Sixteen requests at a time; five hundred nodes take a few seconds.

    Raises:
        ApiError: The API server refused a node.
    """
    with ApiClient.from_kubeconfig(kubeconfig) as api, ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        for _ in pool.map(lambda node: _apply_node(api, node), nodes):
            pass


def _apply_node(api: ApiClient, node: Mapping[str, Any]) -> None:
    try:
        api.create("/api/v1/nodes", node)
    except ApiError as error:
        if error.status != 409:
            raise
        api.apply(f"/api/v1/nodes/{node['metadata']['name']}", node)


def _node(kind: NodeKind, index: int, labels: Mapping[str, str]) -> dict[str, Any]:
    name = f"{kind.accelerator}-{index}"
    capacity = {
        "cpu": kind.cpu,
        "memory": kind.memory,
        "ephemeral-storage": "4Ti",
        "pods": str(_PODS_PER_NODE),
        kind.resource_name: str(kind.chips_per_node),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                SIMULATED_LABEL: "true",
                **kind.labels,
                **labels,
            },
        },
        # No empty list: applied to an existing node it would remove the taints that others put there.
        **({"spec": {"taints": [dict(taint) for taint in kind.taints]}} if kind.taints else {}),
        "status": {"capacity": capacity, "allocatable": dict(capacity)},
    }
