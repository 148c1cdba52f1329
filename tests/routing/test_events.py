"""KV events as an engine publishes them, against sets in plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from tidefleet.routing.events import MOST_AT_ONCE, MOST_BLOCKS, EngineEvents
from tidefleet.routing.hashing import token_keys
from tidefleet.routing.index import PrefixIndex
from tidefleet.routing.rooms import Store

BLOCK = 4
SALTS = {None: 11, "poet": 12, "coder": 13}


def tokens(seed, blocks):
    return np.random.default_rng(seed).integers(0, 1000, blocks * BLOCK).tolist()


def stored(names, content, **more):
    return {
        "type": "BlockStored",
        "block_hashes": names,
        "parent_block_hash": None,
        "token_ids": content,
        "block_size": BLOCK,
        "lora_id": None,
        "medium": "GPU",
        **more,
    }


def removed(names, **more):
    return {"type": "BlockRemoved", "block_hashes": names, "medium": "GPU", **more}


class Heard:
    """One engine and what the index credits it with."""

    def __init__(self, **more):
        self.index = PrefixIndex(capacity_blocks=20_000)
        store, through = more.pop("store", None), more.pop("through", False)
        self.slot, self.store = self.index.add_endpoint(store=store), Store(self.index) if through else None
        self.events = EngineEvents(
            self.index,
            self.slot,
            block_tokens=BLOCK,
            salt_of=lambda adapter: SALTS.get(adapter, 99),
            store=self.store,
            **more,
        )

    def apply(self, *events):
        return dict(self.events.apply(list(events)))

    def depth(self, content, adapter=None, tier=0, slot=None):
        keys = token_keys(content, BLOCK, salt=SALTS[adapter])
        return int(self.index.match(keys).blocks[tier, self.slot if slot is None else slot])


class PlainEngine:
    """A prefix cache: names of blocks by tier, and the content that each stands for."""

    def __init__(self):
        self.content = {}  # name -> (adapter, tuple of all tokens up to it)
        self.held = [set(), set()]

    def depth(self, adapter, content, upto):
        """Leading blocks held in tier ``upto`` or a nearer one."""
        whole = {self.content[name] for tier in range(upto + 1) for name in self.held[tier]}
        blocks = len(content) // BLOCK
        return next((n for n in range(blocks) if (adapter, tuple(content[: (n + 1) * BLOCK])) not in whole), blocks)


TREES = [tokens(1, 12), tokens(2, 8)]
TREES.append(TREES[0][: 5 * BLOCK] + tokens(3, 9))
NAMES = ("number", "bytes", "text")


def name_of(seed, adapter, content, kind):
    number = xxh3_64_intdigest(repr((seed, adapter, content)).encode()) >> 1
    return {"number": number - 2**62, "bytes": number.to_bytes(32, "big")[::-1], "text": f"h{number}"}[kind]


steps = st.tuples(
    st.sampled_from(["store", "store", "store", "remove", "clear"]),
    st.integers(0, 2),
    st.integers(0, 13),
    st.integers(1, 13),
    st.sampled_from(["GPU", "GPU", "CPU"]),
    st.sampled_from([None, "poet"]),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(steps, max_size=30), st.sampled_from(NAMES), st.booleans(), st.integers(0, 9))
def test_what_is_credited_is_what_a_plain_engine_holds(done, kind, as_arrays, seed):
    heard, plain = Heard(), PlainEngine()
    for what, tree, start, count, medium, adapter in done:
        content, tier = TREES[tree], int(medium == "CPU")
        upto = [tuple(content[: (at + 1) * BLOCK]) for at in range(len(content) // BLOCK)]
        names = [name_of(seed, adapter, one, kind) for one in upto]
        piece = slice(start, min(start + count, len(names)))
        if what == "clear":
            heard.apply(["AllBlocksCleared"] if as_arrays else {"type": "AllBlocksCleared"})
            plain = PlainEngine()
        elif what == "store" and names[piece]:
            parent = names[start - 1] if start else None
            inside = content[piece.start * BLOCK : piece.stop * BLOCK]
            event = stored(names[piece], inside, parent_block_hash=parent, medium=medium, lora_name=adapter)
            if as_arrays:
                order = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium")
                event = ["BlockStored", *(event[field] for field in order), adapter]
            faults = heard.apply(event)
            if parent is not None and parent not in plain.content:
                assert faults == {"orphan": 1}
                continue
            assert faults == {}
            plain.content |= dict(zip(names[piece], [(adapter, one) for one in upto[piece]], strict=True))
            plain.held[tier].update(names[piece])
        elif what == "remove":
            heard.apply(removed(names[piece], medium=medium))
            plain.held[tier].difference_update(names[piece])
        for adapter_asked in (None, "poet"):
            for asked in TREES:
                for level in (0, 1):
                    wanted = plain.depth(adapter_asked, asked, level)
                    assert heard.depth(asked, adapter_asked, tier=level) == wanted


@pytest.mark.parametrize(
    "event",
    [
        None,
        7,
        [],
        {},
        b"BlockStored",
        ["BlockStored"],
        ["BlockRemoved", 5],
        {"type": "BlockStored"},
        {"type": "BlockRemoved"},
        {"type": "BlockMoved", "block_hashes": [1]},
        stored([], []),
        stored([True], tokens(1, 1)),
        stored([1.5], tokens(1, 1)),
        stored({"a": 1}, tokens(1, 1)),
        stored([1], "abcd"),
        stored([1], [1, 2, 3, -4]),
        stored([1], [1, 2, 3, 2**32]),
        stored([1], [1, 2, 3, 2**80]),
        stored([1], [1, 2, 3, "x"]),
        stored([1], [1, 2, 3, 4.5]),
        stored([1], [1, 2, 3, [4]]),
        stored([1, 1], tokens(1, 2)),
        stored([1], tokens(1, 1), parent_block_hash=[3]),
        stored([1], tokens(1, 1), medium=3),
        stored([1], tokens(1, 1), lora_name=3),
        stored([1], tokens(1, 1), lora_id="x"),
        stored([1], tokens(1, 1), extra_keys=[None, None]),
        stored([1], tokens(1, 1), extra_keys=[7]),
        stored([1], tokens(1, 1), group_idx=-1),
        stored([1], tokens(1, 1), group_idx="a"),
        stored([1], tokens(1, 1), kv_cache_spec_kind="sliding_window", group_idx=1),
        stored([1], tokens(1, 1), kv_cache_spec_kind="sliding_window", kv_cache_spec_sliding_window=0),
        stored(list(range(MOST_AT_ONCE + 1)), [1]),
        removed([{}]),
        removed([1], medium=[]),
    ],
    ids=lambda event: repr(event)[:50],
)
def test_a_malformed_event_is_counted_and_changes_nothing(event):
    heard = Heard()
    heard.apply(stored([901, 902], tokens(9, 2)))
    assert heard.apply(event) == {"malformed": 1}
    assert heard.depth(tokens(9, 2)) == 2
    assert heard.index.blocks == 2


def test_what_is_no_list_of_events_is_one_fault():
    assert Heard().events.apply({"type": "AllBlocksCleared"}) == {"malformed": 1}


scraps = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "medium", "extra_keys", "group_idx")
wild = st.builds(
    lambda kind, fields: {"type": kind, **fields},
    st.sampled_from(["BlockStored", "BlockRemoved"]),
    st.dictionaries(st.sampled_from(FIELDS), scraps),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(scraps | wild, max_size=5))
def test_no_scrap_is_ever_credited_to_a_prompt(events):
    heard = Heard()
    heard.events.apply(events)
    assert heard.depth(TREES[0]) == 0


def test_blocks_of_another_size_are_a_mismatch_and_not_credited():
    heard = Heard()
    assert heard.apply(stored([1], tokens(1, 1), block_size=8)) == {"mismatch": 1}
    assert heard.apply(stored([1, 2], tokens(1, 1))) == {"mismatch": 1}
    assert heard.depth(tokens(1, 1)) == 0


def test_an_orphan_is_not_credited_until_its_parent_came():
    heard, content = Heard(), tokens(1, 3)
    child = stored([3], content[2 * BLOCK :], parent_block_hash=2)
    assert heard.apply(child) == {"orphan": 1}
    assert heard.apply(stored([1, 2], content[: 2 * BLOCK]), child) == {}
    assert heard.depth(content) == 3


def test_parents_in_a_circle_end_and_credit_no_prompt_with_more_than_was_told():
    heard, content = Heard(), tokens(1, 2)
    heard.apply(stored([1], content[:BLOCK]))
    heard.apply(stored([2], content[BLOCK:], parent_block_hash=1))
    for _ in range(50):
        heard.apply(stored([1], content[:BLOCK], parent_block_hash=2))
        heard.apply(stored([2], content[BLOCK:], parent_block_hash=1))
    assert heard.index.held(heard.slot) == 2
    assert heard.depth(content) == 0
    assert heard.apply(stored([5], content[:BLOCK], parent_block_hash=5)) == {"orphan": 1}


def test_a_name_that_comes_to_stand_for_other_content_takes_its_first_credit_with_it():
    heard = Heard()
    heard.apply(stored([1, 2], tokens(1, 2)))
    assert heard.apply(stored([1, 2], tokens(2, 2))) == {"renamed": 2}
    assert heard.depth(tokens(1, 2)) == 0
    heard.apply(removed([1, 2]))
    assert heard.index.held(heard.slot) == 0


def test_beyond_its_bound_an_engine_is_credited_with_what_it_can_take_back():
    heard = Heard(most_blocks=50)
    for turn in range(40):
        heard.apply(stored(list(range(100 * turn, 100 * turn + 7)), tokens(turn, 7)))
        assert heard.index.held(heard.slot) <= 50
        assert heard.depth(tokens(turn, 7)) == 7
    faults = heard.apply(stored(list(range(9000, 9080)), tokens(99, 80)))
    assert faults["crowded"] > 0
    assert heard.depth(tokens(99, 80)) == 50
    heard.apply(removed([100 * turn + at for turn in range(40) for at in range(7)]), removed(list(range(9000, 9080))))
    assert heard.index.held(heard.slot) == 0


def test_names_of_blocks_that_are_held_nowhere_leave_first():
    heard = Heard(most_blocks=30)
    heard.apply(stored(list(range(10)), tokens(0, 10)))
    for turn in range(1, 30):
        names = list(range(100 * turn, 100 * turn + 10))
        assert heard.apply(stored(names, tokens(turn, 10)), removed(names)) == {}
    assert heard.depth(tokens(0, 10)) == 10


def test_a_million_names_take_at_most_forty_bytes_each():
    heard = Heard()
    heard.index = PrefixIndex(capacity_blocks=1000)
    heard.events = EngineEvents(heard.index, heard.index.add_endpoint(), block_tokens=1)
    for first in range(0, 1_100_000, 50_000):
        names = list(range(first, first + 50_000))
        heard.apply(stored(names, [one % 50_000 for one in names], block_size=1))
    assert MOST_BLOCKS == 1_000_000
    assert heard.events.size_bytes <= 40 * MOST_BLOCKS + 100


def test_adapters_and_what_else_is_hashed_with_a_block_share_no_hits():
    content = tokens(1, 3)
    heard = Heard()
    heard.apply(stored([1, 2, 3], content, lora_id=1, lora_name="poet", extra_keys=[["poet"], ["poet"], ["poet"]]))
    assert [heard.depth(content, one) for one in (None, "poet", "coder")] == [0, 3, 0]
    heard.apply(stored([4, 5, 6], content, extra_keys=[None, [["image", 2]], None]))
    assert heard.depth(content) == 1
    heard.apply(stored([7], tokens(7, 1), lora_id=4))
    assert heard.depth(tokens(7, 1)) == 0
    heard.apply(stored([8], tokens(8, 1), extra_keys=[["salt"]]))
    heard.apply(stored([9], tokens(9, 1), parent_block_hash=8))
    assert heard.depth(tokens(8, 1) + tokens(9, 1)) == 0


def test_window_layers_credit_only_beginnings_whose_last_window_is_held():
    content, names = tokens(1, 10), list(range(10))
    full = {"group_idx": 0, "kv_cache_spec_kind": "full_attention"}
    window = {"group_idx": 1, "kv_cache_spec_kind": "sliding_window", "kv_cache_spec_sliding_window": 2 * BLOCK + 1}
    heard = Heard()
    heard.apply(stored(names, content, **full), stored(names, content, **window))
    assert heard.depth(content) == 10
    heard.apply(removed([0, 1, 2, 3], group_idx=1))
    assert heard.depth(content) == 10
    assert heard.depth(content[: 5 * BLOCK]) == 0
    heard.apply(removed([9], group_idx=1))
    assert heard.depth(content) == 9
    heard.apply({"type": "AllBlocksCleared"}, stored(names, content, **full))
    assert heard.depth(content) == 0


def test_layers_of_other_kinds_and_groups_of_no_known_kind_are_left_out():
    content = tokens(1, 4)
    heard = Heard()
    heard.apply(stored([1, 2, 3, 4], content, group_idx=2, kv_cache_spec_kind="mamba"))
    heard.apply(stored([1, 2, 3, 4], content, group_idx=3))
    assert heard.depth(content) == 0
    heard.apply(stored([1, 2, 3, 4], content, group_idx=0))
    heard.apply(removed([1, 2, 3, 4], group_idx=2))
    assert heard.depth(content) == 4


def test_offloaded_blocks_may_come_without_their_tokens():
    content = tokens(1, 3)
    heard = Heard()
    heard.apply(stored([1, 2, 3], content))
    assert heard.apply(stored([1, 2], [], medium="CPU"), removed([1, 2, 3])) == {}
    assert [heard.depth(content, tier=tier) for tier in (0, 1)] == [0, 2]
    assert heard.apply(stored([77], [], medium="CPU")) == {"orphan": 1}


def test_what_is_written_through_stays_in_the_store_for_all_that_read_it():
    content = tokens(1, 3)
    heard = Heard(store="s", through=True)
    reader, stranger = heard.index.add_endpoint(store="s"), heard.index.add_endpoint()
    heard.apply(stored([1, 2, 3], content), removed([2, 3]), {"type": "AllBlocksCleared"})
    heard.index.drop_endpoint(heard.slot)
    assert [heard.depth(content, tier=tier, slot=reader) for tier in range(4)] == [0, 0, 0, 3]
    assert heard.depth(content, tier=3, slot=stranger) == 0


def test_a_store_that_is_written_through_is_credited_with_what_fits():
    heard = Heard(store="s", through=True)
    heard.store.room = 4
    first, second = tokens(1, 3), tokens(2, 3)
    heard.apply(stored([1, 2, 3], first), stored([4, 5, 6], second))
    assert [heard.depth(one, tier=0) for one in (first, second)] == [3, 3]
    heard.apply(removed([1, 2, 3]), removed([4, 5, 6]))
    assert [heard.depth(one, tier=3) for one in (first, second)] == [0, 3]
