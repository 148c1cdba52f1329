"""Lines of usage records into one table on disk, each judged as it is read.

A line is one JSON object with flat keys, or a row of parquet with the same columns. Three types are known of version 1:
``request`` (one that ended), ``paid`` (chip-seconds and USD of a minute, pool, accelerator and basis) and ``lost``
(records a router dropped). What cannot be counted is left out, with a reason that is told; since ``paid`` lines make
the bill, what a left-out request used becomes idle time and the bill is as it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tidefleet.reporting.files import Kind, RecordsError, Source, save_gzip
from tidefleet.reporting.period import Period
from tidefleet.reporting.values import PICO

if TYPE_CHECKING:
    import duckdb

VERSION = 1
MOST_USD = 1e6
"""Dollars of one line; more is a fault of the writer."""

MOST_TOKENS = 1e9
MOST_SECONDS = 1e9
LONGEST_LINE = 4 << 20
"""Bytes of one line. A record has about 600."""


FAULTS = {
    "unreadable": "lines that are no JSON object, torn ones at a file's end among them",
    "unknown_version": f"lines of a version other than {VERSION}",
    "unknown_type": "lines of a type other than request, paid and lost",
    "incomplete": "lines without a field that they must have",
    "impossible": "lines with a negative, infinite or absurd number, or one that is none",
    "clock": "lines whose time cannot be: a clock jumped",
    "duplicate_paid": "paid lines of a minute that another router told too; the largest counts",
    "unpriced": "requests that used chips without a price",
    "unfinished_files": "files that end before they should; what they have was read",
}
"""What is counted and told, by name."""

_TEXT = (
    "type", "namespace", "pool", "workload_class", "model", "accelerator", "capacity_type", "team", "feature",
    "tenant", "task", "outcome", "result", "recomputed_cause", "slo",
)  # fmt: skip
_NUMBERS = (
    "v", "start", "end", "input_tokens", "cached_tokens", "reasoning_tokens", "output_tokens", "recomputed_tokens",
    "saved_seconds", "accelerator_seconds", "usd", "revenue_usd", "records",
)  # fmt: skip
_TYPES = {**dict.fromkeys(_TEXT, "VARCHAR"), **dict.fromkeys(_NUMBERS, "DOUBLE")}
_TOKENS = tuple(name for name in _NUMBERS if name.endswith("_tokens"))


def load_lines(
    database: duckdb.DuckDBPyConnection, sources: Sequence[Source], directory: Path, period: Period
) -> list[Path]:
    """Read all files into the table ``lines``; the files that end too early.

    Raises:
        RecordsError: a file cannot be read at all.
    """
    import duckdb  # noqa: PLC0415

    latest = max(time.time(), period.end) + 86400.0
    database.execute(f"CREATE TABLE lines ({', '.join(f'{name} {kind}' for name, kind in _COLUMNS.items())})")
    unfinished = [one.path for one in sources if not one.whole]
    for kind in Kind:
        named = {}
        for number, one in enumerate(one for one in sources if one.kind is kind):
            link = directory / f"{kind}-{number}"  # DuckDB takes *, ? and [ in a name for a pattern
            link.symlink_to(one.path.resolve())
            named[str(link)] = one.path
        if not named:
            continue
        try:
            _insert(database, [*named], kind, period, latest)
        except duckdb.Error as error:
            if kind is not Kind.GZIP or "GZIP" not in str(error):
                raise RecordsError(_why(error, named)) from None
            for link_name, path in named.items():
                unfinished += _one_gzip(database, Path(link_name), path, period, latest)
    return unfinished


def _one_gzip(database: duckdb.DuckDBPyConnection, link: Path, path: Path, period: Period, latest: float) -> list[Path]:
    """Read one file of several of which one ends too early; itself, if it is that one."""
    import duckdb  # noqa: PLC0415

    try:
        _insert(database, [str(link)], Kind.GZIP, period, latest)
    except duckdb.Error:
        saved = link.with_name(f"{link.name}-saved")
        try:
            save_gzip(path, saved)
            _insert(database, [str(saved)], Kind.PLAIN, period, latest)
        except (OSError, duckdb.Error) as error:
            raise RecordsError(f"--records {path}: cannot be read: {error}") from None
        finally:
            saved.unlink(missing_ok=True)
        return [path]
    return []


def _why(error: Exception, named: dict[str, Path]) -> str:
    """DuckDB's words with the names the user knows, and without what only matters to its own users."""
    first = str(error).splitlines()[0]
    hit = next((path for link, path in named.items() if f'{link}"' in first or first.endswith(link)), None)
    for link, path in named.items():
        first = first.replace(f'{link}"', f'{path}"').replace(f"'{link}'", f"'{path}'")
    if "maximum_object_size" in first:
        where = hit or "; ".join(str(path) for path in named.values())
        return (
            f"--records {where}: a line is longer than {LONGEST_LINE >> 20} MiB; expected JSON Lines, one usage record "
            'a line, e.g. {"v":1,"type":"request",...}'
        )
    where = hit or ", ".join(str(path) for path in list(named.values())[:3])
    return f"--records {where}: cannot be read: {first}"


_COLUMNS = {
    "fault": "VARCHAR",
    **{name: "VARCHAR" for name in _TEXT if name != "task"},
    "task": "UBIGINT",
    "start": "DOUBLE",
    "finish": "DOUBLE",
    **dict.fromkeys(_TOKENS, "BIGINT"),
    "seconds": "DOUBLE",
    "saved": "DOUBLE",
    "usd": "BIGINT",
    "revenue": "BIGINT",
    "records": "DOUBLE",
}


def _insert(database: duckdb.DuckDBPyConnection, names: list[str], kind: Kind, period: Period, latest: float) -> None:
    if kind is Kind.PARQUET:
        of = "read_parquet($names, union_by_name = true)"
        there = {row[0] for row in database.execute(f"DESCRIBE SELECT * FROM {of}", {"names": names}).fetchall()}
        columns = ", ".join(
            f'TRY_CAST("{name}" AS {sort}) AS "{name}"' if name in there else f'NULL::{sort} AS "{name}"'
            for name, sort in _TYPES.items()
        )
        source = f"(SELECT {columns} FROM {of})"
    else:
        types = ", ".join(f"'{name}': '{sort}'" for name, sort in _TYPES.items())
        source = (
            f"read_json($names, format = 'newline_delimited', columns = {{{types}}}, ignore_errors = true, "
            f"compression = '{kind}', maximum_object_size = {LONGEST_LINE})"
        )

    def counted(name: str, factor: int, most: float) -> str:
        return f"CASE WHEN {name} BETWEEN 0 AND {most} THEN round({name} * {factor})::BIGINT END"

    values = {
        "fault": _FAULT,
        **{name: f"nullif({name}, '')" for name in _TEXT if name not in ("task", "accelerator", "capacity_type")},
        "accelerator": "coalesce(accelerator, '')",
        "capacity_type": "coalesce(capacity_type, '')",
        "task": "CASE WHEN task IS NOT NULL THEN hash(task) END",
        "start": "start",
        "finish": '"end"',
        **{name: counted(name, 1, MOST_TOKENS) for name in _TOKENS},
        "seconds": "coalesce(accelerator_seconds, 0)",
        "saved": "saved_seconds",
        "usd": counted("usd", PICO, MOST_USD),
        "revenue": counted("revenue_usd", PICO, MOST_USD),
        "records": "records",
    }
    columns = ", ".join(f"{values[name]} AS {name}" for name in _COLUMNS)
    database.execute(
        f"INSERT INTO lines SELECT {columns} FROM {source}",
        {"names": names, "from": period.start, "to": period.end, "latest": latest},
    )


def _bad(name: str, most: float) -> str:
    return f"NOT coalesce({name}, 0) BETWEEN 0 AND {most}"


_FAULT = f"""CASE
    WHEN v IS NULL AND type IS NULL THEN 'unreadable'
    WHEN v IS DISTINCT FROM {VERSION} THEN 'unknown_version'
    WHEN type IS NULL OR type NOT IN ('request', 'paid', 'lost') THEN 'unknown_type'
    WHEN type = 'request' AND (namespace IS NULL OR pool IS NULL OR "end" IS NULL OR result IS NULL
        OR result NOT IN ('ok', 'error', 'cut', 'refused')) THEN 'incomplete'
    WHEN type = 'paid' AND (namespace IS NULL OR pool IS NULL OR accelerator IS NULL OR capacity_type IS NULL
        OR start IS NULL OR "end" IS NULL OR accelerator_seconds IS NULL) THEN 'incomplete'
    WHEN type = 'lost' AND records IS NULL THEN 'incomplete'
    WHEN {" OR ".join(_bad(name, MOST_TOKENS) for name in _TOKENS)}
        OR {_bad("accelerator_seconds", MOST_SECONDS)} OR {_bad("usd", MOST_USD)} OR {_bad("revenue_usd", MOST_USD)}
        OR {_bad("saved_seconds", MOST_SECONDS)} OR {_bad("records", MOST_TOKENS)} THEN 'impossible'
    WHEN type = 'lost' AND (start IS NULL OR "end" IS NULL) THEN NULL
    WHEN NOT ("end" > 0 AND "end" <= $latest) THEN 'clock'
    WHEN type <> 'request' AND NOT (start > 0 AND start < "end") THEN 'clock'
    WHEN type = 'request' AND ("end" < $from OR "end" >= $to) THEN 'outside'
    WHEN type = 'paid' AND (start < $from OR start >= $to) THEN 'outside'
    WHEN type = 'lost' AND ("end" < $from OR start >= $to) THEN 'outside'
END"""
"""Why a line does not count; NaN is above all numbers in DuckDB, so that no BETWEEN holds of it."""
