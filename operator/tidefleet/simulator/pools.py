"""One pool of a fleet run: its mix, its replicas between two times, and windows of it in detail."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.hashing import mix as scrambled
from tidefleet.simulator.cluster import Cluster
from tidefleet.simulator.detail import TAIL_SECONDS, Detail, Moves, simulate
from tidefleet.simulator.engine.facts import Facts
from tidefleet.simulator.fleet.timeline import Timeline
from tidefleet.simulator.mix import DRAWN_REQUESTS, Kind, Mix, demand_of, kind_of, spread
from tidefleet.simulator.scenario import BIN_SECONDS, Class, Pool, Scenario, Windows
from tidefleet.simulator.sessions import Session
from tidefleet.simulator.windows import Window
from tidefleet.simulator.workload import Workload

QUEUED = 1.2
"""Deferrable work at hand, over what is planned to be done of it."""

PIECES = 64
"""Stretches from which average requests are taken."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A pool that serves the demand of another: what its replicas are, and what each carries of it."""

    pool: Pool
    facts: Facts
    carries: float


@dataclass(frozen=True, slots=True)
class PoolRun:
    """One pool of a scenario with a demand of its own, and those that serve it too, ready to be simulated."""

    pool: Pool
    classes: tuple[Class, ...]
    facts: Facts
    mix: Mix
    policy: str
    seed: int
    beside: tuple[Beside, ...] = ()

    @property
    def replicas(self) -> float:
        """All that there are, in those of the first kind."""
        return self.pool.replicas + sum(one.pool.replicas * one.carries for one in self.beside)

    @property
    def others(self) -> dict[int, Beside]:
        """Replicas that are not of the first kind, by number."""
        every = [one for one in self.beside for _ in range(one.pool.replicas)]
        return dict(enumerate(every, self.pool.replicas))

    @property
    def carries(self) -> dict[int, float]:
        """What each of these carries."""
        return {number: one.carries for number, one in self.others.items()}

    def everything(self) -> Moves:
        """All of its replicas serve."""
        return Moves(tuple(range(self.pool.replicas + len(self.others))), carries=self.carries)

    def moves(self, timeline: Timeline, begin: float, end: float) -> Moves:
        """Its replicas between two times."""
        each = self.pool.replicas_per_node
        first = min(number for number, name in enumerate(timeline.pool_of) if name == self.pool.name)
        serving = [
            (node - first) * each + one for node in timeline.serving(begin, self.pool.name) for one in range(each)
        ]
        changes = [
            (one.at, (one.node - first) * each + place, one.what)
            for one in timeline.changes(begin, end, self.pool.name)
            for place in range(each)
        ]
        return Moves(tuple(serving), tuple(changes), carries=self.carries)

    def run(
        self,
        workload: Workload,
        window: Window,
        moves: Moves,
        *,
        terms: Windows,
        filler: float,
        timeline: Timeline | None = None,
    ) -> Detail:
        """A window of it.

        Args:
            filler: replicas that deferrable work is to keep busy.
            timeline: says which share of the classes with an external API goes there; none, unless given.
        """
        warm, until = window.begin - terms.warm_seconds, window.end + TAIL_SECONDS
        sessions: list[Session] = []
        for one in self.classes:
            if one.name in self.mix.deferrable or one.name not in self.mix.starts:
                continue
            back = terms.history_seconds
            drawn = workload.standing(one.name, warm, back, before=1, until=until)
            drawn += workload.sessions(one.name, warm - back, until, until=until)
            if timeline is not None and one.name in self.mix.spillable:
                drawn = [each for each in drawn if not self._is_spilled(each, timeline)]
            sessions += drawn
        sessions += self._filler(workload, warm, until, filler)
        others = {number: (one.pool, one.facts) for number, one in self.others.items()}
        cluster = Cluster(self.pool, self.classes, policy=self.policy, seed=self.seed, facts=self.facts, others=others)
        rng = np.random.default_rng([self.seed, round(window.begin * 1000.0), 0x77])
        return simulate(
            window,
            cluster,
            sessions,
            moves,
            self.mix.point,
            warm_seconds=terms.warm_seconds,
            recent_seconds=terms.history_seconds,
            kept_seconds=terms.kept_seconds,
            rng=rng,
        )

    def _is_spilled(self, session: Session, timeline: Timeline) -> bool:
        """Whether an external API takes a session: each with the share that is taken when it begins."""
        at = max(0.0, session.begins)
        demand = timeline.demand[self.pool.name]
        most = demand.spilled(at, 0.0)
        share = timeline.spilled(at, self.pool.name) / most if most > 0.0 else 0.0
        drawn = scrambled(np.array([session.number], dtype=np.int64).astype(np.uint64))[0]
        return float(drawn) < share * 2.0**64

    def _filler(self, workload: Workload, begin: float, end: float, replicas: float) -> list[Session]:
        """Deferrable work as the plan lets it in: it came in the hours before, and is spread evenly now.

        A little more comes than is planned, since over the day before a queue has built up from which to take. It is
        so much by what its own requests need, and not by what a request needs on average: these differ a hundredfold.
        """
        found: list[Session] = []
        names = sorted(self.mix.deferrable)
        each = {name: self.mix.kinds[name].turns * self.mix.needed(name) for name in names}
        total = sum(self.mix.starts[name] * each[name] for name in names)
        for name in names:
            share = self.mix.starts[name] * each[name] / total
            wanted = QUEUED * (end - begin) * replicas * share
            upto, back = 0.0, begin
            while upto < wanted and back > begin - 30 * 86_400.0:
                for one in workload.sessions(name, back - BIN_SECONDS, back):
                    needs = self._needs(one)
                    if upto + needs / 2.0 >= wanted:
                        upto = wanted
                        break
                    at = begin + (end - begin) * (upto + needs / 2.0) / wanted
                    found.append(replace(one, begins=at))
                    upto += needs
                back -= BIN_SECONDS
        return found

    def _needs(self, session: Session) -> float:
        """Replica-seconds of a session at the operating point."""
        found, held = 0.0, 0
        for turn in session.turns:
            held = min(held, turn.tokens - 1)
            found += self.mix.point.rates.prefill_seconds(turn.tokens - held, held)
            found += turn.output * self.mix.point.seconds_per_output_token
            held = turn.tokens + turn.output
        return found


def kinds_of(scenario: Scenario, classes: Sequence[Class], workload: Workload, facts: Facts) -> dict[str, Kind]:
    """Each class's average request, from sessions spread over the scenario as they come."""
    found = {}
    pieces = min(PIECES, max(1, int(scenario.seconds / BIN_SECONDS)))
    for one in classes:
        trial = workload.scale(one.name, 1.0)
        first = trial.sessions(one.name, 0.0, min(scenario.seconds, BIN_SECONDS))
        turns = max(1.0, sum(len(each.turns) for each in first)) / max(1, len(first))
        mean = float(trial.rate(one.name).mean()) * turns
        length = min(scenario.seconds / pieces, DRAWN_REQUESTS / pieces / max(mean, 1e-9))
        drawn: list[Session] = []
        for piece in range(pieces):
            begin = (piece + 0.5) * scenario.seconds / pieces
            drawn += trial.sessions(one.name, begin, begin + length)
        found[one.name] = kind_of(drawn or first, facts.rates, step_seconds=2.0 * facts.rates.step_seconds)
    return found


def usual(workload: Workload) -> Workload:
    """The workload with nothing out of the ordinary: no surges, every class at its own rate and length."""
    scenario = workload.scenario
    classes = {one.name: one.model_copy(update={"rate_factor": 1.0, "output_factor": 1.0}) for one in scenario.classes}
    return replace(
        workload,
        scenario=scenario.model_copy(update={"surges": (), "classes": tuple(classes.values())}),
        streams={name: replace(one, wclass=classes[name]) for name, one in workload.streams.items()},
    )


def shapes_of(
    classes: Sequence[Class], kinds: Mapping[str, Kind], workload: Workload
) -> dict[str, NDArray[np.float64]]:
    """Sessions/s whose turns come in each bin, at one session/s."""
    return {one.name: spread(workload.scale(one.name, 1.0).rate(one.name), kinds[one.name].delays) for one in classes}


def answers_of(
    scenario: Scenario, classes: Sequence[Class], kinds: Mapping[str, Kind]
) -> dict[str, NDArray[np.float64]]:
    """How many times as long as usual answers are in each bin, by class, on average."""
    bins = np.arange(math.ceil(scenario.seconds / BIN_SECONDS)) * BIN_SECONDS
    found = {}
    for one in classes:
        factors = np.full(len(bins), one.output_factor)
        for surge in scenario.surges:
            if surge.wclass == one.name:
                inside = (bins >= surge.begin_seconds) & (bins < surge.begin_seconds + surge.seconds)
                factors[inside] *= surge.output_factor
                if surge.output_cap_tokens is not None:
                    cap = surge.output_cap_tokens
                    for factor in np.unique(factors[inside]):
                        same = inside & (factors == factor)
                        factors[same] = kinds[one.name].grown(float(factor), cap)
        found[one.name] = factors
    return found


def scaled(workload: Workload, mix: Mix) -> Workload:
    """The workload at the mix's rates."""
    for name, starts in mix.starts.items():
        workload = workload.scale(name, starts)
    return workload


def busiest(mix: Mix) -> float:
    """Where the busiest hour of online demand begins that has to be served here, seconds of the scenario."""
    needed = demand_of(mix, deadline_seconds=86_400.0).held
    width = min(6, len(needed))
    return float(np.argmax(np.convolve(needed, np.full(width, 1.0 / width), mode="valid")) * BIN_SECONDS)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A window of one pool as it is kept: what ``Detail`` says of it, without its single requests.

    Attributes:
        in_time, requests: by class; ttft, tpot: values of their requests, thinned evenly to ``KEPT_VALUES``.
    """

    pool: str
    window: Window
    requests: Mapping[str, int]
    in_time: Mapping[str, int]
    prompt_tokens: float
    hit_tokens: float
    prefill_seconds: float
    ideal_seconds: float
    serving_seconds: float
    online_seconds: float
    filler_seconds: float
    planned_filler_seconds: float
    load_max_over_mean: float
    flown: int
    ttft: Mapping[str, Sequence[float]]
    tpot: Mapping[str, Sequence[float]]


KEPT_VALUES = 400
"""Of each class and window, for percentiles over the whole time."""


def sampled(pool: str, detail: Detail, *, planned_filler: float) -> Sampled:
    """What is kept of a window."""
    seen = detail.seen
    total = sum(detail.loads)
    return Sampled(
        pool,
        detail.window,
        {name: one.requests for name, one in seen.items()},
        {name: one.in_time for name, one in seen.items()},
        sum(one.prompt_tokens for one in seen.values()),
        sum(one.hit_tokens for one in seen.values()),
        sum(one.prefill_seconds for one in seen.values()),
        sum(one.ideal_seconds for one in seen.values()),
        detail.serving_seconds,
        detail.online_seconds,
        detail.filler_seconds,
        planned_filler * detail.window.seconds,
        max(detail.loads) * len(detail.loads) / total if total else 1.0,
        detail.flown,
        {name: _thinned(one.ttft) for name, one in seen.items() if one.ttft},
        {name: _thinned(one.tpot) for name, one in seen.items() if one.tpot},
    )


def _thinned(values: Sequence[float]) -> list[float]:
    """Evenly spaced order statistics, which keep the distribution's shape."""
    ranked = sorted(values)
    if len(ranked) <= KEPT_VALUES:
        return [round(one, 6) for one in ranked]
    places = np.linspace(0, len(ranked) - 1, KEPT_VALUES).round().astype(int)
    return [round(ranked[one], 6) for one in places]


def from_json(value: Mapping[str, Any]) -> Sampled:
    """A window as it was kept."""
    return Sampled(**{**value, "window": Window(**value["window"])})


def to_json(one: Sampled) -> dict[str, Any]:
    """A window to be kept."""
    return asdict(one)
