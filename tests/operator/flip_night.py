"""A night on a small fleet of a test's own: a pool that lends nodes, a job that trains, operators that may die."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from flip_ground import journal, lending
from flip_watcher import FlipWatcher
from operator_builders import (
    DEPLOYMENT,
    FLEET,
    INFERENCE_POOL,
    POD,
    Crash,
    HandClock,
    InProcess,
    Place,
    a_class,
    a_pool,
    a_template,
    eventually,
)

from localcluster.nodes import apply_nodes, node_kinds, nodes_for
from tidefleet.cluster.kinds import EVENT, JOB, NODE, path
from tidefleet.cluster.writes import Outcome, Write

SECONDS = 240.0
"""Real seconds after which a night is not going to end any more; far beyond what a loaded machine needs."""

CLAIM = "a new leader takes over"
COST = "controller.kubernetes.io/pod-deletion-cost"
TRAINS = {"tidefleet.io/simulated-training": "true"}


def is_step(write: Write) -> bool:
    """Whether a write changes something in the cluster: no status, no claim by a new leader, and not only asked."""
    asks = getattr(write, "dry_run", False)
    return getattr(write, "subresource", "") != "status" and write.reason != CLAIM and not asks


class Night:
    """Two nodes, or more, that only this test's operators see, each with a replica of the pool `chat` on it.

    Attributes:
        before, after: called before and after each write of the operator; what they raise ends it.
        deaths: what each operator died of that did; ``died_in`` the phase of the first node then.
        op: the operator that runs, or ran last.
    """

    def __init__(
        self,
        place: Place,
        clock: HandClock,
        start: Callable[..., InProcess],
        *,
        accelerator: str = "l40s",
        nodes: int = 2,
        chips: int = 4,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.place, self.clock, self._start = place, clock, start
        self.accelerator, self.fleet = accelerator, {FLEET: place.namespace}
        self.before: Callable[[Write], None] = lambda _: None
        self.after: Callable[[Write, Outcome], None] = lambda *_: None
        self.writes: list[str] = []
        self.deaths: list[str] = []
        self.died_in: list[str] = []
        self.op: InProcess | None = None
        kind = dataclasses.replace(node_kinds()[accelerator], chips_per_node=chips)
        made = nodes_for({accelerator: nodes}, kinds={accelerator: kind}, labels={**self.fleet, **(labels or {})})
        for one in made:
            name = one["metadata"]["name"] = place.unique(one["metadata"]["name"])
            one["metadata"]["labels"]["kubernetes.io/hostname"] = name
        self.made, self.names = made, [one["metadata"]["name"] for one in made]
        apply_nodes(place.cluster.kubeconfig, made)
        self.watcher = FlipWatcher(place.cluster, self.fleet)

    # --- objects -----------------------------------------------------------------------------------------------------

    def serve(self, replicas: int = 2, *, most: int = 8, begin: float = -1.0, end: float = 8.0, **more: Any) -> None:
        """Create the pool: replicas of one chip each, and a window from `begin` to `end` hours from now."""
        template = a_template(nodeSelector=self.fleet)
        pool = a_pool(
            accelerators=[{"type": self.accelerator, "tensorParallel": [1]}],
            serving={"template": template, "engine": {"type": "VLLM", "port": 8000}},
            replicas={"min": replicas, "max": most},
            flipping=lending(self.clock.now(), begin, end),
            **more,
        )
        self.place.create(pool, a_class(rate=0.5))

    def ask_for(self, replicas: int) -> None:
        """Have the pool run at least so many replicas."""
        self.place.set_spec(INFERENCE_POOL, "chat", replicas={"min": replicas, "max": 8})

    def a_job(self, name: str = "train", *, chips: int = 4) -> None:
        """Create a job that waits for nodes on loan and trains without an end."""
        template = {
            "metadata": {"labels": TRAINS, "annotations": {"tidefleet.io/emulated-stop-seconds": "0"}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "nodeSelector": {**self.fleet, "tidefleet.io/duty": "training"},
                "tolerations": [{"key": "tidefleet.io/duty", "operator": "Exists"}],
                "containers": [{"name": "t", "image": "t", "resources": {"limits": {"nvidia.com/gpu": chips}}}],
            },
        }
        marks = {"labels": {"team": "research"}, "annotations": {"tidefleet.io/suspended-by": "tidefleet"}}
        spec = {"parallelism": 1, "completions": 1, "suspend": True, "template": template}
        self.place.api.create(
            self.place.path(JOB),
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, **marks}, "spec": spec},
        )

    def answer(self) -> None:
        """What a trainer does: it tells a checkpoint whenever it is asked for one."""
        for job in self.place.list(JOB):
            notes = job["metadata"].get("annotations", {})
            if "tidefleet.io/checkpoint-by" in notes and "tidefleet.io/checkpointed-at" not in notes:
                told = datetime.fromtimestamp(self.clock.now() + 1.0, tz=UTC).isoformat()
                body = {"metadata": {"annotations": {"tidefleet.io/checkpointed-at": told}}}
                self.place.merge(JOB, job["metadata"]["name"], body)

    # --- what there is -----------------------------------------------------------------------------------------------

    def node(self, index: int = 0) -> dict[str, Any]:
        """A node as it is."""
        found: dict[str, Any] = self.place.api.get(self.place.path(NODE, self.names[index]))
        return found

    def phase(self, index: int = 0) -> str:
        """The phase that a node's journal tells."""
        return str(journal(self.node(index)).get("phase", "Serving"))

    def set_journal(self, text: str, index: int = 0, **spec: Any) -> None:
        """Write a text as a node's journal, by hand."""
        body = {"metadata": {"annotations": {"tidefleet.io/flip": text}}, **({"spec": spec} if spec else {})}
        self.place.api.merge(self.place.path(NODE, self.names[index]), body)

    def training(self) -> list[dict[str, Any]]:
        """Pods of jobs that are on nodes."""
        found = self.place.list(POD)
        return [one for one in found if "job-name" in one["metadata"].get("labels", {}) and one["spec"].get("nodeName")]

    def serving(self, index: int | None = None) -> list[dict[str, Any]]:
        """Pods of the pool that are on a node, or on any."""
        names = self.names if index is None else [self.names[index]]
        pods = [one for one in self.place.list(POD) if "tidefleet.io/pool" in one["metadata"].get("labels", {})]
        return [one for one in pods if one["spec"].get("nodeName") in names]

    def events(self, reason: str, index: int = 0) -> list[str]:
        """What Events about a node say."""
        found = self.place.api.get(path(EVENT, "default"))["items"]
        mine = [one for one in found if one.get("regarding", {}).get("name") == self.names[index]]
        return [one["note"] for one in mine if one["reason"] == reason]

    def ready(self) -> int:
        """Replicas that are ready."""
        return sum(self.place.ready_replicas().values())

    def picture(self) -> dict[str, Any]:
        """What must be the same however often an operator died: nodes, replicas, jobs, and the marks of pods."""
        nodes = []
        for index, name in enumerate(self.names):
            node = self.node(index)
            notes = node["metadata"].get("annotations", {})
            story = journal(node)
            told = {key: story.get(key) for key in ("phase", "unit", "pool", "before", "until") if key in story}
            kept = {key: value for key, value in notes.items() if key != "tidefleet.io/flip"}
            labels = node["metadata"]["labels"]
            nodes.append({"name": name, "story": told, "labels": labels, "notes": kept, "taints": _taints(node)})
        marks = [(one["metadata"]["labels"], one["metadata"].get("annotations", {})) for one in self.serving()]
        pods = sorted(
            (labels.get("tidefleet.io/routable"), notes.get(COST), notes.get("tidefleet.io/flip"))
            for labels, notes in marks
        )
        jobs = {one["metadata"]["name"]: one["spec"].get("suspend", False) for one in self.place.list(JOB)}
        replicas = [one["spec"]["replicas"] for one in self.place.list(DEPLOYMENT)]
        return {"nodes": nodes, "pods": pods, "jobs": jobs, "replicas": replicas, "ready": self.ready()}

    def is_clean(self, *indexes: int) -> bool:
        """Whether these nodes, or all, serve and carry nothing of a flip but the journal of the last one."""
        for index in indexes or range(len(self.names)):
            node = self.node(index)
            meta = node["metadata"]
            told = journal(node)
            marked = "nvidia.com/gpu-driver-upgrade.skip" in meta["labels"]
            marked |= "karpenter.sh/do-not-disrupt" in meta.get("annotations", {})
            if told.get("phase", "Serving") != "Serving" or told.get("before") or _taints(node) or marked:
                return False
        return True

    # --- operators ---------------------------------------------------------------------------------------------------

    def operate(self, **changes: Any) -> InProcess:
        """Start an operator, watched at every write."""

        def before(write: Write) -> None:
            told = f"{write.kind.kind} {getattr(write, 'subresource', '')} {write.name}: {write.reason}"
            self.watcher.look(f"before {told}")
            self.before(write)
            self.writes.append(told)

        def after(write: Write, outcome: Outcome) -> None:
            self.after(write, outcome)

        selector = f"{FLEET}={self.place.namespace}"
        settings = {"namespaces": [], "nodeSelector": selector, **changes}
        self.op = self._start(before_write=before, after_write=after, **settings)
        return self.op

    def until(self, check: Callable[[], Any], what: str = "", *, step: float = 1.0, revive: bool = True) -> Any:
        """Pass after pass until something holds; an operator that died is succeeded by the next one.

        With `revive` false the death of the operator ends it too.
        """

        def turn() -> Any:
            assert self.op is not None
            if not self.op.alive:
                if not revive:
                    return True
                assert isinstance(self.op.died, Crash), self.op.died
                self.deaths.append(str(self.op.died))
                self.died_in.append(self.phase())
                self.operate()
            self.answer()
            if self.op.alive:
                self.op.read_engines()
            if self.op.alive:
                self.op.advance(step)
            return check()

        try:
            found = eventually(turn, what, seconds=SECONDS, pause=0.0)
        except AssertionError as error:
            error.add_note(f"phase {self.phase()}; {len(self.deaths)} deaths, the last: {self.deaths[-9:]}")
            raise
        self.watcher.look(f"after {what}")
        return found

    def begin(self, **changes: Any) -> None:
        """Start an operator and have it bring a replica to each node."""
        self.serve()
        self.operate(**changes)
        self.op.settle()  # type: ignore[union-attr]
        spread = sorted(len(self.serving(index)) for index in range(len(self.names)))
        assert spread[0] >= 1, f"replicas by node: {spread}"
        self.watcher.required[self.place.namespace, "chat"] = self.ready()

    def end(self) -> None:
        """Take the nodes away."""
        for name in self.names:
            if self.place.api.exists(self.place.path(NODE, name)):
                self.place.api.delete(self.place.path(NODE, name))


def _taints(node: Mapping[str, Any]) -> list[str]:
    return [one["key"] for one in node["spec"].get("taints") or ()]


def story(node: Mapping[str, Any]) -> str:
    """The text of a node's journal; empty without one."""
    return str(node["metadata"].get("annotations", {}).get("tidefleet.io/flip", ""))


def forged(**fields: Any) -> str:
    """A journal as it might be written by hand."""
    return json.dumps({"v": 1, "epoch": 1, "phase": "Serving", "since": 1764028800, "unit": "n", **fields})
