"""On the way to a plan: up at once, down only behind what is ready."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.planning.transition import Running, next_replicas

options = st.sampled_from(["a", "b", "c", "d"])
running_maps = st.dictionaries(
    options,
    st.builds(
        Running,
        desired=st.integers(0, 12),
        ready=st.integers(0, 12),
        coverage=st.sampled_from([0.0, 0.3, 1.0, 2.5, 7.0]),
        usd_per_hour=st.sampled_from([1.0, 2.0, 9.5, float("inf")]),
    ),
)
targets = st.dictionaries(options, st.integers(0, 12))


def ready_capacity(running: dict[str, Running], replicas: dict[str, int]) -> float:
    return sum(min(one.ready, replicas.get(key, 0)) * one.coverage for key, one in running.items())


@settings(deadline=None, max_examples=300)
@given(targets, running_maps, st.floats(0, 100), st.booleans())
def test_ready_capacity_that_is_needed_never_goes(
    target: dict[str, int], running: dict[str, Running], required: float, may_lower: bool
) -> None:
    asked = {key: one.desired for key, one in running.items()}
    result = next_replicas(target, running, required=required, may_lower=may_lower)
    before = ready_capacity(running, asked)
    assert ready_capacity(running, result) >= min(required, before) - 1e-6
    for key, count in result.items():
        wanted, had = target.get(key, 0), asked.get(key, 0)
        assert count >= wanted  # up at once
        assert count <= max(wanted, had)  # and never beyond plan and present
        if not may_lower:
            assert count >= had
    assert result.keys() == target.keys() | running.keys()


@settings(deadline=None, max_examples=200)
@given(targets, running_maps, st.floats(0, 1))
def test_the_target_is_reached_once_its_replicas_are_ready(
    target: dict[str, int], running: dict[str, Running], share: float
) -> None:
    """New replicas become ready after each step; what the target covers is the most that may be required."""
    every = {
        key: running.get(key) or Running(desired=0, ready=0, coverage=1.0, usd_per_hour=1.0)
        for key in target.keys() | running.keys()
    }
    required = share * sum(target.get(key, 0) * one.coverage for key, one in every.items())
    for _ in range(3):
        wanted = next_replicas(target, every, required=required)
        every = {key: replace(one, desired=wanted[key], ready=wanted[key]) for key, one in every.items()}
    assert {key: one.desired for key, one in every.items()} == {key: target.get(key, 0) for key in every}


def test_the_dearest_surplus_goes_first() -> None:
    running = {
        "cheap": Running(desired=4, ready=4, coverage=10.0, usd_per_hour=1.0),
        "dear": Running(desired=4, ready=4, coverage=10.0, usd_per_hour=9.0),
        "unpriced": Running(desired=4, ready=4, coverage=10.0, usd_per_hour=float("inf")),
    }
    result = next_replicas({}, running, required=55.0)
    assert result == {"cheap": 4, "dear": 2, "unpriced": 0}


def test_a_switch_keeps_the_old_replicas_until_the_new_ones_serve() -> None:
    old = Running(desired=3, ready=3, coverage=10.0, usd_per_hour=9.0)
    new = Running(desired=2, ready=0, coverage=15.0, usd_per_hour=5.0)
    assert next_replicas({"new": 2}, {"old": old}, required=30.0) == {"old": 3, "new": 2}
    assert next_replicas({"new": 2}, {"old": old, "new": new}, required=30.0) == {"old": 3, "new": 2}
    half = {"old": old, "new": replace(new, ready=1)}
    assert next_replicas({"new": 2}, half, required=30.0) == {"old": 2, "new": 2}
    done = {"old": old, "new": replace(new, ready=2)}
    assert next_replicas({"new": 2}, done, required=30.0) == {"old": 0, "new": 2}


def test_replicas_that_never_became_ready_are_no_capacity_to_keep() -> None:
    stuck = {"a": Running(desired=5, ready=0, coverage=10.0, usd_per_hour=9.0)}
    assert next_replicas({}, stuck, required=50.0) == {"a": 0}


def test_unknown_demand_lowers_nothing_and_still_raises() -> None:
    running = {"a": Running(desired=3, ready=3, coverage=1.0, usd_per_hour=1.0)}
    assert next_replicas({"a": 0, "b": 2}, running, required=0.0, may_lower=False) == {"a": 3, "b": 2}
