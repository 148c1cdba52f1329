"""Two leaders: what an old one had decided about a node comes to nothing once another one leads."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from operator_builders import FLEET, InProcess, a_class, eventually

from tidefleet.cluster.kinds import NODE
from tidefleet.cluster.writes import Conflict, Fenced, MergePatch, Outcome, Write

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

OVER = {"leaseDurationSeconds": 1, "renewTime": "2026-01-01T00:00:00.000000Z", "holderIdentity": "nobody"}


def test_a_leader_that_was_held_up_in_mid_flip_writes_nothing_more_and_the_flip_goes_on(
    flip_ground, place, operator_in_process: Callable[..., InProcess]
):
    ground = flip_ground()
    place.create(ground.a_pool(), a_class(rate=1))
    patches, held, go = [0], threading.Event(), threading.Event()
    outcomes: list[Outcome] = []

    def hold(write: Write) -> None:
        """Hold the second write to a node, which takes it from Planned to Cordoned."""
        if isinstance(write, MergePatch) and write.kind == NODE:
            patches[0] += 1
            if patches[0] == 2:
                held.set()
                go.wait(60.0)

    def note(write: Write, outcome: Outcome) -> None:
        if isinstance(write, MergePatch) and write.kind == NODE:
            outcomes.append(outcome)

    first = ground.start(before_write=hold, after_write=note)
    ground.serve(1)
    (there,) = ground.serving_on()
    ground.ask(there, "training")

    def stuck() -> bool:
        ground.clock.tick(1.0)
        return held.is_set()

    eventually(stuck, "the first leader is held up")
    old = ground.journal(there)
    assert old["phase"] == "Planned"

    lease = f"/apis/coordination.k8s.io/v1/namespaces/{place.namespace}/leases/tidefleet"
    place.api.merge(lease, {"spec": OVER})
    second = operator_in_process(namespaces=[], nodeSelector=f"{FLEET}={ground.fleet}")
    ground.op = second
    eventually(lambda: ground.journal(there)["epoch"] > old["epoch"], "the second leader has claimed the node")
    newer = ground.journal(there)["epoch"]
    go.set()
    eventually(lambda: not first.alive, "the old leader ends")
    assert first.exit == 1
    assert [one for one in outcomes[1:] if not isinstance(one, Conflict | Fenced)] == [], outcomes
    ground.reaches("Training", there, step=5.0)
    assert ground.journal(there)["epoch"] == newer
    assert second.alive
    assert ground.sound()


def test_an_epoch_that_somebody_forges_on_a_node_stops_no_leader_and_no_later_one(flip_ground, place):
    ground = flip_ground()
    place.create(ground.a_pool(), a_class(rate=1))
    ground.start()
    ground.serve(1)
    (there,) = ground.serving_on()
    ground.ask(there, "training")
    ground.reaches("Training", there, step=5.0)
    for forged in (41, 2**31 - 1):
        story = ground.node(there)["metadata"]["annotations"]["tidefleet.io/flip"]
        later = story.replace(f'"epoch":{ground.journal(there)["epoch"]}', f'"epoch":{forged}')
        assert later != story
        ground.mark(there, annotations={"tidefleet.io/flip": later})
        ground.step(5.0)
        assert ground.phase(there) == "Training"
        ground.op.stop()
        ground.start()
        ground.step(5.0)
    ground.ask(there, "serving")
    ground.reaches("Serving", there, step=10.0)
    assert ground.sound()
