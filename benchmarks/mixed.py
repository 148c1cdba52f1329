"""A week of real demand: mixed accelerator types against the best single type, with every objective held.

Each pool follows the shape of a real week (ten-minute bins, mean 1), times a mean rate. In every bin both sides get the
exact cheapest whole replicas for the demand: one side from all accelerator types, the other from the one type that
costs least over the whole week. Replicas follow demand at once on both sides, so what is compared is the choice of
types alone. A plan counts as holding its objectives when its replicas, each at the operating point that meets every
objective, sustain the demand at planning utilisation.

An image runs on one vendor's devices, so the comparison is made over all types and within one vendor.

usage: mixed.py [--traces DIR] [--scale F] [--spare N] [--vendor NAME ...] [--json]
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import csv  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from tidefleet import catalogue  # noqa: E402
from tidefleet.economics.presets import PRESETS  # noqa: E402
from tidefleet.planning.from_api import offer_of  # noqa: E402
from tidefleet.planning.options import (  # noqa: E402
    ANY_TYPE,
    PLANNING_UTILISATION,
    Allowed,
    Candidate,
    ClassDemand,
    EstimateMemo,
    Market,
    find_candidates,
)
from tidefleet.planning.problem import PoolProblem  # noqa: E402
from tidefleet.planning.solution import solve  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("TIDEFLEET_SHARED", ROOT.parent / "shared"))
BINS_PER_DAY = 144
RATE_STEP = 0.01
"""Rates are rounded up to steps of so large a share of the mean: bins of the same step share one plan."""


@dataclass(frozen=True, slots=True)
class Line:
    """One pool of the comparison: a model, a column of the trace, lengths and objectives, and its mean rate."""

    name: str
    model: str
    column: str
    preset: str
    requests_per_second: float


LINES = (
    Line("chat", "llama-3.3-70b", "chat_global", "chat", 12.0),
    Line("code", "qwen3-coder-30b-a3b", "code", "code", 20.0),
    Line("rag", "llama-3.1-8b", "rag", "rag", 15.0),
    Line("reasoning", "gpt-oss-120b", "reasoning", "reasoning", 1.0),
)


def shapes(traces: Path) -> dict[str, list[float]]:
    """The week's shape by column."""
    path = traces / "fleet_shape_7d_10min.csv"
    try:
        rows = list(csv.DictReader(path.open()))
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}; expected the ten-minute shapes of a week, e.g. --traces ../shared/traces")
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "t"}


def market_of(line: Line, vendor: str) -> tuple[ClassDemand, Market]:
    """What can serve a line: types of a vendor (all when empty) with an on-demand price, native and 8-bit weights."""
    preset, model = PRESETS[line.preset], catalogue.models()[line.model]
    demand = ClassDemand(line.name, 1.0, preset.shape, preset.objectives)
    offers = [
        offer_of(one, placeable=False)
        for one in catalogue.accelerator_types().values()
        if vendor in ("", str(one.spec.vendor))
    ]
    weights = tuple(
        dict.fromkeys((model.native_weights, "Fp8" if model.native_weights == "Bf16" else model.native_weights))
    )
    return demand, find_candidates(
        model,
        offers,
        [demand],
        {ANY_TYPE: Allowed(weights=weights)},
        default_weights=model.native_weights,
        default_kv="Bf16",
        memo=EstimateMemo(),
    )


@dataclass(slots=True)
class Costs:
    """A plan per rate, remembered."""

    demand: ClassDemand
    market: Market
    candidates: Sequence[Candidate]
    spare: int
    known: dict[float, tuple[float, bool]] = field(default_factory=dict)

    def at(self, rate: float) -> tuple[float, bool]:
        """USD per hour at a rate, and whether the objectives are held."""
        known = self.known.get(rate)
        if known is None:
            problem = PoolProblem(
                "week", (self.demand,), rate, Market(tuple(self.candidates), (), ()), maximum=10_000, spare=self.spare
            )
            found = solve(problem, self.candidates)
            carried = sum(
                n * one.requests_per_second * PLANNING_UTILISATION
                for n, one in zip(found.counts, self.candidates, strict=True)
            )
            known = self.known[rate] = (found.cost, found.shortfall == 0 and carried >= rate * (1 - 1e-9))
        return known


def compare(line: Line, shape: Sequence[float], *, scale: float, spare: int, vendor: str) -> dict[str, Any]:
    """A week of one pool, mixed and with the best single type."""
    demand, market = market_of(line, vendor)
    mean = line.requests_per_second * scale
    step = RATE_STEP * mean
    rates = [step * -(-(mean * each) // step) for each in shape]
    days = len(shape) / BINS_PER_DAY

    def week(candidates: Sequence[Candidate]) -> tuple[float, float]:
        costs = Costs(demand, market, candidates, spare)
        found = [costs.at(rate) for rate in rates]
        return sum(usd for usd, _ in found) / 6.0 / days, sum(held for _, held in found) / len(found)

    kinds = dict.fromkeys(one.option.accelerator for one in market.candidates)
    single = {name: week([one for one in market.candidates if one.option.accelerator == name]) for name in kinds}
    held = {name: usd for name, (usd, share) in single.items() if share == 1.0}
    best = min(held, key=lambda name: held[name])
    usd, share = week(market.candidates)
    return {
        "pool": line.name,
        "model": line.model,
        "best_single": best,
        "usd_per_day_single": held[best],
        "usd_per_day_mixed": usd,
        "saving_usd_per_day": held[best] - usd,
        "saving_ratio": 1.0 - usd / held[best],
        "objectives_held": share,
        "types": len(kinds),
    }


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=SHARED / "traces")
    parser.add_argument("--scale", type=float, default=1.0, help="times the mean rates")
    parser.add_argument("--spare", type=int, default=1)
    parser.add_argument("--vendor", action="append", help="compare within one vendor's types too; may be repeated")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.vendor = options.vendor or ["NVIDIA"]
    began = time.perf_counter()
    week = shapes(options.traces)
    answer: dict[str, Any] = {}
    for vendor in ("", *options.vendor):
        rows = []
        for line in LINES:
            print(f"{vendor or 'all vendors'}: {line.name} ...".ljust(40), end="\r", file=sys.stderr, flush=True)
            found = compare(line, week[line.column], scale=options.scale, spare=options.spare, vendor=vendor)
            rows.append(found)
        answer[vendor or "all"] = summed(rows)
    answer["seconds"] = time.perf_counter() - began
    print(" " * 40, end="\r", file=sys.stderr)
    if options.json:
        print(json.dumps(answer, indent=2))
        return
    for vendor in ("all", *options.vendor):
        show(vendor, answer[vendor])


def summed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The pools of one market and their sums."""
    total = {
        key: sum(row[key] for row in rows) for key in ("usd_per_day_single", "usd_per_day_mixed", "saving_usd_per_day")
    }
    return {
        "pools": list(rows),
        **total,
        "saving_ratio": total["saving_usd_per_day"] / total["usd_per_day_single"],
        "objectives_held": min(row["objectives_held"] for row in rows),
    }


def show(vendor: str, answer: Mapping[str, Any]) -> None:
    """One market as a table."""
    print(f"{vendor:10} {'best single':20} {'$/day alone':>12} {'$/day mixed':>12} {'saving':>8} {'held':>6}")
    for row in answer["pools"]:
        print(
            f"{row['pool']:10} {row['best_single']:20} {row['usd_per_day_single']:12,.0f} "
            f"{row['usd_per_day_mixed']:12,.0f} {row['saving_ratio']:8.1%} {row['objectives_held']:6.0%}"
        )
    print(f"together: ${answer['saving_usd_per_day']:,.0f} a day saved, {answer['saving_ratio']:.1%}\n")


if __name__ == "__main__":
    main()
