"""Tight quotas: the plan against every plan there is, and made better a few pools at a time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fleet_builders import INF, a_fleet, cheapest_of_all, planned, random_fleet

from tidefleet.planning.fleet import FleetProblem
from tidefleet.planning.fleet import around as module
from tidefleet.planning.fleet.around import improved
from tidefleet.planning.fleet.matrix import Floats
from tidefleet.planning.fleet.milp import FleetMilp, build
from tidefleet.planning.fleet.solver import Answer, solve


def short_of_chips(seed: int) -> FleetProblem:
    """Two pools that compete for one to three chips of each type; spilling is dear."""
    rng = np.random.default_rng(seed)
    problem = random_fleet(rng)
    return replace(problem, type_quota=rng.integers(1, 4, 3).astype(float), cell_spill=problem.cell_spill * 3)


def rivals() -> FleetProblem:
    """Two pools with one cell each, and one chip of the strong type: the second pool needs it more.

    A pool's cell takes one replica of the strong type ($4) or some of the weak one ($3 each): 2 in the first, 3 in the
    second.
    """
    return a_fleet(
        type_quota=[1.0, INF],
        option_pool=[0, 0, 1, 1],
        option_type=[0, 1, 0, 1],
        option_role=[0] * 4,
        option_fabric=[0] * 4,
        option_chips=[1] * 4,
        option_cost=[4.0, 3.0, 4.0, 3.0],
        option_kw=[0.0] * 4,
        option_spot=[False] * 4,
        option_capacity=[1.0] * 4,
        cell_class=[0, 1],
        arc_cell=[0, 0, 1, 1],
        arc_option=[0, 1, 2, 3],
        arc_load=[1.0, 2.0, 1.0, 3.0],
    )


def a_plan(milp: FleetMilp, replicas: list[int]) -> Floats:
    """The cheapest point with these replicas."""
    lower, upper = milp.matrix.lower.copy(), milp.matrix.upper.copy()
    lower[milp.columns.n] = upper[milp.columns.n] = replicas
    found = solve(milp.matrix.with_bounds(lower, upper), gap=0.0)
    assert isinstance(found, Answer), found
    return found.values


def made_better(
    milp: FleetMilp, plan: Floats, *, workers: int = 1, cancelled: Callable[[], bool] = lambda: False
) -> Floats:
    every = np.ones(len(milp.problem.option_pool), dtype=np.bool_)
    return improved(
        milp,
        plan,
        every,
        np.full(milp.problem.pools, 1e-3),
        spread=map,
        workers=workers,
        enough=lambda _: False,
        clock=time.monotonic,
        seconds=lambda: 20.0,
        cancelled=cancelled,
    )


@pytest.mark.parametrize("seed", range(8))
def test_with_tight_quotas_bound_optimum_and_plan_come_in_this_order(seed: int) -> None:
    problem = short_of_chips(seed)
    best = cheapest_of_all(problem, 3)
    assert best is not None
    exact, loose = planned(problem), planned(problem, gap=0.2)
    assert exact.usd_per_hour == pytest.approx(best, rel=1e-5)
    for plan in (exact, loose):
        assert plan.bound <= best + 1e-5
        assert best <= plan.usd_per_hour + 1e-5


def test_two_pools_swap_a_scarce_chip_which_neither_gives_up_alone() -> None:
    milp = build(rivals())
    start = a_plan(milp, [1, 0, 0, 3])
    better = made_better(milp, start)
    assert float(milp.matrix.cost @ start) == pytest.approx(13.0)
    assert float(milp.matrix.cost @ better) == pytest.approx(10.0)
    assert milp.replicas(better).tolist() == [0, 2, 1, 0]


def test_pools_alone_do_not_find_the_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 0)
    milp = build(rivals())
    start = a_plan(milp, [1, 0, 0, 3])
    assert float(milp.matrix.cost @ made_better(milp, start)) == pytest.approx(13.0)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_a_plan_that_spills_all_is_made_the_optimum_within_the_limits(seed: int, workers: int) -> None:
    problem = replace(short_of_chips(seed), option_running=np.zeros(4, dtype=np.int64))
    milp = build(problem)
    best = cheapest_of_all(problem, 3)
    assert best is not None
    better = made_better(milp, a_plan(milp, [0, 0, 0, 0]), workers=workers)
    assert milp.matrix.violation(better) <= 2e-6
    assert float(milp.matrix.cost @ better) + milp.constant == pytest.approx(best, rel=1e-5)


def test_a_search_called_off_keeps_the_plan_it_has() -> None:
    milp = build(rivals())
    start = a_plan(milp, [1, 0, 0, 3])
    assert made_better(milp, start, cancelled=lambda: True) is start
    asked = itertools.count()
    later = made_better(milp, start, cancelled=lambda: next(asked) > 3)
    assert milp.matrix.violation(later) <= 2e-6
    assert float(milp.matrix.cost @ later) <= 13.0 + 1e-6
