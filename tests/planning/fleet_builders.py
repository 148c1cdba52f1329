"""Small fleets, an oracle that tries every whole number of replicas, and a solve with a real clock."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import Any

import numpy as np

from tidefleet.planning.fleet import FleetPlan, FleetProblem, FleetResult, Limits, solve
from tidefleet.planning.fleet.matrix import SHARED
from tidefleet.planning.fleet.milp import build
from tidefleet.planning.fleet.solver import Answer
from tidefleet.planning.fleet.solver import solve as solve_matrix
from tidefleet.planning.fleet.verify import Decision, violations

INF = float("inf")


def a_fleet(**changes: Any) -> FleetProblem:
    """Two types (dear and strong, cheap and weak), one pool with an option on each, one class with two cells.

    The strong option carries each cell with 1 replica at utilisation 1, the weak one with 2.5.
    """
    given: dict[str, Any] = {
        "type_price": [4.0, 1.0],
        "type_quota": [INF, INF],
        "type_site": [0, 0],
        "site_limit_kw": [INF],
        "option_pool": [0, 0],
        "option_type": [0, 1],
        "option_role": [0, 0],
        "option_fabric": [0, 0],
        "option_chips": [1, 1],
        "option_cost": [4.0, 1.0],
        "option_kw": [1.0, 0.5],
        "option_spot": [False, False],
        "option_capacity": [1.0, 1.0],
        "cell_class": [0, 0],
        "cell_rate": [1.0, 1.0],
        "cell_spill": [INF, INF],
        "arc_cell": [0, 0, 1, 1],
        "arc_option": [0, 1, 0, 1],
        "arc_load": [1.0, 2.5, 1.0, 2.5],
    }
    return FleetProblem(**{name: np.array(v) if isinstance(v, list) else v for name, v in (given | changes).items()})


def solved(problem: FleetProblem, *, gap: float = 0.0, seconds: float = 20.0) -> FleetResult:
    """What the planner answers, to the optimum unless told otherwise."""
    return solve(problem, clock=time.monotonic, limits=Limits(gap=gap, seconds=seconds))


def planned(problem: FleetProblem, *, gap: float = 0.0) -> FleetPlan:
    """The plan, checked against the problem constraint by constraint."""
    plan = solved(problem, gap=gap)
    assert isinstance(plan, FleetPlan), plan
    decision = Decision(plan.replicas, plan.flow, plan.spill, plan.shortfall, plan.tier, plan.nodes)
    assert violations(problem, decision, 2e-6) == []
    assert plan.bound <= plan.usd_per_hour + 1e-6
    return plan


def cheapest_of_all(problem: FleetProblem, most: int) -> float | None:
    """The least cost over every whole number of replicas up to ``most`` of each option, flows by an LP for each."""
    milp = build(problem)
    matrix, n = milp.matrix, milp.columns.n
    best: float | None = None
    for counts in itertools.product(range(most + 1), repeat=len(n)):
        lower, upper = matrix.lower.copy(), matrix.upper.copy()
        upper[n] = np.inf
        lower[n] = upper[n] = counts
        answer = solve_matrix(matrix.with_bounds(lower, upper), gap=0.0)
        if isinstance(answer, Answer) and (best is None or answer.objective + milp.constant < best):
            best = answer.objective + milp.constant
    return best


def random_fleet(rng: np.random.Generator, *, pools: int = 2, limited: bool = True) -> FleetProblem:
    """A tiny fleet with every kind of option; some limits bind, and anything may be spilled."""
    options, cells = 2 * pools, 2 * pools
    pool = np.repeat(np.arange(pools), 2)
    kind = rng.integers(0, 3, options)
    cell_class = np.repeat(np.arange(pools), 2)
    arcs = [(c, o) for c in range(cells) for o in range(options) if pool[o] == cell_class[c]]
    arcs = [one for one in arcs if rng.random() < 0.85]
    price = rng.uniform(0.5, 4.0, 3)
    chips = rng.choice([1, 2], options)
    return FleetProblem(
        type_price=price,
        type_quota=rng.integers(2, 7, 3) if limited else np.full(3, np.inf),
        type_site=np.array([0, 0, 1]),
        site_limit_kw=rng.uniform(1.0, 4.0, 2) if limited else np.full(2, np.inf),
        site_pue=np.array([1.25, 1.1]),
        option_pool=pool,
        option_type=kind,
        option_role=np.zeros(options, dtype=np.int64),
        option_fabric=kind,
        option_chips=chips,
        option_cost=price[kind] * chips,
        option_kw=0.3 * chips,
        option_spot=rng.random(options) < 0.3,
        option_start_cost=0.25 * price[kind],
        option_stop_cost=np.full(options, 0.1),
        option_running=rng.integers(0, 2, options),
        class_spot_limit=np.full(pools, 0.5),
        cell_class=cell_class,
        cell_rate=rng.uniform(0.5, 2.0, cells),
        cell_spill=rng.uniform(3.0, 12.0, cells),
        arc_cell=np.array([c for c, _ in arcs], dtype=np.int64),
        arc_option=np.array([o for _, o in arcs], dtype=np.int64),
        arc_load=rng.uniform(0.2, 1.4, len(arcs)),
    )


def with_more_demand(problem: FleetProblem, factor: float) -> FleetProblem:
    """Every rate multiplied, with the loads and spill prices that follow it."""
    return replace(
        problem,
        cell_rate=problem.cell_rate * factor,
        cell_spill=problem.cell_spill * factor,
        arc_load=problem.arc_load * factor,
    )


__all__ = ["INF", "SHARED", "a_fleet", "cheapest_of_all", "planned", "random_fleet", "solved", "with_more_demand"]
