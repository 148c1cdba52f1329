"""Slim records of Pods, Nodes and workloads: what decisions look at, out of raw JSON, and nothing else.

A V1Pod of the client library takes 45 kB and a V1Node 38 kB. Here a `Pod` takes 0.9 kB, a `Node` with 32 labels 1.6 kB
and a `Workload` 1.6 kB (10,000 pods of 200 pools, 5,000 nodes; ``tests/cluster_unit/measure_records.py``), because
equal strings and equal small mappings (the labels of one ReplicaSet's pods differ in nothing) are shared. So a record's
mappings must not be changed.

Whatever is missing or of the wrong type in the JSON reads as absent: a record is always built, since one odd object
must not blind the operator to all others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, cast

from tidefleet.cluster.kinds import LEADER_WORKER_SET, Kind

OUR_PREFIX = "tidefleet.io/"
_NONE: Mapping[str, str] = {}
T = TypeVar("T")


KEPT_ANNOTATIONS = frozenset(
    {
        "karpenter.sh/do-not-disrupt",
        "cluster-autoscaler.kubernetes.io/scale-down-disabled",
        "cluster-autoscaler.kubernetes.io/safe-to-evict",
        "controller.kubernetes.io/pod-deletion-cost",
    }
)
"""Annotations of others that decisions look at, or that a flip writes and puts back."""


class Taint(NamedTuple):
    """One taint of a node; ``added`` is its ``timeAdded`` as it was read, empty without one."""

    key: str
    value: str
    effect: str
    added: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """What a decision needs of a Pod."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    """Only those under ``tidefleet.io/``, and ``KEPT_ANNOTATIONS``."""
    node: str
    """Empty until scheduled."""
    phase: str
    ready: bool
    pod_ip: str
    ports: tuple[tuple[str, int], ...]
    """(name, containerPort) of all containers, in order."""
    chips: Mapping[str, int]
    """Extended resources it holds on its node, e.g. ``{"nvidia.com/gpu": 2}``."""
    node_selector: Mapping[str, str]
    created: float
    """Unix seconds; 0 when unknown."""
    deleting: bool
    unschedulable_since: float | None
    unschedulable_message: str
    owner_uid: str
    """UID of the controlling owner (a ReplicaSet, StatefulSet, ...); empty without one."""
    restarts: int
    ends: float | None = None
    """When the grace of a pod that is being deleted ends, Unix seconds of the API server; it is gone a little later."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a decision needs of a Node."""

    name: str
    uid: str
    resource_version: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    """Only those under ``tidefleet.io/``, and ``KEPT_ANNOTATIONS``."""
    taints: tuple[Taint, ...]
    unschedulable: bool
    ready: bool
    conditions: Mapping[str, str]
    """Condition type to status, e.g. ``{"Ready": "True"}``."""
    allocatable: Mapping[str, int]
    """Extended resources, e.g. ``{"nvidia.com/gpu": 8}``."""
    created: float
    deleting: bool


@dataclass(frozen=True, slots=True)
class Workload:
    """What a decision needs of a Deployment, StatefulSet or LeaderWorkerSet."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    resource_version: str
    generation: int
    observed_generation: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    """Only those under ``tidefleet.io/``."""
    replicas: int
    """Desired; 1 where the spec leaves it out, as the API server would."""
    ready_replicas: int
    available_replicas: int
    updated_replicas: int
    selector: Mapping[str, str]
    """``matchLabels``; for a LeaderWorkerSet the label that its pods carry."""
    match_expressions_present: bool
    template_hash: str
    """SHA-256 of the pod template(s) as canonical JSON."""
    chips_per_pod: Mapping[str, int]
    pods_per_replica: int
    """1, but the group's size for a LeaderWorkerSet."""
    node_selector: Mapping[str, str]
    replicas_managers: tuple[str, ...]
    """Field managers that own ``spec.replicas``, sorted."""
    created: float
    deleting: bool


Record = Pod | Node | Workload


def same_but_version(one: Record, other: Record) -> bool:
    """Say whether two records differ in nothing but the resourceVersion (a heartbeat, someone else's annotation)."""
    if type(one) is not type(other):
        return False
    return all(
        getattr(one, field.name) == getattr(other, field.name)
        for field in fields(one)
        if field.name != "resource_version"
    )


def pod(raw: Mapping[str, Any]) -> Pod:
    """Return the record of a Pod's JSON."""
    meta, spec, status = _dict(raw.get("metadata")), _dict(raw.get("spec")), _dict(raw.get("status"))
    containers = _dicts(spec.get("containers"))
    conditions = {_str(one.get("type")): one for one in _dicts(status.get("conditions"))}
    scheduled = conditions.get("PodScheduled", {})
    waiting = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    return Pod(
        namespace=_shared(_str(meta.get("namespace"))),
        name=_str(meta.get("name")),
        uid=_str(meta.get("uid")),
        resource_version=_str(meta.get("resourceVersion")),
        labels=_strings(meta.get("labels")),
        annotations=_ours(meta.get("annotations")),
        node=_shared(_str(spec.get("nodeName"))),
        phase=_shared(_str(status.get("phase"))),
        ready=conditions.get("Ready", {}).get("status") == "True",
        pod_ip=_str(status.get("podIP")),
        ports=_ports(containers),
        chips=_chips_of_pod(spec),
        node_selector=_strings(spec.get("nodeSelector")),
        created=_unix(meta.get("creationTimestamp")) or 0.0,
        deleting=bool(meta.get("deletionTimestamp")),
        unschedulable_since=_unix(scheduled.get("lastTransitionTime")) if waiting else None,
        unschedulable_message=_shared(_str(scheduled.get("message"))) if waiting else "",
        owner_uid=_owner(meta),
        restarts=sum(_int(one.get("restartCount")) for one in _dicts(status.get("containerStatuses"))),
        ends=_unix(meta.get("deletionTimestamp")),
    )


def node(raw: Mapping[str, Any]) -> Node:
    """Return the record of a Node's JSON."""
    meta, spec, status = _dict(raw.get("metadata")), _dict(raw.get("spec")), _dict(raw.get("status"))
    conditions = _strings({_str(one.get("type")): one.get("status") for one in _dicts(status.get("conditions"))})
    taints = tuple(
        Taint(_str(one.get("key")), _str(one.get("value")), _str(one.get("effect")), _str(one.get("timeAdded")))
        for one in _dicts(spec.get("taints"))
    )
    return Node(
        name=_shared(_str(meta.get("name"))),
        uid=_str(meta.get("uid")),
        resource_version=_str(meta.get("resourceVersion")),
        labels=_own_strings(meta.get("labels")),
        annotations=_ours(meta.get("annotations")),
        taints=_shared_tuple(taints),
        unschedulable=spec.get("unschedulable") is True,
        ready=conditions.get("Ready") == "True",
        conditions=conditions,
        allocatable=_amounts((name, quantity(value)) for name, value in _dict(status.get("allocatable")).items()),
        created=_unix(meta.get("creationTimestamp")) or 0.0,
        deleting=bool(meta.get("deletionTimestamp")),
    )


def workload(kind: Kind, raw: Mapping[str, Any]) -> Workload:
    """Return the record of a Deployment's, StatefulSet's or LeaderWorkerSet's JSON."""
    meta, spec, status = _dict(raw.get("metadata")), _dict(raw.get("spec")), _dict(raw.get("status"))
    ready = _int(status.get("readyReplicas"))
    if kind == LEADER_WORKER_SET:
        group = _dict(spec.get("leaderWorkerTemplate"))
        template, hashed = _dict(group.get("workerTemplate")), group
        pods_per_replica = max(1, _int(group.get("size"), 1))
        selector: Mapping[str, Any] = {"leaderworkerset.sigs.k8s.io/name": meta.get("name")}
        expressions: object = None
    else:
        template = hashed = _dict(spec.get("template"))
        pods_per_replica = 1
        selector = _dict(_dict(spec.get("selector")).get("matchLabels"))
        expressions = _dict(spec.get("selector")).get("matchExpressions")
    pod_spec = _dict(template.get("spec"))
    return Workload(
        kind=kind,
        namespace=_shared(_str(meta.get("namespace"))),
        name=_str(meta.get("name")),
        uid=_str(meta.get("uid")),
        resource_version=_str(meta.get("resourceVersion")),
        generation=_int(meta.get("generation")),
        observed_generation=_int(status.get("observedGeneration")),
        labels=_strings(meta.get("labels")),
        annotations=_ours(meta.get("annotations")),
        replicas=_int(spec.get("replicas"), 1),
        ready_replicas=ready,
        available_replicas=_int(status.get("availableReplicas"), ready if kind == LEADER_WORKER_SET else 0),
        updated_replicas=_int(status.get("updatedReplicas")),
        selector=_strings(selector),
        match_expressions_present=bool(expressions),
        template_hash=template_hash(hashed),
        chips_per_pod=_chips_of_pod(pod_spec),
        pods_per_replica=pods_per_replica,
        node_selector=_strings(pod_spec.get("nodeSelector")),
        replicas_managers=replicas_managers(raw),
        created=_unix(meta.get("creationTimestamp")) or 0.0,
        deleting=bool(meta.get("deletionTimestamp")),
    )


def template_hash(template: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of a pod template, the same for any order of its keys."""
    return hashlib.sha256(json.dumps(template, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def replicas_managers(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the field managers that own ``spec.replicas`` of a raw object, sorted, each once."""
    owners = {
        _str(entry.get("manager"))
        for entry in _dicts(_dict(raw.get("metadata")).get("managedFields"))
        if "f:replicas" in _dict(_dict(entry.get("fieldsV1")).get("f:spec"))
    }
    return tuple(sorted(owner for owner in owners if owner))


def is_extended(resource: str) -> bool:
    """Say whether a resource name is an extended one (a device): a domain that is not Kubernetes' own."""
    return "/" in resource and "kubernetes.io/" not in resource and not resource.startswith("requests.")


_SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(value: object) -> int:
    """Return a Kubernetes quantity as a whole number; 0 when it is not one (devices come whole)."""
    if isinstance(value, bool):
        return 0
    text = str(value).strip() if isinstance(value, str | int | float) else ""
    factor = 1.0
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if text.endswith(suffix):
            text, factor = text.removesuffix(suffix), float(_SUFFIXES[suffix])
            break
    else:
        if text.endswith("m"):
            text, factor = text.removesuffix("m"), 0.001
    try:
        return max(0, int(float(text) * factor))
    except (ValueError, OverflowError):
        return 0


def _chips_of_pod(spec: Mapping[str, Any]) -> Mapping[str, int]:
    """Sum the containers' extended resources as the scheduler does.

    Containers and sidecars (init containers that restart) run together; an ordinary init container runs alone before
    them and counts only where it needs more.
    """
    together: dict[str, int] = {}
    alone: dict[str, int] = {}
    for container in _dicts(spec.get("containers")):
        for name, amount in _container_chips(container):
            together[name] = together.get(name, 0) + amount
    for container in _dicts(spec.get("initContainers")):
        for name, amount in _container_chips(container):
            if container.get("restartPolicy") == "Always":
                together[name] = together.get(name, 0) + amount
            else:
                alone[name] = max(alone.get(name, 0), amount)
    names = together.keys() | alone.keys()
    return _amounts((name, max(together.get(name, 0), alone.get(name, 0))) for name in names)


def _container_chips(container: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    resources = _dict(container.get("resources"))
    merged = {**_dict(resources.get("limits")), **_dict(resources.get("requests"))}
    return [(name, quantity(value)) for name, value in merged.items() if is_extended(name)]


def _ports(containers: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, int], ...]:
    ports = tuple(
        (_str(port.get("name")), _int(port.get("containerPort")))
        for container in containers
        for port in _dicts(container.get("ports"))
    )
    return _shared_tuple(ports)


def _owner(meta: Mapping[str, Any]) -> str:
    for reference in _dicts(meta.get("ownerReferences")):
        if reference.get("controller") is True:
            return _shared(_str(reference.get("uid")))
    return ""


def _ours(value: object) -> Mapping[str, str]:
    """Keep the annotations we look at, as they are: journals and decision ids differ from object to object."""
    kept = {
        _shared(k): v
        for k, v in _dict(value).items()
        if isinstance(v, str) and (k.startswith(OUR_PREFIX) or k in KEPT_ANNOTATIONS)
    }
    return kept or _NONE


def _own_strings(value: object) -> Mapping[str, str]:
    """Keep a mapping that no other object has (a node's labels hold its name), sharing its strings only."""
    return {_shared(name): _shared(text) for name, text in _dict(value).items() if isinstance(text, str)}


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""


def _int(value: object, default: int = 0) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _unix(value: object) -> float | None:
    try:
        return datetime.fromisoformat(_str(value)).timestamp()
    except ValueError:
        return None


# What is shared, is shared through bounded caches: interned strings would never be freed under Python 3.12.


@lru_cache(maxsize=16384)
def _shared(text: str) -> str:
    return text


@lru_cache(maxsize=8192)
def _shared_mapping(items: tuple[tuple[str, Any], ...]) -> Mapping[str, Any]:
    return {_shared(name): _shared(value) if isinstance(value, str) else value for name, value in items}


@lru_cache(maxsize=4096)
def _shared_items(items: tuple[Any, ...]) -> tuple[Any, ...]:
    return items


def _shared_tuple(items: tuple[T, ...]) -> tuple[T, ...]:
    return cast("tuple[T, ...]", _shared_items(items))


def _strings(value: object) -> Mapping[str, str]:
    return _shared_mapping(tuple(sorted((k, v) for k, v in _dict(value).items() if isinstance(v, str))))


def _amounts(items: Iterable[tuple[str, int]]) -> Mapping[str, int]:
    return _shared_mapping(tuple(sorted((name, amount) for name, amount in items if is_extended(name) and amount > 0)))
