"""The cluster with the chart's admission policies, and people on it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from admission_people import DEFINITIONS, OPERATOR, ROOT, TYPES, Person, eventually, wait_until_in_force

from localcluster import binaries
from localcluster.cluster import Cluster
from localcluster.loader import LOADER


@pytest.fixture(scope="module")
def guarded(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster with our definitions and the chart with its policies; they are gone afterwards."""
    api = cluster.api()
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        definition = yaml.load(file.read_text(), LOADER)  # noqa: S506 - a safe loader
        api.apply(f"{DEFINITIONS}/{definition['metadata']['name']}", definition)
    eventually(lambda: api.is_ok(TYPES))
    home = tmp_path_factory.mktemp("helm")
    surroundings = {**os.environ, **{f"HELM_{name}_HOME": str(home / name) for name in ("CACHE", "CONFIG", "DATA")}}

    def helm(*arguments: str) -> None:
        command = [binaries.find("helm"), *arguments, "-n", OPERATOR, "--kubeconfig", cluster.kubeconfig]
        done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    helm(
        "install", "tests", str(ROOT / "charts" / "tidefleet"), "--create-namespace",
        *("--set", f"replicas=0,crds.enabled=false,admission.enabled=true,fullnameOverride={OPERATOR}"),
    )  # fmt: skip
    only = {"metadata": {"labels": {"tidefleet.io/recommend-only": "true"}}}
    api.merge(f"/api/v1/namespaces/{OPERATOR}", only)
    wait_until_in_force(cluster)
    yield cluster
    helm("uninstall", "tests", "--no-hooks")


@pytest.fixture
def person(guarded: Cluster, namespace: str) -> Iterator[Callable[..., Person]]:
    """Makes people."""
    eventually(lambda: guarded.api().exists(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"))
    made: list[Person] = []

    def make(name: str, *rules: dict[str, Any], role: str = "") -> Person:
        made.append(Person(guarded, namespace, name, *rules, role=role))
        return made[-1]

    yield make
    for one in made:
        one.end()
