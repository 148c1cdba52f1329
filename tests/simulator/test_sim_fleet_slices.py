"""The slice program: whole slices to types, at the least rent; checked against every plan there is."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.simulator.fleet.slices import Type, replicas_by_slices


def cheapest_by_trying(loads, types, factor):
    """The least rent over all numbers of slices of each class on the first of two types."""
    best = math.inf
    for split in itertools.product(range(factor + 1), repeat=len(loads)):
        on = [sum(load / factor * slices for load, slices in zip(loads, split, strict=True))]
        on.append(sum(loads) - on[0])
        counts = [math.ceil(load / one.carries - 1e-9) for load, one in zip(on, types, strict=True)]
        if all(count <= one.most for count, one in zip(counts, types, strict=True)):
            best = min(best, sum(count * one.usd_per_hour for count, one in zip(counts, types, strict=True)))
    return best


def test_with_one_type_it_is_the_demand_rounded_up_and_no_more_than_there_are():
    assert replicas_by_slices([4.0, 5.0], [Type(0.9, 40.0, 64)]) == (10,)
    assert replicas_by_slices([4.0, 5.1], [Type(0.9, 40.0, 64)]) == (11,)
    assert replicas_by_slices([40.0, 50.0], [Type(0.9, 40.0, 64)]) == (64,)
    assert replicas_by_slices([0.0], [Type(0.9, 40.0, 64)]) == (0,)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.floats(0.1, 6.0), min_size=1, max_size=3),
    st.tuples(st.floats(0.5, 2.0), st.floats(0.5, 2.0)),
    st.tuples(st.floats(1.0, 9.0), st.floats(1.0, 9.0)),
    st.integers(1, 3),
)
def test_no_way_to_deal_out_the_slices_is_cheaper(loads, carries, prices, factor):
    types = [Type(one, price, 40) for one, price in zip(carries, prices, strict=True)]
    counts = replicas_by_slices(loads, types, factor=factor)
    rent = sum(count * price for count, price in zip(counts, prices, strict=True))
    assert rent == pytest.approx(cheapest_by_trying(loads, types, factor), rel=1e-4, abs=1e-4)


def test_a_scarce_type_is_used_up_and_the_dearer_one_takes_the_rest():
    assert replicas_by_slices([6.0, 6.0], [Type(1.0, 1.0, 3), Type(1.0, 5.0, 20)], factor=4) == (3, 9)


def test_what_cannot_be_carried_takes_all_there_is():
    assert replicas_by_slices([60.0, 6.0], [Type(1.0, 1.0, 3), Type(1.0, 5.0, 20)], factor=4) == (3, 20)


def test_larger_slices_waste_more():
    types = [Type(1.0, 1.0, 9), Type(3.0, 2.5, 9)]
    coarse, fine = (
        sum(count * one.usd_per_hour for count, one in zip(replicas_by_slices([4.0], types, factor=factor), types,
                                                            strict=True))
        for factor in (1, 8)
    )  # fmt: skip
    assert (coarse, fine) == (4.0, 3.5)


def test_loads_and_types_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"expected loads from 0 on"):
        replicas_by_slices([-1.0], [Type(0.9, 40.0, 64)])
    with pytest.raises(ValueError, match=r"types that carry something"):
        replicas_by_slices([1.0], [Type(0.0, 40.0, 64)])
