"""Large pools by knapsacks and local search, tight limits by proposals, and time limits: held to optimum and oracle."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from fleet_builders import planned, random_fleet
from test_fleet_large import many_cells

from tidefleet.planning.fleet import (
    FleetPlan,
    FleetProblem,
    Limits,
    SolverFailed,
    bound,
    decompose,
    narrow,
    pools,
    solve,
)
from tidefleet.planning.fleet.lagrange import Knapsacks, ascend, covering, scales
from tidefleet.planning.fleet.local import search
from tidefleet.planning.fleet.milp import build
from tidefleet.planning.fleet.solver import Answer
from tidefleet.planning.fleet.solver import solve as solve_matrix


class Ticks:
    """A clock that moves on by a step each time it is read."""

    def __init__(self, step: float) -> None:
        self.step, self.now = step, 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def knapsacks(problem: FleetProblem) -> tuple[Knapsacks, np.ndarray, np.ndarray]:
    """The knapsacks of a fleet of one pool, its relaxation's prices, and the sizes of their steps."""
    milp = build(problem)
    relaxed = bound.relax(milp, seconds=lambda: 30.0, cancelled=lambda: False)
    assert isinstance(relaxed, bound.Relaxation)
    made = Knapsacks(milp.matrix, milp.columns.x, milp.columns.n, problem.arc_option, milp.load)
    assert made.usable
    return made, relaxed.prices, scales(milp.matrix, milp.serve, relaxed.prices)


def tight(seed: int) -> FleetProblem:
    """Two pools that compete for chips too few for both; all else is spilled."""
    one, two = many_cells(seed, cells=10, options=8), many_cells(seed + 50, cells=10, options=8)
    options, cells = len(one.option_pool), len(one.cell_class)
    names = ("option_role", "option_fabric", "option_chips", "option_cost", "option_kw", "option_spot", "option_type")
    return replace(
        one,
        **{name: np.concatenate((getattr(one, name), getattr(two, name))) for name in names},
        type_quota=np.ones(len(one.type_price)),
        option_pool=np.repeat([0, 1], options),
        option_capacity=np.concatenate((one.option_capacity, two.option_capacity)),
        option_start_cost=np.zeros(2 * options),
        option_stop_cost=np.zeros(2 * options),
        option_running=np.zeros(2 * options, dtype=np.int64),
        option_min=np.zeros(2 * options),
        option_max=np.full(2 * options, np.inf),
        option_multiple=np.ones(2 * options, dtype=np.int64),
        option_tier=np.full(2 * options, -1),
        option_node=np.full(2 * options, -1),
        pool_min=np.zeros(2),
        pool_max=np.full(2, np.inf),
        pool_spare=np.zeros(2, dtype=np.int64),
        pool_budget=np.full(2, np.inf),
        class_spot_limit=np.ones(2),
        cell_class=np.repeat([0, 1], cells),
        cell_rate=np.ones(2 * cells),
        cell_spill=np.concatenate((one.cell_spill, two.cell_spill)),
        cell_penalty=np.full(2 * cells, np.inf),
        arc_cell=np.concatenate((one.arc_cell, two.arc_cell + cells)),
        arc_option=np.concatenate((one.arc_option, two.arc_option + options)),
        arc_load=np.concatenate((3 * one.arc_load, 3 * two.arc_load)),
    )


@pytest.mark.parametrize("seed", range(4))
def test_knapsacks_bound_the_optimum_at_any_prices_and_above_the_relaxation_when_raised(seed: int) -> None:
    problem = many_cells(seed)
    made, prices, scale = knapsacks(problem)
    matrix = build(problem).matrix
    plain, best = solve_matrix(matrix.relaxed()), solve_matrix(matrix, gap=0.0)
    assert isinstance(plain, Answer)
    assert isinstance(best, Answer)
    rng = np.random.default_rng(seed)
    for _ in range(20):
        anywhere = prices * rng.lognormal(0.0, 0.5, len(prices)) + 0.1 * rng.normal(size=len(prices))
        assert made.at(anywhere).bound <= best.objective + 1e-9
    assert made.at(prices).bound >= plain.objective - 1e-6
    found, _ = ascend(made, prices, scale, steps=300, target=best.objective, go_on=lambda: True)
    assert plain.objective + 1e-3 < found.bound <= best.objective + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_options_ruled_out_by_knapsacks_cost_too_much_when_they_are_used(seed: int) -> None:
    problem = many_cells(seed)
    made, prices, scale = knapsacks(problem)
    milp = build(problem)
    found, _ = ascend(made, prices, scale, steps=100, target=1.1 * made.at(prices).bound, go_on=lambda: True)
    for o in np.flatnonzero(found.least_use > 0):
        lower = milp.matrix.lower.copy()
        lower[milp.columns.n[o]] = 1.0
        forced = solve_matrix(milp.matrix.with_bounds(lower, milp.matrix.upper), gap=0.0)
        assert isinstance(forced, Answer)
        assert forced.objective >= found.bound + found.least_use[o] - 1e-6


@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_plans_with_replicas_outside_the_limits_of_an_aim_cost_more_than_it(seed: int, share: float) -> None:
    problem = many_cells(seed)
    made, prices, scale = knapsacks(problem)
    milp = build(problem)
    found, _ = ascend(made, prices, scale, steps=100, target=1.1 * made.at(prices).bound, go_on=lambda: True)
    optimum = solve_matrix(milp.matrix, gap=0.0)
    assert isinstance(optimum, Answer)
    room = share * 1.2 * (optimum.objective - found.bound)
    least, most = made.limits(found, room)
    n, outside = milp.columns.n, 0
    for o in range(len(n)):
        for bounds, k in ((milp.matrix.lower, most[o] + 1), (milp.matrix.upper, least[o] - 1)):
            if milp.matrix.lower[n[o]] <= k <= milp.matrix.upper[n[o]]:
                forced = bounds.copy()
                forced[n[o]] = k
                lower, upper = (forced, milp.matrix.upper) if k > most[o] else (milp.matrix.lower, forced)
                other = solve_matrix(milp.matrix.with_bounds(lower, upper), gap=0.0)
                assert not isinstance(other, Answer) or other.objective >= found.bound + room - 1e-6
                outside += 1
    assert outside


@pytest.mark.parametrize("arcs", [0, 60, 120])
@pytest.mark.parametrize("seed", range(3))
def test_aims_below_the_cost_of_a_plan_give_bounds_below_the_optimum(
    monkeypatch: pytest.MonkeyPatch, seed: int, arcs: int
) -> None:
    """However few arcs the MILP of an aim may have, its bound holds."""
    problem = many_cells(seed)
    optimum = planned(problem, gap=0.0)
    for name, value in (("RULED", 0), ("MOST", arcs)):
        monkeypatch.setattr(narrow, name, value)
    monkeypatch.setattr(pools, "SMALL", 0)
    monkeypatch.setattr(decompose, "LARGE", 0)
    plan = planned(problem, gap=0.0)
    assert plan.bound <= optimum.usd_per_hour + 1e-6 <= plan.usd_per_hour + 2e-6


def test_the_bound_never_rises_faster_than_its_slope_says() -> None:
    """It is concave in the prices, so the slope at one point bounds it at every other."""
    made, prices, _ = knapsacks(many_cells(2))
    here = made.at(prices * 1.1)
    rng = np.random.default_rng(0)
    for size in (1e-6, 1e-3, 0.1, 1.0):
        there = made.at(here.prices + size * rng.normal(size=len(prices)) * (here.prices != 0))
        assert there.bound <= here.bound + float(here.slope @ (there.prices - here.prices)) + 1e-9


def test_a_cover_takes_the_most_wanted_options_and_reaches_every_cell() -> None:
    cell, option = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 3])
    assert covering(cell, option, np.array([2, 1, 0, 3])).tolist() == [False, True, True, True]


@pytest.mark.parametrize("seed", range(3))
def test_local_search_ends_where_no_single_move_helps(seed: int) -> None:
    problem = many_cells(seed, cells=12, options=7)
    milp = build(problem)
    n, matrix = milp.columns.n, milp.matrix
    found = search(matrix, n, [np.zeros(len(n))], seconds=lambda: 20.0, cancelled=lambda: False)
    assert found is not None
    assert matrix.violation(found.values) < 1e-6
    best = solve_matrix(matrix, gap=0.0)
    assert isinstance(best, Answer)
    assert best.objective - 1e-6 <= found.objective
    replicas = found.values[n]
    for o, step in itertools.product(range(len(n)), (-1, 1)):
        lower, upper = matrix.lower.copy(), matrix.upper.copy()
        lower[n] = upper[n] = np.clip(replicas + step * (np.arange(len(n)) == o), matrix.lower[n], matrix.upper[n])
        moved = solve_matrix(matrix.with_bounds(lower, upper))
        assert isinstance(moved, Answer)
        assert moved.objective >= found.objective - 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_a_pool_narrowed_to_the_options_that_matter_has_the_optimum(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    problem = many_cells(seed)
    optimum = planned(problem)
    monkeypatch.setattr(pools, "SMALL", 0)
    plan = planned(problem)
    assert plan.usd_per_hour == pytest.approx(optimum.usd_per_hour, abs=1e-5)
    assert plan.bound == pytest.approx(optimum.usd_per_hour, abs=1e-3)


@pytest.mark.parametrize("small", [0, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_tight_quotas_are_planned_within_one_per_cent(monkeypatch: pytest.MonkeyPatch, seed: int, small: int) -> None:
    monkeypatch.setattr(pools, "SMALL", small)
    plan = planned(tight(seed), gap=0.01)
    assert any(one.kind == "quota" for one in plan.binding)
    assert plan.gap <= 0.01


@pytest.mark.parametrize("step", [0.02, 0.1, 0.4, 1.0])
def test_a_time_limit_is_kept_and_gives_a_plan_with_its_bound(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """However fast the clock runs between two looks at it, looks end soon after the limit."""
    monkeypatch.setattr(pools, "SMALL", 0)
    problem = tight(1)
    optimum = planned(problem, gap=1e-6)
    clock = Ticks(step)
    result = solve(problem, clock=clock, limits=Limits(gap=0.0, seconds=60.0))
    assert isinstance(result, FleetPlan), result
    assert result.bound <= optimum.usd_per_hour + 1e-6 <= result.usd_per_hour + 2e-6
    assert clock.now <= 60.0 + 80 * step


def test_once_a_plan_is_there_calling_off_later_still_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "SMALL", 0)
    problem = random_fleet(np.random.default_rng(3), pools=3)
    asked = itertools.count()
    assert isinstance(solve(problem, clock=Ticks(1e-4), cancelled=lambda: next(asked) < 0), FleetPlan)
    most = next(asked)
    plans = []
    for after in np.linspace(0, most, 7).astype(int):
        turns = itertools.count()
        result = solve(problem, clock=Ticks(1e-4), cancelled=lambda after=after, turns=turns: next(turns) > after)
        assert isinstance(result, FleetPlan | SolverFailed)
        plans.append(isinstance(result, FleetPlan))
    assert plans == sorted(plans)
    assert not plans[0]
    assert plans[len(plans) // 2]
