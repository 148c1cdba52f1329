"""The hands that a test has on a namespace, an operator and its engines; objects are in `operator_objects`."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
from operator_engines import Engines, accelerators
from operator_objects import (
    DEADLINE,
    DEFINITIONS,
    FLEET,
    MODEL,
    NODES,
    ROOT,
    STEP,
    a_class,
    a_pool,
    a_template,
    a_workload,
    adopting,
    an_accelerator,
    eventually,
    prepare,
)
from typer.testing import CliRunner

from localcluster import binaries
from localcluster.api import ApiError
from localcluster.cluster import Cluster
from tidefleet.cli.main import app
from tidefleet.cluster.clock import Clock
from tidefleet.cluster.kinds import (
    ACCELERATOR_TYPE,
    DEPLOYMENT,
    EVENT,
    INFERENCE_POOL,
    LEADER_WORKER_SET,
    POD,
    SITE,
    STATEFUL_SET,
    WORKLOAD_CLASS,
    Kind,
    path,
)
from tidefleet.cluster.writes import Outcome, Write
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.process import OperatorProcess

T = TypeVar("T")
REST_SECONDS = 0.1
"""How long to wait at most for news of an operator before it is looked at again."""

__all__ = [
    "DEADLINE",
    "DEFINITIONS",
    "FLEET",
    "MODEL",
    "NODES",
    "ROOT",
    "STEP",
    "Engines",
    "a_class",
    "a_pool",
    "a_template",
    "a_workload",
    "accelerators",
    "adopting",
    "an_accelerator",
    "eventually",
    "prepare",
]

_KINDS = {
    one.kind: one
    for one in (
        INFERENCE_POOL,
        WORKLOAD_CLASS,
        ACCELERATOR_TYPE,
        SITE,
        DEPLOYMENT,
        STATEFUL_SET,
        LEADER_WORKER_SET,
        POD,
        EVENT,
    )
}


class Place:
    """One namespace of the cluster, by hand."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.api = cluster.api()
        self.made: list[Mapping[str, Any]] = []
        """Objects of this test outside the namespace: AcceleratorTypes, for the emulator, and Sites."""

    def clean(self, *, accelerators: bool = True) -> None:
        """Delete what would take chips from the next test or is not in the namespace."""
        for pool in self.list(INFERENCE_POOL):
            if pool["metadata"].get("finalizers"):
                self.merge(INFERENCE_POOL, pool["metadata"]["name"], {"metadata": {"finalizers": None}})
        for kind in (INFERENCE_POOL, DEPLOYMENT, STATEFUL_SET):
            self.api.delete(self.path(kind))
        for one in self.made if accelerators else ():
            with contextlib.suppress(ApiError):
                self.delete(_KINDS[one["kind"]], one["metadata"]["name"])

    def unique(self, name: str) -> str:
        """A name for something that is not in the namespace."""
        return f"{name}-{self.namespace[-6:]}"

    def path(self, kind: Kind, name: str | None = None, subresource: str = "") -> str:
        """Where the API server keeps a kind, or an object, of this namespace."""
        return path(kind, self.namespace if kind.namespaced else None, name, subresource)

    def create(self, *manifests: Mapping[str, Any]) -> None:
        """Create objects."""
        for one in manifests:
            kind = _KINDS[one["kind"]]
            if not kind.namespaced:
                self.made.append(one)
            self.api.create(self.path(kind), {"apiVersion": kind.group_version, **one})

    def get(self, kind: Kind, name: str) -> dict[str, Any] | None:
        """An object, or None."""
        try:
            found: dict[str, Any] = self.api.get(self.path(kind, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    def list(self, kind: Kind) -> list[dict[str, Any]]:
        """All objects of a kind here."""
        found: list[dict[str, Any]] = self.api.get(self.path(kind))["items"]
        return found

    def merge(self, kind: Kind, name: str, body: Mapping[str, Any]) -> None:
        """Merge-patch an object."""
        self.api.merge(self.path(kind, name), body)

    def set_spec(self, kind: Kind, name: str, **spec: Any) -> None:
        """Replace fields of an object's spec."""
        self.merge(kind, name, {"spec": spec})

    def delete(self, kind: Kind, name: str) -> None:
        """Delete an object."""
        self.api.delete(self.path(kind, name))

    def pool(self, name: str = "chat") -> dict[str, Any]:
        """A pool that exists."""
        found = self.get(INFERENCE_POOL, name)
        assert found is not None, f"InferencePool {name} is gone"
        return found

    def status(self, pool: str = "chat") -> dict[str, Any]:
        """A pool's status."""
        found: dict[str, Any] = self.pool(pool).get("status") or {}
        return found

    def condition(self, kind: str, pool: str = "chat") -> tuple[str, str, str]:
        """Status, reason and message of a condition of a pool; empty texts when it has none."""
        for one in self.status(pool).get("conditions", ()):
            if one["type"] == kind:
                return one["status"], one["reason"], one["message"]
        return "", "", ""

    def has(self, kind: str, status: str, reason: str, pool: str = "chat") -> bool:
        """Whether a condition of a pool has this status and reason."""
        return self.condition(kind, pool)[:2] == (status, reason)

    def deployments(self, pool: str = "chat") -> dict[str, dict[str, Any]]:
        """The Deployments that the operator made for a pool, by accelerator; two of one accelerator by name too."""
        found: dict[str, dict[str, Any]] = {}
        for one in self.list(DEPLOYMENT):
            if one["metadata"].get("labels", {}).get("tidefleet.io/pool") == pool:
                accelerator = one["spec"]["template"]["metadata"]["annotations"]["tidefleet.io/engine"]
                key = accelerator.split('"accelerator":"')[1].split('"')[0]
                found[f"{key}/{one['metadata']['name']}" if key in found else key] = one
        return found

    def replicas(self, pool: str = "chat") -> dict[str, int]:
        """Replicas asked for by accelerator."""
        return {name: one["spec"]["replicas"] for name, one in self.deployments(pool).items()}

    def ready_replicas(self, pool: str = "chat") -> dict[str, int]:
        """Replicas that serve by accelerator."""
        return {name: one.get("status", {}).get("readyReplicas", 0) for name, one in self.deployments(pool).items()}

    def settled(self, pool: str = "chat") -> bool:
        """Whether a pool is Ready at its newest generation and nothing moves."""
        generation = self.pool(pool)["metadata"]["generation"]
        return (
            self.status(pool).get("observedGeneration") == generation
            and self.condition("Ready", pool)[0] == "True"
            and self.condition("Reconciling", pool)[0] == "False"
        )

    def events(self, reason: str = "", *, about: str = "chat") -> list[dict[str, Any]]:
        """Events about an object of this name, in this namespace or (cluster-scoped kinds) in `default`."""
        found = self.list(EVENT) + self.api.get(path(EVENT, "default"))["items"]
        return [
            one
            for one in found
            if one.get("regarding", {}).get("name") == about and one.get("reason") in (reason or one.get("reason"),)
        ]


# --- the operator --------------------------------------------------------------------------------------------------


class HandClock:
    """A clock on which time and passes are moved apart: the loop wakes at each `tick`, however little time has passed.

    So pods start and watches deliver while time stands still, and time passes only where a test says so.
    """

    scale = 1.0

    def __init__(self) -> None:
        self._now = self._begun = time.time()
        self._ticks = self._taken = 0
        self._waits = self._waits_known = 0
        self._moved = threading.Condition()

    def now(self) -> float:
        """Unix seconds; the real ones at first."""
        return self._now

    def monotonic(self) -> float:
        """Seconds passed."""
        return self._now - self._begun

    def sleep(self, seconds: float, wake: threading.Event | None = None) -> bool:
        """Wait for a tick that no sleep has taken yet."""
        with self._moved:
            self._waits += 1
            self._moved.notify_all()
            while self._ticks == self._taken:
                self._moved.wait()
            self._taken = self._ticks
        return wake is not None and wake.is_set()

    def tick(self, seconds: float = 0.0) -> None:
        """Let time pass and wake the sleeper, or the next one."""
        with self._moved:
            self._now += seconds
            self._ticks += 1
            self._waits_known = self._waits
            self._moved.notify_all()

    def rest(self) -> None:
        """Return when a sleeper begins to wait, or soon."""
        with self._moved:
            self._moved.wait_for(lambda: self._waits != self._waits_known, REST_SECONDS)
            self._waits_known = self._waits


class _OnDemand(threading.Event):
    """Stands for the collector's pause between two rounds: it ends when a test asks for a round, or stops it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Semaphore(0)
        self.done = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until asked, however long."""
        self.done.set()
        self.asked.acquire()
        return self.is_set()

    def set(self) -> None:
        """Stop."""
        super().set()
        self.asked.release()


class Crash(BaseException):
    """What a hook raises to end an operator between two writes."""


class InProcess:
    """A whole operator in a thread, one pass for each tick of a clock moved by hand.

    On another clock it runs by itself, and `advance` only waits.
    """

    def __init__(
        self,
        place: Place,
        clock: Clock,
        settings: Mapping[str, Any],
        *,
        before_write: Callable[[Write], None] | None = None,
        after_write: Callable[[Write, Outcome], None] | None = None,
        kubeconfig: str = "",
    ) -> None:
        self.clock, self.place = clock, place
        self._rest = clock.rest if isinstance(clock, HandClock) else functools.partial(time.sleep, 0.02)
        self.process = OperatorProcess(
            OperatorConfiguration.model_validate(settings),
            clock,
            kubeconfig or str(place.cluster.kubeconfig),
            before_write=before_write,
            after_write=after_write,
        )
        self._pause = _OnDemand()
        self.died: BaseException | None = None
        self.exit: int | None = None
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)

    def start(self) -> InProcess:
        """Start it, and wait for its first pass."""
        self._thread.start()
        if isinstance(self.clock, HandClock):
            eventually(lambda: self.process._collector or self._is_over(), "a collector", pause=0.01)
            if self.process._collector is not None:
                self.process._collector._halt = self._pause
        eventually(lambda: self.passes or self._is_over(), "a first pass", rest=self._rest)
        return self

    def _run(self) -> None:
        try:
            self.exit = self.process.run()
        except BaseException as error:
            self.died = error

    @property
    def loop(self) -> Any:
        """Its fleet loop, once it leads."""
        return self.process._loop

    @property
    def passes(self) -> int:
        """Passes so far."""
        return self.loop.passes if self.loop is not None else 0

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    @property
    def writes(self) -> int:
        """Requests that changed something, Events included."""
        return self.loop.actor.writer.writes_total + self.loop.actor.events.written_total

    def _is_over(self) -> bool:
        if self.metric("tidefleet_reconcile_errors_total", kind="Pass", reason="Exception"):
            raise RuntimeError("a pass failed; its log has the exception")
        return not self.alive

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value, 0 when it has none."""
        return self.process.telemetry.value(name, **labels) or 0.0

    def advance(self, seconds: float = 0.0) -> None:
        """Let time pass, in steps without a gap, and wait for a pass after each."""
        while True:
            now = min(seconds, STEP)
            seen = self.passes
            if isinstance(self.clock, HandClock):
                self.clock.tick(now)
            eventually(lambda seen=seen: self.passes > seen or self._is_over(), "another pass", rest=self._rest)
            seconds -= now
            if seconds <= 0:
                return

    def read_engines(self) -> None:
        """Have every engine read once, while the clock stands still."""
        collector = self.process._collector
        rounds = collector.rounds
        self._pause.done.clear()
        self._pause.asked.release()
        rest = functools.partial(self._pause.done.wait, REST_SECONDS)
        eventually(lambda: collector.rounds > rounds or self._is_over(), "a round of the collector", rest=rest)

    def observe(self, seconds: float = 15.0) -> None:
        """Let time pass, and after each step have the engines read and wait for a pass that knows what they said."""
        while seconds > 0:
            now = min(seconds, STEP)
            self.advance(now)
            self.read_engines()
            self.advance()
            seconds -= now

    def until(self, check: Callable[[], T], what: str = "", *, step: float = 0.0) -> T:
        """Engines read and a pass, `step` seconds apart, until `check` holds."""

        def advanced() -> T:
            if self.alive and isinstance(self.clock, HandClock):
                self.read_engines()
            if self.alive:
                self.advance(step)
            return check()

        return eventually(advanced, what)

    def settle(self, *pools: str, step: float = 0.0) -> None:
        """Pass after pass, `step` seconds apart, until these pools are ready and nothing moves."""
        names = pools or ("chat",)
        self.until(lambda: all(self.place.settled(one) for one in names), f"{', '.join(names)} settled", step=step)

    def stop(self) -> None:
        """End it as SIGTERM does."""
        self.process.end()
        while self._thread.is_alive():
            if isinstance(self.clock, HandClock):
                self.clock.tick()
            self._thread.join(0.02)


def tidefleet(*arguments: object) -> tuple[int, str]:
    """Run a `tidefleet` command in this process; its exit status and what it printed."""
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    return done.exit_code, done.output


def kubectl(place: Place, *arguments: str) -> str:
    """Run kubectl in the namespace of a test; what it printed."""
    command = [binaries.find("kubectl"), "--kubeconfig", place.cluster.kubeconfig, "-n", place.namespace, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class RealOperator:
    """`tidefleet operator run` as a process with an account of its own, ended with the cluster at the latest."""

    def __init__(self, place: Place, kubeconfig: Path, config: Path, name: str, *arguments: str) -> None:
        self._cluster, self.name = place.cluster, f"{name}-{place.namespace}"
        self._cluster.run(
            self.name,
            [sys.executable, "-m", "tidefleet", "operator", "run", "--config", config, "--kubeconfig", kubeconfig,
             *arguments],
            env={"PYTHONPATH": str(ROOT / "operator"), "KUBECONFIG": ""},
        )  # fmt: skip
        self.port = int(eventually(lambda: self.logged("serving"), "it serves")[0]["port"])

    def lines(self) -> list[dict[str, Any]]:
        """Its log; every line must be JSON."""
        text = self._cluster.processes.log_path(self.name).read_text()
        return [json.loads(line) for line in text.splitlines()]

    def logged(self, message: str) -> list[dict[str, Any]]:
        """Its log lines with this message."""
        text = self._cluster.processes.log_path(self.name).read_text()
        found = [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
        return [one for one in found if one["message"] == message]

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its pages."""
        answer = httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10.0, trust_env=False)
        return answer.status_code, answer.text

    def metric(self, line: str) -> float:
        """The value of a series, written as on the page; 0 when it is not there."""
        for one in self.get("/metrics")[1].splitlines():
            if one.startswith(f"{line} "):
                return float(one.rsplit(" ", 1)[1])
        return 0.0

    @property
    def leads(self) -> bool:
        """Whether it says that it leads."""
        return self.metric("tidefleet_leader") == 1.0

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._cluster.processes.send(self.name, number)

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs, negative for a signal."""
        return self._cluster.processes.exit_codes().get(self.name, 0)

    def end(self) -> None:
        """SIGTERM, and wait."""
        self._cluster.end(self.name)
