"""Mélange's allocation (Griggs et al., arXiv 2404.14527) on our profiles, by exhaustive search instead of its ILP.

Each bucket's rate is cut into equal slices, each slice goes whole to one accelerator type, accelerators are whole. With
few buckets every division of the slices can be tried, so the optimum needs no solver and no trust in one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist

from benchmarks.validation_rows import ACCELERATORS, MODELS, Check, Row, numbers

from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import Objective, TokenShape

PRICES = {"l4": 0.70, "a10g": 1.01, "a100-sxm-80": 3.67, "h100-sxm": 7.516}
"""USD per hour that the authors paid."""

RATES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Requests per second of the published charts."""

SLICES = 8

ARENA = (TokenShape(1000.0, 300.0),)
"""Chat turns with the conversation before them. The authors' lengths are not published in numbers; these stand for them
in every Arena row."""

_PUBMED_MEAN, _PUBMED_SUMMARY, _PUBMED_SPREAD = 4070.0, 274.0, 2.25
"""Tokens of articles and summaries: 3,016 and 203 words (Cohan et al. 2018) at 1.35 tokens a word; and the 90th
percentile of articles over their median (BigBird paper, recalled; NOT verified here)."""


def _terciles(mean: float, spread: float, output: float) -> tuple[TokenShape, ...]:
    """Mean prompt of the short, middle and long third of log-normal lengths, with one output length."""
    normal = NormalDist()
    sigma = math.log(spread) / normal.inv_cdf(0.9)
    edges = [-math.inf, normal.inv_cdf(1 / 3), normal.inv_cdf(2 / 3), math.inf]
    below = [normal.cdf(edge - sigma) if math.isfinite(edge) else float(edge > 0) for edge in edges]
    return tuple(TokenShape(3 * mean * (b - a), output) for a, b in itertools.pairwise(below))


PUBMED = _terciles(_PUBMED_MEAN, _PUBMED_SPREAD, _PUBMED_SUMMARY)
"""Thirds of equal weight. The authors compare with A100 and H100 alone here: the others cannot hold long requests."""

_MODEL = replace(MODELS["llama-2-7b"], context_tokens=0)  # the authors' copy takes long documents

_EXAMPLE_SHARES = (0.2, 0.1, 0.5, 0.2)
_EXAMPLE_THROUGHPUT = {"A10G": (2.0, 1.0, 5.0, 2.0), "A100": (20.0, 20.0, 40.0, 20.0)}
_EXAMPLE_PRICES = {"A10G": 1.01, "A100": 3.67}
_EXAMPLE_RATE = 30.0  # the authors' config/example.json


@dataclass(frozen=True, slots=True)
class Allocation:
    """Whole accelerators by type, and their price in USD per hour."""

    counts: Mapping[str, int]
    usd_per_hour: float


def _divisions(slices: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to divide equal slices among so many types."""
    if parts == 1:
        yield (slices,)
        return
    for first in range(slices + 1):
        for rest in _divisions(slices - first, parts - 1):
            yield (first, *rest)


def by_slices(loads: Mapping[str, Sequence[float]], prices: Mapping[str, float], slices: int) -> Allocation:
    """The cheapest allocation when every bucket's slices go whole to a type.

    Args:
        loads: by type, accelerators that each bucket's whole rate keeps busy; ``inf`` where a type cannot serve it.
        prices: USD per hour by type.
        slices: equal slices of each bucket.
    """
    names = list(loads)
    buckets = len(next(iter(loads.values())))
    best = Allocation({}, math.inf)
    for division in itertools.product(*(list(_divisions(slices, len(names))) for _ in range(buckets))):
        busy = [
            sum(part[k] / slices * loads[name][b] for b, part in enumerate(division) if part[k])
            for k, name in enumerate(names)
        ]
        if math.inf in busy:
            continue
        counts = [math.ceil(one - 1e-9) for one in busy]
        usd = sum(count * prices[name] for count, name in zip(counts, names, strict=True))
        if usd < best.usd_per_hour - 1e-9:
            best = Allocation({name: n for name, n in zip(names, counts, strict=True) if n}, usd)
    return best


def by_flow(loads: Mapping[str, Sequence[float]], prices: Mapping[str, float]) -> Allocation:
    """The cheapest allocation of two types when a bucket's rate may be divided anyhow.

    With n of the first type the buckets go there in the order of what they save on the second, as far as n reaches.
    """
    first, second = loads
    order = sorted(range(len(loads[first])), key=lambda b: loads[first][b] / loads[second][b])
    best = Allocation({}, math.inf)
    for n in range(math.ceil(sum(loads[first])) + 1):
        room, other = float(n), 0.0
        for bucket in order:
            share = min(1.0, room / loads[first][bucket])
            room -= share * loads[first][bucket]
            other += (1.0 - share) * loads[second][bucket]
        m = math.ceil(other - 1e-9)
        usd = n * prices[first] + m * prices[second]
        if usd < best.usd_per_hour - 1e-9:
            best = Allocation({first: n, second: m}, usd)
    return best


@cache
def requests_per_second(name: str, shape: TokenShape, tpot_seconds: float) -> float:
    """What one accelerator serves of Llama-2-7B within a mean time per output token; 0 when it cannot."""
    replica = Replica(_MODEL, ACCELERATORS[name], 1, "Bf16", "Bf16")
    found = estimate(replica, shape, [Objective("TPOT", tpot_seconds)])
    return found.requests_per_second if isinstance(found, Estimate) else 0.0


def loads_at(rate: float, shapes: Sequence[TokenShape], tpot_seconds: float) -> dict[str, list[float]]:
    """By type, accelerators that each shape's equal share of this rate keeps busy."""
    found: dict[str, list[float]] = {}
    for name in PRICES:
        served = [requests_per_second(name, shape, tpot_seconds) for shape in shapes]
        found[name] = [rate / len(shapes) / one if one else math.inf for one in served]
    return found


def single(name: str, loads: Mapping[str, Sequence[float]]) -> float:
    """USD per hour with one type alone."""
    return PRICES[name] * math.ceil(sum(loads[name]) - 1e-9) if math.isfinite(sum(loads[name])) else math.inf


def savings(
    shapes: Sequence[TokenShape], tpot_seconds: float, alone: Iterable[str], slices: int
) -> tuple[float, float]:
    """Least and greatest saving in percent of the mix on any of these types alone that can serve, over all rates."""
    found = []
    for rate in RATES:
        loads = loads_at(rate, shapes, tpot_seconds)
        mixed = by_slices(loads, PRICES, slices).usd_per_hour
        found += [100 * (1 - mixed / usd) for name in alone if math.isfinite(usd := single(name, loads))]
    return min(found), max(found)


def example(row: Row) -> list[Check]:
    """MEL-01: the authors' example, in their way and with rates divided anyhow."""
    loads = {
        name: [_EXAMPLE_RATE * s / t for s, t in zip(_EXAMPLE_SHARES, rates, strict=True)]
        for name, rates in _EXAMPLE_THROUGHPUT.items()
    }
    sliced, flow = by_slices(loads, _EXAMPLE_PRICES, 1), by_flow(loads, _EXAMPLE_PRICES)
    published = numbers(row["value"])  # A10G 3 + A100 1 = 6.70
    return [
        Check("USD/h by slices", published[-1], sliced.usd_per_hour),
        Check("A10G by slices", published[1], float(sliced.counts.get("A10G", 0))),
        Check("USD/h by flow", 4.68, flow.usd_per_hour),
    ]


def arena(row: Row) -> list[Check]:
    """MEL-02: one request per second within 120 ms; each type alone against the mix."""
    loads = loads_at(1.0, ARENA, 0.120)
    mixed = by_slices(loads, PRICES, SLICES)
    ratio = dict(zip(("h100-sxm", "a100-sxm-80", "a10g", "l4"), _after_names(row["value"]), strict=True))
    return [
        Check("USD/h of the mix", 1.71, mixed.usd_per_hour),
        *(Check(f"{name} alone", one, single(name, loads) / mixed.usd_per_hour) for name, one in ratio.items()),
    ]


def _after_names(text: str) -> list[float]:
    """The ratios of ``H100 4.39 A100 2.15 A10G 1.18 L4 1.23``: every word that is a number."""
    return [float(word) for word in text.split() if word.replace(".", "").isdigit()]


def arena_savings(row: Row) -> list[Check]:
    """MEL-04: the band of savings within 40 ms."""
    least, most = savings(ARENA, 0.040, PRICES, SLICES)
    low, high = numbers(row["value"])
    return [Check("least saving, %", low, least), Check("greatest saving, %", high, most)]


def pubmed_savings(row: Row) -> list[Check]:
    """MEL-05: the bands of savings on long documents, and which type serves a request for less."""
    low, high, low_fast, high_fast = numbers(row["value"])
    large = ("a100-sxm-80", "h100-sxm")
    slow, fast = savings(PUBMED, 0.120, large, 3), savings(PUBMED, 0.040, large, 3)
    cheaper = {
        slo: PRICES[large[1]] * sum(at[large[1]]) / (PRICES[large[0]] * sum(at[large[0]]))
        for slo in (0.120, 0.040)
        if (at := loads_at(1.0, PUBMED, slo))
    }
    return [
        Check("least saving at 120 ms, %", low, slow[0]),
        Check("greatest saving at 120 ms, %", high, slow[1]),
        Check("least saving at 40 ms, %", low_fast, fast[0]),
        Check("greatest saving at 40 ms, %", high_fast, fast[1]),
        Check("price of a request on H100 over A100 at 120 ms", 1.0, cheaper[0.120], cheaper[0.120] > 1.0),
        Check("price of a request on H100 over A100 at 40 ms", 1.0, cheaper[0.040], cheaper[0.040] < 1.0),
    ]


def staircase(row: Row) -> list[Check]:
    """MEL-07: what a mixed step saves on the next whole step of the larger type, at the authors' prices."""
    mixed = 2 * PRICES["a100-sxm-80"] + PRICES["a10g"]
    alone = 3 * PRICES["a100-sxm-80"]
    return [Check("saving, %", float(row["value"]), 100 * (1 - mixed / alone))]


CASES = {
    "MEL-01": example,
    "MEL-02": arena,
    "MEL-04": arena_savings,
    "MEL-05": pubmed_savings,
    "MEL-07": staircase,
}
