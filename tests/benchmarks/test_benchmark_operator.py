"""The operator's benchmark runs from end to end on a tiny fleet. What it measures is nobody's to assert here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods, pytest.mark.chart, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ["full_pass_seconds", "rss_mb", "quiet_writes", "reaction_seconds", "cluster_start_seconds"]


@pytest.mark.long
def test_the_operator_benchmark_measures_every_figure_of_a_tiny_fleet():
    size = ["--pools", "3", "--nodes", "6", "--period", "2", "--steps", "1", "--quiet-loops", "2", "--starts", "1"]
    done = subprocess.run(
        [sys.executable, "benchmarks/operator.py", *size, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert list(found)[: len(FIGURES)] == FIGURES
    assert all(isinstance(found[name], int | float) for name in FIGURES)
    assert set(found["limits"]) == set(FIGURES)
    assert found["pools"] == 3
    assert found["pods"] >= 3
