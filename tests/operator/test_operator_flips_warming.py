"""Nodes that come back and do not serve well are quarantined, a spare is used, and a release brings them back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flip_demand import QUICK, a_lender, ask_for, lent, on
from flip_faults import Ground
from operator_builders import Place, a_class, eventually

from tidefleet.cluster.kinds import POD
from tidefleet.cluster.writes import Write
from tidefleet.controller.flips import canary
from tidefleet.controller.flips.canary import Engine, Trial

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

START_SECONDS = 300
"""What a start of a replica is taken to last while none was measured; a node has twice that to become warm."""

GOLDEN = "Monday, Tuesday, Wednesday"
BAD_ANSWERS = {
    "wrong": (Trial("Thursday perhaps", 0.1), "it answered 'Thursday perhaps'; its peers answer 'Monday, "),
    "slow": (Trial(GOLDEN, 12.5), "it took 12.5 s; expected at most 10"),
}


class Doctor:
    """Answers trial requests in place of engines: badly for the first replica on a node that comes back."""

    def __init__(self, ground: Ground, trial: Trial) -> None:
        self._ground, self._trial, self.ill, self.healed = ground, trial, "", False

    def __call__(self, engine: Engine) -> Trial:
        """What a trial request comes to."""
        for index in range(len(self._ground.names)) if not self.ill else ():
            if self._ground.phase(index) == "Warming":
                self.ill = next(
                    (
                        one["metadata"]["uid"]
                        for one in self._ground.pods(index)
                        if one["metadata"]["uid"] == engine.uid
                    ),
                    self.ill,
                )
        return self._trial if engine.uid == self.ill and not self.healed else Trial(GOLDEN, 0.1)


def waiting(place: Place) -> str:
    """Name of a replica that has no node; empty when there is none."""
    return next((one["metadata"]["name"] for one in place.list(POD) if not one["spec"].get("nodeName")), "")


def three_on_loan(ground: Ground, place: Place, **hooks: Callable[[Write], None]) -> None:
    """One node serves, one is the reserve, three are lent."""
    flipping = ground.flipping(begin=-1.0, end=10.0)
    place.create(a_lender(ground, flipping=flipping), a_class(rate=1))
    ground.start(flipping=QUICK, startTimeoutSeconds=START_SECONDS, **hooks)
    ground.serve(1)
    lent(ground, 3)


def that_serve(ground: Ground) -> int:
    """Replicas that are ready and take requests."""
    return sum(
        one["metadata"]["labels"].get("tidefleet.io/routable") == "true"
        and any(c["type"] == "Ready" and c["status"] == "True" for c in one["status"].get("conditions", ()))
        for index in range(len(ground.names))
        for one in ground.pods(index)
    )


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_a_node_that_answers_badly_is_quarantined_a_spare_is_used_and_a_release_brings_it_back(
    flip_ground, place, monkeypatch, kind
):
    trial, words = BAD_ANSWERS[kind]
    monkeypatch.setattr(canary, "AGAIN_SECONDS", 0.0)
    ground = flip_ground(nodes=5)
    three_on_loan(ground, place)
    doctor = ground.op.loop.flips.canaries.asking = Doctor(ground, trial)

    ask_for(place, 11.6)  # three replicas, and a reserve: two nodes come back
    ground.until(lambda: on(ground, "Quarantined"), "a quarantine", step=5.0)
    (name,) = on(ground, "Quarantined")
    index = ground.names.index(name)
    (said,) = ground.events("Quarantined", index)
    assert words in said
    assert place.has("Flipping", "True", "Quarantined")
    assert f"tidefleet flip {name} --release" in place.condition("Flipping")[2]
    ground.until(lambda: not on(ground, "Training"), "the spare comes back", step=5.0)
    ground.until(lambda: that_serve(ground) == 3, "three replicas serve without it", step=10.0)
    ground.watcher.required[place.namespace, "chat"] = 3
    assert ground.phase(index) == "Quarantined"
    assert all("tidefleet.io/routable" not in one["metadata"]["labels"] for one in ground.pods(index))

    doctor.healed = True
    ground.ask(index, "release")
    ground.reaches("Serving", index, step=10.0)
    assert not ground.node(index)["spec"].get("taints")
    ground.until(lambda: that_serve(ground) == place.replicas()["l40s"] == 3, "none too many", step=60.0)
    assert ground.sound()


def test_a_node_whose_replica_never_becomes_ready_is_quarantined_after_its_time(flip_ground, place, clock):
    ground = flip_ground(nodes=5)
    ill: list[str] = []

    def before_write(write: Write) -> None:
        """The replica that waits for the first node that comes back is never going to be ready."""
        if write.kind.kind == "Node" and "Warming" in str(getattr(write, "body", "")) and not ill:
            ill.append(eventually(lambda: waiting(place), "a replica that waits"))
            place.merge(POD, ill[0], {"metadata": {"annotations": {"tidefleet.io/emulated-fault": "never-ready"}}})

    three_on_loan(ground, place, before_write=before_write)
    ask_for(place, 11.6)
    ground.until(lambda: on(ground, "Quarantined"), "a quarantine", step=20.0)
    (name,) = on(ground, "Quarantined")
    index = ground.names.index(name)
    (said,) = ground.events("Quarantined", index)
    assert said.endswith("0 of 1 replicas became ready")
    times = {phase: at for at, phase in ground.journal(index)["history"]}
    assert 2 * START_SECONDS <= times["Quarantined"] - times["Warming"] <= 2 * START_SECONDS + 40.0
    ground.until(lambda: that_serve(ground) == 3, "a spare serves in its place", step=20.0)
    ground.watcher.required[place.namespace, "chat"] = 3
    assert ground.phase(index) == "Quarantined"

    place.merge(POD, ill[0], {"metadata": {"annotations": {"tidefleet.io/emulated-fault": None}}})
    ground.ask(index, "release")
    ground.reaches("Serving", index, step=10.0)
    assert ground.sound()
