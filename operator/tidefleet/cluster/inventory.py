"""What is in the cluster now: slim records of Pods, Nodes and workloads, kept by watches, indexed for the fleet loop.

Built on `reflector` rather than on the client library's informer (its docstring says why). Records are replaced, never
changed, so a list handed out stays as it was.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from kubernetes.client import ApiClient

from tidefleet.cluster import records
from tidefleet.cluster.kinds import DEPLOYMENT, LEADER_WORKER_SET, NODE, POD, STATEFUL_SET, Kind
from tidefleet.cluster.labels import POOL_LABEL
from tidefleet.cluster.records import Node, Pod, Record, Workload, same_but_version
from tidefleet.cluster.reflector import Pace, Reflector

log = logging.getLogger(__name__)

WORKLOAD_KINDS = (DEPLOYMENT, STATEFUL_SET, LEADER_WORKER_SET)
_KINDS = {(one.group_version, one.kind): one for one in (POD, NODE, *WORKLOAD_KINDS)}
_NUMERIC = re.compile(r"[1-9][0-9]*")

K = TypeVar("K")
Key = tuple[str, str]
"""(namespace, name); the namespace of a cluster-scoped object is empty."""


class Inventory:
    """A view of the cluster that is a moment old, cheap to read, and repairs itself.

    Args:
        api: the connection.
        namespaces: where to look for Pods and workloads; None or empty for everywhere.
        node_selector: which Nodes belong to the fleet, as ``kubectl -l`` takes it; None for all.
        on_change: told the plural of the kind (``pods``, ``nodes``, ``deployments``, ...) after a record appeared, went
            or changed in more than its resourceVersion. Called from the watching threads; keep it short.
        pace: how the watches wait.
    """

    def __init__(
        self,
        api: ApiClient,
        namespaces: Sequence[str] | None = None,
        node_selector: str | None = None,
        on_change: Callable[[str], None] | None = None,
        *,
        pace: Pace | None = None,
    ) -> None:
        self._on_change = on_change
        self._lock = threading.RLock()
        self._records: dict[Kind, dict[Key, Record]] = {kind: {} for kind in _KINDS.values()}
        self._pods_by_namespace: dict[str, dict[str, Pod]] = {}
        self._pods_by_pool: dict[Key, dict[str, Pod]] = {}
        self._seen: dict[tuple[Kind, str], str] = {}  # how far each watch has come
        self._noted: dict[tuple[Kind, Key], str] = {}  # versions of our own writes the watch has not reached
        scopes = sorted(set(namespaces or [""]))
        self._all_namespaces = scopes == [""]
        self._reflectors = [Reflector(api, NODE, "", self, label_selector=node_selector or "", pace=pace)]
        for kind in (POD, *WORKLOAD_KINDS):
            optional = kind == LEADER_WORKER_SET
            self._reflectors += [Reflector(api, kind, scope, self, optional=optional, pace=pace) for scope in scopes]

    def start(self) -> None:
        """Start the watches."""
        for reflector in self._reflectors:
            reflector.start()

    def stop(self) -> None:
        """Stop the watches and wait a moment for their threads."""
        for reflector in self._reflectors:
            reflector.stop()
        deadline = time.monotonic() + 5.0
        for reflector in self._reflectors:
            reflector.join(max(0.0, deadline - time.monotonic()))

    def wait_synced(self, timeout: float) -> bool:
        """Wait until every kind was listed once; False when that took longer than `timeout` real seconds."""
        deadline = time.monotonic() + timeout
        return all(one.synced.wait(max(0.0, deadline - time.monotonic())) for one in self._reflectors)

    def last_sync(self) -> dict[str, float]:
        """Return, per plural, the real Unix time of the last complete list, watch event or bookmark (0: none yet).

        A healthy quiet watch hears a bookmark about once a minute. With several namespaces: of the one that lags most.
        """
        times: dict[str, float] = {}
        for one in self._reflectors:
            times[one.kind.plural] = min(times.get(one.kind.plural, one.last_contact), one.last_contact)
        return times

    def serves(self, kind: Kind) -> bool:
        """Say whether the API server has this kind; only LeaderWorkerSets may be absent."""
        return any(one.present for one in self._reflectors if one.kind == kind)

    def errors(self) -> dict[str, str]:
        """Return, per plural, the last error of a watch that has never synced (e.g. a missing RBAC verb)."""
        waiting = [one for one in self._reflectors if not one.synced.is_set()]
        return {one.kind.plural: one.last_error for one in waiting if one.last_error}

    @property
    def is_cluster_wide(self) -> bool:
        """Whether the pods of all namespaces are watched."""
        return self._all_namespaces

    # ------------------------------------------------------------------ reading

    def pods(self, namespace: str | None = None, selector: Mapping[str, str] | None = None) -> list[Pod]:
        """Return the pods of a namespace (None: of all) whose labels contain `selector`."""
        with self._lock:
            pool = (selector or {}).get(POOL_LABEL)
            if namespace is not None and pool is not None:
                found = list(self._pods_by_pool.get((namespace, pool), {}).values())
            elif namespace is not None:
                found = list(self._pods_by_namespace.get(namespace, {}).values())
            else:
                found = [pod for pods in self._pods_by_namespace.values() for pod in pods.values()]
        if not selector:
            return found
        wanted = selector.items()
        return [pod for pod in found if wanted <= pod.labels.items()]

    def pods_of_pool(self, namespace: str, pool: str) -> list[Pod]:
        """Return the pods of a namespace labelled ``tidefleet.io/pool: <pool>``, without looking at any other."""
        with self._lock:
            return list(self._pods_by_pool.get((namespace, pool), {}).values())

    def nodes(self) -> list[Node]:
        """Return the fleet's nodes."""
        with self._lock:
            return [one for one in self._records[NODE].values() if isinstance(one, Node)]

    def node(self, name: str) -> Node | None:
        """Return one of the fleet's nodes."""
        with self._lock:
            found = self._records[NODE].get(("", name))
        return found if isinstance(found, Node) else None

    def workloads(self, namespace: str | None = None) -> list[Workload]:
        """Return Deployments, StatefulSets and LeaderWorkerSets of a namespace (None: of all)."""
        with self._lock:
            return [
                one
                for kind in WORKLOAD_KINDS
                for (where, _), one in self._records[kind].items()
                if isinstance(one, Workload) and (namespace is None or where == namespace)
            ]

    def workload(self, kind: Kind, namespace: str, name: str) -> Workload | None:
        """Return one Deployment, StatefulSet or LeaderWorkerSet."""
        with self._lock:
            found = self._records.get(kind, {}).get((namespace, name))
        return found if isinstance(found, Workload) else None

    # ------------------------------------------------------------------ our own writes

    def note_written(self, raw: Mapping[str, Any]) -> None:
        """Take the API server's answer to our own write, ahead of the watch; anything else is ignored.

        Never goes back: an answer is taken only when its resourceVersion is above all that the watch has delivered
        (otherwise the watch has shown this state, or a later one, or the deletion, already). Versions are compared as
        decimal numbers, as Kubernetes 1.35 documents for objects of one resource, and not at all when they are not.
        """
        kind = _KINDS.get((str(raw.get("apiVersion")), str(raw.get("kind"))))
        meta = raw.get("metadata")
        if kind is None or not isinstance(meta, Mapping) or not meta.get("uid") or not meta.get("name"):
            return
        key = (str(meta.get("namespace") or ""), str(meta["name"]))
        version = str(meta.get("resourceVersion") or "")
        with self._lock:
            seen = self._seen.get((kind, key[0])) or self._seen.get((kind, ""))
            if seen is None or not _is_later(version, seen) or (kind == NODE and key not in self._records[NODE]):
                # A node not yet known may lie outside the fleet: only the watch can tell.
                return
            noted = self._noted.get((kind, key))
            if noted is not None and not _is_later(version, noted):
                return
            if meta.get("deletionTimestamp") and not meta.get("finalizers"):
                return  # the answer to a deletion that is complete: the watch will say so
            self._noted[(kind, key)] = version
            changed = self._put(kind, key, self.convert(kind, raw))
        self._tell(kind, changed=changed)

    # ------------------------------------------------------------------ the reflectors' sink

    def convert(self, kind: Kind, raw: Mapping[str, Any]) -> Record:
        """Return the slim record of a raw object."""
        if kind == POD:
            return records.pod(raw)
        if kind == NODE:
            return records.node(raw)
        return records.workload(kind, raw)

    def replace(self, kind: Kind, scope: str, items: list[Record], version: str) -> None:
        """Take a complete list: what is not in it is gone, unless we wrote it after the list was made."""
        changed = False
        with self._lock:
            self._seen[(kind, scope)] = version
            listed = {_key(one): one for one in items}
            here = [key for key in self._records[kind] if not scope or key[0] == scope]
            for key in here:
                if key not in listed and not self._is_ahead(kind, key, version):
                    changed |= self._remove(kind, key)
            for key, one in listed.items():
                if not self._is_ahead(kind, key, version):
                    changed |= self._put(kind, key, one)
        self._tell(kind, changed=changed)

    def event(self, kind: Kind, scope: str, type_: str, raw: Mapping[str, Any], version: str) -> None:
        """Take one event of a watch."""
        changed = False
        with self._lock:
            self._seen[(kind, scope)] = version
            if type_ != "BOOKMARK":
                one = self.convert(kind, raw)
                key = _key(one)
                if self._is_ahead(kind, key, version):
                    return
                changed = self._remove(kind, key) if type_ == "DELETED" else self._put(kind, key, one)
        self._tell(kind, changed=changed)

    def _is_ahead(self, kind: Kind, key: Key, version: str) -> bool:
        """Say whether our own write is later than what a watch or list shows; forgets it when not."""
        noted = self._noted.get((kind, key))
        if noted is None:
            return False
        if _is_later(noted, version):
            return True
        del self._noted[(kind, key)]
        return False

    def _put(self, kind: Kind, key: Key, one: Record) -> bool:
        before = self._records[kind].get(key)
        self._records[kind][key] = one
        if isinstance(one, Pod):
            if isinstance(before, Pod) and before.labels.get(POOL_LABEL) != one.labels.get(POOL_LABEL):
                self._unindex(before)
            self._pods_by_namespace.setdefault(one.namespace, {})[one.name] = one
            pool = one.labels.get(POOL_LABEL)
            if pool is not None:
                self._pods_by_pool.setdefault((one.namespace, pool), {})[one.name] = one
        return before is None or not same_but_version(before, one)

    def _remove(self, kind: Kind, key: Key) -> bool:
        before = self._records[kind].pop(key, None)
        if isinstance(before, Pod):
            self._unindex(before)
        return before is not None

    def _unindex(self, pod: Pod) -> None:
        pool = pod.labels.get(POOL_LABEL)
        _drop(self._pods_by_namespace, pod.namespace, pod.name)
        if pool is not None:
            _drop(self._pods_by_pool, (pod.namespace, pool), pod.name)

    def _tell(self, kind: Kind, *, changed: bool) -> None:
        if not changed or self._on_change is None:
            return
        try:
            self._on_change(kind.plural)
        except Exception:
            log.exception("on_change(%s)", kind.plural)


def _drop(index: dict[K, dict[str, Pod]], key: K, name: str) -> None:
    entries = index.get(key, {})
    entries.pop(name, None)
    if not entries:
        index.pop(key, None)


def _key(one: Record) -> Key:
    return ("" if isinstance(one, Node) else one.namespace, one.name)


def _is_later(version: str, than: str) -> bool:
    """Compare two resourceVersions of one resource; False when they are not both decimal numbers."""
    if not _NUMERIC.fullmatch(version) or not _NUMERIC.fullmatch(than):
        return False
    return int(version) > int(than)
