"""The decision about one pool: from what was observed to replicas, conditions and a reason. Pure but for the memory."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tidefleet.api import ConditionType, Reason
from tidefleet.api.inference_pool import Disaggregated, Mode
from tidefleet.controller import marks, verdicts
from tidefleet.controller.asked import Asked, asked
from tidefleet.controller.calibrating import measured_shape, modelled, workload_key
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decision import FALSE, TRUE, Decision, Verdict
from tidefleet.controller.groups import across_nodes
from tidefleet.controller.kv_tiers import (
    choices_for,
    counts_on_tiers,
    given_rent,
    host_to_start_with,
    in_force,
    only,
    watch,
    with_all_found,
)
from tidefleet.controller.shortage import chip_limits
from tidefleet.controller.steps import step
from tidefleet.controller.template import can_ask, template_precisions
from tidefleet.controller.view import PoolMemory, PoolView
from tidefleet.planning.apart import Apart, find_pairs
from tidefleet.planning.evidence import Evidence
from tidefleet.planning.from_api import allowed_of, class_demands, external_offers_of
from tidefleet.planning.options import Allowed, Candidate, ClassDemand, EstimateMemo, Market, Offer, find_candidates
from tidefleet.planning.pool import NothingFits, PoolProblem, ShadowPrice, advised_tiers, describe, plan_pool
from tidefleet.planning.tiers import with_rent


@dataclass(frozen=True, slots=True)
class Share:
    """What a pool may use of what pools share: most chips by accelerator type, why, and what more would save.

    ``steered``: most chips by group that it should use, so that the whole nodes of all pools cost least; and why.
    """

    caps: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    prices: tuple[ShadowPrice, ...] = ()
    steered: Mapping[str, int] = field(default_factory=dict)
    steered_because: str = ""


NOTHING_SHARED = Share()


def decide(
    view: PoolView,
    memory: PoolMemory,
    settings: OperatorConfiguration,
    memo: EstimateMemo,
    share: Share = NOTHING_SHARED,
) -> Decision:
    """The decision about a pool.

    An invalid pool keeps what it runs. Demand that is not known never lowers capacity, nor does it add another kind of
    accelerator to what runs. Replicas go up at once, and down only behind the scale-down window and only as far as what
    is ready still carries the demand.
    """
    if view.faults or view.architecture is None:
        return _unusable(view)
    native = view.architecture.native_weights
    _learn(view, memory, settings)
    watch(view, memory.tiers)
    counting = counts_on_tiers(view.pool) and not memory.tiers.watch.doubted
    if not counting:  # what engines find in tiers is then a fact like what they find on their chips
        view = replace(view, reading=with_all_found(view.reading))
    demand = asked(view, memory, settings)
    defaults = template_precisions(view.pool, native)
    allowed = allowed_of(
        view.pool,
        view.classes,
        native_weights=native,
        defaults=defaults,
        can_ask=lambda weights, kv: can_ask(view.pool, native, weights, kv),
    )
    market = _market(view, memory, demand.classes, allowed, defaults=defaults, memo=memo)
    if not counting:  # else each choice of sizes has the rent of them all
        market = with_rent(market, given_rent(view.pool))
    caps, cap_reasons = chip_limits(view, memory, settings, allowed)
    for name, cap in share.caps.items():
        if cap < caps.get(name, cap + 1):
            caps[name], cap_reasons[name] = cap, share.reasons[name]
    problem = _problem(view, memory, settings, demand, market=market, caps=caps, cap_reasons=cap_reasons)
    problem = replace(
        problem,
        steered=share.steered,
        steered_because=share.steered_because,
        external=external_offers_of(view.classes),
        apart=_apart(view, memory, demand.classes, allowed, defaults=defaults, memo=memo),
    )
    tiers = choices_for(
        view,
        memory.tiers,
        market,
        demand.classes,
        demand.rate,
        memo=memo,
        evidence=_evidence(view, memory, memo),
    )
    tiers = only(tiers, problem.market.candidates)
    counted = tiers is not None and counting
    problem = replace(problem, tiers=tiers if counted else None)
    plan = plan_pool(problem)
    if isinstance(plan, NothingFits):
        return _nothing_fits(view, plan, market, demand.verdict)
    if tiers is not None and not counted:
        plan = replace(plan, tiers=advised_tiers(problem, tiers))
    if plan.tiers is not None:
        sizes = tuple(one.bytes_per_replica for one in plan.tiers.tiers)
        memory.tiers.watch.plans(sum(one.hit_share for one in plan.tiers.tiers), sizes)
        memory.tiers.sizes = sizes
    market = in_force(market, problem.tiers, plan)
    if share.prices:  # prices of the relaxed fleet; what this pool would save by itself is exact, and not told twice
        own = {one.what.partition(" would save")[0] for one in plan.shadow_prices}
        shared = [one for one in share.prices if one.what.partition(" would save")[0] not in own]
        plan = replace(plan, shadow_prices=(*shared, *plan.shadow_prices))
    if plan.replicas:
        memory.waiting.unit = plan.capacity / plan.replicas
    replicas = {one.name: (one.desired, one.ready) for one in view.served}
    memory.ahead.start.watch(replicas, now=view.now, longest=settings.start_timeout_seconds)
    unproven = counted and memory.tiers.watch.is_unproven(view.now) and view.tiers_seen is not None
    targets, capped = step(view, plan, memory, market, may_lower=demand.may_lower and not unproven)
    held = demand.held
    if any(t.desired > t.planned for t in targets):
        held = held or (
            "replicas go down once engines show what the plan counts on in KV tiers"
            if demand.may_lower and unproven
            else "surplus replicas stay until the new ones are ready"
            if demand.may_lower
            else "replicas go down only after a whole scale-down window has been observed"
        )
    conditions = (
        verdicts.ready(view, targets, held),
        verdicts.reconciling(view, targets, plan, held),
        Verdict(ConditionType.VALIDATED, TRUE, Reason.VALID, "the pool can be planned"),
        verdicts.pricing(plan, memory, settings, view),
        demand.verdict,
        verdicts.capacity(view, memory),
        verdicts.targets_met(view, plan, capped),
        Verdict(ConditionType.FLIPPING, FALSE, Reason.NEVER, "no node is lent to training"),
        verdicts.adopted(view),
        *((verdicts.kv_tiers(memory.tiers.watch),) if counts_on_tiers(view.pool) else ()),
    )
    return Decision(
        view=view,
        verdicts=conditions,
        plan=plan,
        targets=targets,
        rate=demand.rate,
        classes=demand.classes,
        market=market,
        problem=problem,
        calibrations=dict(memory.calibrations),
        held=held,
        host_bytes=host_to_start_with(view, plan, memory.tiers),
        write=view.pool.spec.mode is not Mode.RECOMMEND,
        summary=describe((t.served.option, t.desired) for t in targets),
    )


def _learn(view: PoolView, memory: PoolMemory, settings: OperatorConfiguration) -> None:
    """Bring the pool's calibrations to what its engines have shown."""
    if not settings.calibration.enabled:
        memory.calibrations.clear()
        return
    if view.measured is None or view.architecture is None:
        return
    pool, engine = view.pool, view.pool.spec.serving.engine
    like = class_demands(view.classes, 1.0)
    memory.learning.learn(
        view.measured,
        subject=(
            pool.metadata.annotations.get(marks.RESET_CALIBRATION_ANNOTATION, ""),
            str(engine.type),
            str(engine.version or ""),
            view.architecture.name,
        ),
        replicas=modelled(
            {workload_key(one.option, pool.name): one.option for one in view.served},
            view.architecture,
            view.offers,
            Evidence(engine=str(engine.type), engine_version=str(engine.version or "")),
        ),
        shape=measured_shape(view.reading, like[0].shape if like else None),
        half_life_seconds=settings.calibration.half_life_seconds,
        calibrations=memory.calibrations,
    )


def _problem(
    view: PoolView,
    memory: PoolMemory,
    settings: OperatorConfiguration,
    demand: Asked,
    *,
    market: Market,
    caps: Mapping[str, int],
    cap_reasons: Mapping[str, str],
) -> PoolProblem:
    running = {one.option: one.desired for one in view.served if one.desired}
    in_use = tuple(one for one in market.candidates if one.option in running)
    if not demand.known and in_use:
        market = replace(market, candidates=in_use)
    bounds, target = view.pool.spec.replicas, view.pool.spec.cost_target
    return PoolProblem(
        pool=f"{view.pool.namespace}/{view.pool.name}",
        classes=demand.classes,
        requests_per_second=demand.rate,
        market=market,
        minimum=max(bounds.min, demand.at_least),
        maximum=max(bounds.max, demand.at_least),
        spare=bounds.spare,
        pinned=view.pool.spec.pinned_replicas,
        type_caps=caps,
        cap_reasons=cap_reasons,
        target_usd_per_million_tokens=_optional(target.usd_per_million_tokens),
        monthly_budget_usd=_optional(target.monthly_budget_usd),
        running=running,
        priority=max((one.spec.priority for one in view.classes), default=100),
        may_switch=demand.known
        and (memory.last_switch is None or view.now - memory.last_switch >= settings.dwell_seconds),
    )


def _optional(value: object) -> float | None:
    return None if value is None else float(str(value))


def _market(
    view: PoolView,
    memory: PoolMemory,
    classes: tuple[ClassDemand, ...],
    allowed: Mapping[str, Allowed],
    *,
    defaults: tuple[str, str],
    memo: EstimateMemo,
) -> Market:
    assert view.architecture is not None  # noqa: S101 - checked by the caller
    offers = _with_remembered_prices(view.offers, memory, view)
    if view.pool.spec.serving.workloads is not None:
        return _adopted_market(view, offers, classes, memo=memo, evidence=_evidence(view, memory, memo))
    offers = across_nodes(view, offers, allowed)
    return find_candidates(
        view.architecture,
        offers,
        classes,
        allowed,
        default_weights=defaults[0],
        default_kv=defaults[1],
        memo=memo,
        evidence=_evidence(view, memory, memo),
    )


def _apart(
    view: PoolView,
    memory: PoolMemory,
    classes: tuple[ClassDemand, ...],
    allowed: Mapping[str, Allowed],
    *,
    defaults: tuple[str, str],
    memo: EstimateMemo,
) -> tuple[Apart, ...]:
    """Prefill and decode on replicas of their own, where the owner asks for the comparison."""
    roles = view.pool.spec.roles
    open_question = view.compare_roles or bool(roles.prefill_only)
    if roles.disaggregated is Disaggregated.NEVER or view.pool.spec.serving.workloads is not None:
        return ()
    if not open_question and roles.disaggregated is not Disaggregated.ALWAYS:
        return ()
    assert view.architecture is not None  # noqa: S101 - checked by the caller
    ratio = roles.prefill_to_decode
    return find_pairs(
        view.architecture,
        view.offers,
        classes,
        allowed,
        default_weights=defaults[0],
        default_kv=defaults[1],
        prefill_only=roles.prefill_only,
        prefill_per_decode=(float(ratio.min), float(ratio.max)) if ratio else (0.0, math.inf),
        evidence=_evidence(view, memory, memo),
        memo=memo,
    )


def _evidence(view: PoolView, memory: PoolMemory, memo: EstimateMemo) -> Evidence:
    engine = view.pool.spec.serving.engine
    return Evidence(
        live=memory.calibrations,
        engine=str(engine.type),
        engine_version=str(engine.version or ""),
        today=datetime.datetime.fromtimestamp(view.now, tz=datetime.UTC).date(),
        other=memo.other,
    )


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
                prices[key[1]] = replace(memory.prices[key], committed=False)
        result.append(replace(offer, prices=prices))
    return tuple(result)


def _adopted_market(
    view: PoolView,
    offers: tuple[Offer, ...],
    classes: tuple[ClassDemand, ...],
    *,
    memo: EstimateMemo,
    evidence: Evidence,
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
        only = Allowed(
            tensor_parallel=(option.tensor_parallel,),
            weights=(option.weights,),
            kv=(option.kv,),
            capacity_types=(option.capacity_type,),
        )
        one = find_candidates(
            view.architecture,
            # A replica that runs across nodes, or on nodes without a known label, is a fact and not a wish.
            [
                replace(
                    offer,
                    plan_only="",
                    accelerator=replace(offer.accelerator, chips_per_node=0),
                    rack_chips=0 if offer.rack_chips % option.chips else offer.rack_chips,
                )
            ],
            classes,
            {option.accelerator: only},
            default_weights=option.weights,
            default_kv=option.kv,
            memo=memo,
            evidence=evidence,
        )
        found += [replace(c, option=option) for c in one.candidates]
        unpriced += [replace(c, option=option) for c in one.unpriced]
        rejected += list(one.rejected)
    return Market(tuple(found), tuple(unpriced), tuple(rejected))


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
    adopted = verdicts.adopted(view)
    if view.pool.spec.serving.workloads is not None and adopted.status is FALSE:
        # Nothing is wrong with accelerators: there is no workload that may be scaled.
        nothing = replace(nothing, reason=adopted.message)
        ready = Verdict(ConditionType.READY, FALSE, Reason.HELD, adopted.message)
        missing = adopted.reason is Reason.WORKLOAD_NOT_FOUND
        validated = Verdict(
            ConditionType.VALIDATED,
            FALSE if missing else TRUE,
            Reason.WORKLOAD_NOT_FOUND if missing else Reason.VALID,
            adopted.message if missing else "the pool can be planned",
        )
    else:
        reason = Reason.NO_CANDIDATE_PRICED if market.unpriced else Reason.NO_CANDIDATE_FITS
        kept = " What runs goes on running." if view.served else ""
        ready = Verdict(ConditionType.READY, FALSE, Reason.NOT_VALIDATED, nothing.reason + kept)
        validated = Verdict(ConditionType.VALIDATED, FALSE, reason, nothing.reason)
    return Decision(
        view=view,
        verdicts=(
            ready,
            Verdict(ConditionType.RECONCILING, FALSE, Reason.NOT_VALIDATED, "nothing is changed"),
            validated,
            demand,
            adopted,
        ),
        nothing=nothing,
        market=market,
        summary=describe((one.option, one.desired) for one in view.served),
    )
