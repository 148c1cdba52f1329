"""What the router counts, by pool and class; nothing of a request, and no endpoint, is ever a label."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from prometheus_client import Counter, Histogram

from tidefleet.router.pool_state import Ended, PoolState
from tidefleet.routing.reuse_distance import DISTANCES
from tidefleet.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class _Served:
    """The series that each answered request of a pool and class adds to."""

    prompt: Counter
    predicted: Counter
    ttft: Histogram
    cost: Histogram

    @classmethod
    def of(cls, telemetry: Telemetry, labels: dict[str, str]) -> Self:
        return cls(
            telemetry.counter("router_prompt_tokens_total", **labels),
            telemetry.counter("router_predicted_hit_tokens_total", **labels),
            telemetry.histogram("router_ttft_seconds", **labels),
            telemetry.histogram("request_cost_usd", **labels),
        )


class RouterMeter:
    """Implements ``picking.Meter``."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._decided: dict[tuple[str, str], tuple[Counter, Histogram | None]] = {}
        self._requests: dict[tuple[str, str, str], Counter] = {}
        self._served: dict[tuple[str, str], _Served] = {}
        self._output: dict[tuple[str, str, str], Counter] = {}

    def decided(self, pool: str, outcome: str, seconds: float) -> None:
        """A request was answered, or refused."""
        found = self._decided.get((pool, outcome))
        if found is None:
            namespace, name = _split(pool)
            labels = {"namespace": namespace, "pool": name}
            times = self._telemetry.histogram("router_decision_seconds", **labels) if pool else None
            found = self._telemetry.counter("router_decisions_total", **labels, outcome=outcome), times
            self._decided[pool, outcome] = found
        found[0].inc()
        if found[1] is not None:
            found[1].observe(seconds)

    def ended(self, pool: str, done: Ended) -> None:
        """A request is over."""
        status = "cut" if done.status is None else f"{done.status // 100}xx"
        requests = self._requests.get((pool, done.wclass, status))
        if requests is None:
            requests = self._telemetry.counter("router_requests_total", **_labels(pool, done.wclass), status=status)
            self._requests[pool, done.wclass, status] = requests
        requests.inc()
        if done.outcome:
            self._of_pool("pool_tasks_total", 1.0, pool, outcome=done.outcome)
        if not done.ended_well:
            return
        served = self._served.get((pool, done.wclass))
        if served is None:
            served = self._served[pool, done.wclass] = _Served.of(self._telemetry, _labels(pool, done.wclass))
        served.prompt.inc(max(0, done.tokens))
        served.predicted.inc(max(0, done.predicted))
        slo = done.slo or "none"
        output = self._output.get((pool, done.wclass, slo))
        if output is None:
            output = self._telemetry.counter("router_output_tokens_total", **_labels(pool, done.wclass), slo=slo)
            self._output[pool, done.wclass, slo] = output
        output.inc(max(0, done.output_tokens))
        if done.usd is not None:
            served.cost.observe(done.usd)
        if done.recomputed_tokens > 0:
            self._of_pool(
                "pool_recomputed_tokens_total", float(done.recomputed_tokens), pool, cause=done.recomputed_cause
            )
        for tier, joules in done.avoided_joules:
            self._of_pool("pool_energy_avoided_joules_total", joules, pool, tier=tier)
        if done.cached is not None:
            # Its series appears with the first engine that says what it had cached.
            self._telemetry.count("router_cached_tokens_total", float(done.cached), **_labels(pool, done.wclass))
        if done.ttft_seconds is not None:
            served.ttft.observe(done.ttft_seconds)

    def _of_pool(self, name: str, amount: float, pool: str, **labels: str) -> None:
        namespace, own = _split(pool)
        self._telemetry.count(name, amount, namespace=namespace, pool=own, **labels)

    def records(self, sink: str, written: int, lost: int) -> None:
        """Usage records since the last call."""
        self._telemetry.count("usage_records_total", float(written), sink=sink, result="written")
        self._telemetry.count("usage_records_total", float(lost), sink=sink, result="lost")

    def gauges(self, pools: Iterable[PoolState]) -> None:
        """What is now."""
        telemetry = self._telemetry
        for state in pools:
            namespace, name = _split(state.served.key)
            labels = {"namespace": namespace, "pool": name}
            table = state.table
            healthy = int(table.healthy.sum()) if len(table) else 0
            states = {
                ("healthy",): float(healthy),
                ("draining",): float(table.draining.sum()) if len(table) else 0.0,
                ("ejected",): float(table.ejected.sum()) if len(table) else 0.0,
            }
            telemetry.show("router_endpoints", states, **labels)
            telemetry.set("router_load_max_over_mean_ratio", balance(state), **labels)
            telemetry.set("router_queue_requests", float(len(state.queue)), **labels)
            telemetry.set("router_deferred_requests", float(len(state.deferred)), **labels)
            blocks = {("events",): float(state.blocks.blocks), ("placements",): float(state.chunks.blocks)}
            telemetry.show("router_index_blocks", blocks, **labels)
            telemetry.set("router_index_bytes", float(state.blocks.size_bytes + state.chunks.size_bytes), **labels)
            telemetry.set("router_odd_endpoints", float(len(state.odd)), **labels)
            for fault, count in state.take_faults().items():
                telemetry.count("router_kv_event_faults_total", float(count), **labels, fault=fault)
            telemetry.count("router_kv_event_messages_total", float(state.take_messages()), **labels)
            telemetry.count("router_moved_sessions_total", float(state.take_moved()), **labels)
            bins, seen = state.distances.take()
            if seen > 0.0:
                telemetry.count("router_reuse_seen_tokens_total", seen, **labels)
                for within, tokens in zip((*(f"{one:.0f}" for one in DISTANCES), "new"), bins, strict=True):
                    telemetry.count("router_reuse_tokens_total", tokens, **labels, within=within)

    def forget(self, pool: str) -> None:
        """A pool is gone."""
        namespace, name = _split(pool)
        for held in (self._decided, self._requests, self._served, self._output):
            held.clear()  # of the other pools, too: they are found again
        self._telemetry.forget(namespace=namespace, pool=name)


def balance(state: PoolState) -> float:
    """Requests in flight at the busiest healthy endpoint over their mean; 1 for a pool that has none."""
    table = state.table
    if not len(table) or not table.healthy.any():
        return 1.0
    load = (table.running + table.pending)[table.healthy]
    mean = float(load.mean())
    return float(load.max()) / mean if mean > 0.0 else 1.0


def _labels(pool: str, wclass: str) -> dict[str, str]:
    namespace, name = _split(pool)
    return {"namespace": namespace, "pool": name, "workload_class": wclass}


def _split(pool: str) -> tuple[str, str]:
    namespace, _, name = pool.partition("/")
    return namespace, name
