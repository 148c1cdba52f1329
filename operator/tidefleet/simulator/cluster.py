"""Replicas of one pool behind one policy: requests go in, first tokens and answers come out, replicas come and go."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from tidefleet.simulator.engine.blocks import TIER_NUMBERS, Blocks, Store
from tidefleet.simulator.engine.facts import Facts, facts_of
from tidefleet.simulator.engine.holders import Held, Holders
from tidefleet.simulator.engine.job import DONE, FIRST, LOST, REFUSED, Job
from tidefleet.simulator.engine.replica import PREFILLED, ROOM_SHARE, Counts, Replica
from tidefleet.simulator.engine.timing import Timing
from tidefleet.simulator.policies import POLICIES
from tidefleet.simulator.policy import Later, Placed, Policy, Turned
from tidefleet.simulator.scenario import Class, Pool
from tidefleet.simulator.sessions import Session, Turn

DEFERRABLE_PRIORITY = -1_000_000
ASKED_AGAIN_SECONDS = 0.25
"""How often work that waits for slack is offered again."""


class Cluster:
    """The replicas of a pool.

    Args:
        pool: what each replica is. No replica is there before ``add``.
        classes: of the scenario: objectives and priorities.
        policy: a name of ``POLICIES``, or one made elsewhere.
        refuses: whether requests that would be too late are refused (event ``refused``) rather than served late.
        answers_kept: whether the KV of an answer serves the session's next turn, where that begins with it.
        timing: speeds of the engines; the cost model's own, unless given. The router expects straight lines through it.
        others: what replicas of another kind are, by number.
    """

    def __init__(
        self,
        pool: Pool,
        classes: Iterable[Class] = (),
        *,
        policy: str | Policy = "pick",
        seed: int = 0,
        refuses: bool = False,
        answers_kept: bool = True,
        facts: Facts | None = None,
        timing: Timing | None = None,
        others: Mapping[int, tuple[Pool, Facts]] | None = None,
    ) -> None:
        self.pool = pool
        self.facts = facts or facts_of(pool)
        self.timing = timing or self.facts.timing()
        self.classes = {one.name: one for one in classes}
        self.answers_kept = answers_kept
        if isinstance(policy, str):
            if policy not in POLICIES:
                raise ValueError(f"policy is {policy!r}; expected one of {', '.join(sorted(POLICIES))}")
            policy = POLICIES[policy](self.facts, self.classes, seed=seed, refuses=refuses)
        self.policy = policy
        self.others = dict(others or {})
        self.policy.others = {number: facts for number, (_, facts) in self.others.items()}
        self._timings = {id(facts): facts.timing() for _, facts in self.others.values()}
        self._room = min([self.facts.kv_tokens, *(facts.kv_tokens for _, facts in self.others.values())])
        self.replicas: dict[int, Replica] = {}
        self.past = Counts()
        self._live: list[Replica] = []
        self._draining: set[int] = set()
        self._shared = [
            Store(TIER_NUMBERS[one.medium], one.tokens * pool.replicas) for one in pool.tiers if one.medium == "shared"
        ]
        self.index: Holders | None = None
        if policy.reads_index:
            tiers = 1 + max((TIER_NUMBERS[one.medium] for one in pool.tiers), default=0)
            self.index = Holders(tiers=tiers, shared=self._shared[0].held if self._shared else None)
        self._events: list[tuple[float, int, int]] = []
        self._stamps: dict[int, int] = {}
        self._numbers = itertools.count(1)
        self._jobs = itertools.count()
        self._sent: list[tuple[float, int, Job]] = []
        self._deferred: list[tuple[float, int, Job]] = []
        self._ask_again = math.inf
        self._happened: list[tuple[str, Job]] = []
        self._at = -math.inf

    # -- replicas --------------------------------------------------------------------------------------------------

    def add(self, number: int, now: float = 0.0, *, role: str | None = None) -> None:
        """A replica is ready, with empty caches.

        Raises:
            ValueError: there is one with that number.
        """
        if number in self.replicas:
            raise ValueError(f"replica {number} is there already; expected a number of its own")
        pool, facts = self.others.get(number, (self.pool, self.facts))
        stores = [Store(TIER_NUMBERS[one.medium], one.tokens) for one in pool.tiers if one.medium != "shared"]
        stores.sort(key=lambda one: one.tier)
        slot = -1
        if self.index is not None:
            slot = self.index.add()
        blocks = Blocks(facts.kv_tokens, stores=[*stores, *self._shared], index=self.index, slot=slot)
        replica = Replica(
            number,
            self._timings.get(id(facts), self.timing),
            blocks,
            role=role or pool.role,
            max_batch=pool.max_batch,
            chunk_tokens=pool.chunk_tokens,
            at=now,
        )
        self.replicas[number] = replica
        self._stamps[number] = 0
        self._live.append(replica)
        self._live.sort(key=lambda one: one.number)
        self.policy.added(replica, now)

    def drain(self, number: int, now: float) -> None:
        """A replica takes no further request and finishes those that it has; its sessions move."""
        if number in self._draining:
            return
        self._draining.add(number)
        self._live = [one for one in self._live if one.number != number]
        self.policy.draining(number, now)

    def kill(self, number: int, now: float) -> list[Job]:
        """A replica is gone at once. Its requests, which are sent elsewhere and begin again (events ``lost``)."""
        replica = self.replicas[number]
        self._at = max(self._at, now)
        self._take(number, replica.advance(now), now)
        del self.replicas[number]
        jobs = replica.kill(now)
        self._live = [one for one in self._live if one.number != number]
        self._draining.discard(number)
        self._stamps[number] = -1
        self._fold(replica.counts)
        self.policy.removed(number, now)
        if self.index is not None:
            self.index.drop(replica.blocks.slot)
        for job in jobs:
            self._happened.append((LOST, job))
            self._lost(job, now)
        for entry in [one for one in self._sent if one[2].replica == number]:
            self._sent.remove(entry)
            self._lost(entry[2], now)
        heapq.heapify(self._sent)
        return jobs

    def keep(self, number: int, session: Session, at_turn: int, *, shared: bool = True) -> list[int]:
        """A turn was served by a replica, of which the policy was told nothing but what the index says; its keys.

        Args:
            shared: whether the shared store has it too, if there is one; it is spared where nobody comes back for it.
        """
        job = self._job(session, at_turn, 0.0)
        keys = job.keys + job.answer_keys
        self.replicas[number].blocks.keep(keys, job.block_size, shared=shared)
        return keys

    def store(self, session: Session, at_turn: int) -> list[int]:
        """A turn was served long ago: its KV lies in the shared store, if there is one; its keys."""
        job = self._job(session, at_turn, 0.0)
        keys = job.keys + job.answer_keys
        for replica in self._live[:1]:
            replica.blocks.share(keys, job.block_size)
        return keys

    def resume(self, session: Session, at_turn: int, now: float, *, came: float, generated: float) -> Job:
        """A request whose answer is being written since before; where the policy would have sent it."""
        job = self._job(session, at_turn, came)
        job.first, job.generated, job.seen, job.finished_prefill = min(came, now), generated, True, True
        self._at = max(self._at, now)
        if self._live:
            match self.policy.place(job, self._live, self._hits(job), now):
                case Placed(number, _):
                    job.replica = number
                    self.policy.first(job, now)
                    self._give(job, number, now)
                    return job
        self._refuse(job, "it would not have begun")
        return job

    def settle(self, now: float) -> None:
        """Count what replicas did up to ``now``, to which ``advance`` was called, also where nothing happened since."""
        for number, replica in self.replicas.items():
            self._take(number, replica.advance(now), now)

    def written(self, job: Job) -> float:
        """Tokens of a request's answer so far, as of the last ``settle``."""
        if job.done < math.inf:
            return float(job.output)
        replica = self.replicas.get(-1 if job.replica is None else job.replica)
        return job.generated if replica is None else replica.written(job)

    # -- requests and the clock ------------------------------------------------------------------------------------

    def submit(self, session: Session, at_turn: int, now: float) -> Job:
        """A request comes. What happens to it is told by ``advance``, also where it is refused."""
        job = self._job(session, at_turn, now)
        self._at = max(self._at, now)
        self._route(job, now)
        return job

    def next(self) -> float:
        """When something happens next; infinite = nothing will."""
        if self._happened:
            return self._at
        return self._next()

    def advance(self, now: float) -> list[tuple[str, Job]]:
        """All that happens until ``now``, in order: (what, job), its times in the job."""
        while (when := self._next()) <= now:
            if self._sent and self._sent[0][0] <= when:
                job = heapq.heappop(self._sent)[2]
                self._give(job, job.replica, when)
            elif self._ask_again <= when:
                self._offer(when)
            else:
                number = heapq.heappop(self._events)[2]
                self._take(number, self.replicas[number].advance(when), when)
        self._at = max(self._at, now)
        found, self._happened = self._happened, []
        return found

    # -- what it did -----------------------------------------------------------------------------------------------

    @property
    def requests(self) -> int:
        """In flight, waiting ones included."""
        return sum(one.requests for one in self.replicas.values()) + len(self._sent) + len(self._deferred)

    def counts(self) -> Counts:
        """Of all replicas, those gone included."""
        total = Counts()
        for one in (self.past, *(replica.counts for replica in self.replicas.values())):
            _add(total, one)
        return total

    # -- inside ----------------------------------------------------------------------------------------------------

    def _next(self) -> float:
        events = self._events
        while events and self._stamps[events[0][2]] != events[0][1]:
            heapq.heappop(events)
        when = events[0][0] if events else math.inf
        if self._sent:
            when = min(when, self._sent[0][0])
        return min(when, self._ask_again)

    def _job(self, session: Session, at_turn: int, now: float) -> Job:
        wclass = self.classes.get(session.wclass)
        priority = wclass.priority if wclass is not None else 0
        if session.deadline_seconds is not None:
            priority = DEFERRABLE_PRIORITY
        turn = session.turns[at_turn]
        job = Job(session, at_turn, now, next(self._jobs), priority)
        job.keys = turn.keys[: turn.tokens // session.block_size].tolist()
        if self.answers_kept and at_turn + 1 < len(session.turns):
            job.answer_keys = _answer_keys(job, session.turns[at_turn + 1])
        return job

    def _hits(self, job: Job) -> Held | None:
        return None if self.index is None else self.index.match(job.keys)

    def _route(self, job: Job, now: float) -> None:
        if job.tokens + job.output > (1.0 - ROOM_SHARE) * self._room:
            self._refuse(job, f"{job.tokens + job.output} tokens exceed the {self._room:.0f} of a replica")
            return
        if not self._live:
            self._refuse(job, "no replica takes requests")
            return
        match self.policy.place(job, self._live, self._hits(job), now):
            case Turned(reason):
                self._refuse(job, reason)
            case Later(latest):
                heapq.heappush(self._deferred, (latest, job.number, job))
                self._ask_again = min(self._ask_again, now + ASKED_AGAIN_SECONDS)
            case Placed(number, prefill):
                job.replica, job.prefill_replica = number, prefill
                self._give(job, number if prefill is None else prefill, now)

    def _give(self, job: Job, number: int | None, now: float) -> None:
        if number is None or number not in self.replicas:
            self._lost(job, now)
            return
        replica = self.replicas[number]
        self._tell(replica.advance(now), now)
        replica.submit(job, now)
        self._wake(replica)

    def _wake(self, replica: Replica) -> None:
        stamp = self._stamps[replica.number] = next(self._numbers)
        when = replica.next()
        if when < math.inf:
            heapq.heappush(self._events, (when, stamp, replica.number))

    def _take(self, number: int, events: Sequence[tuple[str, Job]], now: float) -> None:
        self._tell(events, now)
        if number in self.replicas:
            self._wake(self.replicas[number])

    def _tell(self, events: Sequence[tuple[str, Job]], now: float) -> None:
        for what, job in events:
            if what == FIRST:
                self.policy.first(job, job.first)
            elif what == DONE:
                self.policy.ended(job, job.done)
            elif what == PREFILLED:
                self._send(job, now)
                continue
            self._happened.append((what, job))

    def _send(self, job: Job, now: float) -> None:
        """The KV of its prompt goes to the replica that decodes, which lacks some of it."""
        self.policy.prefilled(job, now)
        job.finished_prefill = True
        target = self.replicas.get(-1 if job.replica is None else job.replica)
        lacking = float(job.tokens)
        if target is not None:
            lacking -= min(lacking, target.blocks.found(job.keys).device * job.block_size)
        rates = self.facts.rates
        takes = rates.tier_latency_seconds[2] + lacking * rates.kv_bytes_per_token / rates.transfer_bytes_per_second
        heapq.heappush(self._sent, (now + takes, job.number, job))

    def _lost(self, job: Job, now: float) -> None:
        self.policy.ended(job, now)
        self._route(job, now)

    def _refuse(self, job: Job, reason: str) -> None:
        job.refused = reason
        self._happened.append((REFUSED, job))

    def _offer(self, now: float) -> None:
        """Ask again for work that waits for slack, the most urgent first, until one has to go on waiting."""
        self._ask_again = math.inf
        while self._deferred:
            _, _, job = heapq.heappop(self._deferred)
            waiting = len(self._deferred)
            self._route(job, now)
            if len(self._deferred) > waiting:
                break
        if self._deferred:
            self._ask_again = min(now + ASKED_AGAIN_SECONDS, max(now, self._deferred[0][0]))

    def _fold(self, counts: Counts) -> None:
        _add(self.past, counts)


def _answer_keys(job: Job, following: Turn) -> list[int]:
    """Keys of the blocks that an answer fills up, if the next turn's prompt begins with this one's and goes on."""
    turn, size, known = job.turn, job.block_size, len(job.keys)
    shown = turn.output if turn.visible is None else turn.visible
    until = min(len(following.keys), (turn.tokens + shown) // size)
    if shown < turn.output or until <= known:
        return []
    if known and int(following.keys[known - 1]) != job.keys[-1]:
        return []
    found: list[int] = following.keys[known:until].tolist()
    return found


def _add(total: Counts, one: Counts) -> None:
    for name in (
        "busy_seconds",
        "prefill_seconds",
        "decode_seconds",
        "batch_seconds",
        "present_seconds",
        "prompt_tokens",
        "prefilled_tokens",
        "output_tokens",
        "finished",
        "preemptions",
    ):
        setattr(total, name, getattr(total, name) + getattr(one, name))
    total.hit_tokens = [a + b for a, b in zip(total.hit_tokens, one.hit_tokens, strict=True)]
    for cause, tokens in one.recomputed_tokens.items():
        total.recomputed_tokens[cause] = total.recomputed_tokens.get(cause, 0.0) + tokens
