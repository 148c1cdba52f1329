"""Spot: no more of a class's demand than its owner allows, and no more of a replica than is there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning_builders import CHAT, a_candidate, a_problem, planned

from tidefleet.planning.coordination import SharedLimits, fleet_problem
from tidefleet.planning.options import ClassDemand, Option
from tidefleet.planning.problem import Missed, PoolPlan

SPOT, DEMAND = (
    a_candidate("gpu", covers=1.0, usd=usd, capacity=kind) for usd, kind in ((1.0, "Spot"), (4.0, "OnDemand"))
)


def limited(*shares: float) -> tuple[ClassDemand, ...]:
    """Classes of equal demand, each with its limit."""
    return tuple(replace(CHAT, name=f"c{n}", share=1.0 / len(shares), spot_share=s) for n, s in enumerate(shares))


def by_option(plan: PoolPlan) -> dict[Option, int]:
    return {one.option: one.replicas for one in plan.chosen}


def test_without_a_limit_the_cheapest_capacity_is_taken() -> None:
    assert by_option(planned(a_problem(SPOT, DEMAND, rate=10.0))) == {SPOT.option: 10}


def test_no_more_than_the_share_is_on_spot_and_what_is_left_is_firm() -> None:
    plan = planned(a_problem(SPOT, DEMAND, rate=10.0, classes=limited(0.4)))
    assert by_option(plan) == {SPOT.option: 4, DEMAND.option: 6}
    assert plan.proven
    assert plan.lower_bound_usd_per_hour == pytest.approx(plan.usd_per_hour)
    assert by_option(planned(a_problem(SPOT, DEMAND, rate=10.0, classes=limited(0.0)))) == {DEMAND.option: 10}


def test_replicas_serve_the_mix_so_the_strictest_class_counts() -> None:
    plan = planned(a_problem(SPOT, DEMAND, rate=10.0, classes=limited(1.0, 0.2)))
    assert by_option(plan) == {SPOT.option: 2, DEMAND.option: 8}


def test_a_pinned_pool_is_as_it_is() -> None:
    plan = planned(a_problem(SPOT, DEMAND, rate=10.0, classes=limited(0.4), pinned=3))
    assert by_option(plan) == {SPOT.option: 3}


def test_scarce_firm_capacity_limits_spot_and_the_reason_says_so() -> None:
    scarce = {"type_caps": {"gpu OnDemand": 3}, "cap_reasons": {"gpu OnDemand": "3 chips can be had"}}
    plan = planned(a_problem(SPOT, DEMAND, rate=10.0, classes=limited(0.5), **scarce))
    assert by_option(plan) == {SPOT.option: 3, DEMAND.option: 3}
    assert plan.shortfall == pytest.approx(0.4)
    why = "40% of the demand has no capacity: 3 chips can be had; at most 50% of it may be on spot"
    assert plan.missed == (Missed("Capacity", why),)
    only_spot = planned(a_problem(SPOT, rate=10.0, classes=limited(0.5)))
    assert only_spot.shortfall == 1.0


def test_the_fleets_instance_has_the_same_limit() -> None:
    problem = a_problem(SPOT, DEMAND, rate=10.0, classes=limited(0.4))
    fleet = fleet_problem([problem], SharedLimits(chips={"gpu": 8}))
    assert list(fleet.option_spot) == [True, False]
    assert list(fleet.class_spot_limit) == [0.4]
