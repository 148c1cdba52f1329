"""Dollars: the phases sum to the bill, and idle time is paid for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from economics_builders import a_replica, accelerators, models, served
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tidefleet.economics.money import token_cost
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import TokenShape

replicas = st.builds(
    Replica, models, accelerators, st.sampled_from([1, 2, 8]), st.sampled_from(["Bf16", "Fp8"]), st.just("Bf16")
)


@settings(deadline=None, max_examples=300)
@given(
    replicas,
    st.floats(1, 30_000),
    st.floats(1, 10_000),
    st.sampled_from([0.0, 0.25, 0.9, 1.0]),
    st.tuples(st.floats(0.01, 1.0), st.floats(0.05, 50)),
)
def test_prices_times_tokens_are_the_bill(replica, into, out, cached, terms) -> None:
    utilisation, price = terms
    chips = replica.chips
    found = estimate(replica, TokenShape(into, out, cached_share=cached))
    assume(isinstance(found, Estimate))
    money = token_cost(found, usd_per_chip_hour=price, utilisation=utilisation)
    requests = found.requests_per_second * 3600 * utilisation
    bill = (
        requests
        / 1e6
        * (money.input * found.shape.uncached + money.cached_input * found.shape.cached + money.output * out)
    )
    assert bill == pytest.approx(price * chips, rel=1e-9)
    assert money.blended * requests * (into + out) / 1e6 == pytest.approx(price * chips, rel=1e-9)
    assert min(money.input, money.cached_input, money.output) >= 0


def test_a_published_day_splits_into_the_published_prices() -> None:
    # DeepSeek's day on 226.75 nodes of 8 H800 at $2: 608B tokens in (56.3 % from the cache), 168B out; 95.5 nodes
    # prefill and 131.4 decode. $0.138 per 1M uncached input, $0.300 per 1M output, $87,072 in all.
    nodes, out, into, hits = 226.86, 168e9 / 86_400, 608e9 / 86_400, 342 / 608
    found = replace(
        served(a_replica(chips=8), TokenShape(1000, 250)),
        shape=TokenShape(into / out * 1000, 1000, cached_share=hits),
        requests_per_second=out / 1000 / nodes,
        prefill_share=95.48 / nodes,
        cached_share_of_prefill=0.0,
    )
    money = token_cost(found, usd_per_chip_hour=2.0)
    assert money.input == pytest.approx(0.138, rel=0.01)
    assert money.input * (1 - hits) == pytest.approx(0.060, rel=0.01)
    assert money.output == pytest.approx(0.300, rel=0.01)
    assert money.usd_per_hour * 24 * 226.75 == pytest.approx(87_072)


def test_idle_time_is_paid_for() -> None:
    found = served(a_replica(), TokenShape(1000, 250))
    full, half = (token_cost(found, usd_per_chip_hour=3.0, utilisation=u) for u in (1.0, 0.5))
    assert half.output == pytest.approx(2 * full.output)
    assert half.usd_per_hour == full.usd_per_hour == 3.0


def test_a_cache_hit_costs_its_attention_only() -> None:
    found = served(a_replica(), TokenShape(8000, 250, cached_share=0.5))
    money = token_cost(found, usd_per_chip_hour=3.0)
    assert 0 < money.cached_input < money.input / 20


@pytest.mark.parametrize("utilisation", [0.0, -0.1, 1.01, float("nan")])
def test_a_utilisation_out_of_bounds_is_an_error_with_an_example(utilisation: float) -> None:
    found = served(a_replica(), TokenShape(1000, 250))
    with pytest.raises(ValueError, match=r"utilisation is .*e\.g\. 0\.85"):
        token_cost(found, usd_per_chip_hour=3.0, utilisation=utilisation)
