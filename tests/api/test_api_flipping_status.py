"""`status.flipping`: the words of the state machine, room for a whole day."""

from __future__ import annotations

from typing import Any

import pytest
from flipping_objects import START, a_full_status

from tidefleet.api.flipping_status import FlipPhase, FlippingStatus
from tidefleet.flipping.phase import Phase


def test_the_phases_are_those_of_the_state_machine() -> None:
    assert [str(each) for each in FlipPhase] == [str(each) for each in Phase]


def test_a_whole_day_of_64_units_is_read_and_written_back_alike() -> None:
    raw = a_full_status()
    status = FlippingStatus.model_validate(raw)
    assert len(status.units) == 64
    assert status.units[0].history[0].at == START
    assert FlippingStatus.model_validate(status.dump()) == status


@pytest.mark.parametrize(
    "more",
    [
        {"needed": [1] * 97},
        {"units": [{"name": "a", "phase": "Asleep"}]},
        {"units": [{"name": "a", "phase": "Serving"}] * 2},
        {"blocked": [{"why": "w" * 513}]},
        {"slotSeconds": 0},
        {"mode": "Always"},
    ],
)
def test_what_does_not_fit_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        FlippingStatus.model_validate({**a_full_status(), **more})
