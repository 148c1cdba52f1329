"""The period of a report, from what a user writes: ``7d`` or ``2026-11-01..2026-11-08``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_LENGTH = re.compile(r"(\d{1,6})([mhdw])")
_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_EXPECTED = "expected a length up to now, e.g. 7d or 12h, or FROM..TO, e.g. 2026-11-01..2026-11-08"


class BadRange(ValueError):
    """A period that cannot be read; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Period:
    """From ``start`` up to but not including ``end``, Unix seconds; ``end`` is after ``start``."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start

    def __str__(self) -> str:
        return f"{told(self.start)} to {told(self.end)}"


def told(at: float) -> str:
    """A time in words, UTC, to the second; a time that no calendar has as its number of seconds."""
    try:
        return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at} s"


def parse_range(text: str, now: float) -> Period:
    """The period that ``text`` says.

    Args:
        text: a number and m, h, d or w, which ends now; or two times with ``..`` between them, each a date or a time of
            ISO 8601. Without an offset they are UTC; a date at the end includes that day.
        now: Unix seconds.

    Raises:
        BadRange: it is neither, or ends before it begins.
    """
    words = text.strip()
    if found := _LENGTH.fullmatch(words):
        seconds = int(found[1]) * _SECONDS[found[2]]
        if not 0.0 < seconds <= now:
            raise BadRange(f"--range {text}: its length is {found[1]}{found[2]}; {_EXPECTED}")
        return Period(now - seconds, now)
    first, dots, last = words.partition("..")
    if not dots:
        raise BadRange(f"--range {text}: cannot be read; {_EXPECTED}")
    period = Period(_time(first, text, at_end=False), _time(last, text, at_end=True))
    if period.end <= period.start:
        raise BadRange(f"--range {text}: it ends at {told(period.end)}, before it begins; {_EXPECTED}")
    return period


def _time(word: str, text: str, *, at_end: bool) -> float:
    try:
        at = datetime.fromisoformat(word.strip())
    except ValueError:
        raise BadRange(f"--range {text}: {word.strip()!r} is no date or time; {_EXPECTED}") from None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    is_date = re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", word.strip())
    try:
        return (at + timedelta(days=1) if at_end and is_date else at).timestamp()
    except OverflowError:
        raise BadRange(f"--range {text}: {word.strip()!r} is past what a calendar has; {_EXPECTED}") from None
