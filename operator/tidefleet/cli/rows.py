"""The entries of `tidefleet compare`: hosted configurations and external APIs in one shape, ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tidefleet.api import AcceleratorType
from tidefleet.api.vocabulary import CapacityType
from tidefleet.cli.hosting import tokens_of
from tidefleet.cli.workload import Workload
from tidefleet.economics.breakdown import Usage, request_and_task
from tidefleet.economics.contest import Ask, Contestant, Serving, paired, servings, usd_per_chip_hour_to_cost
from tidefleet.economics.external import ExternalOffer, PerToken, blended_usd_per_million
from tidefleet.economics.money import MILLION, ChipCost
from tidefleet.economics.ranking import METRICS, Standing, ranks
from tidefleet.economics.serving import CannotServe
from tidefleet.economics.shape import TokenShape
from tidefleet.economics.tasks import TokenRates
from tidefleet.planning.evidence import Evidence
from tidefleet.planning.from_api import accelerator_of, chosen_price, offer_of

Row = dict[str, Any]
"""One entry by the names of the JSON answer."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What hours and load are counted at.

    Attributes:
        bases: ways of paying to compare, one entry for each that a type has a price of.
    """

    bases: tuple[CapacityType, ...]
    utilisation: float = 1.0
    usd_per_kwh: float = 0.0
    pue: float = 1.0

    def chip(self, usd_per_chip_hour: float) -> ChipCost:
        """A chip at this rent."""
        return ChipCost(usd_per_chip_hour, usd_per_kilowatt_hour=self.usd_per_kwh, pue=self.pue)


@dataclass(frozen=True, slots=True)
class Found:
    """What a comparison found: priced entries by rank, unpriced ones, and those that cannot serve."""

    entries: list[Row]
    unpriced: list[Row]
    cannot_serve: list[Row]


def hosted(
    ask: Ask, kinds: Sequence[AcceleratorType], work: Workload, bill: Bill, evidence: Evidence
) -> tuple[list[Row], list[tuple[Row, Serving, list[ChipCost | None]]], list[Row]]:
    """Priced entries, unpriced ones with what is needed to find their price, and those that cannot serve."""
    priced: list[Row] = []
    unpriced: list[tuple[Row, Serving, list[ChipCost | None]]] = []
    refused: list[Row] = []
    contestants = {kind.name: _contestant(kind, evidence) for kind in kinds}
    for kind in kinds:
        one = contestants[kind.name]
        groups: list[tuple[list[AcceleratorType], list[Serving]]] = []
        if {"Aggregated", "Decode"} & one.roles:
            found = servings(ask, one)
            if isinstance(found, CannotServe):
                refused.append(_refusal(ask, kind, found))
                continue
            groups.append(([kind], found))
        else:
            groups = [
                ([kind, other], got)
                for other in _partners(kinds, contestants)
                if (got := paired(ask, one, contestants[other.name]))
            ]
            if not groups:
                refused.append(_refusal(ask, kind, _why_no_partner(ask, one)))
                continue
        for basis in bill.bases:
            rows = [_best(ask, parts, found, basis, work, bill) for parts, found in groups]
            best = sorted((row for row, *_ in rows if row["usd_per_million_tokens"] is not None), key=_usd)
            priced += best[:1]
        if not any(chosen_price(kind, basis) for basis in bill.bases):
            choices = [_unpriced(ask, parts, found, bill) for parts, found in groups]
            beside = [one for one in choices if any(one[2])]  # a partner whose price is known
            known = beside or choices
            unpriced.append(min(known, key=lambda one: _usd_at_one(one[1], one[2], bill)))
    return priced, unpriced, refused


def _contestant(kind: AcceleratorType, evidence: Evidence) -> Contestant:
    profiles = tuple(offer_of(kind, placeable=False).profiles)
    return Contestant(
        accelerator_of(kind),
        frozenset(str(role) for role in kind.spec.roles),
        lambda replica: evidence.correction(replica, profiles),
    )


def _partners(kinds: Sequence[AcceleratorType], contestants: Mapping[str, Contestant]) -> list[AcceleratorType]:
    return [one for one in kinds if "Decode" in contestants[one.name].roles]


def _why_no_partner(ask: Ask, one: Contestant) -> CannotServe:
    """Why a type that only prefills is in no pair: itself, or that nothing decodes beside it."""
    alone = servings(ask, Contestant(one.accelerator, frozenset(("Aggregated",)), one.correction))
    if isinstance(alone, CannotServe) and alone.cause == "Unprofiled":
        return CannotServe(alone.cause, f"prefills only, and {alone.detail}")
    return CannotServe("Role", "prefills only, and no accelerator type of this comparison decodes beside it in time")


def _refusal(ask: Ask, kind: AcceleratorType, why: CannotServe) -> Row:
    return {"model": ask.model.name, "accelerator": kind.name, "cause": why.cause, "because": why.detail}


def _usd(row: Row) -> float:
    return float(row["usd_per_million_tokens"])


def _best(
    ask: Ask,
    parts: Sequence[AcceleratorType],
    found: Sequence[Serving],
    basis: CapacityType,
    work: Workload,
    bill: Bill,
) -> tuple[Row, Serving]:
    """The cheapest configuration on types that have a price; without one, no USD."""
    entries = [chosen_price(kind, basis) for kind in parts]
    known = [one for one in entries if one is not None]
    if len(known) < len(entries):
        return {"usd_per_million_tokens": None}, found[0]
    rents = [float(one.usd_per_chip_hour) for one in known]

    def chips(serving: Serving) -> list[ChipCost]:
        return [bill.chip(rent) for rent in _each(rents, serving)]

    best = min(found, key=lambda one: one.usd_per_million(chips(one), bill.utilisation))
    row = _shared(ask, parts, best)
    paid = chips(best)
    rates = best.rates(paid, bill.utilisation)
    per_request, per_task = mean_costs(ask.shape, work.usage, rates)
    rent = best.per_chip(one.usd_per_chip_hour for one in paid)
    flops = best.per_chip(_flops_per_chip(best))
    bandwidth = best.per_chip(one.replica.accelerator.memory_bytes_per_second for one in best.parts)
    row |= {
        "basis": str(basis),
        "usd_per_million_tokens": best.usd_per_million(paid, bill.utilisation),
        "usd_per_million_input_tokens": rates.uncached_input * MILLION,
        "usd_per_million_cached_input_tokens": rates.cached_input * MILLION,
        "usd_per_million_output_tokens": rates.output * MILLION,
        "usd_per_request": per_request,
        "usd_per_task": per_task,
        "usd_per_chip_hour": rent,
        "dense_pflops_per_usd_hour": flops / 1e15 / rent,
        "hbm_terabytes_per_second_per_usd_hour": bandwidth / 1e12 / rent,
        "price_as_of": min((str(one.as_of) for one in known if one.as_of), default=""),
        "price_source": "; ".join(one.source or "no source named" for one in known),
    }
    return row, best


def mean_costs(shape: TokenShape, usage: Usage, rates: TokenRates) -> tuple[float, float]:
    """Mean USD of a request and of a task; both are linear in the rates."""
    asked = (rates.uncached_input, rates.cached_input, rates.output)
    request, task = (
        sum(rate / _UNIT * usd for rate, usd in zip(asked, per_unit, strict=True))
        for per_unit in _costs_of_unit_rates(shape, usage)
    )
    return request, task


_UNIT = 1e-6


@cache
def _costs_of_unit_rates(shape: TokenShape, usage: Usage) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """USD of a request and of a task where one direction costs ``_UNIT`` a token and the others nothing."""
    units = (TokenRates(_UNIT, 0.0, 0.0), TokenRates(0.0, _UNIT, 0.0), TokenRates(0.0, 0.0, _UNIT))
    found = [request_and_task(shape, one, usage) for one in units]
    return tuple(request.mean for request, _ in found), tuple(task.mean for _, task in found)


def _each(values: Sequence[float], serving: Serving) -> list[float]:
    """One value for each part: both parts of a pair may be of one type."""
    return [*values] if len(values) == len(serving.parts) else [values[0]] * len(serving.parts)


def _flops_per_chip(serving: Serving) -> list[float]:
    return [one.replica.peak_flops / one.replica.chips for one in serving.parts]


def _usd_at_one(serving: Serving, rents: Sequence[ChipCost | None], bill: Bill) -> float:
    """USD per million tokens where chips without a price cost 1 USD an hour."""
    return serving.usd_per_million([one or bill.chip(1.0) for one in rents], bill.utilisation)


def _unpriced(
    ask: Ask, parts: Sequence[AcceleratorType], found: Sequence[Serving], bill: Bill
) -> tuple[Row, Serving, list[ChipCost | None]]:
    """The configuration that costs least where an unpriced chip costs 1 USD an hour, and the rents that are known."""
    known = []
    for kind in parts:
        prices = [float(one.usd_per_chip_hour) for basis in bill.bases if (one := chosen_price(kind, basis))]
        known.append(bill.chip(min(prices)) if prices else None)

    def rents(serving: Serving) -> list[ChipCost | None]:
        return [*known] if len(known) == len(serving.parts) else [known[0]] * len(serving.parts)

    best = min(found, key=lambda one: _usd_at_one(one, rents(one), bill))
    row = _shared(ask, parts, best)
    row["other_prices"] = {
        str(basis): float(one.usd_per_chip_hour) for basis in CapacityType if (one := chosen_price(parts[0], basis))
    }
    return row, best, rents(best)


def _shared(ask: Ask, parts: Sequence[AcceleratorType], one: Serving) -> Row:
    """What an entry says whatever it costs."""
    last = one.last
    seconds = one.chip_seconds
    native = ask.model.native_weights
    return {
        "model": ask.model.name,
        "name": " + ".join(kind.name for kind in parts),
        "kind": "Replica" if one.both is None else "Pair",
        "how": _how(one),
        "chips": sum(each.replica.chips for each in one.parts),
        "weights": last.replica.weights,
        "own_precision": all(each.replica.weights == native for each in one.parts),
        "kv": last.replica.kv,
        "layout": [
            {
                "role": each.role,
                "accelerator": each.replica.accelerator.name,
                "chips": each.replica.chips,
                "tensor_parallel": each.replica.tp,
                "expert_parallel": each.replica.expert_parallel,
                "share_of_chips": mine / sum(seconds),
            }
            for each, mine in zip(one.parts, seconds, strict=True)
        ],
        "output_tokens_per_second_per_chip": max(1.0, ask.shape.output_mean) / sum(seconds),
        "output_tokens_per_second_per_watt": one.output_tokens_per_joule,
        "watts_per_chip": one.watts_per_chip,
        "batch": last.batch,
        "ttft_seconds": one.ttft_seconds,
        "tpot_seconds": last.tpot_seconds,
        "max_context_tokens": min(each.memory.max_context_tokens for each in one.parts),
        "bound_by": last.bound_by,
        "limited_by": last.limited_by,
        "provenance": "/".join(dict.fromkeys(each.provenance for each in one.parts)),
        "sigma": one.sigma,
    }


def _how(one: Serving) -> str:
    """Precision and layout, e.g. ``fp8 tp2`` or ``fp8 ep8 > tp1`` for prefill and decode apart."""

    def layout(part: Any) -> str:
        return f"ep{part.expert_parallel}" if part.expert_parallel > 1 else f"tp{part.tp}"

    replica = one.last.replica
    words = [replica.weights.lower(), " > ".join(layout(each.replica) for each in one.parts)]
    return " ".join([*words, "kv-fp8"] if replica.kv == "Fp8" else words)


def external(model: str, offers: Sequence[ExternalOffer], work: Workload, limit: int) -> list[Row]:
    """The cheapest offers of a model as entries; of offers with the same prices, the one with the shortest name."""
    tokens = tokens_of(work.shape)
    prompt = work.shape.input_mean
    rows: list[Row] = []
    for offer in offers:
        billing = offer.billing
        if not isinstance(billing, PerToken):
            continue
        if billing.long is not None and billing.long_from_tokens and prompt > billing.long_from_tokens:
            billing = billing.long
        cached = billing.input if billing.cached_input is None else billing.cached_input
        rates = TokenRates(billing.input / MILLION, cached / MILLION, billing.output / MILLION)
        per_request, per_task = mean_costs(work.shape, work.usage, rates)
        rows.append(
            {
                "model": model,
                "name": offer.name,
                "kind": "Api",
                "how": "per token",
                "basis": "Api",
                "usd_per_million_tokens": blended_usd_per_million(offer, tokens, prompt_tokens=prompt),
                "usd_per_million_input_tokens": billing.input,
                "usd_per_million_cached_input_tokens": cached,
                "usd_per_million_output_tokens": billing.output,
                "usd_per_request": per_request,
                "usd_per_task": per_task,
                "price_as_of": offer.as_of,
                "price_source": offer.source,
                "provenance": "PriceList",
            }
        )
    different: dict[tuple[float, ...], Row] = {}
    for row in sorted(rows, key=lambda one: len(one["name"])):
        different.setdefault((_usd(row), float(row["usd_per_million_output_tokens"])), row)
    return sorted(different.values(), key=_usd)[:limit]


NAMES = (
    "rank", "model", "name", "kind", "how", "basis", "usd_per_million_tokens", "usd_per_million_input_tokens",
    "usd_per_million_cached_input_tokens", "usd_per_million_output_tokens", "usd_per_request", "usd_per_task",
    *METRICS, "ranks", "cost_ranks", "inverted", "chips", "weights", "own_precision", "kv", "layout",
    "output_tokens_per_second_per_chip", "watts_per_chip", "batch", "ttft_seconds", "tpot_seconds",
    "max_context_tokens", "bound_by", "limited_by", "quality", "price_as_of", "price_source", "provenance", "sigma",
)  # fmt: skip
"""What every ranked entry has; ``None`` where it does not apply or is not known."""


def standing(row: Mapping[str, Any]) -> Standing:
    """An entry as it is ranked."""
    return Standing(
        f"{row['name']} ({row['how']})", float(row["usd_per_million_tokens"]), {name: row.get(name) for name in METRICS}
    )


def ranked(rows: Sequence[Row], quality: Mapping[str, float]) -> list[Row]:
    """Entries from the cheapest, each with its rank by every metric and the metrics by which its rank inverts."""
    order = sorted(rows, key=lambda row: (_usd(row), row["name"]))
    found = []
    for place, (row, by_metric) in enumerate(zip(order, ranks([standing(row) for row in order]), strict=True), 1):
        row |= {
            "rank": place,
            "quality": quality.get(row["model"]),
            "ranks": {name: rank for name, (rank, _) in by_metric.items()},
            "cost_ranks": {name: by_cost for name, (_, by_cost) in by_metric.items()},
            "inverted": [name for name, (rank, by_cost) in by_metric.items() if rank != by_cost],
        }
        found.append({name: row.get(name) for name in NAMES})
    return found


def reasons(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Those that cannot serve, and why; the ones with the same reason together."""
    several = len({row["model"] for row in rows}) > 1
    found: dict[str, list[str]] = {}
    for row in rows:
        name = f"{row['model']} on {row['accelerator']}" if several else str(row["accelerator"])
        found.setdefault(row["because"], []).append(name)
    return [(", ".join(names), because) for because, names in found.items()]


def with_winning_prices(
    unpriced: Sequence[tuple[Row, Serving, list[ChipCost | None]]], entries: Sequence[Row], bill: Bill
) -> list[Row]:
    """Unpriced entries with the price per chip-hour below which they would win, against hosting and against all."""
    found = []
    for row, serving, rents in unpriced:
        hosting = next((one for one in entries if one["kind"] != "Api"), None)
        for name, against in (("hosted", hosting), ("all", entries[0] if entries else None)):
            row |= {
                f"wins_against_{name}_below_usd_per_chip_hour": None
                if against is None
                else usd_per_chip_hour_to_cost(serving, rents, _usd(against), bill.utilisation, power=bill.chip(1.0)),
                f"wins_against_{name}": None if against is None else f"{against['name']} ({against['how']})",
            }
        found.append(row)
    return sorted(found, key=lambda row: -(row["wins_against_hosted_below_usd_per_chip_hour"] or 0.0))
