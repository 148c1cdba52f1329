"""`tidefleet compare`: which accelerator, model or external API is the cheapest for a workload, and what misleads."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tidefleet.api import AcceleratorType
from tidefleet.api.vocabulary import CapacityType
from tidefleet.catalogue.external_prices import PricesNotInstalled
from tidefleet.cli import workload
from tidefleet.cli.compare_page import page
from tidefleet.cli.compare_table import print_comparison
from tidefleet.cli.cost_table import lengths_words
from tidefleet.cli.hosting import offers_of
from tidefleet.cli.output import fail, json_text, put
from tidefleet.cli.rows import Bill, Row, external, hosted, ranked, standing, with_winning_prices
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.contest import Ask
from tidefleet.economics.ranking import METRICS, misled, sentence

APIS_SHOWN = 3
"""External offers of one model, where no provider is named."""


class ComparisonForm(StrEnum):
    """What the command prints."""

    TABLE = "table"
    JSON = "json"
    HTML = "html"


SORTS = {
    "usd": ("usd_per_million_tokens", False),
    "price": ("usd_per_chip_hour", False),
    "flops": ("dense_pflops_per_usd_hour", True),
    "bandwidth": ("hbm_terabytes_per_second_per_usd_hour", True),
    "watts": ("output_tokens_per_second_per_watt", True),
    "task": ("usd_per_task", False),
    "context": ("max_context_tokens", True),
    "speed": ("tpot_seconds", False),
}
"""``--sort`` words: the figure, and whether more comes first."""


def compare(
    model: Annotated[
        list[str] | None, typer.Option(help="Model of the catalogue or its Hugging Face id; may be repeated.")
    ] = None,
    architecture: workload.Config = None,
    accelerator: Annotated[
        list[str] | None, typer.Option(help="Accelerator type; may be repeated. All of them by default.")
    ] = None,
    preset: workload.PresetName = "",
    input_tokens: workload.Lengths = None,
    output_tokens: workload.Generated = None,
    cached: workload.Cached = None,
    ttft_p95: workload.First = "",
    tpot: workload.Between = "",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="bf16, fp8 or fp4; may be repeated. By default the model's own and what the chip computes in."
        ),
    ] = None,
    kv: Annotated[list[str] | None, typer.Option(help="bf16 or fp8; may be repeated. bf16 by default.")] = None,
    engine: workload.EngineName = "vllm",
    pairs: Annotated[bool, typer.Option("--pairs/--no-pairs", help="Also prefill and decode apart.")] = True,
    prices: workload.Prices = None,
    capacity_type: Annotated[
        list[str] | None, typer.Option(help="OnDemand, Spot, Reserved or Owned; may be repeated. OnDemand by default.")
    ] = None,
    utilisation: workload.Busy = 1.0,
    pue: workload.Pue = 1.0,
    usd_per_kwh: workload.Tariff = 0.0,
    api: Annotated[
        list[str] | None,
        typer.Option(
            "--api",
            help="Provider of an external API, e.g. together; may be repeated. The three cheapest offers by default.",
        ),
    ] = None,
    no_api: Annotated[bool, typer.Option("--no-api", help="Without external APIs.")] = False,
    quality: Annotated[
        list[str] | None, typer.Option(help="A quality score, e.g. llama-3.3-70b=86.0; may be repeated.")
    ] = None,
    sort: Annotated[str, typer.Option(help=f"Order of the rows: {', '.join(SORTS)}. Ranks stay by cost.")] = "usd",
    out: Annotated[Path | None, typer.Option(help="File to write to, instead of standard output.")] = None,
    form: Annotated[ComparisonForm, typer.Option("-o", "--format", help="table, json or html.")] = ComparisonForm.TABLE,
) -> None:
    """Rank accelerators, models and external APIs by what a workload's tokens cost, beside metrics that mislead.

    For each accelerator type the cheapest configuration that meets the objectives. Types without a price are told with
    the price at which they would win, types that cannot serve with the reason.
    """
    if sort not in SORTS:
        fail(f"--sort is {sort!r}; expected one of {', '.join(SORTS)}", 2)
    if api and no_api:
        fail("--api and --no-api exclude each other", 2)
    models = _models(model or [], architecture)
    kinds = workload.kinds_with(prices)
    named = {kind.name: kind for kind in (workload.kind_named(one, kinds) for one in accelerator or [])}
    chosen = list((named or kinds).values())
    scores = _scores(quality or [], [one.name for one in models])
    work = workload.read_workload(
        preset=preset,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached=cached,
        ttft_p95=ttft_p95,
        tpot=tpot,
    )
    bases = tuple(dict.fromkeys(workload.basis(one) for one in capacity_type or ["OnDemand"]))
    asks = [
        Ask(
            one,
            work.shape,
            work.objectives,
            weights=tuple(dict.fromkeys(workload.precision("--weights", text, "") for text in weights or [])),
            kv=tuple(dict.fromkeys(workload.precision("--kv", text, "Bf16") for text in kv or ["bf16"])),
            pairs=pairs,
            engine=workload.engine_named(engine),
        )
        for one in models
    ]
    bill = Bill(bases, utilisation=utilisation, usd_per_kwh=usd_per_kwh, pue=pue)
    try:
        answer = comparison(asks, chosen, work, bill, scores, apis=None if no_api else tuple(api or ()))
    except ValueError as error:
        fail(str(error), 2)
    name, more = SORTS[sort]
    answer["entries"].sort(key=lambda row: _sort_key(row, name, more))
    if form is ComparisonForm.TABLE and out is None:
        print_comparison(answer)
    else:
        _write(answer, form, out)
    if not answer["entries"] and not answer["unpriced"]:
        raise typer.Exit(1)


def _sort_key(row: Row, name: str, more: bool) -> tuple[bool, float, int]:
    value = row[name]
    return value is None, 0.0 if value is None else -value if more else value, row["rank"]


def _models(names: Sequence[str], config: Path | None) -> list[Architecture]:
    if not names and config is None:
        fail("--model is missing; expected a model of the catalogue, e.g. llama-3.3-70b, or --architecture FILE", 2)
    own = [workload.model_of("", config)] if config else []
    return [*dict.fromkeys(workload.model_named(one) for one in names), *own]


def _scores(texts: Sequence[str], models: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name not in models:
            name = workload.model_named(name, "--quality").name
        if not equals or name not in models:
            fail(f"--quality is {text!r}; expected MODEL=SCORE of a compared model, e.g. {models[0]}=86.0", 2)
        try:
            score = float(value)
        except ValueError:
            score = -1.0
        if not 0.0 <= score <= 1e4:
            fail(f"--quality {name} is {value!r}; expected a score from 0, e.g. {name}=86.0", 2)
        found[name] = score
    return found


def comparison(
    asks: Sequence[Ask],
    kinds: Sequence[AcceleratorType],
    work: workload.Workload,
    bill: Bill,
    quality: dict[str, float],
    *,
    apis: tuple[str, ...] | None = (),
) -> dict[str, Any]:
    """The whole answer by the names of its JSON.

    Args:
        apis: providers to show; empty: the cheapest few; ``None``: no external API.
    """
    evidence = workload.evidence()
    notes: list[str] = []
    rows, unpriced, refused = [], [], []
    for ask in asks:
        priced, without, cannot = hosted(ask, kinds, work, bill, evidence)
        rows += priced
        unpriced += without
        refused += cannot
        if apis is not None:
            rows += _external(ask.model.name, work, apis, notes)
    entries = ranked(rows, quality)
    found = misled([standing(row) for row in entries])
    return {
        "models": [ask.model.name for ask in asks],
        "workload": {
            "words": lengths_words(work),
            "input_tokens": work.shape.input_mean,
            "output_tokens": work.shape.output_mean,
            "cached_share": work.shape.cached_share,
            "objectives": [
                {"metric": one.metric, "percentile": one.percentile, "seconds": one.seconds} for one in work.objectives
            ],
            "utilisation": bill.utilisation,
            "capacity_types": [str(one) for one in bill.bases],
        },
        "entries": entries,
        "unpriced": with_winning_prices(unpriced, entries, bill),
        "cannot_serve": refused,
        "metrics": [
            {
                "metric": one.metric,
                "words": METRICS[one.metric][0],
                "first": one.first,
                "times_the_cheapest": one.times,
                "inverted_pairs": one.inverted,
                "pairs": one.pairs,
            }
            for one in found
        ],
        "misled_most": sentence(found),
        "notes": [*_notes(entries, asks, quality), *dict.fromkeys(notes)],
    }


def _external(model: str, work: workload.Workload, providers: tuple[str, ...], notes: list[str]) -> list[Row]:
    try:
        offers = offers_of(model)
    except PricesNotInstalled as error:
        notes.append(str(error))
        return []
    if providers:
        offers = tuple(one for one in offers if one.provider in providers)
    if not offers:
        of = f" of {', '.join(providers)}" if providers else ""
        notes.append(f"no external price{of} for {model} is known")
    return external(model, offers, work, limit=len(offers) if providers else APIS_SHOWN)


def _notes(entries: Sequence[Row], asks: Sequence[Ask], quality: dict[str, float]) -> list[str]:
    """What a reader must know to read the ranks rightly."""
    notes = []
    hosted_bases = {row["basis"] for row in entries if row["kind"] != "Api"}
    if len(hosted_bases) > 1 and str(CapacityType.OWNED) in hosted_bases:
        others = ", ".join(sorted(hosted_bases - {str(CapacityType.OWNED)}))
        notes.append(
            f"prices of different bases stand side by side (Owned and {others}): what owning costs and what rent costs "
            "are not the same thing; entries are marked with their basis"
        )
    elif len(hosted_bases) > 1:
        notes.append(f"prices of different terms stand side by side: {', '.join(sorted(hosted_bases))}")
    if any(row["kind"] == "Api" for row in entries):
        notes.append("whether an external API meets the objectives is not known; its tokens have no chips or watts")
    if any(row["own_precision"] is False for row in entries):
        notes.append(
            "weights narrower than the model's own (marked ~) can change answers; --weights limits them, "
            "e.g. --weights " + asks[0].model.native_weights.lower()
        )
    if len(asks) > 1:
        unknown = [ask.model.name for ask in asks if ask.model.name not in quality]
        if unknown:
            notes.append(
                f"no quality score of {', '.join(unknown)} is known: cost alone does not choose between models; "
                f"give scores, e.g. --quality {unknown[0]}=86.0"
            )
        else:
            notes.append("quality scores are those given with --quality")
    return notes


def _write(answer: dict[str, Any], form: ComparisonForm, out: Path | None) -> None:
    match form:
        case ComparisonForm.JSON:
            text = json_text(answer)
        case ComparisonForm.HTML:
            text = page(answer)
        case ComparisonForm.TABLE:
            text = print_comparison(answer, capture=True)
    if out is None:
        typer.echo(text)
    else:
        put(text, out, option="--out")
