"""Replicas of a simple engine under a simulated clock, and the policies that send them requests."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from benchmarks.router_policy_traces import Scenario, Turn

from tidefleet.routing.endpoints import Endpoint, Endpoints, Ticket
from tidefleet.routing.index import Hits, PrefixIndex
from tidefleet.routing.pick import Pick, pick
from tidefleet.routing.rates import Rates
from tidefleet.routing.request import Ask

CHUNK = 2048
UNPROMISED_SECONDS = 1e6
"""A replay serves every request, however long it waits: a refusal would save the picker the slowest ones."""
POLICIES = ("round_robin", "least_request", "sticky", "greedy", "pick")


@dataclass(slots=True, eq=False)
class Job:
    """A request in a replica."""

    turn: Turn
    place: int
    came: float
    cached: int = 0
    work: float = 0.0
    chunk_seconds: float = 0.0
    first: float = 0.0
    done_at: float = 0.0
    ticket: Ticket | None = None


class Blocks:
    """A prefix cache of whole blocks; a prompt's last blocks are the first to go."""

    def __init__(self, most: int, index: PrefixIndex, slot: int) -> None:
        self.most, self.index, self.slot = most, index, slot
        self.held: dict[int, None] = {}

    def prefix(self, keys: list[int]) -> int:
        held = self.held
        return next((place for place, key in enumerate(keys) if key not in held), len(keys))

    def use(self, keys: list[int]) -> None:
        held = self.held
        fresh = [key for key in keys if key not in held]
        for key in reversed(keys):
            held.pop(key, None)
            held[key] = None
        over = len(held) - self.most
        if over > 0:
            gone = list(itertools.islice(held, over))
            for key in gone:
                del held[key]
            self.index.remove(self.slot, np.array(gone, dtype=np.uint64))
        if fresh:
            kept = [key for key in keys if key in held]
            self.index.store(self.slot, np.array(kept, dtype=np.uint64))


class Engine:
    """One replica: prefill in order of arrival, interleaved with a decode step for each chunk."""

    def __init__(self, rates: Rates, blocks: Blocks, block_size: int) -> None:
        self.rates, self.blocks, self.block_size = rates, blocks, block_size
        self.waiting: deque[Job] = deque()
        self.current: Job | None = None
        self.decoding: list[tuple[float, int, Job]] = []
        self.progress = 0.0
        self.context = 0.0
        self.at = 0.0
        self.numbers = itertools.count()
        self.tokens = 0.0

    @property
    def requests(self) -> int:
        return len(self.waiting) + (self.current is not None) + len(self.decoding)

    def next(self) -> float:
        """When something happens there next."""
        step = self.rates.tpot_seconds(len(self.decoding), self.context)
        when = float("inf")
        if self.current is not None:
            slow = 1.0 + (step / self.current.chunk_seconds if self.decoding else 0.0)
            when = self.at + self.current.work * slow
            step += self.current.chunk_seconds
        if self.decoding:
            when = min(when, self.at + (self.decoding[0][0] - self.progress) * step)
        return max(when, self.at)

    def advance(self, now: float) -> None:
        """Work until ``now``, within which nothing ends."""
        passed, self.at = now - self.at, now
        if passed <= 0.0:
            return
        step = self.rates.tpot_seconds(len(self.decoding), self.context)
        if self.current is not None:
            slow = 1.0 + (step / self.current.chunk_seconds if self.decoding else 0.0)
            self.current.work -= passed / slow
            step += self.current.chunk_seconds
        if self.decoding:
            self.progress += passed / step

    def start(self) -> None:
        """Begin the next prefill, if none runs."""
        if self.current is not None or not self.waiting:
            return
        job = self.waiting.popleft()
        keys = job.turn.keys.tolist()
        job.cached = min(self.blocks.prefix(keys) * self.block_size, job.turn.tokens - 1)
        uncached = job.turn.tokens - job.cached
        job.work = self.rates.prefill_seconds(uncached, job.cached)
        job.chunk_seconds = job.work / max(1.0, uncached / CHUNK)
        self.current = job

    def ended(self, now: float) -> list[tuple[str, Job]]:
        """What ended by now."""
        found = []
        if self.current is not None and self.current.work <= 1e-9:
            job, self.current = self.current, None
            job.first = now
            self.blocks.use(job.turn.keys.tolist())
            self.context += job.turn.tokens + job.turn.output / 2.0
            heapq.heappush(self.decoding, (self.progress + job.turn.output, next(self.numbers), job))
            found.append(("first", job))
        while self.decoding and self.decoding[0][0] <= self.progress + 1e-6:
            _, _, job = heapq.heappop(self.decoding)
            self.context -= job.turn.tokens + job.turn.output / 2.0
            job.done_at = now
            self.tokens += job.turn.tokens + job.turn.output
            found.append(("done", job))
        return found


@dataclass(slots=True)
class Outcome:
    """What a policy came to."""

    hit: float
    load: float
    ttft_mean: float
    ttft_p90: float
    tpot_mean: float
    requests: int
    seconds: float
    pick_seconds: list[float] = field(default_factory=list)


class Router:
    """A policy's state: the index as engines report to it, and the picker's table."""

    def __init__(
        self, policy: str, engines: list[Engine], index: PrefixIndex, rates: Rates, scenario: Scenario
    ) -> None:
        self.policy, self.engines, self.index = policy, engines, index
        self.block_size = scenario.block_size
        self.turns = itertools.count()
        self.homes: dict[int, int] = {}
        self.table = Endpoints("replay")
        self.picks: list[float] = []
        for place in range(len(engines)):
            self.table.add(
                Endpoint(f"10.0.0.{place}:8000", rates, slot=place, kv_capacity_tokens=float(scenario.kv_tokens))
            )

    def route(self, turn: Turn, now: float, output: float) -> tuple[int, Ticket | None]:
        match self.policy:
            case "round_robin":
                return next(self.turns) % len(self.engines), None
            case "least_request":
                return self._least(range(len(self.engines))), None
            case "sticky":
                return self.homes.setdefault(turn.session, self._least(range(len(self.engines)))), None
            case "greedy":
                held = self.index.match(turn.keys).blocks[0, : len(self.engines)]
                return self._least(np.flatnonzero(held == held.max()).tolist()), None
        ask = Ask(
            "replay",
            "m",
            turn.tokens,
            keys=turn.keys,
            block_size=self.block_size,
            session=turn.session,
            wclass="replay",
            output_tokens=output,
            ends_in_tool_call=turn.tool_call,
            ttft_objective_seconds=UNPROMISED_SECONDS,
        )
        hits: Hits = self.index.match(turn.keys)
        begun = time.perf_counter()
        found = pick(ask, self.table, hits, now)
        self.picks.append(time.perf_counter() - begun)
        if not isinstance(found, Pick):
            # a replay has no client that comes back: it is sent where it waits least
            place = self._least(range(len(self.engines)))
            address = f"10.0.0.{place}:8000"
            return place, self.table.begin(ask, address, now)
        return found.row, self.table.begin(ask, found.address, now, work=found.work_at(found.address))

    def _least(self, places: range | list[int]) -> int:
        turn = next(self.turns)
        return min(places, key=lambda one: (self.engines[one].requests, (one - turn) % len(self.engines)))


def replay(scenario: Scenario, policy: str, rates: Rates, *, replicas: int) -> Outcome:
    """Run a scenario to its end."""
    begun = time.perf_counter()
    index = PrefixIndex(capacity_blocks=2 * replicas * scenario.kv_tokens // scenario.block_size)
    engines = []
    for _ in range(replicas):
        blocks = Blocks(scenario.kv_tokens // scenario.block_size, index, index.add_endpoint())
        engines.append(Engine(rates, blocks, scenario.block_size))
    router = Router(policy, engines, index, rates, scenario)
    events: list[tuple[float, int, Callable[[float], None]]] = []
    numbers = itertools.count()
    stamps = [0] * replicas
    done: list[Job] = []
    mean_output = float(np.mean([turn.output for turns in scenario.sessions for turn in turns]))

    def later(when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(events, (when, next(numbers), what))

    def wake(place: int) -> None:
        stamps[place] += 1
        stamp = stamps[place]
        when = engines[place].next()
        if when < float("inf"):
            later(when, lambda now: tick(place, now) if stamps[place] == stamp else None)

    def arrive(turns: list[Turn], number: int, now: float) -> None:
        turn = turns[number]
        place, ticket = router.route(turn, now, mean_output)
        engine = engines[place]
        engine.advance(now)
        job = Job(turn, place, now, ticket=ticket)
        follow[id(job)] = (turns, number)
        engine.waiting.append(job)
        engine.start()
        wake(place)

    def tick(place: int, now: float) -> None:
        engine = engines[place]
        engine.advance(now)
        for what, job in engine.ended(now):
            if what == "first":
                if job.ticket is not None:
                    router.table.first_token(job.ticket, now)
                continue
            if job.ticket is not None:
                router.table.end(job.ticket, now, output_tokens=job.turn.output, cached_tokens=job.cached)
            done.append(job)
            turns, number = follow.pop(id(job))
            if scenario.closed:
                if number + 1 < len(turns):
                    begin(turns, number + 1, now + turns[number + 1].pause)
                elif waiting:
                    begin(waiting.popleft(), 0, now)
        engine.start()
        wake(place)

    def begin(turns: list[Turn], number: int, when: float) -> None:
        later(when, lambda now: arrive(turns, number, now))

    follow: dict[int, tuple[list[Turn], int]] = {}
    waiting: deque[list[Turn]] = deque()
    if scenario.closed:
        waiting = deque(scenario.sessions)
        for number in range(min(scenario.live, len(waiting))):
            begin(waiting.popleft(), 0, number * 5.0)
    else:
        for turns in scenario.sessions:
            begin(turns, 0, turns[0].pause)
    while events:
        when, _, what = heapq.heappop(events)
        what(when)
    tokens = [engine.tokens for engine in engines]
    ttft = np.array([job.first - job.came for job in done])
    tpot = np.array([(job.done_at - job.first) / job.turn.output for job in done])
    return Outcome(
        hit=sum(job.cached for job in done) / sum(job.turn.tokens for job in done),
        load=max(tokens) / (sum(tokens) / replicas),
        ttft_mean=float(ttft.mean()),
        ttft_p90=float(np.quantile(ttft, 0.9)),
        tpot_mean=float(tpot.mean()),
        requests=len(done),
        seconds=time.perf_counter() - begun,
        pick_seconds=router.picks,
    )
