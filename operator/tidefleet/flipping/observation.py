"""What the state machine is told of a unit: what is wished for it, the terms, and what was seen of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Lend:
    """The loan test holds: the unit may go to training until ``until`` (Unix seconds).

    ``admitted`` says that it may set out now: this process leads, the step is within its limits, budgets allow it, and
    the reserve is kept. ``pool`` lends it (``namespace/name``), ``queue`` trains on it, e.g. ``Kueue/night``; ``by``
    asked for it by hand.
    """

    until: float
    why: str
    admitted: bool = True
    pool: str = ""
    queue: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Recall:
    """The unit must serve; ``surge`` when requests wait for it already, so that training gets the short grace."""

    why: str
    surge: bool = False


@dataclass(frozen=True, slots=True)
class Stay:
    """Nothing speaks for a change: a loan goes on to its end, and a unit that serves goes on serving."""


Wish = Lend | Recall | Stay


class Canary(StrEnum):
    """What trial requests to the unit's replicas came to."""

    UNKNOWN = "Unknown"
    PASSED = "Passed"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Terms:
    """How long each phase may take, in seconds.

    Attributes:
        dwell: a unit serves at least this long between two loans.
        planned: a plan that has not begun by then is dropped.
        cordon: from the taint until nothing is routed here any more, where other replicas carry the demand already.
        replace: the same where replicas have to start elsewhere first.
        drain: until the running requests are finished; ``kill`` ends them then, else the flip is rolled back.
        kill_drain: how long ending them may take, before the flip is rolled back after all.
        verify: until nothing holds the accelerators any more.
        grace, surge_grace: from the request for a checkpoint until jobs are evicted.
        evict: from then until the unit is reclaimed whatever is left of the jobs.
        warm: until the replicas serve again: twice the 99th percentile of their starts.
        settle: a warm unit that no replica has come to by then serves too: nothing is wanted there.
    """

    dwell: float = 3600.0
    planned: float = 300.0
    cordon: float = 60.0
    replace: float = 1800.0
    drain: float = 600.0
    kill: bool = False
    kill_drain: float = 120.0
    verify: float = 120.0
    grace: float = 120.0
    surge_grace: float = 30.0
    evict: float = 30.0
    warm: float = 1200.0
    settle: float = 60.0

    def at_least(self, seconds: float) -> Terms:
        """The terms with no time-out below so many seconds, so that an owner who looks but rarely sees what became."""
        names = ("planned", "cordon", "replace", "drain", "kill_drain", "verify", "grace", "surge_grace", "warm")
        return replace(self, **{name: max(seconds, getattr(self, name)) for name in names})


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a unit. Counts are over all of its nodes; ``None`` is "not known", which never moves a flip on.

    Attributes:
        present: all of its nodes exist.
        unhealthy: what is wrong with them; empty when nothing is.
        vetoes: reasons not to flip it, in words: marks, a driver upgrade, a human's cordon, replicas that may not move.
        capacity_kept: without its replicas the pool still carries what it must. Replicas that are in quarantine, or on
            other units on their way out, carry nothing.
        routable: serving pods that requests may be routed to.
        serving_pods: serving pods, terminating ones included.
        requests: running and waiting in its replicas, measured after they stopped being routable.
        refused: why the eviction of one of them was refused last; empty when none was.
        holders: pods and claims that hold its accelerators, terminating ones included.
        jobs: training jobs on it.
        admission_stopped: no further job can be admitted to it: the quota published is without it.
        expected, ready: replicas of the pool that are scheduled to it, and those of them that serve.
        awaited: replicas of the pool wait for a node of this kind.
        canary: of its ready replicas; ``canary_words`` what was wrong.
        released: somebody asked for the release from quarantine.
        request: a human's wish by annotation, already part of ``wish``; its words.
    """

    wish: Wish = Stay()
    terms: Terms = field(default_factory=Terms)
    present: bool = True
    unhealthy: str = ""
    vetoes: tuple[str, ...] = ()
    capacity_kept: bool | None = None
    routable: int | None = None
    serving_pods: int | None = None
    requests: int | None = None
    refused: str = ""
    holders: int | None = None
    jobs: int | None = None
    admission_stopped: bool = False
    expected: int | None = None
    ready: int | None = None
    awaited: bool = False
    canary: Canary = Canary.UNKNOWN
    canary_words: str = ""
    released: bool = False
