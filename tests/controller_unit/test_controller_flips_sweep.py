"""What of ours no flip accounts for is found, and nothing else."""

import pytest

from tidefleet.cluster import records
from tidefleet.controller.flips.sweep import stray_nodes
from tidefleet.controller.flips.units import Unit


def a_node(name, *, labels=None, annotations=None, taints=()):
    rows = [{"key": key, "value": "x", "effect": "NoSchedule"} for key in taints]
    meta = {"name": name, "uid": f"u-{name}", "labels": labels or {}, "annotations": annotations or {}}
    return records.node({"metadata": meta, "spec": {"taints": rows}})


LABEL = {"tidefleet.io/duty": "training"}
JOURNAL = {"tidefleet.io/flip": "{}"}


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (a_node("n", labels=LABEL), "no journal; a flip of it would set the label anew"),
        (a_node("n", annotations=JOURNAL), "carries a journal"),
        (a_node("n", taints=["tidefleet.io/flip", "tidefleet.io/duty"]), "the taint tidefleet.io/duty and the taint"),
        (a_node("n", labels=LABEL, annotations=JOURNAL), "no accelerators of a known AcceleratorType"),
    ],
)
def test_marks_that_no_unit_accounts_for_are_told_with_what_to_do(node, words):
    (stray,) = stray_nodes([node], [])
    assert words in stray.words
    assert stray.words.startswith("node n carries")
    assert (stray.kind.kind, stray.name, stray.uid) == ("Node", "n", "u-n")


def test_nodes_without_our_marks_and_units_in_a_flip_are_no_strays(monkeypatch):
    monkeypatch.setattr(Unit, "names", property(lambda self: ("known",)), raising=False)
    unit = object.__new__(Unit)
    bare = a_node("bare", labels={"a": "b"}, taints=["theirs"])
    flipping = a_node("known", labels=LABEL, annotations=JOURNAL, taints=["tidefleet.io/duty"])
    assert stray_nodes([bare, flipping], [unit]) == []
