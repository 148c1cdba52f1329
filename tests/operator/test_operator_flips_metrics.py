"""Metrics that cannot be trusted while nodes are on loan, and while a loan is due: everything stays as it is."""

from __future__ import annotations

import pytest
from flip_demand import QUICK, a_lender, on
from flip_faults import Ground
from operator_builders import INFERENCE_POOL, a_class, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


def stays(ground: Ground, phases: list[str], seconds: float, *, step: float = 50.0) -> None:
    """Let time pass, the engines read in each step of it, and see that no node changes its phase."""
    while seconds > 0:
        ground.step(min(step, seconds))
        assert ground.phases() == phases, [ground.journal(index).get("why") for index in range(len(phases))]
        seconds -= step


def lent(ground: Ground, count: int, *, step: float = 50.0) -> None:
    """Pass after pass until so many nodes are on loan and none is on its way."""

    def done() -> bool:
        phases = ground.phases()
        ground.step(step if set(phases) <= {"Serving", "Training"} else 1.0)
        return phases.count("Training") >= count and set(phases) <= {"Serving", "Training"}

    eventually(done, f"{count} nodes on loan", pause=0.0)


def test_neither_a_gap_nor_nan_nor_zero_lends_or_recalls_a_node(flip_ground, place, engines):
    ground = flip_ground(nodes=5)
    closed = ground.flipping(begin=2.0, end=10.0)
    place.create(a_lender(ground, flipping=closed), a_class(rate=None))
    ground.start(flipping=QUICK)
    ground.serve(1)
    engines.load(8.0)
    ground.until(lambda: sum(place.ready_replicas().values()) == 2, "two replicas", step=15.0)
    for _ in range(4):
        ground.step(50.0)
    ground.serve(2)

    engines.fault("nan-metrics")
    ground.step(15.0)
    opened = ground.flipping(begin=-1.0, end=10.0)
    place.set_spec(INFERENCE_POOL, "chat", flipping=opened)
    stays(ground, ["Serving"] * 5, 300.0)
    assert place.has("DemandKnown", "False", "NotANumber")
    held = place.status()["flipping"]["heldBy"]
    assert held.startswith(f"the demand of InferencePool {place.namespace}/chat is not known: ")
    engines.fault("")
    lent(ground, 1)

    engines.fault("error-500")
    ground.step(15.0)
    before = ground.phases()
    stays(ground, before, 1200.0)  # the next step would be due
    assert place.has("DemandKnown", "False", "Unreachable")
    engines.fault("")
    lent(ground, 2)

    engines.fault("empty-metrics")
    ground.step(15.0)
    before = ground.phases()
    stays(ground, before, 900.0)
    engines.fault("")
    engines.load(0.0)
    stays(ground, before, 250.0)  # less than the window in which the highest demand counts
    assert len(on(ground, "Training")) == 2
    assert not [said for index in range(5) for said in ground.events("Recalled", index)]
    engines.load(8.0)
    stays(ground, before, 200.0)
    assert sum(place.ready_replicas().values()) >= 2, "nobody is short; one that replaced another may still be there"
    assert ground.sound()
