"""Every change the operator makes, as a value, and the one place that carries it out.

A write to an existing object carries the uid **and** the resourceVersion it was decided on, so that nothing is
re-created after a deletion (a server-side apply with only a resourceVersion does that) and nothing is decided on an old
state. A conflict is never retried: the decision is dropped and taken again from fresh state.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubernetes.client import ApiClient

from tidefleet.cluster.kinds import POD, Kind, path
from tidefleet.cluster.lease import Deposed, Fence
from tidefleet.cluster.transport import APPLY, JSON, MERGE, Reply, Unreachable, send

log = logging.getLogger(__name__)

SCALE = Kind("autoscaling/v1", "Scale", "scales")
RETRIED = frozenset({429, 500, 502, 503, 504})
_CONFLICT = re.compile(r'conflict with "(?P<manager>[^"\\]*)"(?: with subresource "[^"]*")? using ')


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """A plain POST; never overwrites."""

    kind: Kind
    body: Mapping[str, Any]
    reason: str
    decision_id: str

    @property
    def namespace(self) -> str:
        """The object's namespace; empty for a cluster-scoped kind."""
        return str((self.body.get("metadata") or {}).get("namespace") or "")

    @property
    def name(self) -> str:
        """The object's name; empty with generateName."""
        return str((self.body.get("metadata") or {}).get("name") or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """A server-side apply of the fields in `body` to an object that exists.

    States **all** that we want of the object: a field of our last apply that this one leaves out is removed, and
    ``spec.replicas`` then falls back to 1. An apply to a subresource (``scale``, ``status``) is counted apart, so
    scaling through ``scale`` needs nothing but the replicas. Fields that only our own `Create` or `MergePatch` holds
    are taken over without `force`.
    """

    kind: Kind
    namespace: str
    name: str
    body: Mapping[str, Any]
    uid: str
    resource_version: str
    reason: str
    decision_id: str
    force: bool = False
    subresource: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePatch:
    """A JSON merge patch (RFC 7386) of an object that exists."""

    kind: Kind
    namespace: str
    name: str
    body: Mapping[str, Any]
    uid: str
    resource_version: str
    reason: str
    decision_id: str
    subresource: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """A deletion of exactly the object, in exactly the state, that was decided on."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    resource_version: str
    reason: str
    decision_id: str
    propagation: str = "Background"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """The eviction of exactly the pod that was decided on, by the Eviction API, which respects PodDisruptionBudgets.

    A pod that is terminating already is not held back by a budget; a shorter grace then takes the place of its own.
    A budget's 429 is `Blocked`, and is never repeated by the `Writer` (that of a busy API server is): whoever decides
    looks again in the next pass, and rolls back when it has waited long enough.

    Attributes:
        grace_seconds: how long the pod may take to end; ``None`` for its own. Never 0, which would take the pod off
            the API server while its processes may still hold the accelerator.
        dry_run: only ask whether budgets would allow it.
    """

    namespace: str
    name: str
    uid: str
    resource_version: str
    reason: str
    decision_id: str
    grace_seconds: int | None = None
    dry_run: bool = False
    kind: Kind = POD

    def __post_init__(self) -> None:
        """Check the grace.

        Raises:
            ValueError: it is less than a second.
        """
        if self.grace_seconds is not None and self.grace_seconds < 1:
            raise ValueError(
                f"Pod {self.namespace}/{self.name}: an eviction's grace is {self.grace_seconds} s; "
                "expected at least 1, or None for the pod's own"
            )


Write = Create | Apply | MergePatch | Delete | Evict


@dataclass(frozen=True, slots=True)
class Written:
    """Done; `object` is the object as the API server now has it (for a deletion: as it was, or a Status)."""

    object: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conflict:
    """The object is not as it was when the decision was taken, or another manager owns a field.

    `fields` names the contested fields (``.spec.replicas``) of a server-side apply; empty for a stale version.
    """

    message: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gone:
    """The object (or the namespace of a new one) no longer exists."""

    message: str = ""


@dataclass(frozen=True, slots=True)
class AlreadyExists:
    """An object of that name is there already."""

    message: str = ""


@dataclass(frozen=True, slots=True)
class Denied:
    """RBAC, quota or admission said no."""

    message: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """The API server refuses the object as it is written."""

    message: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fenced:
    """Not sent: this process is no longer the leader."""

    message: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """No usable answer within the deadline; `retriable` says whether a later attempt may succeed."""

    message: str
    retriable: bool


@dataclass(frozen=True, slots=True)
class Blocked:
    """A PodDisruptionBudget does not allow the eviction now."""

    message: str


Outcome = Written | Conflict | Gone | AlreadyExists | Denied | Invalid | Fenced | Failed | Blocked


@dataclass(slots=True)
class Writer:
    """Carries writes out, one at a time per calling thread; safe to share between threads.

    Args:
        api: the connection.
        fence: asked before every request, a repeated one included.
        field_manager: the owner of the fields we set.
        on_write: told of every write the API server has carried out (not in a dry run).
        dry_run: send ``dryRun=All``: validated and admitted by the API server, never stored.
        deadline_seconds: how long 429, 5xx and lost connections are retried, in real seconds.
        before_write: called before a write is sent; whatever it raises passes through, as if the process died there.
        after_write: called with the outcome, before `execute` returns it; the same.
    """

    api: ApiClient
    fence: Fence
    field_manager: str = "tidefleet"
    on_write: Callable[[Write], None] | None = None
    dry_run: bool = False
    deadline_seconds: float = 5.0
    before_write: Callable[[Write], None] | None = None
    after_write: Callable[[Write, Outcome], None] | None = None
    writes_total: int = 0
    """Requests sent, repeated ones included; Lease renewals and Events are not among them, nor dry runs."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def execute(self, write: Write, *, dry_run: bool | None = None) -> Outcome:
        """Carry out one write and return what became of it; raises what the hooks raise.

        Args:
            write: what to do.
            dry_run: overrides the writer's own setting for this write.

        Raises:
            ValueError: when a write to an existing object lacks its uid or resourceVersion: a mistake of the caller.
        """
        if not isinstance(write, Create) and not (write.uid and write.resource_version):
            raise ValueError(
                f"{write.kind.kind} {write.namespace}/{write.name}: a write to an existing object needs its uid and "
                f"resourceVersion; got {write.uid!r} and {write.resource_version!r}"
            )
        dry = self.dry_run if dry_run is None else dry_run
        dry = dry or (isinstance(write, Evict) and write.dry_run)
        if self.before_write is not None:
            self.before_write(write)
        outcome = self._attempt(write, dry=dry)
        if isinstance(outcome, Written) and not dry and self.on_write is not None:
            self.on_write(write)
        if self.after_write is not None:
            self.after_write(write, outcome)
        return outcome

    def _attempt(self, write: Write, *, dry: bool) -> Outcome:
        deadline = time.monotonic() + self.deadline_seconds
        pause = 0.1
        while True:
            try:
                self.fence.check()
            except Deposed as error:
                return Fenced(str(error))
            asked: float | None = None
            try:
                reply = self._send(write, dry=dry)
            except Unreachable as error:
                failure = Failed(str(error), retriable=True)
            else:
                if reply.status not in RETRIED or (isinstance(write, Evict) and _is_blocked(reply)):
                    return judge(write, reply, self.field_manager)
                failure = Failed(reply.message, retriable=True)
                asked = reply.retry_after_seconds
            wait = max(asked or 0.0, pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
            if time.monotonic() + wait > deadline:
                return failure
            time.sleep(wait)
            pause *= 2

    def _send(self, write: Write, *, dry: bool) -> Reply:
        query: dict[str, str | int] = {"dryRun": "All" if dry else ""}
        match write:
            case Create():
                body = {"apiVersion": write.kind.group_version, "kind": write.kind.kind, **write.body}
                query["fieldManager"] = self.field_manager
                return self._request("POST", path(write.kind, write.namespace), query, body, JSON)
            case Apply():
                query |= {"fieldManager": self.field_manager, "force": "true" if write.force else ""}
                kind = SCALE if write.subresource == "scale" else write.kind
                body = {"apiVersion": kind.group_version, "kind": kind.kind, **_pinned(write)}
                reply = self._request("PATCH", _address(write), query, body, APPLY)
                if (
                    reply.status == 409
                    and not write.force
                    and _is_free_to_take(reply, self.field_manager, write.subresource)
                ):
                    # The resourceVersion makes this safe: a manager that came meanwhile has changed it.
                    query["force"] = "true"
                    reply = self._request("PATCH", _address(write), query, body, APPLY)
                return reply
            case MergePatch():
                query["fieldManager"] = self.field_manager
                return self._request("PATCH", _address(write), query, _pinned(write), MERGE)
            case Delete():
                options = {
                    "apiVersion": "v1",
                    "kind": "DeleteOptions",
                    "propagationPolicy": write.propagation,
                    "preconditions": {"uid": write.uid, "resourceVersion": write.resource_version},
                }
                return self._request("DELETE", path(write.kind, write.namespace, write.name), query, options, JSON)
            case Evict():
                preconditions = {"uid": write.uid, "resourceVersion": write.resource_version}
                grace = {} if write.grace_seconds is None else {"gracePeriodSeconds": write.grace_seconds}
                eviction = {
                    "apiVersion": "policy/v1",
                    "kind": "Eviction",
                    "metadata": {"name": write.name, "namespace": write.namespace},
                    "deleteOptions": {"preconditions": preconditions, **grace},
                }
                address = path(write.kind, write.namespace, write.name, "eviction")
                return self._request("POST", address, query, eviction, JSON)

    def _request(
        self, method: str, address: str, query: Mapping[str, str | int], body: object, content_type: str
    ) -> Reply:
        if not query["dryRun"]:
            with self._lock:
                self.writes_total += 1
        return send(self.api, method, address, query=query, body=body, content_type=content_type)


def judge(write: Write, reply: Reply, field_manager: str = "") -> Outcome:
    """Return what an answer of the API server (other than one to retry) means for a write.

    Fields that only an earlier write of ours (under `field_manager`) holds are not contested: an apply without the
    fields of others takes them over.
    """
    status = {} if reply.ok else reply.json()
    reason, message = status.get("reason"), reply.message
    causes = (status.get("details") or {}).get("causes") or []
    fields = tuple(
        str(one["field"])
        for one in causes
        if isinstance(one, dict) and one.get("field") and not _is_held_by(one, field_manager)
    )
    match reply.status:
        case 200 | 201 | 202:
            return Written(reply.json())
        case 404:
            # A path that is not served at all answers in plain text: the kind is absent, not the object.
            if reason == "NotFound":
                return Gone(message)
            return Failed(f"{write.kind.kind} is not served: {message}", retriable=False)
        case 409 if reason == "AlreadyExists":
            return AlreadyExists(message)
        case 409 if _was_deleted(message):
            return Gone(message)
        case 409:
            return Conflict(message, fields)
        case 429 | 500 if isinstance(write, Evict):  # of a budget: any other is repeated, and then `Failed`
            told = [str(one["message"]) for one in causes if isinstance(one, dict) and one.get("message")]
            return Blocked(" ".join((message, *told)))
        case 403:
            return Denied(message)
        case 422 if "metadata.uid" in fields:  # "field is immutable": our uid is another object's
            return Conflict(message)
        case 400 | 413 | 422:
            return Invalid(message, fields)
        case _:
            return Failed(message, retriable=reply.status == 401)  # a token is re-read within a minute


def _was_deleted(message: str) -> bool:
    """Tell a deleted object from another one of the same name, when our uid did not match.

    An apply to a missing object is answered by 409 "uid mismatch: the provided object specified uid X, and no existing
    object was found" (1.36), since it would have created one.
    """
    return message.rstrip().endswith("no existing object was found")


def _is_blocked(reply: Reply) -> bool:
    """Tell the refusal of a budget from that of an API server with too much to do.

    A budget's 429 has the cause DisruptionBudget. A pod that two budgets select cannot be evicted at all, which is
    answered by 500.
    """
    if reply.status == 500:
        return "more than one PodDisruptionBudget" in reply.message
    causes = (reply.json().get("details") or {}).get("causes") or [] if reply.status == 429 else []
    return any(isinstance(one, dict) and one.get("reason") == "DisruptionBudget" for one in causes)


def _is_held_by(cause: Mapping[str, Any], field_manager: str) -> bool:
    found = _CONFLICT.match(str(cause.get("message")))
    return bool(field_manager) and found is not None and found["manager"] == field_manager


def _is_free_to_take(reply: Reply, field_manager: str, subresource: str) -> bool:
    """Say whether a server-side apply conflicts with nobody but our own earlier writes, or with nobody at all.

    A POST or a merge patch records its fields under (our name, Update), an apply under (our name, Apply): to the API
    server these are two managers. And replicas that nobody ever set belong, seen through ``scale``, to a manager named
    "before-first-apply".
    """
    free = {field_manager} | ({"before-first-apply"} if subresource == "scale" else set())
    causes = (reply.json().get("details") or {}).get("causes") or []
    return bool(causes) and all(
        isinstance(one, dict)
        and one.get("reason") == "FieldManagerConflict"
        and (found := _CONFLICT.match(str(one.get("message")))) is not None
        and found["manager"] in free
        for one in causes
    )


def _pinned(write: Apply | MergePatch) -> dict[str, Any]:
    meta: dict[str, Any] = {**(write.body.get("metadata") or {})}
    meta |= {"uid": write.uid, "resourceVersion": write.resource_version}
    if isinstance(write, Apply):
        meta |= {"name": write.name} | ({"namespace": write.namespace} if write.kind.namespaced else {})
        meta.pop("managedFields", None)
    return {**write.body, "metadata": meta}


def _address(write: Apply | MergePatch) -> str:
    return path(write.kind, write.namespace, write.name, write.subresource)
