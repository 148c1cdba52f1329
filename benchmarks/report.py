"""How long a report over usage records takes, and the memory it needs.

    python benchmarks/report.py [--records N] [--by tenant] [--compression zstd] [--directory DIR] [--json]

A week of N requests (10 million: about 6 GB of JSON Lines) of 20 pools on three types, 20,000 tenants and their tasks,
with the paid lines of every minute from two routers, is written to a temporary file, which is gone at the end. Then
`tidefleet report` runs in a process of its own:

wall_seconds      from its start to its end; limit 60 for 10 million records on two cores that do nothing else
cpu_seconds       of all its threads; where other work shares the cores, wall time tells of that work
peak_rss_mb       resident memory at its peak; limit 1000
bill_usd          what it came to, beside bill_expected_usd: what the paid lines were made to sum to
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", _ROOT, *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import duckdb  # noqa: E402

START, SECONDS = 1_764_115_200, 7 * 86_400
PAID_CENTS = 50
WALL_LIMIT_SECONDS, RSS_LIMIT_MB, FOR_RECORDS = 60.0, 1000.0, 10_000_000

REQUESTS = f"""
SELECT 'request' AS type, 1 AS v, {START} + i * ({SECONDS}.0 / $records) AS "end", 'ml' AS namespace,
    'pool-' || (i % 20) AS pool, 'class-' || (i % 12) AS workload_class, 'llama-3.3-70b' AS model,
    ['h200-sxm', 'h100-sxm', 'mi300x'][1 + i % 3] AS accelerator, 'OnDemand' AS capacity_type,
    'team-' || (i % 7) AS team, 'feature-' || (i % 31) AS feature,
    printf('%016x', hash(i % 20000)::UBIGINT) AS tenant,
    CASE WHEN i % 2 = 0 THEN printf('%016x', hash(i // 6)::UBIGINT) END AS task,
    CASE WHEN i % 12 = 0 THEN 'success' WHEN i % 60 = 30 THEN 'failure' END AS outcome,
    CASE WHEN i % 97 = 0 THEN 'error' WHEN i % 89 = 0 THEN 'cut' ELSE 'ok' END AS result,
    (hash(i) % 4000)::INT AS input_tokens, (hash(i) % 7919)::INT AS cached_tokens, NULL AS reasoning_tokens,
    (hash(i) % 601)::INT AS output_tokens, CASE WHEN i % 10 = 0 THEN 500 ELSE 0 END AS recomputed_tokens,
    CASE WHEN i % 10 = 0 THEN 'evicted' END AS recomputed_cause, (hash(i) % 5003) / 1e4 AS saved_seconds,
    (hash(i) % 9973) / 1e4 AS ttft_seconds, (hash(i) % 997) / 2e4 AS tpot_seconds,
    (hash(i) % 99991) / 1e4 AS seconds, (hash(i) % 20011) / 1e4 AS accelerator_seconds,
    (hash(i) % 1000003) / 1e9 AS usd, (hash(i) % 2500009) / 1e9 AS revenue_usd,
    CASE WHEN i % 20 = 0 THEN 'missed' ELSE 'met' END AS slo
FROM range($records) numbers(i)
"""
PAID = f"""
SELECT 'paid' AS type, 1 AS v, {START} + 60 * minute AS start, {START} + 60 * minute + 60 AS "end",
    'ml' AS namespace, 'pool-' || pool AS pool, accelerator, 'OnDemand' AS capacity_type,
    480.0 AS accelerator_seconds, {PAID_CENTS / 100} AS usd, source
FROM range({SECONDS // 60}) minutes(minute), range(20) pools(pool),
    (VALUES ('h200-sxm'), ('h100-sxm'), ('mi300x')) types(accelerator), (VALUES ('r0'), ('r1')) routers(source)
"""


def write_records(directory: Path, records: int, compression: str) -> int:
    """Write the week; its bytes."""
    ending = {"none": "", "gzip": ".gz", "zstd": ".zst"}[compression]
    settings = {"threads": 2, "memory_limit": "600MB", "preserve_insertion_order": False}
    with duckdb.connect(config={**settings, "temp_directory": str(directory / "spill")}) as database:
        for name, query, values in (("usage", REQUESTS, {"records": records}), ("paid", PAID, {})):
            path = directory / f"{name}.jsonl{ending}"
            database.execute(f"COPY ({query}) TO '{path}' (FORMAT json, COMPRESSION {compression})", values)
    return sum(path.stat().st_size for path in directory.glob("*.jsonl*"))


def measure(directory: Path, by: str) -> dict[str, Any]:
    """Run the report in a process of its own."""
    begin, end = (time.strftime("%Y-%m-%d", time.gmtime(START + at)) for at in (0, SECONDS - 1))
    words = ["report", "--records", str(directory), "--by", by, "--range", f"{begin}..{end}", "-o", "json"]
    result = directory / "report.json"
    surroundings = {**os.environ, "PYTHONPATH": f"{_ROOT}/operator", "TMPDIR": str(directory)}
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tidefleet", *words, "--output-file", str(result)],
        env=surroundings, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"tidefleet report ended with status {process.returncode}")
    answer = json.loads(result.read_text())
    return {
        "wall_seconds": wall,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_rss_mb": used.ru_maxrss * 1024 / 1e6,
        "bill_usd": answer["bill_usd"],
        "bill_expected_usd": SECONDS // 60 * 20 * 3 * PAID_CENTS / 100,
        "requests": answer["total"]["requests"],
        "rows": len(answer["rows"]),
    }


def main() -> None:
    """Write, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=FOR_RECORDS)
    parser.add_argument("--by", default="tenant")
    parser.add_argument("--compression", choices=("none", "gzip", "zstd"), default="none")
    parser.add_argument("--directory", type=Path, help="where the file may be; the machine's own place by default")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidefleet-benchmark-", dir=given.directory) as name:
        figures: dict[str, Any] = {"bytes": write_records(Path(name), given.records, given.compression)}
        load = os.getloadavg()[0]
        figures |= measure(Path(name), given.by) | {"load_before": load}
    if given.json:
        print(json.dumps(figures, indent=2))
        return
    scale = given.records / FOR_RECORDS
    for key, value in figures.items():
        print(f"{key:<20} {value:,.2f}" if isinstance(value, float) else f"{key:<20} {value:,}")
    print(f"limit for {FOR_RECORDS:,} records: {WALL_LIMIT_SECONDS:.0f} s of wall time on two free cores "
          f"(here {scale:.2g} of that many), {RSS_LIMIT_MB:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
