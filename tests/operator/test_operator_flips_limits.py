"""What owners set limits with: budgets with hours and zones, pauses, modes that only recommend; and the health gate."""

from __future__ import annotations

from typing import Any

import pytest
from flip_demand import BERLIN, QUICK, a_lender, lent, moment, nightly, on, pass_by, start_at, tick
from flip_faults import Ground
from operator_builders import FLEET, INFERENCE_POOL, a_class, eventually

from tidefleet.cluster.kinds import CONFIG_MAP, SITE
from tidefleet.controller import process

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


def held_by(ground: Ground) -> str:
    """What the pool's status says holds back flips."""
    return str(ground.place.status().get("flipping", {}).get("heldBy", ""))


def flipping_of(ground: Ground, **more: Any) -> None:
    """Change fields of the pool's `flipping`."""
    ground.place.merge(INFERENCE_POOL, "chat", {"spec": {"flipping": more}})


def pause_fleet(ground: Ground, scope: str) -> None:
    """Pause the flips of the whole fleet, or end the pause; it is seen when this returns."""
    path = ground.place.path(CONFIG_MAP, "tidefleet-pause")
    data = {"scope": scope, "by": "bob", "reason": "storage is being moved"}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tidefleet-pause"}, "data": data}
    if ground.api.exists(path):
        ground.api.merge(path, body)
    else:
        ground.api.create(ground.place.path(CONFIG_MAP), body)
    eventually(lambda: str(ground.op.loop.flips.pause.scope) == scope, "the pause is seen")


def test_a_budget_holds_in_its_hours_by_its_zone_and_only_for_its_reasons(flip_ground, place, clock):
    start_at(clock, BERLIN, "22:10")
    ground = flip_ground(nodes=4)
    hours = {"schedule": "0 22 * * *", "durationSeconds": 3600, "timeZone": BERLIN}
    late = {"schedule": "10 23 * * *", "durationSeconds": 7200, "timeZone": BERLIN}
    budgets = [
        {"reasons": ["Recall"], "nodes": 0},
        {"reasons": ["Loan", "Rebalance"], "nodes": 0, **hours},
        {"nodes": "0%", **late},
    ]
    flipping = nightly("Asia/Tokyo", "05:00", "15:00", budgets=budgets)  # 21:00 to 07:00 in Berlin
    place.create(a_lender(ground, flipping=flipping), a_class(rate=1))
    ground.start(flipping=QUICK)
    ground.serve(1)
    free, barred = moment(clock, BERLIN, "23:00"), moment(clock, BERLIN, "23:10")
    pass_by(ground, free - 60.0 - clock.now(), step=300.0)
    assert on(ground, "Training") == []
    assert held_by(ground).startswith(f"InferencePool {place.namespace}/chat: budgets[1] (0 nodes at once for Loan")
    lent(ground, 1, step=60.0)
    assert free <= clock.now() < barred
    pass_by(ground, barred + 7200.0 - 60.0 - clock.now())
    assert len(on(ground, "Training")) == 1
    assert "budgets[2] (0% of 4 nodes at once for any flip" in held_by(ground)
    lent(ground, 2)
    assert ground.sound()


def test_pauses_of_the_pool_and_of_the_fleet_hold_and_recall_and_say_who_asked(flip_ground, place, monkeypatch):
    monkeypatch.setattr(process, "LOOK_AROUND_SECONDS", 0.5)
    ground = flip_ground(nodes=4)
    place.create(a_lender(ground, flipping=ground.flipping(begin=-1.0, end=12.0)), a_class(rate=1))
    ground.start(flipping=QUICK)
    ground.serve(1)
    lent(ground, 1)
    (there,) = on(ground, "Training")
    flipping_of(ground, pause={"scope": "NewLoans", "by": "alice", "reason": "launch day"})
    pass_by(ground, 2400.0, step=300.0)
    assert on(ground, "Training") == [there]  # a pause alone changes nothing that runs
    assert any("paused by alice: launch day" in one["why"] for one in place.status()["flipping"]["blocked"])
    flipping_of(ground, pause=None)
    pause_fleet(ground, "NewLoans")
    pass_by(ground, 2400.0, step=300.0)
    assert on(ground, "Training") == [there]
    assert any("paused by bob: storage" in one["why"] for one in place.status()["flipping"]["blocked"])
    pause_fleet(ground, "RecallAll")
    ground.until(lambda: len(on(ground, "Serving")) == 4, "all are back", step=20.0)
    (said,) = ground.events("Recalled", ground.names.index(there))
    assert "paused by bob: storage is being moved" in said
    assert place.has("Flipping", "False", "Paused")
    pause_fleet(ground, "None")
    lent(ground, 1)
    assert ground.sound()


def test_above_a_fifth_of_unhealthy_nodes_nothing_is_lent_and_nothing_is_quarantined(flip_ground, place):
    ground = flip_ground(nodes=6)
    place.create(a_lender(ground, flipping=ground.flipping(begin=-1.0, end=12.0)), a_class(rate=1))
    ground.start(flipping=QUICK)
    ground.serve(1)
    lent(ground, 1)
    (there,) = on(ground, "Training")
    (serves,) = ground.serving_on()
    free = [index for index, name in enumerate(ground.names) if name != there and index != serves][:2]
    for index in free:
        ground.ready(index, False)
    ground.until(lambda: "units are unhealthy" in held_by(ground), "the gate", step=20.0)
    assert "2 of 6 units are unhealthy, 0 quarantined; expected at most 20%" in held_by(ground)
    pass_by(ground, 2400.0, step=300.0)
    assert on(ground, "Training") == [there]
    assert on(ground, "Quarantined") == []
    for index in free:
        ground.ready(index, True)
    ground.until(lambda: "unhealthy" not in held_by(ground), "the gate opens", step=20.0)
    lent(ground, 2)
    assert ground.sound()


def test_modes_that_only_recommend_tell_what_they_would_do_and_touch_no_node(flip_ground, place, engines):
    ground = flip_ground(nodes=4)
    flipping = ground.flipping(begin=-1.0, end=12.0)
    place.create(a_lender(ground, flipping=flipping), a_class(rate=None))
    touched: list[str] = []

    def before_write(write: Any) -> None:
        if write.kind.kind in ("Node", "Pod", "Job"):
            touched.append(f"{write.kind.kind} {write.name}: {write.reason}")

    ground.start(flipping=QUICK, before_write=before_write)
    ground.serve(1)
    engines.load(1.0)
    place.set_spec(INFERENCE_POOL, "chat", mode="Recommend")
    for _ in range(8):
        ground.step(50.0)
        ground.step(250.0)
    told = place.status()["flipping"]
    assert told["mode"] == "Recommend"
    assert max(told["loaned"]) >= 1
    assert "the mode of its pool is Recommend" in told["blocked"][0]["why"]
    assert place.has("Flipping", "False", "RecommendOnly")

    place.set_spec(INFERENCE_POOL, "chat", mode="Enforce")
    flipping_of(ground, policy="Forecast")
    for _ in range(8):
        ground.step(50.0)
        ground.step(250.0)
    told = place.status()["flipping"]
    assert told["mode"] == "Recommend"
    assert max(told["loaned"]) >= 1
    assert place.has("Flipping", "False", "HistoryTooShort")
    assert "a forecast that nodes are lent by needs 14" in place.condition("Flipping")[2]
    assert touched == []
    assert all("tidefleet.io/flip" not in ground.node(index)["metadata"]["annotations"] for index in range(4))
    assert ground.sound()


def test_loans_keep_to_the_power_of_a_site_and_a_lower_limit_calls_them_back(flip_ground, place):
    ground = flip_ground(nodes=4)
    hall = place.unique("hall")
    spec = {"nodeSelector": {FLEET: ground.fleet}, "powerLimitWatts": 100_000, "pue": "1.5"}
    place.create({"kind": "Site", "metadata": {"name": hall}, "spec": spec})
    place.create(a_lender(ground, flipping=ground.flipping(begin=-1.0, end=12.0)), a_class(rate=1))
    ground.start(flipping=QUICK)
    ground.serve(1)
    lent(ground, 2)

    def watts() -> int:
        return int((place.get(SITE, hall) or {}).get("status", {}).get("watts", 0))

    tick(ground)
    both = watts()
    assert both > 2 * 1.5 * 200  # two lent L40S of 350 W, and what serves
    place.merge(SITE, hall, {"spec": {"powerLimitWatts": both - 100}})
    ground.until(lambda: len(on(ground, "Training")) == 1 and len(on(ground, "Serving")) == 3, "one is back", step=20.0)
    said = [words for index in range(4) for words in ground.events("Recalled", index)]
    assert any(f"loans at {hall} draw" in words and "what training on it is worth" in words for words in said)
    pass_by(ground, 2400.0, step=300.0)
    assert len(on(ground, "Training")) == 1
    why = [one["why"] for one in place.status()["flipping"]["blocked"]]
    assert any("on loan it draws" in one and f"kW at {hall} are left" in one for one in why)
    assert 0 < watts() <= both - 100
