"""How likely a session's KV is needed again: P(reuse, t), learned per class from the gaps between turns."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tidefleet.routing.rates import DEVICE, DISK, HOST, SHARED, TIERS, Rates

EDGES_SECONDS: tuple[float, ...] = tuple(2.0 ** (half / 2.0) for half in range(-2, 34))
"""Bounds of the histogram's bins: half powers of two from 0.5 s to 26 hours."""

MOST_CLASSES = 1024
"""Classes with a histogram of their own; further ones share that of the empty name."""

_PRIOR_TURNS = 2.0
_PRIOR_RETURN = 0.5
_PRIOR_GAP_SECONDS = 30.0
_HALVED_AT = 4096.0
_HINTED = 0.8
"""P(reuse) at least, within a lifetime that the client asked (and at some providers pays) for; a choice."""


@dataclass(slots=True)
class _Gaps:
    """Turns that were followed by another one, by gap, and turns that were the last."""

    returned: list[float] = field(default_factory=lambda: [0.0] * (len(EDGES_SECONDS) + 1))
    turns: float = 0.0
    sums: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Turns that were followed from a bin on, and before it, while nothing is counted."""

    def split(self, at: int) -> tuple[float, float]:
        """Turns that were followed in bin ``at`` or later, and earlier."""
        found = self.sums.get(at)
        if found is None:
            found = self.sums[at] = (sum(self.returned[at:]), sum(self.returned[:at]))
        return found

    def count(self, at: int | None) -> None:
        self.turns += 1.0
        self.sums.clear()
        if at is not None:
            self.returned[at] += 1.0
        if self.turns > _HALVED_AT:
            self.turns /= 2.0
            self.returned = [one / 2.0 for one in self.returned]


class Reuse:
    """P(reuse, t) by class and by whether the turn ended in a tool call.

    A session that ended counts as a turn that nobody followed. Counts are halved now and then, so that the last
    thousands of turns decide.
    """

    __slots__ = ("_gaps",)

    def __init__(self) -> None:
        self._gaps: dict[tuple[str, bool], _Gaps] = {}

    def returned(self, wclass: str, gap_seconds: float, *, tool_call: bool = False) -> None:
        """A session's next turn came ``gap_seconds`` after the end of the last."""
        self._of(wclass, tool_call).count(bisect.bisect_right(EDGES_SECONDS, max(0.0, gap_seconds)))

    def ended(self, wclass: str, *, tool_call: bool = False) -> None:
        """A session was forgotten without a further turn."""
        self._of(wclass, tool_call).count(None)

    def probability(
        self, wclass: str, idle_seconds: float, *, tool_call: bool = False, hinted_seconds: float = 0.0
    ) -> float:
        """P that a session which is idle for that long comes back, 0..1.

        Of the turns not followed within ``idle_seconds``, the share that was followed later, with a prior of two turns
        one of which returns. Within a lifetime that the client asked for it is at least 0.8.
        """
        gaps = self._gaps.get((wclass, tool_call))
        if gaps is None:
            learned: float = _PRIOR_RETURN * math.pow(0.5, idle_seconds / 600.0)
        else:
            at = bisect.bisect_right(EDGES_SECONDS, max(0.0, idle_seconds))
            later, earlier = gaps.split(at)
            prior = _PRIOR_TURNS * _PRIOR_RETURN * math.pow(0.5, idle_seconds / 600.0)
            learned = (later + prior) / (max(later, gaps.turns - earlier) + _PRIOR_TURNS)
        return max(learned, _HINTED) if idle_seconds < hinted_seconds else learned

    def expected_gap_seconds(self, wclass: str, *, tool_call: bool = False) -> float:
        """Median gap of the turns that were followed; 30 s where none was seen."""
        gaps = self._gaps.get((wclass, tool_call))
        total = sum(gaps.returned) if gaps is not None else 0.0
        if gaps is None or total <= 0.0:
            return _PRIOR_GAP_SECONDS
        reached = 0.0
        for place, count in enumerate(gaps.returned):
            reached += count
            if reached >= total / 2.0:
                return EDGES_SECONDS[min(place, len(EDGES_SECONDS) - 1)]
        return EDGES_SECONDS[-1]

    def _of(self, wclass: str, tool_call: bool) -> _Gaps:
        key = (wclass, tool_call)
        if key not in self._gaps and len(self._gaps) >= MOST_CLASSES:
            key = ("", tool_call)
        return self._gaps.setdefault(key, _Gaps())


@dataclass(frozen=True, slots=True)
class Retention:
    """Where the KV of a session lies best between two turns.

    Attributes:
        tier: row of ``Hits.blocks``; ``DEVICE`` = leave it where it is.
        seconds: for how long it is worth keeping there.
        reason: in words.
    """

    tier: int
    seconds: float
    reason: str


def retention(
    rates: Rates,
    *,
    tokens: float,
    gap_seconds: float,
    capacity_tokens: float,
    kv_usage: float,
    hinted_seconds: float = 0.0,
    tier_tokens: Sequence[float] = (math.inf, math.inf, math.inf),
) -> Retention:
    """Whether a session's KV stays on the device until its next turn, or goes down to the fastest tier that there is.

    While it stays it takes ``tokens / capacity`` of the replica's KV room for the gap, which costs others something in
    proportion to how full the room is; going down costs one fetch. Both are seconds of the same replica, so its price
    cancels: the break-even gap is ``fetch seconds * capacity / (tokens * usage)``.

    Args:
        tier_tokens: that host, disk and shared store hold; a tier that is smaller than the session is none.
    """
    tiers = [one for one in (HOST, DISK, SHARED) if math.isfinite(rates.fetch_seconds(tokens, one))]
    tier = next((one for one in tiers if tokens <= tier_tokens[one - 1]), None)
    keep = max(gap_seconds, hinted_seconds)
    if tier is None:
        return Retention(DEVICE, keep, "no lower tier has room for it" if tiers else "there is no lower tier")
    fetch = rates.fetch_seconds(tokens, tier)
    if fetch >= rates.prefill_seconds(tokens):
        return Retention(DEVICE, keep, f"a fetch from {TIERS[tier]} takes longer than prefilling again")
    break_even = fetch * capacity_tokens / max(tokens * kv_usage, 1e-9)
    words = f"expected gap {gap_seconds:.1f} s, break-even {break_even:.1f} s"
    if gap_seconds > break_even:
        return Retention(tier, keep, f"{words}: fetch it from {TIERS[tier]} when it is needed")
    return Retention(DEVICE, keep, f"{words}: it stays on the device")
