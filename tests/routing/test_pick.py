"""Where a request goes: inside of what is allowed, the least total, and why."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.routing.endpoint import PREFILL, Endpoint
from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.handover import hand_over
from tidefleet.routing.index import Hits
from tidefleet.routing.pick import TIE_SECONDS, TIE_SHARE, Pick, Queued, Refused, pick
from tidefleet.routing.queue import Queue
from tidefleet.routing.rates import Rates
from tidefleet.routing.request import Ask

RATES = Rates(1e-4, 1e-9, kv_bytes_per_token=131072.0)


def table_of(count, **facts):
    table = Endpoints("p")
    for place in range(count):
        table.add(Endpoint(f"10.0.0.{place}:8000", RATES, slot=place, **facts))
    return table


def ask_of(tokens=8000, **facts):
    return Ask("p", "m", tokens, **facts)


def held(*blocks):
    return Hits(np.array([blocks] * 4, dtype=np.int32))


def test_an_idle_pool_sends_a_request_to_whom_holds_most_of_it():
    found = pick(ask_of(), table_of(4), held(10, 50, 400, 0), 0.0)
    assert found.address == "10.0.0.2:8000"
    assert found.hit_tokens == (6400,)
    assert "6,400 on device of 8,000 tokens held" in found.reason


def test_a_holder_with_a_long_queue_is_passed_over():
    table = table_of(2)
    for _ in range(5):
        table.begin(ask_of(50_000), "10.0.0.0:8000", 0.0)
    assert pick(ask_of(), table, held(400, 0), 0.0).address == "10.0.0.1:8000"


def test_on_a_busy_pool_a_hit_is_worth_a_longer_wait():
    def waits_for_a_hit(rate):
        table = table_of(2)
        now = 0.0
        for turn in range(int(200 * rate)):
            now = turn / rate
            ticket = table.begin(ask_of(4000), f"10.0.0.{turn % 2}:8000", now)
            table.first_token(ticket, now + 0.4)
            table.end(ticket, now + 0.5, output_tokens=10)
        now += 1.0
        table.begin(ask_of(12_000), "10.0.0.0:8000", now)
        return pick(ask_of(10_000), table, held(620, 0), now).address == "10.0.0.0:8000"

    assert not waits_for_a_hit(0.1)
    assert waits_for_a_hit(3.0)


def test_sessions_settle_where_less_was_served():
    table = table_of(2)
    for now in range(0, 500, 10):
        ticket = table.begin(ask_of(20_000, session=now), "10.0.0.0:8000", float(now))
        table.first_token(ticket, now + 2.2)
        table.end(ticket, now + 2.4, output_tokens=10)
    found = pick(ask_of(20_000, session=7777), table, None, 1000.0)
    assert found.address == "10.0.0.1:8000"
    assert found.terms.balance[0] > 2.0 * found.terms.balance[1]


def test_a_client_that_states_no_session_brings_no_further_turns_to_balance():
    table = table_of(2)
    ticket = table.begin(ask_of(20_000), "10.0.0.0:8000", 0.0)
    table.end(ticket, 3.0, output_tokens=10)
    assert list(pick(ask_of(20_000), table, None, 10.0).terms.balance) == [0.0, 0.0]
    assert min(pick(ask_of(20_000, session=1), table, None, 10.0).terms.balance) > 0.0


def test_what_requests_have_in_common_is_held_once_where_an_engine_says_so():
    """Twenty requests with one common prompt: counted apart they fill the room, which is nearly empty."""
    table = table_of(2, kv_capacity_tokens=100_000.0)
    for _ in range(20):
        table.first_token(table.begin(ask_of(8000, output_tokens=100.0), "10.0.0.0:8000", 0.0), 0.5)
    full = pick(ask_of(8000, output_tokens=100.0), table, held(500, 0), 1.0)
    assert full.terms.wait[0] > 0.0
    for turn in range(60):
        now = 1.0 + turn
        table.observe("10.0.0.0:8000", running=20, waiting=0, kv_usage=0.09, now=now)
        table.observe("10.0.0.1:8000", running=0, waiting=0, kv_usage=0.0, now=now)
    found = pick(ask_of(8000, output_tokens=100.0), table, held(500, 0), now)
    assert found.terms.wait[0] == 0.0


def test_a_request_evicts_no_more_than_it_adds():
    table = table_of(1, kv_capacity_tokens=100_000.0)
    for number in range(12):
        ticket = table.begin(ask_of(8000, session=number, wclass="c"), "10.0.0.0:8000", float(number))
        table.first_token(ticket, number + 0.5)
        table.end(ticket, number + 0.9, output_tokens=10)
    for _ in range(20):
        table.begin(ask_of(8000), "10.0.0.0:8000", 20.0)
    found = pick(ask_of(1000, output_tokens=100.0), table, None, 21.0)
    assert table.evict[0] > 0.0
    assert found.terms.evict[0] <= 1100.0 * table.evict[0] + 1e-12


def test_a_prompt_larger_than_the_kv_room_waits_no_longer_than_what_runs_there():
    idle = table_of(1, kv_capacity_tokens=10_000.0)
    assert pick(ask_of(50_000), idle, None, 0.0).terms.wait[0] == 0.0
    ticket = idle.begin(ask_of(5000, output_tokens=100.0), "10.0.0.0:8000", 0.0)
    idle.first_token(ticket, 1.0)
    found = pick(ask_of(50_000, output_tokens=100.0), idle, None, 1.0)
    assert 0.0 < found.terms.wait[0] <= 100.0 * found.terms.tpot[0] + 1e-9


def test_equal_endpoints_take_turns():
    table = table_of(4)
    assert {pick(ask_of(), table, None, 0.0).address for _ in range(8)} == set(table.addresses)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 600)), min_size=1, max_size=24),
    st.integers(1, 100_000),
)
@settings(max_examples=100, deadline=None)
def test_a_pick_is_the_least_of_the_healthy_ones_in_the_subset(rows, tokens):
    table = table_of(len(rows))
    subset = set()
    for address, (allowed, draining, ejected, _) in zip(table.addresses, rows, strict=True):
        table.add(dataclasses.replace(table.endpoint(address), draining=draining))
        if ejected:
            table.failed(address, 0.0)
        if allowed:
            subset.add(address)
    found = pick(ask_of(tokens, ttft_objective_seconds=1e6), table, held(*(row[3] for row in rows)), 0.0, subset=subset)
    if not subset:
        assert isinstance(found, Refused)
        assert found.status == 503
        return
    assert isinstance(found, Pick)
    assert {found.address, *found.fallbacks} <= subset
    assert found.address not in found.fallbacks
    healthy = [
        at for at, (allowed, draining, ejected, _) in enumerate(rows) if allowed and not draining and not ejected
    ]
    if healthy:
        assert found.row in healthy
        least = min(float(found.terms.total[at]) for at in healthy)
        assert found.terms.total[found.row] <= least * (1.0 + TIE_SHARE) + TIE_SECONDS
        assert {table.position(one) for one in found.fallbacks} <= set(healthy)


def test_a_subset_names_hosts_with_or_without_ports():
    table = Endpoints("p")
    table.add(Endpoint("[fd00::1]:8000", RATES))
    table.add(Endpoint("10.0.0.1:8000", RATES))
    assert pick(ask_of(), table, None, 0.0, subset=["fd00::1"]).address == "[fd00::1]:8000"
    assert pick(ask_of(), table, None, 0.0, subset=["10.0.0.1:8000"]).address == "10.0.0.1:8000"
    assert pick(ask_of(), table, None, 0.0, subset=["10.0.0.1:9000"]).status == 503


def test_nobody_there_is_a_503_and_a_pool_that_wakes_lets_wait():
    assert pick(ask_of(), Endpoints("p"), None, 0.0).status == 503
    assert pick(ask_of(), Endpoints("p", wake_seconds=60.0), None, 1.0) == Queued(
        "pool p is at zero and wakes up", 61.0
    )
    assert pick(Ask("q", "m", 1), table_of(1), None, 0.0).status == 503
    assert pick(ask_of(lora="x"), table_of(1), None, 0.0).status == 503


def test_an_adapter_is_loaded_where_that_is_cheapest_and_used_where_it_is():
    table = table_of(1, lora_load_seconds=5.0)
    table.add(Endpoint("10.0.0.9:8000", RATES, loras=frozenset({"x"})))
    assert pick(ask_of(lora="x"), table, None, 0.0).address == "10.0.0.9:8000"


def test_a_full_pool_refuses_or_queues():
    table = table_of(1)
    for _ in range(10):
        table.begin(ask_of(50_000), "10.0.0.0:8000", 0.0)
    refused = pick(ask_of(ttft_objective_seconds=3.0), table, None, 0.0)
    assert refused.status == 429
    assert refused.retry_after_seconds >= 1
    waits = table_of(1)
    waits.begin(ask_of(15_000), "10.0.0.0:8000", 0.0)
    ask = ask_of(ttft_objective_seconds=3.0)
    queue = Queue()
    assert isinstance(pick(ask, waits, None, 0.0, queue=queue), Queued)
    assert isinstance(pick(ask, waits, None, 1.0, queue=queue, is_next=True), Pick)


def test_a_request_waits_behind_the_queue_unless_it_is_its_head():
    table, queue = table_of(1), Queue()
    queue.offer(ask_of(), "before", 0.0, 10.0)
    assert isinstance(pick(ask_of(), table, None, 0.0, queue=queue), Queued)
    assert isinstance(pick(ask_of(), table, None, 0.0, queue=queue, is_next=True), Pick)


def test_a_session_whose_home_drains_goes_where_it_was_moved_once():
    table = table_of(3)
    ask = ask_of(session=7)
    ticket = table.begin(ask, "10.0.0.0:8000", 0.0)
    table.first_token(ticket, 1.0)
    table.end(ticket, 2.0, output_tokens=10)
    table.add(dataclasses.replace(table.endpoint("10.0.0.0:8000"), draining=True))
    (move,) = hand_over(table, "10.0.0.0:8000", 3.0)
    assert move.target != "10.0.0.0:8000"
    assert hand_over(table, "10.0.0.0:8000", 3.0) == []
    found = pick(ask, table, held(400, 0, 0), 3.0)
    assert found.address == move.target
    assert found.moved_from == "10.0.0.0:8000"


def test_deferrable_work_starts_in_slack_and_else_waits_until_it_must():
    table = table_of(1)
    ask = ask_of(deadline=1000.0)
    assert isinstance(pick(ask, table, None, 0.0), Pick)
    table.begin(ask_of(), "10.0.0.0:8000", 0.0)
    assert isinstance(pick(ask, table, None, 0.0), Queued)
    assert isinstance(pick(ask, table, None, 999.0), Pick)


@pytest.mark.parametrize("priority", [-1, 0, 1])
def test_deferrable_work_finds_no_slack_where_it_would_slow_what_people_were_promised(priority):
    table = table_of(1)
    batch = ask_of(deadline=1000.0)
    pace = float(pick(batch, table, None, 0.0).terms.tpot[0])
    for promised, expected in ((2.0, Pick), (1.01, Queued)):
        pick(ask_of(priority=priority, tpot_objective_seconds=promised * pace), table, None, 0.0)
        assert isinstance(pick(batch, table, None, 0.0), expected)


def test_much_uncached_work_is_prefilled_apart_and_little_is_not():
    rates = dataclasses.replace(RATES, transfer_bytes_per_second=50e9)
    table = Endpoints("p")
    table.add(Endpoint("10.0.0.0:8000", rates, slot=0, role="decode"))
    table.add(Endpoint("10.0.0.1:8000", rates, slot=1, role=PREFILL))
    for _ in range(20):
        table.first_token(table.begin(ask_of(1000), "10.0.0.0:8000", 0.0), 0.1)
    table.until[0], table.prefill_factor[0] = 0.0, 1.0
    far = pick(ask_of(30_000), table, held(0, 0), 1.0)
    assert (far.address, far.prefill_address) == ("10.0.0.0:8000", "10.0.0.1:8000")
    assert far.expected_ttft_seconds == pytest.approx(far.split.ttft_seconds)
    assert pick(ask_of(30_000), table, held(1874, 0), 1.0).prefill_address is None


def test_all_alternatives_are_told_with_why_they_were_left():
    table = table_of(4)
    table.failed("10.0.0.1:8000", 0.0)
    table.add(dataclasses.replace(table.endpoint("10.0.0.2:8000"), draining=True))
    found = pick(ask_of(), table, None, 0.0, subset=["10.0.0.0", "10.0.0.1", "10.0.0.2"])
    assert [one.excluded for one in sorted(found.others, key=lambda one: one.address)] == [
        "ejected",
        "draining",
        "outside of the subset, role or adapter asked for",
    ]


def test_a_small_session_stays_where_it_began_on_a_pool_that_serves_little():
    rates = dataclasses.replace(RATES, step_seconds_per_kv_token=1e-8)
    table = Endpoints("p")
    for place in range(4):
        table.add(Endpoint(f"10.0.0.{place}:8000", rates, slot=place))
    for now in range(20):
        ticket = table.begin(ask_of(600, session=1), "10.0.0.2:8000", 10.0 * now)
        table.first_token(ticket, 10.0 * now + 0.06)
        table.end(ticket, 10.0 * now + 2.6, output_tokens=256)
    assert pick(ask_of(700, session=1), table, held(0, 0, 37, 0), 300.0).address == "10.0.0.2:8000"


def test_a_turn_that_comes_before_the_last_one_was_prefilled_goes_behind_it():
    table = table_of(2)
    keys = np.arange(1, 1001, dtype=np.uint64)
    first = table.begin(ask_of(16_000, session=1, keys=keys[:990]), "10.0.0.1:8000", 0.0)
    found = pick(ask_of(16_100, session=1, keys=keys), table, None, 0.1)
    assert found.address == "10.0.0.1:8000"
    assert list(found.terms.cached) == [0.0, 990 * 16.0]
    assert found.hit_tokens == (0,)
    table.end(first, 0.2)
    assert list(pick(ask_of(16_100, session=1, keys=keys), table, None, 0.3).terms.cached) == [0.0, 0.0]


def busy_holder(tokens):
    """The pick of a prompt that would be late at its holder, on a pool of two where much comes."""
    table = table_of(2)
    for turn in range(400):
        now = turn / 2.0
        ticket = table.begin(ask_of(4000), f"10.0.0.{turn % 2}:8000", now)
        table.first_token(ticket, now + 0.4)
        table.end(ticket, now + 0.5, output_tokens=10)
    table.begin(ask_of(15_500), "10.0.0.0:8000", 200.0)
    return pick(ask_of(tokens, ttft_objective_seconds=1.5), table, held(tokens // 16, 0), 200.0)


def test_a_request_is_served_in_time_elsewhere_unless_that_costs_others_more_than_its_own_wait():
    short, long = busy_holder(7000), busy_holder(14_000)
    assert short.terms.total[0] < short.terms.total[1]
    assert short.address == "10.0.0.1:8000"
    assert long.terms.wait[1] == 0.0
    assert long.address == "10.0.0.0:8000"


def test_an_endpoint_whose_own_prefill_would_be_too_late_is_not_free():
    table = table_of(2)
    table.begin(ask_of(18_000), "10.0.0.0:8000", 0.0)
    table.begin(ask_of(15_000), "10.0.0.1:8000", 0.0)
    found = pick(ask_of(9000, ttft_objective_seconds=1.7), table, held(560, 0), 0.0)
    assert isinstance(found, Refused)
