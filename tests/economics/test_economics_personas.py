"""Personas, features and calls, against a Monte Carlo that knows nothing of moments; and clocks, growth and errors."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from tidefleet.economics.lognormal import LengthLaw, law
from tidefleet.economics.personas import (
    ClassForecast,
    DemandClass,
    Feature,
    Persona,
    UsageModel,
    Use,
    WeekShape,
    forecast,
    mixed_lengths,
    requests_of_tasks,
    week_of,
)
from tidefleet.economics.tasks import RequestLengths

START = date(2026, 12, 1)
SHORT = RequestLengths(law(1000.0, 3000.0), law(100.0, 300.0), cached_share=0.5)
LONG = RequestLengths(law(8000.0, 20000.0), law(400.0))
ASKS, REFACTORS, REQUESTS = law(12.0, 30.0), law(2.0, 6.0), law(6.0, 14.0)
ADOPTION, DAY = law(0.5, 0.8, 1.0), law(1.0, 1.4)
HOURS = tuple(1.0 / 8 if 9 <= hour < 17 else 0.0 for hour in range(24))
OFFICE = WeekShape(HOURS, (1.0, 1.0, 1.0, 1.0, 0.8, 0.1, 0.0))


def a_usage(**persona: object) -> UsageModel:
    """Two personas on an agent that asks for embeddings, and a chat."""
    uses = (Use("ask", ASKS), Use("refactor", REFACTORS, adoption=0.5))
    engineers = Persona("engineers", 150, uses, ADOPTION, zone="Europe/Berlin", shape=OFFICE, day=DAY)
    return UsageModel(
        personas=(
            replace(engineers, **persona),  # type: ignore[arg-type]
            Persona("writers", 40, (Use("ask", law(20.0)),), law(0.9), zone="America/New_York", shape=OFFICE),
        ),
        features=(Feature("ask", "chat", SHORT), Feature("refactor", "agent", LONG)),
        classes=(
            DemandClass("chat"),
            DemandClass("agent", REQUESTS, calls=(("search", 1.5),)),
            DemandClass("search", calls=(("embed", 2.0),), lengths=SHORT),
            DemandClass("embed", lengths=RequestLengths(law(500.0), law(0.0))),
        ),
    )


def named(found: tuple[ClassForecast, ...]) -> dict[str, ClassForecast]:
    return {one.name: one for one in found}


def drawn(one: LengthLaw, rng: np.random.Generator, size: int) -> np.ndarray:
    return np.minimum(one.cap, np.exp(one.mu + one.sigma * rng.standard_normal(size)))


def simulated(rng: np.random.Generator, users: int, part: float) -> dict[str, int]:
    """The engineers of ``a_usage`` in one hour: each of them, each use, each call."""
    share, busy = drawn(ADOPTION, rng, 1)[0], drawn(DAY, rng, 1)[0]
    here = int((rng.random(users) < share).sum())
    asks = rng.poisson(drawn(ASKS, rng, here) * busy * part).sum()
    refactor = rng.poisson(drawn(REFACTORS, rng, here) * (rng.random(here) < 0.5) * busy * part).sum()
    agent = round(float(drawn(REQUESTS, rng, refactor).sum()))
    search = int(refactor + (rng.random(refactor) < 0.5).sum())
    return {"chat": int(asks), "agent": agent, "search": search, "embed": 2 * search}


def test_the_busy_hour_is_that_of_users_uses_and_calls_drawn_one_by_one() -> None:
    found = named(forecast(replace(a_usage(), personas=a_usage().personas[:1]), START))
    rng = np.random.default_rng(5)
    hours = [simulated(rng, 150, 1.0 / 8) for _ in range(15_000)]
    for name, one in found.items():
        seen = np.array([hour[name] for hour in hours]) / 3600.0
        busy = one.busy
        assert busy.mean == pytest.approx(seen.mean(), rel=0.03), name
        assert busy.p95 == pytest.approx(np.quantile(seen, 0.95), rel=0.05, abs=1 / 3600), name
        assert busy.p50 == pytest.approx(np.quantile(seen, 0.5), rel=0.05, abs=2 / 3600), name


def test_uses_fall_where_the_clock_of_their_time_zone_says() -> None:
    found = named(forecast(a_usage(), START))
    chat = found["chat"].mean.reshape(7, 24)
    assert chat[0, 8:16].min() > 0.0, "9 to 17 h in Berlin, 8 to 16 h UTC in December"
    assert chat[0, 7] == 0.0
    assert chat[0, 21] > 0.0, "New York"
    assert chat[0, 22] == 0.0
    assert chat[6].sum() == 0.0, "Sunday"
    assert chat[4].sum() == pytest.approx(0.8 * chat[0].sum())
    summer = named(forecast(a_usage(), date(2026, 7, 1)))["chat"].mean.reshape(7, 24)
    assert summer[0, 7] > 0.0
    assert summer[0, 21] == 0.0


def test_zones_that_are_half_an_hour_off_share_their_hours() -> None:
    parts = WeekShape(HOURS).parts("Asia/Kolkata", date(2026, 11, 30)).reshape(7, 24)
    assert parts[1, 3] == pytest.approx(1 / 16), "9:00 there is 3:30 UTC"
    assert parts[1].sum() == pytest.approx(1.0)


def test_the_week_is_what_all_its_hours_have() -> None:
    for one in forecast(a_usage(), START):
        assert one.average.mean == pytest.approx(one.mean.mean()), one.name
        assert one.average.p95 < one.p95.max()
        assert (one.p95 >= one.p50).all()


def test_requests_are_users_times_uses_times_calls() -> None:
    found = named(forecast(a_usage(), START))
    days = 4.9
    asks = (150 * ADOPTION.mean * 12 + 40 * 0.9 * 20) * days
    tasks = 150 * ADOPTION.mean * 0.5 * 2 * days
    week = 168 * 3600
    for name, requests in (("chat", asks), ("agent", 6 * tasks), ("search", 1.5 * tasks), ("embed", 3 * tasks)):
        assert found[name].average.mean * week == pytest.approx(requests), name
    assert found["chat"].direct_share == 1.0
    assert found["embed"].direct_share == 0.0
    assert found["chat"].users == pytest.approx(150 * 0.5 + 40 * 0.9, rel=1e-3)
    tokens = found["chat"].tokens_per_month
    assert tokens.input == pytest.approx(asks / 7 * 730 / 24 * 1000)
    assert tokens.cached_input == pytest.approx(tokens.input / 2)


def test_users_grow_and_adoption_ramps_up_month_by_month() -> None:
    grown = a_usage(growth_per_month=0.1, ramp_months=4.0)
    agent = [named(forecast(grown, START, month))["agent"].average.mean for month in (0, 1, 3, 4)]
    assert agent[1] == pytest.approx(agent[0] * 1.1 * 2)
    assert agent[2] == pytest.approx(agent[0] * 1.1**3 * 4)
    assert agent[3] == pytest.approx(agent[0] * 1.1**4 * 4)


def test_the_week_told_is_that_of_the_month() -> None:
    assert week_of(date(2026, 12, 1), 0) == date(2026, 11, 30)
    assert week_of(date(2026, 12, 31), 2) == date(2027, 2, 22), "28 February is a Sunday"
    assert week_of(date(2026, 12, 1), 13) == date(2027, 12, 27), "1 January 2028 is a Saturday"


def test_lengths_of_a_class_are_those_of_all_that_is_asked_of_it() -> None:
    """Against lengths that are drawn."""
    found = mixed_lengths([(1.0, SHORT), (1.0, LONG)])
    rng = np.random.default_rng(2)
    seen = np.concatenate([drawn(one.input, rng, 200_000) for one in (SHORT, LONG)])
    assert found.input.mean == pytest.approx(seen.mean(), rel=0.01)
    assert found.input.quantile(0.95) == pytest.approx(np.quantile(seen, 0.95), rel=0.01)
    assert found.cached_share == pytest.approx(1000 * 0.5 / 9000)
    assert mixed_lengths([(2.0, SHORT)]).input == SHORT.input


def test_a_called_class_has_the_lengths_of_its_own_features_where_it_says_nothing() -> None:
    usage = a_usage()
    direct = replace(usage, classes=(DemandClass("chat"), DemandClass("agent", calls=(("chat", 1.0),))))
    assert named(forecast(direct, START))["chat"].lengths.input.mean == pytest.approx(1000.0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"classes": (DemandClass("chat", calls=(("agent", 1.0),)), DemandClass("agent", calls=(("chat", 1.0),)))},
            "class chat: calls come back to it: chat -> agent -> chat",
        ),
        ({"classes": (DemandClass("chat", calls=(("nobody", 1.0),)), DemandClass("agent"))}, 'class chat: calls "nobo'),
        (
            {"classes": (DemandClass("chat"), DemandClass("agent", calls=(("embed", 1.0),)), DemandClass("embed"))},
            "class embed: tokens is missing",
        ),
        ({"classes": (DemandClass("agent"),)}, 'feature ask: class is "chat"'),
        ({"features": (Feature("ask", "chat", SHORT),)}, 'persona engineers: feature is "refactor"'),
        (
            {"features": (Feature("ask", "chat"), Feature("refactor", "agent", LONG))},
            "feature ask: tokens is missing, and class chat has none either",
        ),
        (
            {
                "classes": (
                    DemandClass("chat"),
                    DemandClass("agent", law(1e6), (("b", 1e6),)),
                    DemandClass("b", law(1e6)),
                )
            },
            "class agent: a task comes to more than 1e9 requests",
        ),
    ],
)
def test_what_leads_nowhere_is_named(changed: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=r"e\.g\. ") as told:
        forecast(replace(a_usage(), **changed), START)  # type: ignore[arg-type]
    assert words in str(told.value)


def test_calls_in_a_diamond_add_up() -> None:
    classes = (
        DemandClass("a", calls=(("b", 2.0), ("c", 3.0))),
        DemandClass("b", calls=(("d", 1.0),)),
        DemandClass("c", calls=(("d", 1.5),)),
        DemandClass("d"),
    )
    found = requests_of_tasks(classes)["a"]["d"]
    assert found.mean == pytest.approx(2.0 + 4.5)
    assert found.variance == pytest.approx(3 * 0.25)


def test_nobody_who_uses_it_asks_for_nothing() -> None:
    idle = named(forecast(replace(a_usage(), personas=()), START))["chat"]
    assert (idle.average.mean, idle.busy.p95, idle.users) == (0.0, 0.0, 0.0)
