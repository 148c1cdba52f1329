"""Where paid accelerator-seconds went: of pods by what their engines did, and of nodes on loan or on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from controller_builders import NOW, SHIPPED, a_class, a_kind, a_pool, a_served, a_view, an_option
from hypothesis import given
from hypothesis import strategies as st

from tidefleet.controller.accounting import Accountant
from tidefleet.controller.calibrating import workload_key
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.decision import Decision
from tidefleet.controller.readings import EngineRates
from tidefleet.controller.seconds import PoolSeconds
from tidefleet.controller.view import Chips, PoolMemory
from tidefleet.controller.work import EngineWork, WorkLog
from tidefleet.economics.ledger import Worked
from tidefleet.flipping.phase import Phase
from tidefleet.planning.demand import DemandHistory, Known
from tidefleet.planning.options import EstimateMemo
from tidefleet.telemetry import FlipMeter, Telemetry

OPTION = an_option("h100-sxm")
PER_NODE = SHIPPED["h100-sxm"].spec.chips_per_node or 0
CHAT = {"namespace": "prod", "pool": "chat"}


def a_decision(
    chips: Chips | None = None, *phases: Phase, trained: float | None = 0.0, kind: Any = None, **view: Any
) -> Decision:
    """A pool of 16 H100, one node more in each of these phases, and training on this many of its chips."""
    pool = a_pool()
    facts: dict[str, Any] = {
        "served": (a_served(pool, OPTION, replicas=16),),
        "chips": {("h100-sxm", "OnDemand"): chips or Chips(scheduled=16, ready=16)},
        "reading": Known(NOW, 20.0, "Engines"),
        **view,
    }
    seen = a_view(pool, kind or SHIPPED["h100-sxm"], **facts)
    decision = decide(seen, PoolMemory(DemandHistory(600.0)), OperatorConfiguration(), EstimateMemo())
    units = [
        {"name": f"n{index}", "nodes": [f"n{index}"], "accelerator": "h100-sxm", "phase": str(phase)}
        for index, phase in enumerate(phases)
    ]
    held = None if trained is None else {"h100-sxm": trained}
    return replace(decision, flipping={"units": units}, trained=held)


def work(share: float, *, busy: float = 1.0, leaving: bool = False, seconds: float = 15.0) -> EngineWork:
    """An engine that did this share of what a plan counts on for one replica."""
    decision = a_decision()
    assert decision.market is not None
    (one,) = [each for each in decision.market.candidates if each.option == OPTION]
    requests = one.requests_per_second * seconds * share
    shape = one.estimates[0].shape
    spell = Worked(seconds, requests * shape.uncached, requests * shape.output_mean, busy, batch=8.0)
    return EngineWork(workload_key(OPTION, "chat"), leaving, (spell,))


def step(decision: Decision, *seen: EngineWork, seconds: float = 15.0, memory: PoolSeconds | None = None) -> Any:
    memory = memory or PoolSeconds()
    return memory.step(decision, seen, seconds=seconds, lost_so_far=0.0, now=NOW)


def test_engines_that_do_what_the_plan_counts_on_are_needed_all_the_time() -> None:
    told = step(a_decision(), *[work(1.0)] * 16)
    assert told.serving.needed == pytest.approx(16 * 15.0, rel=1e-6)
    assert told.serving.paid == pytest.approx(16 * 15.0)


def test_paid_chips_are_spread_as_the_engines_that_were_read_did() -> None:
    told = step(a_decision(), work(0.5), work(0.0, busy=0.0))
    assert told.serving.needed == pytest.approx(0.25 * 240.0, rel=1e-6)
    assert told.serving.lost["half_batch"] == pytest.approx(0.25 * 240.0, rel=1e-6)
    assert told.serving.lost["idle"] == pytest.approx(0.5 * 240.0, rel=1e-6)


def test_chips_of_which_no_engine_tells_anything_are_lost_nobody_knows_to_what() -> None:
    memory = PoolSeconds()
    told = step(a_decision(), memory=memory)
    assert told.serving.lost["unknown"] == 240.0
    assert memory.utilization is None


def test_pods_that_start_warm_up_and_pods_that_leave_drain_with_what_they_still_serve_needed() -> None:
    chips = Chips(scheduled=16, ready=10, leaving=4, leaving_ready=2)
    told = step(a_decision(chips), work(1.0), work(0.5, leaving=True))
    assert told.serving.paid == pytest.approx(240.0)
    assert told.serving.lost["warm"] == 4 * 15.0
    assert told.serving.lost["drain"] == pytest.approx(0.5 * 4 * 15.0, rel=1e-6)
    assert told.serving.needed == pytest.approx(8 * 15.0 + 0.5 * 4 * 15.0, rel=1e-6)


def test_pods_that_leave_without_a_word_drain() -> None:
    told = step(a_decision(Chips(scheduled=16, ready=16, leaving=16, leaving_ready=16)))
    assert told.serving.lost["drain"] == told.serving.paid == 240.0


@pytest.mark.parametrize(
    ("phase", "cause"), [(Phase.VERIFYING, "drain"), (Phase.RECLAIMING, "warm"), (Phase.QUARANTINED, None)]
)
def test_empty_nodes_on_the_way_are_lost_to_it_and_quarantined_ones_are_nobodys(phase: Phase, cause: str) -> None:
    before, told = step(a_decision(), work(1.0)), step(a_decision(None, phase), work(1.0))
    more = told.serving.paid - before.serving.paid
    assert more == pytest.approx(PER_NODE * 15.0 if cause else 0.0)
    if cause:
        assert told.serving.lost[cause] - before.serving.lost[cause] == pytest.approx(more)


def test_training_needs_what_its_jobs_hold_and_the_rest_of_a_loan_is_idle() -> None:
    told = step(a_decision(None, Phase.TRAINING, Phase.RECALLING, trained=PER_NODE + 2.0), work(1.0))
    assert told.training.needed == pytest.approx((PER_NODE + 2) * 15.0)
    assert told.training.lost["idle"] == pytest.approx((PER_NODE - 2) * 15.0)
    assert "data_stall" not in told.training.lost  # no trainer says anything of it


def test_jobs_that_cannot_be_read_leave_the_loan_unknown() -> None:
    told = step(a_decision(None, Phase.TRAINING, trained=None), work(1.0))
    assert told.training.lost == {"unknown": PER_NODE * 15.0}


def test_work_that_a_recall_loses_is_taken_from_the_next_seconds_of_training() -> None:
    memory, lent = PoolSeconds(), a_decision(None, Phase.TRAINING, trained=float(PER_NODE))
    lost_so_far, recalled, needed = 100.0, 0.0, 0.0
    for _ in range(2):
        told = memory.step(lent, (), seconds=10.0, lost_so_far=lost_so_far, now=NOW)
        recalled, needed = recalled + told.training.lost["recall"], needed + told.training.needed
    assert (recalled, needed) == (100.0, 2 * PER_NODE * 10.0 - 100.0)


def test_utilisation_is_needed_over_paid_with_training_in_it() -> None:
    memory = PoolSeconds()
    step(a_decision(None, Phase.TRAINING, trained=float(PER_NODE)), *[work(0.5)] * 16, memory=memory)
    assert memory.utilization == pytest.approx((8 + PER_NODE) / (16 + PER_NODE), rel=1e-6)
    memory.step(a_decision(), [work(0.0, busy=0.0)], seconds=15.0, lost_so_far=0.0, now=NOW + 3600.0)
    assert memory.utilization == 0.0  # an hour later the last minutes count


def test_an_option_that_is_no_candidate_any_more_is_rated_as_it_was() -> None:
    memory, decision = PoolSeconds(), a_decision()
    before = step(decision, work(0.5), memory=memory)
    assert step(replace(decision, market=None), work(0.5), memory=memory) == before
    never = step(replace(decision, market=None), work(0.5))
    assert never.serving.lost["unknown"] == 240.0


def test_energy_lies_between_idle_and_tdp_and_rises_with_work() -> None:
    kind = a_kind("h100-sxm", idleWatts=70)
    drawn = [
        step(a_decision(kind=kind), work(share, busy=busy)).joules["h100-sxm"] / 240.0
        for share, busy in ((0.0, 0.0), (0.25, 0.5), (1.0, 1.0))
    ]
    assert drawn[0] == 70.0
    assert drawn == sorted(drawn)
    assert 200.0 < drawn[2] <= 700.0


@given(
    staying=st.integers(0, 40),
    leaving=st.integers(0, 40),
    warming=st.integers(0, 40),
    engines=st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 1.0), st.booleans()), max_size=4),
    phases=st.lists(st.sampled_from(list(Phase)), max_size=4),
    trained=st.none() | st.floats(0.0, 100.0),
)
def test_needed_and_lost_are_every_paid_second(
    *,
    staying: int,
    leaving: int,
    warming: int,
    engines: list[tuple[float, float, bool]],
    phases: list[Phase],
    trained: float | None,
) -> None:
    chips = Chips(staying + leaving + warming, staying + leaving, leaving=leaving, leaving_ready=leaving)
    seen = [work(share, busy=busy, leaving=goes) for share, busy, goes in engines]
    told = step(a_decision(chips, *phases, trained=trained), *seen)
    of_pool = (Phase.VERIFYING, Phase.RECLAIMING)
    on_loan = sum(PER_NODE for one in phases if one.is_lent)
    assert told.serving.paid == pytest.approx(15.0 * (chips.scheduled + sum(PER_NODE for p in phases if p in of_pool)))
    assert told.training.paid == pytest.approx(15.0 * on_loan)


# --- as counters -----------------------------------------------------------------------------------------------------


class Collected:
    """A collector that tells the same work at every pass."""

    def __init__(self, *seen: EngineWork, **tokens: float) -> None:
        self.seen, self.tokens = seen, {"input": 0.0, "cached": 0.0, "output": 0.0, **tokens}

    def take_work(self, _pool: tuple[str, str]) -> tuple[EngineWork, ...]:
        return self.seen

    def take_tokens(self, _pool: tuple[str, str]) -> dict[str, float]:
        return self.tokens


def counted(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.value(f"tidefleet_{name}", **CHAT, **labels)


def test_the_counters_grow_by_what_a_pass_found_and_the_gauge_agrees() -> None:
    telemetry = Telemetry()
    accountant = Accountant(telemetry, Collected(work(0.5)))  # type: ignore[arg-type]
    decision = a_decision(None, Phase.TRAINING, trained=float(PER_NODE))
    for passed in range(5):
        accountant.account([decision], NOW + 15.0 * passed)
    works = ("prefill", "decode", "training")
    needed = sum(counted(telemetry, "pool_needed_seconds_total", work=one) or 0.0 for one in works)
    causes = ("idle", "half_batch", "recompute", "drain", "warm", "recall", "unknown")
    lost = sum(counted(telemetry, "pool_lost_seconds_total", cause=one) or 0.0 for one in causes)
    assert needed + lost == pytest.approx(60.0 * (16 + PER_NODE))
    assert counted(telemetry, "pool_utilization_ratio") == pytest.approx(needed / (needed + lost))
    assert counted(telemetry, "pool_energy_joules_total", accelerator="h100-sxm")
    for cause in ("kv_fetch", "data_stall"):
        assert counted(telemetry, "pool_lost_seconds_total", cause=cause) is None


def test_lost_training_work_reaches_the_counter() -> None:
    telemetry = Telemetry()
    accountant = Accountant(telemetry, Collected(work(0.5)))  # type: ignore[arg-type]
    decision = a_decision(None, Phase.TRAINING, trained=float(PER_NODE))
    accountant.account([decision], NOW)
    FlipMeter(telemetry).work_lost(("prod", "chat"), 30.0, "Surge")
    accountant.account([decision], NOW + 15.0)
    accountant.account([decision], NOW + 30.0)
    assert counted(telemetry, "pool_lost_seconds_total", cause="recall") == 30.0


@pytest.mark.parametrize(
    ("revenue", "usd"),
    [
        ({"usage": {"usdPerMillionInputTokens": "2", "usdPerMillionOutputTokens": "8"}}, 10.0 + 8.0),
        ({"internal": {"usdPerMillionTokens": "3"}}, 18.0),
        ({"free": {}}, 0.0),
        (None, None),
    ],
)
def test_a_class_earns_what_its_revenue_says_and_nothing_is_told_where_it_says_nothing(
    revenue: dict[str, Any] | None, usd: float | None
) -> None:
    telemetry = Telemetry()
    tokens = {"input": 3e6, "cached": 2e6, "output": 1e6}
    accountant = Accountant(telemetry, Collected(**tokens))  # type: ignore[arg-type]
    wclass = a_class("web", **({"revenue": revenue} if revenue is not None else {}))
    accountant.account([a_decision(classes=(wclass,))], NOW)
    found = counted(telemetry, "pool_revenue_usd_total", workload_class="web")
    assert found == (None if usd is None else pytest.approx(usd))


# --- between collector and loop --------------------------------------------------------------------------------------


def rates(seconds: float, *, hit: float = 0.0, preempted: float = 0.0, busy: float = 1.0) -> EngineRates:
    return EngineRates(seconds, 1.0, 1.0, 100.0, 50.0, hit, 100.0, None, 4.0, 0.0, busy=busy, preempted=preempted)


def test_a_round_is_taken_once_and_stands_in_for_the_next_as_long_as_it_is_fresh() -> None:
    log = WorkLog()
    log.add(100.0, {"a": rates(10.0)}, {"a": ("w", False)})
    log.add(110.0, {"a": rates(10.0, hit=40.0)}, {"a": ("w", True)})
    (one,) = log.take(110.0, usable_seconds=30.0)
    assert [spell.uncached for spell in one.spells] == [1000.0, 600.0]
    assert one.leaving
    (again,) = log.take(120.0, usable_seconds=30.0)
    assert [spell.uncached for spell in again.spells] == [600.0]
    assert not log.take(141.0, usable_seconds=30.0)
    log.add(142.0, {}, {})
    assert not log.take(142.0, usable_seconds=1e9)  # the engine is gone


def test_requests_put_out_are_computed_anew_at_the_mean_context() -> None:
    log = WorkLog()
    log.add(100.0, {"a": rates(10.0, preempted=3.0)}, {"a": ("w", False)}, context=700.0)
    (one,) = log.take(100.0, usable_seconds=30.0)
    assert one.spells[0].recomputed == 2100.0
