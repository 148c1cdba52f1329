"""Every metric that tidefleet exports, in one table, and the registry made from it.

Dollars and tokens are counters, so that ratios are divided in PromQL over any window; a ratio made earlier cannot be
averaged. Labels never hold a pod, a session or anything that came in a request. Budget: at most 40 series a pool, 12
more per accelerator type and 60 per class.
"""

from tidefleet.telemetry.flips import FlipMeter
from tidefleet.telemetry.registry import Telemetry
from tidefleet.telemetry.table import METRICS, PREFIX, MetricSpec

__all__ = ["METRICS", "PREFIX", "FlipMeter", "MetricSpec", "Telemetry"]
