"""Architectures from a config.json: what is read, what is computed, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from economics_builders import MODELS
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.economics.architecture import Architecture, UnusableConfig, architecture_from_config


def a_config(**changes: Any) -> dict[str, Any]:
    base = {
        "num_hidden_layers": 10,
        "hidden_size": 1000,
        "num_attention_heads": 10,
        "num_key_value_heads": 2,
        "intermediate_size": 3000,
        "vocab_size": 50_000,
        "max_position_embeddings": 8192,
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def test_a_dense_models_parameters_are_attention_feed_forward_and_embeddings() -> None:
    model = architecture_from_config("m", a_config())
    # A layer: 1,000 * 100 * (20 + 4) = 2.4M of attention and 3 * 1,000 * 3,000 = 9M; 10 of them and 2 * 50M embeddings.
    assert model.parameters == model.active_parameters == 10 * 11.4e6 + 100e6
    assert model.vocabulary == 50_000
    assert model.attention_flops == 4 * 10 * 10 * 100


def test_a_tied_embedding_counts_once_and_a_missing_kv_head_count_means_all() -> None:
    tied = architecture_from_config("m", a_config(tie_word_embeddings=True, num_key_value_heads=None))
    assert tied.embedding_parameters == 50e6
    assert tied.kv_heads == 10


def test_an_moe_model_counts_the_used_experts_as_active() -> None:
    model = architecture_from_config("m", a_config(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=500))
    assert model.expert_parameters == 10 * 8 * 3 * 1000 * 500
    assert model.parameters - model.active_parameters == pytest.approx(model.expert_parameters * 6 / 8)
    assert model.is_moe


def test_more_dense_layers_than_layers_leave_no_experts() -> None:
    moe = {"num_experts": 8, "num_experts_per_tok": 2, "first_k_dense_replace": 20}
    model = architecture_from_config("m", a_config(**moe))
    assert model.expert_parameters == 0
    assert model.parameters > 0


@pytest.mark.parametrize(
    ("changes", "windowed"),
    [
        ({"sliding_window": 512}, 10),
        ({"sliding_window": 512, "use_sliding_window": False}, 0),
        ({"sliding_window": 512, "sliding_window_pattern": 5}, 8),
        ({"sliding_window": 512, "layer_types": ["sliding_attention"] * 3 + ["full_attention"] * 7}, 3),
        ({"sliding_window": 512, "model_type": "gpt_oss"}, 5),
        ({"attention_chunk_size": 512, "no_rope_layers": [1, 1, 1, 0, 1, 1, 1, 0, 1, 1]}, 8),
        ({}, 0),
    ],
)
def test_windows_are_read_in_each_of_their_spellings(changes: dict[str, Any], windowed: int) -> None:
    model = architecture_from_config("m", a_config(**changes))
    assert (model.windowed_layers, model.window) == (windowed, 512 if windowed else 0)


def test_the_text_part_of_a_multimodal_config_is_what_serves() -> None:
    model = architecture_from_config("m", {"text_config": a_config(), "vision_config": {"hidden_size": 7}})
    assert model.multimodal
    assert model.hidden_size == 1000


@pytest.mark.parametrize(("method", "weights"), [("fp8", "Fp8"), ("mxfp4", "Fp4"), ("", "Bf16"), ("other", "Bf16")])
def test_published_precision_is_what_the_quantisation_says(method: str, weights: str) -> None:
    model = architecture_from_config("m", a_config(quantization_config={"quant_method": method}))
    assert model.native_weights == weights


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": None}, "hidden_size is missing; expected a whole number"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1; expected a whole number"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5; expected a whole number"),
        ({"num_hidden_layers": float("nan")}, "num_hidden_layers is nan; expected a whole number"),
        ({"num_hidden_layers": 0}, "is 0; expected"),
        ({"num_hidden_layers": 10**400}, "num_hidden_layers is 1000000"),
        ({"hidden_size": 1e308}, "hidden_size is 1e"),
        ({"num_experts": 8, "num_experts_per_tok": 20}, "num_experts_per_tok is 20; expected at most num_experts"),
        ({"num_local_experts": 8}, "num_experts is 8 without num_experts_per_tok; expected how many"),
        ({"num_key_value_heads": 7}, "num_key_value_heads is 7; expected a divisor of num_attention_heads"),
        ({"hidden_size": "big"}, "hidden_size is missing"),
    ],
)
def test_an_impossible_field_is_named_with_an_example(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnusableConfig, match=words):
        architecture_from_config("m", a_config(**changes))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**6) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
    "intermediate_size", "num_experts", "num_experts_per_tok", "moe_intermediate_size", "sliding_window", "layer_types",
    "kv_lora_rank", "q_lora_rank", "no_rope_layers", "sliding_window_pattern", "moe_layers", "quantization_config",
    "text_config", "first_k_dense_replace", "decoder_sparse_step", "model_type", "max_position_embeddings",
]  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6))
def test_any_json_gives_an_architecture_or_says_why_not(changes: dict[str, Any]) -> None:
    try:
        model = architecture_from_config("m", {**a_config(), **changes})
    except UnusableConfig:
        return
    assert isinstance(model, Architecture)
    assert 0 < model.active_parameters <= model.parameters
    assert 0 <= model.windowed_layers <= model.layers
    assert 0 <= model.expert_parameters <= model.parameters


def test_every_shipped_model_knows_its_vocabulary() -> None:
    assert all(model.vocabulary > 10_000 for model in MODELS.values())


def test_a_mamba_layer_counts_as_a_window_of_the_same_bytes() -> None:
    config = {
        "num_hidden_layers": 6,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "vocab_size": 100,
        "hybrid_override_pattern": "M-M*--",
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "ssm_state_size": 32,
        "n_groups": 2,
        "conv_kernel": 4,
    }
    found = architecture_from_config("hybrid", config)
    assert (found.layers, found.windowed_layers) == (3, 2)
    state, token = 8 * 16 * 32 * 4, 2 * 2 * 16 * 2  # bytes of one layer's state, and of one token's keys and values
    assert found.window * token == state
    with pytest.raises(UnusableConfig, match="hybrid_override_pattern is MEM"):
        architecture_from_config("hybrid", {**config, "hybrid_override_pattern": "MEM*"})
