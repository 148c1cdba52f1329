"""How long prefill and decode take: a roofline of compute, memory bandwidth and communication.

Symbols follow the design: P, P_act, P_exp parameters; B batch of the whole replica; K mean context; S uncached and C
cached prompt tokens; G chips of the replica, in D ranks of T chips that share a sequence, X chips that share one copy
of the routed experts; W memory bandwidth; F peak at the compute precision, F16 at 16 bits (attention); kappa KV bytes
per token; eta efficiencies. Times are seconds. Batch, context and prompt lengths may be arrays that broadcast: one call
prices them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidefleet.economics.accelerator import BYTES_PER_VALUE
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.memory import kv_bytes, kv_bytes_per_token, weight_bytes
from tidefleet.economics.replica import Replica

Floats = NDArray[np.float64]

_DISPATCH_BYTES = BYTES_PER_VALUE["Fp8"]
_COMBINE_BYTES = BYTES_PER_VALUE["Bf16"]
"""Bytes per value of tokens on their way to experts and back (DeepEP: FP8 dispatch, BF16 combine)."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Work and time of one step, as arrays of the broadcast shape of what was asked, at least one element.

    ``flops`` and ``bytes_moved`` are for all chips at work; ``compute_seconds`` and ``memory_seconds`` are what each
    alone would take, so the larger one says what binds; ``overhead_seconds`` are launches and synchronisation.
    """

    seconds: Floats
    compute_seconds: Floats
    memory_seconds: Floats
    communication_seconds: Floats
    flops: Floats
    bytes_moved: Floats
    overhead_seconds: Floats


def expert_weight_bytes(replica: Replica) -> float:
    """Bytes of one copy of all routed experts."""
    return BYTES_PER_VALUE[replica.weights] * replica.model.expert_parameters


def _weight_bytes_read(replica: Replica, tokens: Floats, ranks: float) -> Floats:
    """Weight bytes that ``ranks`` ranks read when each computes ``tokens`` tokens at once.

    Each rank reads its copy of the dense weights. Each copy of the experts is read as far as the tokens of its group
    chose them: 1 - (1 - k/E)^n of the experts for n tokens.
    """
    model = replica.model
    total = weight_bytes(model, replica.weights)
    if not model.is_moe:
        return ranks * total + 0.0 * tokens
    experts = expert_weight_bytes(replica)
    ranks_per_copy = replica.expert_chips / replica.tp
    touched = 1.0 - (1.0 - model.experts_per_token / model.experts) ** (tokens * ranks_per_copy)
    return ranks * (total - experts) + ranks / ranks_per_copy * experts * touched


def _communication_seconds(replica: Replica, tokens: Floats) -> Floats:
    """All-reduces of tensor parallelism and dispatch and combine of expert parallelism, for ``tokens`` tokens a rank.

    All-reduce over T chips: 2(T-1)/T * n*d*b / (beta*eta_n) + alpha*log2 T; two a layer, one in layers whose experts
    are reached by dispatch. Dispatch and combine: n*k*d*(b_disp + b_comb) * (X-1)/X / (beta*eta_n) + 2 alpha for the
    n tokens of one chip, the busiest chip taking ``imbalance`` times as many; beta is the scale-up link when the group
    fits its domain and the network otherwise.
    """
    model, eff, width, group = replica.model, replica.reached, replica.tp, replica.expert_chips
    seconds = 0.0 * tokens
    dispatches = model.moe_layers if group > width else 0
    if width > 1:
        beta = replica.accelerator.link_bytes_per_second(width)
        if not beta:
            return math.inf + seconds
        moved = 2.0 * (width - 1) / width * tokens * model.hidden_size * BYTES_PER_VALUE["Bf16"]
        one = moved / (beta * eff.network) + eff.hop_seconds * math.log2(width)
        seconds = seconds + (2.0 * model.layers - dispatches) * one
    if dispatches:
        beta = replica.accelerator.link_bytes_per_second(group)
        if not beta:
            return math.inf + seconds
        sent = tokens / width * model.experts_per_token * model.hidden_size * (_DISPATCH_BYTES + _COMBINE_BYTES)
        busiest = eff.imbalance * sent * (group - 1) / group
        seconds = seconds + dispatches * (busiest / (beta * eff.network) + 2.0 * eff.hop_seconds)
    return seconds


def _attended(model: Architecture, context: Floats) -> Floats:
    """Context tokens that attention sees, averaged over full and windowed layers."""
    if not model.windowed_layers:
        return context
    share = model.windowed_layers / model.layers
    return (1.0 - share) * context + share * np.minimum(context, float(model.window))


def _combine(work: Floats, communication: Floats, overlap: float) -> Floats:
    """x (+) y = (1-w)(x+y) + w*max(x,y), which is x + y - w*min(x,y): communication that is partly hidden."""
    if not overlap:
        return work + communication
    return work + communication - overlap * np.minimum(work, communication)


def _timing(
    replica: Replica, ranks: float, *, tokens: Floats, linear: Floats, attention: Floats, moved: Floats, share: float
) -> Timing:
    """The time of ``ranks`` ranks that do this work in all; ``share`` of a step is one token of a sequence."""
    model, eff = replica.model, replica.reached
    part = ranks * replica.tp / replica.chips  # of the replica's chips at work
    compute = linear / (part * replica.peak_flops * eff.compute)
    compute = compute + attention / (part * replica.attention_peak_flops * eff.compute)
    memory = moved / (part * replica.memory_bytes_per_second * eff.memory)
    communication = _communication_seconds(replica, tokens)
    overhead = model.layers * eff.layer_seconds + 0.0 * tokens
    seconds = _combine(np.maximum(compute, memory), communication, eff.overlap) + overhead
    parts = (seconds, compute, memory, communication, linear + attention, moved, overhead)
    return Timing(*np.broadcast_arrays(*(np.atleast_1d(share * one) for one in parts)))


def decode_step(replica: Replica, batch: Floats | float, context: Floats | float) -> Timing:
    """Time in which each sequence gains one token, at mean context K tokens per sequence.

    T_d = max{(W_r(B) + kappa*B*K)/(G*W*eta_m), 2*P_act*B/(G*F*eta_f) + a*B*K/(G*F16*eta_f)} (+) T_comm + L*t_l

    With speculation a step verifies q tokens of each sequence, which share its KV reads, and yields A of them; all
    figures are then for 1/A of such a step, drafting included.

    Args:
        batch: sequences of the whole replica, spread evenly over its ranks.
        context: tokens of a sequence, prompt and output so far.
    """
    model = replica.model
    batch, context = np.asarray(batch, dtype=float), np.asarray(context, dtype=float)
    verified, share = 1.0, 1.0
    if replica.speculation is not None:
        verified = float(replica.speculation.tokens)
        share = (1.0 + replica.speculation.draft_share) / max(1.0, replica.speculation.accept_length)
    tokens = verified * batch
    ranks = float(replica.data_parallel)
    moved = _weight_bytes_read(replica, tokens / ranks, ranks)
    moved = moved + batch * kv_bytes(model, replica.kv, replica.tp, context)
    linear = 2.0 * model.active_parameters * tokens
    attention = model.attention_flops * tokens * _attended(model, context)
    return _timing(replica, ranks, tokens=tokens / ranks, linear=linear, attention=attention, moved=moved, share=share)


def prefill(replica: Replica, uncached: Floats | float, cached: Floats | float) -> Timing:
    """Time to prefill S uncached prompt tokens of one request behind C cached ones, on one rank.

    T_p = max{2*P_act*S/(T*F*eta_f) + a*(S*C + S^2/2)/(T*F16*eta_f), (W_r(S) + kappa*C)/(T*W*eta_m)} (+) T_comm + L*t_l

    The other ranks prefill at the same time: a replica finishes D requests in this time.
    """
    model = replica.model
    tokens, cached = np.maximum(np.asarray(uncached, dtype=float), 0.0), np.asarray(cached, dtype=float)
    behind = _attended(model, cached)
    moved = _weight_bytes_read(replica, tokens, 1.0) + kv_bytes_per_token(model, replica.kv, replica.tp) * behind
    linear = 2.0 * model.active_parameters * tokens
    attention = model.attention_flops * tokens * (behind + _attended(model, tokens / 2.0))
    return _timing(replica, 1.0, tokens=tokens, linear=linear, attention=attention, moved=moved, share=1.0)
