"""Statuses as they are written: from decisions to the API's shape, rounded so that noise writes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from tidefleet.api import ConditionType, InferencePool
from tidefleet.api.inference_pool import KVMedium
from tidefleet.api.inference_pool_status import TierSetBy
from tidefleet.controller import marks
from tidefleet.controller.decision import Decision, Verdict
from tidefleet.controller.host_tier import words
from tidefleet.planning.demand import MEAN_SECONDS, Known
from tidefleet.planning.earning import earnings_of, pool_margin
from tidefleet.planning.problem import TierPlan
from tidefleet.planning.tiers import describe_tier
from tidefleet.planning.words import rounded

LINE = 1024
FOLLOWED = 0.1
"""Share by which a measured value must move to be told again; more where chance explains more."""

FOLLOWED_RATIO = 0.03
"""A ratio that moves by no more than this says nothing new either, however small it is."""

_LARGEST = 990_000_000.0
_VOLATILE = frozenset({"utilization", "busyRatio", "kvHitRatio", "demand", "plan", "flipping"})
_UNCOMPARED = frozenset({"lastTransitionTime", "asOf"})


def timestamp(now: float) -> str:
    """Seconds as RFC 3339."""
    return datetime.fromtimestamp(now, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def decimal(value: float) -> str:
    """A value with two significant digits as a decimal string, e.g. ``0.42``, ``1200``; at most what the API holds."""
    text = f"{rounded(max(-_LARGEST, min(value, _LARGEST))):.9f}".rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text


def followed(value: float, before: object, *, count: float = math.inf) -> str:
    """A ratio as ``decimal`` writes it, but what was written before stays while the value is about the same.

    That is within a tenth of it, or within two standard deviations of the ``count`` of requests it was made from.
    Scrapes are never quite a period apart, and requests come at random: a steady load is measured higher or lower each
    time.
    """
    try:
        old = float(before) if isinstance(before, str) else 0.0
    except ValueError:
        old = 0.0
    share = min(0.5, max(FOLLOWED, 2.0 / math.sqrt(count))) if count > 0 else FOLLOWED
    if min(abs(old), abs(value)) > 0 and abs(value - old) <= max(FOLLOWED_RATIO, share * abs(old)):
        return str(before)
    return decimal(value)


def conditions(
    verdicts: Iterable[Verdict], *, before: Mapping[str, Any], generation: int, now: float
) -> list[dict[str, Any]]:
    """Conditions in their wire form; ``lastTransitionTime`` moves only when the status of a condition changes."""
    old = {one.get("type"): one for one in before.get("conditions") or () if isinstance(one, Mapping)}
    result = []
    for verdict in verdicts:
        known = old.get(str(verdict.type), {})
        same = known.get("status") == str(verdict.status) and known.get("lastTransitionTime")
        result.append(
            {
                "type": str(verdict.type),
                "status": str(verdict.status),
                "reason": str(verdict.reason),
                "message": verdict.message[:4096],
                "observedGeneration": generation,
                "lastTransitionTime": known["lastTransitionTime"] if same else timestamp(now),
            }
        )
    return result


def differs(one: Any, other: Any) -> bool:
    """Whether two statuses differ in anything but times."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = (one.keys() | other.keys()) - _UNCOMPARED
        return any(differs(one.get(key), other.get(key)) for key in keys)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) != len(other) or any(differs(a, b) for a, b in zip(one, other, strict=True))
    return bool(one != other)


def steady(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status without what moves all the time: measured values, and words that repeat them."""
    plan = dict(status.get("plan") or {})
    kept = {key: value for key, value in status.items() if key not in _VOLATILE}
    kept["conditions"] = [
        {name: value for name, value in one.items() if name != "message"} for one in status.get("conditions") or ()
    ]
    kept["plan"] = [
        {name: one.get(name) for name in ("workload", "replicas", "ready")} for one in plan.get("options") or ()
    ]
    return kept


def pool_status(
    decision: Decision, *, before: Mapping[str, Any], generation: int, decision_id: str, now: float
) -> dict[str, Any]:
    """The status of a pool after a decision. What an invalid pool said of its plan before stays."""
    view = decision.view
    status: dict[str, Any] = {
        "conditions": conditions(decision.verdicts, before=before, generation=generation, now=now),
        "observedGeneration": generation,
        "decisionId": decision_id,
        "replicas": sum(one.desired for one in view.served),
        "selector": f"{marks.POOL_LABEL}={view.pool.name}",
        "accelerators": decision.summary[:LINE],
    }
    if decision.flipping:
        status["flipping"] = dict(decision.flipping)
        status["nextFlip"] = decision.next_flip or "-"
    if decision.plan is None:
        for name in ("plan", "demand"):
            if name in before:
                status[name] = before[name]
        return status
    plan = decision.plan
    candidates = {one.option: one for one in decision.market.candidates} if decision.market else {}
    options: list[dict[str, Any]] = []
    for target in decision.targets:
        option, name = target.served.option, target.served.name
        rent = candidates[option].usd_per_hour * target.planned if option in candidates else None
        unsure = max(candidates[option].estimates, key=lambda one: one.sigma) if option in candidates else None
        options.append(
            {
                "accelerator": option.accelerator,
                "capacityType": option.capacity_type,
                "tensorParallel": option.tensor_parallel,
                "weights": option.weights,
                "kv": option.kv,
                "role": "Aggregated",
                "replicas": target.planned,
                "ready": target.served.ready,
                "chips": target.planned * option.chips,
                "workload": name if "/" in name else f"{target.served.kind}/{name}",
                **({"usdPerHour": decimal(rent)} if rent is not None else {}),
                **({"provenance": unsure.provenance, "sigma": f"{unsure.sigma:.2f}"} if unsure is not None else {}),
            }
        )
    options.sort(key=lambda one: (-one["chips"], one["workload"]))
    status["plan"] = {
        "options": options[:64],
        "usdPerHour": decimal(plan.usd_per_hour),
        "lowerBoundUsdPerHour": decimal(plan.lower_bound_usd_per_hour),
        "savingsUsdPerHour": decimal(plan.savings_usd_per_hour),
        "reason": decision.reason[:LINE],
        "runnersUp": [
            {
                "option": one.option[:LINE],
                "lostBecause": one.lost_because[:LINE],
                **(
                    {"usdPerMillionTokens": decimal(one.usd_per_million_tokens)}
                    if one.usd_per_million_tokens is not None
                    else {}
                ),
            }
            for one in plan.runners_up[:16]
        ],
        "breakEven": [{"what": one.what, "at": decimal(one.at)} for one in plan.break_even[:16]],
        "shadowPrices": [
            {"what": one.what[:LINE], "usdPerHour": decimal(one.usd_per_hour)} for one in plan.shadow_prices[:16]
        ],
    }
    if plan.spill is not None:
        status["plan"]["spill"] = {
            "api": plan.spill.api[:LINE],
            "share": decimal(plan.spill.share),
            "usdPerHour": decimal(plan.spill.usd_per_hour),
            "savesUsdPerHour": decimal(plan.spill.saves_usd_per_hour),
            "what": str(plan.spill)[:LINE],
        }
    if plan.tiers is not None:
        most = max(decision.targets, key=lambda one: one.planned, default=None)
        ranks, group = (most.served.option.tensor_parallel, most.served.group) if most is not None else (1, 1)
        status["plan"]["kvTiers"] = _tiers(plan.tiers, view.pool, ranks, group)
    if plan.nodes:
        status["plan"]["nodes"] = [
            {
                "accelerator": one.accelerator,
                "capacityType": one.capacity_type,
                "nodes": one.nodes,
                "idleChips": one.idle,
                "idleUsdPerHour": decimal(one.usd_per_hour),
                "what": str(one)[:LINE],
            }
            for one in plan.nodes[:16]
        ]
    if plan.usd_per_million_tokens is not None:
        status["plan"]["usdPerMillionTokens"] = decimal(plan.usd_per_million_tokens)
    earned = pool_margin(plan, earnings_of(plan, decision.classes, view.classes).values())
    if earned is not None:
        status["plan"]["revenueUsdPerHour"] = decimal(earned.revenue_usd)
        status["plan"]["marginUsdPerHour"] = decimal(earned.usd)
    status["demand"] = _demand(decision, now)
    used = view.utilization
    if used is not None:
        rate = view.reading.requests_per_second if isinstance(view.reading, Known) else math.inf
        status["utilization"] = followed(used, before.get("utilization"), count=rate * MEAN_SECONDS)
    if view.busy_ratio is not None:
        status["busyRatio"] = followed(view.busy_ratio, before.get("busyRatio"))
    if isinstance(view.reading, Known) and view.reading.found_share is not None:
        status["kvHitRatio"] = followed(view.reading.found_share, before.get("kvHitRatio"))
    return status


def _tiers(plan: TierPlan, pool: InferencePool, ranks: int, group: int) -> dict[str, Any]:
    named = {str(one.medium): float(one.max_bytes_per_replica) for one in pool.spec.kv_cache.tiers}
    set_up = {
        one.medium: words(pool, one.bytes_per_replica, named.get(one.medium, one.most_bytes), ranks=ranks, group=group)
        if one.medium == KVMedium.HOST
        else (TierSetBy.OWNER, "set the engines up with it")
        for one in plan.tiers
    }
    return {
        "use": "Counted" if plan.counted else "Advice",
        "tiers": [
            {
                "medium": one.medium,
                "bytesPerReplica": round(one.bytes_per_replica),
                "hitShare": decimal(one.hit_share),
                "storageUsdPerHour": decimal(one.storage_usd_per_hour),
                "savesUsdPerHour": decimal(one.saves_usd_per_hour),
                "what": describe_tier(one, counted=plan.counted)[:LINE],
                "setBy": str(set_up[one.medium][0]),
                "setUp": set_up[one.medium][1][:LINE],
            }
            for one in plan.tiers[:3]
        ],
        "oversubscription": decimal(plan.oversubscription),
        "savesUsdPerHour": decimal(plan.saves_usd_per_hour),
        "source": plan.source[:LINE],
    }


def load(decision: Decision) -> float | None:
    """Measured requests of the last minutes over those that the ready replicas carry at their operating points.

    ``None`` while nothing serves, or it is not known what that carries.
    """
    if decision.market is None:
        return None
    rates = {one.option: one.requests_per_second for one in decision.market.candidates}
    carried = sum(one.ready * rates.get(one.option, 0.0) for one in decision.view.served)
    reading = decision.view.reading
    asked = decision.rate
    if isinstance(reading, Known):
        asked = reading.requests_per_second if reading.median is None else reading.median
    return asked / carried if carried > 0 else None


def _demand(decision: Decision, now: float) -> dict[str, Any]:
    reading = decision.view.reading
    known = decision.verdict(ConditionType.DEMAND_KNOWN)
    source = reading.source if isinstance(reading, Known) else str(known.reason if known else "")
    if known and known.reason == "Declared":
        source = "Declared"
    at = reading.at if reading is not None else now
    into = sum(one.share * one.shape.input_mean for one in decision.classes) * decision.rate
    out = sum(one.share * one.shape.output_mean for one in decision.classes) * decision.rate
    return {
        "source": source,
        "asOf": timestamp(at),
        "inputTokensPerSecond": decimal(into),
        "outputTokensPerSecond": decimal(out),
    }
