"""A replica: continuous batching with chunked prefill over a KV room of blocks, from event to event.

Every engine step takes a chunk of prompts (``chunk_tokens``) and one token of each running answer, one after the other:
while prompts are prefilled a step lasts T_p(chunk) + T_d(batch), else T_d(batch), as ``economics.serving`` has it. So
prompts that fit into one chunk end together. Between events both go on at constant rates; an event costs O(log n).

Scheduling is by priority, then arrival. A prompt is let in when its whole KV fits; one that finds no room, or no place
in the batch, takes that of the running request with the lowest priority below its own. When answers grow beyond the
room, the running request with the lowest priority that came last gives way (as vLLM's priority scheduler has it). Who
gives way starts again later, from what is left of its blocks.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

from tidefleet.routing.rates import DEVICE
from tidefleet.simulator.engine.blocks import Blocks
from tidefleet.simulator.engine.job import DONE, FIRST, PREEMPTED, Job
from tidefleet.simulator.engine.timing import Timing

PREFILLED = "prefilled"
"""On a prefill replica: the prompt's KV is there to be sent on."""

ROOM_SHARE = 0.01
"""Of the KV room, kept free when a prompt is let in beside running ones (vLLM's watermark)."""

_SOON, _STEP = 1e-9, 1e-6
"""Seconds and decode steps that count as none."""


@dataclass(slots=True)
class Counts:
    """What a replica did, since it began.

    Attributes:
        busy_seconds: with anything to do; prefill_seconds, decode_seconds: of them, by what the steps were spent on.
        batch_seconds: integral of running requests over time; present_seconds: of all that are there.
        prompt_tokens: of prompts begun, hits included; prefilled_tokens: computed; output_tokens: generated.
        hit_tokens: found on the device, host, disk and in the shared store.
        recomputed_tokens: of those prefilled, by why they had been lost.
        finished: requests; preemptions: likewise.
    """

    busy_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    batch_seconds: float = 0.0
    present_seconds: float = 0.0
    prompt_tokens: float = 0.0
    prefilled_tokens: float = 0.0
    output_tokens: float = 0.0
    hit_tokens: list[float] = field(default_factory=lambda: [0.0] * 4)
    recomputed_tokens: dict[str, float] = field(default_factory=dict)
    finished: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class _Prompts:
    """Prompts that are prefilled together.

    Attributes:
        work: seconds left, without decode steps between.
        chunk_seconds: of one engine step's part.
    """

    jobs: list[Job]
    work: float
    chunk_seconds: float
    priority: int


class Replica:
    """One engine.

    Args:
        number: identifies it in a fleet.
        role: ``aggregated``, ``prefill`` (answers ``prefilled`` and nothing more) or ``decode`` (takes prompts whose KV
            is sent to it; one that it has to prefill it prefills).
        max_batch: requests in the batch at a time, those in prefill included.
    """

    def __init__(
        self,
        number: int,
        timing: Timing,
        blocks: Blocks,
        *,
        role: str = "aggregated",
        max_batch: int = 256,
        chunk_tokens: int = 2048,
        at: float = 0.0,
    ) -> None:
        self.number = number
        self.timing = timing
        self.blocks = blocks
        self.role = role
        self.max_batch = max_batch
        self.chunk_tokens = chunk_tokens
        self.at = at
        self.counts = Counts()
        self._waiting: list[tuple[int, float, int, Job]] = []
        self._claims: dict[int, tuple[float, float]] = {}
        self._fetching: list[tuple[float, int, Job]] = []
        self._links = [0.0] * 4
        self._prompts: _Prompts | None = None
        self._paused: list[_Prompts] = []
        self._running: dict[int, Job] = {}
        self._ends: list[tuple[float, int, Job]] = []
        self._progress = 0.0
        self._context = 0.0
        self._private: dict[int, float] = {}
        self._joined: dict[int, float] = {}
        self._by_priority: dict[int, int] = {}
        self._present = self._admitted = 0
        self._came: list[tuple[str, Job]] = []
        self._due: float | None = None
        """What ``_next`` says, while nothing has changed."""
        self._step = 0.0
        """Of the batch, as of ``_due``."""

    # -- what it has -----------------------------------------------------------------------------------------------

    @property
    def requests(self) -> int:
        """In it, waiting ones included."""
        return self._present

    @property
    def running(self) -> int:
        """Requests that decode."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests without a first token."""
        return self._present - len(self._running)

    @property
    def queued(self) -> int:
        """Requests that were not let in yet."""
        return len(self._waiting)

    @property
    def context_tokens(self) -> float:
        """KV that running requests hold, each with half of its answer."""
        return self._context

    @property
    def kv_usage(self) -> float:
        """Share of the KV room that requests hold, 0..1."""
        return min(1.0, self.blocks.used_tokens / self.blocks.capacity_tokens)

    def written(self, job: Job) -> float:
        """Tokens of a request's answer so far, as of the time that was simulated last."""
        joined = self._joined.get(job.number)
        return job.generated + (0.0 if joined is None else self._progress - joined)

    # -- the clock -------------------------------------------------------------------------------------------------

    def submit(self, job: Job, now: float) -> None:
        """A request comes; what that leads to is told by the next ``advance``.

        Raises:
            ValueError: ``now`` lies before what was simulated, or after the next event.
        """
        if now < self.at - _SOON or now > self._next() + _SOON:
            raise ValueError(f"Replica {self.number}: submit at {now}; expected {self.at} to {self._next()}")
        self._move(max(now, self.at))
        self._due = None
        self._present += 1
        self._line_up(job)
        self._start()

    def next(self) -> float:
        """When something happens next; infinite = nothing will."""
        return self.at if self._came else self._next()

    def advance(self, now: float) -> list[tuple[str, Job]]:
        """Work until ``now``: what happened, in order; its times are in the jobs."""
        while (when := self._next()) <= now:
            self._move(when)
            self._happen()
        self._move(now)
        found, self._came = self._came, []
        return found

    def kill(self, now: float, cause: str = "lost") -> list[Job]:
        """It is gone at once, and its cache; the requests that it had, which start again elsewhere."""
        self._move(now)
        jobs = [one[3] for one in self._waiting] + [one[2] for one in self._fetching]
        jobs += [job for one in (*self._paused, *([self._prompts] if self._prompts else [])) for job in one.jobs]
        for job in self._running.values():
            job.computed = job.tokens + job.generated + self._progress - self._joined[job.number]
            jobs.append(job)
        for job in jobs:
            job.generated, job.finished_prefill, job.cause = 0.0, False, cause
        self.blocks.clear()
        self._waiting, self._fetching, self._ends, self._paused = [], [], [], []
        self._claims, self._running, self._private, self._joined = {}, {}, {}, {}
        self._by_priority = {}
        self._prompts, self._context, self._present, self._admitted = None, 0.0, 0, 0
        self._due = None
        return sorted(jobs, key=lambda one: one.number)

    def _next(self) -> float:
        if self._due is None:
            self._due = self._next_anew()
        return self._due

    def _next_anew(self) -> float:
        when = self._fetching[0][0] if self._fetching else math.inf
        batch = len(self._running)
        pace = self._step = self.timing.step_seconds(batch, self._context) if batch else 0.0
        prompts = self._prompts
        if prompts is not None:
            pace += prompts.chunk_seconds
            left = prompts.work * (pace / prompts.chunk_seconds)
            when = min(when, self.at + (left if prompts.work > _SOON else 0.0))
        if batch:
            steps = self._ends[0][0] - self._progress
            blocks = self.blocks
            room = (blocks.capacity_tokens - (blocks.pinned_tokens + blocks.private)) / batch
            steps = 0.0 if steps <= _STEP or room <= _STEP else min(steps, room)
            when = min(when, self.at + steps * pace)
        return max(when, self.at)

    def _move(self, now: float) -> None:
        """Work until ``now``, within which nothing happens."""
        passed = now - self.at
        if passed <= 0.0:
            return
        known = self._due is not None
        self.at, self._due = now, None
        batch, prompts, counts = len(self._running), self._prompts, self.counts
        counts.present_seconds += passed * self._present
        if not batch and prompts is None:
            return
        counts.busy_seconds += passed
        counts.batch_seconds += passed * batch
        pace = self._step
        if not known:
            pace = self.timing.step_seconds(batch, self._context) if batch else 0.0
        if prompts is not None:
            pace += prompts.chunk_seconds
            worked = passed * (prompts.chunk_seconds / pace)
            prompts.work -= worked
            counts.prefill_seconds += worked
            counts.decode_seconds += passed - worked
        else:
            counts.decode_seconds += passed
        if batch:
            steps = passed / pace
            self._progress += steps
            self.blocks.private += steps * batch
            counts.output_tokens += steps * batch

    # -- what happens ----------------------------------------------------------------------------------------------

    def _happen(self) -> None:
        """All that is due now."""
        self._due = None
        while self._fetching and self._fetching[0][0] <= self.at:
            self._line_up(heapq.heappop(self._fetching)[2])
        prompts = self._prompts
        if prompts is not None and prompts.work <= _SOON:
            self._prompts = None
            for job in prompts.jobs:
                self._prefilled(job)
        while self._ends and self._ends[0][0] <= self._progress + _STEP:
            self._end(heapq.heappop(self._ends)[2])
        while self._running and self.blocks.capacity_tokens - self.blocks.used_tokens <= _STEP * len(self._running):
            self._preempt(self._last())
        self._start()

    def _prefilled(self, job: Job) -> None:
        hit = int(job.cached // job.block_size)
        self.blocks.publish(job.keys[hit:], job.block_size)
        if self.role == "prefill":
            self._leave(job)
            self._came.append((PREFILLED, job))
            return
        self._decode(job)

    def _decode(self, job: Job) -> None:
        """Its first token comes, or the next one where it had been preempted."""
        job.finished_prefill = False
        gained = min(1.0, job.output - job.generated)
        job.generated += gained
        self.counts.output_tokens += gained
        if job.first == math.inf:
            job.first = self.at
            self._came.append((FIRST, job))
        left = job.output - job.generated
        if left <= _STEP:
            self._finish(job)
            return
        self._running[job.number] = job
        self._joined[job.number] = self._progress
        job.counted = job.tokens + job.output / 2.0
        self._context += job.counted
        heapq.heappush(self._ends, (self._progress + left, job.number, job))
        self._by_priority[job.priority] = self._by_priority.get(job.priority, 0) + 1

    def _stop(self, job: Job) -> None:
        """It decodes no more."""
        del self._running[job.number]
        left = self._by_priority[job.priority] - 1
        if left:
            self._by_priority[job.priority] = left
        else:
            del self._by_priority[job.priority]
        self._context = self._context - job.counted if self._running else 0.0
        steps = self._progress - self._joined.pop(job.number)
        job.generated += steps
        self._private[job.number] += steps

    def _end(self, job: Job) -> None:
        self._stop(job)
        self._finish(job)

    def _finish(self, job: Job) -> None:
        """Its last token came: what it held is kept, its answer too where that is known to come again."""
        job.generated = float(job.output)
        job.done = self.at
        self.counts.finished += 1
        fresh = job.answer_keys
        if fresh:
            self.blocks.pin(fresh, job.block_size, -self._private.pop(job.number))
            self._private[job.number] = 0.0
            job.keys = job.keys + fresh
            self.blocks.publish(fresh, job.block_size)
        self._leave(job)
        self._came.append((DONE, job))

    def _leave(self, job: Job) -> None:
        self.blocks.unpin(job.keys, job.block_size, self._private.pop(job.number))
        self._admitted -= 1
        self._present -= 1

    def _last(self) -> Job:
        """Of those that decode, the one to give way: lowest priority, then came last."""
        return max(self._running.values(), key=lambda one: (-one.priority, one.came, one.number))

    def _preempt(self, job: Job) -> None:
        self._stop(job)
        self._ends = [one for one in self._ends if one[2] is not job]
        heapq.heapify(self._ends)
        self.blocks.unpin(job.keys, job.block_size, self._private.pop(job.number))
        self._admitted -= 1
        job.computed, job.cause = job.tokens + job.generated, "preempted"
        job.preemptions += 1
        self.counts.preemptions += 1
        self._came.append((PREEMPTED, job))
        self._line_up(job)

    # -- who begins ------------------------------------------------------------------------------------------------

    def _line_up(self, job: Job) -> None:
        heapq.heappush(self._waiting, (-job.priority, job.came, job.number, job))

    def _start(self) -> None:
        """Let prompts in: as many together as one chunk takes."""
        while self._waiting:
            priority = self._waiting[0][3].priority
            if self._prompts is not None and priority <= self._prompts.priority:
                return
            if self._prompts is None and self._paused and self._paused[-1].priority >= priority:
                break
            before = len(self._waiting)
            found = self._gather()
            if found:
                if self._prompts is not None:
                    self._paused.append(self._prompts)
                claims = [self._claims.pop(job.number) for job in found]
                work = self.timing.prompts_seconds(claims)
                chunks = max(1.0, sum(new for new, _ in claims) / self.chunk_tokens)
                self._prompts = _Prompts(found, work, work / chunks, found[0].priority)
            elif len(self._waiting) == before:
                break
        if self._prompts is None and self._paused:
            self._prompts = self._paused.pop()

    def _gather(self) -> list[Job]:
        """Prompts whose prefill begins now, each with a claim; those to be fetched or sent begin on their way."""
        found: list[Job] = []
        total = 0.0
        while self._waiting and total < self.chunk_tokens:
            job = self._waiting[0][3]
            if job.number not in self._claims:
                if not self._has_place(job):
                    break
                if not self._claim(job):
                    continue
            uncached, _ = self._claims[job.number]
            if found and total + uncached > self.chunk_tokens:
                break
            heapq.heappop(self._waiting)
            total += uncached
            found.append(job)
        return found

    def _has_place(self, job: Job) -> bool:
        """Whether it fits, for which less urgent requests give way."""
        blocks = self.blocks
        private = job.tokens + job.generated - len(job.keys) * job.block_size
        while True:
            free = blocks.capacity_tokens - blocks.used_tokens
            if self._admitted:
                free -= max(ROOM_SHARE * blocks.capacity_tokens, 1.0 + len(self._running))
            if self._admitted < self.max_batch and blocks.needed(job.keys, job.block_size, private) <= free:
                return True
            if not self._running or min(self._by_priority) >= job.priority:
                return False
            self._preempt(self._last())

    def _claim(self, job: Job) -> bool:
        """Its blocks are taken; whether its prefill can begin at once, which is at the head of those that wait."""
        blocks, size = self.blocks, job.block_size
        tokens = job.tokens + job.generated
        cached, fetched = 0.0, [0.0, 0.0, 0.0]
        ready = self.at
        if job.finished_prefill:
            cached = tokens
        else:
            found = blocks.found(job.keys)
            cached = min(found.device * size, tokens - 1.0)
            for tier, count in found.tiers:
                behind = cached + sum(fetched)
                part = min(count * size, tokens - 1.0 - behind)
                if tier == DEVICE:
                    cached += max(0.0, part)
                    continue
                taken = self.timing.fetch_seconds(part, tier)
                if part > 0.0 and taken < self.timing.prompts_seconds([(part, behind)]):
                    fetched[tier - 1] += part
                    self._links[tier] = max(self._links[tier], self.at) + taken
                    ready = max(ready, self._links[tier])
        uncached = tokens - cached - sum(fetched)
        private = tokens - len(job.keys) * size
        blocks.pin(job.keys, size, private)
        self._private[job.number] = private
        self._admitted += 1
        self._count(job, cached, fetched, uncached)
        if uncached <= 0.0 or ready > self.at:
            heapq.heappop(self._waiting)
            if uncached <= 0.0:
                blocks.publish(job.keys, size)
                self._decode(job)
                return False
            self._claims[job.number] = (uncached, tokens - uncached)
            heapq.heappush(self._fetching, (ready, job.number, job))
            return False
        self._claims[job.number] = (uncached, tokens - uncached)
        return True

    def _count(self, job: Job, cached: float, fetched: list[float], uncached: float) -> None:
        counts = self.counts
        counts.prefilled_tokens += uncached
        if job.computed:
            again = min(job.computed, uncached)
            job.recomputed += again
            job.computed = 0.0
            counts.recomputed_tokens[job.cause] = counts.recomputed_tokens.get(job.cause, 0.0) + again
        elif not job.seen:
            job.seen = True
            job.cached, job.fetched = cached, (fetched[0], fetched[1], fetched[2])
            counts.prompt_tokens += job.tokens
            for tier, tokens in enumerate((cached, *fetched)):
                counts.hit_tokens[tier] += tokens
