"""What a pool's chips are paid for, minute by minute, as the router sees its pods; no I/O, all times are passed in.

A chip counts while a pod that has an address holds it, whether it serves or not. Seconds are those of the monotonic
clock: when the wall clock jumps, the minute ends early and another begins, and nobody pays for the jump.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tidefleet.router.discovery import Fleet
from tidefleet.router.facts import capacity_type, usd_per_second
from tidefleet.router.usage_values import PaidRecord

MINUTE = 60.0
LARGEST_DRIFT_SECONDS = 2.0
"""More than this between two looks is a jump of the wall clock."""

Key = tuple[str, str, str, str]
"""Namespace, pool, accelerator, capacity type."""


@dataclass(slots=True)
class _Paid:
    chips: float = 0.0
    usd_per_second: float | None = 0.0


def chips_of(fleet: Fleet) -> dict[Key, tuple[float, float | None]]:
    """Chips and USD per second by pool and kind; no price where that of a part is not known."""
    found: dict[Key, _Paid] = {}
    for pool in fleet.pools:
        for rank in pool.ranks:
            key = (pool.namespace, pool.name, rank.accelerator, capacity_type(rank, pool.spec))
            paid = found.setdefault(key, _Paid())
            usd = usd_per_second(rank, pool.spec, fleet.accelerators.get(rank.accelerator))
            paid.chips += rank.chips
            paid.usd_per_second = None if paid.usd_per_second is None or usd <= 0.0 else paid.usd_per_second + usd
    return {key: (one.chips, one.usd_per_second) for key, one in found.items()}


class Payments:
    """Adds up seconds and dollars of the running minute.

    Args:
        source: who says so.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._chips: Mapping[Key, tuple[float, float | None]] = {}
        self._sums: dict[Key, tuple[float, float | None]] = {}
        self._began = self._at = self._wall = math.nan

    def take(self, chips: Mapping[Key, tuple[float, float | None]], now: float, wall: float) -> list[PaidRecord]:
        """There are these chips from now on; those there at the first call count from the minute's beginning."""
        if math.isnan(self._began):
            self._began = wall - wall % MINUTE
            self._at, self._wall = now - wall % MINUTE, self._began
            self._chips = chips
        told = self.pass_(now, wall)
        self._chips = chips
        return told

    def pass_(self, now: float, wall: float) -> list[PaidRecord]:
        """Minutes that are over.

        Args:
            now: of a clock that never jumps.
            wall: Unix seconds.
        """
        if math.isnan(self._began):
            return []
        told: list[PaidRecord] = []
        passed = max(0.0, now - self._at)
        jump = wall - (self._wall + passed)
        if abs(jump) > LARGEST_DRIFT_SECONDS:
            self._add(passed)
            told += self._end(self._began + MINUTE)
            self._began = wall - wall % MINUTE
        else:
            at = self._wall
            while self._began + MINUTE <= wall:
                end = self._began + MINUTE
                part = min(passed, max(0.0, end - at))
                self._add(part)
                passed, at = passed - part, end
                told += self._end(end)
                self._began = end
            self._add(passed)
        self._at, self._wall = now, wall
        return told

    def finish(self, now: float, wall: float) -> list[PaidRecord]:
        """All that is not told yet, the running minute up to now included."""
        return [*self.pass_(now, wall), *(self._end(wall) if not math.isnan(self._began) else ())]

    def _add(self, seconds: float) -> None:
        for key, (chips, usd) in self._chips.items():
            before, paid = self._sums.get(key, (0.0, 0.0))
            self._sums[key] = (
                before + chips * seconds,
                None if paid is None or usd is None else paid + usd * seconds,
            )

    def _end(self, end: float) -> list[PaidRecord]:
        told = [
            PaidRecord(
                start=self._began,
                end=end,
                namespace=namespace,
                pool=pool,
                accelerator=accelerator,
                capacity_type=kind,
                accelerator_seconds=seconds,
                usd=usd,
                source=self._source,
            )
            for (namespace, pool, accelerator, kind), (seconds, usd) in self._sums.items()
            if seconds > 0.0
        ]
        self._sums.clear()
        return told
