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

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


@pytest.fixture
def router(place, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of the HTTP of a router that serves the test's namespace."""
    ports, log = tmp_path / "ports.json", tmp_path / "router.log"
    command = [
        *(sys.executable, "-m", "tidefleet", "router", "run", "--kubeconfig", str(place.cluster.kubeconfig)),
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


def test_the_router_follows_pools_and_pods(place, operator_in_process, router):
    place.create(a_pool(replicas={"min": 3, "max": 3}), a_class(rate=1))
    op = operator_in_process()
    op.until(lambda: sum(place.replicas().values()) == 3)
    eventually(lambda: list(endpoints(router).values()) == ["healthy"] * 3, "three endpoints")
    assert router.get("/readyz").status_code == 200
    body = {"model": "llama-3.1-8b", "messages": [{"role": "user", "content": "hello " * 200}]}
    found = router.post("/explain", json=body).json()
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
    eventually(lambda: "address" in router.post("/explain", json={**body, "model": "legal"}).json(), "an adapter")
    place.api.delete(place.path(INFERENCE_POOL, "chat"))
    eventually(lambda: router.get("/debug/pools").json() == [], "the pool is gone")
    assert router.post("/explain", json=body).json()["status"] == 404
