"""`step` over everything that can be in a journal and be seen: total, and never outside the table of phases."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from machine_builders import EDGES, HOUR, JOURNALS, NOW, OBSERVATIONS, OUTBOUND, a_journal, lend, unhurried

from tidefleet.flipping.journal import LONGEST_WORDS, Journal, read, write
from tidefleet.flipping.machine import step, wanted
from tidefleet.flipping.observation import Canary, Lend, Observation, Recall, Stay
from tidefleet.flipping.phase import Phase


def _allowed(journal: Journal, seen: Observation, now: float) -> None:
    """What must hold of any step at all."""
    result = step(journal, seen, now)
    end = result.journal
    wanted(journal, seen, now)
    wanted(end, seen, now)
    if end.phase is journal.phase:
        assert end.history == journal.history
        assert result.changed == (end != journal)
        assert not result.result
    else:
        assert end.phase in EDGES[journal.phase], f"{journal.phase} -> {end.phase}"
        assert result.changed
        assert result.words
        assert end.since == now
        assert end.turn == journal.turn + 1
        assert end.history[-1] == (now, end.phase)
        assert len(end.why) <= LONGEST_WORDS
        assert (end.deadline is None) == (end.phase in (Phase.SERVING, Phase.QUARANTINED))
    if end.phase is Phase.PLANNED and journal.phase is Phase.SERVING:
        assert isinstance(seen.wish, Lend)
        assert seen.wish.until > now
        assert seen.present
        assert not seen.unhealthy
        assert not seen.vetoes
    if end.phase is Phase.TRAINING and journal.phase is not Phase.TRAINING:
        assert seen.holders == 0
        assert isinstance(seen.wish, Lend)
        assert seen.wish.until > now
        assert seen.present
        assert seen.capacity_kept is not False
        assert not seen.unhealthy
        assert not seen.vetoes
        assert not journal.trained
        assert not journal.cause
    if end.phase is Phase.WARMING and journal.phase is not Phase.WARMING:
        assert seen.holders is not None
        assert seen.holders <= (seen.serving_pods or 0)
        assert seen.present
        assert not seen.unhealthy
        assert seen.admission_stopped or not journal.trained
    if end.phase is Phase.SERVING and journal.phase is not Phase.SERVING:
        assert (end.trained, end.cause, end.until, end.asked) == (False, "", None, None)
        assert end.surge == (journal.surge or (isinstance(seen.wish, Recall) and seen.wish.surge))
        assert journal.phase in (*OUTBOUND, Phase.WARMING)
        assert not (journal.phase is Phase.VERIFYING and (journal.trained or journal.cause))
        assert result.result in ("done", "rolled-back", "called-off")
    if end.phase is Phase.QUARANTINED and journal.phase is not Phase.QUARANTINED:
        assert end.cause
        assert end.why
    if end.phase is Phase.DRAINING and journal.phase is Phase.CORDONED:
        assert seen.routable == 0
        assert seen.capacity_kept is True
    assert isinstance(read(write(replace(end, unit="node-1"))), Journal)


@settings(unhurried, max_examples=400)
@given(JOURNALS, OBSERVATIONS)
def test_step_is_total_and_keeps_to_the_table_whatever_is_in_the_journal_and_seen(
    journal: Journal, seen: Observation
) -> None:
    for now in (NOW - 7, NOW, NOW + 61, NOW + 10 * HOUR):
        _allowed(journal, seen, now)


COUNTS = (None, 0, 2)
WISHES = (lend(), lend(NOW - 1), Stay(), Recall(why="morning"), Recall(why="requests wait", surge=True))


@pytest.mark.parametrize("phase", Phase)
def test_every_combination_of_what_a_phase_looks_at_is_allowed_by_the_table(phase: Phase) -> None:
    counts = {
        Phase.CORDONED: ("routable", "requests"),
        Phase.DRAINING: ("serving_pods", "requests"),
        Phase.RECALLING: ("jobs", "holders"),
        Phase.WARMING: ("expected", "ready"),
    }.get(phase, ("holders", "jobs"))
    canaries = tuple(Canary) if phase is Phase.WARMING else (Canary.UNKNOWN,)
    kept_or_not = (None, True, False) if phase in OUTBOUND else (None,)
    number = 0
    for wish, present, unhealthy, kept, stopped, flag, canary, one, other in itertools.product(
        WISHES,
        (True, False),
        ("", "XID 79"),
        kept_or_not,
        (True, False),
        (True, False),
        canaries,
        COUNTS,
        COUNTS,
    ):
        seen = Observation(
            wish=wish,
            present=present,
            unhealthy=unhealthy,
            capacity_kept=kept,
            admission_stopped=stopped,
            released=flag,
            awaited=flag,
            vetoes=("cordoned",) if flag else (),
            canary=canary,
            **{counts[0]: one, counts[1]: other},
        )
        for journal in (a_journal(phase), a_journal(phase, trained=True, cause="held")):
            for now in (NOW, NOW + 9 * HOUR):
                _allowed(journal, seen, now)
                number += 1
    assert number == 5 * 2 * 2 * len(kept_or_not) * 2 * 2 * len(canaries) * 9 * 4
