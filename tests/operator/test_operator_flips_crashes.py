"""Operators that end between any two writes of a flip, out and back; the next one brings it to the same end."""

from __future__ import annotations

import pytest
from flip_night import CLAIM, Night, is_step
from operator_builders import Crash

from tidefleet.cluster.writes import Outcome, Write, Written

pytestmark = pytest.mark.cluster

ORDER = ["Planned", "Cordoned", "Draining", "Verifying", "Training", "Recalling", "Reclaiming", "Warming"]


class Fate:
    """Ends each operator at the step after `most` others, before it is sent or after it was carried out.

    With `claims`, of each three operators the second dies before its first write, which claims something, and the
    third before its second.
    """

    def __init__(self, one: Night, *, most: int, after: bool, claims: bool) -> None:
        self.most, self.after, self.claims = most, after, claims
        self._left, self._spared = 10**6, 0
        self._doomed: list[int] = []
        one.before, one.after = self._before, self._after

    def begin(self) -> None:
        """From now on."""
        self._left = self.most

    def _before(self, write: Write) -> None:
        if self._doomed and write.reason == CLAIM:
            if not self._spared:
                self._doomed.pop(0)
                self._spared = self._doomed[0] if self._doomed else 0
                raise Crash(f"before it claimed {write.kind.kind}")
            self._spared -= 1
        if is_step(write) and not self._left and not self.after:
            self._end("before", write)

    def _after(self, write: Write, outcome: Outcome) -> None:
        if not is_step(write) or not isinstance(outcome, Written):
            return
        if self.after and not self._left:
            self._end("after", write)
        self._left -= 1

    def _end(self, when: str, write: Write) -> None:
        self._left, self._spared = self.most, 0
        self._doomed = [0, 1] if self.claims else []
        raise Crash(f"{when} {write.kind.kind}: {write.reason}")


@pytest.mark.parametrize(
    ("most", "after", "claims"),
    [
        pytest.param(10**6, False, False, id="never"),
        pytest.param(1, False, False, id="before each write"),
        pytest.param(0, True, False, id="after each write"),
        pytest.param(2, False, True, id="before each second write and each claim"),
    ],
)
def test_an_operator_that_dies_at_any_write_of_a_flip_is_succeeded_to_the_same_end(night, most, after, claims):
    """One node goes out with a replica to be replaced, a job trains on it, and it comes back for more replicas."""
    one = night()
    fate = Fate(one, most=most, after=after, claims=claims)
    one.begin()
    before = one.picture()
    one.a_job()
    fate.begin()
    one.until(lambda: one.phase() == "Training" and one.training(), "a job on a node on loan")
    assert not one.serving(0)
    one.ask_for(5)
    one.until(lambda: one.is_clean() and one.ready() == 5 and one.place.settled(), "home again", step=2.0)

    first, second = before["nodes"]
    name = first["name"]
    story = {"phase": "Serving", "unit": name, "pool": f"{one.place.namespace}/chat"}
    assert one.picture() == {
        "nodes": [{**first, "story": story, "labels": {**first["labels"], "tidefleet.io/duty": "serving"}}, second],
        "pods": before["pods"][:1] * 5,
        "jobs": {"train": True},
        "replicas": [5],
        "ready": 5,
    }
    assert before["pods"][0] == ("true", None, None)
    assert one.serving(0)
    assert not one.training()
    assert one.watcher.breaches == []
    assert one.watcher.phases[name] == ["Serving", *ORDER, "Serving"]
    if most < 2:
        assert set(ORDER) <= set(one.died_in), one.deaths
