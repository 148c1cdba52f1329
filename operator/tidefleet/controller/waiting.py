"""A pool's work that may wait: how far it has come, how it fits into idle capacity, and what it needs beyond that.

Work is counted in requests of the pool's steady mix: what a token takes of prefill or of decode, whichever is more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from tidefleet.api import WorkloadClass
from tidefleet.controller.ahead import mean_of
from tidefleet.controller.trainers import follows
from tidefleet.planning.deferrable import SECONDS_PER_DAY, DeferrablePlan, Volume, daily_volumes, fewest_units
from tidefleet.planning.demand import Known
from tidefleet.planning.from_api import number, shape_of
from tidefleet.planning.options import ClassDemand
from tidefleet.planning.slots import SLOT_SECONDS, Array, slot_of
from tidefleet.planning.words import brief

MOST_UNITS = 1000

TRAINS_ON_SECONDS = 4 * 3600.0
"""How far ahead a trainer is taken to go on as it does now."""


@dataclass(slots=True)
class Waiting:
    """What a pool remembers of its deferrable classes; lost, what was due counts as done evenly so far.

    Attributes:
        unit: requests per second that one replica carries, as last planned; 0 before the first plan.
        done: tokens done by class and day of release (days since 1970).
        owed: tokens that a trainer has asked for by now and not got, by class.
        plan, units: the schedule in force, in requests of the mix, and the replicas it adds at most.
    """

    unit: float = 0.0
    done: dict[str, dict[int, float]] = field(default_factory=dict)
    owed: dict[str, float] = field(default_factory=dict)
    plan: DeferrablePlan | None = None
    units: int = 0
    _planned_volumes: dict[str, float] = field(default_factory=dict)
    _until: float | None = None
    _per_token: dict[str, float] = field(default_factory=dict)

    def schedule(
        self,
        classes: Sequence[WorkloadClass],
        mix: Sequence[ClassDemand],
        steady: Array | None,
        *,
        now: float,
        least: int,
        most: int,
    ) -> None:
        """Fit the volumes into what the steady demand's replicas leave idle; where that is too little, add whole ones.

        Args:
            classes: the deferrable ones. The ``trafficShare`` of one is part of what was measured, so of ``steady``.
            steady: requests per second by slot from now on; ``None`` when nobody knows, and then nothing is planned.
            least, most: replicas the pool has in any case, and may have at all.
        """
        self.plan, self.units = None, 0
        self._planned_volumes = {one.name: _volume(one) for one in classes}
        if steady is None or not classes or self.unit <= 0.0:
            return
        own = sum(number(one.spec.traffic_share) for one in classes)
        steady = steady * max(0.0, 1.0 - own)
        replicas = np.maximum(least, np.ceil(steady / self.unit - 1e-9))
        slack = np.maximum(0.0, replicas * self.unit - steady)
        volumes = [one for each in classes for one in self._volumes(each, mix, now, len(slack) * SLOT_SECONDS)]
        room = np.clip(most - replicas, 0, MOST_UNITS).astype(np.int64).tolist()
        self.plan, self.units = fewest_units(volumes, slack, now=now, unit=self.unit, most=room)

    def is_due(self, classes: Sequence[WorkloadClass], now: float) -> bool:
        """Whether a schedule is to be made: none is in force for the present slot, or a trainer's rate is another."""
        if self.plan is None or self.plan.first != slot_of(now):
            return True
        return any(_volume(one) != self._planned_volumes.get(one.name) for one in classes if follows(one))

    def beyond(self, now: float, lead_seconds: float) -> float:
        """Requests per second to plan beyond the steady demand, so that they are there when the schedule wants them."""
        if self.plan is None:
            return 0.0
        return max(self.plan.extra_at(now), self.plan.extra_at(now + lead_seconds))

    def progress(self, classes: Sequence[WorkloadClass], reading: Known | None, now: float) -> None:
        """Count what got done since this was last called, oldest volumes first.

        A class with a ``trafficShare`` did that share of the tokens measured; any other did what was scheduled, and so
        did all while nothing is measured (``reading`` is ``None``).
        """
        seconds = 0.0 if self._until is None else max(0.0, now - self._until)
        self._until = now
        for wclass in classes:
            days = self.done.get(wclass.name, {})
            if not seconds or not (days or follows(wclass)):
                continue
            share = number(wclass.spec.traffic_share)
            if share and reading is not None:
                lengths = (reading.input_tokens or 0.0) + (reading.output_tokens or 0.0)
                tokens = share * reading.arriving * lengths * seconds
            else:
                rate = self.plan.rate_at(wclass.name, now) if self.plan is not None else 0.0
                tokens = rate / max(1e-12, self._per_token.get(wclass.name, 1.0)) * seconds
            volume = _volume(wclass)
            if follows(wclass):
                asked = volume / SECONDS_PER_DAY * seconds
                # A trainer that has waited for a whole deadline waits on: it asks for nothing more meanwhile.
                most = max(volume, self._planned_volumes.get(wclass.name, 0.0)) / SECONDS_PER_DAY * _within(wclass)
                self.owed[wclass.name] = min(most, max(0.0, self.owed.get(wclass.name, 0.0) + asked - tokens))
                continue
            for day in sorted(days):
                part = min(tokens, max(0.0, volume - days[day]))
                days[day] += part
                tokens -= part

    def _volumes(self, wclass: WorkloadClass, mix: Sequence[ClassDemand], now: float, horizon: float) -> list[Volume]:
        tokens, within = _volume(wclass), _within(wclass)
        per_token = self._per_token[wclass.name] = work_per_token(wclass, mix)
        if follows(wclass):
            found = self._asked_by_trainer(wclass.name, tokens, within, now, min(horizon, TRAINS_ON_SECONDS))
        else:
            done = self._days(wclass.name, tokens, within, now)
            found = daily_volumes(wclass.name, tokens, within, now=now, horizon=horizon, done=done)
        return [replace(one, tokens=one.tokens * per_token) for one in found]

    def _asked_by_trainer(
        self, name: str, tokens: float, within: float, now: float, horizon: float
    ) -> tuple[Volume, ...]:
        """What a trainer is owed, and what it will ask for slot by slot if it goes on as it does now."""
        found = [Volume(f"{name}/owed", self.owed.get(name, 0.0), now + within)]
        for slot in range(slot_of(now), slot_of(now + horizon)):
            begin, end = max(now, slot * SLOT_SECONDS), (slot + 1) * SLOT_SECONDS
            part = tokens / SECONDS_PER_DAY * (end - begin)
            found.append(Volume(f"{name}/{slot}", part, end + within, begin))
        return tuple(one for one in found if one.tokens)

    def _days(self, name: str, tokens: float, within: float, now: float) -> dict[int, float]:
        """Tokens done by day of release, for days that may still be due."""
        days = self.done.setdefault(name, {})
        first, today = math.floor((now - within) / SECONDS_PER_DAY), math.floor(now / SECONDS_PER_DAY)
        fresh = bool(days)  # a day that begins while we look on begins with nothing done
        for day in range(first, today + 1):
            age = 0.0 if fresh and day > max(days) else now - day * SECONDS_PER_DAY
            days.setdefault(day, tokens * min(1.0, age / within))
        for day in [day for day in days if day < first]:
            del days[day]
        return days

    def words(self, names: Sequence[str]) -> str:
        """What becomes of this work; hours are UTC."""
        who, plan = ", ".join(names), self.plan
        if plan is None:
            return f"{who} may wait and uses what is idle, so nothing is planned for it"
        if plan.missing.any():
            return f"{who} cannot be done before its deadline within replicas.max"
        if plan.begins is None:
            return f"{who} fits into what is idle before its deadline, so nothing is planned for it"
        begins = datetime.fromtimestamp(plan.begins, tz=UTC)
        rate = brief(float(plan.extra.max()))
        return (
            f"{who} does not fit into what is idle before its deadline: "
            f"{rate} requests/s more are planned for it from {begins:%H}:00 UTC"
        )


def _volume(wclass: WorkloadClass) -> float:
    return float(wclass.spec.demand.volume_tokens_per_day or 0)


def _within(wclass: WorkloadClass) -> float:
    return float(wclass.spec.demand.deadline_seconds or 0)


def work_per_token(wclass: WorkloadClass, mix: Sequence[ClassDemand]) -> float:
    """Requests of the steady mix that one token of a deferrable class takes as much as."""
    shape = shape_of(wclass)
    pairs = ((shape.uncached, mean_of(mix, "uncached")), (shape.output_mean, mean_of(mix, "output_mean")))
    return max((own / steady for own, steady in pairs if steady > 1e-9), default=0.0) / max(
        1.0, shape.input_mean + shape.output_mean
    )
