"""The reuse-distance curve: which share of prompt tokens a cache of a given size finds, h(tokens).

The reuse distance of a block of a prompt is how many tokens of other KV were used since it was last used. A cache that
keeps what was used last finds it when it has room for so many (Mattson et al., Evaluation techniques for storage
hierarchies, IBM Systems Journal 9(2), 1970), so that one curve tells the hit share of every size at once.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

PAUSE_SECONDS = 60.0
"""Mean pause between two turns of a session where nothing is known of it. An assumption, told as such."""

_POINTS = 49
_FEWEST_TOKENS = 1e6
"""Prompt tokens that a curve must have been observed over before it is used."""


@dataclass(frozen=True, slots=True)
class ReuseCurve:
    """Share of a pool's prompt tokens (0..1) whose KV was used within the last so many tokens of the pool's KV.

    Attributes:
        tokens: distances, rising, above 0; between them the share is linear in their logarithm.
        shares: by distance, never falling.
        source: where it comes from, in words.

    Raises:
        ValueError: the numbers are no curve.
    """

    tokens: tuple[float, ...]
    shares: tuple[float, ...]
    source: str

    def __post_init__(self) -> None:
        rises = all(a < b for a, b in itertools.pairwise((0.0, *self.tokens)))
        grows = all(a <= b for a, b in itertools.pairwise((0.0, *self.shares, 1.0)))
        finite = all(math.isfinite(one) for one in (*self.tokens, *self.shares))
        if not self.tokens or len(self.tokens) != len(self.shares) or not (rises and grows and finite):
            raise ValueError(
                f"ReuseCurve: {len(self.tokens)} distances {self.tokens[:4]} and {len(self.shares)} shares "
                f"{self.shares[:4]}; expected as many of both, rising, shares up to 1, e.g. (1e6, 1e7) and (0.2, 0.5)"
            )

    @property
    def most(self) -> float:
        """The share that a cache without bounds finds."""
        return self.shares[-1]

    def share(self, tokens: float) -> float:
        """h: the share that a cache of so many tokens finds."""
        if not tokens > 0.0:
            return 0.0
        at = bisect.bisect_left(self.tokens, tokens)
        if at == len(self.tokens):
            return self.shares[-1]
        if at == 0:
            return self.shares[0] * tokens / self.tokens[0]
        low, high = self.tokens[at - 1], self.tokens[at]
        part = math.log(tokens / low) / math.log(high / low)
        return self.shares[at - 1] + part * (self.shares[at] - self.shares[at - 1])


def reusable_share(turns_per_session: float, cached_share: float) -> float:
    """Share of prompt tokens that a session has had computed before, in a cache without bounds.

    In T turns that each add as much, the prompts hold d, 2d, ... Td tokens, of which T d are seen for the first time:
    1 - 2 / (T + 1). What a class states as found in the cache is reusable in any case.
    """
    turns = max(1.0, turns_per_session)
    return max(cached_share, (turns - 1.0) / (turns + 1.0))


def stated_curve(*, reusable: float, used_tokens_per_second: float, pause_seconds: float | None = None) -> ReuseCurve:
    """The curve of sessions that pause, before anything was seen: h = reusable * (1 - exp(-tokens / (rate * pause))).

    Pauses are taken as exponential. In a pause of t seconds the others use ``used_tokens_per_second * t`` tokens of KV,
    each of them its prompt and its answer once, which is at most so many different ones.

    Args:
        reusable: share of prompt tokens that were computed before.
        used_tokens_per_second: prompt and answer tokens of all the pool's requests.
        pause_seconds: mean pause between two turns; ``None``: ``PAUSE_SECONDS``.
    """
    pause = PAUSE_SECONDS if pause_seconds is None else pause_seconds
    scale = max(1.0, used_tokens_per_second * max(pause, 1e-3))
    reusable = min(1.0, max(0.0, reusable))
    steps = [scale * 2.0 ** (i / 4.0 - 8.0) for i in range(_POINTS)]  # from a 256th to 16 times the mean distance
    assumed = "assumed" if pause_seconds is None else "stated"
    return ReuseCurve(
        tuple(steps),
        tuple(-reusable * math.expm1(-one / scale) for one in steps),
        f"{reusable:.0%} of prompt tokens come again after a pause of {pause:g} s ({assumed})",
    )


def observed_curve(
    distances: Sequence[float], tokens: Sequence[float], *, seen: float, source: str
) -> ReuseCurve | None:
    """The curve of a sample of blocks (``tidefleet.routing.reuse_distance``), ``None`` while it says too little.

    A sample has more or less of the blocks that are used all the time than its share. What it lacks, or has too much,
    of all tokens ``seen`` is put right at the shortest distance, where those are (Waldspurger et al., Efficient MRC
    Construction with SHARDS, FAST 2015, section 3.1: SHARDS_adj).

    Args:
        distances: upper bounds of the bins, rising.
        tokens: prompt tokens in each bin, scaled up from the sample, and last those that were seen for the first time.
        seen: all prompt tokens, not only those of the sample.
    """
    if len(tokens) != len(distances) + 1 or not all(math.isfinite(one) and one >= 0.0 for one in (*tokens, seen)):
        return None
    if seen < _FEWEST_TOKENS:
        return None
    bins = list(tokens)
    bins[0] = max(0.0, bins[0] + seen - sum(tokens))
    total = sum(bins)
    sums = list(itertools.accumulate(bins[:-1]))
    if total <= 0.0:
        return None
    return ReuseCurve(tuple(distances), tuple(min(1.0, one / total) for one in sums), source)
