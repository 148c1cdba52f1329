"""Replicas, sessions and pools of tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tidefleet.routing.hashing import token_keys
from tidefleet.routing.rates import Rates
from tidefleet.simulator.engine.blocks import Blocks, Store
from tidefleet.simulator.engine.job import Job
from tidefleet.simulator.engine.replica import Replica
from tidefleet.simulator.sessions import Session, Turn

BLOCK = 64
RATES = Rates(
    prefill_seconds_per_token=1e-4,
    prefill_seconds_per_pair=0.0,
    prefill_floor_seconds=0.001,
    step_seconds=0.01,
    step_seconds_per_sequence=0.0,
    step_seconds_per_kv_token=0.0,
)
"""A prompt of 1,000 tokens takes 0.1 s, an output token 10 ms, whatever the batch."""


class StraightLines:
    """An engine as fast as the router expects: the coefficients of its picks."""

    __slots__ = ("_floor", "_p1", "_p2", "_s0", "_s1", "_s2", "rates")

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self._p1, self._p2 = rates.prefill_seconds_per_token, rates.prefill_seconds_per_pair
        self._floor = rates.prefill_floor_seconds
        self._s0, self._s1 = rates.step_seconds, rates.step_seconds_per_sequence
        self._s2 = rates.step_seconds_per_kv_token

    def prompts_seconds(self, prompts: Sequence[tuple[float, float]]) -> float:
        """The sum of theirs, at least one forward pass."""
        p1, p2 = self._p1, self._p2
        return max(self._floor, sum(new * (p1 + p2 * (old + new / 2.0)) for new, old in prompts))

    def step_seconds(self, batch: float, context_tokens: float) -> float:
        """T_d."""
        return self._s0 + self._s1 * batch + self._s2 * context_tokens

    def fetch_seconds(self, tokens: float, tier: int) -> float:
        """Latency and transfer."""
        return self.rates.fetch_seconds(tokens, tier)


def a_session(
    number: int,
    *,
    begins: float = 0.0,
    tokens: Sequence[int] = (1024,),
    output: int = 100,
    pause: float = 5.0,
    closed: bool = True,
    common: int = 0,
    deadline: float | None = None,
    wclass: str = "chat",
) -> Session:
    """Turns that each begin with the last one's prompt; the first ``common`` tokens are every session's."""
    ids = np.arange(max(tokens) + 4096, dtype=np.uint32) + np.uint32((number + 1) << 20)
    ids[:common] = np.arange(common)
    keys = token_keys(ids, BLOCK)
    turns = tuple(
        Turn(pause if place else 0.0, size, output, keys[: size // BLOCK]) for place, size in enumerate(tokens)
    )
    return Session(number, begins, wclass, BLOCK, turns, closed, deadline)


def a_job(number: int, *, came: float = 0.0, priority: int = 0, at: int = 0, session: Session | None = None,
          tokens: int = 1024, output: int = 100) -> Job:  # fmt: skip
    session = session or a_session(number, tokens=(tokens,), output=output)
    job = Job(session, at, came, number, priority)
    job.keys = job.turn.keys.tolist()
    return job


def a_replica(
    *,
    rates: Rates = RATES,
    kv_tokens: float = 100_000.0,
    stores: Sequence[Store] = (),
    max_batch: int = 64,
    chunk_tokens: int = 2048,
    role: str = "aggregated",
) -> Replica:
    return Replica(
        0,
        StraightLines(rates),
        Blocks(kv_tokens, stores=stores),
        max_batch=max_batch,
        chunk_tokens=chunk_tokens,
        role=role,
    )


def run(replica: Replica, jobs: Sequence[Job]) -> list[tuple[str, int]]:
    """Submit jobs at their time and work to the end; what happened to which number, in order."""
    found = []
    for job in sorted(jobs, key=lambda one: one.came):
        found += replica.advance(job.came)
        replica.submit(job, job.came)
    while replica.next() < float("inf"):
        found += replica.advance(replica.next())
    return [(what, job.number) for what, job in found]
