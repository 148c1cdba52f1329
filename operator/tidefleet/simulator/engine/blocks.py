"""KV blocks of one replica: those in use, those kept for later, and the tiers below.

As in vLLM's block pool: a block that no running request uses any more is kept until its room is needed, in the order
in which blocks became free, the last blocks of a prompt before its first ones. A block that leaves the device goes
down to the first tier that there is, and from a full tier to the next. Prompts of different classes may be cut into
blocks of different sizes; their keys have nothing in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tidefleet.routing.rates import DEVICE, DISK, HOST, SHARED
from tidefleet.simulator.engine.holders import Holders

TIER_NUMBERS = {"host": HOST, "disk": DISK, "shared": SHARED}


@dataclass(slots=True, eq=False)
class Store:
    """Blocks in one tier, the ones used longest ago first.

    Attributes:
        tier: ``HOST``, ``DISK`` or ``SHARED``.
        room: tokens.
        held: tokens of each block by its key; used: all of them.
    """

    tier: int
    room: float
    held: dict[int, int] = field(default_factory=dict)
    used: float = 0.0

    def put(self, blocks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Keep blocks (key, tokens); those that have to leave for them."""
        held = self.held
        for key, size in blocks:
            self.used += size - held.pop(key, 0)
            held[key] = size
        gone = []
        while self.used > self.room:
            key = next(iter(held))
            size = held.pop(key)
            self.used -= size
            gone.append((key, size))
        return gone


@dataclass(frozen=True, slots=True)
class Found:
    """Leading blocks of a prompt that a replica has: on the device, and behind these in each tier in turn."""

    device: int
    tiers: tuple[tuple[int, int], ...] = ()
    """Runs of (tier, blocks) behind those on the device."""


class Blocks:
    """The device's KV room: whole blocks, and tokens that fill no block of a known key.

    Args:
        capacity_tokens: of the device.
        stores: tiers below it, fastest first; the shared one may be other replicas' too.
        index, slot: where it reports what it holds, as engines do to a router's index by KV events; ``None`` = nobody
            listens.
    """

    __slots__ = (
        "_gone",
        "capacity_tokens",
        "evicted_tokens",
        "idle",
        "idle_tokens",
        "index",
        "pinned_tokens",
        "private",
        "slot",
        "stores",
        "users",
    )

    def __init__(
        self,
        capacity_tokens: float,
        *,
        stores: Sequence[Store] = (),
        index: Holders | None = None,
        slot: int = -1,
    ) -> None:
        self.capacity_tokens = capacity_tokens
        self.stores = tuple(stores)
        self.index = index
        self.slot = slot
        self.users: dict[int, int] = {}
        self.idle: dict[int, int] = {}
        self.pinned_tokens = self.idle_tokens = 0
        self.private = 0.0
        self.evicted_tokens = 0.0
        self._gone: list[int] = []

    @property
    def used_tokens(self) -> float:
        """Room that running requests hold."""
        return self.pinned_tokens + self.private

    def found(self, keys: Sequence[int]) -> Found:
        """Leading blocks that are here."""
        held = self.users
        count = len(keys)
        device = next((place for place, key in enumerate(keys) if key not in held), count)
        if device == count or not self.stores:
            return Found(device)
        runs: list[tuple[int, int]] = []
        for place in range(device, count):
            key = keys[place]
            tier = DEVICE if key in held else next((one.tier for one in self.stores if key in one.held), -1)
            if tier < 0:
                break
            if runs and runs[-1][0] == tier:
                runs[-1] = (tier, runs[-1][1] + 1)
            else:
                runs.append((tier, 1))
        return Found(device, tuple(runs))

    def needed(self, keys: Sequence[int], size: int, private: float) -> float:
        """Tokens of room that running requests would hold more with this one."""
        users = self.users.get
        return len([1 for key in keys if not users(key)]) * size + private

    def pin(self, keys: Sequence[int], size: int, private: float) -> None:
        """A request uses these blocks of ``size`` tokens, and so many tokens beside."""
        users, idle = self.users, self.idle
        begun = kept = 0
        for key in keys:
            count = users.get(key)
            if count:
                users[key] = count + 1
                continue
            if count == 0:
                del idle[key]
                kept += 1
            users[key] = 1
            begun += 1
        self.pinned_tokens += begun * size
        self.idle_tokens -= kept * size
        self.private += private
        self.fit()

    def unpin(self, keys: Sequence[int], size: int, private: float) -> None:
        """It uses them no more; they are kept, the last one the first to go."""
        users, idle = self.users, self.idle
        ended = 0
        for key in reversed(keys):
            count = users[key] - 1
            users[key] = count
            if not count:
                idle[key] = size
                ended += 1
        self.pinned_tokens -= ended * size
        self.idle_tokens += ended * size
        self.private -= private
        if not self.pinned_tokens and self.private < 1e-3:
            self.private = 0.0

    def publish(self, keys: Sequence[int], size: int, *, shared: bool = True) -> None:
        """These blocks were computed here: the index learns of those that are still kept, the shared store of all.

        Args:
            shared: whether the shared store gets them.
        """
        if not keys:
            return
        for store in self.stores if shared else ():
            if store.tier == SHARED:
                self._put(store, [(key, size) for key in keys])
        if self.index is not None:
            self.flush()
            kept = [key for key in keys if key in self.users]
            self.index.store(self.slot, kept)

    def keep(self, keys: Sequence[int], size: int, *, shared: bool = True) -> None:
        """Blocks are here without any request, as if one had just ended."""
        users, idle = self.users, self.idle
        fresh = 0
        for key in reversed(keys):
            count = users.get(key)
            if count:
                continue
            if count is None:
                users[key] = 0
                fresh += 1
            else:
                del idle[key]
            idle[key] = size
        self.idle_tokens += fresh * size
        self.fit()
        self.publish(keys, size, shared=shared)

    def share(self, keys: Sequence[int], size: int) -> None:
        """Blocks lie in the shared store, and not here."""
        for store in self.stores:
            if store.tier == SHARED and keys:
                self._put(store, [(key, size) for key in keys])

    def fit(self) -> None:
        """Let go what does not fit beside what is in use."""
        over = self.pinned_tokens + self.idle_tokens + self.private - self.capacity_tokens
        if over <= 0.0:
            return
        gone: list[tuple[int, int]] = []
        freed = 0
        for block in self.idle.items():
            if freed >= over:
                break
            gone.append(block)
            freed += block[1]
        for key, _ in gone:
            del self.idle[key], self.users[key]
        self.idle_tokens -= freed
        self.evicted_tokens += freed
        if self.stores:
            self._down(gone)
        if self.index is not None:
            self._gone.extend([key for key, _ in gone])

    def flush(self) -> None:
        """Tell the index what left."""
        if self._gone and self.index is not None:
            gone = [key for key in self._gone if key not in self.users]
            if gone:
                self.index.remove(self.slot, gone)
        self._gone.clear()

    def clear(self) -> None:
        """All that only this replica held is gone."""
        if self.index is not None:
            self.index.remove(self.slot, [*self.users, *self._gone])
        self.users.clear()
        self.idle.clear()
        self._gone.clear()
        for store in self.stores:
            if store.tier != SHARED:
                if self.index is not None:
                    self.index.remove(self.slot, store.held, tier=store.tier)
                store.held.clear()
                store.used = 0.0
        self.pinned_tokens = self.idle_tokens = 0
        self.private = 0.0

    def _down(self, blocks: list[tuple[int, int]]) -> None:
        for store in self.stores:
            if not blocks or store.tier == SHARED:
                return
            blocks = self._put(store, blocks)

    def _put(self, store: Store, blocks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Blocks go into a tier; those that leave it."""
        gone = store.put(blocks)
        if self.index is not None:
            if blocks:
                self.index.store(self.slot, [key for key, _ in blocks], tier=store.tier)
            if gone:
                self.index.remove(self.slot, [key for key, _ in gone], tier=store.tier)
        return gone
