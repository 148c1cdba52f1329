"""Our bill and OpenCost's, line by line."""

from __future__ import annotations

import math

import pytest

from tidefleet.economics.opencost import TOLERANCE, reconcile


def the_line(ours: float | None, theirs: float | None):
    key = ("prod", "llama-8b")
    (one,) = reconcile(
        {} if ours is None else {key: ours},
        {} if theirs is None else {key: theirs},
    )
    return one


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (10.0, 10.0, "agrees"),
        (10.0, 10.0 * (1 + TOLERANCE), "agrees"),
        (10.0, 10.0 * (1 + TOLERANCE) + 0.02, "differs"),
        (10.0, 10.0 * (1 - TOLERANCE) - 0.02, "differs"),
        (10.0, 0.0, "not-joined"),
        (0.0, 0.0, "agrees"),
        (10.0, None, "only-ours"),
        (None, 10.0, "only-theirs"),
    ],
)
def test_a_model_agrees_within_the_tolerance_and_else_the_line_says_why_not(
    ours: float | None, theirs: float | None, verdict: str
) -> None:
    one = the_line(ours, theirs)
    assert one.verdict == verdict
    assert "llama-8b in prod" in one.words
    assert one.ratio == (theirs / ours if ours and theirs is not None else None)


def test_a_model_is_found_under_its_long_and_its_short_name() -> None:
    (one,) = reconcile({("prod", "Llama-8B"): 5.0}, {("prod", "meta/llama-8b"): 5.0})
    assert (one.model, one.verdict) == ("Llama-8B", "agrees")


def test_names_that_may_be_either_of_two_models_are_left_as_they_are() -> None:
    lines = reconcile({("prod", "m"): 5.0}, {("prod", "a/m"): 5.0, ("prod", "b/m"): 7.0})
    assert [one.verdict for one in lines] == ["only-theirs", "only-theirs", "only-ours"]


def test_a_model_of_another_namespace_is_another() -> None:
    lines = reconcile({("prod", "m"): 5.0}, {("test", "m"): 5.0})
    assert [(one.namespace, one.verdict) for one in lines] == [("prod", "only-ours"), ("test", "only-theirs")]


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_what_is_no_amount_is_refused_by_name(bad: float) -> None:
    with pytest.raises(ValueError, match=r"theirs\[prod/m\]"):
        reconcile({}, {("prod", "m"): bad})
    with pytest.raises(ValueError, match="tolerance"):
        reconcile({}, {}, tolerance=bad)
