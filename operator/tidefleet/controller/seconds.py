"""Where a pool's paid accelerator-seconds went, pass by pass, and what its accelerators drew meanwhile. Pure.

Each pass divides the seconds since the last one among needed and lost in the proportions that engines last showed, so
that the parts always sum to what was paid: chips are counted by pods, and what engines did is known only from scrape
to scrape.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tidefleet.controller.calibrating import workload_key
from tidefleet.controller.decision import Decision
from tidefleet.controller.lent_costs import chips_by_phase
from tidefleet.controller.work import EngineWork
from tidefleet.economics import ledger
from tidefleet.economics.energy import worked_watts
from tidefleet.economics.ledger import Speeds, Split, added, served, speeds_of, spread, trained
from tidefleet.flipping.phase import Phase
from tidefleet.planning.demand import MEAN_SECONDS
from tidefleet.planning.options import Candidate, ClassDemand, Option

MOST_UNKNOWN = 0.5
"""Share of the paid seconds that nobody knows about above which no utilisation is told."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What replicas of an option are rated by: the speeds needed seconds are counted with, and the classes' points."""

    speeds: Speeds
    candidate: Candidate
    classes: tuple[ClassDemand, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """Accelerator-seconds of one pass.

    Attributes:
        serving, training: those of serving and of training, lent nodes on their way included in the one that pays.
        joules: by accelerator type, of the chips that serve; types whose power is not known are left out.
    """

    serving: Split
    training: Split
    joules: Mapping[str, float]


@dataclass(slots=True)
class PoolSeconds:
    """What is remembered of a pool between two passes."""

    _points: dict[Option, OperatingPoint] = field(default_factory=dict)
    _lost_so_far: float | None = None
    _owed: float = 0.0
    _recent: deque[tuple[float, float, float, float]] = field(default_factory=deque)

    def step(
        self, decision: Decision, work: Sequence[EngineWork], *, seconds: float, lost_so_far: float, now: float
    ) -> Told:
        """Account for the seconds since the last pass at the chips seen now.

        Args:
            work: of the pool's engines since then.
            lost_so_far: accelerator-seconds of training work that recalls of the pool's nodes lost, since ever.
        """
        self._learn(decision)
        by_type = self._by_type(decision, work)
        phases = chips_by_phase(decision)
        parts, joules = list[Split](), dict[str, float]()
        chips: dict[str, Counter[str]] = {}
        for (accelerator, _), one in decision.view.chips.items():
            counts = chips.setdefault(accelerator, Counter())
            counts.update(staying=one.staying, leaving=one.leaving, warming=one.warming)
        for accelerator, counts in chips.items():
            mine = by_type.get(accelerator, ())
            staying, leaving = counts["staying"] * seconds, counts["leaving"] * seconds
            parts.append(spread(staying, added(one.split for one in mine if not one.leaving)))
            seen = added(one.split for one in mine if one.leaving)
            parts.append(spread(leaving, seen) if seen.paid else Split(0.0, {ledger.DRAIN: leaving}))
            parts.append(Split(0.0, {ledger.WARM: counts["warming"] * seconds}))
            watts = _mean_watts(mine)
            if watts is not None:
                kind = decision.view.kinds.get(accelerator)
                idle = float((kind.spec.idle_watts if kind else None) or 0)
                joules[accelerator] = watts * staying + idle * (leaving + counts["warming"] * seconds)
        for (_, phase), count in phases.items():
            if phase is Phase.VERIFYING:
                parts.append(Split(0.0, {ledger.DRAIN: count * seconds}))
            elif phase is Phase.RECLAIMING:
                parts.append(Split(0.0, {ledger.WARM: count * seconds}))
        told = Told(added(parts), self._trained(decision, phases, seconds, lost_so_far), joules)
        self._remember(told, now)
        return told

    @property
    def utilization(self) -> float | None:
        """Needed over paid accelerator-seconds of the last minutes, training included; ``None`` while it is unknown."""
        paid, needed, unknown = (sum(one[i] for one in self._recent) for i in (1, 2, 3))
        return needed / paid if paid > 0.0 and unknown <= MOST_UNKNOWN * paid else None

    def _remember(self, told: Told, now: float) -> None:
        both = added((told.serving, told.training))
        self._recent.append((now, both.paid, both.needed, both.lost.get(ledger.UNKNOWN, 0.0)))
        while self._recent and not now - MEAN_SECONDS < self._recent[0][0] <= now:
            self._recent.popleft()

    def _learn(self, decision: Decision) -> None:
        """The operating point of each option that runs; of one that is no candidate any more the last known."""
        running = {one.option for one in decision.view.served}
        self._points = {option: point for option, point in self._points.items() if option in running}
        for one in decision.market.candidates if decision.market is not None else ():
            if one.option in running and any(each.share > 0.0 for each in decision.classes):
                shares = [each.share for each in decision.classes]
                speeds = speeds_of(list(zip(shares, one.estimates, strict=True)))
                self._points[one.option] = OperatingPoint(speeds, one, decision.classes)

    def _by_type(self, decision: Decision, work: Iterable[EngineWork]) -> Mapping[str, list[_Seen]]:
        """What each engine was seen doing, in chip-seconds, by accelerator type."""
        name = decision.view.pool.name
        options = {workload_key(one.option, name): one.option for one in decision.view.served}
        found: dict[str, list[_Seen]] = {}
        for one in work:
            option = options.get(one.workload)
            if option is None:
                continue
            point = self._points.get(option)
            speeds = point.speeds if point is not None else None
            split = added(served(each, speeds, leaving=one.leaving) for each in one.spells).times(option.chips)
            watts = _watts(point, one) if point is not None else None
            found.setdefault(option.accelerator, []).append(_Seen(one.leaving, split, watts))
        return found

    def _trained(
        self, decision: Decision, phases: Mapping[tuple[str, Phase], int], seconds: float, lost_so_far: float
    ) -> Split:
        lost, self._lost_so_far = lost_so_far - (self._lost_so_far or 0.0), lost_so_far
        on_loan: Counter[str] = Counter()
        for (accelerator, phase), count in phases.items():
            if phase.is_lent:
                on_loan[accelerator] += count
        if decision.trained is None:
            self._owed += max(0.0, lost)
            return Split(0.0, {ledger.UNKNOWN: sum(on_loan.values()) * seconds}) if on_loan else Split()
        held = sum(min(count, decision.trained.get(one, 0.0)) for one, count in on_loan.items())
        kept = trained(held * seconds, lost_work=lost, owed=self._owed)
        self._owed = kept.owed
        if not on_loan:
            return Split()
        return added((kept.split, Split(0.0, {ledger.IDLE: (sum(on_loan.values()) - held) * seconds})))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one engine did: chip-seconds by what they were, and the mean power of one of its chips."""

    leaving: bool
    split: Split
    watts: float | None


def _watts(point: OperatingPoint, work: EngineWork) -> float | None:
    shares = [(one.share, each.shape) for one, each in zip(point.classes, point.candidate.estimates, strict=True)]
    whole = sum(share for share, _ in shares)
    uncached, cached, output = (
        sum(share * amount for (share, _), amount in zip(shares, amounts, strict=True)) / whole
        for amounts in (
            [shape.uncached for _, shape in shares],
            [shape.cached for _, shape in shares],
            [shape.output_mean for _, shape in shares],
        )
    )
    seconds = sum(one.seconds for one in work.spells)
    busy = sum(one.seconds * one.busy for one in work.spells)
    return worked_watts(
        point.candidate.estimates[0].replica,
        seconds=seconds,
        busy_seconds=busy,
        batch=sum(one.batch * one.seconds * one.busy for one in work.spells) / busy if busy > 0.0 else 0.0,
        output=sum(one.output for one in work.spells),
        context=uncached + cached + output / 2.0,
        uncached=sum(one.uncached for one in work.spells),
        prompt=(uncached, cached),
    )


def _mean_watts(seen: Iterable[_Seen]) -> float | None:
    """Mean power of a chip over engines that were seen and whose power is known."""
    known = [(one.split.paid, one.watts) for one in seen if one.watts is not None and not one.leaving]
    whole = sum(paid for paid, _ in known)
    return sum(paid * watts for paid, watts in known) / whole if whole > 0.0 else None
