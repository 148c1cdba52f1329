"""Which nodes come home first in a surge, and whose work is lost for it."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.flipping.recall import Job, Means, Recall, Unit, recall


def nodes(*names: str, warm: bool = False, chips: int = 8) -> list[Unit]:
    return [Unit(name, chips, warm=warm) for name in names]


def a_job(
    name: str, *units: str, chips: int = 8, since: float = 600.0, least: int | None = None, ignored: bool = False
) -> Job:
    return Job(name, dict.fromkeys(units, chips), since, least_chips=least, ignored=ignored)


def told(made: Recall) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return [(one.means.value, one.units, one.jobs) for one in made.steps]


def test_the_order_is_reserve_empty_elastic_whole_jobs_and_those_that_do_not_answer() -> None:
    units = [*nodes("deaf", "gang-1", "gang-2", "elastic-1", "elastic-2", "empty"), *nodes("warm", warm=True)]
    jobs = [
        a_job("deaf", "deaf", since=1.0, ignored=True),
        a_job("gang", "gang-1", "gang-2", since=60.0),
        a_job("elastic", "elastic-1", "elastic-2", least=8, since=900.0),
    ]
    made = recall(units, jobs, nodes=7)
    assert told(made) == [
        ("Reserve", ("warm",), ()),
        ("Empty", ("empty",), ()),
        ("Shrink", ("elastic-1",), ("elastic",)),
        ("Stop", ("gang-1", "gang-2"), ("gang",)),
        ("Stop", ("elastic-2",), ("elastic",)),
        ("Evict", ("deaf",), ("deaf",)),
    ]
    assert (made.nodes, made.missing) == (7, 0)
    assert [one.why for one in made.steps] == [
        "held warm in reserve",
        "no job runs on it",
        "elastic goes on with 8 chips",
        "gang: loses 960 chip-seconds of work",
        "elastic: loses 7,200 chip-seconds of work",
        "deaf: left its recall unanswered and loses 8 chip-seconds of work",
    ]


def test_it_stops_as_soon_as_enough_nodes_are_free() -> None:
    units = [*nodes("a", "b"), *nodes("w", warm=True)]
    jobs = [a_job("one", "a"), a_job("two", "b")]
    assert recall(units, jobs, nodes=0) == Recall((), 0, 0)
    assert recall(units, jobs, nodes=-2) == Recall((), 0, 0)
    assert told(recall(units, jobs, nodes=1)) == [("Reserve", ("w",), ())]
    assert len(recall(units, jobs, nodes=2).steps) == 2


def test_what_cannot_be_had_is_missing() -> None:
    made = recall(nodes("a"), [], nodes=3)
    assert (made.nodes, made.missing) == (1, 2)
    assert recall([], [], nodes=3) == Recall((), 0, 3)


def test_the_job_that_loses_least_for_what_it_frees_goes_first() -> None:
    units = nodes("a", "b", "c")
    jobs = [
        a_job("long ago", "a", since=3000.0),
        a_job("just now", "b", since=30.0),
        a_job("unknown", "c", since=math.nan),
    ]
    made = recall(units, jobs, nodes=3)
    assert [one.jobs for one in made.steps] == [("just now",), ("long ago",), ("unknown",)]
    assert made.steps[2].why == "unknown: loses all its work: no checkpoint is known"


def test_no_large_job_goes_for_the_sake_of_one_node() -> None:
    gang = [f"g{one}" for one in range(16)]
    jobs = [a_job("large", *gang, since=100.0), a_job("small", "a", since=200.0)]
    assert told(recall(nodes("a", *gang), jobs, nodes=1)) == [("Stop", ("a",), ("small",))]
    assert recall(nodes("a", *gang), jobs, nodes=16).steps[0].jobs == ("large",)


def test_a_small_job_goes_on_when_a_large_one_frees_enough_by_itself() -> None:
    jobs = [a_job("small", "a", since=10.0), a_job("large", "b", "c", "d", since=500.0)]
    made = recall(nodes("a", "b", "c", "d"), jobs, nodes=3)
    assert told(made) == [("Stop", ("b", "c", "d"), ("large",))]


def test_a_shared_node_comes_free_only_with_all_its_jobs() -> None:
    jobs = [a_job("one", "a", "b", chips=4, since=10.0), a_job("two", "a", chips=4, since=30.0)]
    made = recall(nodes("a", "b"), jobs, nodes=2)
    assert told(made) == [("Stop", ("b",), ("one",)), ("Stop", ("a",), ("two",))]
    assert told(recall(nodes("a"), jobs, nodes=1)) == [("Stop", ("a",), ("one", "two"))]


def test_an_elastic_job_never_shrinks_below_its_least() -> None:
    jobs = [a_job("elastic", "a", "b", "c", least=10)]
    made = recall(nodes("a", "b", "c"), jobs, nodes=2)
    assert told(made) == [("Shrink", ("a",), ("elastic",)), ("Stop", ("b", "c"), ("elastic",))]


def test_an_atomic_group_comes_home_whole_and_the_one_that_fits_is_taken() -> None:
    units = [Unit("rack", 64, nodes=8), *nodes("a", "b"), Unit("pair", 16, nodes=2)]
    assert told(recall(units, [], nodes=1)) == [("Empty", ("a",), ())]
    assert told(recall(units, [], nodes=2)) == [("Empty", ("pair",), ())]
    assert told(recall(units, [], nodes=5)) == [("Empty", ("rack",), ())]
    assert recall(units, [], nodes=12).nodes == 12


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[Unit], list[Job]]:
    names = [f"u{one}" for one in range(draw(st.integers(0, 5)))]
    units = [Unit(name, 8, nodes=draw(st.sampled_from([1, 1, 2])), warm=draw(st.integers(0, 5)) == 0) for name in names]
    where = [one.name for one in units if not one.warm]
    jobs = []
    for index in range(draw(st.integers(0, 4)) if where else 0):
        on = draw(st.lists(st.sampled_from(where), min_size=1, max_size=3, unique=True))
        least = draw(st.none() | st.integers(0, 16))
        since = draw(st.sampled_from([0.0, 5.0, 60.0, math.nan]))
        jobs.append(a_job(f"j{index}", *on, chips=draw(st.sampled_from([2, 8])), since=since, least=least,
                          ignored=draw(st.booleans())))  # fmt: skip
    return units, jobs


@settings(max_examples=300)
@given(fleets(), st.integers(0, 9))
def test_enough_comes_free_by_as_little_as_possible(fleet: tuple[list[Unit], list[Job]], needed: int) -> None:
    units, jobs = fleet
    made = recall(units, jobs, nodes=needed)
    sizes = {one.name: one.nodes for one in units}
    freed = [name for step in made.steps for name in step.units]
    assert len(set(freed)) == len(freed)
    assert made.nodes == sum(sizes[name] for name in freed)
    assert made.missing == max(0, needed - made.nodes)
    assert made.missing == max(0, needed - sum(sizes.values()))
    order = list(Means)
    assert all(order.index(a.means) <= order.index(b.means) for a, b in itertools.pairwise(made.steps))
    stopped = {job for step in made.steps if step.means in (Means.STOP, Means.EVICT) for job in step.jobs}
    shrunk = {
        (job, unit) for step in made.steps if step.means is Means.SHRINK for job in step.jobs for unit in step.units
    }
    for job in jobs:
        for unit in job.chips:
            assert unit not in freed or job.name in stopped or (job.name, unit) in shrunk
        left = sum(chips for unit, chips in job.chips.items() if (job.name, unit) not in shrunk)
        assert (
            job.name in stopped or job.least_chips is None or left == sum(job.chips.values()) or left >= job.least_chips
        )
    answering = {one.name for one in jobs if not one.ignored}
    assert all(set(step.jobs) <= answering for step in made.steps if step.means is Means.STOP)
    for step in made.steps:
        if step.means in (Means.STOP, Means.EVICT):
            gone = stopped - set(step.jobs)
            without = sum(
                sizes[name]
                for one in made.steps
                for name in one.units
                if one.means not in (Means.STOP, Means.EVICT)
                or all(job.name in gone for job in jobs if name in job.chips and (job.name, name) not in shrunk)
            )
            assert without < needed


def test_names_that_are_not_unique_and_counts_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="units has 'a' more than once"):
        recall(nodes("a", "a"), [], nodes=1)
    with pytest.raises(ValueError, match="jobs has 'one' more than once"):
        recall([], [a_job("one"), a_job("one")], nodes=1)
    with pytest.raises(ValueError, match="Unit a: nodes is 0"):
        Unit("a", 8, nodes=0)
    with pytest.raises(ValueError, match="Unit a: chips is 0"):
        Unit("a", 0)
    with pytest.raises(ValueError, match="Job one: chips has -1"):
        Job("one", {"a": -1})
