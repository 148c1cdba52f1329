"""How near the optimum the fleet planner comes, how fast, and how the slice ILP of Mélange does on the same instance.

usage: python benchmarks/planner.py [--instance FILE.npz | --types 20 --classes 50 ...] [--threads 2] [--time-limit 60]
           [--gap 0.0045] [--against melange [--slice-factor 1] [--melange-seconds 60]] [--json]

Keys: ``cost_usd_per_hour``, ``bound_usd_per_hour``, ``gap`` (cost less bound, over cost), ``seconds`` (reading the file
not included), ``cpu_seconds`` (of all threads; on a machine with other work, ``seconds`` says little), ``peak_mb``
(10^6 bytes, the process at its peak after the planner), ``status``.
"""

from __future__ import annotations

import sys

# A file beside this one is called operator.py, like a module of the standard library: the folder goes to the path's
# end.
_HERE = __file__.rpartition("/")[0] or "."
sys.path[:] = [f"{_HERE}/../operator", *(one for one in sys.path if one != sys.path[0]), _HERE]

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import time  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from planner_instances import Sizes, generate, read_instance  # noqa: E402
from planner_melange import fleet_by_slices  # noqa: E402

from tidefleet.planning.fleet import FleetPlan, FleetProblem, Infeasible, Limits, SolverFailed, solve  # noqa: E402


def measure(problem: FleetProblem, *, threads: int, seconds: float, gap: float) -> dict[str, Any]:
    """Solve once and report."""
    began, busy = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        result = solve(
            problem,
            clock=time.monotonic,
            limits=Limits(gap=gap, seconds=seconds),
            spread=pool.map,
            workers=threads,
        )
    report: dict[str, Any] = {
        "seconds": round(time.monotonic() - began, 3),
        "cpu_seconds": round(time.process_time() - busy, 3),
        "peak_mb": round(peak_mb(), 1),
    }
    match result:
        case FleetPlan():
            report |= {
                "status": "complete" if result.complete else "best found",
                "cost_usd_per_hour": result.usd_per_hour,
                "bound_usd_per_hour": result.bound,
                "gap": result.gap,
                "replicas": int(result.replicas.sum()),
                "spill_usd_per_hour": result.costs.spill,
                "binding": [f"{one.kind}[{one.index}]" for one in result.binding],
            }
        case Infeasible():
            report |= {"status": "infeasible", "reason": result.reason}
        case SolverFailed():
            report |= {"status": "failed", "reason": result.why}
    return report


def peak_mb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instance", type=Path)
    for name, default in (("types", 20), ("classes", 50), ("buckets", 10), ("models", 10), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--quota-factor", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--gap", type=float, default=0.0045)
    parser.add_argument("--against", choices=["melange"])
    parser.add_argument("--slice-factor", type=int, default=1)
    parser.add_argument("--melange-seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    if a.instance:
        problem = read_instance(a.instance)
    else:
        sizes = Sizes(types=a.types, classes=a.classes, buckets=a.buckets, models=a.models)
        problem = generate(sizes, seed=a.seed, scale=a.scale, quota_factor=a.quota_factor)
    report = measure(problem, threads=a.threads, seconds=a.time_limit, gap=a.gap)
    if a.against:
        slices = fleet_by_slices(problem, slice_factor=a.slice_factor, seconds=a.melange_seconds)
        report["melange"] = slices
        if slices["cost_usd_per_hour"] is not None and "cost_usd_per_hour" in report:
            report["melange_over_ours"] = slices["cost_usd_per_hour"] / report["cost_usd_per_hour"]
    if a.json:
        print(json.dumps(report))
    else:
        for key, value in report.items():
            print(f"{key:24} {value}")


if __name__ == "__main__":
    main()
