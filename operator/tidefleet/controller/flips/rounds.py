"""One pass over all flips: look, wish, step, write. Every write is made again by the next pass if this one dies."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tidefleet.cluster.kinds import NODE
from tidefleet.cluster.lease import MAX_EPOCH
from tidefleet.cluster.objects import ApiFailed, Objects
from tidefleet.cluster.records import Node, Pod
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import Blocked as EvictionBlocked
from tidefleet.cluster.writes import Evict, Gone, MergePatch, Outcome, Written
from tidefleet.controller import marks
from tidefleet.controller.act import Actor
from tidefleet.controller.flips.dress import node_change
from tidefleet.controller.flips.pods import pod_change
from tidefleet.controller.flips.units import ServingPod, Unit
from tidefleet.flipping.journal import Journal, TooLarge, Unreadable, read, write
from tidefleet.flipping.machine import Step, Wanted, step, wanted
from tidefleet.flipping.observation import Observation, Wish
from tidefleet.flipping.phase import Phase

log = logging.getLogger(__name__)

LAST_GRACE_SECONDS = 1
"""What is left to a training pod that did not go in its time."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A unit after its step."""

    unit: Unit
    seen: Observation
    step: Step
    wanted: Wanted


def stepped(
    units: Sequence[Unit], seen: Mapping[str, Observation], wishes: Mapping[str, Wish], now: float
) -> list[Moved]:
    """Where every unit stands next. One whose journal is lost or forged is quarantined before anything else."""
    moved = []
    for unit in units:
        observed = replace(seen[unit.name], wish=wishes.get(unit.name, seen[unit.name].wish))
        one = step(unit.journal, observed, now)
        if unit.trouble and not unit.journal.since and "carries a taint" in unit.trouble:
            lost = unit.journal.to(Phase.QUARANTINED, now, why=unit.trouble, cause="held", trained=True)
            one = Step(lost, True, "serving", "quarantined", unit.trouble)
        if unit.missing and observed.released and unit.journal.phase is Phase.QUARANTINED and one.changed:
            there = tuple(sorted(unit.names))  # a release makes the unit anew of the nodes that there are
            one = replace(one, journal=replace(one.journal, members=there, unit=there[0]))
        asked = observed
        if one.journal.phase is not unit.journal.phase:  # counted before this phase began
            asked = replace(observed, requests=None)
        moved.append(Moved(unit, observed, one, wanted(one.journal, asked, now)))
    return moved


@dataclass(slots=True)
class Hands:
    """Carries out what a pass came to.

    Attributes:
        actor: writes with this leader's epoch.
        refused: why the eviction of a pod was refused, by its uid, until one is not.
        allowed: uids of pods that budgets allow to go.
    """

    actor: Actor
    refused: dict[str, str] = field(default_factory=dict)
    allowed: set[str] = field(default_factory=set)

    def dress(self, moved: Moved, *, decision_id: str) -> tuple[bool, dict[str, str]]:
        """Write a unit's journal, label and taints to each of its nodes.

        Returns:
            Whether all have them now, and the nodes on which somebody else had changed them, each with who it was
            where that is known.

        Raises:
            Deposed: another process leads.
        """
        journal = replace(moved.step.journal, epoch=self.actor.epoch)
        if not moved.step.changed and not journal.since:
            return True, {}
        done, reverted = True, dict[str, str]()
        for node in moved.unit.nodes:
            own = own_journal(node)
            try:
                body = node_change(node, journal if moved.step.changed else _restamped(journal, own), own=own)
            except TooLarge as error:  # whatever else is on the node, the others go on
                log.warning("a journal cannot be written", extra={"node": node.name, "why": str(error)})
                done = False
                continue
            if body is None:
                continue
            settled = not moved.step.changed and node.name not in moved.unit.lagging
            if settled and own is not None and (own.epoch == self.actor.epoch or own.phase is Phase.SERVING):
                reverted[node.name] = who_meddled(self.actor.objects, node.name)
            done = isinstance(self.patch(node, body, journal.why, decision_id), Written) and done
        return done, reverted

    def patch(self, node: Node, body: Mapping[str, object], reason: str, decision_id: str) -> Outcome:
        """One merge patch of a node, exactly as it was decided on."""
        outcome = self.actor.execute(
            MergePatch(
                kind=NODE,
                namespace="",
                name=node.name,
                body=body,
                uid=node.uid,
                resource_version=node.resource_version,
                reason=reason,
                decision_id=decision_id,
            )
        )
        if not isinstance(outcome, Written | Gone):
            self.actor.hurry()
        return outcome

    def pods(self, moved: Moved, *, decision_id: str, may_shrink: Callable[[ServingPod], bool | None]) -> None:
        """Bring the serving pods of a unit to what its phase wants.

        Args:
            may_shrink: whether the workload of a pod may be asked for fewer replicas so that it goes, once budgets
                allow it; ``None`` when that is done already.
        """
        # A pod whose pool became invalid or was deleted gets back what this flip took from it.
        touched = [pod for pod in moved.unit.others if marks.FLIP_ANNOTATION in pod.annotations]
        for pod in (*(one.pod for one in moved.unit.serving), *touched):
            change = pod_change(
                pod, moved.wanted, unit=moved.unit.name, reason=moved.step.journal.why, decision_id=decision_id
            )
            if change is not None:
                self.actor.execute(change)
        if moved.wanted.empty:
            for one in moved.unit.serving:
                shrinks = may_shrink(one)
                if not one.pod.deleting and shrinks is not None:
                    self.evict(one.pod, moved.step.journal.why, decision_id, only_ask=shrinks)

    def stamp(self, node: Node, own: Journal) -> bool:
        """Put this leader's epoch on a node in mid-flip, so that a write that another leader decided earlier fails."""
        body = {"metadata": {"annotations": {marks.FLIP_ANNOTATION: write(replace(own, epoch=self.actor.epoch))}}}
        return isinstance(self.patch(node, body, "a new leader takes over", ""), Written | Gone)

    def remove(self, pod: Pod, reason: str, decision_id: str) -> None:
        """Evict what is left of training, and have a pod that is terminating already end within a moment."""
        self.evict(pod, reason, decision_id, grace_seconds=LAST_GRACE_SECONDS)

    def evict(
        self, pod: Pod, reason: str, decision_id: str, *, grace_seconds: int | None = None, only_ask: bool = False
    ) -> Outcome:
        """Evict one pod, or only ask whether budgets allow it; one that forbids it is met again in the next pass."""
        outcome = self.actor.execute(
            Evict(
                namespace=pod.namespace,
                name=pod.name,
                uid=pod.uid,
                resource_version=pod.resource_version,
                reason=reason,
                decision_id=decision_id,
                grace_seconds=grace_seconds,
                dry_run=only_ask,
            )
        )
        if isinstance(outcome, EvictionBlocked):
            log.info("an eviction was refused", extra={"pod": f"{pod.namespace}/{pod.name}", "why": outcome.message})
            self.refused[pod.uid] = outcome.message
            self.allowed.discard(pod.uid)
        elif isinstance(outcome, Written):
            self.refused.pop(pod.uid, None)
            self.allowed.add(pod.uid)
        return outcome

    def forget_all_but(self, uids: Collection[str]) -> None:
        """Forget pods that are gone."""
        for uid in self.refused.keys() - uids:
            del self.refused[uid]
        self.allowed.intersection_update(uids)


def who_meddled(objects: Objects, node: str) -> str:
    """The field manager that last wrote marks of ours or taints on a node; empty where the API server cannot tell.

    It can of what somebody has set, and not of what somebody has taken off.
    """
    try:
        raw = objects.get(NODE, "", node) or {}
    except (ApiFailed, Unreachable):
        return ""
    found = []
    for one in raw.get("metadata", {}).get("managedFields") or ():
        fields = json.dumps(one.get("fieldsV1"))
        if one.get("manager") != marks.FIELD_MANAGER and ("f:tidefleet.io/" in fields or "f:taints" in fields):
            found.append((str(one.get("time", "")), str(one.get("manager", ""))))
    return max(found, default=("", ""))[1]


def own_journal(node: Node) -> Journal | None:
    """The journal that a node carries; ``None`` when it carries none that can be read."""
    text = node.annotations.get(marks.FLIP_ANNOTATION)
    found = read(text) if text is not None else None
    return None if found is None or isinstance(found, Unreadable) else found


def _restamped(journal: Journal, own: Journal | None) -> Journal:
    """A journal that did not change keeps the epoch that stands there, unless the node is in mid-flip."""
    if own is not None and own.same_state(journal) and journal.phase is Phase.SERVING:
        return replace(journal, epoch=own.epoch)
    return journal


def newest_epoch(nodes: Iterable[Node]) -> int:
    """The latest epoch in any journal that a leader can have written; 0 without one."""
    found = [journal.epoch for node in nodes if (journal := own_journal(node)) is not None]
    return max((epoch for epoch in found if epoch <= MAX_EPOCH), default=0)
