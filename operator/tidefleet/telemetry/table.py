"""The table of metrics: name, kind, labels, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping

from tidefleet.telemetry.router_table import ROUTER_TABLE
from tidefleet.telemetry.spec import POOL as _POOL
from tidefleet.telemetry.spec import PREFIX, MetricSpec

_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PHASES = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 4 * 3600.0, 12 * 3600.0)


_TABLE = (
    MetricSpec(
        "pool_cost_usd_total",
        "counter",
        (*_POOL, "accelerator", "capacity_type"),
        "Rent, and electricity that an owner pays, of the chips that a pool's pods hold, in USD, idle time included, "
        "and the rent of the KV tiers of its ready replicas.",
        "stable",
    ),
    MetricSpec(
        "pool_kv_tier_cost_usd_total",
        "counter",
        (*_POOL, "accelerator", "capacity_type"),
        "Of tidefleet_pool_cost_usd_total, the rent of KV tiers: usdPerGibMonth times their size, in USD; absent for a "
        "pool without tiers.",
    ),
    MetricSpec(
        "pool_tokens_total",
        "counter",
        (*_POOL, "workload_class", "direction"),
        "Tokens by direction: input (uncached prompt), cached (prompt found in a prefix cache), output.",
        "stable",
    ),
    MetricSpec(
        "pool_needed_seconds_total",
        "counter",
        (*_POOL, "work"),
        "Accelerator-seconds that were paid and needed: prefill and decode, what the tokens take at the operating "
        "point of the strictest class; training, work that is kept.",
        "stable",
    ),
    MetricSpec(
        "pool_lost_seconds_total",
        "counter",
        (*_POOL, "cause"),
        "Accelerator-seconds that were paid and not needed, by cause: idle, half_batch, recompute, kv_fetch, drain, "
        "warm, recall, data_stall, unknown; with those needed they are all that were paid.",
        "stable",
    ),
    MetricSpec(
        "pool_energy_joules_total",
        "counter",
        (*_POOL, "accelerator"),
        "Joules that a pool's serving accelerators drew, estimated from what their engines did; idle ones count as far "
        "as their type's idleWatts is known.",
    ),
    MetricSpec(
        "pool_revenue_usd_total",
        "counter",
        (*_POOL, "workload_class"),
        "What the tokens of a class earned by its spec.revenue, in USD; absent where a class says nothing of that.",
        "stable",
    ),
    MetricSpec("pool_cost_target_usd_per_token", "gauge", _POOL, "The pool's cost target, in USD per token.", "stable"),
    MetricSpec("pool_monthly_budget_usd", "gauge", _POOL, "The pool's monthly budget, in USD.", "stable"),
    MetricSpec("pool_replicas", "gauge", (*_POOL, "state"), "Replicas of a pool that are desired or ready.", "stable"),
    MetricSpec(
        "pool_option_replicas",
        "gauge",
        (*_POOL, "workload", "accelerator", "state"),
        "Replicas of each workload of a pool, desired or ready; your own autoscaler can follow the desired ones.",
    ),
    MetricSpec(
        "pool_accelerators",
        "gauge",
        (*_POOL, "accelerator", "state"),
        "Chips of a pool by state: serving, warming (starting, or called back from training), draining (emptied for "
        "training), training, quarantined.",
    ),
    MetricSpec(
        "pool_demand_requests_per_second", "gauge", _POOL, "Requests per second that the last plan was made for."
    ),
    MetricSpec(
        "pool_utilization_ratio",
        "gauge",
        _POOL,
        "Accelerator-seconds needed / those paid, over the last 5 minutes, training on lent nodes included.",
    ),
    MetricSpec(
        "pool_load_ratio",
        "gauge",
        _POOL,
        "Requests per second of the last minutes / those that the ready replicas carry at their operating points; "
        "above 1 objectives are at risk.",
    ),
    MetricSpec(
        "pool_calibration_factor",
        "gauge",
        (*_POOL, "accelerator", "phase"),
        "Time that the pool's engines take over what the cost model says, in decode and prefill; 1 until learned.",
    ),
    MetricSpec(
        "pool_opencost_cost_ratio",
        "gauge",
        _POOL,
        "What the pool's model costs by OpenCost / by us without KV tiers, over an hour; absent where Prometheus has "
        "no such figure.",
    ),
    MetricSpec("pool_busy_ratio", "gauge", _POOL, "Share of a pool's engines that were running at least one request."),
    MetricSpec("plan_cost_usd_per_hour", "gauge", _POOL, "Rent of the pool's plan, in USD per hour."),
    MetricSpec(
        "plan_lower_bound_usd_per_hour",
        "gauge",
        _POOL,
        "USD per hour below which no plan for the same demand can be (proven).",
    ),
    MetricSpec(
        "plan_savings_usd_per_hour",
        "gauge",
        _POOL,
        "What the plan saves against the best plan of one accelerator type, in USD per hour.",
    ),
    MetricSpec(
        "pool_adopted_cost_usd_per_hour",
        "gauge",
        _POOL,
        "Rent, at today's prices, of the replicas that the pool's workloads had when they were adopted, in USD per "
        "hour; absent where none was. Less what the pool costs, it is the saving against the fleet as adopted.",
    ),
    MetricSpec(
        "accelerator_price_usd_per_hour",
        "gauge",
        ("accelerator", "capacity_type", "source"),
        "Rent of one chip used in plans, in USD per hour; source is Catalogue or User.",
        "stable",
    ),
    MetricSpec(
        "price_last_update_timestamp_seconds",
        "gauge",
        ("accelerator", "capacity_type"),
        "Unix time of the day a price is from.",
    ),
    MetricSpec(
        "plan_duration_seconds",
        "histogram",
        ("kind",),
        "Seconds spent planning in one pass of the fleet loop.",
        buckets=_SECONDS,
    ),
    MetricSpec(
        "reconcile_duration_seconds",
        "histogram",
        ("kind",),
        "Seconds of one whole pass of the fleet loop, and of collecting engine metrics beside it.",
        buckets=_SECONDS,
    ),
    MetricSpec("decisions_total", "counter", ("kind", "reason"), "Decisions taken that changed something."),
    MetricSpec(
        "reconcile_errors_total",
        "counter",
        ("kind", "reason"),
        "Failures while acting on a pool or reading its engines.",
    ),
    MetricSpec("api_writes_total", "counter", ("kind", "outcome"), "Writes to the API server, by kind of object."),
    MetricSpec(
        "empty_answers_total",
        "counter",
        ("source",),
        "Answers of a demand source that could not be used: nothing in them, NaN, infinite, negative or unreachable.",
    ),
    MetricSpec(
        "flips_total",
        "counter",
        (*_POOL, "direction", "result", "reason"),
        "Flips that ended, by direction (training or serving), result (done, rolled-back, called-off or quarantined) "
        "and reason (Loan, Recall, Surge, Request or Health).",
    ),
    MetricSpec(
        "flip_duration_seconds",
        "histogram",
        ("phase",),
        "Seconds that a unit spent in a phase, observed when it leaves the phase.",
        buckets=_PHASES,
    ),
    MetricSpec(
        "flips_allowed",
        "gauge",
        (*_POOL, "reason"),
        "Nodes that budgets, gates and pauses still allow to set out now, by reason of the flip (Loan, Recall or "
        "Rebalance); surge recalls and roll-backs are never limited.",
    ),
    MetricSpec(
        "pool_flip_overdue_seconds",
        "gauge",
        (*_POOL, "direction"),
        "Seconds that the pool's slowest flip is past the deadline of its phase; 0 while none is.",
    ),
    MetricSpec("pool_loaned_nodes", "gauge", (*_POOL, "accelerator"), "Nodes of a pool that training may use."),
    MetricSpec(
        "training_cost_usd_total",
        "counter",
        (*_POOL, "accelerator", "capacity_type"),
        "Rent of a pool's nodes while training has them, in USD; on the way there and back they are the pool's cost.",
    ),
    MetricSpec(
        "training_lost_chip_seconds_total",
        "counter",
        (*_POOL, "cause"),
        "Training work that a recall lost, in chip-seconds since the last checkpoint, by cause: Recall, Surge, Health.",
    ),
    MetricSpec(
        "fleet_idle_cost_usd_total",
        "counter",
        ("accelerator", "capacity_type"),
        "Rent of chips that no pool holds and training does not use, in USD.",
    ),
    MetricSpec(
        "condition_objects",
        "gauge",
        ("kind", "condition", "status"),
        "Objects by condition and its status.",
    ),
    MetricSpec(
        "watch_last_sync_timestamp_seconds", "gauge", ("resource",), "Unix time of the last sign of life of a watch."
    ),
    MetricSpec(
        "pool_last_evaluation_timestamp_seconds", "gauge", _POOL, "Unix time of the last plan, by the operator's clock."
    ),
    MetricSpec("leader", "gauge", (), "1 on the replica that leads, 0 on the others."),
    MetricSpec(
        "build_info", "gauge", ("version",), "Always 1; the label tells the version.", process="both", across="max"
    ),
)

METRICS: Mapping[str, MetricSpec] = {PREFIX + spec.name: spec for spec in (*_TABLE, *ROUTER_TABLE)}
"""Every metric by its full name in PromQL."""

__all__ = ["METRICS", "PREFIX", "MetricSpec"]
