"""The table beneath the prefix index at its bounds: memory, eviction, many sets, whatever is thrown at it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.routing.hashing import Keys
from tidefleet.routing.holders import HolderTable


def fresh(rng: np.random.Generator, blocks: int) -> Keys:
    return rng.integers(1, 2**64, blocks, dtype=np.uint64)


def holders(table: HolderTable, keys: Keys) -> list[int]:
    """Of each block, 0 for none."""
    ends, sets = table.presence(keys)
    found: list[int] = []
    for end, bits in zip(ends, sets, strict=True):
        found.extend([bits] * (end - len(found)))
    return found


def accounts_balance(table: HolderTable) -> None:
    """What is counted is what the arrays have."""
    used = np.flatnonzero(table._keys)
    assert table.live == len(used) <= table._rows
    sets, counts = np.unique(table._sets[used], return_counts=True)
    refs = {int(one): int(blocks) for one, blocks in zip(sets, counts, strict=True)}
    assert refs == {one: blocks for one, blocks in enumerate(table._refs) if blocks}
    assert table._dead == sum(blocks for one, blocks in refs.items() if not table._masks[one])
    entries = len(table._table)
    assert entries == len(used)
    assert sorted(table._table.find(table._keys[used])[0].tolist()) == used.tolist()
    assert not (table._touched == 2).any()


def test_nothing_leaves_before_the_capacity_is_reached() -> None:
    rng = np.random.default_rng(1)
    table = HolderTable(1000)
    chains = [fresh(rng, 100) for _ in range(10)]
    for chain in chains:
        table.give(chain, 1)
    assert table.evicted == 0
    assert all(table.runs(chain) == ([100], [1]) for chain in chains)
    accounts_balance(table)


def test_what_is_matched_stays_and_what_is_not_leaves() -> None:
    rng = np.random.default_rng(2)
    table = HolderTable(1000)
    hot = fresh(rng, 50)
    table.give(hot, 1)
    table.give(fresh(rng, 40), 2)
    size = table.size_bytes
    for _ in range(200):
        table.give(fresh(rng, 40), 2)
        assert table.runs(hot) == ([50], [1])
    assert table.evicted > 6000
    assert table.live <= table._rows
    assert table.size_bytes == size
    accounts_balance(table)


def test_an_event_larger_than_the_table_keeps_its_beginning() -> None:
    table = HolderTable(100)
    keys = fresh(np.random.default_rng(3), 100_000)
    table.give(keys, 1)
    assert table.runs(keys) == ([50], [1])
    accounts_balance(table)


@pytest.mark.parametrize("capacity", [1, 2, 3, 7])
def test_tiny_tables_work(capacity: int) -> None:
    rng = np.random.default_rng(capacity)
    table = HolderTable(capacity)
    for _ in range(100):
        keys = fresh(rng, 5)
        table.give(keys, 1)
        assert table.runs(keys)[0] == [max(1, capacity // 2)]
        accounts_balance(table)


def test_holders_that_are_wiped_leave_rows_to_others() -> None:
    rng = np.random.default_rng(4)
    table = HolderTable(400)
    for round_ in range(30):
        bit = 1 << round_ % 3
        table.wipe(bit)
        keys = fresh(rng, 150)
        table.give(keys, bit)
        assert table.runs(keys) == ([150], [bit])
        accounts_balance(table)
    assert table.evicted == 0 or table.live > 400


def test_more_sets_than_fit_are_not_credited_and_never_credited_wrongly() -> None:
    rng = np.random.default_rng(5)
    table = HolderTable(6000)
    keys = fresh(rng, 6000)
    table.give(keys[:3000], 1 << 20)
    table.give(keys[3000:], 1 << 20)
    for bit in range(14):
        table.give(keys[(np.arange(6000) >> bit & 1) == 1], 1 << bit)
    accounts_balance(table)
    assert table.refused > 0
    assert table.sets <= table._most_sets
    for place, bits in enumerate(holders(table, keys)):
        assert bits & ~(1 << 20) & ~place == 0
    table.wipe((1 << 14) - 1)
    extra = fresh(rng, 1)
    table.give(extra, 1 << 30)
    assert holders(table, extra) == [1 << 30]
    assert set(holders(table, keys[:2999])) <= {0, 1 << 20}
    accounts_balance(table)


def test_wiped_sets_become_one_when_sets_are_scarce() -> None:
    rng = np.random.default_rng(6)
    table = HolderTable(8000)
    keys = fresh(rng, 3900)
    for place in range(len(keys)):
        table.give(keys[place : place + 1], 1 | place + 1 << 8)
    assert table.sets > 3500
    table.wipe(((1 << 60) - 1) << 8)
    table.give(fresh(rng, 1), 2)
    assert table.sets == 3
    assert table.runs(keys) == ([3900], [1])
    accounts_balance(table)


def test_chains_in_pieces_of_one_block_are_found_whole() -> None:
    rng = np.random.default_rng(7)
    table = HolderTable(20_000)
    chains = [fresh(rng, 700) for _ in range(9)]
    for place in range(700):
        for chain in chains:
            table.give(chain[place : place + 1], 1, parent=int(chain[place - 1]) if place else 0)
    for chain in chains:
        for _ in range(2):
            assert table.runs(chain) == ([700], [1])
            assert table.runs(np.concatenate((chain[:333], fresh(rng, 300)))) == ([333], [1])


def test_a_chain_that_branches_within_a_piece_is_found_whole() -> None:
    rng = np.random.default_rng(8)
    table = HolderTable(20_000)
    trunk = fresh(rng, 500)
    table.give(trunk, 1)
    twigs = []
    for cut in range(10, 500, 35):
        twig = np.concatenate((trunk[:cut], fresh(rng, 100)))
        table.give(twig, 1)
        twigs.append(twig)
    for _ in range(2):
        for twig in [*twigs, trunk]:
            assert table.runs(twig) == ([len(twig)], [1])


pieces = st.tuples(st.integers(0, 5), st.integers(0, 119), st.integers(1, 120))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.lists(st.tuples(st.sampled_from(["give", "take", "wipe", "runs"]), pieces), max_size=60))
def test_an_overflowing_table_credits_only_what_was_given(capacity: int, done: list) -> None:
    rng = np.random.default_rng(0)
    base = fresh(rng, 120)
    chains = [np.concatenate((base[: 20 * which], fresh(rng, 120 - 20 * which))) for which in range(6)]
    table = HolderTable(capacity)
    given_to: dict[int, int] = {}
    for what, (chain, start, length) in done:
        keys, bit = chains[chain][start : start + length], 1 << start % 5
        listed = keys.tolist()
        if what == "give":
            table.give(keys, bit, parent=int(chains[chain][start - 1]) if start else 0)
            given_to |= {key: given_to.get(key, 0) | bit for key in listed}
        elif what == "take":
            table.take(keys, bit)
            given_to |= {key: given_to.get(key, 0) & ~bit for key in listed}
        elif what == "wipe":
            table.wipe(bit)
            given_to = {key: bits & ~bit for key, bits in given_to.items()}
        else:
            table.runs(keys)
        for keys in chains:
            listed = keys.tolist()
            found = holders(table, keys)
            assert all(bits & ~given_to.get(key, 0) == 0 for key, bits in zip(listed, found, strict=True))
            if not table.evicted and capacity >= 240:
                assert found == [given_to.get(key, 0) for key in listed]
    accounts_balance(table)
