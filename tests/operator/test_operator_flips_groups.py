"""Nodes of one NVLink domain change hands together: out, home, into quarantine, and never by halves."""

from __future__ import annotations

import json

import pytest
from flip_ground import journal
from flip_phases import is_ready, put, seen, set_ready, turns
from operator_builders import Crash, an_accelerator, eventually

from tidefleet.cluster.kinds import NODE
from tidefleet.cluster.writes import Written
from tidefleet.flipping.phase import Phase

pytestmark = pytest.mark.cluster

RACK = "gb200-nvl72"
ORDER = ["Planned", "Cordoned", "Draining", "Verifying", "Training", "Recalling", "Reclaiming", "Warming", "Serving"]


def racks(night, count=3, **pool):
    """A night on so many NVLink domains of two nodes of one chip each."""
    one = night(accelerator=RACK, nodes=2 * count, chips=1)
    one.place.create(an_accelerator(RACK, like=RACK))
    for index, name in enumerate(one.names):
        label = {"nvidia.com/gpu.clique": f"rack-{index // 2}.1"}
        one.place.merge(NODE, name, {"metadata": {"labels": label}})
    one.serve(1, most=2, **pool)
    return one


def phases(one, *indexes):
    """In which phases these nodes are."""
    return {one.phase(index) for index in indexes}


def ask(one, index, to):
    """Ask for a node as `tidefleet flip` does."""
    text = json.dumps({"to": to, "by": "alice", "at": int(one.clock.now())})
    one.place.merge(NODE, one.names[index], {"metadata": {"annotations": {"tidefleet.io/flip-request": text}}})


def test_a_domain_flips_whole_though_operators_die_between_the_writes_to_its_nodes(night):
    one = racks(night, begin=10.0, end=16.0)
    written: list[str] = []

    def half(write, outcome):
        """Die after the first of two nodes has been written, in these phases."""
        if write.kind is not NODE or not isinstance(outcome, Written) or "a new leader" in write.reason:
            return
        phase = json.loads(outcome.object["metadata"]["annotations"].get("tidefleet.io/flip", "{}")).get("phase")
        if phase in ("Cordoned", "Training", "Recalling", "Warming") and phase not in written:
            written.append(phase)
            raise Crash(f"{write.name} is {phase}, the other node of its domain is not")

    one.operate()
    one.op.settle()
    one.watcher.required[one.place.namespace, "chat"] = 1
    one.after = half
    (busy,) = {pod["spec"]["nodeName"] for pod in one.serving()}
    there = one.names.index(busy) // 2 * 2
    pair = (there, there + 1)
    one.a_job(chips=1)
    ask(one, there + 1, "training")
    one.until(lambda: phases(one, *pair) == {"Training"} and one.training(), "the domain that served on loan")
    (lent, other) = (journal(one.node(index)) for index in pair)
    assert lent["members"] == [one.names[index] for index in pair]
    assert {**lent, "before": None} == {**other, "before": None}
    assert not one.serving(pair[0])
    assert not one.serving(pair[1])
    assert one.place.status()["flipping"]["loanedNodes"] == 2
    ask(one, there, "serving")
    one.until(lambda: one.is_clean(*pair), "the domain at home", step=20.0)
    assert written == ["Cordoned", "Training", "Recalling", "Warming"]
    assert [turns(one, index) for index in pair] == [ORDER, ORDER]
    assert one.is_clean()
    assert one.watcher.breaches == []


def test_a_domain_of_which_one_node_fails_or_is_gone_is_recalled_and_quarantined_whole(night):
    one = racks(night, begin=10.0, end=16.0)
    one.operate()
    one.op.settle()
    one.watcher.required[one.place.namespace, "chat"] = 1
    (busy,) = {pod["spec"]["nodeName"] for pod in one.serving()}
    free = [index for index in range(0, 6, 2) if index != one.names.index(busy) // 2 * 2]
    (sick, gone) = ((first, first + 1) for first in free)
    for pair in (sick, gone):
        for index in pair:
            put(one, index, Phase.TRAINING, members=pair)
    seen(one.op, one, (*sick, *gone))
    one.op.advance()
    assert phases(one, *sick, *gone) == {"Training"}

    set_ready(one, sick[1], False)
    eventually(lambda: not is_ready(one, sick[1]), "NotReady")
    one.place.delete(NODE, one.names[gone[1]])
    eventually(lambda: len(one.op.process._inventory.nodes()) == 5, "one node is gone")
    seen(one.op, one, sick)
    one.op.advance()
    assert phases(one, gone[0]) == {"Recalling"}
    one.op.advance(70.0)
    one.until(lambda: phases(one, *sick, gone[0]) == {"Quarantined"}, "both in quarantine", step=20.0)
    assert [turns(one, index) for index in (*sick, gone[0])] == [["Recalling", "Reclaiming", "Quarantined"]] * 3
    assert f"node {one.names[sick[1]]} has had Ready=False" in journal(one.node(sick[0]))["why"]
    assert "one of its nodes is gone" in journal(one.node(gone[0]))["why"]
    one.op.advance(60.0)  # numbers of a status are written once a minute
    assert one.place.status()["flipping"]["quarantinedNodes"] == 4
    assert one.place.has("Flipping", "True", "Quarantined")

    set_ready(one, sick[1], True)
    ask(one, gone[0], "release")
    one.until(lambda: one.is_clean(*sick, gone[0]), "they serve again", step=20.0)
    assert journal(one.node(gone[0])).get("members") is None
    assert [turns(one, index)[3:] for index in (*sick, gone[0])] == [["Verifying", "Warming", "Serving"]] * 3
    assert one.watcher.breaches == []
