"""Sizes of KV tiers: the cheapest of all choices, against every plan there is, and what they rest on."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_builders import a_candidate, a_market, a_problem, planned

from tidefleet import catalogue
from tidefleet.economics.shape import KvTier, TokenShape
from tidefleet.planning import tiers
from tidefleet.planning.coordination import Coordination, SharedLimits, coordinate
from tidefleet.planning.from_api import offer_of
from tidefleet.planning.options import (
    PLANNING_UTILISATION,
    Allowed,
    Candidate,
    ClassDemand,
    EstimateMemo,
    Price,
    find_candidates,
)
from tidefleet.planning.pool import advised_tiers
from tidefleet.planning.problem import PoolProblem, TierChoice, TierChoices
from tidefleet.planning.reuse_curve import ReuseCurve, observed_curve, reusable_share, stated_curve
from tidefleet.planning.tiers import GIB, TierLimit, describe_tier, tier_choices

HOST = KvTier("Host", 50e9, 50e-6, usd_per_gib_month=1.0)
DISK = KvTier("Disk", 5e9, 1e-3, usd_per_gib_month=0.1)


def choice(size: float, *candidates: Candidate) -> TierChoice:
    return TierChoice(
        (size,),
        a_market(*candidates),
        {one.option: (size / 100.0,) for one in candidates},
        {one.option: 1.0 + size for one in candidates},
    )


def faster(one: Candidate, factor: float, storage: float) -> Candidate:
    """The option with a tier: it serves more, and costs the rent of it."""
    return replace(
        one,
        requests_per_second=one.requests_per_second * factor,
        usd_per_hour=one.usd_per_hour + storage,
        storage_usd_per_hour=storage,
    )


def with_tiers(problem: PoolProblem, *gains: tuple[float, float, float], now: float | None = None) -> PoolProblem:
    """The pool with a choice of one tier: no size, and for each gain a size, its factor and its rent."""
    base = problem.market.candidates
    choices = [choice(0.0, *base)]
    choices += [choice(size, *(faster(one, factor, rent) for one in base)) for size, factor, rent in gains]
    here = None if now is None else (now,)
    return replace(problem, tiers=TierChoices((HOST,), (100.0,), tuple(choices), "a curve", here))


BIG = a_candidate("big", covers=10.0, usd=4.0)


def test_a_tier_is_as_large_as_it_pays_for_itself() -> None:
    plan = planned(with_tiers(a_problem(BIG, rate=100.0), (10.0, 1.3, 0.3), (50.0, 1.4, 1.5)))
    assert plan.tiers is not None
    assert plan.tiers.counted
    (tier,) = plan.tiers.tiers
    assert tier.bytes_per_replica == 10.0
    assert plan.replicas == 8
    assert plan.usd_per_hour == pytest.approx(8 * 4.3)
    assert tier.saves_usd_per_hour == pytest.approx(40.0 - 8 * 4.3)
    assert tier.hit_share == pytest.approx(0.1)
    assert plan.tiers.saves_usd_per_hour == pytest.approx(40.0 - 8 * 4.3)
    assert plan.tiers.oversubscription == pytest.approx(11.0)
    assert "are KV tiers" in plan.reason


def test_a_tier_that_saves_no_replica_is_not_rented() -> None:
    plan = planned(with_tiers(a_problem(BIG, rate=5.0), (10.0, 1.5, 0.3)))
    assert plan.tiers is not None
    assert [one.bytes_per_replica for one in plan.tiers.tiers] == [0.0]
    assert plan.usd_per_hour == pytest.approx(4.0)
    assert "no size up to" in describe_tier(plan.tiers.tiers[0], counted=True)


def test_of_sizes_that_cost_the_same_the_smaller_is_told() -> None:
    plan = planned(with_tiers(a_problem(BIG, rate=100.0), (90.0, 1.3, 0.0), (10.0, 1.3, 0.0)))
    assert plan.tiers is not None
    assert plan.tiers.tiers[0].bytes_per_replica == 10.0


def test_sizes_in_force_stay_unless_others_save_enough() -> None:
    near = with_tiers(a_problem(BIG, rate=100.0), (10.0, 1.3, 0.3), (20.0, 1.3, 0.2), now=10.0)
    assert planned(near).tiers.tiers[0].bytes_per_replica == 10.0  # type: ignore[union-attr]
    far = with_tiers(a_problem(BIG, rate=100.0), (10.0, 1.3, 0.9), (20.0, 1.3, 0.1), now=10.0)
    assert planned(far).tiers.tiers[0].bytes_per_replica == 20.0  # type: ignore[union-attr]


def test_the_bound_holds_for_every_choice_of_sizes() -> None:
    plan = planned(with_tiers(a_problem(BIG, rate=104.0), (10.0, 1.3, 0.3), (20.0, 1.3, 0.2), now=10.0))
    assert plan.usd_per_hour == pytest.approx(8 * 4.3)
    assert plan.lower_bound_usd_per_hour == pytest.approx(8 * 4.2)


def test_advice_leaves_the_plan_as_it_is() -> None:
    problem = a_problem(BIG, rate=100.0)
    choices = with_tiers(problem, (10.0, 1.3, 0.3)).tiers
    assert choices is not None
    advice = advised_tiers(problem, choices)
    assert advice is not None
    assert not advice.counted
    assert advice.tiers[0].saves_usd_per_hour == pytest.approx(40.0 - 8 * 4.3)
    assert planned(problem).usd_per_hour == pytest.approx(40.0)


gains = st.lists(
    st.tuples(st.integers(1, 4), st.integers(4, 10).map(lambda n: n / 4), st.integers(0, 12).map(lambda n: n / 4)),
    max_size=2,
    unique_by=lambda one: one[0],
)
kinds = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(4, 40), st.integers(1, 20)),
    min_size=1,
    max_size=2,
    unique_by=lambda one: one[0],
)


@settings(max_examples=30, deadline=None)
@given(kinds, gains, gains, st.tuples(st.integers(1, 60), st.integers(1, 40)), st.sampled_from([0, 2, 4]))
def test_two_pools_with_tiers_cost_what_the_best_of_all_plans_and_sizes_costs(
    of: list[tuple[str, int, int]],
    first: list[tuple[float, float, float]],
    second: list[tuple[float, float, float]],
    rates: tuple[int, int],
    cap: int,
) -> None:
    options = [a_candidate(name, covers=covers, usd=usd) for name, covers, usd in of]
    spare = a_candidate("dear", covers=20.0, usd=40.0)
    pools = [
        with_tiers(a_problem(*options, spare, rate=float(one), pool=name, maximum=4), *mine)
        for name, one, mine in (("prod/a", rates[0], first), ("prod/b", rates[1], second))
    ]
    found = coordinate(pools, SharedLimits(chips={of[0][0]: cap}), clock=time.monotonic, seconds=20.0)
    assert isinstance(found, Coordination)
    assert found.bound_usd_per_hour <= found.usd_per_hour + 1e-6
    assert found.usd_per_hour == pytest.approx(_best(pools, of[0][0], cap), rel=6e-3, abs=1e-6)
    alone = [planned(one) for one in pools]
    assert sum(one.usd_per_hour for one in alone) == pytest.approx(_best(pools, of[0][0], 99), rel=1e-6, abs=1e-6)


def _best(pools: list[PoolProblem], limited: str, cap: int) -> float:
    """The cheapest of all plans of both pools, each under each choice, that hold the limit."""
    by_chips: list[dict[int, float]] = []
    for problem in pools:
        every: dict[int, float] = {}
        assert problem.tiers is not None
        for one in problem.tiers.choices:
            some = one.market.candidates
            for numbers in itertools.product(range(problem.maximum + 1), repeat=len(some)):
                pairs = list(zip(numbers, some, strict=True))
                covered = sum(n * each.requests_per_second for n, each in pairs) * PLANNING_UTILISATION
                if sum(numbers) > problem.maximum or covered < problem.requests_per_second - 1e-9:
                    continue
                chips = sum(n for n, each in pairs if each.option.accelerator == limited)
                cost = sum(n * each.usd_per_hour for n, each in pairs)
                every[chips] = min(cost, every.get(chips, math.inf))
        by_chips.append(every)
    one_pool, other = by_chips
    return min(a + b for (m, a), (n, b) in itertools.product(one_pool.items(), other.items()) if m + n <= cap)


# --- what the choices are made of -------------------------------------------------------------------------------------

LONG = ClassDemand("agent", 1.0, TokenShape(input_mean=24_000.0, output_mean=300.0, cached_share=0.3))
RATE = 6.0
CURVE = stated_curve(reusable=0.8, used_tokens_per_second=RATE * 24_300.0, pause_seconds=120.0)
OFFER = replace(offer_of(catalogue.accelerator_types()["h100-sxm"], placeable=False), prices={"OnDemand": Price(2.5)})
MEMO = EstimateMemo()
MARKET = find_candidates(
    catalogue.models()["llama-3.3-70b"],
    [OFFER],
    (LONG,),
    {"h100-sxm": Allowed(tensor_parallel=(4,))},
    default_weights="Fp8",
    default_kv="Fp8",
    memo=MEMO,
)


def choices_of(*limits: TierLimit, curve: ReuseCurve = CURVE, ratio: float = math.inf) -> TierChoices:
    return tier_choices(
        MARKET,
        limits,
        (LONG,),
        (curve,),
        requests_per_second=RATE,
        offers=[OFFER],
        memo=MEMO,
        most_oversubscription=ratio,
    )


def plan_of(choices: TierChoices) -> tuple[float, tuple[float, ...]]:
    plan = planned(a_problem(*MARKET.candidates, rate=RATE, classes=(LONG,), tiers=choices))
    assert plan.tiers is not None
    return plan.usd_per_hour, tuple(one.bytes_per_replica for one in plan.tiers.tiers)


def test_a_larger_tier_finds_more_and_a_replica_serves_more() -> None:
    found = choices_of(TierLimit(HOST, 2000 * GIB)).choices
    hits = [next(iter(one.hit_shares.values()))[0] for one in found]
    rates = [one.market.candidates[0].requests_per_second for one in found]
    assert hits[0] == 0.0
    assert hits == sorted(hits)
    assert hits[-1] > 0.2
    assert rates == sorted(rates)
    assert rates[-1] > rates[0] * 1.1


def test_what_is_fetched_never_passes_what_comes_again() -> None:
    found = choices_of(TierLimit(HOST, 1e15))
    assert next(iter(found.choices[-1].hit_shares.values()))[0] <= CURVE.most - LONG.shape.cached_share + 1e-9


def test_the_dearer_a_tier_the_smaller_it_is() -> None:
    sizes = [
        plan_of(choices_of(TierLimit(replace(HOST, usd_per_gib_month=usd), 2000 * GIB)))[1][0]
        for usd in (0.0, 1.0, 5.0, 50.0)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0.0
    assert sizes[-1] == 0.0


def test_a_plan_with_tiers_never_costs_more_than_one_without() -> None:
    bare = planned(a_problem(*MARKET.candidates, rate=RATE, classes=(LONG,))).usd_per_hour
    one, _ = plan_of(choices_of(TierLimit(HOST, 2000 * GIB)))
    both, _ = plan_of(choices_of(TierLimit(HOST, 2000 * GIB), TierLimit(DISK, 8000 * GIB)))
    assert both <= one + 1e-9
    assert one < bare


def test_a_tier_that_is_slower_than_prefilling_again_is_not_rented() -> None:
    slow = KvTier("Disk", 1e6, 10.0, usd_per_gib_month=0.01)
    assert plan_of(choices_of(TierLimit(slow, 2000 * GIB)))[1] == (0.0,)


def test_nothing_is_kept_of_prompts_that_never_come_again() -> None:
    never = stated_curve(reusable=0.0, used_tokens_per_second=1e5)
    assert plan_of(choices_of(TierLimit(HOST, 2000 * GIB), curve=never))[1] == (0.0,)


def test_the_ratio_of_kv_to_chips_stays_within_the_owners_limit() -> None:
    found = choices_of(TierLimit(HOST, 4000 * GIB), ratio=3.0)
    ratios = [next(iter(one.ratios.values())) for one in found.choices]
    assert max(ratios) <= 3.0
    assert len(ratios) < len(choices_of(TierLimit(HOST, 4000 * GIB)).choices)


def test_a_size_that_engines_would_not_start_with_is_no_choice_also_when_they_round_it_down() -> None:
    limit = TierLimit(HOST, 900e9, over_room=1.25)  # of 211 GB on the four chips
    rounded = replace(limit, rank_bytes=60e9)  # 450 GB are started as 240
    assert [one.bytes_per_replica[0] for one in choices_of(limit).choices] == [0.0, 450e9, 900e9]
    assert [one.bytes_per_replica[0] for one in choices_of(rounded).choices] == [0.0, 900e9]


def test_a_tier_whose_size_is_given_has_it() -> None:
    found = choices_of(TierLimit(HOST, 512 * GIB, planned=False), TierLimit(DISK, 4000 * GIB))
    assert {one.bytes_per_replica[0] for one in found.choices} == {512 * GIB}
    assert {one.bytes_per_replica[1] for one in found.choices} > {0.0}


@pytest.mark.parametrize("rate", [0.5, 3.0, 6.0, 40.0])
def test_choices_that_are_left_out_are_of_no_use_to_any_plan(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (TierLimit(HOST, 2000 * GIB), TierLimit(DISK, 8000 * GIB))
    some = choices_of(*limits)
    monkeypatch.setattr(tiers, "_undominated", lambda choices, *_: [True] * len(choices))
    every = choices_of(*limits)
    assert len(some.choices) < len(every.choices) == 49
    plans = [planned(a_problem(*MARKET.candidates, rate=rate, classes=(LONG,), tiers=one)) for one in (some, every)]
    assert plans[0].usd_per_hour == pytest.approx(plans[1].usd_per_hour)
    saved = [[one.saves_usd_per_hour for one in each.tiers.tiers] for each in plans if each.tiers]
    assert saved[0] == pytest.approx(saved[1])


def test_sizes_in_force_stay_among_the_choices() -> None:
    here = (2000 * GIB / 32,)
    found = tier_choices(
        MARKET, (TierLimit(replace(HOST, usd_per_gib_month=50.0), 2000 * GIB),), (LONG,), (CURVE,),
        requests_per_second=RATE, offers=[OFFER], memo=MEMO, now=here,
    )  # fmt: skip
    assert here in [one.bytes_per_replica for one in found.choices]


def test_the_chosen_size_is_where_a_block_stops_paying_for_its_place() -> None:
    """Without whole replicas in between: reuse * recompute against storage + fetch, on both sides of the choice."""
    found = choices_of(TierLimit(HOST, 2000 * GIB))
    per_request = [one.market.candidates[0].usd_per_request for one in found.choices]
    many = planned(a_problem(*MARKET.candidates, rate=900.0, classes=(LONG,), maximum=10_000, tiers=found))
    assert many.tiers is not None
    taken = [one.bytes_per_replica for one in found.choices].index((many.tiers.tiers[0].bytes_per_replica,))
    assert per_request[taken] == pytest.approx(min(per_request), rel=0.01)


# --- the curve --------------------------------------------------------------------------------------------------------


def test_the_curve_of_pausing_sessions_is_exponential() -> None:
    curve = stated_curve(reusable=0.6, used_tokens_per_second=1000.0, pause_seconds=50.0)
    assert curve.share(50_000.0) == pytest.approx(0.6 * (1 - math.exp(-1)), rel=0.01)
    assert curve.share(0.0) == 0.0
    assert curve.share(1e12) == pytest.approx(0.6, rel=1e-3)


@pytest.mark.parametrize(
    ("turns", "cached", "share"), [(1.0, 0.0, 0.0), (4.0, 0.1, 0.6), (4.0, 0.9, 0.9), (0.5, 0.2, 0.2)]
)
def test_turns_of_a_session_find_the_ones_before(turns: float, cached: float, share: float) -> None:
    assert reusable_share(turns, cached) == pytest.approx(share)


def test_a_sample_without_its_share_of_what_is_always_used_is_put_right() -> None:
    found = observed_curve([1e3, 1e4], [1e6, 2e6, 4e6], seen=1e7, source="seen")
    assert found is not None
    assert found.share(1e3) == pytest.approx(0.4)
    assert found.share(1e9) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("tokens", "seen"),
    [([1e6, 1e6], 1e7), ([1e6, 1e6, math.nan], 1e7), ([1e6, -1.0, 0.0], 1e7), ([1.0, 1.0, 1.0], 3.0), ([0, 0, 0], 0.0)],
)
def test_what_is_no_curve_is_none(tokens: list[float], seen: float) -> None:
    assert observed_curve([1e3, 1e4], tokens, seen=seen, source="seen") is None


def test_numbers_that_are_no_curve_are_refused() -> None:
    with pytest.raises(ValueError, match="expected as many of both"):
        ReuseCurve((1e3, 1e2), (0.1, 0.2), "x")


def test_the_sizes_in_force_give_way_where_they_cannot_carry_the_load() -> None:
    problem = with_tiers(a_problem(BIG, rate=100.0, maximum=8), (10.0, 1.3, 0.3), now=0.0)
    plan = planned(problem)
    assert plan.shortfall == 0.0
    assert plan.tiers is not None
    assert plan.tiers.tiers[0].bytes_per_replica == 10.0
