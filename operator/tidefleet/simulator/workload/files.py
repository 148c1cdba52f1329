"""Trace files, read with the errors that a user can act on."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class TraceError(ValueError):
    """A trace that cannot be read: names file, line, what came, what was expected, and an example."""


def needs(root: Path, name: str) -> Path:
    """The file of that name in a directory of traces.

    Raises:
        TraceError: it is not there.
    """
    path = root / name
    if not path.is_file():
        raise TraceError(f"{path}: no such file; expected a directory of traces that has {name}, e.g. --traces traces/")
    return path


def arrow() -> Any:
    """pyarrow, which reads parquet and zstd.

    Raises:
        TraceError: it is not installed.
    """
    try:
        import pyarrow  # noqa: PLC0415
        import pyarrow.compute  # noqa: PLC0415
        import pyarrow.csv  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as missing:
        raise TraceError(
            "reading traces needs pyarrow; expected the extra, e.g. pip install 'tidefleet[simulate]'"
        ) from (missing)
    return pyarrow


def text(path: Path) -> Iterator[str]:
    """Lines of a file of text, plain or ``.zst``, without their ends; never more than a buffer of it in memory.

    Raises:
        TraceError: it is no such file.
    """
    pa = arrow()
    line = 0
    try:
        with pa.input_stream(str(path), compression="zstd" if path.suffix == ".zst" else None) as stream:
            for one in io.TextIOWrapper(stream, encoding="utf-8"):
                line += 1
                yield one.rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as broken:
        raise TraceError(
            f"{path}:{line + 1}: {broken}; expected UTF-8 text, compressed if its name ends in .zst"
        ) from (broken)


def objects(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line of a JSONL file; empty lines are skipped.

    Raises:
        TraceError: a line is no object, or lacks a needed field.
    """
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for line, one in enumerate(text(path), 1):
        if not one:
            continue
        try:
            found = decode(one)
        except (msgspec.DecodeError, ValueError) as broken:
            raise TraceError(
                f"{path}:{line}: {one[:60]!r} is no JSON object ({broken}); "
                f"expected one object a line with {', '.join(needed)}"
            ) from broken
        for name in needed:
            if name not in found:
                raise TraceError(
                    f"{path}:{line}: no field {name!r}, there are {', '.join(found) or 'none'}; "
                    f"expected {', '.join(needed)}"
                )
        yield line, found


def rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and the needed fields, in that order, of each line of a CSV file with a header.

    Raises:
        TraceError: the header lacks a field, or a line has too few.
    """
    lines = text(path)
    header = next(lines, "").split(",")
    for name in needed:
        if name not in header:
            raise TraceError(
                f"{path}:1: no column {name!r}, there are {', '.join(header)}; expected {', '.join(needed)}"
            )
    places = [header.index(name) for name in needed]
    for line, one in enumerate(lines, 2):
        if not one:
            continue
        fields = one.split(",")
        if len(fields) < len(header):
            raise TraceError(f"{path}:{line}: {one[:60]!r} has {len(fields)} fields; expected {len(header)}")
        yield line, [fields[at] for at in places]


def table(path: Path, needed: Sequence[str]) -> Any:
    """A small parquet file as a table of the needed columns.

    Raises:
        TraceError: it is no parquet file, or lacks a column.
    """
    pa = arrow()
    try:
        names = pa.parquet.read_schema(path).names
        missing = [name for name in needed if name not in names]
        if missing:
            raise TraceError(
                f"{path}: no column {missing[0]!r}, there are {', '.join(names)}; expected {', '.join(needed)}"
            )
        return pa.parquet.read_table(path, columns=list(needed))
    except (pa.ArrowInvalid, OSError) as broken:
        raise TraceError(f"{path}: {broken}; expected a parquet file with {', '.join(needed)}") from broken


def number(path: Path, line: int, name: str, came: object, *, least: float, example: str) -> float:
    """A finite number that is not below ``least``.

    Raises:
        TraceError: it is none.
    """
    try:
        found = float(came)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = float("nan")
    if isinstance(came, bool) or not least <= found < float("inf"):
        raise TraceError(f"{path}:{line}: {name} is {came!r}; expected a number from {least:g} on, e.g. {example}")
    return found


def in_order(path: Path, line: int, last: float, now: float) -> None:
    """Raises: TraceError: a time is before the last one."""
    if now < last:
        raise TraceError(f"{path}:{line}: time {now:g} after {last:g}; expected rows in order of time, e.g. 0, 0.5, 2")


def column(found: Any, name: str, kind: type[Any]) -> NDArray[Any]:
    """A column of a table as an array; null is NaN, or 0 among integers."""
    values = found[name].combine_chunks()
    if values.null_count:
        values = values.fill_null(0 if kind is not np.float64 else float("nan"))
    return np.asarray(values.to_numpy(zero_copy_only=False)).astype(kind)


def concatenated(parts: Iterable[NDArray[Any]], kind: type[Any]) -> NDArray[Any]:
    """One array of all."""
    found = list(parts)
    return np.concatenate(found).astype(kind) if found else np.empty(0, kind)
