"""What tests of flips share: windows around now, and what nodes say of themselves."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from operator_builders import FLEET, Place

from tidefleet.cluster.kinds import NODE

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


def of_phase(place: Place, phase: str, accelerator: str = "l40s") -> list[dict[str, Any]]:
    """The nodes of one type that are in a phase."""
    return [one for one in nodes(place, accelerator) if journal(one).get("phase", "Serving") == phase]


def clean_nodes(place: Place) -> None:
    """Take everything of ours off the nodes that tests share."""
    for node in nodes(place, ""):
        meta = node["metadata"]
        marks = [key for key in meta.get("annotations", {}) if key.startswith("tidefleet.io/")]
        body = {
            "metadata": {
                "annotations": dict.fromkeys([*marks, "karpenter.sh/do-not-disrupt"]),
                "labels": {"tidefleet.io/duty": None, "nvidia.com/gpu-driver-upgrade.skip": None},
            },
            "spec": {"taints": None, "unschedulable": None},
        }
        place.api.merge(place.path(NODE, meta["name"]), body)
