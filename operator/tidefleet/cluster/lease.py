"""Who may write: a Lease lock that counts its holders, and the fence asked before every write.

The client library's lock never raises ``leaseTransitions`` and keeps answering "leader" in a process that was stopped
and continued. This one counts every change of holder (a release and a restart included), and is held only while the
last successful renewal is younger than the renew deadline by a clock that goes on while the process is stopped.

Time is measured on this machine only: a candidate waits a full lease duration since it last saw the record change, so
clocks that disagree do no harm.
"""

from __future__ import annotations

import logging
import math
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

from kubernetes.client import ApiClient

from tidefleet.cluster.kinds import LEASE, path
from tidefleet.cluster.transport import Reply, Unreachable, send

log = logging.getLogger(__name__)

MAX_EPOCH = 2**31 - 2**20
"""``leaseTransitions`` is an int32; a journal above this is forged or damaged and is not believed."""


class Deposed(Exception):
    """This process is not, or no longer, the leader."""


class Fence(Protocol):
    """What a writer asks before each write."""

    def check(self) -> None:
        """Return when a write may be sent now.

        Raises:
            Deposed: when it may not.
        """
        ...


class NoFence:
    """A fence that lets everything pass, for one-shot commands and tests that elect nobody."""

    def check(self) -> None:
        """Return."""


def unique_identity() -> str:
    """Return an identity no other process has: host name and a random part, as client-go makes them."""
    return f"{socket.gethostname()}_{uuid.uuid4().hex[:12]}"


def lasting_monotonic() -> float:
    """Return seconds that also pass while the machine sleeps (where the platform can tell)."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(boot) if boot is not None else time.monotonic()


class Leadership:
    """One process's claim to one Lease; good for one term.

    `acquire` once; when `lost` is set, the process exits (or makes a new Leadership). All times are real seconds.

    Args:
        api: the connection.
        namespace: of the Lease.
        name: of the Lease.
        identity: this process; no two may share one (see `unique_identity`).
        lease_seconds: how long others wait after our last renewal before they take over.
        renew_seconds: how long after the last successful renewal we still count ourselves the leader; less than
            `lease_seconds`, and the difference is what a write in flight may take.
        retry_seconds: how often the Lease is renewed, or looked at by a candidate.
        now: the monotonic clock; tests pass their own.
    """

    def __init__(
        self,
        api: ApiClient,
        namespace: str,
        name: str,
        identity: str,
        *,
        lease_seconds: float = 15.0,
        renew_seconds: float = 10.0,
        retry_seconds: float = 2.0,
        now: Callable[[], float] = lasting_monotonic,
    ) -> None:
        if not 0 < retry_seconds < renew_seconds < lease_seconds:
            raise ValueError(
                f"lease {namespace}/{name}: retry {retry_seconds} s, renew {renew_seconds} s, lease {lease_seconds} s; "
                "expected 0 < retry < renew < lease, e.g. 2, 10, 15"
            )
        if not identity:
            raise ValueError(f"lease {namespace}/{name}: the identity is empty; expected a name of this process")
        self._api = api
        self.namespace, self.name, self.identity = namespace, name, identity
        self._lease_seconds, self._renew_seconds, self._retry_seconds = lease_seconds, renew_seconds, retry_seconds
        self._now = now
        self.epoch = 0
        """Our term: ``leaseTransitions`` after `acquire` (or `raise_epoch`); 0 before."""
        self.lost = threading.Event()
        """Set once, when the leadership that was held is held no more (not by `release`)."""
        self.lost_because = ""
        self._raising = 0  # the epoch that raise_epoch may have stored without having heard the answer
        self._renewed_at = float("-inf")
        self._lease: dict[str, Any] | None = None  # as the API server has it, while ours
        self._seen: tuple[str, float] | None = None  # (fingerprint of a foreign record, since when unchanged)
        self._lock = threading.RLock()  # guards the fields above; never held during a request
        self._requests = threading.Lock()  # one Lease request at a time
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------ the fence

    def held(self) -> bool:
        """Say whether we are the leader now; false as soon as the last renewal is older than the renew deadline."""
        with self._lock:
            if self._lease is None or self.lost.is_set():
                return False
            if self._now() - self._renewed_at < self._renew_seconds:
                return True
        self._depose(f"the Lease was not renewed for {self._renew_seconds:g} s")
        return False

    def check(self) -> None:
        """Return while we are the leader; see `Fence`.

        Raises:
            Deposed: naming why.
        """
        if not self.held():
            raise Deposed(self.lost_because or f"Lease {self.namespace}/{self.name} is not held by {self.identity}")

    def observe_epoch(self, epoch: int) -> None:
        """Take note of an epoch seen on an object: one above ours means that we were deposed, for good."""
        if epoch > MAX_EPOCH:
            log.warning("an epoch of %d is above %d and is not believed", epoch, MAX_EPOCH)
        elif self.epoch and epoch > self.epoch:
            self._depose(f"epoch {epoch} was seen on an object; ours is {self.epoch}")

    @property
    def effective_epoch(self) -> int:
        """The epoch that our writes carry: `epoch`."""
        return self.epoch

    def raise_epoch(self, journals: int | Iterable[int] = ()) -> int:
        """Set our epoch above every epoch any leader can have used; call once at takeover, before the first write.

        The Lease and the journals on Nodes can each have been deleted or restored from a backup, so neither alone is
        enough. The result is stored as ``leaseTransitions``, hence the next holder starts above it even when we die
        before we write it anywhere else.

        Args:
            journals: the epochs found on all journals (or the highest of them).

        Returns:
            max(leaseTransitions, journals) + 1.

        Raises:
            Deposed: when the Lease is not ours, or could not be written before the renew deadline.
        """
        found = [journals] if isinstance(journals, int) else list(journals)
        believed = [one for one in found if one <= MAX_EPOCH]
        if len(believed) < len(found):
            log.warning("%d journal epochs above %d are not believed", len(found) - len(believed), MAX_EPOCH)
        epoch = max([self.epoch, *believed]) + 1
        self._raising = epoch
        while True:
            self.check()
            if self._renew(epoch=epoch):
                return self.epoch
            self._stop.wait(min(0.2, self._retry_seconds))

    # ------------------------------------------------------------------ the term

    def acquire(self, stop: threading.Event) -> bool:
        """Block until we hold the Lease, then keep renewing it in a thread.

        Args:
            stop: gives up when set.

        Returns:
            True when held; False when stopped before.
        """
        if self._thread is not None or self.lost.is_set():
            raise RuntimeError(f"Lease {self.namespace}/{self.name}: a Leadership is good for one term; make a new one")
        while not stop.is_set():
            try:
                if self._try_acquire():
                    self._thread = threading.Thread(target=self._keep, name=f"lease-{self.name}", daemon=True)
                    self._thread.start()
                    log.info("holding Lease %s/%s, epoch %d: %s", self.namespace, self.name, self.epoch, self.identity)
                    return True
            except Unreachable as error:
                log.warning("cannot look at Lease %s/%s: %s", self.namespace, self.name, error)
            stop.wait(self._retry_seconds * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
        return False

    def release(self) -> None:
        """Stop renewing and, when still held, free the Lease so that another takes over at once; never raises."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=self._renew_seconds)
        with self._requests:
            with self._lock:
                lease, ours = self._lease, self.held()
                self._lease = None
            if lease is None or not ours:
                return
            spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _microtime()}
            try:
                reply = self._put({**lease, "spec": spec})
            except Unreachable as error:
                log.warning("Lease %s/%s not released: %s", self.namespace, self.name, error)
                return
            if not reply.ok:
                log.warning("Lease %s/%s not released: %s", self.namespace, self.name, reply.message)

    def _try_acquire(self) -> bool:
        with self._requests:
            started = self._now()
            reply = send(self._api, "GET", path(LEASE, self.namespace, self.name), timeout_seconds=self._timeout())
            if reply.status == 404:
                body = {"apiVersion": LEASE.group_version, "kind": LEASE.kind, "metadata": {"name": self.name}}
                made = {**body, "spec": self._spec(transitions=1, acquired=_microtime())}
                return self._take(
                    send(self._api, "POST", path(LEASE, self.namespace), body=made, timeout_seconds=self._timeout()),
                    started,
                )
            if not reply.ok:
                log.warning("cannot read Lease %s/%s: %s", self.namespace, self.name, reply.message)
                return False
            lease = reply.json()
            spec = lease.get("spec") or {}
            if not self._is_free(spec, started):
                return False
            transitions = max(0, int(spec.get("leaseTransitions") or 0)) + 1
            if transitions > MAX_EPOCH:
                log.warning("Lease %s/%s: %d transitions, begun again at 1", self.namespace, self.name, transitions)
                transitions = 1
            return self._take(self._put({**lease, "spec": self._spec(transitions, _microtime())}), started)

    def _is_free(self, spec: dict[str, Any], now: float) -> bool:
        """Say whether the record may be taken: released, or unchanged for its own duration as we saw it."""
        if not spec.get("holderIdentity"):
            return True
        fingerprint = repr(sorted(spec.items()))
        if self._seen is None or self._seen[0] != fingerprint:
            self._seen = (fingerprint, now)
            return False
        duration = spec.get("leaseDurationSeconds")
        wait = max(float(duration) if isinstance(duration, int) and duration > 0 else 0.0, self._lease_seconds)
        return now - self._seen[1] > wait

    def _take(self, reply: Reply, started: float) -> bool:
        if not reply.ok:
            if reply.status != 409:
                log.warning("cannot take Lease %s/%s: %s", self.namespace, self.name, reply.message)
            return False
        with self._lock:
            self._lease = reply.json()
            self._renewed_at = started
            self.epoch = int(self._lease["spec"]["leaseTransitions"])
        return True

    def _keep(self) -> None:
        while not self._stop.wait(self._retry_seconds):
            if not self.held():
                return
            self._renew()

    def _renew(self, epoch: int | None = None) -> bool:
        """Renew once; true when the API server has stored it. Deposes us when the Lease is another's."""
        with self._requests:
            with self._lock:
                lease = self._lease
            if lease is None or not self.held():
                return False
            started = self._now()
            transitions = self.epoch if epoch is None else epoch
            try:
                reply = self._put({**lease, "spec": self._spec(transitions, lease["spec"].get("acquireTime"))})
                if reply.status == 409:
                    # Someone changed the object: its labels, or its holder. (Or our last answer was lost.)
                    fresh = send(
                        self._api, "GET", path(LEASE, self.namespace, self.name), timeout_seconds=self._timeout()
                    )
                    reply = self._adopt(fresh, transitions)
            except Unreachable as error:
                log.warning("Lease %s/%s not renewed: %s", self.namespace, self.name, error)
                return False
            if reply.ok:
                with self._lock:
                    self._lease, self._renewed_at = reply.json(), started
                    self.epoch = int(self._lease["spec"]["leaseTransitions"])
                return True
            if reply.status == 404:
                self._depose("the Lease was deleted")
            elif not self.lost.is_set():
                log.warning("Lease %s/%s not renewed: %s", self.namespace, self.name, reply.message)
            return False

    def _adopt(self, fresh: Reply, transitions: int) -> Reply:
        if not fresh.ok:
            return fresh
        lease = fresh.json()
        spec = lease.get("spec") or {}
        # The same holder with our epoch, or with the one that a lost answer of raise_epoch had stored.
        stored = spec.get("leaseTransitions")
        if spec.get("holderIdentity") != self.identity or stored not in (self.epoch, self._raising):
            self._depose(f"the Lease is held by {spec.get('holderIdentity') or 'nobody'}")
            return Reply(status=409, body=b"")
        return self._put({**lease, "spec": self._spec(max(transitions, stored), spec.get("acquireTime"))})

    def _depose(self, because: str) -> None:
        with self._lock:
            if self.lost.is_set():
                return
            self.lost_because = because
            self.lost.set()
        self._stop.set()
        log.error("no longer the leader by Lease %s/%s: %s", self.namespace, self.name, because)

    def _spec(self, transitions: int, acquired: object) -> dict[str, Any]:
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": math.ceil(self._lease_seconds),
            "leaseTransitions": transitions,
            "acquireTime": acquired or _microtime(),
            "renewTime": _microtime(),
        }

    def _put(self, lease: dict[str, Any]) -> Reply:
        """Replace the Lease; it carries uid and resourceVersion, so it loses against any other change."""
        address = path(LEASE, self.namespace, self.name)
        return send(self._api, "PUT", address, body=lease, timeout_seconds=self._timeout())

    def _timeout(self) -> tuple[float, float]:
        return (min(5.0, self._renew_seconds / 4), min(5.0, self._renew_seconds / 2))


def _microtime() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
