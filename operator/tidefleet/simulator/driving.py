"""Sends sessions into a cluster, turn by turn, and lets it work."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable

from tidefleet.simulator.cluster import Cluster
from tidefleet.simulator.engine.job import DONE, LOST, REFUSED, Job
from tidefleet.simulator.sessions import Session


class Driver:
    """Turns that are to come, and the cluster that they go to.

    Args:
        sessions: in order of their begin.
        live: closed sessions at a time, the next one beginning as one ends, whatever their own begins; ``None`` = each
            begins by itself.
        happened: is told every event of the cluster.
        now: when it begins.
    """

    def __init__(
        self,
        cluster: Cluster,
        sessions: Iterable[Session],
        *,
        live: int | None = None,
        happened: Callable[[str, Job, float], None] | None = None,
        now: float = 0.0,
    ) -> None:
        self.cluster = cluster
        self.now = now
        self.jobs: list[Job] = []
        self.flown = 0
        """Requests that were sent again, since their replica was gone."""
        self._happened = happened
        self._numbers = itertools.count()
        self._coming: list[tuple[float, int, Session, int]] = []
        self._sessions = iter(sessions)
        self._waiting: deque[Session] = deque()
        self._live = live
        if live is not None:
            self._waiting.extend(self._sessions)
            for place in range(min(live, len(self._waiting))):
                self._later(now + place * _APART_SECONDS, self._waiting.popleft(), 0)
        else:
            self._fetch()

    def add(self, session: Session, at: int) -> None:
        """A turn comes now, and those after it in their time."""
        self._later(self.now, session, at)

    def resume(self, session: Session, at: int, came: float, generated: float) -> None:
        """A turn's answer is being written since before; of a closed session the rest comes after it."""
        self.jobs.append(self.cluster.resume(session, at, self.now, came=came, generated=generated))

    def run(self, until: float = math.inf) -> None:
        """Let time pass until then, or until nothing more happens."""
        cluster = self.cluster
        while True:
            arrival = self._coming[0][0] if self._coming else math.inf
            when = min(arrival, cluster.next())
            if when > until or when == math.inf:
                break
            self.now = max(self.now, when)
            self._told(cluster.advance(self.now))
            if arrival <= self.now:
                _, _, session, at = heapq.heappop(self._coming)
                if at == 0 and self._live is None:
                    self._fetch()
                self.jobs.append(cluster.submit(session, at, self.now))
                if not session.closed and at + 1 < len(session.turns):
                    self._later(self.now + session.turns[at + 1].pause, session, at + 1)
        if until < math.inf:
            self._told(cluster.advance(until))
            self.now = until

    def _told(self, events: list[tuple[str, Job]]) -> None:
        for what, job in events:
            self.flown += what == LOST
            if self._happened is not None:
                self._happened(what, job, self.now)
            if what in {DONE, REFUSED} and job.session.closed:
                session, at = job.session, job.at + 1
                if at < len(session.turns) and what == DONE:
                    self._later(job.done + session.turns[at].pause, session, at)
                elif self._waiting:
                    self._later(self.now, self._waiting.popleft(), 0)

    def _fetch(self) -> None:
        session = next(self._sessions, None)
        if session is not None:
            self._later(session.begins, session, 0)

    def _later(self, when: float, session: Session, at: int) -> None:
        heapq.heappush(self._coming, (max(when, self.now), next(self._numbers), session, at))


_APART_SECONDS = 5.0
"""Between the begins of the first of so many closed sessions at a time."""
