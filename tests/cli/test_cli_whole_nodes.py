"""`tidefleet plan` where rent is paid by whole nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tidefleet.cli.main import app


def a_pool(name: str, rate: str, *accelerators: str) -> str:
    allowed = "".join(f"\n    - {{type: {one}, tensorParallel: [1]}}" for one in accelerators)
    return f"""
apiVersion: tidefleet.io/v1alpha1
kind: InferencePool
metadata: {{name: {name}, namespace: prod}}
spec:
  model: {{name: llama-3.1-8b}}
  serving: {{template: {{spec: {{containers: [{{name: engine, image: vllm}}]}}}}}}
  accelerators:{allowed}
---
apiVersion: tidefleet.io/v1alpha1
kind: WorkloadClass
metadata: {{name: {name}-web, namespace: prod}}
spec:
  poolRef: {{name: {name}}}
  demand: {{requestsPerSecond: "{rate}"}}
  tokens: {{input: {{mean: 1000}}, output: {{mean: 250}}}}
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})


@pytest.fixture
def fleet(tmp_path: Path) -> str:
    """A pool that leaves most of a node of H100s idle, and one that is cheaper on an L40S alone."""
    (tmp_path / "fleet.yaml").write_text(f"{a_pool('a', '5', 'h100-sxm')}---{a_pool('b', '2', 'h100-sxm', 'l40s')}")
    return str(tmp_path)


def answers(*arguments: str) -> list[dict[str, Any]]:
    result = run("plan", "-o", "json", *arguments)
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def used(one: dict[str, Any]) -> set[str]:
    return {option["accelerator"] for option in one["plan"]["options"] if option["replicas"]}


def test_a_small_pool_goes_where_another_pools_node_has_idle_chips(fleet: str) -> None:
    apart = answers("-f", fleet)
    assert [used(one) for one in apart] == [{"h100-sxm"}, {"l40s"}]
    assert all((one["nodes"], one["idle_usd_per_hour"]) == ({}, 0.0) for one in apart)
    a, b = answers("-f", fleet, "--whole-nodes")
    assert used(a) == used(b) == {"h100-sxm"}
    assert a["nodes"] == b["nodes"] == {"h100-sxm": 1}
    (nodes,) = b["plan"]["nodes"]
    held = sum(option["chips"] for one in (a, b) for option in one["plan"]["options"])
    assert nodes["idleChips"] == 8 - held
    assert a["idle_usd_per_hour"] + b["idle_usd_per_hour"] == pytest.approx(float(nodes["idleUsdPerHour"]), rel=0.05)
    told = run("plan", "-f", fleet, "--whole-nodes").stdout
    assert f"{8 - held} of 8 chips of a node of h100-sxm idle: $" in told
    assert "the whole nodes that all pools stand on cost $" in told
