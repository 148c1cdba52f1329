"""Sessions whose home leaves, by a drain or a flip: each is moved once, ahead of its next turn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidefleet.routing.endpoint import PREFILL
from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.rates import SHARED


@dataclass(frozen=True, slots=True)
class Move:
    """One session's.

    Attributes:
        session: hashed.
        tokens: context that it takes along.
        seconds: what its next turn spends on that at its new home.
        how: ``fetch`` from the shared store, or ``rebuild``.
    """

    session: int
    origin: str
    target: str
    tokens: float
    seconds: float
    how: str

    @property
    def reason(self) -> str:
        """In words."""
        verb = "fetched" if self.how == "fetch" else "prefilled again"
        return (
            f"{self.origin} leaves; {self.tokens:,.0f} tokens are {verb} by {self.target} in {self.seconds:.2f} s, "
            "the least of all endpoints with what they were given already"
        )


def hand_over(table: Endpoints, address: str, now: float) -> list[Move]:
    """Give every session of a leaving endpoint its next home, those used last first.

    A session goes where its KV is fetched (both endpoints use one shared store, and the leaving one's part of it holds
    the session beside those used after it) or prefilled again in the least time,
    counted with the wait there, with what moved there already weighted by P(reuse), and with what it would evict.
    Priced like a pick, by the target's price over the pool's mean.
    """
    origin = table.position(address)
    if origin is None:
        return []
    left = table.endpoint(address)
    facts = [table.endpoint(one) for one in table.addresses]
    fit = table.healthy & np.array([one.role != PREFILL and one.address != address for one in facts])
    if not fit.any():
        return []
    shares = np.array([bool(left.store) and one.store == left.store for one in facts])
    with np.errstate(divide="ignore"):
        per_token = np.where(
            shares & (table.bandwidth[SHARED - 1] > 0.0), table.kappa / table.bandwidth[SHARED - 1], np.inf
        )
    given, nowhere = np.zeros(len(table)), np.full(len(table), np.inf)
    room = table.capacity - table.context - table.resident
    price = table.usd / table.mean_usd if table.mean_usd > 0.0 else np.ones(len(table))
    moves = []
    stored, store_room = 0.0, float(table.tier_tokens[SHARED - 1, origin])
    for session, home in table.sessions.at(address):
        stored += home.tokens
        again = np.maximum(table.floor, home.tokens * (table.p1 + table.p2 * home.tokens / 2.0)) * table.prefill_factor
        fetch = table.latency[SHARED - 1] + home.tokens * per_token if stored <= store_room else nowhere
        takes = np.minimum(again, fetch)
        evicts = np.maximum(home.tokens - np.maximum(room, 0.0), 0.0) * table.evict
        total = np.maximum(table.until - now, 0.0) + given + (takes + evicts) * price
        target = int(np.argmin(np.where(fit, total, np.inf)))
        likely = table.reuse.probability(home.wclass, now - home.at, tool_call=home.tool_call)
        given[target] += likely * float(takes[target])
        room[target] -= home.tokens
        home.planned = table.addresses[target]
        how = "fetch" if fetch[target] < again[target] else "rebuild"
        moves.append(Move(session, address, home.planned, home.tokens, float(takes[target]), how))
    return moves


def stay(table: Endpoints, address: str) -> int:
    """Take back the moves of an endpoint that stays after all; how many sessions stay with it."""
    count = 0
    for home in table.sessions.moved_from(address):
        home.planned = ""
        count += 1
    return count
