"""The slice ILP of Mélange (Griggs et al., arXiv 2404.14527), the peer that the planner is compared with.

Each bucket's rate is cut into ``slice factor`` equal slices; each slice goes whole to one GPU type; GPUs are whole
numbers. Written here from the paper and solved, as the authors do, by CBC through PuLP.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pulp

from tidefleet.planning.fleet import AGGREGATED, FleetProblem

EXAMPLE_COST = {"A10G": 1.01, "A100-80GB": 3.67}
EXAMPLE_THROUGHPUT = {"A10G": [[2.0, 1.0], [5.0, 2.0]], "A100-80GB": [[20.0, 20.0], [40.0, 20.0]]}
EXAMPLE_SHARES = [[0.2, 0.1], [0.5, 0.2]]
EXAMPLE_RATE = 30.0
"""The authors' published example (melange-release, config/example.json): USD/h, requests/s per bucket, shares, rate."""


def example() -> FleetProblem:
    """The published example as a fleet problem: one model, one GPU per replica, nothing else limited."""
    names = list(EXAMPLE_COST)
    rate = EXAMPLE_RATE * np.array(EXAMPLE_SHARES).ravel()
    load = np.array([rate / np.array(EXAMPLE_THROUGHPUT[name]).ravel() for name in names])
    types, cells = load.shape
    price = np.array([EXAMPLE_COST[name] for name in names])
    return FleetProblem(
        type_price=price,
        type_quota=np.full(types, np.inf),
        type_site=np.zeros(types, dtype=np.int64),
        site_limit_kw=np.array([np.inf]),
        option_pool=np.zeros(types, dtype=np.int64),
        option_type=np.arange(types),
        option_role=np.zeros(types, dtype=np.int64),
        option_fabric=np.zeros(types, dtype=np.int64),
        option_chips=np.ones(types, dtype=np.int64),
        option_cost=price,
        option_kw=np.zeros(types),
        option_spot=np.zeros(types, dtype=np.bool_),
        option_capacity=np.ones(types),
        cell_class=np.zeros(cells, dtype=np.int64),
        cell_rate=rate,
        cell_spill=np.full(cells, np.inf),
        arc_cell=np.tile(np.arange(cells), types),
        arc_option=np.repeat(np.arange(types), cells),
        arc_load=load.ravel(),
    )


def fleet_by_slices(problem: FleetProblem, *, slice_factor: int = 1, seconds: float = 60.0) -> dict[str, Any]:
    """Solve a fleet by slices: one ILP over all its aggregated options; spilling is one more place for a slice.

    The quota, power and spot limits are kept, so that its plan may be compared; prefill and decode apart are unknown to
    it.

    Returns:
        ``cost_usd_per_hour`` (``None`` without a plan in time), ``bound_usd_per_hour`` is not given by CBC, ``status``,
        ``seconds``.
    """
    p = problem
    began = time.monotonic()
    ilp = pulp.LpProblem("slices", pulp.LpMinimize)
    start = np.where(p.option_running == 0, p.option_start_cost, 0.0)
    mine = np.flatnonzero(p.option_role == AGGREGATED)
    gpus = {int(o): pulp.LpVariable(f"n{o}", lowBound=0, cat=pulp.LpInteger) for o in mine}
    loads: dict[int, list[Any]] = {o: [] for o in gpus}
    places: dict[tuple[int, int], list[Any]] = {}
    spot: dict[int, list[Any]] = {}
    cost: list[Any] = [(p.option_cost[o] + start[o]) * n for o, n in gpus.items()]
    for a in np.flatnonzero(np.isin(p.arc_option, mine)):
        c, o = int(p.arc_cell[a]), int(p.arc_option[a])
        for s in range(slice_factor):
            here = pulp.LpVariable(f"x{a}_{s}", cat=pulp.LpBinary)
            places.setdefault((c, s), []).append(here)
            loads[o].append(float(p.arc_load[a]) / slice_factor * here)
            if p.option_spot[o]:
                spot.setdefault(int(p.cell_class[c]), []).append(float(p.cell_rate[c]) / slice_factor * here)
    for c in range(len(p.cell_class)):
        for s in range(slice_factor):
            if np.isfinite(p.cell_spill[c]):
                out = pulp.LpVariable(f"z{c}_{s}", cat=pulp.LpBinary)
                places.setdefault((c, s), []).append(out)
                cost.append(float(p.cell_spill[c]) / slice_factor * out)
            ilp += pulp.lpSum(places.get((c, s), [])) == 1
    ilp += pulp.lpSum(cost)
    for o, n in gpus.items():
        ilp += pulp.lpSum(loads[o]) <= float(p.option_capacity[o]) * n
    for t in np.flatnonzero(np.isfinite(p.type_quota)):
        ilp += pulp.lpSum(int(p.option_chips[o]) * n for o, n in gpus.items() if p.option_type[o] == t) <= float(
            p.type_quota[t]
        )
    site = p.type_site[p.option_type]
    for j in np.flatnonzero(np.isfinite(p.site_limit_kw)):
        kw = pulp.lpSum(float(p.site_pue[j] * p.option_kw[o]) * n for o, n in gpus.items() if site[o] == j)
        ilp += kw <= float(p.site_limit_kw[j])
    for k, used in spot.items():
        rate = float(p.cell_rate[p.cell_class == k].sum())
        ilp += pulp.lpSum(used) <= float(p.class_spot_limit[k]) * rate
    ilp.solve(pulp.PULP_CBC_CMD(msg=0, timeLimit=seconds, threads=2))
    # CBC calls a plan that the time limit left it with "Optimal" too; the solution status tells whether there is one.
    found = ilp.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    return {
        "cost_usd_per_hour": float(pulp.value(ilp.objective)) if found else None,
        "status": pulp.LpSolution[ilp.sol_status],
        "slice_factor": slice_factor,
        "seconds": round(time.monotonic() - began, 3),
    }
