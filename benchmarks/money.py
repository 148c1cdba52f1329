"""How long `tidefleet money` takes, from the command line to its JSON, beside the limit.

    python benchmarks/money.py [--months 36] [--types 20] [--scenarios 50] [--pools 1] [--runs 3] [--json]

The book has so many accelerator types of the catalogue, each to be rented, committed to for one and two years, and
bought; scenarios are sampled. Every chip's speed comes from the cost model. Told are the seconds of each run (a process
of its own, imports included), the slowest beside the limit, the processor's seconds (on a machine that has other work
too, those say more), and the worth that was found, so that runs can be compared.
"""

# This file has the name of no standard module, but its folder holds one that has: it must leave the path first.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from tidefleet import catalogue  # noqa: E402

LIMIT_SECONDS = 10.0
MODELS = ("gpt-oss-120b", "llama-3.1-8b", "qwen3-32b")


def book(types: int, scenarios: int, pools: int) -> dict[str, Any]:
    """A book of this size; what types cost is made up from their memory, so that no type beats all others."""
    kinds = [one for one in catalogue.accelerator_manifests() if one["spec"].get("computeFlops")]
    if types > len(kinds):
        raise SystemExit(f"--types is {types}; expected at most the catalogue's {len(kinds)}")
    accelerators = []
    for index, kind in enumerate(kinds[:types]):
        rent = 0.4 + int(kind["spec"]["memoryBytes"]) / 1e9 * 0.02 * (1 + index % 3 / 10)
        accelerators.append(
            {
                "name": kind["metadata"]["name"],
                "rent": {"usdPerChipHour": rent},
                "reserve": [
                    {"minimumTermDays": 365, "usdPerChipHour": rent * 0.75},
                    {"minimumTermDays": 730, "usdPerChipHour": rent * 0.65},
                ],
                "buy": {"usdPerChip": rent * 9000, "leadMonths": index % 5, "runningUsdPerChipMonth": rent * 70},
                "successor": {"month": 6 + index % 20},
            }
        )
    names = [f"pool-{index + 1}" for index in range(pools)]
    return {
        "name": "benchmark",
        "accelerators": accelerators,
        "pools": [
            {
                "name": name,
                "model": MODELS[index % len(MODELS)],
                "growthPerMonth": 0.03,
                "external": [{"provider": "api", "usdPerMillionInputTokens": 1, "usdPerMillionOutputTokens": 3}],
            }
            for index, name in enumerate(names)
        ],
        "classes": [
            {
                "name": f"class-{index + 1}",
                "pool": name,
                "users": 20_000,
                "tokensPerUserMonth": 40_000_000,
                "revenue": {"seat": {"usdPerMonth": 20}},
            }
            for index, name in enumerate(names)
        ],
        "sampled": {"scenarios": scenarios, "volatilityPerYear": 0.4},
    }


def run(path: Path, months: int) -> tuple[float, float, dict[str, Any]]:
    """Seconds of one run, the processor's seconds, and its answer."""
    command = [sys.executable, "-m", "tidefleet", "money", "-f", str(path), "--horizon", f"{months}m", "-o", "json"]
    began, before = time.perf_counter(), _processor_seconds()
    environment = {**os.environ, "PYTHONPATH": f"{_ROOT}/operator"}
    result = subprocess.run(command, capture_output=True, check=False, env=environment)
    seconds = time.perf_counter() - began
    if result.returncode:
        raise SystemExit(result.stderr.decode(errors="replace"))
    return seconds, _processor_seconds() - before, json.loads(result.stdout)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--months", type=int, default=36)
    parser.add_argument("--types", type=int, default=20)
    parser.add_argument("--scenarios", type=int, default=50)
    parser.add_argument("--pools", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "book.json"
        path.write_text(json.dumps(book(options.types, options.scenarios, options.pools)))
        measured = [run(path, options.months) for _ in range(options.runs)]
    seconds = [one for one, _, _ in measured]
    processor = max(one for _, one, _ in measured)
    answer = measured[0][2]
    told = {
        "months": options.months,
        "types": options.types,
        "scenarios": len(answer["scenarios"]),
        "pools": options.pools,
        "seconds": seconds,
        "slowest_seconds": max(seconds),
        "limit_seconds": LIMIT_SECONDS,
        "processor_seconds": processor,
        "npv_usd": answer["npv_usd"],
        "types_that_cannot_serve": len(answer["notes"]),
    }
    if options.json:
        print(json.dumps(told, indent=2))
        return
    size = f"{options.months} months x {options.types} types x {told['scenarios']} scenarios, {options.pools} pool(s)"
    print(f"{size}: {', '.join(f'{one:.2f}' for one in seconds)} s")
    print(f"slowest {max(seconds):.2f} s, limit {LIMIT_SECONDS:g} s; the processor's at most {processor:.2f} s")
    print(f"net present value {answer['npv_usd']:,.0f} USD")
    for note in answer["notes"]:
        print(f"  {note}")


if __name__ == "__main__":
    main()
