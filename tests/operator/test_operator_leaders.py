"""Operator processes with the chart's account: one leads, the next one takes over, and a stale one writes nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from operator_builders import (
    ACCELERATOR_TYPE,
    DEPLOYMENT,
    INFERENCE_POOL,
    WORKLOAD_CLASS,
    Place,
    RealOperator,
    a_class,
    a_pool,
    a_template,
    a_workload,
    adopting,
    an_accelerator,
    eventually,
)

pytestmark = [pytest.mark.cluster, pytest.mark.chart]

Start = Callable[..., RealOperator]


def epochs(place: Place, pool: str = "chat") -> set[int]:
    """Epochs of the leaders that last wrote a pool's Deployments."""
    return {int(one["metadata"]["annotations"]["tidefleet.io/epoch"]) for one in place.deployments(pool).values()}


def demand(place: Place, rate: float, pool: str = "chat") -> None:
    """Declare another rate."""
    place.set_spec(WORKLOAD_CLASS, pool, demand={"requestsPerSecond": f"{rate:g}"})


def total(place: Place, pool: str = "chat") -> int:
    """Replicas asked for."""
    return sum(place.replicas(pool).values())


def leader(*operators: RealOperator) -> RealOperator:
    """The one that leads."""
    return eventually(lambda: next((one for one in operators if one.exit_code is None and one.leads), None), "a leader")


def test_the_charts_account_may_do_all_that_an_operator_does(place, real_operator: Start):
    place.create(a_workload("mine", 1))
    place.create(a_pool(deletionPolicy="Delete"), a_class(rate=2))
    place.create(
        a_pool("adopter", serving=adopting(("mine", "l40s")), accelerators=None, deletionPolicy="Restore",
               replicas={"min": 2, "max": 4}),
        a_class("adopter"),
    )  # fmt: skip
    mine = place.unique("mine")
    place.create(an_accelerator(mine, "1350"))
    one = real_operator()
    eventually(lambda: place.settled() and place.settled("adopter"))
    demand(place, 9)
    eventually(lambda: total(place) > 1 and place.settled())
    serving = {"template": a_template("--seed=3"), "engine": {"type": "VLLM", "port": 8000}}
    place.set_spec(INFERENCE_POOL, "chat", serving=serving)
    eventually(lambda: all("--seed=3" in str(each["spec"]) for each in place.deployments().values()))
    eventually(lambda: place.get(ACCELERATOR_TYPE, mine)["status"]["conditions"])
    for name in ("chat", "adopter"):
        place.delete(INFERENCE_POOL, name)
    eventually(lambda: not place.list(INFERENCE_POOL) and not place.deployments())
    assert place.get(DEPLOYMENT, "mine")["spec"]["replicas"] == 1
    assert place.events("Scaled")

    page = one.get("/metrics")[1]
    assert 'outcome="Denied"' not in page
    assert not [line for line in page.splitlines() if line.startswith("tidefleet_reconcile_errors_total{")]
    one.end()
    ours = [line for line in one.lines() if line["logger"].startswith("tidefleet")]
    assert [line for line in ours if line["level"] in ("warning", "error")] == []


def test_a_follower_takes_over_from_a_leader_that_was_killed(place, real_operator: Start):
    place.create(a_pool(accelerators=[{"type": "l40s"}]), a_class())
    pair = [real_operator(), real_operator()]
    first = leader(*pair)
    (second,) = [one for one in pair if one is not first]
    eventually(lambda: place.settled())
    assert not second.leads
    (epoch,) = epochs(place)

    first.send(signal.SIGKILL)
    leader(second)
    demand(place, 9)
    eventually(lambda: total(place) > 1)
    assert min(epochs(place)) > epoch
    eventually(lambda: place.settled())
    assert place.status()["decisionId"].startswith(f"e{max(epochs(place))}-")


def test_a_leader_that_slept_through_its_lease_writes_nothing_when_it_wakes(place, real_operator: Start):
    place.create(a_pool(accelerators=[{"type": "l40s"}]), a_class())
    first = real_operator()
    leader(first)
    eventually(lambda: place.settled())
    (epoch,) = epochs(place)
    first.send(signal.SIGSTOP)
    second = real_operator()
    leader(second)
    eventually(lambda: min(epochs(place)) > epoch)
    (newer,) = epochs(place)
    demand(place, 9)
    eventually(lambda: total(place) > 1 and place.settled())
    settled = place.replicas()
    told = len(first.logged("decision"))

    demand(place, 20)
    first.send(signal.SIGCONT)
    eventually(lambda: first.exit_code is not None, "the old leader ends")
    assert first.exit_code == 1
    assert first.logged("stopped leading") or first.logged("deposed")
    assert len(first.logged("decision")) == told
    eventually(lambda: total(place) > sum(settled.values()) and place.settled())
    assert epochs(place) == {newer}
    assert place.status()["decisionId"].startswith(f"e{newer}-")
    assert second.exit_code is None


def test_a_leader_that_is_told_to_end_hands_over_at_once(place, real_operator: Start):
    place.create(a_pool(accelerators=[{"type": "l40s"}]), a_class())
    pair = [real_operator(), real_operator()]
    first = leader(*pair)
    eventually(lambda: place.settled())
    first.send(signal.SIGTERM)
    eventually(lambda: first.exit_code is not None)
    assert first.exit_code == 0
    leader(*(one for one in pair if one is not first))
    demand(place, 9)
    eventually(lambda: total(place) > 1)


@pytest.mark.long
def test_an_operator_killed_in_any_kind_of_step_is_succeeded(place, real_operator: Start, released):
    """SIGKILL right after the first trace of each kind of step, and a successor that brings it to its end.

    The Lease is deleted each time, so that nobody waits for it; the successor's epoch is the higher one all the same.
    """
    one, other = place.unique("one"), place.unique("other")
    place.create(an_accelerator(one, "2.00"), an_accelerator(other, "3.00"))

    def die(operator: RealOperator) -> RealOperator:
        operator.send(signal.SIGKILL)
        eventually(lambda: operator.exit_code is not None)
        seen = epochs(place)
        place.api.delete(f"/apis/coordination.k8s.io/v1/namespaces/{released.namespace}/leases/tidefleet")
        successor = real_operator()
        eventually(lambda: not seen or not epochs(place) or min(epochs(place)) > max(seen), "a higher epoch")
        return successor

    operator = real_operator()
    leader(operator)
    place.create(a_pool(accelerators=[{"type": one}, {"type": other}], deletionPolicy="Delete"), a_class(rate=8))
    eventually(lambda: place.deployments(), "create", pause=0.002)
    operator = die(operator)
    eventually(lambda: place.settled() and place.ready_replicas() == place.replicas())
    needed = place.replicas()[one]

    demand(place, 16)
    eventually(lambda: total(place) > needed, "scale up", pause=0.002)
    operator = die(operator)
    eventually(lambda: place.settled())
    grown = place.replicas()[one]
    assert grown > needed

    serving = {"template": a_template("--seed=4"), "engine": {"type": "VLLM", "port": 8000}}
    place.set_spec(INFERENCE_POOL, "chat", serving=serving)
    eventually(lambda: "--seed=4" in str(place.deployments()), "template", pause=0.002)
    operator = die(operator)
    eventually(lambda: place.settled())

    place.set_spec(ACCELERATOR_TYPE, one, prices=[{"capacityType": "OnDemand", "usdPerChipHour": "9"}])
    eventually(lambda: place.replicas().get(other), "switch", pause=0.002, seconds=120)
    operator = die(operator)
    eventually(lambda: place.replicas() == {one: 0, other: grown} and place.settled(), seconds=120)

    place.delete(INFERENCE_POOL, "chat")
    eventually(lambda: len(place.deployments()) < 2, "delete", pause=0.002)
    die(operator)
    eventually(lambda: not place.deployments() and place.get(INFERENCE_POOL, "chat") is None)
