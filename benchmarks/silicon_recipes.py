"""What the rows of the silicon sample leave unsaid, read from the recipes that made them, with where each is written.

Most rows are InferenceX's (InferenceMAX until 2026), whose recipes are public: ``.github/configs/master.yaml`` (later
``nvidia-master.yaml``) says which widths, expert groups and concurrencies run, ``benchmarks/MODEL_PRECISION_HARDWARE``
scripts how the engine is started, and ``perf-changelog.yaml`` what changed when. Nothing here looks at a measured time,
but for telling two measurements of one case apart by whether a third dump holds the same digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tidefleet.economics.replica import Speculation

Row = Mapping[str, str]

MTP_ACCEPTED = {"short": 0.64, "long": 0.74}
"""Share of drafted tokens that a step accepts, each where all before it were, on InferenceX's random prompts: with
1,024 tokens of prompt and of answer, and with 8,192 of either, behind which more of what comes can be foretold. Two
drafted tokens make 2.0 and 2.3 a step, three 2.3 and 2.7. Fitted, the runs do not state it."""

_LONG_TOKENS = 2048

_DRAFT_SHARE = 0.027
"""Time to draft a token as a share of the step that verifies."""

MEAN_LENGTH = 0.9
"""Mean length of InferenceX's prompts and answers over the stated one. Its workflows set ``RANDOM_RANGE_RATIO`` to 0.8
(.github/workflows/benchmark-tmpl.yml), and its client draws lengths evenly from that share of the stated length up to
all of it (kimbochen/bench_serving, benchmark_serving.py, sample_random_requests)."""

_STATES_EXPERTS_FROM = "2025-12-15"
"""Day of the first InferenceX runs that state an expert group or several attention ranks; earlier ones say 1 and 1."""

_DEEPSEEK, _GPT_OSS = "DeepSeek", "gpt-oss"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a run was started.

    Attributes:
        chips: of the replica; width: of them that share a sequence; expert_parallel: of them that share the experts.
        kv: precision of the KV cache.
        speculation: ``None`` = a token a step.
        length: mean length of prompts and answers over the stated one.
    """

    chips: int
    width: int
    expert_parallel: int
    kv: str
    speculation: Speculation | None = None
    length: float = 1.0


def recipe(row: Row, weights: str, plain: frozenset[tuple[str, str]]) -> Recipe:
    """The recipe of a row.

    Args:
        weights: precision of the stored weights.
        plain: of ``plain_measurements``.
    """
    said = as_stated(row, weights)
    if not is_inferencex(row):
        return said
    experts, width = said.expert_parallel, said.width
    if day_of(row) < _STATES_EXPERTS_FROM:
        experts, ranks = autumn_experts(row, width)
        width = width // ranks
    return replace(said, width=width, expert_parallel=experts, speculation=drafted(row, plain), length=MEAN_LENGTH)


def as_stated(row: Row, weights: str) -> Recipe:
    """What a row says, and what no row says: the precision of the KV cache, and by its image whether it speculates."""
    width, chips = stated_width(row), stated_chips(row)
    return Recipe(
        chips=chips,
        width=width,
        expert_parallel=chips if chips > width else min(width, max(1, int(float(row["moe_ep_size"] or 1)))),
        kv=kv_precision(row, weights),
        speculation=drafted(row),
    )


def is_inferencex(row: Row) -> bool:
    """Whether a row is of one of InferenceX's dumps."""
    return row["silicon_data_source"].startswith(("source_file=20", "db-dump/"))


def day_of(row: Row) -> str:
    """The day of the measurement, e.g. ``2025-11-02``; empty where the row does not state it."""
    day = re.search(r"measured=(\d{4}-\d{2}-\d{2})", row["silicon_data_source"])
    return day.group(1) if day else ""


def concurrency_of(row: Row) -> float:
    """Requests at a time: as the source of the row says, and its batch size where that says nothing."""
    stated = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])
    return float(stated.group(1)) if stated else float(row["batch_size"])


def stated_width(row: Row) -> int:
    """Chips that share a sequence.

    Where two dumps of InferenceX hold the same measurement of an expert-parallel run, the one of 2026-03-25 states its
    width W with ``moe_tp_size`` 1, the two later ones state W times the expert group, with ``moe_tp_size`` W (50
    measurements in the 0.12.0 sample, of equal times to every digit). So a later dump's ``moe_tp_size`` is the width.
    """
    later = row["silicon_data_source"].startswith(("source_file=2026-04-06", "db-dump/"))
    if later and float(row["moe_tp_size"] or 1) > 1 and float(row["moe_ep_size"] or 1) > 1:
        return int(float(row["moe_tp_size"]))
    return int(float(row["tp_size"]))


def stated_chips(row: Row) -> int:
    """Chips of the replica: more than share a sequence where experts are spread over ranks of attention.

    The experts' widths say so (the product of ``moe_tp_size`` and ``moe_ep_size`` is that of ``tp_size`` and the ranks)
    in 19 runs of Qwen3-235B with vLLM, which leave ``attention_dp_size`` empty: its 235 GB fit on no single H200. They
    state the concurrency of one rank: times the ranks it is what the runs of one rank on as many chips have.
    """
    width = stated_width(row)
    experts = int(float(row["moe_tp_size"] or 1)) * int(float(row["moe_ep_size"] or 1))
    return experts if not row["attention_dp_size"] and experts > width and experts % width == 0 else width


def autumn_experts(row: Row, width: int) -> tuple[int, int]:
    """Chips that shared the experts, and ranks of attention, of an InferenceX run before ``_STATES_EXPERTS_FROM``.

    By .github/configs/master.yaml (SemiAnalysisAI/InferenceX, 78f6b8d), whose comments and search spaces give both by
    width, lengths and concurrency; scripts of the time compute the same (benchmarks/dsr1_fp8_h200_trt_slurm.sh,
    ff7e462). gpt-oss with TensorRT-LLM on H200: EP = TP, as its later runs state. SGLang's DeepSeek in FP8 and vLLM's
    gpt-oss pass no expert group (dsr1_fp8_h200_slurm.sh, gptoss_fp4_h100_slurm.sh).
    """
    requests, long = concurrency_of(row), float(row["isl"]) > float(row["osl"])
    case = (row["backend"], row["precision"], row["system"])
    if _GPT_OSS in row["model_path"]:
        return (width, 1) if case == ("trtllm", "fp4", "h200_sxm") else (1, 1)
    if _DEEPSEEK not in row["model_path"]:
        return 1, 1
    if case == ("sglang", "fp4", "b200_sxm"):
        return width, 1
    if case == ("trtllm", "fp8", "h200_sxm"):
        return width, width if requests > (32 if long else 64) else 1
    if case == ("trtllm", "fp8", "b200_sxm"):
        return width, width if requests > (32 if row["isl"] == row["osl"] else 64) else 1
    if case == ("trtllm", "fp4", "b200_sxm"):
        if long:
            return (width, width) if requests > 32 else (width if width == 4 else 1, 1)
        most_sharded = 32 if width == 4 else 8 if row["isl"] == row["osl"] else 16
        return width if requests > most_sharded else 1, width if requests >= 256 else 1
    return 1, 1


def kv_precision(row: Row, weights: str) -> str:
    """Precision of the KV cache.

    vLLM and SGLang keep 16 bits unless told otherwise (or a checkpoint of NVIDIA's says 8); TensorRT-LLM and
    InferenceX's recipes take 8 bits with quantised weights, but for gpt-oss on Hopper (gptoss_fp4_h100_slurm.sh says
    nothing, gptoss_fp4_h200_trt_slurm.sh ``dtype: auto``) and gpt-oss with vLLM on B200 until its image became v0.11.2
    in late November 2025 (perf-changelog.yaml, pull request 273).
    """
    if weights == "Bf16":
        return "Bf16"
    if is_inferencex(row) and _GPT_OSS in row["model_path"]:
        hopper = row["system"] in ("h100_sxm", "h200_sxm")
        early = row["backend"] == "vllm" and day_of(row) < "2025-11-20"
        return "Bf16" if hopper or early else "Fp8"
    asked = row["backend"] == "trtllm" or row["model_path"].startswith("nvidia/") or is_inferencex(row)
    return "Fp8" if asked else "Bf16"


def engine_version(row: Row) -> str:
    """The engine's release: as the row says, or where it says nothing by the image of the recipe.

    Until late November 2025 by .github/configs/master.yaml (78f6b8d), then by nvidia-master.yaml (ishandhanani/
    InferenceMAX 0e3c359) with the change log's pull request 273 (vLLM 0.11.2).
    """
    version = row["backend_version"]
    if version or not is_inferencex(row):
        return version
    autumn = day_of(row) < "2025-11-20"
    if row["backend"] == "sglang":
        return "0.5.5" if day_of(row) >= "2025-11-10" else "0.5.3rc1"
    if row["backend"] == "vllm":
        return "0.10.2" if autumn else "0.11.2"
    if _GPT_OSS not in row["model_path"]:
        return "1.1.0rc2.post2"
    if row["system"] == "h200_sxm":
        return "gpt-oss-dev"
    return "1.2.0rc0.post1" if autumn else "1.2.0rc2"


def plain_measurements(rows: Iterable[Row]) -> frozenset[tuple[str, str]]:
    """Times of what the dump of 2026-04-27 holds: no run with multi-token prediction is in it.

    Of each group below with two images or two measurements of a case it has the one without.
    """
    return frozenset(_times(row) for row in rows if row["silicon_data_source"].startswith("db-dump/2026-04-27"))


def _times(row: Row) -> tuple[str, str]:
    """Times in milliseconds to the digits that every dump has."""
    return f"{float(row['silicon_ttft_ms']):.4f}", f"{float(row['silicon_tpot_ms']):.4f}"


def drafted(row: Row, plain: frozenset[tuple[str, str]] | None = None) -> Speculation | None:
    """Multi-token prediction.

    TensorRT-LLM, three drafted tokens: the change log names the images of its recipes for DeepSeek-R1. Those with MTP
    moved from 1.1.0rc2.post2, with which they began in mid-January 2026, to 1.2.0rc6.post3, those without to
    1.2.0rc6.post2.

    SGLang on B200 in FP8, two (dsr1_fp8_b200_mtp.sh: three tokens a step): the recipe with MTP has the image of the one
    without (v0.5.9-cu130, 2026-03-25) and runs 4 to 512 requests on eight chips, the one without 4 to 64
    (nvidia-master.yaml). Two measurements of a case are told apart by the dump that has none with MTP.

    Args:
        plain: of ``plain_measurements``; ``None`` goes by images alone.
    """
    if _DEEPSEEK not in row["model_path"] or not is_inferencex(row):
        return None
    version = row["backend_version"]
    if row["backend"] == "trtllm":
        first = version == "1.1.0rc2.post2" and day_of(row) == "2026-01-14"
        return _mtp(3, row) if version == "1.2.0rc6.post3" or first else None
    case = (row["backend"], version, row["precision"], row["system"], stated_width(row))
    both = case == ("sglang", "0.5.9", "fp8", "b200_sxm", 8)
    return _mtp(2, row) if both and plain is not None and _times(row) not in plain else None


def _mtp(drafts: int, row: Row) -> Speculation:
    longest = max(float(row["isl"]), float(row["osl"]))
    share = MTP_ACCEPTED["long" if longest > _LONG_TOKENS else "short"]
    accepted = sum(share**n for n in range(drafts + 1))
    return Speculation(tokens=drafts + 1, accept_length=accepted, draft_share=drafts * _DRAFT_SHARE)
