"""What simulated nodes look like."""

from pathlib import Path

import pytest

from localcluster.__main__ import DEFAULT_NODES
from localcluster.errors import LocalClusterError
from localcluster.nodes import NodeKind, node_kinds, node_kinds_from_catalogue, nodes_for, parse_counts


def a_kind(name: str = "h100-sxm") -> NodeKind:
    return NodeKind(
        accelerator=name,
        vendor="NVIDIA",
        resource_name="nvidia.com/gpu",
        chips_per_node=8,
        labels={"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
        taints=({"key": "nvidia.com/gpu", "effect": "NoSchedule"},),
    )


def test_a_node_offers_its_chips_and_carries_the_discovery_labels() -> None:
    (node,) = nodes_for({"h100-sxm": 1}, kinds={"h100-sxm": a_kind()}, labels={"team": "a"})
    assert node["metadata"]["name"] == "h100-sxm-0"
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert node["metadata"]["labels"]["tidefleet.io/simulated"] == "true"
    assert node["metadata"]["labels"]["team"] == "a"
    assert node["metadata"]["annotations"]["kwok.x-k8s.io/node"] == "fake"
    assert node["spec"]["taints"] == [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]


def test_zones_are_dealt_in_turn() -> None:
    nodes = nodes_for({"h100-sxm": 3}, kinds={"h100-sxm": a_kind()}, zones=("a", "b"))
    assert [node["metadata"]["labels"]["topology.kubernetes.io/zone"] for node in nodes] == ["a", "b", "a"]


def test_an_unknown_accelerator_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LocalClusterError, match="'h1000' is unknown; expected one of h100-sxm"):
        nodes_for({"h1000": 1}, kinds={"h100-sxm": a_kind()})


def test_a_cluster_started_by_hand_has_at_least_six_accelerators_of_three_vendors() -> None:
    counts, kinds = parse_counts(DEFAULT_NODES), node_kinds()
    assert len(counts) >= 6
    assert len({kinds[name].vendor for name in counts}) >= 3
    assert len(nodes_for(counts)) == sum(counts.values())


def test_the_catalogue_says_what_nodes_look_like(tmp_path: Path) -> None:
    path = tmp_path / "types.yaml"
    path.write_text(
        """
apiVersion: tidefleet.io/v1alpha1
kind: AcceleratorType
metadata: {name: mi300x}
spec: {vendor: AMD, resourceName: amd.com/gpu, chipsPerNode: 8, nodeSelector: {amd.com/gpu.product-name: X}}
---
apiVersion: tidefleet.io/v1alpha1
kind: AcceleratorType
metadata: {name: plan-only}
spec: {vendor: AMD, chipsPerNode: 8}
"""
    )
    kinds = node_kinds_from_catalogue(path)
    assert list(kinds) == ["mi300x"]
    assert kinds["mi300x"] == NodeKind(
        accelerator="mi300x",
        vendor="AMD",
        resource_name="amd.com/gpu",
        chips_per_node=8,
        labels={"amd.com/gpu.product-name": "X"},
    )


def test_counts_are_written_as_pairs() -> None:
    assert parse_counts("h100-sxm=4, mi300x=2,h100-sxm=1") == {"h100-sxm": 5, "mi300x": 2}
    assert parse_counts("") == {}


@pytest.mark.parametrize("text", ["h100-sxm", "h100-sxm=", "=3", "h100-sxm=-1"])
def test_a_malformed_count_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(LocalClusterError, match=r"expected accelerator=count, e\.g\. h100-sxm=4"):
        parse_counts(text)
