"""Prices at which a plan turns to another type: what runs and whole nodes count as in the plan that is followed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from planning_builders import a_candidate, a_market, a_problem, counts, planned

from tidefleet.planning.coordination import SharedLimits
from tidefleet.planning.filling import fill
from tidefleet.planning.nodes import standing
from tidefleet.planning.options import Candidate
from tidefleet.planning.problem import PoolPlan, PoolProblem
from tidefleet.planning.turning import turning_prices

RATE = 40.0


def told(plan: PoolPlan) -> dict[str, float]:
    """Break-even prices by type."""
    return {one.what.removesuffix(" USD per chip-hour"): one.at for one in plan.break_even}


def runs(old: Candidate, new: Candidate, **changes: object) -> PoolPlan:
    """A pool of four "old" that run, and what it does where "new" covers as much."""
    return planned(a_problem(old, new, rate=RATE, running={old.option: 4}, **changes))


def test_what_runs_is_left_at_the_price_that_pays_for_the_move_and_not_at_equal_cost() -> None:
    old, new = a_candidate("old", usd=2.5), a_candidate("new", usd=3.0)
    plan = runs(old, new)
    # $10/h; the move must save 3 * 480 s / 4 h = 10 % of what arrives: 4x * 1.1 = 10, and 10 - 4x > 5 % of 10.
    assert told(plan) == {"new": pytest.approx(10 / 4.4), "old": pytest.approx(3.0 * 1.1)}
    assert counts(runs(old, a_candidate("new", usd=2.26))) == {"new": 4}
    assert counts(runs(old, a_candidate("new", usd=2.29))) == {"old": 4}
    assert counts(runs(a_candidate("old", usd=3.31), new)) == {"new": 4}
    assert counts(runs(a_candidate("old", usd=3.29), new)) == {"old": 4}
    fast = told(runs(old, new, start_seconds=10.0))
    assert fast == {"new": pytest.approx(0.95 * 2.5), "old": pytest.approx(3.0 / 0.95)}
    on_paper = told(planned(a_problem(old, new, rate=RATE)))
    assert on_paper == {"new": pytest.approx(2.5), "old": pytest.approx(3.0)}


@pytest.mark.parametrize(("usd", "kept"), [(2.4, "Saving"), (2.0, "Dwell")])
def test_a_plan_that_is_kept_tells_the_prices_of_what_it_keeps(usd: float, kept: str) -> None:
    old, new = a_candidate("old", usd=2.5), a_candidate("new", usd=usd)
    plan = runs(old, new, may_switch=kept == "Saving")
    assert (counts(plan), plan.kept) == ({"old": 4}, kept)
    assert told(plan) == {"new": pytest.approx(10 / 4.4), "old": pytest.approx(usd * 1.1)}
    held_only_by_the_dwell = told(plan)["new"] > usd
    assert held_only_by_the_dwell == (kept == "Dwell")


def test_a_type_that_runs_already_needs_no_saving() -> None:
    old, new = a_candidate("old", usd=2.5), a_candidate("new", usd=3.0)
    plan = planned(a_problem(old, new, rate=RATE, running={old.option: 3, new.option: 1}))
    assert told(plan)["new"] == pytest.approx(2.5)


def test_a_type_without_a_price_is_told_the_one_below_which_what_runs_would_be_left_for_it() -> None:
    old, new = a_candidate("old", usd=2.5), a_candidate("new", usd=1.0)
    market = a_market(old, unpriced=[new])

    def words(**changes: object) -> str:
        plan = planned(replace(a_problem(old, rate=RATE, **changes), market=market))
        return next(one.lost_because for one in plan.runners_up if "new" in one.option)

    assert words() == "has no price; it would win below $2.5 per chip-hour"
    assert words(running={old.option: 4}) == "has no price; it would win below $2.2 per chip-hour"  # 2.5 / 1.1 = 2.27


@settings(deadline=None, max_examples=100)
@given(
    st.floats(1.0, 9.0), st.floats(1.0, 9.0), st.sampled_from([5.0, 10.0, 20.0]), st.floats(1.0, 200.0),
    st.floats(0.0, 2000.0),
)  # fmt: skip
def test_just_below_the_price_what_runs_is_left_and_just_above_it_stays(now, then, covers, rate, start) -> None:
    def plan(usd: float, other: float, running: int) -> PoolPlan:
        old, new = a_candidate("old", usd=usd), a_candidate("new", covers=covers, usd=other)
        here = {old.option: running}
        return planned(a_problem(old, new, rate=rate, running=here, start_seconds=start, maximum=1000))

    first = plan(now, then, 30)
    assume(set(counts(first)) == {"old"} and not first.shortfall)
    found = told(first)
    if "new" in found:
        below, above = (counts(plan(now, found["new"] * share, 30)) for share in (0.999, 1.001))
        assert below != counts(first)  # a mixture may win before the other type alone does
        assert set(above) != {"new"}
    if "old" in found:
        below, above = (counts(plan(found["old"] * share, then, 30)) for share in (0.999, 1.001))
        assert set(below) != {"new"}
        assert above != counts(first)


# --- whole nodes -----------------------------------------------------------------------------------------------------

NODES = SharedLimits(nodes={"big": 4, "small": 16})


def a_fleet(small: float, big: float = 4.0) -> list[tuple[PoolProblem, PoolPlan]]:
    """Six replicas on "big" beside a pool that takes three of them, or six "small", which are cheaper by the chip."""
    on_big, on_small = a_candidate("big", usd=big), a_candidate("small", covers=5.0, usd=small)
    problems = (
        replace(a_problem(on_big, rate=60.0), pool="prod/a"),
        replace(a_problem(on_big, on_small, rate=30.0), pool="prod/b"),
    )
    return [(one, planned(one)) for one in problems]


def led(plans: Sequence[tuple[PoolProblem, PoolPlan]]) -> list[tuple[PoolProblem, PoolPlan]]:
    """The pools as whole nodes lead them."""
    found = fill(plans, NODES, clock=time.monotonic, seconds=20.0)
    assert hasattr(found, "caps"), found
    result = []
    for problem, plan in plans:
        caps = {group: cap for (pool, group), cap in found.caps.items() if pool == problem.pool}
        within = replace(problem, steered=caps, steered_because=found.because) if caps else problem
        result.append((within, planned(within) if caps else plan))
    return result


def test_a_plan_that_whole_nodes_lead_tells_the_prices_at_which_the_fleet_would_turn() -> None:
    (a, on_a), (b, plan) = led(a_fleet(1.8))
    assert counts(plan) == {"big": 3}  # 9 chips on three nodes of 4, $48/h; six "small" stand on a node of 16, $28.80
    assert plan.break_even == ()
    found = standing({a.pool: on_a.chosen, b.pool: plan.chosen}, NODES.nodes)
    beside = {one.group: one.held - one.by_pool.get(b.pool, 0) for one in found}
    prices = turning_prices(b, plan.chosen, plan.others, nodes=NODES.nodes, held=beside)
    # 48 = 32 + 16 x, and 12 y = 8 y + 28.8
    assert {one.what.split()[0]: one.at for one in prices} == {"small": pytest.approx(1.0), "big": pytest.approx(7.2)}
    for changed, expected in (((0.97,), "small"), ((1.03,), "big"), ((1.8, 7.4), "small"), ((1.8, 7.0), "big")):
        assert set(counts(led(a_fleet(*changed))[1][1])) == {expected}, changed


def test_a_type_whose_nodes_are_paid_for_anyway_is_left_at_no_price() -> None:
    (_, plan) = led(a_fleet(1.8))[1]
    full = turning_prices(
        led(a_fleet(1.8))[1][0], plan.chosen, plan.others, nodes={"big": 16}, held={("big", "OnDemand"): 6}
    )
    assert [one.what for one in full] == []
