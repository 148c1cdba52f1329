"""A user's own file of requests: CSV, JSONL or parquet (also ``.zst``), read row by row into columns.

Fields: ``time`` (seconds, from any origin), ``input`` and ``output`` (tokens); optional ``session`` (text or number:
requests that follow one another on the same content) and ``hash_ids`` (numbers of the prompt's blocks of 512 tokens,
the same number for the same content; in CSV separated by spaces). A row takes 40 bytes, and 9 for each of its blocks:
ten million rows without blocks are 400 MB.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tidefleet.routing.hashing import Keys, mix
from tidefleet.simulator.sessions import Turn
from tidefleet.simulator.workload.bodies import Answer, Bodies, alone
from tidefleet.simulator.workload.files import (
    Floats,
    Ints,
    TraceError,
    arrow,
    in_order,
    number,
    objects,
    text,
    token_count,
)

BLOCK = 512
NEEDED = ("time", "input", "output")
_BATCH_ROWS = 65_536
_SESSIONS = 1 << 40
"""Numbers of sessions begin here, so that none is mixed as a block's number is."""


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """Sessions of a file, each as likely as another. Rows lie session by session, in order of time.

    Attributes:
        times, tokens, outputs: shape (rows,); first: of each session, shape (sessions + 1,).
        ids, ends: blocks of all rows, and where each row's end, shape (rows + 1,); no ids = none are stated.
        common: which of the ids several sessions have, shape (ids,).
        begins: seconds from the first row of the file, rising, shape (sessions,).
    """

    times: Floats
    tokens: Ints
    outputs: Ints
    first: Ints
    ids: Keys
    ends: Ints
    common: np.ndarray
    begins: Floats
    own_rate: float
    longest: float
    block_size: int = BLOCK
    closed: bool = False

    @property
    def count(self) -> int:
        """Sessions."""
        return len(self.begins)

    def draw(self, rng: np.random.Generator, when: Floats, clients: Ints) -> Bodies:
        """Any of them."""
        return _Drawn(self, (rng.random(len(when)) * self.count).astype(np.int64))

    def turns(self, session: int, offset: int, answer: Answer | None = None) -> tuple[Turn, ...]:
        """Of one session; what several sessions have in common is the same in every draw."""
        found, last = [], None
        for row in range(int(self.first[session]), int(self.first[session + 1])):
            at = float(self.times[row])
            tokens, output = int(self.tokens[row]), int(self.outputs[row])
            found.append(
                Turn(
                    0.0 if last is None else at - last,
                    tokens,
                    output if answer is None else answer(output),
                    self._keys(row, session, offset),
                )
            )
            last = at
        return tuple(found)

    def nominal(self, session: int) -> Floats:
        """Seconds from its begin to each of its turns."""
        mine = self.times[self.first[session] : self.first[session + 1]]
        return np.asarray(mine - mine[0])

    def _keys(self, row: int, session: int, offset: int) -> Keys:
        blocks = int(self.tokens[row]) // self.block_size
        if not len(self.ids):
            mark = mix(np.array([_SESSIONS + session], dtype=np.uint64))[0]
            return alone(blocks, (int(mark) + offset) & ((1 << 64) - 1))
        mine = slice(int(self.ends[row]), int(self.ends[row + 1]))
        keys = mix(self.ids[mine] + np.uint64(1))
        if offset:
            keys = keys + np.where(self.common[mine], np.uint64(0), np.uint64(offset))
        return keys[:blocks]


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    source: Own
    picked: Ints

    def turns(self, at: int, offset: int, answer: Answer | None = None) -> tuple[Turn, ...]:
        return self.source.turns(int(self.picked[at]), offset, answer)

    def nominal(self, at: int) -> Floats:
        return self.source.nominal(int(self.picked[at]))


def own(path: Path) -> Own:
    """The requests of a file.

    Raises:
        TraceError: it is not there, has no row, or a row that is not usable.
    """
    if not path.is_file():
        raise TraceError(f"{path}: no such file; expected requests as CSV, JSONL or parquet, e.g. ./requests.csv")
    times, tokens, outputs, sessions = array("d"), array("q"), array("q"), array("q")
    ids, ends = array("Q"), array("q", [0])
    numbers: dict[Any, int] = {}
    last = 0.0
    for line, row in _rows(path):
        now = number(path, line, "time", row["time"], least=0.0, example="12.5")
        in_order(path, line, last, now)
        last = now
        times.append(now)
        for name, column in (("input", tokens), ("output", outputs)):
            column.append(token_count(path, line, name, row[name], least=1, example="350"))
        whose = row.get("session")
        sessions.append(len(times) if whose in (None, "") else -1 - numbers.setdefault(str(whose), len(numbers)))
        blocks = row.get("hash_ids")
        if blocks not in (None, "", []):
            ids.extend(_blocks(path, line, blocks))
        ends.append(len(ids))
    if not times:
        raise TraceError(f"{path}: no row; expected one request a row, with {', '.join(NEEDED)}")
    if not numbers and not ids:
        return _singles(times, tokens, outputs)
    numbers.clear()  # texts of sessions take more than all columns
    return _sorted((times, tokens, outputs, sessions), ids, ends)


def _singles(times: array[float], tokens: array[int], outputs: array[int]) -> Own:
    """Rows of which each is a session: they lie in order already, and are not copied."""
    at = np.frombuffer(times, np.float64)
    at -= at[0]
    count = len(at)
    return Own(
        at,
        np.frombuffer(tokens, np.int64),
        np.frombuffer(outputs, np.int64),
        np.arange(count + 1),
        np.empty(0, np.uint64),
        np.zeros(1, np.int64),
        np.empty(0, bool),
        at,
        count / max(float(at[-1]), 1.0),
        0.0,
    )


def _sorted(rows: tuple[array[float], array[int], array[int], array[int]], ids: array[int], ends: array[int]) -> Own:
    """Rows session by session, sessions in order of their begin."""
    times, tokens, outputs, sessions = rows
    at = np.frombuffer(times, np.float64) - times[0]
    mine = np.frombuffer(sessions, np.int64)
    _, begun, which = np.unique(mine, return_index=True, return_inverse=True)
    begins = at[begun]
    rank = np.empty(len(begun), np.int64)
    rank[np.argsort(begins, kind="stable")] = np.arange(len(begun))
    order = np.argsort(rank[which], kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(rank[which], minlength=len(begun)))])
    kept = np.frombuffer(ids, np.uint64) if len(ids) else np.empty(0, np.uint64)
    edges, common = np.frombuffer(ends, np.int64), np.empty(0, bool)
    if len(kept):
        counts = np.diff(edges)[order]
        starts = edges[:-1][order]
        edges = np.concatenate([[0], np.cumsum(counts)])
        kept = kept[np.repeat(starts - edges[:-1], counts) + np.arange(edges[-1])]
        owner = np.repeat(rank[which][order], counts)
        values, inverse = np.unique(kept, return_inverse=True)
        least, most = np.full(len(values), len(begun)), np.full(len(values), -1)
        np.minimum.at(least, inverse, owner)
        np.maximum.at(most, inverse, owner)
        common = (least != most)[inverse]
    spans = at[order][first[1:] - 1] - at[order][first[:-1]]
    seconds = max(float(at[-1]), 1.0)
    return Own(
        at[order],
        np.frombuffer(tokens, np.int64)[order],
        np.frombuffer(outputs, np.int64)[order],
        first,
        kept,
        edges,
        common,
        np.sort(begins),
        len(begun) / seconds,
        float(spans.max()),
    )


def _blocks(path: Path, line: int, came: object) -> list[int]:
    parts: Sequence[object] = came.split() if isinstance(came, str) else came if isinstance(came, list) else [came]
    try:
        found = [int(one) for one in parts]  # type: ignore[call-overload]
    except (TypeError, ValueError):
        found = [-1]
    if any(not 0 <= one < (1 << 63) for one in found):
        raise TraceError(f"{path}:{line}: hash_ids is {str(came)[:60]!r}; expected numbers from 0 on, e.g. 0 17 18")
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line (row, in parquet) and fields of each request, never more than a piece of the file in memory."""
    name = path.name.removesuffix(".zst")
    if name.endswith(".jsonl"):
        yield from objects(path, NEEDED)
    elif name.endswith(".csv"):
        yield from _lines(path)
    elif name.endswith(".parquet"):
        yield from _batches(path)
    else:
        raise TraceError(f"{path}: unknown kind of file; expected .csv, .jsonl or .parquet, each also with .zst")


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = csv.reader(text(path))
    try:
        header = [one.strip() for one in next(lines, [])]
        _has_all(f"{path}:1", header)
        for fields in lines:
            if not fields:
                continue
            if len(fields) != len(header):
                came = ",".join(fields)[:60]
                raise TraceError(f"{path}:{lines.line_num}: {came!r} has {len(fields)} fields; expected {len(header)}")
            yield lines.line_num, dict(zip(header, fields, strict=True))
    except csv.Error as broken:
        raise TraceError(f"{path}:{lines.line_num}: {broken}; expected CSV, e.g. 12.5,2000,350") from None


def _batches(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    pa = arrow()
    try:
        file = pa.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        _has_all(str(path), names)
        wanted = [one for one in (*NEEDED, "session", "hash_ids") if one in names]
        row = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
            for one in batch.to_pylist():
                row += 1
                yield row, one
    except (pa.ArrowInvalid, OSError) as broken:
        raise TraceError(f"{path}: {broken}; expected a parquet file with {', '.join(NEEDED)}") from broken


def _has_all(where: str, header: Sequence[str]) -> None:
    for name in NEEDED:
        if name not in header:
            there = ", ".join(header) or "none"
            raise TraceError(f"{where}: no column {name!r}, there are {there[:120]}; expected {', '.join(NEEDED)}")
