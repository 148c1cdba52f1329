"""Loads on one engine: the same requests sent to a real one and through the simulator's, and speeds fitted to one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import httpx
import numpy as np

from tidefleet.routing.hashing import token_keys
from tidefleet.simulator.engine.blocks import Blocks
from tidefleet.simulator.engine.job import Job
from tidefleet.simulator.engine.replica import Replica
from tidefleet.simulator.sessions import Session, Turn

VOCABULARY = 256
"""Tokens that are bytes, and nothing special."""
MEANS_WEIGHT = 0.3
"""Of the means of a load in a fit, beside its single requests: what queues make of a load shows in them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: seconds from the beginning, token ids of its prompt, and tokens of its answer."""

    at: float
    ids: tuple[int, ...]
    output: int


@dataclass(frozen=True, slots=True)
class Took:
    """How long a request's first token took, and each one after it, in seconds."""

    ttft: float
    tpot: float


@dataclass(frozen=True, slots=True)
class Speeds:
    """An engine as straight lines (``simulator.engine.timing.Timing``), in seconds.

    Attributes:
        way: to the engine and back (HTTP, tokens to text), which keeps it from nothing.
        prompts: of a chunk of prompts; token: of each uncached one.
        step: of any decode step; sequence: of each answer in it.
        chunk_tokens: of a chunk.
    """

    way: float
    prompts: float
    token: float
    step: float
    sequence: float
    chunk_tokens: int

    def prompts_seconds(self, prompts: Sequence[tuple[float, float]]) -> float:
        """Of prompts given as (uncached, cached) tokens."""
        total = sum(new for new, _ in prompts)
        return self.prompts * max(1.0, total / self.chunk_tokens) + self.token * total

    def step_seconds(self, batch: float, context_tokens: float) -> float:
        """Of one step; what a tiny model reads of its context is nothing beside it."""
        return self.step + self.sequence * batch

    def fetch_seconds(self, tokens: float, tier: int) -> float:
        """There are no tiers."""
        return 0.0 if tokens <= 0.0 else float("inf")


def drawn(
    rng: np.random.Generator,
    count: int,
    per_second: float,
    prompts: tuple[int, int],
    outputs: tuple[int, int],
    *,
    turns: int = 1,
) -> list[Asked]:
    """Poisson arrivals with lengths even between bounds; of each ``turns`` in a row, one goes on from the last."""
    at, ids, found = 0.0, np.zeros(0, dtype=np.int64), []
    for number in range(count):
        at += rng.exponential(1.0 / per_second)
        fresh = rng.integers(0, VOCABULARY, rng.integers(*prompts, endpoint=True))
        ids = fresh if number % turns == 0 else np.concatenate([ids, fresh])
        found.append(Asked(at, tuple(ids.tolist()), int(rng.integers(*outputs, endpoint=True))))
    return found


def one_after_another(first: Sequence[Asked], second: Sequence[Asked]) -> list[Asked]:
    """The second load begins where the first one's last request was sent."""
    return [*first, *(replace(one, at=one.at + first[-1].at) for one in second)]


def measured(address: str, served_name: str, load: Sequence[Asked]) -> list[Took]:
    """What a real engine takes for each, in the order of ``load``."""

    async def ask(client: httpx.AsyncClient, one: Asked, begin: float) -> Took:
        await asyncio.sleep(max(0.0, begin + one.at - time.monotonic()))
        asked = {
            "model": served_name,
            "prompt": list(one.ids),
            "max_tokens": one.output,
            "ignore_eos": True,
            "stream": True,
        }
        sent = time.monotonic()
        async with client.stream("POST", f"http://{address}/v1/completions", json=asked) as answer:
            answer.raise_for_status()
            told = [time.monotonic() async for line in answer.aiter_lines() if line.startswith("data: {")]
        return Took(told[0] - sent, (told[-1] - told[0]) / (one.output - 1))

    async def all_of_them() -> list[Took]:
        async with httpx.AsyncClient(timeout=120.0) as client:
            begin = time.monotonic() + 0.5
            return await asyncio.gather(*(ask(client, one, begin) for one in load))

    return asyncio.run(all_of_them())


def simulated(load: Sequence[Asked], speeds: Speeds, *, block: int, kv_tokens: float, max_batch: int) -> list[Took]:
    """What the simulator's engine takes for each."""
    engine = Replica(0, speeds, Blocks(kv_tokens), max_batch=max_batch, chunk_tokens=speeds.chunk_tokens)
    jobs = []
    for number, one in enumerate(load):
        keys = token_keys(np.array(one.ids, dtype=np.uint32), block)
        turn = Turn(0.0, len(one.ids), one.output, keys)
        job = Job(Session(number, one.at, "load", block, (turn,)), 0, one.at, number)
        job.keys = keys.tolist()
        jobs.append(job)
        engine.advance(one.at)
        engine.submit(job, one.at)
    engine.advance(1e9)
    return [Took(job.ttft_seconds + speeds.way, job.tpot_seconds) for job in jobs]


def fitted(
    took: Sequence[Took], run: Callable[[Speeds], Sequence[Took]], start: Speeds, *, tries: int = 1500
) -> Speeds:
    """Speeds with which ``run`` comes nearest to what was measured, in each request and in the mean of all.

    Least mean of the absolute logarithms of the requests' ratios, and a part of that of the means, by steps in random
    directions that grow while they help and shrink while they do not (a (1+1) evolution strategy).
    """
    real = np.array([(one.ttft, one.tpot) for one in took])

    def error(speeds: Speeds) -> float:
        found = np.array([(one.ttft, one.tpot) for one in run(speeds)])
        each = np.abs(np.log(found / real)).mean()
        return float(each + MEANS_WEIGHT * np.abs(np.log(found.mean(axis=0) / real.mean(axis=0))).mean())

    rng = np.random.default_rng(0)
    best, least, width = start, error(start), 0.5
    names = ("way", "prompts", "token", "step", "sequence")
    for _ in range(tries):
        factors = np.exp(width * rng.standard_normal(len(names)))
        tried = replace(
            best, **{name: getattr(best, name) * float(by) for name, by in zip(names, factors, strict=True)}
        )
        if (now := error(tried)) < least:
            best, least, width = tried, now, min(0.5, width * 1.5)
        else:
            width = max(0.002, width * 0.93)
    return best
