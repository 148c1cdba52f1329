"""From a block's key to its row: a hash table in flat arrays, two choices of buckets with eight entries each.

An entry is the low half of the mixed key, which tells strangers apart without a look at their row, and the row. What
finds both of its buckets full lies in a dictionary beside the table.
"""

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.hashing import Keys

Rows = NDArray[np.intp]

_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
_FACTORS = tuple(np.uint64(one) for one in _MULTIPLIERS)
_BOTH = np.array(_MULTIPLIERS, np.uint64)[:, None]
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_WORD = (1 << 64) - 1
_BUCKET = 8


class Buckets:
    """The rows of keys.

    Args:
        keys: of each row, as its owner keeps them; row 0 stands for none.
        rows: that will be in use at most.
    """

    __slots__ = ("_arena", "_buckets", "_entries", "_keys", "_spilled")

    def __init__(self, keys: Keys, rows: int) -> None:
        self._keys, self._arena = keys, memoryview(keys.data)
        self._buckets = max(2, rows // 4)
        self._entries = np.zeros((self._buckets, _BUCKET), np.uint64)  # (low half of the mixed key << 32) | row
        self._spilled: dict[int, int] = {}

    def __len__(self) -> int:
        return int(np.count_nonzero(self._entries)) + len(self._spilled)

    @property
    def size_bytes(self) -> int:
        """Memory of the table."""
        return self._entries.nbytes + 120 * len(self._spilled)

    def row(self, key: int) -> int:
        """The row of one block, or 0."""
        for multiplier in _MULTIPLIERS:
            mixed = key * multiplier & _WORD
            tag = mixed & 0xFFFFFFFF
            for entry in self._entries[(mixed >> 32) * self._buckets >> 32].tolist():
                if entry >> 32 == tag and self._arena[entry & 0xFFFFFFFF] == key and key:
                    return int(entry & 0xFFFFFFFF)
        return self._spilled.get(key, 0)

    def find(self, keys: Keys) -> tuple[Rows, Rows]:
        """Row of each block (0 for none) and the place of its entry in the table (-1 where it has none)."""
        rows = np.zeros(len(keys), np.intp)
        places = np.full(len(keys), -1, np.intp)
        rest, asked = keys, None
        for factor in _FACTORS:
            mixed = rest * factor
            buckets = ((mixed >> _32) * np.uint64(self._buckets) >> _32).astype(np.intp)
            entries = self._entries.take(buckets, axis=0)
            hits = np.flatnonzero((entries >> _32) == (mixed & _LOW)[:, None])
            of = hits >> 3
            led = (entries.reshape(-1)[hits] & _LOW).astype(np.intp)
            right = self._keys.take(led) == rest.take(of)
            right &= led != 0
            if not right.all():
                hits, of, led = hits[right], of[right], led[right]
            if asked is None:
                rows[of] = led
                places[of] = buckets[of] * _BUCKET + (hits & 7)
                if len(of) == len(keys):
                    return rows, places
                asked = np.flatnonzero(rows == 0)
                rest = keys[asked]
            else:
                rows[asked[of]] = led
                places[asked[of]] = buckets[of] * _BUCKET + (hits & 7)
        if self._spilled:
            for one in np.flatnonzero(rows == 0).tolist():
                rows[one] = self._spilled.get(int(keys[one]), 0)
        return rows, places

    def places(self, keys: Keys) -> tuple[Rows, NDArray[np.bool_], NDArray[np.intp], Keys]:
        """Row of each block (0 for none); and for both choices, shape (2, blocks): empty entries, bucket and tag."""
        mixed = keys * _BOTH
        tags = mixed & _LOW
        choices = ((mixed >> _32) * np.uint64(self._buckets) >> _32).astype(np.intp)
        entries = self._entries.take(choices, axis=0)
        rows = np.zeros(len(keys), np.intp)
        hits = np.flatnonzero((entries >> _32) == tags[:, :, None])
        if len(hits):
            of = (hits >> 3) % len(keys)
            led = (entries.reshape(-1)[hits] & _LOW).astype(np.intp)
            right = (self._keys.take(led) == keys.take(of)) & (led != 0)
            rows[of[right]] = led[right]
        if self._spilled:
            for one in np.flatnonzero(rows == 0).tolist():
                rows[one] = self._spilled.get(int(keys[one]), 0)
        return rows, entries == 0, choices, tags

    def link(self, keys: Keys, rows: Rows, empty: NDArray[np.bool_], choices: NDArray[np.intp], tags: Keys) -> None:
        """Table entries for rows: in the first choice while it is half empty, else in the emptier of the two."""
        flat = self._entries.reshape(-1)
        while True:
            room = np.bitwise_count(empty.view(np.uint64)[..., 0])
            if room[0].min() >= _BUCKET // 2:
                chosen = choices[0] * _BUCKET + empty[0].argmax(axis=1)
                entries = (tags[0] << _32) | rows.astype(np.uint64)
                flat[chosen] = entries
                lost = np.flatnonzero(flat[chosen] != entries)
                if not len(lost):
                    return
                keys, rows, choices, tags = keys[lost], rows[lost], choices[:, lost], tags[:, lost]
                empty = self._entries.take(choices, axis=0) == 0
                continue
            second = ((room[0] < _BUCKET // 2) & (room[1] > room[0])).astype(np.intp)
            each = np.arange(len(keys))
            full = room[second, each] == 0
            chosen = choices[second, each] * _BUCKET + empty[second, each].argmax(axis=1)
            entries = (tags[second, each] << _32) | rows.astype(np.uint64)
            if full.any():
                self._spilled.update(zip(keys[full].tolist(), rows[full].tolist(), strict=True))
                flat[chosen[~full]] = entries[~full]
            else:
                flat[chosen] = entries
            lost = np.flatnonzero((flat[chosen] != entries) & ~full)  # another of these took the same place
            if not len(lost):
                return
            keys, rows, choices, tags = keys[lost], rows[lost], choices[:, lost], tags[:, lost]
            empty = self._entries.take(choices, axis=0) == 0

    def unlink(self, keys: Keys) -> None:
        """Keys, all of them here, lead nowhere any more."""
        _, places = self.find(keys)
        if self._spilled:
            for key in keys[places < 0].tolist():
                self._spilled.pop(key, None)
            places = places[places >= 0]
        self._entries.reshape(-1)[places] = 0
