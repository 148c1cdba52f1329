"""HiGHS behind one function: a matrix in, a checked answer out. The only module that imports ``highspy``.

Every instance gets the same number of threads: HiGHS shares one scheduler in a process, and a mismatch has returned
zeros without an error. What comes back is verified here, so nothing else trusts a solver's own word for feasibility.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import highspy
import numpy as np
from highspy.highs import HighsCallbackEvent

from tidefleet.planning.fleet.matrix import Floats, Matrix

TOLERANCE = 1e-6
"""Largest relative violation at which a solver's answer is taken."""

THREADS = 1
"""Threads of every HiGHS instance. Pools are solved side by side instead, by the workers that the caller brings."""

_SMALL_ENTRIES = 1e-9

_SEARCHES = tuple(f"mip_heuristic_run_{one}" for one in ("rens", "rins", "root_reduced_cost", "feasibility_jump"))
"""HiGHS' options for heuristics that solve sub-programs."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A feasible point and what is known about the best one.

    Attributes:
        values: one per column, whole where the column is.
        objective: cost of ``values``.
        bound: no feasible point costs less (for a program without integers: the optimum).
        row_prices: how the optimum moves per unit of a row's limit; empty for a program with integers.
        complete: the solver finished by itself, to the gap asked for.
    """

    values: Floats
    objective: float
    bound: float
    row_prices: Floats
    complete: bool


@dataclass(frozen=True, slots=True)
class NoPoint:
    """No feasible point exists."""


@dataclass(frozen=True, slots=True)
class OutOfTime:
    """The time was over, or the solve cancelled, before a feasible point was found; ``bound`` holds all the same."""

    bound: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Broken:
    """The solver failed, or what it returned is wrong; ``why`` is a sentence."""

    why: str


class _Quiet(highspy.Highs):
    """Silent before its callbacks are set: setting them prints a banner on standard output otherwise."""

    def enableCallbacks(self) -> None:
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]


def quiet() -> highspy.Highs:
    """A solver that prints nothing and has the threads that all have."""
    highs = _Quiet()  # type: ignore[no-untyped-call]
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", THREADS)
    return highs


Outcome = Answer | NoPoint | OutOfTime | Broken


def raised(outcome: Outcome, floor: float) -> Outcome:
    """The same outcome with a bound of at least ``floor``."""
    match outcome:
        case Answer() if floor > outcome.bound:
            return replace(outcome, bound=min(floor, outcome.objective))
        case OutOfTime() if floor > outcome.bound:
            return OutOfTime(floor)
        case _:
            return outcome


def solve(
    matrix: Matrix,
    *,
    seconds: float = float("inf"),
    gap: float = 1e-4,
    absolute_gap: float = 1e-6,
    start: Floats | None = None,
    stop_at: float | None = None,
    searching: bool = True,
    cancelled: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Minimise.

    Args:
        matrix: the program.
        seconds: the most wall-clock time.
        gap: relative gap at which a program with integers is solved.
        absolute_gap: gap in the unit of the cost at which it is solved as well.
        start: a feasible point to begin from.
        stop_at: stop as soon as the bound reaches this (a better point is then of no interest).
        searching: whether better points are looked for by sub-programs as well; without, a tree that only has to prove
            that a good start is good takes a third of the time.
        cancelled: asked often; once true, the solve ends soon with what it has.
    """
    if seconds <= 0 or cancelled():
        return OutOfTime()
    if len(matrix.cost) == 0:
        fits = bool((matrix.row_lower <= TOLERANCE).all() and (matrix.row_upper >= -TOLERANCE).all())
        none = np.zeros(0)
        return Answer(none, 0.0, 0.0, np.zeros(len(matrix.row_lower)), True) if fits else NoPoint()
    settings = _Settings(seconds, gap, absolute_gap, stop_at, searching, cancelled)
    outcome = _once(matrix, settings, start)
    if start is not None and isinstance(outcome, Broken):
        # HiGHS 1.16 can carry a start into its presolved space at a lower cost than it has, and end with it.
        outcome = _once(matrix, settings, None)
    return outcome


@dataclass(frozen=True, slots=True)
class _Settings:
    seconds: float
    gap: float
    absolute_gap: float
    stop_at: float | None
    searching: bool
    cancelled: Callable[[], bool]


def _once(matrix: Matrix, settings: _Settings, start: Floats | None) -> Outcome:
    highs = quiet()
    mixed = bool(matrix.integer.any())
    options: dict[str, bool | float] = {
        "mip_rel_gap": settings.gap,
        "small_matrix_value": _SMALL_ENTRIES,
        "mip_abs_gap": settings.absolute_gap,
        "mip_feasibility_tolerance": TOLERANCE,
        "mip_allow_restart": False,  # a restart costs a quarter of the time here: 11.1 s with, 8.1 s without
    }
    if np.isfinite(settings.seconds):
        options["time_limit"] = float(settings.seconds)
    if not settings.searching:
        options |= dict.fromkeys(_SEARCHES, False)
    for name, value in options.items():
        highs.setOptionValue(name, value)

    def look(event: HighsCallbackEvent) -> None:
        stop_at = settings.stop_at
        enough = stop_at is not None and mixed and event.data_out.mip_dual_bound >= stop_at
        if enough or settings.cancelled():
            event.interrupt()

    for callback in (highs.cbMipInterrupt, highs.cbSimplexInterrupt, highs.cbIpmInterrupt):
        callback.subscribe(look)
    try:
        return _run(highs, matrix, start, mixed)
    finally:
        for callback in (highs.cbMipInterrupt, highs.cbSimplexInterrupt, highs.cbIpmInterrupt):
            with contextlib.suppress(Exception):
                callback.unsubscribe(look)
        highs.clear()


def _run(highs: highspy.Highs, matrix: Matrix, start: Floats | None, mixed: bool) -> Outcome:
    if highs.passModel(to_highs(matrix)) == highspy.HighsStatus.kError:
        return Broken("HiGHS refused the program")
    if start is not None:
        point = highspy.HighsSolution()
        point.col_value = start
        highs.setSolution(point)
    run = highs.run()
    status = highs.getModelStatus()
    known = highspy.HighsModelStatus
    if status in (known.kInfeasible, known.kUnboundedOrInfeasible):
        return NoPoint()
    if status == known.kUnbounded:
        return Broken("HiGHS calls the program unbounded")
    info = highs.getInfo()
    stopped = status in (known.kTimeLimit, known.kInterrupt, known.kObjectiveBound, known.kSolutionLimit)
    bound = float(info.mip_dual_bound) if mixed else float("-inf")
    if run == highspy.HighsStatus.kError or not (stopped or status == known.kOptimal):
        return Broken(f"HiGHS ended with status {status.name}")
    solution = highs.getSolution()
    values = np.array(solution.col_value, dtype=np.float64)
    has_point = info.primal_solution_status == 2 and len(values) == len(matrix.cost)
    if not has_point or (not mixed and stopped):
        return OutOfTime(bound) if stopped else Broken("HiGHS calls the program solved but returned no point")
    if not np.isfinite(values).all():
        return Broken("HiGHS returned a value that is not a number")
    values = np.clip(values, matrix.lower, matrix.upper)
    values[matrix.integer] = np.round(values[matrix.integer])
    violation = matrix.violation(values)
    if not violation <= 20 * TOLERANCE:
        return Broken(f"HiGHS' answer violates a constraint by {violation:.2g}")
    objective = matrix.objective(values)
    if abs(objective - info.objective_function_value) > 1e-4 * max(
        1.0, abs(objective), float(np.abs(matrix.cost) @ values)
    ):
        return Broken(f"HiGHS' answer costs {objective:.9g}, not {info.objective_function_value:.9g} as it says")
    prices = np.zeros(0) if mixed else np.array(solution.row_dual, dtype=np.float64)
    if not mixed:
        bound = objective
    elif not np.isfinite(bound):
        bound = objective if status == known.kOptimal else float("-inf")
    if bound > objective + 1e-5 * max(1.0, abs(objective)):
        return Broken(f"HiGHS' bound {bound:.9g} is above the cost {objective:.9g} of its own answer")
    return Answer(values, objective, min(bound, objective), prices, status == known.kOptimal)


def to_highs(matrix: Matrix) -> highspy.HighsLp:
    """The matrix as HiGHS takes it."""
    lp = highspy.HighsLp()
    lp.num_col_ = len(matrix.cost)
    lp.num_row_ = len(matrix.row_lower)
    lp.col_cost_ = matrix.cost
    lp.col_lower_ = matrix.lower
    lp.col_upper_ = matrix.upper
    lp.row_lower_ = matrix.row_lower
    lp.row_upper_ = matrix.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = matrix.start.astype(np.int32)
    lp.a_matrix_.index_ = matrix.row.astype(np.int32)
    lp.a_matrix_.value_ = matrix.value
    if matrix.integer.any():
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(one)] for one in matrix.integer]
    return lp
