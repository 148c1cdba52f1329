"""When a request is refused: by priority and objective, with bounded memory."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tidefleet.routing.shed import (
    DEFAULT_WAIT_SECONDS,
    LIVE_SECONDS,
    MOST_PRIORITIES,
    Promises,
    longest_wait,
    longest_waits,
    retry_after_seconds,
)


def test_a_request_waits_as_long_as_its_objective_leaves():
    none = Promises()
    assert longest_wait(0, 2.0, 0.5, none, 0.0) == 1.5
    assert longest_wait(0, 2.0, 9.0, none, 0.0) == 0.5
    assert longest_wait(0, None, 9.0, none, 0.0) == DEFAULT_WAIT_SECONDS


def test_a_lower_priority_waits_less_while_a_higher_one_has_a_promise():
    promises = Promises()
    promises.asked(5, 1.0, 0.0)
    assert longest_wait(0, None, 0.0, promises, 1.0) == 0.5
    assert longest_wait(5, 4.0, 0.0, promises, 1.0) == 4.0
    assert longest_wait(0, None, 0.0, promises, 2.0 + LIVE_SECONDS) == DEFAULT_WAIT_SECONDS


@given(
    st.integers(0, 9),
    st.none() | st.floats(0.01, 60.0),
    st.lists(st.floats(0.0, 100.0), min_size=1),
    st.floats(0.0, 90.0),
)
def test_all_endpoints_together_are_given_what_each_is_given(priority, objective, prefills, now):
    promises = Promises()
    promises.asked(5, 1.0, 0.0)
    each = [longest_wait(priority, objective, one, promises, now) for one in prefills]
    assert longest_waits(priority, objective, prefills, promises, now).tolist() == each


def test_the_tightest_promise_counts_until_it_is_old():
    promises = Promises()
    promises.asked(1, 1.0, 0.0)
    promises.asked(1, 9.0, 1.0)
    assert promises.tightest_above(0, 1.0) == 1.0
    promises.asked(1, 9.0, LIVE_SECONDS + 1.0)
    assert promises.tightest_above(0, LIVE_SECONDS + 1.0) == 9.0
    assert promises.tightest_above(1, LIVE_SECONDS + 1.0) == math.inf


def test_a_flood_of_priorities_is_bounded():
    promises = Promises()
    for priority in range(5000):
        promises.asked(priority, 1.0, 0.0)
    assert len(promises._seen) <= MOST_PRIORITIES


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_retry_after_is_a_whole_number_of_seconds_from_1_to_600(wait, limit):
    assert 1 <= retry_after_seconds(wait, limit) <= 600
