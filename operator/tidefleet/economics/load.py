"""A replica over its load: what a prompt and a decode step take, and each objective's metric from idle to full."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidefleet.economics.evidence import Correction
from tidefleet.economics.memory import kv_bytes_per_token
from tidefleet.economics.queueing import variation_of, wait_at
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import Floats, Timing, decode_step, prefill
from tidefleet.economics.shape import Objective, TokenShape

CHUNK_TOKENS = 8192
"""Prompt tokens that one engine step takes at most (vLLM ``--max-num-batched-tokens`` on a large accelerator)."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Prefill of a mean request, after each tier's hits were fetched or prefilled again, whichever is faster."""

    timing: Timing
    seconds: float
    fetch_seconds: float
    uncached: float
    cached: float
    fetched_share: float
    recomputed_share: float


@dataclass(frozen=True, slots=True)
class Case:
    """One replica in one role under one class of demand.

    Attributes:
        role: ``Aggregated``, ``Prefill`` or ``Decode``.
        correction: measured over modelled time.
        prompt: what a mean prompt takes.
    """

    role: str
    replica: Replica
    shape: TokenShape
    correction: Correction
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Curve:
    """A replica over its load x: batch for decoding replicas, share of busy time for prefill replicas.

    ``step`` and ``tpot`` are seconds, ``load`` the share of time that prefills take, ``rate`` requests per second.
    """

    x: Floats
    step: Floats
    tpot: Floats
    load: Floats
    rate: Floats
    timing: Timing | None


def case_of(role: str, replica: Replica, shape: TokenShape, correction: Correction) -> Case:
    """The case with its prompt; a tier's hits are fetched only where that is faster than prefilling them again."""
    uncached, cached, fetch, fetched, again = shape.uncached, shape.cached, 0.0, 0.0, 0.0
    per_token = kv_bytes_per_token(replica.model, replica.kv, replica.tp)
    factor = correction.prefill_factor
    for hit in shape.tier_hits:
        tokens = min(shape.input_mean * hit.share, uncached)
        if tokens <= 0:
            continue
        loading = hit.tier.latency_seconds + tokens * per_token / hit.tier.bytes_per_second
        with_hit = float(prefill(replica, uncached - tokens, cached + tokens).seconds[0]) * factor
        without = float(prefill(replica, uncached, cached).seconds[0]) * factor
        if loading < without - with_hit:
            fetch, uncached, cached = fetch + loading, uncached - tokens, cached + tokens
            fetched += tokens / shape.input_mean
        else:
            again += tokens / shape.input_mean
    timing = prefill(replica, uncached, cached)
    seconds = guarded(timing, replica, timing.seconds * factor, ranks=replica.data_parallel)
    prompt = Prompt(timing, float(seconds[0]), fetch, uncached, cached, fetched, again)
    return Case(role, replica, shape, correction, prompt)


def guarded(timing: Timing, replica: Replica, seconds: Floats, *, ranks: int = 1) -> Floats:
    """Seconds that no correction may bring below what the peaks allow; ``ranks`` work on other requests meanwhile."""
    floor: Floats = np.maximum(timing.flops / replica.peak_flops, timing.bytes_moved / replica.memory_bytes_per_second)
    return np.asarray(np.maximum(seconds, floor * ranks))


def curve_of(case: Case, x: Floats) -> Curve:
    """The replica at each load ``x``."""
    replica, prompt = case.replica, case.prompt
    output, ranks = max(1.0, case.shape.output_mean), replica.data_parallel
    if case.role == "Prefill":
        nothing = np.zeros_like(x)
        return Curve(x, nothing, nothing, x, x * ranks / prompt.seconds, None)
    whole = np.maximum(x, 1.0)
    timing = decode_step(replica, whole, case.shape.input_mean + output / 2.0)
    step = guarded(timing, replica, timing.seconds * case.correction.decode_factor(whole / ranks))
    own = prompt.seconds / ranks if case.role == "Aggregated" else 0.0
    tpot = step + x / output * own
    return Curve(x, step, tpot, x / output * own / tpot, x / output / tpot, timing)


def first_token(case: Case, curve: Curve, percentile: float, tokens: float) -> Floats:
    """Seconds to the first token of a prompt of so many tokens, at a percentile, over the curve.

    Own prefill and KV fetch, one decode step that runs already, and the wait behind other prompts.
    """
    shape, prompt = case.shape, case.prompt
    share = prompt.uncached / shape.input_mean if shape.input_mean else 0.0
    own = prompt.seconds
    if tokens != shape.input_mean:
        one = prefill(case.replica, tokens * share, tokens * (1.0 - share))
        own = float(one.seconds[0]) * case.correction.prefill_factor
    fetch = prompt.fetch_seconds * (tokens / shape.input_mean if shape.input_mean else 1.0)
    return (
        own
        + fetch
        + curve.step
        + wait_at(
            percentile,
            service_seconds=prompt.seconds,
            load=curve.load,
            servers=case.replica.data_parallel,
            variation=variation_of(shape.input_mean, shape.input_p95),
        )
    )


def metric_of(case: Case, curve: Curve, objective: Objective) -> tuple[Floats, float] | None:
    """The objective's metric over the curve, and its limit; ``None`` when it does not concern this role."""
    shape, p = case.shape, objective.percentile
    long = shape.input_at(p)
    if objective.metric == "TPOT":
        return None if case.role == "Prefill" else (curve.tpot, objective.limit(shape.input_mean))
    if objective.metric == "Stall":
        if case.role == "Prefill":
            return None
        gap = 0.0
        if case.role == "Aggregated":
            share = case.prompt.uncached / shape.input_mean if shape.input_mean else 0.0
            chunk = min(long * share, float(CHUNK_TOKENS))
            gap = float(prefill(case.replica, chunk, long - chunk).seconds[0]) * case.correction.prefill_factor
        return curve.step + gap, objective.limit(shape.input_mean)
    tokens_after = {
        "TTFT": 0.0,
        "FirstVisibleToken": shape.reasoning_at(p),
        "Turn": shape.output_at(p),
        "Task": shape.output_at(p),
    }
    if case.role == "Decode" or objective.metric not in tokens_after:
        return None
    calls = max(1.0, shape.calls_per_task) if objective.metric == "Task" else 1.0
    value = first_token(case, curve, p, long) + tokens_after[objective.metric] * curve.tpot
    return calls * value, objective.limit(long)
