"""The journal on a node: what is written is read back, and no text whatever makes the reader fail."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_builders import JOURNALS, NOW, a_journal, unhurried

from tidefleet.flipping.journal import (
    KEPT,
    LARGEST,
    LONGEST_WORDS,
    Before,
    Journal,
    TooLarge,
    Unreadable,
    agreed,
    read,
    write,
)
from tidefleet.flipping.phase import Phase

ANNOTATION_LIMIT_BYTES = 256 * 1024
"""Of all annotations of one object (Kubernetes documentation, "Annotations")."""

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_TIME = st.integers(0, 99_999_999_999_000).map(lambda ms: ms / 1000)
_NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-", min_size=1, max_size=60)
_VALUES = st.dictionaries(_NAMES, st.none() | _TEXT, max_size=4)
_ANY_JOURNAL = st.builds(
    Journal,
    epoch=st.integers(0, 10**9),
    turn=st.integers(0, 10**9),
    phase=st.sampled_from(Phase),
    since=_TIME,
    unit=_NAMES,
    pool=_TEXT,
    accelerator=_TEXT,
    members=st.lists(_NAMES, min_size=1, max_size=20).map(tuple),
    deadline=st.none() | _TIME,
    until=st.none() | _TIME,
    why=_TEXT,
    decision=_TEXT,
    surge=st.booleans(),
    trained=st.booleans(),
    asked=st.none() | _TIME,
    queue=_TEXT,
    by=_TEXT,
    cause=_TEXT,
    before=st.builds(Before, labels=_VALUES, annotations=_VALUES),
    history=st.lists(st.tuples(_TIME, st.sampled_from(Phase)), max_size=KEPT).map(tuple),
)
_LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_JSON = _LEAF | st.lists(_LEAF | st.lists(_LEAF, max_size=3), max_size=4) | st.dictionaries(st.text(max_size=8), _LEAF)


def _raw(**more: Any) -> dict[str, Any]:
    return {"v": 1, "epoch": 3, "phase": "Training", "since": NOW, "unit": "node-1", **more}


def _names(count: int, length: int) -> tuple[str, ...]:
    return tuple(f"{number:0{length}d}" for number in range(count))


@unhurried
@given(_ANY_JOURNAL)
def test_what_is_written_is_read_back(journal: Journal) -> None:
    assert read(write(journal)) == journal


@unhurried
@given(_ANY_JOURNAL)
def test_what_was_read_and_written_again_is_the_same_text(journal: Journal) -> None:
    text = write(journal)
    again = read(text)
    assert isinstance(again, Journal)
    assert write(again) == text


@unhurried
@given(JOURNALS, st.sampled_from(Phase), st.sampled_from([NOW, float("inf"), float("nan"), -5.0]))
def test_whatever_the_clock_said_the_journal_can_be_read_back(journal: Journal, phase: Phase, at: float) -> None:
    moved = journal.to(phase, at, deadline=at, why="\ud800" + "ü" * 1000, until=at)
    again = read(write(moved))
    assert isinstance(again, Journal)
    assert again.phase is phase
    assert len(again.why) == LONGEST_WORDS


def test_a_deadline_that_never_comes_is_written_as_the_last_time_there_is_and_no_time_as_the_first() -> None:
    written = read(write(a_journal(Phase.TRAINING, until=float("inf"), deadline=float("nan"))))
    assert isinstance(written, Journal)
    assert (written.until, written.deadline) == (99_999_999_999.0, 0.0)


@unhurried
@given(st.text())
def test_no_text_makes_the_reader_fail(text: str) -> None:
    assert isinstance(read(text), Journal | Unreadable)


@unhurried
@given(st.dictionaries(st.sampled_from([*_raw(), "members", "before", "history", "deadline", "turn", "why"]), _JSON))
def test_a_journal_with_any_field_forged_is_read_or_refused_with_words_that_can_be_sent(forged: dict[str, Any]) -> None:
    found = read(json.dumps(_raw(**forged)))
    if isinstance(found, Unreadable):
        assert found.why
        found.why.encode()
        assert len(found.why) <= 200
    else:
        assert read(write(found)) == found


@unhurried
@given(_ANY_JOURNAL, st.data())
def test_a_journal_cut_off_anywhere_is_unreadable(journal: Journal, data: st.DataObject) -> None:
    text = write(journal)
    assert isinstance(read(text[: data.draw(st.integers(0, len(text) - 1))]), Unreadable)


@pytest.mark.parametrize(
    "forged",
    [
        {"v": 2},
        {"v": True},
        {"v": 1.0},
        {"v": None},
        {"v": "\ud800"},
        {"epoch": -1},
        {"epoch": 10**11},
        {"epoch": 10**300},
        {"epoch": True},
        {"epoch": 1.5},
        {"epoch": "3"},
        {"epoch": None},
        {"turn": -1},
        {"turn": "7"},
        {"phase": "Flying"},
        {"phase": None},
        {"phase": ["Serving"]},
        {"phase": "training"},
        {"since": float("nan")},
        {"since": float("inf")},
        {"since": -1},
        {"since": 10**400},
        {"since": "2026-11-25T00:00:00Z"},
        {"since": True},
        {"since": None},
        {"deadline": float("-inf")},
        {"deadline": []},
        {"until": 1e12},
        {"asked": {}},
        {"unit": ""},
        {"unit": None},
        {"unit": 7},
        {"unit": "x" * 254},
        {"unit": "\udfff"},
        {"members": []},
        {"members": "node-1"},
        {"members": [""]},
        {"members": [1]},
        {"members": ["n"] * 257},
        {"why": "x" * 401},
        {"why": "\ud800"},
        {"why": ["night"]},
        {"pool": "p" * 321},
        {"surge": "yes"},
        {"trained": 1},
        {"trained": None},
        {"before": None},
        {"before": []},
        {"before": {"labels": []}},
        {"before": {"labels": {"a": 1}}},
        {"before": {"labels": {"a": "\ud800"}}},
        {"before": {"annotations": {str(number): None for number in range(17)}}},
        {"history": None},
        {"history": [1]},
        {"history": [[NOW]]},
        {"history": [[NOW, "Flying"]]},
        {"history": [[NOW, []]]},
        {"history": [[float("nan"), "Serving"]]},
        {"history": [[NOW, "Serving"]] * 65},
    ],
    ids=lambda forged: str(forged)[:40].encode("ascii", "replace").decode(),
)
def test_a_field_of_another_kind_makes_the_journal_unreadable(forged: dict[str, Any]) -> None:
    found = read(json.dumps(_raw(**forged)))
    assert isinstance(found, Unreadable)
    found.why.encode()


@pytest.mark.parametrize("text", ["", " ", "null", "[]", "7", '"Serving"', "{}", "NaN", "{'v': 1}", "\x00", "{" * 100])
def test_what_is_no_object_is_unreadable(text: str) -> None:
    assert isinstance(read(text), Unreadable)


@pytest.mark.parametrize("depth", [10, 500, 990, 1000, 5000, 20_000])
@pytest.mark.parametrize("field", ["v", "epoch", "phase", "since", "unit", "members", "before", "history", "else"])
def test_nesting_however_deep_does_not_make_the_reader_fail(field: str, depth: int) -> None:
    text = json.dumps(_raw(**{field: "DEEP"})).replace('"DEEP"', "[" * depth + "]" * depth)
    assert isinstance(read(text), Unreadable) or (field == "else" and depth < 1000)


def test_a_text_longer_than_any_journal_is_refused_before_it_is_parsed() -> None:
    found = read(" " * LARGEST + "{}")
    assert isinstance(found, Unreadable)
    assert str(LARGEST) in found.why


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    assert isinstance(read('{"v":1,"epoch":1,"phase":"Serving","unit":"n","since":' + "9" * 20_000 + "}"), Unreadable)


def test_fields_that_are_not_known_do_not_make_a_journal_of_this_version_unreadable() -> None:
    assert isinstance(read(json.dumps(_raw(later="yes"))), Journal)


def _largest() -> Journal:
    """The longest story of a large group with long names."""
    before = Before({f"{'l' * 253}/{number:063d}": "v" * 63 for number in range(2)}, {"a" * 300: "v" * 1000})
    journal = Journal(
        epoch=10**11 - 1,
        phase=Phase.WARMING,
        since=NOW + 0.123,
        unit="u" * 253,
        pool="p" * 320,
        accelerator="a" * 253,
        members=_names(225, 180),
        deadline=NOW,
        until=NOW,
        asked=NOW,
        why="why",
        decision="d" * 64,
        surge=True,
        trained=True,
        queue="q" * 320,
        by="b" * 256,
        cause="canary",
        before=before,
    )
    for number in range(3 * KEPT):
        journal = journal.to(Phase.QUARANTINED, NOW + number + 0.123, why="\x01" * 1000)
    return journal


def test_the_largest_journal_is_read_back_and_leaves_room_below_the_limit_of_annotations() -> None:
    journal = _largest()
    text = write(journal)
    assert read(text) == journal
    assert len(journal.history) == KEPT
    assert len(text) > LARGEST * 0.9, "it is not the largest any more"
    assert 4 * LARGEST <= ANNOTATION_LIMIT_BYTES * 3 / 4
    assert len(text.encode()) <= 4 * LARGEST


def test_words_of_four_bytes_each_do_not_make_a_journal_too_long() -> None:
    journal = a_journal(Phase.TRAINING, why="\U0001f6a2" * LONGEST_WORDS, by="\U0001f6a2" * 256)
    text = write(journal)
    assert read(text) == journal
    assert len(text.encode()) < 4096


@pytest.mark.parametrize(
    "more",
    [
        {"members": _names(256, 253)},
        {"members": _names(257, 8)},
        {"unit": "u" * 254},
        {"queue": "q" * 321},
        {"before": Before({}, {"karpenter.sh/do-not-disrupt": "x" * 100_000})},
    ],
    ids=["names too long", "too many members", "unit", "queue", "annotation of before"],
)
def test_a_plan_that_could_not_be_read_back_is_refused_before_it_is_written(more: dict[str, Any]) -> None:
    with pytest.raises(TooLarge, match="expected at most"):
        write(a_journal(Phase.PLANNED, **more))


@settings(unhurried, max_examples=25)
@given(st.integers(0, 3000), st.integers(1, 256))
def test_a_plan_that_could_be_written_can_be_written_in_every_later_phase(step_: int, count: int) -> None:
    value = "x" * (step_ * 16)
    plan = a_journal(Phase.PLANNED, members=_names(count, 63), before=Before({}, {"a": value}))
    try:
        write(plan)
    except TooLarge:
        return
    journal = replace(plan, decision="d" * 64, by="b" * 256, asked=NOW, trained=True, surge=True, cause="canary")
    for number in range(2 * KEPT):
        journal = journal.to(Phase.QUARANTINED, NOW + number + 0.123, deadline=NOW + 0.123, why="\x01" * 1000)
        assert read(write(journal)) == journal


def test_words_are_cut_to_what_is_read_back() -> None:
    written = read(write(a_journal(Phase.TRAINING, why="y" * 1000, decision="d" * 1000, by="b" * 1000)))
    assert isinstance(written, Journal)
    assert (len(written.why), len(written.decision), len(written.by)) == (LONGEST_WORDS, 64, 256)


def test_two_nodes_tell_the_same_story_whatever_stood_on_each_before() -> None:
    one = a_journal(Phase.TRAINING)
    assert one.same_state(replace(one, epoch=9, before=Before({"a": "b"})))
    assert not one.same_state(replace(one, since=NOW + 1))


@unhurried
@given(JOURNALS, st.sampled_from(Phase), st.floats(-100, 100), st.booleans())
def test_of_two_stories_of_a_unit_the_one_told_last_counts_even_when_the_clock_went_back(
    old: Journal, phase: Phase, seconds: float, swapped: bool
) -> None:
    new = old.to(phase, old.since + seconds)
    assert agreed([new, old] if swapped else [old, new]) == new


def test_a_recall_that_was_hurried_on_one_node_is_hurried_on_all() -> None:
    slow = a_journal(Phase.RECALLING)
    fast = replace(slow, surge=True, deadline=NOW + 30)
    assert agreed([slow, fast]) == agreed([fast, slow]) == fast
