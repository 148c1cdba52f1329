"""The cost model beside what ``device.py`` measured on real accelerators.

    python benchmarks/device_compare.py [FILE ...] [--json]

Without a file: all of benchmarks/measured/. The model is uncalibrated and knows nothing of these rows. The starting
values are those of engines, which add work of their own to every step (a layer's and a sequence's share, see
``tidefleet.economics.efficiency``): on bare kernels they should be somewhat long. Watts are modelled at the measured
time, so that they judge the law of power alone.

decode_ratio, prefill_ratio   modelled seconds over measured: median and range, by rows
watts_mape                    mean error of the card's power while it works
fetch                         seconds and joules of prefilling a prompt over those of fetching its KV from host memory
copies                        GB/s between host and device by the size of one copy
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import json  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import mean, median  # noqa: E402
from typing import Any  # noqa: E402

from tidefleet import catalogue  # noqa: E402
from tidefleet.economics.energy import replica_watts  # noqa: E402
from tidefleet.economics.replica import Replica  # noqa: E402
from tidefleet.economics.roofline import Timing, decode_step, prefill  # noqa: E402
from tidefleet.planning.from_api import accelerator_of  # noqa: E402

MEASURED = Path(_ROOT) / "benchmarks" / "measured"
_NAMES = {"NVIDIA H200": "h200-sxm", "NVIDIA H100 80GB HBM3": "h100-sxm"}
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Compared:
    """One measured row beside the model.

    Attributes:
        row: as measured; accelerator: catalogue name of the card.
        seconds: modelled; watts: modelled at the measured seconds.
    """

    row: Row
    accelerator: str
    seconds: float
    watts: float

    @property
    def ratio(self) -> float:
        """Modelled seconds over measured."""
        return self.seconds / self.row["seconds"]

    @property
    def watts_ratio(self) -> float:
        """Modelled watts over measured."""
        return self.watts / self.row["watts"]

    @property
    def shape(self) -> str:
        """What was measured, in words."""
        row = self.row
        if row["kind"] == "decode":
            return f"decode  {row['model']} {row['weights']} batch {row['batch']} at {row['context']}"
        return f"prefill {row['model']} {row['weights']} {row['uncached']} behind {row['cached']}"


def read(path: Path) -> tuple[str, list[Row]]:
    """Catalogue name of the card and the rows of one file.

    Raises:
        ValueError: the file names no card that ships in the catalogue.
    """
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = [row["name"] for row in rows if row["kind"] == "device"]
    if len(names) != 1 or names[0] not in _NAMES:
        raise ValueError(f"{path}: card is {names}; expected one of {', '.join(_NAMES)}")
    return _NAMES[names[0]], rows


def compare(path: Path) -> list[Compared]:
    """Every decode and prefill row of a file beside the model."""
    name, rows = read(path)
    card, models = accelerator_of(catalogue.accelerator_types()[name]), catalogue.models()
    found = []
    for row in rows:
        if row["kind"] not in {"decode", "prefill"}:
            continue
        replica = Replica(models[row["model"]], card, 1, row["weights"], "Bf16")
        if row["kind"] == "decode":
            step, tokens = decode_step(replica, float(row["batch"]), float(row["context"])), float(row["batch"])
        else:
            step, tokens = prefill(replica, float(row["uncached"]), float(row["cached"])), float(row["uncached"])
        found.append(Compared(row, name, float(step.seconds[0]), _watts(replica, step, tokens, row["seconds"])))
    return found


def _watts(replica: Replica, step: Timing, tokens: float, seconds: float) -> float:
    watts = replica_watts(
        replica,
        tokens=tokens,
        steps_per_second=1.0 / seconds,
        bytes_per_second=float(step.bytes_moved[0]) / seconds,
        flops_per_second=float(step.flops[0]) / seconds,
    )
    assert watts is not None  # noqa: S101
    return watts


def fetches(rows: Sequence[Row]) -> list[Row]:
    """Prefilling a whole prompt over fetching its KV from host memory, where both were measured."""
    found = []
    for fetch in (row for row in rows if row["kind"] == "fetch"):
        for row in rows:
            if (row["kind"], row.get("model"), row.get("uncached")) == ("prefill", fetch["model"], fetch["tokens"]):
                if row["cached"]:
                    continue
                found.append(
                    {
                        "model": row["model"],
                        "weights": row["weights"],
                        "tokens": fetch["tokens"],
                        "seconds_ratio": row["seconds"] / fetch["seconds"],
                        "joules_ratio": row["joules"] / fetch["joules"],
                    }
                )
    return found


def summary(path: Path) -> dict[str, Any]:
    """The figures of one file."""
    compared, (name, rows) = compare(path), read(path)
    found: dict[str, Any] = {"accelerator": name, "rows": len(compared)}
    for kind in ("decode", "prefill"):
        ratios = sorted(one.ratio for one in compared if one.row["kind"] == kind)
        found[f"{kind}_ratio"] = {"median": median(ratios), "least": ratios[0], "most": ratios[-1]}
    found["watts_mape"] = mean(abs(one.watts_ratio - 1.0) for one in compared)
    found["fetch"] = fetches(rows)
    found["copies"] = {
        f"{row['direction']} {row['bytes']}": row["gigabytes_per_second"] for row in rows if row["kind"] == "copy"
    }
    return found


def _print(path: Path, found: dict[str, Any]) -> None:
    print(f"\n{path.name}: {found['accelerator']}, {found['rows']} rows; modelled / measured")
    for one in compare(path):
        print(f"  {one.shape:52} {one.row['seconds'] * 1e3:10.2f} ms {one.ratio:5.2f}   "
              f"{one.row['watts']:5.0f} W {one.watts_ratio:5.2f}")  # fmt: skip
    for kind in ("decode", "prefill"):
        ratio = found[f"{kind}_ratio"]
        print(f"  {kind:8} median {ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})")
    print(f"  watts    mean error {found['watts_mape']:.3f}")
    for one in found["fetch"]:
        print(f"  prefill over fetch from host memory, {one['model']} {one['weights']} {one['tokens']} tokens: "
              f"{one['seconds_ratio']:.1f}x the time, {one['joules_ratio']:.0f}x the joules")  # fmt: skip
    for size, speed in found["copies"].items():
        print(f"  copies {size} bytes each: {speed:.1f} GB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    files = args.files or sorted(MEASURED.glob("*.jsonl"))
    found = {path.name: summary(path) for path in files}
    if args.json:
        print(json.dumps(found, indent=2))
        return
    for path in files:
        _print(path, found[path.name])


if __name__ == "__main__":
    main()
