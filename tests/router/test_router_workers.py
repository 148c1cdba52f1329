"""A router of several worker processes behind a real Envoy: one of them may die at any time."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from emulated_ground import Emulated, emulated, free_port
from router_ground import MODEL, a_class_object, a_fleet, eventually
from typer.testing import CliRunner

from localcluster import envoy
from localcluster.processes import Processes
from tidefleet.cli.main import app
from tidefleet.router.process import Settings
from tidefleet.router.recording import RecordSettings
from tidefleet.router.records import FileSettings

pytestmark = [pytest.mark.envoy, pytest.mark.needs_local_pods]
HERE = Path(__file__).parent
WORKERS = 3
CAPPED = a_class_object(
    "capped",
    match={"headers": [{"name": "x-class", "value": "capped"}]},
    tenantKey={"header": "x-tenant"},
    limits={"tokensPerMinutePerTenant": 6000},
    tokens={"input": {"mean": 100}, "output": {"mean": 8}},
)


@dataclass
class Router:
    """A supervisor's process."""

    process: subprocess.Popen[bytes]
    http: httpx.Client
    port: int
    log: Path

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(one) for one in children.split()]

    def metric(self, name: str, **labels: str) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        chosen = [one for one in lines if one.startswith(name) and all(f'{k}="{v}"' in one for k, v in labels.items())]
        return sum(float(one.rpartition(" ")[2]) for one in chosen)

    def wait_ready(self, workers: int = WORKERS) -> None:
        eventually(lambda: self.metric("tidefleet_router_workers") == workers, 60)


@contextlib.contextmanager
def a_router(directory: Path, *, fleet: Any, workers: int = WORKERS, **settings: Any) -> Iterator[Router]:
    told, orders, log = directory / "told.json", directory / "orders", directory / "log"
    told.unlink(missing_ok=True)
    options = {"port": 0, "http_port": 0, "observe_seconds": 0.2, **settings}
    orders.write_bytes(pickle.dumps((Settings(**options), workers, fleet, told)))
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "workers_process.py"), str(orders)],
            stdout=said,
            stderr=said,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)},
        )
    try:
        eventually(lambda: told.exists() or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        ports = json.loads(told.read_text())
        with httpx.Client(base_url=f"http://127.0.0.1:{ports['http']}", timeout=30) as http:
            yield Router(process, http, ports["extProc"], log)
    finally:
        process.kill()
        process.wait()


@dataclass
class Ground:
    """Engines, a router of several workers, and a gateway with as many threads."""

    router: Router
    engines: Emulated
    gateway: str
    records: Path


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    directory = tmp_path_factory.mktemp("workers")
    with emulated(3) as engines, contextlib.ExitStack() as stack:
        records = directory / "usage"
        fleet = a_fleet(engines.pods, classes=[CAPPED])
        settings = RecordSettings(file=FileSettings(records))
        router = stack.enter_context(a_router(directory, fleet=fleet, records=settings))
        processes = Processes(tmp_path_factory.mktemp("gateway"))
        stack.callback(processes.close)
        router.wait_ready()
        picker = ("127.0.0.1", router.port)
        found = envoy.start(processes, "full-duplex", picker=picker, endpoints=engines.places, threads=4)
        yield Ground(router, engines, f"http://127.0.0.1:{found.port}", records)


class Load:
    """Requests from several clients, at most 20 a second each, until it is left.

    What became of them is counted by status, or by the kind of failure.
    """

    def __init__(self, gateway: str, clients: int = 8) -> None:
        self._gateway, self._ended = gateway, threading.Event()
        self.found: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for one in self._threads:
            one.join(60)

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self._gateway, timeout=60) as client:
            turn = 0
            while not self._ended.wait(0.05):
                turn += 1
                body = {"model": MODEL, "max_tokens": 8, "stream": turn % 2 == 0}
                body["messages"] = [{"role": "user", "content": f"{number} {turn // 20} " + "a few words " * 40}]
                try:
                    answer = client.post("/v1/chat/completions", json=body, headers={"x-session-id": f"s-{number}"})
                    self.found[str(answer.status_code)] += 1
                    if answer.status_code >= 500:
                        self.found[answer.text[:200]] += 1
                except httpx.HTTPError as error:
                    self.found[type(error).__name__] += 1


def test_a_worker_that_is_killed_costs_no_request_and_no_count_and_another_takes_its_place(ground: Ground) -> None:
    router, counts = ground.router, []

    def count() -> float:
        counts.append(router.metric("tidefleet_router_decisions_total", outcome="picked"))
        return counts[-1]

    restarts = router.metric("tidefleet_router_worker_restarts_total")
    with Load(ground.gateway) as load:
        eventually(lambda: count() > 50)
        for victim in router.workers():
            before = count()
            os.kill(victim, signal.SIGKILL)
            eventually(lambda: count() > before + 20)
            router.wait_ready()
    statuses = {name: number for name, number in load.found.items() if name != "200"}
    assert not any(name.isdecimal() for name in statuses), load.found
    assert load.found["200"] > 100
    assert sum(statuses.values()) <= 8 * WORKERS, "an answer that passed through a worker that is killed may be cut"
    eventually(lambda: count() >= 100)
    assert counts == sorted(counts), "a counter never falls"
    assert router.metric("tidefleet_router_worker_restarts_total") >= restarts + WORKERS
    assert "it is started again" in router.log.read_text()
    assert router.process.poll() is None


def test_what_workers_know_is_shown_as_one(ground: Ground) -> None:
    router = ground.router
    router.wait_ready()
    before = router.http.get("/debug/pools").json()[0]["totals"]["requests"]
    with Load(ground.gateway):
        eventually(lambda: router.http.get("/debug/pools").json()[0]["totals"]["requests"] >= before + 40)
    (pool,) = router.http.get("/debug/pools").json()
    assert {one["address"] for one in pool["endpoints"]} == set(ground.engines.addresses)
    picks = router.http.get("/debug/picks?limit=30").json()
    assert len(picks) == 30
    assert [one["at"] for one in picks] == sorted((one["at"] for one in picks), reverse=True)
    assert router.http.get("/readyz").status_code == router.http.get("/healthz").status_code == 200
    labels = {"state": "healthy"}
    assert router.metric("tidefleet_router_endpoints", **labels) == 3


def tidefleet(router: Router, *arguments: str) -> tuple[int, str]:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "--router", str(router.http.base_url)])
    return done.exit_code, done.output


def test_the_commands_work_with_several_workers(ground: Ground, tmp_path: Path) -> None:
    prompt = "several workers " * 200
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 2}
    httpx.post(f"{ground.gateway}/v1/chat/completions", json=body, timeout=60).raise_for_status()
    (tmp_path / "body.json").write_text(json.dumps(body))
    status, said = tidefleet(ground.router, "route", "explain", str(tmp_path / "body.json"), "-o", "json")
    assert status == 0, said
    found = json.loads(said)
    known = max(one["hitTokens"]["device"] for one in (found["chosen"], *found["others"]))
    assert known > 300, "the worker that placed the prompt answers, whichever it was"
    status, said = tidefleet(ground.router, "route", "explain", "--limit", "2")
    assert (status, "first token in" in said) == (0, True), said
    status, said = tidefleet(ground.router, "top", "--once")
    assert (status, "max/mean load" in said) == (0, True), said


def test_workers_count_a_tenant_together_and_each_writes_a_file_of_its_own(ground: Ground) -> None:
    ground.router.wait_ready()

    def post(number: int) -> int:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"{number} " + "word " * 400}],
            "max_tokens": 8,
        }
        headers = {"x-class": "capped", "x-tenant": "acme"}
        with httpx.Client(
            base_url=ground.gateway, timeout=60
        ) as client:  # a connection, and perhaps a worker, of its own
            return client.post("/v1/chat/completions", json=body, headers=headers).status_code

    with ThreadPoolExecutor(4) as threads:
        found = Counter(threads.map(post, range(60)))

    def records() -> list[dict[str, Any]]:
        whole = [one.read_text().rpartition("\n")[0].splitlines() for one in ground.records.glob("*.jsonl")]
        return [one for one in map(json.loads, itertools.chain(*whole)) if one.get("workload_class") == "capped"]

    assert set(found) == {200, 429}
    eventually(lambda: len(records()) == 60)
    assert len(list(ground.records.glob("*-[0-2].jsonl"))) == WORKERS
    assert Counter(one["result"] for one in records()) == {"ok": found[200], "refused": found[429]}
    spent = sum(one["input_tokens"] + one["cached_tokens"] + one["output_tokens"] for one in records())
    assert 3000 < spent < 6000 * 1.5, "one limit, not one for each worker"


def test_a_worker_that_hangs_is_killed_and_replaced(ground: Ground) -> None:
    ground.router.wait_ready()
    victim = ground.router.workers()[0]
    os.kill(victim, signal.SIGSTOP)
    eventually(lambda: victim not in ground.router.workers(), 90)
    ground.router.wait_ready()
    assert "does not answer; it is killed" in ground.router.log.read_text()


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{one}/cmdline").exists() and Path(f"/proc/{one}/cmdline").read_bytes() for one in pids)


def test_workers_end_with_their_supervisor_and_it_with_them_when_asked(ground: Ground, tmp_path: Path) -> None:
    fleet = a_fleet(ground.engines.pods)
    with a_router(tmp_path, fleet=fleet, workers=2) as router:
        router.wait_ready(2)
        pids = router.workers()
        assert len(pids) == 2
        router.process.terminate()
        assert router.process.wait(60) == 0, router.log.read_text()
        assert gone(pids)
    with a_router(tmp_path, fleet=fleet, workers=2) as router:
        router.wait_ready(2)
        pids = router.workers()
        router.process.kill()
        eventually(lambda: gone(pids))


def test_what_makes_every_worker_fail_is_told_by_the_exit_status(tmp_path: Path) -> None:
    options = {"certificate": tmp_path / "none.crt", "key": tmp_path / "none.key"}
    with a_router(tmp_path, fleet=a_fleet([]), workers=2, **options) as router:
        assert router.process.wait(60) == 1, router.log.read_text()
        assert "before any was ready" in router.log.read_text()


def test_a_port_that_is_taken_is_told_at_once(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "tidefleet", "router", "run", "--workers", "2", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)},
        )
    assert done.returncode == 1
    assert "ddress already in use" in done.stderr
