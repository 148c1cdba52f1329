"""Trace files, read with the errors that a user can act on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


LONGEST_TOKENS = 100_000_000
"""No prompt and no answer is longer."""


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

    A byte order mark at its beginning is left out.

    Raises:
        TraceError: it is no such file.
    """
    pa = arrow()
    line = 0
    try:
        with pa.input_stream(str(path), compression="zstd" if path.suffix == ".zst" else None) as stream:
            for one in io.TextIOWrapper(stream, encoding="utf-8-sig"):
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
        TraceError: the header lacks a field, or a line has too few or is no CSV.
    """
    lines = csv.reader(text(path))
    try:
        header = [one.strip() for one in next(lines, [])]
        for name in needed:
            if name not in header:
                there = ", ".join(header)[:120] or "none"
                raise TraceError(f"{path}:1: no column {name!r}, there are {there!r}; expected {', '.join(needed)}")
        places = [header.index(name) for name in needed]
        for fields in lines:
            if not fields:
                continue
            if len(fields) < len(header):
                came = ",".join(fields)[:60]
                raise TraceError(f"{path}:{lines.line_num}: {came!r} has {len(fields)} fields; expected {len(header)}")
            yield lines.line_num, [fields[at].strip() for at in places]
    except csv.Error as broken:
        raise TraceError(f"{path}:{lines.line_num}: {broken}; expected CSV with {', '.join(needed)}") from None


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
    except (pa.ArrowException, OSError) as broken:
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


def whole(path: Path, line: int, name: str, came: object, *, least: int, example: str) -> int:
    """A whole number that is not below ``least``; 3.0 is one, and so is the text of one.

    Raises:
        TraceError: it is none.
    """
    try:
        found = came if isinstance(came, int) else int(came)  # type: ignore[call-overload]
        right = not isinstance(came, bool) and found >= least and (isinstance(came, str) or found == came)
    except (TypeError, ValueError, OverflowError):
        value = number(path, line, name, came, least=least, example=example)
        found, right = int(value), value.is_integer()
    if not right:
        raise TraceError(f"{path}:{line}: {name} is {came!r}; expected a whole number from {least} on, e.g. {example}")
    return int(found)


def token_count(path: Path, line: int, name: str, came: object, *, least: int, example: str) -> int:
    """A number of tokens that a prompt or an answer can have.

    Raises:
        TraceError: it is none.
    """
    found = whole(path, line, name, came, least=least, example=example)
    if found > LONGEST_TOKENS:
        raise TraceError(
            f"{path}:{line}: {name} is {came!r}; expected at most {LONGEST_TOKENS:,} tokens, e.g. {example}"
        )
    return found


def in_order(path: Path, line: int, last: float, now: float) -> None:
    """Raises: TraceError: a time is before the last one."""
    if now < last:
        raise TraceError(f"{path}:{line}: time {now:g} after {last:g}; expected rows in order of time, e.g. 0, 0.5, 2")


def column(path: Path, found: Any, name: str, *, least: float, example: str, unknown: bool = False) -> Floats:
    """A column of a table as numbers that are not below ``least``; where it may be ``unknown``, null is NaN.

    Raises:
        TraceError: it is of another kind, or a value is missing or too small.
    """
    pa = arrow()
    try:
        values = found[name].cast(pa.float64()).combine_chunks().to_numpy(zero_copy_only=False)
    except pa.ArrowException as broken:
        raise TraceError(
            f"{path}: {name} is a column of {found[name].type} ({broken}); expected numbers, e.g. {example}"
        ) from None
    right = (values >= least) & (values < np.inf)
    if unknown:
        right |= np.isnan(values)
    _all_right(path, found, name, right, f"a number from {least:g} on, e.g. {example}")
    return np.asarray(values, dtype=np.float64)


def whole_column(path: Path, found: Any, name: str, *, least: int, example: str) -> Ints:
    """A column of whole numbers that are not below ``least``.

    Raises:
        TraceError: it is of another kind, or a value is missing, too small or a fraction.
    """
    values = column(path, found, name, least=least, example=example)
    _all_right(path, found, name, values == np.rint(values), f"a whole number, e.g. {example}")
    return values.astype(np.int64)


def names(path: Path, found: Any, name: str, *, example: str) -> NDArray[np.object_]:
    """A column of texts.

    Raises:
        TraceError: one is missing.
    """
    values = np.asarray(found[name].to_pylist(), dtype=object)
    _all_right(path, found, name, np.array([isinstance(one, str) for one in values], bool), f"a name, e.g. {example}")
    return values


def _all_right(path: Path, found: Any, name: str, right: NDArray[np.bool_], expected: str) -> None:
    if not right.all():
        at = int(np.argmin(right))
        raise TraceError(f"{path}: row {at}: {name} is {found[name][at].as_py()!r}; expected {expected}")


def concatenated(parts: Iterable[NDArray[Any]], kind: type[Any]) -> NDArray[Any]:
    """One array of all."""
    found = list(parts)
    return np.concatenate(found).astype(kind) if found else np.empty(0, kind)
