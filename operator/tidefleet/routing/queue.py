"""Requests that wait in the router while engines are full: bounded, by priority, by margin, and fair between tenants.

Between priorities the higher one goes first. Within a priority, capacity that is scarce goes to the class with the most
margin per accelerator-second. Within a class tenants take turns by tokens (start-time fair queueing: a tenant's next
request begins, in virtual tokens, where its last one ended or where the class is, whichever is later).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.request import Ask

H = TypeVar("H")

MOST_TENANTS = 4096
"""Tenants of a class whose place is remembered after their last request left."""


@dataclass(frozen=True, slots=True)
class Entry(Generic[H]):
    """A request that waits.

    Attributes:
        handle: the caller's own, e.g. a future.
        since, deadline: ``now`` at which it came, and until which it may wait.
        start: its place between tenants, in virtual tokens.
    """

    ask: Ask
    handle: H
    since: float
    deadline: float
    start: float = 0.0


@dataclass(frozen=True, slots=True)
class Removed(Generic[H]):
    """A request that leaves the queue unserved, with the status and the reason for its client."""

    entry: Entry[H]
    status: int
    reason: str


@dataclass(slots=True)
class _Lane(Generic[H]):
    """One priority and class."""

    margin_rate: float = 0.0
    virtual: float = 0.0
    tokens: float = 0.0
    waiting: dict[int, deque[Entry[H]]] = field(default_factory=dict)
    ends: OrderedDict[int, float] = field(default_factory=OrderedDict)


class Queue(Generic[H]):
    """Bounded by requests and by prompt tokens, all in all and per tenant.

    Args:
        most: requests at a time.
        most_tokens: prompt and expected output tokens at a time.
        tenant_share: share of ``most`` that one tenant may take, 0..1; requests of no tenant may take all of it.
    """

    def __init__(self, *, most: int = 1024, most_tokens: float = 20e6, tenant_share: float = 0.5) -> None:
        self.most = most
        self.most_tokens = most_tokens
        self.most_per_tenant = max(1, int(most * tenant_share))
        self.tokens = 0.0
        self._count = 0
        self._lanes: dict[tuple[int, str], _Lane[H]] = {}
        self._of_tenant: dict[int, int] = {}

    def __len__(self) -> int:
        return self._count

    def offer(self, ask: Ask, handle: H, now: float, deadline: float) -> list[Removed[H]]:
        """Let a request wait; those that leave for it, or itself when it finds no room.

        A full queue lets the newest request of the lowest priority go, if that is lower than the new one's.
        """
        entry = Entry(ask, handle, now, deadline)
        size, tenant = _size(ask), _tenant(ask)
        if ask.tenant is not None and self._of_tenant.get(tenant, 0) >= self.most_per_tenant:
            return [Removed(entry, 429, f"the tenant has {self.most_per_tenant} requests in the queue, its share")]
        if size > self.most_tokens:
            return [Removed(entry, 429, f"{size:.0f} tokens are more than the queue holds ({self.most_tokens:.0f})")]
        gone: list[Removed[H]] = []
        while self._count >= self.most or self.tokens + size > self.most_tokens:
            lowest = min(self._lanes, default=None)
            if lowest is None or lowest[0] >= ask.priority:
                gone.append(
                    Removed(entry, 429, f"the queue is full ({self._count} requests) for priority {ask.priority}")
                )
                return gone
            gone.append(
                Removed(self._pop_newest(lowest), 429, f"priority {ask.priority} needed its place in the queue")
            )
        lane = self._lanes.setdefault((ask.priority, ask.wclass), _Lane())
        lane.margin_rate = margin_rate(ask) if not lane.waiting else 0.9 * lane.margin_rate + 0.1 * margin_rate(ask)
        start = max(lane.virtual, lane.ends.pop(tenant, 0.0))
        lane.ends[tenant] = start + size
        while len(lane.ends) > MOST_TENANTS:
            lane.ends.popitem(last=False)
        lane.waiting.setdefault(tenant, deque()).append(Entry(ask, handle, now, deadline, start))
        self._count += 1
        self.tokens += size
        lane.tokens += size
        self._of_tenant[tenant] = self._of_tenant.get(tenant, 0) + 1
        return gone

    def take(self) -> Entry[H] | None:
        """The request that goes next; ``None`` from an empty queue."""
        if not self._lanes:
            return None
        key = max(self._lanes, key=lambda one: (one[0], self._lanes[one].margin_rate))
        lane = self._lanes[key]
        tenant = min(lane.waiting, key=lambda one: (lane.waiting[one][0].start, lane.waiting[one][0].since))
        entry = lane.waiting[tenant].popleft()
        lane.virtual = max(lane.virtual, entry.start)
        self._left(key, tenant, entry)
        return entry

    def put_back(self, entry: Entry[H]) -> None:
        """Return a request that was just taken to the place it had: nobody could take it after all."""
        key, tenant, size = (entry.ask.priority, entry.ask.wclass), _tenant(entry.ask), _size(entry.ask)
        lane = self._lanes.setdefault(key, _Lane())
        if not lane.waiting:
            lane.margin_rate, lane.virtual = margin_rate(entry.ask), entry.start
        lane.waiting.setdefault(tenant, deque()).appendleft(entry)
        self._count += 1
        self.tokens += size
        lane.tokens += size
        self._of_tenant[tenant] = self._of_tenant.get(tenant, 0) + 1

    def remove(self, entry: Entry[H]) -> bool:
        """Take out a request whose client went away; whether it still waited."""
        key, tenant = (entry.ask.priority, entry.ask.wclass), _tenant(entry.ask)
        lane = self._lanes.get(key)
        if lane is None:
            return False
        for one in lane.waiting.get(tenant, ()):
            if one.handle is entry.handle:
                lane.waiting[tenant].remove(one)
                self._left(key, tenant, one)
                return True
        return False

    def expire(self, now: float) -> list[Removed[H]]:
        """Requests that waited as long as they may."""
        late = [
            (key, tenant, entry)
            for key, lane in self._lanes.items()
            for tenant, entries in lane.waiting.items()
            for entry in entries
            if entry.deadline <= now
        ]
        for key, tenant, entry in late:
            self._lanes[key].waiting[tenant].remove(entry)
            self._left(key, tenant, entry)
        return [
            Removed(one, 429, f"it waited {now - one.since:.1f} s in the queue, as long as its objective allows")
            for _, _, one in late
        ]

    def ahead_seconds(self, priority: int, table: Endpoints, endpoints: int) -> float:
        """Prefill time of what waits at this priority or above, spread over so many endpoints."""
        tokens = sum(lane.tokens for key, lane in self._lanes.items() if key[0] >= priority)
        return tokens * float(table.p1.mean()) / max(1, endpoints) if tokens > 0.0 else 0.0

    def _pop_newest(self, key: tuple[int, str]) -> Entry[H]:
        lane = self._lanes[key]
        tenant = max(lane.waiting, key=lambda one: lane.waiting[one][-1].since)
        entry = lane.waiting[tenant].pop()
        self._left(key, tenant, entry)
        return entry

    def _left(self, key: tuple[int, str], tenant: int, entry: Entry[H]) -> None:
        lane, size = self._lanes[key], _size(entry.ask)
        if not lane.waiting[tenant]:
            del lane.waiting[tenant]
        if not lane.waiting:
            del self._lanes[key]
        self._count -= 1
        lane.tokens -= size
        self.tokens = self.tokens - size if self._count else 0.0
        self._of_tenant[tenant] -= 1
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant]


def margin_rate(ask: Ask) -> float:
    """Margin in USD per second of an endpoint; 0, as of one that earns its cost, for what is not priced."""
    if ask.margin_usd is None or not ask.endpoint_seconds:
        return 0.0
    return ask.margin_usd / ask.endpoint_seconds


def _size(ask: Ask) -> float:
    return ask.tokens + ask.output_tokens


def _tenant(ask: Ask) -> int:
    return -1 if ask.tenant is None else ask.tenant
