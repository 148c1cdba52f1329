"""The night of the demo: a pool that lends its nodes in a window, and a queue of training jobs that never empties."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HOUR = 3600.0
LENDER = "code"
"""The pool that lends: its users sleep at the same time."""

WINDOW: Mapping[str, str] = {"start": "21:00", "end": "05:00", "timeZone": "America/Los_Angeles"}
"""In May 04:00 to 12:00 UTC, in the day of the traces the lull of code completion."""

QUEUE = "night"
RESEARCH = {"team": "research"}
TRAINS_LABEL = "tidefleet.io/simulated-training"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_GPU = "nvidia.com/gpu"
_JOB_HOURS = (2.0, 3.0, 4.0, 6.0)
_JOB_PODS = (1, 1, 2, 1)
JOBS = 40
"""More than the loaned nodes of one night finish."""

USD_PER_CHIP_HOUR = "1.10"


@dataclass(frozen=True, slots=True)
class Queue:
    """Who trains: Kueue, or batch Jobs that the operator suspends and resumes; ``why`` it is not Kueue."""

    kueue: bool
    why: str = ""

    @property
    def words(self) -> str:
        """As the step and the summary tell it."""
        return "the Kueue controller" if self.kueue else f"suspended batch Jobs, without Kueue: {self.why}"


def window_words() -> str:
    """When loans are allowed, e.g. ``21:00 to 05:00 America/Los_Angeles``."""
    return f"{WINDOW['start']} to {WINDOW['end']} {WINDOW['timeZone']}"


def flipping(queue: Queue) -> dict[str, Any]:
    """The spec of a pool that lends by schedule."""
    who: dict[str, Any] = {"kind": "Kueue", "clusterQueue": QUEUE}
    if not queue.kueue:
        who = {"kind": "Suspend", "selector": {"matchLabels": RESEARCH}}
    return {
        "policy": "Schedule",
        "windows": [dict(WINDOW)],
        "training": {"queue": who, "valueUsdPerChipHour": USD_PER_CHIP_HOUR, "checkpointGraceSeconds": 120},
    }


def queue_objects(namespace: str, types: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    """Kueue's objects that are a user's, each with the address of its collection: ClusterQueue and LocalQueue.

    Args:
        namespace: of the pool and the jobs.
        types: accelerator types that may be lent; each has a flavor, which the operator makes.
    """
    group = "/apis/kueue.x-k8s.io/v1beta2"
    zero = [{"name": _GPU, "nominalQuota": "0"}]
    cluster_queue = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "ClusterQueue",
        "metadata": {"name": QUEUE},
        "spec": {
            "cohortName": f"tidefleet-{namespace}-{LENDER}",
            "namespaceSelector": {},
            "queueingStrategy": "BestEffortFIFO",
            "admissionChecksStrategy": {"admissionChecks": [{"name": "tidefleet-loan"}]},
            "resourceGroups": [
                {
                    "coveredResources": [_GPU],
                    "flavors": [{"name": f"loan-{one}", "resources": zero} for one in types],
                }
            ],
        },
    }
    local_queue = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "LocalQueue",
        "metadata": {"name": QUEUE, "namespace": namespace},
        "spec": {"clusterQueue": QUEUE},
    }
    return [(f"{group}/clusterqueues", cluster_queue), (f"{group}/namespaces/{namespace}/localqueues", local_queue)]


def training_jobs(queue: Queue, *, scale: float, chips: int = 8, count: int = JOBS) -> list[dict[str, Any]]:
    """Jobs of a node, or two, for some hours of the fleet's time each.

    Args:
        queue: who starts them.
        scale: seconds of the fleet's time in a real one: simulated pods run in real time.
        chips: accelerators of a pod.
        count: how many jobs.
    """
    return [
        _job(
            f"train-{index:02d}",
            queue,
            pods=_JOB_PODS[index % len(_JOB_PODS)],
            chips=chips,
            real_seconds=max(1, round(_JOB_HOURS[index // 2 % len(_JOB_HOURS)] * HOUR / scale)),
        )
        for index in range(count)
    ]


def _job(name: str, queue: Queue, *, pods: int, chips: int, real_seconds: int) -> dict[str, Any]:
    template: dict[str, Any] = {
        "metadata": {
            "labels": {TRAINS_LABEL: "true"},
            "annotations": {"tidefleet.io/emulated-run-seconds": str(real_seconds)},
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "train", "image": "train", "resources": {"limits": {_GPU: chips}}}],
        },
    }
    labels, notes = dict(RESEARCH), {}
    if queue.kueue:
        labels[QUEUE_LABEL] = QUEUE
    else:
        template["spec"]["nodeSelector"] = {"tidefleet.io/duty": "training"}
        template["spec"]["tolerations"] = [{"key": "tidefleet.io/duty", "operator": "Exists"}]
        notes["tidefleet.io/suspended-by"] = "tidefleet"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels, "annotations": notes},
        "spec": {"parallelism": pods, "completions": pods, "backoffLimit": 6, "suspend": True, "template": template},
    }
