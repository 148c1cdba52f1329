"""The plan of a whole fleet: one MILP over all pools, solved pool by pool, with a bound that is always published.

``solve`` takes a ``FleetProblem`` and returns ``FleetPlan | Infeasible | SolverFailed``. Pure: no I/O, no clock, no
threads of its own; the caller brings a clock, a way to cancel, and workers.
"""

from tidefleet.planning.fleet.decompose import Limits, solve
from tidefleet.planning.fleet.problem import AGGREGATED, DECODE, PREFILL, FleetProblem, FleetProblemError
from tidefleet.planning.fleet.result import Binding, Costs, FleetPlan, FleetResult, Infeasible, Limit, SolverFailed

__all__ = [
    "AGGREGATED",
    "DECODE",
    "PREFILL",
    "Binding",
    "Costs",
    "FleetPlan",
    "FleetProblem",
    "FleetProblemError",
    "FleetResult",
    "Infeasible",
    "Limit",
    "Limits",
    "SolverFailed",
    "solve",
]
