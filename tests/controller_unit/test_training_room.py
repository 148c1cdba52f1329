"""What is free on loaned nodes, and which pods fit there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_builders import GPU, NOW, a_node, a_pod

from tidefleet.controller.training.room import NoRoom, PodShape, room_on


def shape(count: int = 1, chips: int = 8, **what: object) -> PodShape:
    return PodShape(count, {GPU: chips}, **what)  # type: ignore[arg-type]


def test_only_verified_nodes_that_are_not_recalled_have_room():
    nodes = [a_node("n0"), a_node("n1", verified=False), a_node("n2", recall_by=NOW)]
    assert dict(room_on(nodes, []).free) == {"n0": 8}


def test_a_terminating_pod_holds_its_chips_and_a_finished_one_does_not():
    nodes = [a_node("n0"), a_node("n1")]
    pods = [a_pod("a", "n0", deleting=True), a_pod("b", "n1", phase="Succeeded"), a_pod("c", "elsewhere")]
    assert dict(room_on(nodes, pods).free) == {"n0": 0, "n1": 8}


def test_pods_are_placed_whole_so_that_scattered_chips_are_no_room():
    nodes = [a_node("n0"), a_node("n1")]
    room = room_on(nodes, [a_pod("a", "n0", chips=4), a_pod("b", "n1", chips=4)])
    assert room.chips == 8
    with pytest.raises(NoRoom, match="taken, by other jobs or by pods that are still ending"):
        room.place([shape()])
    assert room.place([shape(2, 4)]).chips == 0


def test_the_widest_pods_come_first():
    room = room_on([a_node("n0"), a_node("n1")], [])
    assert room.place([shape(2, 4), shape(1, 8)]).chips == 0


@pytest.mark.parametrize(
    ("wanted", "until", "words"),
    [
        (shape(3), 0.0, "1 pod of 8 nvidia.com/gpu each: too few nodes"),
        (shape(1, 16), 0.0, "no node on loan is that wide"),
        (shape(1), NOW + 10_000, "no loan lasts long enough"),
        (shape(1, accelerator="l40s"), 0.0, "no node on loan has that and its labels"),
        (shape(1, selector={"zone": "b"}), 0.0, "no node on loan has that and its labels"),
    ],
)
def test_why_there_is_no_room_is_said(wanted, until, words):
    nodes = [a_node("n0", labels={"zone": "a"}), a_node("n1", labels={"zone": "a"})]
    with pytest.raises(NoRoom, match=words):
        room_on(nodes, []).place([wanted], until=until)


def test_the_loan_that_ends_last_is_used_first():
    room = room_on([a_node("n0"), a_node("n1", until=NOW + 9000)], [])
    assert dict(room.place([shape()]).free) == {"n0": 8, "n1": 0}


def test_pods_that_are_there_already_need_no_room_again():
    nodes = [a_node("n0"), a_node("n1")]
    room = room_on(nodes, [a_pod("a", "n0")])
    assert room.place([shape(2)], already={GPU: 8}).chips == 0
    assert room.place([shape(1)], already={GPU: 8}).chips == 8


@given(
    nodes=st.lists(st.integers(1, 16), min_size=1, max_size=5),
    pods=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 16)), max_size=4),
)
def test_no_node_is_ever_given_away_twice(nodes, pods):
    room = room_on([a_node(f"n{index}", chips=chips) for index, chips in enumerate(nodes)], [])
    shapes = [shape(count, chips) for count, chips in pods]
    try:
        left = room.place(shapes)
    except NoRoom:
        return
    assert min(left.free.values()) >= 0
    assert room.chips - left.chips == sum(one.total for one in shapes)
