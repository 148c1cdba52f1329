"""What was needed in the last day, carried on from status to status."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tidefleet.api.flipping_status import FlippingStatus
from tidefleet.controller.flips.past import needed_before

START = 1_764_000_000.0
SLOT = 900.0


def a_status(needed: list[int], before: list[int] | None = None, start: float = START) -> FlippingStatus:
    at = datetime.fromtimestamp(start, tz=UTC)
    return FlippingStatus(slot_start=at, needed=tuple(needed), needed_before=tuple(before or ()))


def test_a_slot_that_went_by_is_the_last_of_the_past() -> None:
    status = a_status([5, 6, 7], [3, 4])
    assert needed_before(status, START) == [3, 4]
    assert needed_before(status, START + SLOT) == [3, 4, 5]
    assert needed_before(status, START + 3 * SLOT) == [3, 4, 5, 6, 7]


def test_a_day_of_passes_keeps_a_day() -> None:
    status = a_status([0] * 96)
    for slot in range(1, 200):
        at = START + slot * SLOT
        before = needed_before(status, at)
        assert len(before) == min(slot, 96)
        status = a_status([slot] * 96, before, at)
    assert needed_before(status, START + 200 * SLOT) == list(range(104, 200))


def test_a_pass_within_a_slot_adds_nothing() -> None:
    first = a_status([5] * 96, [1, 2])
    again = a_status([9] * 96, needed_before(first, START))
    assert needed_before(again, START + SLOT) == [1, 2, 9]


@pytest.mark.parametrize("at", [None, START - SLOT, START + 200 * SLOT])
def test_what_cannot_be_carried_on_is_not_made_up(at: float | None) -> None:
    assert needed_before(a_status([5] * 96, [1]), at) == []
    assert needed_before(None, at) == []
    assert needed_before(FlippingStatus(), at) == []
