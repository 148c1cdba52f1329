"""Metrics of one process, made from the table."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from tidefleet.telemetry.table import METRICS, PREFIX, MetricSpec

# The library would add a `_created` series, which is in no table, to each counter and histogram.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Telemetry:
    """A registry of its own (no process-wide state), with access by name.

    Raises:
        KeyError: a name that is not in the table.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for spec in METRICS.values():
            self._make(spec)

    def _make(self, spec: MetricSpec) -> None:
        name = PREFIX + spec.name
        if spec.kind == "counter":
            self._counters[spec.name] = Counter(name, spec.help, spec.labels, registry=self.registry)
        elif spec.kind == "gauge":
            self._gauges[spec.name] = Gauge(name, spec.help, spec.labels, registry=self.registry)
        else:
            self._histograms[spec.name] = Histogram(
                name, spec.help, spec.labels, buckets=spec.buckets, registry=self.registry
            )

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter; amounts that are not above 0 are left out."""
        metric = self._counters[name]
        if amount > 0:
            (metric.labels(**labels) if labels else metric).inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        metric = self._gauges[name]
        (metric.labels(**labels) if labels else metric).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add an observation to a histogram."""
        metric = self._histograms[name]
        (metric.labels(**labels) if labels else metric).observe(value)

    def forget(self, **labels: str) -> None:
        """Drop every series of gauges and counters whose labels match, e.g. those of a deleted pool."""
        self._drop([*self._gauges.values(), *self._counters.values()], labels)

    def forget_gauges(self, names: Iterable[str], **labels: str) -> None:
        """Drop the series of these gauges whose labels match, before they are set anew."""
        self._drop([self._gauges[name] for name in names], labels)

    @staticmethod
    def _drop(metrics: Iterable[Counter | Gauge], labels: dict[str, str]) -> None:
        for metric in metrics:
            if set(labels) <= set(metric._labelnames):
                metric.remove_by_labels(labels) if labels else metric.clear()

    def value(self, name: str, **labels: str) -> float | None:
        """The current value of a series by its name with prefix, ``None`` when it does not exist."""
        return self.registry.get_sample_value(name, labels)

    def render(self) -> bytes:
        """The metrics page in Prometheus' text format."""
        return generate_latest(self.registry)
