"""How well the cost model tells the energy and the time of a token, on measured runs of vLLM (ML.ENERGY).

    python benchmarks/economics_energy.py [--energy FILE] [--fit] [--json]

FILE holds runs with the columns of the ML.ENERGY leaderboard (benchmark of NeurIPS D&B 2025): model, chips,
parallelism, precision, mean batch, mean output length, inter-token latency, output tokens/s, joules per output token,
mean power of all GPUs. Without --energy it is ``energy_measured.csv`` of the directory of published measurements
(TIDEFLEET_CATALOG_DIR), from which the constants of ``tidefleet.economics.energy`` come.

energy_mape             joules per output token: modelled power at the *measured* throughput, against measured joules.
                        The headline: it judges the power model, not the time model.
energy_mape_predicted_tpot  the same with the throughput that our own step time gives: power and time model together.
power_mape_fitted       energy_mape with the shipped constants, which saw these very models (not a test).
tpot_mape_left_out      our step time at the measured batch against the median inter-token latency, with the engine's
                        own costs (see below) fitted on other models.
tpot_mape_uncalibrated  the same as the roofline ships, nothing fitted; ``_dense`` and ``_moe`` the two kinds of models
                        apart. The starting values come from other runs, engines of other versions and other models.

Every fit leaves out whole models: all rows of an architecture, in any tuning and precision, are judged by constants of
the other architectures. A row of another FILE is judged by the shipped constants; nothing is fitted on it.

Engine costs: median latency = alpha * roofline + beta * layers + gamma * sequences of a rank + delta * time of the
rows that FP8 expert kernels compute in vain. beta is launch time, gamma the host's work for each sequence.

Prompt lengths are not published. Assumed: lm-arena-chat 128 tokens, gpqa 256 (a question with its choices),
sourcegraph-fim 2,000: it puts the repository's context into the prompt, and its own rows rule out a short one, since
their time per token lies far above the median latency (prefill between the tokens). Mean context is prompt + half the
mean output.
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import csv  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from tidefleet import catalogue  # noqa: E402
from tidefleet.economics import energy  # noqa: E402
from tidefleet.economics.accelerator import Accelerator  # noqa: E402
from tidefleet.economics.replica import Replica  # noqa: E402
from tidefleet.economics.roofline import Timing, decode_step, prefill  # noqa: E402
from tidefleet.planning.from_api import accelerator_of  # noqa: E402

Floats = NDArray[np.float64]

ROOT = Path(_ROOT).resolve()
MEASURED = Path(os.environ.get("TIDEFLEET_CATALOG_DIR", ROOT.parent / "shared" / "catalog")) / "energy_measured.csv"

PROMPT_TOKENS = {"lm-arena-chat": 128.0, "gpqa": 256.0, "sourcegraph-fim": 2000.0}
_OTHER_PROMPT = 256.0
_PRECISIONS = {"bfloat16": "Bf16", "fp8": "Fp8", "mxfp4": "Fp4", "nvfp4": "Fp4"}
_ACCELERATORS = {"H100": "h100-sxm", "H200": "h200-sxm", "B200": "b200-sxm", "A100": "a100-sxm-80"}

ENGINE_COSTS = (0.9272, 46.22e-6, 38.09e-6, 2.985)
"""alpha, beta (seconds), gamma (seconds), delta of vLLM in these runs, for rows of another file; --fit prints them."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run with what the model needs to know of it.

    Attributes:
        replica: model, accelerator, parallelism and precisions of the run.
        batch: mean sequences decoded together; prompt, output: mean tokens.
        latency: median time between two tokens, in seconds.
        tokens_per_second: output of all chips; joules: per output token.
    """

    replica: Replica
    batch: float
    prompt: float
    output: float
    latency: float
    tokens_per_second: float
    joules: float

    @property
    def architecture(self) -> str:
        """What is left out as a whole."""
        return self.replica.model.name

    @property
    def seconds_per_token(self) -> float:
        """Measured time in which each sequence gains a token, prefill of others included."""
        return self.batch / self.tokens_per_second

    def decode(self) -> Timing:
        """Our time of a step at the measured batch."""
        return decode_step(self.replica, np.array([self.batch]), self.prompt + self.output / 2.0)

    def use(self, seconds_per_token: float) -> tuple[float, float]:
        """Shares of HBM bandwidth and of FLOP/s (as executed) when each sequence gains a token in this time."""
        step, prompt = self.decode(), prefill(self.replica, self.prompt, 0.0)
        prefills = self.batch / self.output
        found = energy.replica_use(
            self.replica,
            tokens=self.batch,
            steps_per_second=1.0 / seconds_per_token,
            bytes_per_second=(float(step.bytes_moved[0]) + prefills * float(prompt.bytes_moved[0])) / seconds_per_token,
            flops_per_second=(float(step.flops[0]) + prefills * float(prompt.flops[0])) / seconds_per_token,
        )
        assert found is not None, f"no peak is known for {self.replica.accelerator.name}"  # noqa: S101
        return found

    def power_terms(self, seconds_per_token: float) -> tuple[float, float, float]:
        """The terms of the power law before their coefficients: memory, compute, several attention ranks."""
        memory, compute = energy.power_terms(self.replica.accelerator, *self.use(seconds_per_token))
        return memory, compute, float(self.replica.data_parallel > 1)

    def engine_terms(self) -> tuple[float, float, float, float]:
        """The terms of the engine's latency before their coefficients, all but the first known without measuring."""
        replica = self.replica
        vain = 0.0
        if replica.weights == "Fp8" and replica.model.is_moe and replica.model.fp8_block:
            vain = energy.executed_flops(replica.model, "Fp8", self.batch) / replica.peak_flops
        return float(self.decode().seconds[0]), float(replica.model.layers), self.batch / replica.data_parallel, vain


def accelerators() -> dict[str, Accelerator]:
    """The shipped accelerators by catalogue name."""
    return {name: accelerator_of(kind) for name, kind in catalogue.accelerator_types().items()}


class UnusableRuns(ValueError):
    """A file of runs cannot be used; the message names the row and column, what came and what is expected."""


_MOST = 1e9
_COLUMNS = (
    "task", "model_id", "gpu_model", "num_gpus", "data_parallel", "expert_parallel", "weight_precision",
    "avg_batch_size", "avg_output_len", "median_itl_ms", "output_throughput_tokens_per_sec", "energy_per_token_joules",
)  # fmt: skip
"""What is read of a row; a file may have more columns, in any order."""


def _table(path: Path) -> list[dict[str, str]]:
    """The rows of a file that has all columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnusableRuns(f"cannot be read as CSV: {error}") from error
    for name in _COLUMNS:
        if name not in columns:
            raise UnusableRuns(f"has no column {name}; expected a comma-separated header with {', '.join(_COLUMNS)}")
    if not rows:
        raise UnusableRuns("has no rows; expected one for each measured run")
    return rows


def _numbers(row: Mapping[str, str], line: int) -> Callable[..., float]:
    """A reader of a row's numbers, all above 0."""

    def number(name: str, default: str = "", *, whole: bool = False) -> float:
        text = row[name] or default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value <= _MOST or (whole and value != int(value)):
            what = "a whole number from 1" if whole else "a number above 0"
            raise UnusableRuns(f"row {line}: {name} is {text!r}; expected {what} and at most {_MOST:g}")
        return value

    return number


def read(path: Path) -> list[Run]:
    """The runs of a file whose model and accelerator ship; the others are left out.

    Expert parallelism in these runs spreads the experts over all chips while attention is tensor parallel over them,
    unless ranks of data parallelism hold whole attention layers.

    Raises:
        UnusableRuns: the file is no table of runs, or a run has a number that makes no sense.
    """
    return _runs(_table(path))


def _runs(rows: Sequence[Mapping[str, str]]) -> list[Run]:
    chips = accelerators()
    found = []
    for line, row in enumerate(rows, 2):
        model = catalogue.model_of(row["model_id"] or "")
        name = _ACCELERATORS.get(row["gpu_model"], (row["gpu_model"] or "").lower())
        weights = _PRECISIONS.get(row["weight_precision"])
        if model is None or name not in chips or weights is None:
            continue
        number = _numbers(row, line)
        count = int(number("num_gpus", whole=True))
        ranks = int(number("data_parallel", "1", whole=True))
        replica = Replica(
            model,
            chips[name],
            count,
            weights,
            "Bf16",
            tensor_parallel=max(1, count // ranks),
            expert_parallel=int(number("expert_parallel", "1", whole=True)),
            engine="vllm",
        )
        found.append(
            Run(
                replica=replica,
                batch=number("avg_batch_size"),
                prompt=PROMPT_TOKENS.get(row["task"], _OTHER_PROMPT),
                output=number("avg_output_len"),
                latency=number("median_itl_ms") / 1e3,
                tokens_per_second=number("output_throughput_tokens_per_sec"),
                joules=number("energy_per_token_joules"),
            )
        )
    return found


def _least_relative_error(model: Callable[[Floats], tuple[Floats, Floats]], start: Floats) -> Floats:
    """Coefficients >= 0 of least mean absolute relative error, by damped Gauss-Newton on reweighted squares.

    Args:
        model: modelled over measured values at some coefficients, and their derivatives (rows x coefficients).
        start: first guess.
    """
    found = start
    for _ in range(60):
        ratio, slope = model(found)
        error = 1.0 - ratio
        weights = 1.0 / np.maximum(np.abs(error), 0.03)
        step = _nonnegative(slope, error + slope @ found, weights)
        found = found + 0.5 * (step - found)
    return found


def _nonnegative(terms: Floats, values: Floats, weights: Floats) -> Floats:
    """Least squares of terms @ c = values with weights and c >= 0: the best over all sets of coefficients held at 0."""
    gram = terms.T @ (terms * weights[:, None])
    aim = terms.T @ (values * weights)
    size = len(aim)
    best, least = np.zeros(size), 0.0
    for count in range(size, 0, -1):
        for kept in map(list, itertools.combinations(range(size), count)):
            part = np.linalg.lstsq(gram[np.ix_(kept, kept)], aim[kept], rcond=None)[0]
            if (part < 0).any():
                continue
            found = np.zeros(size)
            found[kept] = part
            loss = float(found @ gram @ found - 2.0 * aim @ found)  # squared error, less that of zeros
            if count == size:
                return found
            if loss < least:
                best, least = found, loss
    return best


def fit_power(runs: Sequence[Run]) -> Floats:
    """a, b and the term of attention ranks of ``tidefleet.economics.energy``, of least relative error on these runs."""
    return _fit_power_terms(*_power_table(runs))


def _power_table(runs: Sequence[Run]) -> tuple[Floats, Floats]:
    """Terms of the law at the measured speed (rows x 3), and the measured share of TDP."""
    terms = np.array([run.power_terms(run.seconds_per_token) for run in runs])
    return terms, np.array([watts_share(run) for run in runs])


def _fit_power_terms(terms: Floats, share: Floats) -> Floats:
    def law(c: Floats) -> tuple[Floats, Floats]:
        left = np.exp(-terms @ c)
        return (1.0 - left) / share, terms * (left / share)[:, None]

    return _least_relative_error(law, np.array([0.5, 3.0, 0.0]))


def fit_engine(runs: Sequence[Run]) -> Floats:
    """alpha, beta, gamma, delta of the engine's latency, of least relative error on these runs."""
    return _fit_engine_terms(_engine_table(runs))


def _engine_table(runs: Sequence[Run]) -> Floats:
    """Terms of the engine's latency over the measured one (rows x 4)."""
    latency = np.array([run.latency for run in runs])
    return np.asarray(np.array([run.engine_terms() for run in runs]) / latency[:, None])


def _fit_engine_terms(terms: Floats) -> Floats:
    return _least_relative_error(lambda c: (np.asarray(terms @ c), terms), np.array([1.0, 0.0, 0.0, 0.0]))


def watts_share(run: Run) -> float:
    """Measured power of a chip as a share of its TDP."""
    assert run.replica.accelerator.tdp_watts  # noqa: S101
    return run.joules * run.tokens_per_second / run.replica.chips / run.replica.accelerator.tdp_watts


def modelled_joules(run: Run, coefficients: Sequence[float] | Floats, seconds_per_token: float) -> float:
    """Joules per output token at this speed, by these coefficients of the power law."""
    tdp = run.replica.accelerator.tdp_watts or math.nan
    idle = run.replica.accelerator.idle_watts or 0.0
    exponent = sum(float(c) * term for c, term in zip(coefficients, run.power_terms(seconds_per_token), strict=True))
    share = -math.expm1(-exponent)
    return max(idle, tdp * share) * run.replica.chips * seconds_per_token / run.batch


def speed(run: Run, engine: Sequence[float] | Floats) -> tuple[float, float]:
    """Our time of a decode step with the engine's costs, and the same with the prefill of others, in seconds."""
    step = sum(float(cost) * term for cost, term in zip(engine, run.engine_terms(), strict=True))
    prompt = float(prefill(run.replica, run.prompt, 0.0).seconds[0]) / run.replica.data_parallel
    return step, step + run.batch / run.output * prompt


SHIPPED = (energy.MEMORY_COEFFICIENT, energy.COMPUTE_COEFFICIENT, energy.LOCKSTEP)


def measure(energy_file: Path = MEASURED) -> dict[str, float]:
    """The figures of the module's docstring, as shares (0.1 is 10 %), and the rows they are of.

    Rows of a model or an accelerator that does not ship are counted in ``energy_rows_skipped``; a figure that no row is
    of is left out.

    Raises:
        UnusableRuns: the file is no table of runs, or none of its runs can be judged.
    """
    table = _table(energy_file)
    runs = _runs(table)
    if not runs:
        raise UnusableRuns(
            f"has no run that can be judged: expected model, accelerator and precision of the catalogue, e.g. "
            f"Qwen/Qwen3-8B, H100, bfloat16, not {table[0]['model_id']}, {table[0]['gpu_model']}, "
            f"{table[0]['weight_precision']}"
        )
    known = read(MEASURED) if MEASURED.is_file() else []
    shipped = np.array(SHIPPED)
    power = {run.architecture: (shipped, np.array(ENGINE_COSTS)) for run in runs}
    left_out = bool(runs) and set(runs) <= set(known)
    if left_out:
        (terms, share), engine_terms = _power_table(known), _engine_table(known)
        for name in power:
            others = np.array([run.architecture != name for run in known])
            power[name] = _fit_power_terms(terms[others], share[others]), _fit_engine_terms(engine_terms[others])
    found: dict[str, list[float]] = {name: [] for name in _FIGURES}
    for run in runs:
        law, engine = power[run.architecture]
        step, token = speed(run, engine)
        bare = float(run.decode().seconds[0])
        errors = (
            modelled_joules(run, law, run.seconds_per_token) / run.joules,
            modelled_joules(run, law, token) / run.joules,
            modelled_joules(run, shipped, run.seconds_per_token) / run.joules,
            step / run.latency,
            bare / run.latency,
        )
        for name, ratio in zip(_FIGURES, errors, strict=True):
            found[name].append(abs(ratio - 1.0))
    moe = np.array([run.replica.model.is_moe for run in runs], dtype=bool)
    bare_errors = np.array(found["tpot_mape_uncalibrated"])
    for kind, of in (("dense", ~moe), ("moe", moe)):
        found[f"tpot_mape_uncalibrated_{kind}"] = bare_errors[of].tolist()
    return {
        **{name: float(np.mean(values)) for name, values in found.items() if values},
        "energy_rows": float(len(runs)),
        "energy_rows_skipped": float(len(table) - len(runs)),
        "energy_models_left_out": float(len(power) if left_out else 0),
    }


_FIGURES = (
    "energy_mape",
    "energy_mape_predicted_tpot",
    "power_mape_fitted",
    "tpot_mape_left_out",
    "tpot_mape_uncalibrated",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--energy", type=Path, default=MEASURED, metavar="FILE", help="measured runs, a test set only")
    parser.add_argument("--fit", action="store_true", help="fit the constants on the file's rows and print them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(arguments)
    if not asked.energy.is_file():
        parser.error(f"{asked.energy} does not exist; name a file with --energy or set TIDEFLEET_CATALOG_DIR")
    try:
        _print(asked.energy, fit=asked.fit, as_json=asked.json)
    except UnusableRuns as error:
        parser.exit(2, f"economics_energy.py: {asked.energy}: {error}\n")


def _print(file: Path, *, fit: bool, as_json: bool) -> None:
    if fit:
        runs = read(file)
        names = ("MEMORY_COEFFICIENT", "COMPUTE_COEFFICIENT", "LOCKSTEP", "alpha", "beta", "gamma", "delta")
        for name, value in zip(names, (*fit_power(runs), *fit_engine(runs)), strict=True):
            print(f"{name:20} {value:.4g}")
        return
    figures = measure(file)
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:28} {value:8.1%}" if "_mape" in name else f"{name:28} {value:8.0f}")


if __name__ == "__main__":
    main()
