"""The endpoints of one pool: what they are, what they are doing by our own accounting, and which of them may be picked.

Facts and estimates lie in arrays with one row per endpoint, so that a pick is a few array operations. Every request in
flight is accounted for from the pick on; what an endpoint reports about itself corrects that, since other routers send
requests too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tidefleet.routing.columns import Columns, Floats, Mask
from tidefleet.routing.coming import Coming, coming_tokens
from tidefleet.routing.endpoint import AGGREGATED, DECODE, PREFILL, ROLES, Endpoint, Ticket, Work
from tidefleet.routing.health import Health
from tidefleet.routing.homes import DEFAULT_MOST, DEFAULT_TTL_SECONDS, Homes
from tidefleet.routing.learning import from_end, from_first_token, held_share, teaches
from tidefleet.routing.metering import Shares, begin_decode, end_decode
from tidefleet.routing.rates import DEVICE
from tidefleet.routing.request import Ask
from tidefleet.routing.resident import Resident
from tidefleet.routing.reuse import Retention, Reuse, retention
from tidefleet.routing.shed import Promises

__all__ = ["AGGREGATED", "DECODE", "PREFILL", "ROLES", "Endpoint", "Endpoints", "Ticket", "Work"]

STALE_SECONDS = 5.0
"""An observation older than this corrects nothing."""

MOST_MASKS = 256
"""Subsets and adapters whose rows are remembered."""

RATE_SECONDS = 120.0
"""Over which the rate of requests is averaged."""

LOAD_SECONDS = 3600.0
"""Over which load is compared between endpoints: as long as a session is remembered."""

MOST_BUSY = 0.75
"""Utilisation is taken for no higher than this: a queue without end has no mean."""


@dataclass(slots=True)
class _Row:
    """What is kept of an endpoint outside of the arrays."""

    endpoint: Endpoint
    epoch: int
    resident: Resident
    shares: Shares
    health: Health = field(default_factory=Health)


_LIVE = (
    "until",  # when the prefill work that it has is done
    "owed",  # seconds of prefill of requests without a first token
    "pending",  # requests without a first token
    "running",  # requests after it
    "context",  # tokens of KV that requests in flight hold
    "resident",  # tokens of KV kept of past requests
    "evict",  # seconds that one evicted token costs later
    "prefill_factor",  # measured over modelled
    "step_factor",
    "mean_prefill",  # seconds of a usual prompt
    "seen_at",
    "others_waiting",  # of other routers, as observed
    "others_running",
    "seen_pinned",  # tokens that running requests hold, as observed
    "served",  # tokens of people's requests sent there, less what decayed
    "held_share",  # of "context" that the device holds, as observed: what requests share is held once
)


class Endpoints(Columns):
    """The table of one pool. Not thread-safe: one event loop owns it.

    Args:
        pool: name of the pool, as in ``Ask.pool``.
        wake_seconds: how long a request may wait for a pool without endpoints to wake up; ``None`` = it cannot.
        seed: of the rotation that breaks ties, different in every router.
    """

    until: Floats
    owed: Floats
    pending: Floats
    running: Floats
    context: Floats
    resident: Floats
    evict: Floats
    prefill_factor: Floats
    step_factor: Floats
    mean_prefill: Floats
    seen_at: Floats
    others_waiting: Floats
    others_running: Floats
    seen_pinned: Floats
    held_share: Floats
    served: Floats
    ejected: Mask
    healthy: Mask

    def __init__(
        self,
        pool: str,
        *,
        wake_seconds: float | None = None,
        seed: int = 0,
        reuse: Reuse | None = None,
        most_sessions: int = DEFAULT_MOST,
        session_ttl_seconds: float = DEFAULT_TTL_SECONDS,
    ) -> None:
        self.pool = pool
        self.wake_seconds = wake_seconds
        self.turn = seed
        self.reuse = reuse or Reuse()
        self.sessions = Homes(self.reuse, most=most_sessions, ttl_seconds=session_ttl_seconds)
        self.promises = Promises()
        self.paces = Promises()
        self._coming = Coming()
        self._rows: list[_Row] = []
        self._at: dict[str, int] = {}
        self._epochs = 0
        self._counted = 0.0
        self.last_seen = -math.inf
        self._rate = 0.0
        self._usual_seconds = 0.0
        self._anonymous = 0
        self._masks: dict[object, Mask] = {}
        self._eligible: dict[int, tuple[Mask, Mask, tuple[int, ...]]] = {}
        self._live = np.zeros((len(_LIVE), 0))
        self._reload()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, address: str) -> bool:
        return address in self._at

    @property
    def addresses(self) -> tuple[str, ...]:
        """In order of rows."""
        return self._addresses

    def endpoint(self, address: str) -> Endpoint:
        """Its facts.

        Raises:
            KeyError: the pool has no such endpoint.
        """
        return self._rows[self._at[address]].endpoint

    def position(self, address: str) -> int | None:
        """Its row, if the pool has it."""
        return self._at.get(address)

    def is_same(self, address: str, epoch: int) -> bool:
        """Whether the endpoint of a ticket's address and epoch is still the one there."""
        return address in self._at and self._rows[self._at[address]].epoch == epoch

    @property
    def is_split(self) -> bool:
        """Whether some endpoints only prefill."""
        return self._is_split

    # -- which endpoints there are ---------------------------------------------------------------------------------

    def add(self, endpoint: Endpoint) -> None:
        """An endpoint is ready, or its facts changed (what is in flight is kept)."""
        at = self._at.get(endpoint.address)
        if at is not None:
            row = self._rows[at]
            row.endpoint = endpoint
            row.resident.capacity_tokens = row.shares.capacity_tokens = endpoint.kv_capacity_tokens
        else:
            self._epochs += 1
            self._at[endpoint.address] = len(self._rows)
            room = endpoint.kv_capacity_tokens
            self._rows.append(_Row(endpoint, self._epochs, Resident(room), Shares(room)))
            fresh = np.zeros((len(_LIVE), 1))
            fresh[[_LIVE.index(one) for one in ("prefill_factor", "step_factor", "held_share")]] = 1.0
            fresh[_LIVE.index("seen_at")] = -np.inf
            self._live = np.concatenate([self._live, fresh], axis=1)
        self._reload()

    def remove(self, address: str) -> None:
        """An endpoint is gone; tickets that it had end without effect."""
        at = self._at.get(address)
        if at is None:
            return
        del self._rows[at]
        self._live = np.delete(self._live, at, axis=1)
        self._at = {row.endpoint.address: place for place, row in enumerate(self._rows)}
        self._reload()

    # -- which of them may be picked -------------------------------------------------------------------------------

    def serving(self, *roles: str, lora: str | None, subset: frozenset[str] | None) -> Mask:
        """Rows in the subset, of one of the roles, that have the adapter or can load it; whatever their health."""
        key = (roles, lora, subset)
        mask = self._masks.get(key)
        if mask is None:
            if len(self._masks) >= MOST_MASKS:
                self._masks.clear()
            ends = [row.endpoint for row in self._rows]
            mask = np.array([one.role in roles and (subset is None or one.is_in(subset)) for one in ends], bool)
            if lora is not None:
                mask &= np.array([lora in one.loras or one.lora_load_seconds is not None for one in ends], dtype=bool)
            self._masks[key] = mask
        return mask

    def eligible(self, serving: Mask) -> tuple[Mask, tuple[int, ...]] | None:
        """Of a mask that ``serving`` gave, healthy rows; else draining ones; else ejected ones, one of which may be
        back; ``None`` without a row. As a mask and as numbers.
        """
        kept = self._eligible.get(id(serving))
        if kept is None or kept[0] is not serving:
            fits = (self.healthy, ~self.ejected, ~self.draining, np.ones(len(self._rows), bool))
            mask = next((found for fit in fits if (found := serving & fit).any()), None)
            if mask is None:
                return None
            kept = self._eligible[id(serving)] = (serving, mask, tuple(mask.nonzero()[0].tolist()))
            if len(self._eligible) > MOST_MASKS:
                self._eligible.clear()
        return kept[1:]

    def lora_seconds(self, lora: str) -> Floats:
        """Time to load an adapter, by row: 0 where it is loaded."""
        ends = [row.endpoint for row in self._rows]
        return np.array([0.0 if lora in one.loras else one.lora_load_seconds or 0.0 for one in ends])

    def failed(self, address: str, now: float) -> None:
        """A request to it failed by its own fault: it is left out at once, until a probe succeeds."""
        at = self._at.get(address)
        if at is not None:
            self._rows[at].health.failed(now)
            self._eject(at)

    def due_probes(self, now: float) -> tuple[str, ...]:
        """Ejected endpoints to probe now; each is returned once per probe."""
        if not self.ejected.any():
            return ()
        due = [row for row in self._rows if row.health.is_due(now)]
        for row in due:
            row.health.probing(now)
        return tuple(row.endpoint.address for row in due)

    def probed(self, address: str, ok: bool, now: float) -> None:
        """A probe was answered."""
        at = self._at.get(address)
        if at is None:
            return
        if ok:
            self._rows[at].health.succeeded()
            self._eject(at)
        elif self._rows[at].health.ejected:
            self._rows[at].health.failed(now)

    def _eject(self, at: int) -> None:
        self.ejected = self.ejected.copy()  # a pick keeps the one that it saw
        self.ejected[at] = self._rows[at].health.ejected
        self._weigh()

    def _weigh(self) -> None:
        """Who is healthy has changed."""
        self.healthy = ~self.draining & ~self.ejected
        self._fit = int(self.healthy.sum())
        self._eligible.clear()

    # -- what they are doing ---------------------------------------------------------------------------------------

    def begin(self, ask: Ask, address: str, now: float, *, work: Work | None = None, streams: bool = True) -> Ticket:
        """A request goes to an endpoint.

        Args:
            work: what it was expected to be there (``Pick.work_at``); without it, a prompt of which nothing is cached.
            streams: its answer is seen token by token, and not as a whole at its end.

        Raises:
            KeyError: the pool has no such endpoint.
        """
        at = self._at[address]
        if work is None:
            work = Work(self._rows[at].endpoint.rates.prefill_seconds(ask.tokens) * float(self.prefill_factor[at]))
        due = max(float(self.until[at]), now) + work.seconds
        self.until[at] = due
        self.owed[at] += work.seconds
        self.pending[at] += 1.0
        self._came(at, ask, work, now)
        held = ask.tokens + ask.output_tokens / 2.0
        self.context[at] += held
        self.mean_prefill[at] += 0.1 * (work.seconds - float(self.mean_prefill[at]))
        tpot = self._rows[at].endpoint.rates.tpot_seconds(
            float(self.running[at] + self.pending[at]), float(self.context[at])
        )
        row = self._rows[at]
        ticket = Ticket(ask, address, row.epoch, now, work, due, tpot, held, row.endpoint, streams)
        self._coming.begin(ticket)
        if not streams:
            begin_decode(row.shares, ticket, now, others=self._others(at, now))
        if ask.session is not None:
            self.sessions.began(ask.session, now)
        return ticket

    def first_token(self, ticket: Ticket, now: float) -> None:
        """Its first token came: the endpoint answers, and its prefill is done."""
        at = self._row_of(ticket)
        if at is None or ticket.first_at is not None or ticket.ended:
            return
        ticket.first_at = now
        self._coming.end(ticket)
        self._prefilled(at, ticket, now)
        self.running[at] += 1.0
        begin_decode(self._rows[at].shares, ticket, now, others=self._others(at, now))
        if teaches(ticket.ask, self._rate):
            from_first_token(ticket, now, self.prefill_factor, self.step_factor, at=at, shares=self._rows[at].shares)
        if self.ejected[at]:
            self._rows[at].health.succeeded()
            self._eject(at)

    def end(
        self,
        ticket: Ticket,
        now: float,
        *,
        output_tokens: float = 0.0,
        cached_tokens: float | None = None,
        tool_call: bool | None = None,
    ) -> None:
        """It is over, whatever happened; a second call does nothing.

        Args:
            output_tokens: tokens generated; 0 = it failed or was cancelled.
            cached_tokens: cached prompt tokens as the engine reports them; ``None`` = it did not.
            tool_call: whether the answer ends in a tool call; ``None`` = as likely as the request says.
        """
        if ticket.ended:
            return
        ticket.ended = True
        at = self._row_of(ticket)
        if ticket.first_at is None:
            self._coming.end(ticket)
        if at is None:
            return
        if ticket.first_at is None:
            self._prefilled(at, ticket, now)
        else:
            self.running[at] = max(0.0, float(self.running[at]) - 1.0)
        if ticket.entered is not None:
            end_decode(self._rows[at].shares, ticket, now, output_tokens, others=self._others(at, now))
        self.context[at] = max(0.0, float(self.context[at]) - ticket.held_tokens)
        if self.running[at] + self.pending[at] == 0.0:
            self.context[at] = 0.0
        if output_tokens <= 0.0:
            return
        if teaches(ticket.ask, self._rate):
            from_end(ticket, now, output_tokens, self.step_factor, at)
        cached = ticket.work.cached_tokens if cached_tokens is None else cached_tokens
        tool_call = ticket.ask.ends_in_tool_call if tool_call is None else tool_call
        self._remember(at, ticket, now, output_tokens, cached, tool_call=tool_call)

    def retention(self, at: int, ask: Ask, tokens: float, *, tool_call: bool) -> Retention:
        """Where the KV of a session lies best, at the endpoint of a row, until its next turn."""
        endpoint = self._rows[at].endpoint
        return retention(
            endpoint.rates,
            tokens=tokens,
            gap_seconds=self.reuse.expected_gap_seconds(ask.wclass, tool_call=tool_call),
            capacity_tokens=endpoint.kv_capacity_tokens,
            kv_usage=min(1.0, float(self.context[at] + self.resident[at]) / endpoint.kv_capacity_tokens),
            hinted_seconds=ask.cache_ttl_seconds or 0.0,
            tier_tokens=endpoint.tier_tokens,
        )

    def _remember(
        self, at: int, ticket: Ticket, now: float, output_tokens: float, cached_tokens: float, *, tool_call: bool
    ) -> None:
        """The KV of a request that ended stays behind: where its session lives, and what evicting costs."""
        ask, kept = ticket.ask, self._rows[at].resident
        tokens = ask.tokens + output_tokens
        key = ask.session
        if key is None:
            self._anonymous -= 1
            key = self._anonymous
        kept.used(
            key,
            tokens=tokens,
            added=tokens - cached_tokens,
            now=now,
            wclass=ask.wclass,
            tool_call=tool_call,
            hinted_seconds=ask.cache_ttl_seconds or 0.0,
            tier=self.retention(at, ask, tokens, tool_call=True).tier if tool_call else DEVICE,
        )
        kept.shrink(float(self.context[at] * self.held_share[at]))
        self.resident[at] = kept.tokens
        per_token = float(self.p1[at]) + float(self.p2[at]) * tokens / 2.0
        below: list[tuple[float, float]] = []
        if any(self.has_tier):
            kappa, rooms, speeds = float(self.kappa[at]), self.tier_tokens[:, at], self.bandwidth[:, at]
            below = [(room, kappa / speed) for room, speed in zip(rooms.tolist(), speeds.tolist(), strict=True) if room]
        self.evict[at] = kept.loss_of_oldest(self.reuse, now, again_seconds=per_token, below=below)
        if ask.session is not None:
            self.sessions.served(
                ask.session,
                ticket.address,
                tokens=tokens,
                now=now,
                wclass=ask.wclass,
                tool_call=tool_call,
                epoch=ticket.epoch,
            )

    def observe(self, address: str, *, running: float, waiting: float, kv_usage: float, now: float) -> None:
        """What an endpoint reports of itself; what is more than ours is counted as other routers' requests.

        Of ours that had a first token and do not run now, others took the place: they wait again, and hold nothing.

        Args:
            kv_usage: share of its KV room that running requests hold, 0..1.
        """
        at = self._at.get(address)
        if at is None:
            return
        self.seen_at[at] = now
        self.last_seen = max(self.last_seen, now)
        ours, pending = float(self.running[at]), float(self.pending[at])
        given_way = max(0.0, ours - running)
        self.others_running[at] = max(0.0, running - ours)
        self.others_waiting[at] = max(0.0, waiting - pending - given_way)
        seen = self.seen_pinned[at] = min(1.0, max(0.0, kv_usage)) * float(self.capacity[at])
        runs = (ours - given_way) / max(1.0, ours + pending)
        self.held_share[at] = held_share(float(self.held_share[at]), float(seen), runs * float(self.context[at]))

    def _others(self, at: int, now: float) -> float:
        """Requests of other routers that run at the endpoint of a row."""
        return float(self.others_running[at]) if self.seen_at[at] >= now - STALE_SECONDS else 0.0

    def factors(self, address: str) -> tuple[float, float]:
        """Time that prefill and decode steps take over what an endpoint's rates say; 1 and 1 of one that is gone."""
        shares = self._rows[self._at[address]].shares if address in self._at else None
        return (1.0, 1.0) if shares is None else (shares.prefill_factor, shares.factor)

    def in_flight(self, address: str) -> int:
        """Our own requests there."""
        at = self._at[address]
        return int(self.pending[at] + self.running[at])

    def coming(self, ask: Ask, held: Sequence[float]) -> list[tuple[int, float]]:
        """Rows that are about to hold more of a prompt than now (``held`` tokens by row), and how many tokens of it."""
        return coming_tokens(self._coming, ask, held, self._at, self.is_same) if self._coming else []

    def crowd(self, now: float) -> float:
        """Requests that an endpoint waits for in a second, over its idle share: who comes behind a second of work."""
        rate = self._rate * math.exp(-max(0.0, now - self._counted) / RATE_SECONDS) / max(1, self._fit)
        return rate / (1.0 - min(MOST_BUSY, rate * self._usual_seconds))

    def live(self) -> list[list[float]]:
        """What every endpoint is doing, by row, in the order of ``_LIVE``."""
        rows: list[list[float]] = self._live.T.tolist()
        return rows

    def load_shares(self) -> Floats:
        """People's tokens of the last hour by endpoint over their mean, each beside as many as its KV room holds.

        So a pool that served less than it holds has nothing to balance yet, and its sessions stay where they began.
        """
        mean = float(self.served.sum()) / max(1, len(self._rows))
        return (self.served + self.capacity) / (mean + self.capacity)

    def _came(self, at: int, ask: Ask, work: Work, now: float) -> None:
        """Count a request that somebody waits for in the pool's rate and in its endpoint's share of the load.

        Nobody waits behind deferrable ones, and where they go tells where load leaves room, not where it lies.
        """
        passed, self._counted = max(0.0, now - self._counted), max(now, self._counted)
        self._rate *= math.exp(-passed / RATE_SECONDS)
        self.served *= math.exp(-passed / LOAD_SECONDS)
        if ask.is_deferrable:
            return
        self._rate += 1.0 / RATE_SECONDS
        self._usual_seconds += 0.02 * (work.seconds - self._usual_seconds)
        self.served[at] += ask.tokens + ask.output_tokens

    def _prefilled(self, at: int, ticket: Ticket, now: float) -> None:
        """A request's prefill is owed no longer."""
        self.pending[at] = max(0.0, float(self.pending[at]) - 1.0)
        self.owed[at] = max(0.0, float(self.owed[at]) - ticket.work.seconds) if self.pending[at] > 0.0 else 0.0
        self.until[at] = min(float(self.until[at]), now + float(self.owed[at]))

    def _row_of(self, ticket: Ticket) -> int | None:
        """Its endpoint's row, unless that is gone or another one came to its address."""
        return self._at[ticket.address] if self.is_same(ticket.address, ticket.epoch) else None

    def _reload(self) -> None:
        """Arrays of facts from the rows, and views of the live ones by name."""
        ends = [row.endpoint for row in self._rows]
        self._addresses = tuple(one.address for one in ends)
        self._load(ends)
        self.ejected = np.array([row.health.ejected for row in self._rows], dtype=bool)
        for place, name in enumerate(_LIVE):
            setattr(self, name, self._live[place])
        self._is_split = any(one.role == PREFILL for one in ends)
        self._masks.clear()
        self._weigh()
