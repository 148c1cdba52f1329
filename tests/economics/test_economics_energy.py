"""Power follows what a chip executes and moves, never passes its TDP, and hits save what their prefill would take."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from economics_builders import ACCELERATORS, MODELS, a_moe, a_replica, accelerators, an_accelerator, models
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.economics.energy import (
    avoided_joules,
    chip_watts,
    executed_flops,
    facility_watts,
    joules_per_token,
    needed_flops,
    prefill_joules,
    prompt_of,
    replica_watts,
    step_of,
    tokens_per_joule,
    worked_watts,
)
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import TokenShape

shares = st.floats(0.0, 1.0)


def test_power_follows_the_law_of_the_measured_runs() -> None:
    h100 = ACCELERATORS["h100-sxm"]
    # 700 * (1 - exp(-(0.794 * 0.5 + 4.717 * 0.1^0.6))) = 700 * (1 - exp(-1.5819))
    assert chip_watts(h100, batch=64, memory_use=0.5, compute_use=0.1) == pytest.approx(556.1, abs=0.2)
    b200 = ACCELERATORS["b200-sxm"]  # 1.609 and 1.593 times the bandwidth and the FLOP/s for each watt
    # 1000 * (1 - exp(-(0.794 * 1.609 * 0.5 + 4.717 * 0.1593^0.6))) = 1000 * (1 - exp(-2.206))
    assert chip_watts(b200, batch=64, memory_use=0.5, compute_use=0.1) == pytest.approx(890, abs=1)


@settings(deadline=None)
@given(accelerators, st.floats(1, 4096), shares, shares)
def test_power_stays_between_idle_and_tdp_and_rises_with_use(chip, batch, memory, compute) -> None:
    if chip.tdp_watts is None or "Bf16" not in chip.flops:
        assert chip_watts(chip, batch=batch, memory_use=memory, compute_use=compute) is None
        return
    chip = replace(chip, idle_watts=0.1 * chip.tdp_watts)
    found = chip_watts(chip, batch=batch, memory_use=memory, compute_use=compute)
    most = chip_watts(chip, batch=batch, memory_use=1.0, compute_use=1.0)
    assert found is not None
    assert most is not None
    assert 0.1 * chip.tdp_watts <= found <= most <= chip.tdp_watts


def test_power_is_unknown_without_a_tdp_or_a_peak() -> None:
    assert chip_watts(an_accelerator(), batch=64, memory_use=0.5, compute_use=0.1) is None
    assert chip_watts(an_accelerator(tdp_watts=700, flops={}), batch=64, memory_use=0.5, compute_use=0.1) is None
    assert prefill_joules(a_replica(), 1000.0) is None
    assert avoided_joules(a_replica(), hit=1000.0, uncached=10.0) is None


def test_a_batch_below_a_tile_costs_the_whole_tile() -> None:
    model = MODELS["llama-3.1-8b"]
    assert executed_flops(model, "Bf16", 1) == executed_flops(model, "Bf16", 16) == needed_flops(model, 16)
    assert executed_flops(model, "Bf16", 100) == needed_flops(model, 100)
    assert executed_flops(model, "Bf16", 8, ranks=8) == needed_flops(model, 8 * 16)


def test_an_expert_computes_a_tile_at_least() -> None:
    # 8 experts of 1e9 parameters, 2 chosen by the one token; 2e9 dense parameters.
    model = a_moe()
    assert executed_flops(model, "Bf16", 1) == pytest.approx(2 * (2e9 * 16 + 2 * 1e9 * 16))
    # 1,000 tokens: every expert has 250 rows and wastes half a tile of 16.
    assert executed_flops(model, "Bf16", 1000) == pytest.approx(2 * (2e9 * 1000 + 8e9 * 258))


def test_block_scaled_fp8_experts_pad_to_the_block() -> None:
    model = a_moe(fp8_block=128)
    assert executed_flops(model, "Fp8", 1) == pytest.approx(2 * (2e9 * 16 + 2 * 1e9 * 128))
    assert executed_flops(model, "Bf16", 1) == executed_flops(a_moe(), "Bf16", 1)


@settings(deadline=None)
@given(models, st.sampled_from(["Bf16", "Fp8", "Fp4"]), st.floats(1, 1e5))
def test_never_less_is_executed_than_needed(model, weights, tokens) -> None:
    assert executed_flops(model, weights, tokens) >= needed_flops(model, tokens) * (1 - 1e-9)


def test_several_attention_ranks_draw_more_than_one() -> None:
    chip = an_accelerator(tdp_watts=700.0)
    together = Replica(a_moe(), chip, 8, "Bf16", "Bf16", tensor_parallel=8, expert_parallel=8)
    apart = replace(together, tensor_parallel=1)
    work = {"tokens": 64.0, "steps_per_second": 20.0, "bytes_per_second": 1e12, "flops_per_second": 1e13}
    assert replica_watts(apart, **work) > replica_watts(together, **work)


def a_served_replica() -> Replica:
    return Replica(MODELS["llama-3.1-8b"], ACCELERATORS["h100-sxm"], 1, "Bf16", "Bf16")


def test_prefill_draws_nearly_the_tdp() -> None:
    replica = a_served_replica()
    joules = prefill_joules(replica, 8192.0)
    assert joules is not None
    needed = needed_flops(replica.model, 8192)
    least = needed / replica.peak_flops * 700  # at full speed and TDP
    assert least < joules < 3 * least


def test_ranks_prefill_side_by_side_so_a_request_pays_for_its_own() -> None:
    alone = a_served_replica()
    ranks = replace(alone, chips=4, tensor_parallel=1)
    one, of_four = prefill_joules(alone, 2048.0), prefill_joules(ranks, 2048.0)
    assert one is not None
    assert of_four is not None
    assert one <= of_four <= 1.5 * one


def test_a_hit_saves_its_prefill_less_the_fetch() -> None:
    replica = a_served_replica()
    whole, rest = prefill_joules(replica, 4096.0), prefill_joules(replica, 96.0, 4000.0)
    assert whole is not None
    assert rest is not None
    assert avoided_joules(replica, hit=4000.0, uncached=96.0) == pytest.approx(whole - rest)
    assert avoided_joules(replica, hit=4000.0, uncached=96.0, fetch_seconds=0.02, fetch_watts=100.0) == pytest.approx(
        whole - rest - 2.0
    )
    assert avoided_joules(replica, hit=4000.0, uncached=0.0) == pytest.approx(prefill_joules(replica, 4000.0))


def test_joules_per_token_and_tokens_per_joule_are_inverse() -> None:
    assert joules_per_token(700.0, 8, 5600.0) == 1.0
    assert tokens_per_joule(700.0, 8, 5600.0) == 1.0
    assert joules_per_token(700.0, 8, 0.0) == math.inf
    assert tokens_per_joule(0.0, 8, 10.0) == 0.0


def test_the_facility_adds_host_network_and_cooling() -> None:
    chip = an_accelerator(tdp_watts=700.0, facility_watts=1730.0)
    assert facility_watts(chip, 700.0, pue=1.2) == 1730.0
    assert facility_watts(chip, 600.0, pue=1.2) == pytest.approx(1730.0 - 120.0)
    assert facility_watts(an_accelerator(tdp_watts=700.0), 600.0, pue=1.2) == pytest.approx(720.0)


@pytest.mark.parametrize("pue", [0.9, math.nan, math.inf])
def test_an_impossible_pue_is_an_error_with_an_example(pue: float) -> None:
    with pytest.raises(ValueError, match=r"pue is .*e\.g\. 1\.2"):
        facility_watts(an_accelerator(), 600.0, pue=pue)


def test_a_replica_at_its_operating_point_draws_what_its_estimate_says_and_less_when_it_idles() -> None:
    chip = replace(ACCELERATORS["h100-sxm"], idle_watts=70.0)
    shape = TokenShape(1200.0, 300.0, cached_share=0.25)
    one = estimate(Replica(MODELS["llama-3.1-8b"], chip, 1, "Bf16", "Bf16"), shape)
    assert isinstance(one, Estimate)
    assert one.watts_per_chip is not None
    step = step_of(one.replica, one.batch, shape.input_mean + shape.output_mean / 2.0)
    prompt = prompt_of(one.replica, shape.uncached, shape.cached)
    rate = one.requests_per_second

    def drawn(share: float) -> float | None:
        steps = share * rate * shape.output_mean / one.batch
        return worked_watts(
            one.replica, busy=share, batch=one.batch, steps=(steps, step), prompts=(share * rate, prompt)
        )

    assert drawn(1.0) == pytest.approx(one.watts_per_chip, rel=1e-6)
    assert drawn(0.25) == pytest.approx(0.25 * one.watts_per_chip + 0.75 * 70.0, rel=1e-6)
    assert drawn(0.0) == 70.0
    assert prompt_of(one.replica, 0.0, 500.0).flops == 0.0
