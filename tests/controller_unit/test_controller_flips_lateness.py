"""When first tokens come too late: two readings running above the loosest objective, of requests enough to tell."""

from __future__ import annotations

from typing import Any

import pytest
from controller_builders import NOW, a_class, a_view

from tidefleet.controller.flips.lateness import Lateness, bound_seconds
from tidefleet.controller.view import PoolView
from tidefleet.planning.demand import Empty, Known, Reading

KEY = ("prod", "chat")
CHAT = a_class("chat", objectives=[{"metric": "TTFT", "milliseconds": 500}])
LONG = a_class("long", objectives=[{"metric": "TTFT", "milliseconds": 1000, "perThousandInputTokensMilliseconds": 200}])


def seen(reading: Reading | None, *classes: Any) -> PoolView:
    return a_view(reading=reading, classes=classes or (CHAT,))


def waited(at: float, seconds: float | None, requests: float = 20.0) -> Known:
    return Known(NOW + at, 2.0, "Engines", first_token_seconds=seconds, first_tokens=requests)


def told(*readings: Reading) -> list[bool]:
    lateness = Lateness()
    return [KEY in lateness.note([seen(reading)], fresh_seconds=60.0) for reading in readings]


def test_one_reading_that_misses_is_none_and_the_second_running_is() -> None:
    assert told(waited(1, 0.9), waited(2, 0.9), waited(3, 0.4), waited(4, 0.9), waited(5, 0.9)) == [
        False, True, False, False, True,
    ]  # fmt: skip


def test_a_reading_that_is_seen_again_counts_once() -> None:
    assert told(waited(1, 0.9), waited(1, 0.9), waited(1, 0.9)) == [False, False, False]


def test_a_handful_of_requests_tells_nothing_and_changes_nothing() -> None:
    assert told(waited(1, 9.0, 4), waited(2, 9.0, 4), waited(3, 9.0, 4)) == [False, False, False]
    assert told(waited(1, 0.9), waited(2, 0.1, 1), waited(3, 0.9)) == [False, False, True]


@pytest.mark.parametrize(
    "reading", [Empty(NOW + 2, "Engines", "no ready pod"), waited(2, None)], ids=["gap", "not-told"]
)
def test_a_gap_is_not_late(reading: Reading) -> None:
    assert told(waited(1, 0.9), reading, waited(3, 0.9)) == [False, False, False]


def test_the_loosest_objective_counts_with_what_it_grants_long_prompts() -> None:
    assert bound_seconds(seen(None, CHAT)) == pytest.approx(0.5)
    assert bound_seconds(seen(None, CHAT, LONG)) == pytest.approx(1.2)
    assert bound_seconds(seen(None, a_class())) is None


def test_the_words_name_the_pool_what_was_measured_and_the_bound() -> None:
    lateness = Lateness()
    for at in (1.0, 2.0):
        words = lateness.note([seen(waited(at, 0.9))], fresh_seconds=60.0)
    assert words == {KEY: "InferencePool prod/chat: first tokens take 0.9 s on average; expected at most 0.5 s"}


def test_readings_that_have_grown_old_are_not_late() -> None:
    assert told(waited(1, 0.9), waited(2, 0.9)) == [False, True]
    assert told(waited(-99, 0.9), waited(-98, 0.9), waited(-98, 0.9)) == [False, True, False]
