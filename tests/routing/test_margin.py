"""Margins per second of an endpoint: what a request earns beyond what its work costs."""

import pytest

from tidefleet.routing.endpoint import Endpoint
from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.margin import endpoint_seconds, with_margin
from tidefleet.routing.queue import margin_rate
from tidefleet.routing.rates import Rates
from tidefleet.routing.request import Ask

RATES = Rates(1e-3, step_seconds=0.02, step_seconds_per_sequence=0.001, prefill_floor_seconds=0.0)


def a_table(*usd_per_second):
    table = Endpoints("p")
    for place, usd in enumerate(usd_per_second):
        table.add(Endpoint(f"10.0.0.{place}:8000", RATES, slot=place, usd_per_second=usd))
    return table


def ask(tokens=1000, output=100.0):
    return Ask("p", "m", tokens, output_tokens=output)


def test_work_is_prefill_of_what_is_not_cached_and_a_part_of_each_step():
    table = a_table(0.0)
    assert endpoint_seconds(ask(), table) == pytest.approx(1.0 + 100 * 0.021)
    assert endpoint_seconds(ask(), table, cached_tokens=900.0) == pytest.approx(0.1 + 100 * 0.021)
    for _ in range(4):
        table.first_token(table.begin(ask(), "10.0.0.0:8000", 0.0), 0.0)
    assert endpoint_seconds(ask(), table) == pytest.approx(1.0 + 100 * (0.02 / 4 + 0.001))
    assert endpoint_seconds(ask(), a_table()) is None


def test_the_same_revenue_is_a_margin_at_one_price_and_a_loss_at_another():
    cheap, dear = (with_margin(ask(), a_table(price), 0.0062) for price in (0.001, 0.003))
    assert cheap.margin_usd == pytest.approx(0.0062 - 3.1 * 0.001)
    assert margin_rate(cheap) == pytest.approx(0.001)
    assert margin_rate(dear) == pytest.approx(-0.001)


def test_without_a_revenue_or_an_endpoint_nothing_is_priced():
    assert with_margin(ask(), a_table(0.1), None).margin_usd is None
    assert margin_rate(with_margin(ask(), a_table(), 1.0)) == 0.0


def test_what_decides_is_the_margin_of_a_second_not_that_of_a_token():
    """Long answers earn more here by the token, and less by the second, than prompts do."""
    table = a_table(0.0001)
    prompt, answer = ask(3000, 1.0), ask(10, 1000.0)
    by_token = [0.00100 / 3001, 0.00200 / 1010]
    read, written = with_margin(prompt, table, 0.00100), with_margin(answer, table, 0.00200)
    assert by_token[0] < by_token[1]
    assert margin_rate(read) > margin_rate(written)
