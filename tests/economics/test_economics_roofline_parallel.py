"""Parallel forms: attention ranks, expert groups across and inside a scale-up domain, speculation, precisions apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from economics_builders import ACCELERATORS, MODELS, a_model, a_moe, a_replica, accelerators, an_accelerator, models
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tidefleet.economics.efficiency import Efficiency
from tidefleet.economics.memory import kv_bytes, replica_memory
from tidefleet.economics.replica import Replica, Speculation
from tidefleet.economics.roofline import decode_step, prefill

BARE = Efficiency(compute=1.0, memory=1.0, network=1.0, layer_seconds=0.0, hop_seconds=0.0)
batches = np.array([1.0, 3.0, 16.0, 64.0, 257.0, 1024.0])
forms = st.sampled_from([(1, 1, 1), (2, 2, 1), (4, 4, 4), (8, 8, 1), (8, 1, 8), (8, 2, 8), (16, 1, 16), (16, 16, 1)])


def spread(model, accelerator, chips: int, tp: int, ep: int, **changes) -> Replica:
    """A replica of so many chips in ranks of ``tp`` with experts over ``ep``."""
    facts = {"weights": "Bf16", "kv": "Bf16", **changes}
    return Replica(model, accelerator, chips, tensor_parallel=tp, expert_parallel=ep, **facts)


def can_run(accelerator, chips: int) -> bool:
    return "Bf16" in accelerator.flops and (chips == 1 or accelerator.link_bytes_per_second(chips) > 0)


def test_ranks_of_one_chip_are_copies_of_a_single_chip() -> None:
    alone = decode_step(spread(a_model(), an_accelerator(), 1, 1, 1), batches, 700.0)
    four = decode_step(spread(a_model(), an_accelerator(), 4, 1, 1), 4 * batches, 700.0)
    assert four.seconds == pytest.approx(alone.seconds)
    assert four.bytes_moved == pytest.approx(4 * alone.bytes_moved)  # each rank reads its own copy of the weights
    assert four.flops == pytest.approx(4 * alone.flops)
    assert not four.communication_seconds.any()


def test_dispatch_and_combine_by_hand() -> None:
    replica = spread(a_moe(), an_accelerator(), 8, 1, 8, efficiency=replace(BARE, hop_seconds=1e-6))
    step = decode_step(replica, 80.0, 0.0)
    # 10 tokens a chip, 2 experts each, 1,000 values of 1 B out and 2 B back, 7/8 of them to other chips, at 100 GB/s,
    # and two latencies: 10 layers * (0.525 + 2) us.
    assert step.communication_seconds[0] == pytest.approx(10 * (10 * 2 * 1000 * 3 * 7 / 8 / 100e9 + 2e-6))


def test_a_prompt_crosses_the_network_once_for_each_node_and_a_decoded_token_once_for_each_expert() -> None:
    chip = an_accelerator(scale_up_domain=8, scale_out_bytes_per_second=10e9)
    replica = spread(a_moe(), chip, 32, 1, 32, efficiency=BARE)
    # Four nodes of eight: of three others, two experts of a token are on 3 * (1 - (3/4)^2) = 1.3125 on the mean.
    into = prefill(replica, 10.0, 0.0).communication_seconds[0]
    assert into == pytest.approx(10 * 10 * 1.3125 * 1000 * 3 / 10e9)
    out = decode_step(replica, 320.0, 0.0).communication_seconds[0]
    assert out == pytest.approx(10 * 10 * 2 * 1000 * 3 * 31 / 32 / 10e9)


def test_inside_a_node_a_prompt_is_sent_to_every_expert() -> None:
    """Its links then bound dispatch where the network is as fast as they are."""
    chip = an_accelerator(scale_up_domain=8, scale_out_bytes_per_second=100e9)
    into = prefill(spread(a_moe(), chip, 32, 1, 32, efficiency=BARE), 10.0, 0.0).communication_seconds[0]
    assert into == pytest.approx(10 * 10 * 2 * 1000 * 3 * 31 / 32 / 100e9)


def test_ranks_wait_for_the_busiest_of_them_where_they_share_experts() -> None:
    even, uneven = (replace(BARE, rank_imbalance=one) for one in (1.0, 1.5))
    for tp, ep, slower in ((1, 8, 1.5), (8, 8, 1.0), (8, 1, 1.0)):
        found = [
            decode_step(spread(a_moe(), an_accelerator(), 8, tp, ep, efficiency=one), 800.0, 100.0)
            for one in (even, uneven)
        ]
        kernels = [one.seconds[0] - one.communication_seconds[0] for one in found]
        assert kernels[1] == pytest.approx(slower * kernels[0])


def test_experts_of_a_group_are_read_once_and_dense_weights_by_every_rank() -> None:
    replica = spread(a_moe(), an_accelerator(), 8, 1, 8, efficiency=BARE)
    # All 16 GB of experts once, 4 GB of dense weights on each of 8 ranks.
    assert decode_step(replica, 1e6, 0.0).bytes_moved[0] == pytest.approx(16e9 + 8 * 4e9)
    one = decode_step(replica, 8.0, 0.0).bytes_moved[0]
    assert one == pytest.approx(16e9 * (1 - 0.75**8) + 8 * 4e9)  # eight tokens of eight ranks choose together


def test_an_uneven_load_slows_the_busiest_chip_of_an_expert_group_only() -> None:
    chip = an_accelerator(memory_bytes_per_second=1e15)
    even, uneven = (replace(BARE, imbalance=one) for one in (1.0, 1.5))
    spread_out = [decode_step(spread(a_moe(), chip, 8, 1, 8, efficiency=e), 8000.0, 1.0) for e in (even, uneven)]
    assert spread_out[1].seconds[0] > 1.2 * spread_out[0].seconds[0]
    sharded = [decode_step(spread(a_moe(), chip, 8, 8, 1, efficiency=e), 8000.0, 1.0) for e in (even, uneven)]
    assert sharded[1].seconds == sharded[0].seconds


def test_chance_fills_the_chips_of_an_expert_group_unevenly_while_tokens_are_few() -> None:
    chip = an_accelerator()
    one = spread(a_moe(experts=64, experts_per_token=2), chip, 8, 8, 8, efficiency=BARE)
    few, many = (
        decode_step(one, n, 0.0).memory_seconds[0]
        / decode_step(replace(one, expert_parallel=1), n, 0.0).memory_seconds[0]
        for n in (16.0, 4000.0)
    )
    assert many == pytest.approx(1.0)  # every expert of every chip is touched
    # Of 64 experts 25.4 are touched, 3.2 a chip; the busiest of 8 has sqrt(ln 8) deviations more.
    touched = 1 - (31 / 32) ** 16
    read = touched + np.sqrt(np.log(8) * touched * (1 - touched) / 8)
    dense = 4e9 / 16e9
    assert few == pytest.approx((read + dense) / (touched + dense))


def test_no_chip_of_an_expert_group_reads_more_experts_than_it_holds() -> None:
    one = spread(a_moe(), an_accelerator(), 8, 1, 8, efficiency=replace(BARE, imbalance=2.0))
    step = decode_step(one, np.array([8.0, 800.0]), 0.0)
    assert (step.memory_seconds <= (16e9 / 8 + 4e9) / one.accelerator.memory_bytes_per_second * (1 + 1e-9)).all()


def test_small_messages_go_everywhere_at_once_and_large_ones_round() -> None:
    eff = replace(BARE, bulk_seconds=100e-6)
    small, large = (
        decode_step(spread(a_model(), an_accelerator(), 4, 4, 1, efficiency=eff), n, 1.0).communication_seconds[0]
        for n in (50.0, 50_000.0)
    )
    assert small == pytest.approx(20 * 3 * 50 * 2000 / 100e9)  # three copies of 100 kB, 20 times
    assert large == pytest.approx(20 * (1.5 * 50_000 * 2000 / 100e9 + 100e-6))


@settings(deadline=None, max_examples=60)
@given(models, accelerators, forms, st.floats(1, 50_000))
def test_time_rises_with_batch_and_context_in_every_form(model, accelerator, form, context) -> None:
    chips, tp, ep = form
    assume(can_run(accelerator, chips))
    replica = spread(model, accelerator, chips, tp, ep)
    step = decode_step(replica, chips * batches, context).seconds
    assert np.isfinite(step).all()
    assert (np.diff(step) >= -1e-12).all()
    assert (decode_step(replica, chips * batches, 2 * context).seconds >= step * (1 - 1e-12)).all()
    one, two = prefill(replica, np.array([context, 2 * context]), 0.0).seconds
    assert two >= one


@settings(deadline=None, max_examples=60)
@given(models, accelerators, forms, st.floats(1, 50_000), st.sampled_from(["Bf16", "Fp8", "Fp4"]))
def test_no_form_passes_the_peaks(model, accelerator, form, context, weights) -> None:
    chips, tp, ep = form
    assume(can_run(accelerator, chips) and accelerator.compute_precision(weights))
    replica = spread(model, accelerator, chips, tp, ep, weights=weights, kv="Fp8")
    for timing, part in (
        (decode_step(replica, chips * batches, context), 1.0),
        (prefill(replica, batches, context), 1.0 / replica.data_parallel),
        (prefill(replica, batches, context), 1.0 / replica.data_parallel),
    ):
        assert (timing.flops / timing.seconds <= part * replica.peak_flops * (1 + 1e-9)).all()
    step = decode_step(replica, chips * batches, context)
    assert (step.bytes_moved / step.seconds <= replica.memory_bytes_per_second * (1 + 1e-9)).all()


@settings(deadline=None, max_examples=60)
@given(models, accelerators, st.sampled_from([1, 2, 4]), st.floats(1, 50_000))
def test_more_chips_read_memory_no_slower(model, accelerator, chips, context) -> None:
    assume(can_run(accelerator, 2 * chips))
    narrow, wide = (
        decode_step(Replica(model, accelerator, n, "Bf16", "Bf16"), batches, context).memory_seconds
        for n in (chips, 2 * chips)
    )
    if model.mla_latent:  # every rank holds the whole latent: only the weights divide
        narrow, wide = (
            decode_step(Replica(model, accelerator, n, "Bf16", "Bf16"), batches, 0.0).memory_seconds
            for n in (chips, 2 * chips)
        )
    assert (wide <= narrow * (1 + 1e-9)).all()


def test_an_expert_group_inside_a_domain_beats_one_across_it() -> None:
    inside, across = ACCELERATORS["gb200-nvl72"], replace(ACCELERATORS["gb200-nvl72"], scale_up_domain=8)
    r1 = MODELS["deepseek-r1"]
    times = [
        decode_step(spread(r1, chip, 64, 1, 64, weights="Fp4", kv="Fp8"), 64 * 128.0, 4000.0)
        for chip in (inside, across)
    ]
    assert times[1].communication_seconds[0] > 5 * times[0].communication_seconds[0]
    assert times[1].seconds[0] > times[0].seconds[0]
    small = [
        decode_step(spread(r1, chip, 8, 1, 8, weights="Fp4", kv="Fp8"), 8 * 128.0, 4000.0).seconds[0]
        for chip in (inside, across)
    ]
    assert small[0] == small[1]  # eight chips fit both


def most_tokens_per_chip(replica: Replica, context: float) -> float:
    """Decode tokens per second and chip at the largest batch whose KV fits."""
    room = replica_memory(replica).kv_room * replica.chips
    most = room / kv_bytes(replica.model, replica.kv, replica.tp, context)
    batch = np.geomspace(1.0, most, 60)
    return float((batch / decode_step(replica, batch, context).seconds).max() / replica.chips)


def test_wide_expert_parallelism_beats_tensor_parallelism_for_deepseek_r1_as_published() -> None:
    # LMSYS, 2025-05: up to 5 times the output of TP16 on the same H100s.
    r1, chip = MODELS["deepseek-r1"], ACCELERATORS["h100-sxm"]
    wide = most_tokens_per_chip(spread(r1, chip, 72, 1, 72, weights="Fp8", kv="Fp8"), 3000.0)
    narrow = most_tokens_per_chip(spread(r1, chip, 16, 16, 1, weights="Fp8", kv="Fp8"), 3000.0)
    assert 3.0 < wide / narrow < 12.0


def test_deepseek_s_decode_pool_without_overlap() -> None:
    # open-infra-index, day 6: 14.8k tokens/s a node of eight H800, EP144, 20 to 22 tokens/s a user, 4,989 tokens of KV.
    pool = spread(MODELS["deepseek-r1"], ACCELERATORS["h800-sxm"], 144, 1, 144, weights="Fp8", kv="Bf16")
    batch = 144 * np.arange(10.0, 400.0)
    step = decode_step(pool, batch, 4989.0).seconds
    at = int(np.searchsorted(step, 1 / 21))
    assert batch[at] / 144 * 8 / step[at] == pytest.approx(14_800, rel=0.15)
    hidden = replace(pool, efficiency=replace(pool.reached, overlap=1.0))
    faster = decode_step(hidden, batch, 4989.0).seconds
    at = int(np.searchsorted(faster, 1 / 21))
    assert 14_800 <= batch[at] / 144 * 8 / faster[at] <= 2.3 * 14_800


def test_speculation_multiplies_throughput_while_memory_binds_and_not_beyond() -> None:
    plain = Replica(MODELS["llama-3.1-70b"], ACCELERATORS["h200-sxm"], 2, "Fp8", "Fp8")
    guessing = replace(plain, speculation=Speculation(tokens=4, accept_length=2.5, draft_share=0.05))
    few, many = (
        decode_step(plain, n, 2000.0).seconds / decode_step(guessing, n, 2000.0).seconds for n in (4.0, 2048.0)
    )
    assert 2.0 < few[0] < 2.5
    assert many[0] < 1.0  # four times the arithmetic for 2.5 times the tokens
    useless = replace(plain, speculation=Speculation(tokens=4, accept_length=1.0, draft_share=0.05))
    assert decode_step(useless, 4.0, 2000.0).seconds[0] > decode_step(plain, 4.0, 2000.0).seconds[0]


def test_each_sequence_s_drafts_take_a_time_of_their_own_to_verify() -> None:
    plain = a_replica(efficiency=replace(BARE, verify_seconds=1e-3))
    guessing = replace(plain, speculation=Speculation(tokens=3, accept_length=2.0, draft_share=0.0))
    free = replace(guessing, efficiency=BARE)
    slower, faster = (decode_step(one, batches, 100.0).seconds for one in (guessing, free))
    assert slower - faster == pytest.approx(batches * 1e-3 / 2.0)  # a step yields two tokens
    assert decode_step(plain, batches, 100.0).seconds == pytest.approx(
        decode_step(replace(plain, efficiency=BARE), batches, 100.0).seconds
    )


def test_speculation_s_figures_are_for_one_token_of_each_sequence() -> None:
    plain = a_replica()
    guessing = replace(plain, speculation=Speculation(tokens=3, accept_length=2.0, draft_share=0.0))
    one, other = (decode_step(x, 4.0, 1000.0) for x in (plain, guessing))
    assert other.flops[0] == pytest.approx(1.5 * one.flops[0])
    assert other.bytes_moved[0] == pytest.approx(0.5 * one.bytes_moved[0])  # weights and KV once for two tokens


def test_storage_and_arithmetic_precision_are_apart() -> None:
    oss = MODELS["gpt-oss-120b"]
    stored = Replica(oss, ACCELERATORS["h200-sxm"], 1, "Fp4", "Bf16")
    wide = Replica(oss, ACCELERATORS["h200-sxm"], 2, "Bf16", "Bf16")
    assert stored.peak_flops == ACCELERATORS["h200-sxm"].flops["Bf16"]
    small, large = (decode_step(x, 1e5, 0.0) for x in (stored, wide))
    assert small.bytes_moved[0] < 0.35 * large.bytes_moved[0]
    assert small.flops[0] == large.flops[0]
    asked = replace(stored, compute="Fp8")
    assert asked.peak_flops == ACCELERATORS["h200-sxm"].flops["Fp8"]


def test_latent_attention_decodes_on_the_latent_and_prefills_on_heads() -> None:
    r1 = MODELS["deepseek-r1"]
    # 2 * 61 layers * 128 heads * (576 + 512) and 4 * 61 * 128 * (192 + 128) / 2.
    assert r1.decode_attention_flops == 2 * 61 * 128 * 1088
    assert r1.attention_flops == 4 * 61 * 128 * 160
    assert MODELS["llama-3.1-8b"].decode_attention_flops == MODELS["llama-3.1-8b"].attention_flops


def test_a_latent_cache_is_stored_on_every_tensor_parallel_rank_and_once_with_ranks_of_one() -> None:
    r1, chip = MODELS["deepseek-r1"], ACCELERATORS["h200-sxm"]
    sharded, ranks = spread(r1, chip, 8, 8, 1), spread(r1, chip, 8, 1, 8)
    for replica, copies in ((sharded, 8), (ranks, 1)):
        longer = decode_step(replica, 64.0, 2000.0).bytes_moved - decode_step(replica, 64.0, 1000.0).bytes_moved
        assert longer[0] == pytest.approx(64 * 1000 * 70_272 * copies)


def test_the_output_head_works_on_one_token_of_a_prompt_and_the_input_embedding_is_not_read() -> None:
    headed = a_model(embedding_parameters=2e8, vocabulary=100_000)  # 1e8 each for input and output
    one = prefill(a_replica(headed), 1000.0, 0.0)
    attention = 4 * 10 * 10 * 100 * 1000 * 500
    assert one.flops[0] == pytest.approx(2 * 9.8e9 * 1000 + 2 * 1e8 + attention)
    assert decode_step(a_replica(headed), 1.0, 0.0).bytes_moved[0] == pytest.approx(2 * 9.9e9)


def test_lengths_and_batches_broadcast_and_agree_with_single_calls() -> None:
    replica = spread(MODELS["gpt-oss-120b"], ACCELERATORS["h100-sxm"], 2, 2, 1, weights="Fp4", kv="Fp8")
    batch, context = np.array([[1.0], [40.0]]), np.array([50.0, 900.0, 20_000.0])
    grid = decode_step(replica, batch, context)
    assert grid.seconds.shape == (2, 3)
    assert grid.bytes_moved[1, 2] == decode_step(replica, 40.0, 20_000.0).bytes_moved[0]
    assert grid.seconds[0, 1] == decode_step(replica, 1.0, 900.0).seconds[0]
    many = prefill(replica, np.array([10.0, 4000.0]), np.array([0.0, 300.0]))
    assert many.seconds[1] == prefill(replica, 4000.0, 300.0).seconds[0]


def test_unknown_links_make_a_group_infinitely_slow_and_not_free() -> None:
    island = an_accelerator(scale_up_bytes_per_second=0.0, scale_out_bytes_per_second=0.0)
    assert np.isinf(decode_step(spread(a_moe(), island, 8, 1, 8), 8.0, 10.0).seconds[0])
    assert np.isinf(decode_step(spread(a_model(), island, 2, 2, 1), 8.0, 10.0).seconds[0])
    assert np.isfinite(decode_step(spread(a_model(), island, 2, 1, 1), 8.0, 10.0).seconds[0])
