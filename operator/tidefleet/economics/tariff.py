"""What a kilowatt-hour costs at a moment: windows of local time, in the time zone that each is given in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from zoneinfo import ZoneInfo

MINUTES_PER_DAY = 24 * 60

STEP_SECONDS = 900.0
"""Electricity is metered and sold by the quarter of an hour."""


@dataclass(frozen=True, slots=True)
class Window:
    """A price of electricity at a time of day.

    Attributes:
        usd_per_kilowatt_hour: may be negative.
        start, end: minutes since midnight on the clocks of ``zone``; an end before the start is on the next day.
        days: days of the week on which it begins, 0 = Monday; empty = all.
        zone: a name of the IANA database.
    """

    usd_per_kilowatt_hour: float
    start: int
    end: int
    days: frozenset[int]
    zone: str

    def holds_at(self, now: float) -> bool:
        """Whether it holds at Unix time ``now``.

        Clocks that are put forward or back need no case of their own: a moment has one reading of the clock, and a
        window lasts as long as the clock shows a time in it, so an hour that is shown twice is paid twice.

        Raises:
            ZoneInfoNotFoundError: the zone does not exist.
        """
        local = datetime.fromtimestamp(now, tz=_zone(self.zone))
        minute, day = 60 * local.hour + local.minute, local.weekday()
        if self.start < self.end:
            return self.start <= minute < self.end and self._begins_on(day)
        return (minute >= self.start and self._begins_on(day)) or (minute < self.end and self._begins_on((day - 1) % 7))

    def _begins_on(self, day: int) -> bool:
        return not self.days or day in self.days


@dataclass(frozen=True, slots=True)
class Tariff:
    """Windows of prices; where they overlap, the first one counts."""

    windows: tuple[Window, ...] = ()

    def at(self, now: float) -> float | None:
        """USD for a kilowatt-hour at Unix time ``now``; ``None`` where no window says."""
        return next((one.usd_per_kilowatt_hour for one in self.windows if one.holds_at(now)), None)

    def mean(self, now: float, seconds: float) -> float | None:
        """Mean of the quarters of an hour from ``now`` on for so long; ``None`` when no window says for any of them."""
        first = now - now % STEP_SECONDS
        prices = [self.at(first + STEP_SECONDS * i) for i in range(max(1, round(seconds / STEP_SECONDS)))]
        known = [one for one in prices if one is not None]
        return sum(known) / len(known) if known else None


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
