"""What each tenant may use in a minute and in a day, counted in a table of fixed size.

Of each window the running one and the one before are kept, and the one before counts for the part of it that is still
within a window's length: what was used within any such length stays close to the limit, without a burst of twice as
much at a boundary. Rows lie in a buffer that several processes may share.

A tenant finds its row in one of ``WAYS`` places; a row that counts nothing any more is free for another one. Whoever
finds none counts with all others like that, on one row of their class, which has the limit of one tenant: a million
invented names get no more than the table has rows.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

MINUTE, DAY = 60.0, 86_400.0
WAYS = 32
OTHERS = 256
"""Rows of those who find none of their own; classes are spread over them."""
DEFAULT_ROWS = 16_384
_ROW = struct.Struct("<Qdddddd")
_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MOST_KNOWN = 65_536

Window = tuple[float, float, float]
"""When the running one began, what the one before counted, and what it counts."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Of one tenant of one class; ``None`` = no limit."""

    tokens_per_minute: float | None = None
    usd_per_day: float | None = None

    def times(self, share: float) -> Limit:
        """A part of it."""
        tokens, usd = self.tokens_per_minute, self.usd_per_day
        return Limit(None if tokens is None else tokens * share, None if usd is None else usd * share)


@dataclass(frozen=True, slots=True)
class Over:
    """A limit is reached.

    Attributes:
        retry_after_seconds: when the request would be let in, if nothing more is used.
    """

    reason: str
    retry_after_seconds: int


def bytes_for(rows: int = DEFAULT_ROWS) -> int:
    """Size of a table's buffer, which begins as zeros."""
    return (rows + OTHERS) * _ROW.size


class Caps:
    """The table.

    Args:
        buffer: of ``bytes_for(rows)`` bytes; its own without one.
        rows: a multiple of ``WAYS``.
        lock: what makes a look at a row and its change one step, where processes share the buffer.
    """

    __slots__ = ("_alone", "_buffer", "_known", "_lock", "_rows")

    def __init__(
        self,
        buffer: bytearray | memoryview | None = None,
        *,
        rows: int = DEFAULT_ROWS,
        lock: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> None:
        if rows < WAYS or rows % WAYS:
            raise ValueError(f"rows are {rows}; expected a multiple of {WAYS}, e.g. {DEFAULT_ROWS}")
        self._buffer = bytearray(bytes_for(rows)) if buffer is None else buffer
        if len(self._buffer) < bytes_for(rows):
            raise ValueError(f"the buffer has {len(self._buffer)} bytes; expected {bytes_for(rows)} for {rows} rows")
        self._rows, self._lock = rows, lock or nullcontext
        self._alone = lock is None
        self._known: dict[int, int] = {}

    def take(
        self, scope: int, tenant: int | None, limit: Limit, now: float, *, tokens: float, usd: float = 0.0
    ) -> Over | None:
        """Count a request with what it is expected to use, or why it may not go now.

        A request that is larger than the limit goes where nothing else counts.

        Args:
            scope: number of the class.
            tenant: hashed; ``None`` = it names none: all those count as one.
        """
        if self._alone:
            return self._take(self._row(scope, tenant, now), limit, now, tokens, usd)
        with self._lock():
            return self._take(self._row(scope, tenant, now), limit, now, tokens, usd)

    def _take(self, row: int, limit: Limit, now: float, tokens: float, usd: float) -> Over | None:
        at = row * _ROW.size
        key, m0, m1, m2, d0, d1, d2 = _ROW.unpack_from(self._buffer, at)
        if not 0.0 <= now - m0 < MINUTE:
            m0, m1, m2 = _rolled((m0, m1, m2), MINUTE, now)
        if not 0.0 <= now - d0 < DAY:
            d0, d1, d2 = _rolled((d0, d1, d2), DAY, now)
        most, over = limit.tokens_per_minute, None
        if most is not None and m2 + tokens + m1 * (1.0 - (now - m0) / MINUTE) > most:
            over = _over(_wait((m0, m1, m2), MINUTE, most, tokens, now), f"{most:,.0f} tokens a minute")
        most = limit.usd_per_day
        if over is None and most is not None and d2 + usd + d1 * (1.0 - (now - d0) / DAY) > most:
            over = _over(_wait((d0, d1, d2), DAY, most, usd, now), f"{most:.10g} USD a day")
        if over is None:
            m2, d2 = m2 + tokens, d2 + usd
        _ROW.pack_into(self._buffer, at, key, m0, m1, m2, d0, d1, d2)
        return over

    def spend(
        self, scope: int, tenant: int | None, now: float, *, tokens: float, usd: float, since: float | None = None
    ) -> None:
        """Something is used.

        Args:
            tokens, usd: less than nothing gives back what was counted at ``since``, as far as that still counts.
        """
        with self._lock():
            at = self._row(scope, tenant, now)
            key, minute, day = self._read(at, now)
            minute = _added(minute, tokens, MINUTE, now if since is None else since)
            day = _added(day, usd, DAY, now if since is None else since)
            _ROW.pack_into(self._buffer, at * _ROW.size, key, *minute, *day)

    def used(self, scope: int, tenant: int | None, now: float) -> tuple[float, float]:
        """Tokens of the last minute and USD of the last day."""
        with self._lock():
            _, minute, day = self._read(self._row(scope, tenant, now), now)
        return _used(minute, MINUTE, now), _used(day, DAY, now)

    def _row(self, scope: int, tenant: int | None, now: float) -> int:
        """A tenant's row, taken for it if one is free; that of the others of its class where none is."""
        key = ((scope ^ ((-1 if tenant is None else tenant) * _GOLDEN)) & _WORD) or 1
        known = self._known.get(key)
        if known is not None and _ROW.unpack_from(self._buffer, known * _ROW.size)[0] == key:
            return known
        first = (key * _GOLDEN & _WORD) % (self._rows // WAYS) * WAYS
        free = -1
        rows = memoryview(self._buffer)[first * _ROW.size : (first + WAYS) * _ROW.size]
        for at, row in enumerate(_ROW.iter_unpack(rows), first):
            if row[0] == key:
                return self._know(key, at)
            if free < 0 and (row[0] == 0 or (now - row[1] > MINUTE and _counts_nothing(row, now))):
                free = at
        if free < 0:
            return self._rows + scope % OTHERS
        _ROW.pack_into(self._buffer, free * _ROW.size, key, now, 0.0, 0.0, now, 0.0, 0.0)
        return self._know(key, free)

    def _know(self, key: int, at: int) -> int:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[key] = at
        return at

    def _read(self, at: int, now: float) -> tuple[int, Window, Window]:
        key, m0, m1, m2, d0, d1, d2 = _ROW.unpack_from(self._buffer, at * _ROW.size)
        return key, _rolled((m0, m1, m2), MINUTE, now), _rolled((d0, d1, d2), DAY, now)


def _counts_nothing(row: tuple[float, ...], now: float) -> bool:
    _, m0, m1, m2, d0, d1, d2 = row
    minute, day = _rolled((m0, m1, m2), MINUTE, now), _rolled((d0, d1, d2), DAY, now)
    return _used(minute, MINUTE, now) <= 0.0 and _used(day, DAY, now) <= 0.0


def _rolled(window: Window, length: float, now: float) -> Window:
    """A window at a later time; where the clock went back it begins anew, with what it has."""
    began, before, count = window
    passed = now - began
    if passed < 0.0:
        return now, before, count
    if passed < length:
        return window
    if passed < 2.0 * length:
        return began + length, count, 0.0
    return now, 0.0, 0.0


def _used(window: Window, length: float, now: float) -> float:
    began, before, count = window
    return before * max(0.0, 1.0 - (now - began) / length) + count


def _added(window: Window, amount: float, length: float, since: float) -> Window:
    began, before, count = window
    if amount >= 0.0 or since >= began:
        return began, before, max(0.0, count + amount)
    if since >= began - length:
        return began, max(0.0, before + amount), count
    return window


def _wait(window: Window, length: float, limit: float, need: float, now: float) -> float:
    """Seconds until a request has room below a limit; 0 where it has."""
    began, before, count = window
    used = _used(window, length, now)
    if used <= 0.0 or used + need <= limit:
        return 0.0
    room = max(0.0, limit - need)
    if count <= room:
        return max(0.0, began + length * (1.0 - (room - count) / before) - now) if before > 0.0 else 0.0
    return began + length * (2.0 - room / count) - now


def _over(after: float, limit: str) -> Over | None:
    if after <= 0.0:
        return None
    seconds = max(1, math.ceil(after))
    return Over(f"the tenant's limit of {limit} is reached; there is room again in {seconds} s", seconds)
