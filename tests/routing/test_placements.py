"""What is learned from placements: bounded by each endpoint's room, heads kept before tails."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.routing.hashing import text_keys
from tidefleet.routing.index import PrefixIndex
from tidefleet.routing.placements import Placements
from tidefleet.routing.rooms import Store


def keys(text, chunks):
    return text_keys((text * 64 * chunks).encode()[: 64 * chunks], 64)


@pytest.fixture
def index():
    return PrefixIndex(capacity_blocks=10_000)


def depth(index, slot, wanted):
    return int(index.match(wanted).blocks[0][slot])


def test_a_prompt_is_known_where_it_was_served_and_nowhere_else(index):
    one, other = index.add_endpoint(), index.add_endpoint()
    learned = Placements(index)
    learned.placed(one, keys("a", 10), room=100)
    assert depth(index, one, keys("a", 10)) == 10
    assert depth(index, other, keys("a", 10)) == 0


def test_beyond_its_room_an_endpoint_forgets_what_it_served_longest_ago(index):
    slot = index.add_endpoint()
    learned = Placements(index)
    for letter in "abc":
        learned.placed(slot, keys(letter, 10), room=20)
    assert [depth(index, slot, keys(letter, 10)) for letter in "abc"] == [0, 10, 10]
    learned.placed(slot, keys("b", 10), room=20)
    learned.placed(slot, keys("d", 10), room=20)
    assert [depth(index, slot, keys(letter, 10)) for letter in "bcd"] == [10, 0, 10]


def test_the_tail_of_a_prompt_goes_before_its_head(index):
    slot = index.add_endpoint()
    learned = Placements(index)
    learned.placed(slot, keys("a", 10), room=20)
    learned.placed(slot, keys("b", 14), room=20)
    assert depth(index, slot, keys("a", 10)) == 6
    learned.placed(slot, keys("c", 50), room=20)
    assert depth(index, slot, keys("c", 50)) == 20


def test_an_endpoint_that_went_leaves_nothing(index):
    slot = index.add_endpoint()
    learned = Placements(index)
    learned.placed(slot, keys("a", 10), room=20)
    index.drop_endpoint(slot)
    learned.forget(slot)
    fresh = index.add_endpoint()
    assert depth(index, fresh, keys("a", 10)) == 0
    assert learned.held(fresh) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 30)), max_size=40), st.integers(1, 25))
def test_whatever_is_placed_the_index_holds_no_more_than_the_room(placed, room):
    index = PrefixIndex(capacity_blocks=10_000)
    slot = index.add_endpoint()
    learned = Placements(index)
    for letter, chunks in placed:
        learned.placed(slot, keys(letter, chunks), room=room)
        assert learned.held(slot) <= room
        assert index.held(slot) == learned.held(slot)
        assert depth(index, slot, keys(letter, chunks)) == min(chunks, room)
    assert np.all(index.match(keys("z", 3)).blocks == 0)


def depths(index, slot, wanted):
    return [int(one) for one in index.match(wanted).blocks[:, slot]]


def test_what_leaves_the_device_is_still_in_the_tiers_below_as_far_as_they_have_room(index):
    slot = index.add_endpoint()
    learned = Placements(index)
    for letter in "abcdefgh":
        learned.placed(slot, keys(letter, 10), room=20, below=(40, 60))
    assert depths(index, slot, keys("h", 10)) == [10, 10, 10, 10]
    assert depths(index, slot, keys("e", 10)) == [0, 10, 10, 10]
    assert depths(index, slot, keys("c", 10)) == [0, 0, 10, 10]
    assert depths(index, slot, keys("b", 10)) == [0, 0, 0, 0]


def test_a_shared_store_keeps_no_more_than_its_room_whoever_wrote_it(index):
    one, other = index.add_endpoint(store="s"), index.add_endpoint(store="s")
    learned = Placements(index, Store(index, room=40))
    for number, letter in enumerate("abcdefgh"):
        learned.placed((one, other)[number % 2], keys(letter, 10), room=10, write_through=True)
    assert [depths(index, one, keys(letter, 10))[3] for letter in "abcdefgh"] == [0] * 4 + [10] * 4
    learned.placed(one, keys("e", 10), room=10, write_through=True)
    learned.placed(one, keys("i", 10), room=10, write_through=True)
    assert [depths(index, other, keys(letter, 10))[3] for letter in "efi"] == [10, 0, 10], "e was used again"
    learned.placed(one, keys("z", 50), room=10, write_through=True)
    assert depths(index, other, keys("z", 50))[3] == 40


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 30)), max_size=40), st.integers(1, 60))
def test_a_tier_is_never_credited_with_more_than_its_room_and_always_with_what_came_last(placed, room):
    index = PrefixIndex(capacity_blocks=10_000)
    slot = index.add_endpoint(store="s")
    learned = Placements(index, Store(index, room=room))
    for letter, chunks in placed:
        learned.placed(slot, keys(letter, chunks), room=1, below=(room, 0), write_through=True)
        for tier in (1, 3):
            assert index.held(slot, tier=tier) <= room
            assert depths(index, slot, keys(letter, chunks))[tier] == min(chunks, room)
