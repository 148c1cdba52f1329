"""`tidefleet cost`: what tokens cost on one configuration, and everything that follows from it."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from tidefleet import catalogue
from tidefleet.api import AcceleratorType
from tidefleet.api.vocabulary import CapacityType
from tidefleet.cli import workload
from tidefleet.cli.cost_table import print_cost
from tidefleet.cli.hosting import host_or_buy_of
from tidefleet.cli.output import Form, fail, print_json
from tidefleet.cli.sweep import print_levers, print_sweep
from tidefleet.economics.breakdown import FIGURES, Breakdown, as_json, breakdown
from tidefleet.economics.contest import widths
from tidefleet.economics.evidence import Correction
from tidefleet.economics.memory import (
    GPU_MEMORY_UTILISATION,
    MemoryFit,
    kv_bytes,
    kv_bytes_per_token,
    replica_memory,
)
from tidefleet.economics.money import ChipCost, token_cost
from tidefleet.economics.prices import from_the_future, staleness
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import ROLES, CannotServe, Estimate, estimate
from tidefleet.planning.evidence import Evidence, Profile
from tidefleet.planning.from_api import accelerator_of, chosen_price, offer_of

_BUSY = 1.0 - 1e-9
"""Load of a prefill rank that is never without a prompt."""

_CHIPS = workload.within(1, 65_536, "8")


@dataclass(frozen=True, slots=True)
class Question:
    """One configuration to price, and where the width is open the configurations to choose the cheapest of.

    Attributes:
        replicas: what may serve, narrowest first.
        batch: the batch to price; ``None``: the largest that meets the objectives.
        chip: what a chip-hour costs; 1 USD for comparison where no price is known.
        usd_per_chip_hour: ``None`` where no price is known.
    """

    replicas: tuple[Replica, ...]
    role: str
    work: workload.Workload
    batch: float | None
    memory_utilisation: float
    chip: ChipCost
    usd_per_chip_hour: float | None
    utilisation: float
    evidence: Evidence
    profiles: tuple[Profile, ...]

    def correction(self, replica: Replica) -> Correction:
        """What is measured about a replica."""
        return self.evidence.correction(replica, self.profiles)


def cost(
    accelerator: Annotated[str, typer.Option(help="Accelerator type, e.g. h100-sxm.")],
    model: Annotated[
        str, typer.Option(help="Model of the catalogue, e.g. llama-3.3-70b, or its Hugging Face id.")
    ] = "",
    architecture: workload.Config = None,
    chips: Annotated[
        int | None,
        typer.Option(help="Chips of one replica; by default what --tp and --ep ask.", callback=_CHIPS),
    ] = None,
    tp: Annotated[
        int | None,
        typer.Option(
            help="Tensor-parallel width: chips that share a sequence. Without a layout, the cheapest that serves.",
            callback=_CHIPS,
        ),
    ] = None,
    ep: Annotated[
        int | None,
        typer.Option(help="Chips that the routed experts are spread over.", callback=_CHIPS),
    ] = None,
    role: Annotated[str, typer.Option(help="aggregated, prefill or decode.")] = "aggregated",
    weights: Annotated[str, typer.Option(help="bf16, fp8 or fp4; the model's own by default.")] = "",
    kv: Annotated[str, typer.Option(help="bf16 or fp8.")] = "bf16",
    compute: Annotated[str, typer.Option(help="Precision of arithmetic; what storage and chip give by default.")] = "",
    engine: workload.EngineName = "vllm",
    preset: workload.PresetName = "",
    input_tokens: workload.Lengths = None,
    output_tokens: workload.Generated = None,
    cached: workload.Cached = None,
    batch: Annotated[
        float | None,
        typer.Option(
            help="Price this batch, not the largest that meets the objectives.",
            callback=workload.within(1e-3, 1e6, "64"),
        ),
    ] = None,
    ttft_p95: workload.First = "",
    tpot: workload.Between = "",
    accept_length: Annotated[
        float,
        typer.Option(
            help="Tokens that a speculative step yields; 1: no speculation.",
            callback=workload.within(1, 64, "2.4"),
        ),
    ] = 1.0,
    draft_tokens: Annotated[
        int,
        typer.Option(
            help="Drafted tokens a step; by default --accept-length, rounded up.", callback=workload.within(0, 64, "3")
        ),
    ] = 0,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            help="USD per chip-hour; the catalogue's by default.",
            callback=workload.within(1e-6, 1e6, "2.50", "leave it out for the catalogue's price"),
        ),
    ] = None,
    capacity_type: Annotated[str, typer.Option(help="OnDemand, Spot, Reserved or Owned.")] = "OnDemand",
    prices: workload.Prices = None,
    pue: workload.Pue = 1.0,
    usd_per_kwh: workload.Tariff = 0.0,
    utilisation: workload.Busy = 1.0,
    memory_utilisation: Annotated[
        float,
        typer.Option(help="Share of device memory the engine takes.", callback=workload.within(0.05, 1, "0.9")),
    ] = GPU_MEMORY_UTILISATION,
    tokens_per_month: Annotated[
        float | None,
        typer.Option(
            help="Volume for host or buy; what one replica carries by default.",
            callback=workload.within(1, 1e18, "5e9"),
        ),
    ] = None,
    sweep: Annotated[str, typer.Option(help="Price floor per speed, e.g. tpot=5ms..100ms.")] = "",
    levers: Annotated[bool, typer.Option("--levers", help="The stacked effect of software levers.")] = False,
    form: Annotated[Form, typer.Option("-o", "--format", help="table or json.")] = Form.TABLE,
) -> None:
    """What tokens cost for one model on one accelerator, at the largest batch that meets the objectives.

    Prices per direction are allocations of one bill. Every answer names where its speed comes from and how sure it is.
    """
    kind_of_role = role.capitalize()
    if kind_of_role not in ROLES:
        fail(f"--role is {role!r}; expected aggregated, prefill or decode", 2)
    known = workload.model_of(model, architecture)
    kind = workload.kind_named(accelerator, workload.kinds_with(prices))
    basis = workload.basis(capacity_type)
    total, width, experts = workload.layout(chips, tp, ep)
    workload.check_layout(known, width or 1, ep)
    replica = Replica(
        known,
        accelerator_of(kind),
        total or 1,
        workload.precision("--weights", weights, workload.stated_precision(model) or known.native_weights),
        workload.precision("--kv", kv, "Bf16"),
        tensor_parallel=width or 1,
        expert_parallel=experts,
        compute=workload.precision("--compute", compute, ""),
        speculation=workload.speculation(accept_length, draft_tokens),
        engine=workload.engine_named(engine),
    )
    if replica.compute and replica.compute not in replica.accelerator.flops:
        computes = ", ".join(one.lower() for one in replica.accelerator.flops)
        fail(f"--compute is {compute}; {accelerator} is known to compute in {computes}", 2)
    work = workload.read_workload(
        preset=preset,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached=cached,
        ttft_p95=ttft_p95,
        tpot=tpot,
    )
    notes = []
    price, source = _price(kind, basis, price_per_hour)
    if price is None:
        notes.append(f"{accelerator} has no {basis} price; give one, e.g. --price-per-hour 2.50")
    elif price_per_hour is None:
        notes += _ages(kind, basis)
    if price_per_hour is not None and (odd := workload.plausibility(kind, basis, price_per_hour)):
        notes.append(odd)
    if batch is not None and work.objectives:
        notes.append("a batch was given, so objectives are not enforced")
    asked = Question(
        replicas=(replica,)
        if total
        else tuple(workload.with_width(replica, n) for n in widths(replica.accelerator) if known.heads % n == 0),
        role=kind_of_role,
        work=work,
        batch=batch,
        memory_utilisation=memory_utilisation,
        chip=ChipCost(1.0 if price is None else price, usd_per_kilowatt_hour=usd_per_kwh, pue=pue),
        usd_per_chip_hour=price,
        utilisation=utilisation,
        evidence=workload.evidence(),
        profiles=tuple(offer_of(kind, placeable=False).profiles),
    )
    refused = workload.refused_role(kind, kind_of_role)
    if (sweep or levers) and refused:
        fail(f"--role is {role}: {refused.detail}", 2)
    if levers and (sweep or batch is not None):
        fail(f"--levers and {'--sweep' if sweep else '--batch'} exclude each other; ask one after the other", 2)
    if sweep:
        _sweep(sweep, asked, form)
        return
    try:
        found = refused or _cheapest(asked)
        if levers and isinstance(found, Estimate):
            if price is None:
                fail(f"{notes[0]}", 2)
            print_levers(found.replica, work, asked.chip, asked.correction, role=kind_of_role, utilisation=utilisation,
                         memory_utilisation=memory_utilisation, form=form)  # fmt: skip
            return
        answer, failed = _answer(asked, found), isinstance(found, CannotServe)
        answer["price_source"] = source
        if batch is not None and isinstance(found, Estimate) and batch > (room := _room_at_full_length(found)):
            notes.append(f"{batch:g} sequences fit half way through their answers; at full length {room:.0f} do")
        if isinstance(found, Estimate) and kind_of_role == "Aggregated":
            answer |= host_or_buy_of(breakdown_of(asked, found), asked.chip, price, tokens_per_month, utilisation)
    except ValueError as error:
        fail(str(error), 2)
    answer["notes"] = notes
    if form is Form.JSON:
        print_json(answer)
    else:
        print_cost(answer, work)
    if failed:
        raise typer.Exit(1)


def _price(kind: AcceleratorType, basis: CapacityType, given: float | None) -> tuple[float | None, str]:
    """USD per chip-hour and where it is from."""
    if given is not None:
        return given, "--price-per-hour"
    entry = chosen_price(kind, basis)
    if entry is None:
        return None, ""
    where = " ".join(word for word in (str(entry.capacity_type), entry.provider, entry.region) if word)
    day = f", {entry.as_of}" if entry.as_of else ""
    return float(entry.usd_per_chip_hour), f"{where}{day}: {entry.source or 'no source named'}"


def _ages(kind: AcceleratorType, basis: CapacityType) -> list[str]:
    """What is wrong with the date of the price that counts; those that ship are list prices of a day, and say which."""
    entry, today = chosen_price(kind, basis), datetime.datetime.now(tz=datetime.UTC).date()
    shipped = catalogue.accelerator_types().get(kind.name)
    if entry is None or (shipped is not None and entry in shipped.spec.prices):
        return []
    found = (staleness(entry.as_of, today, str(basis)), from_the_future(entry.as_of, today))
    return [f"the {basis} price of {kind.name} {why}" for why in found if why]


def _sweep(text: str, asked: Question, form: Form) -> None:
    if asked.usd_per_chip_hour is None:
        name = asked.replicas[0].accelerator.name
        fail(f"{name} has no price of this capacity type; give one, e.g. --price-per-hour 2.50", 2)
    if asked.batch is not None:
        fail("--batch and --sweep exclude each other: a sweep looks for the batch of each speed", 2)
    if asked.role == "Prefill":
        fail("--sweep is over the time between tokens, which a prefill replica has none of; leave --role out", 2)
    print_sweep(text, asked.replicas, asked.work, asked.chip, asked.correction, role=asked.role,
                utilisation=asked.utilisation, memory_utilisation=asked.memory_utilisation, form=form)  # fmt: skip


def _cheapest(asked: Question) -> Estimate | CannotServe:
    """The operating point with the lowest price per token, or why even the widest replica cannot serve."""
    found: list[Estimate] = []
    failed: CannotServe | None = None
    for replica in asked.replicas:
        one = (
            _prompts_at_once(asked, replica)
            if asked.role == "Prefill" and asked.batch is not None
            else estimate(
                replica,
                asked.work.shape,
                asked.work.objectives,
                role=asked.role,
                correction=asked.correction(replica),
                batch=asked.batch,
                memory_utilisation=asked.memory_utilisation,
            )
        )
        if isinstance(one, Estimate):
            found.append(one)
        else:
            failed = one
    if not found:
        return failed or CannotServe("Width", "no width was tried")
    return min(found, key=lambda one: token_cost(one, asked.chip, utilisation=asked.utilisation).blended)


def _prompts_at_once(asked: Question, replica: Replica) -> Estimate | CannotServe:
    """A prefill replica that always has so many prompts: each rank takes them one after the other, so the last waits
    for those before it, and nothing queues beyond them."""
    prompts, ranks = asked.batch or 1.0, replica.data_parallel
    one = estimate(
        replica,
        asked.work.shape,
        role="Prefill",
        correction=asked.correction(replica),
        batch=min(_BUSY, prompts / ranks),
        memory_utilisation=asked.memory_utilisation,
    )
    if isinstance(one, CannotServe):
        return one
    last = one.prefill_seconds * max(1.0, prompts / ranks) + one.fetch_seconds
    return replace(one, batch=prompts, ttft_seconds=last)


def _room_tokens(replica: Replica, fit: MemoryFit) -> int:
    """Tokens that the KV caches of the whole replica hold in sequences of the longest context that the model has."""
    context = float(replica.model.context_tokens or 131_072)
    each = kv_bytes(replica.model, replica.kv, replica.tp, context)
    return int(max(0.0, fit.kv_room) * replica.chips / max(1.0, each) * context)


def _room_at_full_length(found: Estimate) -> float:
    """Sequences whose KV cache fits when each has its whole prompt and answer; unbounded where none is generated."""
    if found.role == "Prefill":
        return math.inf
    replica, shape = found.replica, found.shape
    each = kv_bytes(replica.model, replica.kv, replica.tp, shape.input_mean + max(1.0, shape.output_mean))
    return found.memory.kv_room * replica.chips / max(1.0, each)


def breakdown_of(asked: Question, found: Estimate) -> Breakdown:
    """The point with all that follows from it."""
    return breakdown(found, asked.chip, utilisation=asked.utilisation, usage=asked.work.usage)


def _answer(asked: Question, found: Estimate | CannotServe) -> dict[str, Any]:
    replica = found.replica if isinstance(found, Estimate) else asked.replicas[-1]
    fit = replica_memory(replica, utilisation=asked.memory_utilisation)
    answer = _head(asked, replica, fit)
    if isinstance(found, CannotServe):
        return (
            answer
            | dict.fromkeys((*FIGURES, "provenance_source"))
            | {"cannot_serve": found.cause, "because": found.detail}
        )
    figures = as_json(breakdown_of(asked, found)) | {"provenance_source": asked.correction(replica).source}
    if asked.usd_per_chip_hour is None:
        figures |= dict.fromkeys(name for name in figures if name.startswith(("usd_", "cost_")))
    return answer | figures


def _head(asked: Question, replica: Replica, fit: MemoryFit) -> dict[str, Any]:
    shape = asked.work.shape
    return {
        "model": replica.model.name,
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
        "kv_bytes_per_token": kv_bytes_per_token(replica.model, replica.kv, replica.tp),
        "kv_room_tokens": _room_tokens(replica, fit),
        "max_context_tokens": fit.max_context_tokens,
    }
