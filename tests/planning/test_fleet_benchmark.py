"""The benchmark's command, its reader, and the slice ILP on the example that its authors published."""

from __future__ import annotations

import importlib
import json
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


def test_the_command_solves_an_instance_file_and_prints_one_line_of_json(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    options, cells = 4, 6
    arcs = [(c, o) for c in range(cells) for o in range(options) if o // 2 == c // 3]
    np.savez(
        tmp_path / "one.npz",
        type_price_usd_per_chip_hour=np.array([2.0, 1.0]),
        type_quota_chips=np.array([40, 40]),
        type_site=np.array([0, 1]),
        site_limit_kw=np.array([30.0, 30.0]),
        option_model=np.array([0, 0, 1, 1]),
        option_type=np.array([0, 1, 0, 1]),
        option_role=np.zeros(options, dtype=int),
        option_chips=np.array([1, 2, 1, 2]),
        option_spot=np.array([0, 1, 0, 0]),
        option_fabric=np.zeros(options, dtype=int),
        option_cost_usd_per_hour=np.array([2.1, 1.0, 2.1, 2.2]),
        option_kw=np.array([0.7, 0.8, 0.7, 0.8]),
        cell_class=np.arange(cells) // 3,
        cell_bucket=np.arange(cells) % 3,
        cell_rate_rps=rng.uniform(1, 3, cells),
        cell_spill_usd_per_hour=rng.uniform(5, 9, cells),
        arc_cell=np.array([c for c, _ in arcs]),
        arc_option=np.array([o for _, o in arcs]),
        arc_load=rng.uniform(0.3, 1.5, len(arcs)),
    )
    command = [sys.executable, "benchmarks/planner.py", "--instance", str(tmp_path / "one.npz"), "--json"]
    done = subprocess.run(
        [*command, "--against", "melange"],
        cwd=ROOT,
        env={"PYTHONPATH": "operator", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    report = json.loads(done.stdout)
    assert report["status"] == "complete"
    assert 0 <= report["gap"] <= 0.004
    assert report["bound_usd_per_hour"] <= report["cost_usd_per_hour"]
    assert report["cost_usd_per_hour"] <= report["melange"]["cost_usd_per_hour"] * 1.004
    assert report["seconds"] > 0
    assert report["peak_mb"] > 0


def test_the_generator_makes_the_same_instance_from_the_same_seed() -> None:
    instances = benchmark_module("planner_instances")
    sizes = instances.Sizes(types=4, classes=4, buckets=3, models=2)
    one, two, other = (instances.generate(sizes, seed=s) for s in (1, 1, 2))
    assert np.array_equal(one.arc_load, two.arc_load)
    assert not np.array_equal(one.cell_rate, other.cell_rate)
    assert planned(one, gap=0.01).usd_per_hour > 0
