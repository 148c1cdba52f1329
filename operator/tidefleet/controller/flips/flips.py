"""All flips of a fleet, pass after pass: the one place that the fleet loop calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tidefleet.api import AcceleratorType
from tidefleet.api.flipping import QueueKind
from tidefleet.cluster.clock import Clock, RealClock
from tidefleet.cluster.records import Node, Pod
from tidefleet.controller import marks
from tidefleet.controller.act import Actor, Deposed
from tidefleet.controller.asked import freshness_seconds
from tidefleet.controller.collector import PoolKey
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decision import Decision
from tidefleet.controller.flips import outlook
from tidefleet.controller.flips.borrowers import Borrowers, recall_order
from tidefleet.controller.flips.canary import Canaries
from tidefleet.controller.flips.dress import DUTY_TAINT, FLIP_TAINT
from tidefleet.controller.flips.holders import Devices, disagreement, fresh_holders
from tidefleet.controller.flips.lateness import Lateness
from tidefleet.controller.flips.lenders import Pause, Standing, standing
from tidefleet.controller.flips.requests import answer_to, read_request
from tidefleet.controller.flips.rounds import Hands, Moved, newest_epoch, own_journal, stepped
from tidefleet.controller.flips.seeing import Requests, Sight, canary_of, observe, ready_at_home, terms_of
from tidefleet.controller.flips.sites import held_to_power, lent_kilowatts
from tidefleet.controller.flips.sweep import Stray, Sweep, stray_nodes
from tidefleet.controller.flips.telling import Teller, Told
from tidefleet.controller.flips.units import ServingPod, Unit, serving_pods, units_of
from tidefleet.controller.flips.vetoes import HealthClock, conflicts_in, leaves_by_itself, vetoes
from tidefleet.controller.observe import Fleet, Observer
from tidefleet.controller.training.lending import Trainer
from tidefleet.controller.view import PoolMemory, PoolView
from tidefleet.flipping.lending import Ask, FlipRequest, LendingMemory, Round
from tidefleet.flipping.machine import wanted
from tidefleet.flipping.observation import Canary, Observation, Terms
from tidefleet.flipping.phase import Phase
from tidefleet.flipping.staircase import lead_slots
from tidefleet.planning.coordination import SiteLimit
from tidefleet.planning.slots import SLOT_SECONDS

log = logging.getLogger(__name__)

CANARY_SECONDS = 10.0
"""Within what time a trial request must be answered, in real seconds."""

REAL_SECONDS = 5.0
"""No phase times out sooner, in real seconds: on a clock that runs faster, API server and pods do not."""


@dataclass(slots=True)
class _Seen:
    """What a pass saw, kept until its end."""

    now: float
    views: Mapping[PoolKey, PoolView]
    kinds: Mapping[str, AcceleratorType]
    units: Sequence[Unit]
    serving: Mapping[str, ServingPod]
    requests: Mapping[str, FlipRequest]
    readings: dict[str, Requests | None] = field(default_factory=dict)


@dataclass(slots=True)
class Flips:
    """Lends nodes to training and takes them back.

    Attributes:
        trainers: by kind of queue.
        memory_of: what the loop remembers of a pool.
        clock: the fleet's.
        pause: of the whole fleet, as last read; ``devices`` likewise, and ``ailing``, what is wrong with one, by node.
        cohorts: those of ours that no pool lends by, as last read.
        queued: pools whose Cohorts are in use, as of the last pass; ``None`` before the first.
    """

    actor: Actor
    observer: Observer
    settings: OperatorConfiguration
    trainers: Mapping[QueueKind, Trainer]
    memory_of: Callable[[PoolKey], PoolMemory | None]
    clock: Clock = field(default_factory=RealClock)
    canaries: Canaries = field(default_factory=Canaries)
    pause: Pause = field(default_factory=Pause)
    devices: Devices = field(default_factory=Devices)
    ailing: Mapping[str, str] = field(default_factory=dict)
    cohorts: Sequence[Stray] = ()
    queued: frozenset[PoolKey] | None = None
    _hands: Hands | None = None
    _sweep: Sweep | None = None
    _teller: Teller | None = None
    _health: HealthClock = field(default_factory=HealthClock)
    _lateness: Lateness = field(default_factory=Lateness)
    _lending: LendingMemory = field(default_factory=LendingMemory)
    _outlooks: outlook.Outlooks = field(default_factory=outlook.Outlooks)
    _planned: dict[tuple[PoolKey, str], int] = field(default_factory=dict)
    _desired: dict[tuple[PoolKey, str], int] = field(default_factory=dict)
    _unclear: frozenset[PoolKey] = frozenset()
    _borrowers: Borrowers | None = None
    _seen: _Seen | None = None

    @property
    def is_moving(self) -> bool:
        """Whether any unit is in the middle of a flip; for any thread."""
        seen = self._seen
        return seen is not None and any(unit.journal.phase.is_moving for unit in seen.units)

    @property
    def hands(self) -> Hands:
        """What carries decisions out."""
        if self._hands is None:
            self._hands = Hands(self.actor)
        return self._hands

    @property
    def borrowers(self) -> Borrowers:
        """Who trains."""
        if self._borrowers is None:
            self._borrowers = Borrowers(self.actor, self.trainers)
        return self._borrowers

    @property
    def teller(self) -> Teller:
        """What says them."""
        if self._teller is None:
            self._teller = Teller(self.actor)
        return self._teller

    @property
    def sweep(self) -> Sweep:
        """What tells of what is left behind."""
        if self._sweep is None:
            self._sweep = Sweep(self.actor)
        return self._sweep

    # --- before pools decide -----------------------------------------------------------------------------------------

    def look(self, fleet: Fleet) -> None:
        """See every unit, if any pool lends or any node is in a flip; otherwise nothing costs anything."""
        nodes = self.observer.inventory.nodes()
        views = {view.pool.key: view for _, view in fleet.pools if isinstance(view, PoolView)}
        self._unclear = frozenset(
            (seen.metadata.namespace, seen.metadata.name)
            for seen, view in fleet.pools
            if not isinstance(view, PoolView)
        )
        if not any(outlook.lends(view.pool) for view in views.values()) and not any(map(_is_marked, nodes)):
            self._seen = None
            return
        kinds = {name: one.kind for name, one in fleet.types.items()}
        pods_of: dict[tuple[PoolKey, str], Sequence[Pod]] = {}
        for key, view in views.items():
            for served in view.served:
                if served.workload is not None and served.workload.selector:
                    found = self.observer.inventory.pods(key[0], served.workload.selector)
                    pods_of[key, served.name] = found
        serving = serving_pods(views.values(), pods_of)
        units = units_of(kinds, nodes, self.observer.inventory.pods(None), serving)
        requests = self._requests(units)
        self._seen = _Seen(fleet.now, views, kinds, units, serving, requests)

    def claim(self) -> bool:
        """Put this leader's epoch on every node in mid-flip; whether all have it.

        Raises:
            Deposed: a journal has the epoch of a later leader.
        """
        nodes = self.observer.inventory.nodes()
        newest = newest_epoch(nodes)
        if newest > self.actor.epoch:
            raise Deposed(f"a leader of epoch {newest} has written to a node; ours is {self.actor.epoch}")
        done = True
        for node in nodes:
            own = own_journal(node)
            if own is not None and own.phase is not Phase.SERVING and own.epoch != self.actor.epoch:
                done = self.hands.stamp(node, own) and done
        return done

    def moves(self, view: PoolView) -> tuple[dict[str, int], dict[str, int]]:
        """Replicas of a pool that are to be replaced elsewhere, by workload, and those that may go at once."""
        if self._seen is None:
            return {}, {}
        moving: dict[str, int] = {}
        leaving: dict[str, int] = {}
        sight = self._sight(self._seen)
        for unit in self._seen.units:
            phases = (Phase.CORDONED, Phase.DRAINING, Phase.VERIFYING, Phase.QUARANTINED)
            if view.pool.key not in unit.pools or unit.journal.phase not in phases:
                continue
            wants = wanted(unit.journal, observe(unit, sight), self._seen.now)
            for one in unit.serving:
                # What stood in quarantine served nobody and was replaced: no budget is asked for it.
                stood_by = unit.journal.phase is Phase.VERIFYING and bool(unit.journal.cause)
                goes = wants.empty and (stood_by or one.pod.uid in self.hands.allowed)
                if one.pod.deleting or not (wants.replace or (wants.empty and not one.is_ordinal)):
                    continue
                into = leaving if goes else moving
                into[one.served.name] = into.get(one.served.name, 0) + 1
        for served in view.served:  # a workload that shrinks already has been asked
            if served.name in leaving and self._alive((view.pool.key, served.name), self._seen) > served.desired:
                del leaving[served.name]
        return moving, leaving

    # --- after pools decided -----------------------------------------------------------------------------------------

    def lent_kilowatts(self, sites: Sequence[SiteLimit]) -> dict[str, float]:
        """What training may draw on loan now, by site, with PUE."""
        return {} if self._seen is None else lent_kilowatts(sites, self._seen.units, self._seen.kinds)

    def step(
        self, decisions: Mapping[PoolKey, Decision], *, decision_id: str, sites: Sequence[SiteLimit] = ()
    ) -> dict[PoolKey, Told]:
        """Move every flip on by one step.

        Args:
            sites: limits of power that loans keep to.

        Returns:
            What is to be told of each pool that lends or has lent.

        Raises:
            Deposed: another process leads.
        """
        seen = self._seen
        strays = stray_nodes(self.observer.inventory.nodes(), seen.units if seen is not None else ())
        self.sweep.tell((*strays, *self.cohorts), decision_id=decision_id)
        if seen is None:
            self.queued = self._unclear
            return {}
        self._planned = {
            (key, target.served.name): target.planned
            for key, one in decisions.items()
            if one.plan is not None
            for target in one.targets
        }
        self._desired = {
            (key, target.served.name): target.desired for key, one in decisions.items() for target in one.targets
        }
        known = {key: pool for key, pool in self.teller.pools.items() if key in self._unclear}
        self.teller.pools = known | {key: view.pool for key, view in seen.views.items()}
        views = seen.views.values()
        self.borrowers.look(seen.units, views, seen.kinds, self.observer.inventory.pods(None), seen.now)
        lent = self.borrowers.lent.values()
        self.queued = self._unclear | {one.pool for one in lent if one.queue.kind is QueueKind.KUEUE}
        standings = self._standings(seen)
        sight = self._sight(seen)
        observed = {unit.name: observe(unit, sight) for unit in seen.units}
        types = self._types(seen, observed, standings, decisions)
        if sites:
            types = held_to_power(
                types,
                sites,
                seen.units,
                views=seen.views,
                kinds=seen.kinds,
                decisions=decisions.values(),
                recall_order=recall_order(self.borrowers.training, seen.now),
                lead_slots=lead_slots(self.settings.flipping.recall_seconds, SLOT_SECONDS),
            )
        wishes = {name: wish for one in types.values() for name, wish in one.decision.wishes.items()}
        moved = stepped(seen.units, observed, wishes, seen.now)
        openings = {name: one.open.next_opening for name, one in standings.items()}
        for stop, pool, unit in self.borrowers.write(
            moved, views, seen.kinds, openings, now=seen.now, decision_id=decision_id
        ):
            self.teller.stopped(stop, unit=unit, pool=pool, decision_id=decision_id)
        for one in moved:
            self.teller.trouble(one.unit, decision_id=decision_id)
            done, reverted = self.hands.dress(one, decision_id=decision_id)
            if done and one.step.changed:
                self.teller.moved(one, decision_id=decision_id, now=seen.now)
            for node, who in reverted.items():
                self.teller.reverted(one.unit, node, who, decision_id=decision_id)
        for one in moved:
            self.hands.pods(one, decision_id=decision_id, may_shrink=partial(self._may_shrink, seen=seen))
            if one.wanted.evict:
                for pod in one.unit.strangers:
                    self.hands.remove(pod, one.step.journal.why, decision_id)
        self._answer_requests(moved, types, seen, decision_id=decision_id)
        self._forget(seen)
        if any(one.step.changed for one in moved):
            self.actor.hurry()
        return self.teller.tell(
            moved,
            standings=standings,
            types=types,
            training=self.borrowers.training,
            now=seen.now,
        )

    # --- parts -------------------------------------------------------------------------------------------------------

    def _requests(self, units: Iterable[Unit]) -> dict[str, FlipRequest]:
        found: dict[str, FlipRequest] = {}
        for unit in units:
            for node in unit.nodes:
                request = read_request(node.annotations)
                if isinstance(request, FlipRequest):
                    found[unit.name] = request
        return found

    def _standings(self, seen: _Seen) -> dict[str, Standing]:
        found: dict[str, Standing] = {}
        for key, view in seen.views.items():
            name = "/".join(key)
            training = self.borrowers.training.get(name)
            one = standing(
                view.pool,
                opening=outlook.openness(
                    view.pool, self.memory_of(key), seen.now, self.settings, declared=outlook.is_declared(view)
                ),
                fleet_pause=self.pause,
                faults=training.faults if training is not None else (),
                cluster_wide=self.observer.inventory.is_cluster_wide,
            )
            if one is not None:
                found[name] = one
        return found

    def _sight(self, seen: _Seen) -> Sight:
        conflicts = {
            f"{'/'.join(key)} {name}": words
            for key, view in seen.views.items()
            for name, words in conflicts_in(view, self.observer.autoscalers or ()).items()
        }
        surplus = self._leaving(seen)
        told = {**self.ailing, **self.devices.tainted}
        unhealthy = {
            unit.name: self._health.unhealthy(unit, seen.kinds[unit.accelerator], seen.now)
            or next((told[node.name] for node in unit.nodes if node.name in told), "")
            for unit in seen.units
        }
        against = {}
        for unit in seen.units:
            found = vetoes(unit, now=seen.now, conflicts=conflicts, outnumbered=surplus)
            differs = disagreement(unit, seen.kinds[unit.accelerator].spec.device_class or "", self.devices)
            against[unit.name] = (*found, differs) if differs else found
        awaited = {
            accelerator
            for view in seen.views.values()
            for (accelerator, _), chips in view.chips.items()
            if chips.waiting
        }
        released = {name for name, one in seen.requests.items() if one.to is Ask.RELEASE}
        return Sight(
            now=seen.now,
            planned=self._planned,
            ready_at_home=ready_at_home(seen.units, seen.serving.values()),
            requests=lambda uid: self._requests_in(uid, seen),
            refused=self.hands.refused,
            holders=lambda unit: fresh_holders(self.actor.objects, unit, self.devices),
            admission_stopped=self.borrowers.admission_stopped,
            jobs=self.borrowers.jobs_on,
            awaited=lambda accelerator: accelerator in awaited,
            unhealthy=unhealthy,
            vetoes=against,
            terms=lambda unit: self._terms(unit, seen),
            canary=lambda unit: self._canary(unit, seen),
            released=frozenset(released),
        )

    def _requests_in(self, uid: str, seen: _Seen) -> Requests | None:
        """What was last read of an engine, the same throughout a pass: it is asked twice."""
        if uid not in seen.readings:
            collector = self.observer.collector
            found = collector.requests(uid) if collector is not None else None
            seen.readings[uid] = Requests(*found) if found is not None else None
        return seen.readings[uid]

    def _canary(self, unit: Unit, seen: _Seen) -> tuple[Canary, str]:
        return canary_of(unit, seen.views, seen.serving.values(), self.canaries, bound_seconds=CANARY_SECONDS)

    def _terms(self, unit: Unit, seen: _Seen) -> Terms:
        namespace, _, name = unit.journal.pool.partition("/")
        view = seen.views.get((namespace, name))
        memory = self.memory_of((namespace, name))
        start = memory.ahead.start.seconds if memory is not None else None
        warm = 2.0 * (start if start is not None else self.settings.start_timeout_seconds)
        return terms_of(
            view.pool if view is not None else None,
            warm_seconds=max(warm, self.settings.flipping.shortest_warm_seconds),
            dwell_seconds=self.settings.flipping.dwell_seconds,
        ).at_least(REAL_SECONDS * self.clock.scale)

    def _leaving(self, seen: _Seen) -> frozenset[str]:
        """Pods of StatefulSets and LeaderWorkerSets that the plan removes anyway."""
        of: dict[tuple[PoolKey, str], list[Pod]] = {}
        for one in seen.serving.values():
            if one.is_ordinal:
                of.setdefault((one.pool, one.served.name), []).append(one.pod)
        found: frozenset[str] = frozenset()
        for key, pods in of.items():
            found |= leaves_by_itself(pods, len(pods) - self._planned.get(key, len(pods)))
        return found

    def _may_shrink(self, one: ServingPod, *, seen: _Seen) -> bool | None:
        """Whether a pod can go by asking its workload for fewer replicas; ``None`` where that has been done."""
        key = (one.pool, one.served.name)
        desired = self._desired.get(key)
        if desired is None:
            return False
        if self._alive(key, seen) > desired:
            return None
        return not one.is_ordinal and desired > self._planned.get(key, desired)

    @staticmethod
    def _alive(key: tuple[PoolKey, str], seen: _Seen) -> int:
        """Pods of a workload that are not about to go."""
        return sum(1 for one in seen.serving.values() if (one.pool, one.served.name) == key and not one.pod.deleting)

    def _types(
        self, seen: _Seen, observed: Mapping[str, Observation], standings: Mapping[str, Standing],
        decisions: Mapping[PoolKey, Decision],
    ) -> dict[str, outlook.TypeRound]:  # fmt: skip
        found: dict[str, outlook.TypeRound] = {}
        late = self._lateness.note(seen.views.values(), fresh_seconds=freshness_seconds(self.settings))
        for accelerator in sorted({unit.accelerator for unit in seen.units}):
            units = [unit for unit in seen.units if unit.accelerator == accelerator]
            pools = {key: view for key, view in seen.views.items() if accelerator in outlook.types_of(view)}
            here = {key: standings["/".join(key)] for key in pools if "/".join(key) in standings}
            if not here and all(unit.journal.phase is Phase.SERVING for unit in units):
                continue
            kind = seen.kinds[accelerator]
            needs = outlook.needs_of(kind, units, pools, decisions, late)
            ahead = self._outlooks.of(
                kind,
                units,
                needs=needs,
                pools=pools,
                decisions=decisions,
                standings=here,
                memory_of=self.memory_of,
                now=seen.now,
                settings=self.settings,
            )
            lending = [view.pool for view in pools.values()]
            allowed, held_by = outlook.allowed_now(kind, units, lending, seen.now)
            recalls = outlook.recalls_allowed(units, lending, seen.now)
            round_ = Round(
                accelerator=accelerator,
                units=units,
                seen=observed,
                needs=needs,
                plan=ahead.plan,
                lenders=[one.lender for one in here.values()],
                allowed=allowed,
                held_by=held_by,
                recalls=recalls,
                invalid=frozenset(map("/".join, self._unclear)),
                requests=seen.requests,
                memory=self._lending,
                recall_order=recall_order(self.borrowers.training, seen.now),
                now=seen.now,
            )
            found[accelerator] = outlook.TypeRound(
                accelerator,
                needs=needs,
                ahead=ahead,
                decision=round_.decide(),
                allowed=allowed,
                recalls=recalls[0],
                at_home=round_.at_home,
                lenders=frozenset(one.lender.pool for one in here.values()),
            )
        return found

    def _answer_requests(
        self, moved: Sequence[Moved], types: Mapping[str, outlook.TypeRound], seen: _Seen, *, decision_id: str
    ) -> None:
        """Take off requests that are carried out, refused or not understood, and say so."""
        blocked = {one.unit: one.why for round_ in types.values() for one in round_.decision.blocked}
        for one in moved:
            for node in one.unit.nodes:
                request = read_request(node.annotations)
                if request is None:
                    continue
                words, refused = answer_to(request, one, blocked.get(one.unit.name, ""), seen.now)
                if not words:
                    continue
                current = next((each for each in self.observer.inventory.nodes() if each.name == node.name), node)
                body = {"metadata": {"annotations": {marks.FLIP_REQUEST_ANNOTATION: None}}}
                self.hands.patch(current, body, words, decision_id)
                self.teller.answered(one.unit, words, refused=refused, decision_id=decision_id)

    def _forget(self, seen: _Seen) -> None:
        self.hands.forget_all_but(seen.serving)
        self._health.forget_all_but(node.name for unit in seen.units for node in unit.nodes)
        warming = [unit for unit in seen.units if unit.journal.phase is Phase.WARMING]
        self.canaries.forget_all_but(set(seen.serving) if warming else set())


def _is_marked(node: Node) -> bool:
    """Whether anything of ours is on a node."""
    ours = (marks.FLIP_ANNOTATION, marks.FLIP_REQUEST_ANNOTATION)
    return any(name in node.annotations for name in ours) or any(t.key in (FLIP_TAINT, DUTY_TAINT) for t in node.taints)
