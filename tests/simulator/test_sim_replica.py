"""One replica under a simulated clock."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from simulator_builders import BLOCK, RATES, a_job, a_replica, a_session, run

from tidefleet.routing.rates import HOST
from tidefleet.simulator.engine.blocks import Store


def test_alone_the_first_token_takes_the_prefill_and_each_further_one_a_step() -> None:
    job = a_job(0, tokens=5000, output=11)
    run(a_replica(), [job])
    assert job.first == pytest.approx(0.5)
    assert job.done == pytest.approx(0.5 + 10 * 0.01)
    assert job.tpot_seconds == pytest.approx(0.01)


def test_an_answer_of_one_token_ends_with_its_first() -> None:
    job = a_job(0, output=1)
    assert run(a_replica(), [job]) == [("first", 0), ("done", 0)]
    assert job.done == job.first


def test_prompts_that_fit_into_one_chunk_end_together_and_longer_ones_in_order() -> None:
    small = [a_job(number, tokens=512, came=0.001) for number in range(1, 4)]
    long = a_job(0, tokens=4000)
    run(a_replica(), [long, *small])
    assert long.first == pytest.approx(0.4)
    together = {round(one.first, 9) for one in small}
    assert len(together) == 1
    assert small[0].first > long.first


def test_while_prompts_are_prefilled_every_chunk_lets_running_answers_gain_one_token() -> None:
    running = a_job(0, tokens=100, output=201)
    prompt = a_job(1, came=0.5, tokens=20480, output=2)
    run(a_replica(), [running, prompt])
    # 10 chunks of 0.2048 s, each with a step of 0.01 s
    assert prompt.first - prompt.came == pytest.approx(10 * (0.2048 + 0.01))
    assert running.done == pytest.approx(0.01 + 200 * 0.01 + 10 * 0.2048)


def test_a_second_turn_prefills_only_what_the_first_did_not_leave() -> None:
    session = a_session(0, tokens=(6400, 7040))
    first, second = a_job(0, session=session), a_job(1, session=session, at=1, came=10.0)
    replica = a_replica()
    run(replica, [first, second])
    assert second.cached == 6400
    assert second.ttft_seconds == pytest.approx(0.064)
    assert replica.counts.hit_tokens[0] == 6400
    assert replica.counts.prefilled_tokens == 6400 + 640


def test_the_last_token_of_a_prompt_is_computed_even_if_all_blocks_are_there() -> None:
    session = a_session(0, tokens=(6400, 6400))
    jobs = [a_job(0, session=session), a_job(1, session=session, at=1, came=10.0)]
    run(a_replica(), jobs)
    assert jobs[1].cached == 6399
    assert jobs[1].ttft_seconds == pytest.approx(RATES.prefill_floor_seconds)


def test_an_answer_that_the_next_turn_begins_with_stays_in_the_cache() -> None:
    session = a_session(0, tokens=(6400, 7040), output=640)
    first, second = a_job(0, session=session), a_job(1, session=session, at=1, came=20.0)
    first.answer_keys = session.turns[1].keys[100:110].tolist()
    run(a_replica(), [first, second])
    assert second.cached == 7039


def test_blocks_used_longest_ago_leave_first_and_the_tail_of_a_prompt_before_its_head() -> None:
    replica = a_replica(kv_tokens=20_000.0)
    old, new = a_session(0, tokens=(9600,)), a_session(1, tokens=(9600,))
    again = [a_job(2, session=old, came=40.0), a_job(3, session=new, came=60.0)]
    run(replica, [a_job(0, session=old), a_job(1, session=new, came=20.0), *again])
    held = replica.blocks.found(again[1].keys).device
    assert held == 150
    third = a_job(4, tokens=6400, came=80.0)
    run(replica, [third])
    left = replica.blocks.found(again[0].keys).device
    assert 0 < left < 150
    assert replica.blocks.found(again[1].keys).device == 150


def test_a_block_that_left_the_device_is_fetched_from_the_host_where_that_is_faster_than_computing_it() -> None:
    for bandwidth, is_fetched in ((1e12, True), (1e6, False)):
        rates = dataclasses.replace(RATES, tier_bytes_per_second=(bandwidth, 0.0, 0.0))
        replica = a_replica(rates=rates, kv_tokens=8_000.0, stores=[Store(HOST, 50_000.0)])
        session = a_session(0, tokens=(6400,))
        back = a_job(2, session=session, came=40.0)
        run(replica, [a_job(0, session=session), a_job(1, tokens=7680, came=20.0), back])
        left = 6399 - back.cached
        assert 0 < back.cached < 640
        assert back.fetched[0] == (left if is_fetched else 0.0)
        fetch = 0.001 + left * rates.kv_bytes_per_token / 1e12 + RATES.prefill_floor_seconds
        assert back.ttft_seconds == pytest.approx(fetch if is_fetched else 1e-4 * (left + 1))


def test_a_prompt_waits_for_room_and_runs_when_an_answer_gives_it_back() -> None:
    replica = a_replica(kv_tokens=10_000.0)
    first, second = a_job(0, tokens=6400, output=100), a_job(1, tokens=6400, output=100, came=0.1)
    run(replica, [first, second])
    assert second.first == pytest.approx(first.done + 0.64)


def test_answers_that_outgrow_the_room_make_the_one_that_came_last_give_way_and_start_again() -> None:
    replica = a_replica(kv_tokens=10_000.0)
    jobs = [a_job(number, tokens=4096, output=1500, came=0.001 * number) for number in range(2)]
    events = run(replica, jobs)
    assert ("preempted", 1) in events
    assert ("preempted", 0) not in events
    assert [one.done < math.inf for one in jobs] == [True, True]
    assert jobs[1].recomputed > 0
    assert replica.counts.recomputed_tokens == {"preempted": jobs[1].recomputed}
    assert replica.counts.output_tokens == pytest.approx(3000)


def test_deferrable_work_gives_way_to_a_request_that_somebody_waits_for() -> None:
    replica = a_replica(max_batch=2)
    deferrable = [a_job(number, tokens=1024, output=2000, priority=-10) for number in range(2)]
    urgent = a_job(2, came=5.0, tokens=1024, output=10)
    events = run(replica, [*deferrable, urgent])
    assert urgent.ttft_seconds == pytest.approx(0.1024 + 0.01)
    assert ("preempted", 1) in events
    assert all(one.done < math.inf for one in deferrable)


def test_the_prefill_of_deferrable_work_stops_while_an_urgent_prompt_runs() -> None:
    deferrable, urgent = a_job(0, tokens=40_000, output=10, priority=-10), a_job(1, came=1.0, tokens=2048, output=2)
    run(a_replica(), [deferrable, urgent])
    assert urgent.ttft_seconds == pytest.approx(0.2048)
    assert deferrable.first == pytest.approx(4.0 + 0.2048 + 0.01 * 0.2048 / 0.2148, rel=0.01)


def test_a_killed_replica_gives_back_all_that_it_had_and_holds_nothing() -> None:
    replica = a_replica(max_batch=2)
    jobs = [a_job(number, tokens=3000, output=500, came=0.01 * number) for number in range(5)]
    for job in jobs:
        replica.advance(job.came)
        replica.submit(job, job.came)
    replica.advance(0.7)
    lost = replica.kill(1.0)
    assert [one.number for one in lost] == [0, 1, 2, 3, 4]
    assert lost[0].computed > 3000
    assert replica.next() == math.inf
    assert (replica.requests, replica.blocks.used_tokens, len(replica.blocks.users)) == (0, 0, 0)


def test_tokens_and_room_are_conserved_under_any_load() -> None:
    rng = np.random.default_rng(7)
    replica = a_replica(kv_tokens=30_000.0, max_batch=16, stores=[Store(HOST, 20_000.0)])
    jobs = []
    at = 0.0
    for number in range(300):
        at += float(rng.exponential(0.35))
        tokens, output = int(rng.integers(100, 6000)), int(rng.integers(1, 400))
        session = a_session(number % 40, tokens=(tokens,), output=output, common=512)
        jobs.append(a_job(number, came=at, session=session, priority=int(rng.integers(-1, 2))))
    run(replica, jobs)
    assert all(one.came <= one.first <= one.done < math.inf for one in jobs)
    assert replica.counts.finished == 300
    assert replica.counts.output_tokens == pytest.approx(sum(one.output for one in jobs), rel=1e-6)
    hits = sum(replica.counts.hit_tokens)
    again = sum(replica.counts.recomputed_tokens.values())
    prompts = sum(one.tokens for one in jobs)
    assert replica.counts.prefilled_tokens + hits >= prompts + again - 1e-6
    blocks = replica.blocks
    assert (blocks.pinned_tokens, blocks.private) == (0, pytest.approx(0.0, abs=1e-3))
    assert blocks.idle_tokens == len(blocks.idle) * BLOCK <= 30_000
    assert all(count == 0 for count in blocks.users.values())


def test_requests_present_are_arrival_rate_times_time_spent() -> None:
    rng = np.random.default_rng(3)
    replica = a_replica()
    arrivals = np.cumsum(rng.exponential(0.5, 400))
    jobs = [a_job(number, came=float(at), tokens=2000, output=50) for number, at in enumerate(arrivals)]
    run(replica, jobs)
    spent = sum(one.done - one.came for one in jobs)
    assert replica.counts.present_seconds == pytest.approx(spent, rel=1e-6)
