"""Fixtures for tests that need a cluster: one control plane per test worker, a fresh namespace per test.

`TIDEFLEET_TEST_KUBECONFIG` names a cluster to use instead of a local one; tests marked `needs_local_pods` are then
skipped, with that reason.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster.api import ApiError
from localcluster.cluster import Cluster, ExistingCluster
from localcluster.controlplane import ControlPlane

KUBECONFIG_VARIABLE = "TIDEFLEET_TEST_KUBECONFIG"
_NODE_LEASE_SECONDS = 400
"""No test waits for a Lease to run out, and renewing those of dozens of nodes every ten seconds costs CPU."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    config.addinivalue_line("markers", "cluster: needs a Kubernetes API server")
    config.addinivalue_line("markers", "needs_local_pods: needs pods that answer on this machine's loopback addresses")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what a cluster run by somebody else cannot do."""
    existing = os.environ.get(KUBECONFIG_VARIABLE)
    if not existing:
        return
    reason = f"{KUBECONFIG_VARIABLE}={existing}: its pods have no loopback addresses of this machine"
    for item in items:
        if item.get_closest_marker("needs_local_pods") is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster: a control plane of this worker's own, or the one TIDEFLEET_TEST_KUBECONFIG names."""
    existing = os.environ.get(KUBECONFIG_VARIABLE)
    with (
        ExistingCluster(Path(existing)) if existing else ControlPlane(node_lease_seconds=_NODE_LEASE_SECONDS)
    ) as running:
        yield running


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """The name of a fresh namespace that is deleted after the test (the deletion is not waited for)."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    api = cluster.api()
    api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    with contextlib.suppress(ApiError):
        api.delete(f"/api/v1/namespaces/{name}")
