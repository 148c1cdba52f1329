"""What the demo stands on: cluster, nodes, chart, engines and operators, started step by step and ended together."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml

from demo import night
from demo.errors import StepFailed, Stopped
from demo.night import Queue
from localcluster import ControlPlane, LocalClusterError, apply_nodes, binaries, node_kinds, nodes_for
from localcluster.kueue import PROCESS as KUEUE
from localcluster.kueue import start_kueue
from localcluster.ports import free_ports

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = ROOT / "deploy" / "samples"
CHART = ROOT / "charts" / "tidefleet"
NAMESPACE = "tidefleet-system"
NODES: Mapping[str, int] = {
    "b200-sxm": 7, "h200-sxm": 2, "h100-sxm": 2, "a100-sxm-80": 1, "l40s": 1,
    "mi325x": 3, "mi300x": 4,
    "tpu-v6e": 4, "tpu-v5p": 4,
}  # fmt: skip
"""Simulated nodes: the day's peak fits on the cheapest types alone, and the dearer ones could carry a part of it."""

OPERATORS = ("operator-a", "operator-b")
ENGINES = "engines"
_POLL_SECONDS = 0.1
_KUBECTL_SECONDS = 60.0
_HELM_SECONDS = 90.0
_START_SECONDS = 45.0


@dataclass(frozen=True, slots=True)
class Time:
    """The scaled clock: ``scale`` simulated seconds pass in a real one; the day begins at ``real_start``."""

    scale: float
    real_start: float
    start: float

    def now(self) -> float:
        """Simulated Unix seconds."""
        return self.at(time.time())

    def at(self, real: float) -> float:
        """Simulated Unix seconds at a real time."""
        return self.start + (real - self.real_start) * self.scale

    @property
    def words(self) -> str:
        """As `tidefleet ... --clock` reads it."""
        return f"scale={self.scale!r},real={self.real_start!r},simulated={self.start!r}"


@dataclass(slots=True)
class Stage:
    """Everything that runs. Its methods are called in order by one thread; `stop` by any.

    Attributes:
        stopping: set when the demo is to end; each wait gives up then.
        metrics: address of each operator's metrics page.
        admin: address of the emulator's admin server.
        no_kueue: why Kueue cannot run here; empty while it may.
        lendable: accelerator types that may be lent at night.
    """

    stopping: threading.Event
    report: Callable[[str], None]
    cluster: ControlPlane = field(init=False)
    metrics: dict[str, str] = field(default_factory=dict)
    admin: str = ""
    no_kueue: str = ""
    lendable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.cluster = ControlPlane(report=self.report)

    def find_programs(self) -> str:
        """Find, download or compile what is needed."""
        found = binaries.ensure([*_CONTROL_PLANE, "helm", "kubectl"], report=self.report)
        try:
            if not self.no_kueue:
                binaries.find(KUEUE, report=self.report)
        except LocalClusterError as error:
            self.no_kueue = str(error)
        return f"{len(found)} programs"

    def start_cluster(self) -> str:
        """Start the control plane."""
        self.cluster.start()
        return f"etcd, API server, controller-manager, scheduler and kwok at {self.cluster.url}"

    def create_nodes(self) -> str:
        """Create the simulated nodes."""
        kinds = node_kinds()
        apply_nodes(self.cluster.kubeconfig, nodes_for(NODES, labels={"topology.kubernetes.io/region": "sample"}))
        chips = sum(count * kinds[name].chips_per_node for name, count in NODES.items())
        vendors = {kinds[name].vendor for name in NODES}
        nodes = sum(NODES.values())
        return f"{nodes} nodes with {chips} chips of {len(NODES)} accelerator types from {len(vendors)} vendors"

    def start_queue(self) -> str:
        """Start the Kueue controller; where it cannot run, batch Jobs are suspended and resumed instead."""
        if not self.no_kueue:
            try:
                start_kueue(self.cluster)
            except LocalClusterError as error:
                self.check()
                self.no_kueue = " ".join(str(error).split())[:300]
        return self.queue.words

    @property
    def queue(self) -> Queue:
        """Who trains on what is lent."""
        return Queue(not self.no_kueue, self.no_kueue)

    def prepare_night(self, namespace: str, scale: float) -> str:
        """A pool that lends at night, and a queue of training jobs; the accelerator types that may be lent are kept."""
        api = self.cluster.api()
        address = f"/apis/tidefleet.io/v1alpha1/namespaces/{namespace}/inferencepools/{night.LENDER}"
        named = api.get(address)["spec"]["accelerators"]
        self.lendable = tuple(one["type"] for one in named if one["type"] in NODES)
        if self.queue.kueue:
            for path, manifest in night.queue_objects(namespace, self.lendable):
                api.create(path, manifest)
        jobs = night.training_jobs(self.queue, scale=scale)
        for job in jobs:
            api.create(f"/apis/batch/v1/namespaces/{namespace}/jobs", job)
        api.merge(address, {"spec": {"flipping": night.flipping(self.queue)}})
        return f"{night.LENDER} lends from {night.window_words()}; {len(jobs)} jobs wait"

    def install_chart(self, period_seconds: float, *, recall_seconds: float) -> str:
        """`helm install` with no operator pod: processes beside the cluster run as the chart's ServiceAccount."""
        self._run_to_end(
            "helm",
            [binaries.find("helm", report=self.report), "install", "tidefleet", CHART,
             "--namespace", NAMESPACE, "--create-namespace", "--set", "replicas=0",
             "--set", f"config.periodSeconds={period_seconds:g}",
             # A start takes seconds of real time, an hour on this clock: a high quantile so far ahead is far too much.
             "--set-json", "config.forecast.quantile=0.5",
             "--set", f"config.flipping.recallSeconds={recall_seconds:g}", "--kubeconfig", self.cluster.kubeconfig],
            _HELM_SECONDS,
        )  # fmt: skip
        return "CRDs, RBAC, catalogue and configuration; the operator runs as its ServiceAccount"

    def start_processes(self, clock: Time) -> str:
        """Start the emulator of the engines, and two operators with the chart's configuration and RBAC; one leads."""
        admin, *ports = free_ports(1 + len(OPERATORS))
        self.admin = f"http://127.0.0.1:{admin}"
        arguments: list[str | Path] = [
            "emulator",
            "run",
            "--kubeconfig",
            self.cluster.kubeconfig,
            "--admin",
            f"127.0.0.1:{admin}",
        ]
        self.cluster.run(ENGINES, [*_tidefleet(), *arguments, "--clock", clock.words])
        access = self.cluster.service_account_kubeconfig(NAMESPACE, "tidefleet")
        for name, port in zip(OPERATORS, ports, strict=True):
            self.metrics[name] = f"http://127.0.0.1:{port}/metrics"
            arguments = ["operator", "run", "--config", self._configuration(port), "--kubeconfig", access]
            self.cluster.run(name, [*_tidefleet(), *arguments, "--clock", clock.words])
        return f"{len(OPERATORS)} operators, of which one leads, and the engines of all serving pods"

    def wait_for_engines(self) -> None:
        """Wait until the emulator takes loads."""
        self._until(lambda: _answers(f"{self.admin}/healthz"), ENGINES, "its admin server to answer")

    def wait_for_operators(self) -> str:
        """Wait until both operators serve their metrics."""
        for name, url in self.metrics.items():
            self._until(partial(_answers, url), name, "its /metrics to answer")
        return "both serve /metrics"

    def apply_samples(self) -> str:
        """`kubectl apply -f deploy/samples/`."""
        arguments: list[str | Path] = ["apply", "-f", SAMPLES, "--kubeconfig", self.cluster.kubeconfig]
        kubectl = binaries.find("kubectl", report=self.report)
        self._run_to_end("kubectl", [kubectl, *arguments], _KUBECTL_SECONDS)
        return "three pools with their workload classes: chat, code, reasoning"

    def offer(self, namespace: str, loads: Mapping[str, Mapping[str, Any]]) -> str:
        """Give the emulator the demand of each pool."""
        self.wait_for_engines()
        for pool, load in loads.items():
            answer = httpx.put(f"{self.admin}/load/{namespace}/{pool}", json=load, trust_env=False, timeout=10.0)
            if answer.status_code != 200:
                raise StepFailed(f"the emulator refused the load of {pool}: {answer.text[:300]}")
        return f"{len(loads)} curves of 144 bins: Azure 2024 (chat, code), ServeGen (reasoning)"

    def check(self) -> None:
        """See that all processes run.

        Raises:
            StepFailed: One has ended; the message has the end of its log.
            Stopped: The demo is to end.
        """
        if self.stopping.is_set():
            raise Stopped
        for name, code in self.cluster.processes.exit_codes().items():
            if code is not None and name not in _SHORT:
                raise StepFailed(f"{name} ended with exit code {code}; {self._last_lines(name)}")

    def wait(self, seconds: float) -> None:
        """Let real time pass.

        Raises:
            Stopped: The demo is to end.
        """
        if self.stopping.wait(seconds):
            raise Stopped

    def _configuration(self, port: int) -> Path:
        """The chart's own configuration and catalogue as files, with addresses for a process on loopback."""
        path = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
        maps: Iterable[Mapping[str, Any]] = self.cluster.api().get(path)["items"]
        data = {key: text for one in maps for key, text in (one.get("data") or {}).items()}
        try:
            config, catalogue = yaml.safe_load(data["config.yaml"]), data["acceleratortypes.yaml"]
        except KeyError as missing:
            raise StepFailed(f"the chart installed no ConfigMap with {missing}; it has {', '.join(data)}") from None
        beside = self.cluster.directory / "acceleratortypes.yaml"
        beside.write_text(catalogue, encoding="utf-8")
        config |= {"catalogueFile": str(beside), "metrics": {"bindAddress": "127.0.0.1", "port": port}}
        file = self.cluster.directory / f"operator-{port}.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        return file

    def _run_to_end(self, name: str, argv: Sequence[str | Path], seconds: float) -> None:
        """Run a program that ends by itself; it dies with the cluster, too."""
        self.cluster.run(name, argv)
        until = time.monotonic() + seconds
        while (code := self.cluster.processes.exit_codes().get(name)) is None:
            if time.monotonic() > until:
                raise StepFailed(f"{name} has not ended after {seconds:.0f} s; {self._last_lines(name)}")
            self.wait(_POLL_SECONDS)
        if code:
            raise StepFailed(f"{name} ended with exit code {code}; {self._last_lines(name)}")

    def _last_lines(self, name: str) -> str:
        return f"its last lines:\n{self.cluster.log(name, lines=20)}"

    def _until(self, is_done: Callable[[], bool], name: str, what: str) -> None:
        until = time.monotonic() + _START_SECONDS
        while not is_done():
            self.check()
            if time.monotonic() > until:
                raise StepFailed(f"{name}: waited {_START_SECONDS:.0f} s for {what}; {self._last_lines(name)}")
            self.wait(_POLL_SECONDS)


_CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
_SHORT = frozenset({"helm", "kubectl"})


def _tidefleet() -> list[str]:
    beside = Path(sys.executable).parent / "tidefleet"
    found = str(beside) if beside.is_file() else shutil.which("tidefleet")
    if found is None:
        raise StepFailed("the command tidefleet is neither beside this Python nor on PATH; run `make venv`")
    return [found]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False
