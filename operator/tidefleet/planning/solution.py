"""The exact solution of one pool, or as much coverage as its limits allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidefleet.planning.cover import Item, cheapest_cover, lower_bound
from tidefleet.planning.options import PLANNING_UTILISATION, SPOT, Candidate, Option
from tidefleet.planning.problem import PoolProblem


@dataclass(frozen=True, slots=True)
class Solution:
    """Replicas by candidate, their cost in USD per hour, and what is missing when the limits allow no cover.

    Rent that is owed in any case (``Candidate.committed_usd_per_hour``) is not in the cost.
    """

    counts: tuple[int, ...]
    cost: float
    proven: bool
    shortfall: float = 0.0
    spare_missing: int = 0


def items_of(candidates: Sequence[Candidate], *, pinned: bool = False) -> list[Item]:
    """Candidates as the cover sees them, at planning utilisation and without rent that is owed in any case.

    A pool that is ``pinned`` to a number of replicas has that number, whether or not it fills racks.
    """
    return [
        Item(
            c.usd_per_hour - c.committed_usd_per_hour,
            c.requests_per_second * PLANNING_UTILISATION,
            c.option.accelerator,
            c.option.chips,
            chip_group(c.option),
            firm=c.option.capacity_type != SPOT,
            multiple=1 if pinned else c.multiple,
        )
        for c in candidates
    ]


def chip_group(option: Option) -> str:
    """The name by which chips of a type that are paid for in one way are limited, in ``PoolProblem.type_caps``."""
    return f"{option.accelerator} {option.capacity_type}"


def solve(problem: PoolProblem, candidates: Sequence[Candidate]) -> Solution:
    """The cheapest cover; where the limits allow none, as much coverage as they do allow."""
    items, demand = items_of(candidates, pinned=problem.pinned is not None), problem.requests_per_second
    low, high, spare = problem.minimum, problem.maximum, problem.spare
    if problem.pinned is not None:
        low = high = problem.pinned
        spare = 0
    for less in range(spare + 1):
        cover = cheapest_cover(
            items,
            demand,
            spare=spare - less,
            minimum=low,
            maximum=high,
            type_caps=problem.caps,
            firm_demand=firm_demand(problem),
        )
        if cover is not None:
            counts = _as_running(problem, candidates, items, cover.counts)
            return Solution(counts, cover.cost, cover.proven, spare_missing=less)
    # Where replicas are what is scarce, the largest first; where chips are, the most per chip first.
    filled = max(
        _filled(problem, items, high, key=lambda i: -items[i].coverage),
        _filled(problem, items, high, key=lambda i: -items[i].coverage / items[i].chips),
        key=lambda counts: sum(n * item.coverage for n, item in zip(counts, items, strict=True)),
    )
    covered = sum(n * item.coverage for n, item in zip(filled, items, strict=True))
    shortfall = max(0.0, 1.0 - covered / demand) if demand > 0 else 0.0
    return Solution(tuple(filled), sum(n * i.cost for n, i in zip(filled, items, strict=True)), True, shortfall)


def least_replicas(problem: PoolProblem) -> int:
    """The pool's minimum, as far as whole racks come to it without passing its maximum."""
    at_once = [one.multiple for one in problem.market.candidates]
    if not at_once or 1 in at_once:
        return problem.minimum
    return min(problem.minimum, max(problem.maximum // one * one for one in at_once))


def firm_demand(problem: PoolProblem) -> float:
    """Requests per second that must have capacity which is not taken away."""
    return problem.requests_per_second * (1.0 - problem.spot_share) if problem.pinned is None else 0.0


def _as_running(
    problem: PoolProblem, candidates: Sequence[Candidate], items: Sequence[Item], counts: Sequence[int]
) -> tuple[int, ...]:
    """The same plan with replicas of equal options where they run already (adopted workloads can be alike)."""
    result = list(counts)
    alike: dict[Item, list[int]] = {}
    for i, item in enumerate(items):
        alike.setdefault(item, []).append(i)
    for group in alike.values():
        left = sum(counts[i] for i in group)
        if len(group) < 2 or not left:
            continue
        for i in group:
            running = problem.running.get(candidates[i].option, 0)
            result[i] = min(left, running) // items[i].multiple * items[i].multiple
            left -= result[i]
        result[group[0]] += left
    return tuple(result)


def _filled(problem: PoolProblem, items: Sequence[Item], high: int, *, key: Callable[[int], float]) -> list[int]:
    """As many replicas as the limits allow, the items in this order, the cheaper of equal ones first.

    Where spot is limited, firm items come first, and spot as far as its share of what is covered goes.
    """
    counts = [0] * len(items)
    caps = problem.caps
    used: dict[str, int] = {}
    firm, limited = 0.0, problem.spot_share < 1.0 and problem.pinned is None
    spot_per_firm = problem.spot_share / (1.0 - problem.spot_share) if limited else 0.0
    order = sorted(range(len(items)), key=lambda i: (limited and not items[i].firm, key(i), items[i].cost))
    spot_left: float | None = None
    for i in order:
        item = items[i]
        n = high - sum(counts)
        if limited and not item.firm:
            spot_left = spot_per_firm * firm if spot_left is None else spot_left
            n = min(n, math.floor(spot_left / item.coverage + 1e-9))
        for name in (item.type_name, item.group):
            if name in caps:
                n = min(n, (caps[name] - used.get(name, 0)) // item.chips)
        counts[i] = max(0, n) // item.multiple * item.multiple
        if item.firm:
            firm += counts[i] * item.coverage
        elif spot_left is not None:
            spot_left -= counts[i] * item.coverage
        for name in (item.type_name, item.group):
            used[name] = used.get(name, 0) + counts[i] * item.chips
    return counts


def bound(problem: PoolProblem) -> float:
    """USD per hour below which no plan can cost."""
    items = items_of(problem.market.candidates)
    spare, least, most = problem.spare, problem.minimum, problem.maximum
    if problem.pinned is not None:
        spare, least, most = 0, problem.pinned, problem.pinned
    by_load = lower_bound(
        items, problem.requests_per_second, spare, firm_demand(problem), minimum=least, maximum=max(least, most)
    )
    return max(by_load, least * min(item.cost for item in items))
