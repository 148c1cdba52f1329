"""One right taken from the chart's account: a failure with a name, told where people look, and no crash."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from operator_builders import DEPLOYMENT, WORKLOAD_CLASS, Place, a_class, a_pool, a_workload, adopting, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.chart]

ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"


@contextlib.contextmanager
def without(place: Place, role: str, verb: str, resource: str) -> Iterator[None]:
    """Take one verb on one resource from a ClusterRole."""
    before = place.api.get(f"{ROLES}/{role}")["rules"]
    rules: list[dict[str, Any]] = []
    for rule in before:
        rest = [one for one in rule["resources"] if one != resource]
        if resource in rule["resources"] and verb in rule["verbs"]:
            rules.append({**rule, "resources": [resource], "verbs": [one for one in rule["verbs"] if one != verb]})
            rules += [{**rule, "resources": rest}] if rest else []
        else:
            rules.append(rule)
    assert rules != before, f"the role has no {verb} on {resource}"
    place.api.merge(f"{ROLES}/{role}", {"rules": [one for one in rules if one["verbs"]]})
    try:
        yield
    finally:
        place.api.merge(f"{ROLES}/{role}", {"rules": before})


def demand(place: Place, rate: int) -> None:
    """Declare another rate."""
    place.set_spec(WORKLOAD_CLASS, "chat", demand={"requestsPerSecond": str(rate)})


def test_without_patch_on_deployments_the_pool_says_so_and_recovers(place, real_operator, released):
    place.create(a_pool(accelerators=[{"type": "l40s"}]), a_class())
    one = real_operator()
    eventually(lambda: place.settled())
    with without(place, released.role, "patch", "deployments"):
        demand(place, 9)
        eventually(lambda: place.has("Ready", "False", "ApplyFailed"))
        message = place.condition("Ready")[2]
        assert 'cannot patch resource "deployments"' in message
        assert one.metric('tidefleet_reconcile_errors_total{kind="Deployment",reason="Denied"}') > 0
        assert place.replicas() == {"l40s": 1}
        assert one.get("/healthz")[0] == 200
    eventually(lambda: place.replicas()["l40s"] > 1 and place.settled())
    assert one.exit_code is None


def test_without_create_on_deployments_the_pool_says_so_and_recovers(place, real_operator, released):
    with without(place, released.role, "create", "deployments"):
        place.create(a_pool(), a_class())
        one = real_operator()
        eventually(lambda: place.has("Ready", "False", "ApplyFailed"))
        assert 'cannot create resource "deployments"' in place.condition("Ready")[2]
        assert place.list(DEPLOYMENT) == []
    eventually(lambda: place.settled())
    assert one.exit_code is None


def test_without_patch_on_statuses_the_metrics_say_so_and_scaling_goes_on(place, real_operator, released):
    with without(place, released.role, "patch", "inferencepools/status"):
        place.create(a_pool(), a_class())
        one = real_operator()
        denied = 'tidefleet_reconcile_errors_total{kind="InferencePool/status",reason="Denied"}'
        eventually(lambda: one.metric(denied) > 0)
        eventually(lambda: sum(place.ready_replicas().values()) == 1)
        assert place.status() == {}
        assert [line for line in one.logged("a status was not written") if "forbidden" in line["outcome"]]
    eventually(lambda: place.settled())
    assert one.exit_code is None


def test_without_list_on_autoscalers_adopted_workloads_are_held(place, real_operator, released):
    with without(place, released.role, "list", "horizontalpodautoscalers"):
        place.create(a_workload("mine", 1))
        place.create(a_pool(serving=adopting(("mine", "l40s")), accelerators=None), a_class(rate=9))
        place.create(a_pool("own"), a_class("own"))
        one = real_operator()
        eventually(lambda: place.settled("own"))
        eventually(lambda: place.condition("Ready")[0] == "False")
        assert place.get(DEPLOYMENT, "mine")["spec"]["replicas"] == 1
        assert "autoscalers" in place.condition("Adopted")[2] or "autoscalers" in place.condition("Ready")[2]
    assert one.exit_code is None
