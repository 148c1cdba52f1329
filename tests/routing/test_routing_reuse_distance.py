"""Reuse distances of a sample against those of every block, counted the plain way."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest

from tidefleet.planning.reuse_curve import ReuseCurve, observed_curve
from tidefleet.routing.hashing import Keys
from tidefleet.routing.reuse_distance import DISTANCES, ReuseDistances

TOKENS = 16


def prompts(sessions: int, turns: int, *, seed: int, shared: int = 8) -> list[Keys]:
    """Sessions that come back at random, each time with more blocks, behind a prefix that all of them share."""
    draw = np.random.default_rng(seed)
    prefix = draw.integers(1, 2**63, shared, dtype=np.uint64)
    held = {one: draw.integers(1, 2**63, int(draw.integers(8, 64)), dtype=np.uint64) for one in range(sessions)}
    found = []
    for one in draw.integers(0, sessions, sessions * turns).tolist():
        more = draw.integers(1, 2**63, 4, dtype=np.uint64)
        held[one] = np.concatenate([held[one], more])
        found.append(np.concatenate([prefix, held[one]]))
    return found


def hit_share(asked: list[Keys], room: float) -> float:
    """What a cache of so many tokens that drops what was used longest ago finds of the prompts' tokens."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = blocks = 0
    for keys in asked:
        for key in keys.tolist():
            blocks += 1
            if key in cache:
                hits += 1
                cache.move_to_end(key)
            else:
                cache[key] = None
            while len(cache) * TOKENS > room:
                cache.popitem(last=False)
    return hits / blocks


def curve(of: ReuseDistances, asked: list[Keys]) -> ReuseCurve:
    for keys in asked:
        of.used(keys, TOKENS)
    bins, seen = of.take()
    found = observed_curve(DISTANCES, bins, seen=seen, source="seen")
    assert found is not None
    return found


ASKED = prompts(600, 6, seed=1)


@pytest.mark.parametrize("room", [2.0**16, 2.0**18, 2.0**20, 2.0**22])
def test_the_curve_is_what_a_cache_of_each_size_finds(room: float) -> None:
    assert curve(ReuseDistances(), ASKED).share(room) == pytest.approx(hit_share(ASKED, room), abs=0.03)


def test_a_small_sample_is_near_it_too_and_stays_within_its_bound() -> None:
    small = ReuseDistances(most=512)
    found = curve(small, ASKED)
    assert len(small) <= 512
    assert small.rate < 1 / 16
    assert found.share(2.0**20) == pytest.approx(hit_share(ASKED, 2.0**20), abs=0.08)


def test_all_tokens_are_counted_whatever_the_sample() -> None:
    counted = ReuseDistances(most=256)
    for keys in ASKED:
        counted.used(keys, TOKENS)
    bins, seen = counted.take()
    assert seen == sum(len(keys) for keys in ASKED) * TOKENS
    assert sum(bins) == pytest.approx(seen, rel=0.2)
    assert counted.take() == ([0.0] * len(bins), 0.0)


def test_what_answers_write_lies_between_two_uses() -> None:
    apart, close = ReuseDistances(), ReuseDistances()
    keys = np.random.default_rng(3).integers(1, 2**63, 4096, dtype=np.uint64)
    for _ in range(2):
        apart.used(keys, TOKENS, output_tokens=2.0**22)
        close.used(keys, TOKENS)
    far, near = apart.take()[0], close.take()[0]
    assert far[-1] == near[-1] > 0
    assert sum(near[:3]) > 0
    assert sum(far[:3]) == 0
    assert far[DISTANCES.index(2.0**24)] == pytest.approx(sum(near[:-1]))


def test_a_prompt_without_whole_blocks_counts_nothing() -> None:
    empty = ReuseDistances()
    empty.used(np.empty(0, np.uint64), TOKENS, output_tokens=5.0)
    assert empty.take() == ([0.0] * (len(DISTANCES) + 1), 0.0)
