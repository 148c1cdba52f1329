"""The emulator as a process against a real API server: pods of a Deployment answer on their own addresses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from localcluster.cluster import Cluster
from localcluster.nodes import NodeKind, apply_nodes, nodes_for

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

COMMAND = [sys.executable, "-m", "tidefleet.cli.emulator", "run", "--exit-with-parent"]
ENGINE = {"model": "llama-3.1-8b", "accelerator": "h100-sxm", "tensorParallel": 1, "weights": "Bf16", "kv": "Bf16"}


def eventually(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def selector(cluster: Cluster) -> Iterator[dict[str, str]]:
    """A node of this module's own; yields the labels that select it."""
    name = f"emu-{uuid.uuid4().hex[:6]}"
    labels = {"test.tidefleet.io/nodes": name}
    kind = NodeKind(accelerator=name, vendor="None", resource_name="example.com/chip", chips_per_node=8, labels=labels)
    nodes = nodes_for({name: 1}, kinds={name: kind})
    apply_nodes(cluster.kubeconfig, nodes)
    yield labels
    for node in nodes:
        cluster.api().delete(f"/api/v1/nodes/{node['metadata']['name']}")


@pytest.fixture
def admin(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of the admin server of an emulator that looks at the test's namespace."""
    log = tmp_path / "emulator.log"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    arguments = ["--kubeconfig", str(cluster.kubeconfig), "--namespaces", namespace]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert match, line + log.read_text()
        with httpx.Client(base_url=match.group(), trust_env=False) as client:
            yield client
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def a_deployment(namespace: str, selector: dict[str, str], *, replicas: int) -> dict[str, Any]:
    labels = {"tidefleet.io/pool": "chat"}
    container = {
        "name": "engine",
        "image": "engine",
        "ports": [{"containerPort": 8000}],
        "resources": {"limits": {"example.com/chip": "1"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "chat", "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {
                    "labels": {**labels, "tidefleet.io/routable": "true"},
                    "annotations": {"tidefleet.io/engine": json.dumps({**ENGINE, "port": 8000})},
                },
                "spec": {"nodeSelector": selector, "containers": [container]},
            },
        },
    }


def test_pods_of_a_deployment_answer_and_go(
    cluster: Cluster, namespace: str, selector: dict[str, str], admin: httpx.Client
) -> None:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    load = {"requestsPerSecond": 6, "inputTokens": 800, "outputTokens": 60, "cachedShare": 0.25}
    assert admin.put(f"/load/{namespace}/chat", json=load).status_code == 200
    cluster.api().create(path, a_deployment(namespace, selector, replicas=3))
    eventually(lambda: admin.get("/healthz").json()["listening"] == 3)
    assert admin.get("/healthz").json()["problems"] == []

    engines = admin.get("/engines").json()["engines"]
    addresses = [engine["address"] for engine in engines]
    pods = cluster.api().get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    assert sorted(addresses) == sorted(f"{pod['status']['podIP']}:8000" for pod in pods)

    def served(address: str) -> float:
        page = httpx.get(f"http://{address}/metrics", trust_env=False).text
        (found,) = re.findall(r"^vllm:prompt_tokens_total\{.*\} (\S+)$", page, re.MULTILINE)
        return float(found)

    eventually(lambda: all(served(address) > 0 for address in addresses))
    pool = admin.get("/load").json()["pools"][0]
    assert (pool["ready_pods"], pool["lost_requests"]) == (3, 0.0)

    victim = engines[0]["pod"]
    cluster.api().merge(
        f"/api/v1/namespaces/{namespace}/pods/{victim}", {"metadata": {"labels": {"tidefleet.io/routable": "false"}}}
    )
    eventually(lambda: admin.get("/load").json()["pools"][0]["ready_pods"] == 2)

    cluster.api().merge(f"{path}/chat", {"spec": {"replicas": 1}})
    eventually(lambda: admin.get("/healthz").json()["listening"] == 1)
    cluster.api().merge(f"{path}/chat", {"spec": {"replicas": 0}})
    eventually(lambda: admin.get("/healthz").json()["listening"] == 0)
    for address in addresses:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{address}/health", trust_env=False)


def test_an_unreadable_annotation_is_named_on_the_admin_server(
    cluster: Cluster, namespace: str, selector: dict[str, str], admin: httpx.Client
) -> None:
    deployment = a_deployment(namespace, selector, replicas=1)
    annotation = json.dumps({**ENGINE, "accelerator": "abacus"})
    deployment["spec"]["template"]["metadata"]["annotations"]["tidefleet.io/engine"] = annotation
    cluster.api().create(f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment)
    eventually(lambda: bool(admin.get("/healthz").json()["problems"]))
    (problem,) = admin.get("/healthz").json()["problems"]
    assert "accelerator is 'abacus'" in problem


def test_the_emulator_ends_with_its_parent(cluster: Cluster, namespace: str) -> None:
    command = [*COMMAND, "--kubeconfig", str(cluster.kubeconfig), "--namespaces", namespace]
    starter = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", starter, *command], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    address = parent.stdout.readline().split()[-1]
    assert httpx.get(f"{address}/healthz", trust_env=False).status_code == 200
    parent.kill()
    parent.wait()

    def is_gone() -> bool:
        try:
            httpx.get(f"{address}/healthz", trust_env=False)
        except httpx.TransportError:
            return True
        return False

    eventually(is_gone, seconds=20)
