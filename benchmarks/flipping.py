"""How much of a day may train, how fast that is scheduled, and what flips cost of it.

    python benchmarks/flipping.py [--traces DIR] [--nodes 1000] [--recalls 24 | --no-recalls] [--json]

deepseek_freed_ratio             share of node-hours that DeepSeek's published day frees: no lead or reserve, step 22 %
deepseek_freed_ratio_lead_15min  the same with nodes back a slot of 15 minutes ahead of their need
deepseek_overhead_ratio_20min    node-hours that flips of 20 minutes take of those freed; and of 6 minutes
week_freed_ratio                 share of node-hours that the traces' week frees, with lead, reserve and a step of 20 %
week_overhead_ratio              node-hours that its flips take of those freed
schedule_seconds                 the schedule of that week, one kind of node (best of five)
kinds_seconds                    the same with four kinds of node that share the demand, by order of merit
kinds_of_bound                   what that is worth, over a bound: nodes in parts, no flip, no step, no reserve
recall_seconds_p99               from a node's recall until it serves again, its trials answered: 24 nodes at once,
                                 the operator on a local control plane, in real time; beside the budget of the operator
recall_parts_seconds_p99         of which checkpoint and end of the jobs, reclaiming and verifying, start of
                                 replicas, trial requests; recall_played_seconds says what is played, not measured

Without traces the week is DeepSeek's day, each day a little lower than the last.
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [_ROOT, f"{_ROOT}/operator", f"{_ROOT}/deploy/local", *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import csv  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from benchmarks import recall  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from localcluster import LocalClusterError  # noqa: E402
from tidefleet.flipping import staircase  # noqa: E402
from tidefleet.flipping.merit import Carrier, by_merit, order  # noqa: E402
from tidefleet.flipping.value import FlipTimes, flip_cost  # noqa: E402

Shape = NDArray[np.float64]
DAY_SLOTS = 96
CHIPS = 8

DEEPSEEK_NODES = 278
DEEPSEEK_DAY = (
    (0.0, 1.25, 218), (1.25, 2.0, 188), (2.0, 2.75, 158), (2.75, 3.0, 128), (3.0, 3.5, 98), (3.5, 6.5, 68),
    (6.5, 7.0, 98), (7.0, 7.5, 128), (7.5, 8.0, 188), (8.0, 8.5, 218), (8.5, 24.0, 278),
)  # fmt: skip
"""(begin, end, nodes) in hours: deepseek-ai/open-infra-index, 202502OpenSourceWeek, day 6, figure "H800 Node Count",
27 to 28 February 2025, digitised; its mean is the published 226.75."""

TIMES = FlipTimes(
    drain_seconds=120.0, start_seconds=60.0, checkpoint_seconds=21.0, load_seconds=80.0, warm_seconds=79.0
)
"""A round trip of six minutes."""

KINDS = (
    ("H100", 0.4, 1000.0, 1.2),
    ("H200", 0.25, 1400.0, 1.5),
    ("L40S", 0.2, 300.0, 0.4),
    ("B200", 0.15, 2600.0, 2.4),
)
"""Name, share of the nodes, demand that a node serves, and what training on one of its chips is worth, USD an hour."""

LIMITS = {"schedule_seconds": 1.0, "kinds_seconds": 1.0, "recall_seconds_p99": recall.BUDGET_SECONDS}
TARGETS = {
    "deepseek_freed_ratio": 0.184,
    "deepseek_freed_ratio_lead_15min": 0.176,
    "deepseek_overhead_ratio_20min": 0.057,
    "deepseek_overhead_ratio_6min": 0.017,
    "overhead_ratio": 0.017,  # of a round trip of 6 minutes, the operator's default
}
"""What the published curve itself amounts to, rounded."""


def deepseek_day() -> list[float]:
    """Nodes that serve, by quarters of an hour from noon, as it was published."""
    need = np.zeros(DAY_SLOTS)
    for begin, end, nodes in DEEPSEEK_DAY:
        need[int(begin * 4) : int(end * 4)] = nodes
    return [float(one) for one in np.roll(need, DAY_SLOTS // 2)]


def week(traces: Path | None) -> tuple[str, Shape]:
    """A week of demand by quarters of an hour, its peak 1, and where it is from."""
    if traces is None:
        days = [np.array(deepseek_day()) / DEEPSEEK_NODES * (1.0 - 0.03 * day) for day in range(7)]
        return "deepseek", np.concatenate(days)
    with (traces / "fleet_shape_7d_10min.csv").open() as file:
        rows = list(csv.DictReader(file))
    mixed_demand = np.array(
        [sum(float(row[one]) for one in ("chat_global", "code", "rag", "reasoning")) for row in rows]
    )
    fine = np.interp(np.arange(7 * DAY_SLOTS) * 1.5, np.arange(len(mixed_demand)), mixed_demand)
    return "traces", fine / fine.max()


def timed(work: Callable[[], Any], *, times: int = 1) -> tuple[float, Any]:
    """The shortest of so many runs in seconds, and what the work gave."""
    best, given = math.inf, None
    for _ in range(times):
        began = time.perf_counter()
        given = work()
        best = min(best, time.perf_counter() - began)
    return best, given


def deepseek() -> dict[str, Any]:
    """What the published day frees, and what its flips cost of that."""

    def day(*, lead_slots: int = 0, minutes: float = 6.0) -> staircase.Staircase:
        terms = staircase.Terms(
            lead_slots=lead_slots, reserve=0, step_share=0.22, round_trip_seconds=60.0 * minutes, round_trips=0.0
        )
        return staircase.schedule(deepseek_day(), nodes=DEEPSEEK_NODES, terms=terms)

    made = day()
    serving = [DEEPSEEK_NODES - away for away in made.loans]
    return {
        "deepseek_freed_ratio": made.freed_ratio,
        "deepseek_freed_ratio_lead_15min": day(lead_slots=1).freed_ratio,
        "deepseek_overhead_ratio_20min": day(minutes=20.0).overhead_ratio,
        "deepseek_overhead_ratio_6min": made.overhead_ratio,
        "overhead_ratio": made.overhead_ratio,
        "deepseek_flips": made.flips,
        "deepseek_staircase": [now for before, now in zip([0, *serving], serving, strict=False) if now != before],
    }


def cost_usd(usd_per_chip_hour: float) -> float:
    """What a round trip of a node costs."""
    return flip_cost(chips=CHIPS, value_usd_per_chip_hour=usd_per_chip_hour, times=TIMES).usd


def terms_of(value: float) -> staircase.Terms:
    """The terms of nodes whose training is worth so many USD for each chip and hour."""
    return staircase.Terms(
        usd_per_node_hour=CHIPS * value, flip_usd=cost_usd(value), round_trip_seconds=TIMES.round_trip_seconds
    )


def one_kind(shape: Shape, nodes: int) -> dict[str, Any]:
    """The exact schedule of a week."""
    need = [float(math.ceil(one * nodes)) for one in shape]
    seconds, made = timed(lambda: staircase.schedule(need, nodes=nodes, terms=terms_of(1.2)), times=5)
    return {
        "schedule_seconds": seconds,
        "week_freed_ratio": made.freed_ratio,
        "week_overhead_ratio": made.overhead_ratio,
        "week_flips": made.flips,
        "week_net_usd": made.net_usd,
    }


def four_kinds(shape: Shape, nodes: int) -> dict[str, Any]:
    """The schedule of a week with four kinds of node that share a demand."""
    largest = max(demand for _, _, demand, _ in KINDS)
    carriers = [
        Carrier(name, CHIPS * value, demand, round(share * nodes), lost=largest) for name, share, demand, value in KINDS
    ]
    demand = shape * sum(one.most * one.carries for one in carriers) * 0.98

    def scheduled() -> list[staircase.Staircase]:
        needed = by_merit(carriers, demand)
        return [
            staircase.schedule(row.tolist(), nodes=one.most, terms=replace(terms_of(value), reserve=0))
            for one, row, (_, _, _, value) in zip(carriers, needed, KINDS, strict=True)
        ]

    seconds, made = timed(scheduled, times=5)
    net = sum(one.net_usd for one in made)
    return {
        "kinds_seconds": seconds,
        "kinds_net_usd": net,
        "kinds_of_bound": net / bound_usd(carriers, demand),
        "kinds_flips": sum(one.flips for one in made),
    }


def bound_usd(carriers: Sequence[Carrier], demand: Shape) -> float:
    """What no loans are worth more than: in each slot by itself, nodes in parts and flips free of charge."""
    left, usd = demand.copy(), 0.0
    for place in order(carriers):
        one = carriers[place]
        serving = np.clip(left / one.carries, 0.0, one.most)
        left = left - serving * one.carries
        usd += float((one.most - serving).sum()) * one.usd_per_hour * 24.0 / DAY_SLOTS
    return usd


def measure(shape: Shape, nodes: int) -> dict[str, Any]:
    """All figures of the schedule."""
    return deepseek() | one_kind(shape, nodes) | four_kinds(shape, nodes)


def recalls(nodes: int) -> dict[str, Any]:
    """The figures of recalls; with the reason instead where there is no control plane to be had."""

    def say(text: str) -> None:
        print(f"recalls: {text}", file=sys.stderr, flush=True)

    if not nodes:
        return {"recall_why": "not asked for"}
    say(f"{nodes} nodes on a local control plane, about three minutes; --no-recalls leaves them out")
    try:
        return recall.measure(nodes, say)
    except LocalClusterError as error:
        say(f"not measured: {error}")
        return {"recall_why": str(error).splitlines()[0][:300]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="directory of the traces (else $TIDEFLEET_SHARED/traces, if set)")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--recalls", type=int, default=24, metavar="N", help="nodes that are recalled, 20 or more")
    parser.add_argument("--no-recalls", dest="recalls", action="store_const", const=0, help="leave recalls out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    shared = os.environ.get("TIDEFLEET_SHARED", "")
    traces = options.traces or (Path(shared) / "traces" if shared else None)
    if traces is not None and not (traces / "fleet_shape_7d_10min.csv").exists():
        print(f"--traces is {traces}; expected a directory with fleet_shape_7d_10min.csv", file=sys.stderr)
        return 2
    if options.nodes < 20:
        print(f"--nodes is {options.nodes}; expected at least 20, e.g. 1000", file=sys.stderr)
        return 2
    if options.recalls and options.recalls < 20:
        print(f"--recalls is {options.recalls}; expected 20 or more, e.g. 24, or --no-recalls", file=sys.stderr)
        return 2
    source, shape = week(traces)
    figures = measure(shape, options.nodes) | recalls(options.recalls)
    bounds = {name: bound for name, bound in (LIMITS | TARGETS).items() if name in figures}
    ratios = {name: round(figures[name] / bound, 4) for name, bound in bounds.items()}
    if options.json:
        context = {"nodes": options.nodes, "week": source}
        print(json.dumps({**figures, **context, "limits": LIMITS, "targets": TARGETS, "ratios": ratios}, indent=2))
        return 0
    print(f"{options.nodes} nodes, a week of {source}")
    for name, value in figures.items():
        beside = f"   {ratios[name]:.3f} of {bounds[name]:g}" if name in ratios else ""
        print(f"{name:34}{value:>12.4g}{beside}" if isinstance(value, float | int) else f"{name:34}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
