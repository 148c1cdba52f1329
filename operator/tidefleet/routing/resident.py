"""What KV an endpoint keeps of past requests, oldest first, and what evicting the oldest would cost."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from tidefleet.routing.rates import DEVICE
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
    tier: int


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
        tier: int = DEVICE,
    ) -> None:
        """A request was served: ``added`` of its ``tokens`` tokens were not there before.

        Args:
            key: the session, or a number of its own for a request without one.
            tier: where its KV lies best until the next turn, as ``reuse.retention`` says.
        """
        old = self._kept.pop(key, None)
        held = min(tokens, (old.tokens if old else 0.0) + added)
        self.tokens += held - (old.tokens if old else 0.0)
        self._kept[key] = _Kept(held, now, wclass, tool_call, hinted_seconds, tier)
        self.shrink(0.0)

    def shrink(self, pinned_tokens: float) -> None:
        """Evict what does not fit beside ``pinned_tokens`` of running requests."""
        while self._kept and (self.tokens > self.capacity_tokens - pinned_tokens or len(self._kept) > MOST_ENTRIES):
            _, gone = self._kept.popitem(last=False)
            self.tokens -= gone.tokens
        if not self._kept:
            self.tokens = 0.0

    def loss_of_oldest(
        self, reuse: Reuse, now: float, *, again_seconds: float, below: Iterable[tuple[float, float]] = ()
    ) -> float:
        """Seconds that a token of the oldest few entries costs once it is evicted: P(reuse) * time to get it again.

        An entry is fetched from a tier below as long as that holds it, beside all that was used after it, and is
        prefilled again otherwise. One that lies best in the tier below costs nothing: its fetch was foreseen, whether
        this request evicts it or a later one.

        Args:
            again_seconds: to prefill a token.
            below: tokens that a tier holds, and seconds to fetch a token from it.
        """
        weight = value = 0.0
        since = self.tokens
        tiers = tuple(below)
        for kept, _ in zip(self._kept.values(), range(_TAIL), strict=False):
            weight += kept.tokens
            fetches = [seconds for room, seconds in tiers if since <= room]
            if kept.tier == DEVICE or not fetches:
                chance = reuse.probability(
                    kept.wclass, now - kept.at, tool_call=kept.tool_call, hinted_seconds=kept.hinted_seconds
                )
                value += kept.tokens * chance * min([again_seconds, *fetches])
            since -= kept.tokens
        return value / weight if weight > 0.0 else 0.0
