"""KV events of one engine rank as operations on the prefix index, by keys of our own.

An engine's block hashes depend on a seed of its process, so they only name blocks between its own events: the key of a
block is worked out from its tokens and its parent's key. What else an engine hashes with a block (an adapter, an image,
a client's salt) sets its key apart, and the keys of all blocks behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from tidefleet.routing.hashing import Keys, apart, token_keys
from tidefleet.routing.index import MOST_WINDOWS, STORE, TIERS, PrefixIndex
from tidefleet.routing.names import Entries, NameTable, names_of
from tidefleet.routing.rooms import Store

MEDIA = {"GPU": 0, "CPU": 1, "CPU_PINNED": 1, "HOST": 1, "DISK": 2, "SSD": 2, "NVME": 2, "STORAGE": 3, "SHARED": 3}
"""Tier of a medium, as engines name them; without a name it is the accelerator, and an unknown one the host."""
MOST_BLOCKS = 1_000_000
"""Blocks of one engine whose names are kept: at most 40 MB; beyond it the engine is credited with no more."""
MOST_AT_ONCE = 65_536
"""Blocks of one event; a million tokens in blocks of 16."""
MOST_GROUPS = 64
"""Groups of layers of one engine."""
FULL_KINDS = frozenset({"full_attention", "mla_attention", "sink_full_attention", "unknown"})
WINDOW_KINDS = frozenset({"sliding_window", "sliding_window_mla"})
LEFT_OUT = -1
_NOTHING: Keys = np.empty(0, np.uint64)


class EngineEvents:
    """What one rank has told.

    Args:
        slot: of its endpoint in the index.
        block_tokens: tokens of a block, as the keys of requests have it.
        salt_of: the salt of keys under an adapter's name (None: the base model), as requests have it.
        store: that its endpoint writes through to and reads: what it stores is there too, as far as there is room.
    """

    def __init__(
        self,
        index: PrefixIndex,
        slot: int,
        *,
        block_tokens: int,
        most_blocks: int = MOST_BLOCKS,
        salt_of: Callable[[str | None], int] = lambda adapter: _digest(adapter or ""),
        store: Store | None = None,
    ) -> None:
        self._index, self._slot = index, slot
        self._block_tokens, self._most = block_tokens, most_blocks
        self._salt_of, self._store = salt_of, store
        self._names = NameTable(most_blocks)
        self._groups: dict[int, int] = {}  # number of a group of layers -> blocks of its window, 0, or LEFT_OUT
        self._windows: list[int] = [0]  # of the places that a name's bits mean

    @property
    def size_bytes(self) -> int:
        """Memory of the names."""
        return self._names.size_bytes

    def clear(self) -> None:
        """The rank holds nothing any more; a shared store keeps what it has."""
        self._names.clear()
        self._index.clear(self._slot)
        for window in self._windows[1:]:
            self._index.store(self._slot, _NOTHING, window=window)  # it still reports these layers

    def apply(self, events: Any) -> Counter[str]:
        """Take events in order.

        Returns:
            Faults by kind: ``malformed``; ``orphan``, of no known parent; ``mismatch``, of the block size;
            ``renamed``, blocks whose name stood for other content; ``crowded``, blocks that were forgotten for room.
            An event at fault changes nothing, save for the last two.
        """
        faults: Counter[str] = Counter()
        if not isinstance(events, list | tuple):
            faults["malformed"] += 1
            return faults
        for event in events:
            fields = _fields(event)
            kind = fields.get("type")
            try:
                if kind == "BlockStored":
                    self._stored(fields, faults)
                elif kind == "BlockRemoved":
                    self._removed(fields)
                elif kind == "AllBlocksCleared":
                    self.clear()
                else:
                    faults["malformed"] += 1
            except (TypeError, ValueError, OverflowError, RecursionError):
                faults["malformed"] += 1
        return +faults

    def _stored(self, fields: dict[str, Any], faults: Counter[str]) -> None:
        tokens, parent = fields.get("token_ids"), fields.get("parent_block_hash")
        names = names_of(fields.get("block_hashes"))
        if not isinstance(tokens, list | tuple) or not 0 < len(names) <= MOST_AT_ONCE:
            raise ValueError("BlockStored")
        if not tokens:
            self._copied(names, fields, faults)
            return
        if fields.get("block_size") != self._block_tokens or len(tokens) != len(names) * self._block_tokens:
            faults["mismatch"] += 1
            return
        tier, window = _tier(fields.get("medium")), self._window(fields)
        if window == LEFT_OUT:
            return
        key, depth = 0, 0
        if parent is not None:
            before = self._names.find(names_of([parent]))
            if not before.rows[0]:
                faults["orphan"] += 1
                return
            key, depth = int(before.keys[0]), int(before.depths[0])
        adapter = _adapter(fields)
        keys = token_keys(tokens, self._block_tokens, salt=self._salt_of(adapter), parent=key, start=depth)
        keys = _apart(keys, fields.get("extra_keys"), adapter)
        if len(np.unique(names)) < len(names):
            raise ValueError("a block comes twice")
        kept = slice(self._most)
        depths = np.arange(depth + 1, depth + 1 + len(keys), dtype=np.uint32)
        place = tier + TIERS * self._windows.index(window)
        renamed, crowded = self._names.put(names[kept], keys[kept], depths[kept], 1 << place)
        for fault, gone in (("renamed", renamed), ("crowded", crowded)):
            if len(gone.rows):
                faults[fault] += len(gone.rows)
                self._drop(gone)
        if tier != STORE or self._store is None:
            self._index.store(self._slot, keys[kept], tier=tier, window=window, parent=key)
        if self._store is not None:
            self._store.written(self._slot, keys[kept], window=window, parent=key)

    def _copied(self, names: Keys, fields: dict[str, Any], faults: Counter[str]) -> None:
        """Blocks came to another tier; offloading names them without their tokens."""
        tier, window = _tier(fields.get("medium")), self._window(fields)
        found = self._names.find(names)
        known = np.flatnonzero(found.rows)
        faults["orphan"] += len(known) < len(names)
        if window == LEFT_OUT or not len(known):
            return
        self._names.hold(found.rows[known], 1 << (tier + TIERS * self._windows.index(window)))
        self._index.store(self._slot, found.keys[known], tier=tier, window=window)

    def _removed(self, fields: dict[str, Any]) -> None:
        names, tier, window = names_of(fields.get("block_hashes")), _tier(fields.get("medium")), self._window(fields)
        if window == LEFT_OUT or not len(names):
            return
        bit = 1 << (tier + TIERS * self._windows.index(window))
        found = self._names.find(names)
        held = np.flatnonzero(found.held & np.uint32(bit))
        if tier == STORE:  # another engine may have written it
            held = np.flatnonzero(found.rows)
        if len(held):
            self._names.give_up(found.rows[held], bit)
            self._index.remove(self._slot, found.keys[held], tier=tier, window=window)

    def _drop(self, gone: Entries) -> None:
        """Blocks whose names are forgotten, or mean something else, are not credited: nobody could take them back."""
        for place in range(TIERS * len(self._windows)):
            held = gone.held & np.uint32(1 << place) != 0
            tier, window = place % TIERS, self._windows[place // TIERS]
            if held.any() and not (tier == STORE and self._store is not None):
                self._index.remove(self._slot, gone.keys[held], tier=tier, window=window)

    def _window(self, fields: dict[str, Any]) -> int:
        """Blocks that the layers of an event look back; 0 for all, LEFT_OUT for layers that are not indexed."""
        group = fields.get("group_idx")
        if group is None:
            group = 0
        kind, tokens = fields.get("kv_cache_spec_kind"), fields.get("kv_cache_spec_sliding_window")
        if type(group) is not int or group < 0 or (kind is not None and not isinstance(kind, str)):
            raise ValueError("group_idx")
        if group in self._groups:
            return self._groups[group]
        if kind is None or fields.get("type") != "BlockStored":
            return 0 if group == 0 else LEFT_OUT
        if len(self._groups) >= MOST_GROUPS:
            raise ValueError("group_idx")
        window = 0 if kind in FULL_KINDS else LEFT_OUT
        if kind in WINDOW_KINDS:
            if type(tokens) is not int or tokens < 1:
                raise ValueError("kv_cache_spec_sliding_window")
            window = max(1, -(-(tokens - 1) // self._block_tokens))  # as vLLM's allocator looks for it
            if window not in self._windows:
                if len(self._windows) > MOST_WINDOWS:
                    raise ValueError("kv_cache_spec_sliding_window")
                self._index.store(self._slot, _NOTHING, window=window)  # refused where too many
                self._windows.append(window)
        self._groups[group] = window
        return window


_STORED = (
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
    "kv_cache_spec_sliding_window",
)
_REMOVED = ("block_hashes", "medium", "group_idx")


def _fields(event: Any) -> dict[str, Any]:
    """An event as a map, whether it came as one or as a positional array that begins with its type."""
    if isinstance(event, dict):
        return {name: value for name, value in event.items() if isinstance(name, str)}
    if isinstance(event, list | tuple) and event and isinstance(event[0], str):
        names = {"BlockStored": _STORED, "BlockRemoved": _REMOVED}.get(event[0], ())
        return {"type": event[0], **dict(zip(names, event[1:], strict=False))}
    return {}


def _adapter(fields: dict[str, Any]) -> str | None:
    """The adapter of an event; one that is told by its number only has a name that no request asks for."""
    name, number = fields.get("lora_name"), fields.get("lora_id")
    if isinstance(name, str) and name:
        return name
    if name is not None or (number is not None and type(number) is not int):
        raise ValueError("lora_name")
    return None if number is None else f"\x00{number}"


def _apart(keys: Keys, extra: Any, adapter: str | None) -> Keys:
    """Keys of blocks, set apart from each block on that the engine hashed with more than its tokens and adapter."""
    if extra is None:
        return keys
    if not isinstance(extra, list | tuple) or len(extra) != len(keys):
        raise ValueError("extra_keys")
    rest = [list(one) if one is not None else [] for one in extra]
    for one in rest:
        if one and adapter is not None and one[0] == adapter:
            del one[0]
    return apart(keys, rest)


def _digest(text: str) -> int:
    return xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def _tier(medium: object) -> int:
    if medium is None:
        return 0
    if not isinstance(medium, str):
        raise ValueError("medium")
    return MEDIA.get(medium.upper(), 1)
