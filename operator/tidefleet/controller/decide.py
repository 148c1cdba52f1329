"""The decision about one pool: from what was observed to replicas, conditions and a reason. Pure but for the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tidefleet.api import ConditionType, Reason
from tidefleet.api.inference_pool import Mode
from tidefleet.controller import verdicts
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decision import FALSE, TRUE, UNKNOWN, Decision, Target, Verdict
from tidefleet.controller.template import deployment_name, template_precisions
from tidefleet.controller.view import Chips, PoolMemory, PoolView, Served
from tidefleet.planning.demand import Empty, Known, Stale, observed_shapes
from tidefleet.planning.from_api import (
    NOMINAL_SHAPE,
    allowed_of,
    class_demands,
    declared_rate,
    deferred_rate,
    is_deferrable,
)
from tidefleet.planning.options import (
    PLANNING_UTILISATION,
    Allowed,
    Candidate,
    ClassDemand,
    EstimateMemo,
    Market,
    Offer,
    Option,
    find_candidates,
)
from tidefleet.planning.pool import NothingFits, PoolPlan, PoolProblem, describe, plan_pool
from tidefleet.planning.transition import Running, next_replicas
from tidefleet.planning.words import brief


def decide(view: PoolView, memory: PoolMemory, settings: OperatorConfiguration, memo: EstimateMemo) -> Decision:
    """The decision about a pool.

    An invalid pool keeps what it runs. Demand that is not known never lowers capacity. Replicas go up at once, and down
    only behind the scale-down window and only as far as what is ready still carries the demand.
    """
    if view.faults or view.architecture is None:
        return _unusable(view)
    demand_verdict, rate, may_lower, held = _demand(view, memory, settings)
    offers = _with_remembered_prices(view.offers, memory, view)
    weights, kv = template_precisions(view.pool, view.architecture.native_weights)
    allowed = allowed_of(view.pool, view.classes, view.architecture.native_weights)
    classes = class_demands(view.classes, rate) if view.classes else _no_classes()
    if isinstance(view.reading, Known) and all(one.spec.demand.source is not None for one in view.classes):
        classes = observed_shapes(classes, view.reading)
    if view.pool.spec.serving.workloads is not None:
        market = _adopted_market(view, offers, classes, allowed, precisions=(weights, kv), memo=memo)
    else:
        market = find_candidates(
            view.architecture, offers, classes, allowed, default_weights=weights, default_kv=kv, memo=memo
        )
    caps, cap_reasons = _caps(view, memory, settings, allowed)
    running = {one.option: one.desired for one in view.served if one.desired}
    bounds = view.pool.spec.replicas
    targets = view.pool.spec.cost_target
    problem = PoolProblem(
        pool=f"{view.pool.namespace}/{view.pool.name}",
        classes=classes,
        requests_per_second=rate,
        market=market,
        minimum=bounds.min,
        maximum=bounds.max,
        spare=bounds.spare,
        pinned=view.pool.spec.pinned_replicas,
        type_caps=caps,
        cap_reasons=cap_reasons,
        target_usd_per_million_tokens=_optional(targets.usd_per_million_tokens),
        monthly_budget_usd=_optional(targets.monthly_budget_usd),
        running=running,
        # A plan for demand that is not known says nothing about which accelerators are cheaper.
        may_switch=demand_verdict.status is TRUE
        and (memory.last_switch is None or view.now - memory.last_switch >= settings.dwell_seconds),
    )
    plan = plan_pool(problem)
    if isinstance(plan, NothingFits):
        return _nothing_fits(view, plan, market, demand_verdict)
    planned = {one.option: one.replicas for one in plan.chosen}
    chosen, capped = _step(view, plan, planned, memory, market, required=min(rate, plan.capacity), may_lower=may_lower)
    if not may_lower and view.served and any(t.desired > t.planned for t in chosen):
        held = held or "replicas go down only after a whole scale-down window has been observed"
    elif any(t.desired > t.planned for t in chosen):
        held = "surplus replicas stay until the new ones are ready"
    summary = describe((t.served.option, t.desired) for t in chosen)
    conditions = (
        verdicts.ready(view, chosen, held),
        verdicts.reconciling(view, chosen, plan, held),
        Verdict(ConditionType.VALIDATED, TRUE, Reason.VALID, "the pool can be planned"),
        verdicts.pricing(plan, memory, settings, view),
        demand_verdict,
        verdicts.capacity(view, memory),
        verdicts.targets_met(view, plan, capped),
        Verdict(ConditionType.FLIPPING, FALSE, Reason.NEVER, "no node is lent to training"),
        verdicts.adopted(view),
    )
    return Decision(
        view=view,
        verdicts=conditions,
        plan=plan,
        targets=chosen,
        rate=rate,
        classes=classes,
        market=market,
        held=held,
        write=view.pool.spec.mode is not Mode.RECOMMEND,
        summary=summary,
    )


def _optional(value: object) -> float | None:
    return None if value is None else float(str(value))


def _no_classes() -> tuple[ClassDemand, ...]:
    return (ClassDemand(name="unknown", share=1.0, shape=NOMINAL_SHAPE),)


# --- demand --------------------------------------------------------------------------------------------------------


def _demand(view: PoolView, memory: PoolMemory, settings: OperatorConfiguration) -> tuple[Verdict, float, bool, str]:
    """The condition DemandKnown, the rate to plan for, whether replicas may go down, and why they are held."""
    kind = ConditionType.DEMAND_KNOWN
    if not view.classes:
        message = "no WorkloadClass refers to this pool; it holds spec.replicas.min"
        return Verdict(kind, FALSE, Reason.NO_CLASSES, message), 0.0, False, message
    steady = [one for one in view.classes if not is_deferrable(one)]
    measured = [one for one in steady if declared_rate(one) is None]
    declared = sum(declared_rate(one) or 0.0 for one in steady)
    if not measured:
        rate = declared if steady else sum(_deferred(view))
        reading = Known(view.now, rate, "Declared")
        memory.history.add(reading)
        memory.last_known = reading
        message = f"{brief(rate)} requests/s are declared by {len(view.classes)} classes"
        planned = max(rate, memory.history.planned_rate(view.now))
        return Verdict(kind, TRUE, Reason.DECLARED, message), planned, memory.history.spans_window(view.now), ""
    if isinstance(view.reading, Known):
        reading = replace(view.reading, requests_per_second=max(view.reading.requests_per_second, declared))
        memory.history.add(reading)
        memory.last_known = reading
        assumed = len(view.classes) > 1
        message = f"measured by {reading.source}"
        if assumed:
            message += "; split between classes by trafficShare"
        ignored = sorted({str(o.metric) for one in steady for o in one.spec.objectives} & {"Task", "Stall"})
        if ignored:
            message += f"; objectives not planned for: {', '.join(ignored)}"
        return (
            Verdict(kind, TRUE, Reason.ASSUMED if assumed else Reason.KNOWN, message),
            memory.history.planned_rate(view.now),
            memory.history.spans_window(view.now),
            "",
        )
    rate = memory.last_known.requests_per_second if memory.last_known else declared
    if view.reading is None:
        return Verdict(kind, UNKNOWN, Reason.EMPTY, "not measured yet"), rate, False, ""
    running = any(one.desired for one in view.served)
    why = view.reading.why
    held = f"held: demand is not known ({why})" if running else ""
    reason = Reason.EMPTY if isinstance(view.reading, Empty) else _stale_reason(view.reading)
    return Verdict(kind, FALSE, reason, f"{why}; replicas are not lowered"), rate, False, held


def _deferred(view: PoolView) -> list[float]:
    return [deferred_rate(one) for one in view.classes]


def _stale_reason(reading: Stale) -> Reason:
    if "expected a finite number" in reading.why:
        return Reason.NOT_A_NUMBER
    return Reason.UNREACHABLE if "reach" in reading.why or "answer" in reading.why else Reason.STALE


# --- market --------------------------------------------------------------------------------------------------------


def _with_remembered_prices(offers: tuple[Offer, ...], memory: PoolMemory, view: PoolView) -> tuple[Offer, ...]:
    """Offers in which an accelerator that serves now and lost its price keeps the last one known."""
    running = {(one.option.accelerator, one.option.capacity_type) for one in view.served if one.desired}
    result = []
    for offer in offers:
        name, prices = offer.accelerator.name, dict(offer.prices)
        for capacity_type, price in offer.prices.items():
            memory.prices[name, capacity_type] = price
        for key in running - {(name, kind) for kind in prices}:
            if key[0] == name and key in memory.prices:
                prices[key[1]] = memory.prices[key]
        result.append(replace(offer, prices=prices))
    return tuple(result)


def _adopted_market(
    view: PoolView,
    offers: tuple[Offer, ...],
    classes: tuple[ClassDemand, ...],
    allowed: Mapping[str, Allowed],
    *,
    precisions: tuple[str, str],
    memo: EstimateMemo,
) -> Market:
    """Candidates that are existing workloads: accelerator and width are as they are, only replicas are ours."""
    found: list[Candidate] = []
    unpriced: list[Candidate] = []
    rejected = []
    by_name = {offer.accelerator.name: offer for offer in offers}
    assert view.architecture is not None  # noqa: S101 - checked by the caller
    for served in view.served:
        option = served.option
        offer = by_name.get(option.accelerator)
        if offer is None or served.workload is None or served.name in view.conflicts:
            continue
        wish = allowed.get(option.accelerator, Allowed())
        one = find_candidates(
            view.architecture,
            [replace(offer, plan_only="")],
            classes,
            {
                option.accelerator: Allowed(
                    (option.tensor_parallel,), (option.weights,), (option.kv,), (option.capacity_type,), wish.max_chips
                )
            },
            default_weights=precisions[0],
            default_kv=precisions[1],
            memo=memo,
        )
        found += [replace(c, option=option) for c in one.candidates]
        unpriced += [replace(c, option=option) for c in one.unpriced]
        rejected += list(one.rejected)
    return Market(tuple(found), tuple(unpriced), tuple(rejected))


def _caps(
    view: PoolView, memory: PoolMemory, settings: OperatorConfiguration, allowed: Mapping[str, Allowed]
) -> tuple[dict[str, int], dict[str, str]]:
    """Most chips per accelerator type, by the owner's limit and by capacity that was refused, and why."""
    caps = {name: one.max_chips for name, one in allowed.items() if one.max_chips is not None}
    reasons = {name: f"maxChips of {name} is {limit}" for name, limit in caps.items()}
    held: dict[str, Chips] = {}
    for (name, _), chips in view.chips.items():
        before = held.get(name, Chips())
        held[name] = Chips(before.scheduled + chips.scheduled, 0, before.waiting + chips.waiting, 0, chips.why)
    for name, chips in held.items():
        if chips.waiting:
            since = memory.pending_since.setdefault(name, view.now)
            if view.now - since >= settings.capacity_wait_seconds and name not in memory.refused_until:
                memory.refused_until[name] = view.now + settings.capacity_refused_seconds
        elif name in memory.pending_since:
            del memory.pending_since[name]
    for name in [name for name in memory.pending_since if name not in held]:
        del memory.pending_since[name]
    for name, until in list(memory.refused_until.items()):
        if until <= view.now:
            del memory.refused_until[name]
            memory.pending_since.pop(name, None)
            continue
        has = held.get(name, Chips()).scheduled
        caps[name] = min(caps.get(name, has), has)
        reasons[name] = f"no more than {has} chips of {name} could be had; asked for again later"
    return caps, reasons


# --- replicas ------------------------------------------------------------------------------------------------------


def _step(
    view: PoolView,
    plan: PoolPlan,
    planned: Mapping[Option, int],
    memory: PoolMemory,
    market: Market,
    *,
    required: float,
    may_lower: bool,
) -> tuple[tuple[Target, ...], str]:
    """Replicas to ask for now, and the sentence about the spending limit when it binds."""
    pool = view.pool
    served = {one.name: one for one in view.served}
    names: dict[Option, str] = {one.option: one.name for one in view.served}
    for option in planned:
        if option not in names:
            name = option.workload or deployment_name(pool.name, option)
            names[option] = name
            served[name] = Served(name, option, None)
    by_option = {c.option: c for c in market.candidates}
    ready = sum(one.ready for one in view.served)
    usual = required / ready if ready else 0.0
    running = {}
    for one in view.served:
        if one.workload is None or one.name in view.conflicts:
            continue
        known = by_option.get(one.option)
        running[one.name] = Running(
            desired=one.desired,
            ready=one.ready,
            coverage=known.requests_per_second * PLANNING_UTILISATION if known else usual,
            usd_per_hour=known.usd_per_hour if known else float("inf"),
        )
    target = {names[option]: count for option, count in planned.items()}
    # Capacity never falls below what the demand needs; where even the plan falls short, nothing that is ready goes.
    wanted = next_replicas(
        target, running, required=required, may_lower=may_lower or pool.spec.pinned_replicas is not None
    )
    cost = {names[c.option]: c.usd_per_hour for c in market.candidates if c.option in names}
    capped = ""
    limit = pool.spec.cost_target.max_spend_increase_usd_per_hour
    now_cost = sum(one.desired * cost.get(one.name, 0.0) for one in view.served)
    if not memory.ledger.ceiling(view.now, 0.0):
        memory.ledger.note(view.now, now_cost)
    if limit is not None:
        wanted, capped = _within_spending(wanted, running, cost, memory.ledger.ceiling(view.now, float(limit)), limit)
    memory.ledger.note(view.now, sum(count * cost.get(name, 0.0) for name, count in wanted.items()))
    targets = tuple(
        Target(served[name], target.get(name, 0), count)
        for name, count in sorted(wanted.items())
        if count or target.get(name, 0) or (served[name].workload is not None)
    )
    return targets, capped


def _within_spending(
    wanted: dict[str, int], running: Mapping[str, Running], cost: Mapping[str, float], ceiling: float, limit: object
) -> tuple[dict[str, int], str]:
    """Fewer new replicas where the hour's spending limit would be passed; what runs is never lowered for it."""
    total = sum(count * cost.get(name, 0.0) for name, count in wanted.items())
    if total <= ceiling + 1e-9:
        return wanted, ""
    limited = dict(wanted)
    for name in sorted(wanted, key=lambda name: -cost.get(name, 0.0)):
        floor = running[name].desired if name in running else 0
        while limited[name] > floor and total > ceiling + 1e-9:
            limited[name] -= 1
            total -= cost.get(name, 0.0)
    message = f"spending may rise by ${limit}/h within an hour (maxSpendIncreaseUsdPerHour), to ${ceiling:.2f}/h"
    return limited, message


def _unusable(view: PoolView) -> Decision:
    fault = view.faults[0]
    message = "; ".join(one.message for one in view.faults)
    kept = " What runs goes on running." if view.served else ""
    return Decision(
        view=view,
        verdicts=(
            Verdict(ConditionType.READY, FALSE, Reason.NOT_VALIDATED, message + kept),
            Verdict(ConditionType.RECONCILING, FALSE, Reason.NOT_VALIDATED, "nothing is changed while invalid"),
            Verdict(ConditionType.VALIDATED, FALSE, fault.reason, message),
        ),
        summary=describe((one.option, one.desired) for one in view.served),
    )


def _nothing_fits(view: PoolView, nothing: NothingFits, market: Market, demand: Verdict) -> Decision:
    reason = Reason.NO_CANDIDATE_PRICED if market.unpriced else Reason.NO_CANDIDATE_FITS
    kept = " What runs goes on running." if view.served else ""
    adopted = verdicts.adopted(view)
    if adopted.status is FALSE and view.pool.spec.serving.workloads is not None:
        reason = Reason.WORKLOAD_NOT_FOUND if adopted.reason is Reason.WORKLOAD_NOT_FOUND else reason
    return Decision(
        view=view,
        verdicts=(
            Verdict(ConditionType.READY, FALSE, Reason.NOT_VALIDATED, nothing.reason + kept),
            Verdict(ConditionType.RECONCILING, FALSE, Reason.NOT_VALIDATED, "nothing is changed"),
            Verdict(ConditionType.VALIDATED, FALSE, reason, nothing.reason),
            demand,
            adopted,
        ),
        nothing=nothing,
        market=market,
        summary=describe((one.option, one.desired) for one in view.served),
    )
