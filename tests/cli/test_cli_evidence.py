"""What the commands say an answer's speed rests on, with aiconfigurator-core and without it."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tidefleet.catalogue.aiconfigurator import why_not
from tidefleet.cli.main import app

COST = ("cost", "--model", "llama-3.3-70b", "--accelerator", "h200-sxm", "--weights", "fp8", "--tp", "4")
POOL = """
apiVersion: tidefleet.io/v1alpha1
kind: InferencePool
metadata: {name: chat, namespace: prod}
spec:
  model: {name: llama-3.3-70b}
  accelerators: [{type: h200-sxm, tensorParallel: [4], weights: [Fp8]}]
  serving: {template: {spec: {containers: [{name: engine, image: vllm}]}}}
---
apiVersion: tidefleet.io/v1alpha1
kind: WorkloadClass
metadata: {name: web, namespace: prod}
spec:
  poolRef: {name: chat}
  tokens: {input: {mean: 1000}, output: {mean: 250}}
  objectives: [{metric: TPOT, percentile: 95, milliseconds: 50}]
"""

needs_package = pytest.mark.skipif(bool(why_not()), reason=why_not() or "installed")


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)


def answer(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "-o", "json"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@needs_package
def test_cost_names_the_package_whose_error_is_the_lowest_and_the_runs_that_say_so() -> None:
    found = answer(*COST)
    assert found["provenance"] == "AIConfigurator"
    assert found["provenance_source"].startswith("aiconfigurator-core 0.12.0, by 60 runs of llama-3.1-70b on h200-sxm")
    assert found["tpot_seconds"] != answer(*COST, "--engine", "sglang")["tpot_seconds"]


@pytest.mark.usefixtures("without_package")
def test_without_the_package_cost_names_the_next_best() -> None:
    found = answer(*COST)
    assert found["provenance"] == "Roofline"
    assert found["provenance_source"].startswith("60 runs of llama-3.1-70b on h200-sxm with vllm")
    bare = answer(*COST, "--engine", "sglang")
    assert bare["provenance"] == "Roofline"
    assert "60 runs" not in bare["provenance_source"]
    text = CliRunner().invoke(app, list(COST), env={"COLUMNS": "300"}).stdout
    assert "speed from Roofline, sigma" in text
    assert "60 runs of llama-3.1-70b on h200-sxm with vllm" in text


@pytest.mark.usefixtures("without_package")
def test_compare_and_cost_rest_on_the_same() -> None:
    model = ("--model", "llama-3.3-70b", "--accelerator", "h200-sxm", "--weights", "fp8", "--tpot", "80ms")
    model += ("--engine", "trtllm")
    compared = answer("compare", *model, "--no-api", "--no-pairs")["entries"][0]
    priced = answer("cost", *model, "--tp", str(compared["layout"][0]["tensor_parallel"]))
    assert compared["provenance"] == priced["provenance"] == "Group"
    assert compared["tpot_seconds"] == pytest.approx(priced["tpot_seconds"])
    assert compared["usd_per_million_tokens"] == pytest.approx(priced["usd_per_million_tokens"])


@pytest.mark.parametrize("package", [pytest.param(True, marks=needs_package), False])
def test_a_plan_tells_what_its_options_rest_on(tmp_path: Path, package: bool, request: pytest.FixtureRequest) -> None:
    if not package:
        request.getfixturevalue("without_package")
    (tmp_path / "pool.yaml").write_text(POOL)
    (plan,) = answer("plan", "-f", str(tmp_path), "--demand", "chat=20")
    (option,) = plan["plan"]["options"]
    assert option["provenance"] == ("AIConfigurator" if package else "Roofline")
    assert 0.05 < float(option["sigma"]) < 0.3
