"""Merged classes, strong relaxations and shortlists, which large fleets take: all held to the optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleet_builders import a_fleet, planned, random_fleet, solved

from tidefleet.planning.fleet import FleetPlan, FleetProblem, bound, pools
from tidefleet.planning.fleet.merge import merge
from tidefleet.planning.fleet.milp import build
from tidefleet.planning.fleet.solver import Answer, solve
from tidefleet.planning.fleet.strong import Arcs, strengthen


def many_cells(seed: int, cells: int = 24, options: int = 10) -> FleetProblem:
    """One pool, large enough that its relaxation has arcs to add and rows to break, with spill and all three roles."""
    rng = np.random.default_rng(seed)
    arcs = [(c, o) for c in range(cells) for o in range(options) if rng.random() < 0.8]
    role = np.array([0] * (options - 4) + [1, 1, 2, 2])
    price = rng.uniform(1.0, 4.0, options)
    return FleetProblem(
        type_price=price,
        type_quota=np.full(options, np.inf),
        type_site=np.zeros(options, dtype=np.int64),
        site_limit_kw=np.array([np.inf]),
        option_pool=np.zeros(options, dtype=np.int64),
        option_type=np.arange(options),
        option_role=role,
        option_fabric=np.arange(options) % 2,
        option_chips=np.ones(options, dtype=np.int64),
        option_cost=price,
        option_kw=np.zeros(options),
        option_spot=np.zeros(options, dtype=np.bool_),
        cell_class=np.zeros(cells, dtype=np.int64),
        cell_rate=np.ones(cells),
        cell_spill=rng.uniform(1.0, 3.0, cells),
        arc_cell=np.array([c for c, _ in arcs]),
        arc_option=np.array([o for _, o in arcs]),
        arc_load=rng.lognormal(-2.0, 0.4, len(arcs)) * np.where(role[[o for _, o in arcs]] > 0, 0.4, 1.0),
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_strong_relaxation_lies_between_the_plain_one_and_the_optimum(seed: int) -> None:
    problem = many_cells(seed)
    milp = build(problem)
    matrix, columns = milp.matrix, milp.columns
    arcs = Arcs(
        columns.x,
        columns.n[problem.arc_option],
        bound.sides(problem),
        np.ones(len(columns.x)),
    )
    near = bound.nearest(problem, bound.unit_cost(problem), 1)
    strong = strengthen(matrix, arcs, near, seconds=lambda: 30.0, cancelled=lambda: False)
    plain, best = solve(matrix.relaxed()), solve(matrix, gap=0.0)
    assert isinstance(plain, Answer)
    assert isinstance(best, Answer)
    assert plain.objective < strong.bound - 1e-3
    assert strong.bound <= best.objective + 1e-6


@pytest.mark.parametrize("medium", [0, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_shortlists_keep_cost_and_bound_on_their_sides_of_the_optimum(
    monkeypatch: pytest.MonkeyPatch, seed: int, medium: int
) -> None:
    problem = many_cells(seed)
    optimum = planned(problem).usd_per_hour
    monkeypatch.setattr(pools, "SMALL", 0)
    monkeypatch.setattr(pools, "MEDIUM", medium)
    monkeypatch.setattr(pools, "SHORTLIST", 4)
    plan = planned(problem, gap=0.02)
    assert plan.bound <= optimum + 1e-6 <= plan.usd_per_hour + 2e-6


def test_classes_that_differ_in_rate_alone_are_solved_as_one_and_split() -> None:
    one = random_fleet(np.random.default_rng(4))
    twice = replace(
        one,
        class_spot_limit=np.tile(one.class_spot_limit, 2),
        cell_class=np.concatenate((one.cell_class, one.cell_class + 2)),
        cell_rate=np.concatenate((0.25 * one.cell_rate, 0.75 * one.cell_rate)),
        cell_spill=np.concatenate((0.25 * one.cell_spill, 0.75 * one.cell_spill)),
        cell_penalty=np.tile(one.cell_penalty, 2),
        arc_cell=np.concatenate((one.arc_cell, one.arc_cell + len(one.cell_class))),
        arc_option=np.tile(one.arc_option, 2),
        arc_load=np.concatenate((0.25 * one.arc_load, 0.75 * one.arc_load)),
    )
    merged = merge(twice)
    assert len(merged.problem.cell_class) == len(one.cell_class)
    assert merged.problem.arc_load == pytest.approx(one.arc_load)
    plan = planned(twice)
    assert plan.usd_per_hour == pytest.approx(planned(one).usd_per_hour, abs=1e-6)
    assert len(plan.flow) == len(twice.arc_cell)


def test_classes_of_different_shape_or_limit_stay_apart() -> None:
    two = a_fleet(cell_class=np.array([0, 1]), arc_load=np.array([1.0, 2.5, 2.0, 5.1]), cell_rate=np.array([1.0, 2.0]))
    assert len(merge(two).problem.cell_class) == 2
    alike = a_fleet(
        cell_class=np.array([0, 1]), arc_load=np.array([1.0, 2.5, 2.0, 5.0]), cell_rate=np.array([1.0, 2.0])
    )
    assert len(merge(alike).problem.cell_class) == 1
    assert len(merge(replace(alike, class_spot_limit=np.array([1.0, 0.5]))).problem.cell_class) == 2


def test_a_little_time_still_gives_a_plan_with_its_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "SMALL", 0)
    monkeypatch.setattr(pools, "TURNS", 0)  # no shortlist was reached: the relaxation rounded up is what is left
    monkeypatch.setattr(pools, "MEDIUM", 0)
    plan = solved(many_cells(1), gap=0.5)
    assert isinstance(plan, FleetPlan)
    assert plan.bound <= plan.usd_per_hour
