"""In plain numbers the terms of a small pool are what they are in arrays, and so is the pick."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.routing import few
from tidefleet.routing.endpoint import PREFILL, Endpoint
from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.few import MOST, Few, few_terms
from tidefleet.routing.index import Hits
from tidefleet.routing.pick import Pick, Queued, Refused, pick
from tidefleet.routing.queue import Queue
from tidefleet.routing.rates import Rates
from tidefleet.routing.request import Ask
from tidefleet.routing.terms import Terms, terms_of

COLUMNS = (
    "wait", "fetch", "prefill", "decode", "harm", "evict", "crowd", "balance", "late", "usd", "total", "cached", "tpot",
    "load",
)  # fmt: skip
SMALL, LARGE = st.floats(1e-6, 1e-2), st.floats(1000.0, 500_000.0)


@st.composite
def cases(draw):
    """A pool with a past, a request, what is held of it, and the time."""
    count = draw(st.integers(1, 12))
    priced = draw(st.booleans())
    table = Endpoints("p", seed=draw(st.integers(0, 5)))
    for place in range(count):
        rates = Rates(
            draw(SMALL), draw(st.floats(0.0, 1e-8)), 0.005, draw(SMALL), draw(SMALL), draw(st.floats(0, 1e-7))
        )
        table.add(
            Endpoint(
                f"10.0.0.{place}:8000",
                rates,
                slot=place,
                kv_capacity_tokens=draw(LARGE),
                usd_per_second=draw(st.floats(0.0001, 0.01)) if priced else 0.0,
            )
        )
    now = 0.0
    for _ in range(draw(st.integers(0, 25))):
        now += draw(st.floats(0.0, 3.0))
        address = f"10.0.0.{draw(st.integers(0, count - 1))}:8000"
        match draw(st.integers(0, 2)):
            case 0:
                table.begin(Ask("p", "m", draw(st.integers(1, 50_000))), address, now)
            case 1:
                ticket = table.begin(Ask("p", "m", draw(st.integers(1, 50_000)), session=1), address, now)
                table.first_token(ticket, now + 0.2)
                table.end(ticket, now + 0.4, output_tokens=20.0)
            case _:
                running, waiting = draw(st.integers(0, 30)), draw(st.integers(0, 9))
                table.observe(address, running=running, waiting=waiting, kv_usage=draw(st.floats(0, 1)), now=now)
    for place in draw(st.sets(st.integers(0, count - 1), max_size=count)):
        table.failed(f"10.0.0.{place}:8000", now)
    ask = Ask(
        "p",
        "m",
        draw(st.integers(1, 100_000)),
        token_exact=draw(st.booleans()),
        output_tokens=draw(st.floats(1.0, 4000.0)),
        ttft_objective_seconds=draw(st.none() | st.floats(0.01, 20.0)),
        tpot_objective_seconds=draw(st.none() | st.floats(0.001, 0.2)),
    )
    held = draw(st.none() | st.lists(st.integers(0, 7000), min_size=count, max_size=count))
    hits = None if held is None else Hits(np.array([held] * 4, np.int32))
    return table, ask, hits, now + draw(st.floats(0.0, 8.0))


@given(cases())
@settings(max_examples=300, deadline=None)
def test_every_term_is_what_it_is_in_arrays(case):
    table, ask, hits, now = case
    found, expected = few_terms(ask, table, hits, now), terms_of(ask, table, hits, now)
    assert found is not None
    for name in COLUMNS:
        assert list(getattr(found, name)) == pytest.approx(getattr(expected, name).tolist(), rel=1e-9, abs=1e-15), name
    for row in range(len(table)):
        assert found.held_at(row) == expected.held_at(row)
        assert found.ttft_at(row) == pytest.approx(expected.ttft_at(row))


@given(cases(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_pick_is_the_one_that_arrays_lead_to(case, queued):
    table, ask, hits, now = case
    with pytest.MonkeyPatch.context() as patch:
        turn = table.turn
        found = pick(ask, table, hits, now, queue=Queue() if queued else None)
        table.turn = turn
        patch.setattr(few, "MOST", 0)
        expected = pick(ask, table, hits, now, queue=Queue() if queued else None)
    if not isinstance(found, Pick) or not isinstance(expected, Pick):
        assert type(found) is type(expected)
        assert getattr(found, "status", 0) == getattr(expected, "status", 0)
        return
    assert isinstance(found.terms, Few)
    assert isinstance(expected.terms, Terms)
    assert (found.address, found.fallbacks) == (expected.address, expected.fallbacks)
    assert found.reason == expected.reason
    assert found.work_at(found.address).seconds == pytest.approx(expected.work_at(found.address).seconds)


def table_of(count, **facts):
    table = Endpoints("p")
    for place in range(count):
        table.add(Endpoint(f"10.0.0.{place}:8000", Rates(1e-4), slot=place, **facts))
    return table


def test_what_is_unusual_is_left_to_arrays():
    ask = Ask("p", "m", 8000)
    below = Hits(np.array([[10, 20], [10, 20], [10, 20], [10, 90]], np.int32))
    assert few_terms(ask, table_of(2), None, 0.0) is not None
    assert few_terms(ask, table_of(2), below, 0.0) is None, "the store holds more than the device"
    assert few_terms(ask, table_of(3), Hits(np.zeros((4, 2), np.int32)), 0.0) is None, "a slot without a column"
    assert few_terms(ask, table_of(MOST + 1), None, 0.0) is None
    assert few_terms(ask, table_of(0), None, 0.0) is None
    adapter = Ask("p", "m", 8000, lora="a")
    assert few_terms(adapter, table_of(2, loras=frozenset({"a"})), None, 0.0) is None


@pytest.mark.parametrize("count", [2, MOST + 2])
def test_an_endpoint_that_failed_is_passed_over_at_once_and_returns_with_its_probe(count):
    table, ask = table_of(count), Ask("p", "m", 8000)
    first = pick(ask, table, None, 0.0)
    assert isinstance(first, Pick)
    for one in table.addresses:
        if one != first.address:
            table.failed(one, 0.0)
    for _ in range(3):
        again = pick(ask, table, None, 0.1)
        assert isinstance(again, Pick)
        assert (again.address, again.fallbacks) == (first.address, ())
    other = next(one for one in table.addresses if one != first.address)
    table.probed(other, True, 1.0)
    back = pick(ask, table, None, 1.1)
    assert isinstance(back, Pick)
    assert {back.address, *back.fallbacks} == {first.address, other}
    assert not first.ejected.any(), "what a pick saw stays as it was"


def test_a_pool_of_prefilling_endpoints_alone_decodes_nowhere():
    assert isinstance(pick(Ask("p", "m", 10), table_of(2, role=PREFILL), None, 0.0), Refused)
    assert isinstance(pick(Ask("p", "m", 10), Endpoints("p", wake_seconds=1.0), None, 0.0), Queued)
