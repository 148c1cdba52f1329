"""Flips as a whole: what holds across the phases of the state machine, and of groups of nodes."""

from __future__ import annotations

from typing import Any

import pytest
from machine_builders import HOUR, NOW, OUTBOUND, TERMS, a_journal, after, lend, what_was_seen

from tidefleet.flipping.machine import step
from tidefleet.flipping.observation import Canary, Observation, Recall, Stay
from tidefleet.flipping.phase import Phase

SURGE = Recall(why="requests wait", surge=True)
MORNING = Recall(why="morning")


@pytest.mark.parametrize("phase", OUTBOUND)
@pytest.mark.parametrize(
    "seen",
    [
        {"wish": MORNING},
        {"wish": SURGE},
        {"wish": Stay()},
        {"present": False},
        {"unhealthy": "XID 79"},
        {"vetoes": ("cordoned",)},
    ],
    ids=str,
)
def test_whatever_speaks_against_it_before_training_rolls_a_flip_back(phase: Phase, seen: dict[str, Any]) -> None:
    result = after(a_journal(phase), **{"routable": 1, "serving_pods": 1, "holders": 1, **seen})
    assert result.journal.phase is Phase.SERVING
    assert result.result == ("called-off" if phase is Phase.PLANNED else "rolled-back")
    assert result.journal.until is None
    assert result.journal.deadline is None


def test_after_a_roll_back_a_unit_dwells() -> None:
    back = after(a_journal(Phase.CORDONED), wish=Stay()).journal
    assert not step(back, what_was_seen(), NOW + TERMS.dwell).changed
    assert step(back, what_was_seen(), NOW + 1 + TERMS.dwell).changed


@pytest.mark.parametrize("phase", [one for one in Phase if one not in (Phase.SERVING, Phase.QUARANTINED)])
def test_a_moving_journal_that_lost_its_deadline_does_not_stand_still_for_ever(phase: Phase) -> None:
    journal = a_journal(phase, deadline=None, until=None)
    assert step(journal, Observation(terms=TERMS), NOW + 1).changed


def test_a_group_that_lost_a_member_on_loan_comes_back_as_far_as_quarantine_and_serves_when_it_is_whole_again() -> None:
    journal = a_journal(Phase.TRAINING, unit="group", members=("node-1", "node-2"))
    lost = {"wish": Stay(), "present": False, "jobs": 0, "holders": 0, "admission_stopped": True}
    now, seen = NOW, []
    while journal.phase is not Phase.QUARANTINED:
        now += 10
        journal = step(journal, what_was_seen(**lost), now).journal
        seen.append(journal.phase)
        assert len(seen) < 100
    assert list(dict.fromkeys(seen)) == [Phase.RECALLING, Phase.RECLAIMING, Phase.QUARANTINED]
    assert journal.members == ("node-1", "node-2")
    assert "gone" in journal.why
    assert not step(journal, what_was_seen(**lost), now + HOUR).changed
    whole = {**lost, "present": True}
    assert step(journal, what_was_seen(**whole), now + HOUR).journal.phase is Phase.VERIFYING


def test_a_whole_flip_goes_through_every_phase_once() -> None:
    journal, now = a_journal(Phase.SERVING, history=()), NOW
    everything = {"routable": 0, "serving_pods": 0, "requests": 0, "holders": 0, "jobs": 0, "admission_stopped": True}
    ready = {"expected": 1, "ready": 1, "canary": Canary.PASSED}
    for wish in [lend()] * 5 + [MORNING] * 4:
        now += 1
        journal = step(journal, what_was_seen(wish=wish, **everything, **ready), now).journal
    went = [phase for _, phase in journal.history]
    assert went == [one for one in Phase if one not in (Phase.SERVING, Phase.QUARANTINED)] + [Phase.SERVING]
    assert journal.turn == 9


def test_nothing_known_never_moves_a_flip_on() -> None:
    """Within its time, a phase with nothing seen stays, in both directions."""
    for phase in (Phase.CORDONED, Phase.DRAINING, Phase.VERIFYING, Phase.TRAINING, *[
        Phase.RECALLING, Phase.RECLAIMING, Phase.WARMING, Phase.QUARANTINED
    ]):  # fmt: skip
        assert not step(a_journal(phase), Observation(wish=lend()), NOW + 1).changed


def test_a_step_that_nothing_has_moved_gives_back_the_very_journal() -> None:
    journal = a_journal(Phase.TRAINING)
    assert step(journal, what_was_seen(), NOW + 1).journal is journal


def test_tainted_and_lent_and_metric_states_are_those_of_the_table() -> None:
    tainted = {one for one in Phase if one.is_tainted}
    assert tainted == set(Phase) - {Phase.SERVING, Phase.PLANNED, Phase.WARMING}
    assert {one for one in Phase if one.is_lent} == {Phase.TRAINING, Phase.RECALLING}
    states = {state: {one for one in Phase if one.metric_state == state} for state in {p.metric_state for p in Phase}}
    assert states == {
        "serving": {Phase.SERVING, Phase.PLANNED},
        "draining": {Phase.CORDONED, Phase.DRAINING, Phase.VERIFYING},
        "training": {Phase.TRAINING},
        "warming": {Phase.RECALLING, Phase.RECLAIMING, Phase.WARMING},
        "quarantined": {Phase.QUARANTINED},
    }
