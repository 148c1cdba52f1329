"""Neighbours of a plan, the floors that rule them out, local search over them, and a first plan without a program."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_fleet_large import many_cells
from test_fleet_narrow import knapsacks

from tidefleet.planning.fleet import local
from tidefleet.planning.fleet.first import first_plan
from tidefleet.planning.fleet.lagrange import Knapsacks
from tidefleet.planning.fleet.local import search
from tidefleet.planning.fleet.matrix import Floats, Matrix
from tidefleet.planning.fleet.neighbours import Floor, Neighbours
from tidefleet.planning.fleet.solver import Answer, solve


def flows(matrix: Matrix, n: np.ndarray, replicas: Floats) -> float:
    """The cost of the best flows for some replicas."""
    lower, upper = matrix.lower.copy(), matrix.upper.copy()
    lower[n] = upper[n] = replicas
    answer = solve(matrix.with_bounds(lower, upper).relaxed())
    assert isinstance(answer, Answer)
    return answer.objective


def at(floor: Floor, replicas: Floats) -> float:
    return floor.base + float(floor.table[np.arange(len(replicas)), (replicas - floor.first).astype(int)].sum())


@pytest.mark.parametrize("seed", range(3))
def test_no_replicas_cost_less_than_a_floor_says_whatever_its_prices(seed: int) -> None:
    made, prices, _ = knapsacks(many_cells(seed, cells=12, options=7))
    matrix, n, rng = made.matrix, made.n, np.random.default_rng(seed)
    least, width = matrix.lower[n], 4
    for _ in range(15):
        anywhere = prices * rng.lognormal(0.0, 0.5, len(prices)) + 0.1 * rng.normal(size=len(prices))
        replicas = np.minimum(rng.integers(0, width, len(n)), matrix.upper[n])
        cost = flows(matrix, n, replicas)
        curved = made.floor(anywhere, least, width)
        plain = local.tangent(matrix, n, anywhere, least, width)
        assert at(curved, replicas) <= cost + 1e-7
        assert at(plain, replicas) <= cost + 1e-7


def test_the_floor_at_the_prices_of_the_best_flows_is_their_cost() -> None:
    made, _, _ = knapsacks(many_cells(1, cells=12, options=7))
    matrix, n = made.matrix, made.n
    replicas = np.minimum(1.0, matrix.upper[n])
    lower, upper = matrix.lower.copy(), matrix.upper.copy()
    lower[n] = upper[n] = replicas
    answer = solve(matrix.with_bounds(lower, upper).relaxed())
    assert isinstance(answer, Answer)
    assert at(made.floor(answer.row_prices, matrix.lower[n], 3), replicas) == pytest.approx(answer.objective)
    assert at(local.tangent(matrix, n, answer.row_prices, matrix.lower[n], 3), replicas) == pytest.approx(
        answer.objective
    )


def test_neighbours_are_all_changes_of_up_to_two_less_and_two_more_each_once() -> None:
    here, lower, upper = np.array([2.0, 0.0, 1.0]), np.zeros(3), np.array([3.0, 2.0, 1.0])
    neighbours = Neighbours(here, lower, upper)
    found = sorted(
        tuple(neighbours.replicas(i)) for i in range(neighbours.floor.size) if neighbours.floor.flat[i] < np.inf
    )
    wanted = [
        one
        for one in itertools.product(range(4), range(3), range(2))
        if one != tuple(here)
        and sum(max(a - b, 0) for a, b in zip(here, one, strict=True)) <= 2
        and sum(max(b - a, 0) for a, b in zip(here, one, strict=True)) <= 2
    ]
    assert found == sorted(wanted)


def test_the_highest_floor_of_each_neighbour_counts_and_one_that_was_tried_is_not_best_again() -> None:
    here, rng = np.array([1.0, 2.0, 0.0]), np.random.default_rng(0)
    neighbours = Neighbours(here, np.zeros(3), np.full(3, 4.0))
    floors = [Floor(float(rng.normal()), np.zeros(3), rng.normal(size=(3, 5))) for _ in range(3)]
    for one in floors:
        neighbours.take(one)
    for which in np.flatnonzero(neighbours.floor.ravel() < np.inf):
        replicas = neighbours.replicas(int(which))
        assert neighbours.floor.flat[which] == pytest.approx(max(at(one, replicas) for one in floors))
    lowest, which = neighbours.best()
    assert lowest == neighbours.floor.min()
    neighbours.tried(which, 100.0)
    assert neighbours.best()[1] != which


@pytest.mark.parametrize("with_knapsacks", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_local_search_ends_where_two_replicas_less_and_two_more_do_not_help(seed: int, with_knapsacks: bool) -> None:
    problem = many_cells(seed, cells=10, options=6)
    made, _, _ = knapsacks(problem)
    matrix, n = made.matrix, made.n
    given = made if with_knapsacks else None
    found = search(matrix, n, [np.zeros(len(n))], seconds=lambda: 30.0, cancelled=lambda: False, knapsacks=given)
    assert found is not None
    assert matrix.violation(found.values) < 1e-6
    here = found.values[n]
    neighbours = Neighbours(here, matrix.lower[n], matrix.upper[n])
    rng = np.random.default_rng(seed)
    some = np.flatnonzero(neighbours.floor.ravel() < np.inf)
    for which in rng.permutation(some)[:60]:
        assert flows(matrix, n, neighbours.replicas(int(which))) >= found.objective * (1 - 2e-5)


def test_a_search_goes_on_beyond_the_reach_of_its_first_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "REACH", 2)
    made, _, _ = knapsacks(many_cells(0, cells=12, options=7))
    matrix, n = made.matrix, made.n
    dear = np.minimum(matrix.upper[n], 6.0)
    found = search(matrix, n, [dear], seconds=lambda: 30.0, cancelled=lambda: False, knapsacks=made)
    best = solve(matrix, gap=0.0)
    assert found is not None
    assert isinstance(best, Answer)
    assert found.objective <= 1.02 * best.objective


@pytest.mark.parametrize("seed", range(4))
def test_a_first_plan_is_a_plan(seed: int) -> None:
    problem = many_cells(seed)
    made, _, _ = knapsacks(problem)
    cell = problem.arc_cell
    found = first_plan(made, cell, np.arange(len(made.n)))
    best = solve(made.matrix, gap=0.0)
    assert found is not None
    assert isinstance(best, Answer)
    assert made.matrix.violation(found.values) < 1e-6
    assert best.objective - 1e-6 <= found.objective == pytest.approx(float(made.matrix.cost @ found.values))


def test_there_is_no_first_plan_where_a_cell_needs_prefill_and_decode_apart() -> None:
    problem = many_cells(0)
    made, _, _ = knapsacks(problem)
    apart, cell = np.diff(made.matrix.start)[made.x] > 2, problem.arc_cell
    only = made.x[~apart & (cell == cell[apart][0])]
    keep = np.ones(len(made.matrix.cost), dtype=np.bool_)
    keep[only] = False
    part = made.matrix.part(keep, np.ones(len(made.matrix.row_lower), dtype=np.bool_))
    place = np.cumsum(keep) - 1
    some = keep[made.x]
    load = np.flatnonzero(made.is_load)
    fewer = Knapsacks(part, place[made.x[some]], place[made.n], made.option[some], load)
    assert first_plan(fewer, cell[some], np.arange(len(made.n))) is None
