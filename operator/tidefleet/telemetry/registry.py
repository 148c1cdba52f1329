"""Metrics of one process, made from the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from tidefleet.telemetry.table import METRICS, PREFIX, MetricSpec

# The library would add a `_created` series, which is in no table, to each counter and histogram.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Telemetry:
    """A registry of its own (no process-wide state), with access by name.

    Args:
        process: whose metrics it holds.

    Raises:
        KeyError: a name that is not in the table.
    """

    def __init__(self, process: Literal["operator", "router"] = "operator") -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._shown: dict[tuple[str, tuple[tuple[str, str], ...]], frozenset[tuple[str, ...]]] = {}
        for spec in METRICS.values():
            if spec.process in (process, "both"):
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

    def count(self, name: str, amount: float = 1.0, *, decision_id: str = "", **labels: str) -> None:
        """Add to a counter; 0 makes its series appear, so that ``rate`` sees the first increase; less is left out.

        Args:
            decision_id: told as the series' exemplar (OpenMetrics), the same id as in log, Event and status.
        """
        metric = self._counters[name]
        if amount >= 0:
            exemplar = {"decision_id": decision_id} if decision_id else None
            (metric.labels(**labels) if labels else metric).inc(amount, exemplar)

    def counter(self, name: str, **labels: str) -> Counter:
        """One series of a counter, for a caller that adds to it often; `forget` makes it void."""
        return self._counters[name].labels(**labels)

    def histogram(self, name: str, **labels: str) -> Histogram:
        """One series of a histogram, for a caller that observes often."""
        return self._histograms[name].labels(**labels)

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
        gone = set(labels.items())
        for key in [key for key in self._shown if gone <= set(key[1])]:
            del self._shown[key]

    def show(self, name: str, series: Mapping[Any, float], **labels: str) -> None:
        """Set a gauge's series below these labels: values by tuples of the remaining labels, in the table's order.

        What was shown below the same labels before and is not in ``series`` is removed; nothing disappears in between.
        """
        metric, own = self._gauges[name], tuple(sorted(labels.items()))
        free = [label for label in metric._labelnames if label not in labels]
        for values, value in series.items():
            metric.labels(**labels, **dict(zip(free, values, strict=True))).set(value)
        for values in self._shown.get((name, own), frozenset()) - series.keys():
            whole = {**labels, **dict(zip(free, values, strict=True))}
            metric.remove(*(whole[label] for label in metric._labelnames))
        self._shown[name, own] = frozenset(series)

    @staticmethod
    def _drop(metrics: Iterable[Counter | Gauge], labels: dict[str, str]) -> None:
        for metric in metrics:
            if set(labels) <= set(metric._labelnames):
                metric.remove_by_labels(labels) if labels else metric.clear()

    def value(self, name: str, **labels: str) -> float | None:
        """The current value of a series by its name with prefix, ``None`` when it does not exist."""
        for metric in self.registry.restricted_registry([name]).collect():
            for sample in metric.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return None

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """The metrics page and its content type: OpenMetrics, with exemplars, for a reader that accepts it."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self.registry)
