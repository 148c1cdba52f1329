"""Before a workload is adopted: who else scales it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidefleet.api import InferencePool, Reason
from tidefleet.api.inference_pool import WorkloadRef
from tidefleet.cluster.kinds import HPA, SCALED_OBJECT, Kind
from tidefleet.cluster.objects import ApiFailed, KindAbsent, Objects
from tidefleet.cluster.records import Workload
from tidefleet.cluster.transport import Unreachable
from tidefleet.controller.view import Fault


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """A HorizontalPodAutoscaler or KEDA ScaledObject, and what it scales."""

    kind: str
    namespace: str
    name: str
    target_kind: str
    target_name: str


def list_autoscalers(objects: Objects, namespaces: Sequence[str]) -> tuple[Autoscaler, ...] | None:
    """Every autoscaler in these namespaces (all when empty); ``None`` when they cannot be listed.

    KEDA makes a HorizontalPodAutoscaler for each ScaledObject; only the ScaledObject is named then.
    """
    found: list[Autoscaler] = []
    for kind in (HPA, SCALED_OBJECT):
        for namespace in namespaces or (None,):
            try:
                found += [one for raw in objects.list(kind, namespace) if (one := _read(kind, raw))]
            except KindAbsent:
                continue
            except (ApiFailed, Unreachable):
                return None
    return tuple(found)


def _read(kind: Kind, raw: Mapping[str, Any]) -> Autoscaler | None:
    meta, spec = raw.get("metadata") or {}, raw.get("spec") or {}
    target = spec.get("scaleTargetRef") or {}
    if kind is HPA and any(one.get("kind") == "ScaledObject" for one in meta.get("ownerReferences") or ()):
        return None
    name = target.get("name")
    if not name:
        return None
    return Autoscaler(
        kind.kind,
        str(meta.get("namespace", "")),
        str(meta.get("name", "")),
        target.get("kind") or "Deployment",
        str(name),
    )


def conflicts_of(
    pool: InferencePool, ref: WorkloadRef, key: str, workload: Workload | None, autoscalers: Sequence[Autoscaler] | None
) -> dict[str, Fault]:
    """Why one workload of a pool must not be scaled, as a fault under ``key``; empty when it may be."""
    name = f"{pool}: {ref.kind} {ref.name}"
    if workload is not None and (workload.match_expressions_present or not workload.selector):
        message = f"{name} selects its pods by matchExpressions; expected matchLabels alone, e.g. app: chat"
        return {key: Fault(Reason.INVALID_FIELD, message)}
    if autoscalers is None:
        return {key: Fault(Reason.HELD, f"{name} is held: the autoscalers of its namespace are not known yet")}
    for one in autoscalers:
        if (one.namespace, one.target_kind, one.target_name) == (pool.namespace, str(ref.kind), ref.name):
            reason = Reason.HPA_ON_TARGET if one.kind == HPA.kind else Reason.SCALED_OBJECT_ON_TARGET
            message = (
                f"{name} is also scaled by {one.kind} {one.namespace}/{one.name}; expected no other autoscaler: delete "
                "it, or keep it, set spec.mode to Recommend and follow tidefleet_pool_option_replicas"
            )
            return {key: Fault(reason, message)}
    return {}
