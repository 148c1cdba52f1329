"""The plan of one pool: cheapest, within its limits, steady, and able to say why."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from planning_builders import a_candidate, a_market, a_problem, an_option, counts, planned

from tidefleet.economics.external import ExternalOffer, PerToken
from tidefleet.planning.demand import DemandHistory, Known
from tidefleet.planning.options import Candidate, Price, Rejected
from tidefleet.planning.pool import Missed, NothingFits, PoolPlan, PoolProblem, describe, plan_pool

EXPONENT = re.compile(r"[0-9][eE][+-]?[0-9]")

candidate_lists = st.lists(
    st.builds(
        a_candidate,
        st.sampled_from(["a", "b", "c", "d"]),
        covers=st.floats(0.5, 50),
        usd=st.floats(0.3, 20),
        tp=st.sampled_from([1, 2, 4]),
        capacity=st.sampled_from(["OnDemand", "Spot"]),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda c: c.option,
)
rates = st.just(0.0) | st.floats(0.01, 300)


def told(plan: PoolPlan | NothingFits) -> list[str]:
    """Every sentence of a plan."""
    words = [plan.reason, *(one.lost_because for one in plan.runners_up)]
    return words if isinstance(plan, NothingFits) else [*words, *(one.why for one in plan.missed)]


def priced(candidate: Candidate, usd: float) -> Candidate:
    return replace(candidate, price=Price(usd), usd_per_hour=usd * candidate.option.chips)


# --- the cheapest ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(candidate_lists, rates, st.floats(1, 2), st.integers(0, 2))
def test_cost_never_falls_when_demand_rises(candidates, rate, more, spare) -> None:
    low, high = (planned(a_problem(*candidates, rate=r, spare=spare, maximum=2000)) for r in (rate, rate * more))
    assert low.usd_per_hour <= high.usd_per_hour * (1 + 1e-9)
    for plan in (low, high):
        assert plan.lower_bound_usd_per_hour <= plan.usd_per_hour
        assert plan.capacity >= plan.requests_per_second * (1 - 1e-9)
        assert plan.usd_per_hour == pytest.approx(sum(c.replicas * c.candidate.usd_per_hour for c in plan.chosen))


@settings(deadline=None, max_examples=150)
@given(candidate_lists, rates, st.integers(0, 2), st.integers(0, 3))
def test_the_bound_of_a_plan_that_is_proven_is_its_cost(candidates, rate, spare, minimum) -> None:
    plan = planned(a_problem(*candidates, rate=rate, spare=spare, minimum=minimum, maximum=2000))
    assume(plan.proven)
    assert plan.lower_bound_usd_per_hour == pytest.approx(plan.usd_per_hour)


def test_the_bound_is_the_optimum_also_where_what_runs_is_kept() -> None:
    dear, cheap = a_candidate("dear", usd=4.1), a_candidate("cheap", usd=4.0)
    plan = planned(a_problem(dear, cheap, rate=25.0, running={dear.option: 3}))
    assert counts(plan) == {"dear": 3}
    assert plan.kept == "Saving"
    assert plan.lower_bound_usd_per_hour == pytest.approx(12.0)


def test_the_bound_holds_whatever_chips_pools_may_still_get() -> None:
    # What a share of a type leaves open is no proof: with more chips of it the pool would cost less.
    large, small = a_candidate("large", covers=30.0, usd=6.0), a_candidate("small", covers=10.0, usd=4.0)
    plan = planned(a_problem(large, small, rate=25.0, type_caps={"large": 0}, cap_reasons={"large": "shared"}))
    assert plan.usd_per_hour == pytest.approx(12.0)
    assert plan.lower_bound_usd_per_hour == pytest.approx(6.0)


def test_prices_of_an_api_break_even_with_plans_that_carry_all_demand_alone() -> None:
    offer = ExternalOffer("far", "llama", PerToken(1.0, 4.0))
    whole = planned(a_problem(a_candidate(), rate=30.0, maximum=9, external=(offer,)))
    part = planned(a_problem(a_candidate(), rate=3000.0, maximum=9, external=(offer,)))
    assert any("prices of far" in one.what for one in whole.break_even)
    assert part.shortfall > 0.9
    assert not any("prices of far" in one.what for one in part.break_even)


@settings(deadline=None, max_examples=150)
@given(candidate_lists, rates)
def test_one_more_option_never_makes_a_plan_dearer(candidates, rate) -> None:
    assume(len(candidates) > 1)
    fewer = planned(a_problem(*candidates[:-1], rate=rate, maximum=1000))
    assert planned(a_problem(*candidates, rate=rate, maximum=1000)).usd_per_hour <= fewer.usd_per_hour * (1 + 1e-9)


@settings(deadline=None, max_examples=150)
@given(candidate_lists, rates, st.integers(0, 3), st.integers(3, 12), st.integers(0, 2))
def test_replicas_stay_within_their_bounds_and_caps(candidates, rate, low, high, spare) -> None:
    problem = a_problem(
        *candidates, rate=rate, minimum=low, maximum=high, spare=spare, type_caps={"a": 3}, cap_reasons={"a": "a: 3"}
    )
    plan = planned(problem)
    assert plan.replicas <= high
    assert sum(c.replicas * c.option.chips for c in plan.chosen if c.option.accelerator == "a") <= 3
    if not plan.shortfall:
        assert plan.replicas >= low or "a" in counts(plan) or all(c.option.accelerator == "a" for c in candidates)
        assert plan.capacity >= rate * (1 - 1e-9)
    for words in told(plan):
        assert words
        assert not EXPONENT.search(words)


def test_spare_replicas_are_beyond_the_need() -> None:
    assert counts(planned(a_problem(a_candidate(covers=10.0), rate=30.0))) == {"big": 3}
    assert counts(planned(a_problem(a_candidate(covers=10.0), rate=30.0, spare=2))) == {"big": 5}


def test_a_pinned_pool_has_exactly_its_replicas() -> None:
    cheap, dear = a_candidate("cheap", usd=1.0), a_candidate("dear", usd=9.0)
    idle = planned(a_problem(cheap, dear, rate=5.0, minimum=2, maximum=3, spare=1, pinned=4))
    assert counts(idle) == {"cheap": 4}
    assert idle.reason == "4 cheap (fp8, tp1): pinned to 4 replicas"
    busy = planned(a_problem(cheap, dear, rate=500.0, pinned=4))
    assert busy.replicas == 4
    assert busy.shortfall == pytest.approx(0.92)
    assert busy.missed[-1] == Missed("Capacity", "92% of the demand has no capacity: pinned to 4 replicas")
    assert planned(a_problem(cheap, rate=5.0, pinned=0)).replicas == 0


def test_replicas_that_are_asked_for_and_cannot_be_had_are_told() -> None:
    few = {"type_caps": {"big": 2}, "cap_reasons": {"big": "pools share 2 chips of big"}}
    least = planned(a_problem(a_candidate(), rate=5.0, minimum=5, **few))
    told = "replicas asked for at least cannot be had: pools share 2 chips of big"
    assert least.missed == (Missed("Replicas", f"3 of the 5 {told}"),)
    assert planned(a_problem(a_candidate(), rate=5.0, pinned=3, **few)).missed == (
        Missed("Replicas", f"1 of the 3 {told}"),
    )
    assert not planned(a_problem(a_candidate(), rate=5.0, minimum=2, **few)).missed


def test_a_pool_without_demand_holds_its_minimum() -> None:
    plan = planned(a_problem(a_candidate("cheap", usd=1.0), a_candidate("dear", usd=9.0), rate=0.0, minimum=2))
    assert counts(plan) == {"cheap": 2}
    assert plan.reason == "2 cheap (fp8, tp1): no demand, held at 2 replicas"
    assert plan.usd_per_million_tokens is None
    assert planned(a_problem(a_candidate(), rate=0.0)).reason.startswith("no replicas: no demand")


def test_a_mix_is_chosen_where_it_is_cheaper_and_its_saving_is_told() -> None:
    # 50 requests/s: one large (46 for $3.67) and one small (10 for $1.01) are $4.68; five small $5.05, two large $7.34.
    plan = planned(a_problem(a_candidate("a100", covers=46, usd=3.67), a_candidate("a10g", usd=1.01), rate=50.0))
    assert counts(plan) == {"a100": 1, "a10g": 1}
    assert plan.savings_usd_per_hour == pytest.approx(5.05 - 4.68)


def test_dollars_per_million_tokens_count_idle_time() -> None:
    # $4/h for 5 requests/s of 1,000 tokens: 18M tokens an hour.
    plan = planned(a_problem(a_candidate(), rate=5.0))
    assert plan.usd_per_million_tokens == pytest.approx(4 / 18)


# --- limits that bind ------------------------------------------------------------------------------------------------


def test_a_shortfall_is_told_with_the_limit_that_makes_it() -> None:
    by_replicas = planned(a_problem(a_candidate(covers=10.0), rate=40.0, maximum=3))
    assert by_replicas.shortfall == pytest.approx(0.25)
    assert by_replicas.missed == (
        Missed("Capacity", "25% of the demand has no capacity: at most 3 replicas are allowed"),
    )
    assert "the most that the limits allow" in by_replicas.reason
    limits = {"type_caps": {"big": 2}, "cap_reasons": {"big": "maxChips of big is 2"}}
    by_chips = planned(a_problem(a_candidate(covers=10.0), rate=40.0, **limits))
    assert by_chips.missed == (Missed("Capacity", "50% of the demand has no capacity: maxChips of big is 2"),)


def test_a_limit_is_told_once_and_what_is_not_served_costs_nothing() -> None:
    limits = {"type_caps": {"a": 0, "b": 1}, "cap_reasons": dict.fromkeys(("a", "b"), "pools share 5 kW at berlin")}
    plan = planned(a_problem(a_candidate("a"), a_candidate("b"), rate=20.0, **limits))
    assert plan.missed == (Missed("Capacity", "50% of the demand has no capacity: pools share 5 kW at berlin"),)
    (rival,) = [one for one in plan.runners_up if one.option.startswith("a ")]
    assert "100% short" in rival.lost_because
    assert rival.usd_per_million_tokens is None


def test_spare_replicas_that_cannot_be_had_are_told_and_the_demand_is_carried() -> None:
    plan = planned(a_problem(a_candidate(covers=10.0), rate=30.0, spare=2, maximum=4))
    assert counts(plan) == {"big": 4}
    assert plan.shortfall == 0
    assert plan.missed == (Missed("Spare", "1 of 2 spare replicas cannot be had: at most 4 replicas are allowed"),)


def test_what_scarce_chips_can_carry_is_carried() -> None:
    # Of 8 chips, one wide replica makes 10 requests/s and eight narrow ones 16.
    wide, narrow = a_candidate(tp=8, covers=10.0, usd=1.0), a_candidate(tp=1, covers=2.0, usd=1.0)
    scarce = {"type_caps": {"big": 8}, "cap_reasons": {"big": "maxChips of big is 8"}}
    assert planned(a_problem(wide, narrow, rate=20.0, **scarce)).shortfall == pytest.approx(0.2)
    assert planned(a_problem(wide, narrow, rate=20.0, maximum=1)).shortfall == pytest.approx(0.5)


def test_capacity_that_is_sold_out_is_planned_around() -> None:
    cheap, dear = a_candidate("cheap", usd=1.0), a_candidate("dear", usd=9.0)
    refused = {"type_caps": {"cheap": 1}, "cap_reasons": {"cheap": "no more than 1 chips of cheap could be had"}}
    plan = planned(a_problem(cheap, dear, rate=30.0, **refused))
    assert counts(plan) == {"cheap": 1, "dear": 2}
    (loser, *_) = [one for one in plan.runners_up if one.option.startswith("cheap")]
    assert loser.lost_because == (
        "cannot carry the load within its limits (67% short): no more than 1 chips of cheap could be had"
    )


def test_missed_targets_are_told_and_stop_nothing() -> None:
    plan = planned(a_problem(a_candidate(), rate=5.0, target_usd_per_million_tokens=0.1, monthly_budget_usd=2000.0))
    assert plan.missed == (
        Missed("CostTarget", "$0.222 per 1M tokens is above the target of $0.1"),
        Missed("Budget", "$2,900 a month is above the budget of $2,000"),
    )
    assert plan.replicas == 1
    assert not planned(a_problem(a_candidate(), rate=5.0, target_usd_per_million_tokens=0.3)).missed


# --- why the others lost ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(candidate_lists, candidate_lists, rates)
def test_every_type_is_chosen_or_has_a_reason(candidates, others, rate) -> None:
    known = {c.option.accelerator for c in candidates}
    unpriced = [priced(c, 1.0) for c in others if c.option.accelerator not in known]
    rejected = [Rejected("tiny", "Memory", "weights and engine need 78 GB of 43 GB usable per chip")]
    market = a_market(*candidates, unpriced=unpriced, rejected=rejected)
    plan = planned(a_problem(rate=rate, market=market, maximum=1000))
    lost = {one.option.split(" ")[0]: one for one in plan.runners_up}
    everyone = known | {c.option.accelerator for c in unpriced} | {"tiny"}
    assert lost.keys() | counts(plan).keys() == everyone
    assert all(one.lost_because for one in plan.runners_up)
    assert lost["tiny"].lost_because.startswith("weights and engine need")


def test_a_runner_up_says_what_it_would_cost() -> None:
    plan = planned(a_problem(a_candidate("cheap", usd=4.0), a_candidate("dear", usd=5.0), rate=10.0))
    (loser,) = plan.runners_up
    assert loser.option == "dear (fp8, tp1)"
    assert loser.lost_because == "costs $5/h alone, +25%"
    assert loser.usd_per_million_tokens == pytest.approx(5 / 36)
    assert (
        plan.reason
        == "1 cheap (fp8, tp1): cheapest for 10 requests/s at $0.11 per 1M tokens; next is dear (fp8, tp1), +25%"
    )


def test_nothing_that_fits_says_why_for_each_type() -> None:
    rejected = [Rejected(f"type-{i}", "Memory", f"needs {i} GB") for i in range(5)]
    nothing = plan_pool(a_problem(market=a_market(unpriced=[a_candidate("new", usd=1.0)], rejected=rejected)))
    assert isinstance(nothing, NothingFits)
    assert nothing.reason == (
        "no accelerator can serve this pool (new (fp8, tp1): has no price; set AcceleratorType spec.prices; "
        "type-0: needs 0 GB; type-1: needs 1 GB; and 3 more)"
    )
    assert len(nothing.runners_up) == 6
    assert plan_pool(a_problem()) == NothingFits("prod/chat", "no AcceleratorType exists", ())


# --- break-even ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(candidate_lists, st.floats(0.5, 50), st.sampled_from([1, 2, 4]), st.floats(1, 300))
def test_below_the_price_at_which_an_unpriced_type_would_win_it_wins(candidates, covers, tp, rate) -> None:
    new = a_candidate("new", covers=covers, usd=1.0, tp=tp)
    plan = planned(a_problem(rate=rate, market=a_market(*candidates, unpriced=[new]), maximum=1000))
    (loser,) = [one for one in plan.runners_up if one.option.startswith("new")]
    found = re.fullmatch(r"has no price; it would win below \$([0-9.,]+) per chip-hour", loser.lost_because)
    assert found
    limit = float(found[1].replace(",", ""))
    assume(limit > 0)
    winner = planned(a_problem(*candidates, priced(new, limit * 0.999), rate=rate, maximum=1000))
    assert "new" in counts(winner)
    assert winner.usd_per_hour < plan.usd_per_hour


@settings(deadline=None, max_examples=100)
@given(candidate_lists, st.floats(1, 300))
def test_just_below_its_break_even_price_a_rival_is_chosen(candidates, rate) -> None:
    # One option per type: two prices of a type do not move together.
    single = list({c.option.accelerator: c for c in candidates}.values())
    plan = planned(a_problem(*single, rate=rate, maximum=1000))
    for one in plan.break_even:
        name = one.what.split(" ")[0]
        if name in counts(plan):
            continue
        (rival,) = [c for c in single if c.option.accelerator == name]
        assert one.at <= rival.price.usd_per_chip_hour * (1 + 1e-9)
        cheaper = [c if c is not rival else priced(c, one.at * 0.999) for c in single]
        assert name in counts(planned(a_problem(*cheaper, rate=rate, maximum=1000)))


def test_the_choice_flips_at_the_break_even_prices_and_not_before() -> None:
    # 30 requests/s: three "now" at $4 are $12; two "then" (20 each) at $7 are $14. Even at then = $6 or now = $4.67.
    def choice(now: float, then: float) -> set[str]:
        both = (a_candidate("now", covers=10, usd=now), a_candidate("then", covers=20, usd=then))
        return set(counts(planned(a_problem(*both, rate=40.0))))

    plan = planned(a_problem(a_candidate("now", usd=4.0), a_candidate("then", covers=20, usd=9.0), rate=40.0))
    assert {one.what: one.at for one in plan.break_even} == {
        "now USD per chip-hour": pytest.approx(4.5),
        "then USD per chip-hour": pytest.approx(8.0),
    }
    assert choice(4.0, 8.01) == {"now"}
    assert choice(4.0, 7.99) == {"then"}
    assert choice(4.49, 9.0) == {"now"}
    assert choice(4.51, 9.0) == {"then"}


# --- steadiness ------------------------------------------------------------------------------------------------------


def a_running_pool(saving: float, **changes: object) -> PoolPlan:
    """A pool on four "old" at $10/h in all, where "new" would cost this share less."""
    old, new = a_candidate("old", usd=2.5), a_candidate("new", usd=2.5 * (1 - saving))
    return planned(a_problem(old, new, rate=40.0, running={old.option: 4}, **changes))


def test_a_small_saving_moves_nothing_and_is_told() -> None:
    plan = a_running_pool(0.09)
    assert counts(plan) == {"old": 4}
    assert plan.kept == "Saving"
    assert plan.reason == (
        "4 old (fp8, tp1): kept for 40 requests/s at $0.069 per 1M tokens; 4 new (fp8, tp1) would save $0.9/h (9%), "
        "below the $0.91/h that moving must save"
    )


def test_a_large_saving_moves_the_pool_once_the_dwell_has_passed() -> None:
    assert counts(a_running_pool(0.11)) == {"new": 4}
    held = a_running_pool(0.11, may_switch=False)
    assert counts(held) == {"old": 4}
    assert held.kept == "Dwell"
    assert held.reason.endswith("would save $1.1/h (11%), held until the dwell since the last change has passed")


def test_what_runs_is_left_at_once_when_it_cannot_carry_the_load() -> None:
    old, new = a_candidate("old", usd=2.5), a_candidate("new", usd=20.0)
    capped = {"type_caps": {"old": 2}, "cap_reasons": {"old": "maxChips of old is 2"}}
    plan = planned(a_problem(old, new, rate=40.0, running={old.option: 2}, may_switch=False, **capped))
    assert counts(plan) == {"old": 2, "new": 2}


def a_mixed_problem(**changes: object) -> PoolProblem:
    """45 requests/s: four big replicas and a small one are cheapest, five big ones cost 9 % more."""
    return a_problem(a_candidate("big", usd=4.0), a_candidate("small", covers=5.0, usd=2.4), rate=45.0, **changes)


@pytest.mark.parametrize("first", ["big", "small"])
def test_an_option_of_the_plan_that_is_missing_beside_what_runs_is_added_at_once(first: str) -> None:
    whole = counts(planned(a_mixed_problem()))
    assert whole == {"big": 4, "small": 1}
    plan = planned(a_mixed_problem(running={an_option(first): whole[first]}, may_switch=False))
    assert counts(plan) == whole
    assert plan.kept == ""


def test_replicas_that_would_go_for_another_option_stay_within_the_dwell() -> None:
    plan = planned(a_mixed_problem(running={an_option("big"): 5}, may_switch=False))
    assert counts(plan) == {"big": 5}
    few = planned(a_mixed_problem(running={an_option("small"): 2}, may_switch=False))
    assert counts(few) == {"small": 9}
    assert few.kept == "Dwell"


def test_scaling_within_what_runs_is_never_held() -> None:
    old = a_candidate("old")
    for rate, replicas in ((10.0, 1), (35.0, 4), (80.0, 8)):
        plan = planned(a_problem(old, rate=rate, running={old.option: 4}, may_switch=False))
        assert counts(plan) == {"old": replicas}


@settings(deadline=None, max_examples=100)
@given(candidate_lists, st.floats(1, 100), st.lists(st.floats(-0.05, 0.05), min_size=3, max_size=12))
def test_demand_that_swings_by_five_percent_moves_no_pool_back_and_forth(candidates, rate, swings) -> None:
    """With the highest demand of the window planned for, a type that was left is not taken up again."""
    history = DemandHistory(window_seconds=600.0)
    history.add(Known(0.0, rate * 1.05, "Engines"))
    running: dict[object, int] = {}
    left: set[object] = set()
    for minute, swing in enumerate(swings, start=1):
        history.add(Known(45.0 * minute, rate * (1 + swing), "Engines"))
        rate_now = history.planned_rate(45.0 * minute)
        plan = planned(a_problem(*candidates, rate=rate_now, maximum=1000, running=running))
        new = {one.option: one.replicas for one in plan.chosen}
        assert not left & new.keys()
        left |= running.keys() - new.keys()
        running = new


@settings(deadline=None, max_examples=100)
@given(candidate_lists, candidate_lists, rates)
def test_a_kept_plan_costs_at_most_a_tenth_more_than_the_best(candidates, running, rate) -> None:
    problem = a_problem(*candidates, rate=rate, maximum=1000)
    best = planned(problem)
    kept = planned(replace(problem, running={one.option: 2 for one in running}))
    assert best.usd_per_hour <= kept.usd_per_hour * (1 + 1e-9)
    # What arrives costs at most the best plan, paid beside the old for 8 minutes of 4 hours; three times that is 10 %.
    assert kept.usd_per_hour <= best.usd_per_hour * 1.1 * (1 + 1e-9)


def test_equal_workloads_keep_the_replicas_they_have() -> None:
    """Adopted workloads can be alike; which of them serves is then what already does."""
    alike = [replace(a_candidate(), option=replace(an_option(), workload=name)) for name in ("one", "two")]
    plan = planned(a_problem(*alike, rate=50.0, running={alike[0].option: 1, alike[1].option: 3}))
    assert {one.option.workload: one.replicas for one in plan.chosen} == {"one": 2, "two": 3}
    less = planned(a_problem(*alike, rate=30.0, running={alike[1].option: 4}))
    assert {one.option.workload: one.replicas for one in less.chosen} == {"two": 3}


def test_options_read_as_a_phrase() -> None:
    one, spot = an_option("h200-sxm", tp=2), an_option("l40s", capacity="Spot")
    assert describe([(one, 6), (spot, 2), (an_option("idle"), 0)]) == "6 h200-sxm (fp8, tp2), 2 l40s (fp8, tp1, spot)"
    assert describe([]) == "no replicas"


def test_what_is_not_served_makes_tokens_no_cheaper() -> None:
    fits = planned(a_problem(a_candidate(covers=10.0, usd=4.0), rate=10.0, maximum=1))
    floods = planned(a_problem(a_candidate(covers=10.0, usd=4.0), rate=1e9, maximum=1))
    assert floods.shortfall > 0.99
    assert floods.usd_per_million_tokens == pytest.approx(fits.usd_per_million_tokens)
