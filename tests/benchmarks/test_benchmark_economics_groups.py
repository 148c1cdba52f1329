"""The table of errors by group says what the installed sample gives."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tidefleet.catalogue.aiconfigurator import kernel_tables, why_not
from tidefleet.economics.group_table import GROUPS

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "installed")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "economics_groups.py"
    spec = importlib.util.spec_from_file_location("economics_groups", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["economics_groups"] = module
    spec.loader.exec_module(module)
    return module


def test_the_table_is_what_the_runs_give(benchmark: ModuleType) -> None:
    one = next(each for each in GROUPS if each.prefers_other and each.model == "llama-3.1-70b")
    found = benchmark.read_groups(kernel_tables(), only=f"{one.model} {one.accelerator} {one.engine}")
    assert len(found) == len(GROUPS)
    assert [each for each in found if each.other is not None] == [one]
    assert benchmark.differences(found, GROUPS) == []


def test_a_table_that_differs_is_told_column_by_column(benchmark: ModuleType) -> None:
    first, second, *others = GROUPS
    changed = [replace(first, factor=first.factor + 0.01, chips=(1,)), *others]
    names = [f"{one.model} {one.accelerator} {one.engine} {one.weights}" for one in (first, second)]
    assert benchmark.differences(GROUPS, changed) == [
        f"{names[1]} is missing",
        f"{names[0]}: chips is {first.chips}, the table says (1,)",
        f"{names[0]}: factor is {first.factor}, the table says {first.factor + 0.01}",
    ]
    assert benchmark.differences(others, GROUPS)[0].endswith("has no runs")
    last = replace(first, factor=first.factor + 0.001, other=None)
    assert benchmark.differences([last], [first]) == []


def test_a_written_table_reads_as_it_was(benchmark: ModuleType) -> None:
    known: dict[str, object] = {}
    exec(benchmark.source_of(GROUPS), known)  # noqa: S102 - our own source
    assert known["GROUPS"] == GROUPS


def test_a_scalars_error_is_that_of_runs_it_was_not_taken_from(benchmark: ModuleType) -> None:
    import numpy as np

    modelled = np.linspace(0.01, 0.03, 40)
    assert benchmark.left_out_sigma(modelled, 1.5 * modelled) < 0.02
    assert benchmark.sigma(modelled, 1.5 * modelled) == pytest.approx(benchmark.SIGMA_OF_MEAN * np.log(1.5))
    torn = modelled * np.where(np.arange(40) % 2 == 0, 1.2, 1 / 1.2)
    assert benchmark.left_out_sigma(modelled, torn) > 0.15
