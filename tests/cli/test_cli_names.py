"""`tidefleet cost` with models, accelerators, engines and precisions named as they are elsewhere."""

from __future__ import annotations

import pytest
from test_cli_cost import LLAMA, cost, run

from tidefleet import catalogue


@pytest.mark.parametrize(
    ("model", "catalogued", "weights"),
    [
        ("Llama-3.3-70B", "llama-3.3-70b", "Bf16"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.3-70b", "Bf16"),
        ("nvidia/Llama-3.3-70B-Instruct-FP8", "llama-3.3-70b", "Fp8"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b", "Bf16"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1", "Fp8"),
        ("deepseek-ai/DeepSeek-V3.1-Terminus", "deepseek-v3.1", "Fp8"),
        ("nvidia/DeepSeek-R1-0528-NVFP4", "deepseek-r1", "Fp4"),
        ("qwen3-235b", "qwen3-235b-a22b", "Bf16"),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507-FP8", "qwen3-235b-a22b", "Fp8"),
    ],
)
def test_a_model_may_be_named_as_elsewhere(model: str, catalogued: str, weights: str) -> None:
    found = cost("--model", model, "--accelerator", "gb200-nvl72", "--tp", "8")
    assert (found["model"], found["weights"]) == (catalogued, weights)


@pytest.mark.parametrize(
    ("accelerator", "catalogued"), [("B200-SXM", "b200-sxm"), ("b200", "b200-sxm"), ("GB200", "gb200-nvl72")]
)
def test_an_accelerator_may_be_named_by_its_beginning(accelerator: str, catalogued: str) -> None:
    assert cost("--model", "llama-3.1-8b", "--accelerator", accelerator)["accelerator"] == catalogued


def test_what_a_checkpoint_is_called_gives_way_to_what_is_asked() -> None:
    found = cost("--model", "Qwen/Qwen3-32B-FP8", "--weights", "bf16", "--accelerator", "h200", "--engine", "vLLM")
    assert found["weights"] == "Bf16"


def test_other_names_of_engines_and_precisions_mean_the_same() -> None:
    of = ("--model", "gpt-oss-120b", "--accelerator", "b200-sxm", "--tp", "1")
    plain = cost(*of, "--engine", "trtllm", "--weights", "fp4")
    assert cost(*of, "--engine", "TensorRT-LLM", "--weights", "mxfp4") == plain


def test_an_unknown_model_names_those_of_its_family() -> None:
    said = run(*LLAMA, "--model", "qwen-3-32b").stderr
    assert "expected one of qwen3-32b, " in said
    assert "llama-3.3-70b" not in said
    assert all(name in run(*LLAMA, "--model", "zzz").stderr for name in catalogue.models())
    assert "expected one of llama-3.3-70b, " in run(*LLAMA, "--model", "llama3.3:70b").stderr
    near = run(*LLAMA, "--model", "llama-9").stderr
    assert all((name in near) == name.startswith("llama-") for name in catalogue.models())
