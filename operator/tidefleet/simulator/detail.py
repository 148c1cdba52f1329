"""One stretch of a fleet's time, request by request, between two moments of a fluid run.

Before it begins, caches are filled: turns of the last ``history`` seconds lie where their session would have been, and
answers that were being written go on. Then a warm-up is simulated whose requests are not counted, the window itself,
and a tail in which requests go on to come until those of the window can be judged. A request of the window that has no
first token by the end of the tail has missed its objectives; one that still writes is judged by its pace so far.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tidefleet.routing.rates import Rates
from tidefleet.simulator.cluster import Cluster
from tidefleet.simulator.driving import Driver
from tidefleet.simulator.engine.job import Job
from tidefleet.simulator.operating import OperatingPoint
from tidefleet.simulator.scenario import Objective
from tidefleet.simulator.sessions import Session
from tidefleet.simulator.windows import Window

TAIL_SECONDS = 25.0
"""How long requests go on to come after a window: longer than the longest promise to a first token."""

LEAST_JUDGED_TOKENS = 8.0
"""An answer with fewer tokens so far has no pace that could be judged."""


@dataclass(frozen=True, slots=True)
class Moves:
    """Replicas over a window: those that serve when it is warmed up, and who comes and goes after.

    Attributes:
        serving: numbers of replicas at the beginning.
        changes: (time, replica, ``join``, ``leave`` or ``kill``), in order of time.
        carries: what a replica of another kind carries, over one of the first; 1 of those that are not named.
    """

    serving: tuple[int, ...]
    changes: tuple[tuple[float, int, str], ...] = ()
    carries: Mapping[int, float] = field(default_factory=dict)


@dataclass(slots=True)
class Seen:
    """Requests of one class that came in a window.

    Attributes:
        in_time: within their objectives; all of a deferrable class that were served count as such.
        prompt_tokens, hit_tokens: of those whose prefill began; output_tokens: generated in the window by all.
        prefill_seconds: of those, as they were computed; ideal_seconds: as a cache that forgets nothing allows.
    """

    requests: int = 0
    in_time: int = 0
    refused: int = 0
    prompt_tokens: float = 0.0
    hit_tokens: float = 0.0
    prefill_seconds: float = 0.0
    ideal_seconds: float = 0.0
    output_tokens: float = 0.0
    ttft: list[float] = field(default_factory=list)
    tpot: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Detail:
    """What a window came to.

    Attributes:
        seen: by class.
        serving_seconds: replica-seconds in which replicas took requests, in those of the first kind;
            busy_seconds: in which they did anything.
        online_seconds, filler_seconds: replica-seconds needed for tokens that were computed in the window.
        loads: tokens by replica; flown: requests sent again since their replica went away.
    """

    window: Window
    seen: Mapping[str, Seen]
    serving_seconds: float
    busy_seconds: float
    online_seconds: float
    filler_seconds: float
    loads: tuple[float, ...]
    flown: int = 0


class Turns:
    """Sessions around a window: what was served before, what is being written, and what is to come.

    Args:
        warm: when the simulation begins.
        recent: from when on all that was served lies in some replica's cache; of what was served earlier, only what a
            session goes on from matters, which then lies in the shared store, if there is one.
        kept: what was served earlier is nowhere any more.
        rates, tpot_seconds: how fast answers before the window are taken to have been.

    Attributes:
        past: (end, number of the session, session, place of the turn), in order.
        stored: (session, place of its last turn) of sessions that go on after a long while.
        going_on: numbers of sessions with a past and a future.
        writing: (session, place, came, tokens generated) of answers that go on.
    """

    def __init__(
        self,
        sessions: Iterable[Session],
        warm: float,
        *,
        recent: float,
        kept: float,
        rates: Rates,
        tpot_seconds: float,
    ) -> None:
        self.past: list[tuple[float, int, Session, int]] = []
        self.stored: list[tuple[Session, int]] = []
        self.writing: list[tuple[Session, int, float, float]] = []
        self.coming: list[Session] = []
        self.going_on: set[int] = set()
        self._warm, self._recent, self._kept = warm, recent, kept
        self._rates, self._tpot = rates, tpot_seconds
        for session in sessions:
            self._add(session)
        self.past.sort(key=lambda one: one[:2])
        self.coming.sort(key=lambda one: (one.begins, one.number))

    def _add(self, session: Session) -> None:
        at, held, last, ended = session.begins, 0, -1, -math.inf
        goes_on = False
        for place, turn in enumerate(session.turns):
            if place:
                at += turn.pause
            if at >= self._warm:
                left = session.turns[place:]
                self.coming.append(replace(session, begins=at, turns=(replace(left[0], pause=0.0), *left[1:])))
                goes_on = True
                break
            first = self._rates.prefill_seconds(max(0, turn.tokens - held), held)
            ends = at + first + self._tpot * turn.output
            held = turn.tokens + turn.output
            if ends > self._warm:
                generated = max(0.0, (self._warm - at - first) / self._tpot)
                self.writing.append((session, place, at, min(generated, turn.output - 1.0)))
                goes_on = True
                if session.closed:
                    break  # the rest comes by itself once this one is answered
            else:
                last, ended = place, ends
                if ends >= self._recent:
                    self.past.append((ends, session.number, session, place))
            if session.closed:
                at = ends
        if goes_on and last >= 0:
            self.going_on.add(session.number)
            if self._kept <= ended < self._recent:
                self.stored.append((session, last))


def simulate(
    window: Window,
    cluster: Cluster,
    sessions: Sequence[Session],
    moves: Moves,
    point: OperatingPoint,
    *,
    warm_seconds: float,
    recent_seconds: float,
    kept_seconds: float,
    rng: np.random.Generator,
) -> Detail:
    """Run one window.

    Args:
        cluster: without replicas yet.
        sessions: all with turns between the window's history and its tail.
        moves: from ``window.begin - warm_seconds`` on.
        point: by which needed seconds are counted.
        warm_seconds: simulated before the window; recent_seconds: before these, what was served lies in caches;
            kept_seconds: likewise, in the shared store.
    """
    warm, until = window.begin - warm_seconds, window.end + TAIL_SECONDS
    for number in moves.serving:
        cluster.add(number, warm)
    turns = Turns(
        sessions,
        warm,
        recent=warm - recent_seconds,
        kept=warm - kept_seconds,
        rates=point.rates,
        tpot_seconds=point.tpot_seconds,
    )
    known = _fill(cluster, turns, warm, rng)
    driver = Driver(cluster, turns.coming, now=warm)
    for session, place, came, generated in turns.writing:
        if generated >= 1.0:
            driver.resume(session, place, came, generated)
        else:
            driver.add(session, place)
    changes = [one for one in moves.changes if warm < one[0] <= until]
    marks = sorted({window.begin, window.end, until, *(one[0] for one in changes)})
    serving, paid = set(moves.serving), 0.0
    begun = ended = _Tally()
    last = warm
    for mark in marks:
        driver.run(mark)
        paid += sum(moves.carries.get(one, 1.0) for one in serving) * _overlap(last, mark, window)
        last = mark
        if mark == window.begin:
            begun = _tally(cluster, driver.jobs, mark)
        if mark == window.end:
            ended = _tally(cluster, driver.jobs, mark)
        for _, number, what in (one for one in changes if one[0] == mark):
            if what == "join":
                if number in cluster.replicas:
                    cluster.kill(number, mark)
                cluster.add(number, mark)
                serving.add(number)
            elif what == "leave" and number in serving:
                cluster.drain(number, mark)
                serving.discard(number)
            elif what == "kill" and number in cluster.replicas:
                cluster.kill(number, mark)
                serving.discard(number)
    cluster.settle(until)
    loads = tuple(ended.loads.get(one, 0.0) - begun.loads.get(one, 0.0) for one in sorted(serving))
    seen = {name: Seen() for name in cluster.classes}
    online = filler = 0.0
    for job in driver.jobs:
        mine = seen[job.session.wclass]
        written = ended.written.get(job.number, 0.0) - begun.written.get(job.number, 0.0)
        needed = written * point.seconds_per_output_token
        mine.output_tokens += written
        ideal = _known_tokens(job, known)
        if window.begin <= job.first < window.end and job.number not in begun.written:
            held = job.cached + sum(job.fetched)
            took = point.rates.prefill_seconds(job.tokens - held, held)
            least = min(took, point.rates.prefill_seconds(job.tokens - max(ideal, held), max(ideal, held)))
            mine.prompt_tokens += job.tokens
            mine.hit_tokens += held
            mine.prefill_seconds += took
            mine.ideal_seconds += least
            needed += least
        if job.is_deferrable:
            filler += needed
        else:
            online += needed
        if window.begin <= job.came < window.end:
            _judge(mine, job, cluster, until)
    return Detail(window, seen, paid, ended.busy - begun.busy, online, filler, loads, driver.flown)


@dataclass(frozen=True, slots=True)
class _Tally:
    """At one moment: tokens of each answer that is or was written, tokens by replica, seconds in which any worked."""

    written: Mapping[int, float] = field(default_factory=dict)
    loads: Mapping[int, float] = field(default_factory=dict)
    busy: float = 0.0


def _tally(cluster: Cluster, jobs: Iterable[Job], now: float) -> _Tally:
    cluster.settle(now)
    loads = {number: one.counts.prompt_tokens + one.counts.output_tokens for number, one in cluster.replicas.items()}
    written = {one.number: cluster.written(one) for one in jobs if one.first <= now}
    return _Tally(written, loads, cluster.counts().busy_seconds)


def _fill(cluster: Cluster, turns: Turns, warm: float, rng: np.random.Generator) -> set[int]:
    """Put the past into the caches, each session's where its last turn went; the keys of all of it."""
    numbers = sorted(cluster.replicas)
    load = dict.fromkeys(numbers, 0.0)
    homes: dict[int, int] = {}
    known: set[int] = set()
    for session, place in turns.stored:
        known.update(cluster.store(session, place))
    for _, _, session, place in turns.past:
        number = homes.get(session.number)
        if number is None:
            few = [numbers[int(one)] for one in rng.integers(len(numbers), size=2)]
            number = homes[session.number] = min(few, key=lambda one: load[one])
        turn = session.turns[place]
        load[number] += turn.tokens + turn.output
        known.update(cluster.keep(number, session, place, shared=session.number in turns.going_on))
    return known


def _known_tokens(job: Job, known: set[int]) -> float:
    """Leading tokens of a prompt that came before, or were answers, anywhere; from now on the whole of it did."""
    keys = job.turn.keys.tolist()
    count = next((place for place, key in enumerate(keys) if key not in known), len(keys))
    known.update(keys[count:])
    known.update(job.answer_keys)
    return min(float(count * job.block_size), job.tokens - 1.0)


def _judge(seen: Seen, job: Job, cluster: Cluster, until: float) -> None:
    """Count a request of the window."""
    seen.requests += 1
    if job.refused:
        seen.refused += 1
        return
    if job.is_deferrable:
        seen.in_time += 1
        return
    if job.first == math.inf:
        return
    written = cluster.written(job)
    seen.ttft.append(job.ttft_seconds)
    if job.done < math.inf:
        pace = job.tpot_seconds
    else:
        pace = (until - job.first) / (written - 1.0) if written >= LEAST_JUDGED_TOKENS else 0.0
    if job.output > 1:
        seen.tpot.append(pace)
    promise: Objective | None = cluster.classes[job.session.wclass].objective
    if promise is None or is_in_time(promise, job.tokens, job.ttft_seconds, pace):
        seen.in_time += 1


def is_in_time(promise: Objective, tokens: float, ttft_seconds: float, tpot_seconds: float) -> bool:
    """Whether a request kept its class's promise."""
    limit = promise.ttft_seconds + promise.ttft_seconds_per_thousand * tokens / 1000.0
    return ttft_seconds <= limit and tpot_seconds <= promise.tpot_seconds


def _overlap(begin: float, end: float, window: Window) -> float:
    return max(0.0, min(end, window.end) - max(begin, window.begin))
