"""Deferrable work: a bounded queue in order of deadlines, let into an endpoint's slack only, at the lowest priority.

What an engine has begun leaves by the engine's own hand: with priority scheduling it preempts the lowest first.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.request import Ask
from tidefleet.routing.terms import Terms

H = TypeVar("H")

LOWEST_PRIORITY = 2**31 - 1
"""vLLM's priority scheduling takes the lowest number first."""

SLACK_SHARE = 0.85
"""Share of KV room, and of the tightest promised pace, up to which an endpoint has slack; a choice."""

HURRY = 2.0
"""A request is in a hurry when what is left is this many times what it takes."""


def engine_priority(priority: int) -> int:
    """A request's priority as the engine takes it."""
    return max(-LOWEST_PRIORITY, min(LOWEST_PRIORITY - 1, -priority))


def has_slack(ask: Ask, table: Endpoints, terms: Terms, now: float) -> NDArray[np.bool_]:
    """Endpoints that take a deferrable request without anybody noticing: nothing waits, room and pace are left.

    The pace is the tightest that anybody was promised, whatever the priorities: engines take deferrable work last.
    """
    pace = table.paces.tightest_above(None, now)
    room = table.context * table.held_share + ask.tokens + ask.output_tokens <= SLACK_SHARE * table.capacity
    return (terms.wait <= 0.0) & (table.pending <= 0.0) & room & (terms.tpot <= SLACK_SHARE * pace)


def latest_start(ask: Ask, terms: Terms, eligible: NDArray[np.bool_]) -> float:
    """``now`` from which a deferrable request no longer waits for slack."""
    if ask.deadline is None:
        return -np.inf
    takes = np.where(eligible, terms.ttft + ask.output_tokens * terms.tpot, np.inf)
    return ask.deadline - HURRY * float(takes.min())


@dataclass(frozen=True, slots=True, order=True)
class _Waiting(Generic[H]):
    deadline: float
    number: int
    ask: Ask = field(compare=False)
    handle: H = field(compare=False)


class Deferred(Generic[H]):
    """Requests with a deadline, earliest first, bounded by requests and tokens."""

    def __init__(self, *, most: int = 100_000, most_tokens: float = 1e9) -> None:
        self.most = most
        self.most_tokens = most_tokens
        self.tokens = 0.0
        self._heap: list[_Waiting[H]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def offer(self, ask: Ask, handle: H, now: float) -> str | None:
        """Let a request wait.

        Returns:
            Why it may not, for a 429; ``None`` = it waits.

        Raises:
            ValueError: the request has no deadline.
        """
        if ask.deadline is None:
            raise ValueError(f"Ask of pool {ask.pool}: deadline is None; expected monotonic seconds, e.g. now + 86400")
        if ask.deadline <= now:
            return "its deadline has passed"
        size = ask.tokens + ask.output_tokens
        if len(self._heap) >= self.most or self.tokens + size > self.most_tokens:
            return f"the queue of deferrable work is full ({len(self._heap)} requests, {self.tokens:.0f} tokens)"
        heapq.heappush(self._heap, _Waiting(ask.deadline, next(self._numbers), ask, handle))
        self.tokens += size
        return None

    def next(self) -> tuple[Ask, H] | None:
        """The one with the earliest deadline, which stays in the queue until ``pop``."""
        return (self._heap[0].ask, self._heap[0].handle) if self._heap else None

    def pop(self) -> tuple[Ask, H] | None:
        """Take that one out, after ``pick`` found an endpoint for it."""
        if not self._heap:
            return None
        one = heapq.heappop(self._heap)
        self.tokens = self.tokens - one.ask.tokens - one.ask.output_tokens if self._heap else 0.0
        return one.ask, one.handle

    def remove(self, handles: Iterable[H]) -> int:
        """Take out requests whose clients went away; how many there were."""
        gone = {id(one) for one in handles}
        kept = [one for one in self._heap if id(one.handle) not in gone]
        count = len(self._heap) - len(kept)
        heapq.heapify(kept)
        self._heap = kept
        self.tokens = sum(one.ask.tokens + one.ask.output_tokens for one in kept)
        return count

    def expire(self, now: float) -> list[tuple[Ask, H]]:
        """Requests whose deadline passed."""
        late = []
        while self._heap and self._heap[0].deadline <= now:
            late.append((self._heap[0].ask, self._heap[0].handle))
            self.pop()
        return late
