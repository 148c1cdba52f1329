"""Carries decisions out: the writes they come to, one pool at a time, and what each outcome means."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tidefleet.api import ConditionType, Reason
from tidefleet.cluster.events import EventSink
from tidefleet.cluster.inventory import Inventory
from tidefleet.cluster.kinds import DEPLOYMENT, INFERENCE_POOL
from tidefleet.cluster.objects import ApiFailed, Objects
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import (
    AlreadyExists,
    Apply,
    Conflict,
    Create,
    Delete,
    Denied,
    Evict,
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
from tidefleet.controller.adoption import list_autoscalers
from tidefleet.controller.decision import FALSE, Decision, Target, Verdict
from tidefleet.controller.groups import workload_for
from tidefleet.controller.host_tier import is_ours
from tidefleet.controller.status import differs, pool_status, steady
from tidefleet.controller.store import Seen, Store
from tidefleet.controller.template import UnusableTemplate, template_hash
from tidefleet.controller.view import PoolMemory, PoolView, Served
from tidefleet.telemetry import Telemetry

log = logging.getLogger(__name__)


REFUSED_AGAIN_SECONDS = 120.0
"""A write that the API server refused is tried again after this long, since quota, policy or RBAC may have changed."""


VOLATILE_SECONDS = 60.0
"""Measured values alone (utilisation, hit ratio, demand, words of messages) are written at most this often."""


_NO_LOANS = frozenset(
    {
        Reason.QUEUE_MISSING,
        Reason.KUEUE_ABSENT,
        Reason.QUEUE_NOT_IN_COHORT,
        Reason.QUOTA_IN_USE,
        Reason.NOT_CLUSTER_WIDE,
    }
)
"""What an owner must mend before nodes are lent: of the condition Flipping, whose other reasons come and go."""

_TOLD = frozenset(
    {
        ConditionType.VALIDATED,
        ConditionType.DEMAND_KNOWN,
        ConditionType.CAPACITY_AVAILABLE,
        ConditionType.TARGETS_MET,
        ConditionType.ADOPTED,
        ConditionType.KV_TIERS_FOUND,
    }
)
"""Conditions whose turns are told as Events."""


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
            return decision, self._recommend(decision, memory, decision_id)
        changes: list[str] = []
        refused: list[Verdict] = []
        # What is new or grows goes first: replicas that leave are only missed once the others are asked for.
        for target in sorted(decision.targets, key=lambda t: t.desired <= t.served.desired):
            name = target.served.name
            write = self._write_for(decision, target, decision_id)
            if write is None:
                memory.refused_writes.pop(name, None)
                continue
            known = memory.refused_writes.get(name)
            if known and known[0] == _fingerprint(write) and decision.view.now - known[2] < REFUSED_AGAIN_SECONDS:
                refused.append(known[1])
                continue
            outcome = self.execute(write)
            words = f"{name} {target.served.desired} -> {target.desired}"
            match outcome:
                case Written():
                    changes.append(words)
                    memory.refused_writes.pop(name, None)
                    self._note_switch(decision, target, memory)
                case Failed(message) if outcome.retriable:
                    told = f"{words}: {message[:500]}"
                    refused.append(Verdict(ConditionType.READY, FALSE, Reason.APPLY_FAILED, told))
                    self.hurry()
                case Invalid(message) | Denied(message) | AlreadyExists(message) | Failed(message):
                    verdict = _refusal(decision, target.served, outcome, message)
                    memory.refused_writes[name] = (_fingerprint(write), verdict, decision.view.now)
                    refused.append(verdict)
                case _:
                    self.hurry()
        if changes:
            self._tell(decision, changes, decision_id)
        return _with_verdicts(decision, refused), bool(changes)

    def _recommend(self, decision: Decision, memory: PoolMemory, decision_id: str) -> bool:
        """Say what would be done, when that is something new; whether it is."""
        advice = tuple((t.served.name, t.planned) for t in decision.targets if t.planned != t.served.desired)
        if decision.plan is None or advice == memory.advice:
            return False
        memory.advice = advice
        changes = [f"{t.served.name} {t.served.desired} -> {t.planned}" for t in decision.targets]
        if advice:
            self._tell(decision, changes, decision_id, recommended=True)
        return bool(advice)

    @staticmethod
    def _note_switch(decision: Decision, target: Target, memory: PoolMemory) -> None:
        """Another accelerator, or size of a tier, came into use: the dwell begins.

        The first replicas, before demand, bind nobody.
        """
        served = target.served
        arrives = target.desired and not served.desired
        changes = 0 < served.desired == target.desired and tier_of(decision, target) != served.host_bytes
        if decision.rate > 0 and (arrives or changes):
            memory.last_switch = decision.view.now

    def _write_for(self, decision: Decision, target: Target, decision_id: str) -> Write | None:
        served = target.served
        if served.workload is None:
            return self._creation(decision, target, decision_id) if target.desired else None
        return self._change(decision, target, decision_id)

    def _creation(self, decision: Decision, target: Target, decision_id: str) -> Write | None:
        view = decision.view
        if view.pool.spec.serving.template is None or view.architecture is None:
            return None
        body = workload_for(
            view.pool,
            target.served,
            view.kinds[target.served.option.accelerator],
            native_weights=view.architecture.native_weights,
            replicas=target.desired,
            host_bytes=decision.host_bytes or 0.0,
        )
        body["metadata"]["annotations"] |= self._stamp(decision_id)
        return Create(kind=target.served.kind, body=body, reason=decision.reason, decision_id=decision_id)

    def _change(self, decision: Decision, target: Target, decision_id: str) -> Write | None:
        view, served, desired = decision.view, target.served, target.desired
        workload = served.workload
        assert workload is not None  # noqa: S101 - the caller checked
        if served.name in view.conflicts:
            return None
        body: dict[str, Any] = {}
        annotations: dict[str, str | None] = {}
        if desired != workload.replicas:
            body["spec"] = {"replicas": desired}
            adopted = marks.read_adopted(workload.annotations)
            if view.pool.spec.serving.workloads is not None and (adopted or ("", 0))[0] != view.pool.metadata.uid:
                if not self._is_free(view, served):
                    return None
                pool = f"{view.pool.namespace}/{view.pool.name}"
                annotations[marks.ADOPTED_ANNOTATION] = marks.write_adopted(
                    pool, view.pool.metadata.uid, workload.replicas
                )
        elif view.pool.spec.serving.template is not None:
            # A patch of its own: a template that the API server refuses must not keep replicas from growing.
            wanted = template_hash(view.pool.spec.serving.template)
            tier = tier_of(decision, target)
            if workload.annotations.get(marks.TEMPLATE_ANNOTATION) != wanted or tier != served.host_bytes:
                template = self._template_change(view, served, tier)
                if template is not None:
                    body["spec"] = template
                    annotations[marks.TEMPLATE_ANNOTATION] = wanted
                    if tier != served.host_bytes:
                        annotations[marks.HOST_TIER_ANNOTATION] = str(tier) if tier else None
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

    def _is_free(self, view: PoolView, served: Served) -> bool:
        """Whether nothing else scales a workload when it is adopted; the list of before may lack a new autoscaler."""
        namespace = view.pool.namespace
        found = list_autoscalers(self.objects, (namespace,))
        return found is not None and served.name not in {f"{one.target_kind}/{one.target_name}" for one in found}

    def _template_change(self, view: PoolView, served: Served, tier: int) -> dict[str, Any] | None:
        """The fields of a spec that turn the live template into the user's new one; ``None`` when it is unreadable."""
        assert view.architecture is not None and served.workload is not None  # noqa: S101, PT018
        try:
            live = self.objects.get(served.kind, served.workload.namespace, served.workload.name)
            wanted = workload_for(
                view.pool,
                served,
                view.kinds[served.option.accelerator],
                native_weights=view.architecture.native_weights,
                replicas=0,
                host_bytes=tier,
            )
        except (ApiFailed, Unreachable, UnusableTemplate, KeyError):
            return None
        if live is None:
            return None
        field = "template" if served.kind is DEPLOYMENT else "leaderWorkerTemplate"
        return {field: merge_difference(live["spec"][field], wanted["spec"][field])}

    def _stamp(self, decision_id: str) -> dict[str, str]:
        return {marks.EPOCH_ANNOTATION: str(self.epoch), marks.DECISION_ANNOTATION: decision_id}

    def execute(self, write: Write) -> Outcome:
        """Carry out one write; what it leaves is known at once.

        Raises:
            Deposed: another process leads.
        """
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

    def _tell(self, decision: Decision, changes: list[str], decision_id: str, *, recommended: bool = False) -> None:
        pool = decision.view.pool
        message = f"{', '.join(changes)}: {decision.reason}"
        why = "Recommended" if recommended else "Scaled"
        self.telemetry.count("decisions_total", decision_id=decision_id, kind="Plan", reason=why)
        log.info(
            "decision",
            extra={
                "pool": f"{pool.namespace}/{pool.name}",
                "decisionId": decision_id,
                "change": changes,
                "why": decision.reason,
            },
        )
        if recommended:
            self.events.emit(
                INFERENCE_POOL, pool.namespace, pool.name, pool.metadata.uid, type_="Normal", reason="Recommended",
                message=message, annotations={marks.DECISION_ANNOTATION: decision_id},
            )  # fmt: skip
        else:
            self.events.emit(
                INFERENCE_POOL, pool.namespace, pool.name, pool.metadata.uid, type_="Normal", reason="Scaled",
                message=message, annotations={marks.DECISION_ANNOTATION: decision_id},
            )  # fmt: skip

    def _tell_turns(self, decision: Decision, before: Mapping[str, Any], decision_id: str) -> None:
        """An Event for each condition that turned bad, or good again."""
        pool = decision.view.pool
        was = {one.get("type"): one.get("status") for one in before.get("conditions") or ()}
        reasons = {one.get("type"): one.get("reason") for one in before.get("conditions") or ()}
        about = (INFERENCE_POOL, pool.namespace, pool.name, pool.metadata.uid)
        note = {marks.DECISION_ANNOTATION: decision_id}
        for one in decision.verdicts:
            if one.reason in _NO_LOANS and one.type is ConditionType.FLIPPING and reasons.get(one.type) != one.reason:
                message = f"{one.type}={one.status} ({one.reason}): {one.message}"
                self.events.emit(*about, type_="Warning", reason="Degraded", message=message, annotations=note)
            if one.type not in _TOLD or str(one.status) == was.get(str(one.type)):
                continue
            message = f"{one.type}={one.status} ({one.reason}): {one.message}"
            if one.status is FALSE:
                self.events.emit(*about, type_="Warning", reason="Degraded", message=message, annotations=note)
            elif was.get(str(one.type)) == "False":
                self.events.emit(*about, type_="Normal", reason="Recovered", message=message, annotations=note)

    # --- status ------------------------------------------------------------------------------------------------

    def write_pool_status(self, seen: Seen, decision: Decision, memory: PoolMemory, *, decision_id: str) -> bool:
        """Write a pool's status when it says something new; what moves all the time at most once a minute."""
        status = pool_status(
            decision,
            before=seen.status,
            generation=seen.metadata.generation,
            decision_id=decision_id,
            now=decision.view.now,
        )
        now = decision.view.now
        lately = memory.told_at is not None and now - memory.told_at < VOLATILE_SECONDS
        if lately and not differs(steady(seen.status), steady(status)):
            return False
        written = self.write_status(seen, status, decision_id=decision_id, reason=decision.reason)
        if written:
            memory.told_at = now
            self._tell_turns(decision, seen.status, decision_id)
        return written

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


def tier_of(decision: Decision, target: Target) -> int:
    """Bytes of the KV tier in host memory that a workload's engines are to be started with.

    One that leaves keeps its own: its engines serve until others are ready, and the size was not chosen for them.
    """
    served = target.served
    if served.group > 1:
        return 0
    leaves = bool(served.desired) and not target.planned and is_ours(decision.view.pool)
    return served.host_bytes if decision.host_bytes is None or leaves else round(decision.host_bytes)


def _fingerprint(write: Write) -> str:
    """What a write asks for, without the stamps that differ each time."""
    body = {
        key: value for key, value in ({} if isinstance(write, Delete | Evict) else write.body).items() if key == "spec"
    }
    return template_hash(body)


def _refusal(decision: Decision, served: Served, outcome: Outcome, message: str) -> Verdict:
    """What a refused write says of the pool: a bad template is the user's to mend, anything else is told as it is."""
    pool = decision.view.pool
    if isinstance(outcome, Invalid):
        text = f"{pool}: the API server refuses {served.name}: {message}"
        return Verdict(ConditionType.VALIDATED, FALSE, Reason.TEMPLATE_REJECTED, text[:2000])
    if isinstance(outcome, AlreadyExists):
        text = (
            f"{pool}: {served.kind} {served.name} exists and is not ours: its label {marks.OPTION_LABEL} or annotation "
            f"{marks.OPTION_ANNOTATION} is missing; delete it or give it back what it had"
        )
    else:
        text = f"{pool}: {served.name} cannot be written: {message}"
    return Verdict(ConditionType.READY, FALSE, Reason.APPLY_FAILED, text[:2000])


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
