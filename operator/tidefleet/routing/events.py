"""KV events of one engine rank as operations on the prefix index, by keys of our own.

An engine's block hashes depend on a seed of its process, so they only name blocks between its own events: the key of a
block is worked out from its tokens and its parent's key.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import numpy as np

from tidefleet.routing.hashing import token_keys
from tidefleet.routing.index import PrefixIndex

MEDIA = {"GPU": 0, "CPU": 1, "CPU_PINNED": 1, "HOST": 1, "DISK": 2, "SSD": 2, "NVME": 2, "STORAGE": 3, "SHARED": 3}
"""Tier of a medium, as engines name them; without a name it is the accelerator."""
MOST_BLOCKS = 1_000_000
"""Blocks of one engine whose names are kept; the oldest ones are forgotten first."""


class EngineEvents:
    """What one rank has told.

    Args:
        slot: of its endpoint in the index.
        block_tokens: tokens of a block, as the keys of requests have it.
    """

    def __init__(self, index: PrefixIndex, slot: int, *, block_tokens: int, most_blocks: int = MOST_BLOCKS) -> None:
        self._index, self._slot = index, slot
        self._block_tokens, self._most = block_tokens, most_blocks
        self._known: OrderedDict[object, tuple[int, int]] = OrderedDict()  # engine's hash -> our key, blocks up to it

    def clear(self) -> None:
        """The rank holds nothing any more."""
        self._known.clear()
        self._index.clear(self._slot)

    def apply(self, events: list[Any]) -> Counter[str]:
        """Take events in order; faults by kind: ``malformed``, ``orphan`` (no parent), ``mismatch`` (block size)."""
        faults: Counter[str] = Counter()
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
            except (TypeError, ValueError, OverflowError):
                faults["malformed"] += 1
        return faults

    def _stored(self, fields: dict[str, Any], faults: Counter[str]) -> None:
        hashes, tokens = fields["block_hashes"], fields["token_ids"]
        if not isinstance(hashes, list) or not isinstance(tokens, list) or not hashes:
            raise ValueError("BlockStored")
        if fields.get("block_size") != self._block_tokens or len(tokens) != len(hashes) * self._block_tokens:
            faults["mismatch"] += 1
            return
        parent = fields.get("parent_block_hash")
        key, depth = 0, 0
        if parent is not None:
            known = self._known.get(_name(parent))
            if known is None:
                faults["orphan"] += 1
                return
            key, depth = known
        keys = token_keys(np.asarray(tokens, np.uint32), self._block_tokens, parent=key, start=depth)
        for at, name in enumerate(hashes):
            self._known[_name(name)] = (int(keys[at]), depth + at + 1)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        self._index.store(self._slot, keys, tier=_tier(fields.get("medium")))

    def _removed(self, fields: dict[str, Any]) -> None:
        names = [_name(one) for one in fields["block_hashes"]]
        keys = [self._known[one][0] for one in names if one in self._known]
        if keys:
            self._index.remove(self._slot, np.asarray(keys, np.uint64), tier=_tier(fields.get("medium")))


_STORED = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name")
_REMOVED = ("block_hashes", "medium")


def _fields(event: Any) -> dict[str, Any]:
    """An event as a map, whether it came as one or as a positional array that begins with its type."""
    if isinstance(event, dict):
        return {str(name): value for name, value in event.items()}
    if isinstance(event, list) and event and isinstance(event[0], str):
        names = {"BlockStored": _STORED, "BlockRemoved": _REMOVED}.get(event[0], ())
        return {"type": event[0], **dict(zip(names, event[1:], strict=False))}
    return {}


def _name(value: object) -> object:
    if isinstance(value, int | bytes | str):
        return value
    raise ValueError("a block's hash")


def _tier(medium: object) -> int:
    return MEDIA.get(medium.upper(), 1) if isinstance(medium, str) else 0
