"""Ranks beside other metrics, which of them misleads, and the identity that ties vendors' claims together."""

from __future__ import annotations

import pytest

from tidefleet.economics.contest import token_cost_ratio
from tidefleet.economics.ranking import METRICS, Standing, misled, ranks, sentence


def standing(name: str, usd: float, **metrics: float | None) -> Standing:
    return Standing(name, usd, metrics)


def test_a_metric_that_agrees_inverts_nothing() -> None:
    field = [standing("a", 1.0, dense_pflops_per_usd_hour=3.0), standing("b", 2.0, dense_pflops_per_usd_hour=1.0)]
    assert ranks(field) == [{"dense_pflops_per_usd_hour": (1, 1)}, {"dense_pflops_per_usd_hour": (2, 2)}]
    assert misled(field)[0].inverted == 0
    assert sentence(misled(field)).startswith("no metric would have misled")


def test_ranks_are_among_those_that_have_the_metric() -> None:
    field = [
        standing("api", 0.5),
        standing("small", 2.0, usd_per_chip_hour=1.0),
        standing("large", 1.0, usd_per_chip_hour=10.0),
    ]
    assert ranks(field) == [{}, {"usd_per_chip_hour": (1, 2)}, {"usd_per_chip_hour": (2, 1)}]


def test_equal_figures_keep_the_order_of_cost() -> None:
    field = [standing("a", 2.0, usd_per_chip_hour=1.0), standing("b", 1.0, usd_per_chip_hour=1.0)]
    assert [one["usd_per_chip_hour"] for one in ranks(field)] == [(2, 2), (1, 1)]
    assert misled(field)[0].inverted == 0


def test_the_metric_whose_first_choice_costs_most_misleads_most() -> None:
    field = [
        standing("good", 1.0, usd_per_chip_hour=9.0, dense_pflops_per_usd_hour=2.0),
        standing("fair", 1.5, usd_per_chip_hour=5.0, dense_pflops_per_usd_hour=3.0),
        standing("cheap", 6.0, usd_per_chip_hour=1.0, dense_pflops_per_usd_hour=1.0),
    ]
    worst, other = misled(field)
    assert (worst.metric, worst.first, worst.times, worst.inverted, worst.pairs) == (
        "usd_per_chip_hour", "cheap", 6.0, 3, 3,
    )  # fmt: skip
    assert (other.first, other.times, other.inverted) == ("fair", 1.5, 1)
    said = sentence([worst, other])
    assert said.startswith("$/chip-hour would have misled most: its first choice, cheap, costs 6 times as much")
    assert "100% of all pairs" in said


def test_a_metric_that_finds_the_cheapest_may_still_misorder_the_rest() -> None:
    field = [
        standing("a", 1.0, usd_per_chip_hour=1.0),
        standing("b", 2.0, usd_per_chip_hour=3.0),
        standing("c", 3.0, usd_per_chip_hour=2.0),
    ]
    assert sentence(misled(field)) == (
        "every metric finds the cheapest; $/chip-hour orders 33% of all pairs the wrong way round"
    )


def test_one_entry_is_not_ranked_by_other_metrics() -> None:
    assert misled([standing("a", 1.0, usd_per_chip_hour=1.0)]) == []
    assert "not two entries" in sentence([])
    assert set(METRICS) >= set(ranks([standing("a", 1.0, usd_per_chip_hour=1.0)])[0])


def test_fifty_times_the_tokens_per_watt_and_thirty_five_times_lower_cost_are_one_claim() -> None:
    # GB200 NVL72 against H100: kW per chip all-in and USD per chip-hour of a hyperscaler's ownership.
    ratio = token_cost_ratio((1.0, 50.0), (1.73, 2.10), (1.30, 2.21))
    assert ratio == pytest.approx(35.7, abs=0.05)
    assert token_cost_ratio((50.0, 1.0), (2.10, 1.73), (2.21, 1.30)) == pytest.approx(1 / ratio)


@pytest.mark.parametrize(("petaflops", "gain"), [(5.0, 1.49), (10.0, 2.97)])
def test_the_same_pair_differs_far_less_by_flops_per_dollar(petaflops: float, gain: float) -> None:
    # Dense fp8 on both, then fp4 against fp8 (H100: 1.979 PFLOP/s).
    assert (petaflops / 2.21) / (1.979 / 1.30) == pytest.approx(gain, abs=0.01)


def test_a_ratio_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="kilowatts is"):
        token_cost_ratio((1.0, 1.0), (0.0, 1.0), (1.0, 1.0))
