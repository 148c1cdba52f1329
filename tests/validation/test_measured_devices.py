"""The cost model against kernels that ran on a real H100 and H200 (benchmarks/measured/)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXPERTS = ("qwen3-30b-a3b",)
FILES = sorted((ROOT / "benchmarks" / "measured").glob("*.jsonl"))


@pytest.fixture(scope="module")
def comparison() -> ModuleType:
    path = ROOT / "benchmarks" / "device_compare.py"
    spec = importlib.util.spec_from_file_location("device_compare", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    kept = list(sys.path)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = kept
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_steps_of_decode_take_what_bare_kernels_take_and_at_most_a_third_more(
    path: Path, comparison: ModuleType
) -> None:
    ratios = {
        one.shape: one.ratio
        for one in comparison.compare(path)
        if one.row["kind"] == "decode" and one.row["model"] not in EXPERTS
    }
    outside = {shape: ratio for shape, ratio in ratios.items() if not 0.9 <= ratio <= 1.35}
    assert len(ratios) >= 28
    assert not outside
    assert 0.95 <= median(ratios.values()) <= 1.25


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_step_reads_as_many_experts_as_its_batch_meets(path: Path, comparison: ModuleType) -> None:
    """From one sequence to 128 a step takes four to five times as long, since it meets 128 experts instead of 8."""
    found = {
        one.row["batch"]: one
        for one in comparison.compare(path)
        if one.row["kind"] == "decode" and one.row["model"] in EXPERTS and one.row["context"] == 1024
    }
    ratios = [one.ratio for one in found.values()]
    assert len(ratios) >= 7
    assert 4.0 < found[128].row["seconds"] / found[1].row["seconds"] < 5.5
    assert min(ratios) >= 0.85
    assert max(ratios) <= 1.0
    assert max(ratios) / min(ratios) <= 1.05


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_prefills_up_to_a_chunk_take_what_was_measured_within_a_quarter(path: Path, comparison: ModuleType) -> None:
    ratios = {
        one.shape: one.ratio
        for one in comparison.compare(path)
        if one.row["kind"] == "prefill"
        and one.row["model"] not in EXPERTS
        and not one.row["cached"]
        and one.row["uncached"] <= one.row["chunk"]
    }
    assert len(ratios) == 12
    assert not {shape: ratio for shape, ratio in ratios.items() if not 0.72 <= ratio <= 1.25}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_power_of_a_card_at_work_is_right_within_fifteen_percent_on_average(
    path: Path, comparison: ModuleType
) -> None:
    assert comparison.summary(path)["watts_mape"] <= 0.15


def test_every_step_of_decode_ranks_the_two_cards_as_measured(comparison: ModuleType) -> None:
    def steps(stem: str, of: str) -> dict[str, float]:
        path = next(one for one in FILES if one.stem == stem)
        return {
            one.shape: one.seconds if of == "model" else one.row["seconds"]
            for one in comparison.compare(path)
            if one.row["kind"] == "decode"
        }

    shared = steps("h100", "model").keys() & steps("h200", "model").keys()
    assert len(shared) >= 28
    for of in ("model", "measured"):
        assert all(steps("h200", of)[shape] < steps("h100", of)[shape] for shape in shared)


def test_the_shipped_week_counts_on_no_faster_host_memory_than_was_measured(comparison: ModuleType) -> None:
    text = (ROOT / "operator" / "tidefleet" / "simulator" / "scenarios" / "week.yaml").read_text(encoding="utf-8")
    pool = yaml.safe_load(text)["pools"][0]
    host = next(tier for tier in pool["tiers"] if tier["medium"] == "host")
    slowest = min(
        row["gigabytes_per_second"] for path in FILES for row in comparison.read(path)[1] if row["kind"] == "fetch"
    )
    assert host["bytesPerSecond"] / pool["chipsPerReplica"] <= slowest * 1e9
