"""The forecast's benchmark runs from end to end on real traces. What it measures is nobody's to assert here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TIDEFLEET_SHARED", ROOT.parent / "shared"))
PROGRAM = ROOT / "benchmarks" / "forecast.py"


@pytest.fixture(scope="module")
def program() -> Any:
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("benchmark_forecast", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=250, check=False
    )


def test_slots_hold_as_much_as_the_bins_they_are_made_of(program: Any) -> None:
    bins = np.arange(18.0)
    slots = program.to_slots(bins)
    assert len(slots) == 12
    assert slots.sum() * 15 == pytest.approx(bins.sum() * 10)
    assert slots[0] == pytest.approx((10 * 0 + 5 * 1) / 15)


def test_composed_weeks_are_made_of_the_weeks_days_and_never_repeat_one_in_its_place(program: Any) -> None:
    week = np.repeat(np.arange(7.0), 96)
    days = program.three_weeks(week).reshape(-1, 96)[:, 0]
    weeks = [days[:7], days[7:14], days[14:]]
    assert [sorted(one) for one in weeks] == [list(range(7)), list(range(7)), list(range(5))]
    assert {*weeks[0][5:]} == {*weeks[1][5:]} == {5, 6}
    assert all(
        len({one[day] for one in weeks if day < len(one)}) == len([one for one in weeks if day < len(one)])
        for day in range(7)
    )


def test_a_perfect_forecast_has_no_error_and_a_low_one_no_coverage(program: Any) -> None:
    actual = np.array([10.0, 20.0, 30.0])
    assert program.figures(actual, actual, actual) == {"pinball": 0.0, "coverage": 1.0, "mape": 0.0, "wape": 0.0}
    low = program.figures(actual, actual / 2, actual / 2)
    assert low["coverage"] == 0.0
    assert low["wape"] == low["mape"] == 0.5
    assert low["pinball"] == pytest.approx(0.9 * 0.5)


def test_the_benchmark_prints_every_figure() -> None:
    if not (SHARED / "traces" / "servegen_rates.parquet").exists():
        pytest.skip("no servegen_rates.parquet; set TIDEFLEET_SHARED to the directory that has traces/")
    done = run("--traces", str(SHARED / "traces"), "--only", "azure2024", "--pools", "20", "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    for lead in ("1h", "4h", "24h"):
        for method in ("tidefleet", "seasonal_naive", "last_value"):
            assert set(found["azure2024"][lead][method]) == {"pinball", "coverage", "mape", "wape"}
    assert set(found["azure2024"]["replay"]) == {"nowcast", "nowcast_same_capacity", "forecast"}
    assert found["speed"]["pools"] == 20


def test_a_directory_without_traces_is_told(tmp_path: Path) -> None:
    done = run("--traces", str(tmp_path))
    assert done.returncode == 2
    assert "expected a directory with servegen_rates.parquet" in done.stderr
