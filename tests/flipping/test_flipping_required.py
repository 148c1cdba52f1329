"""From rates of demand to nodes that must serve."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidefleet.flipping.required import Replicas, needed_nodes, needed_replicas


def test_replicas_carry_the_rate_at_their_headroom_and_the_reserve_comes_on_top() -> None:
    assert needed_replicas([0.0, 85.0, 85.1, 850.0], capacity=[100.0], lead_slots=0) == (1, 2, 3, 11)


def test_the_quantity_that_needs_most_decides() -> None:
    rates = [[1000.0, 10.0], [100.0, 50.0]]
    assert needed_replicas(rates, capacity=[500.0, 10.0], headroom=1.0, lead_slots=0, reserve=0) == (2, 5)


def test_replicas_are_ready_before_the_demand_by_the_lead() -> None:
    rates = [1.0, 1.0, 1.0, 9.0, 1.0]
    assert needed_replicas(rates, capacity=[1.0], headroom=1.0, lead_slots=2, reserve=0) == (1, 9, 9, 9, 1)
    assert needed_replicas(rates, capacity=[1.0], headroom=1.0, lead_slots=99, reserve=0) == (9, 9, 9, 9, 1)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.floats(0.01, 1e6), st.floats(0.1, 1.0))
def test_exactly_full_replicas_do_not_need_one_more(counts: list[int], capacity: float, headroom: float) -> None:
    rates = [count * capacity * headroom for count in counts]
    assert needed_replicas(rates, capacity=[capacity], headroom=headroom, lead_slots=0, reserve=0) == tuple(counts)


def test_no_slots_need_nothing() -> None:
    assert needed_replicas([], capacity=[1.0]) == ()
    assert needed_nodes([], chips_per_node=8) == ()
    assert needed_nodes([Replicas("chat", 4, ())], chips_per_node=8) == ()


@pytest.mark.parametrize("rate", [math.nan, math.inf, -1.0])
def test_a_gap_is_not_a_demand_of_zero(rate: float) -> None:
    with pytest.raises(ValueError, match=r"rates\[1\] is .*; expected a finite rate of at least 0"):
        needed_replicas([1.0, rate], capacity=[1.0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"capacity": [0.0]}, "capacity is"),
        ({"capacity": []}, "capacity is"),
        ({"capacity": [math.nan]}, "capacity is"),
        ({"capacity": [1.0, 1.0]}, "rates have 1 quantities; expected the 2 of capacity"),
        ({"headroom": 0.0}, "headroom is 0.0"),
        ({"headroom": 1.5}, "headroom is 1.5"),
        ({"lead_slots": -1}, "lead_slots is -1"),
        ({"reserve": -1}, "reserve -1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        needed_replicas([1.0], **{"capacity": [1.0], **wrong})  # type: ignore[arg-type]


def test_replicas_share_a_node_as_far_as_its_chips_go() -> None:
    assert needed_nodes([Replicas("chat", 2, (0, 1, 4, 5))], chips_per_node=8) == (0, 1, 1, 2)
    assert needed_nodes([Replicas("chat", 3, (2, 3, 4))], chips_per_node=8) == (1, 2, 2)
    assert needed_nodes([Replicas("chat", 8, (2,))], chips_per_node=8) == (2,)


def test_a_replica_wider_than_a_node_takes_whole_nodes() -> None:
    assert needed_nodes([Replicas("large", 16, (2,)), Replicas("odd", 12, (1,))], chips_per_node=8) == (6,)


def test_replicas_of_several_pools_share_nodes() -> None:
    pools = [Replicas("chat", 4, (1, 3)), Replicas("code", 2, (2, 1)), Replicas("large", 16, (1, 0))]
    assert needed_nodes(pools, chips_per_node=8) == (3, 2)


@given(st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(0, 20)), max_size=5))
def test_powers_of_two_waste_nothing(pools: list[tuple[int, int]]) -> None:
    made = needed_nodes([Replicas("pool", chips, (count,)) for chips, count in pools], chips_per_node=8)
    assert made == ((-(-sum(chips * count for chips, count in pools) // 8),) if pools else ())


def fewest(sizes: list[int], room: int) -> int:
    """Fewest bins for the sizes, by trying every bin for each."""
    best = len(sizes)

    def place(index: int, bins: list[int]) -> None:
        nonlocal best
        if len(bins) >= best:
            return
        if index == len(sizes):
            best = len(bins)
            return
        for where in range(len(bins)):
            if bins[where] >= sizes[index]:
                bins[where] -= sizes[index]
                place(index + 1, bins)
                bins[where] += sizes[index]
        bins.append(room - sizes[index])
        place(index + 1, bins)
        bins.pop()

    place(0, [])
    return best


@given(st.lists(st.integers(1, 7), max_size=7))
def test_other_sizes_are_packed_like_largest_first_into_the_fullest_node(sizes: list[int]) -> None:
    pools = [Replicas(f"pool-{size}", size, (sizes.count(size),)) for size in sorted(set(sizes))]
    if not pools:
        return
    made = needed_nodes(pools, chips_per_node=8)[0]
    free: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [one for one in free if one >= size]
        if fitting:
            free.remove(min(fitting))
            free.append(min(fitting) - size)
        else:
            free.append(8 - size)
    assert made == len(free)
    assert fewest(sizes, 8) <= made <= math.ceil(11 / 9 * fewest(sizes, 8) + 6 / 9)


def test_a_week_of_slots_keeps_its_length() -> None:
    needed = tuple(np.arange(672).tolist())
    assert len(needed_nodes([Replicas("chat", 2, needed), Replicas("code", 4, needed)], chips_per_node=8)) == 672


def test_pools_that_make_no_sense_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="Replicas of chat: chips is 0"):
        Replicas("chat", 0, (1,))
    with pytest.raises(ValueError, match="Replicas of chat: needed has -1"):
        Replicas("chat", 1, (1, -1))
    with pytest.raises(ValueError, match="chips_per_node is 0"):
        needed_nodes([], chips_per_node=0)
    with pytest.raises(ValueError, match=r"pools have \[1, 2\] slots"):
        needed_nodes([Replicas("a", 1, (1,)), Replicas("b", 1, (1, 2))], chips_per_node=8)
