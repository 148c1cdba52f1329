"""From API objects to what planning works with: units are converted and words become values here, once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial

from tidefleet.api import AcceleratorType, InferencePool, Site, WorkloadClass
from tidefleet.api.accelerator_type import BoughtAs, PriceState
from tidefleet.api.accelerator_type import Price as PriceEntry
from tidefleet.api.accelerator_type import Profile as ProfileEntry
from tidefleet.api.vocabulary import Day, Precision, Role
from tidefleet.api.workload_class import Spill
from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.architecture import Architecture, UnusableConfig, architecture_from_config
from tidefleet.economics.evidence import ProfilePoint
from tidefleet.economics.external import ExternalOffer, PerToken
from tidefleet.economics.shape import PLANNED_METRICS, Objective, TokenShape
from tidefleet.economics.tariff import Tariff, Window
from tidefleet.planning.demand import with_shares
from tidefleet.planning.evidence import Profile
from tidefleet.planning.options import ANY_TYPE, Allowed, ClassDemand, Offer, Price

NOMINAL_SHAPE = TokenShape(input_mean=1000.0, output_mean=250.0)
"""Lengths of a class that states none, until its engines have been measured. An assumption, told as such."""

SECONDS_PER_DAY = 86_400.0

_STORED_AS: Mapping[Precision, str] = {
    Precision.BF16: "Bf16",
    Precision.FP16: "Bf16",
    Precision.FP8: "Fp8",
    Precision.INT8: "Fp8",
    Precision.FP4: "Fp4",
    Precision.MXFP4: "Fp4",
    Precision.INT4: "Fp4",
}


class UnknownModel(ValueError):
    """A pool names a model that is not in the catalogue and gives no architecture of its own."""


def number(value: Decimal | None, default: float = 0.0) -> float:
    """A decimal of the API as a float."""
    return default if value is None else float(value)


def architecture_of(pool: InferencePool, models: Mapping[str, Architecture]) -> Architecture:
    """The architecture of a pool's model: its own ``architecture`` when given, else the catalogue's.

    Raises:
        UnknownModel: neither is usable; the message names field, value, expectation and example.
    """
    spec = pool.spec.model
    if spec.architecture is not None:
        try:
            return architecture_from_config(spec.name or pool.name, spec.architecture)
        except UnusableConfig as error:
            raise UnknownModel(f"{pool}: spec.model.architecture: {error}") from error
    if spec.name is not None and spec.name in models:
        return models[spec.name]
    near = [name for name in models if spec.name and name.split("-")[0] == spec.name.split("-")[0]]
    example = ", ".join(near[:4]) or "llama-3.3-70b"
    raise UnknownModel(
        f'{pool}: spec.model.name is "{spec.name}"; expected a model of the catalogue, e.g. {example}, '
        "or spec.model.architecture with the fields of its config.json"
    )


def accelerator_of(kind: AcceleratorType) -> Accelerator:
    """The accelerator of an AcceleratorType; what is absent there stays unknown."""
    spec = kind.spec
    compute = spec.compute_flops
    flops = {
        name: float(value)
        for name, value in (("Bf16", compute.bf16), ("Fp8", compute.fp8), ("Fp4", compute.fp4))
        if value is not None
    }
    return Accelerator(
        name=kind.name,
        memory_bytes=float(spec.memory_bytes),
        memory_bytes_per_second=float(spec.memory_bytes_per_second),
        flops=flops,
        tdp_watts=None if spec.tdp_watts is None else float(spec.tdp_watts),
        idle_watts=None if spec.idle_watts is None else float(spec.idle_watts),
        facility_watts=None if spec.facility_watts_per_chip is None else float(spec.facility_watts_per_chip),
        scale_up_bytes_per_second=float(spec.scale_up.bytes_per_second or 0) if spec.scale_up else 0.0,
        scale_up_domain=int(spec.scale_up.domain_chips or 1) if spec.scale_up else 1,
        scale_out_bytes_per_second=float(spec.scale_out_bytes_per_second or 0),
        chips_per_node=int(spec.chips_per_node or 0),
    )


def chosen_price(kind: AcceleratorType, capacity_type: str) -> PriceEntry | None:
    """The price that plans use: one without provider and region (the owner's own) before any other, then the lowest."""
    entries = [
        one for one in kind.spec.prices if one.capacity_type == capacity_type and one.state is PriceState.ENABLED
    ]
    return min(entries, key=lambda one: (bool(one.provider or one.region), one.usd_per_chip_hour), default=None)


def price_key(name: str, entry: PriceEntry) -> tuple[str, str, str, str, Decimal]:
    """What makes a price the same as a shipped one."""
    return name, str(entry.capacity_type), entry.provider, entry.region, entry.usd_per_chip_hour


def shipped_prices(kinds: Iterable[AcceleratorType]) -> frozenset[tuple[str, str, str, str, Decimal]]:
    """The prices of the shipped catalogue, to tell them from a user's own."""
    return frozenset(price_key(kind.name, entry) for kind in kinds for entry in kind.spec.prices)


def tariff_of(site: Site) -> Tariff:
    """The electricity tariff of a site."""
    days = list(Day)
    return Tariff(
        tuple(
            Window(
                usd_per_kilowatt_hour=float(one.usd_per_kilowatt_hour),
                start=_minutes(one.start),
                end=_minutes(one.end),
                days=frozenset(days.index(day) for day in one.days),
                zone=one.time_zone,
            )
            for one in site.spec.tariff
        )
    )


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return 60 * int(hours) + int(minutes)


def offer_of(
    kind: AcceleratorType,
    *,
    shipped: frozenset[tuple[str, str, str, str, Decimal]] = frozenset(),
    implausible: bool = False,
    placeable: bool = True,
    whole_racks: bool = False,
) -> Offer:
    """What an AcceleratorType offers to pools.

    Args:
        shipped: prices of the shipped catalogue.
        implausible: its prices failed the plausibility check; they are left out.
        placeable: False for planning on paper, where a type without node labels may be chosen too.
        whole_racks: a type that is bought as its whole scale-up domain counts so.
    """
    prices: dict[str, Price] = {}
    for capacity_type in () if implausible else sorted({str(one.capacity_type) for one in kind.spec.prices}):
        entry = chosen_price(kind, capacity_type)
        if entry is not None:
            prices[capacity_type] = Price(
                usd_per_chip_hour=float(entry.usd_per_chip_hour),
                source=entry.source or "",
                as_of=entry.as_of.isoformat() if entry.as_of else "",
                catalogue=price_key(kind.name, entry) in shipped,
                selector=frozenset(entry.node_selector.items()),
                availability=number(entry.availability, 1.0),
            )
    plan_only = ""
    if placeable and not (kind.spec.resource_name and kind.spec.node_selector):
        plan_only = "has no resourceName or nodeSelector, so it can be planned with but not scheduled on"
    return Offer(
        accelerator=accelerator_of(kind),
        prices=prices,
        plan_only=plan_only,
        serves_aggregated=not kind.spec.roles or Role.AGGREGATED in kind.spec.roles,
        profiles=tuple(_profile(one) for one in kind.spec.profiles),
        rack_chips=rack_chips(kind) if whole_racks else 0,
    )


def rack_chips(kind: AcceleratorType) -> int:
    """Chips of the scale-up domain that the type is bought as, 0 where it is bought by the node."""
    link = kind.spec.scale_up
    return int(link.domain_chips) if link is not None and link.bought_as is BoughtAs.DOMAIN else 0


def _profile(entry: ProfileEntry) -> Profile:
    return Profile(
        model=str(entry.model),
        engine=str(entry.engine),
        engine_version=str(entry.engine_version),
        tensor_parallel=int(entry.tensor_parallel),
        weights=stored_precision(entry.weights),
        points=tuple(
            ProfilePoint(
                batch=float(one.batch),
                input_tokens=float(one.input_tokens),
                output_tokens=float(one.output_tokens),
                tpot_seconds=float(one.tpot_milliseconds) / 1000.0,
                ttft_seconds=float(one.ttft_milliseconds) / 1000.0,
            )
            for one in entry.points
        ),
        measured_on=entry.measured_on,
        source=str(entry.source),
    )


def shape_of(wclass: WorkloadClass) -> TokenShape:
    """Token lengths of a class; reasoning tokens are output."""
    tokens = wclass.spec.tokens
    if tokens is None:
        return NOMINAL_SHAPE
    thinking = tokens.reasoning
    thought = float(thinking.mean) if thinking else 0.0
    longest = float(thinking.p95 or thinking.mean) if thinking else 0.0
    if thinking and thinking.cap:
        thought, longest = min(thought, float(thinking.cap)), min(longest, float(thinking.cap))
    return TokenShape(
        input_mean=float(tokens.input.mean),
        input_p95=float(tokens.input.p95 or tokens.input.mean),
        output_mean=float(tokens.output.mean) + thought,
        output_p95=float(tokens.output.p95 or tokens.output.mean) + longest,
        cached_share=number(tokens.cached_share),
        reasoning_mean=thought,
        reasoning_p95=longest,
        calls_per_task=max(1.0, number(wclass.spec.calls_per_task)),
    )


def objectives_of(wclass: WorkloadClass) -> tuple[Objective, ...]:
    """The objectives that planning holds a class to."""
    return tuple(
        Objective(
            metric=str(one.metric),
            seconds=one.milliseconds / 1000.0,
            percentile=float(one.percentile),
            seconds_per_thousand_input_tokens=(one.per_thousand_input_tokens_milliseconds or 0) / 1000.0,
        )
        for one in wclass.spec.objectives
        if one.metric in PLANNED_METRICS
    )


def external_offers_of(classes: Sequence[WorkloadClass]) -> tuple[ExternalOffer, ...]:
    """The external APIs that classes name, each once."""
    found: dict[tuple[str, str], ExternalOffer] = {}
    for one in classes:
        for spill in one.spec.spill:
            offer = _external(spill)
            if offer is not None:
                found.setdefault((offer.provider, offer.model), offer)
    return tuple(found.values())


def _external(spill: Spill) -> ExternalOffer | None:
    """An offer that charges by the token; others need a size that a class does not state."""
    if spill.usd_per_million_input_tokens is None or spill.usd_per_million_output_tokens is None:
        return None
    return ExternalOffer(
        provider=str(spill.provider),
        model=str(spill.model),
        billing=PerToken(float(spill.usd_per_million_input_tokens), float(spill.usd_per_million_output_tokens)),
        region=str(spill.region),
        requests_per_minute=float(spill.requests_per_minute) if spill.requests_per_minute else math.inf,
        added_latency_seconds=(spill.added_latency_milliseconds or 0) / 1000.0,
    )


def declared_rate(wclass: WorkloadClass) -> float | None:
    """Requests per second that a class declares, ``None`` when it is measured or deferrable."""
    value = wclass.spec.demand.requests_per_second
    return None if value is None else float(value)


def with_demand(wclass: WorkloadClass, **fields: object) -> WorkloadClass:
    """A class with these fields of its demand in place of its own, as they are."""
    demand = wclass.spec.demand.model_copy(update=fields)
    return wclass.model_copy(update={"spec": wclass.spec.model_copy(update={"demand": demand})})


def is_deferrable(wclass: WorkloadClass) -> bool:
    """Whether the class is a volume with a deadline."""
    return wclass.spec.demand.volume_tokens_per_day is not None


def deferred_rate(wclass: WorkloadClass) -> float:
    """Requests per second that finish a deferrable class's daily volume when spread evenly over the day."""
    shape = shape_of(wclass)
    tokens = shape.input_mean + shape.output_mean
    return float(wclass.spec.demand.volume_tokens_per_day or 0) / SECONDS_PER_DAY / max(1.0, tokens)


def class_demands(
    classes: Sequence[WorkloadClass], measured_requests_per_second: float = 0.0
) -> tuple[ClassDemand, ...]:
    """The mix of a pool's classes.

    A declared rate counts as it is; what was measured beyond the declared rates is split among the classes that are
    measured, by ``trafficShare`` (equally where none is given). Deferrable work fills slack: it takes part in the mix
    only where a pool has nothing else.
    """
    steady = [one for one in classes if not is_deferrable(one)]
    if not steady:
        return with_shares((_demand(one), deferred_rate(one)) for one in classes)
    declared = sum(declared_rate(one) or 0.0 for one in steady)
    measured = [one for one in steady if declared_rate(one) is None]
    weights = {one.name: number(one.spec.traffic_share) for one in measured}
    if not any(weights.values()):
        weights = dict.fromkeys(weights, 1.0)
    rest = max(0.0, measured_requests_per_second - declared) if declared else max(measured_requests_per_second, 1.0)
    total = sum(weights.values()) or 1.0
    return with_shares(
        (_demand(one), declared_rate(one) or 0.0)
        if declared_rate(one) is not None
        else (_demand(one), rest * weights[one.name] / total)
        for one in steady
    )


def _demand(wclass: WorkloadClass) -> ClassDemand:
    return ClassDemand(
        name=wclass.name,
        share=1.0,
        shape=shape_of(wclass),
        objectives=objectives_of(wclass),
        spot_share=number(wclass.spec.max_spot_share, 1.0),
    )


def stored_precision(precision: Precision) -> str:
    """The storage precision that the cost model prices for a precision of the API."""
    return _STORED_AS[precision]


def allowed_of(
    pool: InferencePool,
    classes: Sequence[WorkloadClass],
    *,
    native_weights: str,
    defaults: tuple[str, str],
    can_ask: Callable[[str, str], bool] = lambda _weights, _kv: True,
) -> dict[str, Allowed]:
    """What the pool's owner allows by accelerator type, and of any type where none is named.

    Under a quality floor (of pool or class, the higher wins) a precision other than the model's own is a candidate only
    where every class gives it a sourced score that meets the floor; that of the pod template is no exception.

    Args:
        defaults: precisions of weights and KV cache where the owner names none.
        can_ask: whether the engine can be asked for these (weights, KV).
    """
    floors = [pool.spec.quality_floor, *(one.spec.quality.floor for one in classes)]
    floor = max((float(one) for one in floors if one is not None), default=None)

    def passes(lever: str, words: Sequence[str]) -> bool:
        if floor is None:
            return True
        scores = [{one.lever.lower(): float(one.score) for one in wclass.spec.quality.scores} for wclass in classes]
        return bool(scores) and all(
            max(given.get(f"{lever}:{word}".lower(), -1.0) for word in words) >= floor for given in scores
        )

    def kept(lever: str, named: Sequence[Precision], default: str) -> tuple[str, ...]:
        own = native_weights if lever == "weights" else "Bf16"
        words: dict[str, list[str]] = {}
        for one in named:
            words.setdefault(stored_precision(one), []).append(str(one))
        if not words:
            words = {default: [str(one) for one, stored in _STORED_AS.items() if stored == default]}
        return tuple(one for one, said in words.items() if one == own or passes(lever, said))

    def allowed(
        weights: Sequence[Precision], kv: Sequence[Precision], more: Callable[..., Allowed] = Allowed
    ) -> Allowed:
        good_weights, good_kv = kept("weights", weights, defaults[0]), kept("kv", kv, defaults[1])
        if not good_weights or not good_kv:
            return more(refused=f"no precision has a sourced quality score of at least {floor:g} (spec.quality.scores)")
        asked = [one for one in good_weights if any(can_ask(one, other) for other in good_kv)]
        if not asked:
            wanted = ", ".join(good_weights)
            return more(refused=f"the engine cannot be asked for {wanted} weights; give them in the pod template")
        good_kv = tuple(one for one in good_kv if any(can_ask(other, one) for other in asked))
        return more(weights=tuple(asked), kv=good_kv)

    if not pool.spec.accelerators:
        return {ANY_TYPE: allowed((), ())}
    return {
        one.type: allowed(
            one.weights,
            one.kv,
            partial(
                Allowed,
                tensor_parallel=tuple(sorted(one.tensor_parallel)),
                capacity_types=tuple(str(kind) for kind in one.capacity_types),
                max_chips=one.max_chips,
            ),
        )
        for one in pool.spec.accelerators
    }
