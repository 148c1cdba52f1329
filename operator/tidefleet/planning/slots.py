"""What a pool was asked for in the past, in 15-minute slots: the memory that forecasts are made from."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tidefleet.planning.demand import is_usable

Array = NDArray[np.float64]

SLOT_SECONDS = 900.0
DAY_SLOTS = 96
WEEK_SLOTS = 672

MAX_SLOTS = 5 * WEEK_SLOTS
"""How far back demand is remembered: five weeks, 27 kB a pool when full."""

COVERED = 0.5
"""Share of a slot that readings must cover; below it the slot is a gap, never a low or a zero rate."""

QUANTITIES = 2
"""Uncached prefill tokens/s, and decode tokens/s."""

MOST = 1e15
"""Tokens per second from which a sample is nonsense."""

_STEP = 0.01
_FINE = 100.0
_FORMAT = "1"
_MAX_TEXT = 64 * 1024


def slot_of(at: float) -> int:
    """The slot that holds a time (Unix seconds). Slots begin at full quarters of an hour in UTC."""
    return math.floor(at / SLOT_SECONDS)


@dataclass(frozen=True, slots=True, eq=False)
class SlotSeries:
    """Mean rates of consecutive slots.

    Attributes:
        first: number of the first slot, as ``slot_of`` counts.
        values: shape (slots, quantities), tokens per second, NaN where nobody knows; read-only.
    """

    first: int
    values: Array

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise ValueError(f"SlotSeries: values has shape {self.values.shape}; expected (slots, quantities)")
        self.values.flags.writeable = False

    @property
    def end(self) -> int:
        """The slot after the last one."""
        return self.first + len(self.values)

    @property
    def known(self) -> int:
        """Slots in which something was measured."""
        return int(np.isfinite(self.values).all(axis=1).sum())


class UnusableHistory(ValueError):
    """A packed history cannot be read; the message says what is wrong."""


@dataclass(slots=True)
class SlotHistory:
    """Adds up readings into slots and keeps the last five weeks; bounded, and grown only as weeks come.

    A reading counts for the time it was taken over. Slots that readings cover by less than half are gaps.
    """

    _first: int = 0
    _count: int = 0
    _values: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, QUANTITIES), dtype=np.float32))
    _open: int | None = None
    _seconds: float = 0.0
    _sums: list[float] = field(default_factory=lambda: [0.0] * QUANTITIES)
    _last: float | None = None

    def add(self, at: float, seconds: float, prefill: float, decode: float) -> None:
        """Count rates (tokens per second) that held in the ``seconds`` before ``at`` (Unix seconds).

        What is not finite, negative, absurd or not later than the reading before is left out.
        """
        if not (math.isfinite(at) and is_usable(seconds) and is_usable(prefill) and is_usable(decode)):
            return
        if max(prefill, decode) > MOST or (self._last is not None and at <= self._last):
            return
        begin = max(at - seconds, self._last) if self._last is not None else at - seconds
        begin = max(begin, at - MAX_SLOTS * SLOT_SECONDS)
        self._last = at
        while begin < at:
            slot = slot_of(begin)
            end = min(at, (slot + 1) * SLOT_SECONDS)
            self._move_to(slot)
            self._seconds += end - begin
            self._sums[0] += prefill * (end - begin)
            self._sums[1] += decode * (end - begin)
            begin = end
        self._move_to(slot_of(at))

    def series(self) -> SlotSeries:
        """The finished slots."""
        return SlotSeries(self._first, self._values[: self._count].astype(np.float64))

    @property
    def end(self) -> int:
        """The slot after the last finished one; what was learned by then is in the series."""
        return self._first + self._count

    @property
    def is_empty(self) -> bool:
        """Whether no slot is finished."""
        return not self._count

    def _move_to(self, slot: int) -> None:
        if self._open is None:
            self._open = slot
            if not self._count:
                self._first = slot
            else:
                self._fill(slot - self.end)
        if slot <= self._open:
            return
        known = self._seconds >= COVERED * SLOT_SECONDS
        self._append([one / self._seconds for one in self._sums] if known else [math.nan] * QUANTITIES)
        self._fill(slot - self._open - 1)
        self._open, self._seconds, self._sums = slot, 0.0, [0.0] * QUANTITIES

    def _fill(self, missing: int) -> None:
        if missing >= MAX_SLOTS:
            self._first, self._count = self.end + missing, 0
            return
        for _ in range(missing):
            self._append([math.nan] * QUANTITIES)

    def _append(self, values: list[float]) -> None:
        if self._count == len(self._values):
            if self._count >= MAX_SLOTS:
                self._values[:-DAY_SLOTS] = self._values[DAY_SLOTS:].copy()
                self._first += DAY_SLOTS
                self._count -= DAY_SLOTS
            else:
                grown = np.empty((min(MAX_SLOTS, self._count + WEEK_SLOTS), QUANTITIES), dtype=np.float32)
                grown[: self._count] = self._values[: self._count]
                self._values = grown
        self._values[self._count] = values
        self._count += 1

    # --- to and from text --------------------------------------------------------------------------------------------

    def pack(self) -> str:
        """The finished slots as text, to within half a percent: logarithms in steps of 1 %, differences, zlib, base64.

        Five weeks of real traffic take 7 to 9 kB.
        """
        values = self._values[: self._count].astype(np.float64)
        codes = np.where(np.isfinite(values), 1 + np.rint(np.log1p(np.nan_to_num(values) * _FINE) / _STEP), 0)
        steps = np.diff(codes.astype(np.int32), axis=0, prepend=0).astype("<i2")
        body = base64.b64encode(zlib.compress(steps.T.tobytes(), 9)).decode("ascii")
        return f"{_FORMAT}:{self._first}:{self._count}:{body}"

    @classmethod
    def unpack(cls, text: str, *, now: float) -> SlotHistory:
        """A history from its text; slots that are not over at ``now`` (Unix seconds) are left out.

        Raises:
            UnusableHistory: the text is not what ``pack`` writes.
        """
        example = "expected e.g. 1:1984000:96:eJxj..."
        parts = text.split(":", 3) if len(text) <= _MAX_TEXT else []
        numbers = all(part.isdecimal() and len(part) < 10 for part in parts[1:3])
        if len(parts) != 4 or parts[0] != _FORMAT or not numbers:
            raise UnusableHistory(f"history of demand is {text[:40]!r}; {example}")
        first, count = int(parts[1]), int(parts[2])
        size = count * QUANTITIES * 2
        if count > MAX_SLOTS:
            raise UnusableHistory(f"history of demand has {count} slots; expected at most {MAX_SLOTS}")
        try:
            raw = zlib.decompressobj().decompress(base64.b64decode(parts[3], validate=True), size + 1)
        except (binascii.Error, zlib.error, ValueError) as error:
            raise UnusableHistory(f"history of demand cannot be unpacked ({error}); {example}") from error
        if len(raw) != size:
            raise UnusableHistory(f"history of demand holds {len(raw)} bytes; expected {size} for {count} slots")
        steps = np.frombuffer(raw, dtype="<i2").reshape(QUANTITIES, count).T
        codes = np.cumsum(steps.astype(np.int64), axis=0)
        if count and not 0 <= codes.min() <= codes.max() <= math.log1p(MOST * _FINE) / _STEP + 2:
            raise UnusableHistory(f"history of demand holds rates that cannot be; {example}")
        values = np.where(codes > 0, np.expm1((codes - 1) * _STEP) / _FINE, np.nan)
        kept = max(0, min(count, slot_of(now) - first))
        history = cls(_first=first, _count=kept, _values=values[:kept].astype(np.float32))
        if kept:
            history._last = (first + kept) * SLOT_SECONDS
        return history
