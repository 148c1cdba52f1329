"""The cost model's benchmark: its filters, its scores, and the closed loop behind the time to first token."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def module(name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


silicon, economics, fitting = module("silicon"), module("economics"), module("economics_fit")
recipes = silicon.recipes


@pytest.fixture(scope="module")
def runs() -> list:
    try:
        silicon.sample_path()
    except (PackageNotFoundError, FileNotFoundError) as error:
        pytest.skip(f"the measured runs are not installed: {error}")
    return silicon.read_runs()


def test_the_filters_give_the_rows_they_are_said_to(runs) -> None:
    assert sum(run.states_precision for run in runs) == 1754
    assert sum(run.states_parallelism for run in runs) == 2095
    assert {run.replica.model.name for run in runs} == set(silicon.MODELS.values())
    assert all(run.tpot_seconds > 0 and run.ttft_seconds > 0 and run.concurrency >= 1 for run in runs)


def test_nine_runs_that_state_their_client_s_limit_get_a_concurrency_that_their_recipe_has(runs) -> None:
    wrong = [run for run in runs if silicon.misstates_concurrency(run)]
    assert len(wrong) == 9
    assert all(run.concurrency in silicon.server_limits(run) for run in wrong)
    assert len({run.concurrency for run in wrong}) > 1
    assert all(run.concurrency == run.stated_concurrency for run in runs if run not in wrong)
    long = [run for run in wrong if run.input_tokens > run.output_tokens and run.replica.tp == 8]
    assert {silicon.server_limits(run)[-1] for run in long} == {16.0}


def test_an_inferred_concurrency_follows_from_the_time_to_first_token_and_nothing_else(runs) -> None:
    run = next(one for one in runs if silicon.misstates_concurrency(one))
    stated = replace(run, concurrency=run.stated_concurrency)
    assert silicon.as_ran(stated) == run
    assert silicon.as_ran(replace(stated, tpot_seconds=9.0)).concurrency == run.concurrency
    waits = [silicon.as_ran(replace(stated, ttft_seconds=one)).concurrency for one in (1.0, 30.0, 90.0, 9000.0)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (4.0, silicon.server_limits(run)[-1])


def test_ten_waves_wait_for_four_and_a_half_services_on_the_mean_unless_the_client_holds_some_back() -> None:
    assert [silicon.services_waited(one) for one in (4.0, 32.0)] == [4.5, 4.5]
    # 640 prompts, 512 of them at once in eight waves; each later one waits for the seven waves before it
    assert silicon.services_waited(64.0) == pytest.approx((512 * 3.5 + 128 * 7) / 640)


@pytest.mark.parametrize(
    ("source", "stated", "width"),
    [
        ("source_file=2026-04-06.csv; measured=2025-12-15", ("4", "2", "2"), 2),
        ("db-dump/2026-04-27; config_id=1; measured=2026-03-25", ("64", "8", "8"), 8),
        ("source_file=2026-03-25.csv; measured=2026-01-28", ("8", "1", "8"), 8),
        ("source_file=2026-04-06.csv; measured=2025-12-15", ("4", "4", "1"), 4),
        ("source_file=/data/h100_sxm.csv; silicon_concurrency=4", ("4", "2", "2"), 4),
        ("source_file=/data/h100_sxm.csv; silicon_concurrency=4", ("2", "", ""), 2),
    ],
)
def test_the_width_is_what_ran_where_a_dump_multiplies_it_with_the_expert_group(source, stated, width) -> None:
    names = ("tp_size", "moe_tp_size", "moe_ep_size")
    assert recipes.stated_width({"silicon_data_source": source, **dict(zip(names, stated, strict=True))}) == width


def a_row(**fields: str) -> dict[str, str]:
    """A row of InferenceX's: DeepSeek in FP8 with TensorRT-LLM on eight H200 in November 2025, four requests."""
    row = {
        "silicon_data_source": "source_file=2026-04-06.csv; silicon_concurrency=4; measured=2025-11-02T00:00:00.000Z",
        "backend": "trtllm",
        "backend_version": "",
        "model_path": "deepseek-ai/DeepSeek-R1",
        "system": "h200_sxm",
        "precision": "fp8",
        "isl": "8192",
        "osl": "1024",
        "batch_size": "4",
        "tp_size": "8",
        "attention_dp_size": "1",
        "moe_tp_size": "8",
        "moe_ep_size": "1",
        "silicon_ttft_ms": "500.25",
        "silicon_tpot_ms": "20.5",
    }
    return row | fields


def at(requests: int, day: str = "2025-11-02") -> str:
    return f"source_file=2026-04-06.csv; silicon_concurrency={requests}; measured={day}T00:00:00.000Z"


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        (a_row(), (8, 8, 8)),
        (a_row(silicon_data_source=at(64)), (8, 1, 8)),  # attention on each chip
        (a_row(silicon_data_source=at(64), isl="1024"), (8, 8, 8)),
        (a_row(silicon_data_source=at(64, "2026-03-25")), (8, 8, 1)),  # later runs state what they have
        (a_row(system="b200_sxm", precision="fp4", isl="1024"), (8, 8, 1)),
        (a_row(system="b200_sxm", precision="fp4", isl="1024", silicon_data_source=at(16)), (8, 8, 8)),
        (a_row(system="b200_sxm", precision="fp4", isl="1024", osl="8192", silicon_data_source=at(16)), (8, 8, 1)),
        (a_row(system="b200_sxm", precision="fp4", isl="1024", silicon_data_source=at(256)), (8, 1, 8)),
        (a_row(system="b200_sxm", precision="fp4", tp_size="4"), (4, 4, 4)),
        (a_row(backend="sglang", system="b200_sxm", precision="fp4", tp_size="4"), (4, 4, 4)),
        (a_row(backend="sglang"), (8, 8, 1)),
        (a_row(model_path="openai/gpt-oss-120b", precision="fp4", tp_size="2"), (2, 2, 2)),
        (a_row(model_path="openai/gpt-oss-120b", precision="fp4", backend="vllm"), (8, 8, 1)),
        (a_row(model_path="meta-llama/Llama-3.1-70B", precision="fp8"), (8, 8, 1)),
    ],
)
def test_an_early_run_has_the_expert_group_and_the_ranks_of_its_recipe(row, layout) -> None:
    found = recipes.recipe(row, "Fp8", frozenset())
    assert (found.chips, found.width, found.expert_parallel) == layout


def test_the_kv_cache_has_the_bits_that_the_recipe_asks_for() -> None:
    oss = a_row(model_path="openai/gpt-oss-120b", precision="fp4")
    assert recipes.kv_precision(oss, "Fp4") == "Bf16"  # dtype: auto
    assert recipes.kv_precision(oss | {"system": "b200_sxm"}, "Fp4") == "Fp8"
    vllm = oss | {"system": "b200_sxm", "backend": "vllm"}
    assert recipes.kv_precision(vllm, "Fp4") == "Bf16"
    assert recipes.kv_precision(vllm | {"silicon_data_source": at(4, "2026-02-25")}, "Fp4") == "Fp8"
    assert recipes.kv_precision(a_row(), "Fp8") == "Fp8"
    assert recipes.kv_precision(a_row(), "Bf16") == "Bf16"
    own = {"silicon_data_source": "source_file=/data/h200.csv; silicon_concurrency=4", "backend": "vllm"}
    assert recipes.kv_precision(a_row(**own), "Fp8") == "Bf16"


def test_of_two_measurements_of_a_case_the_one_that_the_plain_dump_lacks_speculates() -> None:
    row = a_row(backend="sglang", backend_version="0.5.9", system="b200_sxm", silicon_data_source=at(4, "2026-03-25"))
    same = row | {"silicon_data_source": "db-dump/2026-04-27; config_id=87; measured=2026-03-25"}
    plain = recipes.plain_measurements([row, same])
    assert recipes.drafted(row, plain) is None
    other = recipes.drafted(row | {"silicon_tpot_ms": "14.1"}, plain)
    assert other.tokens == 3
    assert other.accept_length == pytest.approx(1 + 0.74 + 0.74**2)
    short = recipes.drafted(row | {"silicon_tpot_ms": "14.1", "isl": "1024"}, plain)
    assert short.accept_length == pytest.approx(1 + 0.64 + 0.64**2)
    assert recipes.drafted(row | {"silicon_tpot_ms": "14.1", "system": "h200_sxm"}, plain) is None


@pytest.mark.parametrize(
    ("row", "version"),
    [
        (a_row(), "1.1.0rc2.post2"),
        (a_row(backend_version="1.2.0rc6.post2"), "1.2.0rc6.post2"),
        (a_row(model_path="openai/gpt-oss-120b"), "gpt-oss-dev"),
        (a_row(model_path="openai/gpt-oss-120b", system="b200_sxm"), "1.2.0rc0.post1"),
        (a_row(model_path="openai/gpt-oss-120b", backend="vllm"), "0.10.2"),
        (a_row(model_path="openai/gpt-oss-120b", backend="vllm", silicon_data_source=at(4, "2025-12-05")), "0.11.2"),
        (a_row(backend="sglang", silicon_data_source=at(4, "2025-11-10")), "0.5.5"),
        (a_row(silicon_data_source="source_file=/data/h200.csv; silicon_concurrency=4"), ""),
    ],
)
def test_a_run_without_a_version_ran_the_image_of_its_recipe(row, version) -> None:
    assert recipes.engine_version(row) == version


def test_lengths_are_the_means_of_what_the_client_sends(runs) -> None:
    assert recipes.recipe(a_row(), "Fp8", frozenset()).length == pytest.approx(0.9)
    own = a_row(silicon_data_source="source_file=/data/h200.csv; silicon_concurrency=4")
    assert recipes.recipe(own, "Fp8", frozenset()).length == 1.0
    assert {run.input_tokens for run in runs} >= {0.9 * 1024, 1024.0}


def test_a_request_s_own_prefill_is_not_between_its_tokens(runs) -> None:
    alone = next(run for run in runs if run.replica.data_parallel == 1 and run.replica.speculation is None)
    load = silicon.loads([replace(alone, concurrency=1.0)])[0]
    tpot, step, _ = silicon.between_tokens(load)
    assert tpot[0] == step[0]
    assert silicon.prompts_between(silicon.loads([replace(alone, concurrency=3.0)])[0])[0] == pytest.approx(
        2.0 / alone.output_tokens
    )


def test_no_scalar_of_a_group_does_better_than_the_floor() -> None:
    modelled, measured = np.array([1.0, 1.3, 2.0, 9.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0, 4.0])
    groups = [("a",)] * 4 + [("b",)]
    tried = [economics.relative_error(c * modelled[:4], measured[:4]).sum() for c in np.geomspace(0.01, 10.0, 5000)]
    floor = economics.floor_error(groups, modelled, measured)  # the other group's one run is met exactly
    assert floor <= min(tried) / 5 + 1e-12
    assert floor == pytest.approx(min(tried) / 5, rel=1e-3)


def test_predictions_are_finite_and_agree_with_a_single_run_s(runs) -> None:
    some = runs[::97]
    together = silicon.predict(some)
    assert np.isfinite(together.tpot).all()
    assert (together.ttft > together.prefill).all()
    alone = silicon.predict(some[3:4])
    assert alone.tpot[0] == pytest.approx(together.tpot[3])
    assert alone.ttft[0] == pytest.approx(together.ttft[3])


def test_the_fit_s_guesses_make_an_efficiency_for_every_run_and_a_fit_betters_them(runs) -> None:
    some = [run for run in runs if run.states_precision][::60]
    measured = np.array([run.tpot_seconds for run in some])
    guess = {name: middle for name, (middle, _, _) in fitting.GUESSES.items()}

    def error(numbers) -> float:
        modelled = silicon.predict(some, lambda one: fitting.efficiency_with(numbers, one)).tpot
        return float(economics.relative_error(modelled, measured).mean())

    fitted = fitting.fit(some, silicon)
    assert error(fitted) < error(guess)
    assert all(
        least <= fitted[name] * 1.0001 and fitted[name] <= most * 1.0001
        for name, (_, least, most) in fitting.GUESSES.items()
    )


def test_the_shipped_starting_values_are_within_11_percent_of_the_runs_on_the_mean(runs) -> None:
    some = [run for run in runs if run.states_precision]
    measured = np.array([run.tpot_seconds for run in some])
    moe = np.array([run.replica.model.is_moe for run in some])
    error = economics.relative_error(silicon.predict(some).tpot, measured)
    assert error.mean() <= 0.11
    assert error[~moe].mean() <= 0.105
    assert error[moe].mean() <= 0.115


def test_a_build_is_a_group_s_version_and_whether_it_speculates(runs) -> None:
    builds = {(run.group, run.version, run.replica.speculation is not None) for run in runs}
    groups = {run.group for run in runs}
    assert len(builds) > len(groups)
    assert {group for group, _, _ in builds} == groups
    assert any(run.version and run.replica.speculation is not None for run in runs)


def test_one_request_in_the_loop_waits_for_its_own_prefill_alone() -> None:
    one = np.array([1.0])
    assert silicon.first_token(one, one, np.array([0.2]), np.array([5.0]))[0] == pytest.approx(0.2)


def test_two_requests_in_the_loop_meet_as_the_machine_repair_model_says(monkeypatch) -> None:
    monkeypatch.setattr(silicon, "CLIENT_BURST", 0.0)
    two, own, decode = np.array([2.0]), np.array([1.0]), np.array([3.0])
    # One request: R = 1, X = 1/4, Q = 1/4. Two: R = 1 * (1 + 1/4).
    assert silicon.first_token(two, two, own, decode)[0] == pytest.approx(1.25)
    # Three of which two fit: X = 2 / (1.25 + 3), and the third waits 1/X for a place.
    assert silicon.first_token(np.array([3.0]), two, own, decode)[0] == pytest.approx(1.25 + 4.25 / 2)


def test_a_loop_that_starts_at_once_waits_for_half_of_the_others(monkeypatch) -> None:
    monkeypatch.setattr(silicon, "CLIENT_BURST", 1.0)
    many = np.array([9.0])
    assert silicon.first_token(many, many, np.array([0.1]), np.array([1.0]))[0] == pytest.approx(0.5)


def test_waiting_grows_with_the_requests_in_the_loop() -> None:
    requests = np.array([1.0, 2.0, 8.0, 64.0, 300.0])
    waits = silicon.first_token(requests, np.minimum(requests, 100.0), np.full(5, 0.05), np.full(5, 4.0))
    assert (np.diff(waits) > 0).all()


def test_pairs_of_accelerators_count_only_where_both_ran_the_same_case() -> None:
    cases = [("a",), ("a",), ("a",), ("b",), ("b",), ("c",)]
    chips = ["h100", "h200", "h200", "h100", "b200", "h100"]
    measured = np.array([2.0, 1.0, 1.2, 5.0, 4.0, 9.0])
    assert economics.ordered_pairs(cases, chips, measured, measured) == (2, 2)
    assert economics.ordered_pairs(cases, chips, 1.0 / measured, measured) == (2, 0)
    assert economics.ordered_pairs(cases, chips, np.ones(6), measured) == (2, 0)  # a tie is no order


def test_a_scalar_takes_the_bias_of_a_group_away_and_judges_only_runs_it_has_not_seen() -> None:
    groups = [("slow",)] * 40 + [("fast",)] * 40
    measured = np.linspace(1.0, 2.0, 80)
    modelled = measured * np.repeat([0.8, 1.25], 40)
    errors = economics.calibrated_error(groups, modelled, measured, seed=1)
    assert len(errors) == 56
    assert errors.max() < 0.02 < economics.relative_error(modelled, measured).min()
    assert economics.calibrated_error([("lone",)], np.ones(1), np.ones(1), seed=0).size == 0


def test_a_scalar_of_one_width_is_judged_on_the_other_widths_of_its_group_alone() -> None:
    groups, widths = [("a",)] * 60 + [("b",)] * 5, [1] * 30 + [2] * 30 + [1] * 5
    modelled, measured = np.ones(65), np.array([2.0] * 30 + [2.2] * 30 + [9.0] * 5)
    scaled, plain = economics.other_width_errors(groups, widths, modelled, measured)
    assert len(scaled) == len(plain) == 60  # group b has one width
    assert scaled.max() < 0.15
    assert plain.min() >= 0.5 - 1e-12


def test_a_scalar_from_three_in_ten_runs_of_a_group_brings_the_rest_within_8_percent_on_the_mean(runs) -> None:
    some = [run for run in runs if run.states_precision]
    measured = np.array([run.tpot_seconds for run in some])
    modelled = silicon.predict(some).tpot
    groups = [run.group for run in some]
    errors = [economics.calibrated_error(groups, modelled, measured, seed).mean() for seed in range(5)]
    assert max(errors) <= 0.08


def test_the_same_seed_draws_the_same_runs() -> None:
    rng = np.random.default_rng(3)
    measured, modelled = rng.uniform(1, 2, 50), rng.uniform(1, 2, 50)
    groups = [("g",)] * 50
    one, same, other = (economics.calibrated_error(groups, modelled, measured, seed) for seed in (5, 5, 6))
    assert (one == same).all()
    assert not np.array_equal(one, other)
