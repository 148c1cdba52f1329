"""Forecasts as WorkloadClasses: what classes declare of their own, and how numbers are written."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from tidefleet.api import WorkloadClass
from tidefleet.api.validation import parse
from tidefleet.economics.lognormal import law
from tidefleet.economics.personas import DemandClass, Feature, Persona, UsageModel, Use, WeekShape, forecast
from tidefleet.economics.tasks import RequestLengths
from tidefleet.planning.calls import calls_between, with_called
from tidefleet.planning.foreseen import Foreseen, RateChoice, decimal, manifests, own_rates
from tidefleet.planning.from_api import declared_rate

LENGTHS = RequestLengths(law(1000.0, 3000.0), law(200.0), law(500.0, 1500.0, 4000.0), cached_share=0.25)
MORNING = WeekShape(tuple(1.0 / 4 if 8 <= hour < 12 else 0.0 for hour in range(24)))
EVENING = WeekShape(tuple(1.0 / 4 if 18 <= hour < 22 else 0.0 for hour in range(24)))
USAGE = UsageModel(
    personas=(
        Persona("early", 900, (Use("agent", law(8.0, 20.0)),), law(0.6, 0.8, 1.0), shape=MORNING),
        Persona("late", 400, (Use("search", law(30.0)),), shape=EVENING),
    ),
    features=(Feature("agent", "agent", LENGTHS), Feature("search", "search", LENGTHS)),
    classes=(
        DemandClass("agent", law(4.0), calls=(("search", 3.0), ("tool", 1.0))),
        DemandClass("search", calls=(("embed", 2.0),)),
        DemandClass("tool", lengths=LENGTHS),
        DemandClass("embed", lengths=RequestLengths(law(500.0), law(0.0))),
    ),
)


def foreseen(usage: UsageModel = USAGE, **spec: Any) -> list[Foreseen]:
    found = forecast(usage, date(2026, 12, 1))
    return [Foreseen(one, each, f"{one.name}-pool", spec) for one, each in zip(usage.classes, found, strict=True)]


def objects_of(classes: list[Foreseen], choice: RateChoice) -> list[WorkloadClass]:
    found = [parse(one, strict=True) for one in manifests(classes, "prod", choice)]
    assert all(isinstance(one, WorkloadClass) for one in found), found
    return [one for one in found if isinstance(one, WorkloadClass)]


@pytest.mark.parametrize("choice", RateChoice)
def test_with_their_calls_classes_are_asked_for_what_is_forecast(choice: RateChoice) -> None:
    """As the operator adds declared demand up."""
    classes = foreseen()
    objects = objects_of(classes, choice)
    called = calls_between(objects).called
    for one, made in zip(classes, objects, strict=True):
        rate = declared_rate(with_called(made, called.get(made.key)))
        wanted = choice.of(one.forecast)
        assert rate is not None
        assert wanted * 0.94 < rate, made
        if made.name not in {"embed", "tool"}:
            assert rate == pytest.approx(wanted, rel=0.05)


def test_averages_of_own_and_called_requests_add_up_exactly() -> None:
    classes = foreseen()
    own = own_rates(classes, RateChoice.AVERAGE)
    average = {one.wclass.name: one.forecast.average.mean for one in classes}
    assert own["agent"] == pytest.approx(average["agent"])
    assert own["search"] == pytest.approx(400 * 30 / 86400)
    assert own["tool"] == own["embed"] == 0.0
    assert average["search"] == pytest.approx(own["search"] + average["agent"] / 4 * 3)
    assert average["embed"] == pytest.approx(2 * average["search"])


def test_a_manifest_says_lengths_calls_and_what_its_owner_adds() -> None:
    (agent, *_) = manifests(foreseen(priority=7), "prod", RateChoice.BUSY_P95)
    assert agent["metadata"] == {"name": "agent", "namespace": "prod"}
    spec = agent["spec"]
    assert spec["poolRef"] == {"name": "agent-pool"}
    assert spec["tokens"] == {
        "input": {"mean": 1000, "p95": 3000},
        "output": {"mean": 200},
        "cachedShare": "0.25",
        "reasoning": {"mean": 500, "p95": 1500, "cap": 4000},
    }
    assert spec["callsPerTask"] == "4"
    assert spec["calls"] == [{"class": "search", "perTask": "3"}, {"class": "tool", "perTask": "1"}]
    assert spec["priority"] == 7


def test_a_rate_that_the_api_cannot_hold_is_refused() -> None:
    crowd = replace(USAGE.personas[0], users=1e10, uses=(Use("agent", law(1e6)),))
    with pytest.raises(ValueError, match=r"class agent: .* requests/s are forecast; expected at most 1e\+09, e\.g\."):
        manifests(foreseen(replace(USAGE, personas=(crowd, USAGE.personas[1]))), "prod", RateChoice.BUSY_P95)


@pytest.mark.parametrize(
    ("value", "up", "text"),
    [
        (0.0, False, "0"),
        (-1.0, False, "0"),
        (3.14159, False, "3.142"),
        (3.14111, True, "3.142"),
        (3.0, True, "3"),
        (0.1 + 0.2, True, "0.3"),
        (1234567.0, True, "1234567"),
        (0.00012345678, True, "0.0001235"),
        (1e-12, True, "0.000000001"),
        (1e-12, False, "0"),
        (9.9999, True, "10"),
    ],
)
def test_numbers_are_written_as_the_api_takes_them(value: float, up: bool, text: str) -> None:
    assert decimal(value, up=up) == text
