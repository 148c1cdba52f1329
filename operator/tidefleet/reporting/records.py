"""Usage records into figures: read once into columns on disk, then summed by DuckDB."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidefleet.reporting.files import RecordsError, find_sources
from tidefleet.reporting.loading import FAULTS, VERSION, load_lines
from tidefleet.reporting.period import Period, told
from tidefleet.reporting.values import (
    CAUSES,
    OTHERS,
    By,
    Cell,
    Figures,
    Found,
    Offered,
    Peer,
    Speed,
    Tasks,
    Unit,
    row_name,
)

if TYPE_CHECKING:
    import duckdb

MEMORY_MB = 500
THREADS = 2
MOST_PEERS = 5000
MIN_PEER_REQUESTS = 100
"""Requests from which a group is compared with its peers."""


_KEYS = {
    By.TENANT: "tenant",
    By.TEAM: "team",
    By.FEATURE: "feature",
    By.CLASS: "namespace || '/' || workload_class",
    By.POOL: "namespace || '/' || pool",
    By.ACCELERATOR: "nullif(accelerator, '')",
}


def read_records(paths: Sequence[Path], by: By, period: Period, *, top: int) -> Found:
    """What usage records say of a period.

    Args:
        paths: files, or directories that are searched.
        top: keys with a row of their own, the largest first; the others share one.

    Raises:
        RecordsError: the library is missing, there is nothing to read, or a file cannot be read at all.
    """
    sources, passed_over = find_sources(paths)
    with tempfile.TemporaryDirectory(prefix="tidefleet-report-") as name, _database(Path(name)) as database:
        unfinished = load_lines(database, sources, Path(name), period)
        found = _Reader(database, by, period, top).found()
    found.source = f"usage records, {len(sources)} files" if len(sources) > 1 else f"usage records, {sources[0].path}"
    if unfinished:
        found.counted["unfinished_files"] = len(unfinished)
        found.notes.append(f"files that end before they should: {', '.join(str(one) for one in unfinished[:5])}")
    if passed_over:
        found.notes.append(f"{passed_over} files in the directories have other names and were not read")
    return found


@contextlib.contextmanager
def _database(directory: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database on disk, that takes nothing from the network."""
    try:
        import duckdb  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise RecordsError(
            "usage records are read with DuckDB, which is not installed; expected the extra: "
            "pip install 'tidefleet[report]'"
        ) from None
    settings: dict[str, str | bool | int | float | list[str]] = {
        "threads": THREADS,
        "memory_limit": f"{MEMORY_MB}MB",
        "temp_directory": str(directory / "spill"),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with duckdb.connect(str(directory / "records.duckdb"), config=settings) as database:
        yield database


def _recomputed(which: str) -> dict[str, str]:
    """Sums of recomputed tokens by cause, of requests of which this holds."""
    total = "coalesce(sum(recomputed_tokens) FILTER"
    return {
        **{cause: f"{total} ({which} AND recomputed_cause = '{cause}'), 0)" for cause in CAUSES},
        "unknown": f"{total} ({which} AND (recomputed_cause IS NULL OR recomputed_cause NOT IN {CAUSES})), 0)",
    }


_SUMS = {
    "requests": "count(*)",
    "error_requests": "count(*) FILTER (result = 'error')",
    "cut_requests": "count(*) FILTER (result = 'cut')",
    "refused_requests": "count(*) FILTER (result = 'refused')",
    **{
        name: f"coalesce(sum({name}), 0)"
        for name in ("input_tokens", "cached_tokens", "reasoning_tokens", "output_tokens")
    },
    "good_tokens": "coalesce(sum(output_tokens) FILTER (result = 'ok' AND slo = 'met'), 0)",
    "slo_met": "count(*) FILTER (slo = 'met')",
    "slo_missed": "count(*) FILTER (slo = 'missed')",
    "seconds": "sum(seconds)",
    "unpriced_seconds": "coalesce(sum(seconds) FILTER (usd IS NULL), 0)",
    "used": "coalesce(sum(usd), 0)",
    "error": "coalesce(sum(usd) FILTER (result = 'error'), 0)",
    "cut": "coalesce(sum(usd) FILTER (result = 'cut'), 0)",
    "failed": "coalesce(sum(usd) FILTER (result = 'ok' AND task_failed), 0)",
    "revenue": "coalesce(sum(revenue), 0)",
}
_FIGURES = ", ".join([*_SUMS.values(), *_recomputed("ended_well").values()])
_PEER_SUMS = {name: _SUMS[name] for name in ("requests", "input_tokens", "cached_tokens")}
_PEER_FIGURES = ", ".join([*_PEER_SUMS.values(), *_recomputed("result = 'ok'").values()])

_VIEWS = """
CREATE TABLE outcomes AS
    SELECT task, bool_or(outcome = 'success') AS succeeded FROM lines
    WHERE fault IS NULL AND type = 'request' AND task IS NOT NULL AND outcome IN ('success', 'failure') GROUP BY task;
CREATE VIEW asked AS SELECT * FROM lines WHERE fault IS NULL AND type = 'request';
CREATE VIEW requests AS
    SELECT asked.*,
        CASE WHEN asked.task IS NULL THEN CASE outcome WHEN 'success' THEN true WHEN 'failure' THEN false END
             ELSE succeeded END AS task_succeeded,
        coalesce(NOT task_succeeded, false) AS task_failed,
        result = 'ok' AND NOT task_failed AS ended_well
    FROM asked LEFT JOIN outcomes ON asked.task = outcomes.task;
"""


class _Reader:
    """Asks a loaded database; ``lines`` is there."""

    def __init__(self, database: duckdb.DuckDBPyConnection, by: By, period: Period, top: int) -> None:
        self._database, self._by, self._period, self._top = database, by, period, top

    def _ask(self, text: str, **values: Any) -> list[tuple[Any, ...]]:
        return self._database.execute(text, values or None).fetchall()

    def found(self) -> Found:
        """All of it.

        Raises:
            RecordsError: no line counts in this period.
        """
        found = Found(self._by, self._period, "")
        self._count(found)
        self._database.execute(_VIEWS)
        self._rank()
        self._paid(found)
        found.cells = self._cells()
        self._tasks(found)
        unpriced = self._ask("SELECT count(*) FROM asked WHERE usd IS NULL AND seconds > 0")[0][0]
        if unpriced:
            found.counted["unpriced"] = unpriced
        found.peers = [*self._peers()]
        found.speeds = self._speeds()
        found.offered = self._offered()
        return found

    def _count(self, found: Found) -> None:
        rows = self._ask("SELECT fault, type, count(*) FROM lines GROUP BY ALL")
        for fault, _, count in rows:
            if fault is not None and fault != "outside":
                found.counted[fault] = found.counted.get(fault, 0) + count
        counts = sum(count for fault, kind, count in rows if fault is None and kind != "lost")
        outside = sum(count for fault, _, count in rows if fault == "outside")
        ((lost,),) = self._ask("SELECT coalesce(sum(records), 0) FROM lines WHERE fault IS NULL AND type = 'lost'")
        found.lost_records = round(lost)
        if counts:
            if outside:
                found.notes.append(f"{outside} lines are of other times")
            return
        if outside:
            first, last = self._ask(
                "SELECT min(coalesce(start, finish)), max(finish) FROM lines WHERE fault = 'outside' AND type <> 'lost'"
            )[0]
            span = f"; these are from {told(first)} to {told(last)}, e.g. --range {_span(first, last)}" if first else ""
            raise RecordsError(f"--range: no record is from {self._period}{span}")
        faults = "; ".join(f"{count} {FAULTS[name]}" for name, count in found.counted.items())
        raise RecordsError(
            f"--records: no line counts{': ' + faults if faults else ', all files are empty'}; "
            f'expected usage records of version {VERSION}, e.g. {{"v":1,"type":"request",...}}'
        )

    def _rank(self) -> None:
        """The table ``ranked``: keys that have a row of their own."""
        key = _KEYS[self._by]
        self._database.execute(
            f"CREATE TABLE ranked AS SELECT {key} AS shown, true AS is_ranked FROM asked GROUP BY 1 "
            f"ORDER BY sum(usd) DESC NULLS LAST, sum(seconds) DESC, count(*) DESC, 1 LIMIT {int(self._top)}"
        )
        self._database.execute(
            "CREATE VIEW keyed AS SELECT requests.*, shown, is_ranked IS NULL AS others "
            f"FROM requests LEFT JOIN ranked ON ({key}) IS NOT DISTINCT FROM shown"
        )

    def _paid(self, found: Found) -> None:
        ((lines,),) = self._ask("SELECT count(*) FROM lines WHERE fault IS NULL AND type = 'paid'")
        rows = self._ask(
            "SELECT namespace, pool, accelerator, capacity_type, sum(usd), count(*), "
            "coalesce(sum(seconds) FILTER (usd IS NULL), 0) "
            "FROM (SELECT namespace, pool, accelerator, capacity_type, start, max(usd) AS usd, max(seconds) AS seconds "
            "FROM lines WHERE fault IS NULL AND type = 'paid' GROUP BY ALL) GROUP BY ALL"
        )
        found.paid = {Unit(*row[:4]): int(row[4]) for row in rows if row[4] is not None}
        twice = lines - sum(row[5] for row in rows)
        if twice:
            found.counted["duplicate_paid"] = twice
        unpriced = sum(row[6] for row in rows)
        if unpriced > 0.0:
            found.notes.append(f"{unpriced:.0f} paid accelerator-seconds have no price and are not in the bill")

    def _cells(self) -> list[Cell]:
        rows = self._ask(
            f"SELECT shown, others, namespace, pool, accelerator, capacity_type, coalesce(model, ''), {_FIGURES} "
            "FROM keyed GROUP BY shown, others, namespace, pool, accelerator, capacity_type, coalesce(model, '')"
        )
        return [Cell(row[0], Unit(*row[2:6]), row[6], _figures(row[7:]), row[1]) for row in rows]

    def _tasks(self, found: Found) -> None:
        sums = (
            "count(DISTINCT task) FILTER (task_succeeded) + count(*) FILTER (task IS NULL AND task_succeeded), "
            "count(DISTINCT task) FILTER (task_failed) + count(*) FILTER (task IS NULL AND task_failed), "
            "coalesce(sum(usd), 0)"
        )
        ended = "FROM keyed WHERE task_succeeded IS NOT NULL"
        for shown, others, *row in self._ask(f"SELECT shown, others, {sums} {ended} GROUP BY shown, others"):
            found.tasks[row_name(shown, others=others)] = Tasks(*(int(one) for one in row))
        ((*row,),) = self._ask(f"SELECT {sums} {ended}")
        found.all_tasks = Tasks(*(int(one) for one in row))

    def _peers(self) -> Iterator[Peer]:
        for kind in ("feature", "team", "tenant"):
            rows = self._ask(
                f"SELECT namespace || '/' || workload_class, {kind}, {_PEER_FIGURES} FROM asked "
                f"WHERE workload_class IS NOT NULL AND {kind} IS NOT NULL AND {kind} <> '{OTHERS}' GROUP BY 1, 2 "
                f"HAVING count(*) >= {MIN_PEER_REQUESTS} ORDER BY sum(input_tokens) DESC NULLS LAST, 1, 2 "
                f"LIMIT {MOST_PEERS}"
            )
            for row in rows:
                yield Peer(row[0], kind, row[1], _figures(row[2:], _PEER_SUMS))

    def _speeds(self) -> dict[tuple[str, str], Speed]:
        x, y = "input_tokens::DOUBLE", "output_tokens::DOUBLE"
        rows = self._ask(
            f"SELECT coalesce(model, ''), accelerator, count(*), sum({x}), sum({y}), sum(seconds), sum({x} * {x}), "
            f"sum({x} * {y}), sum({y} * {y}), sum({x} * seconds), sum({y} * seconds), coalesce(sum(saved), 0), "
            "coalesce(sum(cached_tokens) FILTER (saved IS NOT NULL), 0)::DOUBLE FROM asked "
            "WHERE result = 'ok' AND seconds > 0 AND input_tokens IS NOT NULL AND output_tokens IS NOT NULL "
            "GROUP BY 1, 2"
        )
        return {(row[0], row[1]): Speed(*row[2:]) for row in rows}

    def _offered(self) -> list[Offered]:
        rows = self._ask(
            f"SELECT namespace || '/' || workload_class, model, accelerator, capacity_type, {_FIGURES} FROM requests "
            "WHERE workload_class IS NOT NULL AND model IS NOT NULL AND accelerator <> '' GROUP BY 1, 2, 3, 4"
        )
        return [Offered(row[0], row[1], row[2], row[3], _figures(row[4:])) for row in rows]


def _figures(row: Sequence[Any], sums: Mapping[str, str] = _SUMS) -> Figures:
    """A row of these sums, and of the recomputed tokens behind them."""
    plain = dict(zip(sums, row, strict=False))
    values = {name: float(one) if name.endswith("seconds") else int(one) for name, one in plain.items()}
    recomputed = dict(zip((*CAUSES, "unknown"), (int(one) for one in row[len(sums) :]), strict=True))
    return Figures(**values, recomputed={cause: tokens for cause, tokens in recomputed.items() if tokens})  # type: ignore[arg-type]


def _span(first: float, last: float) -> str:
    return f"{told(first)[:10]}..{told(last)[:10]}"
