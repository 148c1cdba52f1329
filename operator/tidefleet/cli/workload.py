"""What `cost` and `compare` ask about: a model, accelerators, token lengths and objectives, read from options."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from tidefleet import catalogue
from tidefleet.api import AcceleratorType
from tidefleet.api.validation import parse
from tidefleet.cli.output import fail
from tidefleet.cli.prices import with_price_book
from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.breakdown import Usage
from tidefleet.economics.presets import PRESETS
from tidefleet.economics.replica import Replica, Speculation
from tidefleet.economics.shape import Objective, TokenShape

PRECISIONS = {"bf16": "Bf16", "fp8": "Fp8", "fp4": "Fp4"}

Lengths = Annotated[float | None, typer.Option("--input", help="Prompt tokens, mean. 1000 without a preset.", min=0)]
Generated = Annotated[float | None, typer.Option("--output", help="Generated tokens, mean. 250 by default.", min=0)]
Cached = Annotated[
    float | None,
    typer.Option(help="Prompt tokens found in the prefix cache: a share up to 1, or tokens above.", min=0),
]
PresetName = Annotated[
    str, typer.Option("--preset", help=f"Lengths and objectives of a common use: {', '.join(PRESETS)}.")
]
First = Annotated[str, typer.Option("--ttft-p95", help="Objective for the first token at p95, e.g. 0.8 or 800ms.")]
Between = Annotated[str, typer.Option("--tpot", help="Objective between tokens, e.g. 0.05 or 50ms.")]
Prices = Annotated[Path | None, typer.Option("--prices", help="A price book (YAML or CSV) laid over the catalogue.")]
Busy = Annotated[float, typer.Option("--utilisation", help="Mean load over capacity, above 0 to 1.", min=0, max=1)]


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
        shape = replace(shape, input_mean=_tokens("--input", input_tokens, least=1), input_p95=0.0)
    if output_tokens is not None:
        most = _tokens("--output", output_tokens, least=1)
        shape = replace(shape, output_mean=most, output_p95=0.0, reasoning_mean=0.0, reasoning_p95=0.0)
    if cached is not None:
        share = cached if cached <= 1 else cached / shape.input_mean
        if not 0 <= share <= 1:
            fail(f"--cached is {cached:g}; expected a share up to 1 or at most --input {shape.input_mean:g} tokens", 2)
        shape = replace(shape, cached_share=share)
    given = [Objective("TTFT", seconds("--ttft-p95", ttft_p95))] if ttft_p95 else []
    given += [Objective("TPOT", seconds("--tpot", tpot))] if tpot else []
    kept = [one for one in objectives if one.metric not in {each.metric for each in given}]
    return Workload(shape, (*kept, *given), usage)


def _tokens(option: str, value: float, least: float) -> float:
    if not least <= value <= 1e8:
        fail(f"{option} is {value:g}; expected tokens from {least:g} to 100 million, e.g. 1800", 2)
    return value


def model_named(name: str, option: str = "--model") -> Architecture:
    """A model of the catalogue."""
    models = catalogue.models()
    if name not in models:
        near = [one for one in models if one.split("-")[0] == name.lower().split("-")[0]]
        fail(f"{option} is {name!r}; expected one of {', '.join(near or models)}", 2)
    return models[name]


def kinds_with(book: Path | None) -> dict[str, AcceleratorType]:
    """The shipped accelerator types with a price book's prices."""
    kinds = {
        one.name: one for raw in catalogue.accelerator_manifests() if isinstance(one := parse(raw), AcceleratorType)
    }
    return with_price_book(kinds, book)


def kind_named(name: str, kinds: Mapping[str, AcceleratorType]) -> AcceleratorType:
    """An accelerator type of the catalogue."""
    if name not in kinds:
        near = [one for one in kinds if one.split("-")[0] == name.lower().split("-")[0]]
        fail(f"--accelerator is {name!r}; expected one of {', '.join(near or sorted(kinds))}", 2)
    return kinds[name]


def precision(option: str, text: str, default: str) -> str:
    """``bf16``, ``fp8`` or ``fp4`` as the cost model spells it."""
    if not text:
        return default
    if text.lower() not in PRECISIONS:
        fail(f"{option} is {text!r}; expected bf16, fp8 or fp4", 2)
    return PRECISIONS[text.lower()]


def speculation(accept_length: float, draft_tokens: int) -> Speculation | None:
    """Speculative decoding that yields so many tokens a step; ``None`` for one."""
    if accept_length == 1.0 and not draft_tokens:
        return None
    verified = draft_tokens + 1 if draft_tokens else math.ceil(accept_length) + 1
    if not 1.0 <= accept_length <= verified:
        fail(f"--accept-length is {accept_length:g}; expected 1 to {verified} (drafted tokens and one), e.g. 2.4", 2)
    return Speculation(tokens=verified, accept_length=accept_length)


def layout(chips: int, tp: int, ep: int) -> tuple[int, int, int]:
    """Chips, attention width and expert group that these options mean; (0, 0, 1) leaves the width open.

    Expert parallelism without ``--tp`` means attention on one chip each ("DEP").
    """
    experts = max(1, ep)
    if not chips and not tp and experts == 1:
        return 0, 0, 1
    total = chips or max(tp, experts)
    width = tp or (1 if experts > 1 else total)
    if total % width or (experts > 1 and (total % experts or experts % width)):
        fail(
            f"--chips {total} --tp {width} --ep {experts}: expected widths that divide, e.g. --chips 8 --tp 1 --ep 8", 2
        )
    return total, width, experts


def widths_of(accelerator: Accelerator) -> Sequence[int]:
    """Widths to try where none is given: powers of two up to a node, or the scale-up domain where that is wider."""
    widest = max(accelerator.chips_per_node or 8, 8)
    return [2**i for i in range(widest.bit_length()) if 2**i <= widest]


def with_width(replica: Replica, chips: int) -> Replica:
    """The same replica on so many chips, all sharing each sequence."""
    return replace(replica, chips=chips, tensor_parallel=chips, expert_parallel=1)
