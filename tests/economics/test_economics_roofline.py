"""Times of prefill and decode: by hand, and how they must move when something about the replica does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from economics_builders import a_model, a_moe, a_replica, accelerators, an_accelerator, models
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tidefleet.economics.accelerator import BYTES_PER_VALUE
from tidefleet.economics.efficiency import Efficiency
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill

batches = np.array([1.0, 2.0, 8.0, 64.0, 512.0, 4096.0])


def test_a_decode_step_reads_all_weights_and_the_batchs_kv() -> None:
    step = decode_step(a_replica(), np.array([1.0, 10.0]), 1000.0)
    # KV: 2 * 10 layers * 2 heads * 100 * 2 B = 8 kB a token, 8 MB for 1,000. At B = 1: (20 GB + 8 MB) / 0.75 TB/s =
    # 26.677 ms; at B = 10: (20 GB + 80 MB) / 0.75 TB/s = 26.773 ms. Overhead: 10 layers * 20 us = 0.2 ms.
    assert step.seconds == pytest.approx([0.026_877_333, 0.026_973_333], rel=1e-6)
    # Compute at B = 1: 20 GFLOP + 4 * 10 * 10 * 100 * 1,000 = 40 MFLOP of attention, at 55 TFLOP/s.
    assert step.compute_seconds[0] == pytest.approx((20e9 + 40e6) / 55e12)
    assert step.bytes_moved == pytest.approx([20.008e9, 20.08e9])


def test_a_large_batch_is_bound_by_compute() -> None:
    # 2 * 10e9 * 1,000 = 20 TFLOP, and 4 * 10 * 10 * 100 * 1,000 * 100 = 4 GFLOP
    # of attention, which waits for 0.8 GB of KV at 0.75 TB/s instead: 363.64 + 1.07 ms.
    step = decode_step(a_replica(), np.array([1000.0]), 100.0)
    assert step.seconds[0] == pytest.approx(20e12 / 55e12 + 0.8e9 / 0.75e12 + 0.0002)
    assert step.compute_seconds[0] > step.memory_seconds[0]


def test_eight_bit_weights_halve_traffic_and_double_the_peak_but_not_for_attention() -> None:
    narrow = decode_step(a_replica(weights="Fp8"), np.array([1.0]), 1000.0)
    assert narrow.bytes_moved[0] == pytest.approx(10.008e9)
    assert narrow.compute_seconds[0] == pytest.approx(20e9 / 110e12 + 40e6 / 55e12)


def test_weights_narrower_than_the_chip_computes_save_traffic_and_not_arithmetic() -> None:
    four = decode_step(a_replica(weights="Fp4"), np.array([1.0]), 1000.0)
    wide = decode_step(a_replica(), np.array([1.0]), 1000.0)
    assert four.bytes_moved[0] < wide.bytes_moved[0] / 3
    assert four.compute_seconds[0] == pytest.approx(wide.compute_seconds[0])


def test_prefill_is_two_flops_per_parameter_and_half_a_square_of_attention() -> None:
    one = prefill(a_replica(), 1000.0, 0.0)
    # 2 * 10e9 * 1,000 = 20 TFLOP; 40,000 * 1,000^2 / 2 = 20 GFLOP; at 55 TFLOP/s 364.0 ms, and 0.2 ms of overhead.
    assert one.seconds[0] == pytest.approx(20.02e12 / 55e12 + 0.0002)


def test_cached_tokens_cost_attention_and_their_kv_only() -> None:
    behind = prefill(a_replica(), 1000.0, 4000.0)
    # 40,000 * 1,000 * (4,000 + 500) = 180 GFLOP of attention.
    assert behind.seconds[0] == pytest.approx(20.18e12 / 55e12 + 0.0002)
    assert behind.bytes_moved[0] == pytest.approx(20e9 + 4000 * 8000)


def test_tensor_parallelism_pays_two_all_reduces_a_layer() -> None:
    step = decode_step(a_replica(chips=2), np.array([1.0]), 1000.0)
    # 20 all-reduces of 2 * 1/2 * 1,000 values * 2 B at 50 GB/s, and 8 us each: 20 * (0.04 + 8) us = 160.8 us.
    assert step.communication_seconds[0] == pytest.approx(160.8e-6)
    assert step.seconds[0] == pytest.approx(20.008e9 / 1.5e12 + 160.8e-6 + 200e-6)


def test_sparse_attention_reads_what_it_picks_and_the_keys_it_picks_by() -> None:
    dense = a_model(mla_latent=576, mla_rope=64)
    sparse = a_model(mla_latent=576, mla_rope=64, sparse_tokens=2048, index_heads=4, index_dim=128)
    keys = 10 * 128 * (1 + 4 / 128)  # 10 layers, 8 bits a value and a scale for all 128
    full, picked = (
        decode_step(a_replica(model=one), np.array([1.0]), np.array([1000.0, 32_000.0])) for one in (dense, sparse)
    )
    assert picked.bytes_moved - full.bytes_moved == pytest.approx([1000 * keys, 32_000 * keys - 29_952 * 10 * 576 * 2])
    assert picked.flops - full.flops == pytest.approx(
        [
            2 * 10 * 4 * 128 * 1000,
            2 * 10 * 4 * 128 * 32_000 - dense.decode_attention_flops * 29_952,
        ]
    )


def test_sparse_attention_of_a_prompt_is_never_dearer_than_dense() -> None:
    dense = a_model(mla_latent=576, mla_rope=64)
    sparse = a_model(mla_latent=576, mla_rope=64, sparse_tokens=2048, index_heads=4, index_dim=128)
    lengths = np.array([100.0, 2048.0, 8192.0, 131_072.0])
    for cached in (0.0, 1000.0, 100_000.0):
        full, picked = (prefill(a_replica(model=one), lengths, cached) for one in (dense, sparse))
        assert (picked.flops <= full.flops * (1 + 1e-12)).all()
    alone = prefill(a_replica(model=sparse), np.array([131_072.0]), 0.0).flops[0]
    linear = 2 * sparse.active_parameters * 131_072
    seen = 2048 * 1024 + (131_072 - 2048) * 2048  # the first 2,048 see fewer
    indexed = 2 * 10 * 4 * 128 * 131_072**2 / 2
    assert alone == pytest.approx(linear + sparse.decode_attention_flops * seen + indexed, rel=0.01)


def test_overlap_hides_communication_up_to_all_of_it() -> None:
    apart, hidden = (prefill(a_replica(chips=2, efficiency=Efficiency(overlap=one)), 4000.0, 0.0) for one in (0.0, 1.0))
    assert hidden.seconds[0] == pytest.approx(apart.seconds[0] - apart.communication_seconds[0])


def test_halves_in_turn_gain_nothing_where_each_reads_all_weights_again() -> None:
    apart, hidden = (
        decode_step(a_replica(chips=2, efficiency=Efficiency(overlap=one)), np.array([1.0]), 1000.0)
        for one in (0.0, 1.0)
    )
    assert hidden.seconds[0] == apart.seconds[0]


def test_a_group_wider_than_the_scale_up_domain_takes_the_network() -> None:
    small = an_accelerator(scale_up_domain=4)
    assert small.link_bytes_per_second(4) == 100e9
    assert small.link_bytes_per_second(8) == 10e9


def test_moe_weight_reads_grow_with_the_batch_from_the_used_experts_to_all() -> None:
    replica = a_replica(a_moe())
    moved = decode_step(replica, np.array([1.0, 2.0, 1e6]), 0.0).bytes_moved
    # One token: 4 GB of shared weights and 2 of 8 experts, 16 GB / 4. Two: experts touched 1 - (6/8)^2 = 7/16.
    assert moved == pytest.approx([8e9, 4e9 + 7e9, 20e9])


@settings(deadline=None, max_examples=60)
@given(models, accelerators, st.floats(1, 20_000))
def test_moe_reads_rise_with_the_batch_and_never_pass_all_weights(model, accelerator, context) -> None:
    assume("Bf16" in accelerator.flops)
    replica = Replica(model, accelerator, 1, "Bf16", "Bf16")
    read = decode_step(replica, batches, 0.0).bytes_moved
    assert (np.diff(read) >= -1e-6 * read[0]).all()
    assert read[-1] <= 2.0 * model.parameters * (1 + 1e-9)
    looked_up = model.embedding_parameters - model.head_parameters  # a separate input embedding is not read
    assert read[0] >= 2.0 * (model.parameters - model.expert_parameters - looked_up) * (1 - 1e-9)
    if not model.is_moe:
        assert read[0] == pytest.approx(2.0 * (model.parameters - looked_up))


@settings(deadline=None, max_examples=100)
@given(models, accelerators, st.sampled_from([1, 2, 4, 8]), st.floats(1, 100_000))
def test_a_step_takes_longer_with_more_sequences_and_with_longer_ones(model, accelerator, chips, context) -> None:
    assume("Bf16" in accelerator.flops and (chips == 1 or accelerator.link_bytes_per_second(chips)))
    replica = Replica(model, accelerator, chips, "Bf16", "Bf16")
    short = decode_step(replica, batches, context).seconds
    assert (np.diff(short) >= 0).all()
    assert (decode_step(replica, batches, context * 2).seconds >= short).all()
    assert prefill(replica, context * 2, 0.0).seconds >= prefill(replica, context, 0.0).seconds
    assert prefill(replica, context, context).seconds >= prefill(replica, context, 0.0).seconds


@settings(deadline=None, max_examples=100)
@given(models, accelerators, st.sampled_from(["memory_bytes_per_second", "scale_up_bytes_per_second", "flops"]))
def test_a_better_chip_is_never_slower(model, accelerator, what) -> None:
    assume("Bf16" in accelerator.flops and accelerator.scale_up_bytes_per_second)
    value = getattr(accelerator, what)
    better = {name: 1.5 * one for name, one in value.items()} if what == "flops" else 1.5 * value
    one = Replica(model, accelerator, 2, "Bf16", "Bf16")
    other = Replica(model, replace(accelerator, **{what: better}), 2, "Bf16", "Bf16")
    assert (decode_step(other, batches, 2000.0).seconds <= decode_step(one, batches, 2000.0).seconds).all()
    assert prefill(other, 2000.0, 0.0).seconds <= prefill(one, 2000.0, 0.0).seconds


def test_windowed_layers_attend_to_their_window_only() -> None:
    local = a_model(windowed_layers=5, window=100)
    full, half = (decode_step(a_replica(m), np.array([1.0]), 10_000.0) for m in (a_model(), local))
    # Half of the layers see 10,000 tokens and half 100: 5,050 on average, of KV and of attention.
    assert half.bytes_moved[0] - 20e9 == pytest.approx(0.505 * (full.bytes_moved[0] - 20e9))
    assert half.flops[0] - 20e9 == pytest.approx(0.505 * (full.flops[0] - 20e9))


def test_four_bit_values_carry_their_scales() -> None:
    assert BYTES_PER_VALUE["Fp4"] == 0.5 + 1 / 32  # one 8-bit scale for 32 values
