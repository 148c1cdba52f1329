"""What a Prometheus says of the devices of nodes: errors that no node condition tells of, such as those of DCGM."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Any

import aiohttp

from tidefleet.controller.config import DeviceHealth, Prometheus
from tidefleet.controller.prometheus import query

log = logging.getLogger(__name__)

SECONDS = 10.0
"""In real time; whoever asks waits so long at most."""


def read_ailing(prometheus: Prometheus, health: DeviceHealth) -> Mapping[str, str] | None:
    """By node, what is wrong with a device of it; ``None`` while that is not known.

    Every series that one of the queries answers with is one device that is not well. A node is named by the first of
    its labels that it has; a series without any is passed over.
    """
    if not prometheus.url or not health.queries:
        return {}
    try:
        return asyncio.run(asyncio.wait_for(_ask(prometheus, health), SECONDS))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, LookupError, TypeError, AttributeError) as error:
        log.info("the health of devices is not known", extra={"why": f"{type(error).__name__}: {error}"[:300]})
        return None


async def _ask(prometheus: Prometheus, health: DeviceHealth) -> dict[str, str]:
    found: dict[str, str] = {}
    async with aiohttp.ClientSession() as session:
        for one in health.queries:
            body = await query(session, prometheus, one.query)
            for series in body["data"]["result"]:
                labels: Mapping[str, Any] = series["metric"]
                node = next((str(labels[name]) for name in health.node_labels if labels.get(name)), "")
                if node:
                    value = float(series["value"][1])
                    found.setdefault(node, _words(node, labels, one.why, value))
    return found


def _words(node: str, labels: Mapping[str, Any], why: str, value: float) -> str:
    device = next(
        (f"device {str(labels[name])[:64]}" for name in ("gpu", "device", "UUID") if labels.get(name)), "a device"
    )
    told = f" ({value:g})" if math.isfinite(value) else ""
    return f"{device} of node {node}: {why}{told}"
