"""Training through Kueue: quota for verified nodes, an admission check that holds jobs back, recall of one Workload.

What a loan is worth to Kueue is the quota of one Cohort, which only we write. Quota alone is not enough: Kueue counts
it as free as soon as pods *begin* to end, and an evicted job may reserve it again at once. So every Workload also needs
our admission check, which is Ready only when its pods fit onto verified nodes that nothing holds any more, and whose
loan lasts long enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tidefleet.cluster.kinds import (
    ADMISSION_CHECK,
    CLUSTER_QUEUE,
    COHORT,
    KUEUE_WORKLOAD,
    LOCAL_QUEUE,
    RESOURCE_FLAVOR,
    Kind,
)
from tidefleet.cluster.labels import POOL_LABEL
from tidefleet.cluster.objects import ApiFailed, KindAbsent, Objects
from tidefleet.cluster.records import Pod
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import Apply, Create, Delete, MergePatch, Write
from tidefleet.controller.training import checkpoint, jobs, leaving
from tidefleet.controller.training import kueue_objects as kueue
from tidefleet.controller.training import kueue_plan as plan
from tidefleet.controller.training.kueue_objects import Entry
from tidefleet.controller.training.lending import (
    Fault,
    FaultReason,
    Lending,
    Stop,
    TrainingJob,
    TrainingSeen,
)
from tidefleet.controller.training.room import Room, holds, room_on

SETTLED_SECONDS = 10.0
"""A ClusterQueue becomes active a moment after the flavors and the check that it names are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Detail:
    """What was read, raw. ``kueue`` says whether Kueue is installed."""

    kueue: bool = False
    queue: Mapping[str, Any] | None = None
    cohort: Mapping[str, Any] | None = None
    check: Mapping[str, Any] | None = None
    flavors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    pods: tuple[Pod, ...] = ()
    groups: Mapping[str, Sequence[Pod]] = field(default_factory=dict)
    job_of: Mapping[str, TrainingJob] = field(default_factory=dict)
    """By uid of the Workload."""
    in_cohort: bool = False


class KueueTrainer:
    """A `Trainer` for pools whose queue is Kueue's.

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

    # ------------------------------------------------------------------ looking

    def look(self, lending: Lending, pods: Iterable[Pod], now: float) -> TrainingSeen:
        """See `Trainer.look`."""
        there = tuple(pod for pod in pods if pod.node and holds(pod))
        try:
            if not self._objects.exists(KUEUE_WORKLOAD):
                return self._without_kueue(lending, there)
            return self._look(lending, there)
        except KindAbsent:
            return self._without_kueue(lending, there)
        except (ApiFailed, Unreachable) as error:
            message = f"{_pool(lending)}: its training queue cannot be read: {str(error)[:500]}"
            fault = Fault(FaultReason.QUEUE_UNREADABLE, message)
            return TrainingSeen(faults=(fault,), readable=False, detail=_Detail(pods=there))

    def _look(self, lending: Lending, there: tuple[Pod, ...]) -> TrainingSeen:
        get = self._objects.get
        name = lending.queue.cluster_queue or ""
        queue = get(CLUSTER_QUEUE, None, name) if name else None
        cohort = get(COHORT, None, kueue.cohort_name(lending.pool))
        check = get(ADMISSION_CHECK, None, kueue.CHECK)
        names = [kueue.flavor_name(one.accelerator) for one in lending.all_types]
        flavors = {one: raw for one in names if (raw := get(RESOURCE_FLAVOR, None, one)) is not None}
        entries = self._entries(name)
        known = jobs.read(
            self._objects,
            _namespaces_on(lending, there) | {one.namespace for one in entries},
            everywhere=self._namespaces is None,
        )
        queued = {uid: one.owner or one.uid for one in entries for uid in one.members}
        groups = jobs.group_pods(there, known, queued)
        settled = self._is_settled(check, flavors.values())
        faults = kueue.faults_of_queue(name, queue, lending, settled=settled)
        taken = [(RESOURCE_FLAVOR, raw) for raw in flavors.values()]
        taken += [(kind, raw) for kind, raw in ((COHORT, cohort), (ADMISSION_CHECK, check)) if raw is not None]
        faults += [_name_taken(kind, raw) for kind, raw in taken if not kueue.is_ours(raw)]
        in_cohort = ((queue or {}).get("spec") or {}).get("cohortName") == kueue.cohort_name(lending.pool)
        room = room_on(lending.nodes, there)
        job_of = {one.uid: _job(one, known, groups, lending, room) for one in entries}
        detail = _Detail(
            kueue=True,
            queue=queue,
            cohort=cohort,
            check=check,
            flavors=flavors,
            entries=tuple(entries),
            pods=there,
            groups=groups,
            job_of=job_of,
            in_cohort=in_cohort,
        )
        published = {one.accelerator: 0 for one in lending.all_types} | kueue.quota_of(cohort)
        faults += _quota_faults(lending, detail, published) + self._stuck_faults(entries)
        return TrainingSeen(
            jobs=_all_jobs(lending, known, detail),
            faults=tuple(faults),
            admission_stopped=not any(published.values()),
            published_chips=published,
            detail=detail,
        )

    def _without_kueue(self, lending: Lending, there: tuple[Pod, ...]) -> TrainingSeen:
        fault = Fault(
            FaultReason.KUEUE_ABSENT,
            f"{_pool(lending)}: spec.flipping.training.queue.kind is Kueue, but the API server does not serve "
            f"{KUEUE_WORKLOAD.kind} ({KUEUE_WORKLOAD.group_version}); expected Kueue 0.16 or later, or kind: Suspend",
        )
        known = jobs.read(self._objects, _namespaces_on(lending, there), everywhere=self._namespaces is None)
        detail = _Detail(pods=there, groups=jobs.group_pods(there, known))
        return TrainingSeen(jobs=_all_jobs(lending, known, detail), faults=(fault,), detail=detail)

    def _entries(self, queue: str) -> list[Entry]:
        """The Workloads that the ClusterQueue has, or will have by their LocalQueue; those that are over are not."""
        scopes = self._namespaces if self._namespaces is not None else [""]
        locals_ = {
            (str(one["metadata"].get("namespace")), str(one["metadata"].get("name")))
            for scope in scopes
            for one in self._objects.list(LOCAL_QUEUE, scope)
            if (one.get("spec") or {}).get("clusterQueue") == queue
        }
        found = [kueue.entry(raw) for scope in scopes for raw in self._objects.list(KUEUE_WORKLOAD, scope)]
        return [
            one
            for one in found
            if not one.finished
            and (one.cluster_queue == queue if one.cluster_queue else (one.namespace, one.queue) in locals_)
        ]

    def _is_settled(self, check: Mapping[str, Any] | None, flavors: Iterable[Mapping[str, Any]]) -> bool:
        """Whether what the ClusterQueue refers to was there long enough for Kueue to have seen it."""
        made = [
            checkpoint.read_time((raw.get("metadata") or {}).get("creationTimestamp"))
            for raw in (check or {}, *flavors)
        ]
        return all(at is not None and self._real() - at > SETTLED_SECONDS for at in made)

    def _stuck_faults(self, entries: Iterable[Entry]) -> list[Fault]:
        return [
            Fault(
                FaultReason.WORKLOAD_STUCK,
                f"Workload {one.namespace}/{one.name}: its check {kueue.CHECK} says Retry since "
                f"{checkpoint.write_time(one.state_since)} and Kueue has not put it back to Pending; expected that "
                "within a second; it is deactivated (spec.active: false) until there is room again",
            )
            for one in entries
            if plan.is_stuck(one, self._real())
        ]

    # ------------------------------------------------------------------ writing

    def writes(self, lending: Lending, seen: TrainingSeen, now: float, *, decision_id: str) -> list[Write]:
        """See `Trainer.writes`."""
        detail = seen.detail if isinstance(seen.detail, _Detail) else _Detail()
        found: list[Write] = []
        if seen.readable and detail.kueue:
            found += self._publish(lending, detail, decision_id)
        if seen.readable:
            found += leaving.asks(lending, seen.jobs, detail.groups, now, decision_id=decision_id)
        if seen.readable and detail.kueue:
            decided = self._decide(lending, detail, now)
            found += [
                self._workload(one, decided[one.uid], decision_id) for one in detail.entries if one.uid in decided
            ]
        late = [(pod, leaving.why_late(node)) for pod, node in leaving.overdue(lending, detail.pods, now)]
        return found + leaving.evictions(late, real_now=self._real(), decision_id=decision_id)

    def stops(self, lending: Lending, seen: TrainingSeen, now: float) -> Mapping[str, Stop]:
        """See `Trainer.stops`."""
        detail = seen.detail if isinstance(seen.detail, _Detail) else _Detail()
        if not seen.readable:
            return {}
        decided = self._decide(lending, detail, now) if detail.kueue else {}
        found = {
            uid: action.stop
            for uid, action in decided.items()
            if not isinstance(action, plan.Unpark) and action.stop is not None
        }
        managed = {job.uid for job in detail.job_of.values()}
        return found | leaving.stops_of_strangers(lending, seen, detail.pods, detail.groups, managed, now=now)

    def _publish(self, lending: Lending, detail: _Detail, decision_id: str) -> list[Write]:
        """Flavors and check that the ClusterQueue refers to, then the quota: the first thing that a recall lowers."""
        found: list[Write] = []
        for one in lending.all_types:
            name = kueue.flavor_name(one.accelerator)
            spec = kueue.flavor_spec(one)
            found += _ensure(RESOURCE_FLAVOR, name, spec, detail.flavors.get(name), decision_id)
        spec = {"controllerName": kueue.CHECK_CONTROLLER}
        found += _ensure(ADMISSION_CHECK, kueue.CHECK, spec, detail.check, decision_id)
        check = detail.check
        if check is not None and kueue.is_ours(check) and kueue.condition(check, "Active").get("status") != "True":
            active = {
                "type": "Active",
                "status": "True",
                "reason": "Watched",
                "message": "tidefleet decides about each Workload",
                "lastTransitionTime": checkpoint.write_time(self._real()),
            }
            body = {"status": {"conditions": [active]}}
            found.append(
                MergePatch(
                    kind=ADMISSION_CHECK,
                    namespace="",
                    name=kueue.CHECK,
                    body=body,
                    uid=str(check["metadata"]["uid"]),
                    resource_version=str(check["metadata"]["resourceVersion"]),
                    reason="each Workload is decided about",
                    decision_id=decision_id,
                    subresource="status",
                )
            )
        spec = {"resourceGroups": kueue.quota_groups(lending)}
        return found + _ensure(COHORT, kueue.cohort_name(lending.pool), spec, detail.cohort, decision_id)

    def _decide(self, lending: Lending, detail: _Detail, now: float) -> dict[str, plan.Action]:
        return plan.decide(
            lending,
            detail.entries,
            detail.job_of,
            detail.groups,
            now=now,
            real_now=self._real(),
            in_cohort=detail.in_cohort,
            borrows_only=not kueue.own_quota(detail.queue),
        )

    def _workload(self, one: Entry, action: plan.Action, decision_id: str) -> Write:
        subresource = ""
        match action:
            case plan.SetCheck(state, message):
                body, why = kueue.with_state(one, state, message, self._real()), message
                subresource = "status"
            case plan.Park(why):
                notes = {kueue.PARKED: checkpoint.write_time(self._real())}
                body = {"metadata": {"annotations": notes}, "spec": {"active": False}}
            case plan.Unpark(why):
                body = {"metadata": {"annotations": {kueue.PARKED: None}}, "spec": {"active": True}}
        return MergePatch(
            kind=KUEUE_WORKLOAD,
            namespace=one.namespace,
            name=one.name,
            body=body,
            uid=one.uid,
            resource_version=one.resource_version,
            reason=why,
            decision_id=decision_id,
            subresource=subresource,
        )


def abandoned(objects: Objects, pools: Collection[tuple[str, str]], *, decision_id: str) -> list[Write]:
    """The deletions of our Cohorts that stand for no pool any more; none without Kueue.

    Args:
        pools: (namespace, name) of every pool that lends through Kueue.

    Raises:
        ApiFailed, transport.Unreachable: as `Objects` does.
    """
    try:
        cohorts = objects.list(COHORT) if objects.exists(COHORT) else []
    except KindAbsent:
        return []
    wanted = {kueue.cohort_name(pool) for pool in pools}
    return [
        Delete(
            kind=COHORT,
            namespace="",
            name=str(raw["metadata"]["name"]),
            uid=str(raw["metadata"]["uid"]),
            resource_version=str(raw["metadata"]["resourceVersion"]),
            reason="its pool lends nothing through Kueue",
            decision_id=decision_id,
        )
        for raw in cohorts
        if kueue.is_ours(raw) and raw["metadata"]["name"] not in wanted and not raw["metadata"].get("deletionTimestamp")
    ]


def _job(
    one: Entry, known: jobs.Book, groups: Mapping[str, Sequence[Pod]], lending: Lending, room: Room
) -> TrainingJob:
    uid = known.root(one.owner) or one.owner or one.uid
    found = plan.job_of_entry(uid, one, known, groups.get(uid, ()), [node.name for node in lending.nodes])
    if found.running or plan.fits(one, room, 0.0):
        return found
    return replace(found, expected_start=lending.next_window)


def _all_jobs(lending: Lending, known: jobs.Book, detail: _Detail) -> tuple[TrainingJob, ...]:
    """The jobs of the queue, and whatever else is on the loaned nodes."""
    loaned = {node.name for node in lending.nodes}
    found = {job.uid: job for job in detail.job_of.values()}
    for uid, pods in detail.groups.items():
        if uid in found or not any(pod.node in loaned for pod in pods):
            continue
        if uid in known.jobs:
            found[uid] = jobs.job_of(uid, known, pods, loaned)
        else:
            lone = [pod for pod in pods if pod.chips and POOL_LABEL not in pod.labels]
            found |= {pod.uid: jobs.lone_pod(pod) for pod in lone}
    return tuple(sorted(found.values(), key=lambda one: (one.namespace, one.name, one.uid)))


def _namespaces_on(lending: Lending, pods: Iterable[Pod]) -> set[str]:
    loaned = {node.name for node in lending.nodes}
    return {pod.namespace for pod in pods if pod.node in loaned and pod.chips}


def _quota_faults(lending: Lending, detail: _Detail, published: Mapping[str, int]) -> list[Fault]:
    """Usage above quota, unless a recall is under way, which is just that for a while."""
    if any(node.recall_by is not None for node in lending.nodes) or not detail.in_cohort:
        return []
    wanted = lending.open_chips()
    return [
        Fault(
            FaultReason.QUOTA_BELOW_USAGE,
            f"ClusterQueue {lending.queue.cluster_queue}: {used} accelerators of {kueue.flavor_name(accelerator)} are "
            f"reserved, but {min(published.get(accelerator, 0), wanted.get(accelerator, 0))} are verified and on loan; "
            "expected no more than that. Nothing is let in until jobs end; to free them sooner, deactivate a Workload, "
            "e.g. spec.active: false",
        )
        for accelerator, used in sorted(kueue.reserved_of(detail.entries).items())
        if used > min(published.get(accelerator, 0), wanted.get(accelerator, 0))
    ]


def _name_taken(kind: Kind, raw: Mapping[str, Any]) -> Fault:
    name = str((raw.get("metadata") or {}).get("name"))
    labels = ", ".join(f"{key}: {value}" for key, value in kueue.OURS.items())
    return Fault(
        FaultReason.NAME_TAKEN,
        f"{kind.kind} {name} exists and is not ours: it lacks the label {labels}; nothing is written to it. Expected "
        "none of that name: delete it, or give it that label",
    )


def _ensure(
    kind: Kind, name: str, spec: Mapping[str, Any], raw: Mapping[str, Any] | None, decision_id: str
) -> list[Write]:
    """The write that makes an object of ours say this; none when it does, or when it is another's."""
    if raw is None:
        body = {"metadata": {"name": name, "labels": dict(kueue.OURS)}, "spec": spec}
        return [Create(kind=kind, body=body, reason=f"{kind.kind} {name} is missing", decision_id=decision_id)]
    meta = raw.get("metadata") or {}
    there = raw.get("spec") or {}
    if not kueue.is_ours(raw) or meta.get("deletionTimestamp"):
        return []
    if all(there.get(key, type(value)()) == value for key, value in spec.items()):
        return []
    return [
        Apply(
            kind=kind,
            namespace="",
            name=name,
            body={"metadata": {"labels": dict(kueue.OURS)}, "spec": spec},
            uid=str(meta.get("uid")),
            resource_version=str(meta.get("resourceVersion")),
            reason=f"{kind.kind} {name} says something else",
            decision_id=decision_id,
            force=True,
        )
    ]


def _pool(lending: Lending) -> str:
    return f"InferencePool {lending.pool[0]}/{lending.pool[1]}"
