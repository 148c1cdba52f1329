"""Carries decisions out: the writes they come to, one pool at a time, and what each outcome means."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tidefleet.api import ConditionType, InferencePool, Reason
from tidefleet.api.inference_pool import DeletionPolicy
from tidefleet.cluster.events import EventSink
from tidefleet.cluster.inventory import Inventory
from tidefleet.cluster.kinds import DEPLOYMENT, INFERENCE_POOL, PDB
from tidefleet.cluster.objects import ApiFailed, Objects
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import (
    AlreadyExists,
    Apply,
    Conflict,
    Create,
    Delete,
    Denied,
    Failed,
    Fenced,
    Gone,
    Invalid,
    MergePatch,
    Outcome,
    Write,
    Writer,
    Written,
)
from tidefleet.controller import marks
from tidefleet.controller.decision import FALSE, Decision, Target, Verdict
from tidefleet.controller.disruption import budget_name, missing_budget
from tidefleet.controller.status import differs, pool_status
from tidefleet.controller.store import Seen, Store
from tidefleet.controller.template import UnusableTemplate, deployment_for, template_hash
from tidefleet.controller.view import PoolMemory, PoolView, Served
from tidefleet.telemetry import Telemetry

log = logging.getLogger(__name__)


REFUSED_AGAIN_SECONDS = 120.0
"""A write that the API server refused is tried again after this long, since quota, policy or RBAC may have changed."""


class Deposed(Exception):
    """Another process leads; this one must write nothing more."""


@dataclass(slots=True)
class Actor:
    """Everything that changes the cluster goes through here.

    Attributes:
        epoch: this leader's; every object we write carries it.
        hurry: called when a decision was dropped and should be taken again soon.
    """

    writer: Writer
    objects: Objects
    inventory: Inventory
    store: Store
    events: EventSink
    telemetry: Telemetry
    epoch: int
    hurry: Callable[[], None] = lambda: None
    _sequence: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def new_decision_id(self) -> str:
        """An id such as ``e7-00001c``: the leader's epoch and a running number, one thread through log and status."""
        return f"e{self.epoch}-{next(self._sequence):06x}"

    def act(self, decision: Decision, memory: PoolMemory, *, decision_id: str) -> tuple[Decision, bool]:
        """Write what a decision comes to.

        Returns:
            The decision, with conditions that tell of a refused write, and whether anything was changed.
        """
        if not decision.write:
            return decision, False
        changes: list[str] = []
        refused: list[Verdict] = []
        # What is new or grows goes first: replicas that leave are only missed once the others are asked for.
        for target in sorted(decision.targets, key=lambda t: t.desired <= t.served.desired):
            write = self._write_for(decision, target, memory, decision_id)
            if write is None:
                continue
            outcome = self._execute(write)
            words = f"{target.served.name} {target.served.desired} -> {target.desired}"
            match outcome:
                case Written():
                    changes.append(words)
                    memory.refused_writes.pop(target.served.name, None)
                    if (
                        isinstance(write, Create) and decision.rate > 0
                    ):  # the first replicas, before demand, bind nobody
                        memory.last_switch = decision.view.now
                case Invalid(message) | Denied(message):
                    memory.refused_writes[target.served.name] = (_fingerprint(write), message, decision.view.now)
                    refused.append(_refusal(decision, target.served, message))
                case Failed(message):
                    told = f"{words}: {message[:500]}"
                    refused.append(Verdict(ConditionType.READY, FALSE, Reason.APPLY_FAILED, told))
                    self.hurry()
                case _:
                    self.hurry()
        for name, (_, message, _) in memory.refused_writes.items():
            if not refused and any(t.served.name == name for t in decision.targets):
                refused.append(_refusal(decision, Served(name, decision.targets[0].served.option, None), message))
        if changes:
            self._tell(decision, changes, decision_id)
        return _with_verdicts(decision, refused), bool(changes)

    def _write_for(self, decision: Decision, target: Target, memory: PoolMemory, decision_id: str) -> Write | None:
        view, served = decision.view, target.served
        write: Write | None
        if served.workload is None:
            write = self._creation(decision, target, decision_id) if target.desired else None
        else:
            write = self._change(view, served, target.desired, decision, decision_id)
        if write is None:
            return None
        known = memory.refused_writes.get(served.name)
        if known and known[0] == _fingerprint(write) and view.now - known[2] < REFUSED_AGAIN_SECONDS:
            return None
        return write

    def _creation(self, decision: Decision, target: Target, decision_id: str) -> Write | None:
        view = decision.view
        if view.pool.spec.serving.template is None or view.architecture is None:
            return None
        body = deployment_for(
            view.pool,
            target.served.option,
            view.kinds[target.served.option.accelerator],
            native_weights=view.architecture.native_weights,
            replicas=target.desired,
        )
        body["metadata"]["annotations"] |= self._stamp(decision_id)
        return Create(kind=DEPLOYMENT, body=body, reason=decision.reason, decision_id=decision_id)

    def _change(
        self, view: PoolView, served: Served, desired: int, decision: Decision, decision_id: str
    ) -> Write | None:
        workload = served.workload
        assert workload is not None  # noqa: S101 - the caller checked
        if served.name in view.conflicts:
            return None
        body: dict[str, Any] = {}
        if desired != workload.replicas:
            body["spec"] = {"replicas": desired}
        annotations: dict[str, str] = {}
        if view.pool.spec.serving.template is not None:
            wanted = template_hash(view.pool.spec.serving.template)
            if workload.annotations.get(marks.TEMPLATE_ANNOTATION) != wanted:
                template = self._template_change(view, served)
                if template is not None:
                    body.setdefault("spec", {})["template"] = template
                    annotations[marks.TEMPLATE_ANNOTATION] = wanted
        elif desired != workload.replicas and marks.read_adopted(workload.annotations) is None:
            pool = f"{view.pool.namespace}/{view.pool.name}"
            annotations[marks.ADOPTED_ANNOTATION] = marks.write_adopted(pool, workload.replicas)
        if not body:
            return None
        body["metadata"] = {"annotations": {**annotations, **self._stamp(decision_id)}}
        return MergePatch(
            kind=workload.kind,
            namespace=workload.namespace,
            name=workload.name,
            body=body,
            uid=workload.uid,
            resource_version=workload.resource_version,
            reason=decision.reason,
            decision_id=decision_id,
        )

    def _template_change(self, view: PoolView, served: Served) -> dict[str, Any] | None:
        """What turns the live template into the user's new one; ``None`` when the live one cannot be read."""
        assert view.architecture is not None and served.workload is not None  # noqa: S101, PT018
        try:
            live = self.objects.get(DEPLOYMENT, served.workload.namespace, served.workload.name)
            wanted = deployment_for(
                view.pool,
                served.option,
                view.kinds[served.option.accelerator],
                native_weights=view.architecture.native_weights,
                replicas=0,
            )
        except (ApiFailed, Unreachable, UnusableTemplate, KeyError):
            return None
        return merge_difference(live["spec"]["template"], wanted["spec"]["template"]) if live else None

    def _stamp(self, decision_id: str) -> dict[str, str]:
        return {marks.EPOCH_ANNOTATION: str(self.epoch), marks.DECISION_ANNOTATION: decision_id}

    def _execute(self, write: Write) -> Outcome:
        outcome = self.writer.execute(write)
        self.telemetry.count("api_writes_total", kind=write.kind.kind, outcome=type(outcome).__name__)
        match outcome:
            case Fenced(message):
                raise Deposed(message)
            case Written(raw):
                if write.kind in self.store_kinds:
                    self.store.put(write.kind, raw)
                elif not isinstance(write, Delete):
                    self.inventory.note_written(raw)
            case Conflict() | Gone() | AlreadyExists():
                log.info(
                    "dropped a decision", extra={"outcome": type(outcome).__name__, "decisionId": write.decision_id}
                )
            case _:
                self.telemetry.count("reconcile_errors_total", kind=write.kind.kind, reason=type(outcome).__name__)
                log.warning(
                    "a write failed",
                    extra={"kind": write.kind.kind, "outcome": str(outcome)[:500], "decisionId": write.decision_id},
                )
        return outcome

    @property
    def store_kinds(self) -> frozenset[Any]:
        """Kinds whose newest version goes to the store."""
        return frozenset({INFERENCE_POOL})

    def _tell(self, decision: Decision, changes: list[str], decision_id: str) -> None:
        pool = decision.view.pool
        message = f"{', '.join(changes)}: {decision.reason}"
        self.telemetry.count("decisions_total", kind="Plan", reason="Scaled")
        log.info(
            "decision",
            extra={
                "pool": f"{pool.namespace}/{pool.name}",
                "decisionId": decision_id,
                "change": changes,
                "why": decision.reason,
            },
        )
        self.events.emit(
            INFERENCE_POOL,
            pool.namespace,
            pool.name,
            pool.metadata.uid,
            type_="Normal",
            reason="Scaled",
            message=message,
            annotations={marks.DECISION_ANNOTATION: decision_id},
        )

    # --- status ------------------------------------------------------------------------------------------------

    def write_pool_status(self, seen: Seen, decision: Decision, *, decision_id: str) -> bool:
        """Write a pool's status when it says something new."""
        status = pool_status(
            decision,
            before=seen.status,
            generation=seen.metadata.generation,
            decision_id=decision_id,
            now=decision.view.now,
        )
        return self.write_status(seen, status, decision_id=decision_id, reason=decision.reason)

    def write_status(self, seen: Seen, status: Mapping[str, Any], *, decision_id: str = "", reason: str = "") -> bool:
        """Write a status when it differs from the one in the cluster in anything but times."""
        if not differs(seen.status, status):
            return False
        outcome = self.writer.execute(
            Apply(
                kind=seen.kind,
                namespace=seen.metadata.namespace,
                name=seen.metadata.name,
                body={"status": status},
                uid=seen.metadata.uid,
                resource_version=seen.metadata.resource_version,
                reason=reason,
                decision_id=decision_id,
                force=True,
                subresource="status",
            )
        )
        self.telemetry.count("api_writes_total", kind=f"{seen.kind.kind}/status", outcome=type(outcome).__name__)
        match outcome:
            case Fenced(message):
                raise Deposed(message)
            case Written(raw):
                self.store.put(seen.kind, raw)
                return True
            case Conflict() | Gone():
                self.hurry()
            case _:
                kind = f"{seen.kind.kind}/status"
                self.telemetry.count("reconcile_errors_total", kind=kind, reason=type(outcome).__name__)
                extra = {"object": f"{seen.kind.kind} {seen.metadata.name}", "outcome": str(outcome)[:500]}
                log.warning("a status was not written", extra=extra)
        return False

    # --- the life of a pool -------------------------------------------------------------------------------------

    def keep_finalizer(self, seen: Seen, pool: InferencePool) -> bool:
        """Put our finalizer on a pool whose deletion will have work for us, and take it off where it will not."""
        wanted = pool.spec.deletion_policy is not DeletionPolicy.KEEP
        has = marks.FINALIZER in seen.metadata.finalizers
        if wanted == has or seen.metadata.deletion_timestamp:
            return False
        return self._set_finalizer(seen, present=wanted, why="deletionPolicy")

    def _set_finalizer(self, seen: Seen, *, present: bool, why: str) -> bool:
        others = [one for one in seen.metadata.finalizers if one != marks.FINALIZER]
        outcome = self._execute(
            MergePatch(
                kind=INFERENCE_POOL,
                namespace=seen.metadata.namespace,
                name=seen.metadata.name,
                body={"metadata": {"finalizers": [*others, marks.FINALIZER] if present else others}},
                uid=seen.metadata.uid,
                resource_version=seen.metadata.resource_version,
                reason=why,
                decision_id="",
            )
        )
        if not isinstance(outcome, Written):
            self.hurry()
        return isinstance(outcome, Written)

    def finish(self, seen: Seen, pool: InferencePool | None, served: tuple[Served, ...]) -> None:
        """Carry out the deletion policy of a pool that is being deleted, then lift our finalizer."""
        if marks.FINALIZER not in seen.metadata.finalizers:
            return
        done = True
        policy = pool.spec.deletion_policy if pool is not None else DeletionPolicy.KEEP
        for one in served:
            workload = one.workload
            if workload is None or workload.deleting:
                continue
            adopted = marks.read_adopted(workload.annotations)
            common: dict[str, Any] = {
                "kind": workload.kind,
                "namespace": workload.namespace,
                "name": workload.name,
                "uid": workload.uid,
                "resource_version": workload.resource_version,
                "reason": f"deletionPolicy {policy}",
                "decision_id": self.new_decision_id(),
            }
            own = pool is not None and pool.spec.serving.template is not None
            if own and policy is DeletionPolicy.DELETE:
                outcome = self._execute(Delete(**common))
            elif not own and adopted is not None and adopted[0] == f"{seen.metadata.namespace}/{seen.metadata.name}":
                body: dict[str, Any] = {"metadata": {"annotations": {marks.ADOPTED_ANNOTATION: None}}}
                if policy is DeletionPolicy.RESTORE:
                    body["spec"] = {"replicas": adopted[1]}
                outcome = self._execute(MergePatch(body=body, **common))
            else:
                continue
            done = done and isinstance(outcome, Written | Gone)
        if pool is not None and policy is DeletionPolicy.DELETE:
            done = self._delete_budget(pool) and done
        if not done:
            self.hurry()
            return
        if pool is not None and pool.spec.serving.workloads is not None and policy is DeletionPolicy.DELETE:
            self.events.emit(
                INFERENCE_POOL, pool.namespace, pool.name, pool.metadata.uid, type_="Warning", reason="Kept",
                message="adopted workloads are never deleted; they keep the replicas they have",
            )  # fmt: skip
        self._set_finalizer(seen, present=False, why="the deletion policy is carried out")

    def _delete_budget(self, pool: InferencePool) -> bool:
        """Delete the PodDisruptionBudget that we made for a pool; whether it is gone."""
        try:
            raw = self.objects.get(PDB, pool.namespace, budget_name(pool))
        except (ApiFailed, Unreachable):
            return False
        if raw is None or raw["metadata"].get("labels", {}).get(marks.POOL_LABEL) != pool.name:
            return True
        outcome = self._execute(
            Delete(
                kind=PDB,
                namespace=pool.namespace,
                name=budget_name(pool),
                uid=raw["metadata"]["uid"],
                resource_version=raw["metadata"]["resourceVersion"],
                reason="deletionPolicy Delete",
                decision_id="",
            )
        )
        return isinstance(outcome, Written | Gone)

    def guard(self, pool: InferencePool, budgets: Sequence[Mapping[str, Any]], decision_id: str) -> None:
        """Make a PodDisruptionBudget for a pool that has none."""
        write = missing_budget(pool, budgets, decision_id)
        if write is not None:
            self._execute(write)

    def claim(self, served: Served) -> bool:
        """Put this leader's epoch on a workload of ours, so that a write that another leader decided earlier fails."""
        workload = served.workload
        if workload is None or marks.read_epoch(workload.annotations) >= self.epoch:
            return False
        outcome = self._execute(
            MergePatch(
                kind=workload.kind,
                namespace=workload.namespace,
                name=workload.name,
                body={"metadata": {"annotations": {marks.EPOCH_ANNOTATION: str(self.epoch)}}},
                uid=workload.uid,
                resource_version=workload.resource_version,
                reason="a new leader takes over",
                decision_id="",
            )
        )
        return isinstance(outcome, Written)


def _fingerprint(write: Write) -> str:
    """What a write asks for, without the stamps that differ each time."""
    body = {key: value for key, value in (write.body if not isinstance(write, Delete) else {}).items() if key == "spec"}
    return template_hash(body)


def _refusal(decision: Decision, served: Served, message: str) -> Verdict:
    pool = decision.view.pool
    text = f"{pool}: the API server refuses {served.name}: {message}"
    return Verdict(ConditionType.VALIDATED, FALSE, Reason.TEMPLATE_REJECTED, text[:2000])


def _with_verdicts(decision: Decision, extra: list[Verdict]) -> Decision:
    """The decision with some conditions replaced; a refused template also takes Ready away."""
    if not extra:
        return decision
    replaced = {one.type: one for one in extra}
    if ConditionType.VALIDATED in replaced and ConditionType.READY not in replaced:
        fault = replaced[ConditionType.VALIDATED]
        replaced[ConditionType.READY] = Verdict(ConditionType.READY, FALSE, Reason.APPLY_FAILED, fault.message)
    return replace(decision, verdicts=tuple(replaced.get(one.type, one) for one in decision.verdicts))


def merge_difference(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that turns ``live`` into ``wanted``: null removes, lists are replaced whole."""
    patch: dict[str, Any] = dict.fromkeys(live.keys() - wanted.keys())
    for key, value in wanted.items():
        before = live.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            inner = merge_difference(before, value)
            if inner:
                patch[key] = inner
        elif before != value:
            patch[key] = value
    return patch
