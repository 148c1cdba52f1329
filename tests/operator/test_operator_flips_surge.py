"""A surge of demand while nodes are on loan: who comes back, in what order, how fast, and what is lent afterwards."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from flip_demand import (
    BERLIN,
    QUICK,
    a_lender,
    ask_for,
    lent,
    moment,
    nightly,
    nodes_of,
    on,
    pass_by,
    start_at,
    tick,
    train,
    wall,
)
from flip_faults import Ground
from operator_builders import a_class

from tidefleet.cluster.kinds import JOB

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

RECALL_SECONDS = 720.0
"""Within what time a recalled node serves: the operator's ``flipping.recallSeconds``."""

HOUR = 3600.0


def has_told(ground: Ground, job: str) -> bool:
    """Whether the operator has seen a checkpoint of a job."""
    seen = ground.op.loop.flips.borrowers.training.values()
    return any(one.name == job and one.checkpointed for each in seen for one in each.jobs)


@pytest.mark.long
def test_at_half_past_three_with_everything_lent_the_least_is_lost_and_nothing_is_lent_for_an_hour(
    flip_ground, place, clock
):
    start_at(clock, BERLIN, "00:15")
    ground = flip_ground(nodes=7)
    place.create(a_lender(ground, flipping=nightly(BERLIN, "22:00", "07:30")), a_class(rate=1))
    ground.start(flipping=QUICK)
    ground.serve(1)
    lent(ground, 1)
    train(ground, "old")
    ground.until(lambda: nodes_of(ground, "old"), "the old job trains")
    lent(ground, 3)
    train(ground, "elastic", workers=2, **{"tidefleet.io/elastic": "1-2"})
    ground.until(lambda: len(nodes_of(ground, "elastic")) == 2, "the elastic job trains")
    lent(ground, 4)
    train(ground, "saved")
    ground.until(lambda: nodes_of(ground, "saved"), "the job that is saved often trains")
    lent(ground, 5)  # all but the one that serves and the reserve
    before = {name: nodes_of(ground, name) for name in ("old", "elastic", "saved")}
    (idle,) = set(on(ground, "Training")) - set().union(*before.values())
    pass_by(ground, moment(clock, BERLIN, "03:30") - clock.now())
    assert wall(clock, BERLIN) == "03:30"
    told = {"tidefleet.io/checkpointed-at": datetime.fromtimestamp(clock.now() - 60, tz=UTC).isoformat()}
    place.merge(JOB, "saved", {"metadata": {"annotations": told}})
    ground.until(lambda: has_told(ground, "saved"), "its checkpoint is seen")

    surged = clock.now()
    ask_for(place, 15.4)  # four replicas where one was, and a reserve
    ground.until(lambda: sum(place.ready_replicas().values()) == place.replicas()["l40s"] > 1, "all serve", step=15.0)
    assert clock.now() - surged <= RECALL_SECONDS
    assert place.replicas()["l40s"] == 4
    ground.watcher.required[place.namespace, "chat"] = 4
    assert nodes_of(ground, "old") == before["old"]
    assert len(nodes_of(ground, "elastic")) == 1
    assert nodes_of(ground, "saved") == set()
    back = before["saved"] | before["elastic"] - nodes_of(ground, "elastic") | {idle}
    whys = {name: ground.events("Recalled", ground.names.index(name)) for name in ground.names}
    assert {name for name, said in whys.items() if said} == back
    assert all("of what its ready replicas carry" in said[0] for said in whys.values() if said)
    assert "(no job runs on it)" in whys[idle][0]
    assert any("elastic goes on with 1 chips" in said[0] for said in whys.values() if said)
    (name,) = before["saved"]
    assert f"Job {place.namespace}/saved: loses" in whys[name][0]
    losses = [one["note"] for one in place.events("TrainingStopped")]
    assert [one for one in losses if "saved" in one]

    ask_for(place, 1.0)
    ground.watcher.required[place.namespace, "chat"] = 1
    ground.until(lambda: place.replicas()["l40s"] == 1 and not on(ground, "Warming"), "the surge is over", step=30.0)
    last = max(ground.journal(index)["since"] for index in range(7) if ground.names[index] in back)
    ground.op.stop()
    ground.start(flipping=QUICK)  # which remembers nothing
    while (left := last + HOUR - 60.0 - clock.now()) > 0:
        tick(ground, min(240.0, left))
        assert len(on(ground, "Training")) == 2, wall(clock, BERLIN)
    assert "demand surged within the last hour" in place.status()["flipping"]["heldBy"]
    ground.until(lambda: len(on(ground, "Training")) > 2, "lent again", step=60.0)
    assert clock.now() >= last + HOUR
    assert ground.sound()


def test_in_mid_drain_the_drain_is_called_off_and_its_replica_serves_on(flip_ground, place, clock, engines):
    ground = flip_ground(nodes=4)
    place.create(a_lender(ground, least=2), a_class(rate=1))
    ground.start()
    ground.serve(2)
    engines.load(1.0, out=10_000.0)  # requests that take minutes
    there = ground.serving_on()[0]
    kept = {one["metadata"]["name"] for index in ground.serving_on() for one in ground.pods(index)}
    ground.ask(there, "training")
    ground.reaches("Draining", there, step=5.0)
    (pod,) = [one for one in ground.pods(there) if one["metadata"]["name"] in kept]
    assert "tidefleet.io/routable" not in pod["metadata"]["labels"]
    ground.step(20.0)
    assert ground.phase(there) == "Draining"  # requests run in it still

    surged = clock.now()
    ask_for(place, 19.2)
    ground.reaches("Serving", there, step=1.0)
    (said,) = ground.events("RolledBack", there)
    assert "of what its ready replicas carry" in said
    ground.until(lambda: sum(place.ready_replicas().values()) == 4, "every node serves", step=5.0)
    assert clock.now() - surged <= RECALL_SECONDS
    names = {one["metadata"]["name"] for one in ground.pods(there)}
    assert pod["metadata"]["name"] in names
    assert all(one["metadata"]["labels"]["tidefleet.io/routable"] == "true" for one in ground.pods(there))
    assert not ground.node(there)["spec"].get("taints")
    assert ground.sound()


def test_first_tokens_that_come_too_late_twice_bring_a_node_home_and_stop_loans(flip_ground, place, clock, engines):
    ground = flip_ground(nodes=4)
    place.create(a_lender(ground, flipping=ground.flipping(begin=-1.0, end=10.0)), a_class(rate=1))
    ground.start(flipping=QUICK, calibration={"enabled": False})
    ground.serve(1)
    engines.load(1.0)
    lent(ground, 2)
    for _ in range(3):
        ground.step(15.0)
    assert len(on(ground, "Training")) == 2

    engines.slow(30.0)  # first tokens take seconds; 1.5 are allowed
    began = clock.now()
    ground.until(lambda: len(on(ground, "Training")) == 1, "one is recalled", step=15.0)
    assert clock.now() - began >= 2 * 15.0
    (said,) = [said for index in range(4) for said in ground.events("Recalled", index)]
    assert "first tokens take" in said
    assert "expected at most 1.5 s" in said
    engines.fault("")

    def home() -> list[float]:
        """Since when nodes that were away serve again."""
        return [own["since"] for index in range(4) if (own := ground.journal(index)).get("phase") == "Serving"]

    ground.until(home, "it serves", step=15.0)
    last = max(home())
    while (left := last + HOUR - 60.0 - clock.now()) > 0:
        tick(ground, min(600.0, left))
        assert len(on(ground, "Training")) == 1
    lent(ground, 2)
    assert ground.sound()
