"""What endpoints likely hold, learned from our own placements: for engines that publish no KV events.

An engine keeps what it served last, as far as its KV room goes, and gives up the tail of a prompt before its head. The
same is done here: each endpoint's chunks in the order of their last use, the oldest forgotten beyond its room.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice

import numpy as np

from tidefleet.routing.hashing import Keys
from tidefleet.routing.index import DISK, HOST, PrefixIndex
from tidefleet.routing.rooms import Room, Store


class Placements:
    """Feeds a prefix index with what was sent where.

    Args:
        index: of chunks of text; endpoints are its slots.
        store: that endpoints write through to; ``None`` = there is none.
    """

    def __init__(self, index: PrefixIndex, store: Store | None = None) -> None:
        self._index, self._store = index, store
        self._held: dict[int, OrderedDict[int, None]] = {}
        self._below: dict[tuple[int, int], Room] = {}

    def placed(
        self,
        slot: int,
        keys: Keys,
        *,
        room: int,
        below: tuple[int, int] = (0, 0),
        write_through: bool = False,
        known: int = 0,
    ) -> None:
        """An endpoint served a prompt.

        Args:
            slot: of the endpoint in the index.
            keys: of the prompt's chunks, shape (chunks,).
            room: chunks that the endpoint's KV room holds; a longer prompt leaves its head.
            below: chunks that its host and its disk tier hold, which have all that it serves; 0 = there is none.
            write_through: the prompt is also in the shared store, as far as that has room.
            known: chunks, the first ones, that the index had there when the endpoint was picked.

        Raises:
            KeyError: the index has no endpoint with this slot.
        """
        if write_through and self._store is not None:
            self._store.written(slot, keys)
        for tier, holds in zip((HOST, DISK), below, strict=True):
            if holds > 0 and len(keys):
                self._index.store(slot, keys[:holds], tier=tier)
                left = self._below.setdefault((slot, tier), Room()).used(keys[:holds], holds)
                if len(left):
                    self._index.remove(slot, left, tier=tier)
        if room < 1 or not len(keys):
            return
        kept = keys[:room]
        if known < len(kept):
            self._index.store(slot, kept[known:], parent=int(kept[known - 1]) if known else 0)
        held = self._held.setdefault(slot, OrderedDict())
        for key in reversed(kept.tolist()):  # the head is the last to go
            held[key] = None
            held.move_to_end(key)
        excess = len(held) - room
        if excess > 0:
            gone = list(islice(held, excess))
            for key in gone:
                del held[key]
            self._index.remove(slot, np.asarray(gone, np.uint64))

    def forget(self, slot: int) -> None:
        """An endpoint is gone, or holds nothing any more; the index is told by its owner."""
        self._held.pop(slot, None)
        for tier in (HOST, DISK):
            self._below.pop((slot, tier), None)

    def held(self, slot: int) -> int:
        """Chunks that an endpoint is thought to hold."""
        return len(self._held.get(slot, ()))
