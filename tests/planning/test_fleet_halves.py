"""Plans in halves: the gap that no prices of the shared limits close."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fleet_builders import a_fleet, random_fleet, solved

from tidefleet.planning.fleet import FleetPlan, FleetProblem, Infeasible, SolverFailed, decompose, pools
from tidefleet.planning.fleet.halves import Half
from tidefleet.planning.fleet.largepool import own_limits
from tidefleet.planning.fleet.milp import build
from tidefleet.planning.fleet.repair import Repaired
from tidefleet.planning.fleet.solver import Answer, NoPoint
from tidefleet.planning.fleet.solver import solve as solve_matrix


def triangle() -> FleetProblem:
    """Three pools, each of which prefills on one type and decodes on the next, and three types with one chip each.

    One pool is served for 1, the others spill for 10 each: 21. The cheapest mixture serves half of each pool: 16.5.
    """
    return a_fleet(
        type_price=[0.5] * 3,
        type_quota=[1.0] * 3,
        type_site=[0] * 3,
        option_pool=[0, 0, 1, 1, 2, 2],
        option_type=[0, 1, 1, 2, 2, 0],
        option_role=[1, 2] * 3,
        option_fabric=[0] * 6,
        option_chips=[1] * 6,
        option_cost=[0.5] * 6,
        option_kw=[1.0] * 6,
        option_spot=[False] * 6,
        option_capacity=[1.0] * 6,
        cell_class=[0, 1, 2],
        cell_rate=[1.0] * 3,
        cell_spill=[10.0] * 3,
        arc_cell=[0, 0, 1, 1, 2, 2],
        arc_option=[0, 1, 2, 3, 4, 5],
        arc_load=[0.9] * 6,
    )


def without_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MILP of the whole, which solves a small fleet whatever came before it."""
    monkeypatch.setattr(decompose, "repaired", lambda milp, best, used, **_: Repaired(best))


def test_halves_prove_what_prices_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    without_repair(monkeypatch)
    plan = solved(triangle())
    assert isinstance(plan, FleetPlan)
    assert plan.usd_per_hour == pytest.approx(21.0)
    assert plan.bound == pytest.approx(21.0)
    monkeypatch.setattr(decompose, "halved", lambda *_, **__: None)
    alone = solved(triangle())
    assert isinstance(alone, FleetPlan)
    assert alone.bound < 17.0


def test_every_plan_is_in_one_half() -> None:
    milp = build(triangle())
    row = next(one.row for one in milp.shared if one.kind == "quota")
    mine = milp.matrix.owner == 0
    own = own_limits(milp.matrix, 0)
    for middle in (0.0, 1.0):
        sides = [
            Half(0, row, 1.0, middle).own(milp.matrix, own),
            Half(0, row, -1.0, -middle - 1.0).own(milp.matrix, own),
        ]
        for count in range(4):
            plan = np.zeros(int(mine.sum()))
            plan[sides[0].column[-1]] = count
            within = [(one.value[-1] * plan[one.column[-1]] <= one.upper[-1] + 1e-9) for one in sides]
            assert within == [count <= middle, count > middle]


@pytest.mark.parametrize("seed", range(12))
def test_no_bound_is_above_the_optimum(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    without_repair(monkeypatch)
    monkeypatch.setattr(pools, "SMALL", 0)
    rng = np.random.default_rng(seed)
    problem = random_fleet(rng, pools=3)
    changes: dict[str, Any] = {"type_quota": np.floor(rng.uniform(2, 9, len(problem.type_quota)))}
    problem = FleetProblem(**{name: changes.get(name, getattr(problem, name)) for name in problem.__dataclass_fields__})
    milp = build(problem)
    best = solve_matrix(milp.matrix, gap=0.0)
    result = solved(problem, seconds=10.0)
    if isinstance(best, NoPoint):
        assert isinstance(result, Infeasible | SolverFailed)
        return
    assert isinstance(best, Answer)
    assert not isinstance(result, Infeasible)
    if isinstance(result, FleetPlan):
        optimum = best.objective + milp.constant
        assert result.bound <= optimum + 1e-5 * abs(optimum)
        assert result.usd_per_hour >= optimum - 1e-5 * abs(optimum)


def test_a_fleet_whose_pools_alone_show_that_there_is_no_plan() -> None:
    """Seven chips carry the demand in the relaxation; in whole replicas of eight they carry none."""
    problem = a_fleet(
        type_quota=np.array([7.0, 0.0]),
        option_chips=np.array([8, 8]),
        arc_load=np.array([0.3, 0.3, 0.3, 0.3]),
    )
    assert isinstance(solved(problem), Infeasible)
