"""Which nodes come home first when demand surges, and what that costs those who train.

The order: the warm reserve; loaned units without a job; workers that elastic jobs can do without; whole jobs; and last
those that a checkpoint was asked of in vain. A job is taken whole, so all units on which it trains alone come free. Of
the jobs, the one goes first that loses least work for what it frees: chips * seconds since the last checkpoint, over
chips freed. Chips freed beyond the need do not count, so no large job goes for the sake of one node. What was taken and
turns out not to be needed, because a later job freed enough by itself, is left alone.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Means(StrEnum):
    """How a unit comes home, from the gentlest on."""

    RESERVE = "Reserve"
    EMPTY = "Empty"
    SHRINK = "Shrink"
    STOP = "Stop"
    EVICT = "Evict"


@dataclass(frozen=True, slots=True)
class Unit:
    """A node, or an atomic group of nodes, that can be had back.

    Attributes:
        name: unique among the units.
        chips: of all its nodes.
        nodes: that it consists of.
        warm: held warm in reserve rather than loaned: it serves at once.

    Raises:
        ValueError: chips or nodes is not positive.
    """

    name: str
    chips: int
    nodes: int = 1
    warm: bool = False

    def __post_init__(self) -> None:
        for what, count in (("chips", self.chips), ("nodes", self.nodes)):
            if count < 1:
                raise ValueError(f"Unit {self.name}: {what} is {count}; expected a positive integer, e.g. 8")


@dataclass(frozen=True, slots=True)
class Job:
    """A job that trains on units.

    Attributes:
        name: unique among the jobs.
        chips: that it uses, by the unit's name.
        seconds_since_checkpoint: of work that is lost with it; what is not finite counts as never checkpointed.
        least_chips: an elastic job goes on with as few; ``None``: it stops with its first worker.
        ignored: it has been asked for a checkpoint and has not answered in its grace.

    Raises:
        ValueError: a number of chips is negative.
    """

    name: str
    chips: Mapping[str, int] = field(default_factory=dict)
    seconds_since_checkpoint: float = math.inf
    least_chips: int | None = None
    ignored: bool = False

    def __post_init__(self) -> None:
        if any(one < 0 for one in self.chips.values()):
            raise ValueError(
                f"Job {self.name}: chips has {min(self.chips.values())}; expected counts from 0 on, e.g. 8"
            )

    @property
    def lost_seconds(self) -> float:
        """Seconds of each of its chips that are lost with it; infinite where nobody knows the last checkpoint."""
        return max(0.0, self.seconds_since_checkpoint) if math.isfinite(self.seconds_since_checkpoint) else math.inf


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, in its turn.

    Attributes:
        means: how.
        units: names of those that come free by it.
        jobs: names of those that shrink or stop.
        nodes: that come free.
        why: in words.
    """

    means: Means
    units: tuple[str, ...]
    jobs: tuple[str, ...]
    nodes: int
    why: str


@dataclass(frozen=True, slots=True)
class Recall:
    """What to do, in order; ``nodes`` come free by it, and ``missing`` are needed beyond all that can be had."""

    steps: tuple[Step, ...]
    nodes: int
    missing: int


def recall(units: Sequence[Unit], jobs: Sequence[Job], *, nodes: int) -> Recall:
    """The gentlest way to have so many nodes back.

    Args:
        units: that can be had back, loaned or in warm reserve.
        jobs: that train on them. Chips on a unit that is not named among ``units`` are lost with a job but free
            nothing.
        nodes: that are needed; with none, nothing is done.

    Raises:
        ValueError: two units or two jobs have the same name.
    """
    for what, names in (("units", [one.name for one in units]), ("jobs", [one.name for one in jobs])):
        twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
        if twice:
            raise ValueError(f"{what} has {min(twice)!r} more than once; expected each name once")
    plan = _Plan(units, jobs, max(0, nodes))
    plan.take(Means.RESERVE, [one for one in units if one.warm], "held warm in reserve")
    plan.take(Means.EMPTY, [one for one in units if not one.warm and not plan.on[one.name]], "no job runs on it")
    plan.shrink()
    plan.stop(Means.STOP, {one.name for one in jobs if not one.ignored})
    plan.stop(Means.EVICT, {one.name for one in jobs})
    steps = plan.needed_steps()
    freed = sum(one.nodes for one in steps)
    return Recall(tuple(steps), freed, max(0, nodes - freed))


@dataclass(frozen=True, slots=True)
class _Stop:
    """Jobs that would stop together: the units that come free, the chips that stop, the chip-seconds that are lost."""

    names: tuple[str, ...]
    units: tuple[Unit, ...]
    nodes: int
    chips: int
    stopped: int
    lost: float

    def price(self, missing: int) -> tuple[float, float, tuple[str, ...]]:
        """What is lost for each chip freed that is needed; where that is the same, the chips that stop for it."""
        useful = self.chips * min(1.0, missing / self.nodes)
        return self.lost / useful, self.stopped / useful, self.names

    @property
    def work(self) -> str:
        """What is lost, in words."""
        return (
            f"{self.lost:,.0f} chip-seconds of work"
            if math.isfinite(self.lost)
            else "all its work: no checkpoint is known"
        )


class _Plan:
    """What is taken so far, and what is left to take."""

    def __init__(self, units: Sequence[Unit], jobs: Sequence[Job], needed: int) -> None:
        self.needed = self.missing = needed
        self.steps: list[Step] = []
        self.units = {one.name: one for one in units}
        self.jobs = {one.name: one for one in jobs}
        self.chips = {one.name: {unit: chips for unit, chips in one.chips.items() if chips} for one in jobs}
        here: dict[str, set[str]] = {unit: set() for unit in self.units}
        for job, chips in self.chips.items():
            for unit in chips.keys() & here.keys():
                here[unit].add(job)
        self.on = {unit: frozenset() if self.units[unit].warm else frozenset(each) for unit, each in here.items()}
        self.on_at_first = dict(self.on)

    def take(self, means: Means, units: Sequence[Unit], why: str) -> None:
        """Units that nobody loses anything with: the smallest that is enough by itself, else the largest."""
        left = sorted(units, key=lambda one: (one.nodes, one.name))
        while left and self.missing:
            enough = bisect_left(left, self.missing, key=lambda one: one.nodes)
            self._add(means, [left.pop(min(enough, len(left) - 1))], (), why)

    def shrink(self) -> None:
        """Units whose jobs can all do without them, those first that cost the fewest workers."""
        spare = {
            name: sum(self.chips[name].values()) - one.least_chips
            for name, one in self.jobs.items()
            if one.least_chips is not None and not one.ignored
        }
        elastic = [unit for unit, here in self.on.items() if here and here <= spare.keys()]
        workers = {unit: sum(self.chips[job][unit] for job in self.on[unit]) for unit in elastic}
        for unit in sorted(elastic, key=lambda each: (workers[each], each)):
            here = sorted(self.on[unit])
            if self.missing and all(self.chips[job][unit] <= spare[job] for job in here):
                for job in here:
                    spare[job] -= self.chips[job].pop(unit)
                why = "; ".join(f"{job} goes on with {sum(self.chips[job].values())} chips" for job in here)
                self._add(Means.SHRINK, [self.units[unit]], tuple(here), why)
                self.on[unit] = frozenset()

    def stop(self, means: Means, jobs: Set[str]) -> None:
        """Whole jobs, those first that lose least for what they free."""
        stops = {group: self._stop(group) for group in {here for here in self.on.values() if here and here <= jobs}}
        while stops and self.missing:
            chosen = min(stops.values(), key=lambda one: one.price(self.missing))
            heedless = "left its recall unanswered and " if means is Means.EVICT else ""
            self._add(means, chosen.units, chosen.names, f"{', '.join(chosen.names)}: {heedless}loses {chosen.work}")
            gone = frozenset(chosen.names)
            lighter = {unit for job in gone for unit in self.chips[job]} & self.on.keys()
            for unit in lighter:
                self.on[unit] -= gone
            others = frozenset[str]().union(*(self.on[unit] for unit in lighter))
            again = {self.on[unit] for unit in lighter if self.on[unit] and self.on[unit] <= jobs}
            again |= {group for group in stops if not group.isdisjoint(others) and group.isdisjoint(gone)}
            stops = {group: one for group, one in stops.items() if group.isdisjoint(gone)}
            stops |= {group: self._stop(group) for group in again}

    def needed_steps(self) -> list[Step]:
        """The steps without the jobs that need not stop any more once later ones do, the last looked at first."""
        stops = [one for one in self.steps if one.means in (Means.STOP, Means.EVICT)]
        spare = sum(one.nodes for one in self.steps) - self.needed
        for step in [one for one in reversed(stops) if one.jobs]:
            held = {unit for one in stops for unit in one.units if set(step.jobs) & self.on_at_first[unit]}
            nodes = sum(self.units[unit].nodes for unit in held)
            if nodes <= spare:
                jobs = step.jobs
                stops = [self._without(one, held) for one in stops if one.jobs != jobs]
                spare -= nodes
        return [one for one in self.steps if one.means not in (Means.STOP, Means.EVICT)] + stops

    def _without(self, step: Step, held: Set[str]) -> Step:
        """A step that frees none of these units, which some other job goes on holding."""
        units = tuple(unit for unit in step.units if unit not in held)
        return replace(step, units=units, nodes=sum(self.units[unit].nodes for unit in units))

    def _stop(self, group: frozenset[str]) -> _Stop:
        """Jobs that must go together for some unit to come free, and all the units that then do."""
        touched = {unit for job in group for unit in self.chips[job]} & self.on.keys()
        units = tuple(self.units[unit] for unit in sorted(touched) if self.on[unit] and self.on[unit] <= group)
        sizes = {job: sum(self.chips[job].values()) for job in group}
        return _Stop(
            names=tuple(sorted(group)),
            units=units,
            nodes=sum(one.nodes for one in units),
            chips=sum(one.chips for one in units),
            stopped=sum(sizes.values()),
            lost=sum(size * self.jobs[job].lost_seconds for job, size in sizes.items()),
        )

    def _add(self, means: Means, units: Sequence[Unit], jobs: tuple[str, ...], why: str) -> None:
        nodes = sum(one.nodes for one in units)
        self.steps.append(Step(means, tuple(one.name for one in units), jobs, nodes, why))
        self.missing = max(0, self.missing - nodes)
