"""A PodDisruptionBudget for each pool whose owner has none, so that a node drain takes replicas one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidefleet.api import InferencePool
from tidefleet.cluster.kinds import PDB
from tidefleet.cluster.objects import ApiFailed, KindAbsent, Objects
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import Create
from tidefleet.controller import marks


def list_budgets(objects: Objects, namespaces: Sequence[str]) -> tuple[Mapping[str, Any], ...] | None:
    """Every PodDisruptionBudget in these namespaces (all when empty); ``None`` when they cannot be listed."""
    try:
        return tuple(raw for one in namespaces or (None,) for raw in objects.list(PDB, one))
    except (ApiFailed, KindAbsent, Unreachable):
        return None


def budget_name(pool: InferencePool) -> str:
    """Name of the budget that we make for a pool."""
    return f"{pool.name}-tidefleet"


def is_ours(raw: Mapping[str, Any], pool: InferencePool) -> bool:
    """Whether a budget is the one that we made for a pool."""
    meta = raw.get("metadata") or {}
    return bool(
        (meta.get("namespace"), meta.get("name")) == (pool.namespace, budget_name(pool))
        and (meta.get("labels") or {}).get(marks.POOL_LABEL) == pool.name
    )


def missing_budget(pool: InferencePool, budgets: Sequence[Mapping[str, Any]], decision_id: str) -> Create | None:
    """The budget to create for a pool made from a template; ``None`` where one covers its pods already.

    Two budgets over one pod make every eviction fail, so any that could select the pods counts: one without a selector
    selects nothing, an empty one everything.
    """
    if pool.spec.serving.template is None:
        return None
    labels = _pod_labels(pool)
    for raw in budgets:
        if (raw.get("metadata") or {}).get("namespace") == pool.namespace and _may_select(raw, labels):
            return None
    return Create(
        kind=PDB,
        body={
            "metadata": {
                "name": budget_name(pool),
                "namespace": pool.namespace,
                "labels": {marks.POOL_LABEL: pool.name},
            },
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {marks.POOL_LABEL: pool.name}}},
        },
        reason="the pool has no PodDisruptionBudget",
        decision_id=decision_id,
    )


def _pod_labels(pool: InferencePool) -> dict[str, str]:
    metadata = (pool.spec.serving.template or {}).get("metadata")
    own = metadata.get("labels") if isinstance(metadata, Mapping) else None
    return {
        **{str(k): str(v) for k, v in (own if isinstance(own, Mapping) else {}).items()},
        marks.POOL_LABEL: pool.name,
        marks.ROUTABLE_LABEL: "true",
    }


def _may_select(raw: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    selector = (raw.get("spec") or {}).get("selector")
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for one in selector.get("matchExpressions") or ():
        value, values = labels.get(one.get("key")), one.get("values") or ()
        match one.get("operator"):
            case "In" if value is not None and value not in values:
                return False
            case "NotIn" if value in values:
                return False
            case "DoesNotExist" if value is not None and one.get("key") != marks.OPTION_LABEL:
                return False
            case _:
                continue
    return True
