"""DeepSeek's published day (open-infra-index, day 6) and SGLang's reproduction, by our accounting and our physics.

226.75 nodes of 8 H800 at $2 a GPU-hour; 608B tokens in (342B of them from the cache), 168B out; 73.7k tokens/s in and
14.8k out per node; decode in expert-parallel groups of 144.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from benchmarks.validation_rows import ACCELERATORS, MODELS, Check, Row, numbers

from tidefleet.economics.disaggregated import Disaggregated
from tidefleet.economics.external import PerToken, TokenVector, margin, token_usd
from tidefleet.economics.memory import kv_bytes, memory_fit
from tidefleet.economics.money import ChipCost, pair_cost, token_cost
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import Objective, TokenShape

DAY = 86_400.0
CHIPS, RENT = 8, 2.0
TOKENS = TokenVector(uncached_input=266e9, cached_input=342e9, output=168e9)
INTO_PER_NODE, OUT_PER_NODE = 73.7e3, 14.8e3
CONTEXT = 4989.0
_PRICES = PerToken(input=0.55, output=2.19, cached_input=0.14)
_SHAPE = TokenShape(TOKENS.input / TOKENS.output * 1000.0, 1000.0, cached_share=TOKENS.cached_input / TOKENS.input)
_GROUP = 144


def node(role: str = "Aggregated") -> Estimate:
    """A node of 8 H800 in a role, at the published rates instead of modelled ones."""
    replica = Replica(
        MODELS["deepseek-r1"],
        ACCELERATORS["h800-sxm"],
        _GROUP,
        "Fp8",
        "Bf16",
        tensor_parallel=1,
        expert_parallel=_GROUP,
    )
    found = estimate(replica, _SHAPE, role=role)
    assert isinstance(found, Estimate), found  # noqa: S101
    rate = INTO_PER_NODE / _SHAPE.input_mean if role == "Prefill" else OUT_PER_NODE / _SHAPE.output_mean
    return replace(
        found,
        replica=replace(replica, chips=CHIPS, tensor_parallel=1, expert_parallel=CHIPS),
        requests_per_second=rate,
        output_tokens_per_second=0.0 if role == "Prefill" else OUT_PER_NODE,
        cached_share_of_prefill=0.0,  # the published figures owe nothing to hits
    )


def usd_per_day(nodes: float) -> float:
    """Rent of so many nodes for a day."""
    return token_cost(node(), ChipCost(RENT)).usd_per_hour * 24.0 * nodes


def nodes_of_the_day(conditions: str) -> list[tuple[float, float, float]]:
    """(begin, end, nodes) in hours from the published curve: ``278 (12:00-00:00, 08:30-12:00), 188 (-02:00)``.

    A span without a begin goes on where the one before it ended.
    """
    spans, last = [], 0.0
    for count, inside in re.findall(r"(\d+)\s*\(([^)]*)\)", conditions):
        for one in inside.split(","):
            begin, _, end = one.strip().partition("-")
            start = _hours(begin) if begin else last
            last = _hours(end) or 24.0
            spans.append((start, last, float(count)))
            last %= 24.0
    return spans


def _hours(clock: str) -> float:
    hours, _, minutes = clock.partition(":")
    return float(hours) + float(minutes or 0) / 60.0


def daily_cost(row: Row) -> list[Check]:
    """DS-01."""
    return [Check("USD/day", float(row["value"]), usd_per_day(226.75))]


def average_nodes(row: Row) -> list[Check]:
    """DS-02: the time-integral of the day's plan."""
    spans = nodes_of_the_day(row["conditions"])
    hours = sum(end - begin for begin, end, _ in spans)
    mean = sum((end - begin) * count for begin, end, count in spans) / 24.0
    return [Check("hours covered", 24.0, hours), Check("nodes", float(row["value"]), mean)]


def pools() -> tuple[float, float]:
    """Nodes that the day's tokens need for prefill and for decode at the published rates."""
    return TOKENS.input / DAY / INTO_PER_NODE, TOKENS.output / DAY / OUT_PER_NODE


def pool_split(row: Row) -> list[Check]:
    """DS-03."""
    into, out = numbers(row["value"])
    return [
        Check("prefill nodes", into, pools()[0]),
        Check("decode nodes", out, pools()[1]),
        Check("both", 226.75, sum(pools())),
    ]


def revenue(row: Row) -> list[Check]:
    """DS-04: the day's tokens times the price list."""
    return [Check("USD/day", float(row["value"]), token_usd(TOKENS, _PRICES))]


def profit(row: Row) -> list[Check]:
    """DS-05."""
    return [Check("margin, %", float(row["value"]), 100 * margin(token_usd(TOKENS, _PRICES), usd_per_day(226.75)))]


def hit_rate(row: Row) -> list[Check]:
    """DS-06: by tokens."""
    return [Check("hit rate, %", float(row["value"]), 100 * _SHAPE.cached_share)]


def _decode_group(overlap: float) -> Replica:
    replica = Replica(
        MODELS["deepseek-r1"],
        ACCELERATORS["h800-sxm"],
        _GROUP,
        "Fp8",
        "Bf16",
        tensor_parallel=1,
        expert_parallel=_GROUP,
    )
    return replace(replica, efficiency=replace(replica.reached, overlap=overlap))


def tokens_per_node(replica: Replica, tokens_per_second_per_user: float) -> float:
    """Output tokens/s of a node at the largest batch whose step keeps this speed."""
    batches = np.arange(1.0, 1025.0) * replica.chips
    seconds = decode_step(replica, batches, CONTEXT).seconds
    within = batches[seconds <= 1.0 / tokens_per_second_per_user]
    return float(within[-1]) * tokens_per_second_per_user / replica.chips * CHIPS if len(within) else 0.0


def decode_rate(row: Row) -> list[Check]:
    """DS-07: at 20-22 tokens/s a user. Nothing hidden gives the published rate, all hidden at most 2.3 times it."""
    published = float(row["value"])
    bare = [tokens_per_node(_decode_group(0.0), speed) for speed in (20.0, 21.0, 22.0)]
    hidden = [tokens_per_node(_decode_group(1.0), speed) for speed in (20.0, 21.0, 22.0)]
    return [
        Check("tokens/s per node at 21 a user, nothing overlapped", published, bare[1]),
        Check("the same with all communication hidden", 2.3 * published, max(hidden), max(hidden) <= 2.3 * published),
        Check("hiding communication is faster", bare[1], hidden[1], hidden[1] >= bare[1]),
    ]


def concurrency(row: Row) -> list[Check]:
    """DS-08: Little's law, and the KV cache of those requests in the memory that is left."""
    sequences = OUT_PER_NODE / CHIPS / 21.0
    replica = _decode_group(0.0)
    held = sequences * kv_bytes(replica.model, "Bf16", 1, CONTEXT)
    fit = memory_fit(
        replica.model,
        replica.accelerator,
        chips=_GROUP,
        weights="Fp8",
        kv="Bf16",
        tensor_parallel=1,
        expert_parallel=_GROUP,
    )
    return [
        Check("requests per GPU", float(row["value"]), sequences),
        Check("KV per GPU, GB", 30.9, held / 1e9),
        Check("KV room per GPU, GB", held / 1e9, fit.kv_room / 1e9, held <= fit.kv_room),
    ]


def unit_costs(row: Row) -> list[Check]:
    """DS-10: each phase's nodes pay for its tokens, and both bills are the whole bill."""
    both = Disaggregated(node("Prefill"), node("Decode"), 0.0, 0.0)
    money = pair_cost(both, ChipCost(RENT), ChipCost(RENT))
    uncached, output = money.prefill.input or 0.0, money.decode.output or 0.0
    per_input, per_uncached, per_output, blended = numbers(row["value"])
    bill = (uncached * TOKENS.uncached_input + output * TOKENS.output) / 1e6
    return [
        Check("USD per 1M input, prefill pool", per_input, uncached * (1 - _SHAPE.cached_share)),
        Check("USD per 1M uncached input", per_uncached, uncached),
        Check("USD per 1M output, decode pool", per_output, output),
        Check("USD per 1M output, blended", blended, bill / TOKENS.output * 1e6),
        Check("USD/day of both phases", usd_per_day(sum(pools())), bill),
    ]


def trough(row: Row) -> list[Check]:
    """DS-11: the trough, and what following demand saves on a static peak."""
    spans = nodes_of_the_day(
        "278 (12:00-00:00, 08:30-12:00), 218 (00:00-01:15), 188 (-02:00), 158 (-02:45), 128 (-03:00), 98 (-03:30), "
        "68 (-06:30), 98 (-07:00), 128 (-07:30), 188 (-08:00), 218 (-08:30)"
    )
    peak, least = max(n for *_, n in spans), min(n for *_, n in spans)
    mean = sum((end - begin) * n for begin, end, n in spans) / 24.0
    return [
        Check("nodes at night", float(row["value"]), least),
        Check("share of the peak, %", 24.0, 100 * least / peak),
        Check("saving, %", 18.4, 100 * (1 - mean / peak)),
    ]


def sglang_cost(row: Row) -> list[Check]:
    """SG-02: 22.3k tokens/s of a node at $2 a GPU-hour."""
    found = replace(node("Decode"), requests_per_second=22.3e3 / _SHAPE.output_mean)
    return [Check("USD per 1M output", float(row["value"]), token_cost(found, ChipCost(RENT)).output or 0.0)]


def expert_gain(row: Row) -> list[Check]:
    """SG-03: on the same 16 H100, experts spread over all of them beat tensor parallelism over two nodes."""
    shape = TokenShape(2000.0, 100.0)
    rates = [_decode_rate_per_chip(width, group, shape) for width, group in ((16, 1), (1, 16))]
    gain = rates[1] / rates[0]
    return [Check("decode rate of EP16 over TP16", numbers(row["value"])[0], gain, gain > 1.0)]


def _decode_rate_per_chip(width: int, group: int, shape: TokenShape, objectives: Sequence[Objective] = ()) -> float:
    replica = Replica(
        MODELS["deepseek-r1"], ACCELERATORS["h100-sxm"], 16, "Fp8", "Bf16", tensor_parallel=width, expert_parallel=group
    )
    found = estimate(replica, shape, objectives, role="Decode")
    return found.output_tokens_per_second / 16 if isinstance(found, Estimate) else 0.0


CASES = {
    "DS-01": daily_cost,
    "DS-02": average_nodes,
    "DS-03": pool_split,
    "DS-04": revenue,
    "DS-05": profit,
    "DS-06": hit_rate,
    "DS-07": decode_rate,
    "DS-08": concurrency,
    "DS-10": unit_costs,
    "DS-11": trough,
    "SG-02": sglang_cost,
    "SG-03": expert_gain,
}
