"""Fits the few numbers behind the starting values to measured times between tokens.

    python benchmarks/economics_fit.py        prints the values that the runs of silicon.py give

One value for all models and hardware, but for: compute efficiency by precision, a step's fixed time by engine, what an
older release of each engine takes longer with experts, what
Blackwell reaches of its bandwidth and of its FP8 peak and its layers' fixed times, all relative to Hopper's, and the
bandwidth that dense layers in 4 bits reach. The runs are those that state their precision, less the nine whose
concurrency is inferred with the model itself. The fit starts from round
guesses and is held to them: a number that few runs speak for stays near its guess (the square of its logarithmic
distance from there counts like the error of one run). The loss is the relative error, nearly linear, and logarithmic
beyond 100 %.

Whole groups of runs (one model, accelerator, engine and precision) are faster or slower than the others for
reasons that no number here has. So that no number bends to them, the fit is repeated twice on times divided by their
group's scalar (``calibrate``, shrunk towards 1): what is left is how times depend on batch, lengths and width.
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", *(one for one in sys.path if one != _HERE)]

import importlib.util  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from types import ModuleType  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from tidefleet.economics.calibration import Sample, calibrate  # noqa: E402
from tidefleet.economics.efficiency import Efficiency, generation_of, slower  # noqa: E402
from tidefleet.economics.releases import is_older  # noqa: E402
from tidefleet.economics.replica import Replica  # noqa: E402

Floats = NDArray[np.float64]

GUESSES: Mapping[str, tuple[float, float, float]] = {
    # name: guess, least, most. The least of attention_memory and attention_compute and the most of expert_compute_Bf16
    # and _Fp8 keep figures in their tolerance that no run of the sample speaks for: DeepSeek's decode pool at 4,989
    # tokens of KV (open-infra-index, day 6), gpt-oss-120b, DeepSeek-R1 and Qwen3-235B on H200 (TensorRT-LLM,
    # perf-overview.md).
    "memory": (0.90, 0.3, 0.95),
    "expert_memory": (0.90, 0.3, 0.95),
    "attention_memory": (0.85, 0.78, 0.95),
    "blackwell_memory": (0.90, 0.5, 0.99),
    "blackwell_layers": (1.0, 0.2, 3.0),
    "blackwell_compute_Fp8": (1.0, 0.2, 2.0),
    "blackwell_expert_compute_Fp8": (1.0, 0.2, 3.0),
    "four_bit_memory": (1.0, 0.3, 1.2),
    "compute_Bf16": (0.65, 0.1, 0.75),
    "compute_Fp8": (0.50, 0.1, 0.75),
    "compute_Fp4": (0.35, 0.05, 0.70),
    "expert_compute_Bf16": (0.20, 0.02, 0.225),
    "expert_compute_Fp8": (0.12, 0.02, 0.151),
    "expert_compute_Fp4": (0.15, 0.02, 0.70),
    "attention_compute": (0.69, 0.68, 0.70),
    "layer_seconds": (40e-6, 5e-6, 200e-6),
    "moe_layer_seconds": (20e-6, 1e-6, 200e-6),
    "latent_layer_seconds": (20e-6, 1e-6, 200e-6),
    "step_seconds_vllm": (4e-4, 2e-5, 8e-3),
    "step_seconds_sglang": (2e-3, 2e-5, 8e-3),
    "step_seconds_trtllm": (1e-4, 2e-5, 8e-3),
    "hop_seconds": (3e-6, 0.5e-6, 30e-6),
    "bulk_seconds": (50e-6, 2e-6, 500e-6),
    "expert_padding": (12.0, 0.01, 64.0),
    "older_vllm": (1.1, 0.8, 2.0),
    "older_sglang": (1.1, 0.8, 2.0),
    "older_trtllm": (1.1, 0.8, 2.0),
    "verify_seconds_vllm": (30e-6, 1e-6, 1e-3),
    "verify_seconds_sglang": (30e-6, 1e-6, 1e-3),
    "verify_seconds_trtllm": (30e-6, 1e-6, 1e-3),
}
_SEQUENCE_SECONDS = 8e-6
_IMBALANCE = 1.1
_NETWORK = 0.80
"""Assumed: the runs cannot tell it apart from the other costs of an all-reduce (0.70 and 0.85 fit them as well)."""

_NEARLY_LINEAR = (0.05, 0.02)
"""Errors below which the loss bends to a square: coarse first, so that the fit does not settle on one run's kink."""

_LEVELLED = 2
"""Fits after the first, on times without their group's level."""

_STEPS = 40
_NUDGE = 1e-3


def efficiency_with(numbers: Mapping[str, float], replica: Replica) -> Efficiency:
    """The efficiency of a replica with these numbers."""
    blackwell = generation_of(replica.accelerator.name) == "Blackwell"
    wide, launch = (numbers["blackwell_memory"], numbers["blackwell_layers"]) if blackwell else (1.0, 1.0)
    dense, expert = (
        numbers[f"{name}_{precision}"] * (numbers.get(f"blackwell_{name}_{precision}", 1.0) if blackwell else 1.0)
        for name, precision in (("compute", replica.dense_precision), ("expert_compute", replica.precision))
    )
    recent = Efficiency(
        compute=dense,
        memory=numbers["memory"] * wide * (numbers["four_bit_memory"] if replica.dense_precision == "Fp4" else 1.0),
        network=_NETWORK,
        layer_seconds=numbers["layer_seconds"] * launch,
        hop_seconds=numbers["hop_seconds"],
        imbalance=_IMBALANCE,
        expert_compute=expert,
        expert_memory=numbers["expert_memory"] * wide,
        attention_compute=numbers["attention_compute"],
        attention_memory=numbers["attention_memory"] * wide,
        expert_padding=numbers["expert_padding"],
        moe_layer_seconds=numbers["moe_layer_seconds"] * launch,
        latent_layer_seconds=numbers["latent_layer_seconds"] * launch,
        step_seconds=numbers[f"step_seconds_{replica.engine}"],
        sequence_seconds=_SEQUENCE_SECONDS,
        bulk_seconds=numbers["bulk_seconds"],
        verify_seconds=numbers[f"verify_seconds_{replica.engine}"],
    )
    if not (replica.model.is_moe and is_older(replica.engine, replica.engine_version)):
        return recent
    factor = numbers[f"older_{replica.engine}"]
    return slower(recent, 1.0 / factor, factor)


def fit(runs: Sequence[Any], silicon: ModuleType) -> dict[str, float]:
    """The numbers that tell how these runs' times depend on batch, lengths and width, groups' own levels apart.

    Args:
        runs: of ``silicon.read_runs``; silicon: that module.
    """
    runs = [run for run in runs if not silicon.misstates_concurrency(run)]
    measured = np.array([run.tpot_seconds for run in runs])
    together = silicon.loads(runs)
    members: dict[tuple[str, ...], list[int]] = {}
    for index, run in enumerate(runs):
        members.setdefault(run.group, []).append(index)
    numbers = _least_loss(measured, together, silicon)
    for _ in range(_LEVELLED):
        modelled = _modelled(numbers, len(runs), together, silicon)
        level = np.ones(len(runs))
        for rows in members.values():
            level[rows] = calibrate(Sample(float(measured[i]), float(modelled[i])) for i in rows).factor
        numbers = _least_loss(measured / level, together, silicon)
    return numbers


def _modelled(numbers: Mapping[str, float], count: int, together: Sequence[Any], silicon: ModuleType) -> Floats:
    """Seconds between tokens of every run with these numbers."""
    found = np.zeros(count)
    for load in together:
        found[load.rows] = silicon.between_tokens(load, efficiency_with(numbers, load.replica))[0]
    return found


def _least_loss(measured: Floats, together: Sequence[Any], silicon: ModuleType) -> dict[str, float]:
    """The numbers of least loss on these times: reweighted, damped least squares in their logarithms.

    Args:
        measured: seconds between tokens of every run; together: its runs, of ``silicon.loads``; silicon: that module.
    """
    names = list(GUESSES)
    guess, least, most = (np.log([GUESSES[name][k] for name in names]) for k in range(3))

    def errors(x: Floats) -> Floats:
        numbers = dict(zip(names, np.exp(x), strict=True))
        return _modelled(numbers, len(measured), together, silicon) / measured - 1.0

    def loss(error: Floats, x: Floats, bend: float) -> float:
        size = np.abs(error)
        size = np.where(size > 1.0, 1.0 + np.log(np.maximum(size, 1.0)), size)
        return float(np.sqrt(size**2 + bend**2).sum() + ((x - guess) ** 2).sum())

    def slopes(x: Floats, error: Floats) -> Floats:
        nudges = np.where(x + _NUDGE <= most, _NUDGE, -_NUDGE)
        return np.column_stack([(errors(x + d) - error) / d.sum() for d in np.diag(nudges)])

    x = guess.copy()
    error = errors(x)
    for bend in _NEARLY_LINEAR:
        now, damping = loss(error, x, bend), 1e-3
        for _ in range(_STEPS):
            slope, size = slopes(x, error), np.abs(error)
            weights = np.where(size > 1.0, 1.0 / np.maximum(size, 1.0) ** 2, 1.0 / np.sqrt(size**2 + bend**2))
            square = slope.T @ (slope * weights[:, None]) + 2.0 * np.eye(len(x))
            uphill = slope.T @ (weights * error) + 2.0 * (x - guess)
            for _ in range(8):
                step = _downhill(square + damping * np.diag(np.diag(square)), uphill, x - least, most - x)
                tried = np.clip(x + step, least, most)
                wrong = errors(tried)
                after = loss(wrong, tried, bend)
                if after < now:
                    break
                damping *= 6.0
            else:
                break
            gain = 1.0 - after / now
            x, error, now, damping = tried, wrong, after, max(damping / 6.0, 1e-4)
            if gain < 2e-5:
                break
    return dict(zip(names, np.exp(x).tolist(), strict=True))


def _downhill(square: Floats, uphill: Floats, above: Floats, below: Floats) -> Floats:
    """The step to where the quadratic is least, without numbers that are at a bound and want to go beyond it."""
    free = ~(((above < 1e-9) & (uphill > 0)) | ((below < 1e-9) & (uphill < 0)))
    step = np.zeros(len(uphill))
    step[free] = np.linalg.solve(square[np.ix_(free, free)], -uphill[free])
    return step


def modelled_left_out(runs: Sequence[Any], part: Callable[[Any], str]) -> Floats:
    """Modelled times of every run with numbers fitted without the runs of its part (a model, an accelerator)."""
    silicon = sys.modules["silicon"]
    parts = [part(run) for run in runs]
    found = np.zeros(len(runs))
    for left_out in sorted(set(parts)):
        numbers = fit([run for run, one in zip(runs, parts, strict=True) if one != left_out], silicon)
        rows = [index for index, one in enumerate(parts) if one == left_out]
        judged = [runs[index] for index in rows]
        found[rows] = silicon.predict(judged, lambda one, numbers=numbers: efficiency_with(numbers, one)).tpot
    return found


def main() -> None:
    """Prints the numbers that all runs give."""
    spec = importlib.util.spec_from_file_location("silicon", Path(_ROOT) / "benchmarks" / "silicon.py")
    if spec is None or spec.loader is None:
        raise ImportError("benchmarks/silicon.py is missing; expected it beside economics_fit.py")
    silicon = importlib.util.module_from_spec(spec)
    sys.modules["silicon"] = silicon
    spec.loader.exec_module(silicon)
    runs = [run for run in silicon.read_runs() if run.states_precision]
    for name, value in fit(runs, silicon).items():
        print(f"{name:24} {value:.4g}")


if __name__ == "__main__":
    main()
