"""Fleets that cannot be served, input that makes no sense, solvers that fail, and searches that are called off."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fleet_builders import INF, a_fleet, random_fleet, solved

from tidefleet.planning.fleet import (
    FleetPlan,
    FleetProblem,
    FleetProblemError,
    Infeasible,
    Limit,
    Limits,
    SolverFailed,
    decompose,
    pools,
    poolwise,
    repair,
    solve,
    solver,
)

CATALOGUE = [
    *("type_price", "type_quota", "type_site", "option_pool", "option_type", "option_role", "option_fabric"),
    *("option_chips", "option_cost", "option_kw", "option_spot", "option_capacity"),
    *("arc_cell", "arc_option", "arc_load"),
]
DEMAND = ["cell_class", "cell_rate", "cell_spill"]


def test_a_quota_that_is_too_small_is_named_with_the_demand_it_stops() -> None:
    result = solved(a_fleet(type_quota=np.array([1.0, 1.0])))
    assert isinstance(result, Infeasible)
    assert result.minimal
    assert result.limits == (Limit("quota", 0), Limit("quota", 1))
    assert result.cells == (0, 1)  # either cell alone fits on the strong chip


def test_one_demand_too_large_for_any_limit_is_named_alone() -> None:
    result = solved(a_fleet(type_quota=np.array([1.0, 1.0]), arc_load=np.array([0.1, 0.2, 9.0, 12.0])))
    assert isinstance(result, Infeasible)
    assert result.cells == (1,)


def test_a_demand_that_nothing_serves_is_infeasible_without_a_limit() -> None:
    result = solved(a_fleet(arc_cell=np.array([0]), arc_option=np.array([0]), arc_load=np.array([1.0])))
    assert isinstance(result, Infeasible)
    assert (result.cells, result.limits) == ((1,), ())
    assert "no option" in result.reason


def test_a_decode_option_without_prefill_in_its_fabric_serves_nothing() -> None:
    result = solved(a_fleet(option_role=np.array([1, 2]), option_fabric=np.array([0, 1])))
    assert isinstance(result, Infeasible)


def test_a_minimum_above_a_quota_is_infeasible_by_that_quota() -> None:
    result = solved(a_fleet(option_min=np.array([3.0, 0.0]), type_quota=np.array([2.0, INF])))
    assert isinstance(result, Infeasible)
    assert result.cells == ()
    assert result.limits == (Limit("quota", 0),)


def test_power_that_is_too_little_is_named() -> None:
    result = solved(a_fleet(site_limit_kw=np.array([1.9])))
    assert isinstance(result, Infeasible)
    assert result.limits == (Limit("power", 0),)


def test_an_unmet_set_shrinks_to_demands_that_conflict() -> None:
    """Cells 0 and 1 share a chip that holds one of them; cell 2 is served elsewhere and must not be blamed."""
    problem = a_fleet(
        cell_class=np.array([0, 0, 0]),
        cell_rate=np.ones(3),
        cell_spill=np.full(3, INF),
        type_quota=np.array([1.0, INF]),
        arc_cell=np.array([0, 1, 2]),
        arc_option=np.array([0, 0, 1]),
        arc_load=np.array([0.6, 0.6, 3.0]),
    )
    result = solved(problem)
    assert isinstance(result, Infeasible)
    assert (result.cells, result.limits) == ((0, 1), (Limit("quota", 0),))


def test_an_empty_fleet_plans_nothing() -> None:
    none = np.zeros(0)
    empty: dict[str, Any] = dict.fromkeys(CATALOGUE + DEMAND, none)
    plan = solved(a_fleet(**empty))
    assert isinstance(plan, FleetPlan)
    assert plan.usd_per_hour == 0.0


def test_an_empty_catalogue_with_demand_is_infeasible() -> None:
    none = np.zeros(0)
    empty: dict[str, Any] = dict.fromkeys(CATALOGUE, none)
    assert isinstance(solved(a_fleet(**empty)), Infeasible)


@pytest.mark.parametrize("bad", [float("nan"), -1.0, 1e12, float("inf"), 0.0])
def test_a_load_that_makes_no_sense_is_refused_by_name_and_index(bad: float) -> None:
    with pytest.raises(FleetProblemError, match=r"arc_load\[2\] is .*; expected between"):
        a_fleet(arc_load=np.array([1.0, 2.0, bad, 2.0]))


@pytest.mark.parametrize(
    ("array", "values", "says"),
    [
        ("option_cost", [float("nan"), 1.0], r"option_cost\[0\] is nan"),
        ("option_cost", [-4.0, 1.0], r"option_cost\[0\] is -4"),
        ("type_quota", [float("nan"), 1.0], r"type_quota\[0\] is nan"),
        ("cell_rate", [1.0, -2.0], r"cell_rate\[1\] is -2"),
        ("cell_rate", [1.0], r"cell_rate has shape \(1,\); expected \(2,\)"),
        ("option_chips", [1.5, 1.0], r"option_chips\[0\] is 1.5; expected a whole number"),
        ("option_chips", [0, 1], r"option_chips\[0\] is 0"),
        ("option_type", [0, 7], r"option_type\[1\] is 7; expected an index from 0 to 1"),
        ("arc_option", [0, 1, 0, 9], r"arc_option\[3\] is 9"),
        ("arc_cell", [0, 0, 0, 1], r"arc_cell\[2\] repeats an arc"),
        ("option_role", [0, 3], r"option_role\[1\] is 3"),
        ("site_pue", [0.8], r"site_pue\[0\] is 0.8"),
        ("option_capacity", [1.2, 1.0], r"option_capacity\[0\] is 1.2"),
        ("option_min", [3.0, 0.0], r"option_min\[0\] is above option_max"),
        ("type_night_value", [5.0, 0.0], r"type_night_value\[0\] is above type_price"),
        ("class_spot_limit", [1.5], r"class_spot_limit\[0\] is 1.5"),
        ("cell_spill", ["a", "b"], r"cell_spill has type"),
    ],
)
def test_input_that_makes_no_sense_is_refused(array: str, values: list[Any], says: str) -> None:
    extra = {"option_max": np.array([2.0, 2.0])} if array == "option_min" else {}
    with pytest.raises(FleetProblemError, match=says):
        a_fleet(**{array: np.array(values)}, **extra)


def test_a_search_called_off_at_once_has_no_plan() -> None:
    result = solve(a_fleet(), clock=time.monotonic, cancelled=lambda: True)
    assert isinstance(result, SolverFailed)


def test_a_search_called_off_later_returns_what_it_has() -> None:
    """The later the flag rises the better: once there is a plan, a later flag never loses it, nor its bound."""
    asked = itertools.count()
    problem = random_fleet(np.random.default_rng(3), pools=3)
    whole = solve(problem, clock=time.monotonic, cancelled=lambda: next(asked) < 0)
    assert isinstance(whole, FleetPlan)
    most = next(asked)
    planned = []
    for after in range(0, most + 1, max(1, most // 12)):
        turns = itertools.count()
        result = solve(problem, clock=time.monotonic, cancelled=lambda: next(turns) > after)
        assert isinstance(result, FleetPlan | SolverFailed)
        planned.append(isinstance(result, FleetPlan))
        if isinstance(result, FleetPlan):
            assert result.bound <= whole.usd_per_hour + 1e-6 <= result.usd_per_hour + 2e-6
    assert planned == sorted(planned)
    assert planned[-1]


def test_no_time_is_no_plan_and_no_exception() -> None:
    assert isinstance(solve(a_fleet(), clock=time.monotonic, limits=Limits(seconds=0.0)), SolverFailed)


@pytest.mark.parametrize("junk", ["zeros", "nan", "halves"])
def test_a_solver_that_returns_nonsense_is_noticed(monkeypatch: pytest.MonkeyPatch, junk: str) -> None:
    real = solver.solve

    def broken(matrix: Any, **options: Any) -> Any:
        answer = real(matrix, **options)
        if not isinstance(answer, solver.Answer) or not matrix.integer.any():
            return answer
        values = {"zeros": answer.values * 0, "nan": answer.values * np.nan, "halves": answer.values / 2}[junk]
        return replace(answer, values=values)

    monkeypatch.setattr(pools, "solve", broken)
    for module in (poolwise, repair):
        monkeypatch.setattr(module, "solve", broken)
    assert isinstance(solved(a_fleet()), SolverFailed)


def test_huge_but_sane_demand_is_planned() -> None:
    problem: FleetProblem = a_fleet(arc_load=np.array([9e5, 9.9e5, 1e-9, 1e-9]))
    plan = solved(problem)
    assert isinstance(plan, FleetPlan)
    assert plan.replicas.sum() >= 9e5


def test_a_fleet_that_may_spill_has_a_plan_even_when_no_time_is_left_to_seek_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As long as the relaxation is there, and with it a bound."""
    monkeypatch.setattr(decompose, "PRICE_TURNS", 0)
    monkeypatch.setattr(decompose, "repaired", lambda milp, best, used, **_: repair.Repaired(best))
    plan = solved(a_fleet(cell_spill=np.array([40.0, 50.0]), option_min=np.array([0.0, 1.0])))
    assert isinstance(plan, FleetPlan)
    assert plan.spill.tolist() == [1.0, 1.0]
    assert plan.replicas.tolist() == [0, 1]
    assert plan.usd_per_hour == pytest.approx(91.0)
    assert plan.bound < plan.usd_per_hour
    assert isinstance(solved(a_fleet()), SolverFailed)


def test_a_fleet_without_any_option_spills() -> None:
    none: list[int] = []
    plan = solved(
        a_fleet(
            **dict.fromkeys(("option_pool", "option_type", "option_role", "option_fabric", "option_chips"), none),
            **dict.fromkeys(("option_cost", "option_kw", "option_spot", "option_capacity"), none),
            **dict.fromkeys(("arc_cell", "arc_option", "arc_load"), none),
            cell_spill=[3.0, 4.0],
        )
    )
    assert isinstance(plan, FleetPlan)
    assert plan.usd_per_hour == pytest.approx(7.0)


@pytest.mark.parametrize("chips", [1e300, float("inf"), 2.0**60, 1.5])
def test_a_number_of_chips_that_is_no_number_of_chips_is_refused(chips: float) -> None:
    with pytest.raises(FleetProblemError, match=r"option_chips\[0\] is .*; expected a whole number, e.g. 1"):
        a_fleet(option_chips=np.array([chips, 1.0]))
