"""The upstream InferencePool through which a gateway routes to a pool, made and kept on request.

Its selector takes only pods that may be routed to, so a pod that a flip drains leaves every gateway's endpoints with
the one label; its endpoint picker is our router, and a gateway goes on without it (FailOpen).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidefleet.api import InferencePool
from tidefleet.api.inference_pool import GatewayPoolCreation
from tidefleet.cluster.kinds import INFERENCE_POOL, UPSTREAM_POOL
from tidefleet.cluster.objects import ApiFailed, KindAbsent, Objects
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import AlreadyExists, Create, Delete, Gone, MergePatch, Written
from tidefleet.controller import marks
from tidefleet.controller.act import Actor
from tidefleet.controller.config import GatewayPicker

Raw = Mapping[str, Any]


def list_gateway_pools(objects: Objects, namespaces: Sequence[str]) -> tuple[Raw, ...] | None:
    """Every upstream InferencePool in these namespaces (all when empty); ``None`` where they cannot be listed.

    Without the Gateway API Inference Extension there are none, and none can be made.
    """
    try:
        return tuple(raw for one in namespaces or (None,) for raw in objects.list(UPSTREAM_POOL, one))
    except (ApiFailed, KindAbsent, Unreachable):
        return None


def gateway_pool_name(pool: InferencePool) -> str:
    """Name of the upstream object that stands for a pool."""
    return pool.spec.gateway.inference_pool.name or pool.name


def is_ours(raw: Raw, pool: InferencePool) -> bool:
    """Whether an upstream object was made by us for a pool."""
    meta = raw.get("metadata") or {}
    return bool(
        meta.get("namespace") == pool.namespace and (meta.get("labels") or {}).get(marks.POOL_LABEL) == pool.name
    )


def wanted_spec(pool: InferencePool, picker: GatewayPicker) -> dict[str, Any]:
    """The spec of the upstream object."""
    labels = {marks.POOL_LABEL: pool.name}
    if pool.spec.serving.template is not None:  # pods of adopted workloads have no such label
        labels[marks.ROUTABLE_LABEL] = "true"
    return {
        "selector": {"matchLabels": labels},
        "targetPorts": [{"number": pool.spec.serving.engine.port}],
        "endpointPickerRef": {
            "group": "",
            "kind": "Service",
            "name": picker.service,
            "port": {"number": picker.port},
            "failureMode": "FailOpen",
        },
    }


class GatewayPools:
    """Keeps the upstream objects as the pools ask; level-triggered, silent while nothing differs."""

    def __init__(self, actor: Actor, picker: GatewayPicker) -> None:
        self._actor, self._picker = actor, picker
        self._done: dict[str, dict[str, Any]] = {}
        self._told: set[str] = set()

    def keep(self, pool: InferencePool, there: Sequence[Raw] | None, decision_id: str) -> None:
        """Make, mend or remove the upstream object of a pool.

        Args:
            there: what exists, as last listed; ``None`` = unknown, or the cluster has no such kind.
        """
        creation, uid = pool.spec.gateway.inference_pool.creation, pool.metadata.uid
        if there is None:
            if creation is GatewayPoolCreation.CREATE and self._is_news(pool, "unknown"):
                self._actor.events.emit(
                    INFERENCE_POOL, pool.namespace, pool.name, uid, type_="Warning", reason="GatewayPoolUnknown",
                    message="upstream InferencePools (inference.networking.k8s.io) cannot be listed; install the "
                    "Gateway API Inference Extension's definitions, or set spec.gateway.inferencePool.creation: None",
                )  # fmt: skip
            return
        name, mine = gateway_pool_name(pool), [raw for raw in there if is_ours(raw, pool)]
        for raw in mine:
            if creation is not GatewayPoolCreation.CREATE or raw["metadata"]["name"] != name:
                self._delete(raw, decision_id)
        if creation is GatewayPoolCreation.NONE:
            return
        found = next(
            (
                raw
                for raw in there
                if (raw["metadata"].get("namespace"), raw["metadata"]["name"]) == (pool.namespace, name)
            ),
            None,
        )
        if creation is GatewayPoolCreation.REFERENCE:
            if found is None and self._is_news(pool, "missing"):
                self._actor.events.emit(
                    INFERENCE_POOL, pool.namespace, pool.name, uid, type_="Warning", reason="GatewayPoolMissing",
                    message=f"there is no upstream InferencePool {pool.namespace}/{name}; create it, or set "
                    "spec.gateway.inferencePool.creation: Create",
                )  # fmt: skip
            return
        spec = wanted_spec(pool, self._picker)
        if found is None:
            if self._done.get(uid) != spec and self._create(pool, name, spec, decision_id):
                self._done[uid] = spec
            return
        if not is_ours(found, pool):
            if self._is_news(pool, "taken"):
                self._actor.events.emit(
                    INFERENCE_POOL, pool.namespace, pool.name, uid, type_="Warning", reason="GatewayPoolTaken",
                    message=f"the upstream InferencePool {pool.namespace}/{name} is not ours and left alone; name "
                    "another one in spec.gateway.inferencePool.name, or set creation: Reference",
                )  # fmt: skip
            return
        self._done.pop(uid, None)
        if not _holds(found.get("spec"), spec):
            self._actor.execute(
                MergePatch(
                    kind=UPSTREAM_POOL,
                    namespace=pool.namespace,
                    name=name,
                    body={"spec": spec},
                    uid=found["metadata"]["uid"],
                    resource_version=found["metadata"]["resourceVersion"],
                    reason="the pool's gateway object differs from what it asks for",
                    decision_id=decision_id,
                )
            )

    def forget(self, uid: str) -> None:
        """A pool is gone."""
        self._done.pop(uid, None)
        self._told -= {one for one in self._told if one.startswith(f"{uid} ")}

    def remove(self, pool: InferencePool) -> bool:
        """Delete what we made for a pool; whether it is gone."""
        try:
            raw = self._actor.objects.get(UPSTREAM_POOL, pool.namespace, gateway_pool_name(pool))
        except KindAbsent:
            return True
        except (ApiFailed, Unreachable):
            return False
        return raw is None or not is_ours(raw, pool) or self._delete(raw, "")

    def _create(self, pool: InferencePool, name: str, spec: dict[str, Any], decision_id: str) -> bool:
        metadata = {"name": name, "namespace": pool.namespace, "labels": {marks.POOL_LABEL: pool.name}}
        outcome = self._actor.execute(
            Create(
                kind=UPSTREAM_POOL,
                body={"metadata": metadata, "spec": spec},
                reason="the pool asks for a gateway's InferencePool",
                decision_id=decision_id,
            )
        )
        return isinstance(outcome, Written | AlreadyExists)

    def _delete(self, raw: Raw, decision_id: str) -> bool:
        meta = raw["metadata"]
        outcome = self._actor.execute(
            Delete(
                kind=UPSTREAM_POOL,
                namespace=meta["namespace"],
                name=meta["name"],
                uid=meta["uid"],
                resource_version=meta["resourceVersion"],
                reason="the pool asks for no gateway object, or for one of another name",
                decision_id=decision_id,
            )
        )
        return isinstance(outcome, Written | Gone)

    def _is_news(self, pool: InferencePool, what: str) -> bool:
        """Whether this was not told of this pool in this term."""
        key = f"{pool.metadata.uid} {what}"
        known = key in self._told
        self._told.add(key)
        return not known


def _holds(found: object, wanted: object) -> bool:
    """Whether everything wanted is there; what somebody added beside it is theirs."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(_holds(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_holds, found, wanted))
    return found == wanted
