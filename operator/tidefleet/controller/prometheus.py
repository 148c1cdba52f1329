"""Engine counters from a Prometheus: raw samples with their own times, one query for all pods."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tidefleet.controller.config import Prometheus
from tidefleet.controller.metrics_page import (
    NEEDED,
    SGLANG,
    SOURCE_LABEL,
    STARTED,
    TOLD,
    TOLD_APART,
    VLLM,
    counters_of,
    is_beside,
    place_of,
)
from tidefleet.controller.readings import Sample, Trouble
from tidefleet.planning.demand import Cause, is_usable

ANSWER_LIMIT = 256 * 1024 * 1024
"""Bytes of an answer that are read: 5,000 engines with 8 samples of 19 metrics each take about 70 MB."""

SECONDS = 30.0

_SCRAPERS = frozenset(
    [
        "job",
        "instance",
        "endpoint",
        "service",
        "container",
        "prometheus",
        "prometheus_replica",
        "replica",
        "node",
        "cluster",
    ]
)
"""Labels that tell who scraped. Two scrapes of one engine (PodMonitor and ServiceMonitor, two replicas of Prometheus)
differ in nothing else and are one series."""

METRICS: Mapping[str, str] = {**VLLM, **SGLANG, **dict.fromkeys(sorted(STARTED), "started")}


async def ask(session: aiohttp.ClientSession, config: Prometheus, pods: Iterable[str]) -> dict[str, Sample | Trouble]:
    """The newest sample of each pod (``namespace/name``), or what is wrong with it.

    Raw samples are asked for, not an instant value: that repeats the last one until the next scrape, so that rates
    between two of its answers would be nothing and then twice too much. A pod without an answer is faulty, never zero.
    """
    pods = list(pods)
    try:
        names = "|".join(METRICS)
        places = "|".join(
            sorted({pod.split("/", 1)[0] for pod in pods})
        )  # namespaces hold nothing that a pattern reads
        text = f'{{__name__=~"{names}",namespace=~"{places}"}}[{config.window_seconds}s]'
        by_pod = read_matrix(await query(session, config, text))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"Prometheus cannot be reached or understood: {error or type(error).__name__}"
        return dict.fromkeys(pods, Trouble(Cause.UNREACHABLE, why))
    return {pod: _sample(by_pod.get(pod), pod) for pod in pods}


async def query(session: aiohttp.ClientSession, config: Prometheus, text: str) -> Any:
    """What a Prometheus answers to an instant query.

    Raises:
        aiohttp.ClientError, OSError, TimeoutError: it cannot be reached.
        ValueError: it refuses the query, or answers with no JSON.
    """
    headers = {}
    if config.token_file:
        token = await asyncio.to_thread(Path(config.token_file).read_text)
        headers["Authorization"] = f"Bearer {token.strip()}"
    tls: ssl.SSLContext | bool = ssl.create_default_context(cafile=config.ca_file) if config.ca_file else True
    url = f"{config.url.rstrip('/')}/api/v1/query"
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    async with session.post(url, data={"query": text}, headers=headers, ssl=tls, timeout=timeout) as response:
        answer = await read_all(response.content, ANSWER_LIMIT)
        if response.status != 200:
            raise ValueError(f"it answered {response.status}: {answer[:200].decode('utf-8', 'replace')}")
        body = await asyncio.to_thread(json.loads, answer)
        if body.get("status") != "success":
            raise ValueError(f"it answered {str(body.get('error', ''))[:200]}")
        return body


async def read_all(content: aiohttp.StreamReader, limit: int) -> bytes:
    """A whole body.

    Raises:
        ValueError: it is longer than ``limit`` bytes.
    """
    parts: list[bytes] = []
    size = 0
    async for part in content.iter_any():
        size += len(part)
        if size > limit:
            raise ValueError(f"the answer is longer than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def read_matrix(body: Any) -> dict[str, dict[str, tuple[float, float]]]:
    """Counters of each pod: name to (time, value), summed over its engines; series that differ in scraper are one.

    Of starts the latest counts, and a start that is no number is none.
    """
    apart: set[str] = set()
    newest: dict[tuple[str, str, frozenset[tuple[str, str]]], tuple[float, float]] = {}
    for one in body["data"]["result"]:
        labels: Mapping[str, str] = one["metric"]
        field = METRICS.get(labels.get("__name__", ""))
        if field is None or not one["values"]:
            continue
        pod = f"{labels.get('namespace', '')}/{labels.get('pod', '')}"
        source = labels.get(SOURCE_LABEL, "")
        if source and field == "hit_tokens":
            field = place_of(source)
        if source in TOLD_APART:
            apart.add(pod)
        own = frozenset((key, value) for key, value in labels.items() if key not in _SCRAPERS)
        at, value = float(one["values"][-1][0]), float(one["values"][-1][1])
        before = newest.get((pod, field, own))
        if before is None or at > before[0]:
            newest[pod, field, own] = (at, value)
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for (pod, field, _), (at, value) in newest.items():
        counters = found.setdefault(pod, {})
        time, total = counters.get(field, (math.inf, 0.0))
        if field == "started":
            counters[field] = (min(at, time), max(total, value) if is_usable(value) else total)
        else:
            counters[field] = (min(at, time), total + value)
    for pod in apart:
        found[pod][TOLD] = (math.inf, 1.0)
    return found


def _sample(found: Mapping[str, tuple[float, float]] | None, pod: str) -> Sample | Trouble:
    if not found:
        return Trouble(Cause.UNREADABLE, f"Prometheus has nothing about {pod}")
    missing = [name for name in NEEDED if name not in found]
    if missing:
        return Trouble(Cause.UNREADABLE, f"Prometheus has no {missing[0]} of {pod}")
    values = {name: value for name, (_, value) in found.items()}
    bad = [name for name, value in values.items() if not (is_usable(value) or is_beside(name))]
    if bad:
        why = f"{bad[0]} of {pod} is {values[bad[0]]}; expected a finite number of at least 0, e.g. 42"
        return Trouble(Cause.NOT_A_NUMBER, why)
    at = found["prompt_tokens"][0]
    return Sample(at, counters_of(values))
