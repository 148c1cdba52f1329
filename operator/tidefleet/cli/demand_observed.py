"""What was observed of classes, for `tidefleet demand --observed`: from a Prometheus, or from a file of CSV."""

from __future__ import annotations

import asyncio
import csv
import io
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median
from typing import Any

import aiohttp

from tidefleet.cli.validate import UnreadableError, read
from tidefleet.controller.config import Prometheus
from tidefleet.controller.prometheus import query
from tidefleet.planning.forecast_check import HOUR, Seen

COLUMNS = ("time", "class", "requests_per_second")
_EXAMPLE = "2026-12-01T09:00:00Z,chat,3.5"


class NotObserved(ValueError):
    """Observations cannot be read; the message says where, what came, what was expected, and an example."""


def from_csv(name: str) -> tuple[Seen, ...]:
    """Rows of ``time,class,requests_per_second``: time in ISO 8601 or Unix seconds, of the beginning of each interval.

    An interval is as long as the usual time between a class's rows; an hour where it has one row.

    Raises:
        NotObserved: the file cannot be read, or a row cannot be used; the message names the line.
    """
    try:
        text = read(name)
    except UnreadableError as error:
        raise NotObserved(f"--observed {name}: {error}; expected a file of CSV, e.g. {','.join(COLUMNS)}") from None
    rows = list(_rows(name, text))
    if not rows:
        raise NotObserved(f"--observed {name}: has no rows; expected some under {','.join(COLUMNS)}, e.g. {_EXAMPLE}")
    steps = {}
    for wclass in {one for one, _, _ in rows}:
        times = sorted({at for one, at, _ in rows if one == wclass})
        steps[wclass] = median(b - a for a, b in pairwise(times)) if len(times) > 1 else HOUR
        if steps[wclass] > HOUR:
            raise NotObserved(
                f"--observed {name}: rows of {wclass} are {steps[wclass]:g} s apart; expected at most an hour, "
                "for the forecast is one of hours, e.g. a row each 3600 s"
            )
    return tuple(Seen(wclass, at, rate, steps[wclass]) for wclass, at, rate in rows)


def _rows(name: str, text: str) -> Iterator[tuple[str, float, float]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        missing = [one for one in COLUMNS if one not in (reader.fieldnames or ())]
        if missing:
            raise NotObserved(f"--observed {name}: has no column {missing[0]}; expected {','.join(COLUMNS)}")
        for row in reader:
            place = f"--observed {name}:{reader.line_num}"
            rate = _number(row["requests_per_second"])
            if not (math.isfinite(rate) and 0.0 <= rate <= 1e12):
                came = str(row["requests_per_second"])[:40]
                raise NotObserved(
                    f"{place}: requests_per_second is {came!r}; expected a number from 0 to 1e12, e.g. 3.5"
                )
            yield str(row["class"]), _time(str(row["time"]), place), rate
    except csv.Error as error:
        raise NotObserved(
            f"--observed {name}:{reader.line_num}: is not CSV ({error}); expected e.g. {_EXAMPLE}"
        ) from None


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _time(text: str, place: str) -> float:
    seconds = _number(text)
    if math.isnan(seconds):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is not None:
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0.0 <= seconds <= 4e10:
        raise NotObserved(
            f"{place}: time is {text[:40]!r}; expected ISO 8601 or seconds since 1970, e.g. 2026-12-01T09:00:00Z"
        )
    return seconds


def from_prometheus(config: Prometheus, namespace: str, days: int) -> tuple[Seen, ...]:
    """Requests per second of each class in each of the last hours, as routers counted them when they ended.

    Raises:
        NotObserved: it does not answer, or with nothing that can be used.
    """
    text = (
        f'(sum by (workload_class) (rate(tidefleet_router_requests_total{{namespace="{namespace}"}}[1h])))[{days}d:1h]'
    )

    async def asked() -> Any:
        async with aiohttp.ClientSession() as session:
            return await query(session, config, text)

    try:
        series = asyncio.run(asked())["data"]["result"]
        found = tuple(
            Seen(str(one["metric"].get("workload_class", "")), float(at) - HOUR, float(value))
            for one in series
            for at, value in one["values"]
        )
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise NotObserved(
            f"--observed {config.url}: Prometheus cannot be reached or understood: {error or type(error).__name__}; "
            "expected the address of one, e.g. http://prometheus.monitoring:9090"
        ) from None
    usable = tuple(one for one in found if math.isfinite(one.requests_per_second) and one.requests_per_second >= 0.0)
    if not usable:
        raise NotObserved(
            f'--observed {config.url}: has no tidefleet_router_requests_total of namespace "{namespace}" in the last '
            f"{days} days; expected a Prometheus that scrapes the router, e.g. http://prometheus.monitoring:9090"
        )
    return usable
