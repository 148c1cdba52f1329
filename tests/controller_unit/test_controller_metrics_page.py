"""Reading an engine's metrics page: real-looking ones, and everything that must not be learned from."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidefleet.controller.metrics_page import EngineCounters, NotANumber, Unusable, read_page
from tidefleet.planning.demand import Cause

VLLM = """\
# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 12841.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.3-70B-Instruct"} 17.0
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.3-70B-Instruct"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.3-70B-Instruct"} 0.4213
vllm:prefix_cache_queries_total{engine="0",model_name="meta-llama/Llama-3.3-70B-Instruct"} 1.630211e+06
vllm:prefix_cache_hits_total{engine="0",model_name="meta-llama/Llama-3.3-70B-Instruct"} 570573.0
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
vllm:prompt_tokens_total{engine="0",model_name="meta-llama/Llama-3.3-70B-Instruct"} 1.630211e+06
vllm:generation_tokens_total{engine="0",model_name="meta-llama/Llama-3.3-70B-Instruct"} 108004.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 950.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 49.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="m"} 1.0
vllm:request_prompt_tokens_bucket{engine="0",le="1.0",model_name="m"} 0.0
vllm:request_prompt_tokens_bucket{engine="0",le="+Inf",model_name="m"} 1000.0
vllm:request_prompt_tokens_count{engine="0",model_name="m"} 1000.0
vllm:request_prompt_tokens_sum{engine="0",model_name="m"} 1.63e+06
vllm:cache_config_info{block_size="16",cache_dtype="auto",enable_prefix_caching="True",engine="0"} 1.0
"""
SGLANG = """\
# HELP sglang:prompt_tokens_total Number of prefill tokens processed.
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="Qwen/Qwen3-32B"} 8.128902e+06
sglang:generation_tokens_total{model_name="Qwen/Qwen3-32B"} 7.557572e+06
sglang:cached_tokens_total{model_name="Qwen/Qwen3-32B"} 1.2e+06
sglang:num_requests_total{model_name="Qwen/Qwen3-32B"} 4096.0
sglang:num_running_reqs{model_name="Qwen/Qwen3-32B"} 161.0
sglang:num_queue_reqs{model_name="Qwen/Qwen3-32B"} 2.0
sglang:token_usage{model_name="Qwen/Qwen3-32B"} 0.28
sglang:time_to_first_token_seconds_bucket{le="0.1",model_name="Qwen/Qwen3-32B"} 8.0
"""


def a_page(**values: str) -> str:
    """A minimal vLLM page with some values given as they stand."""
    lines = {
        "prompt_tokens_total": "100",
        "generation_tokens_total": "20",
        "request_success_total": "2",
        "num_requests_running": "1",
        "num_requests_waiting": "0",
        **values,
    }
    return "".join(f"vllm:{name} {value}\n" for name, value in lines.items())


def test_a_page_of_vllm_is_read() -> None:
    assert read_page(VLLM) == EngineCounters(
        prompt_tokens=1_630_211,
        generation_tokens=108_004,
        finished=1000,
        running=17,
        waiting=3,
        hit_tokens=570_573,
        queried_tokens=1_630_211,
        measured_prompts=1000,
        measured_prompt_tokens=1_630_000,
        kv_usage=0.4213,
    )


def test_a_page_of_sglang_is_read_and_every_prompt_token_was_looked_up() -> None:
    found = read_page(SGLANG)
    assert (found.prompt_tokens, found.finished, found.running, found.waiting) == (8_128_902, 4096, 161, 2)
    assert (found.hit_tokens, found.queried_tokens) == (1_200_000, 8_128_902)


@pytest.mark.parametrize(
    ("line", "started"),
    [
        ("process_start_time_seconds 1.7640001e+09", 1_764_000_100.0),
        ('vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7640002e+09', 1_764_000_200.0),
        ("process_start_time_seconds 10\nprocess_start_time_seconds 30\nprocess_start_time_seconds 20", 30.0),
        ("process_start_time_seconds NaN", 0.0),
        ("process_start_time_seconds -1", 0.0),
        ("process_start_time_seconds", 0.0),
        ("process_start_time_seconds_total 7", 0.0),
        ("", 0.0),
    ],
)
def test_the_start_of_an_engine_is_read_where_it_is_told(line: str, started: float) -> None:
    assert read_page(a_page() + line + "\n").started == started


def test_two_engines_behind_one_port_are_added_up() -> None:
    both = read_page(VLLM + VLLM.replace('engine="0"', 'engine="1"'))
    assert both.prompt_tokens == 2 * 1_630_211
    assert both.waiting == 6


@pytest.mark.parametrize(
    "labels",
    [
        '{model_name="a model, with spaces"}',
        '{model_name="brace } and { in it",engine="0"}',
        r'{model_name="a \"quoted\" } name"}',
        r'{model_name="ends in a backslash \\"}',
        '{model_name="ünïcode / 模型"}',
        '{model_name="line\x85separator\u2028inside"}',
        "{}",
        "",
    ],
)
def test_labels_may_hold_anything(labels: str) -> None:
    page = a_page().replace("vllm:prompt_tokens_total ", f"vllm:prompt_tokens_total{labels} ")
    assert read_page(page).prompt_tokens == 100


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5e3", 1500),
        ("1E+3", 1000),
        ("7 1716000000000", 7),
        ("0", 0),
        ("1e-3", 0.001),
        ("  9", 9),
        ("\t9", 9),
        ("9\r", 9),
    ],
)
def test_numbers_are_read_in_every_spelling_of_the_format(text: str, value: float) -> None:
    assert read_page(a_page(num_requests_waiting=text)).waiting == value


def test_an_exemplar_is_not_the_value() -> None:
    line = 'vllm:prompt_tokens_total{engine="0"} 100 # {trace_id="abc"} 3.0'
    assert read_page(a_page().replace("vllm:prompt_tokens_total 100", line)).prompt_tokens == 100


def test_only_whole_names_count() -> None:
    noise = (
        "vllm:num_requests_waiting_by_reason 99\nvllm:prompt_tokens_total_created 1e9\nxvllm:num_requests_waiting 7\n"
    )
    assert read_page(a_page() + noise).waiting == 0


@pytest.mark.parametrize("value", ["NaN", "nan", "+Inf", "-Inf", "-1", "-1e-9", "", "x", "0x10", "1,5"])
def test_a_value_that_is_no_number_of_at_least_0_is_unusable(value: str) -> None:
    with pytest.raises(Unusable, match="vllm:num_requests_waiting"):
        read_page(a_page(num_requests_waiting=value))
    with pytest.raises(Unusable):  # also where the metric could be missing
        read_page(a_page(prefix_cache_hits_total=value))


def test_what_is_wrong_with_a_page_is_a_value() -> None:
    for page, cause in ((a_page(num_requests_waiting="NaN"), Cause.NOT_A_NUMBER), ("", Cause.UNREADABLE)):
        with pytest.raises(Unusable) as caught:
            read_page(page)
        assert caught.value.cause is cause


def test_values_that_overflow_together_are_unusable() -> None:
    with pytest.raises(NotANumber, match="finite"):
        read_page(a_page() + "vllm:prompt_tokens_total 1e308\nvllm:prompt_tokens_total 1e308\n")


@pytest.mark.parametrize("name", ["prompt_tokens_total", "generation_tokens_total", "request_success_total",
                                  "num_requests_running", "num_requests_waiting"])  # fmt: skip
def test_a_needed_metric_that_is_missing_is_named(name: str) -> None:
    page = "".join(line + "\n" for line in a_page().splitlines() if name not in line)
    with pytest.raises(Unusable, match=f"vllm:{name} is missing"):
        read_page(page)


@pytest.mark.parametrize("page", ["", "\n", "<html>404</html>\n", "# HELP only\n", '{"json": 1}\n'])
def test_a_page_of_something_else_is_unusable(page: str) -> None:
    with pytest.raises(Unusable):
        read_page(page)


def test_a_page_that_was_cut_off_is_unusable_wherever_it_was_cut() -> None:
    page = a_page(num_requests_waiting="1234")
    for length in range(len(page)):
        with pytest.raises(Unusable):
            read_page(page[:length])


def judged(text: str) -> None:
    try:
        found = read_page(text)
    except Unusable as error:
        assert len(str(error)) < 200  # noqa: PT017 - either outcome is right
        return
    for name in EngineCounters.__dataclass_fields__:
        value = getattr(found, name)
        assert math.isfinite(value)
        assert value >= 0


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400))
def test_binary_garbage_is_unusable_or_finite(data: bytes) -> None:  # 400 inputs
    judged(data.decode("utf-8", "replace"))
    judged(a_page() + data.decode("latin-1") + "\n")


pieces = st.sampled_from(
    [
        "vllm:prompt_tokens_total",
        "vllm:num_requests_running",
        "sglang:num_queue_reqs",
        "{",
        "}",
        '"',
        "\\",
        " ",
        "\n",
        "\t",
        "=",
        ",",
        "le",
        "NaN",
        "+Inf",
        "-1",
        "1e309",
        "1e308",
        "12",
        "#",
        "# HELP ",
        "\x00",
        "\u2028",
        "é",
        "{}",
    ]
)


@settings(deadline=None, max_examples=200)
@given(st.lists(pieces, max_size=30).map("".join), st.integers(0, 200))
@example("vllm:prompt_tokens_total{" * 50, 0)
def test_mangled_pages_are_unusable_or_finite(text: str, at: int) -> None:  # 600 inputs, spliced into a good page too
    judged(text)
    page = a_page()
    judged(page[:at] + text + page[at:])


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(VLLM)), st.integers(0, 60), st.characters())
def test_a_real_page_with_a_hole_in_it_is_unusable_or_finite(
    start: int, length: int, letter: str
) -> None:  # 200 inputs
    judged(VLLM[:start] + VLLM[start + length :])
    judged(VLLM[:start] + letter + VLLM[start + 1 :])


# --- KV tiers --------------------------------------------------------------------------------------------------------


def test_vllm_tells_what_a_connector_was_asked_for_and_had() -> None:
    page = VLLM + (
        'vllm:external_prefix_cache_queries_total{engine="0",model_name="m"} 9000.0\n'
        'vllm:external_prefix_cache_queries_total{engine="1",model_name="m"} 1000.0\n'
        'vllm:external_prefix_cache_hits_total{engine="0",model_name="m"} 4000.0\n'
    )
    found, bare = read_page(page), read_page(VLLM)
    assert (found.tier_queried_tokens, found.tier_hit_tokens) == (10_000.0, 4000.0)
    assert (bare.tier_queried_tokens, bare.tier_hit_tokens) == (0.0, 0.0)
    assert found.hit_tokens == bare.hit_tokens


def test_a_useless_count_of_a_connector_leaves_the_page_good_for_demand() -> None:
    found = read_page(VLLM + 'vllm:external_prefix_cache_hits_total{engine="0"} NaN\n')
    assert found.tier_hit_tokens == 0.0


def test_sglang_tells_where_it_found_tokens() -> None:
    lines = [line for line in SGLANG.splitlines() if "cached_tokens_total" not in line]
    told = [
        'sglang:cached_tokens_total{cache_source="device",model_name="m"} 1000000.0',
        'sglang:cached_tokens_total{model_name="m",cache_source="host"} 200000.0',
        'sglang:cached_tokens_total{cache_source="storage_HiCacheFile",model_name="m"} 50000.0',
    ]
    found = read_page("\n".join([*lines, *told]) + "\n")
    assert found.hit_tokens == 1e6
    assert found.tier_hit_tokens == 250_000.0
    assert found.tier_queried_tokens == found.prompt_tokens - 1e6
    for older in ("sglang:cached_tokens_total", 'sglang:cached_tokens_total{cache_source="total"}'):
        page = read_page("\n".join([*lines, f"{older} 1250000.0"]) + "\n")
        assert (page.hit_tokens, page.tier_hit_tokens, page.tier_queried_tokens) == (1_250_000.0, 0.0, 0.0)
