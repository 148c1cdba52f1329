"""Measures how near the roofline, the roofline times a scalar and aiconfigurator-core are to each group of public runs.

    python benchmarks/economics_groups.py            prints the table
    python benchmarks/economics_groups.py --write    writes operator/tidefleet/economics/group_table.py
    python benchmarks/economics_groups.py --check    fails where that file says something else

The runs are those of ``silicon.py`` that state their precision, have one rank of attention and do not speculate, less
the nine whose concurrency is inferred (``silicon.misstates_concurrency``). Groups of fewer than ten runs are left out,
and so are those whose runs neither the roofline nor a scalar brings within the error that the roofline has in general:
they contradict each other (vLLM's of llama-3.1-8b on H200 imply about 90 % of peak FLOP/s at once with
the shortest waits). A scalar's error is that on the 70 % of a group's runs that it was not taken from, the mean of 20
draws with fixed seeds. aiconfigurator-core is asked as ``tidefleet`` asks it: factors on the roofline at one context
length.
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import importlib.util  # noqa: E402
import math  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from dataclasses import fields, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from types import ModuleType  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from tidefleet.catalogue.aiconfigurator import kernel_tables, why_not  # noqa: E402
from tidefleet.economics.calibration import Sample, calibrate  # noqa: E402
from tidefleet.economics.group_table import GROUPS  # noqa: E402
from tidefleet.economics.groups import Group, Other, family_of  # noqa: E402
from tidefleet.economics.roofline import decode_step, prefill  # noqa: E402

Floats = NDArray[np.float64]

TABLE = Path(_ROOT) / "operator" / "tidefleet" / "economics" / "group_table.py"
LEAST_RUNS = 10
DRAWS = 20
FIT_SHARE = 0.3
SIGMA_OF_MEAN = math.sqrt(math.pi / 2.0)
"""Standard deviation of a normal error over its mean absolute value."""

_TOLERANCE = 0.0015
"""How far a figure of the table may be off: its last digit."""


def silicon() -> ModuleType:
    """The neighbour that reads the runs."""
    if "silicon" in sys.modules:
        return sys.modules["silicon"]
    spec = importlib.util.spec_from_file_location("silicon", Path(_ROOT) / "benchmarks" / "silicon.py")
    if spec is None or spec.loader is None:
        raise ImportError("benchmarks/silicon.py is missing; expected it beside economics_groups.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["silicon"] = module
    spec.loader.exec_module(module)
    return module


def sigma(modelled: Floats, measured: Floats) -> float:
    """Relative one-sigma error: ``SIGMA_OF_MEAN`` times the mean absolute log ratio."""
    return float(SIGMA_OF_MEAN * np.abs(np.log(modelled / measured)).mean())


def left_out_sigma(modelled: Floats, measured: Floats) -> float:
    """Sigma of roofline times scalar on runs that the scalar was not taken from."""
    count = len(measured)
    known = max(2, round(FIT_SHARE * count))
    found = []
    for seed in range(DRAWS):
        order = np.random.default_rng(seed).permutation(count)
        factor = scalar_of(modelled[order[:known]], measured[order[:known]])
        found.append(sigma(factor * modelled[order[known:]], measured[order[known:]]))
    return float(np.mean(found))


def scalar_of(modelled: Floats, measured: Floats) -> float:
    """The group's scalar by these runs."""
    return calibrate(Sample(float(m), float(t)) for m, t in zip(measured, modelled, strict=True)).factor


def others_times(group: Group, runs: Sequence[Any], other: Other) -> Floats:
    """Seconds between tokens of each run by the other model; NaN where it has nothing to say."""
    found = np.full(len(runs), np.nan)
    for index, run in enumerate(runs):
        replica = run.replica
        said = other(group, replica)
        if said is None:
            continue
        batch = np.array([run.concurrency])
        step = decode_step(replica, batch, run.input_tokens + run.output_tokens / 2.0).seconds
        step = step * said.decode_factor(batch / replica.data_parallel)
        own = prefill(replica, run.input_tokens, 0.0).seconds * said.prefill_factor
        found[index] = (step + np.maximum(0.0, batch / replica.data_parallel - 1.0) / run.output_tokens * own)[0]
    return found


def read_groups(other: Other | None, only: str = "") -> list[Group]:
    """The table's rows by the installed sample.

    Args:
        other: aiconfigurator-core's times; ``None`` leaves its columns empty.
        only: ``model accelerator engine`` of the one group to ask it for; empty = all.
    """
    module = silicon()
    runs = [
        run
        for run in module.read_runs()
        if run.states_precision
        and run.replica.data_parallel == 1
        and run.replica.speculation is None
        and not module.misstates_concurrency(run)
    ]
    modelled, measured = module.predict(runs).tpot, np.array([run.tpot_seconds for run in runs])
    oldest = min(run.measured_on for run in runs if run.measured_on)
    rows: dict[tuple[str, str, str, str], list[int]] = {}
    for index, run in enumerate(runs):
        one = run.replica
        rows.setdefault((one.model.name, one.accelerator.name, one.engine, one.weights), []).append(index)
    found = []
    for (model, accelerator, engine, weights), members in sorted(rows.items()):
        if len(members) < LEAST_RUNS:
            continue
        of_group = [runs[i] for i in members]
        ours, truth = modelled[members], measured[members]
        factor = scalar_of(ours, truth)
        group = Group(
            model=model,
            family=family_of(of_group[0].replica.model),
            accelerator=accelerator,
            engine=engine,
            weights=weights,
            chips=tuple(sorted({run.replica.chips for run in of_group})),
            runs=len(members),
            factor=round(factor, 3),
            roofline=round(sigma(ours, truth), 3),
            scalar=round(left_out_sigma(ours, truth), 3),
            measured_on=max((run.measured_on for run in of_group if run.measured_on), default=oldest),
            versions=tuple(sorted({run.version for run in of_group if run.version})),
        )
        if min(group.roofline, group.scalar) > of_group[0].replica.starting.sigma:
            continue
        if other is not None and only in ("", f"{model} {accelerator} {engine}"):
            group = _with_other(group, of_group, ours, truth, other)
        found.append(group)
    return found


def _with_other(group: Group, runs: Sequence[Any], ours: Floats, truth: Floats, other: Other) -> Group:
    theirs = others_times(group, runs, other)
    told = np.isfinite(theirs)
    if told.sum() < LEAST_RUNS:
        return group
    beside = min(sigma(ours[told], truth[told]), left_out_sigma(ours[told], truth[told]))
    return replace(group, other=round(sigma(theirs[told], truth[told]), 3), beside=round(beside, 3))


def differences(found: Sequence[Group], table: Sequence[Group]) -> list[str]:
    """What a table says differently from what was found, a line each; columns that were not measured are left out."""
    names = {_name(one): one for one in table}
    told = [f"{_name(one)} is missing" for one in found if _name(one) not in names]
    told += [f"{name} has no runs" for name in names.keys() - {_name(one) for one in found}]
    for one in found:
        known = names.get(_name(one))
        if known is None:
            continue
        for column in (each.name for each in fields(Group)):
            is_value, was_value = getattr(one, column), getattr(known, column)
            if column in ("other", "beside") and one.other is None:
                continue
            numbers = isinstance(is_value, float) and isinstance(was_value, float)
            if abs(is_value - was_value) > _TOLERANCE if numbers else is_value != was_value:
                told.append(f"{_name(one)}: {column} is {is_value}, the table says {was_value}")
    return told


def _name(group: Group) -> str:
    return f"{group.model} {group.accelerator} {group.engine} {group.weights}"


def source_of(groups: Sequence[Group]) -> str:
    """The module of the table."""
    rows = "".join(f"    {one!r},\n" for one in groups).replace("datetime.date(", "date(")
    return (
        '"""Errors of each model of the time by group of public runs, made by benchmarks/economics_groups.py.\n\n'
        "The runs are those of silicon_sample.csv in aiconfigurator-core 0.12.0 (Apache-2.0, NVIDIA).\n"
        'Do not edit: run the benchmark with --write.\n"""\n\n'
        "from datetime import date\n\n"
        "from tidefleet.economics.groups import Group\n\n"
        f"GROUPS: tuple[Group, ...] = (\n{rows})\n"
    )


def main() -> None:
    """Print, write or check the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table of the product")
    parser.add_argument("--check", action="store_true", help="fail where the product's table differs")
    asked = parser.parse_args()
    if why := why_not():
        raise SystemExit(why)
    found = read_groups(kernel_tables())
    for one in found:
        other = "" if one.other is None else f"aiconfigurator {one.other:.3f} beside {one.beside:.3f}"
        print(
            f"{_name(one):44} {one.runs:4} runs, factor {one.factor:.2f}, roofline {one.roofline:.3f}, "
            f"scalar {one.scalar:.3f} {other}"
        )
    if asked.write:
        TABLE.write_text(source_of(found))
    if asked.check and (told := differences(found, GROUPS)):
        raise SystemExit("\n".join(told))


if __name__ == "__main__":
    main()
