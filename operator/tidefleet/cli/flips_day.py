"""A pool's last and next 24 hours of flips, read from its status: the nodes needed and each unit's spans of phases."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from tidefleet.api.flipping import FlippingSpec, PauseScope
from tidefleet.api.flipping_status import FlipPhase, FlippingStatus, FlipUnit
from tidefleet.api.inference_pool_status import InferencePoolStatus
from tidefleet.api.validation import Invalid, parse
from tidefleet.flipping.phase import Phase

DAY_SECONDS = 86_400.0
STATES = ("serving", "outbound", "training", "homebound", "quarantined")
"""What a ribbon distinguishes, in the order of a flip."""


def state_of(phase: FlipPhase) -> str:
    """What a ribbon shows of a phase: one of ``STATES``."""
    found = Phase(str(phase))
    if found.is_outbound:
        return "outbound"
    if found.is_homebound:
        return "homebound"
    return str(found).lower()


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time (Unix seconds) in one phase; ``planned`` when it is yet to come."""

    begin: float
    end: float
    phase: FlipPhase
    planned: bool = False


@dataclass(frozen=True, slots=True)
class Ribbon:
    """A unit and its spans, in order and without overlap; where there is no span its phase is not known."""

    unit: FlipUnit
    spans: tuple[Span, ...]

    @property
    def size(self) -> int:
        """Its number of nodes."""
        return max(1, len(self.unit.nodes))

    def at(self, moment: float) -> Span | None:
        """The span that a moment falls into."""
        return next((one for one in self.spans if one.begin <= moment < one.end), None)


@dataclass(frozen=True, slots=True)
class Day:
    """What is shown of one pool.

    Attributes:
        pool: ``namespace/name``.
        now, begin, end: Unix seconds; ``begin`` is a day before the slot that ``now`` falls into, ``end`` a day after.
        zone: in which times are told.
        status: as the operator wrote it.
        needed: nodes that serving needs, one for each slot from ``begin``; ``None`` where it is not known.
        loaned: nodes that are to be on loan, likewise; known only from now on.
        ribbons: one for each unit that is told of, by name.
        others: nodes that serve and are not told of, since they never flipped or are too many.
    """

    pool: str
    now: float
    begin: float
    end: float
    zone: datetime.tzinfo
    zone_name: str
    status: FlippingStatus
    needed: tuple[int | None, ...]
    loaned: tuple[int | None, ...]
    ribbons: tuple[Ribbon, ...]
    others: int = 0
    next_flip: str = ""
    condition: str = ""
    paused: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def slot_seconds(self) -> float:
        """Length of a slot."""
        return float(self.status.slot_seconds)

    def local(self, moment: float) -> datetime.datetime:
        """A moment as the zone's wall clock."""
        return datetime.datetime.fromtimestamp(moment, tz=self.zone)

    def clock(self, moment: float) -> str:
        """A moment as ``22:00``, with the weekday where it is not within the next or last 12 hours."""
        form = "%H:%M" if abs(moment - self.now) < DAY_SECONDS / 2 else "%a %H:%M"
        return self.local(moment).strftime(form)

    @property
    def nodes(self) -> int:
        """All nodes, told of or not."""
        return self.others + sum(one.size for one in self.ribbons)

    @property
    def rows(self) -> tuple[Ribbon, ...]:
        """The ribbons, and one for all that is not told of: it serves, or some of it is planned to train."""
        if not self.others:
            return self.ribbons
        edges = [max(self.now, self.begin + index * self.slot_seconds) for index in range(len(self.loaned) + 1)]
        spans = [Span(self.begin, self.now, FlipPhase.SERVING)] if self.now > self.begin else []
        for begin, end in itertools.pairwise(edges):
            if end > begin:
                phase = FlipPhase.TRAINING if self._lent_of_others(begin) else FlipPhase.SERVING
                spans.append(Span(begin, end, phase, planned=True))
        name = f"+{self.others} other" + ("s" if self.others > 1 else "")
        return (*self.ribbons, Ribbon(FlipUnit(name=name, phase=FlipPhase.SERVING), _joined(spans)))

    def shares(self, moment: float) -> dict[str, int]:
        """Nodes by state at a moment."""
        found = self._told(moment)
        lent = self._lent_of_others(moment)
        found["training"] += lent
        found["serving"] += self.others - lent
        return found

    def _told(self, moment: float) -> dict[str, int]:
        found = dict.fromkeys(STATES, 0)
        for ribbon in self.ribbons:
            span = ribbon.at(moment)
            if span is not None:
                found[state_of(span.phase)] += ribbon.size
        return found

    def _lent_of_others(self, moment: float) -> int:
        """How many of the nodes that are not told of are planned to train then; in the past none did."""
        index = int((moment - self.begin) // self.slot_seconds)
        planned = self.loaned[index] if moment >= self.now and 0 <= index < len(self.loaned) else None
        return 0 if planned is None else min(self.others, max(0, planned - self._told(moment)["training"]))


def unix(moment: datetime.datetime) -> float:
    """A moment of a status as Unix seconds; one without an offset is UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def day_of(raw: Mapping[str, Any], now: float, *, zone: ZoneInfo | None = None) -> Day:
    """The day of a pool; empty of ribbons when its status tells nothing of flips.

    A pool that is invalid at present may have nodes on loan all the same: what is wrong with it becomes a note.

    Args:
        raw: the InferencePool as the API server has it.
        now: Unix seconds.
        zone: in which times are told; else the first window's, else this machine's.
    """
    told, flipping = status_of(raw), spec_of(raw)
    status = told.flipping or FlippingStatus()
    read = parse(raw)
    meta = raw.get("metadata") or {}
    slot = float(status.slot_seconds)
    start = unix(status.slot_start) if status.slot_start is not None else now - now % slot
    origin = start + (now - start) // slot * slot
    slots = round(DAY_SECONDS / slot)
    begin, end = origin - slots * slot, origin + slots * slot
    before = (*status.needed_before, *status.needed)
    first = start - len(status.needed_before) * slot
    named = zone or _zone_of(flipping)
    local = datetime.datetime.fromtimestamp(now).astimezone()
    spoken = next((one for one in told.conditions if one.type == "Flipping"), None)
    pause = flipping.pause
    needed = tuple(_value(before, first, begin + index * slot, slot) for index in range(2 * slots))
    loaned = tuple(_value(status.loaned, start, begin + index * slot, slot) for index in range(2 * slots))
    return Day(
        pool=f"{meta.get('namespace') or 'default'}/{meta.get('name')}",
        now=now,
        begin=begin,
        end=end,
        zone=named or local.tzinfo or datetime.UTC,
        zone_name=named.key if named else (local.tzname() or "UTC"),
        status=status,
        needed=needed,
        loaned=loaned,
        ribbons=_ribbons(status, loaned, now=now, begin=begin, end=end),
        others=_others(status),
        next_flip=told.next_flip or "",
        condition=f"{spoken.reason}: {spoken.message}" if spoken else "",
        paused=paused_words(pause.scope, pause.by, pause.reason),
        notes=tuple(f"invalid: {one}" for one in read.problems[:3]) if isinstance(read, Invalid) else (),
    )


def status_of(raw: Mapping[str, Any]) -> InferencePoolStatus:
    """The status of a pool; an empty one where it cannot be read."""
    try:
        return InferencePoolStatus.model_validate(raw.get("status") or {})
    except ValueError:
        return InferencePoolStatus()


def spec_of(raw: Mapping[str, Any]) -> FlippingSpec:
    """What a pool says of flips, whatever else is wrong with it; the defaults where that cannot be read."""
    spec = raw.get("spec")
    try:
        return FlippingSpec.model_validate((spec.get("flipping") if isinstance(spec, Mapping) else None) or {})
    except ValueError:
        return FlippingSpec()


def _zone_of(flipping: FlippingSpec) -> ZoneInfo | None:
    for window in flipping.windows:
        try:
            return ZoneInfo(window.time_zone)
        except (ValueError, KeyError, OSError):
            continue
    return None


def paused_words(scope: PauseScope, by: str | None, reason: str | None) -> str:
    """What a pause says; empty without one."""
    if scope is PauseScope.NONE:
        return ""
    what = "no new loans" if scope is PauseScope.NEW_LOANS else "every loan is recalled"
    return f"{what}, by {by or 'somebody'}" + (f": {reason}" if reason else "")


def _others(status: FlippingStatus) -> int:
    at_home = sum(
        max(1, len(one.nodes))
        for one in status.units
        if one.phase is FlipPhase.SERVING or Phase(str(one.phase)).is_homebound
    )
    return max(0, (status.serving_nodes or 0) - at_home)


def _value(values: Sequence[int], first: float, moment: float, slot: float) -> int | None:
    index = round((moment - first) / slot)
    return values[index] if 0 <= index < len(values) else None


def _ribbons(
    status: FlippingStatus, loaned: Sequence[int | None], *, now: float, begin: float, end: float
) -> tuple[Ribbon, ...]:
    past = {unit.name: _past(unit, now, begin) for unit in status.units}
    future = _future(status, loaned, now=now, begin=begin, end=end)
    return tuple(
        Ribbon(unit, _joined([*past[unit.name], *future[unit.name]]))
        for unit in sorted(status.units, key=lambda one: one.name)
    )


def _past(unit: FlipUnit, now: float, begin: float) -> list[Span]:
    """Spans until now. A unit served before it was first planned; what was before anything else is not known."""
    changes = [(unix(one.at), one.phase) for one in unit.history]
    since = unix(unit.since) if unit.since is not None else None
    if (
        since is not None
        and since > 0
        and (not changes or (changes[-1][1] is not unit.phase and since >= changes[-1][0]))
    ):
        changes.append((since, unit.phase))
    changes = sorted((at, phase) for at, phase in changes if at < now)
    if not changes:
        return [Span(begin, now, unit.phase)] if unit.phase is FlipPhase.SERVING else []
    if changes[0][1] is FlipPhase.PLANNED and changes[0][0] > begin:
        changes.insert(0, (begin, FlipPhase.SERVING))
    ends = [*(at for at, _ in changes[1:]), now]
    return [
        Span(max(at, begin), until, phase)
        for (at, phase), until in zip(changes, ends, strict=True)
        if until > max(at, begin)
    ]


def _future(
    status: FlippingStatus, loaned: Sequence[int | None], *, now: float, begin: float, end: float
) -> dict[str, list[Span]]:
    """Spans to come. Loans go on to their end; which units fill the rest of the plan is a guess by name."""
    slot = float(status.slot_seconds)
    spans: dict[str, list[Span]] = {unit.name: [] for unit in status.units}
    lent = {
        unit.name: unix(unit.until) if unit.until is not None else end
        for unit in status.units
        if unit.phase is FlipPhase.TRAINING or Phase(str(unit.phase)).is_outbound
    }
    stuck = {unit.name for unit in status.units if unit.phase is FlipPhase.QUARANTINED}
    sizes = {unit.name: max(1, len(unit.nodes)) for unit in status.units}
    away = set(lent)
    for index, planned in enumerate(loaned):
        at, until = max(now, begin + index * slot), begin + (index + 1) * slot
        if until <= now:
            continue
        away = {name for name in away if lent.get(name, end) > at}
        if planned is not None:
            away = _fitted(away, planned, sizes, lent, stuck)
        for name, found in spans.items():
            phase = FlipPhase.TRAINING if name in away else FlipPhase.SERVING
            found.append(Span(at, until, FlipPhase.QUARANTINED if name in stuck else phase, planned=True))
    return spans


def _fitted(
    away: set[str], planned: int, sizes: Mapping[str, int], lent: Mapping[str, float], stuck: set[str]
) -> set[str]:
    """As many units as the plan lends: those that are away stay away, the longest loans first."""
    order = sorted(away, key=lambda name: (-lent.get(name, 0.0), name))
    order += sorted(name for name in sizes if name not in away and name not in stuck)
    found: set[str] = set()
    for name in order:
        if sum(sizes[one] for one in found) + sizes[name] <= planned:
            found.add(name)
    return found


def _joined(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Neighbours of the same phase and kind become one."""
    found: list[Span] = []
    for span in spans:
        last = found[-1] if found else None
        if last and last.phase is span.phase and last.planned == span.planned and last.end >= span.begin:
            found[-1] = Span(last.begin, span.end, span.phase, span.planned)
        else:
            found.append(span)
    return tuple(found)


def as_json(day: Day) -> dict[str, Any]:
    """The day as values for JSON: times in RFC 3339 (UTC), slots from ``begin``."""

    def told(moment: float) -> str:
        return datetime.datetime.fromtimestamp(moment, tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    status = day.status.dump()
    return {
        "pool": day.pool,
        "now": told(day.now),
        "begin": told(day.begin),
        "end": told(day.end),
        "timeZone": day.zone_name,
        "slotSeconds": day.status.slot_seconds,
        "nextFlip": day.next_flip,
        "condition": day.condition,
        "paused": day.paused,
        "mode": str(day.status.mode),
        **{
            name: status.get(name)
            for name in (
                "neededNodes", "servingNodes", "loanedNodes", "movingNodes", "quarantinedNodes", "allowedNow", "heldBy",
                "quantile", "worth",
            )
        },
        "needed": list(day.needed),
        "loaned": list(day.loaned),
        "others": day.others,
        "units": [
            {
                **{name: value for name, value in ribbon.unit.dump().items() if name != "history"},
                "spans": [
                    {
                        "begin": told(span.begin),
                        "end": told(span.end),
                        "phase": str(span.phase),
                        "planned": span.planned,
                    }
                    for span in ribbon.spans
                ],
            }
            for ribbon in day.ribbons
        ],
        "blocked": status.get("blocked", []),
        "waiting": status.get("waiting", []),
        "notes": list(day.notes),
    }  # fmt: skip
