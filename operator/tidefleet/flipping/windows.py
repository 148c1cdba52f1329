"""When loans are allowed: the windows of a pool's spec as stretches of real time, through midnight and DST.

A window begins on each of its days at ``start`` by the wall clock of its zone and ends at ``end``, on the next day if
that is earlier in the day than ``start``. A wall-clock time that DST skips means the first moment after it, one that is
repeated means its first occurrence; so a window always ends when the clock on the wall first shows its end or a later
time, and its length in real seconds differs on two days a year. What is left of nothing (both ends in one skipped hour)
never opens. Windows that overlap or touch are one.

A window whose zone the IANA database does not know never opens: validation refuses it before, and no loan is the safe
side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as wall_time
from zoneinfo import ZoneInfo

from tidefleet.api.flipping import Window
from tidefleet.api.vocabulary import Day

DAY_SECONDS = 86_400.0

LONGEST_DAYS = 9
"""How far around the present stretches are joined. Windows that are always open end this many days from now."""

AHEAD_DAYS = 16
"""How far ahead the next opening is looked for: beyond two weeks, since DST can swallow one week's occurrence."""

_DAYS = tuple(Day)
_FIRST = datetime.min.replace(tzinfo=UTC).timestamp() + 30 * DAY_SECONDS
_LAST = datetime.max.replace(tzinfo=UTC).timestamp() - 30 * DAY_SECONDS


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """A stretch of time in which loans are allowed.

    Attributes:
        start: Unix seconds, included.
        end: Unix seconds, excluded.
        words: the stretch by the wall clock of the windows it comes from, e.g. ``22:00 to 06:30 Europe/Berlin``.
    """

    start: float
    end: float
    words: str

    @property
    def seconds(self) -> float:
        """Its length in real seconds."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class _Occurrence:
    start: float
    end: float
    zone: ZoneInfo


def open_window(windows: Sequence[Window], now: float) -> OpenWindow | None:
    """The stretch that ``now`` (Unix seconds) lies in; ``None`` when no window is open.

    Overlapping and touching windows count as one, at most ``LONGEST_DAYS`` to either side of ``now``.
    """
    for reach in (2, LONGEST_DAYS):
        begin, end = now - reach * DAY_SECONDS, now + reach * DAY_SECONDS
        found = next((one for one in openings(windows, begin, end) if one.start <= now < one.end), None)
        if found is None or (begin < found.start and found.end < end):
            break
    return found


def next_opening(windows: Sequence[Window], now: float) -> OpenWindow | None:
    """The first stretch that begins after ``now`` (Unix seconds); ``None`` when none does within ``AHEAD_DAYS``."""
    for reach in (2, AHEAD_DAYS):
        begin, end = now - LONGEST_DAYS * DAY_SECONDS, now + reach * DAY_SECONDS
        found = next((one for one in openings(windows, begin, end) if one.start > now), None)
        if found is not None and found.end < end:
            break
    return found


def open_slots(windows: Sequence[Window], first: float, *, slots: int, slot_seconds: float) -> tuple[bool, ...]:
    """For each of so many slots from ``first`` (Unix seconds) on, whether loans are allowed in the whole of it.

    Raises:
        ValueError: slot_seconds is not a positive number.
    """
    if not (math.isfinite(slot_seconds) and slot_seconds > 0):
        raise ValueError(f"slot_seconds is {slot_seconds}; expected a positive number of seconds, e.g. 900")
    stretches = openings(windows, first, first + slots * slot_seconds)
    ends = [(first + slot * slot_seconds, first + (slot + 1) * slot_seconds) for slot in range(slots)]
    return tuple(any(one.start <= begin and end <= one.end for one in stretches) for begin, end in ends)


def openings(windows: Sequence[Window], begin: float, end: float) -> tuple[OpenWindow, ...]:
    """All stretches in which loans are allowed between two times (Unix seconds), in order and disjoint.

    A stretch that reaches beyond ``begin`` or ``end`` is cut there. Times that no calendar has give none.
    """
    if not (_FIRST <= begin < end <= _LAST):
        return ()
    merged: list[list[_Occurrence]] = []
    last_end = -math.inf
    for one in sorted(_occurrences(windows, begin, end), key=lambda each: (each.start, each.end)):
        if one.start <= last_end:
            merged[-1].append(one)
        else:
            merged.append([one])
        last_end = max(last_end, one.end)
    stretches = (_stretch(group) for group in merged)
    return tuple(
        OpenWindow(max(one.start, begin), min(one.end, end), one.words)
        for one in stretches
        if one.end > begin and one.start < end
    )


def moment(day: date, clock: str, zone: ZoneInfo) -> float:
    """Unix seconds of the first moment at which the wall clock shows ``clock`` (HH:MM) of ``day``, or a later time."""
    hour, minute = (int(part) for part in clock.split(":"))
    wall = datetime.combine(day, wall_time(hour, minute))
    before, after = (wall.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
    if before <= after:
        return before  # an ordinary time, or the first of two
    low, high = math.floor(after), math.ceil(before)  # a skipped time: the change of the clock lies in between
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).replace(tzinfo=None) >= wall:
            high = middle
        else:
            low = middle
    return float(high)


def _occurrences(windows: Sequence[Window], begin: float, end: float) -> Iterator[_Occurrence]:
    for window in windows:
        try:
            zone = ZoneInfo(window.time_zone)
        except (KeyError, OSError, ValueError):
            continue
        if window.start == window.end:
            continue
        days = window.days or _DAYS
        over = timedelta(days=1 if window.end < window.start else 0)
        day = datetime.fromtimestamp(begin, UTC).date() - timedelta(days=3)
        final = datetime.fromtimestamp(end, UTC).date() + timedelta(days=2)
        while day <= final:
            if _DAYS[day.weekday()] in days:
                start, stop = moment(day, window.start, zone), moment(day + over, window.end, zone)
                if start < stop:
                    yield _Occurrence(start, stop, zone)
            day += timedelta(days=1)


def _stretch(group: Sequence[_Occurrence]) -> OpenWindow:
    first, last = group[0], max(group, key=lambda one: one.end)
    start, end = datetime.fromtimestamp(first.start, first.zone), datetime.fromtimestamp(last.end, last.zone)
    form = "%H:%M" if last.end - first.start <= DAY_SECONDS else "%a %H:%M"
    where = "" if first.zone.key == last.zone.key else f" {first.zone.key}"
    return OpenWindow(first.start, last.end, f"{start:{form}}{where} to {end:{form}} {last.zone.key}")
