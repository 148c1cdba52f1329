"""The fluid and the streams of one engine."""

from __future__ import annotations

import math

import pytest
from emulator_builders import a_replica, an_engine
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidefleet.controller.metrics_page import read_page
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import Objective, TokenShape
from tidefleet.emulator.capacity import DoesNotFit, Shape, Tables, rounded
from tidefleet.emulator.engine import Engine
from tidefleet.emulator.histograms import Latencies
from tidefleet.emulator.metrics import render
from tidefleet.emulator.pods import EngineFacts
from tidefleet.emulator.prefix import PrefixCache, prompt_of_text

CHAT = Shape(1200.0, 250.0, 0.2)


def what_economics_says(shape: Shape, *objectives: Objective) -> Estimate:
    found = estimate(
        a_replica(), TokenShape(shape.input_tokens, shape.output_tokens, cached_share=shape.cached_share), objectives
    )
    assert isinstance(found, Estimate)
    return found


def loaded(rate: float, shape: Shape, seconds: float = 3600.0, step: float = 15.0) -> Engine:
    """An engine after a time of constant load."""
    engine = an_engine()
    for index in range(1, int(seconds / step) + 1):
        engine.advance(index * step, rate * step, shape)
    return engine


steps = st.tuples(
    st.floats(0.0, 300.0),
    st.floats(0.0, 20_000.0),
    st.sampled_from([CHAT, Shape(100.0, 2000.0), Shape(30_000.0, 50.0, 0.9), Shape(1.0, 1.0)]),
    st.sampled_from(["", "", "", "sleep", "wake", "slow", "abandon", "open", "close"]),
)


@settings(max_examples=150, deadline=None)
@example([(5e-324, 1.0, CHAT, "slow"), (1.0, 0.0, CHAT, "")])
@example([(1.0, 0.0, CHAT, "slow"), (5e-324, 1.0, CHAT, "")])
@given(st.lists(steps, min_size=1, max_size=25))
def test_every_arrival_is_finished_running_waiting_or_abandoned(history: list[tuple[float, float, Shape, str]]) -> None:
    engine, now, sent, streams = an_engine(), 0.0, 0.0, []
    counted = [0.0, 0.0, 0.0]
    for seconds, arrivals, shape, event in history:
        match event:
            case "sleep":
                engine.sleep(1)
            case "wake":
                engine.wake()
            case "slow":
                engine.slowdown = 3.0
            case "abandon":
                engine.abandon(engine.waiting / 2)
            case "open":
                streams.append(engine.open(now, prompt_of_text("x" * 4000), 100))
            case "close" if streams:
                engine.close(streams.pop(), "abort")
        now += seconds
        engine.advance(now, arrivals, shape)
        sent += arrivals
        inside = engine.running + engine.waiting - len(streams)
        assert engine.arrived == pytest.approx(sent)
        assert engine.finished + engine.abandoned + inside == pytest.approx(sent, rel=1e-9, abs=1e-6)
        assert min(engine.finished, engine.running, engine.waiting) >= -1e-9
        assert 0.0 <= engine.kv_usage <= 1.0
        latest = [engine.counters.prompt_tokens, engine.counters.generation_tokens, engine.finished]
        assert all(new >= old for new, old in zip(latest, counted, strict=True))
        counted = latest


@pytest.mark.parametrize("shape", [CHAT, Shape(8000.0, 120.0), Shape(200.0, 3000.0), Shape(20_000.0, 500.0, 0.8)])
def test_a_saturated_engine_finishes_what_economics_estimates(shape: Shape) -> None:
    expected = what_economics_says(shape)
    engine = loaded(2.0 * expected.requests_per_second, shape, seconds=7200.0)
    before = engine.finished
    engine.advance(engine.now + 600.0, 0.0)
    assert (engine.finished - before) / 600.0 == pytest.approx(expected.requests_per_second, rel=0.03)
    assert engine.tpot_seconds == pytest.approx(expected.tpot_seconds, rel=0.03)


def test_an_engine_at_the_planned_load_has_the_planned_batch_and_tpot() -> None:
    plan = what_economics_says(CHAT, Objective("TPOT", 0.03))
    engine = loaded(plan.requests_per_second, CHAT)
    assert engine.running == pytest.approx(plan.batch, rel=0.03)
    assert engine.tpot_seconds == pytest.approx(plan.tpot_seconds, rel=0.02)
    assert engine.waiting == 0.0


def test_little_s_law_holds_at_half_load() -> None:
    rate = 0.5 * what_economics_says(CHAT).requests_per_second
    engine = loaded(rate, CHAT)
    assert engine.running == pytest.approx(rate * CHAT.output_tokens * engine.tpot_seconds, rel=0.01)
    assert engine.finished == pytest.approx(rate * 3600.0, rel=0.02)


@pytest.mark.parametrize("factor", [0.3, 0.95, 1.4])
def test_the_step_does_not_change_the_outcome(factor: float) -> None:
    rate = factor * what_economics_says(CHAT).requests_per_second
    fine, coarse = loaded(rate, CHAT, step=0.5), loaded(rate, CHAT, step=144.0)
    assert coarse.finished == pytest.approx(fine.finished, rel=1e-6)
    assert coarse.counters.prompt_tokens == pytest.approx(fine.counters.prompt_tokens, rel=1e-6)


def test_kv_usage_is_full_when_kv_room_makes_requests_wait() -> None:
    engine = loaded(2.0 * what_economics_says(CHAT).requests_per_second, CHAT)
    assert engine.waiting > 0.0
    assert engine.kv_usage == pytest.approx(1.0, abs=0.01)


def test_a_cap_on_sequences_makes_requests_wait_with_room_in_the_cache() -> None:
    engine = an_engine(max_sequences=8)
    engine.advance(60.0, 6000.0, CHAT)
    assert engine.running == pytest.approx(8.0)
    assert engine.waiting > 1000.0
    assert engine.kv_usage < 0.5


def test_ttft_grows_with_the_queue() -> None:
    expected = what_economics_says(CHAT)
    means = []
    for factor in (0.2, 0.8, 1.2, 1.6):
        engine = loaded(factor * expected.requests_per_second, CHAT, seconds=1200.0)
        engine.counters.flush()
        means.append(engine.counters.ttft.total / engine.counters.ttft.count)
    assert means == sorted(means)
    assert means[3] > means[1] + 100.0


def test_the_spread_of_ttft_is_that_of_economics() -> None:
    plan = what_economics_says(CHAT, Objective("TPOT", 0.03))
    engine = loaded(plan.requests_per_second, CHAT)
    engine.counters.flush()
    histogram = engine.counters.ttft
    below = float(histogram.cumulative[list(histogram.bounds).index(2.5)]) / histogram.count
    law = Latencies(
        base=plan.prefill_seconds + plan.decode_seconds,
        prefill=plan.prefill_seconds,
        prefill_load=plan.prefill_share,
        wait_low=0.0,
        wait_high=0.0,
        tpot=plan.tpot_seconds,
    )
    assert law.base + law.delay(0.95) == pytest.approx(plan.ttft_seconds, rel=1e-6)
    assert below > 0.5


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9, 0.99])
def test_delay_is_the_inverse_of_the_distribution(quantile: float) -> None:
    law = Latencies(base=0.1, prefill=0.05, prefill_load=0.6, wait_low=0.0, wait_high=0.0, tpot=0.02)
    delay = law.delay(quantile)
    import numpy as np

    reached = float(law.ttft_distribution(np.array([law.base + delay]))[0])
    assert reached == pytest.approx(max(quantile, 1.0 - law.prefill_load))


def test_sums_and_counts_of_token_histograms_are_those_of_the_requests() -> None:
    engine = loaded(3.0, CHAT, seconds=600.0)
    engine.counters.flush()
    prompts, outputs = engine.counters.request_prompt, engine.counters.request_generation
    assert prompts.count == pytest.approx(engine.finished)
    assert prompts.total / prompts.count == pytest.approx(CHAT.input_tokens)
    assert outputs.total / outputs.count == pytest.approx(CHAT.output_tokens)
    assert outputs.total == pytest.approx(engine.counters.generation_tokens)


def test_a_slow_engine_has_less_capacity_and_longer_steps() -> None:
    engine = loaded(3.0, CHAT)
    tpot, capacity = engine.tpot_seconds, engine.capacity(CHAT)
    engine.slowdown = 4.0
    assert engine.capacity(CHAT) == pytest.approx(capacity / 4.0)
    assert engine.tpot_seconds == pytest.approx(4.0 * tpot)


def test_a_stream_gets_the_tpot_of_the_batch_it_joins() -> None:
    engine = loaded(0.7 * what_economics_says(CHAT).requests_per_second, CHAT)
    start = engine.now
    stream = engine.open(start, prompt_of_text("y" * 4800), 100)
    while not stream.is_done:
        engine.advance(engine.now + 0.005)
    taken = engine.now - stream.first_token_at
    assert stream.first_token_at > start
    assert taken / 99.0 == pytest.approx(engine.tpot_seconds, rel=0.25)


def test_a_stream_waits_behind_the_queue() -> None:
    rate = what_economics_says(CHAT).requests_per_second
    idle, busy = an_engine(), loaded(1.3 * rate, CHAT)
    quick = idle.open(0.0, prompt_of_text("z" * 400), 10)
    late = busy.open(busy.now, prompt_of_text("z" * 400), 10)
    assert quick.first_token_at < 2.0
    assert late.first_token_at - busy.now > 0.9 * busy.waiting / rate


def test_streams_slow_the_fluid() -> None:
    rate = 0.9 * what_economics_says(CHAT).requests_per_second
    alone, shared = loaded(rate, CHAT), loaded(rate, CHAT)
    for _ in range(40):
        shared.open(shared.now, prompt_of_text("s" * 4800), 1000)
    for engine in (alone, shared):
        engine.advance(engine.now + 5.0, rate * 5.0, CHAT)
        engine.advance(engine.now + 5.0, rate * 5.0, CHAT)
    assert shared.running > alone.running + 39
    assert shared.tpot_seconds > alone.tpot_seconds


def test_a_sleeping_engine_serves_nothing_and_loses_nothing() -> None:
    engine = loaded(3.0, CHAT)
    engine.sleep(1)
    finished, inside = engine.finished, engine.in_flight
    engine.advance(engine.now + 60.0, 180.0, CHAT)
    assert engine.finished == finished
    assert (engine.running, engine.capacity(CHAT)) == (0.0, 0.0)
    assert engine.waiting == pytest.approx(inside + 180.0)
    engine.wake()
    engine.advance(engine.now + 600.0)
    assert engine.in_flight == pytest.approx(0.0, abs=1e-3)


def test_a_cold_cache_misses_and_a_repeated_prefix_hits() -> None:
    engine = an_engine()
    text = "All ships must keep to starboard. " * 40
    first = engine.open(0.0, prompt_of_text(text), 5)
    again = engine.open(0.0, prompt_of_text(text + " And then?"), 5)
    other = engine.open(0.0, prompt_of_text("Completely different. " + text), 5)
    assert (first.cached_tokens, other.cached_tokens) == (0, 0)
    assert again.cached_tokens == len(text) // 64 * 16


def test_at_least_one_token_is_always_computed() -> None:
    cache, prompt = PrefixCache(100), prompt_of_text("a" * 64 * 4)
    cache.store(prompt)
    assert cache.cached_tokens(prompt) == 48


def test_the_cache_never_holds_more_than_its_blocks() -> None:
    cache = PrefixCache(10)
    for letter in "abcdef":
        cache.store(prompt_of_text(letter * 64 * 7))
        assert len(cache) <= 10
    assert cache.cached_tokens(prompt_of_text("f" * 64 * 7 + "?")) == 7 * 16
    assert cache.cached_tokens(prompt_of_text("a" * 64 * 7 + "?")) == 0


@given(st.floats(1.0, 1e6), st.floats(1.0, 1e5), st.floats(0.0, 1.0))
def test_a_rounded_shape_is_within_half_a_per_cent(prompt: float, output: float, cached: float) -> None:
    near = rounded(Shape(prompt, output, cached))
    assert math.isclose(near.input_tokens, prompt, rel_tol=0.0051)
    assert math.isclose(near.output_tokens, output, rel_tol=0.0051)
    assert abs(near.cached_share - cached) <= 0.0051


@settings(max_examples=200, deadline=None)
@given(st.floats(0.0, 3000.0), st.floats(0.0, 200.0), st.floats(0.01, 500.0), st.integers(0, 300))
def test_draining_in_two_steps_equals_one(requests: float, rate: float, seconds: float, streams: int) -> None:
    table = Tables(a_replica()).at(rounded(CHAT))
    whole = table.drain(requests, rate, seconds, streams)
    half = table.drain(table.drain(requests, rate, seconds / 2, streams), rate, seconds / 2, streams)
    assert whole == pytest.approx(half, rel=1e-6, abs=1e-6)


def test_an_engine_whose_weights_do_not_fit_does_not_start() -> None:
    from emulator_builders import H100, LLAMA_8B

    from tidefleet.economics.accelerator import Accelerator
    from tidefleet.economics.replica import Replica

    small = Accelerator("tiny", 12e9, H100.memory_bytes_per_second, H100.flops)
    facts = EngineFacts(Replica(LLAMA_8B, small, 1, "Bf16", "Bf16"), "llama-3.1-8b", 8000)
    with pytest.raises(DoesNotFit, match=r"llama-3.1-8b in Bf16 on 1 x tiny"):
        Engine(facts, 0.0)


# --- KV tiers --------------------------------------------------------------------------------------------------------


def with_tier(host_kv_bytes: int, rate: float = 4.0) -> Engine:
    engine = an_engine(host_kv_bytes=host_kv_bytes)
    for index in range(1, 241):
        engine.advance(index * 15.0, rate * 15.0, Shape(4000.0, 100.0, 0.2, 0.5))
    return engine


def test_an_engine_with_a_kv_tier_finds_there_what_is_left_and_one_without_looks_for_nothing() -> None:
    tier, bare = with_tier(2**36), with_tier(0)
    counted = tier.counters
    assert counted.tier_queries == pytest.approx(0.8 * counted.prompt_tokens)
    assert counted.tier_hits == pytest.approx(0.5 * counted.prompt_tokens)
    assert counted.prefix_hits == pytest.approx(0.2 * counted.prompt_tokens)
    assert (bare.counters.tier_queries, bare.counters.tier_hits) == (0.0, 0.0)
    shape = Shape(4000.0, 100.0, 0.2, 0.5)
    assert tier.capacity(shape) > 1.2 * bare.capacity(shape)  # what is found is not computed
    page = read_page(render(tier).decode())
    assert page.tier_hit_tokens == int(counted.tier_hits)
    assert page.tier_queried_tokens == int(counted.tier_queries)
