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

    ``started`` is when that was, in Unix seconds of the engine's machine; 0 where the page does not say.
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


VLLM: Mapping[str, str] = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:request_success_total": "finished",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:prefix_cache_hits_total": "hit_tokens",
    "vllm:prefix_cache_queries_total": "queried_tokens",
    "vllm:request_prompt_tokens_count": "measured_prompts",
    "vllm:request_prompt_tokens_sum": "measured_prompt_tokens",
    "vllm:kv_cache_usage_perc": "kv_usage",
    "vllm:gpu_cache_usage_perc": "kv_usage",
}
SGLANG: Mapping[str, str] = {
    "sglang:prompt_tokens_total": "prompt_tokens",
    "sglang:generation_tokens_total": "generation_tokens",
    "sglang:num_requests_total": "finished",
    "sglang:num_running_reqs": "running",
    "sglang:num_queue_reqs": "waiting",
    "sglang:cached_tokens_total": "hit_tokens",
    "sglang:token_usage": "kv_usage",
}
STARTED: frozenset[str] = frozenset(
    {"process_start_time_seconds", "vllm:prompt_tokens_created", "sglang:prompt_tokens_created"}
)
"""When the process, or its counter, began; prometheus-client writes them unless it gathers several processes."""
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
        match = _SAMPLE.match(line)
        metric = match[1] if match else ""
        if match is not None and metric in STARTED:
            found["started"] = max(found.get("started", 0.0), moment(match[2]))
            continue
        field = names.get(metric)
        if match is None or field is None:
            continue
        try:
            value = float(match[2])
        except ValueError:
            raise Unusable(f"{metric} has no value") from None
        found[field] = found.get(field, 0.0) + value
        if not (is_usable(value) and is_usable(found[field])):
            raise NotANumber(f"{metric} is {match[2][:20]}; expected a finite number of at least 0, e.g. 42")
    missing = [name for name in NEEDED if name not in found]
    if missing:
        wanted = [metric for metric, field in names.items() if field in missing]
        raise Unusable(f"{wanted[0]} is missing from the page")
    if names is SGLANG:
        found.setdefault("queried_tokens", found["prompt_tokens"])
    return EngineCounters(**{name: found.get(name, 0.0) for name in EngineCounters.__dataclass_fields__})


def moment(text: str) -> float:
    """Unix seconds out of a sample's value; 0 for anything that is none, since nothing depends on it alone."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if is_usable(value) else 0.0
