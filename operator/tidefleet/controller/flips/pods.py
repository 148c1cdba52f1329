"""What a flip does to serving pods: no more requests, first to go when their workload shrinks; and all of it undone."""

from __future__ import annotations

import json
from typing import Any

from tidefleet.cluster.kinds import POD
from tidefleet.cluster.records import Pod
from tidefleet.cluster.writes import MergePatch
from tidefleet.controller import marks
from tidefleet.flipping.machine import Wanted

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
FIRST_TO_GO, NEXT_TO_GO = "-1000000", "-999999"
"""Of the pods of a ReplicaSet that are ready alike, the one with the lowest cost is deleted first: of those that are to
leave, one with requests in it never before one without."""


def is_routable(pod: Pod) -> bool:
    """Whether requests may be routed to a pod: it carries our label, and is not on its way out."""
    return pod.labels.get(marks.ROUTABLE_LABEL) == "true" and not pod.deleting


def pod_change(pod: Pod, wanted: Wanted, *, unit: str, reason: str, decision_id: str) -> MergePatch | None:
    """The write that brings a serving pod to what its unit's phase wants; ``None`` when it is so."""
    body = _leaving(pod, wanted, unit) if wanted.replace or wanted.unroute else _restored(pod)
    if body is None or pod.deleting:
        return None
    return MergePatch(
        kind=POD,
        namespace=pod.namespace,
        name=pod.name,
        body={"metadata": body},
        uid=pod.uid,
        resource_version=pod.resource_version,
        reason=reason,
        decision_id=decision_id,
    )


def _leaving(pod: Pod, wanted: Wanted, unit: str) -> dict[str, Any] | None:
    annotations: dict[str, str | None] = {}
    if marks.FLIP_ANNOTATION not in pod.annotations:
        before = {
            "unit": unit,
            "routable": pod.labels.get(marks.ROUTABLE_LABEL),
            "cost": pod.annotations.get(DELETION_COST),
        }
        annotations[marks.FLIP_ANNOTATION] = json.dumps(before, separators=(",", ":"))
    cost = FIRST_TO_GO if wanted.empty else NEXT_TO_GO
    if pod.annotations.get(DELETION_COST) != cost:
        annotations[DELETION_COST] = cost
    body: dict[str, Any] = {"annotations": annotations} if annotations else {}
    if wanted.unroute and marks.ROUTABLE_LABEL in pod.labels:
        body["labels"] = {marks.ROUTABLE_LABEL: None}
    return body or None


def _restored(pod: Pod) -> dict[str, Any] | None:
    text = pod.annotations.get(marks.FLIP_ANNOTATION)
    if text is None:
        return None
    routable, cost = _before(text)
    body: dict[str, Any] = {"annotations": {marks.FLIP_ANNOTATION: None, DELETION_COST: cost}}
    if routable is not None and pod.labels.get(marks.ROUTABLE_LABEL) != routable:
        body["labels"] = {marks.ROUTABLE_LABEL: routable}
    return body


def _before(text: str) -> tuple[str | None, str | None]:
    """Routable label and deletion cost of before; whatever cannot be read counts as the template's own."""
    try:
        raw: Any = json.loads(text)
        routable, cost = raw["routable"], raw["cost"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "true", None
    known = routable in (None, "true", "false") and (cost is None or (isinstance(cost, str) and len(cost) <= 11))
    return (routable, cost) if known else ("true", None)
