"""The cheapest whole numbers of replicas that cover a demand: an exact branch and bound.

Sets: options o, F of them firm: their capacity is not taken away. Parameters: c[o] USD per hour of a replica, f[o]
demand it covers, m[o] most replicas (by chips of its type), r[o] replicas that are bought at once (a rack of them), D
demand, D_F of it on firm replicas, N_min and N_max replicas in all, s spare replicas.
Variables: n[o] >= 0, a whole multiple of r[o].
Minimise   sum c[o] * n[o]
Subject to sum f[o] * n[o] - s * max{f[o] : n[o] > 0} >= D      (any s replicas may be lost)
           sum over F of f[o] * n[o] >= D_F
           N_min <= sum n[o] <= N_max;  chips of a type <= its cap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

_SLACK = 1e-9
MAX_NODES = 50_000
"""Branches tried, over all sizes of the largest replica, before the search settles for the best found and says so."""


@dataclass(frozen=True, slots=True)
class Item:
    """One option as the cover sees it: cost c, coverage f, the type whose chips it uses, and how many each replica.

    ``group`` is a second name that its chips may be limited by, empty for none; ``firm``: its capacity is not taken
    away, as spot is. ``multiple``: replicas are bought by so many at once.
    """

    cost: float
    coverage: float
    type_name: str
    chips: int
    group: str = ""
    firm: bool = True
    multiple: int = 1


@dataclass(frozen=True, slots=True)
class Cover:
    """Replicas per item in the order given; ``cost`` in USD per hour; ``proven`` when no cheaper cover exists."""

    counts: tuple[int, ...]
    cost: float
    proven: bool


def lower_bound(items: Sequence[Item], demand: float, spare: int = 0, firm_demand: float = 0.0) -> float:
    """USD per hour below which no cover can be: the demand at the lowest cost per unit of coverage, unrounded.

    Of it ``firm_demand`` at the lowest of firm options; what no firm option can cover is left to the rest.

    With spare replicas the demand grows by what the largest replica in use covers; whichever that is, only options up
    to its size take part, and the cheapest case over all of them is a bound.
    """
    if demand <= 0 or not items:
        return 0.0

    def least(usable: Sequence[Item], need: float) -> float:
        any_ratio = min(item.cost / item.coverage for item in usable)
        firm_ratio = min((item.cost / item.coverage for item in usable if item.firm), default=any_ratio)
        firm = min(need, max(0.0, firm_demand))
        return firm * firm_ratio + (need - firm) * any_ratio

    if not spare:
        return least(items, demand)
    return min(
        least([item for item in items if item.coverage <= largest.coverage + _SLACK], demand + spare * largest.coverage)
        for largest in items
    )


def cheapest_cover(
    items: Sequence[Item],
    demand: float,
    *,
    spare: int = 0,
    minimum: int = 0,
    maximum: int = 10_000,
    type_caps: Mapping[str, int] | None = None,
    firm_demand: float = 0.0,
) -> Cover | None:
    """The cheapest cover, or ``None`` when the limits allow none.

    With spare replicas the largest replica in use sets what may be lost, so each possible largest one is tried.
    """
    caps = dict(type_caps or {})
    best: Cover | None = None
    proven = True
    tries = sorted({item.coverage for item in items}, reverse=True) if spare else [math.inf]
    for largest in tries:
        usable = [i for i, item in enumerate(items) if item.coverage <= largest + _SLACK]
        need = demand + (spare * largest if spare and demand > 0 else 0.0)
        limit = best.cost if best else math.inf
        found, complete = _search(
            [items[i] for i in usable],
            need,
            firm_demand=firm_demand,
            replicas=(minimum, maximum),
            caps=caps,
            limit=limit,
            most_visits=max(2_000, MAX_NODES // len(tries)),
        )
        proven = proven and complete
        if found is not None and (best is None or found.cost < best.cost - _SLACK):
            counts = [0] * len(items)
            for position, count in zip(usable, found.counts, strict=True):
                counts[position] = count
            best = Cover(tuple(counts), found.cost, found.proven)
    return best and replace(best, proven=proven)


def _search(
    items: Sequence[Item],
    demand: float,
    *,
    firm_demand: float,
    replicas: tuple[int, int],
    caps: Mapping[str, int],
    limit: float,
    most_visits: int,
) -> tuple[Cover | None, bool]:
    """The cheapest cover below ``limit``, and whether every branch was looked at."""
    minimum, maximum = replicas
    order = _undominated(items, caps, firm_only=firm_demand > _SLACK)
    order.sort(key=lambda i: (items[i].cost / items[i].coverage, -items[i].coverage))
    sorted_items = [items[i] for i in order]
    count = len(sorted_items)
    ratio_from = [math.inf] * (count + 1)  # best cost per coverage, cheapest replica, largest coverage from here on
    cheapest_from = [math.inf] * (count + 1)
    largest_from = [0.0] * (count + 1)
    firm_ratio_from = [math.inf] * (count + 1)
    firm_largest_from = [0.0] * (count + 1)
    for i in range(count - 1, -1, -1):
        item = sorted_items[i]
        ratio_from[i] = min(ratio_from[i + 1], item.cost / item.coverage)
        cheapest_from[i] = min(cheapest_from[i + 1], item.cost)
        largest_from[i] = max(largest_from[i + 1], item.coverage)
        firm_ratio_from[i], firm_largest_from[i] = firm_ratio_from[i + 1], firm_largest_from[i + 1]
        if item.firm:
            firm_ratio_from[i] = min(firm_ratio_from[i], item.cost / item.coverage)
            firm_largest_from[i] = max(firm_largest_from[i], item.coverage)

    best_cost, best_counts, visited = limit, None, 0
    counts = [0] * count
    used: dict[str, int] = {}

    def descend(index: int, left: float, firm: float, taken: int, cost: float) -> None:
        nonlocal best_cost, best_counts, visited
        visited += 1
        if left <= _SLACK and firm <= _SLACK and taken >= minimum:
            if cost < best_cost - _SLACK:
                best_cost, best_counts = cost, list(counts)
            return
        if index == count or visited > most_visits:
            return
        if firm > _SLACK and (maximum - taken) * firm_largest_from[index] < firm - _SLACK:
            return
        by_load = max(left - max(firm, 0.0), 0.0) * ratio_from[index]
        by_load += firm * firm_ratio_from[index] if firm > _SLACK else 0.0
        bound = max(by_load, max(0, minimum - taken) * cheapest_from[index])
        if cost + bound >= best_cost - _SLACK:
            return
        if left > _SLACK and (maximum - taken) * largest_from[index] < left - _SLACK:
            return
        item = sorted_items[index]
        need = max(left, firm) if item.firm else left
        most = max(0, math.ceil(need / item.coverage - _SLACK), minimum - taken)
        most = min(-(-most // item.multiple) * item.multiple, maximum - taken)
        limits = [name for name in (item.type_name, item.group) if name in caps]
        for name in limits:
            most = min(most, (caps[name] - used.get(name, 0)) // item.chips)
        for n in range(max(most // item.multiple, 0) * item.multiple, -1, -item.multiple):
            counts[index] = n
            for name in limits:
                used[name] = used.get(name, 0) + n * item.chips
            covered = n * item.coverage
            descend(index + 1, left - covered, firm - covered if item.firm else firm, taken + n, cost + n * item.cost)
            for name in limits:
                used[name] -= n * item.chips
        counts[index] = 0

    descend(0, demand, firm_demand, 0, 0.0)
    if best_counts is None:
        return None, visited <= most_visits
    result = [0] * len(items)
    for position, n in zip(order, best_counts, strict=True):
        result[position] = n
    return Cover(tuple(result), best_cost, visited <= most_visits), visited <= most_visits


def _undominated(items: Sequence[Item], caps: Mapping[str, int], *, firm_only: bool) -> list[int]:
    """Items that no other one beats in cost and coverage at once; a capped item never removes another.

    Nor, with ``firm_only``, does one that is not firm remove one that is.
    """
    keep = []
    for i, item in enumerate(items):
        beaten = any(
            other.type_name not in caps
            and other.group not in caps
            and (other.firm or not item.firm or not firm_only)
            and other.cost <= item.cost
            and other.coverage >= item.coverage
            and item.multiple % other.multiple == 0
            and (other.cost < item.cost or other.coverage > item.coverage or j < i)
            for j, other in enumerate(items)
            if j != i
        )
        if not beaten:
            keep.append(i)
    return keep
