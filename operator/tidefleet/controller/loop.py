"""The fleet loop: observe, decide, act, tell. One pass looks at every pool; nothing in it remembers a past event."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tidefleet.api import ConditionType, Reason
from tidefleet.cluster.clock import Clock
from tidefleet.cluster.kinds import INFERENCE_POOL
from tidefleet.controller import marks
from tidefleet.controller.accounting import Accountant
from tidefleet.controller.act import Actor
from tidefleet.controller.catalogue_sync import CatalogueSync
from tidefleet.controller.collector import PoolKey
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.decision import FALSE, TRUE, UNKNOWN, Decision, Verdict
from tidefleet.controller.observe import Fleet, Observer, TypeSeen
from tidefleet.controller.status import conditions
from tidefleet.controller.store import Seen
from tidefleet.controller.view import Fault, PoolMemory, PoolView
from tidefleet.planning.demand import DemandHistory
from tidefleet.planning.from_api import chosen_price
from tidefleet.planning.options import EstimateMemo
from tidefleet.telemetry import Telemetry

log = logging.getLogger(__name__)

_KEPT_WHEN_INVALID = ("plan", "demand", "accelerators", "decisionId", "replicas", "selector")

WRITERS = 8
"""Pools written at the same time."""


@dataclass(slots=True)
class FleetLoop:
    """Takes every decision, in a plain thread.

    Attributes:
        on_pass: called after each pass with the fleet's decisions.
        passes: finished passes; ``last_pass`` the real (monotonic) time the newest one ended.
    """

    observer: Observer
    actor: Actor
    accountant: Accountant
    catalogue: CatalogueSync
    telemetry: Telemetry
    clock: Clock
    settings: OperatorConfiguration
    wake: threading.Event = field(default_factory=threading.Event)
    on_pass: Callable[[tuple[Decision, ...]], None] | None = None
    passes: int = 0
    last_pass: float | None = None
    last_pass_seconds: float = 0.0
    _memories: dict[PoolKey, PoolMemory] = field(default_factory=dict)
    _ids: dict[PoolKey, str] = field(default_factory=dict)
    _memo: EstimateMemo = field(default_factory=EstimateMemo)
    _guarded: set[str] = field(default_factory=set)
    _claimed: bool = False

    def run(self, stop: threading.Event, *, may_go_on: Callable[[], bool] = lambda: True) -> None:
        """Pass after pass until stopped; a pass that fails is logged and the next one starts afresh.

        Raises:
            Deposed: another process leads.
        """
        while not stop.is_set() and may_go_on():
            began = self.clock.monotonic()
            self.wake.clear()
            try:
                self.run_once()
            except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, AssertionError, OSError):
                log.exception("a pass failed")
                self.telemetry.count("reconcile_errors_total", kind="Pass", reason="Exception")
            left = self.settings.period_seconds - (self.clock.monotonic() - began)
            floor = min(self.settings.period_seconds, self.clock.scale)  # at most about one pass in a real second
            self.clock.sleep(floor)
            self.clock.sleep(max(0.0, left - floor), self.wake)

    def run_once(self) -> tuple[Decision, ...]:
        """One pass over the whole fleet."""
        started = time.monotonic()
        self.catalogue.step()
        fleet = self.observer.observe(self.clock.now())
        if not self._claimed:
            self._claim(fleet)
        planning = time.monotonic()
        decided = [(seen, self._decide(seen, view)) for seen, view in fleet.pools]
        acting = time.monotonic()
        self.telemetry.observe("plan_duration_seconds", acting - planning, kind="fleet")
        with ThreadPoolExecutor(max_workers=WRITERS, thread_name_prefix="act") as workers:
            finished = list(workers.map(lambda pair: self._act(*pair), decided))
        decisions = tuple(one for one in finished if one is not None)
        self._tell_others(fleet)
        self.accountant.account(decisions, fleet.now)
        told = [(seen, after or before) for (seen, before), after in zip(decided, finished, strict=True)]
        self.accountant.conditions(self._rows(told, fleet))
        self._forget_gone(fleet)
        self.passes += 1
        self.last_pass_seconds = time.monotonic() - started
        self.last_pass = time.monotonic()
        self.telemetry.observe("reconcile_duration_seconds", self.last_pass_seconds, kind="pass")
        seconds = {"observe": planning - started, "plan": acting - planning, "act": self.last_pass - acting}
        log.debug("pass", extra={"pools": len(decided), "seconds": self.last_pass_seconds, "of_which": seconds})
        if self.on_pass is not None:
            self.on_pass(decisions)
        return decisions

    def memory(self, view: PoolView) -> PoolMemory:
        """What is remembered of a pool; one that runs already when it is first seen waits one dwell before it moves."""
        key = view.pool.key
        known = self._memories.get(key)
        if known is None:
            known = PoolMemory(DemandHistory(self.settings.scale_down_window_seconds))
            if any(one.desired for one in view.served):
                known.last_switch = view.now
            self._memories[key] = known
        return known

    def _decide(self, seen: Seen, view: PoolView | Fault) -> Decision | Fault:
        if isinstance(view, Fault):
            return view
        try:
            return decide(view, self.memory(view), self.settings, self._memo)
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
            # One pool's surprise must not stop the others.
            log.exception("deciding failed", extra={"pool": f"{seen.metadata.namespace}/{seen.metadata.name}"})
            self.telemetry.count("reconcile_errors_total", kind="InferencePool", reason=type(error).__name__)
            return Fault(Reason.INVALID_FIELD, f"internal error while deciding: {type(error).__name__}: {error}")

    def _act(self, seen: Seen, decision: Decision | Fault) -> Decision | None:
        """Act on one pool; the decision as it came out, ``None`` for one that could not be read."""
        key = (seen.metadata.namespace, seen.metadata.name)
        if isinstance(decision, Fault):
            if seen.metadata.deletion_timestamp:
                self.actor.finish(seen, None, ())
            self._tell_fault(seen, decision)
            return None
        pool = decision.view.pool
        if seen.metadata.deletion_timestamp:
            self.actor.finish(seen, pool, decision.view.served)
            return decision
        if self.actor.keep_finalizer(seen, pool):
            seen = self.observer.store.get(INFERENCE_POOL, *key) or seen
        decision_id = self.actor.new_decision_id()
        decision, changed = self.actor.act(decision, self._memories[key], decision_id=decision_id)
        if decision.write and self.observer.budgets is not None and pool.metadata.uid not in self._guarded:
            # Asked once per pool and term: a budget that its owner deletes later stays deleted.
            self._guarded.add(pool.metadata.uid)
            self.actor.guard(pool, self.observer.budgets, decision_id)
        current = self._ids.get(key)
        if changed or current is None:
            self._ids[key] = current = decision_id
        self.actor.write_pool_status(seen, decision, decision_id=current)
        return decision

    def _tell_fault(self, seen: Seen, fault: Fault) -> None:
        verdicts = (
            Verdict(ConditionType.READY, FALSE, Reason.NOT_VALIDATED, fault.message),
            Verdict(ConditionType.RECONCILING, FALSE, Reason.NOT_VALIDATED, "nothing is changed while invalid"),
            Verdict(ConditionType.VALIDATED, FALSE, fault.reason, fault.message),
        )
        self._write_simple(
            seen, verdicts, keep=("plan", "demand", "accelerators", "decisionId", "replicas", "selector")
        )

    def _claim(self, fleet: Fleet) -> None:
        """Take over: everything we own gets our epoch before the first decision is carried out."""
        for _, view in fleet.pools:
            if isinstance(view, PoolView) and view.pool.spec.serving.template is not None:
                for served in view.served:
                    self.actor.claim(served)
        self._claimed = True

    # --- the other kinds -------------------------------------------------------------------------------------------

    def _tell_others(self, fleet: Fleet) -> None:
        in_use: dict[str, int] = {}
        for _, view in fleet.pools:
            if isinstance(view, PoolView):
                for (accelerator, _), chips in view.chips.items():
                    in_use[accelerator] = in_use.get(accelerator, 0) + chips.scheduled
        for one in fleet.types.values():
            self._tell_type(one, in_use.get(one.kind.name, 0))
        for seen, fault in fleet.bad_types:
            self._write_simple(seen, _invalid(fault.reason, fault.message), keep=())
        pools = {seen.metadata.name: seen for seen, _ in fleet.pools}
        for seen, faults in fleet.classes:
            self._write_simple(seen, _class_verdicts(faults, pools), keep=("observed", "provenance"))
        for seen, faults, nodes in fleet.sites:
            message = f"{nodes} nodes"
            verdicts = _invalid(faults[0].reason, faults[0].message) if faults else _valid(message, nodes)
            self._write_simple(seen, verdicts, keep=(), nodes=nodes)

    def _tell_type(self, one: TypeSeen, in_use: int) -> None:
        set_ = self.telemetry.set
        for capacity_type, price in one.offer.prices.items():
            source = "Catalogue" if price.catalogue else "User"
            labels = {"accelerator": one.kind.name, "capacity_type": capacity_type}
            other = {"Catalogue": "User", "User": "Catalogue"}[source]
            self.telemetry.forget_gauges(["accelerator_price_usd_per_hour"], **labels, source=other)
            set_("accelerator_price_usd_per_hour", price.usd_per_chip_hour, **labels, source=source)
            entry = chosen_price(one.kind, capacity_type)
            if entry is not None and entry.as_of is not None:
                day = entry.as_of
                stamp = time.mktime((day.year, day.month, day.day, 0, 0, 0, 0, 0, 0))
                set_("price_last_update_timestamp_seconds", stamp, **labels)
        if one.faults:
            verdicts: tuple[Verdict, ...] = _invalid(one.faults[0].reason, "; ".join(f.message for f in one.faults))
        elif one.offer.plan_only:
            verdicts = _valid(one.offer.plan_only, 0, Reason.PLAN_ONLY)
        elif not one.offer.prices:
            verdicts = _valid("no price is set, so plans leave it out", 0, Reason.UNPRICED)
        else:
            verdicts = _valid(f"{one.nodes} nodes", one.nodes)
        price_used = chosen_price(one.kind, "OnDemand") if not one.faults else None
        extra: dict[str, Any] = {"nodes": one.nodes, "chips": one.chips, "chipsInUse": in_use}
        if price_used is not None:
            extra["priceUsed"] = str(price_used.usd_per_chip_hour)
        self._write_simple(one.seen, verdicts, keep=(), **extra)

    def _write_simple(self, seen: Seen, verdicts: Iterable[Verdict], *, keep: tuple[str, ...], **extra: Any) -> None:
        before = seen.status
        generation = seen.metadata.generation
        status: dict[str, Any] = {name: before[name] for name in keep if name in before}
        status |= extra
        status["conditions"] = conditions(verdicts, before=before, generation=generation, now=self.clock.now())
        status["observedGeneration"] = generation
        self.actor.write_status(seen, status)

    def _rows(
        self, decided: Iterable[tuple[Seen, Decision | Fault]], fleet: Fleet
    ) -> Iterable[tuple[str, Iterable[Verdict]]]:
        for _, decision in decided:
            if isinstance(decision, Decision):
                yield "InferencePool", decision.verdicts
            else:
                yield "InferencePool", _invalid(decision.reason, decision.message)
        for _, faults in fleet.classes:
            yield "WorkloadClass", _class_verdicts(faults, {})

    def _forget_gone(self, fleet: Fleet) -> None:
        here = {(seen.metadata.namespace, seen.metadata.name) for seen, _ in fleet.pools}
        for key in [key for key in {*self._memories, *self._ids} if key not in here]:
            self._memories.pop(key, None)
            self._ids.pop(key, None)
            self.accountant.forget(*key)


def _invalid(reason: Reason, message: str) -> tuple[Verdict, ...]:
    return (
        Verdict(ConditionType.READY, FALSE, Reason.NOT_VALIDATED, message),
        Verdict(ConditionType.VALIDATED, FALSE, reason, message),
    )


def _valid(message: str, nodes: int, reason: Reason | None = None) -> tuple[Verdict, ...]:
    ready = reason is None and nodes > 0
    why = reason or (Reason.AVAILABLE if nodes else Reason.NO_NODES)
    return (
        Verdict(ConditionType.READY, TRUE if ready else FALSE, why, message),
        Verdict(ConditionType.VALIDATED, TRUE, Reason.VALID, "nothing to complain about"),
    )


def _class_verdicts(faults: tuple[Fault, ...], pools: Mapping[str, Seen]) -> tuple[Verdict, ...]:
    if faults:
        return _invalid(faults[0].reason, "; ".join(one.message for one in faults))
    return (
        Verdict(ConditionType.READY, TRUE, Reason.VALID, "the class takes part in its pool's plan"),
        Verdict(ConditionType.VALIDATED, TRUE, Reason.VALID, "nothing to complain about"),
        Verdict(ConditionType.DEMAND_KNOWN, UNKNOWN, Reason.ASSUMED, "see the conditions of the pool"),
    )


def known_epochs(observer: Observer) -> list[int]:
    """Every epoch that a leader left on an object: on workloads we own and in the decision ids of pools."""
    found = [marks.read_epoch(one.annotations) for one in observer.inventory.workloads()]
    pools = observer.store.all(INFERENCE_POOL)
    return found + [marks.decision_epoch(seen.status.get("decisionId")) for seen in pools]
