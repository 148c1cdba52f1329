"""The checkpoint handshake: a job is asked by annotation, answers by annotation, and is stopped then, or in time.

A trainer that does not know the annotations hears SIGTERM when its job is stopped, early enough that its pods' own
grace ends with the recall's: so the time before the deadline is shared between asking and the signal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from tidefleet.cluster.kinds import POD, Kind
from tidefleet.cluster.records import Pod
from tidefleet.cluster.writes import MergePatch
from tidefleet.controller.training.lending import Lending, TrainingJob

CHECKPOINT_BY = "tidefleet.io/checkpoint-by"
"""On job and pods: the absolute deadline of a recall (RFC 3339), readable in the pod by the downward API."""
ASKED_AT = "tidefleet.io/checkpoint-asked-at"
"""On the job: when that was asked, so that an answer can be told from an earlier checkpoint."""
CHECKPOINTED_AT = "tidefleet.io/checkpointed-at"
"""On job or any pod, by the trainer: when its last checkpoint was complete (RFC 3339)."""


def read_time(text: str | None) -> float | None:
    """The Unix seconds of an RFC 3339 time; ``None`` for anything else."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found.timestamp() if found.tzinfo is not None else None


def write_time(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds (rounded down)."""
    return datetime.fromtimestamp(math.floor(seconds), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def checkpointed_at(annotations: Iterable[Mapping[str, str]]) -> float | None:
    """The latest checkpoint that a job or one of its pods tells of."""
    return max((at for one in annotations if (at := read_time(one.get(CHECKPOINTED_AT))) is not None), default=None)


def deadline_of(job: TrainingJob, lending: Lending) -> float | None:
    """When a job has to be gone: with the first of its nodes that is recalled; ``None`` when none is."""
    return min(
        (node.recall_by for node in lending.nodes if node.recall_by is not None and node.name in job.nodes),
        default=None,
    )


def is_asked(job: TrainingJob, deadline: float) -> bool:
    """Whether a job was asked by this deadline (and not by that of an earlier recall)."""
    return job.asked is not None and write_time(job.asked) == write_time(deadline)


def is_answered(job: TrainingJob, deadline: float) -> bool:
    """Whether a checkpoint was complete after it was asked for."""
    if not is_asked(job, deadline) or job.asked_at is None or job.checkpointed is None:
        return False
    return job.checkpointed >= math.floor(job.asked_at)


def stop_at(job: TrainingJob, lending: Lending, deadline: float) -> float:
    """When a job that has not answered is stopped (its pods then get SIGTERM).

    The pods' own grace before the deadline, but half of the grace of the recall at most.
    """
    known = is_asked(job, deadline) and job.asked_at is not None
    grace = deadline - (job.asked_at or 0.0) if known else float(lending.checkpoint_grace_seconds)
    return deadline - min(job.termination_seconds, max(0.0, grace) / 2)


def why_stop(job: TrainingJob, lending: Lending, now: float) -> str:
    """Why a job is to be stopped now, in words; empty while it is not recalled, or is still waited for."""
    deadline = deadline_of(job, lending)
    if deadline is None:
        return ""
    if is_answered(job, deadline) and job.checkpointed is not None:
        return f"its checkpoint of {write_time(job.checkpointed)} is complete"
    if now >= deadline:
        return f"no checkpoint was told by {write_time(deadline)}"
    if now >= stop_at(job, lending, deadline):
        return f"no checkpoint was told; its pods get the signal to end by {write_time(deadline)}"
    return ""


def lost_chip_seconds(job: TrainingJob, now: float) -> float:
    """What stopping a job loses: its accelerators times the seconds since its last checkpoint, else since its start."""
    known = [at for at in (job.started, job.checkpointed) if at is not None]
    return job.chips * max(0.0, now - max(known)) if known else 0.0


def ask(
    job: TrainingJob, pods: Iterable[Pod], deadline: float, now: float, *, decision_id: str, only_pods: bool = False
) -> list[MergePatch]:
    """The writes that ask a job and its pods for a checkpoint by a deadline; none where that is asked already.

    Args:
        pods: the job's.
        only_pods: the job is a pod itself, or cannot be written.
    """
    text = write_time(deadline)
    found: list[MergePatch] = []
    if not only_pods and not is_asked(job, deadline):
        notes = {CHECKPOINT_BY: text, ASKED_AT: write_time(_asked_at(job, now))}
        found.append(_annotate(job.kind, job, notes, f"asked for a checkpoint by {text}", decision_id))
    found += [
        _annotate(POD, pod, {CHECKPOINT_BY: text}, f"asked for a checkpoint by {text}", decision_id)
        for pod in pods
        if not pod.deleting and pod.annotations.get(CHECKPOINT_BY) != text
    ]
    return found


def forget(job: TrainingJob, *, decision_id: str) -> MergePatch:
    """The write that takes the question back from a job that is not recalled any more."""
    return _annotate(job.kind, job, {CHECKPOINT_BY: None, ASKED_AT: None}, "no longer recalled", decision_id)


def _asked_at(job: TrainingJob, now: float) -> float:
    """When this recall began: before now where a deadline still ahead is moved (a surge has less time)."""
    moved = job.asked is not None and job.asked_at is not None and job.asked_at <= now < job.asked
    return job.asked_at if moved and job.asked_at is not None else now


def _annotate(
    kind: Kind, what: TrainingJob | Pod, notes: Mapping[str, str | None], reason: str, decision_id: str
) -> MergePatch:
    return MergePatch(
        kind=kind,
        namespace=what.namespace,
        name=what.name,
        body={"metadata": {"annotations": dict(notes)}},
        uid=what.uid,
        resource_version=what.resource_version,
        reason=reason,
        decision_id=decision_id,
    )
