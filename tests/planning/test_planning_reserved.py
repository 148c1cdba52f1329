"""Reserved chips are paid for whether they are used or not: plans use them first, and say what is owed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning_builders import a_candidate, a_problem, counts, planned

from tidefleet.planning.options import COMMITTED_SHARE, Candidate, Option


def reserved(usd: float = 3.0, *, tp: int = 1, covers: float = 1.0) -> Candidate:
    one = a_candidate("gpu", covers=covers, usd=usd, tp=tp, capacity="Reserved")
    return replace(one, price=replace(one.price, committed=True))


SPOT, DEMAND = (
    a_candidate("gpu", covers=1.0, usd=usd, capacity=kind) for usd, kind in ((1.0, "Spot"), (4.0, "OnDemand"))
)


def by_option(candidates: tuple[Candidate, ...], **problem: object) -> dict[Option, int]:
    return {one.option: one.replicas for one in planned(a_problem(*candidates, **problem)).chosen}


def test_what_is_paid_in_any_case_is_used_before_what_is_cheaper() -> None:
    assert by_option((SPOT, reserved()), rate=5.0) == {reserved().option: 5}
    unbound = a_candidate("gpu", covers=1.0, usd=3.0, capacity="Reserved")
    assert by_option((SPOT, unbound), rate=5.0) == {SPOT.option: 5}


def test_beyond_the_reserved_chips_others_are_rented() -> None:
    wide = reserved(tp=2, covers=2.0)
    both = (SPOT, reserved(), wide)
    found = by_option(both, rate=9.0, type_caps={"gpu Reserved": 4}, cap_reasons={"gpu Reserved": "4 are reserved"})
    assert found[SPOT.option] == 5
    assert sum(count * option.chips for option, count in found.items() if option.capacity_type == "Reserved") == 4


def test_a_limit_on_the_type_holds_over_all_ways_to_pay() -> None:
    found = by_option((DEMAND, reserved()), rate=9.0, type_caps={"gpu": 6, "gpu Reserved": 4})
    assert found == {DEMAND.option: 2, reserved().option: 4}


def test_the_plans_cost_has_all_of_the_rent_and_says_what_is_owed_anyhow() -> None:
    plan = planned(a_problem(DEMAND, reserved(), rate=5.0, type_caps={"gpu Reserved": 4}, monthly_budget_usd=10_000.0))
    assert counts(plan) == {"gpu": 5}
    assert plan.usd_per_hour == pytest.approx(4 * 3.0 + 4.0)
    assert plan.lower_bound_usd_per_hour <= plan.usd_per_hour
    assert plan.lower_bound_usd_per_hour >= 4 * 3.0 * COMMITTED_SHARE
    assert "$12/h of $16/h are owed for reserved chips in any case" in plan.reason
    assert [one.what for one in plan.missed] == ["Budget"]  # 16 * 730


def test_others_are_compared_as_what_they_would_cost_beside_what_is_owed() -> None:
    other = a_candidate("other", covers=1.0, usd=2.0)
    plan = planned(a_problem(reserved(), other, rate=5.0))
    (told,) = [one.lost_because for one in plan.runners_up if one.option.startswith("other")]
    assert told == "costs $25/h alone, +66%"  # 5 * 2 beside 99 % of 5 * 3
    (even,) = plan.break_even
    assert even.what == "other USD per chip-hour"
    assert even.at == pytest.approx(3.0 * (1.0 - COMMITTED_SHARE))
