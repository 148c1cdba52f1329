"""What an engine's metrics page says: the few counters that demand is read from, and nothing that is not a number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tidefleet.planning.demand import Cause, is_usable

PAGE_LIMIT = 4 * 1024 * 1024
"""Bytes of a page that are read; a vLLM page is about 60 kB."""


class Unusable(ValueError):
    """A page that must not be learned from: it is cut off, or a needed metric is missing or has no value."""

    cause = Cause.UNREADABLE


class NotANumber(Unusable):
    """A value is not a number, infinite or negative."""

    cause = Cause.NOT_A_NUMBER


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """One engine's counters and gauges at one moment. Tokens and requests since the engine started.

    ``started`` is when that was, in Unix seconds of the engine's machine; 0 where the page does not say. Latencies are
    sums over all requests in seconds, with their counts: between two tokens (``token_seconds``), to the first one, and
    in the engine's queue; both are 0 where an engine does not tell. ``preemptions`` are requests that were put out to
    make room for others and computed anew. ``hit_tokens`` were found in the accelerator's memory, ``tier_hit_tokens``
    in KV tiers beyond it, of ``tier_queried_tokens`` that were looked for there; both are 0 where an engine has no
    tier, or does not tell.
    """

    prompt_tokens: float
    generation_tokens: float
    finished: float
    running: float
    waiting: float
    hit_tokens: float
    queried_tokens: float
    measured_prompts: float
    measured_prompt_tokens: float
    kv_usage: float
    started: float = 0.0
    token_seconds: float = 0.0
    timed_tokens: float = 0.0
    first_token_seconds: float = 0.0
    first_tokens: float = 0.0
    queue_seconds: float = 0.0
    queued: float = 0.0
    preemptions: float = 0.0
    tier_hit_tokens: float = 0.0
    tier_queried_tokens: float = 0.0


LATENCIES: Mapping[str, str] = {
    "token_seconds": "timed_tokens",
    "first_token_seconds": "first_tokens",
    "queue_seconds": "queued",
}
"""Sums and their counts: a page without them, or with unusable ones, is still good for demand."""

_BESIDE = frozenset({"preemptions", "tier_hit_tokens", "tier_queried_tokens"})
"""Counters of which the same is true."""

_OLDER = "older "
"""Marks the name that an engine's releases before the newest gave a latency; both may be on one page."""

VLLM: Mapping[str, str] = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:request_success_total": "finished",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:prefix_cache_hits_total": "hit_tokens",
    "vllm:prefix_cache_queries_total": "queried_tokens",
    "vllm:external_prefix_cache_hits_total": "tier_hit_tokens",
    "vllm:external_prefix_cache_queries_total": "tier_queried_tokens",
    "vllm:request_prompt_tokens_count": "measured_prompts",
    "vllm:request_prompt_tokens_sum": "measured_prompt_tokens",
    "vllm:kv_cache_usage_perc": "kv_usage",
    "vllm:gpu_cache_usage_perc": "kv_usage",
    "vllm:inter_token_latency_seconds_sum": "token_seconds",
    "vllm:inter_token_latency_seconds_count": "timed_tokens",
    "vllm:time_per_output_token_seconds_sum": f"{_OLDER}token_seconds",
    "vllm:time_per_output_token_seconds_count": f"{_OLDER}timed_tokens",
    "vllm:time_to_first_token_seconds_sum": "first_token_seconds",
    "vllm:time_to_first_token_seconds_count": "first_tokens",
    "vllm:request_queue_time_seconds_sum": "queue_seconds",
    "vllm:request_queue_time_seconds_count": "queued",
    "vllm:num_preemptions_total": "preemptions",
}
SGLANG: Mapping[str, str] = {
    "sglang:prompt_tokens_total": "prompt_tokens",
    "sglang:generation_tokens_total": "generation_tokens",
    "sglang:num_requests_total": "finished",
    "sglang:num_running_reqs": "running",
    "sglang:num_queue_reqs": "waiting",
    "sglang:cached_tokens_total": "hit_tokens",
    "sglang:token_usage": "kv_usage",
    "sglang:inter_token_latency_seconds_sum": "token_seconds",
    "sglang:inter_token_latency_seconds_count": "timed_tokens",
    "sglang:time_to_first_token_seconds_sum": "first_token_seconds",
    "sglang:time_to_first_token_seconds_count": "first_tokens",
    "sglang:queue_time_seconds_sum": "queue_seconds",
    "sglang:queue_time_seconds_count": "queued",
}
STARTED: frozenset[str] = frozenset(
    {"process_start_time_seconds", "vllm:prompt_tokens_created", "sglang:prompt_tokens_created"}
)
"""When the process, or its counter, began; prometheus-client writes them unless it gathers several processes."""
SOURCE_LABEL = "cache_source"
"""Label of SGLang's cached tokens (0.5.9 and newer): device, host, or storage_NAME; ``total`` where it cannot tell."""

_SOURCE = re.compile(rf'[{{,]\s*{SOURCE_LABEL}="(\w*)')
_SAMPLE = re.compile(r'([^{\s]+)\s*(?:\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?\s*(\S*)')
"""A line: name, labels in braces (quoted values may hold braces and escaped quotes), value; what follows is ignored."""

NEEDED = ("prompt_tokens", "generation_tokens", "finished", "running", "waiting")


def read_page(text: str) -> EngineCounters:
    """The counters on a page of vLLM or SGLang; samples of several engines behind one port are added up.

    Only lines of the metrics needed are looked at: parsing a whole page costs 5 ms, this 0.1.

    Raises:
        Unusable: the page is cut off, lacks a needed metric, or one of its values is not a finite number of at least 0.
    """
    if not text.endswith("\n"):  # the format asks for it; without it the last number may lack digits
        raise Unusable("the page is cut off; expected a line feed at its end")
    found: dict[str, float] = {}
    names = VLLM if "vllm:" in text else SGLANG
    prefix = "vllm:" if names is VLLM else "sglang:"
    for line in text.split("\n"):
        if not line.startswith((prefix, "process_start_time_seconds")):
            continue
        end = line.find("{")
        metric = line[:end].rstrip() if end >= 0 else line.split(None, 1)[0]
        if metric in STARTED:
            match = _SAMPLE.match(line)
            found["started"] = max(found.get("started", 0.0), moment(match[2]) if match else 0.0)
            continue
        field = names.get(metric)
        match = _SAMPLE.match(line) if field is not None else None
        if names is SGLANG and field == "hit_tokens":
            source = _SOURCE.search(line)
            field = place_of(source[1] if source else "")
            if source and source[1] in TOLD_APART:
                found[TOLD] = 1.0
        if match is None or field is None:
            continue
        try:
            value = float(match[2])
        except ValueError:
            raise Unusable(f"{metric} has no value") from None
        found[field] = found.get(field, 0.0) + value
        if not (is_usable(value) and is_usable(found[field])) and not is_beside(field):
            raise NotANumber(f"{metric} is {match[2][:20]}; expected a finite number of at least 0, e.g. 42")
    missing = [name for name in NEEDED if name not in found]
    if missing:
        wanted = [metric for metric, field in names.items() if field in missing]
        raise Unusable(f"{wanted[0]} is missing from the page")
    if names is SGLANG:
        found.setdefault("queried_tokens", found["prompt_tokens"])
    return counters_of(found)


TOLD, TOLD_APART = "told apart", frozenset({"device", "host"})
"""Marks that an engine tells where it found tokens, and sources that show it."""


def place_of(source: str) -> str:
    """The counter that tokens found at one of SGLang's sources belong to."""
    return "tier_hit_tokens" if source == "host" or source.startswith("storage") else "hit_tokens"


def counters_of(found: Mapping[str, float]) -> EngineCounters:
    """The counters from values by field; what is absent is 0, and so is a useless number that demand does not need."""
    values = {name: found.get(name, 0.0) for name in EngineCounters.__dataclass_fields__}
    for name in _BESIDE:
        values[name] = values[name] if is_usable(values[name]) else 0.0
    if found.get(TOLD):  # what was not found on the device was looked for in the tiers
        values["tier_queried_tokens"] = max(0.0, values["prompt_tokens"] - values["hit_tokens"])
    for total, count in LATENCIES.items():
        pairs = [(found.get(f"{age}{total}", 0.0), found.get(f"{age}{count}", 0.0)) for age in ("", _OLDER)]
        told = [pair for pair in pairs if all(is_usable(one) for one in pair) and pair[1] > 0]
        values[total], values[count] = told[0] if told else (0.0, 0.0)
    return EngineCounters(**values)


def is_beside(field: str) -> bool:
    """Whether a field is part of a latency, or another without which a page is still good for demand."""
    plain = field.removeprefix(_OLDER)
    return plain in LATENCIES or plain in LATENCIES.values() or plain in _BESIDE


def moment(text: str) -> float:
    """Unix seconds out of a sample's value; 0 for anything that is none, since nothing depends on it alone."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if is_usable(value) else 0.0
