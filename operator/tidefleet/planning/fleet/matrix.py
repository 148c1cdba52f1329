"""A mixed-integer linear program as flat arrays, put together block by block, and cut into the parts it falls into.

Every row and column carries an owner: the pool it belongs to, or ``SHARED``. A part is the columns and rows of one
owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SHARED = -1
"""Owner of rows and columns that tie pools together."""


def summed(index: Ints, values: ArrayLike, length: int) -> Floats:
    """Sums of the values that share an index, from 0 up to the length."""
    return np.bincount(index, np.asarray(values, dtype=np.float64), length).astype(np.float64, copy=False)


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """Minimise cost . v subject to row_lower <= A v <= row_upper and lower <= v <= upper, v whole where ``integer``.

    A's entries are sorted by column, then row: ``start`` has one entry per column and one more; ``row`` and ``value``
    have one per entry.
    """

    cost: Floats
    lower: Floats
    upper: Floats
    integer: Bools
    owner: Ints
    row_lower: Floats
    row_upper: Floats
    row_owner: Ints
    start: Ints
    row: Ints
    value: Floats

    @property
    def column(self) -> Ints:
        """The column of each entry."""
        return np.repeat(np.arange(len(self.cost)), np.diff(self.start))

    @property
    def pools(self) -> list[int]:
        """The owners of columns, without ``SHARED``."""
        found: list[int] = np.unique(self.owner[self.owner != SHARED]).tolist()
        return found

    def objective(self, values: Floats) -> float:
        """cost . v, without BLAS: for long vectors it wakes threads that then spin beside those that solve pools."""
        return float(np.einsum("i,i->", self.cost, values))

    def activity(self, values: Floats) -> Floats:
        """A v: one number per row."""
        return summed(self.row, self.value * values[self.column], len(self.row_lower))

    def violation(self, values: Floats) -> float:
        """The largest violation of a bound, a row or integrality, relative to the size of what is compared (at least
        1).

        Infinite when a value is not a number.
        """
        if len(values) != len(self.cost) or not np.isfinite(values).all():
            return float("inf")
        activity = self.activity(values)
        size = np.maximum(1.0, np.bincount(self.row, np.abs(self.value * values[self.column]), len(activity)))
        worst = [
            np.max(self.lower - values, initial=0.0),
            np.max((values - self.upper) / np.maximum(1.0, np.abs(values)), initial=0.0),
            np.max((self.row_lower - activity) / size, initial=0.0),
            np.max((activity - self.row_upper) / size, initial=0.0),
            np.max(np.abs(values - np.round(values))[self.integer], initial=0.0),
        ]
        return float(max(worst))

    def priced(self, prices: Floats) -> Floats:
        """The columns' costs when rows are relaxed and priced instead: cost - A' prices."""
        paid = np.bincount(self.column, self.value * prices[self.row], minlength=len(self.cost))
        return self.cost - paid

    def usable(self, prices: Floats) -> Floats:
        """Prices of rows, with those set to 0 whose row has no limit on that side."""
        wrong = ((prices > 0) & ~np.isfinite(self.row_lower)) | ((prices < 0) & ~np.isfinite(self.row_upper))
        return np.where(wrong, 0.0, prices)

    def limits(self, prices: Floats) -> Floats:
        """The limit of each row that a price is of: the lower one where it is positive; 0 where it is 0."""
        return np.where(prices > 0, self.row_lower, np.where(prices < 0, self.row_upper, 0.0))

    def part(self, columns: Bools, rows: Bools) -> Matrix:
        """These columns and rows only, in the order they have here."""
        new_row = np.cumsum(rows) - 1
        of = self.column
        keep = columns[of] & rows[self.row]
        counts = np.bincount(of[keep], minlength=len(self.cost))[columns]
        return Matrix(
            cost=self.cost[columns],
            lower=self.lower[columns],
            upper=self.upper[columns],
            integer=self.integer[columns],
            owner=self.owner[columns],
            row_lower=self.row_lower[rows],
            row_upper=self.row_upper[rows],
            row_owner=self.row_owner[rows],
            start=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            row=new_row[self.row[keep]],
            value=self.value[keep],
        )

    def with_cost(self, cost: Floats) -> Matrix:
        """The same program with other costs."""
        return replace(self, cost=cost)

    def with_bounds(self, lower: Floats, upper: Floats) -> Matrix:
        """The same program with other bounds of its variables."""
        return replace(self, lower=lower, upper=upper)

    def with_rows(self, row_lower: Floats, row_upper: Floats) -> Matrix:
        """The same program with other limits of its rows."""
        return replace(self, row_lower=row_lower, row_upper=row_upper)

    def with_more_rows(self, row: Ints, column: Ints, value: Floats, upper: Floats) -> Matrix:
        """The same program with further rows A v <= upper after its own.

        Args:
            row: the row of each entry, from 0 up to the number of uppers.
            column: the column of each entry.
            value: the entries.
            upper: the limit of each row.
        """
        rows = np.concatenate((self.row, len(self.row_lower) + row))
        columns = np.concatenate((self.column, column))
        order = np.lexsort((rows, columns))
        counts = np.bincount(columns, minlength=len(self.cost))
        return replace(
            self,
            row_lower=np.concatenate((self.row_lower, np.full(len(upper), -np.inf))),
            row_upper=np.concatenate((self.row_upper, upper)),
            row_owner=np.concatenate((self.row_owner, np.full(len(upper), SHARED))),
            start=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            row=rows[order],
            value=np.concatenate((self.value, value))[order],
        )

    def relaxed(self) -> Matrix:
        """The same program with no variable whole."""
        return replace(self, integer=np.zeros(len(self.cost), dtype=np.bool_))


@dataclass(slots=True)
class Builder:
    """Collects blocks of columns and rows; ``build`` makes the matrix."""

    columns: int = 0
    rows: int = 0
    _columns: list[tuple[Floats, Floats, Floats, Bools, Ints]] = field(default_factory=list)
    _rows: list[tuple[Floats, Floats, Ints]] = field(default_factory=list)
    _entries: list[tuple[Ints, Ints, Floats]] = field(default_factory=list)

    def add_columns(
        self,
        count: int,
        *,
        cost: ArrayLike = 0.0,
        lower: ArrayLike = 0.0,
        upper: ArrayLike = np.inf,
        integer: bool = False,
        owner: ArrayLike = SHARED,
    ) -> Ints:
        """Indices of so many columns."""
        self._columns.append(
            (
                _floats(cost, count),
                _floats(lower, count),
                _floats(upper, count),
                np.full(count, integer),
                np.broadcast_to(np.asarray(owner, dtype=np.int64), (count,)),
            )
        )
        self.columns += count
        return np.arange(self.columns - count, self.columns)

    def add_rows(
        self, count: int, *, lower: ArrayLike = -np.inf, upper: ArrayLike = np.inf, owner: ArrayLike = SHARED
    ) -> Ints:
        """Indices of so many rows."""
        self._rows.append(
            (
                _floats(lower, count),
                _floats(upper, count),
                np.broadcast_to(np.asarray(owner, dtype=np.int64), (count,)),
            )
        )
        self.rows += count
        return np.arange(self.rows - count, self.rows)

    def add_entries(self, rows: ArrayLike, columns: ArrayLike, values: ArrayLike) -> None:
        """Entries of A; those of one row and column are added up, zeros are dropped."""
        row, column, value = np.broadcast_arrays(
            np.asarray(rows, dtype=np.int64), np.asarray(columns, dtype=np.int64), np.asarray(values, dtype=np.float64)
        )
        keep = value != 0
        self._entries.append((row[keep].ravel(), column[keep].ravel(), value[keep].ravel()))

    def build(self) -> Matrix:
        """The matrix of everything added."""
        row, column, value = _joined(self._entries, (np.int64, np.int64, np.float64))
        order = np.lexsort((row, column))
        row, column, value = row[order], column[order], value[order]
        if len(row):
            fresh = np.concatenate(([True], (np.diff(row) != 0) | (np.diff(column) != 0)))
            at = np.flatnonzero(fresh)
            value = np.add.reduceat(value, at)
            row, column = row[at], column[at]
        counts = np.bincount(column, minlength=self.columns)
        cost, lower, upper, integer, owner = _joined(
            self._columns, (np.float64, np.float64, np.float64, np.bool_, np.int64)
        )
        row_lower, row_upper, row_owner = _joined(self._rows, (np.float64, np.float64, np.int64))
        return Matrix(
            cost=cost,
            lower=lower,
            upper=upper,
            integer=integer,
            owner=owner,
            row_lower=row_lower,
            row_upper=row_upper,
            row_owner=row_owner,
            start=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            row=row,
            value=value,
        )


def _floats(values: ArrayLike, count: int) -> Floats:
    return np.broadcast_to(np.asarray(values, dtype=np.float64), (count,))


def _joined(blocks: Sequence[tuple[NDArray[Any], ...]], types: tuple[type, ...]) -> tuple[NDArray[Any], ...]:
    if not blocks:
        return tuple(np.zeros(0, dtype=one) for one in types)
    return tuple(np.concatenate(one) for one in zip(*blocks, strict=True))
