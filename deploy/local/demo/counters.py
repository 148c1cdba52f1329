"""Counters of processes that come and go: what was added since we began to look, whoever counted it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metrics page."""

    name: str
    labels: Labels
    value: float

    def label(self, name: str) -> str:
        """The value of a label, empty where it is absent."""
        return next((value for key, value in self.labels if key == name), "")


def read_page(text: str, *, prefix: str) -> tuple[Sample, ...]:
    """The samples of a metrics page whose names begin with `prefix`."""
    wanted = "\n".join(line for line in text.splitlines() if line.startswith((prefix, f"# TYPE {prefix}")))
    return tuple(
        Sample(one.name, frozenset(one.labels.items()), one.value)
        for family in text_string_to_metric_families(wanted + "\n")
        for one in family.samples
    )


@dataclass(slots=True)
class Totals:
    """Sums of counters over all processes that export them.

    A process is followed from its first page: what it had counted by then is not ours. A counter that appears later
    began at 0; one that went down was reset, and counted from 0 again. After a failover the new leader's counters go
    on where the old one's ended, since each process is followed apart.
    """

    _last: dict[tuple[str, str, Labels], float] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)
    _sums: dict[str, dict[Labels, float]] = field(default_factory=dict)

    def add(self, process: str, samples: Iterable[Sample], *, from_start: bool = False, **labels: str) -> None:
        """Take in a page of a process.

        Args:
            process: Which one.
            samples: Its counters.
            from_start: Whether what it had counted by its first page is ours too.
            labels: Put on every series.
        """
        fresh = process not in self._known and not from_start
        self._known.add(process)
        for one in samples:
            key = (process, one.name, one.labels)
            before = self._last.get(key)
            self._last[key] = one.value
            if before is None:
                added = 0.0 if fresh else one.value
            else:
                added = one.value - before if one.value >= before else one.value
            sums, series = self._sums.setdefault(one.name, {}), one.labels | frozenset(labels.items())
            sums[series] = sums.get(series, 0.0) + added

    def sum(self, name: str, **labels: str) -> float:
        """The sum over all series of a name with these labels."""
        wanted = set(labels.items())
        return sum(value for key, value in self._sums.get(name, {}).items() if wanted <= key)

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The sums of a name by the values of one label."""
        wanted = set(labels.items())
        found: dict[str, float] = {}
        for key, value in self._sums.get(name, {}).items():
            if wanted <= key:
                shown = dict(key).get(label, "")
                found[shown] = found.get(shown, 0.0) + value
        return found


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """The value below which that share of observations lies, by straight lines within a bucket.

    Args:
        buckets: Cumulative counts by upper bound, infinity included.
        share: 0 to 1.
    """
    bounds: Sequence[float] = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank = share * buckets[bounds[-1]]
    if rank <= buckets[bounds[0]]:
        return bounds[0] * rank / buckets[bounds[0]]
    for low, high in pairwise(bounds):
        if buckets[high] >= rank:
            if high == float("inf"):
                return low
            inside = buckets[high] - buckets[low]
            return low + (high - low) * (rank - buckets[low]) / inside
    return bounds[-1]
