"""The fleet loop: observe, decide, act, tell. One pass looks at every pool; nothing in it remembers a past event."""

from __future__ import annotations

import calendar
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from tidefleet.api import ConditionType, InferencePool, Reason, WorkloadClass
from tidefleet.cluster.clock import Clock
from tidefleet.cluster.kinds import INFERENCE_POOL
from tidefleet.controller import marks
from tidefleet.controller.accounting import Accountant
from tidefleet.controller.act import Actor, Deposed
from tidefleet.controller.asked import freshness_seconds
from tidefleet.controller.catalogue_sync import CatalogueSync
from tidefleet.controller.collector import PoolKey
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import NOTHING_SHARED, Share, decide
from tidefleet.controller.decision import FALSE, TRUE, UNKNOWN, Decision, Verdict
from tidefleet.controller.filling import NodeFilling, held_by_watched, node_sizes, with_idle
from tidefleet.controller.flips.flips import Flips
from tidefleet.controller.flips.rounds import newest_epoch
from tidefleet.controller.flips.telling import with_flips
from tidefleet.controller.kv_tiers import recall
from tidefleet.controller.lent_costs import TypeSupply
from tidefleet.controller.lifecycle import Lifecycle
from tidefleet.controller.observe import Fleet, Observer, TypeSeen
from tidefleet.controller.power import hold_starts, left_by_watchers, watts_by_site
from tidefleet.controller.remember import Remembrance, kept_history
from tidefleet.controller.sharing import Sharing
from tidefleet.controller.status import conditions
from tidefleet.controller.store import Seen
from tidefleet.controller.view import Fault, PoolMemory, PoolView
from tidefleet.planning.coordination import SharedLimits
from tidefleet.planning.demand import DemandHistory
from tidefleet.planning.from_api import chosen_price
from tidefleet.planning.observed import Basis
from tidefleet.planning.options import EstimateMemo
from tidefleet.planning.slots import SlotHistory
from tidefleet.planning.words import rounded
from tidefleet.telemetry import Telemetry

log = logging.getLogger(__name__)

_KEPT_WHEN_INVALID = ("plan", "demand", "accelerators", "decisionId", "replicas", "selector")

WRITERS = 16
"""Pools written at the same time."""

LATE = 1.25
"""Periods without a round of the collector, which wakes the loop once per period, after which it runs all the same."""


@dataclass(slots=True)
class FleetLoop:
    """Takes every decision, in a plain thread.

    Attributes:
        on_pass: called after each pass with the fleet's decisions.
        passes: finished passes; ``heartbeat`` the real (monotonic) time at which a pass last moved on.
    """

    observer: Observer
    actor: Actor
    lifecycle: Lifecycle
    accountant: Accountant
    catalogue: CatalogueSync
    telemetry: Telemetry
    clock: Clock
    settings: OperatorConfiguration
    wake: threading.Event = field(default_factory=threading.Event)
    on_pass: Callable[[tuple[Decision, ...]], None] | None = None
    remembrance: Remembrance | None = None
    passes: int = 0
    heartbeat: float | None = None
    last_pass_seconds: float = 0.0
    _memories: dict[PoolKey, PoolMemory] = field(default_factory=dict)
    _ids: dict[PoolKey, str] = field(default_factory=dict)
    _guarded: set[str] = field(default_factory=set)
    _claimed: bool = False
    sharing: Sharing = field(default_factory=Sharing)
    filling: NodeFilling = field(default_factory=NodeFilling)
    memo: EstimateMemo = field(default_factory=EstimateMemo)
    flips: Flips | None = None

    def run(self, stop: threading.Event, *, may_go_on: Callable[[], bool] = lambda: True) -> None:
        """Pass after pass until stopped; a pass that fails is logged and the next one starts afresh.

        Raises:
            Deposed: another process leads.
        """
        try:
            while not stop.is_set() and may_go_on():
                began = self.clock.monotonic()
                self.wake.clear()
                try:
                    self.run_once()
                except Deposed:
                    raise
                except Exception:  # a surprise must not end the process: the next one would meet it too
                    log.exception("a pass failed")
                    self.telemetry.count("reconcile_errors_total", kind="Pass", reason="Exception")
                took = self.clock.monotonic() - began
                left = LATE * self.settings.period_seconds - took
                # At most about one pass in a real second, and at most half of the time, whatever wakes it.
                floor = min(self.settings.period_seconds, max(self.clock.scale, took))
                stop.wait(floor / self.clock.scale)
                self.clock.sleep(max(0.0, left - floor), self.wake)
        finally:  # a solver or a trial at work would keep a deposed process from ending
            self.sharing.close()
            self.filling.close()
            if self.flips is not None:
                self.flips.canaries.close()

    def run_once(self) -> tuple[Decision, ...]:
        """One pass over the whole fleet."""
        started = self.heartbeat = time.monotonic()
        self.catalogue.step()
        fleet = self.observer.observe(self.clock.now())
        begun = self._claimed
        if not self._claim(fleet):
            self.wake.set()
            return ()
        if not begun:  # with the versions that the claim left, or the first decision of this term would be refused
            fleet = self.observer.observe(self.clock.now())
        if self.flips is not None:
            self.flips.look(fleet)
        planning = time.monotonic()
        self.memo.begin_pass()
        decided = [(seen, self._decide(seen, view)) for seen, view in fleet.pools]
        decided = self._with_power(self._within_shared_limits(decided, fleet), fleet)
        acting = time.monotonic()
        decided = self._flip(decided, fleet)
        self.telemetry.observe("plan_duration_seconds", acting - planning, kind="fleet")
        with ThreadPoolExecutor(max_workers=WRITERS, thread_name_prefix="act") as workers:
            finished = list(workers.map(lambda pair: self._guarded_act(*pair), decided))
        decisions = tuple(one for one in finished if isinstance(one, Decision))
        self._tell_others(fleet, decisions)
        supply = {name: TypeSupply(one.chips, one.offer.prices) for name, one in fleet.types.items()}
        self.accountant.account(decisions, fleet.now, supply)
        told = [(seen, after) for (seen, _), after in zip(decided, finished, strict=True)]
        self.accountant.conditions(self._rows(told, fleet))
        self._forget_gone(fleet)
        if self.remembrance is not None:
            self.remembrance.step(self._histories(), fleet.now)
        self.passes += 1
        self.last_pass_seconds = time.monotonic() - started
        self.heartbeat = time.monotonic()
        self.telemetry.observe("reconcile_duration_seconds", self.last_pass_seconds, kind="pass")
        parts = {"observe": planning - started, "plan": acting - planning, "act": self.heartbeat - acting}
        log.debug("pass", extra={"pools": len(decided), "seconds": self.last_pass_seconds, "of_which": parts})
        if self.on_pass is not None:
            self.on_pass(decisions)
        return decisions

    def memory(self, view: PoolView) -> PoolMemory:
        """What is remembered of a pool; one that runs already when it is first seen waits one dwell before it moves."""
        key = view.pool.key
        known = self._memories.get(key)
        if known is None:
            settings = self.settings
            known = PoolMemory(DemandHistory(settings.scale_down_window_seconds, freshness_seconds(settings)))
            if any(one.desired for one in view.served):
                known.last_switch = view.now
            known.ahead.history = kept_history(view.pool, view.now)
            self._memories[key] = known
        return known

    def known_memory(self, key: PoolKey) -> PoolMemory | None:
        """What is remembered of a pool; ``None`` before it was first looked at."""
        return self._memories.get(key)

    def _histories(self) -> list[tuple[PoolKey, SlotHistory]]:
        return [(key, one.ahead.history) for key, one in self._memories.items()]

    def remember(self) -> None:
        """Keep what was learned for the next leader, before this one ends."""
        if self.remembrance is not None:
            self.remembrance.save_all(self._histories())

    def _decide(self, seen: Seen, view: PoolView | Fault, share: Share = NOTHING_SHARED) -> Decision | Fault:
        self.heartbeat = time.monotonic()
        if isinstance(view, Fault):
            return view
        memory = self.memory(view)
        recall(memory.tiers, seen.status)
        view = replace(view, utilization=self.accountant.utilization(view.pool.key))
        if self.flips is not None:
            moving, leaving = self.flips.moves(view)
            view = replace(view, moving=moving, leaving=leaving)
        if seen.metadata.deletion_timestamp:
            return Decision(view=view, verdicts=())
        try:
            return decide(view, memory, self.settings, self.memo, share)
        except Exception as error:  # one pool's surprise must not stop the others
            log.exception("deciding failed", extra={"pool": f"{seen.metadata.namespace}/{seen.metadata.name}"})
            self.telemetry.count("reconcile_errors_total", kind="InferencePool", reason=type(error).__name__)
            return Fault(Reason.INVALID_FIELD, f"internal error while deciding: {type(error).__name__}: {error}")

    def _within_shared_limits(
        self, decided: list[tuple[Seen, Decision | Fault]], fleet: Fleet
    ) -> list[tuple[Seen, Decision | Fault]]:
        """The decisions, taken again for pools that get less of what they share than they planned with.

        A pool in mode Recommend takes nothing from others but what it runs: its plan comes to nothing.
        """
        decisions = [one for _, one in decided if isinstance(one, Decision)]
        plans = [
            (one.problem, one.plan)
            for one in decisions
            if one.write and one.problem is not None and one.plan is not None
        ]
        nodes = node_sizes(one.kind for one in fleet.types.values()) if self.settings.whole_nodes else {}
        limits = SharedLimits(
            sites=left_by_watchers(fleet.site_limits, decisions), nodes=nodes, held=held_by_watched(decisions)
        )
        shares = self.sharing.shares(plans, limits) or self.filling.shares(plans, limits)
        result: list[tuple[Seen, Decision | Fault]] = []
        for seen, one in decided:
            if isinstance(one, Decision) and one.problem is not None and one.problem.pool in shares:
                result.append((seen, self._again(seen, one, shares[one.problem.pool])))
            else:
                result.append((seen, one))
        told = iter(with_idle([one for _, one in result if isinstance(one, Decision)], nodes))
        return [(seen, next(told) if isinstance(one, Decision) else one) for seen, one in result]

    def _again(self, seen: Seen, before: Decision, share: Share) -> Decision | Fault:
        """The decision within a share; what saves money only gives way where a pool would come out short."""
        after = self._decide(seen, before.view, share)
        if not share.steered or not isinstance(after, Decision) or before.plan is None:
            return after
        if after.plan is not None and after.plan.shortfall <= before.plan.shortfall:
            return after
        self.filling.come_out_short()
        return self._decide(seen, before.view)

    def _with_power(
        self, decided: list[tuple[Seen, Decision | Fault]], fleet: Fleet
    ) -> list[tuple[Seen, Decision | Fault]]:
        """The decisions, with starts put off that a site has no power for yet."""
        if not fleet.site_limits:
            return decided
        decisions = [one for _, one in decided if isinstance(one, Decision)]
        held = iter(hold_starts(decisions, fleet.site_limits, self._lent_kilowatts(fleet)))
        return [(seen, next(held) if isinstance(one, Decision) else one) for seen, one in decided]

    def _lent_kilowatts(self, fleet: Fleet) -> dict[str, float]:
        """What training draws on loan, by site."""
        return {} if self.flips is None else self.flips.lent_kilowatts(fleet.site_limits)

    def _flip(self, decided: list[tuple[Seen, Decision | Fault]], fleet: Fleet) -> list[tuple[Seen, Decision | Fault]]:
        """Move every flip on by one step; the decisions with what is told of it."""
        if self.flips is None:
            return decided
        decisions = {one.view.pool.key: one for _, one in decided if isinstance(one, Decision)}
        try:
            told = self.flips.step(decisions, decision_id=self.actor.new_decision_id(), sites=fleet.site_limits)
        except Deposed:
            raise
        except Exception:  # flips must not keep pools from being scaled
            log.exception("flipping failed")
            self.telemetry.count("reconcile_errors_total", kind="Node", reason="Exception")
            return decided
        return [
            (seen, with_flips(one, told.get(one.view.pool.key))) if isinstance(one, Decision) else (seen, one)
            for seen, one in decided
        ]

    def _guarded_act(self, seen: Seen, decision: Decision | Fault) -> Decision | Fault:
        self.heartbeat = time.monotonic()
        try:
            return self._act(seen, decision)
        except Deposed:
            raise
        except Exception as error:  # as above
            log.exception("acting failed", extra={"pool": f"{seen.metadata.namespace}/{seen.metadata.name}"})
            self.telemetry.count("reconcile_errors_total", kind="InferencePool", reason=type(error).__name__)
            fault = Fault(Reason.INVALID_FIELD, f"internal error while acting: {type(error).__name__}: {error}")
            self._tell_fault(seen, fault)
            return fault

    def _act(self, seen: Seen, decision: Decision | Fault) -> Decision | Fault:
        """Act on one pool; the decision as it came out."""
        key = (seen.metadata.namespace, seen.metadata.name)
        if isinstance(decision, Fault):
            if seen.metadata.deletion_timestamp and not isinstance(seen.parsed, InferencePool):
                self.lifecycle.finish(seen, None, ())
            self._tell_fault(seen, decision)
            return decision
        pool = decision.view.pool
        if seen.metadata.deletion_timestamp:
            self.lifecycle.finish(seen, pool, decision.view.served)
            return decision
        if self.lifecycle.keep_finalizer(seen, pool):
            seen = self.observer.store.get(INFERENCE_POOL, *key) or seen
        decision_id = self.actor.new_decision_id()
        memory = self._memories[key]
        decision, changed = self.actor.act(decision, memory, decision_id=decision_id)
        if decision.write:
            self._guard(pool, decision_id)
            self.lifecycle.gateways.keep(pool, self.observer.gateway_pools, decision_id)
        current = self._ids.get(key)
        if changed or current is None:
            self._ids[key] = current = decision_id
        self.actor.write_pool_status(seen, decision, memory, decision_id=current)
        return decision

    def _guard(self, pool: InferencePool, decision_id: str) -> None:
        """A disruption budget where there is none, once per pool and term: one that is deleted later stays deleted."""
        uid = pool.metadata.uid
        if uid not in self._guarded:
            if self.lifecycle.guard(pool, decision_id):
                self._guarded.add(uid)
        elif self.observer.budgets is not None:
            here = [raw for raw in self.observer.budgets if raw["metadata"].get("namespace") == pool.namespace]
            self.lifecycle.unguard(pool, here)

    def _tell_fault(self, seen: Seen, fault: Fault) -> None:
        verdicts = (
            Verdict(ConditionType.READY, FALSE, Reason.NOT_VALIDATED, fault.message),
            Verdict(ConditionType.RECONCILING, FALSE, Reason.NOT_VALIDATED, "nothing is changed while invalid"),
            Verdict(ConditionType.VALIDATED, FALSE, fault.reason, fault.message),
        )
        self._write_simple(seen, verdicts, keep=_KEPT_WHEN_INVALID)
        told = {one.get("type"): one.get("status") for one in seen.status.get("conditions") or ()}
        if told.get(str(ConditionType.VALIDATED)) != str(FALSE):
            self.actor.events.emit(
                INFERENCE_POOL, seen.metadata.namespace, seen.metadata.name, seen.metadata.uid, type_="Warning",
                reason="Degraded", message=f"{ConditionType.VALIDATED}={FALSE} ({fault.reason}): {fault.message}",
            )  # fmt: skip

    def _claim(self, fleet: Fleet) -> bool:
        """Take over: everything we own gets our epoch before the first decision is carried out.

        Returns:
            Whether all of it has our epoch; until then nothing else is written.

        Raises:
            Deposed: something already has the epoch of a later leader.
        """
        own = [served for _, view in fleet.pools if isinstance(view, PoolView) for served in view.served]
        newest = max((marks.read_epoch(one.workload.annotations) for one in own if one.workload), default=0)
        if newest > self.actor.epoch:
            raise Deposed(f"a leader of epoch {newest} has written; ours is {self.actor.epoch}")
        if self.flips is not None and not self._claimed and not self.flips.claim():
            return False
        if not self._claimed:
            mine = [one for one in own if one.workload and marks.EPOCH_ANNOTATION in one.workload.annotations]
            with ThreadPoolExecutor(max_workers=WRITERS, thread_name_prefix="claim") as workers:
                self._claimed = all(workers.map(self.lifecycle.claim, mine))
        return self._claimed

    # --- the other kinds -------------------------------------------------------------------------------------------

    def _tell_others(self, fleet: Fleet, decisions: tuple[Decision, ...]) -> None:
        in_use: dict[str, int] = {}
        for _, view in fleet.pools:
            if isinstance(view, PoolView):
                for (accelerator, _), chips in view.chips.items():
                    in_use[accelerator] = in_use.get(accelerator, 0) + chips.scheduled
        for one in fleet.types.values():
            self._tell_type(one, in_use.get(one.kind.name, 0))
        for seen, fault in fleet.bad_types:
            self._write_simple(seen, _invalid(fault.reason, fault.message), keep=())
        for seen, faults in fleet.classes:
            verdicts = _class_verdicts(faults)
            self._write_simple(seen, verdicts, keep=("observed", "provenance"), **self._provenance(seen, fleet.now))
        watts, lent = watts_by_site(fleet.site_limits, decisions), self._lent_kilowatts(fleet)
        for seen, faults, nodes in fleet.sites:
            message = f"{nodes} nodes"
            verdicts = _invalid(faults[0].reason, faults[0].message) if faults else _valid(message, nodes)
            extra = {"nodes": nodes}
            if seen.metadata.name in watts:
                name = seen.metadata.name
                extra["watts"] = int(rounded(watts[name] + 1000.0 * lent.get(name, 0.0)))
            self._write_simple(seen, verdicts, keep=(), **extra)

    def _provenance(self, seen: Seen, now: float) -> dict[str, str]:
        """Where a class's numbers come from; nothing while its pool is not known.

        Several measured classes share one pool's engines: what each of them is stays an assumption.
        """
        wclass = seen.parsed
        if not isinstance(wclass, WorkloadClass):
            return {}
        if wclass.spec.demand.source is None:
            return {"provenance": "Declared"}
        memory = self._memories.get((wclass.namespace, wclass.spec.pool_ref.name))
        if memory is None:
            return {}
        alone = len(memory.measured_classes) == 1
        return {"provenance": str(memory.ahead.observed.basis(now=now) if alone else Basis.ASSUMED)}

    def _tell_type(self, one: TypeSeen, in_use: int) -> None:
        name, prices = one.kind.name, one.offer.prices
        shown = {(kind, "Catalogue" if p.catalogue else "User"): p.usd_per_chip_hour for kind, p in prices.items()}
        self.telemetry.show("accelerator_price_usd_per_hour", shown, accelerator=name)
        days = {(kind,): date.fromisoformat(p.as_of) for kind, p in prices.items() if p.as_of}
        stamps = {key: float(calendar.timegm(day.timetuple())) for key, day in days.items()}
        self.telemetry.show("price_last_update_timestamp_seconds", stamps, accelerator=name)
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
            yield "WorkloadClass", _class_verdicts(faults)

    def _forget_gone(self, fleet: Fleet) -> None:
        here = {(seen.metadata.namespace, seen.metadata.name) for seen, _ in fleet.pools}
        for key in [key for key in {*self._memories, *self._ids} if key not in here]:
            self._memories.pop(key, None)
            self._ids.pop(key, None)
            self.accountant.forget(*key)
            if self.remembrance is not None:
                self.remembrance.forget(key)


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


def _class_verdicts(faults: tuple[Fault, ...]) -> tuple[Verdict, ...]:
    if faults:
        return _invalid(faults[0].reason, "; ".join(one.message for one in faults))
    return (
        Verdict(ConditionType.READY, TRUE, Reason.VALID, "the class takes part in its pool's plan"),
        Verdict(ConditionType.VALIDATED, TRUE, Reason.VALID, "nothing to complain about"),
        Verdict(ConditionType.DEMAND_KNOWN, UNKNOWN, Reason.ASSUMED, "see the conditions of the pool"),
    )


def known_epochs(observer: Observer) -> list[int]:
    """Every epoch that a leader left on an object of ours: on workloads, on nodes, and in the decision ids of pools."""
    fleet = observer.observe(0.0)
    found = [marks.decision_epoch(seen.status.get("decisionId")) for seen, _ in fleet.pools]
    for _, view in fleet.pools:
        if isinstance(view, PoolView):
            found += [marks.read_epoch(one.workload.annotations) for one in view.served if one.workload]
    found.append(newest_epoch(observer.inventory.nodes()))
    return found
