"""The journal of a flip: an annotation on the node, so that it outlives every process and custom resource."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tidefleet.flipping.phase import Phase

VERSION = 1
LARGEST = 48 * 1024
"""Characters of a journal; a longer text is not one of ours. At four bytes each it is below the 256 KiB that an API
server takes for all annotations of an object (``TotalAnnotationSizeLimitB`` in k8s.io/apimachinery)."""

ROOM = 8 * 1024
"""Characters by which a journal may grow during a flip: reasons, times, history. A plan must leave them free, so that
whatever has set out can be written to its end."""

KEPT = 32
"""Changes of phase that are kept: more than a day's worth of two round trips."""

LONGEST_WORDS = 400
_MOST_MEMBERS = 256
_LARGEST_EPOCH = 10**11
_LATEST = 99_999_999_999.0
_NAMES = {"unit": 253, "pool": 320, "accelerator": 253, "queue": 320}
_WORDS = {"why": LONGEST_WORDS, "decision": 64, "by": 256, "cause": 32}


class TooLarge(ValueError):
    """A journal that could not be read back; only a plan can be, so nothing has been changed yet."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A text that is not a journal of ours: forged, cut off, or of a later version."""

    why: str


@dataclass(frozen=True, slots=True)
class Before:
    """What stood on the node under the keys that a flip writes; ``None`` where there was nothing.

    A roll-back, and the end of a loan, restore exactly this.
    """

    labels: Mapping[str, str | None] = field(default_factory=dict)
    annotations: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Journal:
    """Where a unit stands, since when, until when at the latest, and why.

    Attributes:
        epoch: of the leader that wrote it.
        turn: how many changes of phase the unit has seen; tells the newer of two journals whatever the clock did.
        since: when the phase began; Unix seconds, as all times here.
        deadline: when the phase times out; ``None`` where it cannot.
        unit: name of the unit; ``members`` its nodes.
        pool: ``namespace/name`` of the pool that lends; ``accelerator`` its type.
        until: when the loan ends at the latest.
        why: the reason in one sentence.
        decision: id of the decision.
        surge: whether the recall is, or the last one was, for a surge of demand, with the short grace.
        trained: whether training was let in since the unit last served.
        asked: when its jobs were asked for a checkpoint.
        queue: who trains, e.g. ``Kueue/night``: it outlives the pool.
        by: who asked for the loan by hand; empty for one of the schedule's.
        cause: of a quarantine: ``health``, ``held`` or ``canary``.
        before: what was on this node; differs from member to member.
        history: changes of phase, oldest first.
    """

    epoch: int
    phase: Phase
    since: float
    unit: str
    pool: str = ""
    accelerator: str = ""
    members: tuple[str, ...] = ()
    deadline: float | None = None
    until: float | None = None
    why: str = ""
    decision: str = ""
    surge: bool = False
    trained: bool = False
    asked: float | None = None
    queue: str = ""
    by: str = ""
    cause: str = ""
    before: Before = Before()
    history: tuple[tuple[float, Phase], ...] = ()
    turn: int = 0

    def to(self, phase: Phase, now: float, *, deadline: float | None = None, why: str = "", **more: Any) -> Journal:
        """The journal after a change of phase; a phase's history has its beginning."""
        return replace(
            self,
            phase=phase,
            since=now,
            deadline=deadline,
            why=(why or self.why)[:LONGEST_WORDS],
            history=(*self.history, (now, phase))[-KEPT:],
            turn=self.turn + 1,
            **more,
        )

    def same_state(self, other: Journal) -> bool:
        """Whether two nodes of a unit tell the same story, whatever stood on each before."""
        return replace(self, before=Before(), epoch=0) == replace(other, before=Before(), epoch=0)


def agreed(journals: Iterable[Journal]) -> Journal:
    """Where a unit stands when its nodes tell different stories, because a writer died between two of them.

    It is where the newest says: that decision was taken on all that was seen, and its effects may show already on the
    nodes that have it (training let in, serving replicas let back), which an older story would not expect there.

    Args:
        journals: of the nodes that have one, in any order; at least one.
    """
    return max(journals, key=lambda one: (one.turn, one.since, one.surge, one.until or 0.0, one.epoch, write(one)))


def write(journal: Journal) -> str:
    """The journal as the value of the annotation: what `read` takes back, times in whole milliseconds.

    Raises:
        TooLarge: names, or what stood on the node before, are longer than a journal holds.
    """
    raw: dict[str, Any] = {
        "v": VERSION,
        "epoch": journal.epoch,
        "phase": str(journal.phase),
        "since": instant(journal.since),
        "unit": journal.unit,
    }
    if journal.turn:
        raw["turn"] = journal.turn
    for name in ("pool", "accelerator", "queue"):
        if getattr(journal, name):
            raw[name] = getattr(journal, name)
    for name, longest in _WORDS.items():
        if getattr(journal, name):
            raw[name] = _encodable(getattr(journal, name))[:longest]
    for name in ("deadline", "until", "asked"):
        if getattr(journal, name) is not None:
            raw[name] = instant(getattr(journal, name))
    for name in ("surge", "trained"):
        if getattr(journal, name):
            raw[name] = True
    if journal.members and journal.members != (journal.unit,):
        raw["members"] = list(journal.members)
    if journal.before.labels or journal.before.annotations:
        raw["before"] = {"labels": dict(journal.before.labels), "annotations": dict(journal.before.annotations)}
    if journal.history:
        raw["history"] = [[instant(at), str(phase)] for at, phase in journal.history]
    text = json.dumps(raw, separators=(",", ":"), ensure_ascii=False)
    longest_text = LARGEST - ROOM if journal.phase is Phase.PLANNED else LARGEST
    long_names = [name for name, most in _NAMES.items() if len(getattr(journal, name)) > most]
    if long_names or len(text) > longest_text or len(journal.members) > _MOST_MEMBERS:
        what = f"{', '.join(long_names)} too long" if long_names else f"{len(text)} characters"
        raise TooLarge(
            f"journal of unit {journal.unit[:80]}: {what}, {len(journal.members)} members; expected at most "
            f"{longest_text} characters and {_MOST_MEMBERS} members: shorten the annotations of its nodes"
        )
    return text


def read(text: str) -> Journal | Unreadable:
    """The journal that an annotation holds. Total: whatever is in it, it never raises."""
    if len(text) > LARGEST:
        return Unreadable(f"it has {len(text)} characters; expected at most {LARGEST}")
    try:
        raw: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unreadable(f"it is {_shown(text)}, not JSON ({_encodable(str(error))[:80]}); expected an object")
    try:
        if not isinstance(raw, dict):
            raise TypeError(f"it is {_shown(text)}; expected an object")
        if type(raw.get("v")) is not int or raw["v"] != VERSION:
            raise ValueError(f"its version is {str(raw.get('v'))[:20]}; expected {VERSION}")
        unit = _text(raw, "unit", _NAMES["unit"], needed=True)
        members = raw.get("members", [unit])
        if not isinstance(members, list) or not 0 < len(members) <= _MOST_MEMBERS:
            raise ValueError("members is not a list of node names")
        return Journal(
            epoch=_count(raw.get("epoch"), "epoch"),
            turn=_count(raw.get("turn", 0), "turn"),
            phase=_phase(raw.get("phase"), "phase"),
            since=_time(raw.get("since"), "since"),
            unit=unit,
            pool=_text(raw, "pool", _NAMES["pool"]),
            accelerator=_text(raw, "accelerator", _NAMES["accelerator"]),
            members=tuple(_text({"member": one}, "member", 253, needed=True) for one in members),
            deadline=_optional_time(raw, "deadline"),
            until=_optional_time(raw, "until"),
            why=_text(raw, "why", _WORDS["why"]),
            decision=_text(raw, "decision", _WORDS["decision"]),
            surge=_flag(raw, "surge"),
            trained=_flag(raw, "trained"),
            asked=_optional_time(raw, "asked"),
            queue=_text(raw, "queue", _NAMES["queue"]),
            by=_text(raw, "by", _WORDS["by"]),
            cause=_text(raw, "cause", _WORDS["cause"]),
            before=_before(raw.get("before", {})),
            history=tuple(_history(raw.get("history", []))),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        return Unreadable(_encodable(str(error))[:200])


def instant(at: float) -> float:
    """A time as a journal holds it: in milliseconds; the nearest that it can hold, and 0 for what is no number."""
    return round(min(max(at, 0.0), _LATEST), 3) if not math.isnan(at) else 0.0


def _encodable(text: str) -> str:
    """Half a surrogate pair, which JSON can spell and UTF-8 cannot, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _shown(text: str) -> str:
    """The beginning of a text, to be told in a sentence."""
    return repr(_encodable(text[:40])) + ("..." if len(text) > 40 else "")


def _phase(value: object, name: str) -> Phase:
    if not isinstance(value, str) or value not in Phase.__members__.values():
        raise ValueError(f"{name} is {str(value)[:20]!r}; expected one of {', '.join(Phase)}")
    return Phase(value)


def _flag(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name, False)
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {str(value)[:20]}; expected true or false")
    return value


def _count(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST_EPOCH:
        raise ValueError(f"{name} is {str(value)[:20]}; expected a whole number")
    return value


def _time(value: object, name: str) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    if not usable or not math.isfinite(value) or not 0 <= value <= _LATEST:  # type: ignore[operator, arg-type]
        raise ValueError(f"{name} is {str(value)[:30]}; expected Unix seconds, e.g. 1764028800")
    return instant(float(value))  # type: ignore[arg-type]


def _optional_time(raw: Mapping[str, Any], name: str) -> float | None:
    return None if raw.get(name) is None else _time(raw[name], name)


def _text(raw: Mapping[str, Any], name: str, longest: int, *, needed: bool = False) -> str:
    value = raw.get(name, "")
    if not isinstance(value, str) or not int(needed) <= len(value) <= longest or _encodable(value) != value:
        raise ValueError(f"{name} is {str(value)[:30]!r}; expected a text of at most {longest} characters")
    return value


def _before(value: object) -> Before:
    if not isinstance(value, dict):
        raise TypeError("before is not an object")
    found: list[dict[str, str | None]] = []
    for name in ("labels", "annotations"):
        part = value.get(name, {})
        if not isinstance(part, dict) or len(part) > 16:
            raise ValueError(f"before.{name} is not an object of a few keys")
        if not all(isinstance(v, str | None) and len(k) <= 317 for k, v in part.items()):
            raise ValueError(f"before.{name} holds something that is not a text")
        if any(_encodable(one) != one for pair in part.items() for one in pair if one):
            raise ValueError(f"before.{name} holds half a character")
        found.append(part)
    return Before(labels=found[0], annotations=found[1])


def _history(value: object) -> Iterable[tuple[float, Phase]]:
    if not isinstance(value, list) or len(value) > 2 * KEPT:
        raise ValueError("history is not a short list")
    for one in value:
        if not isinstance(one, list) or len(one) != 2:
            raise ValueError("history holds something other than [time, phase]")
        yield _time(one[0], "history"), _phase(one[1], "history")
