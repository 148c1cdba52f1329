"""Fits the few numbers behind the starting values to measured times between tokens.

    python benchmarks/economics_fit.py        prints the values that the runs of silicon.py give

One value for all models and hardware, but for: compute efficiency by precision, a step's fixed time by engine, and what
Blackwell reaches of its bandwidth relative to Hopper. The fit starts from round guesses and is held to them: a number
that few runs speak for stays near its guess (each counts as much as one run whose error is the number's logarithmic
distance from the guess). The loss is the relative error, nearly linear, and logarithmic beyond 100 %.
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", *(one for one in sys.path if one != _HERE)]

import importlib.util  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from tidefleet.economics.efficiency import Efficiency, generation_of  # noqa: E402
from tidefleet.economics.replica import Replica  # noqa: E402

Floats = NDArray[np.float64]

GUESSES: Mapping[str, tuple[float, float, float]] = {
    # name: guess, least, most
    "memory": (0.90, 0.3, 0.95),
    "expert_memory": (0.90, 0.3, 0.95),
    "attention_memory": (0.85, 0.3, 0.95),
    "blackwell_memory": (0.90, 0.5, 1.05),
    "compute_Bf16": (0.65, 0.1, 0.75),
    "compute_Fp8": (0.50, 0.1, 0.75),
    "compute_Fp4": (0.35, 0.05, 0.70),
    "expert_compute_Bf16": (0.20, 0.02, 0.75),
    "expert_compute_Fp8": (0.15, 0.02, 0.75),
    "expert_compute_Fp4": (0.15, 0.02, 0.70),
    "attention_compute": (0.60, 0.1, 0.70),
    "layer_seconds": (40e-6, 5e-6, 200e-6),
    "moe_layer_seconds": (20e-6, 1e-6, 200e-6),
    "step_seconds_vllm": (4e-4, 2e-5, 8e-3),
    "step_seconds_sglang": (2e-3, 2e-5, 8e-3),
    "step_seconds_trtllm": (1e-4, 2e-5, 8e-3),
    "hop_seconds": (3e-6, 0.5e-6, 30e-6),
    "bulk_seconds": (50e-6, 2e-6, 500e-6),
    "network": (0.70, 0.1, 0.90),
    "expert_padding": (12.0, 0.01, 64.0),
}
_SEQUENCE_SECONDS = 8e-6
_IMBALANCE = 1.1
_NEARLY_LINEAR = 0.02
_STEPS = 12


def efficiency_with(numbers: Mapping[str, float], replica: Replica) -> Efficiency:
    """The efficiency of a replica with these numbers."""
    wide = numbers["blackwell_memory"] if generation_of(replica.accelerator.name) == "Blackwell" else 1.0
    return Efficiency(
        compute=numbers[f"compute_{replica.dense_precision}"],
        memory=numbers["memory"] * wide,
        network=numbers["network"],
        layer_seconds=numbers["layer_seconds"],
        hop_seconds=numbers["hop_seconds"],
        imbalance=_IMBALANCE,
        expert_compute=numbers[f"expert_compute_{replica.precision}"],
        expert_memory=numbers["expert_memory"] * wide,
        attention_compute=numbers["attention_compute"],
        attention_memory=numbers["attention_memory"] * wide,
        expert_padding=numbers["expert_padding"],
        moe_layer_seconds=numbers["moe_layer_seconds"],
        step_seconds=numbers[f"step_seconds_{replica.engine}"],
        sequence_seconds=_SEQUENCE_SECONDS,
        bulk_seconds=numbers["bulk_seconds"],
    )


def fit(runs: Sequence[Any], predict: Callable[..., Any]) -> dict[str, float]:
    """The numbers that fit these runs, by damped Gauss-Newton steps in their logarithms.

    Args:
        runs: of ``silicon.read_runs``; predict: ``silicon.predict``.
    """
    names = list(GUESSES)
    guess, least, most = (np.log([GUESSES[name][k] for name in names]) for k in range(3))
    measured = np.array([run.tpot_seconds for run in runs])

    def residuals(x: Floats) -> Floats:
        numbers = dict(zip(names, np.exp(x), strict=True))
        error = np.abs(predict(runs, lambda one: efficiency_with(numbers, one)).tpot / measured - 1.0)
        error = np.where(error > 1.0, 1.0 + np.log(np.maximum(error, 1.0)), error)
        return np.concatenate([(error**2 + _NEARLY_LINEAR**2) ** 0.25, x - guess])

    x, damping = guess.copy(), 1e-2
    now = residuals(x)
    for _ in range(_STEPS):
        slope = np.column_stack([(residuals(np.clip(x + d, least, most)) - now) / 1e-3 for d in 1e-3 * np.eye(len(x))])
        for _ in range(5):
            square = slope.T @ slope
            step = np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-9), -slope.T @ now)
            tried = np.clip(x + step, least, most)
            after = residuals(tried)
            if after @ after < now @ now:
                break
            damping *= 5.0
        else:
            break
        gain = 1.0 - (after @ after) / (now @ now)
        x, now, damping = tried, after, damping / 5.0
        if gain < 1e-4:
            break
    return dict(zip(names, np.exp(x).tolist(), strict=True))


def errors_left_out(runs: Sequence[Any], part: Callable[[Any], str]) -> Floats:
    """Relative errors of every run with numbers fitted without the runs of its part (a model, an accelerator)."""
    predict = sys.modules["silicon"].predict
    parts = [part(run) for run in runs]
    errors = np.zeros(len(runs))
    for left_out in sorted(set(parts)):
        numbers = fit([run for run, one in zip(runs, parts, strict=True) if one != left_out], predict)
        rows = [index for index, one in enumerate(parts) if one == left_out]
        judged = [runs[index] for index in rows]
        modelled = predict(judged, lambda one, numbers=numbers: efficiency_with(numbers, one)).tpot
        errors[rows] = np.abs(modelled / np.array([run.tpot_seconds for run in judged]) - 1.0)
    return errors


def main() -> None:
    """Prints the numbers that all runs give."""
    spec = importlib.util.spec_from_file_location("silicon", Path(_ROOT) / "benchmarks" / "silicon.py")
    if spec is None or spec.loader is None:
        raise ImportError("benchmarks/silicon.py is missing; expected it beside economics_fit.py")
    silicon = importlib.util.module_from_spec(spec)
    sys.modules["silicon"] = silicon
    spec.loader.exec_module(silicon)
    for name, value in fit(silicon.read_runs(), silicon.predict).items():
        print(f"{name:24} {value:.4g}")


if __name__ == "__main__":
    main()
