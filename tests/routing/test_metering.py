"""What a request took of its endpoint: closed forms, shares that add up to the time, a full engine's seconds."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.routing.endpoint import Endpoint
from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.metering import Shares, decode_seconds, metered
from tidefleet.routing.rates import Rates
from tidefleet.routing.request import Ask

RATES = Rates(1e-4, 1e-9, step_seconds=0.01, step_seconds_per_sequence=2e-4, step_seconds_per_kv_token=1e-8)
USD = 2.0 / 3600.0


def an_endpoint(**facts):
    return Endpoint("10.0.0.1:8000", RATES, **{"usd_per_second": USD, "chips": 4, "prefill_watts": 2000.0, **facts})


def test_a_request_alone_takes_its_prefill_and_every_step():
    found = metered(an_endpoint(), uncached_tokens=1000, cached_tokens=0, output_tokens=101, share=1.0)
    prefill, step = 1000 * (1e-4 + 1e-9 * 500), 0.01 + 2e-4 + 1e-8 * 1050.5
    assert found.prefill_seconds == pytest.approx(prefill)
    assert found.decode_seconds == pytest.approx(100 * step)
    assert found.accelerator_seconds == pytest.approx(4 * (prefill + 100 * step))
    assert found.usd == pytest.approx(USD * (prefill + 100 * step))
    assert (found.saved_seconds, found.avoided_joules) == (0.0, 0.0)


def test_a_hit_saves_what_its_tokens_would_have_taken_and_their_joules():
    found = metered(an_endpoint(), uncached_tokens=1000, cached_tokens=9000, output_tokens=1, share=0.5)
    without, behind = 10_000 * (1e-4 + 1e-9 * 5000), 1000 * (1e-4 + 1e-9 * 9500)
    assert found.prefill_seconds == pytest.approx(behind)
    assert found.saved_seconds == pytest.approx(4 * (without - behind))
    assert found.avoided_joules == pytest.approx(2000.0 * (without - behind))
    assert found.decode_seconds == 0.0, "the prefill gives the first token"


def test_a_price_that_is_not_known_is_never_zero():
    assert (
        metered(an_endpoint(usd_per_second=0.0), uncached_tokens=10, cached_tokens=0, output_tokens=5, share=1).usd
        is None
    )
    nothing = metered(an_endpoint(usd_per_second=0.0), uncached_tokens=0, cached_tokens=0, output_tokens=0, share=1)
    assert (nothing.usd, nothing.accelerator_seconds) == (0.0, 0.0)


def test_a_prefill_elsewhere_is_paid_there():
    prefiller = an_endpoint(usd_per_second=10 * USD, chips=1)
    found = metered(
        an_endpoint(), uncached_tokens=1000, cached_tokens=0, output_tokens=11, share=1.0, prefiller=prefiller
    )
    assert found.accelerator_seconds == pytest.approx(found.prefill_seconds + 4 * found.decode_seconds)
    assert found.usd == pytest.approx(USD * (10 * found.prefill_seconds + found.decode_seconds))


def test_a_request_cut_in_its_prefill_took_no_more_than_passed():
    found = metered(
        an_endpoint(), uncached_tokens=100_000, cached_tokens=0, output_tokens=0, share=1.0, prefilled_seconds=0.25
    )
    assert found.prefill_seconds == 0.25


def test_a_step_is_shared_out_completely():
    batch = [(1000.0, 0.5), (3000.0, 0.3), (200.0, 0.2)]
    parts = sum(decode_seconds(1, tokens, share, s0=0.01, s1=2e-4, s2=1e-8) for tokens, share in batch)
    assert parts == pytest.approx(RATES.tpot_seconds(3, 4200.0))


def test_with_room_to_spare_a_step_is_shared_by_heads_and_in_a_full_one_by_tokens():
    spare, full = Shares(1e12), Shares(1000.0)
    for shares, expected in ((spare, 0.5), (full, 0.9)):
        large, small = shares.enter(0.0, 900.0), shares.enter(0.0, 100.0)
        assert shares.leave(10.0, 0.0, large, 900.0)[0] == pytest.approx(expected)
        assert shares.leave(10.0, 0.0, small, 100.0)[0] == pytest.approx(1.0 - expected)


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 50), st.floats(1, 5000)), min_size=1, max_size=30),
    st.floats(100.0, 1e6),
)
@settings(max_examples=150, deadline=None)
def test_shares_add_up_to_the_time_in_which_anything_ran(lives, capacity):
    shares = Shares(capacity)
    events = sorted(
        [(begin, 0, i) for i, (begin, _, _) in enumerate(lives)] + [(b + t, 1, i) for i, (b, t, _) in enumerate(lives)]
    )
    marks, part, running, busy, last = {}, 0.0, 0, 0.0, 0.0
    for now, ends, at in events:
        busy += (now - last) if running else 0.0
        last = now
        begin, took, tokens = lives[at]
        if ends:
            share, seconds = shares.leave(now, begin, marks[at], tokens)
            assert 0.0 <= share <= 1.0
            assert seconds == pytest.approx(now - begin)
            part, running = part + share * (now - begin), running - 1
        else:
            marks[at], running = shares.enter(now, tokens), running + 1
    assert part == pytest.approx(busy, rel=1e-6, abs=1e-6)


def test_a_clock_that_goes_back_gives_nobody_a_share_that_is_none():
    shares = Shares(1000.0)
    mark = shares.enter(100.0, 10.0)
    other = shares.enter(50.0, 10.0)
    assert shares.leave(40.0, 100.0, mark, 10.0) == (0.5, 0.0)
    assert 0.0 <= shares.leave(200.0, 50.0, other, 10.0)[0] <= 1.0


@pytest.mark.parametrize("true_speed", [1.0, 0.7])
@pytest.mark.parametrize("room", [1e9, 40_000.0])
def test_requests_of_a_full_endpoint_come_to_the_seconds_that_it_ran(true_speed, room):
    """An engine that always has 16 requests, with prefills between its steps; it may be slower than its rates say."""
    rng, table, now, bill = random.Random(7), Endpoints("p"), 0.0, 0.0  # noqa: S311 - for lengths
    endpoint = an_endpoint(kv_capacity_tokens=room, chips=1)
    table.add(endpoint)
    running: list[list] = []
    begun = 0.0
    for served in range(900):
        while len(running) < 16:
            prompt, output = rng.randint(100, 4000), rng.randint(20, 400)
            ticket = table.begin(Ask("p", "m", prompt, output_tokens=float(output)), endpoint.address, now)
            now += RATES.prefill_seconds(prompt) / true_speed
            table.first_token(ticket, now)
            running.append([ticket, prompt, output, 1])
        while all(one[3] < one[2] for one in running):
            now += RATES.tpot_seconds(len(running), sum(one[1] + one[3] for one in running)) / true_speed
            for one in running:
                one[3] += 1
        if served == 300:  # its factors are learned
            begun, bill = now, 0.0
        for one in [one for one in running if one[3] >= one[2]]:
            running.remove(one)
            ticket, prompt, output, _ = one
            table.end(ticket, now, output_tokens=float(output), cached_tokens=0.0)
            prefill_factor, step_factor = table.factors(endpoint.address)
            bill += metered(
                endpoint, uncached_tokens=prompt, cached_tokens=0, output_tokens=output, share=ticket.share,
                prefill_factor=prefill_factor, step_factor=step_factor,
            ).accelerator_seconds  # fmt: skip
    assert bill == pytest.approx(now - begun, rel=0.03)
