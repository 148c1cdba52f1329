"""Work that may wait: in order of deadlines, in slack only, first to leave."""

import pytest

from tidefleet.routing.defer import LOWEST_PRIORITY, Deferred, engine_priority, to_leave
from tidefleet.routing.endpoint import Endpoint
from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.rates import Rates
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


def test_it_leaves_an_endpoint_where_somebody_waits_unless_it_is_in_a_hurry():
    table = Endpoints("p")
    table.add(Endpoint(A, Rates(1e-4)))
    late, early = (table.begin(ask(deadline), A, 0.0) for deadline in (2000.0, 1000.0))
    for ticket in (late, early):
        table.first_token(ticket, 0.5)
    assert to_leave(table, 1.0) == []
    table.begin(ask(), A, 1.0)
    assert to_leave(table, 1.0) == [late, early]
    assert to_leave(table, 999.999) == [late]
    table.end(late, 2.0)
    assert to_leave(table, 3.0) == [early]


def test_engines_take_the_lowest_number_first():
    assert engine_priority(5) < engine_priority(0) < engine_priority(-5) < LOWEST_PRIORITY
    assert engine_priority(-(2**40)) < LOWEST_PRIORITY
