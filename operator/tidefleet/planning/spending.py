"""A limit on how fast a pool's spending may grow: what one hour's decisions may add."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

HOUR = 3600.0


@dataclass(slots=True)
class SpendingLedger:
    """What a pool's rent was during the last hour, in USD per hour."""

    _past: deque[tuple[float, float]] = field(default_factory=deque)

    def note(self, now: float, usd_per_hour: float) -> None:
        """Record the rent of what is asked for at ``now`` (seconds); told twice for one moment, it counts once."""
        if self._past and self._past[-1][0] == now:
            self._past.pop()
        self._past.append((now, usd_per_hour))
        while self._past and self._past[0][0] < now - HOUR:
            self._past.popleft()

    def ceiling(self, now: float, max_increase_usd_per_hour: float) -> float:
        """The most the rent may be now: the lowest of the last hour plus the allowed increase."""
        lowest = min((rent for at, rent in self._past if at >= now - HOUR), default=0.0)
        return lowest + max_increase_usd_per_hour
