"""Every published figure beside ours: what a user can check the cost model against, without trusting us.

    python benchmarks/validation.py [--published FILE] [--json]

FILE is a table of published figures with their conditions, source and tolerance (``validation.csv`` of the directory of
published measurements, TIDEFLEET_CATALOG_DIR). A row of kind ``test`` or ``relation`` is calculated here and judged by
its tolerance; a row of kind ``report`` is printed with the command that measures it.
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [_ROOT, f"{_ROOT}/operator", *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import json  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

from benchmarks import validation_deepseek, validation_engines, validation_melange  # noqa: E402
from benchmarks.validation_rows import PUBLISHED, Check, Row, read  # noqa: E402

CASES: dict[str, Callable[[Row], list[Check]]] = {
    **validation_deepseek.CASES,
    **validation_engines.CASES,
    **validation_melange.CASES,
}

MEASURED_BY = {
    "SIL": "benchmarks/economics.py",
    "SW": "benchmarks/economics.py",
    "EN": "benchmarks/economics_energy.py",
    "SLV": "benchmarks/planner.py",
}


class NoCalculation(LookupError):
    """A row asks for a figure that nothing here calculates."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A row with its checks; ``within`` is ``None`` for a row that is only reported."""

    row: Row
    checks: Sequence[Check]
    within: bool | None
    note: str = ""


def calculate(row: Row) -> list[Check]:
    """Our figures beside a row's.

    Raises:
        NoCalculation: no calculation exists for it.
    """
    if row["id"].startswith("TRT-"):
        return validation_engines.tensorrt(row)
    try:
        case = CASES[row["id"]]
    except KeyError:
        raise NoCalculation(f"{row['id']} ({row['published_figure']}) has no calculation") from None
    return case(row)


def judge(row: Row) -> Finding:
    """A row with our figures and whether each is within its tolerance."""
    if row["kind"] == "report":
        report = validation_engines.REPORTS.get(row["id"])
        note = f"measured by {MEASURED_BY[row['id'].partition('-')[0]]}"
        return Finding(row, report(row) if report else (), None, note)
    checks = calculate(row)
    return Finding(row, checks, all(check.within(row["tolerance"]) for check in checks))


def as_json(finding: Finding) -> dict[str, object]:
    """A finding as plain values."""
    row = finding.row
    return {
        "id": row["id"],
        "kind": row["kind"],
        "figure": row["published_figure"],
        "value": row["value"],
        "unit": row["unit"],
        "tolerance": row["tolerance"],
        "source": row["source"],
        "within": finding.within,
        "note": finding.note,
        "checks": [
            {
                "name": check.name,
                "published": check.published,
                "ours": check.ours,
                "ratio": check.ratio,
                "within": None if finding.within is None else check.within(row["tolerance"]),
            }
            for check in finding.checks
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every row; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--published", type=Path, default=PUBLISHED, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(arguments)
    if not asked.published.is_file():
        parser.error(f"{asked.published} does not exist; name a file with --published or set TIDEFLEET_CATALOG_DIR")
    findings = []
    for row in read(asked.published):
        try:
            findings.append(judge(row))
        except LookupError as error:
            findings.append(Finding(row, (), False, str(error)))
    if asked.json:
        print(json.dumps([as_json(one) for one in findings], indent=2))
        return
    for one in findings:
        row, mark = one.row, {True: "within", False: "MISSED", None: "report"}[one.within]
        figure = f"{row['published_figure']} = {row['value']} {row['unit']} ({row['tolerance']})"
        print(f"{row['id']:7} {mark:7} {figure} {one.note}")
        for check in one.checks:
            flag = " " if one.within is None or check.within(row["tolerance"]) else "!"
            print(
                f"      {flag} {check.name}: {check.published:g} published, {check.ours:.5g} ours, {check.ratio:.3g}x"
            )
    judged = [one for one in findings if one.within is not None]
    print(f"{sum(bool(one.within) for one in judged)} of {len(judged)} rows within their tolerance")


if __name__ == "__main__":
    main()
