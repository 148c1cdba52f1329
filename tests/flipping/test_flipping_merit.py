"""Which kinds serve a demand that several could: carried, in order, and never less of a kind for more demand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.flipping.merit import Carrier, by_merit

NEW = Carrier("h200", usd_per_hour=63.0, carries=1.0, most=4)
OLD = Carrier("h100", usd_per_hour=55.0, carries=0.8, most=4)

CARRIERS = st.lists(
    st.builds(
        Carrier,
        name=st.just("one"),
        usd_per_hour=st.floats(0.0, 100.0),
        carries=st.floats(0.1, 8.0),
        most=st.integers(0, 5),
        lost=st.sampled_from([0.0, 0.5, 2.0]),
    ),
    min_size=1,
    max_size=3,
)
DEMANDS = st.lists(st.floats(0.0, 60.0), min_size=1, max_size=8)


def test_the_kind_that_gives_up_least_for_what_it_carries_serves_first_and_in_full() -> None:
    assert by_merit([OLD, NEW], [0.0, 0.5, 3.2, 4.0, 4.1, 6.0]).tolist() == [[0, 0, 0, 0, 1, 3], [0, 1, 4, 4, 4, 4]]
    dear = Carrier("h200", usd_per_hour=80.0, carries=1.0, most=4)
    assert by_merit([OLD, dear], [3.2, 3.3]).tolist() == [[4, 4], [0, 1]]


def test_what_is_not_known_or_too_much_takes_all() -> None:
    assert by_merit([OLD, NEW], [math.nan, math.inf, -1.0, 99.0]).tolist() == [[4] * 4, [4] * 4]
    assert by_merit([], [1.0]).shape == (0, 1)
    assert by_merit([OLD], []).shape == (1, 0)


def test_the_largest_that_may_be_lost_of_those_in_use_is_carried_too() -> None:
    first = Carrier("small", 1.0, 1.0, 3, lost=1.0)
    then = Carrier("large", 9.0, 4.0, 3, lost=4.0)
    assert by_merit([first, then], [2.0, 3.5]).tolist() == [[3, 3], [0, 2]]  # 3.5 + 1 begins a large one: 3.5 + 4
    assert by_merit([first, then], [0.0]).tolist() == [[0], [0]]


@settings(max_examples=200, deadline=None)
@given(CARRIERS, DEMANDS)
def test_demand_is_carried_and_no_kind_is_needed_less_for_more_of_it(carriers, demand) -> None:
    asked = sorted(demand)
    found = by_merit(carriers, asked)
    most = sum(one.carries * one.most for one in carriers)
    for slot, want in enumerate(asked):
        counts = found[:, slot]
        carried = sum(one.carries * count for one, count in zip(carriers, counts, strict=True))
        lost = max((one.lost for one, count in zip(carriers, counts, strict=True) if count), default=0.0)
        assert carried >= min(want + lost, most) - 1e-6
    assert (np.diff(found, axis=1) >= 0).all()
    partly = ((found > 0) & (found < np.array([[one.most] for one in carriers]))).sum(axis=0)
    assert (partly <= 1).all()


@settings(max_examples=100, deadline=None)
@given(CARRIERS, st.floats(0.0, 40.0))
def test_no_numbers_give_up_less_by_more_than_one_of_a_kind(carriers, want) -> None:
    carriers = [Carrier(one.name, one.usd_per_hour, one.carries, one.most) for one in carriers]
    found = by_merit(carriers, [want])[:, 0]
    gives_up = [
        sum(one.usd_per_hour * count for one, count in zip(carriers, counts, strict=True))
        for counts in itertools.product(*(range(one.most + 1) for one in carriers))
        if sum(one.carries * count for one, count in zip(carriers, counts, strict=True)) >= want
    ]
    if gives_up:
        mine = sum(one.usd_per_hour * count for one, count in zip(carriers, found, strict=True))
        assert mine <= min(gives_up) + max(one.usd_per_hour for one in carriers) + 1e-6


@pytest.mark.parametrize(
    ("field", "value"), [("carries", 0.0), ("carries", math.nan), ("usd_per_hour", -1.0), ("most", -1), ("lost", -0.1)]
)
def test_numbers_out_of_range_are_refused(field, value) -> None:
    usable = {"usd_per_hour": 1.0, "carries": 1.0, "most": 1, "lost": 0.0}
    with pytest.raises(ValueError, match=rf"Carrier h100: {field} is {value}; expected a finite number"):
        Carrier("h100", **{**usable, field: value})
