"""How long a node takes from its recall until it serves: the operator, its RBAC and a control plane, in real time.

A small fleet is as an earlier leader would have left it: most nodes on loan, a job on each, a few that serve. Then the
pool is asked for a replica on every node, and each node's journal tells when it came to which phase. Two durations are
played, since no accelerator is here: the checkpoint that a trainer writes, and the loading of an engine.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from localcluster import ControlPlane, LocalClusterError, apply_nodes, binaries, nodes_for
from localcluster.api import ApiClient, ApiError
from tidefleet.cluster import records
from tidefleet.controller.flips.dress import node_change
from tidefleet.flipping.journal import Journal, Unreadable, read
from tidefleet.flipping.phase import Phase

ROOT = Path(__file__).resolve().parents[1]
SYSTEM, NAMESPACE, POOL = "tidefleet-system", "recall", "chat"
ACCELERATOR, CHIPS, HOME = "h100-sxm", 8, 3
"""Nodes that serve from the start: two replicas, and the node that is kept in reserve."""

CHECKPOINT_SECONDS = 21.0
"""What writing a checkpoint takes; played."""

LOAD_SECONDS = 52
"""What an engine takes until it is ready: the 99th percentile of 7,531 loads of a base model was 51.9 s; played."""

BUDGET_SECONDS = 720.0
"""The operator's default of flipping.recallSeconds."""

MOST_SECONDS = 420.0
"""Real seconds after which the recalls are not going to end."""

PARTS = ("checkpoint_evict", "reclaim_verify", "load_start", "canary")


@dataclass(frozen=True, slots=True)
class Recalled:
    """One node's way back, in seconds; ``total`` is the sum of the others."""

    node: str
    checkpoint_evict: float
    reclaim_verify: float
    load_start: float
    canary: float

    @property
    def total(self) -> float:
        """From the recall until it serves."""
        return self.checkpoint_evict + self.reclaim_verify + self.load_start + self.canary


def figures(found: list[Recalled], *, notice_seconds: float) -> dict[str, Any]:
    """What is printed of these recalls."""

    def at(share: float, values: list[float]) -> float:
        return round(float(np.percentile(values, share)), 2)

    totals = [one.total for one in found]
    return {
        "recall_seconds_p99": at(99.0, totals),
        "recall_seconds_median": at(50.0, totals),
        "recall_parts_seconds_p99": {part: at(99.0, [getattr(one, part) for one in found]) for part in PARTS},
        "recall_parts_seconds_median": {part: at(50.0, [getattr(one, part) for one in found]) for part in PARTS},
        "recall_played_seconds": {"checkpoint": CHECKPOINT_SECONDS, "load": float(LOAD_SECONDS)},
        "recall_notice_seconds": round(notice_seconds, 2),
        "recalls": len(found),
    }


def measure(nodes: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Recall so many nodes, and see how long each takes.

    Raises:
        LocalClusterError: there is no control plane to be had here, or the recalls did not end.
    """
    with ControlPlane(report=say) as cluster:
        if not cluster.has_local_pods:
            raise LocalClusterError("simulated pods have no loopback addresses of their own on this machine")
        api = cluster.api()
        apply_nodes(cluster.kubeconfig, nodes_for({ACCELERATOR: HOME + nodes}))
        _install(cluster)
        api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        now = time.time()
        lent = [f"{ACCELERATOR}-{index}" for index in range(HOME, HOME + nodes)]
        for name in lent:
            _lend(api, name, now)
        root = f"/apis/tidefleet.io/v1alpha1/namespaces/{NAMESPACE}"
        api.create(f"{root}/inferencepools", _pool(HOME + nodes, now))
        api.create(f"{root}/workloadclasses", _class())
        for index in range(nodes):
            api.create(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", _job(f"train-{index}"))
        stop = threading.Event()
        trainer = threading.Thread(target=_train, args=(cluster, stop), daemon=True)
        trainer.start()
        try:
            _start(cluster)
            _until(cluster, lambda: _running(api) == nodes and _ready(api) >= HOME - 1, "jobs train on every lent node")
            say(f"{nodes} nodes train, {_ready(api)} replicas serve; now a replica is asked for on every node")
            asked = time.time()
            api.merge(f"{root}/inferencepools/{POOL}", {"spec": {"replicas": {"min": HOME - 1 + nodes}}})
            _until(cluster, lambda: _served(api, lent), "every node serves again")
            found = _recalled(api, lent)
        finally:
            stop.set()
            trainer.join(10.0)
        first = min(_times(_journal(api, name))[Phase.RECALLING] for name in lent)
        say(f"all serve, {time.time() - asked:.0f} s after that")
        return figures(found, notice_seconds=first - asked)


def _until(cluster: ControlPlane, done: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + MOST_SECONDS
    while not done():
        for name in ("operator", "emulator"):
            if not cluster.is_running(name):
                raise LocalClusterError(f"{name} ended; its last lines:\n{cluster.log(name)}")
        if time.monotonic() > until:
            raise LocalClusterError(f"{what}: not after {MOST_SECONDS:g} s; the operator's last lines:\n"
                                    f"{cluster.log('operator', lines=15)}")  # fmt: skip
        time.sleep(0.5)


def _install(cluster: ControlPlane) -> None:
    chart = [
        binaries.find("helm"), "install", "tidefleet", ROOT / "charts" / "tidefleet", "--namespace", SYSTEM,
        "--create-namespace", "--set", "replicas=0", "--kubeconfig", cluster.kubeconfig,
    ]  # fmt: skip
    done = subprocess.run([str(one) for one in chart], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LocalClusterError(f"helm install failed: {done.stderr[-2000:]}")


def _start(cluster: ControlPlane) -> None:
    program = (sys.executable, "-m", "tidefleet")
    cluster.run("emulator", [*program, "emulator", "run", "--kubeconfig", cluster.kubeconfig])
    access = cluster.service_account_kubeconfig(SYSTEM, "tidefleet")
    cluster.run(
        "operator",
        [*program, "operator", "run", "--kubeconfig", access, "--metrics-port", "0", "--lease-namespace", SYSTEM,
         "--log-format", "json"],
    )  # fmt: skip


def _lend(api: ApiClient, name: str, now: float) -> None:
    """Leave a node as a leader does whose loan began an hour ago."""
    journal = Journal(
        epoch=1, phase=Phase.TRAINING, since=now - 3600.0, unit=name, pool=f"{NAMESPACE}/{POOL}",
        accelerator=ACCELERATOR, members=(name,), deadline=now + 6 * 3600.0, until=now + 6 * 3600.0, trained=True,
        queue="Suspend", why="a quiet night", history=((now - 3600.0, Phase.TRAINING),), turn=5,
    )  # fmt: skip
    path = f"/api/v1/nodes/{name}"
    body = node_change(records.node(api.get(path)), journal, own=None)
    api.merge(path, body)


def _pool(most: int, now: float) -> dict[str, Any]:
    begin, end = (datetime.fromtimestamp(now, tz=UTC) + timedelta(hours=one) for one in (-1, 8))
    template = {
        "metadata": {"annotations": {"tidefleet.io/emulated-start-seconds": str(LOAD_SECONDS)}},
        "spec": {"containers": [{"name": "engine", "image": "vllm/vllm-openai:v0.32.0"}]},
    }
    return {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": POOL, "namespace": NAMESPACE},
        "spec": {
            "model": {"name": "llama-3.3-70b"},
            "serving": {"template": template, "engine": {"type": "VLLM", "port": 8000}},
            "accelerators": [{"type": ACCELERATOR, "tensorParallel": [CHIPS]}],
            "replicas": {"min": HOME - 1, "max": most},
            "flipping": {
                "policy": "Schedule",
                "windows": [{"start": f"{begin:%H:%M}", "end": f"{end:%H:%M}", "timeZone": "UTC"}],
                "training": {"queue": {"kind": "Suspend", "selector": {"matchLabels": {"team": "research"}}}},
            },
        },
    }


def _class() -> dict[str, Any]:
    return {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": "WorkloadClass",
        "metadata": {"name": POOL, "namespace": NAMESPACE},
        "spec": {
            "poolRef": {"name": POOL},
            "demand": {"requestsPerSecond": "0.5"},
            "tokens": {"input": {"mean": 1000, "p95": 3000}, "output": {"mean": 200, "p95": 600}},
            "objectives": [{"metric": "TTFT", "percentile": 95, "milliseconds": 2000}],
        },
    }


def _job(name: str) -> dict[str, Any]:
    template = {
        "metadata": {"labels": {"tidefleet.io/simulated-training": "true"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 30,
            "nodeSelector": {"tidefleet.io/duty": "training"},
            "tolerations": [{"key": "tidefleet.io/duty", "operator": "Exists"}],
            "containers": [{"name": "t", "image": "t", "resources": {"limits": {"nvidia.com/gpu": CHIPS}}}],
        },
    }
    marks = {"labels": {"team": "research"}, "annotations": {"tidefleet.io/suspended-by": "tidefleet"}}
    spec = {"parallelism": 1, "completions": 1, "suspend": True, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, **marks}, "spec": spec}


def _train(cluster: ControlPlane, stop: threading.Event) -> None:
    """What trainers do: so long after they were asked they tell of a checkpoint."""
    asked: dict[str, float] = {}
    with ApiClient.from_kubeconfig(cluster.kubeconfig) as api:
        while not stop.wait(0.5):
            for pod in _pods(api, "tidefleet.io/simulated-training=true"):
                meta = pod["metadata"]
                notes = meta.get("annotations") or {}
                if "tidefleet.io/checkpoint-by" not in notes or "tidefleet.io/checkpointed-at" in notes:
                    continue
                if time.time() - asked.setdefault(meta["uid"], time.time()) >= CHECKPOINT_SECONDS:
                    told = datetime.now(tz=UTC).isoformat(timespec="seconds")
                    body = {"metadata": {"annotations": {"tidefleet.io/checkpointed-at": told}}}
                    try:
                        api.merge(f"/api/v1/namespaces/{NAMESPACE}/pods/{meta['name']}", body)
                    except ApiError:
                        continue  # it ended meanwhile


def _pods(api: ApiClient, selector: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={selector}")["items"]
    return found


def _running(api: ApiClient) -> int:
    pods = _pods(api, "tidefleet.io/simulated-training=true")
    return sum(1 for one in pods if one.get("status", {}).get("phase") == "Running")


def _ready_at(pod: Mapping[str, Any]) -> float | None:
    for one in (pod.get("status") or {}).get("conditions") or ():
        if one["type"] == "Ready" and one["status"] == "True":
            return datetime.fromisoformat(one["lastTransitionTime"]).timestamp()
    return None


def _ready(api: ApiClient) -> int:
    return sum(1 for one in _pods(api, f"tidefleet.io/pool={POOL}") if _ready_at(one) is not None)


def _journal(api: ApiClient, name: str) -> Journal:
    text = api.get(f"/api/v1/nodes/{name}")["metadata"].get("annotations", {}).get("tidefleet.io/flip", "")
    found = read(text)
    if isinstance(found, Unreadable):
        raise LocalClusterError(f"Node {name}: its journal cannot be read: {found.why}")
    return found


def _times(journal: Journal) -> dict[Phase, float]:
    return {phase: at for at, phase in journal.history}


def _served(api: ApiClient, names: list[str]) -> bool:
    phases = {name: _journal(api, name) for name in names}
    held = [f"{name}: {one.why}" for name, one in phases.items() if one.phase is Phase.QUARANTINED]
    if held:
        raise LocalClusterError(f"quarantined: {'; '.join(held)}")
    return all(one.phase is Phase.SERVING for one in phases.values())


def _recalled(api: ApiClient, names: list[str]) -> list[Recalled]:
    ready: dict[str, float] = {}
    for pod in _pods(api, f"tidefleet.io/pool={POOL}"):
        at = _ready_at(pod)
        if at is not None:
            ready[pod["spec"]["nodeName"]] = at
    found = []
    for name in names:
        at = _times(_journal(api, name))
        serves = at[Phase.SERVING]
        started = min(serves, max(at[Phase.WARMING], ready.get(name, serves)))
        found.append(
            Recalled(
                name,
                at[Phase.RECLAIMING] - at[Phase.RECALLING],
                at[Phase.WARMING] - at[Phase.RECLAIMING],
                started - at[Phase.WARMING],
                serves - started,
            )
        )
    return found
