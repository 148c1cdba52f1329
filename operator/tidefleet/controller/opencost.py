"""What OpenCost says that models cost, read from a Prometheus that holds its figures."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from tidefleet.cluster.records import Pod
from tidefleet.controller.config import Prometheus
from tidefleet.controller.prometheus import query
from tidefleet.economics.opencost import MODEL_LABEL, Key

log = logging.getLogger(__name__)

SECONDS = 5.0
"""In real time; whoever asks waits so long at most."""

WINDOW = "1h"
"""Both bills are compared over this time, since OpenCost looks every two minutes and replicas come and go."""

QUERY = (
    "sum by (namespace, exported_namespace, model_name) "
    f'(avg_over_time(llm_total_cost{{cost_basis="allocation"}}[{WINDOW}]))'
)
"""USD per hour. Where the scrape does not honour labels, the model's namespace is ``exported_namespace``."""


@dataclass(frozen=True, slots=True)
class Beside:
    """OpenCost's bill, and what it needs to be put beside ours.

    Attributes:
        theirs: USD per hour by namespace and model.
        models: by pool (namespace and name), the model that OpenCost knows its pods by; a pool without labels has none.
    """

    theirs: Mapping[Key, float]
    models: Mapping[Key, str]


def read_opencost(prometheus: Prometheus) -> Mapping[Key, float] | None:
    """USD per hour by namespace and model; empty where there is no OpenCost, ``None`` while that is not known."""
    if not prometheus.url:
        return {}
    try:
        return asyncio.run(asyncio.wait_for(_ask(prometheus), SECONDS))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, LookupError, TypeError, AttributeError) as error:
        log.info("OpenCost's figures are not known", extra={"why": f"{type(error).__name__}: {error}"[:300]})
        return None


async def _ask(prometheus: Prometheus) -> dict[Key, float]:
    async with aiohttp.ClientSession() as session:
        return figures_of(await query(session, prometheus, QUERY))


def figures_of(body: Any) -> dict[Key, float]:
    """USD per hour by namespace and model in a Prometheus's answer to ``QUERY``; a value that is no amount is none."""
    found: dict[Key, float] = {}
    for one in body["data"]["result"]:
        labels: Mapping[str, Any] = one["metric"]
        namespace = str(labels.get("exported_namespace") or labels.get("namespace", ""))
        usd = float(one["value"][1])
        if namespace and labels.get("model_name") and 0.0 <= usd < math.inf:
            key = (namespace, str(labels["model_name"]))
            found[key] = found.get(key, 0.0) + usd
    return found


def model_of(pods: Iterable[Pod]) -> str:
    """The model that OpenCost knows these pods by; empty where they carry no such label, or several values of it."""
    named = {pod.labels[MODEL_LABEL] for pod in pods if pod.labels.get(MODEL_LABEL)}
    return named.pop() if len(named) == 1 else ""
