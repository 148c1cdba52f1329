"""Finds the files of usage records and says what each of them is, by its first bytes."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

NAMES = re.compile(r"\.(jsonl|ndjson|parquet)(\.\d+)?(\.gz|\.zst)?$", re.IGNORECASE)
"""How names of files end that are read in a directory."""

_CHUNK = 1 << 20


class RecordsError(Exception):
    """Records that cannot be read; the message is for the user."""


class Kind(StrEnum):
    """How a file is written."""

    PLAIN = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Source:
    """A file of records; ``whole``: it ends where its compression says it does."""

    path: Path
    kind: Kind
    whole: bool = True


def find_sources(paths: Sequence[Path]) -> tuple[list[Source], int]:
    """The files under ``paths``, each once, in order of name; and how many in directories have other names.

    Raises:
        RecordsError: a path does not exist, cannot be read, or there is no file of records.
    """
    found: dict[Path, Path] = {}
    passed_over = 0
    for path in paths:
        if path.is_dir():
            for name, is_records in _walk(path):
                passed_over += not is_records
                if is_records:
                    found.setdefault(name.resolve(), name)
        elif path.is_file():
            found.setdefault(path.resolve(), path)
        elif path.exists():
            raise RecordsError(f"--records {path}: is neither a file nor a directory; {_EXPECTED}")
        else:
            raise RecordsError(f"--records {path}: does not exist; {_EXPECTED}")
    if not found:
        where = ", ".join(str(path) for path in paths)
        others = f" among its {passed_over} files" if passed_over else ""
        raise RecordsError(f"--records {where}: no file of records{others}; {_EXPECTED}")
    return [_source(path) for path in sorted(found.values())], passed_over


_EXPECTED = "expected usage records, e.g. usage.jsonl, usage.jsonl.zst, usage.parquet, or a directory of such files"


def _walk(directory: Path) -> list[tuple[Path, bool]]:
    def refuse(error: OSError) -> None:
        raise RecordsError(f"--records {error.filename}: cannot be read: {error.strerror}; {_EXPECTED}")

    return [
        (Path(where) / name, bool(NAMES.search(name)))
        for where, _, names in os.walk(directory, onerror=refuse)
        for name in names
        if not name.startswith(".")
    ]


def _source(path: Path) -> Source:
    try:
        with path.open("rb") as file:
            start = file.read(4)
            if start == b"PAR1":
                return Source(path, Kind.PARQUET)
            file.seek(0)
            if start[:2] == b"\x1f\x8b":
                return Source(path, Kind.GZIP)  # whether it is whole shows when it is read
            if start == _FRAME or _is_skippable(start):
                return Source(path, Kind.ZSTD, whole=is_whole_zstd(file))
            return Source(path, Kind.PLAIN)
    except OSError as error:
        raise RecordsError(f"--records {path}: cannot be read: {error.strerror}; {_EXPECTED}") from None


_FRAME = b"\x28\xb5\x2f\xfd"
_CONTENT_BYTES = (0, 2, 4, 8)
_DICTIONARY_BYTES = (0, 1, 2, 4)


def _is_skippable(start: bytes) -> bool:
    return len(start) == 4 and start[1:] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50


def is_whole_zstd(file: BinaryIO) -> bool:
    """Whether frames follow one another up to the file's end (RFC 8878, section 3.1); nothing is decompressed.

    A writer that was killed, or still writes, leaves the last frame without its last block, which a reader of a stream
    takes for its end.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)

    def past(count: int) -> bool:
        return file.seek(count, os.SEEK_CUR) <= size

    while start := file.read(4):
        if _is_skippable(start):
            length = file.read(4)
            if len(length) < 4 or not past(struct.unpack("<I", length)[0]):
                return False
            continue
        descriptor = file.read(1)
        if start != _FRAME or not descriptor:
            return False
        flags = descriptor[0]
        single = flags >> 5 & 1
        content = _CONTENT_BYTES[flags >> 6] or single
        if not past((0 if single else 1) + _DICTIONARY_BYTES[flags & 3] + content):
            return False
        last = False
        while not last:
            header = file.read(3)
            if len(header) < 3:
                return False
            word = int.from_bytes(header, "little")
            last, is_repeated = bool(word & 1), word >> 1 & 3 == 1
            if not past(1 if is_repeated else word >> 3):
                return False
        if flags >> 2 & 1 and not past(4):
            return False
    return True


def save_gzip(source: Path, to: Path) -> None:
    """Write what of a damaged or unfinished gzip file can still be decompressed, from its beginning."""
    with source.open("rb") as file, to.open("wb") as out:
        reader = zlib.decompressobj(wbits=31)
        rest = b""
        while chunk := rest or file.read(_CHUNK):
            rest = b""
            try:
                out.write(reader.decompress(chunk))
            except zlib.error:
                return
            if reader.eof:
                rest, reader = reader.unused_data, zlib.decompressobj(wbits=31)
