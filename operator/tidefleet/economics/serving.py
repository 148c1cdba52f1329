"""What one replica delivers for one class of demand within its objectives: its operating point.

Aggregated serving: prefill and decode share the chips (chunked prefill), so each output token carries its share of the
prefill that has to happen meanwhile: TPOT = T_d(B, I + O/2) + (B/O) * T_p(S, C). A prefill replica runs T_p alone, a
decode replica T_d alone; ``disaggregated`` puts the two together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidefleet.economics.energy import replica_watts
from tidefleet.economics.evidence import UNCORRECTED, Correction, planning_share, roofline_of
from tidefleet.economics.load import Case, Curve, case_of, curve_of, first_token, metric_of
from tidefleet.economics.memory import GPU_MEMORY_UTILISATION, MemoryFit, kv_bytes, replica_memory
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import Floats, Timing, prefill
from tidefleet.economics.shape import Objective, TokenShape

MAX_BATCH = 2048
"""Largest batch considered per data-parallel rank; engines cap concurrent sequences (vLLM ``--max-num-seqs``) in this
region."""

ROLES = ("Aggregated", "Prefill", "Decode")

_LOADS: Floats = np.concatenate([np.geomspace(0.01, 0.5, 24), np.linspace(0.52, 0.98, 24), [0.99, 0.995]])
_BATCHES: Floats = np.unique(
    np.concatenate([np.geomspace(1e-4, 1.0, 41), np.arange(2, 65), np.geomspace(64, MAX_BATCH, 140).round()])
)
_REFINED = 17


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one replica delivers for one class.

    Attributes:
        role: ``Aggregated``, ``Prefill`` or ``Decode``.
        batch: mean sequences decoded together at the operating point: the largest that meets every objective. For a
            prefill replica the mean number of prompts in service.
        requests_per_second: sustained rate of the replica there; planned_requests_per_second: the lower quantile of it
            that plans count on.
        output_tokens_per_second: of the whole replica; 0 for a prefill replica.
        prefill_seconds: T_p of a mean request; decode_seconds: T_d, one step at this batch.
        ttft_seconds: at the strictest asked percentile, queueing and KV fetch included; tpot_seconds: mean.
        fetch_seconds: loading the KV of tier hits, mean; fetched_share: the share of the prompt they are;
            recomputed_share: share that is in a tier and is prefilled again all the same, since that is faster.
        prefill_share: share of replica time spent on prefill; cached_share_of_prefill: part of that owed to attention
            over cached tokens.
        compute_share, memory_share, network_share: how the busy time divides by what bound it; they sum to 1.
        mfu, mbu: share of peak FLOP/s and HBM bytes/s in use (at most 1: the physics guard).
        bound_by: ``compute``, ``memory``, ``communication`` or ``overhead``: the largest part of a step.
        limited_by: what stops a larger batch: an objective, ``KV memory``, ``batch cap`` or ``asked``.
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
    compute_share: float
    memory_share: float
    network_share: float
    mfu: float
    mbu: float
    bound_by: str
    limited_by: str
    watts_per_chip: float | None
    role: str = "Aggregated"
    fetch_seconds: float = 0.0
    fetched_share: float = 0.0
    recomputed_share: float = 0.0
    provenance: str = UNCORRECTED.provenance
    sigma: float = UNCORRECTED.sigma

    @property
    def planned_requests_per_second(self) -> float:
        """The lower quantile of the rate that plans count on."""
        return self.requests_per_second * planning_share(self.sigma)


@dataclass(frozen=True, slots=True)
class CannotServe:
    """Why a replica cannot serve a class at all. ``cause`` is one of ``Memory``, ``Unprofiled``, an objective,
    ``Context``, ``Unphysical``; ``detail`` is a sentence with the figures."""

    cause: str
    detail: str


def estimate(
    replica: Replica,
    shape: TokenShape,
    objectives: Sequence[Objective] = (),
    *,
    role: str = "Aggregated",
    correction: Correction | None = None,
    batch: float | None = None,
    memory_utilisation: float = GPU_MEMORY_UTILISATION,
) -> Estimate | CannotServe:
    """The operating point of a replica: the largest batch that fits in memory and meets every objective.

    Args:
        replica: model, accelerator, parallelism and precisions.
        shape: token lengths of the class; output_mean must be above 0.
        objectives: latency promises; none means throughput alone. A prefill replica is held to TTFT alone, a decode
            replica to what concerns its tokens (TPOT, Stall).
        role: one of ``ROLES``.
        correction: measured over modelled time, from ``evidence.best_evidence``; ``None`` = the roofline as it is.
        batch: the batch to price, instead of the largest; objectives are then not enforced. It may be as large as fits
            while requests are half way on the mean, as in engines that do not reserve their full lengths.
        memory_utilisation: share of device memory the engine may take, in 0..1.
    """
    fit = _can_start(replica, shape, memory_utilisation)
    if isinstance(fit, CannotServe):
        return fit
    case = case_of(role, replica, shape, correction or roofline_of(replica))
    if role == "Prefill":
        xs, capacity = _LOADS, math.inf
    else:
        private = kv_bytes(replica.model, replica.kv, replica.tp, shape.input_mean + max(1.0, shape.output_mean))
        capacity = fit.kv_room * replica.chips / max(1.0, private)
        most = min(capacity, float(MAX_BATCH * replica.data_parallel))
        scale = (
            _BATCHES
            if replica.data_parallel == 1
            else np.unique(np.concatenate([_BATCHES, np.geomspace(1.0, most, 64)]))
        )
        xs = np.append(scale[scale < most], most)
    if batch is not None:
        if role != "Prefill" and batch > (held := _held(replica, shape, fit)):
            return CannotServe("Memory", f"{batch:g} sequences do not fit; room for {held:.0f} at these lengths")
        xs = np.array([float(batch)])
        objectives = ()
    chosen = _largest(case, xs, () if batch is not None else objectives)
    if isinstance(chosen, CannotServe):
        return chosen
    curve, limited = chosen
    if limited is None:
        limited = "asked" if batch is not None else "KV memory" if capacity <= xs[-1] else "batch cap"
        limited = "throughput" if role == "Prefill" and batch is None else limited
    return _point(case, fit, curve, objectives, limited)


def _held(replica: Replica, shape: TokenShape, fit: MemoryFit) -> float:
    """Sequences whose KV cache fits at the mean of their contexts, half of the answer generated."""
    context = shape.input_mean + max(1.0, shape.output_mean) / 2.0
    return fit.kv_room * replica.chips / max(1.0, kv_bytes(replica.model, replica.kv, replica.tp, context))


def _can_start(replica: Replica, shape: TokenShape, memory_utilisation: float) -> MemoryFit | CannotServe:
    model, accelerator = replica.model, replica.accelerator
    if "Bf16" not in accelerator.flops or accelerator.compute_precision(replica.weights) is None:
        return CannotServe("Unprofiled", f"no 16-bit compute figure is known for {accelerator.name}")
    if replica.chips > 1 and not accelerator.link_bytes_per_second(replica.chips):
        return CannotServe("Unprofiled", f"no link bandwidth is known for {replica.chips} chips of {accelerator.name}")
    if model.context_tokens and shape.longest > model.context_tokens:
        return CannotServe(
            "Context", f"{shape.longest:.0f} tokens at p95 exceed the {model.context_tokens} that {model.name} supports"
        )
    fit = replica_memory(replica, context=shape.longest, utilisation=memory_utilisation)
    if not fit.fits:
        need = fit.weights + fit.activation + fit.non_torch
        detail = f"weights and engine need {need / 1e9:.0f} GB of {fit.usable / 1e9:.0f} GB usable per chip"
        if fit.kv_room > 0:
            detail += f", leaving room for {fit.max_context_tokens} tokens; {shape.longest:.0f} are needed"
        return CannotServe("Memory", detail)
    return fit


def _largest(case: Case, xs: Floats, objectives: Sequence[Objective]) -> tuple[Curve, str | None] | CannotServe:
    """The curve at the largest load that meets every objective, and the objective that stops it there."""

    def first_missed(on: Curve) -> tuple[int, Objective | None, str]:
        index, worst, detail = len(on.x), None, ""
        for objective in objectives:
            found = metric_of(case, on, objective)
            if found is None:
                continue
            values, limit = found
            missed = values > limit
            if missed.any() and (at := int(np.argmax(missed))) < index:
                index, worst = at, objective
                detail = (
                    f"{objective.metric} is {values[0] * 1e3:.0f} ms at best; "
                    f"p{objective.percentile:g} <= {limit * 1e3:.0f} ms is asked"
                )
        return index, worst, detail

    index, objective, detail = first_missed(curve_of(case, xs))
    if objective is None:
        return curve_of(case, xs[-1:]), None
    if index == 0:
        return CannotServe(objective.metric, detail)
    finer = np.linspace(xs[index - 1], xs[index], _REFINED)[:-1]  # the last load that meets it lies between
    within = first_missed(curve_of(case, finer))[0]
    return curve_of(case, finer[max(0, within - 1) :][:1]), objective.metric


def _point(
    case: Case, fit: MemoryFit, curve: Curve, objectives: Sequence[Objective], limited: str
) -> Estimate | CannotServe:
    """The estimate at a curve of one point."""
    replica, shape, prompt = case.replica, case.shape, case.prompt
    decodes, prefills = case.role != "Prefill", case.role != "Decode"
    rate, load = float(curve.rate[0]), float(curve.load[0])
    batch = float(curve.x[0]) if decodes else load * replica.data_parallel
    output = max(1.0, shape.output_mean)
    work = _Work(replica)
    if prefills:
        work.add(prompt.timing, rate)
    if curve.timing is not None:
        work.add(curve.timing, rate * output / max(1.0, batch))
    mfu = work.flops / replica.peak_flops
    mbu = work.bytes_moved / replica.memory_bytes_per_second
    ttft = uncached_only = 0.0
    if prefills:
        percentile = max((one.percentile for one in objectives if one.metric != "TPOT"), default=95.0)
        ttft = float(first_token(case, curve, percentile, shape.input_mean)[0])
        uncached_only = prompt.seconds
        if prompt.cached > 0:
            uncached_only = float(prefill(replica, prompt.uncached, 0.0).seconds[0]) * case.correction.prefill_factor
    found = Estimate(
        replica=replica,
        shape=shape,
        memory=fit,
        batch=batch,
        requests_per_second=rate,
        output_tokens_per_second=rate * output if decodes else 0.0,
        prefill_seconds=prompt.seconds if prefills else 0.0,
        decode_seconds=float(curve.step[0]),
        ttft_seconds=ttft,
        tpot_seconds=float(curve.tpot[0]),
        prefill_share=1.0 if not decodes else load,
        cached_share_of_prefill=max(0.0, 1.0 - uncached_only / prompt.seconds) if prefills else 0.0,
        compute_share=work.share("compute") + work.share("overhead"),
        memory_share=work.share("memory"),
        network_share=work.share("communication"),
        mfu=mfu,
        mbu=mbu,
        bound_by=max(work.parts, key=lambda name: work.parts[name]),
        limited_by=limited,
        watts_per_chip=replica_watts(
            replica,
            tokens=max(1.0, batch if decodes else prompt.uncached),
            steps_per_second=rate * output / max(1.0, batch) if decodes else rate,
            bytes_per_second=work.bytes_moved,
            flops_per_second=work.flops,
        ),
        role=case.role,
        fetch_seconds=prompt.fetch_seconds if prefills else 0.0,
        fetched_share=prompt.fetched_share if prefills else 0.0,
        recomputed_share=prompt.recomputed_share if prefills else 0.0,
        provenance=case.correction.provenance,
        sigma=case.correction.sigma_at(batch / replica.data_parallel) if decodes else case.correction.sigma,
    )
    if not is_physical(found):
        return CannotServe("Unphysical", f"the estimate exceeds a peak: MFU {mfu:.0%}, MBU {mbu:.0%}")
    return found


class _Work:
    """What a second of a replica's work consists of: FLOP, bytes, and seconds by what bound them."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.flops = self.bytes_moved = 0.0
        self.parts = dict.fromkeys(("compute", "memory", "communication", "overhead"), 0.0)

    def add(self, timing: Timing, per_second: float) -> None:
        """So many steps of this kind a second."""
        self.flops += per_second * float(timing.flops[0])
        self.bytes_moved += per_second * float(timing.bytes_moved[0])
        compute, memory = float(timing.compute_seconds[0]), float(timing.memory_seconds[0])
        network = float(timing.communication_seconds[0])
        self.parts["compute" if compute >= memory else "memory"] += per_second * max(compute, memory)
        self.parts["communication"] += per_second * network
        self.parts["overhead"] += per_second * float(timing.overhead_seconds[0])

    def share(self, part: str) -> float:
        """Share of the working time."""
        return self.parts[part] / (sum(self.parts.values()) or 1.0)


def is_physical(value: Estimate) -> bool:
    """The physics guard: no estimate may exceed 100 % of peak FLOP/s or HBM bytes/s at its precision."""
    return value.mfu <= 1.0 + 1e-9 and value.mbu <= 1.0 + 1e-9 and math.isfinite(value.tpot_seconds)
