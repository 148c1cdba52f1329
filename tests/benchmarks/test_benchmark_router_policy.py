"""The replay of policies on a small trace of its own, and the program without traces."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.router_policy_engine import POLICIES, replay  # noqa: E402
from benchmarks.router_policy_traces import Scenario, Turn, replica  # noqa: E402

from tidefleet.routing.hashing import token_keys  # noqa: E402
from tidefleet.routing.rates import rates_of  # noqa: E402

BLOCK = 64


def sessions(count: int, turns: int, *, closed: bool) -> Scenario:
    """Sessions that grow by 1,024 tokens a turn behind a common head of one block."""
    found = []
    for number in range(count):
        tokens = np.arange(1024 * (turns + 4), dtype=np.uint32) + np.uint32((number + 1) << 20)
        tokens[:BLOCK] = np.arange(BLOCK)
        keys = token_keys(tokens, BLOCK)
        grown = [1024 * (turn + 4) for turn in range(turns)]
        found.append([Turn(size, 100, keys[: size // BLOCK], number, 5.0 + 0.1 * number) for size in grown])
    return Scenario("made", BLOCK, found, closed, 200_000, count)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_serves_every_request(policy: str) -> None:
    scenario = sessions(12, 6, closed=True)
    found = replay(scenario, policy, rates_of(replica()), replicas=4)
    assert found.requests == 72
    assert 0.0 <= found.hit < 1.0
    assert 1.0 <= found.load <= 4.0
    assert 0.0 < found.ttft_mean <= found.ttft_p90 * 10.0


def test_the_picker_keeps_sessions_where_they_are_and_does_not_collapse_on_a_common_head() -> None:
    scenario, rates = sessions(24, 8, closed=True), rates_of(replica())
    picked, greedy, spread = (replay(scenario, one, rates, replicas=4) for one in ("pick", "greedy", "round_robin"))
    assert picked.hit >= greedy.hit - 0.02
    assert picked.hit > spread.hit + 0.1
    assert picked.load <= 1.4
    assert picked.ttft_mean <= min(greedy.ttft_mean, spread.ttft_mean)


def test_without_traces_only_decisions_are_timed(tmp_path: Path) -> None:
    program = ROOT / "benchmarks" / "router_policy.py"
    done = subprocess.run(
        [sys.executable, str(program), "--traces", str(tmp_path), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout).keys() == {"pick_us_p50_10", "pick_us_p50_64", "pick_us_p50_1000"}
