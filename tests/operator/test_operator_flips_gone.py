"""Pools that become invalid or are deleted in mid-flip: nodes come home, and what serves goes on serving."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flip_demand import train
from flip_faults import SLOT, Ground
from flip_ground import window
from flip_streams import Streams, is_routable
from operator_builders import INFERENCE_POOL, Place, a_class

from tidefleet.cluster.kinds import DEPLOYMENT

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

OURS = ("tidefleet.io/", "nvidia.com/gpu-driver-upgrade.skip", "karpenter.sh/")


@pytest.fixture
def streams(place: Place) -> Iterator[Streams]:
    """Clients of this test."""
    with Streams(place) as running:
        yield running


def is_bare(ground: Ground, index: int) -> bool:
    """Whether a node serves and wears nothing of a flip, its record and the label of its duty apart."""
    node = ground.node(index)
    meta = node["metadata"]
    worn = [one["key"] for one in node["spec"].get("taints") or () if one["key"].startswith("tidefleet.io/")]
    notes = {**meta["labels"], **meta.get("annotations", {})}
    worn += [key for key in notes if key.startswith(OURS[1:])]
    return ground.phase(index) == "Serving" and not worn and notes.get("tidefleet.io/duty") in (None, "serving")


def two_ways_out(ground: Ground, streams: Streams, **settings: Any) -> tuple[int, int]:
    """A node that is being drained, its replica kept by a stream, and one on which a job trains."""
    ground.place.create(ground.a_pool(), a_class(rate=1))
    ground.start(**settings)
    ground.serve(1)
    (draining,) = ground.serving_on()
    training = next(index for index in range(len(ground.names)) if index != draining)
    ground.ask(training, "training")
    ground.reaches("Training", training, step=5.0)
    train(ground, "night")
    ground.until(lambda: ground.job_pods("night"), "a job trains", step=5.0)
    ground.step(SLOT)  # between two steps
    (pod,) = ground.pods(draining)
    streams.send(pod, 8000)
    ground.ask(draining, "training")
    ground.reaches("Draining", draining, step=2.0)
    assert not is_routable(ground.pods(draining)[0])
    return draining, training


def test_a_pool_that_becomes_invalid_in_mid_drain_gets_its_replica_and_its_nodes_back(flip_ground, place, streams):
    ground = flip_ground(nodes=4)
    draining, training = two_ways_out(ground, streams)
    names = {pod["metadata"]["uid"] for index in range(4) for pod in ground.pods(index)}
    mars = window(ground.clock.now(), 10.0, 16.0) | {"timeZone": "Mars/Olympus"}
    place.merge(INFERENCE_POOL, "chat", {"spec": {"flipping": {"windows": [mars]}}})
    ground.until(lambda: all(map(is_routable, ground.pods(draining))), "it takes requests again", step=2.0)
    assert place.condition("Validated")[0] == "False"
    ground.until(lambda: is_bare(ground, draining) and is_bare(ground, training), "both are home", step=20.0)
    assert not ground.job_pods("night")
    assert streams.broken == []
    assert names == {pod["metadata"]["uid"] for index in range(4) for pod in ground.pods(index)}
    assert ground.sound()


def test_a_pool_that_is_deleted_in_mid_drain_leaves_its_replicas_serving_and_its_nodes_clean(
    flip_ground, place, streams
):
    ground = flip_ground(nodes=4)
    draining, training = two_ways_out(ground, streams)
    (workload,) = place.deployments().values()
    ground.watcher.required.clear()
    place.api.delete(place.path(INFERENCE_POOL, "chat"))
    ground.until(lambda: is_bare(ground, draining) and is_bare(ground, training), "both are home", step=20.0)
    ground.until(lambda: not place.list(INFERENCE_POOL), "the pool is gone")
    assert not ground.job_pods("night")
    kept = place.get(DEPLOYMENT, workload["metadata"]["name"])
    assert kept["spec"]["replicas"] >= 1
    assert all(map(is_routable, ground.pods(draining)))
    assert streams.broken == []
    assert ground.sound()


def test_a_namespace_that_is_deleted_in_mid_flip_leaves_clean_nodes(flip_ground, place, streams):
    ground = flip_ground(nodes=4)
    lease = {"leaderElection": {"namespace": "default", "name": place.namespace}}
    draining, training = two_ways_out(ground, streams, **lease)
    ground.watcher.required.clear()
    place.api.delete(f"/api/v1/namespaces/{place.namespace}")
    ground.until(lambda: is_bare(ground, draining) and is_bare(ground, training), "both are home", step=20.0)
    assert ground.op.alive
    assert ground.sound()
    ground.op.stop()
    place.api.delete(f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{place.namespace}")
