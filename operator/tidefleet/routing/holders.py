"""A bounded table from block keys to the set of holders of each block, in flat arrays.

A block has one row: its key, and the number of its *holder set*. Sets are Python integers whose bits are holders (the
caller's: an endpoint and tier, for example). Few sets are distinct, so a row costs four bytes whatever the number of
endpoints, a chain of blocks that is held alike is one run, and forgetting a holder edits sets, not rows.

Rows are handed out in order, so that blocks stored together lie together, and a row knows how many follow it and where
the chain goes on after these. A chain is thus found by a look-up of its first block, a walk from piece to piece, and
one comparison of all keys. ``buckets`` leads from key to row.

At capacity, rows that were neither stored nor matched since the hand of a clock passed them leave first.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.buckets import Buckets, Rows
from tidefleet.routing.hashing import Keys

_STRIDE = 8
_STEPS = 96
"""Pieces of a chain that are walked before the rest is looked up all at once."""
_RESTART = 8
"""Pieces that a walk gone wrong counts for."""
_LONGEST = 65_535
"""Rows that a row's length can tell."""
_TOUCHED, _PINNED = 1, 2
_DOWNWARD = np.arange(_LONGEST, 0, -1).astype(np.uint16)
_NO_ROWS: Rows = np.empty(0, np.intp)


class HolderTable:
    """Keys to sets of holders.

    Args:
        capacity: blocks held before any is evicted for room.
        derive: what a set's bits mean to the caller's matching (tiers filled up, groups spread); kept beside the set.

    Attributes:
        live: rows in use; evicted: rows that left for room; refused: blocks not credited since no set was left.
    """

    __slots__ = (
        "_alike",
        "_arena",
        "_dead",
        "_derive",
        "_derived",
        "_free_sets",
        "_hand",
        "_interned",
        "_keys",
        "_length",
        "_lengths",
        "_masks",
        "_most_sets",
        "_onward",
        "_onwards",
        "_refs",
        "_rows",
        "_sets",
        "_table",
        "_touched",
        "_void",
        "capacity",
        "evicted",
        "live",
        "refused",
    )

    def __init__(self, capacity: int, *, derive: Callable[[int], int] = lambda bits: bits) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity} blocks; expected a positive number, e.g. 1000000")
        self.capacity = capacity
        self._rows = capacity + capacity // 15 + 2  # a fifteenth of slack keeps the search for a free row short
        self._keys: Keys = np.zeros(self._rows + _STRIDE, np.uint64)  # row 0 stands for none
        self._arena = memoryview(self._keys.data)
        self._sets = np.zeros(self._rows + _STRIDE, np.uint32)
        self._touched = np.zeros(self._rows + _STRIDE, np.uint8)
        self._length = np.zeros(self._rows + _STRIDE, np.uint16)  # rows from this one on that were stored together
        self._onward = np.zeros(self._rows + _STRIDE, np.uint32)  # after the last of these: a guess
        self._lengths, self._onwards = memoryview(self._length.data), memoryview(self._onward.data)
        self._table = Buckets(self._keys, self._rows)
        self._hand = 1
        self._derive = derive
        self._most_sets = max(4096, capacity // 16)
        self._void = np.zeros(self._most_sets, np.bool_)
        self.evicted = self.refused = 0
        self._masks, self._derived, self._refs = [0], [0], [0]
        self._interned: dict[int, int] = {}
        self._free_sets: list[int] = []
        self._alike = False  # sets may have become alike since the last merge
        self._void[0] = True  # rows of a void set are free, or held by nobody any more
        self.live = self._dead = 0

    @property
    def size_bytes(self) -> int:
        """Memory of the arrays, allotted at once and in use as rows are, and of the sets (about 200 bytes each)."""
        arrays = (self._keys, self._sets, self._touched, self._length, self._onward, self._void)
        bits = sum(mask.bit_length() for mask in self._masks) // 8 * 2
        return sum(array.nbytes for array in arrays) + self._table.size_bytes + 200 * len(self._masks) + bits

    @property
    def sets(self) -> int:
        """Distinct sets of holders in use."""
        return len(self._masks) - len(self._free_sets)

    @property
    def count(self) -> int:
        """Blocks that somebody holds."""
        return self.live - self._dead

    def held(self) -> dict[int, int]:
        """Blocks of each set of holders in use, by the set's bits."""
        found: dict[int, int] = {}
        for mask, blocks in zip(self._masks, self._refs, strict=True):
            if mask and blocks:
                found[mask] = found.get(mask, 0) + blocks
        return found

    # -- changing ------------------------------------------------------------------------------------------------

    def give(self, keys: Keys, add: int, drop: int = 0, *, parent: int = 0) -> None:
        """Blocks gain the holders of ``add`` and lose those of ``drop``; unknown blocks get rows.

        Of more than half the capacity in one call only the leading blocks are kept. ``parent``, the key before the
        first (0 for none), makes the chain quick to match.
        """
        if self._alike and len(self._masks) - len(self._free_sets) > self._most_sets * 7 // 8:
            self._merge()
        keys = keys[: max(1, self.capacity // 2)]
        rows, empty, choices, tags = self._table.places(keys)
        absent = np.flatnonzero(rows == 0)
        if len(absent):
            fresh = keys if len(absent) == len(keys) else keys[absent]
            ordered = np.sort(fresh)
            if not ordered[0] or (ordered[1:] == ordered[:-1]).any():
                once = keys[np.sort(np.unique(keys, return_index=True)[1])]
                once = once[once != 0]
                if len(once):
                    self.give(once, add, drop, parent=parent)
                return
            known = rows[rows != 0] if len(absent) < len(keys) else _NO_ROWS
            if len(known):
                self._touched[known] = _PINNED
            revived = int(np.count_nonzero(self._void[self._sets[known]])) if self._dead else 0
            evicting = self.live - self._dead + revived + len(fresh) > self.capacity
            made = self._allot(len(fresh), evicting=evicting)
            rows[absent] = made
            self._keys[made] = fresh
            if len(known):
                empty, choices, tags = empty[:, absent], choices[:, absent], tags[:, absent]
            self._table.link(fresh, made, empty, choices, tags)
            self._touched[made] = 0
            self.live += len(made)
            self._refs[0] += len(made)
            self._chain_up(rows, absent)
            if len(known):
                self._touched[known] = _TOUCHED
        else:
            self._touched[rows] = _TOUCHED
        if parent:
            before = self._table.row(parent)
            if before:
                self._onward[before] = rows[0]
        self._move(rows, add, drop)

    def _chain_up(self, rows: Rows, fresh: Rows) -> None:
        """Rows of a chain, of which those at ``fresh`` are just made, learn what follows them."""
        first, last = int(rows[0]), int(rows[-1])
        if len(fresh) == len(rows) == last - first + 1 <= _LONGEST:  # rows come in order: all side by side
            self._length[first : last + 1] = _DOWNWARD[_LONGEST - len(rows) :]
            self._onward[last] = 0
            return
        ends = np.flatnonzero(rows[1:] != rows[:-1] + 1)
        if len(ends):
            self._onward[rows[ends]] = rows[ends + 1]
        bounds = np.concatenate((ends, [len(rows) - 1]))
        upto = bounds[np.searchsorted(bounds, fresh)] if len(ends) else len(rows) - 1
        made = rows[fresh]
        self._length[made] = np.minimum(upto - fresh + 1, _LONGEST)
        self._onward[made[fresh == upto]] = 0

    def take(self, keys: Keys, drop: int) -> None:
        """Blocks lose the holders of ``drop``; those without a holder lose their rows."""
        rows, _ = self._table.find(keys)
        self._move(rows[rows != 0], 0, drop)

    def wipe(self, drop: int) -> None:
        """All blocks lose the holders of ``drop``: costs time by sets, not by blocks."""
        changed = [one for one, mask in enumerate(self._masks) if mask & drop]
        self._alike = self._alike or bool(changed)
        for one in changed:
            mask = self._masks[one]
            if self._interned.get(mask) == one:
                del self._interned[mask]
        for one in changed:
            mask = self._masks[one] = self._masks[one] & ~drop
            self._derived[one] = self._derive(mask)
            if not mask:
                self._void[one] = True
                self._dead += self._refs[one]
            else:
                self._interned.setdefault(mask, one)

    def rederive(self) -> None:
        """What sets mean has changed."""
        self._derived = [self._derive(mask) for mask in self._masks]

    # -- reading -------------------------------------------------------------------------------------------------

    def runs(self, keys: Keys) -> tuple[list[int], list[int]]:
        """The leading blocks that have rows, as runs of one holder set.

        Returns:
            End of each run (blocks from the start, exclusive), and what its set was derived to; a set may be empty.
        """
        return self._read(self._walk(keys))

    def presence(self, keys: Keys) -> tuple[list[int], list[int]]:
        """All of the blocks as runs of one holder set, whether they have rows or not: as ``runs``, without its stop."""
        return self._read(self._table.find(keys)[0])

    def _read(self, rows: Rows) -> tuple[list[int], list[int]]:
        """Runs of the sets of rows, which count as used."""
        self._touched[rows] = _TOUCHED
        ends, sets = _runs(self._sets.take(rows))
        derived = self._derived
        return ends, [derived[one] for one in sets]

    def _walk(self, keys: Keys) -> Rows:
        """Rows of the leading blocks that have one: from piece to piece by the first of each, then all compared."""
        keys = np.ascontiguousarray(keys)
        asked = keys.data
        arena, lengths, onwards = self._arena, self._lengths, self._onwards
        blocks, done, last, steps = len(keys), 0, 0, _STEPS
        parts: list[Rows] = []
        while done < blocks:
            if steps <= 0:
                parts.append(self._chain(keys[done:]))
                break
            starts: list[int] = []
            counts: list[int] = []
            reached = done
            while reached < blocks and steps > 0:
                steps -= 1
                key, row = asked[reached], onwards[last] or last + 1
                if arena[row] != key:
                    row = self._table.row(key)
                    if not row:
                        break
                    if last:
                        onwards[last] = row
                count = lengths[row] or 1
                starts.append(row - reached)
                counts.append(count)
                reached += count
                last = row + count - 1
            if reached == done:
                break
            if reached > blocks:
                counts[-1] -= reached - blocks
                reached = blocks
            rows: Rows = np.arange(done, reached)
            rows += starts[0] if len(starts) == 1 else np.repeat(starts, counts)
            same = self._keys.take(rows) == keys[done:reached]
            differs = int(same.argmin())
            if not same[differs]:
                rows = rows[:differs]
                steps -= _RESTART
            elif steps > 0:
                blocks = reached  # the walk ended at a block that is nowhere, or at the end
            parts.append(rows)
            done += len(rows)
            last = int(rows[-1])
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else _NO_ROWS

    def _chain(self, keys: Keys) -> Rows:
        """Rows of the leading blocks that have one. Every eighth is looked up; what follows it is tried in order."""
        heads, _ = self._table.find(keys[::_STRIDE])
        missing = int((heads != 0).argmin())
        if not heads[missing]:
            keys = keys[: missing * _STRIDE]
            heads = heads[:missing]
        if not len(keys):
            return _NO_ROWS
        rows: Rows = (heads[:, None] + np.arange(_STRIDE)).reshape(-1)[: len(keys)]
        wrong = np.flatnonzero(self._keys.take(rows) != keys)
        if len(wrong):
            found, _ = self._table.find(keys[wrong])
            rows[wrong] = found
            lost = int((found != 0).argmin())
            if not found[lost]:
                return rows[: wrong[lost]]
        return rows

    # -- rows ----------------------------------------------------------------------------------------------------

    def _allot(self, count: int, *, evicting: bool) -> Rows:
        """Rows for ``count`` blocks, in order from the hand: those that are free, and if need be those untouched."""
        if not count:
            return _NO_ROWS
        parts: list[Rows] = []
        reach = max(4 * count, 512)
        while count:
            if self._hand >= self._rows:
                self._hand = 1
            window = slice(self._hand, min(self._rows, self._hand + reach))
            reach = min(2 * reach, 1 << 20)
            eligible = self._void.take(self._sets[window])
            touched = self._touched[window]
            if evicting:
                eligible |= touched == 0
            eligible &= touched != _PINNED
            chosen = np.flatnonzero(eligible)[:count]
            passed = int(chosen[-1]) + 1 if len(chosen) == count else len(eligible)
            if evicting:
                swept = touched[:passed]
                swept[swept == _TOUCHED] = 0
            if len(chosen):
                rows = chosen + self._hand
                used = rows[self._keys[rows] != 0]
                if len(used):
                    self.evicted += len(used) - int(np.count_nonzero(self._void[self._sets[used]]))
                    self._vacate(used)
                self._touched[rows] = _PINNED
                self._sets[rows] = 0
                parts.append(rows)
                count -= len(rows)
            self._hand += passed
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _vacate(self, rows: Rows) -> None:
        """Rows lose their sets, keys and table entries."""
        sets, counts = np.unique(self._sets[rows], return_counts=True)
        for one, blocks in zip(sets.tolist(), counts.tolist(), strict=True):
            self._release(one, blocks)
        self._unlink(rows)

    def _unlink(self, rows: Rows) -> None:
        keys = self._keys[rows]
        self._table.unlink(keys)
        self._keys[rows] = 0
        self._sets[rows] = 0
        self.live -= len(rows)

    # -- sets ----------------------------------------------------------------------------------------------------

    def _move(self, rows: Rows, add: int, drop: int) -> None:
        """Rows, all in use, change their sets; a row may come twice."""
        if not len(rows):
            return
        old = self._sets[rows]
        first = int(old[0])
        if (old == first).all():
            self._shift(first, rows, add, drop)
            return
        for one in np.unique(old).tolist():
            self._shift(one, rows[old == one], add, drop)

    def _shift(self, one: int, rows: Rows, add: int, drop: int) -> None:
        mask = self._masks[one]
        wanted = (mask & ~drop) | add
        if wanted == mask and one:
            return
        if len(rows) > 1 and (rows[1:] <= rows[:-1]).any():
            rows = np.unique(rows)
        number = self._number(wanted)
        if number is None:
            self.refused += len(rows)
            number = one if wanted & ~mask and mask else 0
            if number == one and one:
                return
        self._sets[rows] = number
        self._refs[number] += len(rows)
        if self._void[number]:
            self._refs[0] -= len(rows)
            self._unlink(rows)
        self._release(one, len(rows))

    def _merge(self) -> None:
        """Sets with the same holders become one, and the void ones the empty set's rows."""
        self._alike = False
        dead = np.flatnonzero(self._void[self._sets] & (self._sets != 0))
        if len(dead):
            self._vacate(dead)
        lead = np.arange(self._most_sets, dtype=np.uint32)
        for one, mask in enumerate(self._masks):
            first = self._interned.get(mask, one)
            if first != one:
                lead[one] = first
        np.take(lead, self._sets, out=self._sets, mode="clip")
        for one in np.flatnonzero(lead != np.arange(self._most_sets)).tolist():
            blocks, first = self._refs[one], int(lead[one])
            self._refs[first] += blocks
            self._release(one, blocks)

    def _number(self, mask: int) -> int | None:
        """The number of a set; None where no more can be kept."""
        if not mask:
            return 0
        number = self._interned.get(mask)
        if number is not None:
            return number
        if self._free_sets:
            number = self._free_sets.pop()
            self._masks[number], self._derived[number] = mask, self._derive(mask)
        elif len(self._masks) < self._most_sets:
            number = len(self._masks)
            self._masks.append(mask)
            self._derived.append(self._derive(mask))
            self._refs.append(0)
        else:
            return None
        self._interned[mask] = number
        return number

    def _release(self, one: int, blocks: int) -> None:
        """So many rows left a set."""
        self._refs[one] -= blocks
        if not one:
            return
        if self._void[one]:
            self._dead -= blocks
        if not self._refs[one]:
            mask = self._masks[one]
            if self._interned.get(mask) == one:
                del self._interned[mask]
            self._masks[one] = self._derived[one] = 0
            self._void[one] = False
            self._free_sets.append(one)


def _runs(found: NDArray[np.uint32]) -> tuple[list[int], list[int]]:
    """Ends and values of the runs of equal numbers."""
    if not len(found):
        return [], []
    starts = np.flatnonzero(found[1:] != found[:-1]) + 1
    if not len(starts):
        return [len(found)], [int(found[0])]
    return [*starts.tolist(), len(found)], [int(found[0]), *found[starts].tolist()]
