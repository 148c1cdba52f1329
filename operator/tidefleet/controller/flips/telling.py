"""What is told of flips: Events, metrics, the condition Flipping and ``status.flipping``, all in the same words."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from tidefleet.api import ConditionType, InferencePool, Reason
from tidefleet.api.flipping_status import MOST_BLOCKED, MOST_CHANGES, MOST_NODES, MOST_UNITS, MOST_WAITING
from tidefleet.cluster.kinds import INFERENCE_POOL, NODE
from tidefleet.controller import marks
from tidefleet.controller.act import Actor
from tidefleet.controller.decision import FALSE, TRUE, Decision, Verdict
from tidefleet.controller.flips.lenders import Standing
from tidefleet.controller.flips.outlook import TypeRound
from tidefleet.controller.flips.past import needed_before
from tidefleet.controller.flips.rounds import Moved
from tidefleet.controller.flips.units import Unit
from tidefleet.controller.status import decimal, timestamp
from tidefleet.controller.training.lending import Stop, TrainingSeen
from tidefleet.flipping.journal import Journal
from tidefleet.flipping.phase import Phase
from tidefleet.telemetry.flips import FlipCause, FlipMeter, LossCause

log = logging.getLogger(__name__)

SENTENCE = 512

OFTEN = 3
"""Times that marks of a node were changed by others, from which the condition says so."""

_EVENTS: Mapping[Phase, str] = {
    Phase.PLANNED: "FlipPlanned",
    Phase.CORDONED: "FlipStarted",
    Phase.DRAINING: "FlipDraining",
    Phase.VERIFYING: "FlipVerifying",
    Phase.TRAINING: "Lent",
    Phase.RECALLING: "Recalled",
    Phase.RECLAIMING: "Reclaiming",
    Phase.WARMING: "Warming",
    Phase.SERVING: "ServesAgain",
    Phase.QUARANTINED: "Quarantined",
}

_ON_THE_WAY = frozenset({"FlipPlanned", "FlipStarted", "FlipDraining", "FlipVerifying", "Reclaiming", "Warming"})
"""Told of the node alone: an object takes 25 Events and then one in 30 s, and many nodes of a pool may move at once."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a pool's status says of flips.

    Attributes:
        verdict: the condition Flipping.
        status: ``status.flipping`` in its wire form; ``next_flip`` the column.
        trained: chips on loan that training jobs hold, by accelerator type; ``None`` = the jobs cannot be read.
    """

    verdict: Verdict
    status: Mapping[str, Any]
    next_flip: str
    trained: Mapping[str, float] | None = None


def with_flips(decision: Decision, told: Told | None) -> Decision:
    """A decision with what is told of its pool's flips."""
    if told is None:
        return decision
    verdicts = tuple(told.verdict if one.type is ConditionType.FLIPPING else one for one in decision.verdicts)
    return replace(decision, verdicts=verdicts, flipping=told.status, next_flip=told.next_flip, trained=told.trained)


@dataclass(slots=True)
class Teller:
    """Tells; keeps nothing but which pools have series."""

    actor: Actor
    pools: Mapping[tuple[str, str], InferencePool] = field(default_factory=dict)
    """Those that exist, by namespace and name."""
    reversions: dict[str, int] = field(default_factory=dict)
    """How often our marks were changed by others, by node."""
    troubles: dict[str, str] = field(default_factory=dict)
    """What was last told of units whose journals cannot be read."""
    _shown: set[tuple[str, str]] = field(default_factory=set)

    @property
    def meter(self) -> FlipMeter:
        """The metrics of flips."""
        return FlipMeter(self.actor.telemetry)

    def moved(self, one: Moved, *, decision_id: str, now: float) -> None:
        """Tell a change of phase that has been written."""
        before, after, step = one.unit.journal, one.step.journal, one.step
        key = pool_key(after.pool or before.pool)
        words = step.words or after.why
        log.info(
            "flip", extra={"unit": one.unit.name, "phase": str(after.phase), "why": words, "decisionId": decision_id}
        )
        bad = step.result in ("quarantined", "rolled-back") or after.phase is Phase.QUARANTINED
        reason = "RolledBack" if step.result == "rolled-back" else _EVENTS[after.phase]
        if step.result == "called-off":
            reason = "FlipCalledOff"
        if before.phase is not after.phase:
            self._emit(one.unit, key, reason, f"{one.unit.name}: {words}", bad=bad, decision_id=decision_id)
            if before.since:
                self.meter.left(str(before.phase), now - before.since)
        if step.result:
            direction: Literal["training", "serving"] = "training" if step.direction == "training" else "serving"
            self.meter.ended(
                key,
                direction=direction,
                result=step.result,  # type: ignore[arg-type]
                reason=cause_of(before, after, direction),
                decision_id=decision_id,
            )

    def stopped(self, stop: Stop, *, unit: Journal | None, pool: tuple[str, str], decision_id: str) -> None:
        """Tell that a job was made to leave, and what was lost of its work."""
        cause: LossCause = "Surge" if unit is not None and unit.surge else "Recall"
        self.meter.work_lost(pool, stop.lost_chip_seconds, cause)
        lost = f"{stop.lost_chip_seconds / 3600.0:.2f} accelerator-hours of its work are lost"
        found = self.pools.get(pool)
        log.info("job stopped", extra={"job": str(stop.job), "why": stop.why, "lost": lost, "decisionId": decision_id})
        if found is not None:
            self._emit_pool(found, "TrainingStopped", f"{stop.job}: {stop.why}; {lost}", decision_id=decision_id)

    def answered(self, unit: Unit, words: str, *, refused: bool, decision_id: str) -> None:
        """Tell what became of a request by hand."""
        key = pool_key(unit.journal.pool)
        reason = "FlipRefused" if refused else "FlipRequested"
        self._emit(unit, key, reason, f"{unit.name}: {words}", bad=refused, decision_id=decision_id)

    def trouble(self, unit: Unit, *, decision_id: str) -> None:
        """Tell what is wrong with a unit's journals, once for each story."""
        if self.troubles.get(unit.name) == unit.trouble:
            return
        self.troubles[unit.name] = unit.trouble
        if unit.trouble:
            words = f"{unit.name}: {unit.trouble}"
            self._emit(unit, pool_key(unit.journal.pool), "JournalUnreadable", words, bad=True, decision_id=decision_id)

    def reverted(self, unit: Unit, node: str, who: str, *, decision_id: str) -> None:
        """Tell that somebody changes our marks on a node."""
        times = self.reversions[node] = self.reversions.get(node, 0) + 1
        by = f"{who} or somebody else" if who else "somebody else"
        words = f"{node}: {by} changed its labels, taints or journal ({times} times by now); they are put back"
        self._emit(unit, pool_key(unit.journal.pool), "LabelsReverted", words, bad=True, decision_id=decision_id)

    def _emit(self, unit: Unit, key: tuple[str, str], reason: str, words: str, *, bad: bool, decision_id: str) -> None:
        note = {marks.DECISION_ANNOTATION: decision_id}
        type_ = "Warning" if bad else "Normal"
        for node in unit.nodes[:1]:
            self.actor.events.emit(
                NODE, None, node.name, node.uid, type_=type_, reason=reason, message=words, annotations=note
            )
        if reason not in _ON_THE_WAY and (pool := self.pools.get(key)) is not None:
            self._emit_pool(pool, reason, words, bad=bad, decision_id=decision_id)

    def _emit_pool(self, pool: InferencePool, reason: str, words: str, *, bad: bool = False, decision_id: str) -> None:
        self.actor.events.emit(
            INFERENCE_POOL, pool.namespace, pool.name, pool.metadata.uid, type_="Warning" if bad else "Normal",
            reason=reason, message=words, annotations={marks.DECISION_ANNOTATION: decision_id},
        )  # fmt: skip

    # --- status ------------------------------------------------------------------------------------------------------

    def tell(
        self,
        moved: Sequence[Moved],
        *,
        standings: Mapping[str, Standing],
        types: Mapping[str, TypeRound],
        training: Mapping[str, TrainingSeen],
        now: float,
    ) -> dict[tuple[str, str], Told]:
        """What every pool is told that lends, or has lent nodes that are not back yet."""
        names = set(standings) | {one.step.journal.pool for one in moved if one.step.journal.phase is not Phase.SERVING}
        found: dict[tuple[str, str], Told] = {}
        for name in sorted(names):
            key = pool_key(name)
            if key not in self.pools:
                continue
            own = [one for one in moved if _concerns(one, name, key)]
            lent = standings.get(name)
            rounds = [one for one in types.values() if name in one.lenders]
            seen = training.get(name)
            again = [node for one in own for node in one.unit.names if self.reversions.get(node, 0) >= OFTEN]
            status = _status(own, name, lent=lent, rounds=rounds, seen=seen)
            start = next((one.ahead.slot_start for one in rounds if one.ahead.needed), None)
            if before := needed_before(self.pools[key].status.flipping, start):
                status["neededBefore"] = before
            verdict = _verdict(own, name, lent=lent, rounds=rounds, seen=seen, again=again)
            next_flip = _next_flip(own, name, lent=lent, rounds=rounds, now=now)
            found[key] = Told(verdict, status, next_flip, _trained(own, name, seen))
            self._show(key, own, name, rounds, now)
        return found

    def _show(
        self, key: tuple[str, str], own: Sequence[Moved], name: str, rounds: Sequence[TypeRound], now: float
    ) -> None:
        if key not in self._shown:
            self.meter.appear(key)
            self._shown.add(key)
        lent: dict[str, int] = {one.accelerator: 0 for one in rounds}
        late = {"training": 0.0, "serving": 0.0}
        for one in own:
            journal = one.step.journal
            if journal.pool != name:
                continue
            if journal.phase is Phase.TRAINING:
                lent[one.unit.accelerator] = lent.get(one.unit.accelerator, 0) + one.unit.size
            if journal.phase.is_moving and journal.deadline is not None:
                direction = "training" if journal.phase.is_outbound else "serving"
                late[direction] = max(late[direction], now - journal.deadline)
        self.meter.lent(key, lent)
        self.meter.overdue(key, training=late["training"], serving=late["serving"])
        allowed = {"Loan": sum(one.allowed for one in rounds), "Recall": sum(one.recalls for one in rounds)}
        self.meter.allowed(key, allowed)


def pool_key(name: str) -> tuple[str, str]:
    """Namespace and name of ``namespace/name``."""
    namespace, _, rest = name.partition("/")
    return namespace, rest


def cause_of(before: Journal, after: Journal, direction: str) -> FlipCause:
    """Why a flip was made, as its metric says."""
    if after.cause == "health" or before.cause == "health":
        return "Health"
    if before.by or after.by:
        return "Request"
    if direction == "training":
        return "Loan"
    return "Surge" if before.surge or after.surge else "Recall"


def _concerns(one: Moved, name: str, key: tuple[str, str]) -> bool:
    return name in (one.step.journal.pool, one.unit.journal.pool) or key in one.unit.pools


def _time(at: float | None) -> str | None:
    return None if at is None or not 0 < at < 1e11 else timestamp(at)


def _without_nothing(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if value is not None and value not in ("", [])}


def _status(
    own: Sequence[Moved], name: str, *, lent: Standing | None, rounds: Sequence[TypeRound], seen: TrainingSeen | None
) -> dict[str, Any]:
    counts = dict.fromkeys(("serving", "draining", "training", "warming", "quarantined"), 0)
    for one in own:
        counts[one.step.journal.phase.metric_state] += one.unit.size
    told = [one for one in own if one.step.journal.since and one.step.journal.pool == name]
    told.sort(key=lambda one: (one.step.journal.phase is Phase.SERVING, one.unit.name))
    slots = [one.ahead for one in rounds]
    blocked = [each for one in rounds for each in one.decision.blocked]
    waiting = [job for job in (seen.jobs if seen else ()) if not job.running]
    worth = next((one.ahead.worth for one in rounds if one.ahead.worth is not None), None)
    return _without_nothing(
        {
            "mode": str(lent.mode) if lent else "Never",
            "neededNodes": sum(one.needs.nodes for one in rounds) if rounds else None,
            "servingNodes": sum(one.at_home for one in rounds) if rounds else None,
            "loanedNodes": counts["training"],
            "movingNodes": counts["draining"] + counts["warming"],
            "quarantinedNodes": counts["quarantined"],
            "allowedNow": sum(one.allowed for one in rounds) if rounds else None,
            "heldBy": next((one.decision.held_by for one in rounds if one.decision.held_by), "")[:SENTENCE],
            "quantile": next((decimal(one.quantile) for one in slots if one.quantile is not None), None),
            "slotStart": next((_time(one.slot_start) for one in slots if one.needed), None),
            "needed": _summed([one.needed for one in slots]),
            "loaned": _summed([one.loans for one in slots]),
            "units": [_unit(one) for one in told[:MOST_UNITS]],
            "blocked": [
                _without_nothing(
                    {"unit": one.unit, "why": one.why[:SENTENCE], "wouldHaveToChange": one.change[:SENTENCE]}
                )
                for one in blocked[:MOST_BLOCKED]
            ],
            "waiting": [
                _without_nothing(
                    {
                        "job": str(job),
                        "chips": job.chips,
                        "expectedStart": _time(job.expected_start),
                        "why": job.waiting_why[:SENTENCE],
                    }
                )
                for job in waiting[:MOST_WAITING]
            ],
            "worth": None
            if worth is None
            else {"savesUsd": decimal(worth.saves_usd), "costsUsd": decimal(worth.costs_usd), "words": worth.words},
        }
    )


def _trained(own: Sequence[Moved], name: str, seen: TrainingSeen | None) -> Mapping[str, float] | None:
    """Chips on the pool's lent nodes that running jobs hold, by accelerator type.

    A job's chips are spread evenly over its nodes.
    """
    lent = [one for one in own if one.step.journal.pool == name and one.step.journal.phase.is_lent]
    if not lent:
        return {}
    if seen is None or not seen.readable:
        return None
    found: dict[str, float] = {}
    for unit in (one.unit for one in lent):
        for node in unit.nodes:
            held = sum(job.chips / len(job.nodes) for job in seen.on(node.name) if job.running)
            found[unit.accelerator] = found.get(unit.accelerator, 0.0) + held
    return found


def _summed(rows: Sequence[Sequence[int]]) -> list[int] | None:
    used = [row for row in rows if row]
    return [sum(column) for column in zip(*used, strict=False)][:96] if used else None


def _unit(one: Moved) -> dict[str, Any]:
    journal = one.step.journal
    return _without_nothing(
        {
            "name": one.unit.name,
            "nodes": [node.name for node in one.unit.nodes][:MOST_NODES],
            "accelerator": one.unit.accelerator,
            "phase": str(journal.phase),
            "since": _time(journal.since),
            "until": _time(journal.until),
            "why": journal.why[:SENTENCE],
            "history": [{"at": timestamp(at), "phase": str(phase)} for at, phase in journal.history[-MOST_CHANGES:]],
        }
    )


def _verdict(
    own: Sequence[Moved],
    name: str,
    *,
    lent: Standing | None,
    rounds: Sequence[TypeRound],
    seen: TrainingSeen | None,
    again: Sequence[str],
) -> Verdict:
    """The condition Flipping: True while any node is on loan or in a flip."""
    mine = [one for one in own if one.step.journal.pool == name and one.step.journal.phase is not Phase.SERVING]
    bad = next((one for one in mine if one.step.journal.phase is Phase.QUARANTINED), None)
    outbound = sum(one.unit.size for one in mine if one.step.journal.phase.is_outbound)
    training = sum(one.unit.size for one in mine if one.step.journal.phase is Phase.TRAINING)
    home = sum(one.unit.size for one in mine if one.step.journal.phase.is_homebound)
    counts = f"{training} nodes on loan, {outbound} on the way out, {home} on the way back"
    fault = f"; {seen.faults[0].message}" if seen is not None and seen.faults else ""
    if bad is not None:
        why = f"{bad.unit.name}: {bad.step.journal.why}; release it by `tidefleet flip {bad.unit.name} --release`"
        return Verdict(ConditionType.FLIPPING, TRUE, Reason.QUARANTINED, f"{why}; {counts}{fault}")
    if again:
        words = f"somebody else changes our labels or taints on {', '.join(sorted(again))}; they are put back"
        return Verdict(ConditionType.FLIPPING, TRUE, Reason.LABELS_REVERTED, f"{words}; {counts}")
    if any(one.step.journal.surge for one in mine):
        return Verdict(ConditionType.FLIPPING, TRUE, Reason.SURGE, counts + fault)
    if home:
        return Verdict(ConditionType.FLIPPING, TRUE, Reason.RECALLING, counts + fault)
    if outbound:
        return Verdict(ConditionType.FLIPPING, TRUE, Reason.LENDING, counts + fault)
    if training:
        return Verdict(ConditionType.FLIPPING, TRUE, Reason.LOANED, counts + fault)
    if lent is None:
        return Verdict(ConditionType.FLIPPING, FALSE, Reason.NEVER, "no node is lent to training")
    if lent.lender.closed:
        return Verdict(ConditionType.FLIPPING, FALSE, lent.reason, lent.lender.closed)
    blocked = next((one.decision.blocked[0] for one in rounds if one.decision.blocked), None)
    if blocked is not None:
        return Verdict(ConditionType.FLIPPING, FALSE, Reason.BLOCKED, f"{blocked.unit}: {blocked.why}")
    held = next((one.decision.held_by for one in rounds if one.decision.held_by), "")
    if held:
        return Verdict(ConditionType.FLIPPING, FALSE, Reason.BLOCKED, held)
    open_ = lent.open.ends is not None
    words = next((one.ahead.plan.why for one in rounds if one.ahead.plan.why), "serving needs every node")
    return Verdict(ConditionType.FLIPPING, FALSE, Reason.WINDOW_OPEN if open_ else Reason.SERVING, words)


def _next_flip(
    own: Sequence[Moved], name: str, *, lent: Standing | None, rounds: Sequence[TypeRound], now: float
) -> str:
    """The next flip in words, e.g. ``22:00 Europe/Berlin: 2 nodes to training``; ``-`` when none is in sight."""
    zone = lent.open.zone if lent is not None else UTC
    zone_name = lent.open.zone_name if lent is not None else "UTC"
    steps = [one for one in (each.ahead.next_change(now) for each in rounds) if one is not None]
    ends = [
        one.step.journal.until
        for one in own
        if one.step.journal.pool == name and one.step.journal.phase is Phase.TRAINING and one.step.journal.until
    ]
    if ends and (not steps or min(ends) <= min(at for at, _ in steps)):
        at, change = min(ends), -sum(1 for one in ends if one <= min(ends) + 60.0)
    elif steps:
        at, change = min(steps)
    elif lent is not None and lent.open.next_opening is not None:
        return f"{datetime.fromtimestamp(lent.open.next_opening, tz=zone):%H:%M} {zone_name}: window opens"
    else:
        return "-"
    nodes = "1 node" if abs(change) == 1 else f"{abs(change)} nodes"
    return (
        f"{datetime.fromtimestamp(at, tz=zone):%H:%M} {zone_name}: {nodes} to {'training' if change > 0 else 'serving'}"
    )
