"""Follows one collection of the API server: a paged list, then a watch resumed where it broke off.

``kubernetes.informer.SharedInformer`` (37.0.2) was looked at and does not fit: it keeps whole model objects (no
transform before its cache), lists without pages and outside its read timeout, never notices a stalled watch, and cannot
take the answer of our own write. This reflector hands raw objects to a sink that keeps what it wants.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import urllib3
from kubernetes.client import ApiClient

from tidefleet.cluster.kinds import Kind, path, root
from tidefleet.cluster.transport import Reply, Unreachable, send, stream

log = logging.getLogger(__name__)

PAGE = 500


class Sink(Protocol):
    """Where a reflector puts what it sees."""

    def replace(self, kind: Kind, scope: str, items: list[Any], version: str) -> None:
        """Take the complete state of (kind, scope) as of `version`: what is not among `items` is gone."""
        ...

    def convert(self, kind: Kind, raw: Mapping[str, Any]) -> Any:
        """Return what `replace` shall be given for a listed object (so that pages need not be kept)."""
        ...

    def event(self, kind: Kind, scope: str, type_: str, raw: Mapping[str, Any], version: str) -> None:
        """Take one ADDED, MODIFIED or DELETED object, or a BOOKMARK."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How a reflector waits, in real seconds."""

    watch_seconds: float = 300.0
    """The server ends a watch after about this (times 1 to 1.5, so that not all end at once)."""
    stall_seconds: float = 75.0
    """A watch that is silent for this long is broken off and the collection listed: bookmarks come once a minute."""
    list_seconds: float = 30.0
    """Longest silence while listing."""
    first_backoff_seconds: float = 0.5
    last_backoff_seconds: float = 30.0
    discovery_seconds: float = 30.0
    """How often an absent kind is looked for."""


class _Expired(Exception):
    """Our resourceVersion is too old (410): list again."""


class _Stalled(Exception):
    """Nothing arrived for too long."""


class _Broken(Exception):
    """The exchange failed; carries what the server asked us to wait."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Reflector:
    """One thread that keeps a sink in step with one collection.

    Args:
        api: the connection.
        kind: what to follow.
        scope: a namespace; empty for all of them (and for a cluster-scoped kind).
        sink: told of everything, from this thread.
        label_selector: as ``kubectl -l`` takes it.
        optional: the kind may be absent: that counts as an empty collection, and is looked at again now and then.
        pace: how to wait.
    """

    def __init__(
        self,
        api: ApiClient,
        kind: Kind,
        scope: str,
        sink: Sink,
        *,
        label_selector: str = "",
        optional: bool = False,
        pace: Pace | None = None,
    ) -> None:
        self._api, self.kind, self.scope, self._sink = api, kind, scope, sink
        self._label_selector, self._optional, self._pace = label_selector, optional, pace or Pace()
        self.synced = threading.Event()
        """Set by the first complete list (or when an optional kind was found absent)."""
        self.present = False
        """Whether the kind is served, as last found out; an interruption changes nothing."""
        self.last_contact = 0.0
        """Unix seconds (real) of the last complete list, watch event or bookmark; 0 before the first."""
        self.failures_total = 0
        self.last_error = ""
        self._version = ""
        self._failures = 0  # in a row
        self._response: urllib3.BaseHTTPResponse | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start following."""
        self._thread = threading.Thread(target=self._run, name=f"watch-{self.kind.plural}-{self.scope}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, also in the middle of a silent watch."""
        self._stop.set()
        response = self._response
        if response is not None:
            try:
                response.shutdown()
            except Exception as error:  # it ended meanwhile
                log.debug("watch of %s was over: %s", self.kind.plural, error)

    def join(self, timeout: float) -> None:
        """Wait for the thread to end."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._optional and not self._version and not self._is_served():
                    self._absent()
                    self._stop.wait(self._pace.discovery_seconds)
                    continue
                if not self._version:
                    self._list()
                self._watch()
                self._failures = 0
            except _Stalled:
                # Stalled on the way, or a server without bookmarks (it sends none for a kind it never saw an event
                # of): a list tells, and shows what a stalled watch has missed.
                log.info("watch of %s: nothing for %g s, listing again", self.kind.plural, self._pace.stall_seconds)
                self._version = ""
            except _Expired as error:
                log.info("watch of %s expired, listing again: %s", self.kind.plural, error)
                self._version = ""
                self._after_failure(None)  # a server that expires everything at once must not be stormed
            except (_Broken, Unreachable) as error:
                self.last_error = str(error)
                if not self._stop.is_set():
                    log.warning("watch of %s: %s", self.kind.plural, error)
                self._after_failure(error.retry_after_seconds if isinstance(error, _Broken) else None)
            except Exception as error:
                self.last_error = repr(error)
                log.exception("watch of %s", self.kind.plural)
                self._version = ""
                self._after_failure(None)

    def _after_failure(self, asked: float | None) -> None:
        self._failures += 1
        self.failures_total += 1
        if self._failures >= 3:
            # Resuming keeps failing: perhaps the server no longer knows our version (restored from a backup).
            self._version = ""
        backoff = min(self._pace.last_backoff_seconds, self._pace.first_backoff_seconds * 2 ** (self._failures - 1))
        self._stop.wait(max(asked or 0.0, backoff * random.uniform(0.5, 1.0)))  # noqa: S311 - jitter

    def _is_served(self) -> bool:
        # Asked of discovery, which everyone may read: for an absent kind a list is 403 rather than 404 without RBAC.
        reply = send(self._api, "GET", root(self.kind))
        if reply.status == 404:
            return False
        if not reply.ok:
            raise _Broken(reply.message, reply.retry_after_seconds)
        return any(one.get("name") == self.kind.plural for one in reply.json().get("resources") or [])

    def _absent(self) -> None:
        self.present = False
        self._sink.replace(self.kind, self.scope, [], "")
        self._contact()
        self.synced.set()

    def _contact(self) -> None:
        self.last_contact = time.time()

    def _list(self) -> None:
        query: dict[str, str | int] = {"limit": PAGE, "labelSelector": self._label_selector}
        items: list[Any] = []
        while not self._stop.is_set():
            reply = send(
                self._api,
                "GET",
                path(self.kind, self.scope),
                query=query,
                timeout_seconds=(5.0, self._pace.list_seconds),
            )
            if reply.status == 410 and "continue" in query:  # compacted while paging: begin again, in one piece
                items.clear()
                query = {"labelSelector": self._label_selector}
                continue
            self._raise_unless_ok(reply)
            page = reply.json()
            items.extend(self._sink.convert(self.kind, raw) for raw in page.get("items") or [])
            meta = page.get("metadata") or {}
            if meta.get("continue"):
                query["continue"] = meta["continue"]
                continue
            version = str(meta.get("resourceVersion") or "")
            if not version:
                raise _Broken("the list has no resourceVersion")
            self._sink.replace(self.kind, self.scope, items, version)
            self._version = version
            self.present = True
            self._contact()
            self.synced.set()
            return

    def _watch(self) -> None:
        """Follow until the server ends the watch."""
        query: dict[str, str | int] = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": max(1, round(self._pace.watch_seconds * random.uniform(1.0, 1.5))),  # noqa: S311
            "labelSelector": self._label_selector,
        }
        started, events = time.monotonic(), 0
        response = stream(
            self._api, path(self.kind, self.scope), query=query, timeout_seconds=(5.0, self._pace.stall_seconds)
        )
        try:
            self._response = response
            if self._stop.is_set():
                return
            if response.status != 200:
                self._raise_unless_ok(Reply(response.status, response.read(), response.headers))
            for line in self._lines(response):
                self._take(line)
                self._failures = 0
                events += 1
        finally:
            self._response = None
            response.close()
        if not events and time.monotonic() - started < 1.0 and not self._stop.is_set():
            raise _Broken("the watch ended at once")

    def _lines(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        rest = bytearray()
        try:
            for chunk in response.stream(65536):
                rest += chunk
                if b"\n" not in chunk:
                    continue
                *lines, tail = bytes(rest).split(b"\n")
                rest = bytearray(tail)
                yield from (line for line in lines if line)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            if self._stop.is_set():
                return
            if isinstance(error, urllib3.exceptions.ReadTimeoutError):
                raise _Stalled from error
            raise _Broken(f"the watch broke off: {type(error).__name__}: {error}") from error

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            type_, raw = event["type"], event["object"]
        except (ValueError, KeyError, TypeError) as error:
            raise _Broken(f"the watch sent something that is no event: {line[:200]!r}") from error
        if type_ == "ERROR":
            if raw.get("code") == 410:
                raise _Expired(raw.get("message"))
            raise _Broken(f"the watch sent an error: {raw.get('code')} {raw.get('message')}")
        version = str((raw.get("metadata") or {}).get("resourceVersion") or "")
        if not version:
            raise _Broken("the watch sent an object without a resourceVersion")
        self._sink.event(self.kind, self.scope, type_, raw, version)
        self._version = version
        self._contact()

    def _raise_unless_ok(self, reply: Reply) -> None:
        if reply.ok:
            return
        if reply.status == 410:
            raise _Expired(reply.message)
        if reply.status == 404:  # the CRD was taken away
            self._version = ""
        raise _Broken(f"{self.kind.plural}: {reply.message}", reply.retry_after_seconds)
