"""Training jobs as a cluster of researchers sends them: Philly's arrivals, folded so that the backlog never empties."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tidefleet.simulator.workload.files import Floats, TraceError, in_order, needs, number, rows

ARRIVALS = "training_philly_arrivals.csv.zst"
DURATIONS = "training_philly_durations.csv.zst"

ASKED_OVER_CHIPS = 1.25
"""Accelerators that the jobs would keep busy together, over those of the fleet, at least."""

WAITING_OVER_CHIPS = 2.0
"""Accelerators that jobs ask for which wait when a scenario begins, over those of the fleet."""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A job: when it comes (s of the scenario), on how many accelerators, and for how long (s)."""

    arrives: float
    gpus: int
    seconds: float


def philly(traces: Path, *, chips: int, seed: int) -> Iterator[TrainingJob]:
    """Jobs in order of arrival, without an end.

    The trace is laid over itself as often as it takes until the jobs that come ask for more than all ``chips``, and
    begins again when it is over. A job's duration is drawn among those of as many accelerators (or of the next fewer
    that there are). Jobs wider than the fleet are left out.

    Raises:
        TraceError: a file is missing or does not hold what it should.
        ValueError: chips is not positive.
    """
    if chips < 1:
        raise ValueError(f"philly: chips is {chips}; expected accelerators that there are, e.g. 512")
    lengths = _durations(needs(traces, DURATIONS))
    times, gpus = _arrivals(needs(traces, ARRIVALS), most=chips)
    sizes = sorted(lengths)
    span = float(times[-1]) + 1.0
    mean = {size: float(lengths[size].mean()) for size in sizes}
    asked = sum(int(one) * mean[_size(sizes, int(one))] for one in gpus) / span
    layers = math.ceil(ASKED_OVER_CHIPS * chips / asked)
    return _jobs(times, gpus, lengths, sizes, span=span, layers=layers, chips=chips, seed=seed)


def _jobs(
    times: Floats,
    gpus: Floats,
    lengths: dict[int, Floats],
    sizes: list[int],
    *,
    span: float,
    layers: int,
    chips: int,
    seed: int,
) -> Iterator[TrainingJob]:
    rng = np.random.default_rng([seed, 0x7068_696C])
    waiting = WAITING_OVER_CHIPS * chips
    shifts = [layer * span / layers for layer in range(layers)]
    for at, place in heapq.merge(*(_around(times, span, shift) for shift in shifts)):
        size = int(gpus[place])
        drawn = lengths[_size(sizes, size)]
        seconds = float(drawn[int(rng.integers(len(drawn)))])
        yield TrainingJob(0.0 if waiting > 0.0 else at, size, seconds)
        waiting -= size


def _around(times: Floats, span: float, shift: float) -> Iterator[tuple[float, int]]:
    """(time, row) of the trace begun at ``shift`` of its span, again and again."""
    first, turn = int(np.searchsorted(times, shift)), 0
    while True:
        for place in range(first, len(times)):
            yield float(times[place]) - shift + turn * span, place
        first, turn = 0, turn + 1


def _size(sizes: list[int], gpus: int) -> int:
    return sizes[max(0, bisect_right(sizes, gpus) - 1)]


def _arrivals(path: Path, *, most: int) -> tuple[Floats, Floats]:
    times, gpus, last = [], [], 0.0
    for line, (came, width) in rows(path, ("arrival_s", "gpus")):
        at = number(path, line, "arrival_s", came, least=0.0, example="3600")
        in_order(path, line, last, at)
        last = at
        size = number(path, line, "gpus", width, least=1.0, example="8")
        if size <= most:
            times.append(at)
            gpus.append(float(int(size)))
    if not times:
        raise TraceError(f"{path}: no job of at most {most} accelerators; expected rows such as 103959,0,1")
    return np.array(times), np.array(gpus)


def _durations(path: Path) -> dict[int, Floats]:
    found: dict[int, list[float]] = {}
    for line, (seconds, width) in rows(path, ("duration_s", "gpus")):
        size = int(number(path, line, "gpus", width, least=1.0, example="8"))
        found.setdefault(size, []).append(number(path, line, "duration_s", seconds, least=1.0, example="7200"))
    if not found:
        raise TraceError(f"{path}: no durations; expected rows such as 7200,8")
    return {size: np.array(values) for size, values in found.items()}
