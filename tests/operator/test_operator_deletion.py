"""What becomes of workloads when their pool is deleted, and of the finalizer that this takes."""

from __future__ import annotations

import pytest
from operator_builders import (
    DEPLOYMENT,
    FLEET,
    INFERENCE_POOL,
    STATEFUL_SET,
    WORKLOAD_CLASS,
    Place,
    a_class,
    a_pool,
    a_workload,
    adopting,
    tidefleet,
)

pytestmark = pytest.mark.cluster

OURS = "tidefleet.io/pool"


def finalizers(place: Place, pool: str = "chat") -> list[str]:
    """The pool's finalizers."""
    return place.pool(pool)["metadata"].get("finalizers", [])


def gone(place: Place, pool: str = "chat") -> bool:
    """Whether the pool is no more."""
    return place.get(INFERENCE_POOL, pool) is None


def kept(place: Place, pool: str = "chat") -> dict[str, tuple[str, int]]:
    """Uid and replicas of a pool's own Deployments, by name."""
    return {
        one["metadata"]["name"]: (one["metadata"]["uid"], one["spec"]["replicas"])
        for one in place.deployments(pool).values()
    }


def adopted(place: Place, replicas: int = 1, **spec) -> None:
    """A pool that has scaled an adopted Deployment of `replicas` to three."""
    place.create(a_workload("mine", replicas))
    place.create(
        a_pool(serving=adopting(("mine", "l40s")), accelerators=None, replicas={"min": 3, "max": 8}, **spec), a_class()
    )


@pytest.mark.parametrize("policy", ["Keep", "Restore"])
def test_own_deployments_stay_when_the_pool_goes(place, operator_in_process, policy):
    place.create(a_pool(deletionPolicy=policy), a_class(rate=20))
    op = operator_in_process()
    op.settle()
    before = kept(place)

    place.delete(INFERENCE_POOL, "chat")
    op.until(lambda: gone(place))
    for _ in range(5):
        op.advance(1000)
    assert kept(place) == before


def test_own_deployments_go_with_the_pool_where_the_policy_is_delete(place, operator_in_process):
    place.create(a_pool(deletionPolicy="Delete"), a_class(rate=20), a_pool("other"), a_class("other"))
    op = operator_in_process()
    op.settle("chat", "other")
    others = kept(place, "other")
    assert finalizers(place) == [OURS]

    place.delete(INFERENCE_POOL, "chat")
    op.until(lambda: gone(place) and not place.deployments())
    assert kept(place, "other") == others


def test_the_finalizer_is_there_only_while_the_policy_needs_it(place, operator_in_process):
    place.create(a_pool(), a_class())
    op = operator_in_process()
    op.settle()
    assert finalizers(place) == []

    place.merge(INFERENCE_POOL, "chat", {"metadata": {"finalizers": ["example.com/theirs"]}})
    place.set_spec(INFERENCE_POOL, "chat", deletionPolicy="Delete")
    op.until(lambda: sorted(finalizers(place)) == ["example.com/theirs", OURS])
    place.set_spec(INFERENCE_POOL, "chat", deletionPolicy="Keep")
    op.until(lambda: finalizers(place) == ["example.com/theirs"])


def test_a_pool_that_is_created_again_takes_its_deployments_back(place, operator_in_process):
    place.create(a_pool(), a_class(rate=20))
    op = operator_in_process()
    op.settle()
    before = kept(place)
    place.delete(INFERENCE_POOL, "chat")
    op.until(lambda: gone(place))

    place.create(a_pool())
    op.settle()
    assert kept(place) == before
    place.set_spec(WORKLOAD_CLASS, "chat", demand={"requestsPerSecond": "45"})
    op.until(lambda: sum(place.replicas().values()) > sum(count for _, count in before.values()))
    assert set(before) <= set(kept(place))


@pytest.mark.parametrize(("policy", "left"), [("Keep", 3), ("Restore", 1), ("Delete", 3)])
def test_adopted_workloads_are_never_deleted(place, operator_in_process, policy, left):
    adopted(place, deletionPolicy=policy)
    op = operator_in_process()
    op.settle()
    before = place.get(DEPLOYMENT, "mine")
    assert before["spec"]["replicas"] == 3
    assert finalizers(place) == ([] if policy == "Keep" else [OURS])

    place.delete(INFERENCE_POOL, "chat")
    op.until(lambda: gone(place))
    for _ in range(3):
        op.advance(1000)
    after = place.get(DEPLOYMENT, "mine")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["spec"]["replicas"] == left
    assert after["spec"]["template"] == before["spec"]["template"]
    if policy != "Keep":
        assert "tidefleet.io/adopted" not in after["metadata"]["annotations"]
    if policy == "Delete":
        (event,) = place.events("Kept")
        assert "adopted workloads are never deleted" in event["note"]


def test_restore_remembers_the_replicas_from_before_an_operator_restart(place, operator_in_process):
    place.create(a_workload("mine", 2, kind="StatefulSet"))
    pool = a_pool(serving=adopting(("mine", "l40s"), kind="StatefulSet"), accelerators=None, deletionPolicy="Restore",
                  replicas={"min": 4, "max": 8})  # fmt: skip
    place.create(pool, a_class())
    op = operator_in_process()
    op.until(lambda: place.get(STATEFUL_SET, "mine")["spec"]["replicas"] == 4)
    op.stop()
    place.set_spec(INFERENCE_POOL, "chat", replicas={"min": 6, "max": 8})
    op = operator_in_process()
    op.until(lambda: place.get(STATEFUL_SET, "mine")["spec"]["replicas"] == 6)

    place.delete(INFERENCE_POOL, "chat")
    op.until(lambda: gone(place))
    assert place.get(STATEFUL_SET, "mine")["spec"]["replicas"] == 2


def test_a_pool_deleted_while_nobody_ran_is_finished_later(place, operator_in_process):
    place.create(a_pool(deletionPolicy="Delete"), a_class())
    op = operator_in_process()
    op.settle()
    op.stop()
    place.delete(INFERENCE_POOL, "chat")
    assert not gone(place)

    operator_in_process().until(lambda: gone(place) and not place.deployments())


def test_a_pool_that_became_invalid_can_still_be_deleted(place, operator_in_process):
    place.create(a_pool(deletionPolicy="Delete"), a_class())
    op = operator_in_process()
    op.settle()
    place.set_spec(INFERENCE_POOL, "chat", model={"name": "no-such-model"})
    op.until(lambda: place.has("Validated", "False", "UnknownModel"))

    place.delete(INFERENCE_POOL, "chat")
    op.until(lambda: gone(place) and not place.deployments())


def test_finalizers_are_released_for_an_uninstall(place, operator_in_process, tmp_path):
    place.create(a_pool(deletionPolicy="Delete"), a_class(), a_pool("other"), a_class("other"))
    op = operator_in_process()
    op.settle("chat", "other")
    op.stop()
    before = kept(place)
    config = tmp_path / "operator.yaml"
    config.write_text(f"namespaces: [{place.namespace}]\nnodeSelector: {FLEET}={place.namespace}\n")
    place.delete(INFERENCE_POOL, "chat")

    command = ("operator", "release-finalizers", "--kubeconfig", place.cluster.kubeconfig, "--config", config)
    assert tidefleet(*command, "--dry-run") == (0, f"would release {place.namespace}/chat\n")
    assert not gone(place)
    assert tidefleet(*command) == (0, f"released {place.namespace}/chat\n")
    assert gone(place)
    assert kept(place) == before
    assert tidefleet(*command) == (0, "")
