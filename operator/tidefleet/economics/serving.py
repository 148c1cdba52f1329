"""What one replica delivers for one class of demand within its objectives, and what its tokens then cost.

Aggregated serving: prefill and decode share the chips (chunked prefill), so each output token carries its share of the
prefill that has to happen meanwhile: TPOT = T_d(B, I + O/2) + (B/O) * T_p(S, C).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidefleet.economics.energy import chip_watts
from tidefleet.economics.memory import MemoryFit, kv_bytes, memory_fit
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import Floats, decode_step, prefill

ROOFLINE_SIGMA = 0.25
"""Relative one-sigma error of the uncalibrated roofline on TPOT (23.2 % mean error over 1,754 measured rows)."""

MAX_BATCH = 2048
"""Largest batch considered; engines cap concurrent sequences (vLLM ``--max-num-seqs``) in this region."""

_BATCHES: Floats = np.unique(np.concatenate([np.arange(1, 65), np.geomspace(64, MAX_BATCH, 140).round()])).astype(float)


@dataclass(frozen=True, slots=True)
class TokenShape:
    """Token lengths of one class of demand, per request.

    Attributes:
        input_mean, input_p95: prompt tokens, cached ones included.
        output_mean, output_p95: generated tokens, reasoning included.
        cached_share: share of prompt tokens found in the prefix cache, 0..1 (tokens, not requests).
        reasoning_mean: generated tokens before the first visible one; part of output_mean.
    """

    input_mean: float
    output_mean: float
    input_p95: float = 0.0
    output_p95: float = 0.0
    cached_share: float = 0.0
    reasoning_mean: float = 0.0

    @property
    def uncached(self) -> float:
        """Mean prompt tokens to prefill, S."""
        return self.input_mean * (1.0 - self.cached_share)

    @property
    def cached(self) -> float:
        """Mean prompt tokens found in the cache, C."""
        return self.input_mean * self.cached_share

    @property
    def longest(self) -> float:
        """Context that must fit at all: p95 of prompt plus p95 of output."""
        return max(self.input_mean, self.input_p95) + max(self.output_mean, self.output_p95)


PLANNED_METRICS = ("TTFT", "TPOT", "FirstVisibleToken", "Turn")
"""Objectives that a replica's operating point is held to; others are measured, not planned for."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A latency promise: at this percentile, ``metric`` stays below ``seconds`` (+ a part per 1,000 prompt tokens).

    ``metric`` is one of ``PLANNED_METRICS``.
    """

    metric: str
    seconds: float
    percentile: float = 95.0
    seconds_per_thousand_input_tokens: float = 0.0

    def limit(self, input_tokens: float) -> float:
        """Seconds allowed for a prompt of this length."""
        return self.seconds + self.seconds_per_thousand_input_tokens * input_tokens / 1000.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one replica delivers for one class.

    Attributes:
        batch: sequences decoded together at the operating point: the largest that meets every objective.
        requests_per_second: sustained rate of the replica there.
        output_tokens_per_second: of the whole replica.
        prefill_seconds: T_p of a mean request; decode_seconds: T_d, one step at this batch.
        ttft_seconds: at the strictest asked percentile, queueing included; tpot_seconds: mean.
        prefill_share: share of replica time spent on prefill; cached_share_of_prefill: part of that owed to attention
            over cached tokens.
        mfu, mbu: share of peak FLOP/s and HBM bytes/s in use (at most 1: the physics guard).
        bound_by: ``compute``, ``memory``, ``communication`` or ``overhead`` (decode step).
        limited_by: what stops a larger batch: ``TTFT``, ``TPOT``, ``KV memory`` or ``batch cap``.
        watts_per_chip: ``None`` when the accelerator's TDP is unknown.
        provenance: where the number comes from; sigma: its relative one-sigma error.
    """

    replica: Replica
    shape: TokenShape
    memory: MemoryFit
    batch: float
    requests_per_second: float
    output_tokens_per_second: float
    prefill_seconds: float
    decode_seconds: float
    ttft_seconds: float
    tpot_seconds: float
    prefill_share: float
    cached_share_of_prefill: float
    mfu: float
    mbu: float
    bound_by: str
    limited_by: str
    watts_per_chip: float | None
    provenance: str = "Roofline"
    sigma: float = ROOFLINE_SIGMA


@dataclass(frozen=True, slots=True)
class CannotServe:
    """Why a replica cannot serve a class at all. ``cause`` is one of ``Memory``, ``Unprofiled``, ``TTFT``, ``TPOT``,
    ``Context``, ``Unphysical``; ``detail`` is a sentence with the figures."""

    cause: str
    detail: str


def ttft_at(percentile: float, *, prefill_seconds: Floats, decode_seconds: Floats, prefill_share: Floats) -> Floats:
    """Time to first token at a percentile: own prefill, the running step, and the wait behind other prefills.

    The wait is that of an M/M/1 queue of prefills whose load is the share of time spent on prefill:
    P(wait > t) = rho * exp(-(1 - rho) t / T_p). Bare prefill time is 13 % (median) of the TTFT measured in 2,095
    public runs, so leaving the queue out is not an option.
    """
    rho = np.minimum(np.maximum(prefill_share, 1e-9), 0.999)  # np.clip takes three times as long
    tail = np.maximum(0.0, np.log(rho / max(1e-6, 1.0 - percentile / 100.0)))
    return prefill_seconds + decode_seconds + tail * prefill_seconds / (1.0 - rho)


def estimate(replica: Replica, shape: TokenShape, objectives: Sequence[Objective] = ()) -> Estimate | CannotServe:
    """The operating point of a replica: the largest batch that fits in memory and meets every objective.

    Args:
        replica: model, accelerator, width and precisions.
        shape: token lengths of the class; output_mean must be above 0.
        objectives: TTFT and TPOT promises; none means throughput alone.
    """
    model, accelerator = replica.model, replica.accelerator
    if "Bf16" not in accelerator.flops or accelerator.compute_precision(replica.weights) is None:
        return CannotServe("Unprofiled", f"no 16-bit compute figure is known for {accelerator.name}")
    if replica.chips > 1 and not accelerator.link_bytes_per_second(replica.chips):
        return CannotServe("Unprofiled", f"no link bandwidth is known for {replica.chips} chips of {accelerator.name}")
    if model.context_tokens and shape.longest > model.context_tokens:
        return CannotServe(
            "Context", f"{shape.longest:.0f} tokens at p95 exceed the {model.context_tokens} that {model.name} supports"
        )
    fit = memory_fit(
        model, accelerator, chips=replica.chips, weights=replica.weights, kv=replica.kv, context=shape.longest
    )
    if not fit.fits:
        need = fit.weights + fit.activation + fit.non_torch
        detail = f"weights and engine need {need / 1e9:.0f} GB of {fit.usable / 1e9:.0f} GB usable per chip"
        if fit.kv_room > 0:
            detail += f", leaving room for {fit.max_context_tokens} tokens; {shape.longest:.0f} are needed"
        return CannotServe("Memory", detail)

    output = max(1.0, shape.output_mean)
    private = kv_bytes(model, replica.kv, replica.chips, shape.input_mean + output)
    capacity = fit.kv_room * replica.chips / max(1.0, private)
    batch = _BATCHES[: max(1, int(np.searchsorted(_BATCHES, min(capacity, MAX_BATCH), side="right")))]
    step = decode_step(replica, batch, shape.input_mean + output / 2.0)
    one = prefill(replica, shape.uncached, shape.cached)
    prefill_seconds = float(one.seconds[0])
    tpot = step.seconds + batch / output * prefill_seconds
    share = batch / output * prefill_seconds / tpot

    meets = np.ones_like(batch, dtype=bool)
    stopped_by: list[tuple[int, str]] = []
    strictest_ttft = 95.0
    for objective in objectives:
        if objective.metric in ("TTFT", "FirstVisibleToken", "Turn"):
            long = shape.input_p95 if objective.percentile >= 90.0 and shape.input_p95 else shape.input_mean
            own = float(prefill(replica, long * (1.0 - shape.cached_share), long * shape.cached_share).seconds[0])
            wait = ttft_at(
                objective.percentile,
                prefill_seconds=np.full_like(batch, prefill_seconds),
                decode_seconds=step.seconds,
                prefill_share=share,
            )
            before = {"TTFT": 0.0, "FirstVisibleToken": shape.reasoning_mean, "Turn": output}[objective.metric]
            value = wait - prefill_seconds + own + before * tpot
            limit, strictest_ttft = objective.limit(long), max(strictest_ttft, objective.percentile)
        elif objective.metric == "TPOT":
            value, limit = tpot, objective.limit(shape.input_mean)
        else:
            continue
        within = value <= limit
        if not within[0]:
            return CannotServe(
                objective.metric,
                f"{objective.metric} is {value[0] * 1e3:.0f} ms at best; "
                f"p{objective.percentile:g} <= {limit * 1e3:.0f} ms is asked",
            )
        stopped_by.append((int(np.argmin(within)) if not within.all() else len(batch), objective.metric))
        meets &= within
    chosen = int(np.argmin(meets)) - 1 if not meets.all() else len(batch) - 1
    limited = next((name for index, name in stopped_by if index == chosen + 1 and index < len(batch)), None)
    if limited is None:
        limited = "KV memory" if capacity < MAX_BATCH else "batch cap"

    b, t = float(batch[chosen]), float(tpot[chosen])
    rate = b / output / t
    uncached_only = float(prefill(replica, shape.uncached, 0.0).seconds[0]) if shape.cached > 0 else prefill_seconds
    flops = (float(step.flops[chosen]) + b / output * float(one.flops[0])) / t / replica.peak_flops
    moved = (float(step.bytes_moved[chosen]) + b / output * float(one.bytes_moved[0])) / t
    mbu = moved / replica.memory_bytes_per_second
    parts = {
        "compute": float(step.compute_seconds[chosen]),
        "memory": float(step.memory_seconds[chosen]),
        "communication": float(step.communication_seconds[chosen]),
        "overhead": model.layers * replica.efficiency.layer_seconds,
    }
    ttft = ttft_at(
        strictest_ttft,
        prefill_seconds=np.array([prefill_seconds]),
        decode_seconds=step.seconds[chosen : chosen + 1],
        prefill_share=share[chosen : chosen + 1],
    )
    found = Estimate(
        replica=replica,
        shape=shape,
        memory=fit,
        batch=b,
        requests_per_second=rate,
        output_tokens_per_second=rate * output,
        prefill_seconds=prefill_seconds,
        decode_seconds=float(step.seconds[chosen]),
        ttft_seconds=float(ttft[0]),
        tpot_seconds=t,
        prefill_share=float(share[chosen]),
        cached_share_of_prefill=max(0.0, 1.0 - uncached_only / prefill_seconds) if prefill_seconds > 0 else 0.0,
        mfu=flops,
        mbu=mbu,
        bound_by=max(parts, key=lambda name: parts[name]),
        limited_by=limited,
        watts_per_chip=chip_watts(accelerator, batch=b, memory_use=min(1.0, mbu), compute_use=min(1.0, flops)),
    )
    if not is_physical(found):
        return CannotServe("Unphysical", f"the estimate exceeds a peak: MFU {flops:.0%}, MBU {mbu:.0%}")
    return found


def is_physical(value: Estimate) -> bool:
    """The physics guard: no estimate may exceed 100 % of peak FLOP/s or HBM bytes/s at its precision."""
    return value.mfu <= 1.0 and value.mbu <= 1.0 and math.isfinite(value.tpot_seconds)
