"""Measured serving runs that come with aiconfigurator-core, as runs of our catalogue's models and accelerators.

``silicon_sample.csv`` (Apache-2.0) is read from the installed package and never copied: InferenceX dumps and runs of
NVIDIA's. Of its 5,221 rows these are used:

* aggregated serving (``mode`` agg) of eight published names of six models (``MODELS``), on at most eight chips
  (``tp_size``), without data-parallel attention (``attention_dp_size`` empty, 0 or 1): 2,120 rows;
* for the time between tokens those with a stated ``precision``: 1,754 rows;
* for the time to first token those with a stated ``moe_ep_size`` (not 0), of any precision: 2,095 rows.

What rows leave unsaid or misstate is read from the recipes that made them (``silicon_recipes.py``): mean lengths,
expert groups, ranks of attention, precision of the KV cache, speculation. Nine runs state another concurrency than they
had (``misstates_concurrency``): theirs is inferred.
"""

from __future__ import annotations

import csv
import datetime
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from tidefleet import catalogue
from tidefleet.economics.efficiency import Efficiency
from tidefleet.economics.memory import kv_bytes, replica_memory
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill
from tidefleet.planning.from_api import accelerator_of

Floats = NDArray[np.float64]

MODELS: Mapping[str, str] = {
    "deepseek-ai/DeepSeek-R1": "deepseek-r1",
    "deepseek-ai/DeepSeek-V3": "deepseek-r1",  # the same architecture; later dumps name R1 so
    "openai/gpt-oss-120b": "gpt-oss-120b",
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "Qwen/Qwen3-235B-A22B-FP8": "qwen3-235b-a22b",
}
SYSTEMS: Mapping[str, str] = {
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200-sxm",
    "b300_sxm": "b300-sxm",
    "gb200": "gb200-nvl72",
    "gb300": "gb300-nvl72",
}


def _recipes() -> ModuleType:
    """The neighbour that knows what rows do not state."""
    name = "silicon_recipes"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        if spec is None or spec.loader is None:
            raise ImportError("benchmarks/silicon_recipes.py is missing; expected it beside silicon.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


recipes = _recipes()

_WEIGHTS: Mapping[str, str] = {"": "Bf16", "bf16": "Bf16", "fp8": "Fp8", "fp4": "Fp4"}

CLIENT_BURST = 0.34
"""Share of prompts that wait in a wave of all requests. A run starts with all of them at once (a tenth of InferenceX's,
which sends ten times as many prompts as run at a time), and lengths are alike, so requests that began together end
together. Fitted to the median of measured times to first token."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run.

    ``replica`` is what ran; ``group`` its model, accelerator, engine and stated precision; ``version`` the
    engine's and ``measured_on`` the day, empty and ``None`` where the sample does not state them.
    ``stated_concurrency`` is what the sample says, ``concurrency`` what ran: the same in all but nine runs.
    Lengths are means of what was sent.
    """

    group: tuple[str, str, str, str]
    replica: Replica
    input_tokens: float
    output_tokens: float
    concurrency: float
    tpot_seconds: float
    ttft_seconds: float
    states_precision: bool
    states_parallelism: bool
    version: str = ""
    measured_on: datetime.date | None = None
    stated_concurrency: float = 0.0


def sample_path() -> Path:
    """Where the installed package keeps the sample.

    Raises:
        importlib.metadata.PackageNotFoundError: aiconfigurator-core is not installed.
        FileNotFoundError: the installed version has no sample.
    """
    for file in distribution("aiconfigurator-core").files or ():
        if file.name == "silicon_sample.csv":
            return Path(str(file.locate()))
    raise FileNotFoundError("aiconfigurator-core has no silicon_sample.csv; expected it in 0.12.0")


def read_runs(path: Path | None = None, *, as_stated: bool = False) -> list[Run]:
    """The usable runs of the sample.

    Args:
        path: of the sample; by default that of the installed package.
        as_stated: takes what rows say for what ran: lengths, layout, concurrency, and no speculation but by image.
    """
    accelerators = {name: accelerator_of(kind) for name, kind in catalogue.accelerator_types().items()}
    models = catalogue.models()
    with (path or sample_path()).open(newline="") as file:
        rows = list(csv.DictReader(file))
    plain = recipes.plain_measurements(rows)
    runs: list[Run] = []
    for row in rows:
        if row["mode"] != "agg" or row["model_path"] not in MODELS or row["precision"] not in _WEIGHTS:
            continue
        if float(row["tp_size"]) > 8 or float(row["attention_dp_size"] or 1) > 1:
            continue
        model = models[MODELS[row["model_path"]]]
        weights = "Fp4" if model.native_weights == "Fp4" else _WEIGHTS[row["precision"]]
        how = recipes.as_stated(row, weights) if as_stated else recipes.recipe(row, weights, plain)
        day = recipes.day_of(row)
        requests = recipes.stated_chips(row) // recipes.stated_width(row) * recipes.concurrency_of(row)
        replica = Replica(
            model,
            accelerators[SYSTEMS[row["system"]]],
            how.chips,
            weights,
            how.kv,
            tensor_parallel=how.width,
            expert_parallel=how.expert_parallel,
            speculation=how.speculation,
            engine=row["backend"],
            engine_version=recipes.engine_version(row),
        )
        runs.append(
            Run(
                group=(model.name, replica.accelerator.name, row["backend"], row["precision"]),
                replica=replica,
                input_tokens=how.length * float(row["isl"]),
                output_tokens=how.length * float(row["osl"]),
                concurrency=requests,
                stated_concurrency=requests,
                tpot_seconds=float(row["silicon_tpot_ms"]) / 1e3,
                ttft_seconds=float(row["silicon_ttft_ms"]) / 1e3,
                states_precision=bool(row["precision"]),
                states_parallelism=float(row["moe_ep_size"] or 0) > 0,
                version=row["backend_version"],
                measured_on=datetime.date.fromisoformat(day) if day else None,
            )
        )
    return runs if as_stated else [as_ran(run) for run in runs]


_CLIENT_LIMIT = 512
_WAVES = 10
_SERVER_LIMITS = (4.0, 8.0, 16.0, 32.0, 64.0)
_LONG_PROMPTS_LIMIT = 16.0


def misstates_concurrency(run: Run) -> bool:
    """Whether a run states its client's limit as its concurrency: vLLM's nine of gpt-oss-120b on H100 "at 512".

    InferenceMAX's script for them, benchmarks/gptoss_fp4_h100_docker.sh as it was in December 2025 (commits d22bf9c and
    14068bc), starts vLLM with ``--max-num-seqs=$CONC``, sends ``--num-prompts $(( $CONC * 10 ))`` and says a constant
    ``--max-concurrency 512``. So CONC sequences run at a time and the other prompts wait in the server: 4.5 services on
    average, 4.5 / 5.5 = 82 % of a request's time, where these runs state 79 to 81 % as time to first token.
    """
    return run.group[:3] == ("gpt-oss-120b", "h100-sxm", "vllm") and run.stated_concurrency == _CLIENT_LIMIT


def server_limits(run: Run) -> tuple[float, ...]:
    """The CONC that such a run may have had: gptoss-fp4-h100-vllm of .github/configs/nvidia-master.yaml (d22bf9c)."""
    long = run.replica.tp == 8 and run.input_tokens > run.output_tokens
    return tuple(one for one in _SERVER_LIMITS if not long or one <= _LONG_PROMPTS_LIMIT)


def services_waited(limit: float) -> float:
    """Mean services that a prompt waits, where ``_WAVES`` times ``limit`` prompts are sent and ``limit`` run at a time.

    Prompt j starts after floor(j / limit) services. The first ``_CLIENT_LIMIT`` are sent at once, each later one when
    the prompt so many before it is done.
    """
    prompts = np.arange(_WAVES * int(limit))
    sent = np.where(prompts < _CLIENT_LIMIT, 0, (prompts - _CLIENT_LIMIT) // int(limit) + 1)
    return float((prompts // int(limit) - sent).mean())


def as_ran(run: Run) -> Run:
    """The run with the concurrency that it had.

    Five values of CONC were written under the one name of 512 and a dump keeps one of them, so CONC is inferred from
    the time to first token alone: of those of ``server_limits`` the one whose modelled mean wait is nearest to it,
    services of CONC requests at a time and the own prefill. The time between tokens, which is to be judged, is not
    looked at.
    """
    if not misstates_concurrency(run):
        return run
    tried = [replace(run, concurrency=limit) for limit in server_limits(run)]
    times = predict(tried)
    waits = np.array([services_waited(one.concurrency) for one in tried])
    first = waits * (times.prefill + times.tpot * run.output_tokens) + times.prefill
    return tried[int(np.argmin(np.abs(np.log(first / run.ttft_seconds))))]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Modelled seconds of each run: between tokens, to the first token, and of a lone prefill."""

    tpot: Floats
    ttft: Floats
    prefill: Floats


@dataclass(frozen=True, slots=True)
class Load:
    """Runs of one replica: their rows, batches (the concurrency as far as it fits the KV cache) and lengths."""

    replica: Replica
    rows: list[int]
    concurrency: Floats
    batch: Floats
    input_tokens: Floats
    output_tokens: Floats


def loads(runs: Sequence[Run]) -> list[Load]:
    """The runs, those of replicas that are alike together: one call prices them."""
    by_replica: dict[Replica, list[int]] = {}
    for index, run in enumerate(runs):
        by_replica.setdefault(run.replica, []).append(index)
    found = []
    for replica, rows in by_replica.items():
        asked = np.array([runs[i].concurrency for i in rows])
        given = np.array([runs[i].input_tokens for i in rows])
        out = np.array([runs[i].output_tokens for i in rows])
        fit = replica_memory(replica)
        room = fit.kv_room * replica.chips / kv_bytes(replica.model, replica.kv, replica.tp, given + out / 2.0)
        batch = np.minimum(asked, np.maximum(1.0, room)) if fit.kv_room > 0 else asked
        found.append(Load(replica, rows, asked, batch, given, out))
    return found


def between_tokens(load: Load, efficiency: Efficiency | None = None) -> tuple[Floats, Floats, Floats]:
    """Seconds between tokens, of a decode step and of a prefill: TPOT = T_d(B, I + O/2) + (B/D - 1)/O * T_p(I).

    D are the ranks of attention. A client counts from a request's first token on, so the request's own prefill is not
    in its time between tokens.
    """
    priced = replace(load.replica, efficiency=efficiency) if efficiency else load.replica
    step = decode_step(priced, load.batch, load.input_tokens + load.output_tokens / 2.0).seconds
    own = prefill(priced, load.input_tokens, 0.0).seconds
    return step + prompts_between(load) * own, step, own


def prompts_between(load: Load) -> Floats:
    """Prompts of others that a rank prefills between two tokens of a request."""
    return np.maximum(0.0, load.batch / load.replica.data_parallel - 1.0) / load.output_tokens


def predict(runs: Sequence[Run], efficiency: Callable[[Replica], Efficiency] | None = None) -> Prediction:
    """The model's times for each run."""
    tpot, ttft, alone = (np.zeros(len(runs)) for _ in range(3))
    for load in loads(runs):
        rows = load.rows
        tpot[rows], step, own = between_tokens(load, efficiency(load.replica) if efficiency else None)
        ttft[rows] = first_token(load.concurrency, load.batch, own, step * load.output_tokens) + step
        alone[rows] = own
    return Prediction(tpot, ttft, alone)


def first_token(concurrency: Floats, batch: Floats, prefill_seconds: Floats, decode_seconds: Floats) -> Floats:
    """Mean seconds until a prompt is prefilled in a closed loop of exactly so many requests.

    Each request goes round: wait for a place in the batch, wait for the prefill of others, its own prefill, decode.
    Prefill is one server, decode a delay (machine repair model), solved by mean value analysis:
    R_n = T_p (1 + Q_(n-1)), X_n = n / (R_n + Z), Q_n = X_n R_n. Requests beyond the batch wait (c - B)/X for a place.
    A run starts with all requests at once: ``CLIENT_BURST`` of the requests wait for half of the others instead.
    """
    queued, waited, rate = (np.zeros_like(batch) for _ in range(3))
    for n in range(1, int(batch.max()) + 1):
        active = np.minimum(n, batch)
        response = prefill_seconds * (1.0 + queued)
        new_rate = active / (response + decode_seconds)
        still = n <= np.ceil(batch)
        queued = np.where(still, new_rate * response, queued)
        waited, rate = np.where(still, response, waited), np.where(still, new_rate, rate)
    steady = waited + np.maximum(0.0, concurrency - batch) / rate
    burst = (concurrency + 1.0) / 2.0 * prefill_seconds + np.maximum(0.0, concurrency - batch) / rate
    return (1.0 - CLIENT_BURST) * steady + CLIENT_BURST * burst
