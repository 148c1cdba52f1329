"""The lock's rules, against an API server made of one dictionary and a clock moved by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from kubernetes.client import ApiClient

from tidefleet.cluster import lease
from tidefleet.cluster.lease import MAX_EPOCH, Deposed, Leadership
from tidefleet.cluster.transport import Reply, Unreachable


class OneLease:
    """An API server that knows one Lease, with the API server's rules for resourceVersion."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.down = False
        self.lose_answers = 0
        self.puts = 0

    def store(self, body: Mapping[str, Any]) -> Reply:
        self.version += 1
        self.lease = json.loads(json.dumps(body))
        assert self.lease is not None
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        if self.lose_answers:
            self.lose_answers -= 1
            raise Unreachable("the answer was lost")
        return self.reply(200)

    def reply(self, status: int) -> Reply:
        return Reply(status, json.dumps(self.lease or {}).encode())

    def send(self, api: object, method: str, path: str, *, body: Any = None, **_: object) -> Reply:
        if self.down:
            raise Unreachable("refused")
        if method == "GET":
            return self.reply(200) if self.lease is not None else Reply(404, b"{}")
        if method == "POST":
            return self.store(body) if self.lease is None else Reply(409, b"{}")
        self.puts += 1
        if self.lease is None:
            return Reply(404, b"{}")
        if body["metadata"].get("resourceVersion") != self.lease["metadata"]["resourceVersion"]:
            return Reply(409, b"{}")
        return self.store(body)


class Time:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> OneLease:
    server = OneLease()
    monkeypatch.setattr(lease, "send", server.send)
    return server


@pytest.fixture
def time() -> Time:
    return Time()


def a_leadership(time: Time, identity: str = "a") -> Leadership:
    # Nothing is sent (see `server`); the renewing thread is left out by calling _try_acquire, or sleeps for long.
    return Leadership(
        ApiClient(), "ns", "lock", identity, now=time, lease_seconds=150, renew_seconds=100, retry_seconds=20
    )


def test_the_first_holder_has_epoch_one(server: OneLease, time: Time) -> None:
    one = a_leadership(time)
    assert one._try_acquire()
    assert (one.epoch, one.held()) == (1, True)
    one.check()


def test_a_held_lease_is_waited_for_as_long_as_it_lasts(server: OneLease, time: Time) -> None:
    one, other = a_leadership(time, "a"), a_leadership(time, "b")
    assert one._try_acquire()
    assert not other._try_acquire()
    time.seconds += 149
    assert not other._try_acquire()
    time.seconds += 2
    assert other._try_acquire()
    assert other.epoch == 2
    assert not one.held()


def test_a_renewal_seen_by_the_candidate_starts_the_wait_again(server: OneLease, time: Time) -> None:
    one, other = a_leadership(time, "a"), a_leadership(time, "b")
    assert one._try_acquire()
    assert not other._try_acquire()
    time.seconds += 90
    assert one._renew()
    time.seconds += 70
    assert not other._try_acquire()
    assert one.held()


def test_the_holders_wall_clock_does_not_matter(server: OneLease, time: Time) -> None:
    one, other = a_leadership(time, "a"), a_leadership(time, "b")
    assert one._try_acquire()
    assert server.lease is not None
    server.lease["spec"]["renewTime"] = "1999-01-01T00:00:00.000000Z"
    assert not other._try_acquire()


def test_a_paused_holder_stops_before_another_may_take_over(server: OneLease, time: Time) -> None:
    one = a_leadership(time)
    assert one._try_acquire()
    time.seconds += 100
    with pytest.raises(Deposed, match="not renewed for 100 s"):
        one.check()
    assert one.lost.is_set()
    time.seconds -= 100
    assert not one.held(), "deposed is for good"


def test_a_restart_with_a_new_identity_raises_the_epoch(server: OneLease, time: Time) -> None:
    assert a_leadership(time, "a1")._try_acquire()
    again = a_leadership(time, "a2")
    assert not again._try_acquire()
    time.seconds += 151
    assert again._try_acquire()
    assert again.epoch == 2


def test_a_released_lease_is_taken_at_once_with_a_higher_epoch(server: OneLease, time: Time) -> None:
    one = a_leadership(time, "a")
    assert one.acquire(threading.Event())
    one.release()
    assert not one.held()
    assert not one.lost.is_set()
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == ""
    other = a_leadership(time, "b")
    assert other._try_acquire()
    assert other.epoch == 2


def test_acquiring_gives_up_when_stopped(server: OneLease, time: Time) -> None:
    stop = threading.Event()
    stop.set()
    assert not a_leadership(time).acquire(stop)


def test_an_unreachable_server_costs_the_lease_only_after_the_deadline(server: OneLease, time: Time) -> None:
    one = a_leadership(time)
    assert one._try_acquire()
    server.down = True
    time.seconds += 99
    assert not one._renew()
    assert one.held()
    server.down = False
    assert one._renew()
    time.seconds += 99
    assert one.held()


def test_a_stranger_who_edits_labels_does_not_depose(server: OneLease, time: Time) -> None:
    one = a_leadership(time)
    assert one._try_acquire()
    assert server.lease is not None
    server.store({**server.lease, "metadata": {"labels": {"x": "y"}}})
    assert one._renew()
    assert server.lease["metadata"]["labels"] == {"x": "y"}


def test_a_lost_answer_of_a_renewal_does_not_depose(server: OneLease, time: Time) -> None:
    one = a_leadership(time)
    assert one._try_acquire()
    server.lose_answers = 1
    assert not one._renew()
    assert one._renew()
    assert one.held()


def test_another_holder_or_a_deleted_lease_deposes_at_once(server: OneLease, time: Time) -> None:
    one = a_leadership(time)
    assert one._try_acquire()
    assert server.lease is not None
    server.store({**server.lease, "spec": {**server.lease["spec"], "holderIdentity": "b", "leaseTransitions": 2}})
    assert not one._renew()
    assert one.lost_because == "the Lease is held by b"
    other = a_leadership(time, "c")
    server.lease = None
    assert other._try_acquire()
    server.lease = None
    assert not other._renew()
    assert other.lost_because == "the Lease was deleted"


def test_the_epoch_rises_above_every_journal_and_is_stored(server: OneLease, time: Time) -> None:
    one = a_leadership(time)
    assert one._try_acquire()
    assert one.raise_epoch([4, 41, 7]) == 42
    assert (one.epoch, one.effective_epoch) == (42, 42)
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 42
    time.seconds += 200
    other = a_leadership(time, "b")
    other._try_acquire()
    time.seconds += 200
    assert other._try_acquire()
    assert other.epoch == 43
    assert other.raise_epoch(0) == 44


def test_the_epoch_survives_a_lost_answer(server: OneLease, time: Time) -> None:
    one = a_leadership(time)
    assert one._try_acquire()
    server.lose_answers = 1
    assert one.raise_epoch(9) == 10
    assert one._renew()
    assert one.epoch == 10


def test_raising_the_epoch_of_a_lease_that_is_not_ours_is_refused(server: OneLease, time: Time) -> None:
    one = a_leadership(time)
    with pytest.raises(Deposed, match="is not held by a"):
        one.raise_epoch(3)


def test_a_higher_epoch_on_an_object_deposes(server: OneLease, time: Time) -> None:
    one = a_leadership(time)
    assert one._try_acquire()
    one.observe_epoch(1)
    assert one.held()
    one.observe_epoch(2)
    with pytest.raises(Deposed, match="epoch 2 was seen on an object; ours is 1"):
        one.check()


def test_a_forged_epoch_is_not_believed(server: OneLease, time: Time) -> None:
    one = a_leadership(time)
    assert one._try_acquire()
    one.observe_epoch(10**18)
    assert one.held()
    assert one.raise_epoch([10**18, MAX_EPOCH + 1, 3]) == 4


@pytest.mark.parametrize("spec", [{}, {"holderIdentity": None}, {"holderIdentity": "", "leaseTransitions": -3}])
def test_a_lease_made_by_someone_else_is_taken_over(server: OneLease, time: Time, spec: dict[str, Any]) -> None:
    server.store({"metadata": {"name": "lock"}, "spec": spec})
    one = a_leadership(time)
    assert one._try_acquire()
    assert one.epoch >= 1


def test_impossible_times_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 < retry < renew < lease"):
        Leadership(ApiClient(), "ns", "lock", "a", lease_seconds=10, renew_seconds=10)
    with pytest.raises(ValueError, match="identity is empty"):
        Leadership(ApiClient(), "ns", "lock", "")
