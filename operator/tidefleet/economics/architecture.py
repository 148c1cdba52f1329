"""Model architectures: what the cost model must know of a model, read from a Hugging Face ``config.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MOST_PARAMETERS = 1e15
_MOST_BLOCKS = 10_000
_LARGEST = 10**9  # of any field of a configuration; beyond it products overflow


class UnusableConfig(ValueError):
    """A ``config.json`` lacks a field that the cost model needs, or holds an impossible value."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Shape and size of one model.

    Attributes:
        name: catalogue name, e.g. ``llama-3.3-70b``.
        layers: decoder layers; in a hybrid, the blocks that mix tokens (attention and Mamba-2).
        hidden_size: model width d.
        heads: query heads n_h.
        kv_heads: key/value heads n_kv.
        head_dim: size of one head d_h.
        parameters: all parameters P.
        active_parameters: parameters a token passes through, P_act (equals ``parameters`` for a dense model).
        expert_parameters: parameters that belong to routed experts, P_exp (0 for a dense model).
        embedding_parameters: input embedding and output head, which engines keep in 16 bits when weights are quantised.
        experts: routed experts per layer, E (0 for a dense model).
        experts_per_token: routed experts a token uses, k.
        moe_layers: layers with routed experts.
        mla_latent: latent KV width r + d_rope of multi-head latent attention; 0 for grouped-query attention.
        mla_rope: d_rope, the part of ``mla_latent`` that carries positions and no values.
        sparse_tokens: context tokens that a token attends to at most, picked by an indexer (DeepSeek V3.2); 0 = all.
        index_heads: heads of that indexer; index_dim: size of its one key per token.
        windowed_layers: layers whose attention sees only the last ``window`` tokens, and state-space layers.
        window: size of that window in tokens; 0 when there is none.
        vocabulary: tokens in the vocabulary; 0 = unknown.
        context_tokens: longest context the model supports.
        native_weights: precision of the published weights: ``Bf16``, ``Fp8`` or ``Fp4``.
        fp8_block: rows that FP8 expert kernels pad to: the side of the published FP8 checkpoint's scaling blocks, 0
            when each channel or tensor has one scale.
        multimodal: whether the model also holds a vision or audio tower.
    """

    name: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    parameters: float
    active_parameters: float
    expert_parameters: float = 0.0
    embedding_parameters: float = 0.0
    experts: int = 0
    experts_per_token: int = 0
    moe_layers: int = 0
    mla_latent: int = 0
    windowed_layers: int = 0
    window: int = 0
    vocabulary: int = 0
    context_tokens: int = 0
    native_weights: str = "Bf16"
    fp8_block: int = 0
    multimodal: bool = False
    mla_rope: int = 0
    sparse_tokens: int = 0
    index_heads: int = 0
    index_dim: int = 0

    @property
    def is_moe(self) -> bool:
        """Whether the model routes tokens to experts."""
        return self.experts > 0

    @property
    def attention_flops(self) -> float:
        """FLOP per (token, context token) pair over the whole model: a = 4 * L * n_h * d_h."""
        return 4.0 * self.layers * self.heads * self.head_dim

    @property
    def decode_attention_flops(self) -> float:
        """The same in decode: MLA then works on the latent itself, 2 * L * n_h * ((r + d_rope) + r) (DeepSeek-V2)."""
        if not self.mla_latent:
            return self.attention_flops
        return 2.0 * self.layers * self.heads * (2 * self.mla_latent - self.mla_rope)

    @property
    def index_flops(self) -> float:
        """FLOP per (token, context token) pair of the indexer over the whole model, 0 without one."""
        return 2.0 * self.layers * self.index_heads * self.index_dim

    @property
    def head_parameters(self) -> float:
        """Parameters of the output head, which every step reads; a separate input embedding is only looked up."""
        return min(self.embedding_parameters, float(self.vocabulary * self.hidden_size))

    def only_experts_quantised(self, weights: str) -> bool:
        """Whether weights stored like this leave everything but the routed experts in 16 bits (gpt-oss)."""
        return weights == "Fp4" and self.is_moe and self.native_weights == "Fp4"

    @property
    def active_expert_parameters(self) -> float:
        """Parameters of the routed experts that one token passes through."""
        return self.expert_parameters * self.experts_per_token / self.experts if self.experts else 0.0


def _integer(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not 0 <= value <= _LARGEST or value != int(value):
            raise UnusableConfig(f"{name} is {str(value)[:40]}; expected a whole number, e.g. 4096")
        return int(value)
    if default is not None:
        return default
    raise UnusableConfig(f"{names[0]} is missing; expected a whole number, e.g. {names[0]}: 4096")


def _windowed_layers(config: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """How many layers use a sliding window, and its size. (0, 0) without one."""
    hybrid = _hybrid_pattern(config)
    if hybrid:
        return hybrid.count("M"), _state_tokens(config)
    window = _integer(config, "sliding_window", "attention_chunk_size", default=0)
    if not window or config.get("use_sliding_window") is False:
        return 0, 0
    kinds = config.get("layer_types")
    if isinstance(kinds, list | tuple) and kinds:
        return sum(1 for kind in kinds if kind in ("sliding_attention", "chunked_attention")), window
    pattern = _integer(config, "sliding_window_pattern", "interleaved_sliding_window_pattern", default=0)
    if pattern > 1:  # every pattern-th layer is global (Gemma 3: 5 local to 1 global)
        return layers - layers // pattern, window
    no_rope = config.get("no_rope_layers")
    if isinstance(no_rope, list | tuple) and no_rope:  # Llama 4: 0 marks a layer of global attention
        return sum(1 for kind in no_rope if kind), window
    if str(config.get("model_type", "")).startswith("gpt_oss"):
        return layers // 2, window
    return layers, window


def _hybrid_pattern(config: Mapping[str, Any]) -> str:
    """The blocks of a hybrid of Mamba-2 (``M``), attention (``*``) and feed-forward (``-``); empty for a transformer.

    Raises:
        UnusableConfig: it has blocks of another kind.
    """
    pattern = config.get("hybrid_override_pattern")
    if not isinstance(pattern, str) or not pattern:
        return ""
    if len(pattern) > _MOST_BLOCKS or not set(pattern) <= set("M*-") or not set(pattern) & set("M*"):
        raise UnusableConfig(
            f"hybrid_override_pattern is {pattern[:40]}; "
            "expected blocks of M (Mamba-2), * (attention) and - (feed-forward), e.g. M-M*-"
        )
    return pattern


def _state_tokens(config: Mapping[str, Any]) -> int:
    """The tokens whose keys and values in 16 bits take as much as one Mamba-2 layer's state in 32 bits.

    The state is of one size at any context, as the cache of a sliding window is, so such a layer counts as windowed.
    """
    state = (
        4.0
        * _integer(config, "mamba_num_heads")
        * _integer(config, "mamba_head_dim")
        * _integer(config, "ssm_state_size")
    )
    heads = _integer(config, "num_key_value_heads", "num_attention_heads") or 1
    return math.ceil(state / (4.0 * heads * max(1, _integer(config, "head_dim", "attention_head_dim", default=128))))


def _hybrid_parameters(config: Mapping[str, Any], pattern: str, attention: int) -> tuple[int, int]:
    """Parameters of all mixers and of all feed-forward blocks of a Nemotron-H hybrid, norms left out."""
    d = _integer(config, "hidden_size")
    heads = _integer(config, "mamba_num_heads")
    inner = heads * _integer(config, "mamba_head_dim")
    mixed = 2 * _integer(config, "n_groups", default=1) * _integer(config, "ssm_state_size")
    convolution = (inner + mixed) * (_integer(config, "conv_kernel", default=4) + 1)
    mamba = d * (2 * inner + mixed + heads) + convolution + 3 * heads + inner + inner * d
    blocks = 2 * d * _integer(config, "intermediate_size")  # squared ReLU has no gate
    return pattern.count("M") * mamba + pattern.count("*") * attention, pattern.count("-") * blocks


def _moe_layers(config: Mapping[str, Any], layers: int) -> int:
    listed = config.get("moe_layers")
    if isinstance(listed, list | tuple) and listed:
        return len(listed)
    step = max(1, _integer(config, "decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq", default=1))
    first_dense = _integer(config, "first_k_dense_replace", "moe_layer_start_index", default=0)
    return (layers - first_dense) // step


def architecture_from_config(
    name: str,
    config: Mapping[str, Any],
    *,
    parameters: float | None = None,
    active_parameters: float | None = None,
    native_weights: str | None = None,
    fp8_block: int | None = None,
) -> Architecture:
    """The architecture that a Hugging Face ``config.json`` describes.

    Parameter counts are computed from the configuration (attention, feed-forward, experts, embeddings) unless given.

    Args:
        name: catalogue name of the model.
        config: the fields of its ``config.json``; a nested ``text_config`` is used when present.
        parameters: published total count, in parameters.
        active_parameters: published active count, in parameters.
        native_weights: ``Bf16``, ``Fp8`` or ``Fp4``; by default what ``quantization_config`` says.
        fp8_block: side of the scaling blocks of its FP8 checkpoint; by default what ``quantization_config`` says.

    Raises:
        UnusableConfig: a needed field is missing or impossible.
    """
    multimodal = "vision_config" in config or "audio_config" in config
    quantisation = config.get("quantization_config")
    inner = config.get("text_config")
    if isinstance(inner, Mapping):
        config = inner
    layers = _integer(config, "num_hidden_layers", "n_layer")
    hidden = _integer(config, "hidden_size", "n_embd")
    heads = _integer(config, "num_attention_heads", "n_head")
    if not (layers and hidden and heads):
        raise UnusableConfig("num_hidden_layers, hidden_size or num_attention_heads is 0; expected e.g. 32, 4096, 32")
    kv_heads = _integer(config, "num_key_value_heads", default=heads) or heads
    if heads % kv_heads:
        raise UnusableConfig(
            f"num_key_value_heads is {kv_heads}; expected a divisor of num_attention_heads ({heads}), e.g. {heads}"
        )
    head_dim = _integer(config, "head_dim", "attention_head_dim", default=0) or hidden // heads
    if not head_dim:
        raise UnusableConfig(f"head_dim is 0 (hidden_size {hidden} / {heads} heads); expected e.g. 128")
    vocabulary = _integer(config, "vocab_size", default=0)
    context = _integer(config, "max_position_embeddings", "n_positions", default=0)

    latent = _integer(config, "kv_lora_rank", default=0)
    rope = index_heads = index_dim = 0
    if latent:
        rope = _integer(config, "qk_rope_head_dim", default=64)
        nope = _integer(config, "qk_nope_head_dim", default=128)
        value = _integer(config, "v_head_dim", default=128)
        rank = _integer(config, "q_lora_rank", default=0)
        query = hidden * rank + rank * heads * (nope + rope) if rank else hidden * heads * (nope + rope)
        attention = query + hidden * (latent + rope) + latent * heads * (nope + value) + heads * value * hidden
        latent, head_dim = latent + rope, (nope + rope + value) // 2
        index_heads, index_dim = (_integer(config, name, default=0) for name in ("index_n_heads", "index_head_dim"))
        attention += rank * index_heads * index_dim + hidden * (index_dim + index_heads)
    else:
        attention = hidden * head_dim * (2 * heads + 2 * kv_heads)

    experts = _integer(config, "num_experts", "n_routed_experts", "num_local_experts", default=0)
    per_token = _integer(config, "num_experts_per_tok", "num_experts_per_token", "experts_per_token", default=0)
    dense_width = _integer(config, "intermediate_size_mlp", "intermediate_size", "n_inner", default=4 * hidden)
    if per_token > experts > 0:
        raise UnusableConfig(
            f"num_experts_per_tok is {per_token}; expected at most num_experts, e.g. {min(8, experts)}"
        )
    if experts > 1 and not per_token:
        raise UnusableConfig(
            f"num_experts is {experts} without num_experts_per_tok; expected how many of them a token uses, e.g. 2"
        )
    if experts > 1:
        expert_width = _integer(config, "moe_intermediate_size", "intermediate_size", default=dense_width)
        moe_layers = max(0, min(layers, _moe_layers(config, layers)))
        one_expert = 3 * hidden * expert_width
        shared_width = _integer(config, "shared_expert_intermediate_size", default=0)
        shared = _integer(config, "n_shared_experts", "num_shared_experts", default=0) * one_expert
        if str(config.get("model_type", "")).startswith("llama4"):
            shared = one_expert
        shared = 3 * hidden * shared_width if shared_width else shared
        expert_total = float(moe_layers * experts * one_expert)
        expert_active = float(moe_layers * per_token * one_expert)
        fixed_mlp = moe_layers * (shared + hidden * experts) + (layers - moe_layers) * 3 * hidden * dense_width
    else:
        experts = per_token = moe_layers = 0
        expert_total = expert_active = 0.0
        fixed_mlp = layers * 3 * hidden * dense_width

    embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    mixers = layers * attention
    hybrid = _hybrid_pattern(config)
    if hybrid:
        mixers, fixed_mlp = _hybrid_parameters(config, hybrid, attention)
        layers = len(hybrid) - hybrid.count("-")
    fixed = float(mixers + fixed_mlp + embeddings)
    total = parameters or fixed + expert_total
    if not 0 < total < _MOST_PARAMETERS:
        raise UnusableConfig(f"the fields give {total:.3g} parameters; expected a model of e.g. 7e10")
    active = active_parameters or (fixed + expert_active if experts else total)
    windowed, window = _windowed_layers(config, layers)
    return Architecture(
        name=name,
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        parameters=float(total),
        active_parameters=float(min(active, total)),
        expert_parameters=min(expert_total, float(total)),
        embedding_parameters=float(min(embeddings, total)),
        experts=experts,
        experts_per_token=per_token,
        moe_layers=moe_layers,
        mla_latent=latent,
        windowed_layers=min(windowed, layers),
        window=window,
        vocabulary=vocabulary,
        context_tokens=context,
        native_weights=native_weights or _published_precision(quantisation),
        fp8_block=_fp8_block(quantisation) if fp8_block is None else fp8_block,
        multimodal=multimodal,
        mla_rope=rope,
        sparse_tokens=_integer(config, "index_topk", default=0) if index_heads and index_dim else 0,
        index_heads=index_heads,
        index_dim=index_dim,
    )


def _published_precision(quantisation: object) -> str:
    method = str(quantisation.get("quant_method", "")).lower() if isinstance(quantisation, Mapping) else ""
    if "fp4" in method:
        return "Fp4"
    return "Fp8" if "fp8" in method else "Bf16"


def _fp8_block(quantisation: object) -> int:
    sides = quantisation.get("weight_block_size") if isinstance(quantisation, Mapping) else None
    side = sides[0] if isinstance(sides, list | tuple) and sides else 0
    return side if isinstance(side, int) and not isinstance(side, bool) and 0 < side <= _LARGEST else 0
