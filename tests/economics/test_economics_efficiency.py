"""Starting values: what stands behind them, and what they are for hardware that nobody measured."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from economics_builders import ACCELERATORS, MODELS, a_model, a_moe, a_replica, an_accelerator

from tidefleet.economics.efficiency import Efficiency, generation_of, starting_values
from tidefleet.economics.releases import is_older
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill

PRECISIONS = ("Bf16", "Fp8", "Fp4")
SHARES = ("compute", "memory", "network", "expert_compute", "expert_memory", "attention_compute", "attention_memory")


@pytest.mark.parametrize("name", sorted(ACCELERATORS))
def test_every_share_of_a_peak_is_above_0_and_below_1_and_every_cost_positive(name: str) -> None:
    for precision in PRECISIONS:
        for wide in (False, True):
            found = starting_values(name, precision, wide=wide).efficiency
            assert all(0 < getattr(found, share) < 1 for share in SHARES)
            assert found.imbalance >= 1.0
            assert all(getattr(found, one.name) > 0 for one in fields(found) if one.name.endswith("_seconds"))


def test_groups_across_nodes_hide_communication_and_balance_their_ranks_and_narrow_ones_do_neither() -> None:
    chip, model = ACCELERATORS["h100-sxm"], MODELS["deepseek-v3"]
    narrow, wide, alone = (
        Replica(model, chip, n, "Fp8", "Bf16", tensor_parallel=tp, expert_parallel=n).reached
        for n, tp in ((8, 1), (32, 1), (8, 8))
    )
    assert (narrow.overlap, alone.overlap) == (0.0, 0.0)
    assert 0.0 < wide.overlap < 1.0
    rack = Replica(model, ACCELERATORS["gb200-nvl72"], 32, "Fp8", "Bf16", tensor_parallel=1, expert_parallel=32)
    assert (rack.reached.overlap, rack.reached.rank_imbalance) == (0.0, 1.0)
    assert (wide.rank_imbalance, alone.rank_imbalance) == (1.0, 1.0)
    assert narrow.rank_imbalance > 1.0


def test_wide_groups_without_kernels_made_for_them_are_no_better_than_narrow_ones() -> None:
    amd, four_bit, known = (
        Replica(MODELS[model], ACCELERATORS[chip], 16, weights, "Bf16", tensor_parallel=1, expert_parallel=16).reached
        for model, chip, weights in (
            ("deepseek-v3", "mi300x", "Fp8"),
            ("gpt-oss-120b", "h100-sxm", "Fp4"),  # expanded to 16 bits on their way
            ("deepseek-v3", "h100-sxm", "Fp8"),
        )
    )
    assert (amd.overlap, four_bit.overlap) == (0.0, 0.0)
    assert min(amd.rank_imbalance, four_bit.rank_imbalance) > 1.0
    assert known.overlap > 0.0
    assert amd.expert_compute < four_bit.expert_compute < known.expert_compute


def test_only_generations_with_measurements_are_called_fitted() -> None:
    told = {name: starting_values(name, "Bf16").provenance for name in ACCELERATORS}
    fitted = {name for name, provenance in told.items() if provenance == "Fitted"}
    assert {"h100-sxm", "h200-sxm", "b200-sxm", "b300-sxm", "gb200-nvl72"} <= fitted
    assert not fitted & {"mi300x", "mi355x", "tpu-v6e", "a100-sxm-80", "l40s", "gaudi3", "rubin-vr-nvl72", "t4"}


def test_an_uncalibrated_value_says_so_in_its_source_and_is_less_sure() -> None:
    known, unknown = starting_values("h100-sxm", "Fp8"), starting_values("mi300x", "Fp8")
    assert "assumed" in unknown.source
    assert "assumed" not in known.source
    assert unknown.sigma > known.sigma
    assert starting_values("h100-sxm", "Fp8", experts=True).sigma > known.sigma


def test_a_generation_is_read_from_the_whole_family_name() -> None:
    assert generation_of("h20") == "Hopper"
    assert generation_of("h200-sxm") == "Hopper"
    assert generation_of("gb300-nvl72") == "Blackwell"
    assert generation_of("b2000-future") == ""
    assert generation_of("") == ""


def test_four_bit_arithmetic_reaches_less_of_its_peak_than_eight_bit() -> None:
    four, eight, sixteen = (starting_values("b200-sxm", one).efficiency.compute for one in ("Fp4", "Fp8", "Bf16"))
    assert four < eight < sixteen
    peak = ACCELERATORS["b200-sxm"].flops
    assert four * peak["Fp4"] > eight * peak["Fp8"] > sixteen * peak["Bf16"]  # and is faster all the same


def test_engines_differ_by_what_a_step_costs_outside_its_layers() -> None:
    steps = {
        one: starting_values("h100-sxm", "Fp8", engine=one).efficiency.step_seconds
        for one in ("vllm", "sglang", "trtllm", "TRTLLM", "unheard-of", "")
    }
    assert steps["trtllm"] < steps["vllm"] < steps["sglang"]
    assert steps["TRTLLM"] == steps["trtllm"]
    assert steps["unheard-of"] == steps[""] == steps["vllm"]


def test_a_replica_without_an_efficiency_takes_the_starting_values_and_one_with_keeps_its_own() -> None:
    model, chip = MODELS["llama-3.1-8b"], ACCELERATORS["h100-sxm"]
    assert Replica(model, chip, 1, "Fp8", "Fp8", engine="sglang").reached == (
        starting_values("h100-sxm", "Fp8", engine="sglang").efficiency
    )
    given = Efficiency(compute=0.3)
    assert Replica(model, chip, 1, "Fp8", "Fp8", given).reached is given


def test_moving_a_replica_to_another_accelerator_looks_the_values_up_again() -> None:
    here = Replica(MODELS["llama-3.1-8b"], ACCELERATORS["h100-sxm"], 1, "Bf16", "Bf16")
    there = replace(here, accelerator=ACCELERATORS["b200-sxm"])
    assert there.reached.memory < here.reached.memory


def test_a_model_whose_experts_alone_are_quantised_computes_the_rest_in_16_bits() -> None:
    oss, chip = MODELS["gpt-oss-120b"], ACCELERATORS["b200-sxm"]
    replica = Replica(oss, chip, 1, "Fp4", "Fp8")
    assert (replica.precision, replica.dense_precision) == ("Fp4", "Bf16")
    assert replica.reached.compute == starting_values("b200-sxm", "Bf16").efficiency.compute
    on_hopper = Replica(oss, ACCELERATORS["h100-sxm"], 1, "Fp4", "Fp8")
    assert on_hopper.precision == "Bf16"  # no 4-bit arithmetic there: stored in 4, computed in 16


def test_unset_shares_follow_the_dense_ones() -> None:
    plain = a_replica(a_moe(), efficiency=Efficiency(compute=0.4, memory=0.6))
    said = a_replica(
        a_moe(),
        efficiency=Efficiency(
            compute=0.4,
            memory=0.6,
            expert_compute=0.4,
            expert_memory=0.6,
            attention_compute=0.4,
            attention_memory=0.6,
        ),
    )
    batch = np.array([1.0, 50.0, 2000.0])
    assert decode_step(plain, batch, 500.0).seconds == pytest.approx(decode_step(said, batch, 500.0).seconds)
    assert prefill(plain, 700.0, 10.0).seconds == pytest.approx(prefill(said, 700.0, 10.0).seconds)


def test_fixed_costs_add_up() -> None:
    free = a_replica(a_moe(), efficiency=Efficiency(layer_seconds=0.0))
    costly = a_replica(
        a_moe(moe_layers=6),
        efficiency=Efficiency(layer_seconds=1e-3, moe_layer_seconds=1e-4, step_seconds=2e-2, sequence_seconds=1e-5),
    )
    more = decode_step(costly, 100.0, 500.0)
    # 10 layers at 1 ms, 6 of them with experts at 0.1 ms more, 20 ms a step and 100 sequences at 10 us: 31.6 ms.
    assert more.seconds[0] - decode_step(free, 100.0, 500.0).seconds[0] == pytest.approx(31.6e-3)
    assert more.overhead_seconds[0] == pytest.approx(31.6e-3)


def test_each_layer_of_latent_attention_costs_more_and_layers_of_grouped_queries_do_not() -> None:
    costly = Efficiency(latent_layer_seconds=1e-3)
    for model, more in ((a_moe(mla_latent=576, mla_rope=64), 10e-3), (a_moe(), 0.0)):
        for step in (lambda one: decode_step(one, 8.0, 500.0), lambda one: prefill(one, 300.0, 0.0)):
            with_it, without = (step(a_replica(model, efficiency=one)).seconds[0] for one in (costly, Efficiency()))
            assert with_it - without == pytest.approx(more)


def test_blackwell_starts_kernels_faster_than_hopper_and_reads_dense_layers_of_4_bits_slower_than_of_8() -> None:
    old, new = (starting_values(one, "Fp8").efficiency for one in ("h200-sxm", "b200-sxm"))
    for name in ("layer_seconds", "moe_layer_seconds", "latent_layer_seconds"):
        assert getattr(new, name) < getattr(old, name)
    four, only_experts = (starting_values("b200-sxm", "Fp4", dense_precision=one).efficiency for one in ("", "Bf16"))
    assert four.memory < 0.7 * new.memory
    assert only_experts.memory == new.memory
    assert four.expert_memory == new.expert_memory


def test_padding_slows_experts_with_few_tokens_and_hardly_those_with_many() -> None:
    # Hidden under weight reads with one token; 2,000 tokens are 500 for each expert, so 25 more are 5 % of compute.
    bare = a_replica(a_moe(), an_accelerator(memory_bytes_per_second=1e15), efficiency=Efficiency(layer_seconds=0.0))
    padded = a_replica(
        a_moe(),
        an_accelerator(memory_bytes_per_second=1e15),
        efficiency=Efficiency(layer_seconds=0.0, expert_padding=25.0),
    )
    few, many = (decode_step(padded, n, 1.0).seconds[0] / decode_step(bare, n, 1.0).seconds[0] for n in (4.0, 2000.0))
    assert few > 5.0
    assert 1.0 < many < 1.05
    assert decode_step(padded, 4.0, 1.0).flops == decode_step(bare, 4.0, 1.0).flops  # padding is no useful work


def test_a_dense_model_pays_nothing_for_experts() -> None:
    one = a_replica(a_model(), efficiency=Efficiency())
    other = a_replica(a_model(), efficiency=Efficiency(expert_compute=0.01, expert_padding=64.0, moe_layer_seconds=1.0))
    assert decode_step(one, 8.0, 100.0).seconds == decode_step(other, 8.0, 100.0).seconds


def test_accelerators_known_by_a_few_figures_reach_less_and_still_count_as_uncalibrated() -> None:
    amd, hopper = (starting_values(one, "Fp8") for one in ("mi300x", "h100-sxm"))
    assert amd.efficiency.memory < hopper.efficiency.memory
    assert amd.efficiency.layer_seconds > hopper.efficiency.layer_seconds
    assert amd.provenance == "Uncalibrated"
    assert "few published figures" in amd.source


def test_experts_spread_over_more_than_a_node_run_on_kernels_of_their_own() -> None:
    r1, chip = MODELS["deepseek-r1"], ACCELERATORS["h800-sxm"]
    narrow = Replica(r1, chip, 8, "Fp8", "Bf16", tensor_parallel=1, expert_parallel=8)
    wide = Replica(r1, chip, 144, "Fp8", "Bf16", tensor_parallel=1, expert_parallel=144)
    assert wide.reached.expert_compute > 3 * narrow.reached.expert_compute
    assert wide.reached.compute == narrow.reached.compute


@pytest.mark.parametrize(
    ("engine", "version", "older"),
    [
        ("vllm", "0.10.2", True),
        ("vllm", "v0.11.0", True),
        ("vllm", "0.11.2", False),
        ("vllm", "0.9.1", False),  # no run of it beside a recent one
        ("vllm", "", False),
        ("SGLang", "0.5.6.post2", True),
        ("sglang", "0.5.10.post1", False),
        ("trtllm", "1.1.0rc2.post2", True),
        ("trtllm", "1.2.0rc0.post1", True),
        ("trtllm", "1.2.0rc2", False),
        ("trtllm", "1.2.0", False),
        ("trtllm", "1.0.0rc3", False),
        ("trtllm", "gpt-oss-dev", False),
        ("lmdeploy", "0.10.2", False),
    ],
)
def test_a_release_is_older_where_public_runs_hold_it_beside_recent_ones(engine, version, older) -> None:
    assert is_older(engine, version) is older


def test_an_older_release_takes_longer_with_experts_and_no_longer_without() -> None:
    for model, slower in (("gpt-oss-120b", 1.14), ("llama-3.3-70b", 1.0)):
        recent = Replica(MODELS[model], ACCELERATORS["h100-sxm"], 1, "Fp4", "Bf16", engine="vllm")
        older = replace(recent, engine_version="0.10.2")
        times = [decode_step(one, 8.0, 1000.0).seconds[0] for one in (older, recent)]
        assert times[0] / times[1] == pytest.approx(slower, rel=0.02)
        assert replace(recent, engine_version="0.18.0").reached == recent.reached
