"""How long prefill and decode take: a roofline of compute, memory bandwidth and communication.

A step is its kernels one after another: dense linear layers, routed experts, output head and attention, each as long as
the slower of its arithmetic and its bytes, then communication and fixed costs. Where one resource binds them all this
is max{bytes/(G*W*eta_m), FLOP/(G*F*eta_f)} (+) T_comm + L*t_l.

Symbols follow the design: P, P_act, P_exp parameters; B batch of the whole replica; K mean context; S uncached and C
cached prompt tokens; G chips of the replica, in D ranks of T chips that share a sequence, X chips that share one copy
of the routed experts; W memory bandwidth; F peak at the compute precision, F16 at 16 bits (attention); kappa KV bytes
per token; eta efficiencies. Times are seconds. Batch, context and prompt lengths may be arrays that broadcast: one call
prices them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidefleet.economics.accelerator import BYTES_PER_VALUE
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.memory import kv_bytes_per_token, kv_bytes_read, weight_bytes
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


@dataclass(frozen=True, slots=True)
class _Work:
    """Work of kernels of one kind on all chips involved, and seconds if arithmetic or bytes alone bound it."""

    flops: Floats
    moved: Floats
    compute: Floats
    memory: Floats


@dataclass(frozen=True, slots=True)
class _Step:
    """What one rank does: ``tokens`` tokens through its layers, ``outputs`` of them through the head, and attention."""

    tokens: Floats
    outputs: Floats
    attention: _Work


def _dense(replica: Replica, tokens: Floats, outputs: Floats) -> tuple[_Work, _Work]:
    """Dense linear layers for ``tokens`` tokens of one rank, and the output head for ``outputs`` of them."""
    model, eff, chip, width = replica.model, replica.reached, replica.accelerator, replica.tp
    head = model.head_parameters
    unread = model.embedding_parameters - head
    active = max(0.0, model.active_parameters - model.active_expert_parameters - model.embedding_parameters)
    head_bytes = BYTES_PER_VALUE["Bf16"] * head
    stored = weight_bytes(model, replica.weights) - expert_weight_bytes(replica)
    moved = stored - head_bytes - BYTES_PER_VALUE["Bf16"] * unread + 0.0 * tokens
    bandwidth = width * chip.memory_bytes_per_second * eff.memory
    flops, head_flops = 2.0 * active * tokens, 2.0 * head * outputs
    peak, head_peak = (width * chip.flops[one] * eff.compute for one in (replica.dense_precision, "Bf16"))
    layers = _Work(flops, moved, flops / peak, moved / bandwidth)
    once = head_bytes + 0.0 * outputs
    return layers, _Work(head_flops, once, head_flops / head_peak, once / bandwidth)


def expert_weight_bytes(replica: Replica) -> float:
    """Bytes of one copy of all routed experts."""
    return BYTES_PER_VALUE[replica.weights] * replica.model.expert_parameters


def _experts(replica: Replica, tokens: Floats) -> _Work:
    """Routed experts for ``tokens`` tokens of each rank, as one rank's share of its group.

    n tokens touch 1 - (1 - k/E)^n of the experts, whose weights are read; n counts the whole group. Each touched
    expert's tokens fill up its last GEMM tile. Where experts are spread whole, all chips wait for the busiest
    (``_busiest``).
    """
    model, eff, chip = replica.model, replica.reached, replica.accelerator
    group = replica.expert_chips
    ranks = group / replica.tp
    together = tokens * ranks
    touched = 1.0 - (1.0 - model.experts_per_token / model.experts) ** together
    moved = expert_weight_bytes(replica) * touched
    multiplied, read = _busiest(replica, together, touched)
    padded = multiplied + model.experts / model.experts_per_token * read * eff.expert_padding
    peak = group * chip.flops[replica.precision] * (eff.expert_compute or eff.compute)
    bandwidth = group * chip.memory_bytes_per_second * (eff.expert_memory or eff.memory)
    flops = 2.0 * model.active_expert_parameters * together
    compute = 2.0 * model.active_expert_parameters * padded / peak
    memory = expert_weight_bytes(replica) * np.minimum(1.0, read) / bandwidth
    return _Work(flops / ranks, moved / ranks, compute, memory)


def _busiest(replica: Replica, tokens: Floats, touched: Floats) -> tuple[Floats, Floats]:
    """Tokens and share of touched experts as if all X chips of a group had the work of the busiest.

    ``imbalance`` times the mean, and no less than chance alone makes of n tokens and a share t: the largest of X
    numbers lies about sqrt(ln X) deviations above their mean (within a fifth for 4 to 64 normal ones), a chip's n*k/X
    tokens deviate by their square root and its E*t/X touched experts by sqrt(E*t*(1 - t)/X). Few tokens meet that; many
    fill all chips alike.
    """
    model, chips = replica.model, min(replica.expert_parallel, replica.expert_chips)
    if chips <= 1:
        return tokens, touched
    above, least = math.sqrt(math.log(chips)), replica.reached.imbalance
    most = tokens + above * np.sqrt(tokens * chips / model.experts_per_token)
    read = touched + above * np.sqrt(touched * (1.0 - touched) * chips / model.experts)
    return np.maximum(least * tokens, most), np.maximum(least * touched, np.minimum(1.0, read))


def _attention(replica: Replica, flops: Floats, moved: Floats) -> _Work:
    """Attention of one rank."""
    eff, chip, width = replica.reached, replica.accelerator, replica.tp
    compute = flops / (width * chip.flops["Bf16"] * (eff.attention_compute or eff.compute))
    return _Work(
        flops, moved, compute, moved / (width * chip.memory_bytes_per_second * (eff.attention_memory or eff.memory))
    )


def _communication_seconds(replica: Replica, tokens: Floats, *, by_node: bool) -> Floats:
    """All-reduces of tensor parallelism and dispatch and combine of expert parallelism, for ``tokens`` tokens a rank.

    All-reduce over T chips: 2(T-1)/T * n*d*b / (beta*eta_n) + alpha*log2 T, and ``bulk_seconds`` for setting it up;
    small messages go to every chip at once instead, (T-1) * n*d*b / (beta*eta_n) + alpha*log2 T, whichever is faster.
    Two a layer, one in layers whose experts are reached by dispatch. Dispatch and combine:
    n*k*d*(b_disp + b_comb) * (X-1)/X / (beta*eta_n) + 2 alpha for the n tokens of one chip, the busiest chip taking
    ``imbalance`` times as many; beta is the scale-up link when the group fits its domain and the network otherwise.

    Args:
        by_node: whether a token crosses the network once for each node with experts of it and goes on to them over the
            scale-up link, as in kernels for many tokens, instead of once for each expert, as in those for few (DeepEP's
            normal and low-latency kernels).
    """
    model, eff, width, group = replica.model, replica.reached, replica.tp, replica.expert_chips
    seconds = 0.0 * tokens
    dispatches = model.moe_layers if group > width else 0
    if width > 1:
        beta = replica.accelerator.link_bytes_per_second(width)
        if not beta:
            return math.inf + seconds
        message = tokens * model.hidden_size * BYTES_PER_VALUE["Bf16"] / (beta * eff.network)
        ring = 2.0 * (width - 1) / width * message + eff.bulk_seconds
        one = np.minimum((width - 1) * message, ring) + eff.hop_seconds * math.log2(width)
        seconds = seconds + (2.0 * model.layers - dispatches) * one
    if dispatches:
        beta = replica.accelerator.link_bytes_per_second(group)
        if not beta:
            return math.inf + seconds
        copy = tokens / width * model.hidden_size * (_DISPATCH_BYTES + _COMBINE_BYTES)
        busiest = eff.imbalance * copy * model.experts_per_token * (group - 1) / group / beta
        domain = max(1, replica.accelerator.scale_up_domain)
        if by_node and 1 < domain < group:
            away = group / domain - 1.0
            crossings = away * (1.0 - (away / (away + 1.0)) ** model.experts_per_token)
            inside = busiest * beta / replica.accelerator.link_bytes_per_second(domain)
            busiest = np.maximum(eff.imbalance * copy * crossings / beta, inside)
        seconds = seconds + dispatches * (busiest / eff.network + 2.0 * eff.hop_seconds)
    return seconds


def _attended(model: Architecture, context: Floats) -> Floats:
    """Context tokens that attention sees, averaged over full and windowed layers."""
    if not model.windowed_layers:
        return context
    share = model.windowed_layers / model.layers
    return (1.0 - share) * context + share * np.minimum(context, float(model.window))


def _decode_flops(model: Architecture, tokens: Floats, context: Floats) -> Floats:
    """Attention FLOP of ``tokens`` tokens that each follow ``context`` others."""
    if not model.sparse_tokens:
        return model.decode_attention_flops * tokens * _attended(model, context)
    picked = np.minimum(context, float(model.sparse_tokens))
    return tokens * (model.decode_attention_flops * picked + model.index_flops * context)


def _prefill_flops(model: Architecture, tokens: Floats, cached: Floats) -> Floats:
    """Attention FLOP of S prompt tokens behind C cached ones: a*S*(C + S/2).

    With an indexer the lesser of that and, on the latents, of what it picks for each token and its own.
    """
    full = model.attention_flops * tokens * (_attended(model, cached) + _attended(model, tokens / 2.0))
    if not model.sparse_tokens:
        return full
    most = float(model.sparse_tokens)
    rising = np.clip(most - cached, 0.0, tokens)  # tokens that see fewer than are picked
    picked = rising * (np.minimum(cached, most) + rising / 2.0) + (tokens - rising) * most
    indexed = model.index_flops * tokens * (cached + tokens / 2.0)
    return np.minimum(full, model.decode_attention_flops * picked + indexed)


def _combine(work: Floats, communication: Floats, overlap: float) -> Floats:
    """x (+) y = (1-w)(x+y) + w*max(x,y), which is x + y - w*min(x,y): communication that is partly hidden."""
    if not overlap:
        return work + communication
    return work + communication - overlap * np.minimum(work, communication)


def _layers_seconds(replica: Replica) -> float:
    """Launch and synchronisation time of all layers."""
    model, eff = replica.model, replica.reached
    latent = model.layers if model.mla_latent else 0
    return (
        model.layers * eff.layer_seconds + model.moe_layers * eff.moe_layer_seconds + latent * eff.latent_layer_seconds
    )


def _linear(replica: Replica, tokens: Floats, outputs: Floats) -> tuple[_Work, ...]:
    """Everything but attention for ``tokens`` tokens of one rank, ``outputs`` of which go on to the head."""
    dense = _dense(replica, tokens, outputs)
    return (*dense, _experts(replica, tokens)) if replica.model.is_moe else dense


def _kernels_seconds(replica: Replica, works: Sequence[_Work], tokens: Floats) -> Floats:
    """Kernels one after another. Ranks that share experts wait for the busiest of them."""
    kernels = sum((np.maximum(one.compute, one.memory) for one in works), 0.0 * tokens)
    waits = replica.model.is_moe and replica.expert_chips > replica.tp
    return kernels * replica.reached.rank_imbalance if waits else kernels


def _seconds(replica: Replica, step: _Step, linear: Sequence[_Work], communication: Floats) -> Floats:
    """Kernels and communication: one after the other, or two halves in turn that hide a part, whichever is faster.

    Each half reads the weights again, so few tokens gain nothing by it.
    """
    attention = _kernels_seconds(replica, (step.attention,), step.tokens)
    plain = _kernels_seconds(replica, linear, step.tokens) + attention + communication
    if not replica.reached.overlap:
        return plain
    half = _kernels_seconds(replica, _linear(replica, step.tokens / 2.0, step.outputs / 2.0), step.tokens)
    return np.minimum(plain, _combine(2.0 * half + attention, communication, replica.reached.overlap))


def _timing(
    replica: Replica, step: _Step, *, overhead: Floats | float, ranks: float, share: float, by_node: bool = False
) -> Timing:
    """The time of ``ranks`` ranks that each do this step; ``share`` of it is one token of a sequence."""
    tokens = step.tokens
    linear = _linear(replica, tokens, step.outputs)
    works = (*linear, step.attention)
    communication = _communication_seconds(replica, tokens, by_node=by_node)
    parts = (
        _seconds(replica, step, linear, communication) + overhead,
        sum((one.compute for one in works), 0.0 * tokens),
        sum((one.memory for one in works), 0.0 * tokens),
        communication,
        ranks * sum((one.flops for one in works), 0.0 * tokens),
        ranks * sum((one.moved for one in works), 0.0 * tokens),
        overhead + 0.0 * tokens,
    )
    return Timing(*np.broadcast_arrays(*(np.atleast_1d(share * one) for one in parts)))


def decode_step(replica: Replica, batch: Floats | float, context: Floats | float) -> Timing:
    """Time in which each sequence gains one token, at mean context K tokens per sequence.

    T_d = sum over kernels of max{bytes/(G*W*eta_m), FLOP/(G*F*eta_f)} (+) T_comm + L*t_l + t_0 + B*t_b, where bytes
    are W_r(B) and kappa*B*K, FLOP 2*P_act*B and a*B*K.

    With speculation a step verifies q tokens of each sequence, which share its KV reads, and yields A of them; all
    figures are then for 1/A of such a step, drafting included.

    Args:
        batch: sequences of the whole replica, spread evenly over its ranks.
        context: tokens of a sequence, prompt and output so far.
    """
    model, eff, ranks = replica.model, replica.reached, float(replica.data_parallel)
    context = np.asarray(context, dtype=float)
    own = np.asarray(batch, dtype=float) / ranks
    own = own + 0.0 * context
    verified, share = 1.0, 1.0
    if replica.speculation is not None:
        verified = float(replica.speculation.tokens)
        share = (1.0 + replica.speculation.draft_share) / max(1.0, replica.speculation.accept_length)
    tokens = verified * own
    flops = _decode_flops(model, tokens, context)
    attention = _attention(replica, flops, own * kv_bytes_read(model, replica.kv, replica.tp, context))
    each = eff.sequence_seconds + (eff.verify_seconds if replica.speculation is not None else 0.0)
    overhead = _layers_seconds(replica) + eff.step_seconds + each * own
    return _timing(replica, _Step(tokens, tokens, attention), overhead=overhead, ranks=ranks, share=share)


def prefill(replica: Replica, uncached: Floats | float, cached: Floats | float) -> Timing:
    """Time to prefill S uncached prompt tokens of one request behind C cached ones, on one rank.

    T_p = max{2*P_act*S/(T*F*eta_f), W_r(S)/(T*W*eta_m)} + max{a*(S*C + S^2/2)/(T*F16*eta_a), kappa*C/(T*W*eta_m)}
    (+) T_comm + L*t_l. The other ranks prefill at the same time: a replica finishes D requests in this time.
    """
    model = replica.model
    tokens, cached = np.maximum(np.asarray(uncached, dtype=float), 0.0), np.asarray(cached, dtype=float)
    tokens = tokens + 0.0 * cached
    behind = _attended(model, cached)
    moved = kv_bytes_per_token(model, replica.kv, replica.tp) * behind + 0.0 * tokens
    attention = _attention(replica, _prefill_flops(model, tokens, cached), moved)
    step = _Step(tokens, np.ones_like(tokens), attention)
    return _timing(replica, step, overhead=_layers_seconds(replica), ranks=1.0, share=1.0, by_node=True)
