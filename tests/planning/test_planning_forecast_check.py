"""A forecast against what came: ratio, what its doubt explains, hours that are off, and what is suggested."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import cache

import numpy as np
import pytest

from tidefleet.economics.lognormal import law
from tidefleet.economics.personas import (
    ClassForecast,
    DemandClass,
    Feature,
    Persona,
    UsageModel,
    Use,
    WeekShape,
    forecast,
)
from tidefleet.economics.tasks import RequestLengths
from tidefleet.planning.forecast_check import Checked, Seen, check, hour_of_week, months_between, words_of_hour

MONDAY = datetime(2026, 12, 7, tzinfo=UTC).timestamp()
OFFICE = WeekShape(tuple(1.0 / 8 if 9 <= hour < 17 else 0.0 for hour in range(24)), (1, 1, 1, 1, 1, 0.1, 0.1))


@cache
def a_forecast(p95: float = 0.6) -> Mapping[str, ClassForecast]:
    persona = Persona("staff", 5000, (Use("ask", law(10.0)),), law(0.4, p95, 1.0), shape=OFFICE)
    lengths = RequestLengths(law(1000.0), law(100.0))
    usage = UsageModel((persona,), (Feature("ask", "chat", lengths),), (DemandClass("chat"),))
    return {one.name: one for one in forecast(usage, date(2026, 12, 1))}


def a_week(factor: float = 1.0, *, later: int = 0, hours: int = 168) -> list[Seen]:
    means = np.roll(a_forecast()["chat"].mean.reshape(7, 24), later, axis=1).reshape(168)
    return [Seen("chat", MONDAY + 3600.0 * hour, factor * float(means[hour])) for hour in range(hours)]


def checked(seen: list[Seen], p95: float = 0.6) -> Checked:
    (found,), unknown = check(seen, lambda _: a_forecast(p95), ["chat"])
    assert unknown == ()
    return found


def test_what_came_as_foreseen_is_kept() -> None:
    found = checked(a_week())
    assert found.ratio == pytest.approx(1.0)
    assert (found.hours, found.above_p95, found.explained, found.shift_hours) == (168.0, 0.0, True, 0)
    assert "within what the forecast expects" in found.suggestion
    assert "source: Metrics" in found.suggestion


def test_a_difference_that_the_doubt_about_adoption_covers_is_explained_and_a_larger_one_is_not() -> None:
    """A p95 of 0.6 over a mean of 0.4 leaves room for half as much again."""
    assert checked(a_week(1.4)).explained
    assert not checked(a_week(1.6)).explained
    assert not checked(a_week(1.4), p95=0.42).explained
    low = checked(a_week(0.3))
    assert low.ratio == pytest.approx(0.3)
    assert "by 0.3" in low.suggestion


def test_hours_above_their_p95_are_counted() -> None:
    assert checked(a_week(1.7)).above_p95 == pytest.approx(56 / 168, abs=0.1)


@pytest.mark.parametrize(("later", "words"), [(5, "5 h later"), (-6, "6 h earlier"), (1, "")])
def test_a_day_that_is_hours_off_is_told(later: int, words: str) -> None:
    found = checked(a_week(later=later))
    assert found.shift_hours == later
    assert (f"the day is {words}" in found.suggestion) == bool(words)


def test_a_few_hours_say_only_their_ratio() -> None:
    found = checked(a_week(0.5, hours=12))
    assert found.ratio == pytest.approx(0.5)
    assert found.shift_hours is None
    assert "only 12 h" in found.suggestion


def test_nothing_observed_is_not_nothing_asked() -> None:
    nothing = checked([])
    assert (nothing.observed, nothing.ratio) == (None, None)
    assert "nothing was observed" in nothing.suggestion
    silent = checked(a_week(0.0))
    assert (silent.observed, silent.ratio) == (0.0, None)
    assert "no requests" in silent.suggestion


def test_classes_that_nobody_foresaw_are_named() -> None:
    _, unknown = check([Seen("spare", MONDAY, 1.0)], lambda _: a_forecast(), ["chat"])
    assert unknown == ("spare",)


def test_each_hour_is_held_against_the_forecast_of_its_month() -> None:
    asked: list[float] = []

    def forecast_at(at: float) -> Mapping[str, ClassForecast]:
        asked.append(at)
        return a_forecast()

    check([Seen("chat", MONDAY, 1.0), Seen("chat", MONDAY + 40 * 86400, 1.0)], forecast_at, ["chat"])
    assert asked == [MONDAY, MONDAY + 40 * 86400]
    assert [months_between(date(2026, 12, 5), at) for at in (MONDAY - 9e6, *asked)] == [0, 0, 1]


def test_hours_of_the_week_begin_on_monday_utc() -> None:
    assert [hour_of_week(MONDAY + 3600 * hours) for hours in (0, 33.9, 167, 168)] == [0, 33, 167, 0]
    assert words_of_hour(33) == "Tue 09:00 UTC"
