"""Where a request goes: the router's own pick, and the policies that it is compared with.

Each answers for a job either ``Placed``, ``Later`` (ask again, at the latest then) or ``Turned`` (no place). A policy
knows what a router could know: its own placements and what engines report of their caches, queues and KV room.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from tidefleet.routing.endpoints import Endpoint, Endpoints, Ticket
from tidefleet.routing.handover import hand_over
from tidefleet.routing.pick import Queued, Refused, pick
from tidefleet.routing.request import Ask
from tidefleet.simulator.engine.facts import Facts
from tidefleet.simulator.engine.holders import Held
from tidefleet.simulator.engine.job import Job
from tidefleet.simulator.engine.replica import Replica
from tidefleet.simulator.scenario import Class

MODEL = "model"
UNPROMISED_SECONDS = 1e6
"""Where nothing is refused, a promise that every wait keeps."""

SCRAPED_SECONDS = 1.0
"""How often the router reads what engines report of themselves."""

MOST_SESSIONS = 1_000_000


@dataclass(frozen=True, slots=True)
class Placed:
    """It goes to this replica; ``prefill`` = another one prefills for it."""

    replica: int
    prefill: int | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """It waits for slack, until ``latest`` at the latest."""

    latest: float


@dataclass(frozen=True, slots=True)
class Turned:
    """It is refused."""

    reason: str


Choice = Placed | Later | Turned


class Policy:
    """What every policy is told; most need little of it.

    Args:
        facts: of the pool's replicas.
        classes: of the scenario, by name.
        refuses: whether a request that would be too late is refused.
    """

    name: ClassVar[str]
    reads_index: ClassVar[bool] = False

    def __init__(self, facts: Facts, classes: Mapping[str, Class], *, seed: int = 0, refuses: bool = False) -> None:
        self.facts = facts
        self.others: dict[int, Facts] = {}
        """Of replicas that are of another kind, by number."""
        self.classes = classes
        self.refuses = refuses
        self._turn = itertools.count(seed)

    def added(self, replica: Replica, now: float) -> None:
        """A replica is ready."""

    def draining(self, number: int, now: float) -> None:
        """A replica takes nothing more."""

    def removed(self, number: int, now: float) -> None:
        """A replica is gone."""

    def place(self, job: Job, among: Sequence[Replica], hits: Held | None, now: float) -> Choice:
        """Where it goes, of replicas that take requests (at least one)."""
        raise NotImplementedError

    def first(self, job: Job, now: float) -> None:
        """Its first token came."""

    def prefilled(self, job: Job, now: float) -> None:
        """Its prompt was prefilled by another replica than the one that decodes."""

    def ended(self, job: Job, now: float) -> None:
        """Its last token came, or its replica is gone."""

    def _least(self, among: Sequence[Replica], load: Callable[[Replica], float] | None = None) -> Replica:
        """The one with the least load (requests), ties in turn."""
        turn, count = next(self._turn), len(among)
        of = load or (lambda one: float(one.requests))
        return min(enumerate(among), key=lambda one: (of(one[1]), (one[0] - turn) % count))[1]


class RoundRobin(Policy):
    """One after the other."""

    name = "round_robin"

    def place(self, job: Job, among: Sequence[Replica], hits: Held | None, now: float) -> Choice:
        return Placed(among[next(self._turn) % len(among)].number)


class LeastRequest(Policy):
    """Where the fewest requests are."""

    name = "least_request"

    def place(self, job: Job, among: Sequence[Replica], hits: Held | None, now: float) -> Choice:
        return Placed(self._least(among).number)


class Random(Policy):
    """Anywhere."""

    name = "random"

    def __init__(self, facts: Facts, classes: Mapping[str, Class], *, seed: int = 0, refuses: bool = False) -> None:
        super().__init__(facts, classes, seed=seed, refuses=refuses)
        self._rng = np.random.default_rng([seed, 0x7A0D])

    def place(self, job: Job, among: Sequence[Replica], hits: Held | None, now: float) -> Choice:
        return Placed(among[int(self._rng.integers(len(among)))].number)


class Sticky(Policy):
    """Where the session's last turn went; its first one where the fewest requests are."""

    name = "sticky"

    def __init__(self, facts: Facts, classes: Mapping[str, Class], *, seed: int = 0, refuses: bool = False) -> None:
        super().__init__(facts, classes, seed=seed, refuses=refuses)
        self._homes: dict[int, int] = {}

    def place(self, job: Job, among: Sequence[Replica], hits: Held | None, now: float) -> Choice:
        home = self._homes.get(job.session.number)
        if home is None or all(one.number != home for one in among):
            home = self._homes[job.session.number] = self._least(among).number
        return Placed(home)


class Greedy(Policy):
    """Where the longest prefix lies; of equals where the fewest requests are."""

    name = "greedy"
    reads_index = True

    def place(self, job: Job, among: Sequence[Replica], hits: Held | None, now: float) -> Choice:
        held = held_blocks(among, hits)
        most = max(held)
        return Placed(self._least([one for one, blocks in zip(among, held, strict=True) if blocks == most]).number)


class Ours(Policy):
    """The router's pick, with its table of endpoints and its accounting."""

    name = "pick"
    reads_index = True

    def __init__(self, facts: Facts, classes: Mapping[str, Class], *, seed: int = 0, refuses: bool = False) -> None:
        super().__init__(facts, classes, seed=seed, refuses=refuses)
        self.table = Endpoints("pool", seed=seed, most_sessions=MOST_SESSIONS)
        self._tickets: dict[int, Ticket] = {}
        self._prefills: dict[int, Ticket] = {}
        self._numbers: dict[str, int] = {}
        self._outputs: dict[str, tuple[float, float]] = {}
        self._scraped = -math.inf

    def added(self, replica: Replica, now: float) -> None:
        address = _address(replica.number)
        self._numbers[address] = replica.number
        facts = self.others.get(replica.number, self.facts)
        self.table.add(
            Endpoint(
                address,
                facts.rates,
                slot=replica.blocks.slot,
                role=replica.role,
                kv_capacity_tokens=replica.blocks.capacity_tokens,
                usd_per_second=facts.usd_per_second,
                store="store" if any(facts.rates.tier_bytes_per_second[2:]) else "",
            )
        )

    def draining(self, number: int, now: float) -> None:
        self.table.add(replace(self.table.endpoint(_address(number)), draining=True))
        hand_over(self.table, _address(number), now)

    def removed(self, number: int, now: float) -> None:
        self.table.remove(_address(number))

    def ask(self, job: Job, now: float) -> Ask:
        """What the router asks for it."""
        wclass = self.classes.get(job.session.wclass)
        promise = wclass.objective if wclass is not None else None
        ttft = tpot = None
        if promise is not None:
            ttft = promise.ttft_seconds + promise.ttft_seconds_per_thousand * job.tokens / 1000.0
            tpot = promise.tpot_seconds
        elif not self.refuses:
            ttft = UNPROMISED_SECONDS
        deadline = job.session.deadline_seconds
        total, count = self._outputs.get(job.session.wclass, (256.0, 1.0))
        return Ask(
            "pool",
            MODEL,
            job.tokens,
            keys=job.turn.keys,
            block_size=job.block_size,
            session=job.session.number if job.session.number >= 0 else None,
            wclass=job.session.wclass,
            priority=wclass.priority if wclass is not None else 0,
            output_tokens=total / count,
            ttft_objective_seconds=None if deadline is not None else ttft,
            tpot_objective_seconds=None if deadline is not None else tpot,
            deadline=None if deadline is None else job.came + deadline,
            ends_in_tool_call=job.at > 0 and job.session.turns[job.at - 1].tool_call,
        )

    def place(self, job: Job, among: Sequence[Replica], hits: Held | None, now: float) -> Choice:
        if now >= self._scraped + SCRAPED_SECONDS:
            self._scraped = now
            for one in among:
                self.table.observe(
                    _address(one.number), running=one.running, waiting=one.waiting, kv_usage=one.kv_usage, now=now
                )
        ask = self.ask(job, now)
        found = pick(ask, self.table, hits, now)
        if isinstance(found, Refused) and not self.refuses and not ask.is_deferrable:
            ask = replace(ask, ttft_objective_seconds=UNPROMISED_SECONDS)
            found = pick(ask, self.table, hits, now)
        if isinstance(found, Queued):
            return Later(found.deadline)
        if isinstance(found, Refused):
            return Turned(found.reason)
        self._tickets[job.number] = self.table.begin(ask, found.address, now, work=found.work_at(found.address))
        prefill = None
        if found.prefill_address is not None:
            address = found.prefill_address
            prefill = self._numbers[address]
            self._prefills[job.number] = self.table.begin(ask, address, now, work=found.work_at(address))
        return Placed(self._numbers[found.address], prefill)

    def first(self, job: Job, now: float) -> None:
        ticket = self._tickets.get(job.number)
        if ticket is not None:
            self.table.first_token(ticket, now)

    def prefilled(self, job: Job, now: float) -> None:
        ticket = self._prefills.pop(job.number, None)
        if ticket is not None:
            self.table.first_token(ticket, now)
            self.table.end(ticket, now)

    def ended(self, job: Job, now: float) -> None:
        self.prefilled(job, now)
        ticket = self._tickets.pop(job.number, None)
        if ticket is None:
            return
        whole = job.done <= now
        self.table.end(ticket, now, output_tokens=job.output if whole else 0.0, cached_tokens=job.cached)
        if whole:
            total, count = self._outputs.get(job.session.wclass, (256.0, 1.0))
            keep = 1.0 if count < 1000.0 else 0.999
            self._outputs[job.session.wclass] = (keep * total + job.output, keep * count + 1.0)


def held_blocks(among: Sequence[Replica], hits: Held | None) -> list[int]:
    """Leading blocks on each replica's device."""
    if hits is None:
        return [0] * len(among)
    found: list[int] = hits.blocks[0, [one.blocks.slot for one in among]].tolist()
    return found


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:8000"


BASIC: tuple[type[Policy], ...] = (Ours, RoundRobin, LeastRequest, Random, Sticky, Greedy)
