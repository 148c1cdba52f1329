"""Nodes that are lent by night and serve again by day, on the real API server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from flip_watcher import FlipWatcher
from operator_builders import FLEET, Place, a_class, a_pool

from tidefleet.cluster.kinds import NODE

pytestmark = pytest.mark.cluster

HOUR = 3600.0


def window(now: float, begin: float, end: float) -> dict[str, Any]:
    """A window of so many hours around now, in UTC."""
    start, stop = (datetime.fromtimestamp(now + hours * HOUR, tz=UTC).strftime("%H:%M") for hours in (begin, end))
    return {"start": start, "end": stop, "timeZone": "UTC"}


def lending(now: float, begin: float = -1.0, end: float = 6.0, **more: Any) -> dict[str, Any]:
    """The `flipping` of a pool that lends in a window."""
    return {
        "policy": "Schedule",
        "windows": [window(now, begin, end)],
        "training": {"queue": {"kind": "Suspend", "selector": {"matchLabels": {"team": "research"}}}},
        **more,
    }


def nodes(place: Place, accelerator: str = "l40s") -> list[dict[str, Any]]:
    """The nodes of one type."""
    found = place.api.get(f"/api/v1/nodes?labelSelector={FLEET}=operator")["items"]
    return [one for one in found if accelerator in one["metadata"]["name"]]


def journal(node: dict[str, Any]) -> dict[str, Any]:
    """A node's journal; empty without one."""
    found: dict[str, Any] = json.loads(node["metadata"].get("annotations", {}).get("tidefleet.io/flip", "{}"))
    return found


def phases(place: Place, accelerator: str = "l40s") -> Counter[str]:
    """How many nodes are in which phase."""
    return Counter(journal(one).get("phase", "Serving") for one in nodes(place, accelerator))


@pytest.fixture
def flip_settings(settings: dict[str, Any], place: Place) -> dict[str, Any]:
    """An operator that sees all namespaces: what is on a node may be anybody's."""
    settings["namespaces"] = []
    return settings


@pytest.fixture
def watcher(place: Place) -> Iterator[FlipWatcher]:
    """The watcher, and clean nodes after the test."""
    yield FlipWatcher(place.cluster, {FLEET: "operator"})
    for node in nodes(place, ""):
        meta = node["metadata"]
        marks = [key for key in meta.get("annotations", {}) if key.startswith("tidefleet.io/flip")]
        place.api.merge(
            place.path(NODE, meta["name"]),
            {
                "metadata": {
                    "annotations": dict.fromkeys([*marks, "karpenter.sh/do-not-disrupt"]),
                    "labels": {"tidefleet.io/duty": None, "nvidia.com/gpu-driver-upgrade.skip": None},
                },
                "spec": {"taints": None},
            },
        )


def test_nodes_are_lent_in_the_window_and_serve_again_after_it(place, clock, flip_settings, operator_in_process, engines, watcher):
    place.create(
        a_pool(accelerators=[{"type": "l40s"}], flipping=lending(clock.now(), end=6.0)), a_class(rate=6)
    )
    op = operator_in_process(before_write=lambda write: watcher.look(f"before {write.kind.kind} {write.name}"))
    import time as _t
    for _ in range(12):
        op.read_engines(); op.advance()
    print(json.dumps(place.status(), indent=1)[:6000]); print(place.replicas(), place.ready_replicas()); print(phases(place)); print(watcher.breaches[:5], op.died)
    op.settle()
    watcher.required[place.namespace, "chat"] = sum(place.replicas().values())
    op.until(lambda: phases(place)["Training"] >= 2, "two nodes on loan", step=15.0)
    lent = next(one for one in nodes(place) if journal(one).get("phase") == "Training")
    assert lent["metadata"]["labels"]["tidefleet.io/duty"] == "training"
    assert [one["key"] for one in lent["spec"]["taints"]] == ["tidefleet.io/duty"]
    assert place.condition("Flipping")[0] == "True"
    assert "to serving" in place.status()["nextFlip"]
    op.until(lambda: phases(place)["Serving"] == 10, "all nodes back", step=300.0)
    for node in nodes(place):
        assert not node["spec"].get("taints")
        assert "nvidia.com/gpu-driver-upgrade.skip" not in node["metadata"]["labels"]
    assert watcher.breaches == []
    assert watcher.looks > 20
