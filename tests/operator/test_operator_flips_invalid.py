"""A pool whose spec becomes invalid in mid-flip: its nodes come home, and its replicas take requests."""

from __future__ import annotations

import pytest
from flip_midway import midway
from operator_builders import INFERENCE_POOL

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


def test_nodes_of_a_pool_that_becomes_invalid_come_home_and_its_replicas_take_requests(flip_ground, place):
    fleet = midway(flip_ground(nodes=7), place)
    ground = fleet.ground
    assert not all(fleet.routable())
    queue = {"training": ground.flipping()["training"]}
    window = {"start": "22:00", "end": "06:00", "timeZone": "Mars/Olympus"}
    place.set_spec(INFERENCE_POOL, "chat", flipping={"policy": "Schedule", "windows": [window], **queue})
    ground.until(lambda: place.condition("Validated")[0] == "False", "it is invalid")
    ground.until(lambda: all(map(fleet.is_home, fleet.all)), "all are home", step=20.0)
    ground.until(lambda: all(fleet.routable()), "all replicas take requests")
    assert fleet.suspended()
    assert sum(place.ready_replicas().values()) >= 2
    assert "its spec is invalid" in ground.events("RolledBack", fleet.draining)[0]
    assert "its spec is invalid" in ground.events("Recalled", fleet.training)[0]
    assert ground.sound()
