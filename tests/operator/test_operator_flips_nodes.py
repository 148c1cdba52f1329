"""Nodes that stop being ready, or are gone, in each phase of a flip."""

from __future__ import annotations

import pytest
from flip_ground import journal
from flip_phases import PHASES, holder, is_ready, make_anew, put, seen, set_ready, told, turns, wears
from operator_builders import POD, eventually

from tidefleet.cluster.kinds import NODE
from tidefleet.flipping.phase import Phase

pytestmark = pytest.mark.cluster


def lending_night(night):
    """Thirteen nodes of one chip: four that serve, and one for each phase of a flip."""
    one = night(nodes=4 + len(PHASES), chips=1)
    one.serve(2, most=2, begin=10.0, end=16.0)
    one.operate()
    one.op.settle()
    one.watcher.required[one.place.namespace, "chat"] = 2
    return one


def test_a_node_that_is_not_ready_leaves_every_phase_by_the_rules_and_serves_once_it_is_ready(night):
    one = lending_night(night)
    busy = {pod["spec"]["nodeName"] for pod in one.serving()}
    free = [index for index, name in enumerate(one.names) if name not in busy][: len(PHASES)]
    where = dict(zip(PHASES, free, strict=True))
    for index in free:
        set_ready(one, index, False)
    eventually(lambda: not any(is_ready(one, index) for index in free), "NotReady")
    seen(one.op, one, free)
    one.op.advance()
    one.op.advance(70.0)
    for phase, index in where.items():
        put(one, index, phase)
    seen(one.op, one, free)
    outbound = (Phase.PLANNED, Phase.CORDONED, Phase.DRAINING, Phase.VERIFYING)
    one.until(lambda: all(one.phase(where[phase]) == "Serving" for phase in outbound), "rolled back", step=0.0)
    for phase in outbound:
        reason = "FlipCalledOff" if phase is Phase.PLANNED else "RolledBack"
        words = f"{reason}: {one.names[where[phase]]}: {phase} -> Serving:"
        assert [line for line in told(one, where[phase]) if line.startswith(words) and "Ready=False" in line], phase
    assert not any(wears(one, where[phase]) for phase in outbound)
    assert one.phase(where[Phase.TRAINING]) == "Recalling"
    homebound = [index for phase, index in where.items() if phase not in outbound]
    one.until(lambda: all(one.phase(index) == "Quarantined" for index in homebound), "quarantine", step=50.0)
    lent = journal(one.node(where[Phase.TRAINING]))
    assert "Ready=False" in lent["why"]
    assert turns(one, where[Phase.TRAINING]) == ["Recalling", "Reclaiming", "Quarantined"]
    assert one.place.condition("Flipping")[1] == "Quarantined"
    assert "--release" in one.place.condition("Flipping")[2]
    for index in free:
        set_ready(one, index, True)
    held = where[Phase.QUARANTINED]  # not for its health: it waits for a person
    healed = [index for index in homebound if index != held]
    one.until(lambda: one.is_clean(*healed), "they serve again", step=20.0)
    assert one.phase(held) == "Quarantined"
    assert one.watcher.breaches == []


def test_nodes_that_are_deleted_in_every_phase_leave_nothing_and_serve_when_they_are_made_anew(night):
    one = lending_night(night)
    busy = {pod["spec"]["nodeName"] for pod in one.serving()}
    free = [index for index, name in enumerate(one.names) if name not in busy][: len(PHASES)]
    where = dict(zip(PHASES, free, strict=True))
    held = [where[phase] for phase in (Phase.TRAINING, Phase.RECALLING, Phase.RECLAIMING)]
    for index in held:
        holder(one, f"holds-{index}", index)
    for phase, index in where.items():
        put(one, index, phase)
    seen(one.op, one, free)
    one.op.advance()
    assert one.place.status()["flipping"]["loanedNodes"] >= 1
    for phase, index in where.items():
        if one.phase(index) != phase:  # without replicas on them, some go on at once
            put(one, index, phase)
    for index in free:
        one.place.delete(NODE, one.names[index])
    eventually(lambda: len(one.op.process._inventory.nodes()) == len(one.names) - len(free), "they are gone")
    one.op.advance(60.0)
    told_of = one.place.status()["flipping"]
    assert (told_of["loanedNodes"], told_of["movingNodes"], told_of["quarantinedNodes"]) == (0, 0, 0)
    assert "units" not in told_of
    assert one.place.condition("Flipping")[0] == "False"
    assert one.op.metric("tidefleet_reconcile_errors_total", kind="Node", reason="Exception") == 0

    for index in held:  # as the collection of orphaned pods does, a little later
        if one.place.get(POD, f"holds-{index}") is not None:
            one.place.api.delete(one.place.path(POD, f"holds-{index}"), {"gracePeriodSeconds": 0})
    for index in free:
        make_anew(one, index)
    seen(one.op, one, free)
    for _ in range(3):
        one.op.advance(20.0)
    assert not any(wears(one, index) for index in free)
    assert {one.phase(index) for index in free} == {"Serving"}
    assert one.ready() == 2
    assert one.watcher.breaches == []
