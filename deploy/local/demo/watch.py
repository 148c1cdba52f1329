"""Watches the day: pools on the API server, the leader's /metrics, the operators' logs, the emulator's outcome."""

import json
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from demo.counters import Sample, Totals, read_page
from demo.night import LENDER
from demo.record import Condition, Moment, PoolNow, Record, Told
from demo.stage import OPERATORS, Stage, Time
from demo.witness import Witness
from localcluster.api import ApiError

POOLS = "/apis/tidefleet.io/v1alpha1/namespaces/{namespace}/inferencepools"
COST, TOKENS = "tidefleet_pool_cost_usd_total", "tidefleet_pool_tokens_total"


class Watcher(threading.Thread):
    """Adds to a record, several times a real second, until stopped.

    Attributes:
        totals: All counters of all operators since they started.
    """

    def __init__(self, stage: Stage, clock: Time, namespace: str, record: Record, *, seconds: float) -> None:
        super().__init__(name="watch", daemon=True)
        self.totals = Totals()
        self._stage, self._clock, self._namespace, self._record = stage, clock, namespace, record
        self._seconds = seconds
        self._halt = threading.Event()
        self._http = httpx.Client(trust_env=False, timeout=5.0)
        self._read: dict[str, int] = {}

    def stop(self) -> None:
        """End the thread."""
        self._halt.set()
        self.join(10.0)
        self._http.close()

    def run(self) -> None:
        """The thread's body."""
        while not self._halt.wait(self._seconds) and not self._stage.stopping.is_set():
            try:
                self.look()
            except (httpx.TransportError, ApiError, ValueError, KeyError) as error:
                if not self._stage.stopping.is_set():
                    self._record.warn(f"the demo could not look: {type(error).__name__}: {error}")

    def look(self) -> None:
        """Look once at everything."""
        pools = self._stage.cluster.api().get(POOLS.format(namespace=self._namespace))["items"]
        at = self._clock.now()
        outcome = {one["pool"]: one for one in self._http.get(f"{self._stage.admin}/load").json()["pools"]}
        leader, page = self._pages()
        record = self._record
        with record.lock:
            record.leader = leader
            for raw in pools:
                now = _pool_now(raw)
                record.pools[now.name] = now
                if now.is_ready:
                    record.ready_since.setdefault(now.name, at)
                moment = self._moment(now.name, at, page, outcome.get(now.name, {}))
                if leader and moment is not None:
                    record.moments.setdefault(now.name, []).append(moment)
            for name in OPERATORS:
                self._read_log(name)
        if record.witness is not None:
            self._witness(record.witness, at, page, outcome)
            lender: Mapping[str, Any] = next((raw for raw in pools if raw["metadata"]["name"] == LENDER), {})
            record.witness.see_blocked(((lender.get("status") or {}).get("flipping") or {}).get("blocked") or ())

    def _witness(
        self, witness: Witness, at: float, page: Sequence[Sample], outcome: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Nodes, pods and engines, read one right after the other."""
        api = self._stage.cluster.api()
        engines = self._http.get(f"{self._stage.admin}/engines").json()["engines"]
        pods = api.get(f"/api/v1/namespaces/{self._namespace}/pods")["items"]
        nodes = api.get("/api/v1/nodes")["items"]
        used = {
            one.label("pool"): one.value
            for one in page
            if one.name == "tidefleet_pool_load_ratio" and one.label("namespace") == self._namespace
        }
        with self._record.lock:
            witness.see(at, nodes=nodes, pods=pods, engines=engines, outcome=outcome, used=used)

    def _pages(self) -> tuple[str, tuple[Sample, ...]]:
        """Who leads, and the leader's page; every page is counted."""
        leader, chosen = "", tuple[Sample, ...]()
        for name, url in self._stage.metrics.items():
            try:
                page = read_page(self._http.get(url).text, prefix="tidefleet_")
            except httpx.TransportError:
                continue
            self.totals.add(name, (one for one in page if one.name.endswith("_total")))
            if any(one.name == "tidefleet_leader" and one.value == 1 for one in page):
                leader, chosen = name, page
        return leader, chosen

    def _moment(self, pool: str, at: float, page: Sequence[Sample], outcome: Mapping[str, Any]) -> Moment | None:
        mine = [one for one in page if one.label("pool") == pool and one.label("namespace") == self._namespace]
        gauges = {one.name: one.value for one in mine if len(one.labels) == 2}
        if "tidefleet_pool_demand_requests_per_second" not in gauges:
            return None
        replicas: dict[str, dict[str, int]] = {"ready": {}, "desired": {}}
        for one in mine:
            if one.name == "tidefleet_pool_option_replicas":
                counted = replicas[one.label("state")]
                name = one.label("accelerator")
                counted[name] = counted.get(name, 0) + int(one.value)
        return Moment(
            at=at,
            offered=float(outcome.get("requests_per_second", 0.0)),
            demand=gauges["tidefleet_pool_demand_requests_per_second"],
            ready=replicas["ready"],
            desired=replicas["desired"],
            usd=self.totals.by(COST, "accelerator", pool=pool, namespace=self._namespace),
            tokens=self.totals.sum(TOKENS, pool=pool, namespace=self._namespace),
            plan_usd_per_hour=gauges.get("tidefleet_plan_cost_usd_per_hour", 0.0),
            load=gauges.get("tidefleet_pool_load_ratio"),
            lost=float(outcome.get("lost_requests", 0.0)),
            finished=float(outcome.get("finished_requests", 0.0)),
        )

    def _read_log(self, name: str) -> None:
        """Take in the lines that an operator has logged since the last look."""
        path: Path = self._stage.cluster.processes.log_path(name)
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(self._read.get(name, 0))
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._read[name] = self._read.get(name, 0) + whole
        for line in text[:whole].decode("utf-8", "replace").splitlines():
            self._take_line(name, line)

    def _take_line(self, name: str, line: str) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return
        if not isinstance(said, dict):
            return
        if said.get("message") == "decision":
            at = self._clock.at(datetime.fromisoformat(said["time"]).timestamp())
            pool = str(said["pool"]).rpartition("/")[2]
            change = tuple(str(one) for one in said.get("change") or ())
            self._record.told.append(Told(at, pool, change, str(said.get("why", "")), str(said.get("decisionId", ""))))
        elif said.get("level") in ("warning", "error", "critical") and str(said.get("logger")).startswith("tidefleet"):
            cause = str(said.get("exception") or said.get("why") or said.get("outcome") or "").strip()
            last = cause.splitlines()[-1] if cause else ""
            self._record.warn(f"{name}: {said['message']}{f': {last}' if last else ''}"[:300])


def _pool_now(raw: Mapping[str, Any]) -> PoolNow:
    status = raw.get("status") or {}
    target = (raw["spec"].get("costTarget") or {}).get("usdPerMillionTokens")
    return PoolNow(
        name=raw["metadata"]["name"],
        model=raw["spec"]["model"]["name"],
        target=None if target is None else float(target),
        accelerators=status.get("accelerators", ""),
        reason=(status.get("plan") or {}).get("reason", ""),
        conditions=tuple(
            Condition(one["type"], one["status"], one.get("reason", ""), one.get("message", ""))
            for one in status.get("conditions") or ()
        ),
    )
