"""Rates, times and memory that engines and benchmarks published, asked of `tidefleet cost` under their conditions.

``published_rates.csv`` holds a figure a row: what to ask, what was published, the tolerance, and the source. ``missed``
is our figure over the published one where that is beyond the tolerance, with the reason. What was fitted to some of
these rows says so where its constant stands (``economics.efficiency``).
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from typer.testing import CliRunner

from tidefleet.cli import workload
from tidefleet.cli.main import app

with Path(__file__).with_name("published_rates.csv").open(newline="", encoding="utf-8") as _file:
    ROWS: Mapping[str, Mapping[str, str]] = {row["id"]: row for row in csv.DictReader(_file)}

REASONS: Mapping[str, str] = {
    "load": "how many requests the engine ran at a time is not published; public runs of this model and chip of up to "
    "256 requests at a time are met within 17 %",
    "outlier": "from 1,024 to 8,192 output tokens the published rate falls to a quarter here, and to half on B200",
    "waves": "1,500 requests of one length run in a few waves, so the mean batch is below what fits in memory",
    "kernels": "no run of this model is in the sample that efficiencies are fitted to",
    "scalar": "one scalar stands for all batches of its group, and small ones are further from the roofline",
}

_OPTIONS = (
    "model", "accelerator", "chips", "tp", "ep", "role", "weights", "kv", "engine", "input", "output", "batch", "tpot",
    "accept_length", "draft_tokens", "memory_utilisation",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _without_optional_kernel_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "kernel_tables", lambda: None)


@cache
def ratio(key: str) -> float:
    """Our figure over the published one."""
    row = ROWS[key]
    asked = [part for name in _OPTIONS if row[name] for part in (f"--{name.replace('_', '-')}", row[name])]
    answer: Mapping[str, Any] = json.loads(CliRunner().invoke(app, ["cost", *asked, "-o", "json"]).stdout)
    assert answer[row["figure"]] is not None, f"{key}: {answer.get('because')}"
    return float(answer[row["figure"]]) / float(row["value"])


def is_within(row: Mapping[str, str], found: float) -> bool:
    return abs(found - 1.0) <= float(row["tolerance"].rstrip("%")) / 100.0


@pytest.mark.parametrize("key", ROWS)
def test_a_published_figure_is_met_or_missed_as_the_table_says(key: str) -> None:
    row, found = ROWS[key], ratio(key)
    assert is_within(row, found) == (not row["missed"]), f"{key}: {found:.3f} times the published {row['value']}"
    if row["missed"]:
        worst = abs(math.log(float(row["missed"]))) + math.log(1.05)
        assert abs(math.log(found)) <= worst, f"{key}: {found:.3f}, further off than {row['missed']}"


def test_each_kind_of_figure_is_right_on_the_median_and_mostly_met() -> None:
    groups = defaultdict(list)
    for key, row in ROWS.items():
        groups[row["group"]].append((ratio(key), is_within(row, ratio(key))))
    assert len(groups) == 8
    for name, found in groups.items():
        assert 0.85 <= median(one for one, _ in found) <= 1.18, name
        assert sum(met for _, met in found) >= 0.7 * len(found), name


def test_every_row_names_its_source_and_every_miss_its_reason() -> None:
    assert len(ROWS) >= 140
    for row in ROWS.values():
        assert row["source"]
        assert row["conditions"]
        assert (row["reason"] in REASONS) == bool(row["missed"])
