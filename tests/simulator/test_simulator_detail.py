"""A window in detail: what was before it lies in caches, what moves is obeyed, and what it needed is counted once."""

import numpy as np
import pytest
from simulator_builders import RATES, StraightLines, a_session

from tidefleet.simulator.cluster import Cluster
from tidefleet.simulator.detail import TAIL_SECONDS, Moves, Turns, is_in_time, simulate
from tidefleet.simulator.engine.facts import Facts, facts_of
from tidefleet.simulator.operating import OperatingPoint
from tidefleet.simulator.scenario import Class, Objective, Pool
from tidefleet.simulator.windows import Window

PROMISE = Objective(ttft_seconds=1.0, tpot_seconds=0.05)
CHAT = Class(name="chat", source="own.csv", share=1.0, objective=PROMISE)
BATCH = Class(name="batch", source="own.csv", deadline_seconds=86_400.0, volume_share=0.1)
POOL = Pool(model="llama-3.1-8b", accelerator="h100-sxm", replicas=4, chips_per_replica=1)
POINT = OperatingPoint(RATES, 10.0, 0.01, 0.0125, 0.2, "objective")
WINDOW = Window(1000.0, 1060.0, 0, False, 1.0)


def a_cluster(policy="pick"):
    real = facts_of(POOL)
    facts = Facts(real.copy, RATES, real.kv_tokens, real.usd_per_second)
    return Cluster(POOL, (CHAT, BATCH), policy=policy, facts=facts, timing=StraightLines(RATES))


def run(sessions, moves=None, *, policy="pick", seed=0):
    return simulate(
        WINDOW,
        a_cluster(policy),
        sessions,
        moves or Moves((0, 1, 2, 3)),
        POINT,
        warm_seconds=20.0,
        recent_seconds=300.0,
        kept_seconds=3600.0,
        rng=np.random.default_rng(seed),
    )


def arrivals(count, *, begin=980.0, end=1085.0, **more):
    step = (end - begin) / count
    return [a_session(number, begins=begin + (number + 0.5) * step, **more) for number in range(count)]


def test_every_request_of_the_window_is_judged_once_and_none_beside_it():
    sessions = arrivals(210)
    found = run(sessions)
    inside = [one for one in sessions if WINDOW.begin <= one.begins < WINDOW.end]
    assert found.seen["chat"].requests == len(inside) == found.seen["chat"].in_time
    assert len(found.seen["chat"].ttft) == len(inside)


def test_needed_seconds_are_those_of_the_tokens_computed_in_the_window():
    found = run(arrivals(210, output=100))
    seen = found.seen["chat"]
    assert seen.prefill_seconds == pytest.approx(120 * 0.1024, rel=0.05)
    assert seen.output_tokens == pytest.approx(120 * 100, rel=0.05)
    assert found.online_seconds == pytest.approx(
        seen.ideal_seconds + seen.output_tokens * POINT.seconds_per_output_token
    )
    assert found.serving_seconds == pytest.approx(4 * 60.0)
    assert found.online_seconds < found.serving_seconds
    assert found.busy_seconds <= found.serving_seconds + 1e-6


def test_a_session_that_was_served_before_finds_its_prompt_where_it_was():
    sessions = [a_session(one, begins=900.0, tokens=(2048, 4096), pause=110.0, closed=False) for one in range(8)]
    seen = run(sessions).seen["chat"]
    assert seen.requests == 8
    held = 2048 + 64  # the prompt, and the one block that the answer filled
    assert seen.hit_tokens == 8 * held
    assert seen.prefill_seconds == pytest.approx(seen.ideal_seconds) == pytest.approx(8 * (4096 - held) * 1e-4)


def test_what_was_served_long_ago_is_lost_without_a_shared_store_and_counts_as_recomputed():
    sessions = [a_session(one, begins=100.0, tokens=(2048, 4096), pause=910.0, closed=False) for one in range(8)]
    seen = run(sessions).seen["chat"]
    assert seen.hit_tokens == 0.0
    assert seen.prefill_seconds == pytest.approx(8 * 0.4096)
    assert seen.ideal_seconds == pytest.approx(8 * (4096 - 2112) * 1e-4)


def test_answers_that_are_being_written_go_on_and_are_not_judged():
    sessions = [a_session(one, begins=970.0, output=9000) for one in range(4)]
    found = run(sessions)
    assert found.seen["chat"].requests == 0
    assert found.seen["chat"].output_tokens == pytest.approx(4 * 60.0 / 0.01, rel=0.02)


def test_a_closed_sessions_next_turn_comes_after_the_answer():
    sessions = [a_session(0, begins=995.0, tokens=(1024, 2048), output=1000, pause=5.0, closed=True)]
    seen = run(sessions).seen["chat"]
    assert seen.requests == 1
    assert seen.hit_tokens == 31 * 64  # all whole blocks but the last, of prompt and answer


def test_replicas_that_leave_finish_what_they_have_and_those_that_join_take_requests():
    moves = Moves((0, 1), ((1010.0, 0, "leave"), (1010.0, 2, "join"), (1050.0, 1, "kill"), (1050.0, 3, "join")))
    found = run(arrivals(420, output=200), moves)
    seen = found.seen["chat"]
    assert seen.requests == seen.in_time == 240
    assert found.flown > 0
    assert found.serving_seconds == pytest.approx(2 * 60.0)
    assert len(found.loads) == 2


def test_what_has_no_first_token_by_the_end_has_missed():
    late = [a_session(0, begins=1059.0, tokens=(int((TAIL_SECONDS + 30.0) / 1e-4),))]
    seen = run(late, Moves((0,))).seen["chat"]
    assert (seen.requests, seen.in_time) == (1, 0)


def test_deferrable_work_is_let_in_and_counted_apart():
    batch = arrivals(100, output=50, deadline=86_400.0, wclass="batch")
    found = run(batch)
    assert found.filler_seconds > 0.0 == found.online_seconds
    assert found.seen["batch"].requests == found.seen["batch"].in_time


def test_the_same_seed_gives_the_same_window():
    sessions = [a_session(one, begins=900.0 + one, tokens=(1024, 3072), pause=95.0, closed=False) for one in range(60)]
    one, again = run(sessions, seed=5), run(sessions, seed=5)
    assert (one.online_seconds, one.seen["chat"].ttft) == (again.online_seconds, again.seen["chat"].ttft)


def test_turns_are_sorted_into_what_was_what_goes_on_and_what_is_to_come():
    sessions = [
        a_session(0, begins=990.0, tokens=(512, 1024), pause=20.0, closed=False),  # one of each side
        a_session(1, begins=200.0, tokens=(512, 1024), pause=900.0, closed=False),  # long ago, goes on
        a_session(2, begins=10.0, tokens=(512, 1024), pause=995.0, closed=False),  # kept nowhere any more
        a_session(3, begins=999.5, output=1000),  # being written
    ]
    turns = Turns(sessions, 1000.0, recent=700.0, kept=100.0, rates=RATES, tpot_seconds=0.01)
    assert [session.number for _, _, session, _ in turns.past] == [0]
    assert [session.number for session, _ in turns.stored] == [1]
    assert [(one.number, one.begins) for one in turns.coming] == [(2, 1005.0), (0, 1010.0), (1, 1100.0)]
    assert [session.number for session, *_ in turns.writing] == [3]


@pytest.mark.parametrize(
    ("tokens", "ttft", "tpot", "kept"),
    [(0, 1.0, 0.05, True), (0, 1.01, 0.05, False), (1000, 1.1, 0.05, True), (1000, 1.0, 0.051, False)],
)
def test_a_promise_grows_with_the_prompt(tokens, ttft, tpot, kept):
    assert is_in_time(PROMISE, tokens, ttft, tpot) is kept
