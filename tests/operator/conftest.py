"""A fleet of simulated nodes, operators in threads and as processes, engines that answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from operator_builders import FLEET, Engines, HandClock, InProcess, Place, eventually

from localcluster.cluster import Cluster
from localcluster.nodes import apply_nodes, node_kinds, nodes_for
from tidefleet import catalogue
from tidefleet.cluster.clock import Clock
from tidefleet.cluster.writes import Write

ROOT = Path(__file__).resolve().parents[2]
NODES = {"l40s": 10, "h100-sxm": 6, "h200-sxm": 2, "mi300x": 2}
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture(scope="session")
def fleet(cluster: Cluster) -> Cluster:
    """The cluster with our definitions and the nodes that all tests here share."""
    api = cluster.api()
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        definition = yaml.safe_load(file.read_text())
        api.apply(f"{DEFINITIONS}/{definition['metadata']['name']}", definition)
        plural = definition["spec"]["names"]["plural"]
        eventually(lambda plural=plural: api.is_ok(f"/apis/tidefleet.io/v1alpha1/{plural}"), f"{plural} to be served")
    kinds = {name: dataclasses.replace(kind, chips_per_node=8) for name, kind in node_kinds().items()}
    nodes = nodes_for(NODES, kinds=kinds, labels={FLEET: "operator"})
    for node in nodes:
        node["metadata"]["name"] = f"operator-{node['metadata']['name']}"
    apply_nodes(cluster.kubeconfig, nodes)
    return cluster


@pytest.fixture
def place(fleet: Cluster, namespace: str) -> Iterator[Place]:
    """A fresh namespace on that fleet; its workloads are gone after the test, so that their chips are free."""
    one = Place(fleet, namespace)
    yield one
    one.clean()


@pytest.fixture
def clock() -> HandClock:
    """Time that passes only when the test says so; it starts at the real one."""
    return HandClock()


@pytest.fixture(scope="session")
def small_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped facts about the accelerators of these tests, and no others."""
    file = tmp_path_factory.mktemp("catalogue") / "acceleratortypes.yaml"
    chosen = [dict(one) for one in catalogue.accelerator_manifests() if one["metadata"]["name"] in NODES]
    file.write_text(yaml.safe_dump_all(chosen))
    return file


@pytest.fixture
def settings(place: Place, small_catalogue: Path) -> dict[str, Any]:
    """An operator's configuration: this namespace and these nodes only, and all waiting times in minutes."""
    return {
        "namespaces": [place.namespace],
        "nodeSelector": f"{FLEET}=operator",
        "periodSeconds": 0.02,
        "scaleDownWindowSeconds": 300,
        "dwellSeconds": 900,
        "capacityWaitSeconds": 300,
        "capacityRefusedSeconds": 1800,
        "catalogueFile": str(small_catalogue),
        "leaderElection": {"namespace": place.namespace},
        "metrics": {"port": 0},
    }


@pytest.fixture
def operator_in_process(
    place: Place, clock: HandClock, settings: dict[str, Any]
) -> Iterator[Callable[..., InProcess]]:
    """Starts operators in threads; keyword arguments in camelCase change the settings."""
    started: list[InProcess] = []

    def start(
        *, before_write: Callable[[Write], None] | None = None, kubeconfig: str = "", on: Clock = clock, **changes: Any
    ) -> InProcess:
        one = InProcess(place, on, {**settings, **changes}, before_write=before_write, kubeconfig=kubeconfig)
        started.append(one)
        return one.start()

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def engines(place: Place, clock: HandClock) -> Iterator[Engines]:
    """Engines on the pods of this test."""
    with Engines(place, clock) as running:
        yield running
