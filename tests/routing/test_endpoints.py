"""The table of a pool: accounts that return to zero, ejection and probing, corrections."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.routing.endpoint import Endpoint, Work
from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.health import FIRST_PROBE_SECONDS, LONGEST_PROBE_SECONDS, PROBE_TIMEOUT_SECONDS
from tidefleet.routing.rates import Rates
from tidefleet.routing.request import Ask

RATES = Rates(1e-4)
A, B = "10.0.0.1:8000", "10.0.0.2:8000"


@pytest.fixture
def table():
    found = Endpoints("p")
    for place, address in enumerate((A, B)):
        found.add(Endpoint(address, RATES, slot=place))
    return found


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.integers(1, 50_000), st.booleans(), st.booleans()), max_size=40))
@settings(max_examples=100, deadline=None)
def test_whatever_is_served_fails_or_is_cancelled_the_accounts_return_to_zero(requests):
    table = Endpoints("p")
    for address in (A, B):
        table.add(Endpoint(address, RATES))
    tickets = [
        (table.begin(Ask("p", "m", tokens, session=tokens), address, 1.0), first, served)
        for address, tokens, first, served in requests
    ]
    for ticket, first, served in tickets:
        if first:
            table.first_token(ticket, 2.0)
            table.first_token(ticket, 2.5)
        table.end(ticket, 3.0, output_tokens=5.0 if served else 0.0)
        table.end(ticket, 4.0, output_tokens=5.0)
    for account in (table.pending, table.running, table.owed, table.context):
        assert account.tolist() == [0.0, 0.0]
    assert (table.until <= 3.0).all()
    assert (table.resident <= table.capacity).all()


def test_a_failed_endpoint_is_left_out_at_once_and_probed_ever_more_rarely(table):
    table.failed(A, 10.0)
    assert table.healthy.tolist() == [False, True]
    assert table.due_probes(10.0 + 0.9 * FIRST_PROBE_SECONDS) == ()
    now, waits = 10.0, []
    for _ in range(8):
        step = 0.0
        while table.due_probes(now + step) == ():
            step += 0.5
        waits.append(step)
        now += step
        assert table.due_probes(now) == ()
        table.probed(A, False, now)
    assert waits == sorted(waits)
    assert waits[0] == FIRST_PROBE_SECONDS
    assert waits[-1] == LONGEST_PROBE_SECONDS


def test_a_probe_that_is_never_answered_is_sent_again(table):
    table.failed(A, 0.0)
    assert table.due_probes(1.0) == (A,)
    assert table.due_probes(1.0 + PROBE_TIMEOUT_SECONDS) == (A,)


def test_a_probe_or_a_first_token_brings_an_endpoint_back(table):
    table.failed(A, 0.0)
    table.probed(A, True, 1.0)
    assert table.healthy.all()
    ticket = table.begin(Ask("p", "m", 10), B, 1.0)
    table.failed(B, 1.0)
    table.first_token(ticket, 2.0)
    assert table.healthy.all()


def test_a_ticket_of_an_endpoint_that_left_does_not_touch_its_successor(table):
    ticket = table.begin(Ask("p", "m", 10), A, 0.0)
    table.remove(A)
    table.add(Endpoint(A, RATES))
    fresh = table.begin(Ask("p", "m", 10), A, 1.0)
    table.end(ticket, 2.0, output_tokens=3.0)
    assert table.in_flight(A) == 1
    table.end(fresh, 3.0)
    assert table.in_flight(A) == 0
    table.remove(A)
    table.remove(A)
    assert table.addresses == (B,)


def test_facts_may_change_while_requests_are_in_flight(table):
    table.begin(Ask("p", "m", 10), A, 0.0)
    table.add(Endpoint(A, RATES, kv_capacity_tokens=7.0))
    assert table.in_flight(A) == 1
    assert table.capacity[0] == 7.0


def test_what_other_routers_send_is_what_is_seen_beyond_our_own(table):
    table.first_token(table.begin(Ask("p", "m", 10), A, 0.0), 0.1)
    table.observe(A, running=3.0, waiting=2.0, kv_usage=0.5, now=1.0)
    assert (table.others_running[0], table.others_waiting[0]) == (2.0, 2.0)
    assert table.seen_pinned[0] == 0.5 * table.capacity[0]
    table.observe("10.9.9.9:1", running=1.0, waiting=1.0, kv_usage=1.0, now=1.0)


def test_an_engine_slower_than_modelled_is_learned_within_bounds(table):
    now = 0.0
    for _ in range(200):
        ticket = table.begin(Ask("p", "m", 1000), A, now, work=Work(0.1))
        table.first_token(ticket, now + 100.0)
        table.end(ticket, now + 1000.0, output_tokens=10.0)
        now += 2000.0
    assert table.prefill_factor[0] == pytest.approx(8.0)
    assert table.step_factor[0] == pytest.approx(8.0)
    assert table.prefill_factor[1] == 1.0


def served(table, asks, *, until, ttft, tpot):
    """Serve each of these once a second, one after the other."""
    for now in range(until):
        for ask in asks:
            ticket = table.begin(ask, A, float(now))
            table.first_token(ticket, now + ttft(ask))
            table.end(ticket, now + ttft(ask) + 4.0 * tpot(ask), output_tokens=5.0)


def test_deferrable_work_unlearns_nothing_of_how_long_people_wait(table):
    """However many of them come and however soon they are over, beside prompts that take twice what is modelled."""
    people, batch = Ask("p", "m", 2000), Ask("p", "m", 300, deadline=1e6)
    times = {"ttft": lambda one: 0.01 if one.is_deferrable else 0.4, "tpot": lambda one: 0.05}
    served(table, [people, *[batch] * 20], until=200, **times)
    mixed = table.prefill_factor[0], table.step_factor[0]
    alone = Endpoints("p")
    alone.add(Endpoint(A, RATES))
    served(alone, [people], until=200, **times)
    assert mixed == (alone.prefill_factor[0], alone.step_factor[0])
    assert mixed[0] > 1.5


def test_a_pool_that_serves_deferrable_work_alone_learns_from_it(table):
    table.end(table.begin(Ask("p", "m", 2000), A, 0.0), 1.0)
    batch = Ask("p", "m", 2000, deadline=1e6)
    times = {"ttft": lambda one: 0.4, "tpot": lambda one: 0.05}
    served(table, [batch], until=60, **times)
    assert table.prefill_factor[0] == 1.0
    served(table, [batch], until=1000, **times)
    assert table.prefill_factor[0] > 1.5


def test_deferrable_work_makes_neither_pool_nor_endpoint_busier_for_people(table):
    for now in range(100):
        table.begin(Ask("p", "m", 10**8, deadline=1e6), A, float(now))
    assert table.crowd(100.0) == 0.0
    assert table.load_shares().tolist() == [1.0, 1.0]


def test_work_counts_for_more_the_busier_a_pool_is(table):
    seen = []
    for now in range(0, 300):
        table.end(table.begin(Ask("p", "m", 2000), A, float(now)), float(now))
        seen.append(table.crowd(float(now)))
    assert seen == sorted(seen)
    assert 0.5 < seen[-1] < 1.0
    assert table.crowd(10_000.0) < 1e-6


def test_shares_of_load_are_of_the_last_hour(table):
    assert table.load_shares().tolist() == [1.0, 1.0]
    table.begin(Ask("p", "m", 1000), A, 0.0)
    assert table.load_shares().tolist() == pytest.approx([1.0, 1.0], abs=0.01)
    table.begin(Ask("p", "m", 10**9), A, 0.0)
    assert table.load_shares().tolist() == pytest.approx([2.0, 0.0], abs=0.01)
    table.begin(Ask("p", "m", 10**9), B, 36_000.0)
    assert table.load_shares()[1] > 1.99


def test_masks_of_subsets_are_bounded(table):
    for number in range(2000):
        table.serving("aggregated", lora=None, subset=frozenset({f"10.1.1.{number}"}))
    assert len(table._masks) <= 256


def test_requests_that_gave_way_in_an_engine_wait_there_once_and_hold_nothing(table):
    for _ in range(4):
        table.first_token(table.begin(Ask("p", "m", 1000, output_tokens=200.0), A, 0.0), 0.1)
    for turn in range(60):
        table.observe(A, running=2, waiting=3, kv_usage=2200.0 / table.capacity[0], now=1.0 + turn)
    assert table.others_waiting.tolist() == [1.0, 0.0]
    assert table.others_running.tolist() == [0.0, 0.0]
    assert table.held_share[0] == pytest.approx(1.0)


def test_a_step_of_the_batch_makes_no_prompt_longer(table):
    """A first token that takes its prefill and one decode step says nothing against the prefill's speed."""
    for turn in range(50):
        ticket = table.begin(Ask("p", "m", 500), A, float(turn))
        step = ticket.tpot_seconds * float(table.step_factor[0])
        table.first_token(ticket, turn + ticket.work.seconds + step)
        table.end(ticket, turn + 0.9)
    assert table.prefill_factor[0] == pytest.approx(1.0)
