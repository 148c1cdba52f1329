"""Whole nodes in the operator: pools fill each other's nodes beside the loop, and hear what is idle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from controller_builders import NOW, SHIPPED, a_class, a_pool, a_served, a_view, an_option

from tidefleet.controller import filling as module
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import NOTHING_SHARED, Share, decide
from tidefleet.controller.decision import Decision
from tidefleet.controller.filling import NodeFilling, held_by_watched, node_sizes, with_idle
from tidefleet.controller.status import pool_status
from tidefleet.controller.view import PoolMemory
from tidefleet.economics.shape import TokenShape
from tidefleet.planning.coordination import SharedLimits
from tidefleet.planning.demand import DemandHistory, Known
from tidefleet.planning.fleet import SolverFailed
from tidefleet.planning.options import PLANNING_UTILISATION, Candidate, ClassDemand, EstimateMemo, Market, Option, Price
from tidefleet.planning.pool import plan_pool
from tidefleet.planning.problem import PoolPlan, PoolProblem

CHAT = ClassDemand("chat", 1.0, TokenShape(900.0, 100.0))
NODES = SharedLimits(nodes={"big": 8, "small": 4})
STEERED = {"prod/b": {"small OnDemand": 0}}


def a_candidate(accelerator: str, usd: float) -> Candidate:
    """An option whose replica covers one request/s of planned demand."""
    option = Option(accelerator, "OnDemand", 1, "Fp8", "Fp8")
    return Candidate(option, Price(usd), 1.0 / PLANNING_UTILISATION, usd, ())


BIG, SMALL = a_candidate("big", 2.0), a_candidate("small", 1.5)


def planned(pool: str, *candidates: Candidate, rate: float, may_switch: bool = True) -> tuple[PoolProblem, PoolPlan]:
    problem = PoolProblem(pool, (CHAT,), rate, Market(candidates, (), ()), minimum=0, may_switch=may_switch)
    plan = plan_pool(problem)
    assert isinstance(plan, PoolPlan)
    return problem, plan


def two_pools(rate: float = 2.0, **changes: bool) -> list[tuple[PoolProblem, PoolPlan]]:
    a, b = planned("prod/a", BIG, rate=6.0), planned("prod/b", BIG, SMALL, rate=rate, **changes)
    return [(replace(a[0], running={BIG.option: 6}), a[1]), (replace(b[0], running={BIG.option: 1}), b[1])]


@pytest.fixture
def filling() -> Iterator[NodeFilling]:
    one = NodeFilling()
    yield one
    one.close()


def steered(filling: NodeFilling, plans=None, limits: SharedLimits = NODES) -> dict[str, dict[str, int]]:
    shares = filling.shares(plans or two_pools(), limits)
    return {pool: dict(share.steered) for pool, share in shares.items()}


def test_the_loop_goes_on_while_whole_nodes_are_planned_and_the_next_pass_has_the_answer(filling) -> None:
    assert steered(filling) == {}
    filling.settled(30)
    assert steered(filling) == STEERED


def test_first_replicas_wait_a_moment_for_an_answer_that_decides_where_they_start(filling, monkeypatch) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 30.0)
    fresh = [(replace(problem, running={}), plan) for problem, plan in two_pools()]
    assert steered(filling, fresh) == STEERED


def test_a_pool_whose_dwell_has_not_passed_is_not_led_away_from_what_it_runs(filling) -> None:
    steered(filling)
    filling.settled(30)
    (a, (b, plan)) = two_pools(may_switch=False)
    for running, expected in (({SMALL.option: 2}, {}), ({SMALL.option: 2, BIG.option: 1}, STEERED)):
        assert steered(filling, [a, (replace(b, running=running), plan)]) == expected


def test_nothing_is_solved_where_little_is_idle_or_the_size_of_nodes_is_not_known(filling) -> None:
    for plans, limits in ((two_pools(), SharedLimits()), ([planned("prod/a", BIG, rate=8.0)], NODES)):
        assert filling.shares(plans, limits) == {}
        filling.settled(30)
        assert filling._answer is None


def test_an_answer_stays_in_force_while_the_next_is_sought_and_another_is_asked_for_when_a_dwell_has_passed(
    filling, monkeypatch
) -> None:
    asked: list[None] = []
    fill = module.fill

    def counting(*arguments, **rest):
        asked.append(None)
        return fill(*arguments, **rest)

    monkeypatch.setattr(module, "fill", counting)
    steered(filling)
    filling.settled(30)
    for plans in (two_pools(2.05), two_pools(1.9)):
        assert steered(filling, plans) == STEERED
    assert len(asked) == 1
    assert steered(filling, two_pools(may_switch=False)) == STEERED
    filling.settled(30)
    assert len(asked) == 2
    filling.come_out_short()
    assert steered(filling) == {}


@pytest.mark.parametrize("failing", [SolverFailed("no point was found"), RuntimeError("out of memory")])
def test_a_solver_that_fails_leaves_each_pool_its_own_plan_and_is_not_asked_the_like_again(
    filling, monkeypatch, failing
) -> None:
    asked: list[None] = []

    def broken(*_args, **_kwargs):
        asked.append(None)
        if isinstance(failing, Exception):
            raise failing
        return failing

    monkeypatch.setattr(module, "fill", broken)
    for _ in range(3):
        assert steered(filling) == {}
        filling.settled(30)
    assert len(asked) == 1


def decided(mode: str = "Enforce", share: Share = NOTHING_SHARED) -> Decision:
    """A pool of one replica on an H100, or what it does within a share."""
    pool = a_pool("chat", accelerators=[{"type": "h100-sxm"}, {"type": "l40s"}], mode=mode)
    view = a_view(
        pool,
        classes=(a_class(),),
        served=(a_served(pool, an_option(), replicas=3),),
        reading=Known(NOW, 1.0, "Engines", 1000.0, 250.0),
    )
    return decide(view, PoolMemory(DemandHistory(600.0)), OperatorConfiguration(), EstimateMemo(), share)


def test_what_is_idle_of_whole_nodes_is_in_the_status() -> None:
    sizes = node_sizes(SHIPPED.values())
    assert sizes["h100-sxm"] == 8
    alone = Share(steered={"l40s OnDemand": 0}, steered_because="whole nodes cost less so")
    (one,) = with_idle([decided(share=alone)], sizes)
    assert one.plan is not None
    assert one.plan.reason.endswith("; whole nodes cost less so")
    (nodes,) = pool_status(one, before={}, generation=1, decision_id="", now=NOW)["plan"]["nodes"]
    idle = 8 - sum(each.replicas for each in one.plan.chosen)
    price = one.plan.chosen[0].candidate.price.usd_per_chip_hour
    assert (nodes["accelerator"], nodes["nodes"], nodes["idleChips"]) == ("h100-sxm", 1, idle)
    assert float(nodes["idleUsdPerHour"]) == pytest.approx(idle * price, rel=0.05)
    assert nodes["what"].startswith(f"{idle} of 8 chips of a node of h100-sxm idle: $")


def test_a_pool_that_is_only_watched_holds_the_chips_it_runs_on() -> None:
    watched = decided("Recommend")
    assert held_by_watched([watched, replace(watched, write=True)]) == {("h100-sxm", "OnDemand"): 3}
    alone = Share(steered={"l40s OnDemand": 0}, steered_because="whole nodes cost less so")
    sizes = node_sizes(SHIPPED.values())
    other, _ = with_idle([decided(share=alone), watched], sizes)
    assert other.plan is not None
    assert other.plan.nodes[0].idle == 8 - 3 - sum(one.replicas for one in other.plan.chosen)


def test_a_pool_that_whole_nodes_lead_is_told_the_prices_at_which_all_pools_together_would_turn() -> None:
    share = Share(steered={"l40s OnDemand": 0}, steered_because="the whole nodes that all pools stand on cost less so")
    one = decided(share=share)
    assert one.plan is not None
    assert one.plan.break_even == ()
    (l40s,) = [each for each in one.plan.others if each[0].option.accelerator == "l40s"]
    (told,) = with_idle([one], {"h100-sxm": 8, "l40s": 4})
    assert told.plan is not None
    assert told.plan.others == ()
    prices = {each.what.split()[0]: each.at for each in told.plan.break_even}
    nodes = -(-sum(each.replicas for each in l40s) // 4)
    h100 = one.plan.chosen[0].candidate.price.usd_per_chip_hour
    arriving = sum(each.replicas for each in l40s)
    moving = 3.0 * one.problem.start_seconds / 14400.0 * arriving if one.problem is not None else 0.0
    assert prices["l40s"] == pytest.approx(min(8 * h100 / (4 * nodes + moving), 0.95 * 8 * h100 / (4 * nodes)))
    (beside,) = with_idle([one], {"h100-sxm": 8, "l40s": 4}, on_paper=True)
    assert beside.plan is not None
    assert [each.what for each in beside.plan.break_even] == [each.what for each in told.plan.break_even]
