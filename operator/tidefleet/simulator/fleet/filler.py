"""Deferrable work inside serving replicas: it takes what online demand leaves, the earliest deadline first."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from tidefleet.planning.deferrable import Volume, fewest_units
from tidefleet.planning.slots import SLOT_SECONDS, Array

BUCKET_SECONDS = 3 * 3600.0
"""Work whose deadlines lie this close is planned as one volume, due at the first of them."""


@dataclass(slots=True)
class Filler:
    """Work of one pool that waits, in replica-seconds; times are seconds of the scenario's clock (whole slots from 0).

    Attributes:
        done, late: so far; ``late`` is the part of ``done`` that came after its deadline.
        most_units: replicas that were added for it at most.
    """

    deadline_seconds: float
    done: float = 0.0
    late: float = 0.0
    arrived: float = 0.0
    most_units: int = 0
    _queue: deque[list[float]] = field(default_factory=deque)

    @property
    def left(self) -> float:
        """What waits."""
        return sum(volume for _, volume in self._queue)

    def advance(self, begin: float, end: float, *, rate: float, slack: float) -> float:
        """Work off what fits into ``slack`` replicas while ``rate`` arrives; replica-seconds done."""
        seconds = end - begin
        if rate > 0.0:
            self.arrived += rate * seconds
            self._add(end + self.deadline_seconds, rate * seconds)
        room = slack * seconds
        did = 0.0
        while self._queue and room > 0.0:
            deadline, volume = self._queue[0]
            part = min(volume, room)
            if end > deadline + 1e-6:
                self.late += part
            did += part
            room -= part
            if part >= volume:
                self._queue.popleft()
            else:
                self._queue[0][1] = volume - part
        self.done += did
        return did

    def plan(self, replicas: Array, point: Array, *, now: float, top: float, most: int) -> Array:
        """Whole replicas to have beyond those planned, by slot: none while what they leave idle suffices.

        Args:
            replicas: planned for online demand, by slot from the one that ``now`` is in.
            point: of them kept busy by it, as expected.
            top: share of a replica that may be filled.
            most: replicas that there are.
        """
        if not self.arrived and not self._queue:
            return np.zeros(len(replicas))
        slack = np.maximum(0.0, replicas * top - point)
        room = np.floor(np.maximum(0.0, most - replicas) + 1e-9)
        later = np.linspace(2.0, 1.0, len(slack))  # what is added last may turn out not to be needed
        plan, units = fewest_units(self._volumes(now), slack, now=now, unit=top, most=room, prices=later)
        self.most_units = max(self.most_units, units)
        return np.ceil(plan.extra / top - 1e-9)

    def _add(self, deadline: float, volume: float) -> None:
        if self._queue and math.isclose(self._queue[-1][0], deadline, abs_tol=60.0):
            self._queue[-1][1] += volume
        else:
            self._queue.append([deadline, volume])

    def _volumes(self, now: float) -> list[Volume]:
        found: dict[int, list[float]] = {}
        for deadline, volume in self._queue:
            bucket = found.setdefault(int(deadline // BUCKET_SECONDS), [deadline, 0.0])
            bucket[1] += volume
        soonest = now + SLOT_SECONDS * 2.0  # what is overdue is still done, as soon as it can be
        return [Volume(f"waiting/{key}", volume, max(due, soonest)) for key, (due, volume) in sorted(found.items())]
