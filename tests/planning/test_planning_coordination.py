"""Limits that pools share: dealt out at once by priority, and solved for the fleet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_builders import a_candidate, a_problem, planned

from tidefleet import catalogue
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import TokenShape
from tidefleet.planning.coordination import (
    Coordination,
    SharedLimits,
    SiteLimit,
    coordinate,
    exceeded,
    first_come,
    kilowatts,
)
from tidefleet.planning.fleet import SolverFailed
from tidefleet.planning.from_api import accelerator_of
from tidefleet.planning.options import Candidate
from tidefleet.planning.problem import PoolPlan, PoolProblem

H100 = accelerator_of(catalogue.accelerator_types()["h100-sxm"])
MEASURED = estimate(Replica(catalogue.models()["llama-3.1-8b"], H100, 1, "Bf16", "Bf16"), TokenShape(900, 100))
assert isinstance(MEASURED, Estimate)


def drawing(candidate: Candidate, watts: float) -> Candidate:
    """The candidate with a replica that draws so many watts a chip."""
    assert isinstance(MEASURED, Estimate)
    return replace(candidate, estimates=(replace(MEASURED, watts_per_chip=watts),))


def a_pool(name: str, *candidates: Candidate, rate: float = 10.0, **changes: object) -> tuple[PoolProblem, PoolPlan]:
    problem = a_problem(*candidates, rate=rate, pool=name, **changes)
    return problem, planned(problem)


def solved(plans: list[tuple[PoolProblem, PoolPlan]], limits: SharedLimits) -> Coordination:
    found = coordinate([problem for problem, _ in plans], limits, clock=time.monotonic, seconds=20.0)
    assert isinstance(found, Coordination), found
    return found


def within(plans: list[tuple[PoolProblem, PoolPlan]], found: Coordination) -> list[tuple[PoolProblem, PoolPlan]]:
    """Pools planned again with what they may use."""
    result = []
    for problem, _ in plans:
        caps: Mapping[str, int] = {name: cap for (pool, name), cap in found.caps.items() if pool == problem.pool}
        limited = replace(
            problem,
            type_caps={**problem.type_caps, **caps},
            cap_reasons={name: found.reasons[problem.pool, name] for name in caps},
        )
        result.append((limited, planned(limited)))
    return result


def total(plans: list[tuple[PoolProblem, PoolPlan]]) -> float:
    return sum(plan.usd_per_hour for _, plan in plans)


CHEAP, DEAR = a_candidate("cheap", covers=1.0, usd=1.0), a_candidate("dear", covers=1.0, usd=3.0)
WORSE = a_candidate("dear", covers=1.0, usd=9.0)


def test_nothing_is_shared_while_all_plans_fit() -> None:
    plans = [a_pool("prod/a", CHEAP, DEAR), a_pool("prod/b", CHEAP, DEAR)]
    assert exceeded(plans, SharedLimits(chips={"cheap": 20})) == ()
    (told,) = exceeded(plans, SharedLimits(chips={"cheap": 19}))
    assert told == "20 chips of cheap are wanted, 19 can be had"


def test_scarce_chips_go_where_doing_without_costs_most() -> None:
    # Both want ten cheap chips of twelve. Without them, a pays $3 a chip and b $9: b gets its ten.
    plans = [a_pool("prod/a", CHEAP, DEAR), a_pool("prod/b", CHEAP, WORSE)]
    limits = SharedLimits(chips={"cheap": 12})
    found = solved(plans, limits)
    assert (found.caps["prod/a", "cheap"], found.caps["prod/b", "cheap"]) == (2, 10)
    assert found.reasons["prod/a", "cheap"] == "pools share 12 chips of cheap"
    again = within(plans, found)
    assert exceeded(again, limits) == ()
    assert total(again) == pytest.approx(found.usd_per_hour)
    assert found.usd_per_hour == pytest.approx(12 * 1.0 + 8 * 3.0)
    assert found.bound_usd_per_hour <= found.usd_per_hour * (1 + 1e-9)
    assert found.shadow_prices[0].what.startswith("one more cheap would save $")


def test_what_a_plan_moves_away_from_stays_until_there_is_room_for_what_it_moves_to() -> None:
    old, new = (drawing(a_candidate(name, covers=1.0, usd=usd), 1000.0) for name, usd in (("old", 9.0), ("new", 1.0)))
    moving = a_pool("prod/moving", old, new, rate=5.0, running={old.option: 5})
    vital = a_pool("prod/vital", new, rate=8.0, priority=900)
    limits = SharedLimits(sites=(SiteLimit("berlin", 8.0, 1.0, frozenset({"old", "new"})),))
    assert [one.option.accelerator for one in moving[1].chosen] == ["new"]
    found = first_come([moving, vital], limits)
    assert found.caps == {("prod/moving", "old"): 5, ("prod/moving", "new"): 0, ("prod/vital", "new"): 3}
    (_, meanwhile), _ = within([moving, vital], found)
    assert meanwhile.shortfall == 0.0


def test_at_once_what_runs_stays_and_then_the_higher_priority_comes_first() -> None:
    calm = a_pool("prod/calm", CHEAP, DEAR, running={CHEAP.option: 4})
    vital = a_pool("prod/vital", CHEAP, DEAR, priority=500)
    found = first_come([calm, vital], SharedLimits(chips={"cheap": 12}))
    assert (found.caps["prod/calm", "cheap"], found.caps["prod/vital", "cheap"]) == (4, 8)
    assert not found.proven


def test_the_power_of_a_site_is_shared_with_its_pue() -> None:
    # 10 replicas of 1 kW at PUE 1.25 are 12.5 kW; 10 kW allow eight, the others pay for chips elsewhere.
    here, there = drawing(CHEAP, 1000.0), drawing(DEAR, 1000.0)
    plans = [a_pool("prod/a", here, there)]
    limits = SharedLimits(sites=(SiteLimit("berlin", 10.0, 1.25, frozenset({"cheap"})),))
    assert exceeded(plans, limits) == ("12 kW are wanted at berlin, 10 kW is its limit",)
    assert first_come(plans, limits).caps == {("prod/a", "cheap"): 8}
    found = solved(plans, limits)
    assert found.caps["prod/a", "cheap"] == 8
    assert "kW at berlin would save" in found.shadow_prices[0].what
    assert exceeded(within(plans, found), limits) == ()


def test_what_cannot_be_served_at_all_is_told_and_the_priority_served_first() -> None:
    calm, vital = a_pool("prod/calm", CHEAP), a_pool("prod/vital", CHEAP, priority=500)
    found = solved([calm, vital], SharedLimits(chips={"cheap": 10}))
    assert found.caps["prod/vital", "cheap"] == 10
    assert found.shortfall == {"prod/calm": pytest.approx(1.0)}
    assert found.shadow_prices == ()  # what unserved demand is worth is no saving
    (limited, _) = within([calm, vital], found)
    assert "pools share 10 chips of cheap" in next(one.why for one in limited[1].missed if one.what == "Capacity")


def failed(plans: list[tuple[PoolProblem, PoolPlan]], limits: SharedLimits) -> str:
    found = coordinate([problem for problem, _ in plans], limits, clock=time.monotonic, seconds=20.0)
    assert isinstance(found, SolverFailed), found
    return found.why


def test_what_cannot_be_had_is_told_by_the_names_of_pools_and_limits() -> None:
    one, two = drawing(a_candidate("big", tp=2), 1000.0), drawing(a_candidate("small"), 500.0)
    plans = [a_pool("prod/chat", one, minimum=3), a_pool("prod/code", two, rate=0.0, pinned=4)]
    chips = failed(plans, SharedLimits({"big": 5}))
    assert chips == "the least replicas of prod/chat, prod/code cannot be had within 5 chips of big"
    power = failed(plans, SharedLimits(sites=(SiteLimit("oslo", 3.0, 1.2, frozenset({"big", "small"})),)))
    assert power == "the least replicas of prod/chat, prod/code cannot be had within 3 kW at oslo"


def test_a_demand_beyond_all_bounds_is_a_failure_and_no_exception() -> None:
    plans = [a_pool("prod/chat", a_candidate("big"), rate=1e12)]
    assert "out of all bounds (" in failed(plans, SharedLimits({"big": 5}))


def test_a_cancelled_solution_ends_soon_and_a_pool_of_its_own_limit_keeps_it() -> None:
    plans = [a_pool("prod/a", CHEAP, DEAR, type_caps={"cheap": 3}), a_pool("prod/b", CHEAP, DEAR)]
    limits = SharedLimits(chips={"cheap": 12})
    assert solved(plans, limits).caps["prod/a", "cheap"] <= 3
    began = time.monotonic()
    found = coordinate([p for p, _ in plans], limits, clock=time.monotonic, cancelled=lambda: True)
    assert isinstance(found, Coordination | SolverFailed)
    assert time.monotonic() - began < 5.0


def test_an_unknown_power_counts_as_none_and_tdp_stands_in_for_it() -> None:
    assert kilowatts(CHEAP) == 0.0
    assert isinstance(MEASURED, Estimate)
    unknown = replace(CHEAP, estimates=(replace(MEASURED, watts_per_chip=None),))
    assert kilowatts(unknown) == pytest.approx(0.7)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.just(0.0) | st.floats(0.5, 30), st.integers(0, 300), st.integers(0, 2), st.none() | st.integers(2, 9)
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 60),
    st.integers(0, 1),
)
def test_shared_limits_hold_whatever_is_asked(pools, chips, spare) -> None:
    plans = [
        a_pool(
            f"prod/{i}",
            CHEAP,
            DEAR,
            rate=rate,
            priority=priority,
            spare=spare,
            minimum=1,
            running={CHEAP.option: runs},
            type_caps={} if own is None else {"cheap": own},
        )
        for i, (rate, priority, runs, own) in enumerate(pools)
    ]
    limits = SharedLimits(chips={"cheap": max(chips, sum(p.running.get(CHEAP.option, 0) for p, _ in plans))})
    for found in (first_come(plans, limits), solved(plans, limits)):
        used = sum(
            one.replicas for _, plan in within(plans, found) for one in plan.chosen if one.option.accelerator == "cheap"
        )
        assert used <= limits.chips["cheap"]
    assert solved(plans, limits).usd_per_hour <= total(within(plans, first_come(plans, limits))) * (1 + 1e-6)
