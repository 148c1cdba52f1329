"""From what a pod and its pool say to the facts of an endpoint that a pick works with: rates, KV room, price, tiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from tidefleet import catalogue
from tidefleet.api import AcceleratorType, InferencePool
from tidefleet.api.inference_pool import KVMedium
from tidefleet.api.vocabulary import CapacityType
from tidefleet.economics.accelerator import BYTES_PER_VALUE
from tidefleet.economics.architecture import Architecture, UnusableConfig, architecture_from_config
from tidefleet.economics.energy import prefill_joules
from tidefleet.economics.memory import kv_bytes_per_token, replica_memory
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import prefill
from tidefleet.planning.from_api import accelerator_of, chosen_price
from tidefleet.planning.options import Option
from tidefleet.router.discovery import ServedPool
from tidefleet.router.serving_pods import Rank
from tidefleet.routing.endpoint import AGGREGATED, ROLES, Endpoint
from tidefleet.routing.rates import Rates, rates_of

UNKNOWN_RATES = Rates(prefill_seconds_per_token=1.0 / 8000.0, step_seconds=0.02)
"""Of an engine on hardware that nothing is known of: an assumption, corrected by what its requests take."""
UNKNOWN_KV_TOKENS = 200_000.0
DEFAULT_BLOCK_TOKENS = 16
PREFILL_TOKENS = 4096.0
"""At which the power of a prefill is worked out."""

_MEDIA = (KVMedium.HOST, KVMedium.DISK, KVMedium.SHARED)


def endpoint_of(
    rank: Rank,
    pool: ServedPool,
    accelerators: Mapping[str, AcceleratorType],
    *,
    slot: int = -1,
    measured_kv_tokens: float | None = None,
) -> Endpoint:
    """The facts of one address.

    Args:
        slot: its number in the prefix index.
        measured_kv_tokens: KV room as the engine itself reports it.
    """
    kind = accelerators.get(rank.accelerator)
    replica = _replica(rank, pool.spec, kind)
    role = rank.role.lower()
    spec = pool.spec
    adapters = {one.name for one in spec.spec.model.adapters} if spec is not None else set()
    rates = _rates(replica, _tiers(spec)) if replica is not None else _unknown_rates(rank, spec)
    return Endpoint(
        address=rank.address,
        rates=rates,
        slot=slot,
        accelerator=rank.accelerator,
        role=role if role in ROLES else AGGREGATED,
        block_size=rank.block_tokens or DEFAULT_BLOCK_TOKENS,
        kv_capacity_tokens=measured_kv_tokens or (_kv_tokens(replica) if replica is not None else UNKNOWN_KV_TOKENS),
        tier_tokens=_tier_tokens(spec, rates.kv_bytes_per_token, rank.host_kv_bytes),
        loras=frozenset({*rank.adapters, *adapters}),
        usd_per_second=usd_per_second(rank, spec, kind),
        chips=rank.chips,
        capacity_type=capacity_type(rank, spec),
        prefill_watts=_prefill_watts(replica) if replica is not None else None,
        store=store_of(pool),
        draining=rank.leaving,
    )


def store_of(pool: ServedPool) -> str:
    """The shared KV store that all of a pool's endpoints write through to and read; empty without."""
    tiers = pool.spec.spec.kv_cache.tiers if pool.spec is not None else ()
    return pool.key if any(tier.medium is KVMedium.SHARED for tier in tiers) else ""


Tiers = tuple[tuple[float, float, float], tuple[float, float, float]]


def _tiers(spec: InferencePool | None) -> Tiers:
    """Bandwidths and latencies of host, disk and shared store; 0 where there is none."""
    bandwidth, latency = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    for tier in spec.spec.kv_cache.tiers if spec is not None else ():
        at = _MEDIA.index(tier.medium)
        bandwidth[at] = float(tier.bytes_per_second)
        latency[at] = tier.latency_microseconds / 1e6
    return (bandwidth[0], bandwidth[1], bandwidth[2]), (latency[0], latency[1], latency[2])


def _tier_tokens(
    spec: InferencePool | None, bytes_per_token: float, host_bytes: int | None
) -> tuple[float, float, float]:
    """Tokens of KV that host, disk and shared store hold for one replica.

    Args:
        host_bytes: room of the host's as the engine was started; ``None``: nobody tells, then as the pool names it.
    """
    room = [0.0, 0.0, 0.0]
    for tier in spec.spec.kv_cache.tiers if spec is not None else ():
        told = host_bytes if tier.medium is KVMedium.HOST else None
        room[_MEDIA.index(tier.medium)] = float(tier.max_bytes_per_replica if told is None else told) / bytes_per_token
    return room[0], room[1], room[2]


@lru_cache(maxsize=256)
def _rates(replica: Replica, tiers: Tiers) -> Rates:
    return rates_of(replica, tier_bytes_per_second=tiers[0], tier_latency_seconds=tiers[1])


@lru_cache(maxsize=256)
def _prefill_watts(replica: Replica) -> float | None:
    """Power of all chips in the middle of a prompt; what depends on its length is within the law's own error."""
    seconds = float(prefill(replica, PREFILL_TOKENS, 0.0).seconds[0])
    joules = prefill_joules(replica, PREFILL_TOKENS)
    return joules / seconds if joules is not None and seconds > 0.0 else None


def _unknown_rates(rank: Rank, spec: InferencePool | None) -> Rates:
    """Of hardware that nothing is known of; what a token's KV weighs follows from the model, if that is known."""
    model, (bandwidths, latencies) = _model(rank, spec), _tiers(spec)
    return replace(
        UNKNOWN_RATES,
        kv_bytes_per_token=UNKNOWN_RATES.kv_bytes_per_token
        if model is None
        else kv_bytes_per_token(model, _kv(rank), rank.chips),
        tier_bytes_per_second=bandwidths,
        tier_latency_seconds=latencies,
    )


def _kv_tokens(replica: Replica) -> float:
    room = replica_memory(replica).kv_room * replica.chips
    return max(1.0, room / kv_bytes_per_token(replica.model, replica.kv, replica.tp))


def _replica(rank: Rank, spec: InferencePool | None, kind: AcceleratorType | None) -> Replica | None:
    """The engine as the cost model knows it; None where model or hardware are not known."""
    model = _model(rank, spec)
    if kind is None or model is None:
        return None
    accelerator = accelerator_of(kind)
    weights = rank.weights or model.native_weights
    if accelerator.compute_precision(weights) is None or "Bf16" not in accelerator.flops:
        return None
    engine = spec.spec.serving.engine.type.value.lower() if spec is not None else ""
    kv = _kv(rank)
    found = Replica(model, accelerator, rank.chips, weights, kv, engine="" if engine == "other" else engine)
    try:
        return found if replica_memory(found).kv_room > 0 else None
    except (KeyError, ValueError, ArithmeticError):  # a pod's own words: a precision or a width that makes no sense
        return None


def _kv(rank: Rank) -> str:
    return rank.kv if rank.kv in BYTES_PER_VALUE else "Bf16"


def _model(rank: Rank, spec: InferencePool | None) -> Architecture | None:
    config = rank.config
    if config is None and spec is not None:
        config = spec.spec.model.architecture
    name = rank.model or (spec.spec.model.name or spec.name if spec is not None else "")
    if config is not None:
        try:
            return architecture_from_config(name, dict(config))
        except UnusableConfig:
            return None
    return catalogue.models().get(name)


def capacity_type(rank: Rank, spec: InferencePool | None) -> str:
    """As what its chips are paid: as its pod's option says; else as the plan has that accelerator; else on demand."""
    option = Option(rank.accelerator, "", rank.chips, rank.weights, rank.kv)
    told = _of_option(rank.option, spec.name if spec is not None else rank.pool, option) if rank.option else ""
    if told:
        return told
    planned = spec.status.plan.options if spec is not None and spec.status and spec.status.plan else ()
    return next((str(one.capacity_type) for one in planned if one.accelerator == rank.accelerator), "OnDemand")


@lru_cache(maxsize=4096)
def _of_option(key: str, pool: str, option: Option) -> str:
    """The capacity type with which an option has a key; empty where none has."""
    return next((str(one) for one in CapacityType if replace(option, capacity_type=str(one)).key(pool) == key), "")


def usd_per_second(rank: Rank, spec: InferencePool | None, kind: AcceleratorType | None) -> float:
    """Rent of its chips; 0 where no price is known, and with it for all, a pick counts seconds alone."""
    if kind is None:
        return 0.0
    price = chosen_price(kind, capacity_type(rank, spec)) or chosen_price(kind, "OnDemand")
    return float(price.usd_per_chip_hour) * rank.chips / 3600.0 if price is not None else 0.0
