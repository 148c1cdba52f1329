"""One emulated engine: a fluid of requests and real streams that share one batch, pure given the time.

The fluid is the offered load of a whole pool's share, integrated without events: requests in the engine follow
``dn/dt = arrivals - X(n)``; those beyond the batch wait. At any moment arrivals = finished + running + waiting +
abandoned. Real streams take places in the same batch, slow the fluid and are slowed by it.

Admission reserves the KV room of the whole request, so nothing is ever preempted and ``kv_cache_usage_perc`` reaches 1
when KV room is what makes requests wait.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tidefleet.economics.roofline import prefill
from tidefleet.emulator.capacity import BLOCK_TOKENS, Shape, Tables, kv_tokens, rounded
from tidefleet.emulator.counters import Counters
from tidefleet.emulator.histograms import Latencies
from tidefleet.emulator.pods import EngineFacts
from tidefleet.emulator.prefix import PrefixCache, Prompt

_GOLDEN = 0.6180339887498949
LEAST_SECONDS = 1e-9
"""A shorter time is none: what it served would be no number."""


@dataclass(slots=True, eq=False)
class Stream:
    """A real request inside the engine. Times are the fleet's clock; ``generated`` grows as the engine advances."""

    prompt: Prompt
    cached_tokens: int
    max_tokens: int
    opened_at: float
    admitted_at: float
    first_token_at: float
    generated: float = 0.0
    is_prefilled: bool = False

    @property
    def tokens(self) -> int:
        """Whole tokens generated so far."""
        return min(self.max_tokens, int(self.generated + 1e-9))

    @property
    def is_done(self) -> bool:
        """Whether all tokens are there."""
        return self.generated >= self.max_tokens - 1e-9


class Engine:
    """One engine; see the module for the model.

    Args:
        facts: what it serves, and on what.
        now: the clock at its start.
        seed: moves the low-discrepancy sequences that round gauges and place streams, so engines differ.

    Raises:
        DoesNotFit: the weights leave no room for a KV cache.
    """

    def __init__(self, facts: EngineFacts, now: float, seed: int = 0) -> None:
        self.facts = facts
        self.now = now
        self.slowdown = 1.0
        self.sleep_level: int | None = None
        self.arrived = self.finished = self.abandoned = 0.0
        self.context_tokens = facts.replica.model.context_tokens or 131_072
        self.blocks = facts.kv_blocks or kv_tokens(facts.replica) // BLOCK_TOKENS
        self.kv_tokens = self.blocks * BLOCK_TOKENS
        self.cache = PrefixCache(self.blocks)
        self._tables = Tables(facts.replica, facts.max_sequences)
        self._mix = Shape()
        self._rounded = rounded(self._mix)
        self._capacity = self._tables.at(self._rounded)
        self._requests = 0.0
        self._streams: list[Stream] = []
        self._admitted = 0.0
        self._ledger = 0.0
        self._turn = (seed * _GOLDEN) % 1.0
        self.counters = Counters(now, self.context_tokens)

    @property
    def in_flight(self) -> float:
        """Fluid requests inside: running and waiting."""
        return self._requests

    @property
    def running(self) -> float:
        """Requests in the batch, streams included."""
        if self.sleep_level is not None:
            return 0.0
        return min(self._requests, self._capacity.room(self._in_batch)) + self._in_batch

    @property
    def waiting(self) -> float:
        """Requests waiting for a place, streams included."""
        return self._waiting_fluid + len(self._streams) - (0 if self.sleep_level is not None else self._in_batch)

    @property
    def tpot_seconds(self) -> float:
        """Mean time per output token now."""
        return self._capacity.tpot(max(1.0, self.running)) * self.slowdown

    @property
    def kv_usage(self) -> float:
        """Share of the KV room in use, 0..1."""
        held = sum(
            stream.prompt.tokens + stream.generated for stream in self._streams if stream.admitted_at <= self.now
        )
        fluid = 0.0 if self.sleep_level is not None else self.running - self._in_batch
        return min(1.0, fluid * self._capacity.kv_share + held / self.kv_tokens)

    @property
    def _in_batch(self) -> int:
        if not self._streams:
            return 0
        return sum(1 for stream in self._streams if stream.admitted_at <= self.now)

    @property
    def _waiting_fluid(self) -> float:
        if self.sleep_level is not None:
            return self._requests
        return max(0.0, self._requests - self._capacity.room(self._in_batch))

    def capacity(self, shape: Shape) -> float:
        """Requests per second of this shape that the engine could finish; 0 while asleep."""
        if self.sleep_level is not None:
            return 0.0
        near = rounded(self._own(shape))
        table = self._capacity if near == self._rounded else self._tables.at(near)
        return table.peak / self.slowdown

    def advance(self, now: float, arrivals: float = 0.0, shape: Shape | None = None) -> None:
        """Let time pass, with so many fluid requests of this shape arriving evenly over it.

        A time before the last one counts as no time at all.
        """
        seconds = max(0.0, now - self.now)
        before = self._waiting_fluid
        if arrivals > 0.0:
            if shape is not None:
                self._blend(arrivals, shape)
            self.arrived += arrivals
            self._ledger += arrivals
        streams = self._in_batch
        self.now = max(now, self.now)
        if self.sleep_level is not None or seconds < LEAST_SECONDS:
            self._requests += arrivals
            self._progress(seconds if self.sleep_level is None else 0.0, paused=seconds)
            return
        start, table = self._requests, self._capacity
        served = seconds / self.slowdown
        end = table.drain(start, arrivals / served, served, streams)
        end = min(end, start + arrivals)
        self._requests = end
        finished = start + arrivals - end
        self.finished += finished
        after = self._waiting_fluid
        admitted = max(0.0, self._ledger - after - self._admitted)
        self._admitted += admitted
        if admitted > 0.0 or finished > 0.0:
            room = table.room(streams)
            batch = 0.5 * (min(start, room) + min(end, room)) + streams
            rate = max(1e-12, table.rate(room, streams))
            self.counters.record(
                self._latencies(batch, before / rate, after / rate),
                admitted=admitted,
                finished=finished,
                input_tokens=self._mix.input_tokens,
                output_tokens=self._mix.output_tokens,
                cached_share=self._mix.cached_share,
                tier_share=self._mix.tier_share if self.facts.host_kv_bytes else None,
            )
        if self._streams:
            self._progress(seconds, paused=0.0)

    def open(self, now: float, prompt: Prompt, max_tokens: int) -> Stream:
        """Let a real request in. Its blocks are in the prefix cache from now on."""
        cached = self.cache.cached_tokens(prompt)
        self.cache.store(prompt)
        self._blend(1.0, Shape(float(max(1, prompt.tokens)), float(max_tokens), cached / max(1, prompt.tokens)))
        table, streams = self._capacity, len(self._streams)
        excess = self._requests + streams + 1.0 - table.limit
        wait = max(0.0, excess) / table.peak * self.slowdown
        own = float(prefill(self.facts.replica, prompt.tokens - cached, cached).seconds[0])
        law = self._latencies(min(table.limit, self._requests + streams + 1.0), wait, wait)
        delay = law.delay(self._next()) + law.base - law.prefill + own * self.slowdown
        stream = Stream(
            prompt=prompt,
            cached_tokens=cached,
            max_tokens=max_tokens,
            opened_at=now,
            admitted_at=now + wait,
            first_token_at=now + wait + delay,
        )
        self._streams.append(stream)
        return stream

    def close(self, stream: Stream, reason: str, output: Prompt | None = None) -> None:
        """End a stream: ``stop``, ``length`` or ``abort``. ``output`` is prompt and answer, for the prefix cache."""
        if stream not in self._streams:
            return
        self._streams.remove(stream)
        counters, now = self.counters, self.now
        counters.finished[reason] += 1
        if output is not None:
            self.cache.store(output)
        if stream.tokens:
            counters.e2e.observe(max(0.0, now - stream.opened_at))
            counters.request_prompt.observe(stream.prompt.tokens)
            counters.request_generation.observe(stream.tokens)
            if stream.tokens > 1:
                counters.request_tpot.observe((now - stream.first_token_at) / (stream.tokens - 1))

    def abandon(self, requests: float) -> float:
        """Clients of so many waiting fluid requests give up. Returns how many really left."""
        left = min(max(0.0, requests), self._waiting_fluid)
        self._requests -= left
        self._ledger -= left
        self.abandoned += left
        self.counters.finished["abort"] += left
        return left

    def sleep(self, level: int) -> None:
        """Stop serving and drop the KV cache; requests inside wait."""
        self.sleep_level = level
        self.cache.clear()

    def wake(self) -> None:
        """Serve again."""
        self.sleep_level = None

    def reset_counters(self) -> None:
        """Start all counters at zero, as a restarted process would; requests inside stay."""
        self.counters = Counters(self.now, self.context_tokens)

    def whole(self, value: float) -> int:
        """A gauge's real value as the whole number a real engine would show, right on average over scrapes."""
        return int(value + self._next()) if value > 1e-6 else 0

    def _next(self) -> float:
        self._turn = (self._turn + _GOLDEN) % 1.0
        return self._turn

    def _own(self, shape: Shape) -> Shape:
        """The shape as this engine has it: without what comes from KV tiers, where it has none."""
        return shape if self.facts.host_kv_bytes or not shape.tier_share else replace(shape, tier_share=0.0)

    def _blend(self, mass: float, shape: Shape) -> None:
        """Mix a shape into that of the work inside."""
        shape = self._own(shape)
        mix, held = self._mix, self._requests + len(self._streams)
        if shape == mix:
            return
        share = mass / (held + mass)
        prompt = mix.input_tokens + share * (shape.input_tokens - mix.input_tokens)
        cached = mix.input_tokens * mix.cached_share
        cached += share * (shape.input_tokens * shape.cached_share - cached)
        tiers = mix.input_tokens * mix.tier_share
        tiers += share * (shape.input_tokens * shape.tier_share - tiers)
        output = mix.output_tokens + share * (shape.output_tokens - mix.output_tokens)
        mixed = Shape(prompt, output, min(1.0, cached / prompt), min(1.0, tiers / prompt))
        self._mix = shape if share > 1.0 - 1e-9 else mixed
        near = rounded(self._mix)
        if near != self._rounded:
            self._rounded, self._capacity = near, self._tables.at(near)

    def _latencies(self, batch: float, wait_low: float, wait_high: float) -> Latencies:
        table, slow = self._capacity, self.slowdown
        batch = max(1.0, batch)
        low, high = sorted((wait_low, wait_high))
        return Latencies(
            base=(table.prefill_seconds + table.decode_seconds(batch)) * slow,
            prefill=table.prefill_seconds * slow,
            prefill_load=table.prefill_share(batch),
            wait_low=low * slow,
            wait_high=high * slow,
            tpot=table.tpot(batch) * slow,
        )

    def _progress(self, seconds: float, paused: float) -> None:
        """Bring streams to the present; while the engine sleeps, put their times off."""
        tpot = self.tpot_seconds
        for stream in self._streams:
            if self.sleep_level is not None:
                stream.first_token_at += paused
                if not stream.is_prefilled:
                    stream.admitted_at = max(stream.admitted_at, self.now)
                continue
            if self.now < stream.first_token_at:
                continue
            counters, had = self.counters, stream.tokens
            if not stream.is_prefilled:
                stream.is_prefilled, stream.generated = True, 1.0
                counters.prompt_tokens += stream.prompt.tokens
                counters.prefix_queries += stream.prompt.tokens
                counters.prefix_hits += stream.cached_tokens
                if self.facts.host_kv_bytes:  # prompts that are spelled out are only looked for on the device
                    counters.tier_queries += stream.prompt.tokens - stream.cached_tokens
                counters.ttft.observe(stream.first_token_at - stream.opened_at)
                counters.queue.observe(max(0.0, stream.admitted_at - stream.opened_at))
                seconds_decoding = self.now - stream.first_token_at
            else:
                seconds_decoding = seconds
            stream.generated = min(float(stream.max_tokens), stream.generated + seconds_decoding / tpot)
            fresh = stream.tokens - had
            counters.generation_tokens += fresh
            if between := fresh - (1 if had == 0 else 0):
                counters.inter_token.observe(tpot, between)
