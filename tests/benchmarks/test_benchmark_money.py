"""The benchmark of `tidefleet money` runs from end to end. What it measures is nobody's to assert here."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_benchmark_tells_seconds_beside_the_limit():
    command = [sys.executable, str(ROOT / "benchmarks" / "money.py"), "--json", "--runs", "1"]
    small = ["--months", "12", "--types", "3", "--scenarios", "4"]
    result = subprocess.run([*command, *small], cwd=ROOT, capture_output=True, text=True, timeout=250, check=True)
    told = json.loads(result.stdout)
    assert (told["months"], told["types"], told["scenarios"]) == (12, 3, 4)
    assert told["limit_seconds"] == 10.0
    assert told["slowest_seconds"] == max(told["seconds"]) > 0
    assert told["processor_seconds"] > 0
