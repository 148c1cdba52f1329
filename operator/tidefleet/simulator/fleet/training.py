"""Training on nodes that are lent: gangs of chips, checkpoints, and what a recall or a fault costs them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tidefleet.flipping import recall
from tidefleet.simulator.scenario import Training

BACKFILL = 200
"""Jobs in the queue that are looked at for one that fits the chips that are free."""


class Arrival(Protocol):
    """A job as it comes: when (s of the scenario), on how many accelerators, and for how long (s)."""

    @property
    def arrives(self) -> float: ...
    @property
    def gpus(self) -> int: ...
    @property
    def seconds(self) -> float: ...


@dataclass(slots=True, eq=False)
class Job:
    """A job that waits or runs; ``left`` seconds of work, ``stopped`` how often it lost its nodes."""

    number: int
    gpus: int
    left: float
    stopped: int = 0


@dataclass(slots=True, eq=False)
class Run:
    """A job on nodes: chips by node, since when it works, and when it had its last checkpoint."""

    job: Job
    chips: dict[str, int]
    works_from: float
    began: float

    @property
    def ends(self) -> float:
        """When it is done."""
        return self.works_from + self.job.left

    def done(self, now: float) -> float:
        """Seconds it has worked."""
        return max(0.0, min(now, self.ends) - self.works_from)


@dataclass(slots=True)
class Trainers:
    """Everybody who trains. Times are seconds of the scenario's clock; amounts are accelerator-seconds.

    Attributes:
        kept: work that counts; lost: that is done again, or was spent on starting again, by cause: ``recall`` (in the
            grace no checkpoint was written), ``fault``, ``reclaim``, ``restart``.
        finished: jobs that are done; stopped: how often one lost its nodes.
    """

    terms: Training
    checkpoint_seconds: float
    arrivals: Iterator[Arrival]
    kept: float = 0.0
    lost: dict[str, float] = field(default_factory=dict)
    finished: int = 0
    stopped: int = 0
    runs: list[Run] = field(default_factory=list)
    _waiting: list[Job] = field(default_factory=list)
    _next: Arrival | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _free: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, terms: Training, checkpoint_seconds: float, backlog: Iterable[Arrival]) -> Trainers:
        """Trainers with a backlog in order of arrival; its jobs are looked at as they come."""
        found = cls(terms, checkpoint_seconds, iter(backlog))
        found._next = next(found.arrivals, None)
        return found

    @property
    def idle(self) -> bool:
        """Whether nobody will ever ask for more than runs now."""
        return self.terms.backlog == "none"

    def used(self) -> Mapping[str, int]:
        """Chips in use, by node."""
        found: dict[str, int] = {}
        for run in self.runs:
            for node, chips in run.chips.items():
                found[node] = found.get(node, 0) + chips
        return found

    def offer(self, node: str, chips: int, now: float) -> None:
        """A node is there to train on."""
        self._free[node] = chips
        self.fill(now)

    def withdraw(self, node: str, now: float, *, saved: bool, cause: str) -> bool:
        """A node is no longer there: its jobs stop, on all their nodes.

        Args:
            saved: whether they write a checkpoint first.

        Returns:
            Whether any job was on it.
        """
        self._free.pop(node, None)
        hit = [run for run in self.runs if node in run.chips]
        for run in hit:
            self._stop(run, now, saved=saved, cause=cause)
        return bool(hit)

    def on(self, node: str) -> bool:
        """Whether a job is on a node."""
        return any(node in run.chips for run in self.runs)

    def next_end(self) -> float:
        """When the next job is done; infinite without one."""
        return min((run.ends for run in self.runs), default=math.inf)

    def advance(self, now: float) -> None:
        """Take off the jobs that are done by now, and start others in their place."""
        over = [run for run in self.runs if run.ends <= now + 1e-6]
        for run in over:
            self.runs.remove(run)
            self._count(run, run.ends, saved=True, cause="")
            self._release(run)
            self.finished += 1
        if over:
            self.fill(now)

    def fill(self, now: float) -> None:
        """Start what fits on the chips that are free: first come, first served, with others that fit in between."""
        self._arrive(now)
        while any(self._free.values()):
            room = sum(self._free.values())
            place = next((i for i, job in enumerate(self._waiting[:BACKFILL]) if job.gpus <= room), None)
            if place is not None:
                job = self._waiting.pop(place)
            elif self.terms.backlog == "endless":
                widest = max(self._free.values())
                job = Job(next(self._numbers), widest, math.inf)
            else:
                return
            self._start(job, now)

    def close(self, now: float) -> None:
        """The scenario ends: what runs has been worth its time so far."""
        for run in self.runs:
            self._count(run, now, saved=True, cause="")
        self.runs.clear()

    def order(self, nodes: Iterable[tuple[str, int]], back: int, now: float) -> list[tuple[str, str]]:
        """The order in which nodes come home, by ``flipping.recall``: (name, why)."""
        units = [recall.Unit(name, chips) for name, chips in nodes]
        jobs = [
            recall.Job(f"job-{run.job.number}", dict(run.chips), self._since_checkpoint(run, now)) for run in self.runs
        ]
        found = recall.recall(units, jobs, nodes=back)
        return [(name, step.why) for step in found.steps for name in step.units]

    # --- inside ------------------------------------------------------------------------------------------------------

    def _arrive(self, now: float) -> None:
        while self._next is not None and self._next.arrives <= now:
            one = self._next
            self._waiting.append(Job(next(self._numbers), max(1, one.gpus), one.seconds))
            self._next = next(self.arrivals, None)

    def _start(self, job: Job, now: float) -> None:
        chips: dict[str, int] = {}
        wanted = job.gpus
        fits = sorted((free, node) for node, free in self._free.items() if free >= wanted)
        largest = sorted((-free, node) for node, free in self._free.items() if free < wanted)
        for node in [node for _, node in (*fits, *largest)]:
            free = self._free[node]
            taken = min(free, wanted)
            if taken:
                chips[node] = taken
                self._free[node] = free - taken
                wanted -= taken
            if not wanted:
                break
        delay = self.terms.restart_seconds if job.stopped else 0.0
        self.runs.append(Run(job, chips, now + delay, now))

    def _stop(self, run: Run, now: float, *, saved: bool, cause: str) -> None:
        self.runs.remove(run)
        self._count(run, now, saved=saved, cause=cause)
        self._release(run)
        run.job.stopped += 1
        self.stopped += 1
        if math.isfinite(run.job.left) and run.job.left > 0:
            self._waiting.insert(0, run.job)

    def _count(self, run: Run, now: float, *, saved: bool, cause: str) -> None:
        chips = sum(run.chips.values())
        waited = min(now, run.works_from) - run.began
        if waited > 0:
            self.lost["restart"] = self.lost.get("restart", 0.0) + waited * chips
        done = run.done(now)
        kept = done if saved else done - self._since_checkpoint(run, now)
        self.kept += kept * chips
        if done > kept:
            self.lost[cause] = self.lost.get(cause, 0.0) + (done - kept) * chips
        run.job.left = max(0.0, run.job.left - kept)

    def _since_checkpoint(self, run: Run, now: float) -> float:
        return run.done(now) % self.terms.checkpoint_every_seconds

    def _release(self, run: Run) -> None:
        for node, chips in run.chips.items():
            if node in self._free:
                self._free[node] += chips
