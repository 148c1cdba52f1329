"""The benchmark's command, its reader, and the slice ILP on the example that its authors published."""

from __future__ import annotations

import importlib
import json
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from fleet_builders import planned

ROOT = Path(__file__).resolve().parents[2]


def benchmark_module(name: str) -> types.ModuleType:
    sys.path.append(str(ROOT / "benchmarks"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def melange() -> types.ModuleType:
    return benchmark_module("planner_melange")


@pytest.mark.parametrize(("slice_factor", "usd"), [(1, 6.70), (2, 5.69)])
def test_slices_cost_what_their_authors_published(melange: types.ModuleType, slice_factor: int, usd: float) -> None:
    report = melange.fleet_by_slices(melange.example(), slice_factor=slice_factor)
    assert report["cost_usd_per_hour"] == pytest.approx(usd, abs=1e-6)


def test_continuous_flow_costs_less_than_slices(melange: types.ModuleType) -> None:
    plan = planned(melange.example())
    assert plan.usd_per_hour == pytest.approx(4.68, abs=1e-6)
    assert plan.bound == pytest.approx(4.68, abs=1e-4)


def instance_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    options, cells = 4, 6
    arcs = [(c, o) for c in range(cells) for o in range(options) if o // 2 == c // 3]
    return {
        "type_price_usd_per_chip_hour": np.array([2.0, 1.0]),
        "type_quota_chips": np.array([40, 40]),
        "type_site": np.array([0, 1]),
        "site_limit_kw": np.array([30.0, 30.0]),
        "option_model": np.array([0, 0, 1, 1]),
        "option_type": np.array([0, 1, 0, 1]),
        "option_role": np.zeros(options, dtype=int),
        "option_chips": np.array([1, 2, 1, 2]),
        "option_spot": np.array([0, 1, 0, 0]),
        "option_fabric": np.zeros(options, dtype=int),
        "option_cost_usd_per_hour": np.array([2.1, 1.0, 2.1, 2.2]),
        "option_kw": np.array([0.7, 0.8, 0.7, 0.8]),
        "cell_class": np.arange(cells) // 3,
        "cell_bucket": np.arange(cells) % 3,
        "cell_rate_rps": rng.uniform(1, 3, cells),
        "cell_spill_usd_per_hour": rng.uniform(5, 9, cells),
        "arc_cell": np.array([c for c, _ in arcs]),
        "arc_option": np.array([o for _, o in arcs]),
        "arc_load": rng.uniform(0.3, 1.5, len(arcs)),
    }


def command(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/planner.py", *options],
        cwd=ROOT,
        env={"PYTHONPATH": "operator", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_command_solves_an_instance_file_and_prints_one_line_of_json(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", **instance_arrays())
    done = command("--instance", str(tmp_path / "one.npz"), "--json", "--against", "melange")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["status"] == "complete"
    assert 0 <= report["gap"] <= 0.004
    assert report["bound_usd_per_hour"] <= report["cost_usd_per_hour"]
    assert report["cost_usd_per_hour"] <= report["melange"]["cost_usd_per_hour"] * 1.004
    assert report["seconds"] > 0
    assert report["peak_mb"] > 0


def first(name: str, value: float) -> dict[str, np.ndarray]:
    array = instance_arrays()[name].astype(np.float64)
    array[0] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (first("arc_load", np.inf), "arc_load[0] is inf"),
        (first("arc_load", np.nan), "arc_load[0] is nan"),
        (first("arc_load", -1.0), "arc_load[0] is -1"),
        (first("cell_rate_rps", 1e13), "cell_rate[0] is 1e+13"),
        (first("option_cost_usd_per_hour", -2.0), "option_cost[0] is -2"),
        (first("option_spot", np.nan), "option_spot[0] is nan; expected a whole number from 0 to 1"),
        (first("option_spot", 2.0), "option_spot[0] is 2"),
        (first("cell_class", 1e12), "cell_class[0] is 1e+12; expected a whole number from 0 to 10000000"),
        (first("arc_cell", -1.0), "arc_cell[0] is -1"),
        (first("arc_option", 0.5), "arc_option[0] is 0.5"),
        (first("option_type", 1e300), "option_type[0] is 1e+300"),
        ({"cell_class": np.full(6, "a")}, "cell_class has type <U1; expected numbers"),
        ({"arc_load": np.float64(3.0)}, "arc_load has shape ()"),
        ({"option_cost_usd_per_hour": np.ones(4, dtype=complex)}, "option_cost_usd_per_hour has type complex128"),
        ({"arc_option": np.zeros(3, dtype=int)}, "arc_option has shape (3,)"),
        ({"type_site": np.array([{}, {}], dtype=object)}, "cannot be read as .npz"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_an_instance_that_makes_no_sense_is_refused_in_one_line(
    tmp_path: Path, changed: dict[str, np.ndarray], says: str
) -> None:
    instances = benchmark_module("planner_instances")
    np.savez(tmp_path / "bad.npz", **(instance_arrays() | changed))
    with pytest.raises(instances.UnusableInstance) as caught:
        instances.read_instance(tmp_path / "bad.npz")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_instance_are_refused_in_one_line(tmp_path: Path) -> None:
    instances = benchmark_module("planner_instances")
    np.savez(tmp_path / "whole.npz", **instance_arrays())
    np.save(tmp_path / "one.npy", np.arange(4))
    whole = (tmp_path / "whole.npz").read_bytes()
    files = {
        "absent.npz": None,
        "empty.npz": b"",
        "words.npz": b"hello",
        "cut.npz": whole[: len(whole) // 2],
        "holed.npz": whole[:300] + bytes(200) + whole[500:],
        "pickled.npz": pickle.dumps({"a": 1}),
        "array.npz": (tmp_path / "one.npy").read_bytes(),
    }
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(instances.UnusableInstance, match=r"cannot be read|one array|has no array"):
            instances.read_instance(tmp_path / name)
    for name in set(instance_arrays()) - {"cell_bucket"}:
        np.savez(tmp_path / "lacks.npz", **{key: one for key, one in instance_arrays().items() if key != name})
        with pytest.raises(instances.UnusableInstance, match=f"has no array {name};"):
            instances.read_instance(tmp_path / "lacks.npz")


def test_the_command_says_in_one_line_what_is_wrong_and_exits_with_2(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **(instance_arrays() | first("arc_load", np.nan)))
    for options in (
        ("--instance", str(tmp_path / "bad.npz")),
        ("--types", "0"),
        ("--time-limit", "nan"),
        ("--types", "2", "--classes", "2", "--buckets", "2", "--models", "1", "--scale", "1e9"),
    ):
        done = command(*options, "--json")
        assert done.returncode == 2, options
        assert not done.stdout
        assert "Traceback" not in done.stderr
        assert "expected" in done.stderr.splitlines()[-1]


def test_a_demand_that_nothing_may_serve_is_told_as_json_and_exits_with_1(tmp_path: Path) -> None:
    closed = {"cell_spill_usd_per_hour": np.full(6, np.inf), "type_quota_chips": np.zeros(2)}
    np.savez(tmp_path / "closed.npz", **(instance_arrays() | closed))
    done = command("--instance", str(tmp_path / "closed.npz"), "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["status"] == "infeasible"
    assert "quota[0]" in report["reason"]
    assert len(report["cells"]) == 1
    assert "quota[0]" in report["limits"]
    assert report["cost_usd_per_hour"] is report["bound_usd_per_hour"] is report["gap"] is None


def test_the_generator_makes_the_same_instance_from_the_same_seed() -> None:
    instances = benchmark_module("planner_instances")
    sizes = instances.Sizes(types=4, classes=4, buckets=3, models=2)
    one, two, other = (instances.generate(sizes, seed=s) for s in (1, 1, 2))
    assert np.array_equal(one.arc_load, two.arc_load)
    assert not np.array_equal(one.cell_rate, other.cell_rate)
    assert planned(one, gap=0.01).usd_per_hour > 0
