"""The energy benchmark leaves whole models out, reaches its goal, and fits nothing on a file it is given."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import economics_energy as bench  # noqa: E402

needs_runs = pytest.mark.skipif(not bench.MEASURED.is_file(), reason=f"no measured runs at {bench.MEASURED}")


@needs_runs
def test_energy_of_models_left_out_is_within_the_goal() -> None:
    found = bench.measure()
    assert (found["energy_rows"], found["energy_rows_skipped"]) == (460, 0)
    assert found["energy_models_left_out"] == 17
    assert found["energy_mape"] <= 0.12
    assert found["tpot_mape_left_out"] <= 0.23
    assert found["power_mape_fitted"] < found["energy_mape"]


@needs_runs
def test_the_shipped_constants_are_those_of_the_fit() -> None:
    runs = bench.read(bench.MEASURED)
    assert tuple(bench.fit_power(runs)) == pytest.approx(bench.SHIPPED, rel=0.02)
    assert tuple(bench.fit_engine(runs)) == pytest.approx(bench.ENGINE_COSTS, rel=0.05)


def a_run(**changes: str) -> dict[str, str]:
    return {
        "task": "lm-arena-chat",
        "model_id": "Qwen/Qwen3-8B",
        "gpu_model": "H100",
        "num_gpus": "1",
        "tensor_parallel": "1",
        "data_parallel": "1",
        "expert_parallel": "1",
        "weight_precision": "bfloat16",
        "avg_batch_size": "64",
        "avg_output_len": "600",
        "median_itl_ms": "14",
        "output_throughput_tokens_per_sec": "4300",
        "energy_per_token_joules": "0.12",
        **changes,
    }


def written(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def test_nothing_is_fitted_on_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_least_relative_error", lambda model, start: pytest.fail("fitted"))
    right = bench.measure(written(tmp_path / "right.csv", a_run()))
    wrong = bench.measure(written(tmp_path / "wrong.csv", a_run(energy_per_token_joules="0.24")))
    assert right["energy_rows"] == 1
    assert right["energy_models_left_out"] == 0
    assert wrong["energy_mape"] == pytest.approx(1 - (1 + right["energy_mape"]) / 2, abs=0.2)
    assert wrong["energy_mape"] > right["energy_mape"]


def test_models_and_chips_that_do_not_ship_are_left_out(tmp_path: Path) -> None:
    file = written(tmp_path / "runs.csv", a_run(), a_run(model_id="a/b"), a_run(gpu_model="Z9"))
    assert [run.architecture for run in bench.read(file)] == ["qwen3-8b"]


def test_expert_parallel_runs_share_attention_unless_ranks_hold_it(tmp_path: Path) -> None:
    file = written(
        tmp_path / "runs.csv",
        a_run(model_id="Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", num_gpus="8", expert_parallel="8"),
        a_run(model_id="Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", num_gpus="8", data_parallel="8", expert_parallel="8"),
    )
    together, apart = (run.replica for run in bench.read(file))
    assert (together.tp, together.data_parallel, together.expert_parallel) == (8, 1, 8)
    assert (apart.tp, apart.data_parallel, apart.expert_parallel) == (1, 8, 8)
