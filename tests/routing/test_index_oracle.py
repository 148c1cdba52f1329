"""The prefix index against sets in plain Python, whatever is done to it."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import TIERS, PlainIndex

from tidefleet.routing.index import PrefixIndex

CHAINS = [np.random.default_rng(seed).integers(1, 2**63, 60, dtype=np.uint64) for seed in range(3)]
CHAINS.append(np.concatenate((CHAINS[0][:25], CHAINS[1][:30])))
CHAINS.append(np.arange(0, 50, dtype=np.uint64))

places = st.tuples(st.integers(0, len(CHAINS) - 1), st.integers(0, 59), st.integers(1, 60))
steps = st.one_of(
    st.tuples(st.just("store"), st.integers(0, 99), places, st.sampled_from([0, 0, 0, 1, 2, 3])),
    st.tuples(st.just("remove"), st.integers(0, 99), places, st.sampled_from([0, 0, 1, 3])),
    st.tuples(st.just("window"), st.integers(0, 99), places, st.sampled_from([1, 4])),
    st.tuples(st.just("slide"), st.integers(0, 99), places, st.sampled_from([1, 4])),
    st.tuples(st.just("add"), st.sampled_from([None, "a", "b"])),
    st.tuples(st.just("drop"), st.integers(0, 99)),
    st.tuples(st.just("clear"), st.integers(0, 99)),
    st.tuples(st.just("lose"), st.sampled_from(["a", "b"])),
)


def agree(index: PrefixIndex, plain: PlainIndex) -> None:
    for chain in CHAINS:
        hits = index.match(chain).blocks
        assert hits.shape == (TIERS, index.slots)
        assert hits.dtype == np.int32
        wanted = np.zeros_like(hits)
        keys = [int(key) if key else -1 for key in chain]
        for slot in plain.own:
            for tier in range(TIERS):
                wanted[tier, slot] = plain.leading(slot, keys, tier)
        np.testing.assert_array_equal(hits, wanted)
    assert index.blocks == plain.blocks()


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, max_size=40), st.sampled_from([0, 1, 3, 70]))
def test_hits_and_the_count_of_blocks_are_those_of_plain_sets(done: list[tuple], endpoints: int) -> None:
    index, plain = PrefixIndex(capacity_blocks=400, endpoints=endpoints), PlainIndex()
    slots: list[int] = []
    first = [("add", None)] * (endpoints if endpoints > 64 else 1)
    for step in [*first, ("add", "a"), ("add", "a"), *done]:
        match step:
            case ("add", store):
                slots.append(index.add_endpoint(store=store))
                plain.add(slots[-1], store)
            case ("lose", store):
                index.drop_store(store)
                if store in plain.stores:
                    plain.stores[store] = set()
            case (what, which, *rest) if slots:
                slot = slots[which % len(slots)]
                if what == "drop":
                    slots.remove(slot)
                    index.drop_endpoint(slot)
                    plain.drop(slot)
                elif what == "clear":
                    index.clear(slot)
                    plain.clear(slot)
                else:
                    (chain, start, length), extra = rest
                    keys = CHAINS[chain][start : start + length]
                    known = [int(key) for key in keys if key]
                    if what == "store":
                        index.store(slot, keys, tier=extra)
                        plain.give(slot, known, extra)
                    elif what == "remove":
                        index.remove(slot, keys, tier=extra)
                        plain.take(slot, known, extra)
                    elif what == "window":
                        index.store(slot, keys, window=extra)
                        plain.give_window(slot, known, extra)
                    else:
                        index.remove(slot, keys, window=extra)
                        plain.take_window(slot, known, extra)
    agree(index, plain)


def test_blocks_of_more_sets_of_holders_than_are_kept_are_counted_and_not_credited() -> None:
    index = PrefixIndex(capacity_blocks=8000)
    slots = [index.add_endpoint() for _ in range(70)]
    rng = np.random.default_rng(5)
    keys = rng.integers(1, 2**63, 6000, dtype=np.uint64)
    for at in range(len(keys)):
        for slot in rng.choice(70, 3, replace=False):
            index.store(slots[slot], keys[at : at + 1])
    assert index.refused > 0
    credited = sum(index.held(slot) for slot in slots)
    assert credited + index.refused == 3 * 6000
