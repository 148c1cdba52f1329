"""What requests and tasks cost: identities between requests, turns and trees, and tails."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.economics.lognormal import law
from tidefleet.economics.queueing import wait_at
from tidefleet.economics.sessions import concurrent_sessions, usd_per_user_month, users_per_replica
from tidefleet.economics.tasks import (
    CallClass,
    RequestLengths,
    TokenRates,
    request_cost,
    session_spreads,
    task_cost,
    usd_per_success,
)
from tidefleet.economics.visible import first_visible_seconds

RATES = TokenRates(uncached_input=1e-6, cached_input=1e-7, output=4e-6)
CHAT = RequestLengths(law(1000.0, 3000.0), law(200.0, 600.0), cached_share=0.4)
MEAN = 600 * 1e-6 + 400 * 1e-7 + 200 * 4e-6
BAD = [math.nan, math.inf, -1.0, 1e300]


def a_class(**changes: object) -> CallClass:
    return CallClass(**{"lengths": CHAT, "rates": RATES, **changes})  # type: ignore[arg-type]


def test_a_requests_mean_cost_is_its_mean_tokens_at_their_prices() -> None:
    cost = request_cost(CHAT, RATES)
    assert cost.mean == pytest.approx(MEAN)
    assert cost.p50 < cost.mean < cost.p95 < cost.p99


def test_a_request_of_one_kind_of_token_has_the_percentiles_of_its_length() -> None:
    only_output = RequestLengths(law(0.0), law(200.0, 600.0))
    cost = request_cost(only_output, RATES)
    for share, found in ((0.5, cost.p50), (0.95, cost.p95), (0.99, cost.p99)):
        assert found == pytest.approx(law(200.0, 600.0).quantile(share) * 4e-6, rel=0.04)


def test_fixed_lengths_cost_the_same_at_every_percentile() -> None:
    cost = request_cost(RequestLengths(law(1000.0), law(200.0), cached_share=0.4), RATES)
    assert (cost.mean, cost.p50, cost.p99) == (pytest.approx(MEAN),) * 3


def test_percentiles_of_a_request_are_those_of_sampled_requests() -> None:
    draw = np.random.default_rng(3)
    prompt, answer = CHAT.input, CHAT.output
    usd = np.exp(draw.normal(prompt.mu, prompt.sigma, 400_000)) * (0.6e-6 + 0.4e-7)
    usd = usd + np.exp(draw.normal(answer.mu, answer.sigma, 400_000)) * 4e-6
    cost = request_cost(CHAT, RATES)
    for share, found in ((50, cost.p50), (95, cost.p95), (99, cost.p99)):
        assert found == pytest.approx(np.percentile(usd, share), rel=0.03)


def test_a_cap_on_reasoning_lowers_the_tail_more_than_the_mean() -> None:
    free = RequestLengths(law(1000.0), law(200.0), law(2000.0, 7000.0))
    capped = replace(free, reasoning=free.reasoning.capped(4000.0))
    before, after = request_cost(free, RATES), request_cost(capped, RATES)
    assert after.mean < before.mean
    assert before.p99 - after.p99 > 2 * (before.mean - after.mean)
    assert after.p99 == pytest.approx(1000e-6 + 200 * 4e-6 + 4000 * 4e-6, rel=0.01)


@pytest.mark.parametrize("turns", [1, 2, 4, 7, 30])
@pytest.mark.parametrize("calls", [1.0, 2.5, 4.0, 9.0])
def test_a_task_costs_its_calls_times_the_mean_request_whatever_its_turns(turns: int, calls: float) -> None:
    found = task_cost({"chat": a_class(calls_per_task=calls, turns_per_session=turns)}, "chat")
    assert found.usd.mean == pytest.approx(calls * MEAN)
    assert found.tokens.requests == pytest.approx(calls)
    assert found.tokens.output == pytest.approx(calls * 200.0)


def test_later_turns_cost_more_because_they_read_what_came_before() -> None:
    # Every turn adds 10 new and 10 generated tokens, and the mean turn reads 30 again: 0, 20, 40, 60.
    lengths = RequestLengths(law(40.0), law(10.0), cached_share=0.75)
    found = session_spreads(CallClass(lengths, RATES, turns_per_session=4))
    turn = 10 * 1e-6 + 10 * 4e-6
    assert found[4].mean == pytest.approx(4 * turn + (0 + 20 + 40 + 60) * 1e-7)


def test_a_context_limit_makes_old_turns_leave_and_the_prefix_make_up_for_them() -> None:
    lengths = RequestLengths(law(1000.0, 2000.0), law(100.0), cached_share=0.9)
    free = session_spreads(CallClass(lengths, RATES, turns_per_session=20))[20]
    tight = session_spreads(CallClass(lengths, RATES, turns_per_session=20, context_cap=400.0))[20]
    assert tight.mean == pytest.approx(free.mean)  # cachedShare says how much is read again
    assert tight.variance < free.variance  # what is long is not read again nineteen times


def test_a_tree_of_calls_sums_to_its_classes() -> None:
    classes = {
        "agent": a_class(calls_per_task=3.0, turns_per_session=3.0, calls=(("chat", 2.0), ("embed", 0.5))),
        "chat": a_class(calls=(("embed", 4.0),)),
        "embed": CallClass(RequestLengths(law(500.0), law(0.0)), TokenRates(1e-8, 1e-8, 0.0)),
    }
    found = task_cost(classes, "agent")
    embed = 500 * 1e-8
    assert found.usd_by_class == pytest.approx({"agent": 3 * MEAN, "chat": 2 * MEAN, "embed": 8.5 * embed})
    assert sum(found.usd_by_class.values()) == pytest.approx(found.usd.mean)
    assert found.tokens.requests == pytest.approx(3 + 2 + 8.5)


def test_tasks_of_many_calls_have_a_tail_that_means_do_not_show() -> None:
    alike = task_cost({"a": a_class(calls_per_task=20.0, turns_per_session=20.0)}, "a").usd
    varied = task_cost({"a": a_class(calls_per_task=20.0, calls_p95=60.0, turns_per_session=20.0)}, "a").usd
    assert varied.mean == pytest.approx(alike.mean)
    assert alike.p99 / alike.mean < 2.0
    assert varied.p99 / varied.mean > 3.0
    capped = task_cost(
        {"a": a_class(calls_per_task=20.0, calls_p95=60.0, calls_cap=60.0, turns_per_session=20.0)}, "a"
    ).usd
    assert capped.mean == pytest.approx(alike.mean)
    assert capped.p99 < varied.p99


def test_classes_that_call_each_other_in_a_circle_are_refused_with_the_circle() -> None:
    classes = {"a": a_class(calls=(("b", 1.0),)), "b": a_class(calls=(("a", 1.0),))}
    with pytest.raises(ValueError, match="a -> b -> a"):
        task_cost(classes, "a")
    with pytest.raises(ValueError, match="class a calls 'c'; expected one of a"):
        task_cost({"a": a_class(calls=(("c", 1.0),))}, "a")
    with pytest.raises(ValueError, match="root is 'x'"):
        task_cost(classes, "x")
    with pytest.raises(ValueError, match="at most 64"):
        task_cost({str(i): a_class() for i in range(65)}, "0")


def test_calls_that_multiply_without_end_are_refused_before_they_overflow() -> None:
    chain = {str(i): a_class(calls=((str(i + 1), 1e6),) if i < 63 else ()) for i in range(64)}
    with pytest.raises(ValueError, match=r"a task makes 1e\+12 requests; expected at most 1e9"):
        task_cost(chain, "0")


@pytest.mark.parametrize("value", BAD)
def test_hostile_numbers_are_refused_by_name(value: float) -> None:
    bad = [
        ("calls_per_task", {"calls_per_task": value}),
        ("turns_per_session", {"turns_per_session": value}),
        ("perTask", {"calls": (("a2", value),)}),
        ("cached_share", {"lengths": replace(CHAT, cached_share=value)}),
        ("output rate", {"rates": replace(RATES, output=value)}),
    ]
    for name, change in bad:
        with pytest.raises(ValueError, match=f"class a: {name} is"):
            task_cost({"a": a_class(**change), "a2": a_class()}, "a")


def test_failed_tasks_are_paid_by_those_that_succeed() -> None:
    assert usd_per_success(0.9, 0.75) == pytest.approx(1.2)
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="success_share"):
            usd_per_success(0.9, share)


@settings(max_examples=20, deadline=None)
@given(
    turns=st.integers(1, 12),
    calls=st.floats(0.0, 40.0),
    hit=st.floats(0.0, 1.0),
    cap=st.one_of(st.just(math.inf), st.floats(0.0, 1e5)),
)
def test_the_mean_of_a_task_is_exact_for_any_turns_hits_and_caps(
    turns: int, calls: float, hit: float, cap: float
) -> None:
    lengths = replace(CHAT, cached_share=hit)
    one = CallClass(lengths, RATES, calls_per_task=calls, turns_per_session=turns, context_cap=cap)
    assert task_cost({"a": one}, "a").usd.mean == pytest.approx(calls * request_cost(lengths, RATES).mean, rel=1e-9)


# --- first visible token ---------------------------------------------------------------------------------------------

QUEUE = {"prefill_seconds": 0.2, "decode_seconds": 0.02, "prefill_share": 0.3, "tpot_seconds": 0.025}


@pytest.mark.parametrize("percentile", [50.0, 90.0, 95.0, 99.0])
def test_without_thinking_the_first_visible_token_is_the_first(percentile: float) -> None:
    expected = 0.22 + wait_at(percentile, service_seconds=0.2, load=np.array([0.3]))[0]
    found = first_visible_seconds(percentile, **QUEUE, thinking=law(0.0))
    assert found == pytest.approx(float(expected), rel=0.01)


def test_fixed_thinking_adds_its_tokens_times_tpot() -> None:
    without = first_visible_seconds(95.0, **QUEUE, thinking=law(0.0))
    assert first_visible_seconds(95.0, **QUEUE, thinking=law(1000.0)) == pytest.approx(without + 25.0)


def test_thinking_at_a_percentile_is_less_than_two_percentiles_added_and_a_cap_bounds_it() -> None:
    thinking = law(20.0, 70.0)
    found = first_visible_seconds(95.0, **QUEUE, thinking=thinking)
    both = first_visible_seconds(95.0, **QUEUE, thinking=law(0.0)) + 70.0 * 0.025
    assert 70.0 * 0.025 < found < both
    capped = first_visible_seconds(99.0, **QUEUE, thinking=thinking.capped(40.0))
    assert capped < 40.0 * 0.025 + first_visible_seconds(99.9, **QUEUE, thinking=law(0.0))


@pytest.mark.parametrize("name", ["prefill_seconds", "decode_seconds", "prefill_share", "tpot_seconds"])
def test_latency_of_hostile_numbers_is_refused_by_name(name: str) -> None:
    for value in (math.nan, -1.0, 1e300):
        with pytest.raises(ValueError, match=name):
            first_visible_seconds(95.0, **{**QUEUE, name: value}, thinking=law(10.0))
    with pytest.raises(ValueError, match="percentile"):
        first_visible_seconds(100.0, **QUEUE, thinking=law(10.0))


# --- sessions and users ----------------------------------------------------------------------------------------------

SESSION = {
    "kv_room_bytes": 40e9,
    "kv_bytes_per_session": 1e9,
    "requests_per_second": 2.0,
    "turn_seconds": 10.0,
    "think_seconds": 30.0,
}


def test_sessions_are_what_memory_holds_when_idle_ones_are_kept() -> None:
    found = concurrent_sessions(**SESSION)
    assert (found.by_memory, found.by_throughput) == (pytest.approx(40.0), pytest.approx(80.0))
    assert (found.sessions, found.limited_by, found.hit_share) == (pytest.approx(40.0), "KV memory", 1.0)


def test_dropping_idle_sessions_at_once_holds_more_of_them_and_hits_none() -> None:
    found = concurrent_sessions(**SESSION, keep_seconds=0.0)
    assert found.by_memory == pytest.approx(40.0 * 4.0)  # memory is held a quarter of the time
    assert (found.sessions, found.limited_by, found.hit_share) == (pytest.approx(80.0), "throughput", 0.0)
    kept = concurrent_sessions(**SESSION, keep_seconds=30.0)
    assert kept.hit_share == pytest.approx(1.0 - math.exp(-1.0))
    assert 40.0 < kept.by_memory < 160.0


def test_agents_that_never_pause_hold_their_memory_all_the_time() -> None:
    found = concurrent_sessions(**{**SESSION, "think_seconds": 0.0}, keep_seconds=0.0)
    assert (found.by_memory, found.hit_share) == (pytest.approx(40.0), 1.0)
    assert found.by_throughput == pytest.approx(20.0)


@pytest.mark.parametrize("name", [*SESSION, "keep_seconds"])
def test_sessions_of_hostile_numbers_are_refused_by_name(name: str) -> None:
    for value in (math.nan, -1.0):
        with pytest.raises(ValueError, match=name):
            concurrent_sessions(**{**SESSION, name: value})


def test_a_users_month_is_turns_times_days_times_the_cost_of_a_turn() -> None:
    assert usd_per_user_month(0.002, 12.0) == pytest.approx(0.002 * 12 * 365.25 / 12)
    assert usd_per_user_month(0.002, 12.0, days_per_month=21.0) == pytest.approx(0.504)
    assert users_per_replica(2.0, 12.0, peak_to_mean=4.0) == pytest.approx(2.0 * 86_400 / 48)
    for value in BAD:
        with pytest.raises(ValueError, match="usd_per_turn"):
            usd_per_user_month(value, 12.0)
        with pytest.raises(ValueError, match="turns_per_day"):
            users_per_replica(2.0, value)
