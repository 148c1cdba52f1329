"""A pool's KV tiers as its owner describes them, and the sizes that the plan may choose from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tidefleet.api import InferencePool
from tidefleet.api.inference_pool import EngineType, KVMedium, KVSizing
from tidefleet.api.inference_pool import KVTier as TierSpec
from tidefleet.api.inference_pool_status import TierSetBy
from tidefleet.controller.engine_tiers import GB
from tidefleet.controller.host_tier import OVER_ROOM, host_setup, is_ours, whole
from tidefleet.controller.tier_watch import PATIENCE_SECONDS, PAUSES, TierWatch
from tidefleet.controller.view import PoolView, Served, TierMemory
from tidefleet.economics.shape import KvTier
from tidefleet.planning.demand import Known, Reading
from tidefleet.planning.evidence import Evidence
from tidefleet.planning.options import Candidate, ClassDemand, EstimateMemo, Market
from tidefleet.planning.problem import PoolPlan, TierChoices
from tidefleet.planning.reuse_curve import ReuseCurve, reusable_share, stated_curve
from tidefleet.planning.tiers import TierLimit, rent_usd_per_hour, tier_choices

RENEW_SECONDS = 60.0
"""How long choices of sizes are used again while options and tiers are the same."""

RATE_STEP = 0.05
"""Share by which demand may move meanwhile."""

_FASTEST_FIRST = (KVMedium.HOST, KVMedium.DISK, KVMedium.SHARED)


def limits_of(pool: InferencePool, *, all_planned: bool = False) -> tuple[TierLimit, ...]:
    """The pool's tiers, fastest first. ``all_planned``: also of one whose size is given the plan may say how large."""
    tiers = sorted(pool.spec.kv_cache.tiers, key=lambda one: _FASTEST_FIRST.index(one.medium))
    return tuple(_limit(pool, one, all_planned or one.sizing is KVSizing.PLANNED) for one in tiers)


def _limit(pool: InferencePool, one: TierSpec, planned: bool) -> TierLimit:
    tier, most = _tier(one), float(one.max_bytes_per_replica)
    if one.medium is not KVMedium.HOST:
        return TierLimit(tier, most, planned)
    found = host_setup(pool)
    if found.by is TierSetBy.TEMPLATE:
        return TierLimit(tier, found.room or 0.0, False)
    if found.by is TierSetBy.OWNER or one.sizing is not KVSizing.PLANNED:
        return TierLimit(tier, most, planned)
    engine = pool.spec.serving.engine.type
    most = whole(engine, min(most, found.most))
    if engine is not EngineType.SGLANG:
        return TierLimit(tier, most, most > 0.0)
    return TierLimit(tier, most, most > 0.0, over_room=OVER_ROOM, rank_bytes=GB)


def _tier(one: TierSpec) -> KvTier:
    return KvTier(
        medium=str(one.medium),
        bytes_per_second=float(one.bytes_per_second),
        latency_seconds=one.latency_microseconds / 1e6,
        usd_per_gib_month=float(one.usd_per_gib_month or 0),
    )


def counts_on_tiers(pool: InferencePool) -> bool:
    """Whether the plan's replicas count on tiers: where the owner lets it say how large one is."""
    return any(one.sizing is KVSizing.PLANNED for one in pool.spec.kv_cache.tiers)


def given_rent(pool: InferencePool) -> float:
    """USD per hour that the tiers of one replica cost whose size the owner gives."""
    given = [one for one in limits_of(pool) if not one.planned]
    return rent_usd_per_hour([one.tier for one in given], [one.most_bytes for one in given])


def rent_of_replica(served: Served, pool: InferencePool, plan: PoolPlan | None) -> float | None:
    """USD per hour that the tiers of one replica cost now; ``None`` where only a plan could say and there is none.

    A host tier that we start engines with costs what they are started with, whether the plan counts on it or not.
    """
    ours = is_ours(pool)
    if not counts_on_tiers(pool) and not served.host_bytes:
        return given_rent(pool)
    if plan is None and not ours:
        return None
    limits = limits_of(pool)
    sizes = {one.tier.medium: 0.0 if one.planned else one.most_bytes for one in limits}
    if plan is not None and plan.tiers is not None and plan.tiers.counted:
        sizes |= {one.medium: one.bytes_per_replica for one in plan.tiers.tiers}
    if ours:
        sizes[KVMedium.HOST] = float(served.host_bytes)
    return rent_usd_per_hour([one.tier for one in limits], [sizes[one.tier.medium] for one in limits])


def sizes_in_force(view: PoolView, memory: TierMemory) -> tuple[float, ...] | None:
    """Bytes for a replica by tier, fastest first: what engines are started with, else what was planned last."""
    running = [one.host_bytes for one in view.served if one.desired and one.group == 1]
    if not running or not is_ours(view.pool):
        return memory.sizes
    media = [one.tier.medium for one in limits_of(view.pool)]
    sizes = memory.sizes if memory.sizes and len(memory.sizes) == len(media) else (0.0,) * len(media)
    return tuple(float(max(running)) if name == KVMedium.HOST else one for name, one in zip(media, sizes, strict=True))


def host_to_start_with(view: PoolView, plan: PoolPlan, memory: TierMemory) -> float | None:
    """Bytes of the host tier that engines are to be started with, 0 for none; ``None``: as they are.

    One whose engines show no hits stays: to take it away would start every engine anew, and it could never be seen.
    """
    if not is_ours(view.pool):
        return 0.0
    if plan.tiers is None:
        return None
    (size,) = [one.bytes_per_replica for one in plan.tiers.tiers if one.medium == KVMedium.HOST]
    if memory.watch.doubted and any(one.host_bytes for one in view.served):
        return None
    return size


def curves_of(view: PoolView, classes: Sequence[ClassDemand], rate: float) -> tuple[ReuseCurve, ...]:
    """The reuse-distance curve of each class: what the router saw of the pool, else what the classes state."""
    if view.reuse is not None:
        return (view.reuse,) * len(classes)
    specs = {one.name: one.spec for one in view.classes}
    used = rate * sum(one.share * (one.shape.input_mean + one.shape.output_mean) for one in classes)
    found = []
    for one in classes:
        spec = specs.get(one.name)
        turns = float(spec.turns_per_session) if spec is not None else 1.0
        pause = spec.turn_pause_seconds if spec is not None else None
        found.append(
            stated_curve(
                reusable=reusable_share(turns, one.shape.cached_share),
                used_tokens_per_second=used,
                pause_seconds=None if pause is None else float(pause),
            )
        )
    return tuple(found)


def watch(view: PoolView, memory: TierMemory) -> None:
    """Bring what is known of the pool's tiers to what its engines have shown."""
    if not counts_on_tiers(view.pool):
        memory.watch = TierWatch()
        return
    pauses = [PAUSES * float(one.spec.turn_pause_seconds or 0) for one in view.classes]
    memory.watch.look(view.tiers_seen, now=view.now, patience=max([PATIENCE_SECONDS, *pauses]))


def with_all_found(reading: Reading | None) -> Reading | None:
    """The reading with what was fetched from tiers told as found on the accelerators."""
    if not isinstance(reading, Known) or not reading.tier_hit_share:
        return reading
    return replace(reading, hit_share=reading.found_share, tier_hit_share=None)


def recall(memory: TierMemory, status: Mapping[str, Any]) -> None:
    """Take over, once, the sizes in force and the verdict on them from a pool's status.

    A status that is no such thing leaves the memory as it is.
    """
    if memory.recalled:
        return
    memory.recalled = True
    plan = status.get("plan")
    told = plan.get("kvTiers") if isinstance(plan, Mapping) else None
    tiers = told.get("tiers") if isinstance(told, Mapping) else None
    try:
        rows = [(float(one["bytesPerReplica"]), float(one["hitShare"])) for one in tiers or ()]
    except (LookupError, TypeError, ValueError, AttributeError):
        return
    if rows:
        memory.sizes = tuple(size for size, _ in rows)
        memory.watch.expected = sum(share for _, share in rows)
        memory.watch.recall(status)


def choices_for(
    view: PoolView,
    memory: TierMemory,
    market: Market,
    classes: Sequence[ClassDemand],
    rate: float,
    *,
    memo: EstimateMemo,
    evidence: Evidence,
) -> TierChoices | None:
    """The sizes that the pool's tiers may have, ``None`` for a pool without tiers, demand or candidates."""
    pool = view.pool
    limits = limits_of(pool, all_planned=not counts_on_tiers(pool))
    if not limits or rate <= 0 or not market.candidates:
        return None
    most = pool.spec.kv_cache.max_oversubscription
    options = tuple((one.option, one.usd_per_hour, one.multiple) for one in market.candidates)
    now = sizes_in_force(view, memory)
    of = (options, limits, most, tuple(one.name for one in classes), view.reuse is not None)
    same = memory.of == of and 0 <= view.now - memory.at < RENEW_SECONDS
    old = memory.choices
    lost = old is not None and now not in (old.now, *(one.bytes_per_replica for one in old.choices))
    if old is None or lost or not same or abs(rate - memory.rate) > RATE_STEP * memory.rate:
        memory.choices = tier_choices(
            market,
            limits,
            classes,
            curves_of(view, classes, rate),
            requests_per_second=rate,
            offers=view.offers,
            memo=memo,
            evidence=evidence,
            running={one.option: one.desired for one in view.served},
            most_oversubscription=math.inf if most is None else float(most),
            now=now,
        )
        memory.of, memory.at, memory.rate = of, view.now, rate
    assert memory.choices is not None  # noqa: S101 - made above where there was none
    return replace(memory.choices, now=now)


def only(choices: TierChoices | None, candidates: Sequence[Candidate]) -> TierChoices | None:
    """The choices with no options but those of these candidates."""
    if choices is None:
        return None
    kept = {one.option for one in candidates}
    narrowed = []
    for one in choices.choices:
        some = tuple(each for each in one.market.candidates if each.option in kept)
        if some:
            narrowed.append(replace(one, market=replace(one.market, candidates=some)))
    return replace(choices, choices=tuple(narrowed))


def in_force(market: Market, choices: TierChoices | None, plan: PoolPlan) -> Market:
    """The market with the hits and the rent of the tiers that the plan counts on."""
    if choices is None or plan.tiers is None or not plan.tiers.counted:
        return market
    with_tiers = {one.option: one for one in choices.choices[plan.tiers.choice].market.candidates}
    return replace(market, candidates=tuple(with_tiers.get(one.option, one) for one in market.candidates))
