"""The fleet planner against every plan there is, and the claims that hold for any fleet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleet_builders import cheapest_of_all, planned, random_fleet, with_more_demand
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.planning.fleet import FleetProblem

seeds = st.integers(0, 10_000)


@pytest.mark.parametrize("seed", range(6))
def test_no_whole_number_of_replicas_is_cheaper_than_the_plan(seed: int) -> None:
    problem = random_fleet(np.random.default_rng(seed))
    plan = planned(problem)
    best = cheapest_of_all(problem, 3)
    assert best is not None
    assert plan.replicas.max() <= 3
    assert plan.usd_per_hour == pytest.approx(best, rel=1e-5)
    assert plan.bound <= best + 1e-5


@settings(deadline=None, max_examples=12)
@given(seeds, st.floats(1.05, 2.0))
def test_cost_never_falls_when_demand_rises(seed: int, factor: float) -> None:
    problem = random_fleet(np.random.default_rng(seed))
    problem = replace(problem, option_stop_cost=np.zeros(4))  # what runs and is kept could otherwise serve for nothing
    before, after = planned(problem), planned(with_more_demand(problem, factor))
    assert after.usd_per_hour >= before.usd_per_hour - 1e-5


@settings(deadline=None, max_examples=12)
@given(seeds)
def test_a_plan_is_never_worse_for_one_more_option(seed: int) -> None:
    problem = random_fleet(np.random.default_rng(seed))
    fewer = without_option(problem, seed % 4)
    assert planned(problem).usd_per_hour <= planned(fewer).usd_per_hour + 1e-5


@settings(deadline=None, max_examples=12)
@given(seeds)
def test_the_bound_is_below_the_optimum_also_where_the_search_stops_early(seed: int) -> None:
    problem = random_fleet(np.random.default_rng(seed), pools=3)
    loose, exact = planned(problem, gap=0.3), planned(problem)
    assert loose.bound <= exact.usd_per_hour + 1e-5
    assert exact.usd_per_hour <= loose.usd_per_hour + 1e-5


def without_option(problem: FleetProblem, gone: int) -> FleetProblem:
    """The problem where an option serves nothing and is not running, so that it costs nothing either."""
    keep = problem.arc_option != gone
    running = problem.option_running.copy()
    stop = problem.option_stop_cost.copy()
    stop[gone] = 0.0 if running[gone] == 0 else stop[gone]
    return replace(
        problem,
        option_stop_cost=stop,
        arc_cell=problem.arc_cell[keep],
        arc_option=problem.arc_option[keep],
        arc_load=problem.arc_load[keep],
    )
