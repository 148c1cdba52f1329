"""What one router knows of one pool: endpoints, who holds which blocks, sessions, and how its prompts become keys."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tidefleet.api import AcceleratorType, WorkloadClass
from tidefleet.economics.revenue import Prices
from tidefleet.planning.earning import prices_of_class
from tidefleet.router.billing import Billing, billings_of
from tidefleet.router.bodies import Body
from tidefleet.router.chooser import Choice, Refusal
from tidefleet.router.discovery import ServedPool
from tidefleet.router.facts import DEFAULT_BLOCK_TOKENS, endpoint_of, store_of
from tidefleet.router.limiting import Reserved
from tidefleet.router.serving_pods import Rank
from tidefleet.router.tokens import PromptTokens
from tidefleet.routing.defer import Deferred
from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.handover import hand_over, stay
from tidefleet.routing.hashing import Keys, hashed, text_keys
from tidefleet.routing.index import Hits, PrefixIndex
from tidefleet.routing.placements import Placements
from tidefleet.routing.queue import Queue
from tidefleet.routing.rates import SHARED
from tidefleet.routing.reuse_distance import ReuseDistances
from tidefleet.routing.rooms import Store
from tidefleet.routing.sessions import SessionState, SessionStore

log = logging.getLogger(__name__)

CHUNK_BYTES = 256
"""Text is compared in pieces of so many bytes where nobody knows its tokens; about 64 tokens of English."""
FIRST_BYTES_PER_TOKEN = 4.0
"""Of a prompt, until its pool's engines have counted some (an English text has 4 to 4.5)."""
MOST_SLOTS = 1024
MOST_SALTS = 4096
"""Adapters whose salt is kept; that of others is worked out each time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one pool may take of a router's memory and time.

    Attributes:
        index_blocks: blocks that the prefix index knows at most.
        session_bytes: hash states of sessions; session_seconds: how long a resting one is kept.
        wake_seconds: how long requests wait for a pool at zero; None: they are refused.
        deferred_requests, deferred_tokens: of deferrable classes that wait for slack; defer_seconds: how long one does
            at most before its client is told to come again, whatever its class's deadline.
    """

    index_blocks: int = 2_000_000
    session_bytes: int = 64 * 2**20
    session_seconds: float = 3600.0
    sessions: int = 100_000
    wake_seconds: float | None = 120.0
    queue_requests: int = 2048
    queue_tokens: float = 50e6
    deferred_requests: int = 8192
    deferred_tokens: float = 200e6
    defer_seconds: float = 240.0


@dataclass(slots=True)  # one for every request, where freezing takes thrice the time: not to be changed
class Ended:
    """One request that is over.

    Attributes:
        predicted, cached: prompt tokens held as the pick thought, and as the engine counted (None: it did not say).
        ttft_seconds: from the pick on; None without a first token.
        usd: None where its price is not known, or nobody keeps books.
        slo: ``met``, ``missed`` or nothing, by the objectives of its class.
        recomputed_tokens, recomputed_cause: see ``routing.recomputed``.
        avoided_joules: by tier.
        outcome: of its task, where it is the first to tell that.
    """

    wclass: str
    status: int | None
    tokens: int
    predicted: int
    cached: int | None
    output_tokens: int
    ttft_seconds: float | None
    usd: float | None = None
    slo: str = ""
    recomputed_tokens: int = 0
    recomputed_cause: str = ""
    avoided_joules: tuple[tuple[str, float], ...] = ()
    outcome: str = ""

    @property
    def ended_well(self) -> bool:
        """Whether the engine answered, and with no error."""
        return self.status is not None and self.status < 400


@dataclass(slots=True)
class Totals:
    """Counts since the router began, of requests that ended well; TTFT as a decayed mean."""

    requests: int = 0
    prompt_tokens: int = 0
    predicted_tokens: int = 0
    cached_tokens: int = 0
    told_tokens: int = 0
    output_tokens: int = 0
    failed: int = 0
    refused: int = 0
    ttft_seconds: float | None = None

    def add(self, done: Ended) -> None:
        """Count a request that is over."""
        if not done.ended_well:
            self.failed += 1
            return
        self.requests += 1
        self.prompt_tokens += done.tokens
        self.predicted_tokens += done.predicted
        self.output_tokens += done.output_tokens
        if done.cached is not None:
            self.cached_tokens += done.cached
            self.told_tokens += done.tokens
        if done.ttft_seconds is not None:
            before = done.ttft_seconds if self.ttft_seconds is None else self.ttft_seconds
            self.ttft_seconds = 0.95 * before + 0.05 * done.ttft_seconds

    def view(self) -> dict[str, float | int | None]:
        """For JSON; ``hitRatio`` is what engines told of prompts whose cached part they told."""
        return {
            "requests": self.requests,
            "failed": self.failed,
            "refused": self.refused,
            "promptTokens": self.prompt_tokens,
            "predictedHitTokens": self.predicted_tokens,
            "cachedTokens": self.cached_tokens,
            "toldTokens": self.told_tokens,
            "outputTokens": self.output_tokens,
            "hitRatio": self.cached_tokens / self.told_tokens if self.told_tokens else None,
            "predictedHitRatio": self.predicted_tokens / self.prompt_tokens if self.prompt_tokens else None,
            "ttftSeconds": self.ttft_seconds,
        }


@dataclass(slots=True, eq=False)
class Request:
    """What a request's answer needs beside its `Ask`, while it waits too.

    Attributes:
        answer: set when it has waited; gone: its client went away.
        raw: the client's bytes, where the engine is to be told a priority.
        headers: of the client.
        reserved: of its tenant's limit, until its first try.
    """

    body: Body | None
    subset: tuple[str, ...] | None
    began: float
    answer: asyncio.Future[Choice | Refusal] | None = None
    gone: bool = False
    raw: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reserved: Reserved | None = None


class PoolState:
    """Everything of one pool; one event loop owns it.

    Attributes:
        table: endpoints and their accounts.
        blocks: index of token blocks, fed by KV events; chunks: of text, fed by our own placements.
        queue: requests that wait here; deferred: those of deferrable classes, which wait for slack.
        bytes_per_token: of text, learned from what engines count.
        adapters: names by which requests ask for an adapter instead of the model.
        by_priority: every engine serves requests by the priority that they carry.
        prices: what tokens earn, by class; of classes that say so.
        distances: how far apart prompts use the same block.
        billings: by class name; the empty name is that of requests that belong to none.
        models: names that requests may ask for.
    """

    def __init__(
        self, served: ServedPool, limits: Limits, *, tokens: PromptTokens | None = None, seed: int = 0
    ) -> None:
        self.served, self.tokens = served, tokens
        self.table = Endpoints(
            served.key,
            wake_seconds=limits.wake_seconds,
            seed=seed,
            most_sessions=limits.sessions,
            session_ttl_seconds=limits.session_seconds,
        )
        self.blocks = PrefixIndex(capacity_blocks=limits.index_blocks)
        self.chunks = PrefixIndex(capacity_blocks=limits.index_blocks)
        self.block_store, self._chunk_store = Store(self.blocks), Store(self.chunks)
        self.placements = Placements(self.chunks, self._chunk_store)
        self._most_blocks = limits.index_blocks
        self.queue: Queue[Request] = Queue(most=limits.queue_requests, most_tokens=limits.queue_tokens)
        self.deferred: Deferred[Request] = Deferred(most=limits.deferred_requests, most_tokens=limits.deferred_tokens)
        self.states = SessionStore(limit_bytes=limits.session_bytes, ttl_seconds=limits.session_seconds)
        self.distances = ReuseDistances()
        self.block_tokens = DEFAULT_BLOCK_TOKENS
        self.bytes_per_token = FIRST_BYTES_PER_TOKEN
        self.ranks: dict[str, Rank] = {}
        self.kv_tokens: dict[str, float] = {}
        self.adapters: frozenset[str] = frozenset()
        self.by_priority = False
        self.billings: Mapping[str, Billing] = billings_of(served)
        self.models = served.models
        self._slots: dict[str, int] = {}
        self._store = store_of(served)
        self._secret = secrets.token_bytes(16)
        self._salts: dict[str | None, int] = {}
        self._classes: tuple[WorkloadClass, ...] = ()
        self.prices: dict[str, Prices] = {}
        self._accelerators: Mapping[str, AcceleratorType] = {}
        self.odd: dict[str, str] = {}
        self.totals = Totals()
        self._moved = 0
        self.messages = 0
        self.faults: Counter[str] = Counter()

    # --- who serves it -----------------------------------------------------------------------------------------------

    def update(self, served: ServedPool, accelerators: Mapping[str, AcceleratorType], now: float) -> None:
        """Take what discovery found; what is in flight goes on."""
        told_anew = served.spec is not self.served.spec or accelerators != self._accelerators
        self.served, self._accelerators = served, accelerators
        named = served.spec.spec.model.adapters if served.spec is not None else ()
        self.billings, self.models = billings_of(served), served.models
        self._classes = tuple(sorted(served.classes, key=lambda one: (-(one.spec.priority or 0), one.name)))
        self.prices = {one.name: prices for one in self._classes if (prices := prices_of_class(one)) is not None}
        ready = {one.address: one for one in served.ranks if one.ready or (one.address in self.ranks and one.leaving)}
        self.block_tokens = _usual_block(ready.values())
        for address in [one for one in self.ranks if one not in ready]:
            self._forget(address)
        if store_of(served) != self._store:  # who reads what is another question now
            for address in list(self._slots):
                self._free_slot(address)
            self._drop_store()
            self._store = store_of(served)
        for address, found in ready.items():
            rank = found
            before = self.ranks.get(address)
            if before is not None and (before.uid, before.restarts) != (rank.uid, rank.restarts):
                self._forget(address)
                before = None
            if before is not None and not rank.block_tokens:
                rank = replace(rank, block_tokens=before.block_tokens)  # as the engine told
            self.ranks[address] = rank
            self._say_what_is_odd(rank)
            fresh = address not in self._slots
            if fresh:
                self._slots[address] = self._new_slot()
            if fresh or told_anew or rank != before:
                self.refresh(address)
            if rank.leaving and (before is None or not before.leaving):
                moved = hand_over(self.table, address, now)
                self._moved += len(moved)
                if moved:
                    log.info("%s: %s leaves; %d sessions were given another home", served.key, address, len(moved))
            elif before is not None and before.leaving and not rank.leaving:
                stay(self.table, address)
        self._measure_store()
        self.by_priority = bool(self.ranks) and all(one.by_priority for one in self.ranks.values())
        self.adapters = frozenset(
            {*(one.name for one in named), *(name for rank in self.ranks.values() for name in rank.adapters)}
        )

    def refresh(self, address: str) -> None:
        """Work out an endpoint's facts again."""
        slot, measured = self._slots[address], self.kv_tokens.get(address)
        rank = self.ranks[address]
        facts = endpoint_of(rank, self.served, self._accelerators, slot=slot, measured_kv_tokens=measured)
        if address not in self.table or facts != self.table.endpoint(address):
            self.table.add(facts)

    def check_block(self, address: str, tokens: int) -> None:
        """An engine told the size of its KV blocks: that counts, whatever its arguments say."""
        rank = self.ranks[address]
        if rank.block_tokens != tokens:
            self.ranks[address] = replace(rank, block_tokens=tokens)
            self.block_tokens = _usual_block(self.ranks.values())
            self._measure_store()
            self._say_what_is_odd(self.ranks[address])
            self.refresh(address)

    def _drop_store(self) -> None:
        """The shared store is another one now, or there is none."""
        for index, store in ((self.blocks, self.block_store), (self.chunks, self._chunk_store)):
            index.drop_store(self._store)
            store.clear()

    def _measure_store(self) -> None:
        """The shared store's room: that of its replicas, together."""
        tokens = float(self.table.tier_tokens[SHARED - 1].sum())
        for store, size in ((self.block_store, self.block_tokens), (self._chunk_store, self.chunk_tokens)):
            store.room = max(1, int(tokens / size)) if tokens / size < self._most_blocks else None

    def _new_slot(self) -> int:
        """One number for an endpoint in both indexes."""
        store = self._store or None
        slot, other = self.blocks.add_endpoint(store=store), self.chunks.add_endpoint(store=store)
        if slot != other:
            raise AssertionError(f"{self.served.key}: slot {slot} of blocks is slot {other} of chunks")
        return slot

    def _forget(self, address: str) -> None:
        self.table.remove(address)
        self.ranks.pop(address, None)
        self.kv_tokens.pop(address, None)
        self.odd.pop(address, None)
        self._free_slot(address)

    def _free_slot(self, address: str) -> None:
        slot = self._slots.pop(address, None)
        if slot is not None:
            self.blocks.drop_endpoint(slot)
            self.chunks.drop_endpoint(slot)
            self.placements.forget(slot)

    def _say_what_is_odd(self, rank: Rank) -> None:
        words = "; ".join(rank.odd)
        if rank.events is not None and rank.block_tokens and rank.block_tokens != self.block_tokens:
            words += (
                f"; its KV blocks hold {rank.block_tokens} tokens where most of the pool's hold {self.block_tokens}"
            )
        if words and self.odd.get(rank.address) != words:
            log.warning("%s: %s (pod %s): %s", self.served.key, rank.address, rank.pod, words.strip("; "))
        if words:
            self.odd[rank.address] = words
        else:
            self.odd.pop(rank.address, None)

    def take_faults(self) -> Counter[str]:
        """Faults of KV events since the last call, by kind."""
        taken, self.faults = self.faults, Counter()
        return taken

    def take_messages(self) -> int:
        """Messages of KV events since the last call."""
        taken, self.messages = self.messages, 0
        return taken

    def take_moved(self) -> int:
        """Sessions that were given another home since the last call."""
        taken, self._moved = self._moved, 0
        return taken

    def placed(self, address: str, keys: Keys, *, known: int = 0) -> None:
        """An endpoint answered a request that was compared as text; it held so many chunks of it when it was picked."""
        slot = self._slots.get(address)
        if slot is not None and address in self.table:
            facts, size = self.table.endpoint(address), self.chunk_tokens
            host, disk, _ = (int(min(one / size, self._most_blocks)) for one in facts.room_of_tiers)
            self.placements.placed(
                slot,
                keys,
                room=int(facts.kv_capacity_tokens / size),
                below=(host, disk),
                write_through=self.shares_store,
                known=known,
            )

    def held(self, address: str) -> int:
        """Blocks or chunks that an endpoint is known to hold on its device."""
        slot = self._slots.get(address)
        return 0 if slot is None else self.blocks.held(slot) + self.chunks.held(slot)

    def slot(self, address: str) -> int | None:
        """An endpoint's number in the indexes."""
        return self._slots.get(address)

    # --- what its prompts are ----------------------------------------------------------------------------------------

    @property
    def has_events(self) -> bool:
        """Whether some engine tells what it holds."""
        return any(one.events is not None for one in self.ranks.values())

    @property
    def shares_store(self) -> bool:
        """Whether what its endpoints store is written through to a store that all of them read."""
        return bool(self._store)

    def salt(self, adapter: str | None) -> int:
        """Of the keys of prompts for an adapter (None: the base model): nobody outside can make two prompts alike."""
        found = self._salts.get(adapter)
        if found is None:
            found = hashed("" if adapter is None else f"\x00{adapter}", self._secret)
            if len(self._salts) < MOST_SALTS:
                self._salts[adapter] = found
        return found

    def token_state(
        self, tokens: np.ndarray, session: int | None, now: float, *, adapter: str | None = None
    ) -> SessionState:
        """Keys of a prompt in tokens; a session's earlier state is used and replaced."""
        before = self.states.get(session, now) if session is not None else None
        state = SessionState.of_tokens(tokens, self.block_tokens, salt=self.salt(adapter), before=before)
        if session is not None:
            self.states.put(session, state, now)
        return state

    def text_keys(self, text: bytes, session: int | None, now: float, *, adapter: str | None = None) -> Keys:
        """Keys of a prompt as text; a session's earlier state is used and replaced."""
        if session is None:
            return text_keys(text, CHUNK_BYTES, salt=self.salt(adapter))
        state = SessionState.of_text(text, CHUNK_BYTES, salt=self.salt(adapter), before=self.states.get(session, now))
        self.states.put(session, state, now)
        return state.keys

    def tokens_of(self, size: int) -> int:
        """How many tokens so many bytes of text likely are."""
        return max(1, round(size / self.bytes_per_token))

    @property
    def chunk_tokens(self) -> int:
        """Tokens that a chunk of text likely has."""
        return max(1, round(CHUNK_BYTES / self.bytes_per_token))

    def learn_length(self, size: int, tokens: int) -> None:
        """An engine counted a prompt of so many bytes."""
        if size >= 64 and 0.5 <= size / max(1, tokens) <= 16.0:
            self.bytes_per_token += 0.05 * (size / tokens - self.bytes_per_token)

    def match(self, keys: Keys, *, exact: bool) -> Hits | None:
        """Who holds how much of a prompt's beginning."""
        if not len(keys):
            return None
        return (self.blocks if exact else self.chunks).match(keys)

    def wclass(self, model: str, adapter: str | None, headers: Mapping[str, str]) -> WorkloadClass | None:
        """The class of a request: of those whose conditions all hold, the one with the highest priority."""
        for one in self._classes:
            match = one.spec.match
            named = {str(name) for name in match.models}
            if named and model not in named:
                continue
            if match.adapters and adapter not in {str(name) for name in match.adapters}:
                continue
            if all(headers.get(header.name.lower()) == header.value for header in match.headers):
                return one
        return None


def _usual_block(ranks: Iterable[Rank]) -> int:
    counts: dict[int, int] = {}
    for one in ranks:
        if one.block_tokens:
            counts[one.block_tokens] = counts.get(one.block_tokens, 0) + (2 if one.events is not None else 1)
    return max(counts, key=lambda size: (counts[size], -size), default=DEFAULT_BLOCK_TOKENS)
