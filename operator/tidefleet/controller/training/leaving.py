"""What makes jobs leave nodes that are recalled, whatever queue they came from: the question, in the end eviction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from tidefleet.cluster.kinds import POD
from tidefleet.cluster.labels import POOL_LABEL
from tidefleet.cluster.records import Pod
from tidefleet.cluster.writes import Evict, Write
from tidefleet.controller.training import checkpoint
from tidefleet.controller.training.lending import Lending, LoanedNode, Stop, TrainingJob, TrainingSeen
from tidefleet.controller.training.room import holds

LAST_GRACE_SECONDS = 1
"""What a pod gets that is still there when the recall's time is over. Not 0: the node has to say that it is gone."""
MOST_EVICTIONS = 200
"""In one pass."""


def asks(
    lending: Lending, jobs: Iterable[TrainingJob], pods: Mapping[str, Sequence[Pod]], now: float, *, decision_id: str
) -> list[Write]:
    """The questions for checkpoints of jobs that are recalled, and the withdrawal of those that no longer hold.

    Args:
        pods: those that hold something, by the uid of their job.
    """
    found: list[Write] = []
    for job in jobs:
        deadline = checkpoint.deadline_of(job, lending)
        if deadline is not None:
            lone = job.kind == POD
            there = pods.get(job.uid, ())
            found += checkpoint.ask(job, there, deadline, now, decision_id=decision_id, only_pods=lone)
        elif job.running and job.nodes and job.asked is not None:
            found.append(checkpoint.forget(job, decision_id=decision_id))
    return found


def overdue(lending: Lending, pods: Iterable[Pod], now: float) -> list[tuple[Pod, LoanedNode]]:
    """The pods that still hold accelerators of a node whose recall is over, in order of their names.

    Pods of serving pools are not among them: what serves is not ours to end here.
    """
    late = {node.name: node for node in lending.nodes if node.recall_by is not None and now >= node.recall_by}
    found = [
        (pod, late[pod.node])
        for pod in pods
        if pod.node in late and holds(pod) and pod.chips.get(late[pod.node].resource) and POOL_LABEL not in pod.labels
    ]
    return sorted(found, key=lambda pair: (pair[0].namespace, pair[0].name))


def evictions(pods: Iterable[tuple[Pod, str]], *, real_now: float, decision_id: str) -> list[Write]:
    """The evictions of these pods with the last grace; none of a pod that ends by then anyway.

    Args:
        pods: each with the reason.
        real_now: Unix seconds as the API server has them.
    """
    found: list[Write] = [
        _evict(pod, why, LAST_GRACE_SECONDS, decision_id)
        for pod, why in pods
        if not pod.deleting or pod.ends is None or pod.ends > real_now + 2 * LAST_GRACE_SECONDS
    ]
    return found[:MOST_EVICTIONS]


def gentle_evictions(pods: Iterable[tuple[Pod, str]], *, decision_id: str) -> list[Write]:
    """The evictions of these pods with their own grace."""
    found: list[Write] = [_evict(pod, why, None, decision_id) for pod, why in pods if not pod.deleting]
    return found[:MOST_EVICTIONS]


def stops_of_strangers(
    lending: Lending,
    seen: TrainingSeen,
    pods: Iterable[Pod],
    groups: Mapping[str, Sequence[Pod]],
    managed: Collection[str],
    *,
    now: float,
) -> dict[str, Stop]:
    """The jobs that lose pods by eviction, each once, by the uid of the first of these pods.

    Args:
        managed: uids of jobs whose stop is told by what stopped them before.
    """
    found: dict[str, Stop] = {}
    by_pod = {pod.uid: uid for uid, group in groups.items() for pod in group}
    lost = {job.uid: job for job in seen.jobs if job.uid not in managed}
    for pod, node in overdue(lending, pods, now):
        job = None if pod.deleting else lost.pop(by_pod.get(pod.uid, pod.uid), None) or lost.pop(pod.uid, None)
        if job is not None:
            found[pod.uid] = Stop(job, checkpoint.lost_chip_seconds(job, now), why_late(node))
    return found


def _evict(pod: Pod, why: str, grace: int | None, decision_id: str) -> Evict:
    return Evict(
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        resource_version=pod.resource_version,
        grace_seconds=grace,
        reason=why,
        decision_id=decision_id,
    )


def why_late(node: LoanedNode) -> str:
    """Why a pod on it is evicted."""
    return f"node {node.name} was recalled by {checkpoint.write_time(node.recall_by or 0.0)}"
