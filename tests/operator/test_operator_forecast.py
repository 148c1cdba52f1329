"""A ramp that comes every day: replicas serve before it does, and what was learned outlives the leader."""

from __future__ import annotations

from typing import Any

import pytest
from operator_builders import INFERENCE_POOL, Place, a_class, a_pool

from tidefleet.controller.marks import HISTORY_ANNOTATION
from tidefleet.planning.slots import DAY_SLOTS, SLOT_SECONDS, SlotHistory, slot_of

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

L40S = [{"type": "l40s"}]
LOW, HIGH = 1.0, 12.0
INTO, OUT = 1000.0, 200.0


def total(place: Place, pool: str) -> int:
    return sum(place.replicas(pool).values())


def ready(place: Place, pool: str) -> int:
    return sum(place.ready_replicas(pool).values())


def a_past(now: float, ramp: int, *, days: int) -> str:
    """The kept history of days in which demand rose from LOW to HIGH at this slot of the day, for four hours."""
    history = SlotHistory()
    for slot in range(slot_of(now) - days * DAY_SLOTS, slot_of(now)):
        rate = HIGH if (slot - ramp) % DAY_SLOTS < 16 else LOW
        history.add((slot + 1) * SLOT_SECONDS, SLOT_SECONDS, rate * INTO, rate * OUT)
    return history.pack()


def with_past(pool: dict[str, Any], text: str) -> dict[str, Any]:
    return {**pool, "metadata": {**pool["metadata"], "annotations": {HISTORY_ANNOTATION: text}}}


def kept(place: Place, pool: str, now: float) -> SlotHistory:
    found = place.get(INFERENCE_POOL, pool)
    assert found is not None
    return SlotHistory.unpack(found["metadata"]["annotations"][HISTORY_ANNOTATION], now=now)


def test_a_ramp_that_comes_every_day_finds_its_replicas_ready(place, operator_in_process, engines, clock):
    ramp = slot_of(clock.now()) + 3
    begins = ramp * SLOT_SECONDS
    learned = a_pool("learned", accelerators=L40S)
    place.create(with_past(learned, a_past(clock.now(), ramp, days=3)), a_class("learned", rate=None))
    place.create(a_pool("young", accelerators=L40S), a_class("young", rate=None))
    op = operator_in_process()
    op.until(lambda: engines.count() == 2, "two engines")
    for pool in ("learned", "young"):
        engines.load(LOW, pool)

    while clock.now() < begins - 2 * SLOT_SECONDS + 200:
        op.observe()
    assert (total(place, "learned"), total(place, "young")) == (1, 1)
    words = place.condition("DemandKnown", "learned")
    assert words[:2] == ("True", "Known")
    assert "forecast from the daily pattern" in words[2]
    assert "forecast" not in place.condition("DemandKnown", "young")[2]

    while clock.now() < begins - 60:  # nobody has asked for more yet
        op.observe()
    op.until(lambda: ready(place, "learned") == total(place, "learned"), "the new replicas serve")
    ahead = total(place, "learned")
    assert ahead >= 2
    assert total(place, "young") == 1
    assert "ahead of time" in place.condition("DemandKnown", "learned")[2]

    for pool in ("learned", "young"):
        engines.load(HIGH, pool)
    while clock.now() < begins + 120:
        op.observe()
    assert total(place, "learned") <= ahead + 1
    assert total(place, "young") >= 2


def test_what_was_learned_outlives_the_leader_and_is_written_only_when_it_ends(
    place, operator_in_process, engines, clock
):
    past = a_past(clock.now(), slot_of(clock.now()) + 48, days=2)
    place.create(with_past(a_pool("learned", accelerators=L40S), past), a_class("learned", rate=None))
    written: list[Any] = []
    op = operator_in_process(before_write=written.append)
    op.until(lambda: engines.count() == 1, "an engine")
    engines.load(LOW, "learned")
    before = kept(place, "learned", clock.now() + 1e6).end
    op.observe(2.5 * SLOT_SECONDS)
    history = [one for one in written if HISTORY_ANNOTATION in str(getattr(one, "body", ""))]
    assert history == []
    op.stop()
    after = kept(place, "learned", clock.now() + 1e6)
    assert after.end >= before + 2
    assert after.series().values[-1, 1] == pytest.approx(LOW * OUT, rel=0.5)

    op = operator_in_process()
    op.until(lambda: "forecast" in place.condition("DemandKnown", "learned")[2], "the forecast again", step=15.0)
    remembered = op.loop._memories[(place.namespace, "learned")].ahead.history
    assert remembered.end >= after.end
    assert remembered.series().first == after.series().first


def test_a_forged_history_is_left_out_and_the_pool_is_planned_all_the_same(place, operator_in_process, engines):
    place.create(with_past(a_pool("forged", accelerators=L40S), "1:0:9:eJxjYAAAAAIAAQ=="), a_class("forged", rate=None))
    op = operator_in_process()
    op.until(lambda: engines.count() == 1, "an engine")
    engines.load(LOW, "forged")
    for _ in range(3):
        op.observe()
    assert place.has("DemandKnown", "True", "Known", "forged"), place.condition("DemandKnown", "forged")
    assert total(place, "forged") == 1


def test_a_steady_load_with_a_forecast_is_written_about_by_nobody(place, operator_in_process, engines, clock):
    history = SlotHistory()
    for slot in range(slot_of(clock.now()) - 9 * DAY_SLOTS, slot_of(clock.now())):
        history.add((slot + 1) * SLOT_SECONDS, SLOT_SECONDS, 5.0 * INTO, 5.0 * OUT)
    place.create(with_past(a_pool("steady", accelerators=L40S), history.pack()), a_class("steady", rate=None))
    written: list[Any] = []
    op = operator_in_process(before_write=written.append)
    op.until(lambda: engines.count() >= 1, "an engine")
    engines.load(5.0, "steady")
    op.settle("steady")
    op.observe(7200)  # what engines show has settled after a half-life
    op.settle("steady")
    assert "weekly pattern" in place.condition("DemandKnown", "steady")[2]
    written.clear()
    op.observe(1500)
    assert [getattr(one, "body", one) for one in written] == []
