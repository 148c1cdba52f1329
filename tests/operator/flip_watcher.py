"""Watches the invariants of flips through the API server alone: none of the operator's code takes part."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

from localcluster.api import ApiError
from localcluster.cluster import Cluster

GPU = ("nvidia.com/gpu", "amd.com/gpu")
OURS = ("tidefleet.io/flip", "tidefleet.io/duty")
FINISHED = ("Succeeded", "Failed")


class FlipWatcher:
    """Looks at nodes, pods and cohorts whenever it is told to, and keeps every breach of an invariant.

    Attributes:
        required: replicas of each pool (namespace, name) that must be ready and take requests; set by the test.
        breaches: what was found wrong, in words.
        looks: how often it looked.
    """

    def __init__(self, cluster: Cluster, labels: Mapping[str, str]) -> None:
        self._api = cluster.api()
        self._labels = dict(labels)
        self._lock = threading.Lock()
        self.required: dict[tuple[str, str], int] = {}
        self.breaches: list[str] = []
        self.looks = 0
        self.phases: dict[str, list[str]] = {}

    def look(self, when: str = "") -> None:
        """Check everything now."""
        with self._lock:
            selector = ",".join(f"{key}={value}" for key, value in self._labels.items())
            nodes = self._api.get(f"/api/v1/nodes?labelSelector={selector}")["items"]
            pods = [one for one in self._api.get("/api/v1/pods")["items"] if one["spec"].get("nodeName")]
            self.looks += 1
            for problem in (*self._nodes(nodes, pods), *self._capacity(pods), *self._quota(nodes)):
                self.breaches.append(f"{when}: {problem}")

    def _nodes(self, nodes: list[dict[str, Any]], pods: list[dict[str, Any]]) -> list[str]:
        found = []
        for node in nodes:
            name, meta = node["metadata"]["name"], node["metadata"]
            story = meta.get("annotations", {}).get("tidefleet.io/flip")
            phase = _phase(story)
            self.phases.setdefault(name, [])
            if not self.phases[name] or self.phases[name][-1] != phase:
                self.phases[name].append(phase)
            taints = [one["key"] for one in node["spec"].get("taints", ()) if one["key"] in OURS]
            if taints and not story:
                found.append(f"{name} carries {taints} and no journal")
            if story and (phase in ("Serving", "Planned", "Warming")) == bool(taints):
                found.append(f"{name} is {phase} and carries {taints}")
            if meta.get("labels", {}).get("tidefleet.io/duty") == "training" and "tidefleet.io/duty" not in taints:
                found.append(f"{name} is labelled for training without its taint")
            here = [one for one in pods if one["spec"]["nodeName"] == name and _chips(one)]
            here = [one for one in here if one.get("status", {}).get("phase") not in FINISHED]
            serving = [one for one in here if "tidefleet.io/pool" in one["metadata"].get("labels", {})]
            training = [one for one in here if one not in serving]
            if serving and training:
                found.append(f"{name} is held by {len(serving)} serving and {len(training)} training pods")
            room = sum(int(node["status"]["allocatable"].get(resource, 0)) for resource in GPU)
            if sum(_chips(one) for one in here) > room:
                found.append(f"{name}: more chips are held than it has")
            if training and phase not in ("Training", "Recalling", "Reclaiming", "Quarantined"):
                found.append(f"{name} is {phase} and training pods hold it")
        return found

    def _capacity(self, pods: list[dict[str, Any]]) -> list[str]:
        found = []
        for (namespace, pool), required in self.required.items():
            ready = [
                one
                for one in pods
                if one["metadata"]["namespace"] == namespace
                and one["metadata"].get("labels", {}).get("tidefleet.io/pool") == pool
                and one["metadata"]["labels"].get("tidefleet.io/routable") == "true"
                and not one["metadata"].get("deletionTimestamp")
                and any(c["type"] == "Ready" and c["status"] == "True" for c in one["status"].get("conditions", ()))
            ]
            if len(ready) < required:
                found.append(f"{pool} has {len(ready)} replicas that take requests; {required} are required")
        return found

    def _quota(self, nodes: list[dict[str, Any]]) -> list[str]:
        path = "/apis/kueue.x-k8s.io/v1beta2/cohorts"
        try:
            cohorts = self._api.get(path)["items"]
        except ApiError as error:
            if error.status == 404:  # no Kueue here
                return []
            raise
        verified = sum(
            int(node["status"]["allocatable"].get(resource, 0))
            for node in nodes
            for resource in GPU
            if _phase(node["metadata"].get("annotations", {}).get("tidefleet.io/flip")) == "Training"
        )
        published = 0
        for cohort in cohorts:
            for group in cohort.get("spec", {}).get("resourceGroups", ()):
                for flavor in group["flavors"]:
                    published += sum(int(one["nominalQuota"]) for one in flavor["resources"])
        return [f"{published} chips are published and {verified} are verified"] if published > verified else []


def _phase(story: str | None) -> str:
    """The phase that a journal says; ``Serving`` where nothing can be read."""
    try:
        return str(json.loads(story or "{}")["phase"])
    except (ValueError, TypeError, KeyError):
        return "Serving"


def _chips(pod: Mapping[str, Any]) -> int:
    total = 0
    for container in pod["spec"].get("containers", ()):
        limits = container.get("resources", {}).get("limits", {})
        total += sum(int(limits.get(resource, 0)) for resource in GPU)
    return total
