"""How near the optimum the fleet planner comes, how fast, and how the slice ILP of Mélange does on the same instance.

usage: python benchmarks/planner.py [--instance FILE.npz | --types 20 --classes 50 ...] [--threads 2] [--time-limit 60]
           [--gap 0.005] [--against melange [--slice-factor 1] [--melange-seconds 60]] [--json]

Keys: ``cost_usd_per_hour``, ``bound_usd_per_hour``, ``gap`` (cost less bound, over cost), ``seconds`` (reading the file
not included), ``cpu_seconds`` (of all threads; on a machine with other work, ``seconds`` says little), ``peak_mb``
(10^6 bytes, the process at its peak after the planner), ``status`` (``complete``: to the gap asked for; ``best found``
when the time was over; ``infeasible`` with a smallest set of ``cells`` that cannot be met and the ``limits`` that stop
them, and ``failed``, with a ``reason``, and ``null`` for what is not known).

Exit status: 0 with a plan, 1 without one, 2 for a file or an option that makes no sense.
"""

from __future__ import annotations

import sys

# A file beside this one is called operator.py, like a module of the standard library: the folder goes to the path's
# end.
_HERE = __file__.rpartition("/")[0] or "."
sys.path[:] = [f"{_HERE}/../operator", *(one for one in sys.path if one != sys.path[0]), _HERE]

import argparse  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import resource  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from planner_instances import Sizes, UnusableInstance, generate, read_instance  # noqa: E402
from planner_melange import fleet_by_slices  # noqa: E402

from tidefleet.planning.fleet import (  # noqa: E402
    FleetPlan,
    FleetProblem,
    FleetProblemError,
    Infeasible,
    Limits,
    SolverFailed,
    solve,
)


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
    report: dict[str, Any] = dict.fromkeys(("cost_usd_per_hour", "bound_usd_per_hour", "gap")) | {
        "seconds": round(time.monotonic() - began, 3),
        "cpu_seconds": round(time.process_time() - busy, 3),
        "peak_mb": round(peak_mb(), 1),
    }
    match result:
        case FleetPlan():
            report |= {
                "status": "complete" if result.complete else "best found",
                "cost_usd_per_hour": result.usd_per_hour,
                "bound_usd_per_hour": result.bound if math.isfinite(result.bound) else None,
                "gap": result.gap if math.isfinite(result.gap) else None,
                "replicas": int(result.replicas.sum()),
                "spill_usd_per_hour": result.costs.spill,
                "binding": [f"{one.kind}[{one.index}]" for one in result.binding],
            }
        case Infeasible():
            report |= {
                "status": "infeasible",
                "reason": result.reason,
                "cells": list(result.cells),
                "limits": [f"{one.kind}[{one.index}]" for one in result.limits],
            }
        case SolverFailed():
            report |= {"status": "failed", "reason": result.why}
    return report


def peak_mb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _within(least: float, most: float, kind: type = float) -> Callable[[str], Any]:
    """A reader of an option that is a number in a range; NaN is in none."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"is {text!r}; expected {what} from {least:g} to {most:g}")
        return value

    return read


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instance", type=Path)
    for name, default in (("types", 20), ("classes", 50), ("buckets", 10), ("models", 10), ("seed", 0)):
        least = 0 if name == "seed" else 1
        parser.add_argument(f"--{name}", type=_within(least, 2**31 if name == "seed" else 10_000, int), default=default)
    parser.add_argument("--scale", type=_within(1e-9, 1e9), default=1.0)
    parser.add_argument("--quota-factor", type=_within(0, 1e6), default=1.0)
    parser.add_argument("--threads", type=_within(1, 256, int), default=2)
    parser.add_argument("--time-limit", type=_within(0, 1e6), default=60.0)
    parser.add_argument("--gap", type=_within(0, 1), default=0.005)
    parser.add_argument("--against", choices=["melange"])
    parser.add_argument("--slice-factor", type=_within(1, 100, int), default=1)
    parser.add_argument("--melange-seconds", type=_within(0.1, 1e6), default=60.0)
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    try:
        if a.instance:
            problem = read_instance(a.instance)
        else:
            sizes = Sizes(types=a.types, classes=a.classes, buckets=a.buckets, models=a.models)
            problem = generate(sizes, seed=a.seed, scale=a.scale, quota_factor=a.quota_factor)
    except UnusableInstance as error:
        parser.exit(2, f"planner.py: {a.instance}: {error}\n")
    except FleetProblemError as error:
        parser.exit(2, f"planner.py: these options make an instance that cannot be planned: {error}\n")
    report = measure(problem, threads=a.threads, seconds=a.time_limit, gap=a.gap)
    if a.against:
        slices = fleet_by_slices(problem, slice_factor=a.slice_factor, seconds=a.melange_seconds)
        report["melange"] = slices
        if slices["cost_usd_per_hour"] is not None and report["cost_usd_per_hour"]:
            report["melange_over_ours"] = slices["cost_usd_per_hour"] / report["cost_usd_per_hour"]
    if a.json:
        print(json.dumps(report))
    else:
        for key, value in report.items():
            print(f"{key:24} {value}")
    if report["cost_usd_per_hour"] is None:
        sys.exit(1)


if __name__ == "__main__":
    main()
