"""Operators that end between any two writes of a flip, out and back; the next one brings it to the same end."""

from __future__ import annotations

from typing import Any

import pytest
from flip_night import Night, is_step
from operator_builders import Crash

from tidefleet.cluster.writes import Write, Written

pytestmark = pytest.mark.cluster

PHASES = ["Planned", "Cordoned", "Draining", "Verifying", "Training", "Recalling", "Reclaiming", "Warming", "Serving"]


def out_and_back(one: Night) -> None:
    """Lend the first node, train on it, and have it serve again because more replicas are wanted."""
    one.begin()
    one.a_job()
    one.until(lambda: one.phase() == "Training" and one.training(), "a job on a node on loan")
    assert not one.serving(0)
    one.ask_for(5)
    one.until(lambda: one.is_clean() and one.ready() == 5 and one.place.settled(), "home again", step=2.0)
    assert not one.training()


class Fate:
    """Ends each operator at the write after `most` others, before it is sent or after it was answered."""

    def __init__(self, one: Night, *, most: int, after: bool) -> None:
        self.most, self.night, self.met = most, one, []
        self._left = 10**6
        if after:
            one.after = lambda write, outcome: self._meet(write) if isinstance(outcome, Written) else None
        else:
            one.before = self._meet
        self._after = after

    def begin(self) -> None:
        """From now on."""
        self._left = self.most

    def _meet(self, write: Write) -> None:
        if not is_step(write):
            return
        if self._left > 0:
            self._left -= 1
            return
        self._left = self.most
        self.met.append(f"{write.kind.kind} {write.reason} {getattr(write, 'body', None)}")
        raise Crash(f"{'after' if self._after else 'before'} {self.met[-1]}")


@pytest.mark.parametrize(("most", "after"), [(1, False), (0, True), (2, False)])
def test_an_operator_that_dies_at_every_write_of_a_flip(night, most, after):
    one = night()
    fate = Fate(one, most=most, after=after)
    one.begin()
    fate.begin()
    one.a_job()
    one.until(lambda: one.phase() == "Training" and one.training(), "a job on a node on loan")
    assert not one.serving(0)
    one.ask_for(5)
    one.until(lambda: one.is_clean() and one.ready() == 5 and one.place.settled(), "home again", step=2.0)
    print("\n".join(one.deaths))
    print(one.watcher.phases, one.watcher.breaches)
    print(one.picture())
    assert one.watcher.breaches == []
