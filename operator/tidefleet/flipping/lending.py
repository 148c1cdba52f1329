"""Which units to lend and which to recall, of one accelerator type: the schedule's number, turned into names.

The plan of every pool says how many nodes are needed now, the loan schedule how many may be away; the smaller of the
two counts. Loans come back before replicas have to wait: flips that have not reached training first, then nodes without
a job, then the jobs that lose least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set, Sized
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeAlias, TypeVar

from tidefleet.flipping.journal import Journal
from tidefleet.flipping.observation import Lend, Observation, Recall, Stay, Wish
from tidefleet.flipping.phase import Phase

HOLDS = 3
"""Times running that a loan must be found right before a node sets out."""

SURGE_PAUSE_SECONDS = 3600.0
"""No new loan for so long after a surge."""

BY_HAND_SECONDS = 8 * 3600.0
"""How long a loan lasts that somebody asked for without saying so, where no window is open."""

HISTORY_DAYS = 14.0
"""Days of measured demand that a loan by forecast stands on at least."""

UNHEALTHY_SHARE = 0.2
"""Above this share of unhealthy nodes there is no new loan: something larger is going on."""


class Ask(StrEnum):
    """What a person asks of a node."""

    TRAINING = "training"
    SERVING = "serving"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class FlipRequest:
    """A request: what, by whom, when (Unix seconds), and until when a loan is to last."""

    to: Ask
    by: str
    at: float
    until: float | None = None


class Labelled(Protocol):
    """A node, as far as a selector looks at it."""

    @property
    def labels(self) -> Mapping[str, str]: ...


class Lendable(Protocol):
    """What a round asks of a unit: a node, or an atomic group of them.

    ``nodes`` are those that exist, ``missing`` names those that are gone; ``size`` counts both. ``serving`` has one
    entry for each serving pod, ``pools`` the (namespace, name) of their pools.
    """

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def missing(self) -> Sequence[str]: ...
    @property
    def serving(self) -> Sized: ...
    @property
    def pools(self) -> Set[tuple[str, str]]: ...
    @property
    def nodes(self) -> Sequence[Labelled]: ...


U = TypeVar("U", bound=Lendable)


@dataclass(frozen=True, slots=True)
class Lender:
    """A pool that may lend nodes of a type now.

    Attributes:
        pool: ``namespace/name``.
        queue: who trains, e.g. ``Kueue/night``.
        closed: why it lends nothing more at present; empty when it does.
        recall: why everything it has lent must come back; empty when it need not.
        ends: when its open window closes (Unix seconds), less the time a recall takes; ``None`` without a window.
        selector: labels that a node has which its replicas may run on.
    """

    pool: str
    queue: str = ""
    closed: str = ""
    recall: str = ""
    ends: float | None = None
    selector: Mapping[str, str] = field(default_factory=dict)

    def may_run_on(self, unit: Lendable) -> bool:
        """Whether its replicas could be on every node of a unit."""
        return all(self.selector.items() <= node.labels.items() for node in unit.nodes)


@dataclass(frozen=True, slots=True)
class LoanPlan:
    """What the schedule says of a type, from the present slot on.

    Attributes:
        loans: nodes that may be away now.
        ends: when each of these loans ends (Unix seconds), the longest first; as many as ``loans``.
        why: in words.
        worth: whether a loan saves more than it costs, with both sides in words.
    """

    loans: int
    ends: tuple[float, ...]
    why: str
    worth: str = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What serving needs of a type now.

    Attributes:
        nodes: that the planned replicas of all pools fill, the reserve, and one more where first tokens come too late.
        surge: why there is one; empty when there is none.
        known: whether every pool on the type has a plan.
        stale: why the demand of one is held rather than measured, so that nothing more is lent; empty when none is.
    """

    nodes: int
    surge: str = ""
    known: bool = True
    stale: str = ""


@dataclass(slots=True)
class LendingMemory:
    """What is remembered between passes; a new leader begins afresh and is only the slower for it."""

    holds: dict[str, int] = field(default_factory=dict)
    surge_at: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Blocked:
    """A loan that is due and not made: of which unit, why, and what would have to change."""

    unit: str
    why: str
    change: str = ""


@dataclass(frozen=True, slots=True)
class TypeDecision:
    """What is wished for the units of a type.

    Attributes:
        wishes: by unit.
        target: nodes that ought to be away; ``away`` those that are, or are on the way out.
        blocked: loans that are due and not made.
        held_by: what limits the number of flips now; empty when nothing does.
    """

    wishes: Mapping[str, Wish]
    target: int
    away: int
    blocked: tuple[Blocked, ...] = ()
    held_by: str = ""
    surge: str = ""


RecallOrder: TypeAlias = Callable[[Sequence[U], int], Sequence[tuple[str, str]]]
"""Names of units to recall of those that train, so that so many nodes come free, each with the reason of its place."""


@dataclass(slots=True)
class Round(Generic[U]):
    """One decision about the units of one type; ``decide`` takes it, rule after rule, the weightiest first.

    Attributes:
        seen: observations by unit; their wishes are ignored.
        allowed: nodes that may set out now, by budgets and steps; ``held_by`` what limits that.
        recalls: nodes that may be called back before their loans end where serving does not need them, and what limits
            that. What serving needs, and whose time is over, comes back all the same.
        requests: what people ask for, by unit.
        invalid: pools (``namespace/name``) that cannot be read.
    """

    accelerator: str
    units: Sequence[U]
    seen: Mapping[str, Observation]
    needs: Needs
    plan: LoanPlan
    lenders: Sequence[Lender]
    allowed: int
    held_by: str
    recalls: tuple[int, str]
    requests: Mapping[str, FlipRequest]
    memory: LendingMemory
    recall_order: RecallOrder[U]
    now: float
    invalid: frozenset[str] = frozenset()
    wishes: dict[str, Wish] = field(default_factory=dict)
    blocked: list[Blocked] = field(default_factory=list)

    def decide(self) -> TypeDecision:
        """The wishes for every unit."""
        self.wishes = {one.name: Stay() for one in self.units}
        staying = self._kept()
        out = sum(one.size for one in staying)
        target, back = self._numbers(staying, out)
        going_on = [one for one in staying if isinstance(self.wishes[one.name], Stay)]
        gate = self._gate()
        room = self._go_on(going_on, gate)
        room = self._set_out(target - out if not back else 0, room=room, out=out, gate=gate)
        return TypeDecision(
            wishes=self.wishes,
            target=target,
            away=out,
            blocked=tuple(self.blocked),
            held_by=gate or (self.held_by if room <= 0 else ""),
            surge=self.needs.surge,
        )

    @property
    def at_home(self) -> int:
        """Nodes that serve, or will in a moment."""
        return sum(
            one.size
            for one in self.units
            if not one.missing
            and not self.seen[one.name].unhealthy
            and (one.journal.phase is Phase.SERVING or one.journal.phase.is_homebound)
        )

    def _lender(self, pool: str) -> Lender | None:
        return next((one for one in self.lenders if one.pool == pool), None)

    def _kept(self) -> list[U]:
        """Units that are away, or on the way out, and need not come back whatever the numbers say."""
        kept: list[U] = []
        for unit in self.units:
            if not (unit.journal.phase.is_outbound or unit.journal.phase is Phase.TRAINING):
                continue
            lender, request = self._lender(unit.journal.pool), self.requests.get(unit.name)
            if lender is None:
                why = "its pool lends no more"
                if unit.journal.pool in self.invalid:
                    why = f"what {unit.journal.pool} needs is not known while its spec is invalid; mend it"
                self.wishes[unit.name] = Recall(why)
            elif lender.recall:
                self.wishes[unit.name] = Recall(lender.recall)
            elif request is not None and request.to is Ask.SERVING:
                self.wishes[unit.name] = Recall(f"asked for by {request.by}")
            else:
                kept.append(unit)
        return kept

    def _numbers(self, staying: Sequence[U], out: int) -> tuple[int, int]:
        """How many nodes ought to be away, and how many must come back; those are recalled."""
        needs, at_home = self.needs, self.at_home
        by_hand = sum(one.size for one in staying if one.journal.by)
        missing = min(out, max(0, needs.nodes - at_home)) if needs.known else 0
        if needs.surge and missing:
            self.memory.surge_at[self.accelerator] = self.now
        if not needs.known:
            return out, 0
        target = max(by_hand, min(self.plan.loans, max(0, out + at_home - needs.nodes)))
        back = max(missing, out - target)
        if missing < back and self.recalls[0] < back:
            back = max(missing, self.recalls[0])
            self.blocked.append(
                Blocked(
                    f"{out - target - back} nodes of {self.accelerator}",
                    f"the schedule calls them back and {self.recalls[1]} lets no more come now",
                    "wait for those on their way, for the end of their loans, or raise the limit",
                )
            )
        if back > 0:
            why = f"the schedule lends {self.plan.loans} nodes now: {self.plan.why}"
            if missing:
                why = needs.surge or f"serving needs {needs.nodes} nodes of {self.accelerator}; {at_home} are there"
            for name, place in first_back(staying, back, self.recall_order, keep_by_hand=not missing):
                words = f"{why} ({place})" if place else why
                self.wishes[name] = Recall(words, surge=bool(needs.surge and missing))
        self._hurry()
        return target, back

    def _hurry(self) -> None:
        """In a surge beyond what the nodes that serve carry, jobs on nodes that are coming back get the short grace."""
        serving = sum(
            one.size
            for one in self.units
            if one.journal.phase is Phase.SERVING and not one.missing and not self.seen[one.name].unhealthy
        )
        if self.needs.surge and serving < self.needs.nodes:
            for one in self.units:
                if one.journal.phase is Phase.RECALLING:
                    self.wishes[one.name] = Recall(self.needs.surge, surge=True)

    def _go_on(self, going_on: Sequence[U], gate: str) -> int:
        """What is away stays so until its end; what is planned may set out as far as there is room, which is left."""
        ends = sorted(self.plan.ends, reverse=True)
        room = self.allowed
        for place, unit in enumerate(sorted(going_on, key=lambda one: (-(one.journal.until or 0.0), one.name))):
            journal, lender = unit.journal, self._lender(unit.journal.pool)
            if lender is None or journal.until is None:
                continue
            until = ends[place] if place < len(ends) and not journal.by else journal.until
            if lender.ends is not None and not journal.by:
                until = min(until, lender.ends)
            if journal.phase is Phase.TRAINING:
                until = max(until, journal.until)  # a job was told how long it has
            admitted = journal.phase is not Phase.PLANNED
            if not admitted:
                if lender.closed and not journal.by:
                    continue
                admitted = room >= unit.size and not gate
                room -= unit.size if admitted else 0
            self.wishes[unit.name] = lend(lender, until, journal.why, by=journal.by, admitted=admitted)
        return room

    def _set_out(self, wanted: int, *, room: int, out: int, gate: str) -> int:
        """Choose the units that are lent next; the room that is left."""
        due: set[str] = set()
        spare = max(0, self.at_home - self.needs.nodes)
        for unit in self._candidates():
            request = self.requests.get(unit.name)
            asked = request is not None and request.to is Ask.TRAINING
            if not asked and wanted < unit.size:
                continue
            lender = self._lender_of(unit)
            against = self._against(unit, lender, gate=gate, asked=asked, spare=spare)
            if not against and room < unit.size:
                held = self.held_by or "a step"
                against = [
                    (f"{held} lets no further node set out now", "wait for those on their way, or raise the limit")
                ]
            if against or lender is None:
                whys, changes = (list(dict.fromkeys(column)) for column in zip(*against[:4], strict=True))
                self.blocked.append(Blocked(unit.name, "; ".join(whys), "; ".join(changes)))
                continue
            due.add(unit.name)
            self.memory.holds[unit.name] = self.memory.holds.get(unit.name, 0) + 1
            wanted, room, spare = wanted - unit.size, room - unit.size, spare - unit.size
            if asked and request is not None:
                until = request.until or lender.ends or self.now + BY_HAND_SECONDS
                self.wishes[unit.name] = lend(lender, until, f"asked for by {request.by}", by=request.by)
            elif self.memory.holds[unit.name] >= HOLDS:
                self.wishes[unit.name] = lend(lender, self._end(out, lender), self.plan.why)
            out += unit.size
        for name in [name for name in self.memory.holds if name not in due]:
            if name in self.wishes:
                del self.memory.holds[name]
        return room

    def _end(self, place: int, lender: Lender) -> float:
        """When the loan of the node that is the ``place``-th away ends."""
        ends = sorted(self.plan.ends, reverse=True)
        until = ends[min(place, len(ends) - 1)] if ends else self.now
        return until if lender.ends is None else min(until, lender.ends)

    def _candidates(self) -> list[U]:
        """Units that serve, those first that are least trouble to lend: without pods, then with few."""
        serving = [one for one in self.units if one.journal.phase is Phase.SERVING]
        return sorted(serving, key=lambda one: (len(self.seen[one.name].vetoes) > 0, len(one.serving), one.name))

    def _against(self, unit: U, lender: Lender | None, *, gate: str, asked: bool, spare: int) -> list[tuple[str, str]]:
        """What speaks against lending a unit now, each with what would have to change."""
        seen = self.seen[unit.name]
        against = [(one, "this must end or be taken off first") for one in seen.vetoes]
        if unit.missing:
            against.append((f"nodes {', '.join(unit.missing)} are gone", "they come back, or the group is made anew"))
        if seen.unhealthy:
            against.append((seen.unhealthy, "the node is healthy again"))
        left = seen.terms.dwell - (self.now - unit.journal.since) if unit.journal.since else 0.0
        if left > 0:
            why = f"it began to serve {(self.now - unit.journal.since) / 60:.0f} min ago"
            against.append((why, f"it has served for {seen.terms.dwell / 60:.0f} min, in {left / 60:.0f} min"))
        if lender is None:
            why = "no pool with pods on it lends nodes" if unit.serving else "no pool lends nodes of this type"
            against.append((why, "set spec.flipping of the pool"))
        elif lender.recall or (lender.closed and not asked):
            against.append((lender.recall or lender.closed, "what closes the pool's loans ends"))
        if gate:
            against.append((gate, "this passes"))
        if spare < unit.size:
            why = f"serving needs {self.needs.nodes} nodes of {self.accelerator}; {self.at_home} are there"
            against.append((why, "demand falls, or there are more nodes"))
        return against

    def _lender_of(self, unit: U) -> Lender | None:
        """The pool that lends a unit: the one with pods on it, else the first that lends at present."""
        pools = {"/".join(one) for one in unit.pools}
        if pools:
            return next((one for one in self.lenders if one.pool in pools), None)
        able = [one for one in self.lenders if one.may_run_on(unit)]
        ready = [one for one in able if not one.closed and not one.recall]
        return next(iter((*ready, *able)), None)

    def _gate(self) -> str:
        """Why no further node sets out, whatever its own state; empty when nothing speaks against it."""
        bad = sum(1 for one in self.units if self.seen[one.name].unhealthy or one.missing)
        quarantined = sum(1 for one in self.units if one.journal.phase is Phase.QUARANTINED)
        if bad + quarantined > max(1.0, UNHEALTHY_SHARE * len(self.units)):
            limit = f"{UNHEALTHY_SHARE:.0%}"
            return (
                f"{bad} of {len(self.units)} units are unhealthy, {quarantined} quarantined; expected at most {limit}"
            )
        if not self.needs.known or self.needs.stale:
            return self.needs.stale or "the demand is not known"
        if self.needs.surge:
            return self.needs.surge
        since = self.now - self._last_surge()
        return "demand surged within the last hour" if since < SURGE_PAUSE_SECONDS else ""

    def _last_surge(self) -> float:
        """When demand last surged (Unix seconds): as this process saw it, or as the nodes tell that it called back."""
        told = (one.journal.since for one in self.units if one.journal.surge)
        return max(self.memory.surge_at.get(self.accelerator, float("-inf")), *told, float("-inf"))


def lend(lender: Lender, until: float, why: str, *, by: str = "", admitted: bool = True) -> Lend:
    """The wish that a lender's unit is lent."""
    return Lend(until=until, why=why, admitted=admitted, pool=lender.pool, queue=lender.queue, by=by)


def first_back(
    staying: Sequence[U], back: int, recall_order: RecallOrder[U], *, keep_by_hand: bool
) -> list[tuple[str, str]]:
    """Names of units that come back so that so many nodes do: those that are not lent yet, then by the given order."""
    open_ = [one for one in staying if not (keep_by_hand and one.journal.by)]
    order = (Phase.PLANNED, Phase.CORDONED, Phase.DRAINING, Phase.VERIFYING)
    outbound = sorted(
        (one for one in open_ if one.journal.phase in order), key=lambda one: (order.index(one.journal.phase), one.name)
    )
    chosen: list[tuple[str, str]] = []
    for unit in outbound:
        if back <= 0:
            return chosen
        chosen.append((unit.name, "not lent yet"))
        back -= unit.size
    if back > 0:
        chosen += recall_order([one for one in open_ if one.journal.phase is Phase.TRAINING], back)
    return chosen


def ends_of(loans: Sequence[int], start: float, slot_seconds: float) -> tuple[float, ...]:
    """When each of the loans of the first slot ends, the longest first: with the first slot that lends fewer.

    Args:
        loans: nodes away, by slot.
        start: beginning of the first slot (Unix seconds).
    """
    return tuple(
        start + next((place for place, count in enumerate(loans) if count < layer), len(loans)) * slot_seconds
        for layer in range(1, (loans[0] if loans else 0) + 1)
    )


def flights(units: Sequence[Lendable], now: float, slot_seconds: float) -> tuple[int, int]:
    """Nodes that count as being on their way out, and on their way back.

    A unit that was cordoned for a loan within the last slot counts as on its way out: steps are at least so far apart.
    """
    moving = (Phase.CORDONED, Phase.DRAINING, Phase.VERIFYING)
    out = sum(one.size for one in units if one.journal.phase in moving or _set_out_lately(one, now, slot_seconds))
    return out, sum(one.size for one in units if one.journal.phase.is_homebound)


def _set_out_lately(unit: Lendable, now: float, slot_seconds: float) -> bool:
    return any(phase is Phase.CORDONED and 0 <= now - at < slot_seconds for at, phase in unit.journal.history)
