"""Windows of loans, compared minute by minute with a clock on the wall."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from flipping_builders import a_window
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tidefleet.api.flipping import Window
from tidefleet.api.vocabulary import Day
from tidefleet.flipping.windows import (
    OpenWindow,
    moment,
    next_opening,
    open_slots,
    open_window,
    openings,
)

# A night on which the clock changes, for zones that go by an hour, by half of one, and in the south.
CHANGES = (
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("America/New_York", date(2026, 3, 8)),
    ("America/New_York", date(2026, 11, 1)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("America/Santiago", date(2026, 9, 6)),  # midnight itself is skipped
    ("Asia/Kolkata", date(2026, 6, 1)),
)


def at(text: str, zone: str = "Europe/Berlin") -> float:
    """Unix seconds of a wall-clock time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def minutes_open(windows: list[Window], begin: datetime, minutes: int) -> list[bool]:
    """For each minute whether a window is open, by walking through the minutes and looking at the wall clock.

    An occurrence opens in the first minute whose wall clock shows its beginning or later, and closes in the first that
    shows its end or later.
    """
    found = np.zeros(5 * 1440 + minutes, dtype=np.bool_)
    for window in windows:
        walls = wall_clock(window.time_zone, begin - timedelta(days=5), len(found))
        for day in sorted(set(walls.astype("datetime64[D]").tolist())):
            if window.days and list(Day)[day.weekday()] not in window.days:
                continue
            opens = datetime.fromisoformat(f"{day}T{window.start}")
            closes = datetime.fromisoformat(f"{day}T{window.end}")
            closes += timedelta(days=1) if closes < opens else timedelta()
            first, last = (
                int(np.argmax(late)) if late.any() else len(found)
                for late in (walls >= np.datetime64(opens), walls >= np.datetime64(closes))
            )
            found[first:last] = True
    return found[5 * 1440 :].tolist()


@cache
def wall_clock(zone: str, begin: datetime, minutes: int) -> NDArray[np.datetime64]:
    """What the clock on the wall shows in each minute."""
    where = ZoneInfo(zone)
    walls = [(begin + timedelta(minutes=one)).astimezone(where).replace(tzinfo=None) for one in range(minutes)]
    return np.array(walls, dtype="datetime64[us]")


CLOCKS = st.builds(
    lambda hour, minute: f"{hour:02}:{minute:02}", st.integers(0, 23), st.sampled_from([0, 1, 15, 30, 59])
)
NIGHT_CLOCKS = st.builds(lambda hour, minute: f"{hour:02}:{minute:02}", st.integers(0, 3), st.sampled_from([0, 15, 30]))


@st.composite
def some_windows(draw: st.DrawFn, zone: str) -> list[Window]:
    clocks = CLOCKS | NIGHT_CLOCKS
    windows = []
    for _ in range(draw(st.integers(1, 3))):
        start, end = draw(clocks), draw(clocks)
        assume(start != end)
        days = draw(st.lists(st.sampled_from(list(Day)), unique=True, max_size=7))
        where = draw(st.sampled_from([zone, zone, "UTC"]))
        windows.append(a_window(start, end, tuple(days), where))
    return windows


@settings(max_examples=30, deadline=None)
@given(st.data(), st.sampled_from(CHANGES))
def test_windows_are_open_as_the_clock_on_the_wall_says(data: st.DataObject, change: tuple[str, date]) -> None:
    zone, day = change
    windows = data.draw(some_windows(zone))
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=1)
    expected = minutes_open(windows, begin, 3 * 1440)
    first = begin.timestamp()
    stretches = openings(windows, first, first + 3 * 86_400)
    found = [any(one.start <= first + 60 * minute < one.end for one in stretches) for minute in range(3 * 1440)]
    assert found == expected
    for minute in data.draw(st.lists(st.integers(0, 3 * 1440 - 1), min_size=8, max_size=8)):
        now = first + 60.0 * minute
        here = open_window(windows, now)
        assert (here is not None) == expected[minute]
        closing = next((later for later in range(minute, 3 * 1440) if not expected[later]), None)
        if closing is None:
            continue
        if here is not None:
            assert here.end == first + 60.0 * closing
            assert open_slots(windows, now, slots=1, slot_seconds=here.end - now) == (True,)
            assert open_slots(windows, now, slots=1, slot_seconds=here.end + 1 - now) == (False,)
        opening = next((later for later in range(closing, 3 * 1440) if expected[later]), None)
        coming = next_opening(windows, now)
        if opening is not None:
            assert coming is not None
            assert coming.start == first + 60.0 * opening
        elif coming is not None:
            assert coming.start >= first + 3 * 86_400


def test_a_window_crosses_midnight_and_belongs_to_the_day_on_which_it_begins() -> None:
    windows = [a_window("22:00", "06:30", ("Fri",))]
    expected = OpenWindow(at("2026-11-27T22:00"), at("2026-11-28T06:30"), "22:00 to 06:30 Europe/Berlin")
    assert open_window(windows, at("2026-11-28T03:00")) == expected
    assert open_window(windows, at("2026-11-27T03:00")) is None
    assert next_opening(windows, at("2026-11-25T12:00")) == expected
    assert open_window(windows, expected.end) is None
    assert open_window(windows, expected.start) == expected


def test_lengths_are_real_seconds_when_the_clock_changes_in_the_night() -> None:
    windows = [a_window("22:00", "06:30")]
    for day, hours in (("2026-03-28", 7.5), ("2026-10-24", 9.5), ("2026-06-01", 8.5)):
        found = open_window(windows, at(f"{day}T23:00"))
        assert found is not None
        assert found.seconds == hours * 3600


def test_a_skipped_time_is_the_first_moment_after_it_and_a_repeated_one_its_first_occurrence() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert moment(date(2026, 3, 29), "02:30", berlin) == at("2026-03-29T03:00")
    assert moment(date(2026, 3, 29), "02:00", berlin) == at("2026-03-29T03:00")
    assert moment(date(2026, 10, 25), "02:30", berlin) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
    assert moment(date(2011, 12, 30), "12:00", ZoneInfo("Pacific/Apia")) == at("2011-12-31T00:00", "Pacific/Apia")


def test_a_window_within_a_skipped_hour_does_not_open() -> None:
    windows = [a_window("02:10", "02:50", ("Sun",))]
    assert open_window(windows, at("2026-03-29T03:00")) is None
    coming = next_opening(windows, at("2026-03-28T12:00"))
    assert coming is not None
    assert coming.start == at("2026-04-05T02:10")


def test_windows_that_overlap_or_touch_are_one_and_the_latest_end_counts() -> None:
    windows = [a_window("20:00", "23:00"), a_window("22:00", "02:00"), a_window("02:00", "04:00", zone="Europe/Paris")]
    found = open_window(windows, at("2026-11-25T21:00"))
    assert found is not None
    assert (found.start, found.end) == (at("2026-11-25T20:00"), at("2026-11-26T04:00"))
    assert found.words == "20:00 Europe/Berlin to 04:00 Europe/Paris"


def test_windows_without_a_gap_end_at_the_limit_of_what_is_joined() -> None:
    now = at("2026-11-25T12:00")
    found = open_window([a_window("00:00", "12:00"), a_window("12:00", "00:00")], now)
    assert found is not None
    assert found.end - now == 9 * 86_400
    assert next_opening([a_window("00:00", "12:00"), a_window("12:00", "00:00")], now) is None


def test_words_of_a_stretch_over_days_name_them() -> None:
    windows = [a_window("18:00", "00:00", ("Fri",)), a_window("00:00", "23:59", ("Sat",))]
    found = open_window(windows, at("2026-11-28T12:00"))
    assert found is not None
    assert found.words == "Fri 18:00 to Sat 23:59 Europe/Berlin"


def test_no_window_and_windows_that_validation_refuses_never_open() -> None:
    unknown = Window.model_construct(start="00:00", end="23:59", days=(), time_zone="Mars/Olympus")
    empty = Window.model_construct(start="12:00", end="12:00", days=(), time_zone="UTC")
    for windows in ([], [unknown], [empty]):
        assert open_window(windows, at("2026-11-25T12:00")) is None
        assert next_opening(windows, at("2026-11-25T12:00")) is None


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf, 1e18, -1e18])
def test_a_time_that_no_calendar_has_is_in_no_window(now: float) -> None:
    assert open_window([a_window()], now) is None
    assert next_opening([a_window()], now) is None


def test_a_slot_is_open_only_as_a_whole() -> None:
    windows = [a_window("22:10", "23:00")]
    found = open_slots(windows, at("2026-11-25T21:45"), slots=6, slot_seconds=900.0)
    assert found == (False, False, True, True, True, False)
    with pytest.raises(ValueError, match="slot_seconds is 0"):
        open_slots(windows, 0.0, slots=1, slot_seconds=0.0)
