"""An API server that restarts, refuses, forgets and is changed under the operator's hands."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from operator_builders import DEPLOYMENT, WORKLOAD_CLASS, a_class, a_pool, eventually

from localcluster import kubeconfig
from localcluster.controlplane import ControlPlane
from tidefleet.cluster.connection import connect
from tidefleet.cluster.writes import MergePatch, Write

pytestmark = pytest.mark.cluster

LASTING = {"leaderElection": {"leaseSeconds": 120}}
"""A Lease that outlives the faults: losing it ends the process, which another test looks at."""


@pytest.fixture(scope="session")
def faults() -> ModuleType:
    """The faulty proxy of the cluster package's tests."""
    file = Path(__file__).resolve().parents[1] / "cluster" / "cluster_faults.py"
    found = importlib.util.spec_from_file_location("cluster_faults", file)
    module = importlib.util.module_from_spec(found)
    sys.modules.setdefault("cluster_faults", module)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def proxied(place, faults, tmp_path):
    """A faulty proxy before the API server, and a kubeconfig that leads through it."""
    with faults.FaultyApi(connect(str(place.cluster.kubeconfig))) as proxy:
        file = kubeconfig.write(tmp_path / "proxied", url=proxy.api.configuration.host, authority=b"", user="nobody")
        yield proxy, str(file)


def demand(place, rate: int) -> None:
    """Declare another rate."""
    place.set_spec(WORKLOAD_CLASS, "chat", demand={"requestsPerSecond": str(rate)})


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_storm_of_refusals_is_survived(place, operator_in_process, settings, proxied, status):
    proxy, file = proxied
    place.create(a_pool(accelerators=[{"type": "l40s"}]), a_class())
    lease = {**settings["leaderElection"], **LASTING["leaderElection"]}
    op = operator_in_process(kubeconfig=file, leaderElection=lease)
    op.settle()

    proxy.status = status
    proxy.cut()
    demand(place, 9)
    for _ in range(3):
        op.advance(20)
    assert place.replicas() == {"l40s": 1}
    proxy.status = 0
    op.until(lambda: place.replicas()["l40s"] > 1)
    op.settle()
    assert op.alive


def test_watches_that_are_cut_are_taken_up_again(place, operator_in_process, settings, proxied):
    proxy, file = proxied
    place.create(a_pool(accelerators=[{"type": "l40s"}]), a_class())
    op = operator_in_process(kubeconfig=file)
    op.settle()
    for rate in (6, 14, 25):
        proxy.cut()
        before = place.replicas()["l40s"]
        demand(place, rate)
        op.until(lambda before=before: place.replicas()["l40s"] > before)
    op.settle()


def test_a_restart_of_the_api_server_is_survived(place, operator_in_process, settings):
    if not isinstance(place.cluster, ControlPlane):
        pytest.skip("this cluster is not ours to restart")
    place.create(a_pool(accelerators=[{"type": "l40s"}]), a_class())
    lease = {**settings["leaderElection"], **LASTING["leaderElection"]}
    op = operator_in_process(leaderElection=lease)
    op.settle()
    place.cluster.restart("kube-apiserver")
    demand(place, 9)
    op.until(lambda: place.replicas()["l40s"] > 1)
    op.settle()
    assert op.alive


def test_a_write_that_meets_another_hand_is_decided_again(place, operator_in_process):
    met: list[str] = []

    def meddle(write: Write) -> None:
        """Change the Deployment just before the operator's write reaches it."""
        if isinstance(write, MergePatch) and write.kind is DEPLOYMENT and len(met) < 3:
            met.append(write.name)
            place.merge(DEPLOYMENT, write.name, {"metadata": {"annotations": {"touched": str(len(met))}}})

    place.create(a_pool(accelerators=[{"type": "l40s"}]), a_class())
    op = operator_in_process(before_write=meddle)
    op.settle()
    demand(place, 9)
    op.until(lambda: place.replicas()["l40s"] > 1)
    op.settle()
    assert len(met) == 3
    (made,) = place.deployments().values()
    assert made["metadata"]["annotations"]["touched"] == "3"
    assert op.metric("tidefleet_api_writes_total", kind="Deployment", outcome="Conflict") == 3


def test_a_write_that_meets_a_deleted_object_makes_it_anew(place, operator_in_process):
    gone: list[str] = []

    def meddle(write: Write) -> None:
        if isinstance(write, MergePatch) and write.kind is DEPLOYMENT and not gone:
            gone.append(write.uid)
            place.delete(DEPLOYMENT, write.name)
            eventually(lambda: place.get(DEPLOYMENT, write.name) is None)

    place.create(a_pool(accelerators=[{"type": "l40s"}]), a_class())
    op = operator_in_process(before_write=meddle)
    op.settle()
    demand(place, 9)
    op.until(lambda: place.replicas().get("l40s", 0) > 1)
    op.settle()
    (made,) = place.deployments().values()
    assert made["metadata"]["uid"] not in gone
