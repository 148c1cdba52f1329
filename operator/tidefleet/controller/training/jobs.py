"""The jobs behind the pods on loaned nodes, and those that wait: Job, JobSet, TrainJob, PyTorchJob; a gang is one job.

A pod belongs to the outermost of its owners: a Job of a JobSet of a TrainJob is that TrainJob. A pod whose owner is of
another kind is a job of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidefleet.cluster import records
from tidefleet.cluster.kinds import JOB, JOB_SET, POD, PYTORCH_JOB, TRAIN_JOB, Kind
from tidefleet.cluster.objects import Objects
from tidefleet.cluster.records import Pod
from tidefleet.controller.training import checkpoint
from tidefleet.controller.training.lending import MINIMUM_USEFUL_SECONDS, TrainingJob
from tidefleet.controller.training.room import PodShape, holds

ELASTIC = "tidefleet.io/elastic"
"""On a Job, by its owner: "MIN-MAX", the pods that it can run with."""
MINIMUM_USEFUL = "tidefleet.io/minimum-useful-seconds"
"""On a job, by its owner: it is not started with less than this left of a loan."""

KINDS = (JOB, JOB_SET, TRAIN_JOB, PYTORCH_JOB)
_KIND = {(kind.group_version, kind.kind): kind for kind in KINDS}
_OVER = frozenset({"Complete", "Completed", "Succeeded", "Failed"})
MOST_NAMESPACES = 8
"""Above as many the jobs of all namespaces are read at once."""


@dataclass(frozen=True, slots=True)
class Book:
    """The jobs of some namespaces, as they were read.

    Attributes:
        jobs: raw objects by uid.
        kinds: what each is.
        parents: uid of the job that controls another.
    """

    jobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)

    def root(self, uid: str) -> str:
        """The uid of the outermost job that controls this one (itself, when nothing does); empty when unknown."""
        if uid not in self.jobs:
            return ""
        for _ in range(4):
            above = self.parents.get(uid, "")
            if above not in self.jobs:
                break
            uid = above
        return uid

    def children(self, uid: str) -> tuple[Mapping[str, Any], ...]:
        """The jobs that this one controls."""
        return tuple(self.jobs[child] for child, parent in self.parents.items() if parent == uid)

    def roots(self) -> tuple[str, ...]:
        """The jobs that nothing we know controls."""
        return tuple(uid for uid in self.jobs if self.root(uid) == uid)


def read(objects: Objects, namespaces: Iterable[str], *, everywhere: bool = True) -> Book:
    """Return the jobs of the namespaces; kinds that are not installed have none.

    Args:
        everywhere: whether all namespaces may be read.

    Raises:
        ApiFailed, KindAbsent, transport.Unreachable: as `Objects` does.
    """
    scopes: Sequence[str] = sorted(set(namespaces))
    if everywhere and len(scopes) > MOST_NAMESPACES:
        scopes = [""]
    found = [
        (kind, raw)
        for kind in KINDS
        if scopes and (kind == JOB or objects.exists(kind))
        for scope in scopes
        for raw in objects.list(kind, scope)
    ]
    return book(found)


def book(found: Iterable[tuple[Kind, Mapping[str, Any]]]) -> Book:
    """Return those jobs by uid."""
    jobs: dict[str, Mapping[str, Any]] = {}
    kinds: dict[str, Kind] = {}
    parents: dict[str, str] = {}
    for kind, raw in found:
        uid = _meta(raw).get("uid")
        if isinstance(uid, str) and uid:
            jobs[uid], kinds[uid] = raw, kind
            owner = controller_of(raw)
            if owner is not None:
                parents[uid] = owner[1]
    return Book(jobs, kinds, parents)


def controller_of(raw: Mapping[str, Any]) -> tuple[Kind | None, str, str] | None:
    """The (kind, uid, name) of an object's controlling owner; the kind is ``None`` for one that we do not know."""
    for one in _meta(raw).get("ownerReferences") or ():
        if isinstance(one, dict) and one.get("controller") is True:
            kind = _KIND.get((str(one.get("apiVersion")), str(one.get("kind"))))
            return kind, str(one.get("uid")), str(one.get("name"))
    return None


def group_pods(pods: Iterable[Pod], known: Book, queued: Mapping[str, str] | None = None) -> dict[str, list[Pod]]:
    """The pods that hold something, by the uid of their job (of themselves, when nothing we know owns them).

    Args:
        queued: by uid of what a queue keeps together (a job of a kind that we do not know, or one of a group of pods),
            the uid to put its pods under.
    """
    groups: dict[str, list[Pod]] = {}
    for pod in pods:
        if holds(pod):
            together = [queued[uid] for uid in (pod.owner_uid, pod.uid) if queued and uid in queued]
            key = known.root(pod.owner_uid) or (together[0] if together else pod.uid)
            groups.setdefault(key, []).append(pod)
    return groups


def job_of(uid: str, known: Book, pods: Sequence[Pod], loaned: Iterable[str]) -> TrainingJob:
    """What there is to know about a job from its object and its pods.

    Args:
        uid: the job's, of one that the book has.
        pods: those of its pods that hold something.
        loaned: names of the loaned nodes.
    """
    raw, kind = known.jobs[uid], known.kinds[uid]
    meta = _meta(raw)
    notes = _texts(meta.get("annotations"))
    running = not is_suspended(kind, raw)
    there = frozenset(loaned)
    held = sum(sum(pod.chips.values()) for pod in pods if pod.node)
    return TrainingJob(
        kind=kind,
        namespace=str(meta.get("namespace") or ""),
        name=str(meta.get("name") or ""),
        uid=uid,
        resource_version=str(meta.get("resourceVersion") or ""),
        chips=held or sum(shape.total for shape in shapes_of(uid, known)),
        nodes=frozenset(pod.node for pod in pods if pod.node in there),
        running=running,
        started=_started(raw, pods) if running else None,
        asked=checkpoint.read_time(notes.get(checkpoint.CHECKPOINT_BY)),
        asked_at=checkpoint.read_time(notes.get(checkpoint.ASKED_AT)),
        checkpointed=checkpoint.checkpointed_at([notes, *(pod.annotations for pod in pods)]),
        elastic=read_elastic(notes.get(ELASTIC)) if kind == JOB else None,
        minimum_useful_seconds=read_minimum(notes.get(MINIMUM_USEFUL)),
        termination_seconds=_termination(uid, known),
        seconds_left=_seconds_left(raw) if kind == TRAIN_JOB else None,
        created=checkpoint.read_time(meta.get("creationTimestamp")) or 0.0,
    )


def lone_pod(pod: Pod) -> TrainingJob:
    """A pod on a loaned node that belongs to nothing we know."""
    return TrainingJob(
        kind=POD,
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        resource_version=pod.resource_version,
        chips=sum(pod.chips.values()),
        nodes=frozenset({pod.node}),
        running=True,
        started=pod.created or None,
        asked=checkpoint.read_time(pod.annotations.get(checkpoint.CHECKPOINT_BY)),
        checkpointed=checkpoint.checkpointed_at([pod.annotations]),
        created=pod.created,
    )


def is_suspended(kind: Kind, raw: Mapping[str, Any]) -> bool:
    """Whether a job is suspended by its spec."""
    spec = _dict(raw.get("spec"))
    return (_dict(spec.get("runPolicy")) if kind == PYTORCH_JOB else spec).get("suspend") is True


def suspend_body(kind: Kind, *, suspend: bool) -> dict[str, Any]:
    """The part of a merge patch that suspends a job, or starts it."""
    spec: dict[str, Any] = {"suspend": suspend}
    return {"runPolicy": spec} if kind == PYTORCH_JOB else spec


def is_over(raw: Mapping[str, Any]) -> bool:
    """Whether a job has succeeded or failed, or is being deleted."""
    status = _dict(raw.get("status"))
    done = any(
        one.get("type") in _OVER and one.get("status") == "True"
        for one in status.get("conditions") or ()
        if isinstance(one, dict)
    )
    return done or bool(status.get("terminalState")) or bool(_meta(raw).get("deletionTimestamp"))


def templates_of(uid: str, known: Book) -> list[tuple[int, Mapping[str, Any]]]:
    """The (number of pods, pod template) of each part of a job; those of a TrainJob are in the JobSet it controls."""
    raw, kind = known.jobs[uid], known.kinds[uid]
    spec = _dict(raw.get("spec"))
    if kind == JOB:
        done = _int(_dict(raw.get("status")).get("succeeded"), 0)
        return [(_pods_of_job(spec, done), _dict(spec.get("template")))]
    if kind == JOB_SET:
        return [
            (_int(one.get("replicas"), 1) * _pods_of_job(job), _dict(job.get("template")))
            for one in spec.get("replicatedJobs") or ()
            if isinstance(one, dict)
            for job in [_dict(_dict(one.get("template")).get("spec"))]
        ]
    if kind == PYTORCH_JOB:
        return [
            (_int(one.get("replicas"), 1), _dict(one.get("template")))
            for one in _dict(spec.get("pytorchReplicaSpecs")).values()
            if isinstance(one, dict)
        ]
    return [part for child in known.children(uid) for part in templates_of(str(_meta(child).get("uid")), known)]


def shapes_of(uid: str, known: Book) -> list[PodShape]:
    """The pods of a job that hold accelerators."""
    found = []
    for count, template in templates_of(uid, known):
        pod = records.pod({"spec": template.get("spec")})
        if count > 0 and pod.chips:
            found.append(PodShape(count, pod.chips, pod.node_selector))
    return found


def read_elastic(text: str | None) -> tuple[int, int] | None:
    """The least and most pods of "MIN-MAX"; ``None`` for anything else."""
    least, _, most = (text or "").partition("-")
    if not (least.strip().isdecimal() and most.strip().isdecimal()) or len(text or "") > 20:
        return None
    found = int(least), int(most)
    return found if 1 <= found[0] <= found[1] else None


def read_minimum(text: str | None) -> float:
    """The seconds of that annotation; the default for anything but a whole number of at most a week."""
    if text is None or not text.isdecimal() or len(text) > 6:
        return MINIMUM_USEFUL_SECONDS
    return min(float(text), 604_800.0)


def _pods_of_job(spec: Mapping[str, Any], done: int = 0) -> int:
    """The pods that run at once: without ``completions`` the first success ends a Job."""
    parallelism, completions = _int(spec.get("parallelism"), 1), spec.get("completions")
    return max(0, min(parallelism, completions - done)) if isinstance(completions, int) else parallelism


def _started(raw: Mapping[str, Any], pods: Sequence[Pod]) -> float | None:
    told = checkpoint.read_time(_dict(raw.get("status")).get("startTime"))
    if told is not None:
        return told
    return min((pod.created for pod in pods if pod.created), default=None)


def _termination(uid: str, known: Book) -> float:
    graces = [
        _int(_dict(template.get("spec")).get("terminationGracePeriodSeconds"), 30)
        for _, template in templates_of(uid, known)
    ]
    return float(max(graces, default=30))


def _seconds_left(raw: Mapping[str, Any]) -> float | None:
    """``status.trainerStatus.estimatedRemainingSeconds`` of Kubeflow Trainer's KEP-2779, where it is reported."""
    found = _dict(_dict(raw.get("status")).get("trainerStatus")).get("estimatedRemainingSeconds")
    return float(found) if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def _meta(raw: Mapping[str, Any]) -> dict[str, Any]:
    return _dict(raw.get("metadata"))


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> dict[str, str]:
    return {key: text for key, text in _dict(value).items() if isinstance(text, str)}


def _int(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default
