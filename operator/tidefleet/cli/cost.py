"""`tidefleet cost`: what tokens cost on one configuration, and everything that follows from it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from tidefleet.catalogue.external_prices import PricesNotInstalled, external_offers
from tidefleet.cli import workload
from tidefleet.cli.output import Form, fail, print_json, print_table
from tidefleet.cli.sweep import print_levers, print_sweep
from tidefleet.economics.breakdown import Breakdown, as_json, break_even_usd_per_chip_hour, breakdown
from tidefleet.economics.breakeven import Hosting, break_even_utilisation, host_or_buy
from tidefleet.economics.evidence import UNCORRECTED, Correction
from tidefleet.economics.external import TokenVector, blended_usd_per_million, cheapest
from tidefleet.economics.memory import GPU_MEMORY_UTILISATION, MemoryFit, replica_memory
from tidefleet.economics.money import ChipCost
from tidefleet.economics.owned import HOURS_PER_MONTH
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import ROLES, CannotServe, Estimate, estimate
from tidefleet.planning.evidence import Evidence
from tidefleet.planning.from_api import accelerator_of, chosen_price, offer_of
from tidefleet.planning.options import PLANNING_UTILISATION


@dataclass(frozen=True, slots=True)
class Question:
    """One configuration to price. ``usd_per_chip_hour`` is ``None`` where no price is known."""

    replica: Replica
    open_width: bool
    role: str
    work: workload.Workload
    correction: Correction
    batch: float | None
    memory_utilisation: float
    usd_per_chip_hour: float | None


def cost(
    model: Annotated[str, typer.Option(help="Model of the catalogue, e.g. llama-3.3-70b.")],
    accelerator: Annotated[str, typer.Option(help="Accelerator type, e.g. h100-sxm.")],
    chips: Annotated[int, typer.Option(help="Chips of one replica; by default as --tp and --ep ask.", min=0)] = 0,
    tp: Annotated[int, typer.Option(help="Tensor-parallel width; the smallest that serves by default.", min=0)] = 0,
    ep: Annotated[int, typer.Option(help="Chips that the routed experts are spread over.", min=0)] = 0,
    role: Annotated[str, typer.Option(help="aggregated, prefill or decode.")] = "aggregated",
    weights: Annotated[str, typer.Option(help="bf16, fp8 or fp4; the model's own by default.")] = "",
    kv: Annotated[str, typer.Option(help="bf16 or fp8.")] = "bf16",
    compute: Annotated[str, typer.Option(help="Precision of arithmetic; what storage and chip give by default.")] = "",
    preset: workload.PresetName = "",
    input_tokens: workload.Lengths = None,
    output_tokens: workload.Generated = None,
    cached: workload.Cached = None,
    batch: Annotated[float, typer.Option(help="Price this batch, not the largest that serves.", min=0)] = 0,
    ttft_p95: workload.First = "",
    tpot: workload.Between = "",
    accept_length: Annotated[float, typer.Option(help="Tokens that a speculative step yields; 1: none.", min=1)] = 1.0,
    draft_tokens: Annotated[int, typer.Option(help="Drafted tokens a step; by default one above --accept-length.")] = 0,
    price_per_hour: Annotated[float, typer.Option(help="USD per chip-hour; the catalogue's by default.", min=0)] = 0.0,
    capacity_type: Annotated[str, typer.Option(help="OnDemand, Spot, Reserved or Owned.")] = "OnDemand",
    prices: workload.Prices = None,
    pue: Annotated[float, typer.Option(help="Facility power over IT power.", min=1)] = 1.0,
    usd_per_kwh: Annotated[float, typer.Option(help="Electricity paid beside the rent; 0: in the rent.", min=0)] = 0.0,
    utilisation: workload.Busy = 1.0,
    memory_utilisation: Annotated[
        float, typer.Option(help="Share of device memory the engine takes.", min=0.05, max=1)
    ] = GPU_MEMORY_UTILISATION,
    tokens_per_month: Annotated[float, typer.Option(help="Volume for host or buy; a replica's by default.", min=0)] = 0,
    sweep: Annotated[str, typer.Option(help="Price floor per speed, e.g. tpot=5ms..100ms.")] = "",
    levers: Annotated[bool, typer.Option("--levers", help="The stacked effect of software levers.")] = False,
    form: Annotated[Form, typer.Option("-o", "--format", help="table or json.")] = Form.TABLE,
) -> None:
    """What tokens cost for one model on one accelerator, at the largest batch that meets the objectives.

    Prices per direction are allocations of one bill. Every answer names where its speed comes from and how sure it is.
    """
    if not utilisation:
        fail("--utilisation is 0; expected a share above 0 and at most 1, e.g. 0.85", 2)
    if role.capitalize() not in ROLES:
        fail(f"--role is {role!r}; expected aggregated, prefill or decode", 2)
    architecture = workload.model_named(model)
    kind = workload.kind_named(accelerator, workload.kinds_with(prices))
    total, width, experts = workload.layout(chips, tp, ep)
    replica = Replica(
        architecture,
        accelerator_of(kind),
        total or 1,
        workload.precision("--weights", weights, architecture.native_weights),
        workload.precision("--kv", kv, "Bf16"),
        tensor_parallel=width or 1,
        expert_parallel=experts,
        compute=workload.precision("--compute", compute, ""),
        speculation=workload.speculation(accept_length, draft_tokens),
    )
    if replica.compute and replica.compute not in replica.accelerator.flops:
        known = ", ".join(one.lower() for one in replica.accelerator.flops)
        fail(f"--compute is {compute}; {accelerator} is known to compute in {known}", 2)
    work = workload.read_workload(
        preset=preset,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached=cached,
        ttft_p95=ttft_p95,
        tpot=tpot,
    )
    entry = chosen_price(kind, capacity_type)
    price = price_per_hour or (float(entry.usd_per_chip_hour) if entry else None)
    evidence = Evidence(today=datetime.datetime.now(tz=datetime.UTC).date())
    asked = Question(
        replica=replica,
        open_width=not total,
        role=role.capitalize(),
        work=work,
        correction=UNCORRECTED,
        batch=batch or None,
        memory_utilisation=memory_utilisation,
        usd_per_chip_hour=price,
    )
    profiles = offer_of(kind, placeable=False).profiles
    asked = replace(asked, correction=evidence.correction(replica, profiles))
    chip = ChipCost(price or 0.0, usd_per_kilowatt_hour=usd_per_kwh, pue=pue)
    if (sweep or levers) and price is None:
        fail(f"{accelerator} has no {capacity_type} price in the catalogue; give one, e.g. --price-per-hour 2.50", 2)
    if sweep:
        print_sweep(sweep, asked.replica, work, chip, widths=_widths(asked), utilisation=utilisation, form=form)
        return
    replica, found = _solved(asked)
    if levers:
        print_levers(replica, work, chip, utilisation=utilisation, form=form)
        return
    fit = replica_memory(replica, utilisation=memory_utilisation)
    answer = _head(model, asked, replica, fit)
    if isinstance(found, CannotServe):
        answer |= {"cannot_serve": found.cause, "because": found.detail}
    else:
        priced = breakdown(
            found, replace(chip, usd_per_chip_hour=price or 1.0), utilisation=utilisation, usage=work.usage
        )
        figures = as_json(priced)
        if price is None:
            figures |= dict.fromkeys(name for name in figures if name.startswith(("usd_", "cost_")))
            answer["note"] = f"{accelerator} has no {capacity_type} price; give one, e.g. --price-per-hour 2.50"
        answer |= figures
        if asked.role == "Aggregated":
            answer |= _host_or_buy(priced, price, tokens_per_month, utilisation)
    if form is Form.JSON:
        print_json(answer)
    else:
        _print(f"{model} on {replica.chips} x {accelerator}", answer)
    if isinstance(found, CannotServe):
        raise typer.Exit(1)


def _widths(asked: Question) -> tuple[Replica, ...]:
    """The replicas to try, narrowest first."""
    if not asked.open_width:
        return (asked.replica,)
    return tuple(workload.with_width(asked.replica, n) for n in workload.widths_of(asked.replica.accelerator))


def _solved(asked: Question) -> tuple[Replica, Estimate | CannotServe]:
    """The narrowest replica that serves, or the widest that does not."""
    replica, found = asked.replica, CannotServe("Width", "no width was tried")
    answer: Estimate | CannotServe = found
    for replica in _widths(asked):
        answer = estimate(
            replica,
            asked.work.shape,
            asked.work.objectives,
            role=asked.role,
            correction=asked.correction,
            batch=asked.batch,
            memory_utilisation=asked.memory_utilisation,
        )
        if isinstance(answer, Estimate):
            break
    return replica, answer


def _head(model: str, asked: Question, replica: Replica, fit: MemoryFit) -> dict[str, Any]:
    shape = asked.work.shape
    return {
        "model": model,
        "accelerator": replica.accelerator.name,
        "role": asked.role,
        "chips": replica.chips,
        "tensor_parallel": replica.tp,
        "expert_parallel": replica.expert_parallel,
        "weights": replica.weights,
        "kv": replica.kv,
        "input_tokens": shape.input_mean,
        "output_tokens": shape.output_mean,
        "cached_share": shape.cached_share,
        "usd_per_chip_hour": asked.usd_per_chip_hour,
        "fits": fit.fits,
        "kv_room_bytes": max(0.0, fit.kv_room),
        "max_context_tokens": fit.max_context_tokens,
    }


def _host_or_buy(priced: Breakdown, price: float | None, tokens_per_month: float, utilisation: float) -> dict[str, Any]:
    """The cheapest external offer for the same tokens, and what it takes for hosting to be cheaper."""
    found = priced.estimate
    shape = found.shape
    nothing: dict[str, Any] = {"external_api": None, "host_or_buy": None}
    try:
        offers = external_offers(found.replica.model.name, datetime.datetime.now(tz=datetime.UTC).date())
    except PricesNotInstalled as error:
        return nothing | {"host_or_buy": str(error)}
    tokens = TokenVector(shape.uncached, shape.cached, shape.output_mean, requests=1.0)
    offer = cheapest(offers, tokens)
    if offer is None:
        return nothing | {"host_or_buy": f"no external price of {found.replica.model.name} is known"}
    api = blended_usd_per_million(offer, tokens, prompt_tokens=shape.input_mean)
    answer: dict[str, Any] = {
        "external_api": {
            "name": offer.name,
            "usd_per_million_tokens": api,
            "as_of": offer.as_of,
            "source": offer.source,
        },
        "break_even_usd_per_chip_hour": break_even_usd_per_chip_hour(found, api, utilisation=utilisation),
    }
    if price is None:
        return answer | {"host_or_buy": None}
    full = found.requests_per_second * 3600.0 * tokens.total
    load = utilisation if utilisation < 1 else PLANNING_UTILISATION
    hosting = Hosting(priced.cost.usd_per_hour * HOURS_PER_MONTH, full * load * HOURS_PER_MONTH)
    volume = tokens_per_month or hosting.tokens_per_replica_month
    line = host_or_buy(hosting, tokens_per_month=volume, api_usd_per_million_tokens=api, api=offer.name)
    return answer | {
        "break_even_utilisation": break_even_utilisation(priced.cost.usd_per_hour, full, api),
        "host_or_buy": line.sentence,
    }


def _print(title: str, answer: Mapping[str, Any]) -> None:
    rows: list[tuple[str, str]] = []
    sentences = []
    for name, value in answer.items():
        if isinstance(value, str) and " " in value:
            sentences.append(f"  {name.replace('_', ' ')}: {value}")
        elif isinstance(value, Mapping):
            rows += [(f"{name}.{key}", _text(one)) for key, one in value.items()]
        else:
            rows.append((name, _text(value)))
    print_table(title, ("", "#"), rows)
    for line in sentences:
        typer.echo(line)


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
