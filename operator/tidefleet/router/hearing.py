"""Which engines' KV events are followed, and what of them reaches the index."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import zmq.asyncio

from tidefleet.router.pool_state import PoolState
from tidefleet.router.subscribing import Source, Subscription
from tidefleet.routing.events import EngineEvents

log = logging.getLogger(__name__)


class Ear:
    """Takes the events of one rank into the index of its pool; see ``subscribing.Heard``."""

    def __init__(self, state: PoolState, address: str, slot: int) -> None:
        self._state, self._address = state, address
        self.block_tokens, self.write_through = state.block_tokens, state.shares_store
        self._events = EngineEvents(
            state.blocks,
            slot,
            block_tokens=self.block_tokens,
            salt_of=state.salt,
            store=state.block_store if self.write_through else None,
        )

    def fits(self, state: PoolState) -> bool:
        """Whether the pool still has its blocks as this was told."""
        return (self.block_tokens, self.write_through) == (state.block_tokens, state.shares_store)

    def batch(self, events: list[Any], rank: int | None) -> None:
        """Take events, in order."""
        del rank  # each rank has a socket of its own
        self._state.messages += 1
        self._state.faults.update(self._events.apply(events))

    def lost(self, why: str) -> None:
        """Forget what the endpoint holds."""
        log.info("%s: %s: what it holds is forgotten: %s", self._state.served.key, self._address, why)
        self._state.faults["lost"] += 1
        self._events.clear()

    def malformed(self, why: str) -> None:
        """Count it; the log says it once in a while."""
        if not self._state.faults["malformed"]:
            log.warning("%s: %s: a KV event message cannot be read: %s", self._state.served.key, self._address, why)
        self._state.faults["malformed"] += 1


class Hearing:
    """The subscriptions of one process."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._context = zmq.asyncio.Context()
        self._now = now
        self._followed: dict[tuple[str, str], tuple[Source, int, Ear, Subscription]] = {}

    async def follow(self, pools: Iterable[PoolState]) -> None:
        """Subscribe to every endpoint that publishes, and to no other."""
        wanted = {
            (state.served.key, address): (rank.events, state.slot(address), state)
            for state in pools
            for address, rank in state.ranks.items()
            if rank.events is not None
        }
        for key, (source, slot, ear, subscription) in list(self._followed.items()):
            still = wanted.get(key)
            if still is None or still[:2] != (source, slot) or not ear.fits(still[2]):
                await subscription.close()
                del self._followed[key]
        for key, (where, number, state) in wanted.items():
            if key in self._followed or where is None or number is None:
                continue
            ear = Ear(state, key[1], number)
            subscription = Subscription(where, ear, context=self._context, now=self._now)
            self._followed[key] = (where, number, ear, subscription)
            subscription.start()

    async def close(self) -> None:
        """End all subscriptions."""
        for *_, subscription in self._followed.values():
            await subscription.close()
        self._followed.clear()
        self._context.destroy(linger=0)
