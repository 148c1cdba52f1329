"""Work that may wait: in order of deadlines, in slack only."""

import pytest

from tidefleet.routing.defer import LOWEST_PRIORITY, Deferred, engine_priority
from tidefleet.routing.request import Ask

A = "10.0.0.1:8000"


def ask(deadline=None, tokens=100):
    return Ask("p", "m", tokens, output_tokens=10.0, deadline=deadline)


def test_the_earliest_deadline_goes_first_and_equal_ones_in_order():
    queue = Deferred()
    for handle, deadline in (("c", 9.0), ("a", 5.0), ("b", 5.0)):
        assert queue.offer(ask(deadline), handle, 0.0) is None
    assert queue.next()[1] == "a"
    assert [queue.pop()[1] for _ in range(3)] == ["a", "b", "c"]
    assert queue.pop() is None
    assert queue.next() is None
    assert queue.tokens == 0.0


def test_it_is_bounded_and_refuses_what_has_no_time():
    queue = Deferred(most=2, most_tokens=1000.0)
    assert "passed" in queue.offer(ask(1.0), "x", 1.0)
    assert "full" in queue.offer(ask(9.0, 2000), "x", 0.0)
    kept = [queue.offer(ask(9.0), number, 0.0) for number in range(50)]
    assert kept.count(None) == len(queue) == 2
    with pytest.raises(ValueError, match="deadline is None"):
        queue.offer(ask(), "x", 0.0)


def test_clients_that_went_and_deadlines_that_passed_leave():
    queue = Deferred()
    one, two, three = object(), object(), object()
    for place, handle in enumerate((one, two, three)):
        queue.offer(ask(1.0 + place), handle, 0.0)
    assert queue.remove([two]) == 1
    assert [handle for _, handle in queue.expire(1.5)] == [one]
    assert len(queue) == 1


def test_engines_take_the_lowest_number_first():
    assert engine_priority(5) < engine_priority(0) < engine_priority(-5) < LOWEST_PRIORITY
    assert engine_priority(-(2**40)) < LOWEST_PRIORITY
