"""The operating point of a replica: objectives, limits, physics, and published throughput."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from economics_builders import (
    ACCELERATORS,
    MODELS,
    NATIVE,
    a_model,
    a_replica,
    accelerators,
    an_accelerator,
    models,
    precisions,
    published,
    served,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tidefleet.economics.efficiency import Efficiency
from tidefleet.economics.evidence import Correction
from tidefleet.economics.memory import kv_bytes, kv_bytes_per_token
from tidefleet.economics.queueing import variation_of, wait_at
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill
from tidefleet.economics.serving import CannotServe, Estimate, estimate, is_physical
from tidefleet.economics.shape import KvTier, Objective, TierHit, TokenShape

CHAT = TokenShape(input_mean=1000, output_mean=250)
widths = st.sampled_from([1, 2, 4, 8, 16])
shapes = st.builds(
    TokenShape,
    input_mean=st.floats(1, 50_000),
    output_mean=st.floats(0, 20_000),
    input_p95=st.floats(0, 120_000),
    output_p95=st.floats(0, 50_000),
    cached_share=st.floats(0, 1),
)
objectives = st.lists(
    st.builds(
        Objective,
        metric=st.sampled_from(["TTFT", "TPOT", "FirstVisibleToken", "Turn"]),
        seconds=st.floats(0.001, 100),
        percentile=st.sampled_from([50.0, 90.0, 95.0, 99.0]),
        seconds_per_thousand_input_tokens=st.floats(0, 1),
    ),
    max_size=3,
).map(tuple)
CAUSES = {"Memory", "Unprofiled", "Context", "TTFT", "TPOT", "FirstVisibleToken", "Turn"}


# --- physics ---------------------------------------------------------------------------------------------------------


def physical(found: Estimate | CannotServe) -> None:
    if isinstance(found, CannotServe):
        assert found.cause in CAUSES
        assert len(found.detail) > 20
        return
    assert is_physical(found)
    assert 0 < found.mbu <= 1
    assert 0 < found.mfu <= 1
    assert found.batch > 0
    assert 0 <= found.prefill_share < 1
    assert 0 <= found.cached_share_of_prefill <= 1
    for value in (found.tpot_seconds, found.ttft_seconds, found.requests_per_second, found.output_tokens_per_second):
        assert math.isfinite(value)
        assert value > 0
    chip = found.replica.accelerator
    if found.watts_per_chip is not None:
        assert 0 < found.watts_per_chip <= chip.tdp_watts


@settings(deadline=None, max_examples=200)
@given(
    st.builds(Replica, models, accelerators, widths, precisions, st.sampled_from(["Bf16", "Fp8"])), shapes, objectives
)
def test_no_estimate_of_any_shipped_model_on_any_shipped_accelerator_beats_physics(replica, shape, asked) -> None:
    physical(estimate(replica, shape, asked))


def test_physics_holds_for_every_pair_at_every_width() -> None:
    for model in MODELS.values():
        for accelerator in ACCELERATORS.values():
            for chips in (1, 8):
                physical(estimate(Replica(model, accelerator, chips, model.native_weights, "Bf16"), CHAT))


def test_perfect_efficiency_reaches_the_peaks_and_does_not_pass_them() -> None:
    ideal = Efficiency(compute=1.0, memory=1.0, network=1.0, layer_seconds=0.0, hop_seconds=0.0)
    lone = decode_step(a_replica(efficiency=ideal), np.array([1.0]), 1.0)
    assert lone.bytes_moved[0] / lone.seconds[0] == pytest.approx(1e12)
    busy = served(a_replica(efficiency=ideal), TokenShape(10_000, 1))
    assert busy.mfu == pytest.approx(1.0, abs=0.01)
    assert is_physical(busy)


def test_an_estimate_above_the_peak_is_not_physical() -> None:
    found = served(a_replica(), CHAT)
    assert not is_physical(replace(found, mfu=1.01))
    assert not is_physical(replace(found, mbu=1.01))
    assert not is_physical(replace(found, tpot_seconds=math.inf))


# --- the operating point ---------------------------------------------------------------------------------------------


def test_tpot_is_a_step_and_each_tokens_share_of_prefill() -> None:
    found = served(a_replica(), CHAT, Objective("TPOT", 0.05))
    b = found.batch
    step = float(decode_step(found.replica, np.array([b]), 1125.0).seconds[0])
    one = float(prefill(found.replica, 1000.0, 0.0).seconds[0])
    assert found.tpot_seconds == pytest.approx(step + b / 250 * one)
    assert found.requests_per_second == pytest.approx(b / 250 / found.tpot_seconds)
    assert found.prefill_share == pytest.approx(found.requests_per_second * one)
    assert found.tpot_seconds <= 0.05
    assert found.limited_by == "TPOT"


@settings(deadline=None, max_examples=150)
@given(models, accelerators, st.sampled_from([1, 8]), shapes)
def test_requests_inside_follow_littles_law(model, accelerator, chips, shape) -> None:
    found = estimate(Replica(model, accelerator, chips, model.native_weights, "Bf16"), shape)
    assume(isinstance(found, Estimate))
    assert found.batch == pytest.approx(found.output_tokens_per_second * found.tpot_seconds)
    room = found.memory.kv_room * chips
    held = found.batch * kv_bytes(model, "Bf16", chips, shape.input_mean + max(1.0, shape.output_mean))
    assert held <= room * (1 + 1e-9)


def test_published_concurrency_follows_littles_law_and_its_kv_fits_the_device() -> None:
    # DS-08: 14,800 tokens/s on 8 GPUs at 21 tokens/s for each user: 88.1 requests a GPU, of 4,989 tokens on average.
    (row,) = [one for one in published("validation.csv") if one["id"] == "DS-08"]
    inside = 14_800 / 8 / 21
    assert inside == pytest.approx(float(row["value"]), rel=0.05)
    kv = inside * 4989 * kv_bytes_per_token(MODELS["deepseek-v3"], "Bf16", 1)
    assert kv == pytest.approx(30.9e9, rel=0.01)
    assert kv < 0.9 * ACCELERATORS["h100-sxm"].memory_bytes


@settings(deadline=None, max_examples=150)
@given(models, accelerators, shapes, st.floats(1.0, 3.0), st.floats(0.005, 1))
def test_longer_prompts_never_raise_the_rate(model, accelerator, shape, factor, tpot) -> None:
    replica = Replica(model, accelerator, 1, NATIVE[model.name], "Bf16")
    for asked in ((), (Objective("TPOT", tpot),)):
        short = estimate(replica, shape, asked)
        long = estimate(replica, replace(shape, input_mean=shape.input_mean * factor), asked)
        if isinstance(short, CannotServe):
            assert isinstance(long, CannotServe)
        elif isinstance(long, Estimate):
            assert long.requests_per_second <= short.requests_per_second * (1 + 1e-9)


@settings(deadline=None, max_examples=200)
@given(models, accelerators, shapes, objectives, st.floats(1.0, 10.0))
def test_a_tighter_objective_never_raises_the_rate(model, accelerator, shape, asked, factor) -> None:
    replica = Replica(model, accelerator, 1, NATIVE[model.name], "Bf16")
    loose = estimate(replica, shape, [replace(one, seconds=one.seconds * factor) for one in asked])
    tight = estimate(replica, shape, asked)
    if isinstance(loose, CannotServe):
        assert isinstance(tight, CannotServe)
    elif isinstance(tight, Estimate):
        assert tight.requests_per_second <= loose.requests_per_second * (1 + 1e-9)
        assert tight.batch <= loose.batch


@settings(deadline=None, max_examples=200)
@given(models, accelerators, shapes, st.floats(1.0, 3.0), st.floats(0.005, 1))
def test_better_bandwidth_never_hurts(model, accelerator, shape, factor, tpot) -> None:
    fast = replace(accelerator, memory_bytes_per_second=accelerator.memory_bytes_per_second * factor)
    for asked in ((), (Objective("TPOT", tpot),)):
        before = estimate(Replica(model, accelerator, 1, NATIVE[model.name], "Bf16"), shape, asked)
        after = estimate(Replica(model, fast, 1, NATIVE[model.name], "Bf16"), shape, asked)
        if isinstance(before, Estimate):
            assert isinstance(after, Estimate)
            assert after.requests_per_second >= before.requests_per_second * (1 - 1e-9)


@settings(deadline=None, max_examples=150)
@given(models, accelerators, shapes, st.floats(0.01, 1))
def test_cached_prompts_never_lower_the_rate(model, accelerator, shape, more) -> None:
    replica = Replica(model, accelerator, 8, NATIVE[model.name], "Bf16")
    cold = estimate(replica, replace(shape, cached_share=0.0))
    warm = estimate(replica, replace(shape, cached_share=more))
    assume(isinstance(cold, Estimate))
    # Short prompts are bound by reading weights: reading the cached KV too may cost a little there.
    assert warm.requests_per_second >= cold.requests_per_second * 0.97


def test_the_first_token_waits_behind_other_prompts() -> None:
    # rho = 0.5, T_p = 0.1 s: P(wait > t) = 0.5 exp(-5 t), 5 % at ln(10) / 5 = 0.4605 s: the M/M/1 queue.
    assert wait_at(95.0, service_seconds=0.1, load=np.array([0.5]))[0] == pytest.approx(0.460_517)
    assert wait_at(95.0, service_seconds=0.1, load=np.array([0.01]))[0] == 0.0  # fewer than 5 % wait at all
    # Prompts of one length wait half as long, and several ranks share the queue.
    assert wait_at(95.0, service_seconds=0.1, load=np.array([0.5]), variation=0.0)[0] == pytest.approx(0.460_517 / 2)
    assert wait_at(95.0, service_seconds=0.1, load=np.array([0.5]), servers=4)[0] < 0.460_517 / 4


def test_the_spread_of_prompt_lengths_follows_from_mean_and_p95() -> None:
    # A log-normal of s = 0.5 has p95 / mean = exp(1.6449 * 0.5 - 0.125) and CV^2 = exp(0.25) - 1.
    ratio = math.exp(1.6448536 * 0.5 - 0.125)
    assert variation_of(100.0, 100.0 * ratio) == pytest.approx(math.expm1(0.25), rel=1e-6)
    assert variation_of(100.0, 0.0) == 1.0
    assert variation_of(100.0, 1e9) <= 14.0


def test_a_first_token_objective_limits_the_load_and_not_only_the_prompt() -> None:
    free = served(a_replica(), CHAT)
    held = served(a_replica(), CHAT, Objective("TTFT", 0.9, percentile=95))
    assert held.limited_by == "TTFT"
    assert held.requests_per_second < free.requests_per_second
    assert held.ttft_seconds <= 0.9
    laxer = served(a_replica(), CHAT, Objective("TTFT", 0.9, percentile=50))
    assert laxer.requests_per_second > held.requests_per_second


def test_a_limit_may_grow_with_the_prompt() -> None:
    assert Objective("TTFT", 0.8, seconds_per_thousand_input_tokens=0.1).limit(5300) == pytest.approx(1.33)


def test_thinking_tokens_come_before_the_first_visible_one() -> None:
    thinker = TokenShape(1000, 2000, reasoning_mean=1500)
    asked = 60.0
    found = served(a_replica(), thinker, Objective("FirstVisibleToken", asked))
    assert 1500 * found.tpot_seconds < asked
    assert served(a_replica(), thinker, Objective("TTFT", asked)).batch > found.batch
    whole = served(a_replica(), thinker, Objective("Turn", asked * 2))
    assert 2000 * whole.tpot_seconds < asked * 2


# --- what cannot be served -------------------------------------------------------------------------------------------


def served_as(role: str, shape: TokenShape, *objectives: Objective) -> Estimate:
    found = estimate(a_replica(), shape, objectives, role=role)
    assert isinstance(found, Estimate), found
    return found


def refused(found: Estimate | CannotServe) -> CannotServe:
    assert isinstance(found, CannotServe)
    return found


def test_an_accelerator_without_compute_figures_is_unprofiled_and_never_anothers_values() -> None:
    blank = an_accelerator(flops={})
    why = refused(estimate(a_replica(accelerator=blank), CHAT))
    assert why == CannotServe("Unprofiled", "no 16-bit compute figure is known for round")
    only_narrow = an_accelerator(flops={"Fp8": 1e15})
    assert refused(estimate(a_replica(accelerator=only_narrow, weights="Fp8"), CHAT)).cause == "Unprofiled"


def test_a_group_without_known_links_is_unprofiled() -> None:
    lone = an_accelerator(scale_up_bytes_per_second=0.0, scale_out_bytes_per_second=0.0)
    assert isinstance(estimate(a_replica(accelerator=lone), CHAT), Estimate)
    why = refused(estimate(a_replica(accelerator=lone, chips=2), CHAT))
    assert why == CannotServe("Unprofiled", "no link bandwidth is known for 2 chips of round")


def test_a_model_that_does_not_fit_says_how_much_is_missing() -> None:
    why = refused(estimate(a_replica(a_model(parameters=60e9, active_parameters=60e9)), CHAT))
    assert why.cause == "Memory"
    assert why.detail == "weights and engine need 124 GB of 90 GB usable per chip"


def test_the_context_at_p95_must_fit_and_not_only_the_mean() -> None:
    tight = an_accelerator(memory_bytes=25e9)
    replica = a_replica(accelerator=tight)
    assert isinstance(estimate(replica, TokenShape(1000, 250)), Estimate)
    why = refused(estimate(replica, TokenShape(1000, 250, input_p95=80_000, output_p95=5000)))
    assert why.cause == "Memory"
    assert why.detail.endswith("85000 are needed")


def test_a_context_beyond_the_model_says_so() -> None:
    why = refused(estimate(a_replica(), TokenShape(1000, 250, input_p95=120_000)))
    assert why == CannotServe("Context", "120250 tokens at p95 exceed the 100000 that round-10b supports")


def test_an_objective_out_of_reach_says_what_the_best_would_be() -> None:
    # One sequence alone takes 26.9 ms a step; an almost idle replica has no other prompt to prefill meanwhile.
    why = refused(estimate(a_replica(), CHAT, [Objective("TPOT", 0.010)]))
    assert why == CannotServe("TPOT", "TPOT is 27 ms at best; p95 <= 10 ms is asked")
    assert refused(estimate(a_replica(), CHAT, [Objective("TTFT", 0.2)])).cause == "TTFT"


def test_an_objective_that_planning_does_not_know_is_left_out() -> None:
    assert served(a_replica(), CHAT, Objective("Cheerfulness", 1e-9)) == served(a_replica(), CHAT)


def test_the_longest_stall_is_a_step_and_the_chunk_of_a_long_prompt() -> None:
    alone = float(decode_step(a_replica(), np.array([1.0]), 1125.0).seconds[0])
    chunk = float(prefill(a_replica(), 1000.0, 0.0).seconds[0])
    found = served(a_replica(), CHAT, Objective("Stall", alone + chunk + 0.002))
    assert found.limited_by == "Stall"
    assert found.decode_seconds + chunk <= alone + chunk + 0.002
    assert isinstance(estimate(a_replica(), CHAT, [Objective("Stall", alone + chunk - 0.001)]), CannotServe)
    assert isinstance(estimate(a_replica(), CHAT, [Objective("Stall", alone + 0.001)], role="Decode"), Estimate)


def test_a_task_is_its_calls_one_after_the_other() -> None:
    one = served(a_replica(), CHAT, Objective("Task", 10.0))
    ten = served(a_replica(), replace(CHAT, calls_per_task=10.0), Objective("Task", 100.0))
    assert ten.batch == pytest.approx(one.batch)
    assert isinstance(estimate(a_replica(), replace(CHAT, calls_per_task=10.0), [Objective("Task", 10.0)]), CannotServe)


def test_thinking_takes_from_the_time_to_the_first_visible_token() -> None:
    thinker = replace(CHAT, reasoning_mean=200.0, reasoning_p95=240.0)
    seen = served(a_replica(), thinker, Objective("FirstVisibleToken", 12.0))
    unseen = served(a_replica(), CHAT, Objective("FirstVisibleToken", 12.0))
    assert seen.batch < unseen.batch
    assert seen.limited_by == "FirstVisibleToken"


def test_a_replica_that_is_too_slow_when_full_serves_what_it_can_while_mostly_idle() -> None:
    # One long prompt after another makes p99 wait: below one request at a time the wait is rare enough.
    shape = TokenShape(32_000, 4)
    alone = float(prefill(a_replica(), 32_000, 0.0).seconds[0])
    found = served(a_replica(), shape, Objective("TTFT", 1.2 * alone, percentile=99.0))
    assert found.batch < 1
    assert found.requests_per_second * alone < 0.2


# --- roles -----------------------------------------------------------------------------------------------------------


def test_a_prefill_replica_is_loaded_as_far_as_its_first_tokens_allow() -> None:
    free = served_as("Prefill", CHAT)
    own = float(prefill(a_replica(), 1000.0, 0.0).seconds[0])
    assert free.requests_per_second == pytest.approx(0.995 / own)
    held = served_as("Prefill", CHAT, Objective("TTFT", 2 * own))
    assert held.requests_per_second < free.requests_per_second
    assert held.limited_by == "TTFT"
    assert (held.prefill_share, held.output_tokens_per_second, held.tpot_seconds) == (1.0, 0.0, 0.0)


def test_a_decode_replica_spends_nothing_on_prompts_and_so_decodes_more() -> None:
    apart, together = (
        served_as("Decode", CHAT, Objective("TPOT", 0.04)),
        served(a_replica(), CHAT, Objective("TPOT", 0.04)),
    )
    assert apart.output_tokens_per_second > together.output_tokens_per_second
    assert apart.prefill_share == 0.0
    assert apart.requests_per_second == pytest.approx(apart.batch / 250 / apart.decode_seconds)


def test_a_batch_that_is_asked_for_is_priced_whatever_the_objectives_say() -> None:
    found = estimate(a_replica(), CHAT, [Objective("TPOT", 1e-6)], batch=7)
    assert isinstance(found, Estimate)
    assert (found.batch, found.limited_by) == (7.0, "asked")
    assert isinstance(estimate(a_replica(), CHAT, batch=1e9), CannotServe)


# --- tiers of the KV cache -------------------------------------------------------------------------------------------


def test_a_tier_hit_is_fetched_where_that_is_faster_and_prefilled_again_where_it_is_not() -> None:
    fast, slow = KvTier("Host", 50e9, 1e-4), KvTier("Disk", 1e6, 1.0)
    cold = served(a_replica(), CHAT)
    near = served(a_replica(), replace(CHAT, tier_hits=(TierHit(fast, 0.5),)))
    far = served(a_replica(), replace(CHAT, tier_hits=(TierHit(slow, 0.5),)))
    assert near.requests_per_second > cold.requests_per_second
    per_token = kv_bytes_per_token(a_replica().model, "Bf16", 1)
    assert near.fetch_seconds == pytest.approx(1e-4 + 500 * per_token / 50e9)
    assert (near.recomputed_share, far.recomputed_share) == (0.0, 0.5)
    assert far.fetch_seconds == 0.0
    assert far.requests_per_second == pytest.approx(cold.requests_per_second)


# --- evidence --------------------------------------------------------------------------------------------------------


def test_what_was_measured_scales_the_estimate_and_never_beyond_the_peaks() -> None:
    slower = estimate(a_replica(), CHAT, correction=Correction("Live", 0.05, ((1.0, 1.3),), 1.3))
    assert isinstance(slower, Estimate)
    assert slower.tpot_seconds > served(a_replica(), CHAT).tpot_seconds
    assert (slower.provenance, slower.sigma) == ("Live", 0.05)
    magic = estimate(a_replica(), CHAT, correction=Correction("Live", 0.05, ((1.0, 1e-9),), 1e-9))
    physical(magic)


def test_an_unsure_number_counts_for_less_capacity() -> None:
    sure = estimate(a_replica(), CHAT, correction=Correction("Live", 0.03))
    unsure = served(a_replica(), CHAT)
    assert isinstance(sure, Estimate)
    assert sure.requests_per_second == pytest.approx(unsure.requests_per_second)
    assert unsure.planned_requests_per_second < sure.planned_requests_per_second < sure.requests_per_second


def test_the_prompts_that_the_percentile_is_about_are_the_long_ones() -> None:
    spread = TokenShape(1000, 250, input_p95=8000)
    at_95 = Objective("TTFT", 2.5, percentile=95)
    assert refused(estimate(a_replica(), spread, [at_95])).cause == "TTFT"  # 8,000 tokens alone take 2.9 s
    assert isinstance(estimate(a_replica(), CHAT, [at_95]), Estimate)
    assert isinstance(estimate(a_replica(), spread, [replace(at_95, percentile=50)]), Estimate)


# --- published throughput --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row_id", "accelerator", "shape"),
    [
        ("TRT-01", "h100-sxm", TokenShape(1000, 1000)),
        ("TRT-02", "h200-sxm", TokenShape(1000, 1000)),
        ("TRT-04", "h100-sxm", TokenShape(8192, 1024)),
    ],
)
def test_the_uncalibrated_roofline_meets_published_throughput(row_id: str, accelerator: str, shape: TokenShape) -> None:
    (row,) = [one for one in published("validation.csv") if one["id"] == row_id]
    replica = Replica(MODELS["llama-3.3-70b"], ACCELERATORS[accelerator], 2, "Fp8", "Fp8")
    per_gpu = served(replica, shape).output_tokens_per_second / 2
    assert row["tolerance"] == "20%"
    assert per_gpu == pytest.approx(float(row["value"]), rel=0.20)


def test_storage_precision_is_not_compute_precision_for_gpt_oss() -> None:
    # TRT-12's regression: taking MXFP4 weights for 8-bit ones gave 0.35 of the published rate.
    h200 = ACCELERATORS["h200-sxm"]
    right = served(Replica(MODELS["gpt-oss-120b"], h200, 1, "Fp4", "Fp8"), TokenShape(1000, 1000))
    wrong = estimate(Replica(MODELS["gpt-oss-120b"], h200, 1, "Fp8", "Fp8"), TokenShape(1000, 1000))
    assert isinstance(wrong, CannotServe) or right.output_tokens_per_second > 1.5 * wrong.output_tokens_per_second
