"""What the operator tells people about an object, as Kubernetes Events that never flood and never fail.

The same words about the same object are written once and then counted for ten minutes; the count follows as the Event's
series. Writing happens in a thread behind a bounded queue, so neither a slow API server nor a chatty loop can hold up
a decision.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from kubernetes.client import ApiClient

from tidefleet.cluster.kinds import EVENT, Kind, path
from tidefleet.cluster.transport import MERGE, Unreachable, send

log = logging.getLogger(__name__)

AGGREGATION_SECONDS = 600.0
NOTE_LIMIT = 1024
"""Bytes of ``note`` that events.k8s.io/v1 accepts; longer notes are cut."""


class _About(NamedTuple):
    kind: Kind
    namespace: str
    name: str
    uid: str


class _Words(NamedTuple):
    type_: str
    reason: str
    message: str


@dataclass(slots=True)
class _Series:
    """One (object, reason, message) as last written."""

    body: Mapping[str, Any]
    written_at: float
    count: int = 1
    event_name: str = ""
    last_seen: str = ""
    waiting: bool = field(default=False)


class EventSink:
    """Writes Events; all methods return at once and raise nothing.

    Args:
        api: the connection.
        component: ``reportingController`` of the Events.
        aggregation_seconds: how long equal Events are only counted, in real seconds.
        remembered: how many (object, reason, message) are remembered at most; the oldest are forgotten first.
        burst: how many different Events one object may have at once; refilled one per `refill_seconds`.
        refill_seconds: see `burst`.
        now: the monotonic clock; tests pass their own.
    """

    def __init__(
        self,
        api: ApiClient,
        component: str = "tidefleet",
        *,
        instance: str = "",
        aggregation_seconds: float = AGGREGATION_SECONDS,
        remembered: int = 4096,
        burst: int = 25,
        refill_seconds: float = 30.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._component = api, component
        self._instance = (instance or f"{component}-{socket.gethostname()}")[:128]
        self._aggregation_seconds, self._remembered = aggregation_seconds, remembered
        self._burst, self._refill_seconds, self._now = burst, refill_seconds, now
        self._series: OrderedDict[tuple[_About, _Words], _Series] = OrderedDict()
        self._buckets: OrderedDict[_About, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._queue: queue.Queue[_Series | None] = queue.Queue(maxsize=2048)
        self._thread: threading.Thread | None = None
        self.written_total = 0
        """Requests that the API server has carried out."""
        self.dropped_total = 0
        """Events not written: rate limit, full queue, or refused by the API server."""

    def emit(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        uid: str,
        *,
        type_: str,
        reason: str,
        message: str,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """Tell something about an object.

        Args:
            kind: of the object.
            namespace: of the object; None or empty when it is cluster-scoped (its Events go to ``default``).
            name: of the object.
            uid: of the object.
            type_: ``Normal`` or ``Warning``.
            reason: a stable word in UpperCamelCase, at most 128 characters.
            message: for a person, at most 1,024 bytes; longer ones are cut.
            annotations: e.g. the decision id.
        """
        try:
            self._emit(_About(kind, namespace or "", name, uid), _Words(type_, reason, message), annotations or {})
        except Exception:
            self.dropped_total += 1
            log.exception("Event %s about %s %s/%s not written", reason, kind.kind, namespace, name)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything emitted so far was sent or given up; False when that took longer than `timeout`."""
        deadline = time.monotonic() + timeout
        while self._queue.unfinished_tasks:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def close(self, timeout: float = 5.0) -> None:
        """Flush, then end the thread."""
        self.flush(timeout)
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                return
            thread.join(timeout)

    def _emit(self, about: _About, words: _Words, annotations: Mapping[str, str]) -> None:
        now, stamp = self._now(), _microtime()
        key = (about, words)
        with self._lock:
            series = self._series.get(key)
            if series is not None:
                self._series.move_to_end(key)
                series.count += 1
                series.last_seen = stamp
                if now - series.written_at < self._aggregation_seconds or series.waiting:
                    return
                series.written_at = now
            else:
                if not self._allowed(about, now):
                    self.dropped_total += 1
                    return
                series = _Series(self._body(about, words, annotations, stamp), now)
                self._series[key] = series
                while len(self._series) > self._remembered:
                    self._series.popitem(last=False)
            series.waiting = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()
        try:
            self._queue.put_nowait(series)
        except queue.Full:
            series.waiting = False
            self.dropped_total += 1

    def _allowed(self, about: _About, now: float) -> bool:
        tokens, at = self._buckets.pop(about, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - at) / self._refill_seconds)
        self._buckets[about] = (tokens - 1 if tokens >= 1 else tokens, now)
        while len(self._buckets) > self._remembered:
            self._buckets.popitem(last=False)
        return tokens >= 1

    def _body(self, about: _About, words: _Words, annotations: Mapping[str, str], stamp: str) -> dict[str, Any]:
        kind, namespace, name, uid = about
        regarding = {"apiVersion": kind.group_version, "kind": kind.kind, "name": name, "uid": uid}
        if namespace:
            regarding["namespace"] = namespace
        return {
            "apiVersion": EVENT.group_version,
            "kind": EVENT.kind,
            "metadata": {
                "name": f"{name[:200].rstrip('.-')}.{uuid.uuid4().hex[:16]}",
                "namespace": namespace or "default",
                "annotations": dict(annotations),
            },
            "regarding": regarding,
            "type": words.type_,
            "reason": words.reason[:128],
            "action": words.reason[:128],
            "note": _cut(words.message),
            "eventTime": stamp,
            "reportingController": self._component,
            "reportingInstance": self._instance,
        }

    def _run(self) -> None:
        while (series := self._queue.get()) is not None:
            try:
                self._write(series)
            except Exception:
                self.dropped_total += 1
                log.exception("Event not written")
            finally:
                series.waiting = False
                self._queue.task_done()
        self._queue.task_done()

    def _write(self, series: _Series) -> None:
        namespace = series.body["metadata"]["namespace"]
        try:
            if series.event_name:
                patch = {"series": {"count": series.count, "lastObservedTime": series.last_seen}}
                address = path(EVENT, namespace, series.event_name)
                reply = send(self._api, "PATCH", address, body=patch, content_type=MERGE, timeout_seconds=(5.0, 5.0))
                if reply.ok:
                    self.written_total += 1
                    return
                if reply.status != 404:
                    raise _Refused(reply.message)
                # The API server forgets Events after an hour: begin a new one.
                meta = {**series.body["metadata"], "name": f"{series.event_name[:200]}.{uuid.uuid4().hex[:8]}"}
                series.body = {**series.body, "metadata": meta, "eventTime": series.last_seen}
                series.count = 1
            reply = send(self._api, "POST", path(EVENT, namespace), body=series.body, timeout_seconds=(5.0, 5.0))
            if not reply.ok:
                raise _Refused(reply.message)
        except (Unreachable, _Refused) as error:
            self.dropped_total += 1
            log.warning("Event %s not written: %s", series.body["reason"], error)
            return
        series.event_name = series.body["metadata"]["name"]
        self.written_total += 1


class _Refused(Exception):
    """The API server refused an Event."""


def _cut(message: str) -> str:
    note = message.encode()
    return message if len(note) <= NOTE_LIMIT else note[: NOTE_LIMIT - 3].decode("utf-8", "ignore") + "..."


def _microtime() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
