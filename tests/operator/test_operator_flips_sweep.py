"""What a flip left behind is told once and touched by nobody, on the real API server."""

from __future__ import annotations

import pytest
from operator_builders import a_class

from tidefleet.cluster.kinds import NODE

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


def test_a_label_without_a_journal_is_told_once_and_left_alone(flip_ground, place):
    ground = flip_ground()
    place.create(ground.a_pool(), a_class(rate=1))
    name = ground.names[0]
    place.api.merge(place.path(NODE, name), {"metadata": {"labels": {"tidefleet.io/duty": "training"}}})
    ground.start()
    ground.until(lambda: ground.events("LeftBehind", 0), "it is told")
    for _ in range(3):
        ground.step(15.0)
    (said,) = ground.events("LeftBehind", 0)
    assert f"kubectl label node {name} tidefleet.io/duty-" in said
    assert ground.node(0)["metadata"]["labels"]["tidefleet.io/duty"] == "training"
    assert "tidefleet.io/flip" not in ground.node(0)["metadata"].get("annotations", {})
