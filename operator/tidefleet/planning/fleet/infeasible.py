"""Why a fleet cannot serve its demand: a smallest set of cells that cannot be met, and the limits that stop them.

Both sets are irreducible, found by divide and conquer over a test "can these cells be met under these limits?"
(QuickXplain, U. Junker, AAAI 2004): a set of k out of n takes about k log2(n / k) tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tidefleet.planning.fleet.bound import served_alone
from tidefleet.planning.fleet.milp import FleetMilp, build
from tidefleet.planning.fleet.problem import FleetProblem
from tidefleet.planning.fleet.result import Infeasible, Limit, SolverFailed
from tidefleet.planning.fleet.solver import Answer, NoPoint, solve

_T = TypeVar("_T")

_SECONDS_PER_TEST = 5.0


@dataclass(slots=True)
class _Test:
    """Answers "can these cells be met under these limits?"; what cannot be decided in time counts as yes."""

    problem: FleetProblem
    left: Callable[[], float]
    cancelled: Callable[[], bool]
    undecided: bool = False

    def fits(self, cells: Sequence[int], limits: Sequence[Limit]) -> bool:
        matrix = build(_only(self.problem, cells, limits)).matrix
        matrix = matrix.with_cost(np.zeros(len(matrix.cost)))
        for one in (matrix.relaxed(), matrix):
            answer = solve(one, seconds=min(_SECONDS_PER_TEST, self.left()), gap=1.0, cancelled=self.cancelled)
            if isinstance(answer, NoPoint):
                return False
            if not isinstance(answer, Answer):
                self.undecided = True
                return True
        return True


def why_infeasible(
    milp: FleetMilp, left: Callable[[], float], cancelled: Callable[[], bool]
) -> Infeasible | SolverFailed:
    """The explanation; call it for a problem without a plan.

    Returns:
        ``SolverFailed`` when the problem turns out to have a plan after all (the solver contradicted itself), or when
        the time was over before anything was learnt.
    """
    p = milp.problem
    must = np.isinf(p.cell_spill) & np.isinf(p.cell_penalty)
    alone = [int(one) for one in served_alone(p) if must[one]]
    if alone:
        return Infeasible(
            (alone[0],), (), "no option meets the cell's objectives, and it may not be spilled or left out"
        )
    test = _Test(p, left, cancelled)
    every = _limits(p)
    cells = [int(one) for one in np.flatnonzero(must)]
    if test.fits(cells, every):
        return SolverFailed(
            "the time was over before the cause was found"
            if test.undecided
            else "the solver called a problem infeasible that has a plan"
        )
    found = () if not test.fits((), every) else tuple(sorted(_smallest(cells, lambda some: not test.fits(some, every))))
    limits = () if not test.fits(found, ()) else tuple(_smallest(every, lambda some: not test.fits(found, some)))
    names = ", ".join(f"{one.kind}[{one.index}]" for one in limits)
    what = f"{len(found)} cells cannot be met together" if found else "the least replicas asked for cannot be had"
    reason = f"{what}: {names} stop them" if limits else f"{what}, whatever the limits"
    return Infeasible(found, limits, reason, minimal=not test.undecided)


def _smallest(items: Sequence[_T], holds: Callable[[Sequence[_T]], bool]) -> list[_T]:
    """A smallest subset (none can be left out) for which a monotone claim holds; it holds for all items."""

    def descend(base: Sequence[_T], grew: bool, rest: Sequence[_T]) -> list[_T]:
        if grew and holds(base):
            return []
        if len(rest) == 1:
            return list(rest)
        half = len(rest) // 2
        first, second = rest[:half], rest[half:]
        later = descend([*base, *first], True, second)
        sooner = descend([*base, *later], bool(later), first)
        return [*sooner, *later]

    return descend([], False, items) if items else []


def _limits(problem: FleetProblem) -> list[Limit]:
    p = problem
    found = [Limit("quota", int(t)) for t in np.flatnonzero(np.isfinite(p.type_quota))]
    found += [Limit("power", int(j)) for j in np.flatnonzero(np.isfinite(p.site_limit_kw))]
    found += [Limit("option_max", int(o)) for o in np.flatnonzero(np.isfinite(p.option_max))]
    found += [Limit("pool_max", int(one)) for one in np.flatnonzero(np.isfinite(p.pool_max))]
    found += [Limit("spot", int(k)) for k in np.flatnonzero(p.class_spot_limit < 1.0)]
    found += [Limit("spare", int(one)) for one in np.flatnonzero(p.pool_spare > 0)]
    return found


def _only(problem: FleetProblem, cells: Sequence[int], limits: Sequence[Limit]) -> FleetProblem:
    """The problem with these cells alone, and only these limits."""
    p = problem
    keep = np.zeros(len(p.cell_class), dtype=np.bool_)
    keep[list(cells)] = True
    arcs = keep[p.arc_cell]
    at: dict[str, list[int]] = {}
    for one in limits:
        at.setdefault(one.kind, []).append(one.index)

    def kept(kind: str, values: NDArray[Any], lifted: float) -> NDArray[Any]:
        result = np.full_like(values, lifted)
        result[at.get(kind, [])] = values[at.get(kind, [])]
        return result

    return replace(
        p,
        cell_class=p.cell_class[keep],
        cell_rate=p.cell_rate[keep],
        cell_spill=p.cell_spill[keep],
        cell_penalty=p.cell_penalty[keep],
        arc_cell=(np.cumsum(keep) - 1)[p.arc_cell[arcs]],
        arc_option=p.arc_option[arcs],
        arc_load=p.arc_load[arcs],
        type_quota=kept("quota", p.type_quota, np.inf),
        site_limit_kw=kept("power", p.site_limit_kw, np.inf),
        option_max=kept("option_max", p.option_max, np.inf),
        pool_max=kept("pool_max", p.pool_max, np.inf),
        class_spot_limit=kept("spot", p.class_spot_limit, 1.0),
        pool_spare=kept("spare", p.pool_spare, 0),
        pool_budget=np.full(p.pools, np.inf),
        budget=np.inf,
    )
