"""An engine's names of its blocks, in flat arrays: which of our keys a name stands for, and where the engine holds it.

A name is 64 bits. Names lie in rows, and a hash table with linear probing leads to them. At the bound, rows of blocks
that the engine holds nowhere are used again first, then the next in order; the caller learns which those were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from tidefleet.routing.hashing import Keys

Rows = NDArray[np.intp]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WORD = (1 << 64) - 1
_FIRST_ROWS = 1024
_GONE = 1
"""Of the table's entries: a name was here; rows start behind it."""


def names_of(hashes: object) -> Keys:
    """Hashes as an engine sends them (integers, bytes or text) as 64-bit names, shape (blocks,).

    Of bytes, as long as cryptographic hashes are, the first eight count.

    Raises:
        ValueError: it is no list, or holds something else.
    """
    if not isinstance(hashes, list | tuple):
        raise ValueError(f"hashes are a {type(hashes).__name__}; expected a list, e.g. [4711, 4712]")
    kinds = set(map(type, hashes))
    if kinds == {int}:
        try:
            return np.array(hashes, np.uint64)
        except OverflowError:  # some are signed
            return np.array([one & _WORD for one in hashes], np.uint64)
    if kinds == {bytes} and {len(one) for one in hashes} == {32}:
        return np.ascontiguousarray(np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 4)[:, 0])
    return np.array([_name(one) for one in hashes], np.uint64)


def _name(one: object) -> int:
    if isinstance(one, int) and not isinstance(one, bool):
        return one & _WORD
    if isinstance(one, str):
        return xxh3_64_intdigest(one.encode("utf-8", "surrogatepass"))
    if isinstance(one, bytes):
        return int.from_bytes(one[:8], "little") if len(one) == 32 else xxh3_64_intdigest(one)
    raise ValueError(f"a block's hash is a {type(one).__name__}; expected an integer, bytes or text, e.g. 4711")


@dataclass(frozen=True, slots=True)
class Entries:
    """Rows of names and what is known of them, arrays of one length.

    Attributes:
        rows: 0 where a name is unknown.
        keys: ours of the block; depths: blocks up to and with it; held: bits of places, the caller's.
    """

    rows: Rows
    keys: Keys
    depths: NDArray[np.uint32]
    held: NDArray[np.uint32]


class NameTable:
    """Names to keys.

    Args:
        most: names kept; the arrays grow up to it, by doubling, to at most 40 bytes for each
            (24 of a row, 8 to 16 of the table).
    """

    __slots__ = ("_depths", "_filled", "_hand", "_held", "_keys", "_most", "_names", "_table", "_used")

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"most is {most} names; expected a positive number, e.g. 1000000")
        self._most = most
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._arrays(min(self._most, _FIRST_ROWS) + 2)
        self._used = 2  # rows 0 and 1 mean something else in the table
        self._hand = 2
        self._rebuild()

    def __len__(self) -> int:
        return self._used - 2

    @property
    def size_bytes(self) -> int:
        """Memory of the arrays."""
        return sum(one.nbytes for one in (self._names, self._keys, self._depths, self._held, self._table))

    def find(self, names: Keys) -> Entries:
        """What is known of names."""
        rows = self._find(names)
        return Entries(rows, self._keys[rows], self._depths[rows], self._held[rows])

    def hold(self, rows: Rows, bits: int) -> None:
        """Blocks are held at more places."""
        self._held[rows] |= np.uint32(bits)

    def give_up(self, rows: Rows, bits: int) -> None:
        """Blocks are held at fewer places."""
        self._held[rows] &= np.uint32(~bits & 0xFFFFFFFF)

    def put(self, names: Keys, keys: Keys, depths: NDArray[np.uint32], bits: int) -> tuple[Entries, Entries]:
        """Names stand for these blocks, which are held at the places of ``bits``.

        Args:
            names: distinct, at most ``most``.

        Returns:
            What some of these names stood for before, and what names stood for that were forgotten for room: each as
            far as it was held. Rows in these are of no use any more.
        """
        rows = self._find(names)
        known, fresh = np.flatnonzero(rows), np.flatnonzero(rows == 0)
        other = rows[known[self._keys[rows[known]] != keys[known]]]
        renamed = self._entries(other[self._held[other] != 0])
        self._held[other] = 0
        crowded = self._entries(other[:0])
        if len(fresh):
            made, crowded = self._allot(len(fresh), rows[known])
            self._names[made] = names[fresh]
            self._held[made] = 0
            rows[fresh] = made
            self._filled += len(made)
            if self._filled * 5 > len(self._table) * 3 or 2 * len(self._names) > len(self._table):
                self._rebuild()
            else:
                self._link(made)
        self._keys[rows], self._depths[rows] = keys, depths
        self._held[rows] |= np.uint32(bits)
        return renamed, crowded

    # -- inside ------------------------------------------------------------------------------------------------------

    def _entries(self, rows: Rows) -> Entries:
        return Entries(rows, self._keys[rows], self._depths[rows], self._held[rows])

    def _arrays(self, rows: int) -> None:
        self._names: Keys = np.zeros(rows, np.uint64)
        self._keys: Keys = np.zeros(rows, np.uint64)
        self._depths = np.zeros(rows, np.uint32)
        self._held = np.zeros(rows, np.uint32)

    def _allot(self, count: int, busy: Rows) -> tuple[Rows, Entries]:
        """Rows for new names, none of ``busy``; and what was forgotten for them although it was held."""
        wanted = self._used + count
        if wanted > len(self._names) and len(self._names) < self._most + 2:
            room = min(self._most + 2, max(2 * len(self._names), wanted))
            kept = (self._names, self._keys, self._depths, self._held)
            self._arrays(room)
            old = len(kept[0])
            self._names[:old], self._keys[:old], self._depths[:old], self._held[:old] = kept
        straight = min(count, len(self._names) - self._used)
        made = np.arange(self._used, self._used + straight)
        self._used += straight
        count -= straight
        if not count:
            return made, self._entries(made[:0])
        free = self._held[: self._used] == 0
        usable = np.ones(self._used, np.bool_)
        free[:2] = usable[:2] = False
        for taken in (made, busy):
            free[taken] = usable[taken] = False
        order = np.concatenate((np.arange(self._hand, self._used), np.arange(2, self._hand)))
        again = order[free[order]][:count]
        if len(again) < count:
            usable[again] = False
            again = np.concatenate((again, order[usable[order]][: count - len(again)]))
        self._hand = int(again[-1]) + 1
        lost = self._entries(again[self._held[again] != 0])
        self._unlink(again)
        return np.concatenate((made, again)), lost

    def _places(self, names: Keys) -> NDArray[np.intp]:
        shift = np.uint64(64 - (len(self._table).bit_length() - 1))
        return ((names * _GOLDEN) >> shift).astype(np.intp)

    def _find(self, names: Keys) -> Rows:
        rows = np.zeros(len(names), np.intp)
        for at, _, row in self._probe(names):
            rows[at] = row
        return rows

    def _probe(self, names: Keys) -> Sequence[tuple[Rows, Rows, Rows]]:
        """Index of names, place and row of those found."""
        found = []
        places, rest = self._places(names), np.arange(len(names))
        last = len(self._table) - 1
        while len(rest):
            rows = self._table[places].astype(np.intp)
            same = (rows > _GONE) & (self._names[rows] == names[rest])
            if same.any():
                found.append((rest[same], places[same], rows[same]))
            on = ~same & (rows != 0)
            places, rest = (places[on] + 1) & last, rest[on]
        return found

    def _unlink(self, rows: Rows) -> None:
        for _, places, _ in self._probe(self._names[rows]):
            self._table[places] = _GONE

    def _link(self, rows: Rows) -> None:
        places, last = self._places(self._names[rows]), len(self._table) - 1
        while len(rows):
            free = self._table[places] == 0
            self._table[places[free]] = rows[free]
            on = self._table[places] != rows
            places, rows = (places[on] + 1) & last, rows[on]

    def _rebuild(self) -> None:
        """A table with at least two places for each name and no traces of gone ones."""
        self._table = np.zeros(1 << max(4, (2 * len(self._names) - 1).bit_length()), np.uint32)
        self._filled = self._used - 2
        self._link(np.arange(2, self._used))
