"""The custom resources as last seen, parsed once per version; fed by watches and by fresh lists."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tidefleet.api import AcceleratorType, InferencePool, Metadata, Site, WorkloadClass
from tidefleet.api.validation import Invalid, parse
from tidefleet.cluster.kinds import ACCELERATOR_TYPE, INFERENCE_POOL, SITE, WORKLOAD_CLASS, Kind
from tidefleet.controller.marks import HISTORY_ANNOTATION

KINDS = (INFERENCE_POOL, WORKLOAD_CLASS, ACCELERATOR_TYPE, SITE)
Parsed = InferencePool | WorkloadClass | AcceleratorType | Site | Invalid
Key = tuple[str, str]

REMEMBERED_DELETIONS = 1024
"""Uids of deleted objects: a late answer about one of them must not bring it back."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One custom resource: its JSON as the API server sent it, what we read of it, and its status there."""

    kind: Kind
    metadata: Metadata
    raw: Mapping[str, Any]
    parsed: Parsed

    @property
    def status(self) -> Mapping[str, Any]:
        """The status in the cluster; empty when there is none."""
        status = self.raw.get("status")
        return status if isinstance(status, Mapping) else {}


def _is_newer(version: str, than: str) -> bool:
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than


class Store:
    """Thread-safe. ``on_change`` is called, from any thread, when a spec or the existence of an object changed."""

    def __init__(self, on_change: Callable[[Kind, Key], None] | None = None) -> None:
        self._objects: dict[Kind, dict[Key, Seen]] = {kind: {} for kind in KINDS}
        self._gone: dict[str, None] = {}
        self._lock = threading.Lock()
        self._on_change = on_change

    def put(self, kind: Kind, raw: Mapping[str, Any]) -> None:
        """Take in an object, unless a newer version of it is known."""
        metadata = Metadata.read(raw.get("metadata"))
        key = (metadata.namespace if kind.namespaced else "", metadata.name)
        with self._lock:
            known = self._objects[kind].get(key)
            if (
                known is not None
                and known.metadata.uid == metadata.uid
                and not _is_newer(metadata.resource_version, known.metadata.resource_version)
            ):
                return
        body = {"apiVersion": kind.group_version, "kind": kind.kind, **raw}
        seen = Seen(kind, metadata, body, parse(body))
        with self._lock:
            now = self._objects[kind].get(key)
            if now is not known or metadata.uid in self._gone:
                return  # somebody was faster, with something newer or a deletion; the next event settles it
            self._objects[kind][key] = seen
        if known is None or known.metadata.uid != metadata.uid or _differs(known, seen):
            self._tell(kind, key)

    def remove(self, kind: Kind, namespace: str, name: str, uid: str = "") -> None:
        """Forget an object; with a uid only if it is that very one."""
        key = (namespace if kind.namespaced else "", name)
        with self._lock:
            known = self._objects[kind].get(key)
            if known is None or (uid and known.metadata.uid != uid):
                return
            del self._objects[kind][key]
            self._gone[known.metadata.uid] = None
            while len(self._gone) > REMEMBERED_DELETIONS:
                self._gone.pop(next(iter(self._gone)))
        self._tell(kind, key)

    def replace(self, kind: Kind, items: Iterable[Mapping[str, Any]], known_before: Iterable[Key]) -> None:
        """Reconcile with a fresh list: take in what it holds, forget what was known before it and is not in it."""
        listed = set()
        for raw in items:
            metadata = Metadata.read(raw.get("metadata"))
            listed.add((metadata.namespace if kind.namespaced else "", metadata.name))
            self.put(kind, raw)
        for key in set(known_before) - listed:
            self.remove(kind, *key)

    def keys(self, kind: Kind) -> list[Key]:
        """Namespace and name of every object of a kind."""
        with self._lock:
            return list(self._objects[kind])

    def all(self, kind: Kind) -> list[Seen]:
        """Every object of a kind, by namespace and name."""
        with self._lock:
            return [seen for _, seen in sorted(self._objects[kind].items())]

    def get(self, kind: Kind, namespace: str, name: str) -> Seen | None:
        """One object."""
        with self._lock:
            return self._objects[kind].get((namespace if kind.namespaced else "", name))

    def _tell(self, kind: Kind, key: Key) -> None:
        if self._on_change is not None:
            self._on_change(kind, key)


def _differs(before: Seen, after: Seen) -> bool:
    one, other = before.metadata, after.metadata
    return (one.generation, one.deletion_timestamp, _asked_by(one), one.finalizers) != (
        other.generation,
        other.deletion_timestamp,
        _asked_by(other),
        other.finalizers,
    )


def _asked_by(metadata: Metadata) -> dict[str, str]:
    """Annotations that may ask for something; the history of demand is our own note to the next leader."""
    return {key: value for key, value in metadata.annotations.items() if key != HISTORY_ANNOTATION}
