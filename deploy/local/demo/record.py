"""What was seen of the day: moments of each pool, decisions in words, streams; and sums over a stretch of it."""

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from demo.witness import Witness

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Moment:
    """One pool as the leader's metrics told of it at a simulated time; counters since the demo began.

    Attributes:
        offered: Requests per second that the emulator's clients send.
        demand: Requests per second that the operator plans for.
        ready: Ready replicas by accelerator type; ``desired`` those planned.
        usd: Dollars so far by accelerator type.
        tokens: Tokens so far, all directions.
        plan_usd_per_hour: Rent of the plan.
        load: Requests asked for over those that the ready replicas carry; None before it is known.
        lost: Requests lost so far; ``finished`` served so far.
    """

    at: float
    offered: float
    demand: float
    ready: Mapping[str, int]
    desired: Mapping[str, int]
    usd: Mapping[str, float]
    tokens: float
    plan_usd_per_hour: float
    load: float | None
    lost: float
    finished: float

    @property
    def replicas(self) -> int:
        """Ready replicas of all types."""
        return sum(self.ready.values())

    @property
    def dollars(self) -> float:
        """Dollars so far, all types."""
        return sum(self.usd.values())

    @property
    def is_covered(self) -> bool:
        """Whether the ready replicas carry the demand."""
        return self.replicas > 0 and self.load is not None and self.load < 1.0


@dataclass(frozen=True, slots=True)
class Told:
    """A decision in the operator's own words."""

    at: float
    pool: str
    change: tuple[str, ...]
    why: str
    decision_id: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of a pool's status."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PoolNow:
    """A pool as its object on the API server says it is."""

    name: str
    model: str = ""
    target: float | None = None
    accelerators: str = ""
    reason: str = ""
    conditions: tuple[Condition, ...] = ()

    def condition(self, kind: str) -> Condition | None:
        """The condition of a type."""
        return next((one for one in self.conditions if one.type == kind), None)

    @property
    def is_ready(self) -> bool:
        """Whether Ready is True."""
        ready = self.condition("Ready")
        return ready is not None and ready.status == "True"


@dataclass(slots=True)
class Streams:
    """Real streaming requests of one pool; ``retried`` found their pod gone and were served by another."""

    served: int = 0
    failed: int = 0
    retried: int = 0
    last_error: str = ""


@dataclass(slots=True)
class Record:
    """Everything seen so far. Written by the watcher and the streams, read by screen and summary."""

    pools: dict[str, PoolNow] = field(default_factory=dict)
    moments: dict[str, list[Moment]] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    streams: dict[str, Streams] = field(default_factory=dict)
    ready_since: dict[str, float] = field(default_factory=dict)
    ttft: dict[str, dict[float, float]] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    leader: str = ""
    witness: Witness | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def warn(self, told: str) -> None:
        """Keep a warning, or count it when it has been told before."""
        self.warnings[told] = self.warnings.get(told, 0) + 1

    def latest(self, pool: str) -> Moment | None:
        """The newest moment of a pool."""
        seen = self.moments.get(pool)
        return seen[-1] if seen else None

    def within(self, pool: str, start: float, end: float) -> list[Moment]:
        """Moments between two times."""
        return [one for one in self.moments.get(pool, ()) if start <= one.at <= end]


def dollars_at(moments: Sequence[Moment], at: float) -> float:
    """Dollars counted by a time, by straight lines between moments."""
    return _at(moments, at, [one.dollars for one in moments])


def tokens_at(moments: Sequence[Moment], at: float) -> float:
    """Tokens counted by a time, by straight lines between moments."""
    return _at(moments, at, [one.tokens for one in moments])


def usd_per_million(moments: Sequence[Moment], at: float, seconds: float = HOUR) -> float | None:
    """Dollars for a million tokens over the stretch of `seconds` before a time; None without tokens."""
    if not moments or moments[0].at > at - 0.5 * seconds:
        return None
    tokens = tokens_at(moments, at) - tokens_at(moments, at - seconds)
    if tokens <= 0:
        return None
    return (dollars_at(moments, at) - dollars_at(moments, at - seconds)) / tokens * 1e6


def usd_per_hour(moments: Sequence[Moment], at: float, seconds: float = HOUR) -> float | None:
    """Dollars per hour actually paid over the stretch of `seconds` before a time."""
    if not moments or moments[0].at > at - 0.5 * seconds:
        return None
    begin = max(moments[0].at, at - seconds)
    return (dollars_at(moments, at) - dollars_at(moments, begin)) / (at - begin) * HOUR if at > begin else None


def covered_share(moments: Sequence[Moment]) -> float:
    """Share of the time between the first and the last moment in which the ready replicas carried the demand."""
    spans = [(later.at - one.at, one.is_covered) for one, later in pairwise(moments)]
    total = sum(seconds for seconds, _ in spans)
    return sum(seconds for seconds, covered in spans if covered) / total if total else 0.0


def steps(moments: Sequence[Moment]) -> Iterator[tuple[float, float, Moment]]:
    """Each moment with the time it stands for: from itself to the next."""
    for one, later in pairwise(moments):
        yield one.at, later.at, one


def _at(moments: Sequence[Moment], at: float, values: Sequence[float]) -> float:
    times = [one.at for one in moments]
    index = bisect_right(times, at)
    if index == 0:
        return values[0]
    if index == len(times):
        return values[-1]
    share = (at - times[index - 1]) / (times[index] - times[index - 1])
    return values[index - 1] + share * (values[index] - values[index - 1])
