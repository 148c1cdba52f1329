"""An operator that ends between any two writes, and the next one that comes to the same state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from operator_builders import (
    ACCELERATOR_TYPE,
    DEPLOYMENT,
    INFERENCE_POOL,
    MODEL,
    WORKLOAD_CLASS,
    Crash,
    Place,
    a_class,
    a_pool,
    a_template,
    a_workload,
    adopting,
    an_accelerator,
    eventually,
)

from tidefleet import catalogue
from tidefleet.api import WorkloadClass
from tidefleet.api.validation import parse
from tidefleet.cluster.kinds import PDB
from tidefleet.cluster.writes import Write
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.planning.from_api import accelerator_of, objectives_of, shape_of
from tidefleet.planning.options import PLANNING_UTILISATION

pytestmark = pytest.mark.cluster

POOL = "chat"
MOST_WRITES = 40


@dataclass(frozen=True)
class Scenario:
    """How a pool is before, what changes, and what the cluster looks like once that is carried out."""

    before: Callable[[Place], None]
    change: Callable[[Place], None]
    done: Callable[[Place], bool]
    step: float = 0.0


def grown(place: Place) -> bool:
    """Settled on more than one replica."""
    return place.settled(POOL) and sum(place.replicas(POOL).values()) > 1


def two_prices(one: str, other: str) -> Callable[[Place], None]:
    """Set the prices of the two types that differ in nothing else."""

    def write(place: Place) -> None:
        for name, price in ((place.unique("one"), one), (place.unique("other"), other)):
            prices = [{"capacityType": "OnDemand", "usdPerChipHour": price}]
            if place.get(ACCELERATOR_TYPE, name) is None:
                place.create(an_accelerator(name, price))
            place.set_spec(ACCELERATOR_TYPE, name, prices=prices)

    return write


def on_two_types(place: Place) -> None:
    """A pool on the first of two types."""
    two_prices("2.00", "3.00")(place)
    place.create(
        a_pool(POOL, accelerators=[{"type": place.unique(name)} for name in ("one", "other")]), a_class(POOL, rate=8)
    )


def retemplated(place: Place) -> None:
    """Another template."""
    serving = {"template": a_template("--seed=5"), "engine": {"type": "VLLM", "port": 8000}}
    place.set_spec(INFERENCE_POOL, POOL, serving=serving)


def adopt(place: Place) -> None:
    """A pool that has scaled an adopted Deployment from one to three."""
    place.create(a_workload("mine", 1))
    place.create(
        a_pool(POOL, serving=adopting(("mine", "l40s")), accelerators=None, replicas={"min": 3, "max": 4},
               deletionPolicy="Restore"),
        a_class(POOL),
    )  # fmt: skip


def scaled(place: Place, replicas: int) -> bool:
    """Whether the adopted Deployment is asked for so many replicas."""
    return place.get(DEPLOYMENT, "mine")["spec"]["replicas"] == replicas


SCENARIOS = {
    "create": Scenario(
        before=lambda place: None,
        change=lambda place: place.create(a_pool(POOL, deletionPolicy="Delete"), a_class(POOL, rate=40)),
        done=grown,
    ),
    "scale up": Scenario(
        before=lambda place: place.create(a_pool(POOL, accelerators=[{"type": "l40s"}]), a_class(POOL)),
        change=lambda place: place.set_spec(WORKLOAD_CLASS, POOL, demand={"requestsPerSecond": "9"}),
        done=grown,
    ),
    "change the template": Scenario(
        before=lambda place: place.create(a_pool(POOL), a_class(POOL, rate=40)),
        change=retemplated,
        done=lambda place: (
            place.settled(POOL)
            and all("--seed=5" in str(one["spec"]["template"]) for one in place.deployments(POOL).values())
        ),
    ),
    "switch accelerators": Scenario(
        before=on_two_types,
        change=two_prices("9.00", "3.00"),
        done=lambda place: place.settled(POOL) and place.replicas(POOL).get(place.unique("one")) == 0,
        step=50.0,
    ),
    "delete": Scenario(
        before=lambda place: place.create(a_pool(POOL, deletionPolicy="Delete"), a_class(POOL, rate=40)),
        change=lambda place: place.delete(INFERENCE_POOL, POOL),
        done=lambda place: place.get(INFERENCE_POOL, POOL) is None and not place.deployments(POOL),
    ),
    "adopt": Scenario(
        before=lambda place: None,
        change=adopt,
        done=lambda place: scaled(place, 3) and place.settled(POOL),
    ),
    "restore": Scenario(
        before=adopt,
        change=lambda place: place.delete(INFERENCE_POOL, POOL),
        done=lambda place: place.get(INFERENCE_POOL, POOL) is None and scaled(place, 1),
    ),
}


def picture(place: Place) -> dict[str, Any]:
    """What must be the same however often the operator died."""
    pool = place.get(INFERENCE_POOL, POOL)
    marks = ("tidefleet.io/epoch", "tidefleet.io/decision-id", "deployment.kubernetes.io/revision")
    return {
        "pool": pool and (pool["metadata"].get("finalizers"), pool["status"]["accelerators"]),
        "plan": pool and [{**one, "ready": 0} for one in pool["status"]["plan"]["options"]],
        "budgets": [one["metadata"]["name"] for one in place.list(PDB)],
        "deployments": {
            one["metadata"]["name"]: (
                one["spec"],
                {
                    key: value if "adopted" not in key else value.rsplit(",", 1)[1]
                    for key, value in one["metadata"].get("annotations", {}).items()
                    if key not in marks
                },
            )
            for one in place.list(DEPLOYMENT)
        },
    }


def wipe(place: Place) -> None:
    """Take everything away, to begin again in the same namespace."""
    place.clean(accelerators=False)
    place.api.delete(place.path(WORKLOAD_CLASS))
    place.api.delete(place.path(PDB))
    eventually(lambda: not (place.list(DEPLOYMENT) or place.list(INFERENCE_POOL) or place.list(PDB)))


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_operator_that_dies_before_any_write_is_succeeded_to_the_same_state(place, operator_in_process, name):
    scenario = SCENARIOS[name]
    count, fatal = 0, 0

    def before_write(write: Write) -> None:
        """Die at the write whose turn it is; writes about things outside the namespace are not counted."""
        nonlocal count
        if fatal and write.namespace:
            count += 1
            if count == fatal:
                raise Crash(f"before write {count}: {write.kind.kind} {write.name}")

    op = operator_in_process(before_write=before_write)
    expected: dict[str, Any] = {}
    for turn in range(MOST_WRITES):  # the first turn is undisturbed
        scenario.before(place)
        if place.list(INFERENCE_POOL):
            op.settle(POOL)
            op.advance(1000 if scenario.step else 0)
        count, fatal = 0, turn
        scenario.change(place)
        op.until(lambda: not op.alive or scenario.done(place), f"{name}, write {turn}", step=scenario.step)
        survived = op.alive
        fatal = 0
        if survived:
            op.advance(100)
            expected = expected or picture(place)
            op.until(lambda: picture(place) == expected)
        else:
            assert isinstance(op.died, Crash), op.died
            why = str(op.died)
            op = operator_in_process(before_write=before_write)
            op.until(lambda: scenario.done(place) and picture(place) == expected, f"{name} {why}", step=scenario.step)
        if turn and survived:
            assert turn > 1, "the scenario writes nothing"
            return
        wipe(place)
        op.advance()
    raise AssertionError(f"more than {MOST_WRITES} writes")


def covered(accelerator: str) -> float:
    """Requests per second that plans let one replica of one chip carry, of the class that `a_class` makes."""
    kind = catalogue.accelerator_types()[accelerator]
    wanted = parse({"apiVersion": WORKLOAD_CLASS.group_version, **a_class(POOL)})
    assert isinstance(wanted, WorkloadClass)
    replica = Replica(catalogue.models()[MODEL], accelerator_of(kind), 1, "Bf16", "Bf16", engine="vllm")
    found = estimate(replica, shape_of(wanted), objectives_of(wanted))
    assert isinstance(found, Estimate)
    return found.planned_requests_per_second * PLANNING_UTILISATION


@pytest.mark.parametrize("made", [1, 2])
def test_a_first_plan_of_two_kinds_of_accelerator_is_completed_at_once(place, operator_in_process, made):
    """The operator dies before it makes the second Deployment, and before it says so of both."""
    died: list[str] = []

    def before_write(write: Write) -> None:
        deployments = len(place.list(DEPLOYMENT))
        if not died and deployments == made and write.kind in (DEPLOYMENT, INFERENCE_POOL):
            died.append(f"with {deployments} Deployments: {write.kind.kind} {write.name}")
            raise Crash(died[0])

    big, small = place.unique("big"), place.unique("small")
    much, little = covered("h100-sxm"), covered("l40s")
    rate = much + little / 2.0
    price = 1.2 * 4.0 / (math.ceil(rate / little) - 1)  # one of each is cheaper than small ones alone, or two big ones
    assert price < 4.0 < much / little * price
    place.create(an_accelerator(big, "4.00", like="h100-sxm"), an_accelerator(small, f"{price:.3f}", like="l40s"))
    accelerators = [{"type": one, "tensorParallel": [1]} for one in (big, small)]
    place.create(a_pool(POOL, accelerators=accelerators), a_class(POOL, rate=rate))
    op = operator_in_process(before_write=before_write)
    op.until(lambda: not op.alive)
    assert len(place.list(DEPLOYMENT)) == made

    op = operator_in_process(before_write=before_write)
    began = op.clock.now()
    op.settle(POOL)
    assert op.clock.now() == began
    assert died
    assert place.replicas(POOL) == {big: 1, small: 1}
