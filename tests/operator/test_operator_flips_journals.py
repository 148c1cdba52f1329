"""Journals that nobody can read, or that no leader wrote: said with the way out, and the other nodes go on flipping."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flip_faults import SLOT
from flip_night import forged
from operator_builders import a_class

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

TAINTS = [{"key": "tidefleet.io/duty", "value": "training", "effect": "NoSchedule"}]
TAINTED = ("garbled", "empty")  # one before the operator starts, one while it runs
FUTURE = 2**31 - 2**20  # the latest epoch that is believed

UNREADABLE = {
    "garbled": ("\u0000\u0007{{{ not json", ("not json", "expected an object")),
    "empty": ("", ("it is ''", "expected an object")),
    "truncated": ("CUT", ("not JSON", "expected an object")),
    "a list": ("[1, 2]", ("[1, 2]", "expected an object")),
    "a version of later": (forged(v=7), ("its version is 7", "expected 1")),
    "a phase of nobody's": (forged(phase="Sleeping"), ("phase is 'Sleeping'", "expected one of Serving, Planned")),
    "a time in words": (forged(since="yesterday"), ("since is yesterday", "e.g. 1764028800")),
    "an epoch in words": (forged(epoch="9"), ("epoch is 9", "expected a whole number")),
    "an epoch beyond all": (forged(epoch=10**12), ("epoch is 1000000000000", "expected a whole number")),
    "of another node": (forged(phase="Training", unit="elsewhere"), ("it is about elsewhere", "not about this node")),
    "too large": (forged(why="x" * 60_000), ("characters", "expected at most 49152")),
}
"""What comes, and what has to be said of it."""


def set_story(ground: Any, index: int, text: str, *, tainted: bool = False) -> None:
    """Write a text as a node's journal by hand."""
    text = forged(unit=ground.names[index])[:-9] if text == "CUT" else text
    ground.mark(index, annotations={"tidefleet.io/flip": text}, spec={"taints": TAINTS} if tainted else None)


def test_journals_that_cannot_be_read_are_told_with_the_way_out_and_the_other_nodes_go_on_flipping(
    flip_ground, place, clock
):
    ground = flip_ground(nodes=3 + len(UNREADABLE) + 2)
    place.create(ground.a_pool(replicas=1), a_class(rate=1))
    ground.start()
    ground.serve(1)
    (busy,) = ground.serving_on()
    free = [index for index in range(len(ground.names)) if index != busy]
    where = dict(zip(UNREADABLE, free, strict=False))
    good, other, early, late = free[len(UNREADABLE) :]
    ground.op.stop()  # half of it is there when an operator starts, half of it comes while it runs
    listed = list(where.items())
    for what, index in listed[::2]:
        set_story(ground, index, UNREADABLE[what][0], tainted=what in TAINTED)
    invented = {"pool": "nobody/nothing", "accelerator": "l40s", "until": clock.now() + 3600.0, "epoch": FUTURE}
    for index in (early, late):
        if index == late:
            ground.start()
            ground.step()
        text = forged(phase="Serving", unit=ground.names[index], **invented)
        ground.mark(index, annotations={"tidefleet.io/flip": text})
    for what, index in listed[1::2]:
        set_story(ground, index, UNREADABLE[what][0], tainted=what in TAINTED)
    tainted = [where[what] for what in TAINTED]

    for index in (*where.values(), good):
        ground.ask(index, "training")
    ground.reaches("Training", good, step=15.0)
    for what, index in where.items():
        (said,) = ground.events("JournalUnreadable", index)
        name = ground.names[index]
        assert name in said
        for words in UNREADABLE[what][1]:
            assert words in said, (what, said)
        if index in tainted:
            assert f"tidefleet flip {name} --release" in said
            assert ground.phase(index) == "Quarantined"
        else:
            assert f"kubectl annotate node {name} tidefleet.io/flip-" in said
            assert not ground.node(index)["spec"].get("taints")
            assert ground.node(index)["metadata"]["labels"].get("tidefleet.io/duty") != "training"
            assert [one for one in ground.events("FlipRefused", index) if "cannot be read" in one], what

    for index in where.values():  # the ways out
        if index in tainted:
            ground.ask(index, "release")
        else:
            ground.mark(index, annotations={"tidefleet.io/flip": None})
    ground.until(lambda: all(ground.phase(index) == "Serving" for index in tainted), "released", step=15.0)
    assert not any(ground.node(index)["spec"].get("taints") for index in tainted)
    for index in (where["too large"], early, late):
        ground.step(SLOT)  # between two steps
        ground.ask(index, "training")
        ground.reaches("Training", index, step=5.0)
    assert ground.journal(late)["epoch"] == ground.op.loop.actor.epoch
    assert ground.journal(late)["pool"] == f"{place.namespace}/chat"
    assert json.loads(ground.node(other)["metadata"].get("annotations", {}).get("tidefleet.io/flip", "{}")) == {}
    written = [f"{ground.names[index]} " for index in where.values()]  # the watcher believes what stands there
    assert [one for one in ground.watcher.breaches if not any(name in one for name in written)] == []
    assert ground.watcher.looks > 5
