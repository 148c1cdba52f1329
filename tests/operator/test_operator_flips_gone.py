"""Pools and namespaces that are deleted while nodes are in a flip, on the real API server."""

from __future__ import annotations

import pytest
from flip_midway import midway

from tidefleet.cluster.kinds import INFERENCE_POOL, POD

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


@pytest.mark.parametrize("policy", ["Keep", "Restore", "Delete"])
def test_a_pool_that_is_deleted_in_mid_flip_leaves_nodes_as_they_were(flip_ground, place, policy):
    fleet = midway(flip_ground(nodes=7), place, deletionPolicy=policy)
    ground = fleet.ground
    if policy == "Delete":
        ground.watcher.required.clear()
    place.api.delete(place.path(INFERENCE_POOL, "chat"))
    ground.until(lambda: place.get(INFERENCE_POOL, "chat") is None, "it is gone")
    ground.until(lambda: all(map(fleet.is_home, fleet.all)), "all are home", step=20.0)
    ground.until(lambda: all(fleet.routable()), "whoever is left takes requests")
    ground.until(fleet.suspended, "the job waits", step=5.0)
    assert bool(place.deployments("chat")) is (policy != "Delete")
    assert ground.sound()


def test_a_namespace_that_is_deleted_in_mid_flip_leaves_nodes_as_they_were(flip_ground, place):
    lease = {"namespace": "default", "name": place.unique("gone")}
    fleet = midway(flip_ground(nodes=7), place, settings={"leaderElection": lease})
    ground = fleet.ground
    ground.watcher.required.clear()
    place.api.delete(f"/api/v1/namespaces/{place.namespace}")
    ground.until(lambda: not place.list(POD), "its pods are gone")
    ground.until(lambda: all(map(fleet.is_home, fleet.all)), "all are home", step=20.0)
    ground.until(lambda: not place.api.exists(f"/api/v1/namespaces/{place.namespace}"), "it is gone")
    assert ground.op.metric("tidefleet_reconcile_errors_total", kind="Node", reason="Exception") == 0
    assert ground.sound()
