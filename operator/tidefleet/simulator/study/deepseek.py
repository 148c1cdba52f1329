"""A published day of a fleet that follows its demand: nodes by the hour, tokens, and prices of the same tokens.

DeepSeek, Open Infra Index, day 6 (February 2025): nodes of eight H800 at an assumed $2 an accelerator-hour. The node
counts are read off its figure; their mean is the 226.75 that it states.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from tidefleet import catalogue
from tidefleet.economics.external import PerToken, TokenVector, margin, token_usd
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step
from tidefleet.simulator.catalogued import chip_of

NODES: tuple[tuple[float, int], ...] = (
    (0.0, 218),
    (1.25, 188),
    (2.0, 158),
    (2.75, 128),
    (3.0, 98),
    (3.5, 68),
    (6.5, 98),
    (7.0, 128),
    (7.5, 188),
    (8.0, 218),
    (8.5, 278),
)
"""Hour of the day (UTC+8) from which so many nodes serve; the last until midnight."""

CHIPS_PER_NODE = 8
USD_PER_CHIP_HOUR = 2.0
TOKENS = TokenVector(uncached_input=266e9, cached_input=342e9, output=168e9)
PRICES = PerToken(input=0.55, cached_input=0.14, output=2.19)
"""USD per million tokens of its API for R1."""

DECODE_GROUP, DECODE_SPEED, DECODE_CONTEXT, DECODE_TOKENS_PER_NODE = 144, 21.0, 4989.0, 14_800.0
"""Chips that the experts of its decode are spread over; tokens/s a user (20 to 22), mean KV tokens and output tokens/s
a node that it states."""


def decode_tokens_per_second_per_node() -> float:
    """What the cost model expects of a decode node at that speed: output tokens/s."""
    chip = chip_of("h800-sxm")
    replica = Replica(
        catalogue.models()["deepseek-r1"],
        chip,
        DECODE_GROUP,
        "Fp8",
        "Bf16",
        tensor_parallel=1,
        expert_parallel=DECODE_GROUP,
    )
    batch = DECODE_GROUP * np.arange(1.0, 1000.0)
    seconds = decode_step(replica, batch, DECODE_CONTEXT).seconds
    largest = int(np.searchsorted(seconds, 1.0 / DECODE_SPEED)) - 1
    return float(batch[largest] / seconds[largest]) / DECODE_GROUP * CHIPS_PER_NODE


def mean_nodes() -> float:
    """Over the day."""
    hours = [*NODES, (24.0, 0)]
    return sum(nodes * (after - begin) for (begin, nodes), (after, _) in pairwise(hours)) / 24.0


def peak_nodes() -> int:
    """Most nodes of the day."""
    return max(nodes for _, nodes in NODES)


def saved_share() -> float:
    """Share of node-hours that following demand saves, against the day's peak all day."""
    return 1.0 - mean_nodes() / peak_nodes()


def day() -> Mapping[str, float]:
    """What the day cost, what the same tokens would have earned at list prices, and the margins."""
    per_node_day = CHIPS_PER_NODE * USD_PER_CHIP_HOUR * 24.0
    cost, static = mean_nodes() * per_node_day, peak_nodes() * per_node_day
    revenue = token_usd(TOKENS, PRICES)
    return {
        "mean_nodes": mean_nodes(),
        "saved_share": saved_share(),
        "usd_per_day": cost,
        "revenue_usd_per_day": revenue,
        "margin_share": margin(revenue, cost),
        "margin_share_if_all_nodes_were_paid": margin(revenue, static),
        "usd_per_million_output_tokens_blended": cost / TOKENS.output * 1e6,
    }
