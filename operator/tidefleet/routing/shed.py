"""When a request is refused: by priority and objective, before the queue breaks everyone's time to first token."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

DEFAULT_WAIT_SECONDS = 30.0
"""Longest wait of a request without an objective."""

LEAST_SHARE = 0.25
"""A request whose prefill alone takes up its objective may still wait this share of it."""

LOWER_SHARE = 0.5
"""A request may make those of higher priority wait for this share of their objective at most; a choice."""

LIVE_SECONDS = 60.0
"""An objective is live for so long after its last request."""

MOST_PRIORITIES = 256


class Promises:
    """The tightest objective of each priority whose requests came within the last minute.

    A looser objective replaces it once the tightest was not asked for a minute.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, float]] = {}

    def asked(self, priority: int, objective_seconds: float | None, now: float) -> None:
        """A request of this priority came."""
        objective = math.inf if objective_seconds is None else objective_seconds
        old = self._seen.get(priority)
        if old is not None and old[0] < objective and now - old[1] <= LIVE_SECONDS:
            return
        if old is None and len(self._seen) >= MOST_PRIORITIES:
            self._seen = {one: kept for one, kept in self._seen.items() if now - kept[1] <= LIVE_SECONDS}
            if len(self._seen) >= MOST_PRIORITIES:
                return
        self._seen[priority] = (objective, now)

    def tightest_above(self, priority: int | None, now: float) -> float:
        """Tightest objective of a live higher priority (``None``: of any), seconds; infinite if there is none."""
        above = -math.inf if priority is None else priority
        return min(
            (kept[0] for one, kept in self._seen.items() if one > above and now - kept[1] <= LIVE_SECONDS),
            default=math.inf,
        )


def longest_wait(
    priority: int, objective_seconds: float | None, prefill_seconds: float, promises: Promises, now: float
) -> float:
    """How long a request may wait at its endpoint before its first token is too late, or makes others' too late.

    Its own objective less its own prefill (at least a quarter of the objective, so that an idle pool takes a prompt
    whose objective cannot be met), and half of the tightest objective of a live higher priority.
    """
    own = DEFAULT_WAIT_SECONDS
    if objective_seconds is not None:
        own = max(objective_seconds - prefill_seconds, LEAST_SHARE * objective_seconds)
    return min(own, LOWER_SHARE * promises.tightest_above(priority, now))


def longest_waits(
    priority: int, objective_seconds: float | None, prefill_seconds: ArrayLike, promises: Promises, now: float
) -> NDArray[np.float64]:
    """The same at endpoints that take different times to prefill it."""
    prefill = np.asarray(prefill_seconds, float)
    own = np.full(len(prefill), DEFAULT_WAIT_SECONDS)
    if objective_seconds is not None:
        own = np.maximum(objective_seconds - prefill, LEAST_SHARE * objective_seconds)
    most: NDArray[np.float64] = np.minimum(own, LOWER_SHARE * promises.tightest_above(priority, now))
    return most


def retry_after_seconds(wait_seconds: float, limit_seconds: float) -> int:
    """When the queue will be short enough if nobody else comes; whole seconds, 1 to 600."""
    return int(min(600.0, max(1.0, math.ceil(wait_seconds - limit_seconds))))
