"""The energy benchmark leaves whole models out, reaches its goal, and fits nothing on a file it is given."""

from __future__ import annotations

import csv
import math
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


def test_columns_may_stand_in_any_order_with_others_between(tmp_path: Path) -> None:
    run = a_run()
    turned = {"note": "x", **dict(reversed(run.items()))}
    straight, other = written(tmp_path / "straight.csv", run), written(tmp_path / "turned.csv", turned)
    other.write_bytes(b"\xef\xbb\xbf" + other.read_bytes())
    assert bench.measure(straight) == bench.measure(other)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"energy_per_token_joules": "nan"}, "row 2: energy_per_token_joules is 'nan'; expected a number above 0"),
        ({"energy_per_token_joules": "-1"}, "energy_per_token_joules is '-1'"),
        ({"energy_per_token_joules": ""}, "energy_per_token_joules is ''"),
        ({"output_throughput_tokens_per_sec": "inf"}, "output_throughput_tokens_per_sec is 'inf'"),
        ({"median_itl_ms": "0"}, "median_itl_ms is '0'"),
        ({"avg_batch_size": "many"}, "avg_batch_size is 'many'"),
        ({"num_gpus": "0"}, "num_gpus is '0'; expected a whole number from 1"),
        ({"num_gpus": "1.5"}, "num_gpus is '1.5'"),
        ({"model_id": "a/b"}, "no run that can be judged"),
    ],
)
def test_a_run_that_makes_no_sense_is_named_by_row_and_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], says: str
) -> None:
    file = written(tmp_path / "runs.csv", a_run(**changes))
    with pytest.raises(SystemExit) as ended:
        bench.main(["--energy", str(file), "--json"])
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert not out
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has no column task"),
        (bytes(range(256)), "cannot be read as CSV"),
        (b"task;model_id\na;b\n", "has no column task"),
        (",".join(a_run()).encode(), "has no rows"),
        (",".join(a_run()).encode() + b"\nchat,Qwen/Qwen3-8B,H100,1,1,1,1,bfloat16,64,6", "median_itl_ms is"),
    ],
)
def test_a_file_that_is_no_table_of_runs_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "runs.csv").write_bytes(content)
    with pytest.raises(bench.UnusableRuns, match=says):
        bench.measure(tmp_path / "runs.csv")


def test_figures_that_no_run_is_of_are_left_out(tmp_path: Path) -> None:
    found = bench.measure(written(tmp_path / "dense.csv", a_run()))
    assert "tpot_mape_uncalibrated_moe" not in found
    assert all(math.isfinite(value) for value in found.values())


def test_expert_parallel_runs_share_attention_unless_ranks_hold_it(tmp_path: Path) -> None:
    file = written(
        tmp_path / "runs.csv",
        a_run(model_id="Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", num_gpus="8", expert_parallel="8"),
        a_run(model_id="Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", num_gpus="8", data_parallel="8", expert_parallel="8"),
    )
    together, apart = (run.replica for run in bench.read(file))
    assert (together.tp, together.data_parallel, together.expert_parallel) == (8, 1, 8)
    assert (apart.tp, apart.data_parallel, apart.expert_parallel) == (1, 8, 8)
