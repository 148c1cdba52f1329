"""The simulation's table of holders answers as the router's index does."""

from __future__ import annotations

import numpy as np
import pytest

from tidefleet.routing.index import PrefixIndex
from tidefleet.simulator.engine.holders import Holders


def test_holders_answer_as_the_routers_index_does_in_every_tier() -> None:
    rng = np.random.default_rng(11)
    chains = [rng.integers(1, 2**63, 40).astype(np.uint64) for _ in range(6)]
    for chain in chains[1:3]:
        chain[:10] = chains[0][:10]
    ours, theirs = Holders(tiers=3), PrefixIndex(capacity_blocks=10_000, endpoints=5)
    slots = [(ours.add(), theirs.add_endpoint()) for _ in range(5)]
    for _ in range(400):
        mine, other = slots[int(rng.integers(5))]
        chain, tier = chains[int(rng.integers(6))], int(rng.integers(3))
        begin, end = sorted(int(one) for one in rng.integers(0, 41, 2))
        keys = chain[begin:end]
        if rng.random() < 0.6:
            ours.store(mine, keys.tolist(), tier=tier)
            theirs.store(other, keys, tier=tier)
        else:
            ours.remove(mine, keys.tolist(), tier=tier)
            theirs.remove(other, keys, tier=tier)
        asked = chains[int(rng.integers(6))]
        found, expected = ours.match(asked.tolist()).blocks, theirs.match(asked).blocks
        for one, two in slots:
            assert found[:, one].tolist() == expected[:3, two].tolist()


def test_what_the_shared_store_holds_every_replica_has_in_that_tier() -> None:
    store = {5: 16, 6: 16}
    index = Holders(tiers=4, shared=store)
    slots = [index.add() for _ in range(3)]
    index.store(slots[0], [5])
    found = index.match([5, 6, 7]).blocks
    assert found[0].tolist() == [1, 0, 0]
    assert found[3].tolist() == [2, 2, 2]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 100])
def test_any_number_of_replicas_is_told_what_it_holds(count: int) -> None:
    found = Holders()
    for depth in range(count):
        found.store(found.add(), list(range(1, 2 + depth % 3)))
    assert found.match([1, 2, 3, 4]).blocks.tolist() == [[1 + slot % 3 for slot in range(count)]]
