"""What one metric is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "tidefleet_"
POOL = ("namespace", "pool")


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One exported metric; ``name`` is without the prefix and as it appears in PromQL."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    stability: Literal["stable", "alpha"] = "alpha"
    buckets: tuple[float, ...] = ()
    process: Literal["operator", "router", "both"] = "operator"
    """Which process exports it."""
    across: Literal["sum", "max", "min"] = "sum"
    """What a gauge is over several worker processes of one router; counters and histograms are summed."""
