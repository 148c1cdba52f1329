"""How well the cost model tells measured times: between tokens, to the first token, and which accelerator is faster.

    python benchmarks/economics.py [--seed N] [--left-out] [--energy FILE] [--json]

The runs are those of ``silicon.py``: 1,754 for the time between tokens (TPOT), 2,095 for the time to first token.

mape_uncalibrated         TPOT with the starting values; ``_dense`` and ``_moe`` the two kinds of models apart.
mape_calibrated_mean      the same with one scalar per (model, accelerator, engine, precision), from 30 % of a group's
mape_calibrated_median    runs drawn by --seed, judged on the rest: mean and median.
mape_calibrated_by_version_mean  with one scalar per group, version of the engine and whether it speculates.
mape_calibrated_floor     the least that one scalar per group can reach: each group's best with all its runs known,
                          judged on these; ``mape_calibrated_floor_by_version`` with the groups of the line above.
mape_other_width          one scalar from all runs of a group and version at one width, judged on its other widths: what
                          a profile is worth for widths that nobody measured; ``_uncalibrated`` without the scalar.
pairs_ordered_ratio       of pairs of accelerators that ran the same model, precision, lengths, width, concurrency and
                          engine, those whose mean TPOT the model orders as measured.
estimate_us               microseconds of one estimate (decode step and prefill), many batches priced in one call.
mape_model_left_out       with --left-out: the starting values are fitted anew without the runs of each model, and
mape_system_left_out      without those of each accelerator, from the same guesses; judged on the runs left out;
                          ``mape_calibrated_model_left_out`` and ``.._system_..`` with one scalar per group besides.
ttft_mape, ttft_ratio     time to first token with its queue: mean error, and median of modelled over measured;
                          ``ttft_bare_ratio`` is the same of a lone prefill.

Nine runs (gpt-oss-120b on H100 with vLLM) state 512 requests where 4 to 64 ran at a time; how many is inferred from
their times to first token (``silicon.as_ran``). What else rows leave unsaid or misstate is read from the recipes that
made them (``silicon_recipes.py``). The figures above are of all runs so. Three keys tell the same of what rows state,
recipes asked only where no row says anything (KV precision, speculation by image): ``mape_uncalibrated_as_stated``,
``mape_calibrated_mean_as_stated`` and ``mape_calibrated_floor_as_stated``. Without the nine, so without inference from
any measured time: ``without_split_times`` is mape_uncalibrated, ``calibrated_without_split_times`` mape_calibrated_mean
and ``calibrated_floor_without_split_times`` mape_calibrated_floor.
--energy FILE also prints what ``economics_energy.py`` measures on that file; nothing is fitted on it.
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from itertools import combinations  # noqa: E402
from pathlib import Path  # noqa: E402
from types import ModuleType  # noqa: E402

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

Floats = NDArray[np.float64]
_FIT_SHARE = 0.3


def has_neighbour(name: str) -> bool:
    """Whether this folder has a module of this name."""
    return (Path(_ROOT) / "benchmarks" / f"{name}.py").exists()


def neighbour(name: str) -> ModuleType:
    """Another module of this folder.

    Raises:
        ImportError: there is none of this name.
    """
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, Path(_ROOT) / "benchmarks" / f"{name}.py")
    if spec is None or spec.loader is None or not has_neighbour(name):
        raise ImportError(f"benchmarks/{name}.py is missing; expected it beside economics.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def relative_error(modelled: Floats, measured: Floats) -> Floats:
    """|modelled / measured - 1|."""
    return np.abs(modelled / measured - 1.0)


def calibrated_error(groups: Sequence[tuple[str, ...]], modelled: Floats, measured: Floats, seed: int) -> Floats:
    """Errors of the runs that no scalar saw, each group with the scalar of ``_FIT_SHARE`` of its runs."""
    from tidefleet.economics.calibration import Sample, calibrate  # noqa: PLC0415

    rng = np.random.default_rng(seed)
    members: dict[tuple[str, ...], list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    errors: list[Floats] = []
    for rows in members.values():
        drawn = rng.permutation(rows)
        fitted = max(1, round(_FIT_SHARE * len(rows)))
        seen, judged = drawn[:fitted], drawn[fitted:]
        scalar = calibrate(Sample(float(measured[i]), float(modelled[i])) for i in seen)
        errors.append(relative_error(scalar.factor * modelled[judged], measured[judged]))
    return np.concatenate(errors)


def other_width_errors(
    groups: Sequence[tuple[str, ...]], widths: Sequence[int], modelled: Floats, measured: Floats
) -> tuple[Floats, Floats]:
    """Errors of runs with the scalar of another width of their group, and without a scalar."""
    from tidefleet.economics.calibration import Sample, calibrate  # noqa: PLC0415

    members: dict[tuple[str, ...], dict[int, list[int]]] = {}
    for index, (group, width) in enumerate(zip(groups, widths, strict=True)):
        members.setdefault(group, {}).setdefault(width, []).append(index)
    scaled: list[Floats] = []
    plain: list[Floats] = []
    for by_width in members.values():
        for width, seen in by_width.items():
            judged = [index for other, rows in by_width.items() if other != width for index in rows]
            if not judged:
                continue
            factor = calibrate(Sample(float(measured[i]), float(modelled[i])) for i in seen).factor
            scaled.append(relative_error(factor * modelled[judged], measured[judged]))
            plain.append(relative_error(modelled[judged], measured[judged]))
    return np.concatenate(scaled), np.concatenate(plain)


def floor_error(groups: Sequence[tuple[str, ...]], modelled: Floats, measured: Floats) -> float:
    """The least mean error that one scalar per group can reach, with every run known.

    The mean of |c * r_i - 1| over a group, r modelled over measured, is least at the median of 1/r weighted with r.
    """
    members: dict[tuple[str, ...], list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    total = 0.0
    for rows in members.values():
        ratios = np.sort(modelled[rows] / measured[rows])[::-1]
        weight = np.cumsum(ratios)
        best = 1.0 / ratios[np.searchsorted(weight, weight[-1] / 2.0)]
        total += float(relative_error(best * ratios, np.ones_like(ratios)).sum())
    return total / len(groups)


def ordered_pairs(
    cases: Sequence[tuple[object, ...]], accelerators: Sequence[str], modelled: Floats, measured: Floats
) -> tuple[int, int]:
    """Pairs of accelerators that ran the same case, and how many of them the model orders as measured."""
    by_case: dict[tuple[object, ...], dict[str, list[int]]] = {}
    for index, (case, accelerator) in enumerate(zip(cases, accelerators, strict=True)):
        by_case.setdefault(case, {}).setdefault(accelerator, []).append(index)
    pairs = right = 0
    for ran in by_case.values():
        for one, other in combinations(ran.values(), 2):
            real = float(measured[one].mean() - measured[other].mean())
            guess = float(modelled[one].mean() - modelled[other].mean())
            pairs, right = pairs + 1, right + (real * guess > 0)
    return pairs, right


def estimate_microseconds(repeats: int = 20) -> float:
    """Microseconds of one estimate when a call prices 256 batch sizes."""
    silicon = neighbour("silicon")
    replicas = list({run.replica for run in silicon.read_runs()})[:8]
    from tidefleet.economics.roofline import decode_step, prefill  # noqa: PLC0415

    batches = np.geomspace(1.0, 2048.0, 256)
    begun = time.perf_counter()
    for _ in range(repeats):
        for replica in replicas:
            decode_step(replica, batches, 2000.0)
            prefill(replica, batches, 0.0)
    return (time.perf_counter() - begun) * 1e6 / (repeats * len(replicas) * len(batches))


def measure(seed: int = 0, *, left_out: bool = False) -> dict[str, float]:
    """Every figure that the module's description names."""
    silicon = neighbour("silicon")
    every = silicon.read_runs()
    runs = [run for run in every if run.states_precision]
    measured = np.array([run.tpot_seconds for run in runs])
    moe = np.array([run.replica.model.is_moe for run in runs])
    modelled = silicon.predict(runs).tpot
    error = relative_error(modelled, measured)
    calibrated = calibrated_error([run.group for run in runs], modelled, measured, seed)
    builds = [(*run.group, run.version, str(run.replica.speculation is not None)) for run in runs]
    by_version = calibrated_error(builds, modelled, measured, seed)
    widths = [run.replica.tp for run in runs]
    elsewhere, plain = other_width_errors([(*run.group, run.version) for run in runs], widths, modelled, measured)
    cases = [
        (run.group[0], *run.group[2:], run.input_tokens, run.output_tokens, run.replica.chips, run.concurrency)
        for run in runs
    ]
    pairs, right = ordered_pairs(cases, [run.group[1] for run in runs], modelled, measured)
    split = np.array([silicon.misstates_concurrency(run) for run in runs])
    stated = silicon.predict([run for run in silicon.read_runs(as_stated=True) if run.states_precision]).tpot
    whole = [run.group for run, apart in zip(runs, split, strict=True) if not apart]
    found = {
        "tpot_runs": float(len(runs)),
        "mape_uncalibrated": float(error.mean()),
        "mape_uncalibrated_median": float(np.median(error)),
        "mape_uncalibrated_dense": float(error[~moe].mean()),
        "mape_uncalibrated_moe": float(error[moe].mean()),
        "without_split_times": float(error[~split].mean()),
        "mape_calibrated_mean": float(calibrated.mean()),
        "mape_calibrated_median": float(np.median(calibrated)),
        "mape_calibrated_by_version_mean": float(by_version.mean()),
        "mape_calibrated_by_version_median": float(np.median(by_version)),
        "mape_calibrated_floor": floor_error([run.group for run in runs], modelled, measured),
        "mape_calibrated_floor_by_version": floor_error(builds, modelled, measured),
        "calibrated_without_split_times": float(
            calibrated_error(whole, modelled[~split], measured[~split], seed).mean()
        ),
        "calibrated_floor_without_split_times": floor_error(whole, modelled[~split], measured[~split]),
        "mape_uncalibrated_as_stated": float(relative_error(stated, measured).mean()),
        "mape_calibrated_mean_as_stated": float(
            calibrated_error([run.group for run in runs], stated, measured, seed).mean()
        ),
        "mape_calibrated_floor_as_stated": floor_error([run.group for run in runs], stated, measured),
        "mape_other_width": float(elsewhere.mean()),
        "mape_other_width_uncalibrated": float(plain.mean()),
        "calibrated_runs": float(len(calibrated)),
        "pairs": float(pairs),
        "pairs_ordered_ratio": right / pairs,
        "estimate_us": estimate_microseconds(),
    }
    first = [run for run in every if run.states_parallelism]
    waited = np.array([run.ttft_seconds for run in first])
    guess = silicon.predict(first)
    found |= {
        "ttft_runs": float(len(first)),
        "ttft_mape": float(relative_error(guess.ttft, waited).mean()),
        "ttft_mape_median": float(np.median(relative_error(guess.ttft, waited))),
        "ttft_ratio": float(np.median(guess.ttft / waited)),
        "ttft_bare_ratio": float(np.median(guess.prefill / waited)),
    }
    if left_out:
        fitting = neighbour("economics_fit")
        kinds: tuple[tuple[str, Callable[[tuple[str, ...]], str]], ...] = (
            ("model", lambda group: group[0]),
            ("system", lambda group: group[1]),
        )
        for name, of in kinds:
            apart = fitting.modelled_left_out(runs, lambda run, of=of: of(run.group))
            errors = relative_error(apart, measured)
            found[f"mape_{name}_left_out"] = float(errors.mean())
            found[f"mape_{name}_left_out_dense"] = float(errors[~moe].mean())
            found[f"mape_{name}_left_out_moe"] = float(errors[moe].mean())
            scaled = calibrated_error([run.group for run in runs], apart, measured, seed)
            found[f"mape_calibrated_{name}_left_out"] = float(scaled.mean())
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the draw of runs that scalars are fitted to")
    parser.add_argument("--left-out", action="store_true", help="fit without whole models and accelerators (minutes)")
    parser.add_argument("--energy", type=Path, help="measured runs with power, as a test set only")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args(arguments)
    energy: dict[str, float] = {}
    if has_neighbour("economics_energy"):
        runs = neighbour("economics_energy")
        file = asked.energy or runs.MEASURED
        if asked.energy and not asked.energy.is_file():
            parser.error(f"--energy: {asked.energy} does not exist")
        if file.is_file():
            try:
                energy = runs.measure(file)
            except runs.UnusableRuns as error:
                parser.exit(2, f"economics.py: {file}: {error}\n")
    elif asked.energy:
        parser.error("--energy needs economics_energy.py beside this file")
    found: dict[str, float] = measure(asked.seed, left_out=asked.left_out) | energy
    if asked.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name:32} {value:.4g}")


if __name__ == "__main__":
    main()
