"""The shipped model facts: complete, sourced, and their parameter counts follow from their configurations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.loader import LOADER
from tidefleet.economics.architecture import architecture_from_config

DATA = Path(__file__).parents[2] / "operator" / "tidefleet" / "catalogue" / "data"
MODELS: dict[str, dict[str, Any]] = yaml.load((DATA / "models.yaml").read_text(), LOADER)  # noqa: S506 - a safe loader

NAMED = {
    "deepseek-r1", "deepseek-v3", "deepseek-v3.1", "gemma-3-12b", "gemma-3-27b", "gemma-3-4b", "glm-4.5", "glm-4.5-air",
    "gpt-oss-120b", "gpt-oss-20b", "kimi-k2", "llama-2-70b", "llama-3.1-405b", "llama-3.1-70b", "llama-3.1-8b",
    "llama-3.3-70b", "llama-4-maverick", "llama-4-scout", "minimax-m2", "mistral-7b", "mistral-small-3.2-24b",
    "mixtral-8x22b", "mixtral-8x7b", "nemotron-nano-12b-v2", "nemotron-nano-9b-v2", "phi-4", "qwen2.5-72b",
    "qwen3-0.6b", "qwen3-14b", "qwen3-235b-a22b", "qwen3-30b-a3b", "qwen3-32b", "qwen3-8b", "qwen3-coder-30b-a3b",
    "qwen3-coder-480b-a35b",
}  # fmt: skip


def vision_parameters(vision: Mapping[str, Any], text_width: int) -> int:
    """Parameters of a vision tower with its projector, by the tower's own layout."""
    d, f, layers = vision["hidden_size"], vision["intermediate_size"], vision["num_hidden_layers"]
    patch = vision["num_channels"] * vision["patch_size"] ** 2 * d
    positions = (vision["image_size"] // vision["patch_size"]) ** 2
    biased_layer = 4 * (d * d + d) + (2 * d * f + f + d) + 4 * d
    match vision["model_type"]:
        case "siglip_vision_model":  # and Gemma 3's projector: a norm and one matrix
            return patch + d + positions * d + layers * biased_layer + 2 * d + d + d * text_width
        case "pixtral":  # no biases, gated feed-forward; Mistral 3 merges 2x2 patches and projects twice
            tower = patch + d + layers * (4 * d * d + 3 * d * f + 2 * d)
            return tower + d + 4 * d * d + d * text_width + text_width * text_width
        case "llama4_vision_model":
            tower = patch + d + (positions + 1) * d + layers * biased_layer + 4 * d
            shuffled = int(d / vision["pixel_shuffle_ratio"] ** 2)
            width, out = vision["projector_input_dim"], vision["projector_output_dim"]
            return tower + shuffled * width + width * out + vision["vision_output_dim"] * text_width
        case unknown:
            raise AssertionError(f"no formula for the vision tower {unknown}")


def attention_parameters(c: Mapping[str, Any]) -> int:
    """Parameters of one layer's attention: projections, their biases, norms of queries and keys."""
    d, heads = c["hidden_size"], c["num_attention_heads"]
    if "kv_lora_rank" in c:
        latent, rope, nope, value = (
            c[k] for k in ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
        )
        rank = c["q_lora_rank"]
        query = d * rank + rank + rank * heads * (nope + rope)
        indexer = 0
        if "index_head_dim" in c:  # sparse attention: queries, one key with a norm, head weights
            indexer = rank * c["index_n_heads"] * c["index_head_dim"] + d * (c["index_head_dim"] + c["index_n_heads"])
        return query + d * (latent + rope) + latent + latent * heads * (nope + value) + heads * value * d + indexer
    size, kv = c.get("head_dim") or d // heads, c["num_key_value_heads"]
    total = d * size * (2 * heads + 2 * kv)
    family = c["model_type"]
    if family == "gpt_oss":  # biases everywhere and a sink per head
        total += size * (heads + 2 * kv) + d + heads
    if family == "qwen2" or (family == "glm4_moe" and c["attention_bias"]):
        total += size * (heads + 2 * kv)
    if family in ("qwen3", "qwen3_moe", "gemma3_text") or (family == "glm4_moe" and c["use_qk_norm"]):
        total += 2 * size
    if family == "minimax_m2":
        total += size * (heads + kv)
    return total


def mamba_parameters(c: Mapping[str, Any]) -> int:
    """Parameters of one Mamba-2 mixer: projections, convolution with bias, decay, skip and time step, norm."""
    inner, groups = c["mamba_num_heads"] * c["mamba_head_dim"], 2 * c["n_groups"] * c["ssm_state_size"]
    projected = 2 * inner + groups + c["mamba_num_heads"]
    convolution = (inner + groups) * c["conv_kernel"] + (inner + groups)
    return c["hidden_size"] * (projected + inner) + convolution + 3 * c["mamba_num_heads"] + inner


def text_parameters(c: Mapping[str, Any]) -> tuple[int, int]:
    """Total and active parameters of a language model, without multi-token-prediction layers."""
    d, layers, family = c["hidden_size"], c["num_hidden_layers"], c["model_type"]
    embeddings = c["vocab_size"] * d * (1 if c["tie_word_embeddings"] else 2)
    if family == "nemotron_h":  # one norm and one mixer or feed-forward network without a gate in each block
        of = {"M": mamba_parameters(c), "*": attention_parameters(c), "-": 2 * d * c["intermediate_size"]}
        total = embeddings + d + sum(of[kind] + d for kind in c["hybrid_override_pattern"])
        return total, total
    norms = 4 * d if family == "gemma3_text" else 2 * d
    fixed = embeddings + d + layers * (attention_parameters(c) + norms)
    experts = next((c[k] for k in ("num_experts", "n_routed_experts", "num_local_experts") if c.get(k)), 0)
    if not experts:
        total = fixed + layers * 3 * d * c["intermediate_size"]
        return total, total
    expert = 3 * d * c.get("moe_intermediate_size", c["intermediate_size"])
    if family == "gpt_oss":
        expert += 2 * c["intermediate_size"] + d
    first = c.get("first_k_dense_replace", 0)
    moe_layers = (layers - first) // c.get("interleave_moe_layer_step", 1)
    shared = expert * (1 if family == "llama4_text" else c.get("n_shared_experts", 0))
    router_bias = experts if family in ("gpt_oss", "deepseek_v3", "kimi_k2", "glm4_moe", "minimax_m2") else 0
    fixed += moe_layers * (shared + d * experts + router_bias)
    fixed += (layers - moe_layers) * 3 * d * c.get("intermediate_size_mlp", c["intermediate_size"])
    per_layer = c["num_experts_per_tok"] * expert
    return fixed + moe_layers * experts * expert, fixed + moe_layers * per_layer


def computed_parameters(config: Mapping[str, Any]) -> tuple[int, int]:
    """Total and active parameters of a whole model; a vision tower counts in both."""
    text = config.get("text_config", config)
    total, active = text_parameters(text)
    if "vision_config" in config:
        tower = vision_parameters(config["vision_config"], text["hidden_size"])
        return total + tower, active + tower
    return total, active


def test_the_named_models_are_shipped() -> None:
    assert set(MODELS) >= NAMED
    assert len(MODELS) >= 30


@pytest.mark.parametrize("name", MODELS)
def test_a_model_name_is_lower_case_with_hyphens(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", name)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_names_its_sources_and_licence(name: str) -> None:
    model = MODELS[name]
    for field in ("huggingFace", "source", "parametersSource", "licence"):
        assert isinstance(model[field], str)
        assert model[field].strip(), f"{name}: {field} is empty"
        assert len(model[field]) <= 512
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model["huggingFace"])


@pytest.mark.parametrize("name", MODELS)
def test_the_total_follows_from_the_configuration_within_two_percent(name: str) -> None:
    published = MODELS[name]["parameters"]["total"]
    computed, _ = computed_parameters(MODELS[name]["config"])
    assert computed == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_the_active_count_follows_from_the_configuration(name: str) -> None:
    """Publishers differ in counting embeddings, and round (``3.3B``), so a mistyped expert field is what this finds."""
    counts = MODELS[name]["parameters"]
    assert 0 < counts["active"] <= counts["total"]
    config = MODELS[name]["config"]
    text = config.get("text_config", config)
    _, computed = computed_parameters(config)
    embedding = text["vocab_size"] * text["hidden_size"]
    assert (computed - 2 * embedding) * 0.95 <= counts["active"] <= computed * 1.05


@pytest.mark.parametrize("name", MODELS)
def test_the_context_is_the_configured_one(name: str) -> None:
    config = MODELS[name]["config"]
    assert MODELS[name]["contextTokens"] == config.get("text_config", config)["max_position_embeddings"]


@pytest.mark.parametrize("name", MODELS)
def test_the_native_weights_agree_with_the_quantisation(name: str) -> None:
    method = MODELS[name]["config"].get("quantization_config", {}).get("quant_method")
    assert MODELS[name]["nativeWeights"] == {None: "Bf16", "fp8": "Fp8", "mxfp4": "Mxfp4"}[method]


@pytest.mark.parametrize("name", MODELS)
def test_listed_layers_are_as_many_as_the_model_has(name: str) -> None:
    config = MODELS[name]["config"]
    text = config.get("text_config", config)
    if "hybrid_override_pattern" in text:
        assert len(text["hybrid_override_pattern"]) == text["num_hidden_layers"]
    if "layer_types" in text:
        assert len(text["layer_types"]) == text["num_hidden_layers"]


@pytest.mark.parametrize("name", MODELS)
def test_the_cost_model_reads_every_configuration(name: str) -> None:
    """Only the vision towers, which the cost model does not compute, may part its own count from the published one."""
    config = MODELS[name]["config"]
    architecture = architecture_from_config(name, config)
    text, _ = text_parameters(config.get("text_config", config))
    assert architecture.parameters == pytest.approx(text, rel=0.002)
    assert architecture.context_tokens == MODELS[name]["contextTokens"]
    assert architecture.multimodal == ("vision_config" in config)


def test_windowed_layers_are_the_ones_the_models_publish() -> None:
    windows = {
        "gemma-3-27b": (52, 1024),
        "gpt-oss-120b": (18, 128),
        "llama-3.3-70b": (0, 0),
        "llama-4-scout": (36, 8192),
        "mistral-7b": (0, 0),
        "nemotron-nano-12b-v2": (28, 1280),  # Mamba-2 layers: 128 x 80 x 128 values of 4 bytes, as 1,280 tokens of KV
        "qwen2.5-72b": (0, 0),
    }
    for name, expected in windows.items():
        architecture = architecture_from_config(name, MODELS[name]["config"])
        assert (architecture.windowed_layers, architecture.window) == expected, name
