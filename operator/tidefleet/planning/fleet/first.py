"""A first plan of a pool without any program: few options, each cell on the cheapest of them, replicas rounded up.

It is far from the best, but it is there in milliseconds, and whatever follows only has to be cheaper. A fleet's last
resort is the plan that serves nothing, where everything may be spilled or left.
"""

from __future__ import annotations

import numpy as np

from tidefleet.planning.fleet.lagrange import Knapsacks, covering
from tidefleet.planning.fleet.matrix import Floats, Ints
from tidefleet.planning.fleet.milp import FleetMilp
from tidefleet.planning.fleet.solver import TOLERANCE, Answer, solve

COUNTS = (1, 2, 3, 5, 8, 13, 21)
"""How many of the most wanted options are taken, besides those without which a cell is not reached."""


def first_plan(knapsacks: Knapsacks, cell: Ints, order: Ints) -> Answer | None:
    """The cheapest of a few such plans, or ``None`` where some row forbids them all.

    Args:
        knapsacks: the pool's program.
        cell: the cell of each arc.
        order: the options, the most wanted first.
    """
    matrix, n = knapsacks.matrix, knapsacks.n
    # Arcs that only their cell's and their option's rows know: neither spot, which is limited, nor prefill and decode.
    plain = np.flatnonzero(np.diff(matrix.start)[knapsacks.x] == 2)
    if not len(plain):
        return None
    cell, option = cell[plain], knapsacks.option[plain]
    load = knapsacks.size[plain] / knapsacks.capacity[option]
    unit = load * matrix.cost[n][option]
    needed = covering(cell, option, order)
    best: Answer | None = None
    for count in COUNTS:
        taken = needed.copy()
        taken[order[:count]] = True
        some = np.flatnonzero(taken[option])
        some = some[np.lexsort((unit[some], cell[some]))]
        cheapest = some[np.concatenate(([True], np.diff(cell[some]) != 0))]
        values = np.where(matrix.integer, matrix.lower, 0.0)
        values[knapsacks.x[plain[cheapest]]] = 1.0
        used = np.bincount(option[cheapest], load[cheapest], len(n))
        values[n] = np.maximum(np.ceil(used - 1e-9), matrix.lower[n])
        cost = matrix.objective(values)
        if (best is None or cost < best.objective) and matrix.violation(values) <= TOLERANCE:
            best = Answer(values, cost, -np.inf, np.zeros(0), False)
    return best


def serving_nothing(milp: FleetMilp, seconds: float) -> Floats | None:
    """The cheapest plan of a fleet that serves nothing, a program without flows; ``None`` where something has to be.

    Args:
        milp: the MILP of the whole.
        seconds: the most time.
    """
    rest = np.ones(len(milp.matrix.cost), dtype=np.bool_)
    rest[milp.columns.x] = False
    answer = solve(milp.matrix.part(rest, np.ones(len(milp.matrix.row_lower), dtype=np.bool_)), seconds=seconds)
    if not isinstance(answer, Answer):
        return None
    values = np.zeros(len(rest))
    values[rest] = answer.values
    return values
