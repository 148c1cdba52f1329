"""Ejection of endpoints that fail, at once, and the probe that lets them return."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PROBE_SECONDS = 1.0
LONGEST_PROBE_SECONDS = 30.0
PROBE_TIMEOUT_SECONDS = 5.0
"""A probe that said nothing for so long may be repeated."""


@dataclass(slots=True)
class Health:
    """One endpoint's: it is in, or out until a probe succeeds.

    Attributes:
        failures: in a row.
        ejected: whether it is left out.
        probe_at: when the next probe is due; doubles from 1 s to 30 s with each failure.
    """

    failures: int = 0
    ejected: bool = False
    probe_at: float = 0.0

    def failed(self, now: float) -> None:
        """A request to it failed to connect, was reset, or was answered 502, 503 or 504 by itself."""
        self.failures += 1
        self.ejected = True
        self.probe_at = now + min(LONGEST_PROBE_SECONDS, FIRST_PROBE_SECONDS * 2.0 ** min(self.failures - 1, 10))

    def is_due(self, now: float) -> bool:
        """Whether it should be probed."""
        return self.ejected and now >= self.probe_at

    def probing(self, now: float) -> None:
        """A probe was sent: no second one until it is answered or given up."""
        self.probe_at = now + PROBE_TIMEOUT_SECONDS

    def succeeded(self) -> None:
        """It answered."""
        self.failures = 0
        self.ejected = False
