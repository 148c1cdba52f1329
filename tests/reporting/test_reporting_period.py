"""The period of a report: what can be written for it, and what is said of what cannot."""

from __future__ import annotations

import pytest

from tidefleet.reporting.period import BadRange, Period, parse_range, told

NOW = 1_764_158_400.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7d", 604_800.0), ("12h", 43_200.0), ("30m", 1800.0), ("2w", 1_209_600.0), (" 1d ", 86_400.0)],
)
def test_a_length_ends_now(text: str, seconds: float) -> None:
    assert parse_range(text, NOW) == Period(NOW - seconds, NOW)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2025-11-01..2025-11-08", "2025-11-01T00:00:00Z", "2025-11-09T00:00:00Z"),
        ("2025-11-01T06:00..2025-11-01T18:30:00", "2025-11-01T06:00:00Z", "2025-11-01T18:30:00Z"),
        ("2025-11-01T00:00+02:00..2025-11-01T12:00Z", "2025-10-31T22:00:00Z", "2025-11-01T12:00:00Z"),
        ("2025-11-01..2025-11-01", "2025-11-01T00:00:00Z", "2025-11-02T00:00:00Z"),
    ],
)
def test_times_are_utc_and_a_last_day_is_included(text: str, start: str, end: str) -> None:
    period = parse_range(text, NOW)
    assert (told(period.start), told(period.end)) == (start, end)


@pytest.mark.parametrize(
    "text",
    ["", "7", "d", "-7d", "0d", "7 days", "7y", "..", "2025-11-08..2025-11-01", "2025-13-01..2025-11-01", "999999w",
     "yesterday..today", "2025-11-01..", "..2025-11-01", "9999-12-31..9999-12-31"],
)  # fmt: skip
def test_another_range_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadRange, match=r"--range .*e\.g\. (7d|2026)"):
        parse_range(text, NOW)
