"""`tidefleet cost`: what tokens cost on one configuration."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tidefleet import catalogue
from tidefleet.api import AcceleratorType
from tidefleet.api.validation import parse
from tidefleet.cli.output import Form, fail, print_json, print_table
from tidefleet.economics.memory import memory_fit
from tidefleet.economics.money import ChipCost, token_cost
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import CannotServe, estimate
from tidefleet.economics.shape import Objective, TokenShape
from tidefleet.planning.from_api import accelerator_of, chosen_price

_PRECISIONS = {"bf16": "Bf16", "fp8": "Fp8", "fp4": "Fp4"}


def cost(
    model: Annotated[str, typer.Option(help="Model of the catalogue, e.g. llama-3.3-70b.")],
    accelerator: Annotated[str, typer.Option(help="Accelerator type, e.g. h100-sxm.")],
    tp: Annotated[int, typer.Option(help="Tensor-parallel width: chips of one replica.", min=1, max=1024)] = 1,
    weights: Annotated[str, typer.Option(help="bf16, fp8 or fp4; the model's own by default.")] = "",
    kv: Annotated[str, typer.Option(help="bf16 or fp8.")] = "bf16",
    input_: Annotated[float, typer.Option("--input", help="Prompt tokens, mean.", min=1)] = 1000.0,
    output_tokens: Annotated[float, typer.Option("--output-tokens", help="Generated tokens, mean.", min=1)] = 250.0,
    cached: Annotated[float, typer.Option(help="Share of prompt tokens found in the cache, 0..1.", min=0, max=1)] = 0.0,
    ttft_p95: Annotated[float, typer.Option(help="Objective for the first token in seconds; 0: none.", min=0)] = 0.0,
    tpot: Annotated[float, typer.Option(help="Objective between tokens in seconds; 0: none.", min=0)] = 0.0,
    price_per_hour: Annotated[float, typer.Option(help="USD per chip-hour; the catalogue's by default.", min=0)] = 0.0,
    utilisation: Annotated[float, typer.Option(help="Mean load over capacity, above 0 to 1.", min=0, max=1)] = 1.0,
    output: Annotated[Form, typer.Option("--output", "-o", help="table or json.")] = Form.TABLE,
) -> None:
    """What tokens cost for one model on one accelerator, at the largest batch that meets the objectives."""
    models = catalogue.models()
    if model not in models:
        fail(f"--model is {model!r}; expected one of {', '.join(models)}", 2)
    kinds = {
        one.name: one for raw in catalogue.accelerator_manifests() if isinstance(one := parse(raw), AcceleratorType)
    }
    if accelerator not in kinds:
        fail(f"--accelerator is {accelerator!r}; expected one of {', '.join(sorted(kinds))}", 2)
    for name, value in (("--weights", weights), ("--kv", kv)):
        if value and value not in _PRECISIONS:
            fail(f"{name} is {value!r}; expected bf16, fp8 or fp4", 2)
    if not utilisation:
        fail("--utilisation is 0; expected a share above 0 and at most 1, e.g. 0.85", 2)
    kind, architecture = kinds[accelerator], models[model]
    price = price_per_hour
    if not price:
        entry = chosen_price(kind, "OnDemand")
        if entry is None:
            fail(f"{accelerator} has no OnDemand price in the catalogue; give one, e.g. --price-per-hour 2.50", 2)
        price = float(entry.usd_per_chip_hour)
    stored = _PRECISIONS[weights] if weights else architecture.native_weights
    replica = Replica(architecture, accelerator_of(kind), tp, stored, _PRECISIONS[kv])
    shape = TokenShape(input_mean=input_, output_mean=output_tokens, cached_share=cached)
    objectives = [Objective("TTFT", ttft_p95)] if ttft_p95 else []
    objectives += [Objective("TPOT", tpot)] if tpot else []
    found = estimate(replica, shape, objectives)
    fit = memory_fit(architecture, replica.accelerator, chips=tp, weights=stored, kv=replica.kv)
    answer: dict[str, Any] = {
        "model": model,
        "accelerator": accelerator,
        "chips": tp,
        "weights": stored,
        "kv": replica.kv,
        "usd_per_chip_hour": price,
        "fits": fit.fits,
        "kv_room_bytes": max(0.0, fit.kv_room),
        "max_context_tokens": fit.max_context_tokens,
    }
    if isinstance(found, CannotServe):
        answer |= {"cannot_serve": found.cause, "because": found.detail}
    else:
        money = token_cost(found, ChipCost(price), utilisation=utilisation)
        answer |= {
            "usd_per_million_input_tokens": money.input,
            "usd_per_million_cached_input_tokens": money.cached_input,
            "usd_per_million_output_tokens": money.output,
            "usd_per_million_tokens": money.blended,
            "output_tokens_per_second_per_chip": found.output_tokens_per_second / tp,
            "batch": found.batch,
            "ttft_seconds": found.ttft_seconds,
            "tpot_seconds": found.tpot_seconds,
            "watts_per_chip": found.watts_per_chip,
            "joules_per_output_token": (
                found.watts_per_chip * tp / found.output_tokens_per_second if found.watts_per_chip else None
            ),
            "mfu": found.mfu,
            "mbu": found.mbu,
            "bound_by": found.bound_by,
            "limited_by": found.limited_by,
            "provenance": found.provenance,
            "sigma": found.sigma,
        }
    if output is Form.JSON:
        print_json(answer)
    else:
        rows = [(name, f"{value:.6g}" if isinstance(value, float) else str(value)) for name, value in answer.items()]
        print_table(f"{model} on {tp} x {accelerator}", ("", "#"), rows)
    if isinstance(found, CannotServe):
        raise typer.Exit(1)
