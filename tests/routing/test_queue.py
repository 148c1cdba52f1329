"""Requests that wait: bounded, by priority, fair between tenants."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.routing.endpoint import Endpoint
from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.queue import MOST_TENANTS, Queue
from tidefleet.routing.rates import Rates
from tidefleet.routing.request import Ask


def ask(tokens=100, **facts):
    return Ask("p", "m", tokens, output_tokens=0.0, **facts)


def drained(queue):
    found = []
    while (entry := queue.take()) is not None:
        found.append(entry.handle)
    return found


def test_a_higher_priority_goes_first_and_a_better_margin_per_second_within_one():
    queue = Queue()
    queue.offer(ask(), "low", 0.0, 9.0)
    queue.offer(ask(priority=1, wclass="at a loss", margin_usd=-0.1, endpoint_seconds=1.0), "at a loss", 0.0, 9.0)
    queue.offer(ask(priority=1, wclass="long", margin_usd=0.9, endpoint_seconds=9.0), "long", 0.0, 9.0)
    queue.offer(ask(priority=1, wclass="short", margin_usd=0.2, endpoint_seconds=1.0), "short", 0.0, 9.0)
    queue.offer(ask(priority=1, wclass="unpriced"), "unpriced", 0.0, 9.0)
    assert drained(queue) == ["short", "long", "unpriced", "at a loss", "low"]


def test_tenants_take_turns_by_tokens():
    queue = Queue()
    for number in range(8):
        queue.offer(ask(400, tenant=1), f"big{number}", float(number), 99.0)
    for number in range(8):
        queue.offer(ask(100, tenant=2), f"small{number}", 10.0 + number, 99.0)
    first = drained(queue)[:10]
    assert sum(one.startswith("small") for one in first) == 8


def test_what_is_put_back_keeps_its_place():
    queue = Queue()
    for handle in "abc":
        queue.offer(ask(), handle, 0.0, 9.0)
    entry = queue.take()
    queue.put_back(entry)
    assert len(queue) == 3
    assert drained(queue) == ["a", "b", "c"]
    queue.put_back(entry)
    assert drained(queue) == ["a"]


def test_a_tenant_takes_no_more_than_its_share():
    queue = Queue(most=10, tenant_share=0.5)
    gone = [queue.offer(ask(tenant=1), number, 0.0, 9.0) for number in range(7)]
    assert [len(one) for one in gone] == [0] * 5 + [1] * 2
    assert gone[-1][0].status == 429
    assert queue.offer(ask(tenant=2), "other", 0.0, 9.0) == []


def test_requests_that_name_no_tenant_use_the_whole_queue():
    queue = Queue(most=10, tenant_share=0.5)
    assert [queue.offer(ask(), number, 0.0, 9.0) for number in range(10)] == [[]] * 10
    assert "the queue is full" in queue.offer(ask(), 10, 0.0, 9.0)[0].reason


def test_a_full_queue_lets_the_newest_of_a_lower_priority_go():
    queue = Queue(most=2, tenant_share=1.0)
    for handle in "ab":
        queue.offer(ask(), handle, 0.0, 9.0)
    (gone,) = queue.offer(ask(priority=1, tenant=2), "c", 1.0, 9.0)
    assert gone.entry.handle == "b"
    (gone,) = queue.offer(ask(tenant=2), "d", 1.0, 9.0)
    assert gone.entry.handle == "d"


def test_the_late_and_the_gone_leave():
    queue = Queue()
    queue.offer(ask(), "late", 0.0, 1.0)
    queue.offer(ask(), "stays", 0.0, 9.0)
    (late,) = queue.expire(2.0)
    assert (late.entry.handle, late.status) == ("late", 429)
    entry = queue.take()
    assert not queue.remove(entry)
    queue.put_back(entry)
    assert queue.remove(entry)
    assert (len(queue), queue.tokens) == (0, 0.0)


def test_the_wait_ahead_is_that_of_equals_and_betters():
    table = Endpoints("p")
    table.add(Endpoint("10.0.0.1:8000", Rates(1e-3)))
    queue = Queue()
    queue.offer(ask(1000, priority=1), "x", 0.0, 9.0)
    assert queue.ahead_seconds(1, table, 2) == 0.5
    assert queue.ahead_seconds(2, table, 2) == 0.0


@given(
    st.lists(
        st.tuples(st.integers(1, 4000), st.integers(0, 3), st.integers(0, 3), st.sampled_from("otpr")), max_size=80
    )
)
@settings(max_examples=100, deadline=None)
def test_every_request_leaves_once_and_the_bounds_hold(steps):
    queue, came, left = Queue(most=8, most_tokens=10_000.0, tenant_share=0.5), 0, []
    for number, (tokens, tenant, priority, what) in enumerate(steps):
        if what == "o":
            came += 1
            left += [
                one.entry.handle for one in queue.offer(ask(tokens, tenant=tenant, priority=priority), number, 0.0, 9.0)
            ]
        elif (entry := queue.take()) is not None:
            if what == "p":
                queue.put_back(entry)
            else:
                left.append(entry.handle)
        assert len(queue) <= 8
        assert queue.tokens <= 10_000.0
    left += drained(queue)
    assert len(left) == len(set(left)) == came
    assert queue.tokens == 0.0


def test_a_flood_of_tenants_is_forgotten_again():
    queue = Queue(most=4)
    queue.offer(ask(10**6, tenant=-5), "stays", 0.0, 9.0)
    for tenant in range(MOST_TENANTS + 500):
        queue.offer(ask(1, tenant=tenant), "x", 0.0, 9.0)
        if len(queue) > 2:
            queue.take()
    assert all(len(lane.ends) <= MOST_TENANTS for lane in queue._lanes.values())
    assert len(queue._of_tenant) <= 4
