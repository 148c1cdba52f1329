"""The conditions of a pool: what each says of a decision, in words with numbers."""

from __future__ import annotations

from datetime import UTC, date, datetime

from tidefleet.api import ConditionType, Reason
from tidefleet.api.inference_pool import Mode
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decision import FALSE, TRUE, UNKNOWN, Target, Verdict
from tidefleet.controller.shortage import chips_by_type
from tidefleet.controller.tier_watch import REASONS, THEN, Sight, TierWatch
from tidefleet.controller.view import PoolMemory, PoolView
from tidefleet.economics.prices import from_the_future, staleness
from tidefleet.planning.from_api import number
from tidefleet.planning.options import Price
from tidefleet.planning.pool import PoolPlan
from tidefleet.planning.words import brief


def ready(view: PoolView, targets: tuple[Target, ...], held: str) -> Verdict:
    """Whether the planned replicas are available."""
    kind = ConditionType.READY
    planned = sum(t.planned for t in targets)
    available = sum(min(t.planned, t.served.ready) for t in targets)
    if view.pool.spec.mode is Mode.RECOMMEND:
        return Verdict(kind, TRUE, Reason.RECOMMEND_ONLY, "mode Recommend: the plan is reported and nothing is changed")
    if view.conflicts:
        return Verdict(kind, FALSE, Reason.HELD, "; ".join(one.message for one in view.conflicts.values()))
    if planned == 0:
        return Verdict(kind, TRUE, Reason.SCALED_TO_ZERO, "the plan is zero replicas")
    if available < planned:
        waiting = sum(one.waiting_pods for one in view.chips.values())
        more = f", {waiting} without a node" if waiting else ""
        return Verdict(kind, FALSE, Reason.WAITING_FOR_REPLICAS, f"{available} of {planned} replicas are ready{more}")
    if held.startswith("held"):
        return Verdict(kind, TRUE, Reason.HELD, held)
    return Verdict(kind, TRUE, Reason.PLAN_AVAILABLE, f"{planned} replicas are ready")


def reconciling(view: PoolView, targets: tuple[Target, ...], plan: PoolPlan, held: str) -> Verdict:
    """Whether the cluster is still on its way to the decision."""
    kind = ConditionType.RECONCILING
    if view.pool.spec.mode is Mode.RECOMMEND:
        return Verdict(kind, FALSE, Reason.RECOMMEND_ONLY, "mode Recommend: nothing is changed")
    moving = [t for t in targets if t.served.desired != t.desired or t.served.ready != t.desired]
    if moving:
        words = ", ".join(f"{t.served.name} {t.served.ready} -> {t.planned}" for t in moving[:4])
        return Verdict(kind, TRUE, Reason.SCALING, words)
    if plan.kept:
        return Verdict(kind, FALSE, Reason.DWELLING, plan.reason)
    if held:
        return Verdict(kind, FALSE, Reason.HELD, held)
    return Verdict(kind, FALSE, Reason.STABLE, "the cluster is as decided")


def pricing(plan: PoolPlan, memory: PoolMemory, settings: OperatorConfiguration, view: PoolView) -> Verdict:
    """Whether the prices used are recent and the owner's own."""
    kind = ConditionType.PRICING_FRESH
    used: dict[str, Price] = {str(one.option): one.candidate.price for one in plan.chosen}
    if not used:
        return Verdict(kind, TRUE, Reason.FRESH, "no accelerator is used")
    offered = {(o.accelerator.name, kind_) for o in view.offers for kind_ in o.prices}
    gone = [one.option for one in plan.chosen if (one.option.accelerator, one.option.capacity_type) not in offered]
    if gone:
        price = memory.prices[gone[0].accelerator, gone[0].capacity_type]
        return Verdict(
            kind, FALSE, Reason.UNPRICED,
            f"{gone[0].accelerator} has lost its {gone[0].capacity_type} price; the last one, "
            f"${price.usd_per_chip_hour:g} per chip-hour, is used",
        )  # fmt: skip
    if view.price_fault:
        return Verdict(kind, FALSE, Reason.PRICE_BOOK_FAULTY, view.price_fault)
    today = datetime.fromtimestamp(view.now, tz=UTC).date()
    old = [
        (date.fromisoformat(price.as_of), f"the price of {one.option} {why}")
        for one in plan.chosen
        if (price := one.candidate.price).as_of
        and (why := staleness(
            date.fromisoformat(price.as_of), today, one.option.capacity_type,
            list_days=settings.price_stale_days, spot_days=settings.spot_price_stale_days,
        ))
    ]  # fmt: skip
    if old:
        return Verdict(kind, FALSE, Reason.STALE, min(old)[1])
    ahead = [
        f"the price of {one.option} {why}"
        for one in plan.chosen
        if (price := one.candidate.price).as_of and (why := from_the_future(date.fromisoformat(price.as_of), today))
    ]
    if ahead:
        return Verdict(kind, FALSE, Reason.DATED_IN_FUTURE, ahead[0])
    bases = {one.option.capacity_type == "Owned" for one in plan.chosen}
    if len(bases) > 1:
        return Verdict(kind, FALSE, Reason.MIXED_BASES, "rented and owned prices are compared with each other")
    if all(price.catalogue for price in used.values()):
        return Verdict(
            kind, FALSE, Reason.CATALOGUE_ONLY,
            "only list prices of the shipped catalogue are used; set your own in AcceleratorType spec.prices",
        )  # fmt: skip
    return Verdict(kind, TRUE, Reason.FRESH, "prices are recent")


def capacity(view: PoolView, memory: PoolMemory) -> Verdict:
    """Whether nodes exist for what was asked for."""
    kind = ConditionType.CAPACITY_AVAILABLE

    def since(moment: float) -> str:
        return datetime.fromtimestamp(moment, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    waiting = {name: chips for name, chips in chips_by_type(view).items() if chips.waiting}
    if waiting:
        words = ", ".join(
            f"{chips.waiting} chips of {name} since {since(memory.pending_since.get(name, view.now))}"
            for name, chips in sorted(waiting.items())
        )
        why = next((chips.why for chips in waiting.values() if chips.why), "")
        return Verdict(kind, FALSE, Reason.PENDING, f"waiting for {words}{': ' + why[:300] if why else ''}")
    if memory.refused_until:
        words = ", ".join(
            f"{name} until {since(until)} ({memory.refused_why.get(name, 'refused')})"
            for name, until in sorted(memory.refused_until.items())
        )
        return Verdict(kind, FALSE, Reason.REFUSED, f"planned around: {words}")
    return Verdict(kind, TRUE, Reason.AVAILABLE, "nodes for all replicas exist")


def targets_met(view: PoolView, plan: PoolPlan, capped: str) -> Verdict:
    """Whether cost target, budget and limits hold."""
    kind = ConditionType.TARGETS_MET
    if capped:
        return Verdict(kind, FALSE, Reason.SPEND_CAP_REACHED, capped)
    if plan.missed:
        reason = {
            "CostTarget": Reason.COST_TARGET_MISSED,
            "Budget": Reason.BUDGET_EXCEEDED,
        }.get(plan.missed[0].what, Reason.REPLICA_BOUND_REACHED)
        return Verdict(kind, FALSE, reason, "; ".join(one.why for one in plan.missed))
    target = view.pool.spec.cost_target
    if target.usd_per_million_tokens is None and target.monthly_budget_usd is None:
        return Verdict(kind, TRUE, Reason.NO_TARGET, "no cost target is set")
    if plan.usd_per_million_tokens is None:
        return Verdict(kind, UNKNOWN, Reason.UNKNOWN, "there is no demand to measure against")
    limit = number(target.usd_per_million_tokens)
    message = f"${brief(plan.usd_per_million_tokens)} per 1M tokens" + (f", target ${limit:g}" if limit else "")
    return Verdict(kind, TRUE, Reason.MET, message)


def adopted(view: PoolView) -> Verdict:
    """Whether adopted workloads are this pool's alone."""
    kind = ConditionType.ADOPTED
    if view.pool.spec.serving.workloads is None:
        return Verdict(kind, TRUE, Reason.NOTHING_TO_ADOPT, "the pool's workloads are made from its template")
    if view.conflicts:
        faults = [view.conflicts[name] for name in sorted(view.conflicts)]
        return Verdict(kind, FALSE, faults[0].reason, "; ".join(one.message for one in faults))
    missing = [one.name for one in view.served if one.workload is None]
    if missing:
        return Verdict(kind, FALSE, Reason.WORKLOAD_NOT_FOUND, f"not found: {', '.join(missing)}")
    return Verdict(kind, TRUE, Reason.ADOPTED, f"{len(view.served)} workloads are scaled by this pool alone")


_OF_TIERS = {Sight.UNKNOWN: UNKNOWN, Sight.FOUND: TRUE, Sight.MISSED: FALSE, Sight.NOT_ASKED: FALSE}
_REMEDIES = {
    Sight.MISSED: f"{THEN}: see that the tiers have the room of status.plan.kvTiers, and that sessions return to "
    "their replica",
    Sight.NOT_ASKED: f"{THEN}: start the engines with them (vLLM: --kv-offloading-size; SGLang: "
    "--enable-hierarchical-cache and --enable-metrics), or remove spec.kvCache.tiers",
}


def kv_tiers(watch: TierWatch) -> Verdict:
    """Whether engines find in KV tiers what the plan counts on."""
    kind = ConditionType.KV_TIERS_FOUND
    if watch.expected <= 0.0 and not watch.doubted:
        return Verdict(kind, TRUE, Reason.NOTHING_COUNTED, "the plan counts on no KV tier")
    words = watch.words
    if watch.sight is Sight.UNKNOWN:
        words = f"the plan counts on {watch.expected:.0%} of prompt tokens in KV tiers; engines have not shown it yet"
    return Verdict(kind, _OF_TIERS[watch.sight], REASONS[watch.sight], words + _REMEDIES.get(watch.sight, ""))
