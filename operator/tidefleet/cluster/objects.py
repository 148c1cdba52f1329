"""Fresh reads of whole objects, for what no informer holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from kubernetes.client import ApiClient

from tidefleet.cluster.kinds import Kind, path, root
from tidefleet.cluster.transport import Reply, Unreachable, send

PAGE = 500


class ApiFailed(Exception):
    """The API server answered a read with an error (or, by `transport.Unreachable`, not at all)."""

    def __init__(self, what: str, reply: Reply) -> None:
        super().__init__(f"{what}: {reply.message}")
        self.status = reply.status


class KindAbsent(Exception):
    """The API server does not serve this kind (its CRD is not installed)."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(f"the API server does not serve {kind.kind} ({kind.group_version}); is its CRD installed?")
        self.kind = kind


class Objects:
    """Reads objects as raw dictionaries, straight from the API server.

    Every method may raise `ApiFailed` and `transport.Unreachable`, after 429, 5xx and lost connections were met with
    three attempts.

    Args:
        api: the connection.
        discovery_seconds: how long `exists` believes what it heard.
    """

    def __init__(self, api: ApiClient, *, discovery_seconds: float = 30.0) -> None:
        self._api = api
        self._discovery_seconds = discovery_seconds
        self._served: dict[str, tuple[float, frozenset[str]]] = {}
        self._lock = threading.Lock()

    def get(self, kind: Kind, namespace: str | None, name: str) -> dict[str, Any] | None:
        """Return one object; None when it does not exist (its namespace and its kind included)."""
        reply = self._read(path(kind, namespace, name))
        if reply.status == 404:
            return None
        if not reply.ok:
            raise ApiFailed(f"{kind.kind} {namespace or ''}/{name}", reply)
        return reply.json()

    def list(
        self, kind: Kind, namespace: str | None = None, label_selector: str = "", field_selector: str = ""
    ) -> list[dict[str, Any]]:
        """Return all objects of a kind, each with its apiVersion and kind filled in.

        Args:
            kind: what to list.
            namespace: where; None or empty for all namespaces.
            label_selector: as ``kubectl -l`` takes it.
            field_selector: as ``kubectl --field-selector`` takes it, e.g. ``spec.nodeName=gpu-1``.

        Raises:
            KindAbsent: when the API server does not serve the kind.
        """
        items: list[dict[str, Any]] = []
        query: dict[str, str | int] = {"limit": PAGE, "labelSelector": label_selector, "fieldSelector": field_selector}
        while True:
            reply = self._read(path(kind, namespace), query)
            if reply.status == 404:
                raise KindAbsent(kind)
            if reply.status == 410 and "continue" in query:  # compacted while paging: begin again, in one piece
                items.clear()
                query = {"labelSelector": label_selector, "fieldSelector": field_selector}
                continue
            if not reply.ok:
                raise ApiFailed(f"list of {kind.plural}", reply)
            page = reply.json()
            for item in page.get("items") or []:
                item.setdefault("apiVersion", kind.group_version)
                item.setdefault("kind", kind.kind)
                items.append(item)
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return items
            query["continue"] = token

    def exists(self, kind: Kind) -> bool:
        """Say whether the API server serves the kind now, as of at most `discovery_seconds` ago."""
        now = time.monotonic()
        with self._lock:
            at, plurals = self._served.get(kind.group_version, (float("-inf"), frozenset[str]()))
        if now - at > self._discovery_seconds:
            reply = self._read(root(kind))
            if reply.status == 404:
                plurals = frozenset()
            elif reply.ok:
                plurals = frozenset(str(one.get("name")) for one in reply.json().get("resources") or [])
            else:
                raise ApiFailed(f"discovery of {kind.group_version}", reply)
            with self._lock:
                self._served[kind.group_version] = (now, plurals)
        return kind.plural in plurals

    def _read(self, address: str, query: Mapping[str, str | int] | None = None) -> Reply:
        for pause in (0.1, 0.4):
            asked = 0.0
            try:
                reply = send(self._api, "GET", address, query=query)
            except Unreachable:
                pass  # a pooled connection that the server had closed is the usual reason
            else:
                if reply.status != 429 and reply.status < 500:
                    return reply
                asked = min(2.0, reply.retry_after_seconds or 0.0)
            time.sleep(max(pause, asked))
        return send(self._api, "GET", address, query=query)
