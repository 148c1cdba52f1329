"""Kueue's objects as we read and write them (``kueue.x-k8s.io/v1beta2``), and what can be wrong with a ClusterQueue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidefleet.cluster import records
from tidefleet.cluster.labels import DUTY_LABEL
from tidefleet.controller.training import checkpoint
from tidefleet.controller.training.lending import Fault, FaultReason, Lending, LoanType
from tidefleet.controller.training.room import DUTY_TRAINING, PodShape

CHECK = "tidefleet-loan"
CHECK_CONTROLLER = "tidefleet.io/loan"
FLAVOR_PREFIX = "loan-"
OURS = {"app.kubernetes.io/managed-by": "tidefleet"}
PARKED = "tidefleet.io/parked"
"""On a Workload that we deactivated (``spec.active``), so that nobody else's deactivation is ever undone."""
_SAID = 400


def flavor_name(accelerator: str) -> str:
    """The ResourceFlavor of a type of accelerator on loan."""
    return f"{FLAVOR_PREFIX}{accelerator}"


def cohort_name(pool: tuple[str, str]) -> str:
    """The Cohort whose quota is what a pool lends."""
    return f"tidefleet-{pool[0]}-{pool[1]}"


def flavor_spec(of: LoanType) -> dict[str, Any]:
    """What a ResourceFlavor of a type says: its nodes while they train, and the toleration of their taint."""
    return {
        "nodeLabels": {**of.selector, DUTY_LABEL: DUTY_TRAINING},
        "nodeTaints": [{"key": DUTY_LABEL, "value": DUTY_TRAINING, "effect": "NoSchedule"}],
        "tolerations": [{"key": DUTY_LABEL, "operator": "Equal", "value": DUTY_TRAINING, "effect": "NoSchedule"}],
    }


def quota_groups(lending: Lending) -> list[dict[str, Any]]:
    """``spec.resourceGroups`` of the Cohort: the open accelerators of each type; one group for each resource."""
    chips = lending.open_chips()
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in lending.all_types:
        quota = {"name": one.resource, "nominalQuota": str(chips[one.accelerator])}
        groups.setdefault(one.resource, []).append({"name": flavor_name(one.accelerator), "resources": [quota]})
    return [{"coveredResources": [resource], "flavors": groups[resource]} for resource in sorted(groups)]


def quota_of(raw: Mapping[str, Any] | None) -> dict[str, int]:
    """The accelerators that a Cohort or ClusterQueue has of its own, by type on loan."""
    found: dict[str, int] = {}
    for group in _dicts(_dict((raw or {}).get("spec")).get("resourceGroups")):
        for flavor in _dicts(group.get("flavors")):
            name = str(flavor.get("name"))
            if name.startswith(FLAVOR_PREFIX):
                devices = [one for one in _dicts(flavor.get("resources")) if records.is_extended(str(one.get("name")))]
                total = sum(records.quantity(one.get("nominalQuota")) for one in devices)
                accelerator = name.removeprefix(FLAVOR_PREFIX)
                found[accelerator] = found.get(accelerator, 0) + total
    return found


def is_ours(raw: Mapping[str, Any]) -> bool:
    """Whether an object carries the label that we create ours with."""
    labels = _dict(_dict(raw.get("metadata")).get("labels"))
    return OURS.items() <= labels.items()


def condition(raw: Mapping[str, Any], type_: str) -> dict[str, Any]:
    """A condition of an object's status; empty when it has none of that type."""
    for one in _dicts(_dict(raw.get("status")).get("conditions")):
        if one.get("type") == type_:
            return one
    return {}


@dataclass(frozen=True, slots=True)
class Entry:
    """A Workload: what Kueue makes of one job.

    Attributes:
        queue: its LocalQueue.
        cluster_queue: that which has reserved quota for it; empty while none has.
        owner: uid of the job; empty for a group of pods.
        members: uids of all its owners, which are the pods of such a group.
        shapes: its pods that hold accelerators, with the loaned type that was chosen for them.
        loaned: whether any of them is on a loaned type.
        checks: ``status.admissionChecks`` as it is.
        parked: whether we deactivated it.
        waiting: what Kueue says of a Workload without quota.
    """

    namespace: str
    name: str
    uid: str
    resource_version: str
    annotations: Mapping[str, str]
    queue: str
    cluster_queue: str
    owner: str
    members: tuple[str, ...]
    active: bool
    priority: int
    created: float
    finished: bool
    reserved: bool
    admitted: bool
    admitted_at: float | None
    evicted: bool
    shapes: tuple[PodShape, ...]
    loaned: bool
    checks: tuple[Mapping[str, Any], ...]
    parked: bool
    waiting: str

    @property
    def check(self) -> Mapping[str, Any]:
        """The state of our check; empty when the Workload does not have it."""
        return next((one for one in self.checks if one.get("name") == CHECK), {})

    @property
    def state(self) -> str:
        """Pending, Ready, Retry or Rejected; empty without our check."""
        return str(self.check.get("state") or "")

    @property
    def state_since(self) -> float:
        """Unix seconds (of the API server's clock)."""
        return checkpoint.read_time(self.check.get("lastTransitionTime")) or 0.0

    @property
    def chips(self) -> int:
        """Accelerators that it wants."""
        return sum(shape.total for shape in self.shapes)


def entry(raw: Mapping[str, Any]) -> Entry:
    """Return what we need of a Workload; whatever is missing reads as absent."""
    meta, spec, status = _dict(raw.get("metadata")), _dict(raw.get("spec")), _dict(raw.get("status"))
    admission = _dict(status.get("admission"))
    chosen = {str(one.get("name")): one for one in _dicts(admission.get("podSetAssignments"))}
    shapes = [shape for one in _dicts(spec.get("podSets")) for shape in _shapes(one, chosen)]
    owners = _dicts(meta.get("ownerReferences"))
    reserved, admitted = condition(raw, "QuotaReserved"), condition(raw, "Admitted")
    priority = spec.get("priority")
    notes = {key: text for key, text in _dict(meta.get("annotations")).items() if isinstance(text, str)}
    return Entry(
        namespace=str(meta.get("namespace") or ""),
        name=str(meta.get("name") or ""),
        uid=str(meta.get("uid") or ""),
        resource_version=str(meta.get("resourceVersion") or ""),
        annotations=notes,
        queue=str(spec.get("queueName") or ""),
        cluster_queue=str(admission.get("clusterQueue") or ""),
        owner=next((str(one.get("uid")) for one in owners if one.get("controller") is True), ""),
        members=tuple(str(one.get("uid")) for one in owners if one.get("uid")),
        active=spec.get("active") is not False,
        priority=priority if isinstance(priority, int) else 0,
        created=checkpoint.read_time(meta.get("creationTimestamp")) or 0.0,
        finished=condition(raw, "Finished").get("status") == "True",
        reserved=reserved.get("status") == "True",
        admitted=admitted.get("status") == "True",
        admitted_at=checkpoint.read_time(admitted.get("lastTransitionTime")),
        evicted=condition(raw, "Evicted").get("status") == "True",
        shapes=tuple(shapes),
        loaned=any(shape.accelerator for shape in shapes),
        checks=tuple(_dicts(status.get("admissionChecks"))),
        parked=PARKED in notes,
        waiting=str(reserved.get("message") or "")[:_SAID] if reserved.get("status") == "False" else "",
    )


def with_state(one: Entry, state: str, message: str, at: float) -> dict[str, Any]:
    """The merge patch of a Workload's status that sets our check; the checks of others stay as they are.

    Args:
        state: Pending, Ready or Retry.
        at: Unix seconds of the API server's clock.
    """
    since = one.check.get("lastTransitionTime") if one.state == state else None
    ours: dict[str, Any] = {
        "name": CHECK,
        "state": state,
        "message": message[:1024],
        "lastTransitionTime": since or checkpoint.write_time(at),
    }
    if "retryCount" in one.check:
        ours["retryCount"] = one.check["retryCount"]
    rest = [dict(check) for check in one.checks if check.get("name") != CHECK]
    return {"status": {"admissionChecks": [*rest, ours]}}


def faults_of_queue(
    name: str, queue: Mapping[str, Any] | None, lending: Lending, *, settled: bool = True
) -> list[Fault]:
    """What is wrong with the ClusterQueue that a pool names.

    Args:
        settled: whether Kueue has had the time to find it active.
    """
    pool = f"InferencePool {lending.pool[0]}/{lending.pool[1]}"
    expected = cohort_name(lending.pool)
    if queue is None:
        return [
            Fault(
                FaultReason.QUEUE_NOT_FOUND,
                f"{pool}: spec.flipping.training.queue.clusterQueue is {name!r}, which does not exist; expected a "
                f"ClusterQueue with spec.cohortName: {expected}",
            )
        ]
    spec, faults = _dict(queue.get("spec")), []
    if spec.get("cohortName") != expected:
        faults.append(
            Fault(
                FaultReason.QUEUE_NOT_IN_COHORT,
                f"ClusterQueue {name}: spec.cohortName is {_shown(spec.get('cohortName'))}; expected {expected!r}, "
                f"whose quota is what {pool} lends, e.g. cohortName: {expected}",
            )
        )
    checks = [str(one.get("name")) for one in _dicts(_dict(spec.get("admissionChecksStrategy")).get("admissionChecks"))]
    if CHECK not in checks:
        faults.append(
            Fault(
                FaultReason.QUEUE_WITHOUT_CHECK,
                f"ClusterQueue {name}: spec.admissionChecksStrategy.admissionChecks has {_listed(checks)}; expected "
                f"{CHECK} among them, which keeps jobs off nodes that are not empty yet, e.g. "
                f"admissionChecks: [{{name: {CHECK}}}]",
            )
        )
    offered = {
        str(flavor.get("name")): [str(one.get("name")) for one in _dicts(flavor.get("resources"))]
        for group in _dicts(spec.get("resourceGroups"))
        for flavor in _dicts(group.get("flavors"))
    }
    wanted = {flavor_name(one.accelerator): one.resource for one in lending.all_types}
    missing = [flavor for flavor, resource in wanted.items() if resource not in offered.get(flavor, [])]
    if wanted and len(missing) == len(wanted):
        faults.append(
            Fault(
                FaultReason.QUEUE_WITHOUT_FLAVOR,
                f"ClusterQueue {name}: spec.resourceGroups has the flavors {_listed(sorted(offered))}; expected one of "
                f"{', '.join(wanted)} with its resource, e.g. flavors: [{{name: {missing[0]}, resources: "
                f'[{{name: {wanted[missing[0]]}, nominalQuota: "0"}}]}}]',
            )
        )
    for accelerator, chips in own_quota(queue).items():
        flavor = flavor_name(accelerator)
        faults.append(
            Fault(
                FaultReason.QUEUE_HAS_QUOTA,
                f"ClusterQueue {name}: the nominalQuota of {flavor} is {chips}; expected 0, since only what is on loan "
                f'may be used and that is the quota of Cohort {expected}, e.g. nominalQuota: "0"',
            )
        )
    active = condition(queue, "Active")
    if active.get("status") == "False" and settled and not faults:
        faults.append(
            Fault(
                FaultReason.QUEUE_INACTIVE,
                f"ClusterQueue {name}: its condition Active is False ({active.get('reason')}: "
                f"{str(active.get('message'))[:_SAID]}); expected True, e.g. spec.stopPolicy: None and every flavor "
                "and admission check that it names in place",
            )
        )
    return faults


def reserved_of(entries: Iterable[Entry]) -> dict[str, int]:
    """The accelerators on loan that Workloads have reserved, by type; those that are being evicted do not count."""
    found: dict[str, int] = {}
    for one in entries:
        for shape in one.shapes if one.reserved and not one.evicted else ():
            if shape.accelerator:
                found[shape.accelerator] = found.get(shape.accelerator, 0) + shape.total
    return found


def own_quota(queue: Mapping[str, Any] | None) -> dict[str, int]:
    """What a ClusterQueue has of flavors on loan without borrowing: it ought to be nothing."""
    return {accelerator: chips for accelerator, chips in quota_of(queue).items() if chips}


def _shapes(podset: Mapping[str, Any], chosen: Mapping[str, Mapping[str, Any]]) -> list[PodShape]:
    pod = records.pod({"spec": _dict(podset.get("template")).get("spec")})
    assignment = chosen.get(str(podset.get("name") or "main"), {})
    flavors = _dict(assignment.get("flavors"))
    count = assignment.get("count", podset.get("count"))
    if not pod.chips or not isinstance(count, int) or count < 1:
        return []
    names = {str(flavors.get(resource) or "") for resource in pod.chips}
    loaned = sorted(name.removeprefix(FLAVOR_PREFIX) for name in names if name.startswith(FLAVOR_PREFIX))
    return [PodShape(count, pod.chips, pod.node_selector, loaned[0] if loaned else "")]


def _shown(value: object) -> str:
    return "absent" if value in (None, "") else repr(str(value)[:_SAID])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) if names else "none"


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
