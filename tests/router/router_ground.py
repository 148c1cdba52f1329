"""A pool of emulated engines behind the router and a real Envoy, for tests of the whole way of a request."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from localcluster import envoy
from localcluster.ports import free_ports
from localcluster.processes import Processes
from tidefleet.api import AcceleratorType, InferencePool, WorkloadClass
from tidefleet.api.validation import parse
from tidefleet.catalogue import accelerator_types
from tidefleet.cluster.labels import POOL_LABEL
from tidefleet.router.discovery import Fleet, ServedPool
from tidefleet.router.process import RouterProcess, Settings
from tidefleet.router.serving_pods import ranks_of, slim

MODEL = "llama-3.1-8b"
ENGINE = {"model": MODEL, "accelerator": "h100-sxm", "tensorParallel": 1, "weights": "Bf16", "kv": "Bf16"}


def a_served_pod(address: tuple[str, int], name: str, **labels: str) -> dict[str, Any]:
    """The JSON of a ready pod of pool prod/chat at an address."""
    return {
        "metadata": {
            "namespace": "prod",
            "name": name,
            "uid": f"uid-{name}",
            "labels": {POOL_LABEL: "chat", "tidefleet.io/option": "x", "tidefleet.io/routable": "true", **labels},
            "annotations": {"tidefleet.io/engine": json.dumps({**ENGINE, "port": address[1]})},
        },
        "spec": {"containers": [{"name": "engine", "image": "e", "args": ["--model", MODEL]}]},
        "status": {
            "phase": "Running",
            "podIP": address[0],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def a_pool_object(**spec: Any) -> InferencePool:
    """InferencePool prod/chat."""
    raw = {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"namespace": "prod", "name": "chat", "uid": "u"},
        "spec": {
            "model": {"name": MODEL},
            "serving": {"template": {"spec": {"containers": [{"name": "engine", "image": "e"}]}}},
            **spec,
        },
    }
    found = parse(raw)
    assert isinstance(found, InferencePool), found
    return found


def a_class_object(name: str = "chat", **spec: Any) -> WorkloadClass:
    """WorkloadClass prod/NAME of pool chat."""
    raw = {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": "WorkloadClass",
        "metadata": {"namespace": "prod", "name": name, "uid": f"u-{name}"},
        "spec": {"poolRef": {"name": "chat"}, "demand": {"source": "Metrics"}, **spec},
    }
    found = parse(raw)
    assert isinstance(found, WorkloadClass), found
    return found


def accelerators() -> dict[str, AcceleratorType]:
    """The shipped catalogue."""
    return dict(accelerator_types())


def a_fleet(
    pods: Sequence[dict[str, Any]], *, pool: InferencePool | None = None, classes: Sequence[WorkloadClass] = ()
) -> Fleet:
    """What discovery would find of these pods."""
    spec = pool or a_pool_object()
    ranks = [rank for raw in pods if (pod := slim(raw)) for rank in ranks_of(pod, "chat", (8000,))]
    served = ServedPool("prod", "chat", spec, (), tuple(classes), tuple(sorted(ranks, key=lambda one: one.address)))
    return Fleet((served,), accelerators())


@dataclass
class Way:
    """Envoy, router and whoever is behind them.

    Attributes:
        client: of the gateway; http: of the router's own HTTP.
    """

    client: httpx.Client
    http: httpx.Client
    router: RouterProcess
    took: list[float] = field(default_factory=list)

    def update(self, fleet: Fleet) -> None:
        """Have the router see another fleet."""
        done = threading.Event()

        def take() -> None:
            assert self.router.picker is not None
            self.router.picker.update(fleet)
            done.set()

        assert self.router._loop is not None
        self.router._loop.call_soon_threadsafe(take)
        assert done.wait(10)

    def pool(self) -> dict[str, Any]:
        """The router's view of its first pool."""
        found: list[dict[str, Any]] = self.http.get("/debug/pools").json()
        return found[0]

    def picks(self) -> list[dict[str, Any]]:
        """Its decisions, the last first."""
        found: list[dict[str, Any]] = self.http.get("/debug/picks?limit=256").json()
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        total = 0.0
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(name) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total


@contextlib.contextmanager
def a_way(
    fleet: Fleet, addresses: Sequence[tuple[str, int]], *, configuration: str = "full-duplex", **settings: Any
) -> Iterator[Way]:
    """Start router and Envoy, with one of the shipped configurations, for a fleet; both end with the block."""
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="tidefleet-way-"))
        processes = Processes(directory)
        stack.callback(processes.close)
        (port,) = free_ports(1)
        opened: list[int] = []
        ready = threading.Event()

        def started(_: int, http: int) -> None:
            opened.append(http)
            ready.set()

        options = {"port": port, "http_port": 0, "secret": b"s" * 16, "observe_seconds": 0.1, **settings}
        router = RouterProcess(Settings(**options), fleet=fleet, started=started)
        thread = threading.Thread(target=router.run, daemon=True)
        thread.start()
        stack.callback(lambda: (router.end(), thread.join(20)))
        assert ready.wait(20)
        gateway = envoy.start(processes, configuration, picker=("127.0.0.1", port), endpoints=addresses)
        http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{opened[0]}", timeout=30))
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", timeout=60))
        way = Way(client, http, router)
        eventually(lambda: client.get("/v1/models").status_code == 200 and way.metric("tidefleet_router_decisions") > 0)
        yield way


def eventually(check: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until a check is true."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)
