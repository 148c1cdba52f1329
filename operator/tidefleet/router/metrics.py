"""What the router counts, by pool and class; nothing of a request, and no endpoint, is ever a label."""

from __future__ import annotations

from collections.abc import Iterable

from tidefleet.router.pool_state import Ended, PoolState
from tidefleet.telemetry import Telemetry


class RouterMeter:
    """Implements ``picking.Meter``."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def decided(self, pool: str, outcome: str, seconds: float) -> None:
        """A request was answered, or refused."""
        namespace, name = _split(pool)
        self._telemetry.count("router_decisions_total", namespace=namespace, pool=name, outcome=outcome)
        if pool:
            self._telemetry.observe("router_decision_seconds", seconds, namespace=namespace, pool=name)

    def ended(self, pool: str, done: Ended) -> None:
        """A request is over."""
        namespace, name = _split(pool)
        labels = {"namespace": namespace, "pool": name, "workload_class": done.wclass}
        status = "cut" if done.status is None else f"{done.status // 100}xx"
        telemetry = self._telemetry
        telemetry.count("router_requests_total", 1.0, **labels, status=status)
        if not done.ended_well:
            return
        telemetry.count("router_prompt_tokens_total", float(done.tokens), **labels)
        telemetry.count("router_predicted_hit_tokens_total", float(done.predicted), **labels)
        telemetry.count("router_output_tokens_total", float(done.output_tokens), **labels)
        if done.cached is not None:
            telemetry.count("router_cached_tokens_total", float(done.cached), **labels)
        if done.ttft_seconds is not None:
            telemetry.observe("router_ttft_seconds", done.ttft_seconds, **labels)

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

    def forget(self, pool: str) -> None:
        """A pool is gone."""
        namespace, name = _split(pool)
        self._telemetry.forget(namespace=namespace, pool=name)


def balance(state: PoolState) -> float:
    """Requests in flight at the busiest healthy endpoint over their mean; 1 for a pool that has none."""
    table = state.table
    if not len(table) or not table.healthy.any():
        return 1.0
    load = (table.running + table.pending)[table.healthy]
    mean = float(load.mean())
    return float(load.max()) / mean if mean > 0.0 else 1.0


def _split(pool: str) -> tuple[str, str]:
    namespace, _, name = pool.partition("/")
    return namespace, name
