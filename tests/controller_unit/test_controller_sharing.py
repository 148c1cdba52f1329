"""Shared limits are dealt out at once and solved beside the loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from controller_builders import NOW, SHIPPED, a_served, a_view, an_option
from controller_builders import a_pool as a_pool_of

from tidefleet.cluster.clock import ManualClock
from tidefleet.controller import sharing as module
from tidefleet.controller.act import Deposed
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.loop import FleetLoop
from tidefleet.controller.power import left_by_watchers
from tidefleet.controller.sharing import Sharing
from tidefleet.controller.view import PoolMemory
from tidefleet.economics.shape import TokenShape
from tidefleet.planning.coordination import SharedLimits, SiteLimit, kilowatts
from tidefleet.planning.demand import DemandHistory, Known
from tidefleet.planning.fleet import SolverFailed
from tidefleet.planning.options import PLANNING_UTILISATION, Candidate, ClassDemand, EstimateMemo, Market, Option, Price
from tidefleet.planning.pool import plan_pool
from tidefleet.planning.problem import PoolPlan, PoolProblem

LIMITS = SharedLimits(chips={"cheap": 12})
CHAT = ClassDemand("chat", 1.0, TokenShape(900.0, 100.0))


def a_candidate(accelerator: str, usd: float) -> Candidate:
    """An option whose replica covers one request/s of planned demand."""
    option = Option(accelerator, "OnDemand", 1, "Fp8", "Fp8")
    return Candidate(option, Price(usd), 1.0 / PLANNING_UTILISATION, usd, ())


def planned(pool: str, *candidates: Candidate, rate: float = 10.0) -> tuple[PoolProblem, PoolPlan]:
    problem = PoolProblem(pool, (CHAT,), rate, Market(candidates, (), ()), minimum=0)
    plan = plan_pool(problem)
    assert isinstance(plan, PoolPlan)
    return problem, plan


def a_pool(name: str, dear: float, rate: float = 10.0) -> tuple[PoolProblem, PoolPlan]:
    return planned(name, a_candidate("cheap", 1.0), a_candidate("dear", dear), rate=rate)


PLANS = [a_pool("prod/a", 3.0), a_pool("prod/b", 9.0)]


@pytest.fixture
def sharing() -> Iterator[Sharing]:
    one = Sharing()
    yield one
    one.close()


def caps(sharing: Sharing, plans=PLANS, limits: SharedLimits = LIMITS) -> dict[str, int]:
    return {pool: share.caps["cheap"] for pool, share in sharing.shares(plans, limits).items()}


def test_the_first_pass_deals_out_by_order_and_the_next_by_cost(sharing) -> None:
    assert caps(sharing) == {"prod/a": 10, "prod/b": 2}
    sharing.settled(30)
    assert caps(sharing) == {"prod/a": 2, "prod/b": 10}
    assert sharing.shares(PLANS, LIMITS)["prod/b"].prices[0].usd_per_hour > 0
    assert sharing.why == ("20 chips of cheap are wanted, 12 can be had",)


def test_nothing_is_solved_while_all_plans_fit(sharing) -> None:
    assert sharing.shares(PLANS, SharedLimits()) == {}
    assert sharing.shares(PLANS, SharedLimits(chips={"cheap": 20})) == {}
    assert sharing.why == ()


def counted(monkeypatch) -> list[None]:
    """One entry for each solution asked for from now on."""
    asked: list[None] = []
    solve = module.coordinate

    def counting(*arguments, **rest):
        asked.append(None)
        return solve(*arguments, **rest)

    monkeypatch.setattr(module, "coordinate", counting)
    return asked


def growing(rate: float) -> list[tuple[PoolProblem, PoolPlan]]:
    return [PLANS[0], a_pool("prod/b", 9.0, rate=rate)]


def test_an_answer_stays_in_force_while_demand_steps_and_is_renewed_once_it_has_moved_on(sharing, monkeypatch) -> None:
    asked = counted(monkeypatch)
    caps(sharing)
    sharing.settled(30)
    for rate in (10.1, 9.7, 10.6, 11.0):
        assert caps(sharing, growing(rate)) == {"prod/a": 2, "prod/b": 10}
        assert sharing.shares(growing(rate), LIMITS)["prod/b"].prices
        sharing.settled(30)
    assert len(asked) == 1
    assert caps(sharing, growing(13.0)) == {"prod/a": 2, "prod/b": 10}  # until there is another
    assert sharing.shares(growing(13.0), LIMITS)["prod/b"].prices == ()  # what more would save is not known any more
    sharing.settled(30)
    assert caps(sharing, growing(13.0)) == {"prod/a": 0, "prod/b": 12}
    assert len(asked) == 2


def test_a_price_that_moves_is_another_question_sooner_than_a_demand(sharing, monkeypatch) -> None:
    asked = counted(monkeypatch)
    caps(sharing)
    sharing.settled(30)
    for dear, count in ((9.2, 1), (8.5, 2)):
        caps(sharing, [PLANS[0], a_pool("prod/b", dear)])
        sharing.settled(30)
        assert len(asked) == count


def test_what_an_answer_leaves_is_dealt_out_by_priority(sharing) -> None:
    caps(sharing)
    sharing.settled(30)
    assert caps(sharing, limits=SharedLimits(chips={"cheap": 13})) == {"prod/a": 3, "prod/b": 10}
    newcomer = a_pool("prod/new", 5.0)
    urgent = [*PLANS, (replace(newcomer[0], priority=900), newcomer[1])]
    found = caps(sharing, urgent, SharedLimits(chips={"cheap": 14}))
    assert found == {"prod/a": 2, "prod/b": 10, "prod/new": 2}


def test_an_answer_that_passes_a_limit_of_now_is_not_used_any_more(sharing) -> None:
    caps(sharing)
    sharing.settled(30)
    assert caps(sharing) == {"prod/a": 2, "prod/b": 10}
    less = SharedLimits(chips={"cheap": 11})
    assert caps(sharing, limits=less) == {"prod/a": 10, "prod/b": 1}
    sharing.settled(30)
    assert caps(sharing, limits=less) == {"prod/a": 1, "prod/b": 10}


def test_the_loop_does_not_wait_for_a_solver_nor_call_it_off_unless_pools_options_or_limits_are_others(
    sharing, monkeypatch
) -> None:
    began, called_off, asked = threading.Event(), threading.Event(), list[None]()
    solve = module.coordinate

    def slow(problems, limits, *, cancelled, **rest):
        asked.append(None)
        began.set()
        while not cancelled():
            called_off.wait(0.01)
        called_off.set()
        return solve(problems, limits, cancelled=lambda: False, **rest)

    monkeypatch.setattr(module, "coordinate", slow)
    assert caps(sharing) == {"prod/a": 10, "prod/b": 2}
    assert began.wait(10)
    for rate in (10.0, 10.5, 11.5, 14.0, 30.0):
        assert caps(sharing, growing(rate)) == {"prod/a": 10, "prod/b": 2}
    assert not called_off.is_set()
    assert len(asked) == 1
    sharing.shares([*PLANS, a_pool("prod/c", 9.0)], LIMITS)
    assert called_off.wait(10)
    sharing.settled(30)
    assert sharing.shares(PLANS, LIMITS)["prod/a"].prices == ()  # what was called off is no answer


def test_a_solver_that_fails_on_another_demand_leaves_the_answer_before_in_force(sharing, monkeypatch) -> None:
    caps(sharing)
    sharing.settled(30)
    monkeypatch.setattr(module, "coordinate", lambda *_, **__: SolverFailed("no point was found"))
    caps(sharing, growing(13.0))
    sharing.settled(30)
    assert caps(sharing, growing(13.0)) == {"prod/a": 2, "prod/b": 10}


@pytest.mark.parametrize("failing", [SolverFailed("no point was found"), RuntimeError("out of memory")])
def test_a_solver_that_fails_changes_nothing(sharing, monkeypatch, failing) -> None:
    asked: list[None] = []

    def broken(*_args, **_kwargs):
        asked.append(None)
        if isinstance(failing, Exception):
            raise failing
        return failing

    monkeypatch.setattr(module, "coordinate", broken)
    for _ in range(3):
        assert caps(sharing) == {"prod/a": 10, "prod/b": 2}
        sharing.settled(30)
    reasons = sharing.shares(PLANS, LIMITS)["prod/b"].reasons
    assert reasons == {"cheap": "pools share 12 chips of cheap, by priority"}
    assert len(asked) == 1  # the same question has the same answer
    caps(sharing, growing(12.0))
    sharing.settled(30)
    assert len(asked) == 2


def test_a_solver_that_fails_as_it_is_called_off_is_asked_again(sharing, monkeypatch) -> None:
    asked: list[None] = []

    def called_off(*_args, cancelled, **_kwargs):
        asked.append(None)
        while not cancelled():
            time.sleep(0.001)
        return SolverFailed("called off")

    monkeypatch.setattr(module, "coordinate", called_off)
    caps(sharing)
    caps(sharing, limits=SharedLimits())  # for a moment all plans fit
    sharing.settled(30)
    monkeypatch.undo()
    caps(sharing)
    sharing.settled(30)
    assert caps(sharing) == {"prod/a": 2, "prod/b": 10}


def test_a_pool_that_is_not_concerned_has_no_share(sharing) -> None:
    shares = sharing.shares([*PLANS, planned("prod/lone", a_candidate("other", 1.0))], LIMITS)
    assert shares.keys() == {"prod/a", "prod/b"}
    assert replace(shares["prod/a"], prices=()).reasons == {"cheap": "pools share 12 chips of cheap"}


def test_a_deposed_loop_calls_its_solver_off(sharing, monkeypatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def solver(*_args, cancelled, **_kwargs):
        begun.set()
        while not cancelled():
            time.sleep(0.001)
        ended.set()
        return SolverFailed("called off")

    def deposed(_self):
        caps(sharing)
        assert begun.wait(30)
        raise Deposed("epoch 8 has written")

    monkeypatch.setattr(module, "coordinate", solver)
    monkeypatch.setattr(FleetLoop, "run_once", deposed)
    part: Any = SimpleNamespace()
    clock, settings = ManualClock(), OperatorConfiguration()
    fleet = FleetLoop(part, part, part, part, part, part, clock, settings, sharing=sharing)
    with pytest.raises(Deposed):
        fleet.run(threading.Event())
    assert ended.wait(30)


def test_a_pool_that_is_only_watched_takes_no_power_but_what_it_runs() -> None:
    l40s = an_option("l40s")
    site = SiteLimit("berlin", 100.0, 1.5, frozenset({"l40s"}))

    def left(mode: str) -> float:
        pool = a_pool_of("chat", accelerators=[{"type": "l40s"}], mode=mode)
        view = a_view(
            pool,
            SHIPPED["l40s"],
            served=(a_served(pool, l40s, replicas=2),),
            reading=Known(NOW, 200.0, "Engines", 1000.0, 250.0),
        )
        decision = decide(view, PoolMemory(DemandHistory(600.0)), OperatorConfiguration(), EstimateMemo())
        assert decision.market is not None
        assert sum(one.planned for one in decision.targets) > 10
        each.append(max(kilowatts(one) for one in decision.market.candidates if one.option == l40s))
        (found,) = left_by_watchers([site], [decision])
        return found.limit_kw

    each: list[float] = []
    assert left("Recommend") == pytest.approx(100.0 - 1.5 * 2 * each[0])
    assert each[0] > 0
    assert left("Enforce") == 100.0
