"""Training without a queue: jobs are suspended and started by ``spec.suspend``, whole sets at a time.

What we suspend carries our mark, and only what carries it is ever started: the suspension of a human is not undone. The
jobs that the pool's selector finds are started onto verified nodes with enough of the loan left, by priority and then
by age; one that was created unsuspended while there is no room for it is suspended, and waits its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tidefleet.api.flipping import LabelSelector, SelectorOperator
from tidefleet.cluster import records
from tidefleet.cluster.kinds import JOB, PRIORITY_CLASS, Kind
from tidefleet.cluster.labels import POOL_LABEL
from tidefleet.cluster.objects import ApiFailed, KindAbsent, Objects
from tidefleet.cluster.records import Pod
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import MergePatch, Write
from tidefleet.controller.training import jobs, leaving
from tidefleet.controller.training import suspend_plan as plan
from tidefleet.controller.training.lending import (
    Fault,
    FaultReason,
    Lending,
    Stop,
    TrainingJob,
    TrainingSeen,
)
from tidefleet.controller.training.room import holds
from tidefleet.controller.training.suspend_plan import MARK, MARKED, Candidate

KUEUE_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Detail:
    candidates: tuple[Candidate, ...] = ()
    pods: tuple[Pod, ...] = ()
    groups: Mapping[str, Sequence[Pod]] = field(default_factory=dict)


class SuspendTrainer:
    """A `Trainer` for pools whose queue is a selector of jobs in the pool's namespace.

    Args:
        objects: reads.
        namespaces: those that may be read; ``None`` for all.
        real: Unix seconds as the API server has them.
    """

    def __init__(
        self,
        objects: Objects,
        *,
        namespaces: Sequence[str] | None = None,
        real: Callable[[], float] = time.time,
    ) -> None:
        self._objects = objects
        self._namespaces = namespaces
        self._real = real

    def look(self, lending: Lending, pods: Iterable[Pod], now: float) -> TrainingSeen:
        """See `Trainer.look`."""
        there = tuple(pod for pod in pods if pod.node and holds(pod))
        try:
            return self._look(lending, there)
        except (ApiFailed, KindAbsent, Unreachable) as error:
            message = f"InferencePool {lending.pool[0]}/{lending.pool[1]}: its jobs cannot be read: {str(error)[:500]}"
            fault = Fault(FaultReason.QUEUE_UNREADABLE, message)
            return TrainingSeen(faults=(fault,), readable=False, detail=_Detail(pods=there))

    def _look(self, lending: Lending, there: tuple[Pod, ...]) -> TrainingSeen:
        loaned = {node.name for node in lending.nodes}
        spaces = {pod.namespace for pod in there if pod.node in loaned and pod.chips} | {lending.pool[0]}
        known = jobs.read(self._objects, spaces, everywhere=self._namespaces is None)
        groups = jobs.group_pods(there, known)
        selector = lending.queue.selector or LabelSelector()
        chosen = [
            uid
            for uid in known.roots()
            if _meta(known.jobs[uid]).get("namespace") == lending.pool[0]
            and not jobs.is_over(known.jobs[uid])
            and matches(selector, _labels(known.jobs[uid]))
        ]
        priorities = self._priorities(chosen, known)
        found: list[Candidate] = []
        faults: list[Fault] = []
        for uid in chosen:
            one = _candidate(uid, known, groups.get(uid, ()), lending, priorities)
            found.append(one)
            if one.managed:
                faults.append(_managed(one))
        seen = {one.job.uid: one.job for one in found}
        for uid, group in groups.items():
            if uid in seen or not any(pod.node in loaned for pod in group):
                continue
            if uid in known.jobs:
                seen[uid] = jobs.job_of(uid, known, group, loaned)
            else:
                lone = [pod for pod in group if pod.chips and POOL_LABEL not in pod.labels]
                seen |= {pod.uid: jobs.lone_pod(pod) for pod in lone}
        chips = lending.open_chips()
        return TrainingSeen(
            jobs=tuple(sorted(seen.values(), key=lambda one: (one.namespace, one.name, one.uid))),
            faults=tuple(faults),
            admission_stopped=not any(chips.values()),
            published_chips=chips,
            detail=_Detail(candidates=tuple(found), pods=there, groups=groups),
        )

    def _priorities(self, uids: Iterable[str], known: jobs.Book) -> Mapping[str, int]:
        """The values of PriorityClasses, when a job names one; none where they may not be read."""
        named = {
            str((template.get("spec") or {}).get("priorityClassName") or "")
            for uid in uids
            for _, template in jobs.templates_of(uid, known)
        }
        if not named - {""}:
            return {}
        try:
            classes = self._objects.list(PRIORITY_CLASS)
        except ApiFailed:
            return {}
        return {str(_meta(one).get("name")): value for one in classes if isinstance(value := one.get("value"), int)}

    def writes(self, lending: Lending, seen: TrainingSeen, now: float, *, decision_id: str) -> list[Write]:
        """See `Trainer.writes`."""
        detail = seen.detail if isinstance(seen.detail, _Detail) else _Detail()
        found: list[Write] = []
        late = [(pod, leaving.why_late(node)) for pod, node in leaving.overdue(lending, detail.pods, now)]
        if seen.readable:
            decided = plan.decide(lending, detail.candidates, detail.groups, now=now)
            # A job is written to once in a pass: the next write would be refused, its version being old.
            asked = [job for job in seen.jobs if job.uid not in decided.writes]
            found += leaving.asks(lending, asked, detail.groups, now, decision_id=decision_id)
            for one in detail.candidates:
                if one.job.uid in decided.writes:
                    found.append(_patch(one.job, decided.writes[one.job.uid], decision_id))
            late_pods = {pod.uid for pod, _ in late}
            gentle = [(pod, why) for pod, why in decided.leave if pod.uid not in late_pods]
            found += leaving.gentle_evictions(gentle, decision_id=decision_id)
        return found + leaving.evictions(late, real_now=self._real(), decision_id=decision_id)

    def stops(self, lending: Lending, seen: TrainingSeen, now: float) -> Mapping[str, Stop]:
        """See `Trainer.stops`."""
        detail = seen.detail if isinstance(seen.detail, _Detail) else _Detail()
        if not seen.readable:
            return {}
        decided = plan.decide(lending, detail.candidates, detail.groups, now=now)
        found = {uid: one.stop for uid, one in decided.writes.items() if one.stop is not None}
        ours = {one.job.uid for one in detail.candidates if not one.managed}
        return found | leaving.stops_of_strangers(lending, seen, detail.pods, detail.groups, ours, now=now)


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether labels meet a label selector."""
    if not selector.match_labels.items() <= labels.items():
        return False
    for one in selector.match_expressions:
        value = labels.get(one.key)
        match one.operator:
            case SelectorOperator.IN:
                holds_ = value in one.values
            case SelectorOperator.NOT_IN:
                holds_ = value not in one.values
            case SelectorOperator.EXISTS:
                holds_ = value is not None
            case SelectorOperator.DOES_NOT_EXIST:
                holds_ = value is None
        if not holds_:
            return False
    return True


def _candidate(
    uid: str, known: jobs.Book, pods: Sequence[Pod], lending: Lending, priorities: Mapping[str, int]
) -> Candidate:
    raw, kind = known.jobs[uid], known.kinds[uid]
    templates = jobs.templates_of(uid, known)
    job = jobs.job_of(uid, known, pods, [node.name for node in lending.nodes])
    classes = [str((template.get("spec") or {}).get("priorityClassName") or "") for _, template in templates]
    marked = (_meta(raw).get("annotations") or {}).get(MARK) == MARKED
    managed = KUEUE_QUEUE_LABEL in _labels(raw) or (raw.get("spec") or {}).get("managedBy") not in (
        None,
        "kubernetes.io/job-controller",
        "jobset.sigs.k8s.io/jobset-controller",
        "trainer.kubeflow.org/trainjob-controller",
    )
    unconfined = plan.why_unconfined(
        template for _, template in templates if records.pod({"spec": template.get("spec")}).chips
    )
    one = Candidate(
        job=replace(job, priority=max((priorities.get(name, 0) for name in classes), default=0)),
        shapes=tuple(jobs.shapes_of(uid, known)),
        suspended=jobs.is_suspended(kind, raw),
        marked=marked,
        managed=managed,
        unconfined=unconfined,
        parallelism=_parallelism(kind, raw),
    )
    return replace(one, job=replace(one.job, **_words(one, lending)))


def _words(one: Candidate, lending: Lending) -> dict[str, Any]:
    """Why a job waits, and until when as far as is known."""
    if not one.suspended:
        return {}
    if one.managed:
        return {"waiting_why": "somebody else's: another controller manages it"}
    if not one.marked:
        why = f"suspended by somebody else; to have it started on loaned nodes annotate it with {MARK}: {MARKED}"
        return {"waiting_why": why}
    if one.unconfined:
        return {"waiting_why": one.unconfined}
    return {"waiting_why": "waits for nodes on loan", "expected_start": lending.next_window}


def _managed(one: Candidate) -> Fault:
    return Fault(
        FaultReason.MANAGED_BY_ANOTHER,
        f"{one.job}: another controller manages it (label {KUEUE_QUEUE_LABEL} or spec.managedBy) and would undo a "
        "suspension; expected a job without these, or spec.flipping.training.queue.kind: Kueue. It is not started or "
        "suspended; on a recalled node its pods are evicted when the grace is over",
    )


def _parallelism(kind: Kind, raw: Mapping[str, Any]) -> int:
    value = (raw.get("spec") or {}).get("parallelism", 1)
    return value if kind == JOB and isinstance(value, int) else 0


def _patch(job: TrainingJob, write: plan.JobWrite, decision_id: str) -> Write:
    body: dict[str, Any] = {}
    if write.notes:
        body["metadata"] = {"annotations": dict(write.notes)}
    if write.suspend is not None:
        body["spec"] = jobs.suspend_body(job.kind, suspend=write.suspend)
    if write.parallelism is not None:
        body["spec"] = {"parallelism": write.parallelism}
    return MergePatch(
        kind=job.kind,
        namespace=job.namespace,
        name=job.name,
        body=body,
        uid=job.uid,
        resource_version=job.resource_version,
        reason=write.why,
        decision_id=decision_id,
    )


def _meta(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = raw.get("metadata")
    return found if isinstance(found, dict) else {}


def _labels(raw: Mapping[str, Any]) -> dict[str, str]:
    found = _meta(raw).get("labels")
    return {key: text for key, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}
