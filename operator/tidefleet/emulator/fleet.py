"""All engines of a cluster and the load they share: pods in, load in, faults in; advanced by the clock.

Conservation holds per pool: offered = finished + in engines + pending + lost, where *pending* waits for a ready pod,
*lost* gave up waiting. Work inside an engine that crashes or goes away is *interrupted* and offered again, since
clients and gateways retry; it is counted apart.

Not thread-safe: one thread (that of the sockets) owns a fleet.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tidefleet.cluster.clock import Clock
from tidefleet.cluster.labels import ENGINE_ANNOTATION, POOL_LABEL, ROUTABLE_LABEL
from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.architecture import Architecture
from tidefleet.emulator.capacity import DoesNotFit, Shape
from tidefleet.emulator.engine import Engine
from tidefleet.emulator.faults import UNROUTABLE, Fault, FaultBook, FaultKind
from tidefleet.emulator.load import Load, level
from tidefleet.emulator.pods import (
    EngineFacts,
    KvEvents,
    Pod,
    UnusableAnnotation,
    engine_facts,
)

PENDING_PATIENCE_SECONDS = 60.0
"""How long load waits for a pool without ready pods before it is lost."""

QUEUE_PATIENCE_SECONDS = 600.0
"""How long a request waits in an engine's queue before its client gives up (the OpenAI client's default timeout)."""

LEAST_REQUEST = 0.5
"""Of the fluid of requests less than this is none: an engine that drains never comes quite to nothing."""

MOST_CUT = 512
"""Pods whose interrupted requests are told."""


@dataclass(slots=True)
class Slot:
    """One pod and its engine. ``engine`` is ``None`` while crashed."""

    pod: Pod
    facts: EngineFacts
    engine: Engine | None
    faults: tuple[Fault, ...] = ()
    starts: int = 0

    @property
    def pool(self) -> tuple[str, str]:
        """Namespace and pool; the pool's name is empty without a label."""
        return self.pod.namespace, self.pod.labels.get(POOL_LABEL, "")

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.pod.pod_ip, self.facts.port

    def has(self, kind: FaultKind) -> bool:
        """Whether a fault of this kind is in force."""
        return any(fault.kind is kind for fault in self.faults)

    @property
    def is_routable(self) -> bool:
        """Whether a balancer sends it load."""
        pod = self.pod
        if self.engine is None or not pod.ready or pod.deleting or pod.labels.get(ROUTABLE_LABEL) != "true":
            return False
        return not any(fault.kind in UNROUTABLE for fault in self.faults)


@dataclass(slots=True)
class PoolState:
    """The load of one pool and what became of it, in requests; ``cut``: interrupted ones by pod, newest last."""

    now: float
    load: Load | None = None
    offered: float = 0.0
    finished: float = 0.0
    pending: float = 0.0
    lost: float = 0.0
    interrupted: float = 0.0
    cut: dict[str, float] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)


class Fleet:
    """Engines for a set of pods.

    Args:
        accelerators: by catalogue name.
        models: by catalogue name.
        clock: the time that everything here runs on.
        kv_events: where engines publish their KV blocks whose pods say nothing of it; None: they do not.
    """

    def __init__(
        self,
        accelerators: Mapping[str, Accelerator],
        models: Mapping[str, Architecture],
        clock: Clock,
        *,
        kv_events: KvEvents | None = None,
    ) -> None:
        self.clock, self._kv_events = clock, kv_events
        self.faults = FaultBook()
        self.problems: dict[str, str] = {}
        """Why a pod has no engine, by ``namespace/name``."""
        self.slots: dict[str, Slot] = {}
        self.pools: dict[tuple[str, str], PoolState] = {}
        self._accelerators, self._models = accelerators, models
        self._refused: dict[tuple[str, str], str] = {}

    def set_pods(self, pods: Iterable[Pod]) -> None:
        """Take the pods that exist now. New ones start engines, restarted ones start afresh, others end theirs."""
        now = self.clock.now()
        self.tick(now)
        self.problems = {}
        kept: dict[str, Slot] = {}
        for pod in pods:
            slot = self.slots.get(pod.uid)
            if slot is not None and _same_engine(pod, slot.pod):
                if pod.restarts > slot.pod.restarts:
                    self._stop(slot)
                    self._start(slot, now)
                slot.pod = pod
                kept[pod.uid] = slot
                continue
            started = self._new_slot(pod, now)
            if started is not None:
                kept[pod.uid] = started
        for uid, slot in self.slots.items():
            if kept.get(uid) is not slot:
                self._stop(slot)
        self.slots = kept
        self._regroup(now)
        self._apply_faults(now)

    def set_load(self, namespace: str, pool: str, load: Load) -> None:
        """Offer this load from now on."""
        state = self._pool((namespace, pool))
        self._tick_pool(state, self.clock.now())
        state.load = load

    def drop_load(self, namespace: str, pool: str) -> bool:
        """Offer nothing from now on; False when there was no load."""
        self.tick()
        state = self.pools.get((namespace, pool))
        if state is None or state.load is None:
            return False
        state.load = None
        return True

    def set_fault(self, namespace: str, name: str, fault: Fault) -> int:
        """Set the fault of a pod or of all pods of a pool, later ones included. Returns how many pods have it now."""
        now = self.clock.now()
        self.tick(now)
        touched = [s for s in self.slots.values() if s.pod.namespace == namespace and name in (s.pod.name, s.pool[1])]
        if fault.kind is FaultKind.COUNTER_RESET:
            for slot in touched:
                if slot.engine is not None:
                    slot.engine.reset_counters()
        else:
            self.faults.put(namespace, name, fault)
            self._apply_faults(now)
        return len(touched)

    def drop_fault(self, namespace: str, name: str) -> bool:
        """Lift a fault; False when there was none."""
        now = self.clock.now()
        self.tick(now)
        found = self.faults.drop(namespace, name)
        self._apply_faults(now)
        return found

    def tick(self, now: float | None = None) -> None:
        """Bring every pool to the present."""
        time = self.clock.now() if now is None else now
        for state in self.pools.values():
            self._tick_pool(state, time)

    def touch(self, slot: Slot, stale_seconds: float = 0.0) -> None:
        """Bring the pool of one pod to the present, unless it is less than ``stale_seconds`` behind."""
        state, now = self.pools.get(slot.pool), self.clock.now()
        if state is not None and (now - state.now > stale_seconds or stale_seconds == 0.0):
            self._tick_pool(state, now)

    def listening(self) -> dict[tuple[str, int], Slot]:
        """Addresses that should answer, with their pods. Crashed engines and pods that are not ready are not there."""
        return {
            slot.address: slot
            for slot in self.slots.values()
            if slot.engine is not None and slot.pod.ready and slot.pod.pod_ip
        }

    def _tick_pool(self, state: PoolState, now: float) -> None:
        start, state.now = state.now, max(state.now, now)
        arrivals, shape = state.pending, None
        if state.load is not None:
            fresh = state.load.requests(start, state.now)
            state.offered += fresh
            arrivals += fresh
            shape = state.load.shape(0.5 * (start + state.now))
        engines = [(slot, slot.engine) for slot in state.slots if slot.engine is not None]
        like = shape or Shape()
        waiting = [engine.waiting for _, engine in engines]
        capacities = [engine.capacity(like) if slot.is_routable else 0.0 for slot, engine in engines]
        shares = level(arrivals, waiting, capacities) if arrivals > 0.0 else [0.0] * len(engines)
        if any(capacity > 0.0 for capacity in capacities):
            state.pending = 0.0
        else:
            rate = state.load.rate(state.now) if state.load is not None else 0.0
            bound = max(1.0, rate * PENDING_PATIENCE_SECONDS)
            state.pending = min(arrivals, bound)
            state.lost += arrivals - state.pending
        for (slot, engine), share in zip(engines, shares, strict=True):
            if slot.has(FaultKind.HANG):
                engine.now = max(engine.now, now)
                continue
            before = engine.finished
            engine.advance(state.now, share, shape)
            state.finished += engine.finished - before
            rate = engine.capacity(like)
            if rate > 0.0 and engine.waiting > rate * QUEUE_PATIENCE_SECONDS:
                state.lost += engine.abandon(engine.waiting - rate * QUEUE_PATIENCE_SECONDS)

    def _new_slot(self, pod: Pod, now: float) -> Slot | None:
        name = f"{pod.namespace}/{pod.name}"
        try:
            facts = engine_facts(pod, self._accelerators, self._models)
            if facts is None:
                return None
            if facts.kv_events is None:
                facts = replace(facts, kv_events=self._kv_events)
            slot = Slot(pod, facts, None)
            self._start(slot, now)
        except (UnusableAnnotation, DoesNotFit) as error:
            self.problems[name] = str(error)
            return None
        return slot

    def _start(self, slot: Slot, now: float) -> None:
        slot.starts += 1
        slot.engine = Engine(slot.facts, now, seed=zlib.crc32(slot.pod.uid.encode()) % 9973)

    def _stop(self, slot: Slot) -> None:
        """End an engine; its work goes back to the pool."""
        if slot.engine is None:
            return
        state = self.pools.get(slot.pool)
        if state is not None:
            state.pending += slot.engine.in_flight
            state.interrupted += slot.engine.in_flight
            if slot.engine.in_flight >= LEAST_REQUEST:
                state.cut[slot.pod.name] = state.cut.pop(slot.pod.name, 0.0) + slot.engine.in_flight
                while len(state.cut) > MOST_CUT:
                    del state.cut[next(iter(state.cut))]
        slot.engine = None

    def _apply_faults(self, now: float) -> None:
        for slot in self.slots.values():
            slot.faults = self.faults.of(slot.pod.namespace, {slot.pod.name, slot.pool[1]})
            crashed = slot.has(FaultKind.CRASH)
            if crashed and slot.engine is not None:
                self._stop(slot)
            elif not crashed and slot.engine is None:
                self._start(slot, now)
            if slot.engine is not None:
                slot.engine.slowdown = 1.0
                for fault in slot.faults:
                    if fault.kind is FaultKind.SLOW:
                        slot.engine.slowdown *= fault.factor

    def _pool(self, key: tuple[str, str]) -> PoolState:
        if key not in self.pools:
            self.pools[key] = PoolState(now=self.clock.now())
        return self.pools[key]

    def _regroup(self, now: float) -> None:
        for state in self.pools.values():
            state.slots = []
        for slot in self.slots.values():
            self._pool(slot.pool).slots.append(slot)
        for key in [k for k, s in self.pools.items() if not s.slots and s.load is None and s.offered == 0.0]:
            del self.pools[key]


def _same_engine(one: Pod, other: Pod) -> bool:
    """Whether two states of a pod mean the same engine in the same pool."""
    annotation = one.annotations.get(ENGINE_ANNOTATION) == other.annotations.get(ENGINE_ANNOTATION)
    return annotation and one.labels.get(POOL_LABEL) == other.labels.get(POOL_LABEL)
