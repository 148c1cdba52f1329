"""The chooser behind the wire: finds the pool, asks `routing` for a pick, keeps the accounts, lets requests wait."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from typing import Protocol

import numpy as np

from tidefleet.router import flights
from tidefleet.router.asking import ask_of, priced
from tidefleet.router.bodies import BadBody, Body, Format, read
from tidefleet.router.books import Books
from tidefleet.router.chooser import Answer, Choice, Hold, Refusal, RequestHead
from tidefleet.router.discovery import Fleet, ServedPool
from tidefleet.router.flights import Flight
from tidefleet.router.pool_state import Ended, Limits, PoolState, Request
from tidefleet.router.subset import host_of
from tidefleet.router.tokens import CannotRender, PromptTokens, Tokens
from tidefleet.router.usage import UsageReader
from tidefleet.routing.pick import Pick, Queued, Refused, pick
from tidefleet.routing.queue import Removed
from tidefleet.routing.request import Ask

log = logging.getLogger(__name__)

INLINE_CHARACTERS = 4_000
"""A prompt with fewer characters is encoded on the event loop; a longer one in a thread (tens of µs each)."""
LONGEST_TOKENIZED = 2_000_000
"""Characters of a prompt that are encoded at most; beyond it, text is compared."""
PUMP_SECONDS = 0.02
"""How often waiting requests are looked at while nothing ends."""
KEPT_PICKS = 256
"""Decisions that can be explained afterwards."""

PREFILL_HEADER = "x-prefiller-host-port"
"""Where a request is prefilled, as llm-d's sidecar beside a decode engine reads it."""

DEFERRED_RETRY_SECONDS = 30
"""After what time a client had better come again with work that may wait."""

HOLD_SECONDS = 2.0
"""A request that may wait for longer waits on the gateway's way for that, where there is one."""

TAKE_A_PRIORITY = frozenset({Format.CHAT, Format.COMPLETIONS, Format.RESPONSES})
"""Whose bodies have a field ``priority`` in vLLM (``--scheduling-policy priority``); the lowest number goes first."""


class Meter(Protocol):
    """Counts what the router does; see ``metrics``."""

    def decided(self, pool: str, outcome: str, seconds: float) -> None: ...
    def ended(self, pool: str, done: Ended) -> None: ...


class Picker:
    """Implements ``chooser.Chooser``; one event loop owns it.

    Args:
        secret: session and tenant names are hashed with; the same in every process that shall know a session again.
        now: the loop's clock.
        tokens_of: the tokenizer of a pool's model, if there is one.
        threads: where long prompts are encoded.
        pool_header: a header by which the gateway names the pool (``namespace/name`` or ``name``); empty: none is
            trusted. Clients must not be able to set it.
        books: what requests come to and what tenants may use; without, nobody keeps account of either.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        now: Callable[[], float],
        tokens_of: Callable[[ServedPool], PromptTokens | None] = lambda _: None,
        threads: Executor | None = None,
        limits: Limits | None = None,
        pool_header: str = "",
        meter: Meter | None = None,
        books: Books | None = None,
        seed: int = 0,
    ) -> None:
        self._secret, self._now, self._tokens_of, self._threads = secret, now, tokens_of, threads
        self._limits, self._pool_header, self._seed = limits or Limits(), pool_header.lower(), seed
        self._meter, self._books = meter, books
        self.pools: dict[str, PoolState] = {}
        self.recent: deque[tuple[float, Pick]] = deque(maxlen=KEPT_PICKS)
        self._by_model: dict[str, tuple[str, ...]] = {}
        self._by_name: dict[str, tuple[str, ...]] = {}
        self._by_address: dict[str, str] = {}
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self.ready = False

    # --- the fleet ---------------------------------------------------------------------------------------------------

    def update(self, fleet: Fleet) -> None:
        """Take what discovery found."""
        now = self._now()
        found = {one.key: one for one in fleet.pools}
        for key in [key for key in self.pools if key not in found]:
            self._drop(key)
        for key, served in found.items():
            state = self.pools.get(key)
            if state is None:
                state = self.pools[key] = PoolState(served, self._limits, seed=self._seed)
            if state.tokens is None:  # the first pod may tell the name that the tokenizer goes by
                state.tokens = self._tokens_of(served)
            state.update(served, fleet.accelerators, now)
            self._pump_now(state)
        self._by_model, self._by_name, self._by_address = {}, {}, {}
        for key, served in sorted(found.items()):
            for model in served.models:
                self._by_model[model] = (*self._by_model.get(model, ()), key)
            for name in {served.name, *served.gateway_names}:
                self._by_name[name] = (*self._by_name.get(name, ()), key)
            for rank in served.ranks:
                self._by_address[rank.address] = self._by_address[host_of(rank.address)] = key
        self.ready = True

    def _drop(self, key: str) -> None:
        state = self.pools.pop(key)
        pump = self._pumps.pop(key, None)
        if pump is not None:
            pump.cancel()
        while (entry := state.queue.take()) is not None:
            _answer(entry.handle, Refusal(503, f"pool {key} is gone"))
        while (deferred := state.deferred.pop()) is not None:
            _answer(deferred[1], Refusal(503, f"pool {key} is gone"))

    # --- Chooser -----------------------------------------------------------------------------------------------------

    def choose(self, head: RequestHead, body: bytes | None) -> Answer | Awaitable[Answer]:
        """Where a request goes, or why nowhere."""
        began = self._now()
        parsed: Body | None = None
        if body:
            try:
                parsed = read(head.path, body)
            except BadBody as error:
                return self._refused("", Refusal(400, str(error)), "unparsable", began)
        state = self._pool(head, parsed)
        if isinstance(state, Refusal):
            return self._refused("", state, "no-pool", began)
        if parsed is None or parsed.characters > LONGEST_TOKENIZED:
            return self._decide(state, head, parsed, None, began, raw=body)
        encoder = state.tokens
        takes_long = parsed.token_ids is None and parsed.characters > INLINE_CHARACTERS
        if encoder is not None and takes_long and self._threads is not None:
            return self._later(state, head, parsed, encoder, began, raw=body)
        return self._decide(state, head, parsed, _encoded(encoder, parsed), began, raw=body)

    async def _later(
        self, state: PoolState, head: RequestHead, body: Body, encoder: PromptTokens, began: float, *, raw: bytes | None
    ) -> Answer:
        loop = asyncio.get_running_loop()
        tokens = await loop.run_in_executor(self._threads, _encoded, encoder, body)
        found = self._decide(state, head, body, tokens, began, raw=raw)
        return found if isinstance(found, Answer) else await found

    def _pool(self, head: RequestHead, body: Body | None) -> PoolState | Refusal:
        """The pool that a request belongs to: by the gateway's header, by its subset, then by its model."""
        keys: tuple[str, ...] = ()
        named = head.headers.get(self._pool_header, "") if self._pool_header else ""
        if named:
            keys = (named,) if named in self.pools else self._by_name.get(named, ())
            if not keys:
                return Refusal(503, "the gateway names a pool that is not served here")
        elif head.subset and (owner := self._owner(head.subset)):
            keys = (owner,)
        elif body is not None:
            keys = self._by_model.get(body.model, ())
            if not keys:
                return Refusal(404, "no pool serves this model")
        else:
            keys = tuple(self.pools)
        if not keys:
            return Refusal(503, "no pool is known yet", (("retry-after", "1"),))
        if len(keys) > 1:
            keys = tuple(key for key in keys if len(self.pools[key].table)) or keys
        return self.pools[keys[0]]

    def _owner(self, subset: tuple[str, ...]) -> str | None:
        """The pool that has an address of a canonical subset."""
        return next((self._by_address[one] for one in subset if one in self._by_address), None)

    def _decide(
        self, state: PoolState, head: RequestHead, body: Body | None, tokens: Tokens | None, began: float,
        *, raw: bytes | None,
    ) -> Answer | Awaitable[Answer]:  # fmt: skip
        ask = ask_of(state, body, head.headers, tokens=tokens, secret=self._secret, now=began)
        told = state.by_priority and body is not None and body.format in TAKE_A_PRIORITY
        request = Request(body, head.subset, began, raw=raw if told else None, headers=head.headers)
        books, billing = self._books, state.billings.get(ask.wclass)
        if books is None or billing is None or billing.limit is None:
            return self._placed(state, head, ask, request)
        admitted = books.limiter.takes(billing, ask, began)
        if isinstance(admitted, Refusal):
            return self._refused(state.served.key, admitted, "capped", began, ask)
        request.reserved = admitted
        answer = self._placed(state, head, ask, request)
        if request.reserved is not None:
            books.limiter.ends(billing, ask.tenant, admitted, began, tokens=0.0, usd=0.0)
            request.reserved = None
        return answer

    def _placed(self, state: PoolState, head: RequestHead, ask: Ask, request: Request) -> Answer | Awaitable[Answer]:
        """The answer to a request whose tenant may have it."""
        began = request.began
        if ask.is_deferrable and len(state.deferred):
            return Hold() if head.may_hold else self._defer(state, ask, request)
        found = self._try(state, ask, request)
        if not isinstance(found, Queued):
            return found
        if head.may_hold and found.deadline - began > HOLD_SECONDS:
            return Hold()
        if ask.is_deferrable and len(state.table):
            return self._defer(state, ask, request)
        return self._wait(state, ask, request, found)

    def _try(self, state: PoolState, ask: Ask, request: Request, *, is_next: bool = False) -> Choice | Refusal | Queued:
        now, body, began = self._now(), request.body, request.began
        hits = state.match(ask.keys, exact=ask.token_exact)
        found = pick(ask, state.table, hits, now, subset=request.subset, queue=state.queue, is_next=is_next)
        if isinstance(found, Queued):
            return found
        if isinstance(found, Refused):
            after = found.retry_after_seconds
            headers = (("retry-after", str(after)),) if after is not None else ()
            state.totals.refused += 1
            return self._refused(
                state.served.key, Refusal(found.status, found.reason, headers), f"refused-{found.status}", began, ask
            )
        self.recent.append((now, found))
        flight = Flight(state, found, body, now, UsageReader(is_stream=body is not None and body.stream), found.address)
        work, streams = found.work_at(found.address), body is None or body.stream
        flight.account = state.table.begin(ask, found.address, now, work=work, streams=streams)
        if self._books is not None:
            flight.came, flight.headers, flight.reserved = began, request.headers, request.reserved
            request.reserved = None
            if is_next:
                self._books.waited(flight, now)
        if self._meter is not None:
            self._meter.decided(state.served.key, "picked", self._now() - began)
        extra = ((PREFILL_HEADER, found.prefill_address),) if found.prefill_address is not None else ()
        told = with_priority(request.raw, found.engine_priority) if request.raw is not None else None
        return Choice((found.address, *found.fallbacks), flight, extra, body=told)

    def _refused(self, pool: str, refusal: Refusal, outcome: str, began: float, ask: Ask | None = None) -> Refusal:
        """Count a refusal; of a request whose pool and class are known, keep a record."""
        now = self._now()
        if self._meter is not None:
            self._meter.decided(pool, outcome, now - began)
        state = self.pools.get(pool)
        if self._books is not None and ask is not None and state is not None:
            self._books.refused(state, ask, began, now)
        return refusal

    # --- requests that wait ------------------------------------------------------------------------------------------

    async def _wait(self, state: PoolState, ask: Ask, request: Request, queued: Queued) -> Choice | Refusal:
        answer: asyncio.Future[Choice | Refusal] = asyncio.get_running_loop().create_future()
        request.answer = answer
        for gone in state.queue.offer(priced(state, ask), request, self._now(), queued.deadline):
            self._let_go(state, gone)
        self._pump_later(state)
        try:
            return await answer
        except asyncio.CancelledError:
            self._gone(request)
            raise

    async def _defer(self, state: PoolState, ask: Ask, request: Request) -> Choice | Refusal:
        """Wait for slack, in order of deadlines, until the client had better come again."""
        key, began = state.served.key, request.began
        why = state.deferred.offer(ask, request, self._now())
        if why is not None:
            refusal = Refusal(429, why, (("retry-after", str(DEFERRED_RETRY_SECONDS)),))
            return self._refused(key, refusal, "refused-429", began, ask)
        request.answer = asyncio.get_running_loop().create_future()
        self._pump_later(state)
        try:
            async with asyncio.timeout(self._limits.defer_seconds):
                return await request.answer
        except TimeoutError:
            self._gone(request)
            state.deferred.remove([request])
            words = (
                f"no endpoint had slack for deferrable work within {self._limits.defer_seconds:.0f} s; send it again"
            )
            refusal = Refusal(429, words, (("retry-after", str(DEFERRED_RETRY_SECONDS)),))
            return self._refused(key, refusal, "refused-429", began, ask)
        except asyncio.CancelledError:
            self._gone(request)
            state.deferred.remove([request])
            raise

    def _gone(self, request: Request) -> None:
        """The client went away, though an endpoint may just have been found."""
        request.gone, answer = True, request.answer
        if answer is not None and answer.done() and not answer.cancelled():
            found = answer.result()
            if isinstance(found, Choice):
                self.closed(found.ticket, self._now())

    def _let_go(self, state: PoolState, gone: Removed[Request]) -> None:
        waiting = gone.entry.handle
        refusal = Refusal(gone.status, gone.reason, (("retry-after", "1"),))
        outcome = f"refused-{gone.status}"
        _answer(waiting, self._refused(state.served.key, refusal, outcome, waiting.began, gone.entry.ask))

    def _pump_later(self, state: PoolState) -> None:
        key = state.served.key
        running = self._pumps.get(key)
        if running is None or running.done():
            self._pumps[key] = asyncio.get_running_loop().create_task(self._pump(state), name=f"queue of {key}")

    async def _pump(self, state: PoolState) -> None:
        while len(state.queue) or len(state.deferred):
            self._pump_now(state)
            await asyncio.sleep(PUMP_SECONDS)

    def _pump_now(self, state: PoolState) -> None:
        """Let in whoever may go now; who has waited long enough leaves."""
        now = self._now()
        for gone in state.queue.expire(now):
            if not len(state.table):
                words = f"pool {state.served.key} is at zero and did not wake up within {now - gone.entry.since:.0f} s"
                gone = replace(gone, status=503, reason=words)  # noqa: PLW2901 - the same one, with its true cause
            self._let_go(state, gone)
        while (entry := state.queue.take()) is not None:
            waiting = entry.handle
            if waiting.gone:
                continue
            found = self._try(state, entry.ask, waiting, is_next=True)
            if not isinstance(found, Queued):
                _answer(waiting, found)
            elif entry.ask.is_deferrable and len(state.table):  # the pool woke up: from here on it waits for slack
                if (why := state.deferred.offer(entry.ask, waiting, now)) is not None:
                    refusal = Refusal(429, why)
                    _answer(
                        waiting,
                        self._refused(state.served.key, refusal, "refused-429", waiting.began, entry.ask),
                    )
            else:
                state.queue.put_back(entry)
                return
        self._pump_deferred(state, now)

    def _pump_deferred(self, state: PoolState, now: float) -> None:
        """Let deferrable work into what slack there is, once nobody else waits."""
        for ask, late in state.deferred.expire(now):
            refusal = Refusal(429, "its deadline passed while it waited for slack")
            _answer(late, self._refused(state.served.key, refusal, "refused-429", late.began, ask))
        while (first := state.deferred.next()) is not None:
            ask, waiting = first
            if not waiting.gone:
                found = self._try(state, ask, waiting, is_next=True)
                if isinstance(found, Queued):
                    return
                _answer(waiting, found)
            state.deferred.pop()

    # --- what became of it -------------------------------------------------------------------------------------------

    def served(self, ticket: object, address: str | None, status: int | None, now: float) -> None:
        """Response headers came: the endpoint that answered is the truth."""
        flight = _flight(ticket)
        if flight is not None:
            flights.served(flight, address, status, now)

    def body(self, ticket: object, chunk: bytes, end: bool, now: float) -> None:
        """A piece of the response passed."""
        flight = _flight(ticket)
        if flight is not None:
            flights.passed(flight, chunk, end, now)

    def closed(self, ticket: object, now: float) -> None:
        """It is over."""
        flight = _flight(ticket)
        if flight is None:
            return
        usage, ask, state, books = flight.reader.usage(), flight.chosen.ask, flight.pool, self._books
        again = books.recomputed(flight, usage) if books is not None else (0, "")
        if flight.account is not None:
            state.table.end(
                flight.account,
                now,
                output_tokens=float(usage.output) if flight.first_at is not None else 0.0,
                cached_tokens=None if usage.cached_tokens is None else float(usage.cached_tokens),
                tool_call=flight.reader.ends_in_tool_call if flight.reader.started else None,
            )
        if usage.input_tokens and not ask.token_exact and flight.body is not None and not flight.body.images:
            state.learn_length(flight.body.size, usage.input_tokens)
        work = flight.chosen.work_at(flight.address)
        done = Ended(
            wclass=ask.wclass,
            status=flight.status,
            tokens=usage.input_tokens or ask.tokens,
            predicted=int(work.cached_tokens) if work is not None else 0,
            cached=usage.cached_tokens,
            output_tokens=usage.output,
            ttft_seconds=None if flight.first_at is None else flight.first_at - flight.began,
        )
        if books is not None:
            done.recomputed_tokens, done.recomputed_cause = again
            books.settle(flight, usage, done, now)
        state.totals.add(done)
        if done.ended_well:
            state.distances.used(ask.keys, ask.block_size, output_tokens=float(usage.output))
        if self._meter is not None:
            self._meter.ended(state.served.key, done)
        if len(state.queue) or len(state.deferred):
            self._pump_now(state)

    def would_pick(self, path: str, headers: Mapping[str, str], raw: bytes) -> Pick | dict[str, object]:
        """What would be picked now for a request; nothing is counted. What refuses it is told with its status."""
        try:
            body = read(path, raw)
        except BadBody as error:
            return {"status": 400, "reason": str(error)}
        head = RequestHead("POST", path, dict(headers), None)
        state = self._pool(head, body)
        if isinstance(state, Refusal):
            return {"status": state.status, "reason": state.reason}
        ask = ask_of(state, body, headers, tokens=_encoded(state.tokens, body), secret=self._secret, now=self._now())
        found = pick(ask, state.table, state.match(ask.keys, exact=ask.token_exact), self._now())
        if isinstance(found, Pick):
            return found
        if isinstance(found, Queued):
            return {"status": 0, "reason": f"it would wait: {found.reason}"}
        return {"status": found.status, "reason": found.reason}

    async def close(self) -> None:
        """Answer whoever still waits, and end."""
        for key in list(self.pools):
            self._drop(key)
        for pump in self._pumps.values():
            pump.cancel()
        for pump in self._pumps.values():
            with contextlib.suppress(asyncio.CancelledError):
                await pump
        self._pumps.clear()


def _answer(request: Request, found: Choice | Refusal) -> None:
    if request.answer is not None and not request.answer.done():
        request.answer.set_result(found)


def with_priority(raw: bytes, priority: int) -> bytes:
    """A body whose last field is the engine's priority, which outdoes one of the client's; the rest is untouched."""
    return b'%s,"priority":%d}' % (raw.rstrip()[:-1], priority)


def _flight(ticket: object) -> Flight | None:
    return ticket if isinstance(ticket, Flight) else None


def _encoded(encoder: PromptTokens | None, body: Body) -> Tokens | None:
    """A prompt's tokens; None where the model's template refuses it, and text is compared."""
    if encoder is None:
        return _given(body)
    try:
        return encoder.encode(body)
    except CannotRender:
        return None


def _given(body: Body) -> Tokens | None:
    return None if body.token_ids is None else np.asarray(body.token_ids, np.uint32)
