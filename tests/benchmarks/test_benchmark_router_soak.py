"""The soak of the router, for a few seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from localcluster.addresses import PodRange
from localcluster.binaries import find
from localcluster.errors import LocalClusterError
from tidefleet.emulator.server import unbindable

SOAK = Path(__file__).resolve().parents[2] / "benchmarks" / "router_soak.py"


@pytest.mark.envoy
@pytest.mark.needs_local_pods
def test_a_short_run_answers_every_request_and_tells_its_figures() -> None:
    try:
        find("envoy")
    except LocalClusterError as reason:
        pytest.skip(f"no Envoy here: {reason}")
    with PodRange.claim() as own:
        if problem := unbindable(own.cidr.partition("/")[0]):
            pytest.skip(problem)
    argv = [sys.executable, str(SOAK), "--minutes", "0.1", "--rate", "40", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert found["requests"] > 100
    assert (found["wrong_5xx"], found["unanswered"]) == (0, 0), found["wrong_examples"]
    assert sum(found["statuses"].values()) == found["requests"]
    assert len(found["rss_mib"]) >= 2
    assert 0 < found["p50_ms"] <= found["p95_ms"]
    assert 0 < found["blocks_of_an_engine_at_most"] <= 4000
