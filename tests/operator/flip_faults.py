"""Ground for faults of flips: a few nodes of one chip of a test's own, a pool on them, and things going wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from flip_ground import HOUR, journal, window
from flip_watcher import FlipWatcher
from operator_builders import FLEET, HandClock, InProcess, Place, a_pool, a_template, eventually

from localcluster.api import ApiError
from localcluster.nodes import apply_nodes, node_kinds, nodes_for
from tidefleet.cluster.kinds import DEPLOYMENT, EVENT, JOB, NODE, POD, path
from tidefleet.cluster.writes import Write

GPU = "nvidia.com/gpu"
TEAM = {"team": "research"}
DUTY_TAINT = {"key": "tidefleet.io/duty", "value": "training", "effect": "NoSchedule"}
FLIP_REQUEST = "tidefleet.io/flip-request"
SLOT = 900.0


class Ground:
    """Nodes of this test's own and an operator that sees no others.

    Attributes:
        names: of the nodes, in order.
        watcher: checks the invariants at every write.
        expected_breaches: words of breaches that the test itself brings about.
    """

    def __init__(
        self, place: Place, clock: HandClock, starting: Callable[..., InProcess], *, nodes: int = 3, chips: int = 1
    ) -> None:
        self.place, self.clock, self._starting = place, clock, starting
        self.api = place.api
        self.fleet, self.accelerator = place.namespace, "l40s"
        kind = replace(node_kinds()["l40s"], chips_per_node=chips)
        self._manifests = nodes_for({"l40s": nodes}, kinds={"l40s": kind}, labels={FLEET: self.fleet})
        for index, one in enumerate(self._manifests):
            one["metadata"]["name"] = f"{self.fleet}-{index}"
        apply_nodes(place.cluster.kubeconfig, self._manifests)
        self.names = [one["metadata"]["name"] for one in self._manifests]
        self.watcher = FlipWatcher(place.cluster, {FLEET: self.fleet})
        self.op: InProcess

    # ------------------------------------------------------------------ the operator

    def start(self, *, before_write: Callable[[Write], None] | None = None, **changes: Any) -> InProcess:
        """An operator that is watched at every write."""

        def look(write: Write) -> None:
            self.watcher.look(f"before {write.kind.kind} {write.name}")
            if before_write is not None:
                before_write(write)

        settings = {"namespaces": [], "nodeSelector": f"{FLEET}={self.fleet}", **changes}
        self.op = self._starting(before_write=look, **settings)
        return self.op

    def serve(self, replicas: int = 1, pool: str = "chat") -> None:
        """Wait until a pool serves with so many replicas, which are then required at every write."""
        self.until(
            lambda: self.place.settled(pool) and sum(self.place.ready_replicas(pool).values()) == replicas,
            f"{replicas} replicas of {pool}",
        )
        self.watcher.required[self.place.namespace, pool] = replicas

    def step(self, seconds: float = 0.0) -> None:
        """Let time pass in one go, have the engines read, and wait for a pass that knows what they said."""
        self.clock.tick(seconds)
        self.op.read_engines()
        self.op.advance()

    def until(self, check: Callable[[], Any], what: str = "", *, step: float = 0.0) -> Any:
        """Pass after pass, `step` seconds apart, until something holds."""

        def stepped() -> Any:
            self.step(step)
            return check()

        return eventually(stepped, what, pause=0.0)

    def reaches(self, phase: str, index: int = 0, *, step: float = 0.0) -> dict[str, Any]:
        """Wait for a node's phase; its journal."""
        self.until(lambda: self.phase(index) == phase, f"{self.names[index]} in {phase}", step=step)
        return self.journal(index)

    def sound(self) -> bool:
        """Whether no invariant was broken, with the breaches shown where one was."""
        self.watcher.look("at the end")
        assert self.watcher.breaches == []
        assert self.watcher.looks > 5
        return True

    # ------------------------------------------------------------------ nodes

    def node(self, index: int = 0) -> dict[str, Any]:
        """A node as it is."""
        found: dict[str, Any] = self.api.get(self.place.path(NODE, self.names[index]))
        return found

    def journal(self, index: int = 0) -> dict[str, Any]:
        """The journal of a node; empty without one."""
        return journal(self.node(index))

    def phase(self, index: int = 0) -> str:
        """The phase that a node's journal says."""
        return str(self.journal(index).get("phase", "Serving"))

    def phases(self) -> list[str]:
        """The phases of all nodes."""
        found = self.api.get(f"{path(NODE, None)}?labelSelector={FLEET}={self.fleet}")["items"]
        phases = {one["metadata"]["name"]: str(journal(one).get("phase", "Serving")) for one in found}
        return [phases[name] for name in self.names]

    def mark(self, index: int = 0, *, labels: Any = None, annotations: Any = None, spec: Any = None) -> None:
        """Change a node as people and other controllers do."""
        body = {"metadata": {"labels": labels or {}, "annotations": annotations or {}}, "spec": spec or {}}
        self.api.merge(self.place.path(NODE, self.names[index]), body)

    def ready(self, index: int, ready: bool) -> None:
        """Have a node become NotReady, or Ready again."""
        self.mark(index, annotations={"tidefleet.io/emulated-fault": None if ready else "not-ready"})
        if not ready:
            now = "2026-01-01T00:00:00Z"
            bad = {"type": "Ready", "status": "False", "reason": "Test", "lastHeartbeatTime": now}
            conditions = [one for one in self.node(index)["status"]["conditions"] if one["type"] != "Ready"]
            self.api.merge(
                self.place.path(NODE, self.names[index], "status"), {"status": {"conditions": [*conditions, bad]}}
            )

    def delete_node(self, index: int) -> None:
        """Delete a node, as a cloud does that takes it away."""
        self.api.delete(self.place.path(NODE, self.names[index]))

    def ask(self, index: int, to: str, **more: Any) -> None:
        """Ask for a node as `tidefleet flip` does."""
        text = json.dumps({"to": to, "by": "alice", "at": int(self.clock.now()), **more})
        self.mark(index, annotations={FLIP_REQUEST: text})

    def events(self, reason: str, index: int = 0) -> list[str]:
        """What Events of a reason say about a node."""
        found = self.api.get(path(EVENT, "default"))["items"]
        return [
            one.get("note", one.get("message", ""))
            for one in found
            if one.get("regarding", {}).get("name") == self.names[index] and one.get("reason") == reason
        ]

    # ------------------------------------------------------------------ pods

    def a_pool(self, name: str = "chat", *, replicas: int = 1, pod: Any = None, **spec: Any) -> dict[str, Any]:
        """A pool of so many replicas on these nodes that lends when it is asked to: its window is far away."""
        template = a_template(nodeSelector={FLEET: self.fleet}, **(pod or {}))
        fields = {
            "serving": {"template": template, "engine": {"type": "VLLM", "port": 8000}},
            "accelerators": [{"type": "l40s"}],
            "replicas": {"min": replicas, "max": replicas},
            "flipping": self.flipping(),
            **spec,
        }
        return a_pool(name, **fields)

    def flipping(self, begin: float = 10.0, end: float = 16.0, **more: Any) -> dict[str, Any]:
        """The `flipping` of a pool with a window of so many hours from now."""
        return {
            "policy": "Schedule",
            "windows": [window(self.clock.now(), begin, end)],
            "training": {"queue": {"kind": "Suspend", "selector": {"matchLabels": TEAM}}},
            **more,
        }

    def pods(self, index: int, pool: str = "chat") -> list[dict[str, Any]]:
        """The pods of a pool on a node."""
        return [
            one
            for one in self.place.list(POD)
            if one["spec"].get("nodeName") == self.names[index]
            and one["metadata"].get("labels", {}).get("tidefleet.io/pool") == pool
        ]

    def serving_on(self, pool: str = "chat") -> list[int]:
        """Indices of the nodes with pods of a pool."""
        return [index for index in range(len(self.names)) if self.pods(index, pool)]

    def deployment(self, pool: str = "chat") -> dict[str, Any]:
        """The Deployment of a pool."""
        (found,) = self.place.deployments(pool).values()
        return found

    def scale(self, replicas: int, pool: str = "chat") -> None:
        """Scale a pool's Deployment, as an autoscaler does."""
        self.place.merge(DEPLOYMENT, self.deployment(pool)["metadata"]["name"], {"spec": {"replicas": replicas}})

    def pod_of_somebody(self, name: str, index: int, *, chips: int = 1, **meta: Any) -> None:
        """A pod that holds chips of a node and tolerates everything."""
        spec = {
            "nodeName": self.names[index],
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "own", "image": "own", "resources": {"limits": {GPU: chips}}}],
        }
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **meta}, "spec": spec}
        self.api.create(self.place.path(POD), body)

    def a_job(self, name: str, *, grace: int = 30, stop: int = 0, finalizers: Any = (), **notes: str) -> None:
        """A Job of the team on one loaned node, which trains until it is stopped."""
        annotations = {"tidefleet.io/emulated-stop-seconds": str(stop)}
        pod = {
            "metadata": {
                "labels": {"tidefleet.io/simulated-training": "true"},
                "annotations": annotations,
                "finalizers": list(finalizers),
            },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": grace,
                "nodeSelector": {FLEET: self.fleet, "tidefleet.io/duty": "training"},
                "tolerations": [DUTY_TAINT | {"operator": "Equal"}],
                "containers": [{"name": "train", "image": "train", "resources": {"limits": {GPU: 1}}}],
            },
        }
        body = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "labels": TEAM, "annotations": notes},
            "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6, "template": pod},
        }
        self.api.create(self.place.path(JOB), body)

    def job_pods(self, name: str) -> list[dict[str, Any]]:
        """The pods of a Job."""
        found = self.place.list(POD)
        return [one for one in found if one["metadata"].get("labels", {}).get("job-name") == name]

    def finalize(self, pod: Mapping[str, Any], *finalizers: str) -> None:
        """Set the finalizers of a pod."""
        self.place.merge(POD, pod["metadata"]["name"], {"metadata": {"finalizers": list(finalizers) or None}})

    # ------------------------------------------------------------------ afterwards

    def clean(self) -> None:
        """Take everything away."""
        force = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        for kind in (JOB,):
            with suppress(ApiError):
                self.api.delete(self.place.path(kind), {"propagationPolicy": "Background"})
        for one in self.place.list(POD):
            if one["metadata"].get("finalizers"):
                with suppress(ApiError):
                    self.finalize(one)
        with suppress(ApiError):
            self.api.delete(self.place.path(POD), force)
        for name in self.names:
            with suppress(ApiError):
                self.api.delete(self.place.path(NODE, name))


__all__ = ["DUTY_TAINT", "FLIP_REQUEST", "GPU", "HOUR", "SLOT", "TEAM", "Ground"]
