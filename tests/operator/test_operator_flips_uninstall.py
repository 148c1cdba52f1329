"""What `tidefleet operator release-finalizers` leaves on nodes in mid-flip, on the real API server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flip_night import Night, forged
from operator_builders import FLEET, tidefleet

from tidefleet.cluster.kinds import NODE

pytestmark = pytest.mark.cluster

MOVING, LENT = "tidefleet.io/flip", "tidefleet.io/duty"


def dress(night: Night, index: int, phase: str, *taints: tuple[str, str]) -> None:
    """Make a node look as it does in a phase, with a mark of somebody else that was there before."""
    before = {"annotations": {"karpenter.sh/do-not-disrupt": "theirs"}, "labels": {}}
    text = forged(phase=phase, unit=night.names[index], before=before)
    rows = [{"key": key, "value": value, "effect": "NoSchedule"} for key, value in taints]
    night.set_journal(text, index, taints=[*rows, {"key": "theirs", "effect": "PreferNoSchedule"}])
    body = {"metadata": {"labels": {LENT: "training"}, "annotations": {"karpenter.sh/do-not-disrupt": "true"}}}
    night.place.api.merge(night.place.path(NODE, night.names[index]), body)


def is_bare(night: Night, index: int) -> bool:
    """Whether nothing of ours is on a node, and all that was there before is."""
    node: dict[str, Any] = night.node(index)
    notes = node["metadata"].get("annotations", {})
    keys = [one["key"] for one in node["spec"].get("taints") or ()]
    ours = MOVING in notes or LENT in node["metadata"]["labels"]
    return not ours and keys == ["theirs"] and notes["karpenter.sh/do-not-disrupt"] == "theirs"


def test_uninstalling_undresses_all_nodes_but_those_that_training_holds(night, tmp_path):
    fleet = night(nodes=5)
    dress(fleet, 0, "Planned")
    dress(fleet, 1, "Draining", (MOVING, "draining"))
    dress(fleet, 2, "Training", (LENT, "training"))
    dress(fleet, 3, "Training", (LENT, "training"))
    dress(fleet, 4, "Quarantined", (MOVING, "quarantined"))
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "trains", "namespace": fleet.place.namespace},
        "spec": {
            "nodeName": fleet.names[3],
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "t", "image": "t", "resources": {"limits": {"nvidia.com/gpu": 4}}}],
        },
    }
    fleet.place.create(pod)
    config = tmp_path / "config.json"
    seen = {"namespaces": [fleet.place.namespace], "nodeSelector": f"{FLEET}={fleet.place.namespace}"}
    config.write_text(json.dumps(seen))
    command = (
        "operator",
        "release-finalizers",
        "--kubeconfig",
        fleet.place.cluster.kubeconfig,
        "--config",
        str(config),
    )

    status, said = tidefleet(*command, "--dry-run")
    assert status == 1, said
    assert f"would release node {fleet.names[1]}" in said
    assert not any(is_bare(fleet, index) for index in range(5))

    status, said = tidefleet(*command)
    assert status == 1, said
    assert [is_bare(fleet, index) for index in range(5)] == [True, True, True, False, True]
    assert f"not released node {fleet.names[3]}: it is Training and pod {fleet.place.namespace}/trains" in said
    assert "--force" in said

    status, said = tidefleet(*command, "--force")
    assert status == 0, said
    assert is_bare(fleet, 3)
