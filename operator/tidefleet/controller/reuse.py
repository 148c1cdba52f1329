"""How far apart the prompts of a pool use the same blocks, read from what routers export."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tidefleet.controller.config import Prometheus, Router
from tidefleet.controller.metrics_page import PAGE_LIMIT
from tidefleet.controller.prometheus import query, read_all
from tidefleet.planning.reuse_curve import ReuseCurve, observed_curve

PERIOD_SECONDS = 60.0
"""Time between two readings: a curve moves slowly."""

BINS, SEEN = "tidefleet_router_reuse_tokens_total", "tidefleet_router_reuse_seen_tokens_total"
NEW = "new"
"""Value of the label ``within`` of blocks that had not been used before."""

PoolKey = tuple[str, str]
Samples = Iterable[tuple[str, Mapping[str, str], float]]
"""Name, labels and value."""


def curves_of(samples: Samples, *, routers: int, source: str) -> dict[PoolKey, ReuseCurve]:
    """The curve of each pool, of samples of one or several routers added up; what is no number is left out.

    Args:
        routers: processes that a pool's requests are spread over: each saw distances so many times too short.
    """
    bins: dict[PoolKey, dict[str, float]] = {}
    seen: dict[PoolKey, float] = {}
    for name, labels, value in samples:
        key = (labels.get("namespace", ""), labels.get("pool", ""))
        if not all(key) or not math.isfinite(value) or value < 0:
            continue
        if name == SEEN:
            seen[key] = seen.get(key, 0.0) + value
        elif name == BINS:
            mine = bins.setdefault(key, {})
            within = labels.get("within", "")
            mine[within] = mine.get(within, 0.0) + value
    found: dict[PoolKey, ReuseCurve] = {}
    for key, mine in bins.items():
        edges = sorted(float(one) for one in mine if _is_edge(one))
        if not edges:
            continue
        by_edge = {float(one): value for one, value in mine.items() if _is_edge(one)}
        curve = observed_curve(
            [edge * routers for edge in edges],
            [*(by_edge[edge] for edge in edges), mine.get(NEW, 0.0)],
            seen=seen.get(key, 0.0),
            source=source,
        )
        if curve is not None:
            found[key] = curve
    return found


def _is_edge(text: str) -> bool:
    return text.isdecimal() and 0 < len(text) < 16 and int(text) > 0


def read_pages(pages: Iterable[str], *, routers: int) -> dict[PoolKey, ReuseCurve]:
    """The curves of metrics pages of routers, since these began.

    Raises:
        ValueError: a page is not in the text format.
    """
    samples: list[tuple[str, Mapping[str, str], float]] = []
    for page in pages:
        lines = [line for line in page.split("\n") if line.startswith("tidefleet_router_reuse_")]
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            samples += [(one.name, one.labels, one.value) for one in family.samples]
    return curves_of(samples, routers=routers, source="block reuse as the router saw it")


async def ask_routers(
    session: aiohttp.ClientSession, router: Router, prometheus: Prometheus | None
) -> dict[PoolKey, ReuseCurve]:
    """The curves of all pools: from the routers' pages where they are named, else of the last day from a Prometheus.

    Raises:
        aiohttp.ClientError, OSError, TimeoutError, ValueError: something cannot be reached or understood.
    """
    if router.metrics_urls:
        pages = await asyncio.gather(*(_page(session, url) for url in router.metrics_urls))
        return read_pages(pages, routers=router.processes)
    if prometheus is None:
        return {}
    # increase drops the names: what has no bound is what was seen in all
    text = f'sum by (namespace, pool, within) (increase({{__name__=~"{BINS}|{SEEN}"}}[1d]))'
    body = await query(session, prometheus, text)
    return read_vector(body, routers=router.processes)


def read_vector(body: Any, *, routers: int) -> dict[PoolKey, ReuseCurve]:
    """The curves of a Prometheus's answer.

    Raises:
        ValueError: it is no vector.
    """
    try:
        found = [(one["metric"], float(one["value"][1])) for one in body["data"]["result"]]
        samples = [(BINS if "within" in labels else SEEN, labels, value) for labels, value in found]
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"its answer is no vector: {error}") from error
    return curves_of(samples, routers=routers, source="block reuse of the last day as the router saw it")


async def _page(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise ValueError(f"{url} answered {response.status}")
        return (await read_all(response.content, PAGE_LIMIT)).decode("utf-8", "replace")
