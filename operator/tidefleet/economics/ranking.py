"""Ranks by cost per token, beside the ranks that simpler metrics would give, and which of them misleads most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

METRICS: Mapping[str, tuple[str, bool]] = {
    "usd_per_chip_hour": ("$/chip-hour", False),
    "dense_pflops_per_usd_hour": ("PFLOPS/$", True),
    "hbm_terabytes_per_second_per_usd_hour": ("HBM TB/s per $", True),
    "output_tokens_per_second_per_watt": ("tokens/s per W", True),
}
"""Name: words for people, and whether more is better."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One entry: what its tokens cost, and its metrics; ``None`` where one is unknown."""

    name: str
    usd_per_million_tokens: float
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Misled:
    """What somebody gets who chooses by a metric.

    Attributes:
        first: what the metric ranks first.
        times: cost per token of it over that of the cheapest entry the metric knows.
        inverted, pairs: pairs of entries that the metric orders the other way round than cost per token, of all pairs.
    """

    metric: str
    first: str
    times: float
    inverted: int
    pairs: int


def ranks(standings: Sequence[Standing]) -> list[dict[str, tuple[int, int]]]:
    """For each entry and metric that it has: (rank by the metric, rank by cost per token), from 1.

    Both are among the entries that have the metric, so that they can be compared: an external API has no tokens per
    watt. Entries that a metric cannot tell apart keep their order by cost.
    """
    found: list[dict[str, tuple[int, int]]] = [{} for _ in standings]
    for name, (_, more) in METRICS.items():
        known = [i for i, one in enumerate(standings) if one.metrics.get(name) is not None]
        by_cost = sorted(known, key=lambda i: standings[i].usd_per_million_tokens)
        by_metric = sorted(by_cost, key=lambda i: _key(standings[i], name, more))
        cost_rank = {i: rank for rank, i in enumerate(by_cost, 1)}
        for rank, i in enumerate(by_metric, 1):
            found[i][name] = rank, cost_rank[i]
    return found


def _key(one: Standing, name: str, more: bool) -> float:
    value = one.metrics[name] or 0.0
    return -value if more else value


def misled(standings: Sequence[Standing]) -> list[Misled]:
    """Every metric that ranks at least two entries, the one that misleads most first."""
    found = []
    for name, (_, more) in METRICS.items():
        known = sorted(
            (one for one in standings if one.metrics.get(name) is not None), key=lambda one: one.usd_per_million_tokens
        )
        if len(known) < 2:
            continue
        first = min(known, key=lambda one: _key(one, name, more))
        inverted = sum(  # of each pair the first is the cheaper one
            _key(a, name, more) > _key(b, name, more) and a.usd_per_million_tokens < b.usd_per_million_tokens
            for a, b in combinations(known, 2)
        )
        times = first.usd_per_million_tokens / known[0].usd_per_million_tokens
        found.append(Misled(name, first.name, times, inverted, len(known) * (len(known) - 1) // 2))
    return sorted(found, key=lambda one: (-one.times, -one.inverted / one.pairs))


def sentence(found: Sequence[Misled]) -> str:
    """Which metric would have misled most, in one sentence."""
    if not found:
        return "there are not two entries to rank by another metric"
    worst = found[0]
    words, wrong = METRICS[worst.metric][0], worst.inverted / worst.pairs
    if worst.times > 1.0 + 1e-9:
        return (
            f"{words} would have misled most: its first choice, {worst.first}, costs {worst.times:.2g} times as much "
            f"per token as the cheapest, and it orders {wrong:.0%} of all pairs the wrong way round"
        )
    worst = max(found, key=lambda one: one.inverted / one.pairs)
    if not worst.inverted:
        return "no metric would have misled: all of them give the order of cost per token"
    return (
        f"every metric finds the cheapest; {METRICS[worst.metric][0]} orders {worst.inverted / worst.pairs:.0%} of all "
        "pairs the wrong way round"
    )
