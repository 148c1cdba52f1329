"""A fleet of simulated nodes, operators in threads and as processes, engines that answer."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from flip_faults import Ground
from flip_ground import clean_nodes
from flip_night import Night
from flip_watcher import FlipWatcher
from operator_builders import (
    FLEET,
    NODES,
    ROOT,
    Engines,
    HandClock,
    InProcess,
    Place,
    RealOperator,
    eventually,
    prepare,
)

from localcluster import binaries
from localcluster.api import ApiError
from localcluster.cluster import Cluster
from localcluster.crds import crd_files
from localcluster.errors import LocalClusterError
from tidefleet import catalogue
from tidefleet.cluster.clock import Clock
from tidefleet.cluster.kinds import UPSTREAM_POOL
from tidefleet.cluster.writes import Outcome, Write


@pytest.fixture(scope="session")
def fleet(cluster: Cluster) -> Cluster:
    """The cluster with our definitions and the nodes that all tests here share."""
    prepare(cluster)
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
def operator_in_process(place: Place, clock: HandClock, settings: dict[str, Any]) -> Iterator[Callable[..., InProcess]]:
    """Starts operators in threads; keyword arguments in camelCase change the settings."""
    started: list[InProcess] = []

    def start(
        *,
        before_write: Callable[[Write], None] | None = None,
        after_write: Callable[[Write, Outcome], None] | None = None,
        kubeconfig: str = "",
        on: Clock = clock,
        **changes: Any,
    ) -> InProcess:
        hooks = {"before_write": before_write, "after_write": after_write}
        one = InProcess(place, on, {**settings, **changes}, kubeconfig=kubeconfig, **hooks)
        started.append(one)
        return one.start()

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def watcher(place: Place) -> Iterator[FlipWatcher]:
    """Who checks the invariants of flips at every write; the nodes are clean before and after the test."""
    clean_nodes(place)
    yield FlipWatcher(place.cluster, {FLEET: "operator"})
    clean_nodes(place)


@pytest.fixture
def flipping_operator(
    operator_in_process: Callable[..., InProcess], engines: Engines, watcher: FlipWatcher
) -> Callable[..., InProcess]:
    """Starts operators that see all namespaces, since what is on a node may be anybody's, watched at every write."""

    def start(*, before_write: Callable[[Write], None] | None = None, **changes: Any) -> InProcess:
        def look(write: Write) -> None:
            watcher.look(f"before {write.kind.kind} {write.name}")
            if before_write is not None:
                before_write(write)

        return operator_in_process(before_write=look, **{"namespaces": [], **changes})

    return start


@pytest.fixture
def night(
    place: Place, clock: HandClock, operator_in_process: Callable[..., InProcess], engines: Engines
) -> Iterator[Callable[..., Night]]:
    """Makes small fleets that lend nodes; they are gone after the test."""
    made: list[Night] = []

    def make(**what: Any) -> Night:
        one = Night(place, clock, operator_in_process, **what)
        made.append(one)
        return one

    yield make
    for one in made:
        one.end()


@pytest.fixture
def engines(place: Place, clock: HandClock) -> Iterator[Engines]:
    """Engines on the pods of this test."""
    with Engines(place, clock) as running:
        yield running


@dataclasses.dataclass(frozen=True)
class Released:
    """The chart's account and rights on this worker's cluster, without pods."""

    namespace: str
    kubeconfig: Path
    router_kubeconfig: Path
    role: str
    """Name of the operator's ClusterRole."""


@pytest.fixture(scope="session")
def released(fleet: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Released]:
    """The chart, installed once per worker under a name of its own with `replicas: 0`."""
    home = tmp_path_factory.mktemp("helm")
    surroundings = {**os.environ, **{f"HELM_{name}_HOME": str(home / name) for name in ("CACHE", "CONFIG", "DATA")}}
    namespace = "tidefleet-operator-tests"

    def helm(*arguments: str) -> None:
        done = subprocess.run(
            [binaries.find("helm"), *arguments, "-n", namespace, "--kubeconfig", fleet.kubeconfig],
            env=surroundings, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    helm(
        "install", "tests", str(ROOT / "charts" / "tidefleet"), "--create-namespace",
        *("--set", "replicas=0,crds.enabled=false,fullnameOverride=operator-tests"),
        *("--set", "router.enabled=true,router.replicas=0"),
    )  # fmt: skip
    roles = fleet.api().get("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings")["items"]
    (role,) = (
        one["roleRef"]["name"]
        for one in roles
        if any(
            (each.get("namespace"), each["name"]) == (namespace, "operator-tests") for each in one.get("subjects") or ()
        )
    )
    accounts = (fleet.service_account_kubeconfig(namespace, f"operator-tests{part}") for part in ("", "-router"))
    yield Released(namespace, *accounts, role)
    helm("uninstall", "tests", "--no-hooks")


SCALE = 20
"""How fast the clock of operators in processes of their own runs."""


@pytest.fixture
def real_operator(
    place: Place, settings: dict[str, Any], released: Released, tmp_path: Path
) -> Iterator[Callable[..., RealOperator]]:
    """Starts operator processes with the chart's account, on a clock twenty times as fast as the real one.

    Keyword arguments in camelCase change the settings; ``simulated`` is what the clock showed when the test began.
    """
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{released.namespace}/leases/tidefleet"
    if place.api.exists(lease):  # of a process that was killed
        place.api.delete(lease)
    now = time.time()
    chosen = {
        "periodSeconds": 30,
        "scaleDownWindowSeconds": 100,
        "dwellSeconds": 100,
        "leaderElection": {"namespace": released.namespace, "leaseSeconds": 5},
    }
    started: list[RealOperator] = []

    def start(*arguments: str, simulated: float = now, **changes: Any) -> RealOperator:
        clock = f"scale={SCALE},real={now},simulated={simulated}"
        name = f"operator-{len(started)}"
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump({**settings, **chosen, **changes}))
        one = RealOperator(place, released.kubeconfig, config, name, "--clock", clock, *arguments)
        started.append(one)
        return one

    yield start
    for one in started:
        if one.exit_code is None:
            one.send(signal.SIGCONT)
            one.end()


@pytest.fixture
def flip_ground(
    place: Place, clock: HandClock, operator_in_process: Callable[..., InProcess], engines: Engines
) -> Iterator[Callable[..., Ground]]:
    """Makes a few nodes of a test's own, whose invariants are watched at every write of the operator."""
    made: list[Ground] = []

    def make(*, nodes: int = 3, chips: int = 1) -> Ground:
        made.append(Ground(place, clock, operator_in_process, nodes=nodes, chips=chips))
        return made[-1]

    yield make
    for one in made:
        one.op.stop()
        one.clean()


@pytest.fixture
def upstream(place: Place) -> Iterator[None]:
    """InferencePools of the Gateway API Inference Extension are served; those of the test are gone after it."""
    try:
        files = crd_files("gateway-api-inference-extension")
    except LocalClusterError as reason:
        pytest.skip(f"no Gateway API Inference Extension here: {reason}")
    for file in files:
        command = ["kubectl", "--kubeconfig", place.cluster.kubeconfig, "apply", "--server-side", "-f", str(file)]
        subprocess.run(command, check=True, capture_output=True)

    def is_served() -> bool:
        try:
            return place.list(UPSTREAM_POOL) == []
        except ApiError:
            return False

    eventually(is_served)
    yield
    for one in place.list(UPSTREAM_POOL):
        place.api.delete(place.path(UPSTREAM_POOL, one["metadata"]["name"]))
