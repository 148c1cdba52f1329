"""What KV an endpoint keeps of past requests, oldest first, and what evicting the oldest would cost."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from tidefleet.routing.reuse import Reuse

MOST_ENTRIES = 4096
"""Sessions remembered per endpoint."""

_TAIL = 4
"""Oldest entries whose mean value stands for what goes next."""


@dataclass(slots=True)
class _Kept:
    tokens: float
    at: float
    wclass: str
    tool_call: bool
    hinted_seconds: float


class Resident:
    """An estimate of an engine's prefix cache: sessions in order of last use, bounded by the KV capacity.

    It follows the engine's order (least recently used goes first) without knowing its blocks, so it serves to price an
    eviction, never to claim a hit.
    """

    __slots__ = ("_kept", "capacity_tokens", "tokens")

    def __init__(self, capacity_tokens: float) -> None:
        self.capacity_tokens = capacity_tokens
        self.tokens = 0.0
        self._kept: OrderedDict[int, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def used(
        self,
        key: int,
        *,
        tokens: float,
        added: float,
        now: float,
        wclass: str = "",
        tool_call: bool = False,
        hinted_seconds: float = 0.0,
    ) -> None:
        """A request was served: ``added`` of its ``tokens`` tokens were not there before.

        Args:
            key: the session, or a number of its own for a request without one.
        """
        old = self._kept.pop(key, None)
        held = min(tokens, (old.tokens if old else 0.0) + added)
        self.tokens += held - (old.tokens if old else 0.0)
        self._kept[key] = _Kept(held, now, wclass, tool_call, hinted_seconds)
        self.shrink(0.0)

    def shrink(self, pinned_tokens: float) -> None:
        """Evict what does not fit beside ``pinned_tokens`` of running requests."""
        while self._kept and (self.tokens > self.capacity_tokens - pinned_tokens or len(self._kept) > MOST_ENTRIES):
            _, gone = self._kept.popitem(last=False)
            self.tokens -= gone.tokens
        if not self._kept:
            self.tokens = 0.0

    def clear(self) -> None:
        """The engine lost its cache."""
        self._kept.clear()
        self.tokens = 0.0

    def forget(self, key: int) -> float:
        """Leave a session out, because it moved; the tokens that it held."""
        gone = self._kept.pop(key, None)
        if gone is None:
            return 0.0
        self.tokens -= gone.tokens
        return gone.tokens

    def reuse_of_oldest(self, reuse: Reuse, now: float) -> float:
        """Mean P(reuse) over the tokens of the oldest few entries, 0..1."""
        weight = value = 0.0
        for kept, _ in zip(self._kept.values(), range(_TAIL), strict=False):
            weight += kept.tokens
            value += kept.tokens * reuse.probability(
                kept.wclass, now - kept.at, tool_call=kept.tool_call, hinted_seconds=kept.hinted_seconds
            )
        return value / weight if weight > 0.0 else 0.0
