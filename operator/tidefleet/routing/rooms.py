"""What lies in tiers below the device, as far as they have room: what was written last stays, the oldest leaves.

A tier that engines write through to holds more than they tell of it. Its blocks are credited as the tier itself would
keep them, by their last use; what is kept of each is its key in a batch of such, 8 bytes.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from tidefleet.routing.hashing import Keys
from tidefleet.routing.index import STORE, PrefixIndex

BATCHES = 8
"""A tier's room is used up and freed in so many parts."""

_NOTHING: Keys = np.empty(0, np.uint64)


class Room:
    """Keys by their last use, to within a part of the room."""

    __slots__ = ("_batches", "_count", "_open", "_open_count")

    def __init__(self) -> None:
        self._batches: deque[Keys] = deque()
        self._count = 0
        self._open: list[Keys] = []
        self._open_count = 0

    def used(self, keys: Keys, room: int) -> Keys:
        """Keys were written or read; those that leave for them.

        Args:
            keys: shape (blocks,), at most ``room`` of them.
            room: blocks that the tier holds, above 0.
        """
        if self._open_count + len(keys) > max(1, room // BATCHES):
            self._close()
        self._open.append(keys)
        self._open_count += len(keys)
        gone = []
        while self._batches and self._count + self._open_count > room:
            oldest = self._batches.popleft()
            self._count -= len(oldest)
            gone.append(oldest)
        if not gone:
            return _NOTHING
        left = np.unique(np.concatenate(gone))
        return left[~np.isin(left, np.concatenate([*self._batches, *self._open]))]

    def clear(self) -> None:
        """The tier holds nothing any more."""
        self._batches.clear()
        self._open.clear()
        self._count = self._open_count = 0

    def _close(self) -> None:
        if self._open:
            self._batches.append(np.unique(np.concatenate(self._open)))
            self._count += len(self._batches[-1])
            self._open.clear()
            self._open_count = 0


class Store:
    """A shared store that endpoints write through to and read.

    Attributes:
        room: blocks that it holds; ``None`` = more than the index.
    """

    __slots__ = ("_index", "_kept", "_windows", "room")

    def __init__(self, index: PrefixIndex, *, room: int | None = None) -> None:
        self._index = index
        self._kept = Room()
        self._windows: set[int] = {0}
        self.room = room

    def written(self, slot: int, keys: Keys, *, window: int = 0, parent: int = 0) -> None:
        """An endpoint stored blocks: all that read the store can fetch them; of too many, it has the leading ones.

        Args:
            slot, keys, window, parent: as ``PrefixIndex.store`` takes them.
        """
        if self.room is not None:
            keys = keys[: self.room]
        self._index.store(slot, keys, tier=STORE, window=window, parent=parent)
        self._windows.add(window)
        if self.room is None or not len(keys):
            return
        gone = self._kept.used(keys, self.room)
        if len(gone):
            for one in self._windows:
                self._index.remove(slot, gone, tier=STORE, window=one)

    def clear(self) -> None:
        """Nobody reads it any more; the index is told by its owner."""
        self._kept.clear()
