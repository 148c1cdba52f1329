"""The ``/metrics`` page of one engine, under vLLM's names and labels.

Names, types and buckets are those of vLLM's v1 engine (``vllm/v1/metrics/loggers.py``); the older
``vllm:time_per_output_token_seconds`` is there beside its successor, as vLLM 0.11 has both. Counts are whole numbers:
the floor of what the fluid has counted, which never falls. A page is one ``%`` over a template made once per engine.
"""

from __future__ import annotations

from functools import lru_cache

from tidefleet.emulator.capacity import BLOCK_TOKENS
from tidefleet.emulator.counters import FINISHED_REASONS
from tidefleet.emulator.engine import Engine
from tidefleet.emulator.histograms import REQUEST_BOUNDS, TOKEN_LATENCY_BOUNDS, TTFT_BOUNDS, length_bounds

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SLEEP_STATES = ("awake", "weights_offloaded", "discard_all")


def render(engine: Engine) -> bytes:
    """The page, as bytes; the engine's fluid is put into its buckets first."""
    counters = engine.counters
    counters.flush()
    level = engine.sleep_level
    usage = min(1.0, engine.kv_usage)
    values: list[float] = [
        engine.whole(engine.running),
        engine.whole(engine.waiting),
        level is None,
        level == 1,
        level is not None and level != 1,
        usage,
        int(counters.prefix_queries),
        int(counters.prefix_hits),
        int(counters.tier_queries),
        int(counters.tier_hits),
        0,
        int(counters.prompt_tokens),
        int(counters.generation_tokens),
        *(int(counters.finished[reason]) for reason in FINISHED_REASONS),
        counters.started_at,
    ]
    for histogram in (
        counters.ttft,
        counters.inter_token,
        counters.inter_token,
        counters.request_tpot,
        counters.e2e,
        counters.queue,
        counters.request_prompt,
        counters.request_generation,
    ):
        values += histogram.cumulative.astype(int).tolist()
        count = int(histogram.count)
        values += (count, count, histogram.total)
    return (_template(engine.facts.served_name, engine.context_tokens, engine.blocks) % tuple(values)).encode()


@lru_cache(maxsize=512)
def _template(model: str, context_tokens: int, blocks: int) -> str:
    labels = f'engine="0",model_name="{_escaped(model)}"'.replace("%", "%%")
    lines: list[str] = []

    def head(name: str, kind: str, words: str) -> None:
        lines.append(f"# HELP {name} {words}")
        lines.append(f"# TYPE {name} {kind}")

    def gauge(name: str, words: str, slot: str = "%d.0", *, kind: str = "gauge") -> None:
        head(name, kind, words)
        lines.append(f"{name}{{{labels}}} {slot}")

    def histogram(name: str, words: str, bounds: tuple[float, ...]) -> None:
        head(name, "histogram", words)
        lines.extend(f'{name}_bucket{{{labels},le="{bound!r}"}} %d.0' for bound in bounds)
        lines.append(f'{name}_bucket{{{labels},le="+Inf"}} %d.0')
        lines.append(f"{name}_count{{{labels}}} %d.0")
        lines.append(f"{name}_sum{{{labels}}} %r")

    def counter(name: str, words: str) -> None:
        gauge(name, words, kind="counter")

    gauge("vllm:num_requests_running", "Number of requests in model execution batches.")
    gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.")
    head("vllm:engine_sleep_state", "gauge", "Engine sleep state; awake = 0 means engine is sleeping.")
    lines.extend(f'vllm:engine_sleep_state{{{labels},sleep_state="{state}"}} %d.0' for state in SLEEP_STATES)
    gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", "%r")
    counter("vllm:prefix_cache_queries_total", "Prefix cache queries, in terms of number of queried tokens.")
    counter("vllm:prefix_cache_hits_total", "Prefix cache hits, in terms of number of cached tokens.")
    counter("vllm:external_prefix_cache_queries_total", "Tokens that a KV connector was asked for.")
    counter("vllm:external_prefix_cache_hits_total", "Tokens that a KV connector had.")
    counter("vllm:num_preemptions_total", "Cumulative number of preemption from the engine.")
    counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.")
    counter("vllm:generation_tokens_total", "Number of generation tokens processed.")
    head("vllm:request_success_total", "counter", "Count of successfully processed requests.")
    lines.extend(
        f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} %d.0' for reason in FINISHED_REASONS
    )
    head("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.")
    lines.append("process_start_time_seconds %r")
    lengths = length_bounds(context_tokens)
    histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", TTFT_BOUNDS)
    histogram("vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", TOKEN_LATENCY_BOUNDS)
    histogram("vllm:time_per_output_token_seconds", "Histogram of time per output token.", TOKEN_LATENCY_BOUNDS)
    histogram("vllm:request_time_per_output_token_seconds", "Histogram of time per output token.", TOKEN_LATENCY_BOUNDS)
    histogram("vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", REQUEST_BOUNDS)
    histogram("vllm:request_queue_time_seconds", "Histogram of time spent in WAITING phase.", REQUEST_BOUNDS)
    histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", lengths)
    histogram("vllm:request_generation_tokens", "Number of generation tokens processed.", lengths)
    head("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig")
    lines.append(
        f'vllm:cache_config_info{{block_size="{BLOCK_TOKENS}",cache_dtype="auto",enable_prefix_caching="True",'
        f'engine="0",gpu_memory_utilization="0.9",num_gpu_blocks="{blocks}",sliding_window="None"}} 1.0'
    )
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
