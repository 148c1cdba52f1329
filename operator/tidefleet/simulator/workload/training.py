"""A training backlog of Philly's jobs: when they came and on how many accelerators, folded so that work never ends.

Every week of the trace is laid upon one week (weekday and hour are kept), as often as it takes for the work that comes
in a week to be ``SURPLUS`` times what the whole fleet could do; durations are drawn for each job from those recorded
with as many accelerators (with the nearest number that there is). At second 0 there stands the work of a day for the
whole fleet, in jobs that together ask for at least twice its accelerators (most work is in a few long jobs). So the
backlog never empties, whatever share of the fleet is lent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tidefleet.simulator.workload.files import Floats, Ints, TraceError, needs, number, rows, whole

ARRIVALS = "training_philly_arrivals.csv.zst"
DURATIONS = "training_philly_durations.csv.zst"
WEEK_SECONDS = 604_800.0
SURPLUS = 1.5
"""Accelerator-seconds that come in a week, over those of the whole fleet in a week."""
STANDING_SECONDS, STANDING_TIMES = 86_400.0, 2.0
LONGEST_SECONDS = 1e9
MOST_GPUS = 1 << 20
_SEED = 0x7068_696C


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A job: when it comes (s of the scenario), on how many accelerators, and for how long (s)."""

    arrives: float
    gpus: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Backlog:
    """What was read of the trace.

    Attributes:
        at, gpus: of each job, shape (jobs,); ``at`` in seconds of a week, sorted.
        durations: by number of accelerators, shape (n,) each.
    """

    at: Floats
    gpus: Ints
    durations: dict[int, Floats]

    def jobs(self, *, chips: int, begin_seconds: float, seconds: float, seed: int) -> Iterator[TrainingJob]:
        """Jobs for a fleet of so many accelerators, in order of arrival, until the scenario ends.

        Those that ask for more than the whole fleet are left out: they would stand in its queue for ever.

        Args:
            begin_seconds: where in the week the scenario begins; seconds: how long it lasts.

        Raises:
            ValueError: no job is so small.
        """
        fits = self.gpus <= chips
        if not fits.all():
            if not fits.any():
                raise ValueError(
                    f"training backlog: every job asks for {int(self.gpus.min())} accelerators or more, and there are "
                    f"{chips}; expected as many, or training: {{backlog: endless}}"
                )
            fitting = replace(self, at=self.at[fits], gpus=self.gpus[fits])
            yield from fitting.jobs(chips=chips, begin_seconds=begin_seconds, seconds=seconds, seed=seed)
            return
        mean = np.array([self.of(one).mean() for one in self.gpus.tolist()])
        copies = max(1, math.ceil(SURPLUS * chips * WEEK_SECONDS / float((mean * self.gpus).sum())))
        first = math.floor(begin_seconds / WEEK_SECONDS)
        yield from self._standing(first - 1, copies, chips, seed)
        for week in range(first, math.ceil((begin_seconds + seconds) / WEEK_SECONDS)):
            for job in self._week(week, copies, seed):
                at = job.arrives + week * WEEK_SECONDS - begin_seconds
                if 0.0 <= at < seconds:
                    yield TrainingJob(at, job.gpus, job.seconds)

    def of(self, gpus: int) -> Floats:
        """Durations that were recorded with so many accelerators, or with the nearest number."""
        return self.durations[min(self.durations, key=lambda one: (abs(one - gpus), one))]

    def _week(self, week: int, copies: int, seed: int) -> Iterator[TrainingJob]:
        """Jobs of a week, each ``copies`` times; of the first it is when it came, further ones come within the hour."""
        rng = np.random.default_rng([seed, _SEED, week + (1 << 20)])
        at = np.tile(self.at, copies)
        at[len(self.at) :] += rng.random(len(at) - len(self.at)) * 3600.0
        at %= WEEK_SECONDS
        gpus = np.tile(self.gpus, copies)
        for place in np.argsort(at, kind="stable").tolist():
            wanted = gpus.item(place)
            yield TrainingJob(at.item(place), wanted, float(rng.choice(self.of(wanted))))

    def _standing(self, week: int, copies: int, chips: int, seed: int) -> Iterator[TrainingJob]:
        """Jobs that wait when the scenario begins: those of weeks before, the latest first, as many as it takes."""
        work, wide = STANDING_SECONDS * chips, STANDING_TIMES * chips
        while True:
            for job in self._week(week, copies, seed):
                if work <= 0.0 and wide <= 0.0:
                    return
                work -= job.gpus * job.seconds
                wide -= job.gpus
                yield TrainingJob(0.0, job.gpus, job.seconds)
            week -= 1


def backlog(traces: Path) -> Backlog:
    """Philly's jobs from a directory of traces.

    Raises:
        TraceError: a file is missing, has no row, or a row that is not usable.
    """
    path = needs(traces, ARRIVALS)
    at, gpus = [], []
    for line, (when, wanted) in rows(path, ("arrival_s", "gpus")):
        at.append(number(path, line, "arrival_s", when, least=0.0, example="5400") % WEEK_SECONDS)
        gpus.append(_gpus(path, line, wanted))
    found: dict[int, list[float]] = {}
    lengths = needs(traces, DURATIONS)
    for line, (took, wanted) in rows(lengths, ("duration_s", "gpus")):
        seconds = number(lengths, line, "duration_s", took, least=1.0, example="7772")
        if seconds > LONGEST_SECONDS:
            raise TraceError(f"{lengths}:{line}: duration_s is {took}; expected seconds up to 1e9, e.g. 7772")
        found.setdefault(_gpus(lengths, line, wanted), []).append(seconds)
    for where, count in ((path, len(at)), (lengths, len(found))):
        if not count:
            raise TraceError(f"{where}: no row; expected one training job a row, e.g. 7772,8")
    order = np.argsort(at, kind="stable")
    durations = {count: np.array(values) for count, values in sorted(found.items())}
    return Backlog(np.array(at)[order], np.array(gpus, np.int64)[order], durations)


def _gpus(path: Path, line: int, came: str) -> int:
    found = whole(path, line, "gpus", came, least=1, example="8")
    if found > MOST_GPUS:
        raise TraceError(f"{path}:{line}: gpus is {came}; expected at most {MOST_GPUS:,}, e.g. 8")
    return found
