"""Usage records as a router writes them, and files of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tidefleet.reporting.period import Period
from tidefleet.reporting.records import read_records
from tidefleet.reporting.report import Report, report_of
from tidefleet.reporting.values import By

START = 1_764_115_200.0
"""2025-11-26, 00:00 UTC."""

HOUR = Period(START, START + 3600.0)
Line = dict[str, Any]


def a_request(**changed: Any) -> Line:
    """A request that ended well in the first minute."""
    line: Line = {
        "v": 1, "type": "request", "end": START + 30.0, "namespace": "ml", "pool": "chat", "workload_class": "chat",
        "model": "llama-3.3-70b", "accelerator": "h200-sxm", "capacity_type": "OnDemand", "team": "search",
        "feature": "answers", "tenant": "9f86d081884c7d65", "task": None, "outcome": None, "result": "ok",
        "input_tokens": 1200, "cached_tokens": 800, "reasoning_tokens": None, "output_tokens": 310,
        "recomputed_tokens": 0, "recomputed_cause": None, "saved_seconds": 0.11, "ttft_seconds": 0.31,
        "tpot_seconds": 0.021, "seconds": 6.9, "accelerator_seconds": 0.84, "usd": 0.00073, "revenue_usd": 0.0021,
        "slo": "met",
    }  # fmt: skip
    return line | changed


def a_paid(**changed: Any) -> Line:
    """What was paid for a pool's chips in the first minute."""
    line: Line = {
        "v": 1, "type": "paid", "start": START, "end": START + 60.0, "namespace": "ml", "pool": "chat",
        "accelerator": "h200-sxm", "capacity_type": "OnDemand", "accelerator_seconds": 480.0, "usd": 0.46,
        "source": "router-0",
    }  # fmt: skip
    return line | changed


def text_of(lines: Iterable[Line | str]) -> str:
    """JSON Lines; a string is a line as it is."""
    return "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)


def write(path: Path, *lines: Line | str) -> Path:
    """A file of these lines."""
    path.write_text(text_of(lines))
    return path


def report_on(path: Path, by: By = By.TENANT, *, top: int = 50, period: Period = HOUR) -> Report:
    """The report of these records."""
    return report_of(read_records([path], by, period, top=top))
