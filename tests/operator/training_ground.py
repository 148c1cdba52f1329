"""A night on loaned nodes, by hand: nodes that change duty, jobs, and a trainer that is driven pass by pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from operator_objects import eventually

from localcluster.api import ApiError
from localcluster.cluster import Cluster
from localcluster.nodes import NodeKind, apply_nodes, nodes_for
from tidefleet.api.flipping import TrainingQueue
from tidefleet.cluster import records
from tidefleet.cluster.connection import connect
from tidefleet.cluster.kinds import (
    CLUSTER_QUEUE,
    COHORT,
    JOB,
    JOB_SET,
    KUEUE_WORKLOAD,
    LOCAL_QUEUE,
    NODE,
    POD,
    RESOURCE_FLAVOR,
    Kind,
    path,
)
from tidefleet.cluster.lease import NoFence
from tidefleet.cluster.objects import Objects
from tidefleet.cluster.writes import Outcome, Write, Writer, Written
from tidefleet.controller.training import Lending, LoanedNode, LoanType, Stop, TrainingJob, TrainingSeen
from tidefleet.controller.training.kueue import KueueTrainer
from tidefleet.controller.training.kueue_objects import CHECK, cohort_name, flavor_name
from tidefleet.controller.training.suspend import SuspendTrainer

GPU = "nvidia.com/gpu"
CHIPS = 8
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
TRAINS = {"tidefleet.io/simulated-training": "true"}
TAINT = {"key": "tidefleet.io/duty", "value": "training", "effect": "NoSchedule"}


class Ground:
    """Nodes of 8 chips of a type of this test's own, all lent by the pool `chat`, and a trainer for them."""

    def __init__(self, cluster: Cluster, namespace: str, queue: TrainingQueue, *, nodes: int = 2) -> None:
        self.cluster, self.namespace, self.queue = cluster, namespace, queue
        self.api = cluster.api()
        self.type = f"h100-{namespace[-6:]}"
        self.selector = {"test/type": self.type}
        self.ahead = 0.0
        """Seconds by which this test's clock, and the API server's as the trainer sees it, are ahead."""
        client = connect(str(cluster.kubeconfig))
        self.objects = Objects(client, discovery_seconds=0.2)
        self.writer = Writer(client, NoFence(), after_write=self._note)
        self.written: list[tuple[Write, Outcome]] = []
        self.stopped: list[Stop] = []
        trainer = KueueTrainer if queue.kind == "Kueue" else SuspendTrainer
        self.trainer = trainer(self.objects, real=self.now)
        self.next_window: float | None = None
        kind = NodeKind(
            accelerator=self.type, vendor="NVIDIA", resource_name=GPU, chips_per_node=CHIPS, labels=self.selector
        )
        manifests = nodes_for({self.type: nodes}, kinds={self.type: kind})
        for one in manifests:
            one["metadata"]["labels"]["tidefleet.io/duty"] = "serving"
            one["spec"] = {"taints": [TAINT]}
        apply_nodes(cluster.kubeconfig, manifests)
        self.nodes: dict[str, LoanedNode] = {}
        for one in manifests:
            name = one["metadata"]["name"]
            labels = {**one["metadata"]["labels"], "tidefleet.io/duty": "training"}
            until = self.now() + 7200.0
            self.nodes[name] = LoanedNode(name, self.type, GPU, CHIPS, verified=False, until=until, labels=labels)

    def now(self) -> float:
        """Unix seconds."""
        return time.time() + self.ahead

    @property
    def lending(self) -> Lending:
        """What is on loan now."""
        return Lending(
            pool=(self.namespace, "chat"),
            queue=self.queue,
            nodes=tuple(self.nodes.values()),
            types=(LoanType(self.type, GPU, self.selector),),
            next_window=self.next_window,
        )

    def node(self, index: int) -> str:
        """The name of a node."""
        return f"{self.type}-{index}"

    def change(self, *indexes: int, **what: Any) -> None:
        """Change what the flips say of these nodes (of all without an index), and their duty with it."""
        for name in [self.node(one) for one in indexes] or list(self.nodes):
            self.nodes[name] = replace(self.nodes[name], **what)
            if "verified" in what:
                duty = "training" if what["verified"] else "serving"
                self.merge(NODE, name, {"metadata": {"labels": {"tidefleet.io/duty": duty}}})

    def recall(self, *indexes: int, seconds: float = 120.0) -> float:
        """Recall these nodes by a deadline, which is returned."""
        deadline = float(int(self.now() + seconds))
        self.change(*indexes, recall_by=deadline)
        return deadline

    # ------------------------------------------------------------------ passes

    def pods(self) -> list[records.Pod]:
        """All pods of the namespace."""
        return [records.pod(one) for one in self.objects.list(POD, self.namespace)]

    def look(self) -> TrainingSeen:
        """What the trainer sees now."""
        return self.trainer.look(self.lending, self.pods(), self.now())

    def step(self) -> TrainingSeen:
        """One pass: look, write, remember what was stopped."""
        seen, lending, now = self.look(), self.lending, self.now()
        stops = self.trainer.stops(lending, seen, now)
        for write in self.trainer.writes(lending, seen, now, decision_id="d-1"):
            outcome = self.writer.execute(write)
            if isinstance(outcome, Written) and getattr(write, "uid", "") in stops:
                self.stopped.append(stops[write.uid])
        return seen

    def until(self, check: Callable[[], Any], what: str = "", *, seconds: float = 30.0) -> Any:
        """Pass after pass until something holds."""

        def passing() -> Any:
            self.step()
            return check()

        return eventually(passing, what, seconds=seconds, pause=0.1)

    def passes(self, count: int = 5) -> None:
        """Some passes, with time in between for the controllers."""
        for _ in range(count):
            self.step()
            time.sleep(0.3)

    def quiet(self) -> bool:
        """Whether a pass would write nothing."""
        return not self.trainer.writes(self.lending, self.look(), self.now(), decision_id="d-1")

    def job(self, name: str) -> TrainingJob:
        """A job as the trainer sees it."""
        (found,) = (one for one in self.look().jobs if one.name == name)
        return found

    def _note(self, write: Write, outcome: Outcome) -> None:
        self.written.append((write, outcome))

    # ------------------------------------------------------------------ objects

    def path(self, kind: Kind, name: str | None = None, subresource: str = "") -> str:
        """Where the API server keeps something."""
        return path(kind, self.namespace if kind.namespaced else None, name, subresource)

    def get(self, kind: Kind, name: str) -> dict[str, Any]:
        """An object; empty when it is not there."""
        found = self.objects.get(kind, self.namespace if kind.namespaced else None, name)
        return found or {}

    def create(self, kind: Kind, manifest: dict[str, Any]) -> dict[str, Any]:
        """Create an object."""
        body = {"apiVersion": kind.group_version, "kind": kind.kind, **manifest}
        found: dict[str, Any] = self.api.create(self.path(kind), body)
        return found

    def merge(self, kind: Kind, name: str, body: dict[str, Any], subresource: str = "") -> None:
        """Merge-patch an object."""
        self.api.merge(self.path(kind, name, subresource), body)

    def template(
        self,
        chips: int = CHIPS,
        *,
        grace: int = 30,
        stop: int = 0,
        run: int | None = None,
        selector: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """A pod that trains: `stop` seconds from SIGTERM to its end, `run` seconds of training, else without end."""
        notes = {"tidefleet.io/emulated-stop-seconds": str(stop)}
        notes |= {} if run is None else {"tidefleet.io/emulated-run-seconds": str(run)}
        return {
            "metadata": {"labels": dict(TRAINS), "annotations": notes},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": grace,
                **({"nodeSelector": selector, "tolerations": [TAINT | {"operator": "Equal"}]} if selector else {}),
                "containers": [{"name": "train", "image": "train", "resources": {"limits": {GPU: chips}}}],
            },
        }

    def a_job(self, name: str, *, pods: int = 1, queue: str = "night", labels: Any = None, **template: Any) -> None:
        """Create a Job of as many pods of a node each, for a LocalQueue unless it has labels of its own."""
        notes = template.pop("annotations", {})
        suspend = template.pop("suspend", False)
        own = {QUEUE_LABEL: queue} if labels is None else labels
        spec = {"parallelism": pods, "completions": pods, "backoffLimit": 6, "template": self.template(**template)}
        self.create(
            JOB,
            {
                "metadata": {"name": name, "labels": own, "annotations": notes},
                "spec": {**spec, **({"suspend": True} if suspend else {})},
            },
        )

    def a_job_set(self, name: str, *, pods: int = 2, queue: str = "night", labels: Any = None, **template: Any) -> None:
        """Create a JobSet of two Jobs, a leader and workers, of a node for each pod."""
        notes = template.pop("annotations", {})
        suspend = template.pop("suspend", False)
        own = {QUEUE_LABEL: queue} if labels is None else labels

        def part(part_name: str, count: int) -> dict[str, Any]:
            job = {"parallelism": count, "completions": count, "template": self.template(**template)}
            return {"name": part_name, "replicas": 1, "template": {"spec": job}}

        spec = {"replicatedJobs": [part("leader", 1), part("workers", pods - 1)]}
        self.create(
            JOB_SET,
            {
                "metadata": {"name": name, "labels": own, "annotations": notes},
                "spec": {**spec, **({"suspend": True} if suspend else {})},
            },
        )

    def places(self, name: str) -> list[str]:
        """The nodes of a job's running pods, terminating ones left out, in order."""
        return sorted(
            one["spec"]["nodeName"]
            for one in self.raw_pods(name)
            if one.get("status", {}).get("phase") == "Running" and not one["metadata"].get("deletionTimestamp")
        )

    def raw_pods(self, name: str) -> list[dict[str, Any]]:
        """All pods of a job or JobSet."""
        labels = ("batch.kubernetes.io/job-name", "jobset.sigs.k8s.io/jobset-name")
        found = self.objects.list(POD, self.namespace)
        return [one for one in found if name in [one["metadata"].get("labels", {}).get(label) for label in labels]]

    def annotate(self, kind: Kind, name: str, **notes: str) -> None:
        """Annotate an object with ours; underscores stand for hyphens."""
        texts = {f"tidefleet.io/{key.replace('_', '-')}": text for key, text in notes.items()}
        self.merge(kind, name, {"metadata": {"annotations": texts}})

    # ------------------------------------------------------------------ Kueue

    def a_cluster_queue(self, **spec: Any) -> None:
        """Create the ClusterQueue that the pool names and the LocalQueue `night`; `spec` replaces fields."""
        flavor = {"name": flavor_name(self.type), "resources": [{"name": GPU, "nominalQuota": "0"}]}
        fields = {
            "cohortName": cohort_name((self.namespace, "chat")),
            "namespaceSelector": {},
            "admissionChecksStrategy": {"admissionChecks": [{"name": CHECK}]},
            "resourceGroups": [{"coveredResources": [GPU], "flavors": [flavor]}],
            **spec,
        }
        name = self.queue.cluster_queue or ""
        kept = {key: value for key, value in fields.items() if value is not None}
        self.create(CLUSTER_QUEUE, {"metadata": {"name": name}, "spec": kept})
        self.create(LOCAL_QUEUE, {"metadata": {"name": "night"}, "spec": {"clusterQueue": name}})

    def workload(self, job: str) -> dict[str, Any]:
        """The Workload of a job; empty when it has none."""
        found = self.objects.list(KUEUE_WORKLOAD, self.namespace)
        return next((one for one in found if one["metadata"]["ownerReferences"][0]["name"] == job), {})

    def check(self, job: str) -> dict[str, Any]:
        """The state of our check on the Workload of a job."""
        states = self.workload(job).get("status", {}).get("admissionChecks", [])
        return next((one for one in states if one["name"] == CHECK), {})

    def is_true(self, job: str, condition: str) -> bool:
        """Whether the Workload of a job has a condition."""
        conditions = self.workload(job).get("status", {}).get("conditions", [])
        return any(one["type"] == condition and one["status"] == "True" for one in conditions)

    def quota(self) -> int | None:
        """The quota of our Cohort; None while it is not there."""
        groups = self.get(COHORT, cohort_name((self.namespace, "chat"))).get("spec", {}).get("resourceGroups")
        return int(groups[0]["flavors"][0]["resources"][0]["nominalQuota"]) if groups else None

    # ------------------------------------------------------------------ afterwards

    def clean(self) -> None:
        """Take away what the next test would meet: pods that hold chips, nodes, what is not in the namespace."""
        force = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        for kind in (JOB, JOB_SET):
            if self.objects.exists(kind):
                self._delete(self.path(kind), {"propagationPolicy": "Background"})
        self._delete(self.path(POD), force)
        if self.objects.exists(CLUSTER_QUEUE):
            for kind, name in (
                (CLUSTER_QUEUE, self.queue.cluster_queue or "none"),
                (COHORT, cohort_name((self.namespace, "chat"))),
                (RESOURCE_FLAVOR, flavor_name(self.type)),
            ):
                self._delete(self.path(kind, name))
        for name in [self.node(index) for index in range(8)]:
            self._delete(self.path(NODE, name))

    def _delete(self, where: str, body: Any = None) -> None:
        try:
            self.api.delete(where, body)
        except ApiError as error:
            if error.status != 404:
                raise
