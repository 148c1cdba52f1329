"""The router as a process beside an operator: it finds pools and pods on the API server and follows what happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from operator_builders import INFERENCE_POOL, POD, a_class, a_pool, eventually

from localcluster.api import ApiClient
from tidefleet.cluster.kinds import UPSTREAM_POOL

pytestmark = [pytest.mark.cluster, pytest.mark.chart, pytest.mark.needs_local_pods]


@pytest.fixture
def router(place, released, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of the HTTP of a router that serves the test's namespace, with the account that the chart gives it."""
    ports, log = tmp_path / "ports.json", tmp_path / "router.log"
    command = [
        *(sys.executable, "-m", "tidefleet", "router", "run", "--kubeconfig", str(released.router_kubeconfig)),
        *("--namespaces", place.namespace, "--port", "0", "--http-port", "0", "--ports-file", str(ports)),
    ]
    path = os.pathsep.join(one for one in sys.path if one)
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, "PYTHONPATH": path})
    try:
        eventually(lambda: ports.exists() or process.poll() is not None, "its ports")
        assert process.poll() is None, log.read_text()
        with httpx.Client(base_url=f"http://127.0.0.1:{json.loads(ports.read_text())['http']}", timeout=10) as client:
            yield client
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def endpoints(router: httpx.Client) -> dict[str, str]:
    """Pods of the router's pool and their states."""
    pools: list[dict[str, Any]] = router.get("/debug/pools").json()
    return {one["pod"]: one["state"] for pool in pools for one in pool["endpoints"]}


BODY = {"model": "llama-3.1-8b", "messages": [{"role": "user", "content": "hello " * 200}]}


def test_the_charts_account_reads_and_writes_nothing(released):
    with ApiClient.from_kubeconfig(released.router_kubeconfig) as api:
        for group, resource, verb in (
            ("", "pods", "list"),
            ("", "pods", "delete"),
            ("", "secrets", "get"),
            ("", "nodes", "patch"),
            ("tidefleet.io", "inferencepools", "watch"),
            ("tidefleet.io", "inferencepools/status", "patch"),
            ("apps", "deployments", "patch"),
        ):
            wanted = {"namespace": "default", "group": group, "resource": resource.split("/")[0], "verb": verb}
            if "/" in resource:
                wanted["subresource"] = resource.split("/")[1]
            review = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": wanted},
            }
            answer = api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
            reads = verb in ("list", "watch") and resource != "secrets"
            assert answer["status"].get("allowed", False) is reads, (resource, verb)


def test_a_pool_of_the_gateway_is_served_without_an_operator_and_while_the_api_server_is_away(place, upstream, router):
    spec = {
        "selector": {"matchLabels": {"app": "mine"}},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "tidefleet-router", "port": {"number": 9002}},
    }
    pool = {"apiVersion": UPSTREAM_POOL.group_version, "kind": "InferencePool", "metadata": {"name": "mine"}}
    place.api.create(place.path(UPSTREAM_POOL), {**pool, "spec": spec})

    def a_pod(name: str) -> None:
        arguments = ["serve", "--model", "org/mine", "--served-model-name", "mine"]
        meta = {"name": name, "labels": {"app": "mine"}}
        containers = [{"name": "vllm", "image": "vllm", "args": arguments}]
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": containers}}
        place.api.create(place.path(POD), body)

    for name in ("one", "two"):
        a_pod(name)
    eventually(lambda: endpoints(router) == {"one": "healthy", "two": "healthy"}, "both are found")
    found = router.post("/explain", json={**BODY, "model": "mine"}).json()
    assert found["pool"] == f"{place.namespace}/mine"
    assert router.post("/explain", json={**BODY, "model": "another"}).json()["status"] == 404

    place.cluster.pause("kube-apiserver")
    try:
        for _ in range(5):
            assert "address" in router.post("/explain", json={**BODY, "model": "mine"}).json()
            assert router.get("/readyz").status_code == 200
    finally:
        place.cluster.resume("kube-apiserver")
    a_pod("three")
    eventually(lambda: endpoints(router).get("three") == "healthy", "it has caught up")


def test_the_router_follows_pools_and_pods(place, operator_in_process, router):
    place.create(a_pool(replicas={"min": 3, "max": 3}), a_class(rate=1))
    op = operator_in_process()
    op.until(lambda: sum(place.replicas().values()) == 3)
    eventually(lambda: list(endpoints(router).values()) == ["healthy"] * 3, "three endpoints")
    assert router.get("/readyz").status_code == 200
    found = router.post("/explain", json=BODY).json()
    assert found["pool"] == f"{place.namespace}/chat"
    assert found["workloadClass"] == "chat"
    assert found["chosen"]["usd"] > 0, "its accelerator's price is known"
    assert len(found["others"]) == 2

    pod = next(iter(endpoints(router)))
    place.api.merge(place.path(POD, pod), {"metadata": {"labels": {"tidefleet.io/routable": None}}})
    eventually(lambda: endpoints(router).get(pod) == "draining", "one is drained")
    place.api.delete(place.path(POD, pod))
    eventually(lambda: pod not in endpoints(router) and len(endpoints(router)) == 3, "another one takes its place")

    place.set_spec(INFERENCE_POOL, "chat", model={"name": "llama-3.1-8b", "adapters": [{"name": "legal"}]})
    eventually(lambda: "address" in router.post("/explain", json={**BODY, "model": "legal"}).json(), "an adapter")
    place.api.delete(place.path(INFERENCE_POOL, "chat"))
    eventually(lambda: router.get("/debug/pools").json() == [], "the pool is gone")
    assert router.post("/explain", json=BODY).json()["status"] == 404
