"""Nodes that are lent by night and serve again by day, on the real API server."""

from __future__ import annotations

import pytest
from flip_ground import journal, lending, nodes, phases
from operator_builders import a_class, a_pool

pytestmark = pytest.mark.cluster


@pytest.mark.long
def test_nodes_are_lent_in_the_window_and_serve_again_after_it(place, clock, flipping_operator, watcher):
    place.create(a_pool(accelerators=[{"type": "l40s"}], flipping=lending(clock.now(), end=4.0)), a_class(rate=6))
    op = flipping_operator()
    op.settle()
    watcher.required[place.namespace, "chat"] = sum(place.replicas().values())
    op.until(lambda: phases(place)["Training"] >= 2, "two nodes on loan", step=15.0)
    lent = next(one for one in nodes(place) if journal(one).get("phase") == "Training")
    assert lent["metadata"]["labels"]["tidefleet.io/duty"] == "training"
    assert [one["key"] for one in lent["spec"]["taints"]] == ["tidefleet.io/duty"]
    assert place.condition("Flipping")[0] == "True"
    op.until(lambda: phases(place)["Training"] == 9, "all but one on loan", step=300.0)
    assert place.status()["nextFlip"].endswith("to serving")
    op.until(lambda: phases(place)["Serving"] == 10, "all nodes back", step=300.0)
    for node in nodes(place):
        assert not node["spec"].get("taints")
        assert "nvidia.com/gpu-driver-upgrade.skip" not in node["metadata"]["labels"]
    assert watcher.breaches == []
    assert watcher.looks > 20
