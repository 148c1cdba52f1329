"""Demand as engines report it: up at once, down late, and never on data that cannot be trusted."""

from __future__ import annotations

import pytest
from operator_builders import WORKLOAD_CLASS, Place, a_class, a_pool

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

WINDOW = 300.0
"""The scale-down window of the settings, in seconds of the test's clock."""

L40S = [{"type": "l40s"}]

FAULTS = {
    "empty-metrics": "Stale",
    "nan-metrics": "NotANumber",
    "infinite-metrics": "NotANumber",
    "negative-metrics": "NotANumber",
    "garbage": "Stale",
    "truncated": "Stale",
    "error-500": "Unreachable",
    "crash": "Unreachable",
    "hang": "Unreachable",
}


def total(place: Place, pool: str = "chat") -> int:
    """Replicas asked for."""
    return sum(place.replicas(pool).values())


def ready(place: Place, pool: str = "chat") -> int:
    """Replicas that serve."""
    return sum(place.ready_replicas(pool).values())


def scaled_up(place: Place, op, engines, *pools: str, rate: float = 16.0) -> None:
    """Bring pools of measured demand to the replicas that `rate` needs, and their history past the window."""
    for one in pools:
        engines.load(rate, one)

    def serving() -> bool:
        return all(ready(place, one) == total(place, one) for one in pools) and engines.count() == sum(
            total(place, one) for one in pools
        )

    for seconds in (15, 15, 15, 15, 2 * WINDOW, WINDOW):
        op.observe(seconds)
        op.until(serving, "every replica serves")
    for one in pools:
        assert place.has("DemandKnown", "True", "Known", one), place.condition("DemandKnown", one)
        assert total(place, one) >= 3


def test_more_load_brings_replicas_within_two_loops(place, operator_in_process, engines):
    place.create(a_pool(accelerators=L40S), a_class(rate=None))
    op = operator_in_process()
    op.until(lambda: ready(place) == 1 and engines.count() == 1)
    engines.load(1.0)
    for _ in range(3):
        op.observe()
    assert place.has("DemandKnown", "True", "Known"), place.condition("DemandKnown")
    assert total(place) == 1

    engines.load(21.0)
    op.observe()
    op.observe()
    assert total(place) >= 2
    op.until(lambda: ready(place) == total(place))
    assert float(place.status()["demand"]["outputTokensPerSecond"]) > 400


def test_less_load_takes_replicas_away_only_after_the_window(place, operator_in_process, engines):
    place.create(a_pool(accelerators=L40S), a_class(rate=None))
    op = operator_in_process()
    op.until(lambda: engines.count() == 1)
    scaled_up(place, op, engines, "chat")
    before = total(place)

    engines.load(0.5)
    began = op.clock.now()
    op.observe(30)
    last_high = op.clock.now()
    while op.clock.now() < began + WINDOW - 30:
        op.observe(20)
        assert total(place) == before
    while total(place) > 1 and op.clock.now() < began + 3 * WINDOW:
        op.observe(20)
    assert total(place) == 1
    assert op.clock.now() > last_high + WINDOW - 60
    assert place.has("DemandKnown", "True", "Known")


@pytest.mark.long
def test_a_metrics_page_that_cannot_be_trusted_never_lowers_capacity(place, operator_in_process, engines):
    pools = list(FAULTS)
    for one in pools:
        place.create(a_pool(one, accelerators=L40S), a_class(one, rate=None))
    op = operator_in_process()
    op.until(lambda: engines.count() == len(pools))
    scaled_up(place, op, engines, *pools)
    before = {one: place.replicas(one) for one in pools}

    for one in pools:
        engines.load(0.0, one)
        engines.fault(one, one)
    op.observe()
    for one, reason in FAULTS.items():
        assert place.has("DemandKnown", "False", reason, one), (one, place.condition("DemandKnown", one))
    op.advance(3 * WINDOW)
    assert {one: place.replicas(one) for one in pools} == before
    for one in pools:
        assert "replicas are not lowered" in place.condition("DemandKnown", one)[2]
        assert place.has("Ready", "True", "Held", one), place.condition("Ready", one)
    assert op.metric("tidefleet_empty_answers_total", source="engines") > 0

    for one in pools:
        engines.fault("", one)
        engines.load(16.0, one)
    op.until(lambda: engines.count() >= len(pools))
    for _ in range(4):
        op.observe()
    for one in pools:
        assert place.has("DemandKnown", "True", "Known", one), place.condition("DemandKnown", one)
    assert all(total(place, one) >= sum(before[one].values()) for one in pools)


def test_engines_that_count_from_zero_again_never_lower_capacity(place, operator_in_process, engines):
    place.create(a_pool(accelerators=L40S), a_class(rate=None))
    op = operator_in_process()
    op.until(lambda: engines.count() == 1)
    scaled_up(place, op, engines, "chat")
    before = total(place)

    for seconds in (50, 45, 40, 35, 30, 25, 20, 15):  # shorter each time: each count is below the one before
        engines.fault("counter-reset")
        op.observe(seconds)
        assert total(place) == before
    op.observe()
    op.observe()
    assert place.has("DemandKnown", "True", "Known"), place.condition("DemandKnown")
    assert total(place) == before


def test_engines_that_have_passed_their_last_count_again_never_lower_capacity(place, operator_in_process, engines):
    place.create(a_pool(accelerators=L40S), a_class(rate=None))
    op = operator_in_process()
    op.until(lambda: engines.count() == 1)
    scaled_up(place, op, engines, "chat")
    before = total(place)

    engines.fault("counter-reset")
    op.observe(10)
    began = op.clock.now()
    for seconds in range(15, 50, 2):  # longer each time: each count is above the one before, and means little demand
        engines.fault("counter-reset")
        op.advance(seconds)
        op.read_engines()
        op.advance()
        assert place.has("DemandKnown", "False", "Empty"), place.condition("DemandKnown")
        assert total(place) == before
    assert op.clock.now() > began + WINDOW
    op.observe()
    op.observe()
    assert place.has("DemandKnown", "True", "Known"), place.condition("DemandKnown")
    assert total(place) == before


def test_some_engines_that_fail_are_stood_in_for_by_the_others(place, operator_in_process, engines):
    place.create(a_pool(accelerators=L40S), a_class(rate=None))
    op = operator_in_process()
    op.until(lambda: engines.count() == 1)
    scaled_up(place, op, engines, "chat")
    before = total(place)

    pods = op.loop.observer.inventory.pods_of_pool(place.namespace, "chat")
    engines.fault("nan-metrics", pods[0].name)
    op.observe(2 * WINDOW)
    assert place.has("DemandKnown", "True", "Known")
    assert total(place) >= before


def test_a_fresh_leader_keeps_replicas_until_it_has_seen_a_whole_window(place, operator_in_process, engines):
    place.create(a_pool(accelerators=L40S), a_class(rate=None))
    op = operator_in_process()
    op.until(lambda: engines.count() == 1)
    scaled_up(place, op, engines, "chat")
    before = total(place)
    op.stop()

    engines.load(0.5)
    op = operator_in_process()
    began = op.clock.now()
    while op.clock.now() < began + WINDOW - 60:
        op.observe(60)
        assert total(place) == before
    op.observe(2 * WINDOW)
    assert total(place) == 1


def test_demand_that_was_never_measured_is_not_zero(place, operator_in_process):
    place.create(a_pool(replicas={"min": 1, "max": 8}), a_class(rate=30))
    op = operator_in_process()
    op.settle()
    before = total(place)
    assert before > 1
    op.stop()

    place.delete(WORKLOAD_CLASS, "chat")
    place.create(a_class(rate=None))
    op = operator_in_process()  # no engine answers on the pods
    op.advance(6 * WINDOW)
    assert total(place) == before
    op.until(lambda: place.has("DemandKnown", "False", "Unreachable"), str(place.condition("DemandKnown")))
