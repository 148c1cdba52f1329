"""Dollars: the phases sum to the bill, and idle time is paid for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from economics_builders import a_replica, accelerators, an_accelerator, models, served
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tidefleet.economics.disaggregated import Disaggregated, pair
from tidefleet.economics.money import ChipCost, pair_cost, token_cost
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
    money = token_cost(found, ChipCost(price), utilisation=utilisation)
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
    money = token_cost(found, ChipCost(2.0))
    assert money.input == pytest.approx(0.138, rel=0.01)
    assert money.input * (1 - hits) == pytest.approx(0.060, rel=0.01)
    assert money.output == pytest.approx(0.300, rel=0.01)
    assert money.usd_per_hour * 24 * 226.75 == pytest.approx(87_072)


def test_each_role_pays_for_its_own_direction_alone() -> None:
    shape = TokenShape(1000, 250)
    for role, priced in (("Prefill", (True, True, False)), ("Decode", (False, False, True))):
        found = estimate(a_replica(), shape, role=role)
        assert isinstance(found, Estimate)
        money = token_cost(found, ChipCost(3.0))
        assert (money.input is not None, money.cached_input is not None, money.output is not None) == priced
        tokens = found.requests_per_second * 3600 * (1000 if role == "Prefill" else 250)
        assert money.blended * tokens / 1e6 == pytest.approx(3.0)


def test_a_pair_pays_both_bills_once() -> None:
    linked = replace(an_accelerator(), scale_out_bytes_per_second=50e9)
    both = pair(a_replica(accelerator=linked), a_replica(accelerator=linked), TokenShape(1000, 250))
    assert isinstance(both, Disaggregated)
    money = pair_cost(both, ChipCost(2.0), ChipCost(3.0), utilisation=0.8)
    assert money.prefill.input is not None
    assert money.decode.output is not None
    per_request = (money.prefill.input * 1000 + money.decode.output * 250) / 1e6
    assert money.usd_per_request == pytest.approx(per_request)
    rate = both.decode.requests_per_second * 0.8 * 3600
    assert money.usd_per_request * rate == pytest.approx(3.0 + 2.0 * both.prefill_per_decode)
    assert money.blended == pytest.approx(per_request / 1250 * 1e6)


def test_shares_name_power_storage_and_idle_time_and_sum_to_one() -> None:
    chip = replace(an_accelerator(), tdp_watts=700.0, idle_watts=70.0)
    found = served(a_replica(accelerator=chip), TokenShape(1000, 250))
    assert found.watts_per_chip is not None
    cost = ChipCost(3.0, usd_per_kilowatt_hour=0.10, pue=1.3, storage_usd_per_hour=0.2)
    money = token_cost(found, cost, utilisation=0.5)
    power = (0.5 * found.watts_per_chip + 0.5 * 70.0) / 1000 * 1.3 * 0.10
    assert money.usd_per_hour == pytest.approx(3.2 + power)
    share = money.share.as_dict()
    assert sum(share.values()) == pytest.approx(1.0)
    assert share["idle"] == pytest.approx(1.5 / money.usd_per_hour)
    assert share["power"] == pytest.approx(power / money.usd_per_hour)
    assert share["storage"] == pytest.approx(0.2 / money.usd_per_hour)


def test_idle_time_is_paid_for() -> None:
    found = served(a_replica(), TokenShape(1000, 250))
    full, half = (token_cost(found, ChipCost(3.0), utilisation=u) for u in (1.0, 0.5))
    assert half.output == pytest.approx(2 * full.output)
    assert half.usd_per_hour == full.usd_per_hour == 3.0


def test_a_cache_hit_costs_its_attention_only() -> None:
    found = served(a_replica(), TokenShape(8000, 250, cached_share=0.5))
    money = token_cost(found, ChipCost(3.0))
    assert 0 < money.cached_input < money.input / 20


@pytest.mark.parametrize("utilisation", [0.0, -0.1, 1.01, float("nan")])
def test_a_utilisation_out_of_bounds_is_an_error_with_an_example(utilisation: float) -> None:
    found = served(a_replica(), TokenShape(1000, 250))
    with pytest.raises(ValueError, match=r"utilisation is .*e\.g\. 0\.85"):
        token_cost(found, ChipCost(3.0), utilisation=utilisation)
