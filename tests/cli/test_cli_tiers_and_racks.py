"""`tidefleet plan` with KV tiers whose size it says, and with types that are bought by the rack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tidefleet.cli.main import app

POOL = """
apiVersion: tidefleet.io/v1alpha1
kind: InferencePool
metadata: {name: agent, namespace: prod}
spec:
  model: {name: llama-3.3-70b}
  serving: {template: {spec: {containers: [{name: engine, image: vllm}]}}}
  accelerators:
  - {type: ACCELERATOR, tensorParallel: [4], weights: [Fp8], kv: [Fp8], capacityTypes: [CAPACITY]}
  replicas: {min: 1, max: 64}
  kvCache:
    tiers:
    - medium: Disk
      maxBytesPerReplica: 17592186044416
      bytesPerSecond: 12000000000
      usdPerGibMonth: "0.05"
      sizing: Planned
---
apiVersion: tidefleet.io/v1alpha1
kind: WorkloadClass
metadata: {name: agent, namespace: prod}
spec:
  poolRef: {name: agent}
  demand: {requestsPerSecond: "6"}
  turnsPerSession: "9"
  tokens: {input: {mean: 24000}, output: {mean: 300}, cachedShare: "0.2"}
"""


def run(folder: Path, *arguments: str, accelerator: str = "h100-sxm", capacity: str = "OnDemand") -> Result:
    text = POOL.replace("ACCELERATOR", accelerator).replace("CAPACITY", capacity)
    (folder / "pool.yaml").write_text(text)
    environment = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    result = CliRunner().invoke(app, ["plan", "-f", str(folder), *arguments], env=environment)
    assert result.exit_code == 0, result.output
    return result


def test_the_plan_tells_how_large_a_tier_pays_for_itself(tmp_path: Path) -> None:
    text = run(tmp_path).stdout
    assert "KV tier Disk: " in text
    assert "of prompt tokens for $" in text
    assert "KV tiers save $" in text
    assert "times the room on the chips" in text
    assert "80% of prompt tokens come again after a pause of 60 s (assumed)" in text
    (answer,) = json.loads(run(tmp_path, "-o", "json").stdout)
    (tier,) = answer["plan"]["kvTiers"]["tiers"]
    assert 0 < tier["bytesPerReplica"] <= 17592186044416


@pytest.mark.parametrize(("arguments", "multiple"), [((), 1), (("--whole-racks",), 18)])
def test_racks_are_counted_whole_where_it_is_asked_for(
    tmp_path: Path, arguments: tuple[str, ...], multiple: int
) -> None:
    found = run(tmp_path, "-o", "json", *arguments, accelerator="gb200-nvl72", capacity="Reserved")
    (answer,) = json.loads(found.stdout)
    replicas = [one["replicas"] for one in answer["plan"]["options"]]
    assert all(one % multiple == 0 for one in replicas)
    assert ("whole rack" in answer["reason"]) == (multiple > 1)
    assert sum(replicas) < 18 or multiple > 1
