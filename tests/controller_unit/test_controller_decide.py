"""Decisions about one pool: what is known moves it, what is missing never lowers it, and every condition is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from controller_builders import NOW, SHIPPED, a_class, a_kind, a_pool, a_served, a_view, an_option, offers
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.api import ConditionStatus, ConditionType, InferencePool, Reason
from tidefleet.api.reasons import REASONS
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.decision import Decision
from tidefleet.controller.view import Chips, Fault, PoolMemory, PoolView, Served
from tidefleet.planning.calls import Called, with_called
from tidefleet.planning.demand import Cause, DemandHistory, Empty, Known, Reading, Stale
from tidefleet.planning.options import EstimateMemo, Option

SETTINGS = OperatorConfiguration()
MEMO = EstimateMemo()


def a_price(usd: str, **more: Any) -> dict[str, Any]:
    return {"capacityType": "OnDemand", "usdPerChipHour": usd, **more}


H100 = a_kind("h100-sxm", prices=[a_price("9.00")])
L40S = a_kind("l40s", prices=[a_price("0.90")])
ON_H100, ON_L40S = an_option("h100-sxm"), an_option("l40s")
NARROW = {"accelerators": [{"type": "h100-sxm", "tensorParallel": [1]}, {"type": "l40s", "tensorParallel": [1]}]}


def pool(**spec: Any) -> InferencePool:
    """A pool that may use single H100s and L40Ss."""
    return a_pool(**{**NARROW, **spec})


def view(*served: tuple[Option, int] | Served, rate: float | None = None, **changes: Any) -> PoolView:
    """That pool with these replicas, all ready, and a measured rate."""
    one = changes.pop("pool", None) or pool()
    running = tuple(s if isinstance(s, Served) else a_served(one, s[0], replicas=s[1]) for s in served)
    facts: dict[str, Any] = {"served": running, **changes}
    if rate is not None:
        facts.setdefault("reading", Known(facts.get("now", NOW), rate, "Engines"))
    return a_view(one, H100, L40S, **facts)


def a_memory(rate: float | None = None, *, seconds: float = 1200.0, **changes: Any) -> PoolMemory:
    """A memory of this rate for so long."""
    history = DemandHistory(SETTINGS.scale_down_window_seconds)
    memory = PoolMemory(history, **changes)
    if rate is not None:
        for ago in range(int(seconds), 0, -15):
            memory.last_known = Known(NOW - ago, rate, "Engines")
            history.add(memory.last_known)
    return memory


def decided(seen: PoolView, memory: PoolMemory | None = None) -> Decision:
    return decide(seen, memory or a_memory(), SETTINGS, MEMO)


def replicas(decision: Decision, *, planned: bool = False) -> dict[str, int]:
    """Replicas asked for (or planned) by accelerator."""
    found: dict[str, int] = {}
    for one in decision.targets:
        name = one.served.option.accelerator
        found[name] = found.get(name, 0) + (one.planned if planned else one.desired)
    return {name: count for name, count in found.items() if count}


def condition(decision: Decision, kind: ConditionType) -> tuple[str, Reason, str]:
    verdict = decision.verdict(kind)
    assert verdict is not None
    return str(verdict.status), verdict.reason, verdict.message


def capacity_of(option: Option) -> float:
    """Requests per second that one replica is planned with."""
    market = decided(view(rate=1.0)).market
    assert market is not None
    return next(0.85 * c.requests_per_second for c in market.candidates if c.option == option)


PER_L40S, PER_H100 = capacity_of(ON_L40S), capacity_of(ON_H100)


# --- demand that is known --------------------------------------------------------------------------------------------


def test_a_new_pool_gets_the_cheapest_accelerators_for_its_demand() -> None:
    decision = decided(view(rate=PER_L40S * 0.9))
    assert replicas(decision) == {"l40s": 1}
    assert decision.write
    assert condition(decision, ConditionType.DEMAND_KNOWN) == ("True", Reason.KNOWN, "measured by Engines")
    assert decision.reason.startswith("1 l40s (bf16, tp1): cheapest for ")


def test_demand_that_rises_is_followed_at_once() -> None:
    decision = decided(view((ON_L40S, 1), rate=PER_L40S * 3.5), a_memory(PER_L40S * 0.5))
    assert sum(t.desired * (PER_L40S if t.served.option == ON_L40S else PER_H100) for t in decision.targets) >= (
        PER_L40S * 3.5
    )


def test_demand_that_falls_is_followed_behind_the_window() -> None:
    low = PER_L40S * 0.5
    running = view((ON_L40S, 4), rate=low)
    young = decided(running, a_memory(low, seconds=300))
    assert replicas(young) == {"l40s": 4}
    assert young.held == "replicas go down only after a whole scale-down window has been observed"
    busy = decided(running, a_memory(PER_L40S * 3.5))
    assert replicas(busy) == {"l40s": 4}
    assert replicas(decided(running, a_memory(low))) == {"l40s": 1}


def test_a_fresh_leader_lowers_nothing() -> None:
    assert replicas(decided(view((ON_L40S, 4), rate=0.0))) == {"l40s": 4}


def test_old_replicas_stay_until_the_new_ones_serve() -> None:
    """The H100s cost more than a tenth too much; the move takes no capacity away on its way."""
    rate = PER_H100 * 1.9
    memory = a_memory(rate)
    first = decided(view((ON_H100, 2), rate=rate), memory)
    target = replicas(first, planned=True)
    assert "h100-sxm" not in target
    assert replicas(first) == {"h100-sxm": 2, **target}
    assert first.held == "surplus replicas stay until the new ones are ready"
    new = target["l40s"]
    half = view((ON_H100, 2), a_served(pool(), ON_L40S, replicas=new, ready=new // 2), rate=rate)
    assert 0 < replicas(decided(half, memory)).get("h100-sxm", 0) <= 2
    done = view((ON_H100, 2), (ON_L40S, new), rate=rate)
    assert replicas(decided(done, memory)) == target


def test_a_move_waits_for_the_dwell() -> None:
    rate = PER_H100 * 1.9
    held = decided(view((ON_H100, 2), rate=rate), a_memory(rate, last_switch=NOW - 60.0))
    assert replicas(held) == {"h100-sxm": 2}
    assert condition(held, ConditionType.RECONCILING)[1] is Reason.DWELLING


def test_several_measured_classes_share_what_was_measured_for_the_pool() -> None:
    several = (a_class("a", trafficShare="0.5"), a_class("b", trafficShare="0.5"))
    decision = decided(view(rate=3.0, classes=several))
    assert condition(decision, ConditionType.DEMAND_KNOWN)[1] is Reason.ASSUMED
    assert [one.share for one in decision.classes] == [0.5, 0.5]


def test_declared_demand_needs_no_reading() -> None:
    declared = (a_class(demand={"requestsPerSecond": "2"}),)
    decision = decided(view(classes=declared))
    status, reason, message = condition(decision, ConditionType.DEMAND_KNOWN)
    assert (status, reason) == ("True", Reason.DECLARED)
    assert message == "2 requests/s are declared by 1 class"
    assert decision.rate == 2.0


def test_deferrable_work_buys_nothing_beside_steady_demand() -> None:
    batch = a_class("batch", demand={"volumeTokensPerDay": 10**10, "deadlineSeconds": 86_400})
    decision = decided(view(rate=1.0, classes=(a_class(), batch)))
    assert replicas(decision) == replicas(decided(view(rate=1.0)))
    assert "batch may wait" in condition(decision, ConditionType.DEMAND_KNOWN)[2]


# --- demand that is not known ----------------------------------------------------------------------------------------

missing: st.SearchStrategy[Reading | None] = st.sampled_from(
    [
        None,
        Empty(NOW, "Engines", "no ready pod to measure"),
        Stale(NOW - 300, "Engines", "prod/p-0 did not answer within 5 s", Cause.UNREACHABLE),
        Stale(NOW, "Prometheus", "vllm:prompt_tokens_total is NaN", Cause.NOT_A_NUMBER),
        Stale(NOW, "Engines", "prod/p-0 is not ready", Cause.UNREADABLE),
        Known(NOW - 7200, 0.0, "Engines"),  # a collector that hangs: nobody has looked for two hours
    ]
)
memories = st.builds(
    a_memory,
    st.none() | st.floats(0, 200),
    seconds=st.sampled_from([15.0, 300.0, 1200.0]),
    last_switch=st.sampled_from([None, NOW - 60.0, NOW - 7200.0]),
)


@settings(deadline=None, max_examples=200)
@given(
    missing,
    memories,
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.sampled_from([{}, {"min": 0, "max": 3}, {"min": 2, "max": 64, "spare": 1}]),
    st.sampled_from([(), ("web",)]),
)
def test_missing_data_never_lowers_capacity(reading, memory, running, bounds, classes) -> None:
    one = pool(replicas=bounds)
    seen = view(
        (ON_H100, running[0]),
        (ON_L40S, running[1]),
        pool=one,
        reading=reading,
        classes=tuple(a_class(name) for name in classes),
    )
    decision = decided(seen, memory)
    for target in decision.targets:
        assert target.desired >= target.served.desired
    assert replicas(decision).keys() >= {t.option.accelerator for t in seen.served if t.desired}
    status, reason, _ = condition(decision, ConditionType.DEMAND_KNOWN)
    assert status != "True"
    assert reason in REASONS[ConditionType.DEMAND_KNOWN]


@settings(deadline=None, max_examples=60)
@given(missing, memories, st.integers(1, 9))
def test_missing_data_starts_no_other_accelerator(reading, memory, count) -> None:
    decision = decided(view((ON_H100, count), reading=reading), memory)
    assert set(replicas(decision)) == {"h100-sxm"}


def test_why_demand_is_not_known_is_told() -> None:
    for reading, reason in (
        (Stale(NOW, "Engines", "p: vllm:x is NaN", Cause.NOT_A_NUMBER), Reason.NOT_A_NUMBER),
        (Stale(NOW, "Engines", "prod/p-0 is gone", Cause.UNREACHABLE), Reason.UNREACHABLE),
        (Stale(NOW, "Engines", "prod/answer-and-reach-0 is not ready", Cause.UNREADABLE), Reason.STALE),
        (Stale(NOW, "Engines", "prod/answer-and-reach-0 was read an hour ago", Cause.AGED), Reason.STALE),
        (Empty(NOW, "Engines", "no ready pod to measure"), Reason.EMPTY),
        (None, Reason.EMPTY),
        (Known(NOW - 3600, 5.0, "Engines"), Reason.STALE),
    ):
        decision = decided(view((ON_L40S, 2), reading=reading), a_memory(1.0))
        assert condition(decision, ConditionType.DEMAND_KNOWN)[1] is reason
        if reading is not None:
            assert decision.held.startswith("held: demand is not known (")


def test_a_pool_without_classes_holds_what_it_runs() -> None:
    decision = decided(view((ON_L40S, 5), classes=(), rate=99.0), a_memory(1.0))
    assert replicas(decision) == {"l40s": 5}
    assert condition(decision, ConditionType.DEMAND_KNOWN)[1] is Reason.NO_CLASSES
    assert replicas(decided(view(classes=()), a_memory())) == {"l40s": 1}


def test_a_class_that_cannot_be_read_lowers_nothing() -> None:
    low = PER_L40S * 0.5
    decision = decided(view((ON_L40S, 4), rate=low, unreadable_classes=("code",)), a_memory(low))
    assert replicas(decision) == {"l40s": 4}
    assert "WorkloadClass code cannot be read" in decision.held


# --- pools that cannot be planned ------------------------------------------------------------------------------------


def test_an_invalid_pool_is_left_as_it_is() -> None:
    fault = Fault(Reason.UNKNOWN_MODEL, 'InferencePool prod/chat: spec.model.name is "llama-9"; expected ...')
    decision = decided(view((ON_L40S, 3), rate=0.0, faults=(fault,)), a_memory(0.0))
    assert decision.targets == ()
    assert not decision.write
    assert decision.reason == fault.message
    assert condition(decision, ConditionType.VALIDATED) == ("False", Reason.UNKNOWN_MODEL, fault.message)
    assert condition(decision, ConditionType.READY)[2].endswith("What runs goes on running.")
    assert decision.summary == "3 l40s (bf16, tp1)"


def test_a_pool_that_nothing_can_serve_is_left_as_it_is() -> None:
    strict = (a_class(objectives=[{"metric": "TPOT", "milliseconds": 1}]),)
    decision = decided(view((ON_L40S, 3), rate=1.0, classes=strict), a_memory(1.0))
    assert decision.targets == ()
    assert not decision.write
    assert condition(decision, ConditionType.VALIDATED)[1] is Reason.NO_CANDIDATE_FITS
    unpriced = decided(view(rate=1.0, offers=offers(a_kind("l40s", prices=[]))))
    assert condition(unpriced, ConditionType.VALIDATED)[1] is Reason.NO_CANDIDATE_PRICED


def test_mode_recommend_plans_and_writes_nothing() -> None:
    decision = decided(view((ON_L40S, 1), rate=PER_L40S * 3, pool=pool(mode="Recommend")))
    assert not decision.write
    assert decision.plan is not None
    assert sum(t.planned for t in decision.targets) >= 1
    for kind in (ConditionType.READY, ConditionType.RECONCILING):
        assert condition(decision, kind)[1] is Reason.RECOMMEND_ONLY


# --- prices, limits, shortages ---------------------------------------------------------------------------------------


def test_an_option_that_lost_its_price_keeps_running_at_the_last_one() -> None:
    memory, rate = a_memory(PER_L40S * 0.9), PER_L40S * 0.9
    decided(view((ON_L40S, 1), rate=rate), memory)
    gone = view((ON_L40S, 1), rate=rate, offers=offers(H100, a_kind("l40s", prices=[])))
    decision = decided(gone, memory)
    assert replicas(decision) == {"l40s": 1}
    status, reason, message = condition(decision, ConditionType.PRICING_FRESH)
    assert (status, reason) == ("False", Reason.UNPRICED)
    assert message == "l40s has lost its OnDemand price; the last one, $0.9 per chip-hour, is used"


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        (a_price("0.90", asOf="2027-01-01"), Reason.FRESH),
        (a_price("0.90", asOf="2026-01-01"), Reason.STALE),
        (a_price("0.90", asOf="2027-01-16"), Reason.FRESH),
        (a_price("0.90", asOf="2027-01-17"), Reason.DATED_IN_FUTURE),
        (a_price("0.90"), Reason.FRESH),
    ],
)
def test_the_age_of_prices_is_told(price: dict[str, Any], reason: Reason) -> None:
    decision = decided(view(rate=0.1, offers=offers(a_kind("l40s", prices=[price]))))
    assert condition(decision, ConditionType.PRICING_FRESH)[1] is reason


def test_catalogue_prices_are_not_stale_by_a_clock_that_stands_before_they_were_collected() -> None:
    kinds = (SHIPPED["h100-sxm"], SHIPPED["l40s"])
    decision = decided(view(rate=0.1, now=1_704_067_200.0, offers=offers(*kinds)))  # 2024-01-01
    status, reason, message = condition(decision, ConditionType.PRICING_FRESH)
    assert (status, reason) == ("False", Reason.DATED_IN_FUTURE)
    assert "ahead of the clock (2024-01-01)" in message


def test_capacity_that_does_not_come_is_planned_around_and_asked_for_again() -> None:
    rate, memory = PER_L40S * 0.9, a_memory(PER_L40S * 0.9)
    stuck = a_served(pool(), ON_L40S, replicas=1, ready=0)
    waiting = {("l40s", "OnDemand"): Chips(waiting=1, waiting_pods=1, why="0/9 nodes are available")}

    def at(seconds: float, *served: Served | tuple[Option, int], chips: Any = ()) -> Decision:
        now = NOW + seconds
        return decided(view(*served, rate=rate, now=now, chips=dict(chips)), memory)

    first = at(0.0, stuck, chips=waiting)
    assert replicas(first) == {"l40s": 1}
    assert condition(first, ConditionType.CAPACITY_AVAILABLE)[1] is Reason.PENDING
    assert "0/9 nodes are available" in condition(first, ConditionType.CAPACITY_AVAILABLE)[2]
    assert replicas(at(590.0, stuck, chips=waiting)) == {"l40s": 1}
    refused = at(600.0, stuck, chips=waiting)
    assert replicas(refused, planned=True) == {"h100-sxm": 1}
    around = at(700.0, (ON_H100, 1))
    assert replicas(around) == {"h100-sxm": 1}
    assert condition(around, ConditionType.CAPACITY_AVAILABLE)[1] is Reason.REFUSED
    again = at(600.0 + 1800.0 + 1.0, (ON_H100, 1))
    assert replicas(again, planned=True) == {"l40s": 1}


def test_replicas_that_never_become_ready_are_planned_around() -> None:
    rate, memory = PER_L40S * 0.9, a_memory(PER_L40S * 0.9)
    stuck = a_served(pool(), ON_L40S, replicas=1, ready=0)
    scheduled = {("l40s", "OnDemand"): Chips(scheduled=1)}
    for seconds, accelerator in ((0.0, "l40s"), (1790.0, "l40s"), (1800.0, "h100-sxm")):
        decision = decided(view(stuck, rate=rate, now=NOW + seconds, chips=scheduled), memory)
        assert set(replicas(decision, planned=True)) == {accelerator}


def test_an_hours_decisions_add_no_more_than_the_spending_limit() -> None:
    limited = pool(costTarget={"maxSpendIncreaseUsdPerHour": "2.00"}, accelerators=[NARROW["accelerators"][1]])
    rate, memory = PER_L40S * 7.5, a_memory(PER_L40S * 0.9)
    memory.history.add(Known(NOW - 1, rate, "Engines"))
    decision = decided(view((ON_L40S, 1), rate=rate, pool=limited), memory)
    assert replicas(decision, planned=True) == {"l40s": 8}
    assert replicas(decision) == {"l40s": 3}  # $0.90 now, at most $2.90
    status, reason, message = condition(decision, ConditionType.TARGETS_MET)
    assert (status, reason) == ("False", Reason.SPEND_CAP_REACHED)
    assert message == "spending may rise by $2.00/h within an hour (maxSpendIncreaseUsdPerHour), to $2.90/h"
    soon = decided(view((ON_L40S, 3), rate=rate, pool=limited, now=NOW + 1800), memory)
    assert replicas(soon) == {"l40s": 3}
    later = decided(view((ON_L40S, 3), rate=rate, pool=limited, now=NOW + 3700), memory)
    assert replicas(later) == {"l40s": 5}


def test_what_runs_is_never_lowered_for_the_spending_limit() -> None:
    limited = pool(costTarget={"maxSpendIncreaseUsdPerHour": "0.01"})
    decision = decided(view((ON_L40S, 5), rate=PER_L40S * 4.9, pool=limited), a_memory(PER_L40S * 4.9))
    assert replicas(decision) == {"l40s": 5}


def test_a_pinned_pool_has_its_replicas_whatever_the_demand() -> None:
    pinned = pool(pinnedReplicas=2)
    for reading in (None, Known(NOW, 0.0, "Engines"), Known(NOW, 500.0, "Engines")):
        seen = view((ON_L40S, 2), reading=reading, pool=pinned)
        assert sum(replicas(decided(seen, a_memory(1.0)), planned=True).values()) == 2
    down = decided(view((ON_L40S, 6), reading=None, pool=pinned), a_memory(0.1))
    assert replicas(down, planned=True) == {"l40s": 2}


def test_the_owners_limit_of_chips_holds() -> None:
    few = pool(accelerators=[{"type": "l40s", "maxChips": 2, "tensorParallel": [1]}, NARROW["accelerators"][0]])
    decision = decided(view(rate=PER_L40S * 5, pool=few))
    assert replicas(decision)["l40s"] <= 2 if "l40s" in replicas(decision) else replicas(decision)
    only = pool(accelerators=[{"type": "l40s", "maxChips": 2, "tensorParallel": [1]}])
    short = decided(view(rate=PER_L40S * 4, pool=only))
    assert replicas(short) == {"l40s": 2}
    status, reason, message = condition(short, ConditionType.TARGETS_MET)
    assert (status, reason) == ("False", Reason.REPLICA_BOUND_REACHED)
    assert message == "50% of the demand has no capacity: maxChips of l40s is 2"


def test_missed_targets_are_told_and_stop_nothing() -> None:
    for target, reason in (
        ({"usdPerMillionTokens": "0.0001"}, Reason.COST_TARGET_MISSED),
        ({"monthlyBudgetUsd": "10"}, Reason.BUDGET_EXCEEDED),
        ({"usdPerMillionTokens": "1000"}, Reason.MET),
        ({}, Reason.NO_TARGET),
    ):
        decision = decided(view(rate=PER_L40S * 0.9, pool=pool(costTarget=target)))
        assert replicas(decision) == {"l40s": 1}
        assert condition(decision, ConditionType.TARGETS_MET)[1] is reason


def test_a_measured_pool_keeps_one_replica_to_see_demand_come_back() -> None:
    zero = pool(replicas={"min": 0, "max": 8})
    decision = decided(view((ON_L40S, 3), rate=0.0, pool=zero), a_memory(0.0))
    assert replicas(decision) == {"l40s": 1}
    declared = (a_class(demand={"volumeTokensPerDay": 1, "deadlineSeconds": 86_400}),)
    assert sum(replicas(decided(view(classes=declared, pool=zero))).values()) <= 1


# --- adopted workloads -----------------------------------------------------------------------------------------------


def an_adopting_pool(*workloads: str) -> InferencePool:
    listed = [{"name": name, "accelerator": "l40s", "chipsPerReplica": 1} for name in workloads]
    return a_pool(serving={"workloads": listed}, replicas={"min": 1, "max": 8})


def an_adopted(name: str, replicas: int | None) -> Served:
    option = Option("l40s", "OnDemand", 1, "Bf16", "Bf16", workload=name)
    if replicas is None:
        return Served(name, option, None)
    return replace(a_served(a_pool(), option, replicas=replicas), name=name)


def test_adopted_workloads_are_scaled_and_nothing_is_created() -> None:
    seen = view(an_adopted("mine", 1), rate=PER_L40S * 2.5, pool=an_adopting_pool("mine"))
    decision = decided(seen, a_memory(PER_L40S * 2.5))
    assert [(t.served.name, t.desired) for t in decision.targets] == [("mine", 3)]
    assert condition(decision, ConditionType.ADOPTED)[1] is Reason.ADOPTED


def test_a_workload_that_another_scales_is_left_alone() -> None:
    conflict = Fault(Reason.HPA_ON_TARGET, "HorizontalPodAutoscaler prod/mine scales Deployment mine too")
    seen = view(an_adopted("mine", 1), rate=PER_L40S * 4, pool=an_adopting_pool("mine"), conflicts={"mine": conflict})
    decision = decided(seen, a_memory(PER_L40S * 4))
    assert all(t.desired == t.served.desired for t in decision.targets)
    assert condition(decision, ConditionType.ADOPTED) == ("False", Reason.HPA_ON_TARGET, conflict.message)


def test_a_workload_that_does_not_exist_is_named() -> None:
    decision = decided(view(an_adopted("mine", None), rate=1.0, pool=an_adopting_pool("mine")))
    assert decision.targets == () or all(t.served.workload is not None for t in decision.targets)
    assert condition(decision, ConditionType.VALIDATED)[1] is Reason.WORKLOAD_NOT_FOUND
    assert "mine" in condition(decision, ConditionType.ADOPTED)[2]


# --- every condition -------------------------------------------------------------------------------------------------

readings = missing | st.builds(Known, st.just(NOW), st.floats(0, 500), st.just("Engines"), seconds=st.just(15.0))
chips_seen = st.dictionaries(
    st.sampled_from([("h100-sxm", "OnDemand"), ("l40s", "OnDemand")]),
    st.builds(Chips, st.integers(0, 4), st.integers(0, 4), st.integers(0, 2), st.integers(0, 2)),
)
specs = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["Recommend", "Scale"]),
        "pinnedReplicas": st.integers(0, 5),
        "replicas": st.sampled_from([{"min": 0, "max": 2}, {"min": 1, "max": 9, "spare": 2}]),
        "costTarget": st.sampled_from(
            [{"usdPerMillionTokens": "0.01"}, {"monthlyBudgetUsd": "99"}, {"maxSpendIncreaseUsdPerHour": "1"}]
        ),
    },
)


@settings(deadline=None, max_examples=200)
@given(readings, memories, st.tuples(st.integers(0, 5), st.integers(0, 5)), st.tuples(specs, chips_seen))
def test_every_condition_is_one_of_the_closed_list_and_every_type_is_there(reading, memory, running, rest) -> None:
    spec, chips = rest
    one = pool(**spec)
    served = tuple(
        a_served(one, option, replicas=count, ready=count // 2)
        for option, count in zip((ON_H100, ON_L40S), running, strict=True)
    )
    memory.starting_since["l40s"] = NOW - 9000.0
    decision = decided(view(*served, pool=one, reading=reading, chips=chips), memory)
    for verdict in decision.verdicts:
        assert verdict.reason in REASONS[verdict.type]
        assert verdict.status in ConditionStatus
        assert verdict.message
    if decision.plan is not None:
        told = set(REASONS) - {ConditionType.KV_TIERS_FOUND}  # of pools whose tiers are planned alone
        assert {one.type for one in decision.verdicts} == told
    assert len({one.type for one in decision.verdicts}) == len(decision.verdicts)
    assert decision.reason
    for target in decision.targets:
        assert target.desired >= 0


# --- calls of other classes ------------------------------------------------------------------------------------------


def test_calls_of_other_classes_are_demand_of_a_measured_pool_from_the_first_pass_on() -> None:
    called = {"web": Called(PER_L40S * 2.5, ("agent", "bot"))}
    decision = decided(view(rate=PER_L40S * 0.5, called=called), a_memory(PER_L40S * 0.5))
    assert decision.rate == pytest.approx(PER_L40S * 2.5)
    assert condition(decision, ConditionType.DEMAND_KNOWN)[2].endswith(" requests/s are calls of agent, bot")
    more = decided(view(rate=PER_L40S * 3.5, called=called), a_memory(PER_L40S * 3.5))
    assert more.rate == pytest.approx(PER_L40S * 3.5, rel=0.02)  # calls are among what is measured
    unread = decided(view(called=called))
    assert unread.rate == pytest.approx(PER_L40S * 2.5)


def test_a_declared_pool_says_how_much_of_its_demand_are_calls() -> None:
    one = a_class(demand={"requestsPerSecond": "3"})
    decision = decided(
        view(classes=(with_called(one, Called(2.0, ("agent",))),), called={"web": Called(2.0, ("agent",))})
    )
    assert decision.rate == pytest.approx(5.0)
    assert condition(decision, ConditionType.DEMAND_KNOWN)[2] == (
        "5 requests/s are declared by 1 class; 2 requests/s are calls of agent"
    )
