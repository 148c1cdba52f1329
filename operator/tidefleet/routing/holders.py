"""A bounded table from block keys to the set of holders of each block, in flat arrays.

A block has one row: its key, and the number of its *holder set*. Sets are Python integers whose bits are holders (the
caller's: an endpoint and tier, for example). Few sets are distinct, so a row costs four bytes whatever the number of
endpoints, a chain of blocks that is held alike is one run, and forgetting a holder edits sets, not rows.

Rows are handed out in order, so that blocks stored together lie together: a chain is found by a look-up of its first
block and a comparison of what follows. A bucketed hash table (two choices of eight entries) leads from key to row.

At capacity, rows that were neither stored nor matched since the hand of a clock passed them leave first.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.hashing import Keys

Rows = NDArray[np.intp]

_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
_FACTORS = tuple(np.uint64(one) for one in _MULTIPLIERS)
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_WORD = (1 << 64) - 1
_BUCKET = 8
_STRIDE = 8
_STEPS = 4
"""Runs that are looked up one by one before the rest of a chain is looked up all at once."""
_TOUCHED, _PINNED = 1, 2
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
        "_buckets",
        "_dead",
        "_derive",
        "_derived",
        "_free_sets",
        "_hand",
        "_interned",
        "_keys",
        "_masks",
        "_most_sets",
        "_refs",
        "_rows",
        "_sets",
        "_spilled",
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
        self._buckets = max(2, self._rows // 4)
        self._table = np.zeros((self._buckets, _BUCKET), np.uint64)  # (low half of the mixed key << 32) | row
        self._spilled: dict[int, int] = {}
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
        arrays = (self._keys, self._sets, self._touched, self._table, self._void)
        spilled = 120 * len(self._spilled)
        bits = sum(mask.bit_length() for mask in self._masks) // 8 * 2
        return sum(array.nbytes for array in arrays) + spilled + 200 * len(self._masks) + bits

    @property
    def sets(self) -> int:
        """Distinct sets of holders in use."""
        return len(self._masks) - len(self._free_sets)

    def held(self) -> dict[int, int]:
        """Blocks of each set of holders in use, by the set's bits."""
        found: dict[int, int] = {}
        for mask, blocks in zip(self._masks, self._refs, strict=True):
            if mask and blocks:
                found[mask] = found.get(mask, 0) + blocks
        return found

    # -- changing ------------------------------------------------------------------------------------------------

    def give(self, keys: Keys, add: int, drop: int = 0) -> None:
        """Blocks gain the holders of ``add`` and lose those of ``drop``; unknown blocks get rows.

        Of more than half the capacity in one call only the leading blocks are kept.
        """
        if self._alike and len(self._masks) - len(self._free_sets) > self._most_sets * 7 // 8:
            self._merge()
        keys = keys[: max(1, self.capacity // 2)]
        rows, _ = self._find(keys)
        absent = np.flatnonzero(rows == 0)
        if not len(absent):
            self._touched[rows] = _TOUCHED
            self._move(rows, add, drop)
            return
        fresh = keys[absent]
        ordered = np.sort(fresh)
        if not ordered[0] or (ordered[1:] == ordered[:-1]).any():
            fresh = fresh[np.sort(np.unique(fresh, return_index=True)[1])]
            fresh = fresh[fresh != 0]
        known = rows[rows != 0]
        self._touched[known] = _PINNED
        revived = int(np.count_nonzero(self._void[self._sets[known]])) if self._dead else 0
        evicting = self.live - self._dead + revived + len(fresh) > self.capacity
        made = self._allot(len(fresh), evicting=evicting)
        self._keys[made] = fresh
        self._link(fresh, made)
        self._touched[known] = _TOUCHED
        self._touched[made] = 0
        self.live += len(made)
        self._refs[0] += len(made)
        self._move(np.concatenate((known, made)) if len(known) else made, add, drop)

    def take(self, keys: Keys, drop: int) -> None:
        """Blocks lose the holders of ``drop``; those without a holder lose their rows."""
        rows, _ = self._find(keys)
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
        ends: list[int] = []
        sets: list[int] = []
        done, blocks = 0, len(keys)
        for _ in range(_STEPS):
            if done == blocks:
                break
            row = self._row(int(keys[done]))
            if not row:
                return self._derived_runs(ends, sets)
            length = min(blocks - done, self._rows + _STRIDE - row)
            same = self._keys[row : row + length] == keys[done : done + length]
            differs = int(same.argmin())
            if not same[differs]:
                length = differs
            self._touched[row : row + length] = _TOUCHED
            _append_runs(self._sets[row : row + length], done, ends, sets)
            done += length
        if done < blocks:
            rows = self._chain(keys[done:])
            self._touched[rows] = _TOUCHED
            if len(rows):
                _append_runs(self._sets[rows], done, ends, sets)
        return self._derived_runs(ends, sets)

    def presence(self, keys: Keys) -> tuple[list[int], list[int]]:
        """All of the blocks as runs of one holder set, whether they have rows or not: as ``runs``, without its stop."""
        ends: list[int] = []
        sets: list[int] = []
        if len(keys):
            rows, _ = self._find(keys)
            self._touched[rows] = _TOUCHED
            _append_runs(self._sets[rows], 0, ends, sets)
        return self._derived_runs(ends, sets)

    def _derived_runs(self, ends: list[int], sets: list[int]) -> tuple[list[int], list[int]]:
        derived = self._derived
        return ends, [derived[one] for one in sets]

    def _chain(self, keys: Keys) -> Rows:
        """Rows of the leading blocks that have one. Every eighth is looked up; what follows it is tried in order."""
        heads, _ = self._find(keys[::_STRIDE])
        missing = int((heads != 0).argmin())
        if not heads[missing]:
            keys = keys[: missing * _STRIDE]
            heads = heads[:missing]
        if not len(keys):
            return _NO_ROWS
        rows: Rows = (heads[:, None] + np.arange(_STRIDE)).reshape(-1)[: len(keys)]
        wrong = np.flatnonzero(self._keys.take(rows) != keys)
        if len(wrong):
            found, _ = self._find(keys[wrong])
            rows[wrong] = found
            lost = int((found != 0).argmin())
            if not found[lost]:
                return rows[: wrong[lost]]
        return rows

    def _row(self, key: int) -> int:
        """The row of one block, or 0."""
        for multiplier in _MULTIPLIERS:
            mixed = key * multiplier & _WORD
            tag = mixed & 0xFFFFFFFF
            for entry in self._table[(mixed >> 32) * self._buckets >> 32].tolist():
                if entry >> 32 == tag and self._arena[entry & 0xFFFFFFFF] == key and key:
                    return int(entry & 0xFFFFFFFF)
        return self._spilled.get(key, 0)

    def _find(self, keys: Keys) -> tuple[Rows, Rows]:
        """Row of each block (0 for none) and the place of its entry in the table (-1 where it has none)."""
        rows = np.zeros(len(keys), np.intp)
        places = np.full(len(keys), -1, np.intp)
        rest, asked = keys, None
        for factor in _FACTORS:
            mixed = rest * factor
            buckets = ((mixed >> _32) * np.uint64(self._buckets) >> _32).astype(np.intp)
            entries = self._table.take(buckets, axis=0)
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
        _, places = self._find(keys)
        if self._spilled:
            for key in keys[places < 0].tolist():
                self._spilled.pop(key, None)
            places = places[places >= 0]
        self._table.reshape(-1)[places] = 0
        self._keys[rows] = 0
        self._sets[rows] = 0
        self.live -= len(rows)

    def _link(self, keys: Keys, rows: Rows) -> None:
        """Table entries for rows: in the first choice while it is at most half full, else in the emptier of the two."""
        flat = self._table.reshape(-1)
        buckets = np.uint64(self._buckets)
        while len(keys):
            mixed = keys * _FACTORS[0]
            entries = ((mixed & _LOW) << _32) | rows.astype(np.uint64)
            chosen = ((mixed >> _32) * buckets >> _32).astype(np.intp)
            empty = self._table.take(chosen, axis=0) == 0
            room = np.count_nonzero(empty, axis=1)
            places = chosen * _BUCKET + empty.argmax(axis=1)
            tight = np.flatnonzero(room < _BUCKET // 2)
            if len(tight):
                second = keys[tight] * _FACTORS[1]
                other = ((second >> _32) * buckets >> _32).astype(np.intp)
                free = self._table.take(other, axis=0) == 0
                roomier = np.count_nonzero(free, axis=1)
                better = roomier > room[tight]
                moved = tight[better]
                places[moved] = (other * _BUCKET + free.argmax(axis=1))[better]
                entries[moved] = (((second & _LOW) << _32) | rows[tight].astype(np.uint64))[better]
                full = tight[(room[tight] == 0) & (roomier == 0)]
                if len(full):
                    self._spilled.update(zip(keys[full].tolist(), rows[full].tolist(), strict=True))
                    fits = np.ones(len(keys), np.bool_)
                    fits[full] = False
                    keys, rows, places, entries = keys[fits], rows[fits], places[fits], entries[fits]
            flat[places] = entries
            lost = flat[places] != entries  # another of these took the same place
            keys, rows = keys[lost], rows[lost]

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


def _append_runs(found: NDArray[np.uint32], start: int, ends: list[int], sets: list[int]) -> None:
    """Runs of equal numbers are added to ``ends`` and ``sets``."""
    first = int(found[0])
    starts = [] if (found == first).all() else (np.flatnonzero(found[1:] != found[:-1]) + 1).tolist()
    numbers = [first, *(found[starts].tolist() if starts else ())]
    bounds = [*starts, len(found)]
    if sets and sets[-1] == first:
        ends.pop()
        sets.pop()
    ends.extend(start + one for one in bounds)
    sets.extend(numbers)
