"""What `cost` and `compare` ask about: a model, accelerators, token lengths and objectives, read from options."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer
import yaml

from tidefleet import catalogue
from tidefleet.api import AcceleratorType
from tidefleet.api.accelerator_type import Price
from tidefleet.api.validation import implausible_prices
from tidefleet.api.vocabulary import CapacityType
from tidefleet.catalogue.aiconfigurator import kernel_tables
from tidefleet.cli.output import fail
from tidefleet.cli.prices import with_price_book
from tidefleet.economics.architecture import Architecture, UnusableConfig, architecture_from_config
from tidefleet.economics.breakdown import Usage
from tidefleet.economics.presets import PRESETS
from tidefleet.economics.replica import Replica, Speculation
from tidefleet.economics.serving import CannotServe
from tidefleet.economics.shape import Objective, TokenShape
from tidefleet.planning.evidence import Evidence

ENGINES = ("vllm", "sglang", "trtllm")
_OTHER_ENGINE_NAMES = ("tensorrt-llm", "tensorrt_llm", "trt-llm", "trt")
PRECISIONS = {"bf16": "Bf16", "fp8": "Fp8", "fp4": "Fp4"}
_OTHER_PRECISION_NAMES = {"bfloat16": "Bf16", "fp16": "Bf16", "float16": "Bf16", "mxfp4": "Fp4", "nvfp4": "Fp4"}

MOST_TOKENS = 1e8


def within(
    least: float, most: float, example: str, hint: str = ""
) -> Callable[[typer.CallbackParam, float | None], float | None]:
    """A check of an option: a number from ``least`` to ``most``; NaN and infinity never are."""

    def check(param: typer.CallbackParam, value: float | None) -> float | None:
        if value is not None and not least <= value <= most:
            name = next((one for one in param.opts if one.startswith("--")), param.opts[0])
            fail(
                f"{name} is {value:g}; expected {_range_words(least, most)}, e.g. {example}{f' ({hint})' * bool(hint)}",
                2,
            )
        return value

    return check


def _range_words(least: float, most: float) -> str:
    return f"a number from {least:g} to {most:g}"


Lengths = Annotated[
    float | None,
    typer.Option(
        "--input", help="Prompt tokens, mean. 1000 without a preset.", callback=within(1, MOST_TOKENS, "1800")
    ),
]
Generated = Annotated[
    float | None,
    typer.Option(
        "--output", help="Generated tokens, mean. 250 without a preset.", callback=within(1, MOST_TOKENS, "300")
    ),
]
Cached = Annotated[
    float | None,
    typer.Option(
        help="Prompt tokens found in the prefix cache: a share up to 1, or tokens above.",
        callback=within(0, MOST_TOKENS, "0.4"),
    ),
]
PresetName = Annotated[
    str, typer.Option("--preset", help=f"Lengths and objectives of a common use: {', '.join(PRESETS)}.")
]
First = Annotated[str, typer.Option("--ttft-p95", help="Objective for the first token at p95, e.g. 0.8 or 800ms.")]
Between = Annotated[str, typer.Option("--tpot", help="Objective between tokens, e.g. 0.05 or 50ms.")]
EngineName = Annotated[str, typer.Option("--engine", help="Serving engine: vllm, sglang or trtllm.")]
Prices = Annotated[Path | None, typer.Option("--prices", help="A price book (YAML or CSV) laid over the catalogue.")]
Busy = Annotated[
    float,
    typer.Option("--utilisation", help="Mean load over capacity, above 0 to 1.", callback=within(1e-6, 1, "0.85")),
]
Pue = Annotated[
    float, typer.Option("--pue", help="Facility power over IT power, from 1.", callback=within(1, 10, "1.2"))
]
Tariff = Annotated[
    float,
    typer.Option(
        "--usd-per-kwh", help="Electricity paid beside the rent; 0: in the rent.", callback=within(0, 100, "0.08")
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--architecture", help="config.json of a model of one's own, instead of the catalogue's --model."),
]


@dataclass(frozen=True, slots=True)
class Workload:
    """Token lengths, objectives and use."""

    shape: TokenShape
    objectives: tuple[Objective, ...]
    usage: Usage


def seconds(option: str, text: str) -> float:
    """``0.05``, ``50ms`` or ``0.05s`` in seconds."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(ms|s)?\s*", text)
    value = float(match[1]) * (1e-3 if match[2] == "ms" else 1.0) if match else math.nan
    if not 0 < value < 1e6:
        fail(f"{option} is {text!r}; expected a time above 0, e.g. 0.05 or 50ms", 2)
    return value


def read_workload(
    *,
    preset: str,
    input_tokens: float | None,
    output_tokens: float | None,
    cached: float | None,
    ttft_p95: str,
    tpot: str,
) -> Workload:
    """The workload that these options describe; what is given replaces what the preset says."""
    shape, usage = TokenShape(1000.0, 250.0), Usage()
    objectives: tuple[Objective, ...] = ()
    if preset:
        if preset not in PRESETS:
            fail(f"--preset is {preset!r}; expected one of {', '.join(PRESETS)}", 2)
        chosen = PRESETS[preset]
        shape, objectives = chosen.shape, chosen.objectives
        usage = Usage(
            turns_per_session=chosen.turns_per_session,
            calls_per_task=chosen.calls_per_task,
            calls_p95=chosen.calls_p95,
            think_seconds=chosen.think_seconds,
            turns_per_day=chosen.turns_per_day or Usage().turns_per_day,
            reasoning_cap=chosen.reasoning_cap,
        )
    if input_tokens is not None:
        shape = replace(shape, input_mean=input_tokens, input_p95=0.0)
    if output_tokens is not None:
        shape = replace(shape, output_mean=output_tokens, output_p95=0.0, reasoning_mean=0.0, reasoning_p95=0.0)
    if cached is not None:
        share = cached if cached <= 1 else cached / shape.input_mean
        if not 0 <= share <= 1:
            fail(f"--cached is {cached:g}; expected a share up to 1 or at most --input {shape.input_mean:g} tokens", 2)
        shape = replace(shape, cached_share=share)
    given = [Objective("TTFT", seconds("--ttft-p95", ttft_p95))] if ttft_p95 else []
    given += [Objective("TPOT", seconds("--tpot", tpot))] if tpot else []
    kept = [one for one in objectives if one.metric not in {each.metric for each in given}]
    return Workload(shape, (*kept, *given), usage)


def _meant(name: str, known: Iterable[str]) -> str | None:
    """The one name of these that is meant: in any case of letters, whole or its beginning up to a hyphen."""
    wanted, names = name.lower(), list(known)
    if wanted in names:
        return wanted
    begun = [one for one in names if wanted and one.startswith(f"{wanted}-")]
    return begun[0] if len(begun) == 1 else None


def _near(name: str, known: Iterable[str]) -> list[str]:
    """The names that may be meant, the likeliest first; all where none is like it."""
    names, wanted = sorted(known), name.lower()
    begun = [one for one in names if wanted and one.startswith(wanted)]
    family = [one for one in names if one.split("-")[0] == wanted.split("-")[0]]
    among = family or names
    like = get_close_matches(wanted, among, n=len(among) or 1, cutoff=0.6)
    return list(dict.fromkeys((*begun, *like, *family))) or names


def model_named(name: str, option: str = "--model") -> Architecture:
    """A model of the catalogue, by its name there or on Hugging Face (``meta-llama/Llama-3.3-70B-Instruct``)."""
    models = catalogue.models()
    meant = _meant(name, models) or _meant(catalogue.plain_name(name), models)
    found = models[meant] if meant else catalogue.model_of(name)
    if found is None:
        fail(f"{option} is {name!r}; expected one of {', '.join(_near(catalogue.plain_name(name), models))}", 2)
    return found


def model_of(name: str, config: Path | None) -> Architecture:
    """The model that is asked about: of the catalogue, or read from a ``config.json``."""
    if config is not None:
        return _architecture_from(config, name)
    if not name:
        fail("--model is missing; expected a model of the catalogue, e.g. llama-3.3-70b, or --architecture FILE", 2)
    return model_named(name)


def _architecture_from(path: Path, name: str) -> Architecture:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        fail(f"--architecture {path}: cannot be read: {' '.join(str(error).split())}", 2)
    if not isinstance(config, dict):
        fail(f"--architecture {path}: is not a mapping; expected the fields of a config.json", 2)
    known = str(config.get("_name_or_path") or "").rsplit("/", 1)[-1]
    try:
        return architecture_from_config(name or known or path.stem, config)
    except UnusableConfig as error:
        fail(f"--architecture {path}: {error}", 2)


def kinds_with(book: Path | None) -> dict[str, AcceleratorType]:
    """The shipped accelerator types with a price book's prices."""
    return with_price_book(catalogue.accelerator_types(), book)


def kind_named(name: str, kinds: Mapping[str, AcceleratorType]) -> AcceleratorType:
    """An accelerator type of the catalogue; the beginning of its name will do where only one has it (``b200``)."""
    meant = name if name in kinds else _meant(name, kinds)
    if meant is None:
        fail(f"--accelerator is {name!r}; expected one of {', '.join(_near(name, kinds))}", 2)
    return kinds[meant]


def precision(option: str, text: str, default: str) -> str:
    """``bf16``, ``fp8`` or ``fp4`` as the cost model spells it."""
    if not text:
        return default
    found = PRECISIONS.get(text.lower()) or _OTHER_PRECISION_NAMES.get(text.lower())
    if found is None:
        fail(f"{option} is {text!r}; expected bf16, fp8 or fp4", 2)
    return found


def stated_precision(model: str) -> str:
    """The precision of the weights that the name of a checkpoint ends with (``Qwen3-32B-FP8``); empty: it says none."""
    last = model.lower().rpartition("-")[2]
    return {**PRECISIONS, **_OTHER_PRECISION_NAMES}.get(last, "")


def evidence() -> Evidence:
    """What is measured as of today, with aiconfigurator-core where that is installed."""
    return Evidence(today=datetime.datetime.now(tz=datetime.UTC).date(), other=kernel_tables())


def engine_named(name: str) -> str:
    """An engine whose starting efficiencies are known."""
    if name.lower() in _OTHER_ENGINE_NAMES:
        return "trtllm"
    if name.lower() not in ENGINES:
        fail(f"--engine is {name!r}; expected one of {', '.join(ENGINES)}", 2)
    return name.lower()


def speculation(accept_length: float, draft_tokens: int) -> Speculation | None:
    """Speculative decoding that yields so many tokens a step; ``None`` for one."""
    if accept_length == 1.0 and not draft_tokens:
        return None
    verified = draft_tokens + 1 if draft_tokens else math.ceil(accept_length) + 1
    if not 1.0 <= accept_length <= verified:
        fail(f"--accept-length is {accept_length:g}; expected 1 to {verified} (drafted tokens and one), e.g. 2.4", 2)
    return Speculation(tokens=verified, accept_length=accept_length)


def basis(text: str) -> CapacityType:
    """A way of paying by its name, in any case of letters."""
    for one in CapacityType:
        if str(one).lower() == text.lower():
            return one
    fail(f"--capacity-type is {text!r}; expected {', '.join(str(one) for one in CapacityType)}", 2)


def layout(chips: int | None, tp: int | None, ep: int | None) -> tuple[int, int, int]:
    """Chips, attention width and expert group that these options mean; (0, 0, 1) leaves the width open.

    Expert parallelism without ``--tp`` means attention on one chip each ("DEP").
    """
    experts = ep or 1
    if not chips and not tp and experts == 1:
        return 0, 0, 1
    total = chips or max(tp or 1, experts)
    width = tp or (1 if experts > 1 else total)
    said = " ".join(f"--{name} {value}" for name, value in (("chips", chips), ("tp", tp), ("ep", ep)) if value)
    if total % width:
        fail(f"{said}: {width} chips that share a sequence do not divide {total}; expected e.g. --chips 8 --tp 4", 2)
    if experts > 1 and (total % experts or experts % width):
        fail(
            f"{said}: expected --ep that divides the {total} chips into groups of whole ranks, e.g. --chips 8 --ep 8", 2
        )
    return total, width, experts


def check_layout(model: Architecture, tp: int, ep: int | None) -> None:
    """End the command where chips are to share what a model does not have so many of, or has no equal parts of."""
    if model.heads % tp:
        most = max(one for one in range(1, tp) if model.heads % one == 0)
        fail(f"--tp is {tp}; {model.name} has {model.heads} attention heads, which {tp} chips cannot share evenly; "
             f"expected a divisor, e.g. --tp {most}", 2)  # fmt: skip
    if (ep or 1) > 1 and not model.is_moe:
        fail(f"--ep is {ep}; {model.name} is a dense model without experts; expected 1, or --tp {ep}", 2)
    if model.is_moe and (ep or 1) > model.experts:
        fail(f"--ep is {ep}; {model.name} has {model.experts} experts; expected at most so many", 2)


def refused_role(kind: AcceleratorType, role: str) -> CannotServe | None:
    """Why an accelerator type is not for this role, ``None`` where it is."""
    can = [str(one) for one in kind.spec.roles]
    if not can or role in can:
        return None
    words = " and ".join(one.lower() for one in can)
    return CannotServe("Role", f"{kind.name} serves {words} only; ask for --role {can[0].lower()}")


def plausibility(kind: AcceleratorType, capacity_type: CapacityType, usd_per_chip_hour: float) -> str:
    """What is odd about a price that somebody gave; empty where nothing is."""
    given = Price(capacity_type=capacity_type, usd_per_chip_hour=Decimal(f"{usd_per_chip_hour:.6f}"))
    known = [one.usd_per_chip_hour for one in kind.spec.prices]
    changed = kind.model_copy(update={"spec": kind.spec.model_copy(update={"prices": (given,)})})
    found = next(iter(implausible_prices(changed, known)), None)
    if found is None:
        return ""
    what = found.expected.partition("(it ")[2].partition(";")[0]
    return f"--price-per-hour {usd_per_chip_hour:g} {what}; expected USD for one chip and hour"


def with_width(replica: Replica, chips: int) -> Replica:
    """The same replica on so many chips, all sharing each sequence."""
    return replace(replica, chips=chips, tensor_parallel=chips, expert_parallel=1)
