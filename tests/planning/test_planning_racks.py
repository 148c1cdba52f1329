"""Types that are bought as whole racks: a pool has all the replicas of a rack, or none."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_builders import CHAT, a_candidate, a_problem, counts, planned

from tidefleet import catalogue
from tidefleet.api import AcceleratorType
from tidefleet.planning.coordination import Coordination, SharedLimits, coordinate, first_come
from tidefleet.planning.from_api import offer_of, rack_chips
from tidefleet.planning.options import Allowed, EstimateMemo, Market, Price, find_candidates
from tidefleet.planning.problem import PoolProblem
from tidefleet.planning.solution import solve

RACK = a_candidate("rack", covers=10.0, usd=1.0, tp=2, multiple=4)
LOOSE = a_candidate("loose", covers=10.0, usd=3.0, tp=1)
PAID = Price(3.3)
NVL72 = catalogue.accelerator_types()["gb200-nvl72"]


def test_a_rack_is_bought_whole_where_it_pays() -> None:
    plan = planned(a_problem(RACK, LOOSE, rate=38.0))
    assert counts(plan) == {"rack": 4}
    assert plan.usd_per_hour == pytest.approx(8.0)
    assert "1 whole rack of 8 rack" in plan.reason


def test_few_replicas_do_not_pay_for_a_rack() -> None:
    assert counts(planned(a_problem(RACK, LOOSE, rate=15.0))) == {"loose": 2}


def test_what_a_rack_does_not_cover_comes_from_loose_replicas() -> None:
    assert counts(planned(a_problem(RACK, LOOSE, rate=55.0))) == {"rack": 4, "loose": 2}


def test_a_pinned_pool_has_the_replicas_that_it_asks_for() -> None:
    assert counts(planned(a_problem(RACK, rate=5.0, pinned=3))) == {"rack": 3}


def test_a_rack_that_does_not_fit_the_bounds_is_told() -> None:
    plan = planned(a_problem(RACK, rate=5.0, maximum=3))
    assert plan.replicas == 0
    (missed,) = plan.missed
    assert "a rack of rack holds 4 replicas, and at most 3 are allowed" in missed.why


def test_one_more_rack_is_what_a_limit_of_chips_is_lifted_by() -> None:
    plan = planned(a_problem(RACK, LOOSE, rate=75.0, type_caps={"rack": 8}))
    assert any(one.what.startswith("8 more rack would save") for one in plan.shadow_prices)


def test_racks_shared_by_pools_are_dealt_out_whole() -> None:
    problems = [a_problem(RACK, LOOSE, rate=38.0, pool=name) for name in ("prod/a", "prod/b")]
    limits = SharedLimits(chips={"rack": 12})
    found = coordinate(problems, limits, clock=time.monotonic, seconds=20.0)
    assert isinstance(found, Coordination)
    assert sorted(found.caps[name, "rack"] for name in ("prod/a", "prod/b")) == [0, 8]
    dealt = first_come([(one, planned(one)) for one in problems], limits)
    assert [dealt.caps[name, "rack"] for name in ("prod/a", "prod/b")] == [8, 0]


racks = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(4, 40), st.integers(1, 20), st.sampled_from([1, 2, 3])),
    min_size=1,
    max_size=3,
    unique_by=lambda one: one[0],
)


@settings(max_examples=25, deadline=None)
@given(racks, st.integers(0, 60), st.integers(0, 30), st.sampled_from([0, 4, 6]))
def test_two_pools_on_racks_cost_what_the_best_of_all_plans_costs(
    kinds: list[tuple[str, int, int, int]], first: int, second: int, cap: int
) -> None:
    options = [a_candidate(name, covers=covers, usd=usd, multiple=many) for name, covers, usd, many in kinds]
    spare = a_candidate("dear", covers=10.0, usd=40.0)
    pools = [
        a_problem(*options, spare, rate=float(rate), pool=name, maximum=8)
        for name, rate in (("prod/a", first), ("prod/b", second))
    ]
    limits = SharedLimits(chips={kinds[0][0]: cap})
    found = coordinate(pools, limits, clock=time.monotonic, seconds=20.0)
    assert isinstance(found, Coordination)
    assert found.bound_usd_per_hour <= found.usd_per_hour + 1e-6
    assert found.usd_per_hour == pytest.approx(_best(pools, kinds[0][0], cap), rel=6e-3, abs=1e-6)


def _best(pools: list[PoolProblem], limited: str, cap: int) -> float:
    """The cheapest of all plans of both pools that hold the limit."""
    by_chips: list[dict[int, float]] = []
    for problem in pools:
        every: dict[int, float] = {}
        sizes = [range(0, 9, one.multiple) for one in problem.market.candidates]
        for numbers in itertools.product(*sizes):
            pairs = list(zip(numbers, problem.market.candidates, strict=True))
            covered = sum(n * one.requests_per_second for n, one in pairs) * 0.85
            if sum(numbers) > problem.maximum or covered < problem.requests_per_second - 1e-9:
                continue
            chips = sum(n for n, one in pairs if one.option.accelerator == limited)
            cost = sum(n * one.usd_per_hour for n, one in pairs)
            every[chips] = min(cost, every.get(chips, cost))
        by_chips.append(every)
    one, other = by_chips
    return min(a + b for (m, a), (n, b) in itertools.product(one.items(), other.items()) if m + n <= cap)


def market_of(
    kind: AcceleratorType, *, whole_racks: bool = True, widths: tuple[int, ...] = (), price: Price | None = PAID
) -> Market:
    offer = replace(offer_of(kind, whole_racks=whole_racks), prices={"OnDemand": price} if price else {})
    return find_candidates(
        catalogue.models()["llama-3.3-70b"],
        [offer],
        (CHAT,),
        {kind.name: Allowed(tensor_parallel=widths)},
        default_weights="Fp8",
        default_kv="Fp8",
        memo=EstimateMemo(),
    )


def test_the_shipped_racks_are_bought_as_such_and_other_domains_are_not() -> None:
    found = {name: rack_chips(kind) for name, kind in catalogue.accelerator_types().items()}
    assert {name: chips for name, chips in found.items() if chips} == {
        "gb200-nvl72": 72,
        "gb300-nvl72": 72,
        "rubin-vr-nvl72": 72,
    }


def test_replicas_of_a_rack_fill_it_whatever_their_width() -> None:
    found = market_of(NVL72, widths=(1, 2, 4)).candidates
    assert [(one.option.chips, one.multiple) for one in found] == [(1, 72), (2, 36), (4, 18)]
    assert {one.multiple for one in market_of(NVL72, whole_racks=False).candidates} == {1}


def test_a_width_that_leaves_chips_of_a_rack_over_is_no_candidate() -> None:
    loose = NVL72.model_copy(update={"spec": NVL72.spec.model_copy(update={"chips_per_node": None})})
    found = market_of(loose, widths=(16,))
    assert not found.candidates
    assert found.rejected[0].detail == "16 chips a replica do not fill racks of 72 evenly"


def test_a_rack_that_is_paid_for_in_any_case_is_used_by_the_replica() -> None:
    found = market_of(NVL72, price=replace(PAID, committed=True))
    assert {one.multiple for one in found.candidates} == {1}


def test_a_rack_without_a_price_is_compared_whole() -> None:
    found = market_of(NVL72, price=None)
    assert {one.multiple * one.option.chips for one in found.unpriced} == {72}


def test_replicas_that_run_stay_in_whole_racks_where_options_are_alike() -> None:
    twin = replace(RACK, option=replace(RACK.option, workload="other"))
    problem = a_problem(RACK, twin, rate=70.0, running={twin.option: 5})
    assert solve(problem, problem.market.candidates).counts == (4, 4)
