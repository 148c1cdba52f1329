"""The router's part of the table of metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tidefleet.telemetry.spec import POOL, MetricSpec

_DECISION = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0)
_TTFT = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0)
_COST = (0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0)
_CLASS = (*POOL, "workload_class")


def _rows() -> Iterator[MetricSpec]:
    def row(
        name: str,
        kind: Any,
        labels: tuple[str, ...],
        text: str,
        buckets: tuple[float, ...] = (),
        *,
        across: Any = "sum",
    ) -> MetricSpec:
        return MetricSpec(name, kind, labels, text, buckets=buckets, process="router", across=across)

    yield row(
        "router_decisions_total",
        "counter",
        (*POOL, "outcome"),
        "Requests by what was decided: picked, capped (their tenant's limit is reached), refused-429, refused-503, "
        "unparsable, no-pool (then without a pool).",
    )
    yield row(
        "router_decision_seconds",
        "histogram",
        POOL,
        "Seconds from a request's body to its endpoint, waiting in the router included.",
        _DECISION,
    )
    yield row(
        "router_requests_total",
        "counter",
        (*_CLASS, "status"),
        "Requests that ended, by the class of their HTTP status (2xx, 4xx, 5xx), or cut where none came.",
    )
    yield row(
        "router_ttft_seconds",
        "histogram",
        _CLASS,
        "Seconds from the pick to the first output that passed.",
        _TTFT,
    )
    yield row("router_prompt_tokens_total", "counter", _CLASS, "Prompt tokens of requests that ended well.")
    yield row(
        "router_predicted_hit_tokens_total",
        "counter",
        _CLASS,
        "Prompt tokens that the chosen endpoint was thought to hold, in any tier worth fetching from.",
    )
    yield row(
        "router_cached_tokens_total", "counter", _CLASS, "Prompt tokens that engines reported as found in a cache."
    )
    yield row(
        "router_output_tokens_total",
        "counter",
        (*_CLASS, "slo"),
        "Output tokens of requests that ended well, by whether the request met its class's TTFT and TPOT: met, missed, "
        "or none where the class promises neither or the request was cut before it could tell.",
    )
    yield row(
        "request_cost_usd",
        "histogram",
        _CLASS,
        "USD of the accelerator-seconds that a request took, idle time not included; not of chips without a price.",
        _COST,
    )
    yield row(
        "pool_tasks_total",
        "counter",
        (*POOL, "outcome"),
        "Tasks by the outcome that their client told: success or failure; each named task once.",
    )
    yield row(
        "pool_recomputed_tokens_total",
        "counter",
        (*POOL, "cause"),
        "Prompt tokens prefilled although they had been computed before: evicted, misrouted, flip (their session's "
        "home left), restart, cold (at an endpoint that had just started).",
    )
    yield row(
        "router_reuse_tokens_total",
        "counter",
        (*POOL, "within"),
        "Prompt tokens, scaled up from a sample of blocks, by how many tokens of KV were used since their block was "
        "used last: within so many (each bound counts those above the one before), or new.",
    )
    yield row(
        "router_reuse_seen_tokens_total",
        "counter",
        POOL,
        "Prompt tokens in whole blocks, those outside the sample too.",
    )
    yield row(
        "pool_energy_avoided_joules_total",
        "counter",
        (*POOL, "tier"),
        "Joules of the prefill that cache hits made needless, less those of the fetch, by the tier that held them: "
        "device, host, disk or shared.",
    )
    yield row(
        "usage_records_total",
        "counter",
        ("sink", "result"),
        "Usage records by where they go (file or otlp): written, or lost for want of room or at a crash.",
    )
    yield row(
        "router_endpoints",
        "gauge",
        (*POOL, "state"),
        "Endpoints of a pool: healthy, draining or ejected; of several workers, as the one that counts most.",
        across="max",
    )
    yield row(
        "router_load_max_over_mean_ratio",
        "gauge",
        POOL,
        "Requests in flight at the busiest healthy endpoint over their mean; 1 is balanced.",
        across="max",
    )
    yield row("router_queue_requests", "gauge", POOL, "Requests that wait in the router.")
    yield row("router_deferred_requests", "gauge", POOL, "Requests of deferrable classes that wait for slack.")
    yield row("router_moved_sessions_total", "counter", POOL, "Sessions given another home since theirs leaves.")
    yield row(
        "router_index_blocks",
        "gauge",
        (*POOL, "source"),
        "Blocks known, from KV events or our own placements; of several workers, by the one that knows most.",
        across="max",
    )
    yield row("router_index_bytes", "gauge", POOL, "Memory of the prefix indexes, of all workers together.")
    yield row(
        "router_kv_event_messages_total",
        "counter",
        POOL,
        "Messages of KV events that were taken; every worker takes each of them.",
    )
    yield row(
        "router_kv_event_faults_total",
        "counter",
        (*POOL, "fault"),
        "KV events that were no use: gap, replay, malformed, lost, mismatch.",
    )
    yield row(
        "router_odd_endpoints",
        "gauge",
        POOL,
        "Endpoints whose words do not fit together; the log tells which.",
        across="max",
    )
    yield row("router_streams", "gauge", (), "Streams of gateways that are open.")
    yield row("router_held_bytes", "gauge", (), "Bytes of request bodies that are held.")
    yield row(
        "router_sync_timestamp_seconds",
        "gauge",
        (),
        "Unix time of the last sign of the API server; of several workers, of the one that heard it longest ago.",
        across="min",
    )
    yield row("router_workers", "gauge", (), "Worker processes that know the fleet and take requests.")
    yield row("router_worker_restarts_total", "counter", (), "Worker processes that ended by themselves, or hung.")


ROUTER_TABLE = tuple(_rows())
