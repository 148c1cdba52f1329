"""A real Kubernetes control plane on loopback, with simulated accelerator nodes.

For tests, the demo and work by hand: etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok, found,
downloaded or compiled once, started in a temporary directory and ended without leaving a process or file behind.
Imports nothing of the operator.
"""

from localcluster.cluster import Cluster, ExistingCluster
from localcluster.controlplane import ControlPlane
from localcluster.errors import LocalClusterError
from localcluster.nodes import NodeKind, apply_nodes, node_kinds, node_kinds_from_catalogue, nodes_for

__all__ = [
    "Cluster",
    "ControlPlane",
    "ExistingCluster",
    "LocalClusterError",
    "NodeKind",
    "apply_nodes",
    "node_kinds",
    "node_kinds_from_catalogue",
    "nodes_for",
]
