"""How far apart a pool's prompts use the same KV block: reuse distances of a sample, in bounded memory.

The distance of a use is how many tokens of KV were used since that block was used last, each counted once: a cache that
drops what was used longest ago holds the block if and only if it has room for so many. Blocks are sampled by a hash of
their key, so that all uses of a sampled block are seen; a distance among the sample, divided by the rate, is one among
all blocks (Waldspurger et al., Efficient MRC Construction with SHARDS, FAST 2015). The rate is halved whenever the
sample would grow beyond its bound. What answers write is not among the prompts' blocks: their tokens count
as used once.
"""

from __future__ import annotations

import bisect

import numpy as np

from tidefleet.routing.hashing import Keys, mix

DISTANCES: tuple[float, ...] = tuple(2.0**power for power in range(14, 33, 2))
"""Bounds of the bins in tokens, 16 thousand to 4.3 thousand million; beyond the last a block counts as new."""

FIRST_RATE_BITS = 4
"""At first one of 16 blocks is sampled: 512 blocks of a prompt then take 75 us, and 17 us after 10,000 prompts."""

MOST = 16_384
"""Sampled blocks that are remembered."""

_WORD = 64


class ReuseDistances:
    """Counts prompt tokens by the reuse distance of their block.

    Args:
        most: sampled blocks that are remembered; about 250 bytes each.
    """

    __slots__ = ("_bits", "_fresh", "_last", "_next", "_seen", "_total", "_tree", "_written", "most")

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._bits = FIRST_RATE_BITS
        self._last: dict[
            int, tuple[int, float, float]
        ] = {}  # key -> place in the tree, tokens, what answers had written
        self._tree = [0.0] * (4 * most + 1)  # Fenwick: tokens by place; a later use has a later place
        self._next = 1
        self._total = 0.0
        self._written = 0.0
        self._fresh = [0.0] * (len(DISTANCES) + 1)
        self._seen = 0.0

    def __len__(self) -> int:
        return len(self._last)

    @property
    def rate(self) -> float:
        """Share of blocks that are sampled."""
        return 2.0**-self._bits

    def used(self, keys: Keys, block_tokens: float, *, output_tokens: float = 0.0) -> None:
        """A request was served: its prompt's whole blocks by their keys, and what its answer wrote."""
        self._seen += len(keys) * block_tokens
        if len(keys):
            # mix is a bijection: the low bits decide, and a key that is sampled at a low rate is so at every higher one
            drawn = mix(keys.astype(np.uint64, copy=True)) >> np.uint64(_WORD - self._bits)
            for key in keys[drawn == 0].tolist():
                self._use(key, block_tokens)
        self._written += output_tokens
        while self._total > DISTANCES[-1] * self.rate:
            oldest = next(iter(self._last))
            place, size, _ = self._last.pop(oldest)
            self._add(place, -size)
        while len(self._last) > self.most:
            self._halve()

    def take(self) -> tuple[list[float], float]:
        """Since the last call: prompt tokens by bin, scaled up from the sample, at the end of new blocks; and all."""
        fresh, seen = self._fresh, self._seen
        self._fresh, self._seen = [0.0] * len(fresh), 0.0
        return fresh, seen

    def _use(self, key: int, tokens: float) -> None:
        known = self._last.pop(key, None)
        at = len(DISTANCES)
        if known is not None:
            place, size, written = known
            since = (self._total - self._until(place)) / self.rate + self._written - written
            at = bisect.bisect_left(DISTANCES, since + size)
            self._add(place, -size)
        self._fresh[at] += tokens / self.rate
        if self._next >= len(self._tree):
            self._rebuild()
        self._last[key] = (self._next, tokens, self._written)
        self._add(self._next, tokens)
        self._next += 1

    def _until(self, place: int) -> float:
        total = 0.0
        while place:
            total += self._tree[place]
            place &= place - 1
        return total

    def _add(self, place: int, tokens: float) -> None:
        self._total += tokens
        while place < len(self._tree):
            self._tree[place] += tokens
            place += place & -place

    def _halve(self) -> None:
        """Half of the sampled blocks stay."""
        self._bits += 1
        keys = np.fromiter(self._last, dtype=np.uint64, count=len(self._last))
        gone = keys[mix(keys.copy()) >> np.uint64(_WORD - self._bits) != 0]
        for key in gone.tolist():
            del self._last[key]
        self._rebuild()

    def _rebuild(self) -> None:
        """The same order of uses on the first places of the tree."""
        kept, self._last = self._last, {}
        self._tree = [0.0] * len(self._tree)
        self._next, self._total = 1, 0.0
        for key, (_, tokens, written) in kept.items():  # a dictionary keeps the order of the last uses
            self._last[key] = (self._next, tokens, written)
            self._add(self._next, tokens)
            self._next += 1
