"""Two processes and one Lease, on a real API server: who writes, and who has stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiClient

import tidefleet
from localcluster.cluster import Cluster
from tidefleet.cluster.connection import connect
from tidefleet.cluster.kinds import CONFIG_MAP, LEASE
from tidefleet.cluster.lease import Deposed, Leadership, unique_identity
from tidefleet.cluster.objects import Objects
from tidefleet.cluster.writes import Create, Fenced, Writer, Written

pytestmark = pytest.mark.cluster
QUICK: dict[str, float] = {"lease_seconds": 3.0, "renew_seconds": 2.0, "retry_seconds": 0.3}


@pytest.fixture
def api(cluster: Cluster) -> Iterator[ApiClient]:
    client = connect(str(cluster.kubeconfig))
    yield client
    client.close()


def until(probe: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Return what `probe` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := probe()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return value


def a_leadership(api: ApiClient, namespace: str, identity: str) -> Leadership:
    return Leadership(api, namespace, "tidefleet", identity, **QUICK)


def a_config_map(namespace: str, name: str) -> Create:
    body = {"metadata": {"namespace": namespace, "name": name}}
    return Create(kind=CONFIG_MAP, body=body, reason="a test", decision_id="d")


def test_a_second_process_waits_and_takes_over_when_the_first_stops_renewing(api: ApiClient, namespace: str) -> None:
    first, second = a_leadership(api, namespace, "first"), a_leadership(api, namespace, "second")
    assert first.acquire(threading.Event())
    assert first.epoch == 1
    stop, taken = threading.Event(), threading.Event()
    waiting = threading.Thread(target=lambda: second.acquire(stop) and taken.set())
    waiting.start()
    assert not taken.wait(QUICK["lease_seconds"] + 1.0), "the first renews"
    assert first.held()
    first._stop.set()  # its renewing thread dies, as in a process that hangs
    assert taken.wait(20.0)
    waiting.join()
    assert second.epoch == 2
    assert not first.held()
    assert first.lost.is_set()
    second.release()


def test_a_released_lease_is_taken_within_a_moment(api: ApiClient, namespace: str) -> None:
    epochs = []
    for identity in ("a", "b", "a"):
        leadership = a_leadership(api, namespace, identity)
        began = time.monotonic()
        assert leadership.acquire(threading.Event())
        assert time.monotonic() - began < QUICK["lease_seconds"]
        epochs.append(leadership.epoch)
        leadership.release()
    assert epochs == [1, 2, 3]


def test_the_epoch_is_raised_above_the_journals_and_stored_in_the_lease(api: ApiClient, namespace: str) -> None:
    leadership = a_leadership(api, namespace, unique_identity())
    assert leadership.acquire(threading.Event())
    assert leadership.raise_epoch([17, 5]) == 18
    lease = Objects(api).get(LEASE, namespace, "tidefleet")
    assert lease is not None
    assert lease["spec"]["leaseTransitions"] == 18
    time.sleep(1.0)
    assert leadership.held(), "the renewals go on with it"
    leadership.release()
    after = a_leadership(api, namespace, unique_identity())
    assert after.acquire(threading.Event())
    assert after.epoch == 19
    after.release()


def test_a_deleted_lease_deposes_its_holder(cluster: Cluster, api: ApiClient, namespace: str) -> None:
    leadership = a_leadership(api, namespace, "a")
    assert leadership.acquire(threading.Event())
    cluster.api().delete(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/tidefleet")
    assert leadership.lost.wait(10.0)
    with pytest.raises(Deposed, match="the Lease was deleted"):
        leadership.check()


def test_of_many_candidates_one_leads_at_a_time(api: ApiClient, namespace: str) -> None:
    """Ten candidates take turns; two never hold the lock at once and no epoch is seen twice."""
    stop, lock = threading.Event(), threading.Lock()
    holders: list[str] = []
    epochs: list[int] = []
    overlaps: list[list[str]] = []

    def run(identity: str) -> None:
        leadership = a_leadership(api, namespace, identity)
        if not leadership.acquire(stop):
            return
        with lock:
            holders.append(identity)
            epochs.append(leadership.epoch)
            if len(holders) > 1:
                overlaps.append(list(holders))
        time.sleep(0.1)
        with lock:
            holders.remove(identity)
        leadership.release()

    threads = [threading.Thread(target=run, args=(f"c{number}",)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    stop.set()
    assert overlaps == []
    assert sorted(epochs) == list(range(1, 11))


PROCESS = """
    import sys, threading, time
    from tidefleet.cluster.connection import connect
    from tidefleet.cluster.kinds import CONFIG_MAP
    from tidefleet.cluster.lease import Leadership
    from tidefleet.cluster.writes import Create, Writer
    kubeconfig, namespace = sys.argv[1:]
    api = connect(kubeconfig)
    leadership = Leadership(api, namespace, "tidefleet", "child", lease_seconds=3, renew_seconds=2, retry_seconds=0.3)
    leadership.acquire(threading.Event())
    writer = Writer(api, leadership)
    for number in range(10_000):
        body = {"metadata": {"namespace": namespace, "name": f"child-{number}"}}
        outcome = writer.execute(Create(kind=CONFIG_MAP, body=body, reason="r", decision_id="d"))
        print(type(outcome).__name__, flush=True)
        if type(outcome).__name__ == "Fenced":
            break
        time.sleep(0.02)
"""


def test_a_process_stopped_and_continued_writes_nothing_after_another_took_over(
    cluster: Cluster, api: ApiClient, namespace: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(tidefleet.__file__).parents[1])}
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROCESS), str(cluster.kubeconfig), namespace],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert child.stdout is not None
        for _ in range(5):
            assert child.stdout.readline() == "Written\n"
        os.kill(child.pid, signal.SIGSTOP)
        ours = a_leadership(api, namespace, "ours")
        assert ours.acquire(threading.Event())
        assert ours.epoch == 2
        assert isinstance(Writer(api, ours).execute(a_config_map(namespace, "ours")), Written)
        os.kill(child.pid, signal.SIGCONT)
        rest, _ = child.communicate(timeout=20)
        outcomes = rest.split()
        assert outcomes[-1] == "Fenced"
        # What it had sent when it was stopped may be answered now; nothing was begun afterwards.
        written_late = [
            one["metadata"]["name"]
            for one in Objects(api).list(CONFIG_MAP, namespace)
            if one["metadata"]["name"].startswith("child-")
            and int(one["metadata"]["resourceVersion"]) > lease_version(api, namespace)
        ]
        assert len(written_late) <= 1
        ours.release()
    finally:
        child.kill()
        child.wait()


def lease_version(api: ApiClient, namespace: str) -> int:
    """Return the resourceVersion of the object that the new leader wrote first."""
    found = Objects(api).get(CONFIG_MAP, namespace, "ours")
    assert found is not None
    return int(found["metadata"]["resourceVersion"])


def test_an_api_server_away_for_less_than_the_deadline_costs_nothing(
    cluster: Cluster, api: ApiClient, namespace: str
) -> None:
    if not hasattr(cluster, "pause"):
        pytest.skip("this cluster's API server is not ours to stop")
    leadership = Leadership(api, namespace, "tidefleet", "a", lease_seconds=12, renew_seconds=9, retry_seconds=0.5)
    assert leadership.acquire(threading.Event())
    cluster.pause("kube-apiserver")
    try:
        time.sleep(3.0)
        assert leadership.held()
    finally:
        cluster.resume("kube-apiserver")
    time.sleep(9.5)
    assert leadership.held(), leadership.lost_because
    leadership.release()


def test_an_api_server_away_for_longer_deposes(cluster: Cluster, api: ApiClient, namespace: str) -> None:
    if not hasattr(cluster, "pause"):
        pytest.skip("this cluster's API server is not ours to stop")
    leadership = a_leadership(api, namespace, "a")
    assert leadership.acquire(threading.Event())
    cluster.pause("kube-apiserver")
    try:
        assert leadership.lost.wait(20.0)
        assert isinstance(Writer(api, leadership).execute(a_config_map(namespace, "x")), Fenced)
    finally:
        cluster.resume("kube-apiserver")
    until(lambda: cluster.api().is_ok("/readyz"))
