"""The benchmark of flipping runs from end to end. What it measures is not asserted here, save published figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "benchmarks" / "flipping.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=250, check=False
    )


def test_the_benchmark_prints_every_figure_with_its_limit() -> None:
    done = run("--nodes", "60", "--no-recalls", "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert found["deepseek_freed_ratio"] == pytest.approx(0.184, abs=5e-4)
    assert found["deepseek_overhead_ratio_20min"] == pytest.approx(0.057, abs=5e-4)
    assert found["ratios"].keys() == (found["limits"].keys() | found["targets"].keys()) - {"recall_seconds_p99"}
    assert found["recall_why"] == "not asked for"
    assert {"schedule_seconds", "kinds_seconds", "week_overhead_ratio"} <= found.keys()
    assert 0.5 < found["kinds_of_bound"] <= 1.0


def test_a_directory_without_traces_and_too_few_nodes_are_told(tmp_path: Path) -> None:
    done = run("--traces", str(tmp_path))
    assert done.returncode == 2
    assert "expected a directory with fleet_shape_7d_10min.csv" in done.stderr
    done = run("--nodes", "3")
    assert done.returncode == 2
    assert "--nodes is 3; expected at least 20" in done.stderr
    done = run("--recalls", "5")
    assert done.returncode == 2
    assert "--recalls is 5; expected 20 or more" in done.stderr


def test_the_parts_of_a_recall_add_up_and_its_p99_stands_beside_the_budget() -> None:
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import recall
    finally:
        sys.path.remove(str(ROOT))
    found = [recall.Recalled(f"n-{index}", 20.0 + index, 1.0, 60.0, 2.0) for index in range(20)]
    told = recall.figures(found, notice_seconds=1.5)
    assert told["recalls"] == 20
    assert told["recall_seconds_median"] == pytest.approx(92.5)
    assert 101.0 < told["recall_seconds_p99"] <= 102.0
    assert told["recall_parts_seconds_p99"]["load_start"] == 60.0
    assert told["recall_parts_seconds_p99"].keys() == set(recall.PARTS)
