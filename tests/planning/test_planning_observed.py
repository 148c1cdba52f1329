"""Multipliers: stated until observed, by weight, within bounds, and only from readings that are known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.economics.serving import TokenShape
from tidefleet.planning.demand import Empty, Known, Lengths, Stale, observed_shapes
from tidefleet.planning.observed import (
    BOUNDS,
    HALF_LIFE_SECONDS,
    MOST_REQUESTS,
    STATED_REQUESTS,
    Basis,
    CallCycle,
    Observed,
    called_rates,
    stated_lengths,
)
from tidefleet.planning.options import ClassDemand


def seen(at: float, value: float, *, requests: float = 100.0, name: str = "input_tokens") -> Known:
    """A reading of one quantity over so many requests in ten seconds."""
    return Known(at, requests / 10.0, "Engines", seconds=10.0, **{name: value})


def learned(*readings: Known) -> Observed:
    found = Observed()
    for one in readings:
        found = found.learn(one)
    return found


def test_what_is_stated_counts_until_it_is_observed() -> None:
    nothing = Observed().blend("input_tokens", 1000.0, now=0.0)
    assert (nothing.value, nothing.basis, nothing.observed) == (1000.0, Basis.ASSUMED, 0.0)
    few = learned(seen(0.0, 3000.0, requests=STATED_REQUESTS / 2)).blend("input_tokens", 1000.0, now=0.0)
    assert few.value == pytest.approx(1000 + 2000 / 3)
    assert few.basis is Basis.ASSUMED
    many = learned(seen(0.0, 3000.0, requests=1e6)).blend("input_tokens", 1000.0, now=0.0)
    assert many.value == pytest.approx(3000.0, rel=0.03)
    assert many.basis is Basis.OBSERVED


def test_a_change_is_followed_within_so_many_requests() -> None:
    found = learned(*[seen(float(i), 1000.0) for i in range(100)])
    for i in range(100, 120):
        found = found.learn(seen(float(i), 2000.0))
    assert found.learned["input_tokens"].value == pytest.approx(2000.0, rel=0.02)
    assert found.learned["input_tokens"].evidence <= MOST_REQUESTS


def test_what_was_learned_long_ago_gives_way_to_what_is_stated() -> None:
    found = learned(seen(0.0, 3000.0, requests=400.0))
    values = [found.blend("input_tokens", 1000.0, now=weeks * 7 * 86_400.0).value for weeks in range(6)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(1000.0, rel=0.01)
    half = found.blend("input_tokens", 1000.0, now=HALF_LIFE_SECONDS)
    assert half.observed == pytest.approx(200 / (200 + STATED_REQUESTS))


def test_one_reading_moves_by_a_bounded_step() -> None:
    found = learned(seen(0.0, 1000.0, requests=1e4), seen(1.0, 1e6, requests=1e4))
    assert found.learned["input_tokens"].value <= 4000.0


@pytest.mark.parametrize("name", list(BOUNDS))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 1e9])
def test_an_impossible_reading_teaches_nothing(name: str, bad: float) -> None:
    assert learned(seen(0.0, bad, name=name)) == Observed()


def test_only_known_readings_teach() -> None:
    found = learned(seen(0.0, 1000.0))
    for reading in (Empty(5.0, "Engines", "x"), Stale(5.0, "Engines", "x"), None):
        assert found.learn(reading) is found
    assert found.learn(seen(0.0, 5000.0)) == found  # repeated
    assert found.learn(Known(9.0, 0.0, "Engines", input_tokens=5000.0, seconds=10.0)) is found  # no request
    assert found.learn(Known(math.nan, 5.0, "Engines", input_tokens=5000.0)) is found


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.floats(1, 1e6), st.floats(0, 1e5)), min_size=1, max_size=20),
    st.floats(1, 1e6),
    st.floats(0, 1e8),
)
def test_a_blend_lies_between_what_is_stated_and_what_was_seen(readings, stated, later) -> None:
    found = learned(*[seen(float(i), value, requests=count) for i, (value, count) in enumerate(readings)])
    blend = found.blend("input_tokens", stated, now=len(readings) + later)
    values = [stated, *(value for value, _ in readings)]
    assert min(values) * (1 - 1e-9) <= blend.value <= max(values) * (1 + 1e-9)
    assert 0.0 <= blend.observed <= 1.0


def test_lengths_reuse_and_reasoning_of_a_mix_are_replaced_together() -> None:
    classes = (
        ClassDemand("chat", 0.75, TokenShape(1000.0, 200.0, 3000.0, 600.0, cached_share=0.2, reasoning_mean=0.0)),
        ClassDemand("think", 0.25, TokenShape(400.0, 2000.0, 900.0, 8000.0, cached_share=0.0, reasoning_mean=1500.0)),
    )
    stated = stated_lengths(classes)
    assert stated == Lengths(850.0, 650.0, pytest.approx(150 / 850), pytest.approx(375 / 650))
    reading = Known(0.0, 1e4, "Engines", 1700.0, 1300.0, 0.5, seconds=10.0, reasoning_share=0.8)
    lengths = Lengths().follow(learned(reading).lengths(stated, now=0.0, weight=0.0))
    after = observed_shapes(classes, lengths)
    assert sum(one.share * one.shape.input_mean for one in after) == pytest.approx(1700.0)
    assert sum(one.share * one.shape.output_mean for one in after) == pytest.approx(1300.0)
    for one in after:
        assert one.shape.cached_share == 0.5
        assert one.shape.reasoning_mean == pytest.approx(0.8 * one.shape.output_mean)


def test_a_quantity_that_was_never_observed_is_left_to_the_classes() -> None:
    lengths = learned(seen(0.0, 1000.0)).lengths(Lengths(500.0, 200.0, 0.3), now=0.0)
    assert lengths.output_tokens is None
    assert lengths.hit_share is None
    assert learned(seen(0.0, 1000.0)).basis(now=0.0) is Basis.ASSUMED


# --- fan-out ---------------------------------------------------------------------------------------------------------


def test_tasks_call_further_classes_along_the_graph() -> None:
    calls = {"agent": {"embed": 2.0, "tool": 3.0}, "tool": {"embed": 1.0}}
    rates = called_rates({"agent": 1.0, "embed": 10.0}, calls, calls_per_task={"agent": 6.0})
    assert rates == {"agent": 6.0, "tool": 3.0, "embed": 15.0}


def test_the_observed_fan_out_replaces_the_stated_one() -> None:
    found = learned(seen(0.0, 12.0, requests=1e6, name="calls_per_task"))
    rates = called_rates({"agent": 1.0}, {}, calls_per_task={"agent": 6.0}, observed={"agent": found}, now=0.0)
    assert rates["agent"] == pytest.approx(12.0, rel=0.03)


def test_classes_that_call_each_other_in_a_circle_are_refused_by_name() -> None:
    with pytest.raises(CallCycle, match="a -> b -> a"):
        called_rates({"a": 1.0}, {"a": {"b": 1.0}, "b": {"a": 1.0}})
