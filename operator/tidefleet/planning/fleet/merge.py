"""Classes that differ only in how much they ask for are solved as one, and their flows split afterwards.

Two classes of a pool merge when one is a multiple of the other: the same spot limit, as many cells, and cell by cell
the same options with rates, loads, spill prices and penalties in one ratio. That is exact: any plan of the merged class
serves both by the same shares, and the mean of two classes' shares, weighted by that ratio, serves the merged one at
their cost. Numbers count as equal within a single precision's 6e-8, far below the tolerance at which flows are checked.
Classes with different shapes stay apart: their costs and bound are never those of an average.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tidefleet.planning.fleet.matrix import summed
from tidefleet.planning.fleet.problem import FleetProblem, Ints
from tidefleet.planning.fleet.result import FleetPlan, SolverFailed
from tidefleet.planning.fleet.verify import Decision, violations


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """A smaller problem, and where each cell and arc of the original went."""

    original: FleetProblem
    problem: FleetProblem
    cell: Ints
    arc: Ints

    def split(self, plan: FleetPlan) -> FleetPlan | SolverFailed:
        """The plan for the original's cells, verified against it."""
        p = self.original
        if self.problem is p:
            return plan
        part = p.cell_rate / np.maximum(self.problem.cell_rate[self.cell], 1e-300)
        whole = replace(
            plan,
            flow=plan.flow[self.arc],
            spill=plan.spill[self.cell],
            shortfall=plan.shortfall[self.cell],
            serve_price=plan.serve_price[self.cell] * part,
        )
        decision = Decision(whole.replicas, whole.flow, whole.spill, whole.shortfall, whole.tier, whole.nodes)
        broken = violations(p, decision, tolerance=3e-6)
        return SolverFailed(f"the split of merged classes breaks a constraint: {broken[0]}") if broken else whole


def merge(problem: FleetProblem) -> Merged:
    """The problem with classes of one shape made one."""
    p = problem
    cells = len(p.cell_class)
    arc_order = np.lexsort((p.arc_option, p.arc_cell))
    first_arc = np.searchsorted(p.arc_cell[arc_order], np.arange(cells + 1))
    cell_order = np.argsort(p.cell_class, kind="stable")
    first_cell = np.searchsorted(p.cell_class[cell_order], np.arange(p.classes + 1))
    total = summed(p.cell_class, p.cell_rate, p.classes)
    leader_of: dict[bytes, Ints] = {}
    cell_to, arc_to = np.arange(cells), np.arange(len(p.arc_cell))
    for k in range(p.classes):
        mine = cell_order[first_cell[k] : first_cell[k + 1]]
        if not len(mine) or total[k] <= 0:
            continue
        arcs = [arc_order[first_arc[c] : first_arc[c + 1]] for c in mine]
        flat = np.concatenate(arcs)
        shape = np.concatenate([p.cell_rate[mine], p.cell_spill[mine], p.cell_penalty[mine], p.arc_load[flat]])
        key = b"/".join(
            (
                (shape / total[k]).astype(np.float32).tobytes(),
                np.array([len(one) for one in arcs]).tobytes(),
                p.arc_option[flat].tobytes(),
                p.class_spot_limit[[k]].tobytes(),
            )
        )
        leader = leader_of.setdefault(key, mine)
        cell_to[mine] = leader
        for own, theirs in zip(arcs, leader, strict=True):
            arc_to[own] = arc_order[first_arc[theirs] : first_arc[theirs + 1]]
    kept_cells, cell = np.unique(cell_to, return_inverse=True)
    if len(kept_cells) == cells:
        return Merged(p, p, np.arange(cells), np.arange(len(p.arc_cell)))
    kept_arcs, arc = np.unique(arc_to, return_inverse=True)
    count = len(kept_cells)
    smaller = replace(
        p,
        cell_class=p.cell_class[kept_cells],
        cell_rate=summed(cell, p.cell_rate, count),
        cell_spill=summed(cell, p.cell_spill, count),
        cell_penalty=summed(cell, p.cell_penalty, count),
        arc_cell=cell[p.arc_cell[kept_arcs]],
        arc_option=p.arc_option[kept_arcs],
        arc_load=summed(arc, p.arc_load, len(kept_arcs)),
    )
    return Merged(p, smaller, cell, arc)
