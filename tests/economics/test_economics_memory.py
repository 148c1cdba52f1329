"""Device memory: KV per token by kind of attention, what is left for it, and the measured rooms."""

from __future__ import annotations

import numpy as np
import pytest
from economics_builders import (
    ACCELERATORS,
    MODELS,
    a_model,
    a_moe,
    accelerators,
    an_accelerator,
    models,
    precisions,
    published,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.economics.memory import GIB, kv_bytes, kv_bytes_per_token, memory_fit, replica_memory, weight_bytes
from tidefleet.economics.replica import Replica

WEIGHTS = {"mxfp4": "Fp4", "fp8": "Fp8", "bf16": "Bf16"}


def measured_rows() -> list[str]:
    return [
        "gpt-oss-20b",
        "llama-3.3-70b",
        "llama-3.1-8b",
        "qwen3-0.6b",
        "qwen3-32b",
        "mistral-small-3.2-24b",
    ]


@pytest.mark.parametrize("model", measured_rows())
def test_the_kv_room_is_within_five_percent_of_the_measured_one(model: str) -> None:
    (row,) = [one for one in published("memory_measured.csv") if one["model"] == model]
    fit = memory_fit(
        MODELS[model],
        ACCELERATORS["h100-sxm"],
        chips=int(row["tp"]),
        weights=WEIGHTS[row["weights_dtype"]],
        kv="Bf16",
        utilisation=float(row["gpu_memory_utilization"]),
    )
    assert fit.kv_room / GIB == pytest.approx(float(row["kv_cache_gib"]), rel=0.05)
    assert fit.weights / GIB == pytest.approx(float(row["weights_gib"]), rel=0.05)
    assert fit.usable / GIB == pytest.approx(float(row["device_gib"]) * float(row["gpu_memory_utilization"]), rel=0.001)
    if row["kv_tokens"]:
        tokens = fit.kv_room / kv_bytes_per_token(MODELS[model], "Bf16", int(row["tp"]))
        assert tokens == pytest.approx(float(row["kv_tokens"]), rel=0.05)


def test_every_measured_row_has_a_test() -> None:
    assert {row["model"] for row in published("memory_measured.csv")} <= set(measured_rows())


def test_kv_of_grouped_query_attention_counts_kv_heads() -> None:
    # Llama 3.3 70B: 2 * 80 layers * 8 heads * 128 * 2 B = 327,680 B a token.
    assert kv_bytes_per_token(MODELS["llama-3.3-70b"], "Bf16", 1) == 327_680
    assert kv_bytes_per_token(MODELS["llama-3.3-70b"], "Fp8", 8) == 163_840


def test_kv_heads_are_replicated_when_the_width_exceeds_their_number() -> None:
    assert kv_bytes_per_token(MODELS["llama-3.3-70b"], "Bf16", 16) == 2 * 327_680


def test_latent_attention_stores_one_latent_per_token_on_each_rank() -> None:
    # DeepSeek V3: 61 layers * (512 + 64) * 2 B = 70,272 B.
    assert kv_bytes_per_token(MODELS["deepseek-v3"], "Bf16", 1) == 70_272
    assert kv_bytes_per_token(MODELS["deepseek-v3"], "Bf16", 8) == 8 * 70_272


def test_windowed_layers_stop_growing_at_their_window() -> None:
    model = a_model(windowed_layers=5, window=1000)
    # 8,000 B a token. Up to the window all layers grow; at 3,000 tokens half of them still hold 1,000.
    assert kv_bytes(model, "Bf16", 1, 1000) == 8_000_000
    assert kv_bytes(model, "Bf16", 1, 3000) == 4_000 * 1000 + 4_000 * 3000


def test_gpt_oss_halves_its_kv_through_its_windows() -> None:
    model = MODELS["gpt-oss-120b"]
    whole = kv_bytes_per_token(model, "Bf16", 1) * 100_000
    assert kv_bytes(model, "Bf16", 1, 100_000) == pytest.approx(0.5 * whole, rel=0.01)


def test_embeddings_stay_wide_under_quantisation_and_four_bit_moe_quantises_experts_only() -> None:
    dense = a_model(embedding_parameters=1e9)
    assert weight_bytes(dense, "Bf16") == 20e9
    assert weight_bytes(dense, "Fp8") == 9e9 + 2e9
    moe = a_moe(native_weights="Fp4", embedding_parameters=1e9)
    assert weight_bytes(moe, "Fp4") == pytest.approx(8e9 * 0.53125 + 2e9 * 2)


def test_what_is_left_is_what_weights_activation_and_buffers_leave() -> None:
    fit = memory_fit(a_model(), an_accelerator(), chips=1, weights="Bf16", kv="Bf16")
    # 90 GB - 20 GB - 1,024 * 38.9 B * 100,000 words = 3.98 GB - 0.13 GiB = 65.88 GB; 8 kB a token, 100,000 at most.
    assert fit.kv_room == pytest.approx(90e9 - 20e9 - 3.98336e9 - 0.13 * GIB)
    assert fit.max_context_tokens == 100_000
    assert fit.fits


def test_a_context_that_is_too_long_does_not_fit_though_the_weights_do() -> None:
    small = an_accelerator(memory_bytes=25e9)
    fit = memory_fit(a_model(), small, chips=1, weights="Bf16", kv="Bf16", context=90_000)
    assert fit.kv_room > 0
    assert not fit.fits
    assert fit.max_context_tokens < 90_000
    assert kv_bytes(a_model(), "Bf16", 1, fit.max_context_tokens) <= fit.kv_room


def test_weights_that_do_not_fit_leave_a_negative_room() -> None:
    fit = memory_fit(a_model(parameters=60e9), an_accelerator(), chips=1, weights="Bf16", kv="Bf16")
    assert fit.kv_room < 0
    assert not fit.fits
    assert fit.max_context_tokens == 0


@settings(deadline=None, max_examples=200)
@given(models, accelerators, st.sampled_from([1, 2, 4, 8, 16]), precisions, st.sampled_from(["Bf16", "Fp8"]))
def test_the_longest_context_fits_and_one_token_more_does_not(model, accelerator, chips, weights, kv) -> None:
    fit = memory_fit(model, accelerator, chips=chips, weights=weights, kv=kv)
    longest = fit.max_context_tokens
    room = fit.kv_room * chips
    assert fit.fits == (longest >= 1)
    if longest:
        assert kv_bytes(model, kv, chips, longest) <= room * (1 + 1e-9)
        if longest < model.context_tokens:
            assert kv_bytes(model, kv, chips, longest + 1) > room * (1 - 1e-9)


@settings(deadline=None, max_examples=100)
@given(models, accelerators, st.sampled_from([1, 2, 4, 8]), precisions)
def test_wider_replicas_and_narrower_values_leave_more_room(model, accelerator, chips, weights) -> None:
    one = memory_fit(model, accelerator, chips=chips, weights=weights, kv="Bf16")
    two = memory_fit(model, accelerator, chips=2 * chips, weights=weights, kv="Bf16")
    assert two.weights == pytest.approx(one.weights / 2)
    if chips > 1:  # from one chip to two, communication buffers cost 0.42 GiB
        assert two.kv_room >= one.kv_room
    narrow = memory_fit(model, accelerator, chips=chips, weights=weights, kv="Fp8")
    assert narrow.max_context_tokens >= one.max_context_tokens


def test_ranks_hold_their_own_dense_weights_and_their_share_of_the_experts() -> None:
    chip = an_accelerator(memory_bytes=100e9)
    facts = {"chips": 8, "weights": "Bf16", "kv": "Bf16"}
    # 4 GB of dense weights and 16 GB of experts: all over 8 chips; dense on each of 8 ranks; dense over ranks of two.
    assert memory_fit(a_moe(), chip, **facts).weights == pytest.approx(20e9 / 8)
    wide = memory_fit(a_moe(), chip, **facts, tensor_parallel=1, expert_parallel=8)
    assert wide.weights == pytest.approx(4e9 + 16e9 / 8)
    pairs = memory_fit(a_moe(), chip, **facts, tensor_parallel=2, expert_parallel=8)
    assert pairs.weights == pytest.approx(4e9 / 2 + 16e9 / 8)
    copies = memory_fit(a_moe(), chip, **facts, tensor_parallel=2)
    assert copies.weights == pytest.approx(20e9 / 2)  # experts sharded like the rest: one copy a rank


def test_a_sequence_fits_one_rank_and_not_the_whole_replica() -> None:
    chip = an_accelerator(memory_bytes=100e9)
    model = a_model(context_tokens=0)
    one = memory_fit(model, chip, chips=1, weights="Bf16", kv="Bf16")
    ranks = memory_fit(model, chip, chips=4, weights="Bf16", kv="Bf16", tensor_parallel=1)
    assert ranks.max_context_tokens == pytest.approx(one.max_context_tokens, rel=0.02)
    shared = memory_fit(model, chip, chips=4, weights="Bf16", kv="Bf16")
    assert shared.max_context_tokens > 2 * ranks.max_context_tokens


def test_a_latent_cache_of_ranks_of_one_holds_eight_times_the_sequences() -> None:
    r1, chip = MODELS["deepseek-r1"], ACCELERATORS["h200-sxm"]
    room = {}
    for width, experts in ((8, 1), (1, 8)):
        fit = memory_fit(r1, chip, chips=8, weights="Fp8", kv="Fp8", tensor_parallel=width, expert_parallel=experts)
        room[width] = fit.kv_room * 8 / kv_bytes(r1, "Fp8", width, 4000.0)
    assert 4 < room[1] / room[8] < 8  # eightfold, less what the copies of dense weights take


def test_a_replica_s_memory_is_that_of_its_parts() -> None:
    replica = Replica(
        MODELS["deepseek-r1"], ACCELERATORS["b200-sxm"], 8, "Fp4", "Fp8", tensor_parallel=1, expert_parallel=8
    )
    apart = memory_fit(
        replica.model,
        replica.accelerator,
        chips=8,
        weights="Fp4",
        kv="Fp8",
        tensor_parallel=1,
        expert_parallel=8,
        context=9000.0,
        utilisation=0.8,
    )
    assert replica_memory(replica, context=9000.0, utilisation=0.8) == apart


def test_kv_of_many_contexts_at_once_is_that_of_each() -> None:
    contexts = np.array([10.0, 128.0, 5000.0])
    for name in ("gpt-oss-120b", "llama-3.1-8b", "deepseek-r1"):
        together = kv_bytes(MODELS[name], "Fp8", 2, contexts)
        assert together.tolist() == [kv_bytes(MODELS[name], "Fp8", 2, one) for one in contexts.tolist()]
