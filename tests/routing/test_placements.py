"""What is learned from placements: bounded by each endpoint's room, heads kept before tails."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.routing.hashing import text_keys
from tidefleet.routing.index import PrefixIndex
from tidefleet.routing.placements import Placements


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
