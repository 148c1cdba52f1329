"""How long prefill and decode take: a roofline of compute, memory bandwidth and communication.

Symbols follow the design: P, P_act, P_exp parameters; B batch; K mean context; S uncached and C cached prompt tokens;
G chips of the replica; W memory bandwidth; F peak at the compute precision, F16 at 16 bits (attention); kappa KV bytes
per token; eta efficiencies. Times are seconds. ``batch`` may be an array: one call prices all batch sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tidefleet.economics.accelerator import BYTES_PER_VALUE
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.memory import kv_bytes, kv_bytes_per_token, weight_bytes
from tidefleet.economics.replica import Replica

Floats = NDArray[np.float64]
Number = TypeVar("Number", float, NDArray[np.float64])
"""One value or an array of them: numpy takes 20 times as long for a single one as plain arithmetic."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Work and time of one step; arrays when the batch was an array.

    ``flops`` and ``bytes_moved`` are for the whole replica; ``compute_seconds`` and ``memory_seconds`` are what each
    alone would take, so the larger one says what binds.
    """

    seconds: Floats
    compute_seconds: Floats
    memory_seconds: Floats
    communication_seconds: Floats
    flops: Floats
    bytes_moved: Floats


def _weight_bytes_read(replica: Replica, tokens: Number) -> Number:
    """Weight bytes that a step over this many tokens reads: all dense ones, and the experts that any token chose."""
    model = replica.model
    total = weight_bytes(model, replica.weights)
    if not model.is_moe:
        return total + 0.0 * tokens
    experts = BYTES_PER_VALUE[replica.weights] * model.expert_parameters
    touched: Number = 1.0 - (1.0 - model.experts_per_token / model.experts) ** tokens
    return total - experts + experts * touched


def _communication_seconds(replica: Replica, tokens: Number) -> Number:
    """Two tensor-parallel all-reduces per layer: 2L * [2(G-1)/G * n*d*b / (beta*eta_n) + alpha*log2 G]."""
    g = replica.chips
    if g == 1:
        return 0.0 * tokens
    beta = replica.accelerator.link_bytes_per_second(g)
    if not beta:
        return math.inf + 0.0 * tokens
    eff = replica.efficiency
    per_layer = 2.0 * (g - 1) / g * tokens * replica.model.hidden_size * BYTES_PER_VALUE["Bf16"] / (beta * eff.network)
    return 2.0 * replica.model.layers * (per_layer + eff.hop_seconds * math.log2(g))


def _attended(model: Architecture, context: float) -> float:
    """Context tokens that attention sees, averaged over full and windowed layers."""
    if not model.windowed_layers:
        return context
    share = model.windowed_layers / model.layers
    return (1.0 - share) * context + share * min(context, float(model.window))


def _combine(work: Number, communication: Number, overlap: float) -> Number:
    """x (+) y = (1-w)(x+y) + w*max(x,y), which is x + y - w*min(x,y): communication that is partly hidden."""
    if not overlap:
        return work + communication
    hidden: Number = overlap * np.minimum(work, communication)
    return work + communication - hidden


def decode_step(replica: Replica, batch: Floats, context: float) -> Timing:
    """Time of one decode step for each batch size, at mean context K tokens per sequence.

    T_d = max{(W_r(B) + kappa*B*K)/(G*W*eta_m), 2*P_act*B/(G*F*eta_f) + a*B*K/(G*F16*eta_f)} (+) T_comm + L*t_l
    """
    model, eff = replica.model, replica.efficiency
    moved = _weight_bytes_read(replica, batch) + batch * kv_bytes(model, replica.kv, replica.chips, context)
    linear = 2.0 * model.active_parameters * batch
    attention = model.attention_flops * batch * _attended(model, context)
    compute = linear / (replica.peak_flops * eff.compute) + attention / (replica.attention_peak_flops * eff.compute)
    memory = moved / (replica.memory_bytes_per_second * eff.memory)
    communication = _communication_seconds(replica, batch)
    seconds = _combine(np.maximum(compute, memory), communication, eff.overlap) + model.layers * eff.layer_seconds
    return Timing(seconds, compute, memory, communication, linear + attention, moved)


def prefill(replica: Replica, uncached: float, cached: float) -> Timing:
    """Time to prefill S uncached prompt tokens of one request behind C cached ones.

    T_p = max{2*P_act*S/(G*F*eta_f) + a*(S*C + S^2/2)/(G*F16*eta_f), (W_r(S) + kappa*C)/(G*W*eta_m)} (+) T_comm + L*t_l
    """
    model, eff = replica.model, replica.efficiency
    tokens = max(uncached, 0.0)
    moved = _weight_bytes_read(replica, tokens)
    moved = moved + kv_bytes_per_token(model, replica.kv, replica.chips) * _attended(model, cached)
    linear = 2.0 * model.active_parameters * tokens
    seen = _attended(model, cached) + _attended(model, uncached / 2.0)
    attention = model.attention_flops * tokens * seen
    compute = linear / (replica.peak_flops * eff.compute) + attention / (replica.attention_peak_flops * eff.compute)
    memory = moved / (replica.memory_bytes_per_second * eff.memory)
    communication = _communication_seconds(replica, tokens)
    seconds = _combine(max(compute, memory), communication, eff.overlap) + model.layers * eff.layer_seconds
    return Timing(*(np.array([one]) for one in (seconds, compute, memory, communication, linear + attention, moved)))
