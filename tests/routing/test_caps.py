"""Limits of tenants: kept over any window, for any number of names, whatever the clock does."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.routing.caps import DAY, MINUTE, OTHERS, WAYS, Caps, Limit, bytes_for

TOKENS, DOLLARS = Limit(tokens_per_minute=1000.0), Limit(usd_per_day=25.0)
CLASS, TENANT = 7, 0x9F86D081884C7D65


def use(caps, tokens, now, *, tenant=TENANT, limit=TOKENS, usd=0.0):
    """Why a request is not let in."""
    return caps.take(CLASS, tenant, limit, now, tokens=tokens, usd=usd)


def test_a_tenant_is_let_in_up_to_its_limit_and_told_when_there_is_room_again():
    caps = Caps()
    assert [use(caps, 250, 10.0) for _ in range(4)] == [None] * 4
    over = use(caps, 250, 10.0)
    assert over is not None
    assert "1,000 tokens a minute" in over.reason
    assert use(caps, 250, 10.0 + over.retry_after_seconds - 1.5) is not None
    assert use(caps, 250, 10.0 + over.retry_after_seconds) is None


def test_dollars_of_a_day_are_limited_likewise():
    caps = Caps()
    assert use(caps, 10, 0.0, limit=DOLLARS, usd=25.0) is None
    over = use(caps, 10, 3600.0, limit=DOLLARS, usd=0.5)
    assert over is not None
    assert "25 USD a day" in over.reason
    assert 82_000 < over.retry_after_seconds < 2 * DAY
    assert use(caps, 10, 3600.0 + over.retry_after_seconds, limit=DOLLARS, usd=0.5) is None


def test_one_tenant_does_not_use_anothers_limit_nor_another_class():
    caps = Caps()
    assert use(caps, 1000, 0.0) is None
    assert use(caps, 1000, 0.0, tenant=1) is None
    assert caps.take(CLASS + 1, TENANT, TOKENS, 0.0, tokens=1000) is None
    assert use(caps, 1, 0.0) is not None


def test_requests_that_name_no_tenant_count_as_one():
    caps = Caps()
    assert use(caps, 900, 0.0, tenant=None) is None
    assert use(caps, 900, 0.0, tenant=None) is not None
    assert use(caps, 900, 0.0) is None


def test_a_request_larger_than_the_limit_goes_alone():
    caps = Caps()
    assert use(caps, 5000, 0.0) is None
    over = use(caps, 5000, 30.0)
    assert over is not None
    assert use(caps, 5000, 30.0 + over.retry_after_seconds) is None


def test_what_was_expected_and_not_used_is_given_back_while_it_counts():
    caps = Caps()
    caps.spend(CLASS, TENANT, 5.0, tokens=1000, usd=1.0)
    caps.spend(CLASS, TENANT, 20.0, tokens=-900, usd=-0.5, since=5.0)
    assert caps.used(CLASS, TENANT, 20.0) == (100.0, 0.5)
    caps.spend(CLASS, TENANT, 200.0, tokens=500, usd=0.0)
    caps.spend(CLASS, TENANT, 201.0, tokens=-900, usd=0.0, since=20.0)
    assert caps.used(CLASS, TENANT, 201.0)[0] == 500.0, "what counts no longer is not given back to others"


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(1, 400)), min_size=5, max_size=120))
@settings(max_examples=150, deadline=None)
def test_no_stretch_of_a_minute_has_more_than_twice_the_limit_and_every_window_no_more_than_it(asked):
    caps, now, let_in = Caps(), 0.0, []
    for gap, tokens in asked:
        now += gap
        if use(caps, tokens, now) is None:
            let_in.append((now, tokens))
    for first, _ in let_in:
        assert sum(tokens for at, tokens in let_in if first <= at < first + MINUTE) <= 2000
    whole = {}
    for at, tokens in let_in:
        whole[at // MINUTE] = whole.get(at // MINUTE, 0) + tokens
    assert sum(whole.values()) <= 1000 * (now / MINUTE + 2)


def test_a_steady_stream_gets_its_limit_on_average():
    caps, let_in = Caps(), 0
    for step in range(6000):
        let_in += use(caps, 50, step * 0.5) is None
    assert let_in * 50 / 50.0 == pytest.approx(1000.0, rel=0.05)


@pytest.mark.parametrize("jump", [-10 * DAY, -90.0, -1.0])
def test_a_clock_that_goes_back_locks_nobody_for_longer_than_two_windows(jump):
    caps = Caps()
    now = 20 * DAY
    assert use(caps, 1000, now) is None
    now += jump
    over = use(caps, 10, now)
    assert over is not None, "and it lets nobody in"
    assert over.retry_after_seconds <= 2 * MINUTE
    assert use(caps, 10, now + over.retry_after_seconds) is None


def test_any_number_of_names_takes_no_memory_and_no_more_than_the_tables_rows():
    buffer = bytearray(bytes_for(1024))
    caps, rng, let_in = Caps(buffer, rows=1024), random.Random(3), 0  # noqa: S311 - for names
    for _ in range(60_000):
        let_in += use(caps, 1000, 1.0, tenant=rng.getrandbits(64)) is None
    assert 900 < let_in <= 1024 + 1
    assert len(buffer) == (1024 + OTHERS) * 56
    assert len(caps._known) <= 1024
    assert use(caps, 1000, 1.0 + 3 * MINUTE, tenant=4711) is None, "rows that count nothing are free again"


def test_a_row_with_dollars_stays_for_its_day():
    caps = Caps(rows=WAYS)
    for tenant in range(WAYS):
        assert use(caps, 10, 0.0, tenant=tenant, limit=DOLLARS, usd=20.0) is None
    assert use(caps, 10, 3600.0, tenant=99, limit=DOLLARS, usd=20.0) is None, "the others of the class"
    assert use(caps, 10, 3600.0, tenant=98, limit=DOLLARS, usd=20.0) is not None
    assert use(caps, 10, 3600.0, tenant=5, limit=DOLLARS, usd=20.0) is not None, "and who has a row keeps it"
    assert use(caps, 10, 2 * DAY + 1, tenant=98, limit=DOLLARS, usd=20.0) is None


def test_tables_on_one_buffer_count_together():
    buffer = bytearray(bytes_for())
    one, other = Caps(buffer), Caps(buffer)
    assert use(one, 600, 0.0) is None
    assert use(other, 600, 0.0) is not None
    assert use(other, 400, 0.0) is None
    assert one.used(CLASS, TENANT, 0.0) == (1000.0, 0.0)


def test_a_table_of_a_wrong_size_is_told():
    with pytest.raises(ValueError, match="multiple of 32"):
        Caps(rows=100)
    with pytest.raises(ValueError, match="expected 71680 for 1024 rows"):
        Caps(bytearray(10), rows=1024)
