"""One metrics page over several processes: counters and histograms summed, gauges as the table says.

A process that ends leaves its counts behind, so that a counter does not fall when another takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample

from tidefleet.telemetry.registry import Telemetry
from tidefleet.telemetry.table import METRICS

Labels = tuple[tuple[str, str], ...]
Series = dict[tuple[str, Labels], float]
"""Values by a sample's name (``..._bucket`` of a histogram, for example) and labels, in the order of the page."""

_RULES: dict[str, Callable[[float, float], float]] = {"sum": lambda a, b: a + b, "max": max, "min": min}


def samples_of(telemetry: Telemetry) -> list[list[Any]]:
    """All samples of a process as plain values for JSON: ``[name, [[label, value], ...], number]``."""
    return [
        [one.name, [list(pair) for pair in one.labels.items()], one.value]
        for family in telemetry.registry.collect()
        for one in family.samples
    ]


class Merged(Collector):
    """Takes the samples of processes by a key of each, and renders one page.

    Args:
        own: the metrics of the process that merges: its counters are added, and what its families are called is taken.
    """

    def __init__(self, own: Telemetry) -> None:
        self._own = own
        self._live: dict[object, Series] = {}
        self._gone: Series = {}
        self._said: Series = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._families = {family.name: (family.documentation, family.type) for family in own.registry.collect()}
        self._family_of: dict[str, str] = {}
        for name, (_, kind) in self._families.items():
            for ending in _ENDINGS[kind]:
                self._family_of[name + ending] = name

    def take(self, key: object, samples: Iterable[list[Any]]) -> None:
        """What a process counts now, in place of what it told before; samples of no known family are left out."""
        found: Series = {}
        for name, labels, value in samples:
            if name in self._family_of:
                found[name, tuple((str(one), str(other)) for one, other in labels)] = float(value)
        self._live[key] = found

    def ended(self, key: object) -> None:
        """A process is over: its gauges go, its counts stay."""
        for (name, labels), value in self._live.pop(key, {}).items():
            if self._kind(name) != "gauge":
                self._gone[name, labels] = self._gone.get((name, labels), 0.0) + value

    def keep(self, pools: Collection[tuple[str, str]]) -> None:
        """Of processes that ended, keep what belongs to these pools (namespace, name), or to none."""
        for name, labels in list(self._gone):
            told = dict(labels)
            if told.get("pool") and (told.get("namespace", ""), told["pool"]) not in pools:
                del self._gone[name, labels]

    def say(self, name: str, values: Mapping[Labels, float]) -> None:
        """Have these series of a gauge stand in place of what the processes tell of it; its full name is given."""
        self._said = {key: value for key, value in self._said.items() if key[0] != name}
        self._said.update({(name, labels): value for labels, value in values.items()})

    def merged(self) -> Series:
        """All series as they are over all processes."""
        own: Series = {
            (one.name, tuple(one.labels.items())): one.value
            for family in self._own.registry.collect()
            if family.type != "gauge"
            for one in family.samples
        }
        found: Series = {}
        for source in (*self._live.values(), self._gone, own):
            for (name, labels), value in source.items():
                before = found.get((name, labels))
                found[name, labels] = value if before is None else self._rule(name)(before, value)
        return found | self._said

    def collect(self) -> Iterator[Metric]:
        """The families, for prometheus_client."""
        by_family: dict[str, list[Sample]] = {}
        for (name, labels), value in self.merged().items():
            by_family.setdefault(self._family_of[name], []).append(Sample(name, dict(labels), value))
        for name, (text, kind) in self._families.items():
            metric = Metric(name, text, kind)
            metric.samples = by_family.get(name, [])
            yield metric

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """The metrics page and its content type, as `Telemetry.render`."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

    def _kind(self, name: str) -> str:
        return self._families[self._family_of[name]][1]

    def _rule(self, name: str) -> Callable[[float, float], float]:
        return _RULES[METRICS[name].across] if self._kind(name) == "gauge" else _RULES["sum"]


_ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
