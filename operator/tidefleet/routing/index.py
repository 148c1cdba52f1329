"""Which endpoints hold the beginning of a prompt, in which tier: exact, contiguous, bounded.

Tiers are ordered by nearness: 0 the accelerator's memory, 1 the host's, 2 disk, 3 a store that several endpoints read.
A hit of n blocks in tier t means that each of the n leading blocks is in tier t or a nearer one.

Engines with sliding-window layers keep, for these, only the last blocks of a sequence. Such blocks are kept apart, and
an endpoint that reports them is credited with n blocks where its full-attention layers hold all n and each of its
windows the last ``window`` of these n (as vLLM's hybrid allocator finds its hits).
"""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.hashing import Keys
from tidefleet.routing.holders import HolderTable

TIERS = 4
ACCELERATOR, HOST, DISK, STORE = range(TIERS)
MOST_STORES = 64
MOST_WINDOWS = 4
_FEW_RUNS = 4
_MOST_FLAGS = 256


@dataclass(slots=True)  # one for every request, where freezing takes thrice the time: not to be changed
class Hits:
    """What endpoints hold of one prompt.

    Attributes:
        blocks: shape (tiers, slots), int32: leading blocks held in this tier or a nearer one; rows never fall.
    """

    blocks: NDArray[np.int32]


@dataclass(slots=True)
class _Window:
    blocks: int
    table: HolderTable
    reporters: int = 0  # bits of slots


class PrefixIndex:
    """Blocks to endpoints and tiers.

    Args:
        capacity_blocks: distinct blocks kept before the least used leave. The arrays take about 27 bytes for each, all
            allotted at once (memory is taken as it is used); ``size_bytes`` tells.
        endpoints: slots that the first hits have; more are added as endpoints are.
    """

    __slots__ = (
        "_free",
        "_groups",
        "_in_store",
        "_in_use",
        "_known_flags",
        "_slots",
        "_store_members",
        "_stores",
        "_table",
        "_tiers",
        "_windows",
    )

    def __init__(self, *, capacity_blocks: int, endpoints: int = 64) -> None:
        if capacity_blocks < 1 or endpoints < 0:
            raise ValueError(
                f"PrefixIndex: capacity_blocks {capacity_blocks}, endpoints {endpoints}; expected e.g. 1000000 and 64"
            )
        self._table = HolderTable(capacity_blocks, derive=self._derived)
        self._slots = endpoints
        self._free: list[int] = list(range(endpoints - 1, -1, -1))
        self._in_use: set[int] = set()
        self._stores: dict[Hashable, int] = {}
        self._in_store: dict[int, int] = {}
        self._store_members = [0] * MOST_STORES
        self._tiers = 1
        self._windows: dict[int, _Window] = {}
        self._known_flags: dict[int, NDArray[np.bool_]] = {}

    # -- endpoints -----------------------------------------------------------------------------------------------

    def add_endpoint(self, *, store: Hashable | None = None) -> int:
        """A slot for an endpoint; ``store`` names the shared store that it reads, if any.

        Raises:
            ValueError: it would be the 65th shared store.
        """
        number = None
        if store is not None:
            number = self._stores.get(store)
            if number is None:
                free = set(range(MOST_STORES)) - set(self._stores.values())
                if not free:
                    raise ValueError(f"store {store!r} would be one of more than {MOST_STORES}; expected at most these")
                number = self._stores[store] = min(free)
        if not self._free:
            more = max(64, self._slots)
            self._free.extend(range(self._slots + more - 1, self._slots - 1, -1))
            self._slots += more
        slot = self._free.pop()
        self._in_use.add(slot)
        if number is not None:
            self._in_store[slot] = number
            self._store_members[number] |= 1 << (TIERS * slot + STORE)
            self._rederive()
        return slot

    def drop_endpoint(self, slot: int) -> None:
        """The endpoint is gone, and what it holds; a shared store keeps its blocks."""
        self.clear(slot)
        self._in_use.remove(slot)
        self._free.append(slot)
        number = self._in_store.pop(slot, None)
        if number is not None:
            self._store_members[number] &= ~(1 << (TIERS * slot + STORE))
            self._rederive()

    def drop_store(self, store: Hashable) -> None:
        """A shared store has lost its content; endpoints go on reading it."""
        number = self._stores.get(store)
        if number is None:
            return
        self._wipe(1 << number)
        if number not in self._in_store.values():
            del self._stores[store]

    def clear(self, slot: int) -> None:
        """An endpoint holds nothing any more, in no tier of its own.

        Raises:
            KeyError: no endpoint has this slot.
        """
        self._own(slot)
        self._wipe(0b1111 << (MOST_STORES + TIERS * slot))
        for window in self._windows.values():
            window.reporters &= ~(1 << slot)

    # -- blocks --------------------------------------------------------------------------------------------------

    def store(self, slot: int, keys: Keys, *, tier: int = 0, window: int = 0, parent: int = 0) -> None:
        """An endpoint holds these blocks; with tier 3, so do all that read its shared store.

        Args:
            slot: of the endpoint.
            keys: shape (blocks,), in any order; leading blocks are kept first where not all fit.
            tier: from 0 to 3.
            window: 0 for full attention; else blocks that the layers which these belong to look back.
            parent: key of the block before the first, where it is known: hits do not depend on it, their speed does.

        Raises:
            KeyError: no endpoint has this slot.
            ValueError: the tier is out of range.
        """
        bit = self._bit(slot, tier)
        table = self._table
        if window:
            group = self._window(window)
            group.reporters |= 1 << slot
            table = group.table
        if tier >= self._tiers:
            self._tiers = tier + 1
            self._rederive()
        if len(keys):
            table.give(keys, bit, parent=parent)

    def remove(self, slot: int, keys: Keys, *, tier: int = 0, window: int = 0) -> None:
        """An endpoint holds these blocks no more in this tier; blocks that it did not hold are no error."""
        bit = self._bit(slot, tier)
        table = self._window(window).table if window else self._table
        if len(keys):
            table.take(keys, bit)

    def match(self, keys: Keys) -> Hits:
        """What each endpoint holds of a prompt."""
        found = self._depths(*self._table.runs(keys)) if len(keys) else self._nothing()
        for window in self._windows.values():
            if window.reporters and found.any():
                self._within(window, keys[: int(found.max())], found)
        return Hits(found)

    # -- size ----------------------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """Columns of hits."""
        return self._slots

    @property
    def blocks(self) -> int:
        """Distinct blocks that somebody holds, of all kinds of layers."""
        return self._table.count + sum(window.table.count for window in self._windows.values())

    @property
    def evicted(self) -> int:
        """Blocks that left for room since the start."""
        return self._table.evicted + sum(window.table.evicted for window in self._windows.values())

    @property
    def refused(self) -> int:
        """Blocks not credited since the start, since too many different sets of endpoints would hold some."""
        return self._table.refused + sum(window.table.refused for window in self._windows.values())

    @property
    def size_bytes(self) -> int:
        """Memory allotted."""
        return self._table.size_bytes + sum(window.table.size_bytes for window in self._windows.values())

    def held(self, slot: int, *, tier: int = 0) -> int:
        """Blocks of full attention that an endpoint itself holds in a tier (tier 3: its shared store does)."""
        bit = self._bit(slot, tier)
        return sum(blocks for mask, blocks in self._table.held().items() if mask & bit)

    # -- inside --------------------------------------------------------------------------------------------------

    def _own(self, slot: int) -> None:
        if slot not in self._in_use:
            raise KeyError(f"slot {slot} has no endpoint; expected a number that add_endpoint gave")

    def _bit(self, slot: int, tier: int) -> int:
        """Bit of a holder: shared stores first, then four for each slot."""
        self._own(slot)
        if not 0 <= tier < TIERS:
            raise ValueError(f"tier is {tier}; expected 0 (accelerator), 1 (host), 2 (disk) or 3 (shared store)")
        if tier == STORE and slot in self._in_store:
            return 1 << self._in_store[slot]
        return 1 << (MOST_STORES + TIERS * slot + tier)

    def _derived(self, mask: int) -> int:
        """Bit tier + 4 * slot (with one tier in use: bit slot * 4) of who reads it in this tier or a nearer one."""
        bits = mask >> MOST_STORES
        if self._tiers == 1 or not mask:
            return bits
        shared = mask & ((1 << MOST_STORES) - 1)
        while shared:
            low = shared & -shared
            bits |= self._store_members[low.bit_length() - 1]
            shared ^= low
        every = (1 << (TIERS * self._slots)) - 1
        not_first = every // 0b1111 * 0b1110
        for _ in range(self._tiers - 1):
            bits |= (bits << 1) & not_first
        return bits

    def _rederive(self) -> None:
        self._table.rederive()
        for window in self._windows.values():
            window.table.rederive()

    def _wipe(self, bits: int) -> None:
        self._table.wipe(bits)
        for window in self._windows.values():
            window.table.wipe(bits)

    def _window(self, blocks: int) -> _Window:
        if blocks not in self._windows:
            if blocks < 1 or len(self._windows) == MOST_WINDOWS:
                raise ValueError(f"window of {blocks} blocks; expected one of at most {MOST_WINDOWS} positive lengths")
            self._windows[blocks] = _Window(blocks, HolderTable(self._table.capacity, derive=self._derived))
        return self._windows[blocks]

    def _nothing(self) -> NDArray[np.int32]:
        return np.zeros((TIERS, self._slots), np.int32)

    def _flags(self, bits: int) -> NDArray[np.bool_]:
        """Shape (4 * slots,); not to be changed, since sets recur and theirs are kept."""
        known = self._known_flags.get(bits)
        if known is None or len(known) != self._slots * TIERS:
            raw = np.frombuffer(bits.to_bytes(self._slots * TIERS // 8 + 1, "little"), np.uint8)
            known = np.unpackbits(raw, count=self._slots * TIERS, bitorder="little").view(np.bool_)
            if len(self._known_flags) >= _MOST_FLAGS:
                self._known_flags.clear()
            self._known_flags[bits] = known
        return known

    def _by_tier(self, flat: NDArray[np.int32]) -> NDArray[np.int32]:
        """From (4 * slots,) to (tiers, slots), tiers that nobody uses filled up with the one before."""
        by_slot = flat.reshape(self._slots, TIERS).T
        found = np.empty((TIERS, self._slots), np.int32)
        found[: self._tiers] = by_slot[: self._tiers]
        found[self._tiers :] = by_slot[self._tiers - 1]
        return found

    def _depths(self, ends: list[int], sets: list[int]) -> NDArray[np.int32]:
        """Leading blocks by tier and slot, of runs that start at the first block."""
        flat = np.zeros(TIERS * self._slots, np.int32)
        still, reached = -1, 0
        lost: list[tuple[int, int]] = []  # who is left, up to which block
        for end, bits in zip(ends, sets, strict=True):
            kept = bits & still
            if kept != still:
                if reached:
                    lost.append((still, reached))
                still = kept
                if not kept:
                    break
            reached = end
        if still > 0:
            lost.append((still, reached))
        if len(lost) <= _FEW_RUNS:
            for bits, reached in lost:
                if bits & (bits - 1):
                    flat[self._flags(bits)] = reached
                else:
                    flat[bits.bit_length() - 1] = reached
        else:
            width = self._slots * TIERS // 8 + 1
            raw = np.frombuffer(b"".join([bits.to_bytes(width, "little") for bits, _ in lost]), np.uint8)
            held = np.unpackbits(raw.reshape(len(lost), width), axis=1, count=len(flat), bitorder="little")
            upto = np.array([0, *[one for _, one in lost]], np.int32)
            sets = np.add.reduce(
                held, axis=0, dtype=np.uint8 if len(lost) < 256 else np.intp
            )  # they shrink, each in the one before
            flat = upto.take(sets)
        return self._by_tier(flat)

    def _within(self, window: _Window, keys: Keys, found: NDArray[np.int32]) -> None:
        """Lower hits to the longest beginning whose last blocks the window's layers hold."""
        flat = found.T.reshape(-1).copy()
        best = np.zeros_like(flat)
        since = np.zeros_like(flat)  # start of the blocks held without a gap up to here
        start = 0
        for end, bits in zip(*window.table.presence(keys), strict=True):
            held = self._flags(bits)
            since[~held] = end
            upto = np.minimum(flat, end)
            good = held & (upto > start) & ((upto - since >= window.blocks) | (since == 0))
            best[good] = upto[good]
            start = end
        reports = np.repeat([bool(window.reporters >> slot & 1) for slot in range(self._slots)], TIERS)
        flat[reports] = best[reports]
        found[:] = self._by_tier(flat)
