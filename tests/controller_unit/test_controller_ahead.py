"""Looking ahead: a learned morning is planned for before it comes, and a young pool is planned as ever."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from controller_builders import a_class, a_kind, a_pool, a_served, a_view, an_option

from tidefleet.api import ConditionType, Reason
from tidefleet.controller import marks
from tidefleet.controller.ahead import FIRST_SECONDS, Ahead, StartUp, requests_of
from tidefleet.controller.asked import asked
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.remember import kept_history
from tidefleet.controller.view import PoolMemory, PoolView
from tidefleet.economics.serving import TokenShape
from tidefleet.planning.demand import DemandHistory, Known, Stale
from tidefleet.planning.options import ClassDemand, EstimateMemo
from tidefleet.planning.slots import SLOT_SECONDS, SlotHistory

DAY = 86_400.0
MONDAY = 20_651 * DAY  # midnight UTC
SETTINGS = OperatorConfiguration()
L40S = a_kind("l40s", prices=[{"capacityType": "OnDemand", "usdPerChipHour": "0.90"}])
POOL = {"accelerators": [{"type": "l40s", "tensorParallel": [1]}], "replicas": {"min": 1, "max": 64}}
INTO, OUT = 1000.0, 250.0


def of_day(at: float) -> float:
    """Requests per second at a time: 2 at midnight, 22 at noon."""
    return 12.0 - 10.0 * math.cos(2 * math.pi * at / DAY)


def a_history(until: float, *, days: float) -> SlotHistory:
    history = SlotHistory()
    for slot in range(int((until - days * DAY) / SLOT_SECONDS), int(until / SLOT_SECONDS)):
        at = (slot + 1) * SLOT_SECONDS
        rate = of_day(at - SLOT_SECONDS / 2)
        history.add(at, SLOT_SECONDS, rate * INTO, rate * OUT)
    return history


def a_memory(now: float, *, days: float = 0.0) -> PoolMemory:
    """A memory that has seen the last twenty minutes of such a day, and the history of so many days."""
    memory = PoolMemory(DemandHistory(SETTINGS.scale_down_window_seconds))
    for ago in range(1200, 0, -15):
        memory.last_known = Known(now - ago, of_day(now - ago), "Engines")
        memory.history.add(memory.last_known)
    memory.ahead = Ahead(history=a_history(now, days=days))
    memory.ahead._first = now - FIRST_SECONDS
    return memory


def a_reading(now: float, **changes: Any) -> Known:
    facts: dict[str, Any] = {"input_tokens": INTO, "output_tokens": OUT, "hit_share": 0.0, "seconds": 15.0, **changes}
    return Known(now, of_day(now), "Engines", **facts)


def a_look(now: float, *, replicas: int = 1, **changes: Any) -> PoolView:
    pool = a_pool(**POOL)
    facts = {
        "now": now,
        "reading": a_reading(now),
        "classes": (a_class(),),
        "served": (a_served(pool, an_option("l40s"), replicas=replicas),),
        **changes,
    }
    return a_view(pool, L40S, **facts)


def told(view: PoolView, memory: PoolMemory) -> str:
    return asked(view, memory, SETTINGS).verdict.message


MORNING = MONDAY + 9 * DAY + 6 * 3600.0


def test_a_learned_morning_is_planned_for_before_it_comes() -> None:
    now = MORNING
    memory = a_memory(now, days=9)
    memory.ahead.start.seconds = 1800.0
    ahead = asked(a_look(now), memory, SETTINGS)
    assert ahead.rate >= 0.97 * of_day(now + 1800)
    assert ahead.rate > 1.1 * of_day(now)
    assert ahead.verdict.reason is Reason.KNOWN
    assert "forecast from the weekly pattern" in ahead.verdict.message
    assert "ahead of time" in ahead.verdict.message


def test_replicas_are_asked_for_ahead_by_the_time_they_take_to_start() -> None:
    seven = MORNING + 3600.0

    def replicas(seconds: float, days: float) -> int:
        memory = a_memory(seven, days=days)
        memory.ahead.start.seconds = seconds
        decision = decide(a_look(seven), memory, SETTINGS, EstimateMemo())
        return sum(one.desired for one in decision.targets)

    assert replicas(3600.0, 9) > replicas(60.0, 9) >= replicas(3600.0, 0.5)


def test_a_pool_with_less_than_a_day_of_history_is_planned_as_without_any() -> None:
    young, fresh = a_memory(MORNING, days=0.9), a_memory(MORNING)
    assert asked(a_look(MORNING), young, SETTINGS) == asked(a_look(MORNING), fresh, SETTINGS)
    assert told(a_look(MORNING), young) == "measured by Engines"


def test_an_evening_that_falls_is_planned_for_what_is_asked_now() -> None:
    now = MONDAY + 9 * DAY + 18 * 3600.0
    ahead = asked(a_look(now), a_memory(now, days=9), SETTINGS)
    assert ahead.rate <= 1.12 * of_day(now - 600)
    assert "ahead of time" not in ahead.verdict.message


def test_what_is_wanted_back_within_the_hour_is_kept_through_a_dip() -> None:
    noon = MONDAY + 9 * DAY + 12 * 3600.0
    history = SlotHistory()
    for slot in range(int(noon / SLOT_SECONDS) - 9 * 96, int(noon / SLOT_SECONDS)):
        dips = slot % 96 in (48, 49)  # at noon, for half an hour
        history.add((slot + 1) * SLOT_SECONDS, SLOT_SECONDS, *(one * (2.0 if dips else 20.0) for one in (INTO, OUT)))
    rates = []
    memory = a_memory(noon)
    memory.ahead.history = history
    for minute in range(-20, 26):
        now = noon + 60.0 * minute
        rate = 20.0 if minute < 0 else 2.0
        reading = replace(a_reading(now), requests_per_second=rate, arrivals_per_second=rate)
        rates.append(asked(a_look(now, reading=reading), memory, SETTINGS).rate)
    assert min(rates[20:]) >= 0.97 * 20.0


def test_demand_above_the_forecast_wins() -> None:
    memory = a_memory(MORNING, days=9)
    surge = replace(a_reading(MORNING), requests_per_second=90.0)
    assert asked(a_look(MORNING, reading=surge), memory, SETTINGS).rate > 80.0


def test_a_declared_rate_is_a_lower_bound_of_the_forecast() -> None:
    classes = (a_class(), a_class("batch", demand={"requestsPerSecond": "70"}))
    memory = a_memory(MORNING, days=9)
    assert asked(a_look(MORNING, classes=classes), memory, SETTINGS).rate >= 70.0


def test_when_metrics_go_stale_what_was_planned_by_forecast_is_held() -> None:
    memory = a_memory(MORNING, days=9)
    memory.ahead.start.seconds = 3600.0
    before = asked(a_look(MORNING), memory, SETTINGS)
    slots = memory.ahead.history.end
    held = asked(a_look(MORNING + 600, reading=Stale(MORNING, "Engines", "no answer")), memory, SETTINGS)
    assert held.rate == before.rate
    assert not held.known
    assert not held.may_lower
    assert memory.ahead.history.end == slots  # silence is no reading


def test_the_same_load_gives_the_same_words_from_slot_to_slot() -> None:
    memory = a_memory(MORNING)
    history = SlotHistory()
    for slot in range(int(MORNING / SLOT_SECONDS) - 10 * 96, int(MORNING / SLOT_SECONDS)):
        history.add((slot + 1) * SLOT_SECONDS, SLOT_SECONDS, 5.0 * INTO, 5.0 * OUT)
    memory.ahead.history = history
    seen = set()
    for i in range(200):
        now = MORNING + 15.0 * i
        view = a_look(now, reading=replace(a_reading(now), requests_per_second=5.0, arrivals_per_second=5.0))
        found = asked(view, memory, SETTINGS)
        if i > 100:
            seen.add((found.rate, found.verdict.message))
    assert len(seen) == 1


def test_readings_become_slots_of_uncached_prefill_and_decode() -> None:
    ahead = Ahead()
    mix = (ClassDemand("web", 1.0, TokenShape(INTO, OUT)),)
    for i in range(121):
        at = MORNING + 15.0 * i
        reading = Known(at, 9.0, "Engines", 2000.0, 100.0, 0.25, seconds=15.0, arrivals_per_second=4.0)
        ahead.note(reading, mix, gap=60.0)
    assert ahead.history.series().values[-1].tolist() == pytest.approx([4 * 2000 * 0.75, 4 * 100])


def test_tokens_become_requests_of_the_mix_by_the_phase_that_needs_more() -> None:
    mix = (ClassDemand("web", 1.0, TokenShape(1000.0, 100.0, cached_share=0.5)),)
    assert requests_of(np.array([[5000.0, 100.0], [500.0, 700.0]]), mix).tolist() == [10.0, 7.0]
    nothing = (ClassDemand("none", 1.0, TokenShape(0.0, 0.0)),)
    assert requests_of(np.array([[5000.0, 100.0]]), nothing).tolist() == [0.0]


def test_the_time_to_start_is_learned_from_starts() -> None:
    start = StartUp()
    start.watch({"a": (1, 1)}, now=0.0, longest=1800.0)
    assert start.seconds is None
    start.watch({"a": (3, 1)}, now=10.0, longest=1800.0)
    start.watch({"a": (3, 2)}, now=200.0, longest=1800.0)
    start.watch({"a": (3, 3)}, now=310.0, longest=1800.0)
    assert start.seconds == 300.0
    start.watch({"a": (4, 3), "b": (1, 0)}, now=400.0, longest=1800.0)
    start.watch({"a": (4, 4)}, now=410.0, longest=1800.0)  # b is gone: that was no start
    assert start.seconds == 270.0
    start.watch({"a": (9, 4)}, now=500.0, longest=1800.0)
    start.watch({"a": (9, 9)}, now=99_999.0, longest=1800.0)
    assert start.seconds == 1800.0


def test_first_forecasts_of_a_fleet_are_spread_and_come_once_per_slot() -> None:
    made = []
    for name in range(60):
        ahead = Ahead(history=a_history(MORNING, days=2))
        times = [i for i in range(0, 1800, 15) if ahead.renew(f"prod/{name}", MORNING + i, SETTINGS)]
        assert 2 <= len(times) <= 3
        assert times[0] <= FIRST_SECONDS
        made.append(times[0])
    assert len(set(made)) > 4


def test_a_history_comes_back_from_the_annotation_and_nonsense_does_not() -> None:
    text = a_history(MORNING, days=3).pack()

    def with_annotation(value: str) -> Any:
        pool = a_pool()
        return pool.model_copy(
            update={"metadata": replace(pool.metadata, annotations={marks.HISTORY_ANNOTATION: value})}
        )

    assert kept_history(with_annotation(text), MORNING).pack() == text
    for bad in ("", "1:2:3:4", "x" * 100_000, text[:-9]):
        assert kept_history(with_annotation(bad), MORNING).is_empty
    assert kept_history(a_pool(), MORNING).is_empty


# --- work that may wait ----------------------------------------------------------------------------------------------


def a_batch(tokens: int, *, deadline: int = 86_400, **spec: Any) -> Any:
    return a_class("batch", demand={"volumeTokensPerDay": tokens, "deadlineSeconds": deadline}, **spec)


def planned(batch: Any, *, days: float = 9.0, now: float = MORNING, passes: int = 2) -> tuple[Any, PoolMemory]:
    memory = a_memory(now, days=days)
    classes = (a_class(), batch)
    for i in range(passes):
        decide(
            a_look(now + i, replicas=4, classes=classes, reading=a_reading(now + i)), memory, SETTINGS, EstimateMemo()
        )
    found = asked(a_look(now + passes, classes=classes, reading=a_reading(now + passes)), memory, SETTINGS)
    return found, memory


def test_a_volume_that_fits_into_what_is_idle_buys_nothing() -> None:
    without = asked(a_look(MORNING + 2), a_memory(MORNING, days=9), SETTINGS)
    found, memory = planned(a_batch(2_000_000))
    assert "batch fits into what is idle before its deadline" in found.verdict.message
    assert found.rate == pytest.approx(without.rate, rel=0.03)
    assert memory.waiting.plan is not None
    assert not memory.waiting.plan.buys


def test_a_volume_that_does_not_fit_asks_for_more_by_whole_replicas() -> None:
    found, memory = planned(a_batch(1_500_000_000))
    assert "batch does not fit into what is idle" in found.verdict.message
    assert memory.waiting.units > 0
    plan = memory.waiting.plan
    assert plan is not None
    assert not plan.missing.any()
    assert plan.extra.max() <= memory.waiting.units * memory.waiting.unit + 1e-9
    steady = asked(a_look(MORNING + 2), a_memory(MORNING, days=9), SETTINGS).rate
    assert found.rate >= steady + 0.97 * memory.waiting.beyond(MORNING + 2, 615.0)


def test_a_volume_beyond_the_owners_bound_is_told() -> None:
    found, _ = planned(a_batch(10**13))
    assert "cannot be done before its deadline within replicas.max" in found.verdict.message


def test_without_a_forecast_work_that_may_wait_is_left_to_what_is_idle() -> None:
    found, memory = planned(a_batch(1_500_000_000), days=0.5)
    assert "may wait and uses what is idle" in found.verdict.message
    assert memory.waiting.plan is None


def test_progress_is_counted_as_scheduled_or_by_the_share_of_traffic() -> None:
    batch = a_batch(2_000_000)
    _, memory = planned(batch)
    today = int(MORNING // DAY)
    half = dict(memory.waiting.done["batch"])
    assert half[today] == pytest.approx(2_000_000 * (MORNING % DAY) / DAY, rel=0.01)  # done evenly, for all we know
    rate = memory.waiting.plan.rate_at("batch", MORNING + 2) / memory.waiting._per_token["batch"]
    memory.waiting.progress([batch], None, MORNING + 62)
    done = memory.waiting.done["batch"]
    assert sum(done.values()) - sum(half.values()) == pytest.approx(min(rate * 60, 2_000_000 - half[today]), rel=0.02)

    shared = a_batch(2_000_000_000, trafficShare="0.5")
    memory.waiting.done = {"batch": {today: 0.0}}
    memory.waiting.progress([shared], a_reading(MORNING), MORNING + 162)
    assert memory.waiting.done["batch"][today] == pytest.approx(0.5 * of_day(MORNING) * (INTO + OUT) * 100, rel=0.01)


def test_neither_what_waits_nor_what_an_old_reading_said_is_work_done() -> None:
    shared, today = a_batch(2_000_000_000, trafficShare="0.5"), int(MORNING // DAY)
    memory = a_memory(MORNING, days=9)
    memory.waiting.done = {"batch": {today: 0.0}}
    backlog = replace(a_reading(MORNING), arrivals_per_second=0.25 * of_day(MORNING))
    for at in (MORNING, MORNING + 100):
        memory.waiting.progress([shared], backlog, at)
    assert memory.waiting.done["batch"][today] == pytest.approx(0.125 * of_day(MORNING) * (INTO + OUT) * 100)

    classes = (a_class(demand={"requestsPerSecond": "2"}), shared)
    memory.waiting.done = {"batch": {today: 0.0}}
    memory.waiting._until = MORNING + 7100
    asked(a_look(MORNING + 7200, classes=classes, reading=a_reading(MORNING)), memory, SETTINGS)
    assert memory.waiting.done["batch"][today] == 0.0  # neither measured nor scheduled


def test_a_decision_taken_twice_in_one_pass_is_remembered_once() -> None:
    """Pools that get less of what they share than they planned with are decided again."""
    memory, memo = a_memory(MORNING, days=9), EstimateMemo()
    classes = (a_class(), a_batch(2_000_000))
    decide(a_look(MORNING, classes=classes), memory, SETTINGS, memo)  # from here on it is known what a replica carries
    for at in (MORNING + 15, MORNING + 930):
        view = a_look(at, replicas=2, classes=classes)
        decide(view, memory, SETTINGS, memo)
        once = repr(memory)
        decide(view, memory, SETTINGS, memo)
        assert repr(memory) == once


def test_a_share_of_the_traffic_that_may_wait_is_not_planned_for_twice() -> None:
    whole, _ = planned(a_batch(100_000_000))
    shared, memory = planned(a_batch(100_000_000, trafficShare="0.4"))
    assert shared.rate <= whole.rate * 1.03
    assert memory.waiting.plan is not None


def test_the_condition_is_in_the_decision() -> None:
    decision = decide(a_look(MORNING), a_memory(MORNING, days=9), SETTINGS, EstimateMemo())
    verdict = decision.verdict(ConditionType.DEMAND_KNOWN)
    assert verdict is not None
    assert "forecast" in verdict.message
