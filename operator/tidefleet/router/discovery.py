"""Which pools there are and who serves them, followed on the API server; what was known stays known while it is away.

Pods are matched to our pools by their label, and to pools of the Gateway API Inference Extension by that pool's
selector, so a cluster without our operator is served, too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubernetes.client import ApiClient

from tidefleet.api import AcceleratorType, InferencePool, WorkloadClass
from tidefleet.api.validation import parse
from tidefleet.cluster.kinds import (
    ACCELERATOR_TYPE,
    INFERENCE_POOL,
    POD,
    UPSTREAM_POOL,
    WORKLOAD_CLASS,
    Kind,
)
from tidefleet.cluster.labels import POOL_LABEL
from tidefleet.cluster.reflector import Pace, Reflector
from tidefleet.router.serving_pods import Rank, SlimPod, ranks_of, slim

log = logging.getLogger(__name__)

KINDS = (POD, INFERENCE_POOL, WORKLOAD_CLASS, ACCELERATOR_TYPE, UPSTREAM_POOL)
_OURS = {INFERENCE_POOL: InferencePool, WORKLOAD_CLASS: WorkloadClass, ACCELERATOR_TYPE: AcceleratorType}
MOST_TARGET_PORTS = 8
"""Of an upstream pool, as its own schema has it."""

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ServedPool:
    """One pool and who serves it.

    Attributes:
        spec: our InferencePool; None for a pool that only the gateway's own kind describes.
        gateway_names: names by which a gateway may call it: those of upstream objects that stand for it.
        ranks: sorted by address.
    """

    namespace: str
    name: str
    spec: InferencePool | None
    gateway_names: tuple[str, ...]
    classes: tuple[WorkloadClass, ...]
    ranks: tuple[Rank, ...]

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def models(self) -> frozenset[str]:
        """Names of models and adapters that a request may ask this pool for."""
        own: set[str] = set()
        if self.spec is not None:
            model = self.spec.spec.model
            own |= {model.name or self.name, *(one.name for one in model.adapters)}
        for one in self.classes:
            own |= {*(str(name) for name in one.spec.match.models)} if one.spec.match else set()
        for rank in self.ranks:
            own |= {*rank.served_names, *rank.adapters, *((rank.model,) if rank.model else ())}
        return frozenset(own)


@dataclass(frozen=True, slots=True)
class Fleet:
    """All that was found, at one moment."""

    pools: tuple[ServedPool, ...]
    accelerators: Mapping[str, AcceleratorType]


class Discovery:
    """Follows the API server in threads of its own.

    Args:
        api: the connection.
        namespaces: where to look; empty for everywhere.
        on_change: called, from any thread, after something changed; keep it short.
    """

    def __init__(
        self,
        api: ApiClient,
        namespaces: Sequence[str] = (),
        on_change: Callable[[], None] | None = None,
        *,
        pace: Pace | None = None,
    ) -> None:
        self._on_change = on_change or (lambda: None)
        self._lock = threading.Lock()
        self._kept: dict[Kind, dict[Key, Any]] = {kind: {} for kind in KINDS}
        scopes = sorted(set(namespaces or [""]))
        self._reflectors = [
            Reflector(api, kind, scope, self, optional=kind is not POD, pace=pace)
            for kind in KINDS
            for scope in (scopes if kind.namespaced else [""])
        ]

    def start(self) -> None:
        """Start the watches."""
        for one in self._reflectors:
            one.start()

    def stop(self) -> None:
        """Stop the watches and wait a moment for their threads."""
        for one in self._reflectors:
            one.stop()
        for one in self._reflectors:
            one.join(2.0)

    @property
    def synced(self) -> bool:
        """Whether every kind was listed once, or is known to be absent."""
        return all(one.synced.is_set() for one in self._reflectors)

    @property
    def last_contact(self) -> float:
        """Real Unix time of the last sign of the watch that lags most; 0 before the first."""
        return min(one.last_contact for one in self._reflectors if one.kind is POD)

    # --- what the reflectors call ------------------------------------------------------------------------------------

    def convert(self, kind: Kind, raw: Mapping[str, Any]) -> Any:
        """What is kept of an object; None of one that is of no use here."""
        if kind is POD:
            return slim(raw)
        if kind is UPSTREAM_POOL:
            return _upstream(raw)
        found = parse({"apiVersion": kind.group_version, "kind": kind.kind, **raw})
        return found if isinstance(found, _OURS[kind]) else None

    def replace(self, kind: Kind, scope: str, items: list[Any], version: str) -> None:
        """Take the complete state of a kind."""
        del version
        with self._lock:
            kept = self._kept[kind]
            fresh = {_key(one): one for one in items if one is not None}
            for key in [key for key in kept if (not scope or key[0] == scope) and key not in fresh]:
                del kept[key]
            kept.update(fresh)
        self._on_change()

    def event(self, kind: Kind, scope: str, type_: str, raw: Mapping[str, Any], version: str) -> None:
        """Take one change."""
        del scope, version
        if type_ == "BOOKMARK":
            return
        found = self.convert(kind, raw)
        meta = raw.get("metadata") or {}
        key = (str(meta.get("namespace") or ""), str(meta.get("name") or ""))
        with self._lock:
            kept = self._kept[kind]
            before = kept.get(key)
            if type_ == "DELETED":
                kept.pop(key, None)
            elif found is not None:
                kept[key] = found
            elif kind is POD or before is None:
                kept.pop(key, None)
            # An object of ours that became unreadable keeps what it last said.
            changed = kept.get(key) is not before and kept.get(key) != before
        if changed:
            self._on_change()

    # --- what the router reads ---------------------------------------------------------------------------------------

    def fleet(self) -> Fleet:
        """What is known now."""
        with self._lock:
            kept = {kind: list(found.values()) for kind, found in self._kept.items()}
        pools: list[InferencePool] = kept[INFERENCE_POOL]
        upstream: list[UpstreamPool] = kept[UPSTREAM_POOL]
        pods: list[SlimPod] = kept[POD]
        by_pool: dict[Key, list[SlimPod]] = {}
        for pod in pods:
            if name := pod.record.labels.get(POOL_LABEL):
                by_pool.setdefault((pod.record.namespace, name), []).append(pod)
        found: list[ServedPool] = []
        taken: set[Key] = set()
        for pool in pools:
            key = (pool.namespace, pool.name)
            stand_ins = [one for one in upstream if one.namespace == key[0] and one.name == _gateway_name(pool)]
            selected = by_pool.get(key, [])
            for one in stand_ins:  # one that is selected twice is one rank: they are told apart by address
                selected = [*selected, *(pod for pod in pods if one.selects(pod))]
            taken |= {(one.namespace, one.name) for one in stand_ins}
            port = pool.spec.serving.engine.port
            found.append(
                ServedPool(
                    *key,
                    spec=pool,
                    gateway_names=tuple(one.name for one in stand_ins),
                    classes=_classes(kept[WORKLOAD_CLASS], pool),
                    ranks=_ranks(selected, pool.name, (port,)),
                )
            )
        for one in upstream:
            if (one.namespace, one.name) not in taken:
                ranks = _ranks([pod for pod in pods if one.selects(pod)], one.name, one.ports)
                found.append(ServedPool(one.namespace, one.name, None, (one.name,), (), ranks))
        found.sort(key=lambda one: one.key)
        return Fleet(tuple(found), {one.name: one for one in kept[ACCELERATOR_TYPE]})


@dataclass(frozen=True, slots=True)
class UpstreamPool:
    """What counts of an ``inference.networking.k8s.io`` InferencePool: whom it selects, on which ports."""

    namespace: str
    name: str
    labels: tuple[tuple[str, str], ...]
    ports: tuple[int, ...]

    def selects(self, pod: SlimPod) -> bool:
        """Whether a pod is one of its endpoints."""
        own = pod.record
        return own.namespace == self.namespace and all(own.labels.get(name) == value for name, value in self.labels)


def _upstream(raw: Mapping[str, Any]) -> UpstreamPool | None:
    meta, spec = raw.get("metadata"), raw.get("spec")
    if not isinstance(meta, dict) or not isinstance(spec, dict):
        return None
    selector = spec.get("selector")
    labels = selector.get("matchLabels") if isinstance(selector, dict) else None
    if not isinstance(labels, dict) or not labels:
        return None  # it would select every pod
    listed = spec.get("targetPorts")
    numbers = [one.get("number") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    ports = tuple(one for one in numbers if isinstance(one, int) and 0 < one < 65536)[:MOST_TARGET_PORTS]
    pairs = tuple(sorted((str(name), str(value)) for name, value in labels.items()))
    return UpstreamPool(str(meta.get("namespace") or ""), str(meta.get("name") or ""), pairs, ports)


def _gateway_name(pool: InferencePool) -> str:
    return pool.spec.gateway.inference_pool.name or pool.name


def _classes(classes: Iterable[WorkloadClass], pool: InferencePool) -> tuple[WorkloadClass, ...]:
    own = [one for one in classes if one.namespace == pool.namespace and one.spec.pool_ref.name == pool.name]
    return tuple(sorted(own, key=lambda one: one.name))


def _ranks(pods: Iterable[SlimPod], pool: str, ports: Sequence[int]) -> tuple[Rank, ...]:
    ranks = {rank.address: rank for pod in pods for rank in ranks_of(pod, pool, ports)}
    return tuple(ranks[address] for address in sorted(ranks))


def _key(one: Any) -> Key:
    own = one.record if isinstance(one, SlimPod) else one
    return (str(own.namespace or ""), str(own.name))
