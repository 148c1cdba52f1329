"""What is read off a running operator: its passes, its writes, its memory, and when replicas change."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from localcluster import kubeconfig

POOL_LABEL = "tidefleet.io/pool"
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of the fleet loop as the operator logged it; ``ended`` is Unix time."""

    ended: float
    seconds: float
    plan_seconds: float
    act_seconds: float
    pools: int


def passes(log: Path) -> list[Pass]:
    """Every pass in an operator's JSON log at level debug."""
    found: list[Pass] = []
    if not log.exists():
        return found
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if '"message": "pass"' not in line:
            continue
        entry = json.loads(line)
        parts = entry["of_which"]
        ended = datetime.fromisoformat(entry["time"]).timestamp()
        found.append(Pass(ended, entry["seconds"], parts["plan"], parts["act"], entry["pools"]))
    return found


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory of a process now and at its peak, in MB (10^6 bytes)."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    now, peak = (int(re.findall(rf"{name}:\s+(\d+) kB", text)[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return now, peak


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def machine_cpu_seconds() -> tuple[float, float]:
    """Processor time used on this machine so far, and by processes that descend from this one and still live."""
    busy = sum(int(one) for one in Path("/proc/stat").read_text(encoding="ascii").split("\n")[0].split()[1:4]) / 100.0
    return busy, sum(cpu_seconds(pid) for pid in _family(os.getpid()))


def _family(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text(encoding="ascii", errors="replace").partition(" (")
            children.setdefault(int(rest.rpartition(")")[2].split()[1]), []).append(int(name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of a JSON value by their paths; elements of a list all have the same path and an ordinal."""
    if isinstance(value, dict):
        return {key: leaf for name, inner in value.items() for key, leaf in leaves(inner, f"{path}.{name}").items()}
    if isinstance(value, list):
        return {key: leaf for i, inner in enumerate(value) for key, leaf in leaves(inner, f"{path}[{i}]").items()}
    return {path: value}


def changed_fields(before: dict[Key, Any], after: dict[Key, Any]) -> dict[str, dict[str, Any]]:
    """Fields that differ between two pictures of the same objects: how many objects, and one example of each."""
    found: dict[str, dict[str, Any]] = {}
    for key, now in after.items():
        one, other = leaves(before.get(key, {})), leaves(now)
        for path in one.keys() | other.keys():
            if one.get(path) != other.get(path):
                entry = found.setdefault(re.sub(r"\[\d+\]", "[]", path), {"objects": set(), "example": []})
                entry["objects"].add(key)
                entry["example"] = entry["example"] or ["/".join(key), one.get(path), other.get(path)]
    return {
        path: {"objects": len(entry["objects"]), "example": entry["example"]} for path, entry in sorted(found.items())
    }


_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def samples(page: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of each sample of one metric on a page in Prometheus' text format."""
    for line in page.splitlines():
        if line.startswith(name + "{") and (match := _SAMPLE.match(line)):
            yield dict(_LABEL.findall(match[2])), float(match[3])


class Server:
    """The API server, asked with an administrator's rights."""

    def __init__(self, path: Path) -> None:
        access = kubeconfig.read(path)
        self.client = httpx.Client(
            base_url=access.url, verify=access.tls(), timeout=httpx.Timeout(30.0, read=60.0), trust_env=False
        )

    def writes(self) -> tuple[int, int]:
        """Writes so far that only the operator makes here, and Events by anybody, as the API server counts them.

        Ours are all to custom resources and the creations, patches and deletions of Deployments: Kubernetes' own
        controllers write Deployments by PUT, and nobody else is in the cluster.
        """
        ours = events = 0
        page = self.client.get("/metrics").text
        for labels, value in samples(page, "apiserver_request_total"):
            verb, group, resource = labels.get("verb"), labels.get("group"), labels.get("resource")
            if verb not in ("POST", "PUT", "PATCH", "APPLY", "DELETE"):
                continue
            if group == "tidefleet.io" or (group == "apps" and resource == "deployments" and verb != "PUT"):
                ours += round(value)
            elif resource == "events":
                events += round(value)
        return ours, events

    def ready_pods(self) -> tuple[int, int, int]:
        """Pods that are ready, pods in all, and chips that all of them ask for."""
        ready = count = chips = 0
        token = ""
        while True:
            query = {"limit": "500", "labelSelector": POOL_LABEL, "continue": token}
            page = self.client.get("/api/v1/pods", params=query).json()
            for pod in page["items"]:
                count += 1
                states = {one["type"]: one["status"] for one in pod.get("status", {}).get("conditions", ())}
                ready += states.get("Ready") == "True"
                for container in pod["spec"]["containers"]:
                    limits = container.get("resources", {}).get("limits", {})
                    chips += sum(int(amount) for name, amount in limits.items() if "/" in name)
            token = page["metadata"].get("continue", "")
            if not token:
                return ready, count, chips

    def statuses(self) -> dict[Key, Any]:
        """The status of every pool."""
        items = self.client.get("/apis/tidefleet.io/v1alpha1/inferencepools").json()["items"]
        return {(one["metadata"]["namespace"], one["metadata"]["name"]): one.get("status", {}) for one in items}

    def close(self) -> None:
        """Close its connections."""
        self.client.close()


@dataclass(slots=True)
class ReplicaLog:
    """Follows the replicas that are asked for on the API server: per pool, (Unix time, replicas of all its options)."""

    server: Server
    changes: dict[Key, list[tuple[float, int]]] = field(default_factory=dict)
    failed: str = ""
    _counts: dict[Key, dict[str, int]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> ReplicaLog:
        self._thread = threading.Thread(target=self._run, name="replicas", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def replicas(self, pool: Key, at: float) -> int:
        """Replicas a pool had asked for at a time."""
        before = [count for when, count in self.changes.get(pool, ()) if when <= at]
        return before[-1] if before else 0

    def reached(self, pool: Key, start: float, end: float) -> float | None:
        """Seconds from ``start`` until the count of ``end`` was first there; ``None`` when nothing changed."""
        wanted = self.replicas(pool, end)
        if wanted == self.replicas(pool, start):
            return None
        return next(when - start for when, count in self.changes[pool] if when > start and count == wanted)

    def first_change(self, pool: Key, start: float, end: float) -> float | None:
        """Seconds from ``start`` until the first change before ``end``."""
        return next((when - start for when, _ in self.changes.get(pool, ()) if start < when <= end), None)

    def total(self) -> int:
        """Replicas asked for now, by all pools."""
        return sum(log[-1][1] for log in list(self.changes.values()) if log)

    def _run(self) -> None:
        query = {"watch": "true", "labelSelector": POOL_LABEL, "sendInitialEvents": "true",
                 "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}  # fmt: skip
        timeout = httpx.Timeout(10.0, read=None)
        try:
            while not self._stop.is_set():
                with self.server.client.stream(
                    "GET", "/apis/apps/v1/deployments", params=query, timeout=timeout
                ) as answer:
                    for line in answer.iter_lines():
                        if self._stop.is_set():
                            return
                        self._take(json.loads(line), time.time())
        except (httpx.HTTPError, ValueError, KeyError) as error:
            if not self._stop.is_set():
                self.failed = f"{type(error).__name__}: {error}"

    def _take(self, event: dict[str, Any], now: float) -> None:
        if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
            return
        one = event["object"]
        key = (one["metadata"]["namespace"], one["metadata"]["labels"][POOL_LABEL])
        counts = self._counts.setdefault(key, {})
        name, replicas = one["metadata"]["name"], int(one["spec"]["replicas"])
        if event["type"] == "DELETED":
            counts.pop(name, None)
        else:
            counts[name] = replicas
        log, total = self.changes.setdefault(key, []), sum(counts.values())
        if not log or log[-1][1] != total:
            log.append((now, total))


def wait_for(condition: Any, *, seconds: float, every: float = 0.25) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if condition():
                return True
        time.sleep(every)
    return False
