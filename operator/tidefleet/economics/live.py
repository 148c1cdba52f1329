"""What an engine's own figures say about the cost model: measured over modelled time, from two scrapes of one engine.

TPOT in an engine that prefills and decodes together is T_d(B, K) / (1 - rho), rho the share of time that prefills take;
the time to first token is T_p, the wait behind other prefills, and one decode step. Two measured times and two
unknowns: the factors by which decode and prefill are slower (or faster) than the roofline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidefleet.economics.queueing import ASSUMED_VARIATION, variation_of
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill
from tidefleet.economics.shape import TokenShape

MIN_BATCH = 2.0
"""Sequences decoded together from which an interval counts: below, an engine waits for requests, not they for it."""

MIN_TOKENS = 30.0
"""Tokens an interval must have generated: fewer are a handful of steps."""

SECONDS = (0.5, 900.0)
"""Lengths of an interval that can be used: shorter ones hold a few steps, longer ones were never watched."""

WORST_KV = 0.97
"""KV usage from which sequences may be preempted, so that time goes into recomputing them."""

ABSURD = 6.0
"""A measured time this many times longer or shorter than modelled is a fault of the measurement."""

_MOST_PREFILL = 0.7
_BALANCE = 2.5
_COUNTED = 10.0
_MIN_PREFILL_SECONDS = 0.02
_MIN_PREFILL_PART = 0.3
_MIN_FIRST_TOKENS = 3.0
_STEPS = 20


@dataclass(frozen=True, slots=True)
class Interval:
    """What one engine did between two scrapes.

    Attributes:
        seconds: between the scrapes.
        running: (before, after) sequences in the batch; waiting: (before, after) requests that wait for a place.
        prompt_tokens, generation_tokens: processed in between, cached prompt tokens included.
        kv_usage: the larger of the two, 0..1.
        token_seconds: sum of all times between two tokens of a request; ``None`` = the engine does not tell.
        timed_tokens: how many such times.
        first_token_seconds: sum of the times to first token less those spent in the engine's queue; ``None`` likewise.
        first_tokens: how many such times.
    """

    seconds: float
    running: tuple[float, float]
    waiting: tuple[float, float]
    prompt_tokens: float
    generation_tokens: float
    kv_usage: float = 0.0
    token_seconds: float | None = None
    timed_tokens: float = 0.0
    first_token_seconds: float | None = None
    first_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Ratio:
    """Logarithms of measured over modelled time at a batch (sequences per rank); ``prefill`` is ``None`` if not seen.

    ``batch`` is above 0, the logarithms within +-ln ``ABSURD``.
    """

    batch: float
    decode: float
    prefill: float | None = None


def is_steady(one: Interval) -> bool:
    """Whether an interval shows an engine at work and at rest with itself.

    All numbers finite and not negative, a plausible length, tokens generated, a batch that neither jumped nor emptied,
    no growing queue, and no KV room so full that sequences are preempted.
    """
    numbers = [
        one.seconds, *one.running, *one.waiting, one.prompt_tokens, one.generation_tokens, one.kv_usage,
        one.timed_tokens, one.first_tokens, one.token_seconds or 0.0, one.first_token_seconds or 0.0,
    ]  # fmt: skip
    if not all(math.isfinite(value) and value >= 0.0 for value in numbers):
        return False
    mean = sum(one.running) / 2.0
    return (
        SECONDS[0] <= one.seconds <= SECONDS[1]
        and one.generation_tokens >= MIN_TOKENS
        and mean >= MIN_BATCH
        and abs(one.running[1] - one.running[0]) <= max(3.0, 0.5 * mean)
        and max(one.waiting) <= max(2.0, mean)
        and one.waiting[1] - one.waiting[0] <= max(2.0, 0.25 * mean)
        and one.kv_usage < WORST_KV
    )


def is_plausible(shape: TokenShape, context_tokens: int) -> bool:
    """Whether mean lengths can be those of requests to a model with this context (0 = unknown)."""
    lengths = (shape.input_mean, shape.output_mean, shape.cached_share)
    longest = float(context_tokens or 10_000_000)
    return (
        all(math.isfinite(one) for one in lengths)
        and shape.input_mean >= 1.0
        and shape.output_mean >= 2.0
        and shape.input_mean + shape.output_mean <= longest
        and 0.0 <= shape.cached_share < 1.0
    )


def ratios_of(replica: Replica, shape: TokenShape, intervals: Sequence[Interval]) -> list[Ratio]:
    """Measured over modelled time of each usable interval of engines like this replica, under requests of this shape.

    With L prompts a second, rho = L * T_p * f_p. Where the time to first token is told and prefill is a good part of
    it, f_p comes from TTFT = f_p T_p + W(rho) + TPOT (1 - rho), W the mean wait of an M/G/c queue, and f_d from
    TPOT (1 - rho) = f_d T_d. Else one factor f stands for both: an engine at work spends all its time on one or the
    other, so f * (T_d / TPOT + L * T_p) = 1.
    """
    if not is_plausible(shape, replica.model.context_tokens):
        return []
    usable = [
        (one, *measured)
        for one in intervals
        if is_steady(one) and _balances(one, shape) and (measured := _tpot(one)) is not None
    ]
    if not usable:
        return []
    ranks = replica.data_parallel
    own = float(prefill(replica, shape.uncached, shape.cached).seconds[0])
    batches = np.maximum(np.array([batch for _, batch, _ in usable]), 1.0)
    steps = decode_step(replica, batches, shape.input_mean + shape.output_mean / 2.0).seconds
    variation = variation_of(shape.input_mean, shape.input_p95) if shape.input_p95 else ASSUMED_VARIATION
    found = []
    for (one, batch, tpot), step in zip(usable, steps.tolist(), strict=True):
        load = one.prompt_tokens / shape.input_mean / one.seconds * own / ranks
        factor = _prefill_factor(one, own, load, tpot, ranks=ranks, variation=variation)
        decode = tpot / (step + tpot * load) if factor is None else tpot * (1.0 - load * factor) / step
        if 1.0 / ABSURD <= decode <= ABSURD:
            found.append(Ratio(batch / ranks, math.log(decode), None if factor is None else math.log(factor)))
    return found


def _balances(one: Interval, shape: TokenShape) -> bool:
    """Whether about as many requests came in as went out, by their tokens: a hung or draining engine shows here."""
    into, out = one.prompt_tokens / shape.input_mean, one.generation_tokens / shape.output_mean
    return max(into, out) < _COUNTED or 1.0 / _BALANCE <= into / max(out, 1e-9) <= _BALANCE


def _tpot(one: Interval) -> tuple[float, float] | None:
    """Mean batch and seconds between two tokens; ``None`` where the engine contradicts itself.

    Times between tokens add up to the time all requests spent decoding: their sum a second is the mean batch (Little).
    An engine that emits several tokens at once notes one time for them, so tokens count, not times.
    """
    mean = sum(one.running) / 2.0
    if one.token_seconds is None or one.timed_tokens <= 0:
        if mean < 2.0 * MIN_BATCH:  # two looks at so few requests say little about how many there were in between
            return None
        return mean, mean * one.seconds / one.generation_tokens
    if one.token_seconds <= 0:
        return None
    batch = one.token_seconds / one.seconds
    if not mean / 2.0 - 3.0 <= batch <= mean * 2.0 + 3.0 or batch < MIN_BATCH:
        return None
    return batch, one.token_seconds / max(one.timed_tokens, one.generation_tokens - one.first_tokens)


def _prefill_factor(
    one: Interval, own: float, load: float, tpot: float, *, ranks: int, variation: float
) -> float | None:
    """f_p, by halving, or ``None`` where the time to first token says little about prefill."""
    if one.first_token_seconds is None or one.first_tokens < _MIN_FIRST_TOKENS or own < _MIN_PREFILL_SECONDS:
        return None
    measured = one.first_token_seconds / one.first_tokens
    if tpot * load > own:
        return None  # more than one prompt a step: a slower prefill would not show in the time to first token

    def wait(factor: float) -> float:
        rho = min(0.95, load * factor)
        waits = rho if ranks == 1 else rho ** (math.sqrt(2.0 * (ranks + 1)) - 1.0)
        return waits * factor * own * (1.0 + variation) / (2.0 * ranks * (1.0 - rho))

    low, high = 1.0 / ABSURD, ABSURD
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        modelled = middle * own + wait(middle) + tpot * (1.0 - min(0.95, load * middle))
        low, high = (middle, high) if modelled < measured else (low, middle)
    factor = math.sqrt(low * high)
    if not 1.05 / ABSURD <= factor <= 0.95 * ABSURD or load * factor > _MOST_PREFILL:
        return None
    return factor if factor * own + wait(factor) >= _MIN_PREFILL_PART * measured else None
