"""Device memory: what weights and engine take, what is left for the KV cache, and how many requests fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tidefleet.economics.accelerator import BYTES_PER_VALUE, Accelerator
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.replica import Replica

Number = TypeVar("Number", float, NDArray[np.float64])

GIB = 1024.0**3

GPU_MEMORY_UTILISATION = 0.90
"""Share of device memory that vLLM takes by default (``--gpu-memory-utilization``)."""

# Peak activation bytes and non-torch bytes by tensor-parallel width, as measured with vLLM 0.11 on an H100
# (llm-d-planner, docs/empirical-vllm-memory-results.md), whatever the context length: 4.8-5.6 GiB dense text, 7.4 MoE,
# 2.1 multimodal; 0.13 GiB at width 1, 0.55 at width 2 (communication buffers). Among the
# text models it follows the vocabulary, not the size: 39 bytes for each word and each of the 1,024 sequences that vLLM
# warms its sampler up with give all five (0.6B to 70B, dense and MoE) within 2 %.
_ACTIVATION_PER_WORD = 1024 * 38.9
_ACTIVATION_DENSE = 5.2 * GIB
_ACTIVATION_MOE = 7.4 * GIB
_ACTIVATION_MULTIMODAL = 2.1 * GIB
_NON_TORCH_SINGLE = 0.13 * GIB
_NON_TORCH_PARALLEL = 0.55 * GIB
_SMALL_DEVICE = 48 * GIB  # activations follow the engine's token budget, which it lowers on devices below this size


def weight_bytes(model: Architecture, weights: str) -> float:
    """Bytes of all weights of one copy, stored in this precision.

    Embeddings and output head stay in 16 bits under quantisation; 4-bit formats quantise only the routed experts of an
    MoE model (gpt-oss), and all linear layers of a dense one.
    """
    per_weight = BYTES_PER_VALUE[weights]
    if weights == "Bf16":
        return per_weight * model.parameters
    quantised = model.parameters - model.embedding_parameters
    if model.only_experts_quantised(weights):
        quantised = model.expert_parameters
    return per_weight * quantised + BYTES_PER_VALUE["Bf16"] * (model.parameters - quantised)


def kv_bytes_per_token(model: Architecture, kv: str, tensor_parallel: int) -> float:
    """KV bytes that one more token takes in a replica while every layer still stores it.

    GQA: ``2 * L * max(n_kv, TP) * d_h * b`` (heads are replicated when the width exceeds their number). MLA:
    ``L * (r + d_rope) * b`` on each tensor-parallel rank, since the latent is not sharded; beside it an indexer's keys.
    """
    per_value = BYTES_PER_VALUE[kv]
    if model.mla_latent:
        latent = model.layers * model.mla_latent * per_value * tensor_parallel
        return latent + index_bytes_per_token(model) * tensor_parallel
    return 2.0 * model.layers * max(model.kv_heads, tensor_parallel) * model.head_dim * per_value


def index_bytes_per_token(model: Architecture) -> float:
    """Bytes of an indexer's keys per token on one rank: 8 bits a value, and a 32-bit scale for 128 of them."""
    return model.layers * model.index_dim * (1.0 + 4.0 / 128.0)


def kv_bytes_read(model: Architecture, kv: str, tensor_parallel: int, context: Number) -> Number:
    """KV bytes of one sequence that a decode step reads: all of them, or what an indexer picks and all its keys."""
    if not model.sparse_tokens:
        return kv_bytes(model, kv, tensor_parallel, context)
    keys = index_bytes_per_token(model) * tensor_parallel
    most = float(model.sparse_tokens)
    picked = np.minimum(context, most) if isinstance(context, np.ndarray) else min(context, most)
    return (kv_bytes_per_token(model, kv, tensor_parallel) - keys) * picked + keys * context


def kv_bytes(model: Architecture, kv: str, tensor_parallel: int, context: Number) -> Number:
    """KV bytes of one sequence of ``context`` tokens in a replica; windowed layers stop growing at their window."""
    per_token = kv_bytes_per_token(model, kv, tensor_parallel)
    if not model.windowed_layers:
        return per_token * context
    share, window = model.windowed_layers / model.layers, float(model.window)
    inside = np.minimum(context, window) if isinstance(context, np.ndarray) else min(context, window)
    return per_token * (share * inside + (1.0 - share) * context)


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """How a replica's memory divides, in bytes per chip.

    ``kv_room`` is negative when the weights do not fit; ``fits`` says whether a sequence of the asked context does too.
    """

    usable: float
    weights: float
    activation: float
    non_torch: float
    kv_room: float
    max_context_tokens: int
    fits: bool


def replica_memory(replica: Replica, *, context: float = 0.0, utilisation: float = GPU_MEMORY_UTILISATION) -> MemoryFit:
    """What is left for the KV cache on each chip of this replica; see ``memory_fit``."""
    return memory_fit(
        replica.model,
        replica.accelerator,
        chips=replica.chips,
        weights=replica.weights,
        kv=replica.kv,
        tensor_parallel=replica.tp,
        expert_parallel=replica.expert_parallel,
        context=context,
        utilisation=utilisation,
    )


def memory_fit(
    model: Architecture,
    accelerator: Accelerator,
    *,
    chips: int,
    weights: str,
    kv: str,
    tensor_parallel: int = 0,
    expert_parallel: int = 1,
    context: float = 0.0,
    utilisation: float = GPU_MEMORY_UTILISATION,
) -> MemoryFit:
    """What is left for the KV cache on each chip of a replica: utilisation * memory - weights - activation - non-torch.

    Args:
        chips: of the replica.
        tensor_parallel: chips that share a sequence and its rank's copy of the dense weights; 0 = all of them.
        expert_parallel: chips that one copy of the routed experts is spread over; 1 = like the dense weights.
        context: longest sequence that must fit, in tokens.
        utilisation: share of device memory the engine may take, in 0..1.
    """
    if model.multimodal:
        activation = _ACTIVATION_MULTIMODAL
    elif model.vocabulary:
        activation = _ACTIVATION_PER_WORD * model.vocabulary
    elif model.is_moe:
        activation = _ACTIVATION_MOE
    else:
        activation = _ACTIVATION_DENSE
    if accelerator.memory_bytes < _SMALL_DEVICE:
        activation *= accelerator.memory_bytes / _SMALL_DEVICE
    non_torch = _NON_TORCH_SINGLE if chips == 1 else _NON_TORCH_PARALLEL
    usable = utilisation * accelerator.memory_bytes
    width = tensor_parallel or chips
    experts = BYTES_PER_VALUE[weights] * model.expert_parameters
    dense = weight_bytes(model, weights) - experts
    per_chip = dense / width + experts / min(chips, max(expert_parallel, width))
    room = usable - per_chip - activation - non_torch
    longest = _longest_context(model, kv, width, room * width)
    return MemoryFit(
        usable=usable,
        weights=per_chip,
        activation=activation,
        non_torch=non_torch,
        kv_room=room,
        max_context_tokens=longest,
        fits=room > 0 and longest >= max(1.0, context),
    )


def _longest_context(model: Architecture, kv: str, width: int, room: float) -> int:
    """Tokens of the longest single sequence that ``room`` bytes of one rank hold, capped at what the model supports."""
    if room <= 0:
        return 0
    per_token = kv_bytes_per_token(model, kv, width)
    share = model.windowed_layers / model.layers
    windowed_cap = per_token * share * model.window
    if model.windowed_layers and room > per_token * model.window:
        tokens = (room - windowed_cap) / (per_token * (1.0 - share)) if share < 1.0 else float(model.context_tokens)
    else:
        tokens = room / per_token
    return int(min(tokens, model.context_tokens or tokens))
