"""What windows say of the whole: online requests weigh, and deferrable ones between them do not."""

from __future__ import annotations

import numpy as np
import pytest

from tidefleet.simulator.engine.facts import facts_of
from tidefleet.simulator.mix import Kind, Mix
from tidefleet.simulator.operating import Part, operating_point
from tidefleet.simulator.pools import PoolRun, Sampled
from tidefleet.simulator.scenario import Class, Objective, Pool
from tidefleet.simulator.summary import _attainment, _by_time, _online
from tidefleet.simulator.windows import Window

POOL = Pool(model="llama-3.1-8b", accelerator="h100-sxm", replicas=2, chips_per_replica=1)
PROMISE = Objective(ttft_seconds=1.0, tpot_seconds=0.05)
CLASSES = (
    Class(name="chat", source="mooncake-conversation", share=0.7, objective=PROMISE),
    Class(name="code", source="azure2023-code", share=0.3, objective=PROMISE),
    Class(name="batch", source="servegen:m-mid", volume_share=0.1, deadline_seconds=86_400.0),
)


def a_pool() -> PoolRun:
    facts = facts_of(POOL)
    kind = Kind(1.0, 1000.0, 100.0, 0.05, 0.05, np.ones(1), np.array([100.0]))
    point = operating_point(facts.rates, [Part(1.0, 1000.0, 0.05, 100.0, 0.05)], kv_tokens=1e6, max_batch=256)
    names = [one.name for one in CLASSES]
    ones = {name: np.ones(144) for name in names}
    mix = Mix(dict.fromkeys(names, kind), dict.fromkeys(names, 2.0), ones, ones, point, frozenset({"batch"}))
    return PoolRun(POOL, CLASSES, facts, mix, "pick", 1)


def a_window(number: int, weight: float, requests: dict[str, int], in_time: dict[str, int]) -> Sampled:
    window = Window(600.0 * number, 600.0 * number + 45.0, number, False, weight)
    return Sampled("main", window, requests, in_time, 1e6, 5e5, 50.0, 50.0, 90.0, 60.0, 5.0, 5.0, 1.0, 0, {}, {})


def test_deferrable_requests_of_a_window_do_not_change_what_its_online_requests_stand_for() -> None:
    pool = a_pool()
    quiet = {"chat": 60, "code": 40}
    for batch in (0, 900):
        windows = [
            a_window(0, 0.5, {**quiet, "batch": batch}, {**quiet, "batch": batch}),
            a_window(1, 0.5, {"chat": 60, "code": 40}, {"chat": 48, "code": 40}),
        ]
        found, _ = _attainment([pool], {"main": windows}, punctual=1.0)
        assert found["chat"] == pytest.approx(0.9)
        assert found["code"] == 1.0
        assert [_by_time(one, _online(pool)).weight for one in windows] == pytest.approx([0.45, 0.45])


def test_all_requests_in_time_are_those_of_the_classes_by_their_shares() -> None:
    windows = [
        a_window(0, 0.7, {"chat": 80, "code": 20, "batch": 300}, {"chat": 70, "code": 20, "batch": 300}),
        a_window(1, 0.3, {"chat": 30, "code": 70, "batch": 5}, {"chat": 30, "code": 56, "batch": 5}),
    ]
    found, _ = _attainment([a_pool()], {"main": windows}, punctual=0.5)
    chat = (0.7 * 0.70 + 0.3 * 0.30) / (0.7 * 0.80 + 0.3 * 0.30)
    code = (0.7 * 0.20 + 0.3 * 0.56) / (0.7 * 0.20 + 0.3 * 0.70)
    assert (found["chat"], found["code"], found["batch"]) == pytest.approx((chat, code, 0.5))
    assert found["overall"] == pytest.approx(0.65 * chat + 0.35 * code)
