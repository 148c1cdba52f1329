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
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
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


def lower_bound(
    items: Sequence[Item],
    demand: float,
    spare: int = 0,
    firm_demand: float = 0.0,
    *,
    minimum: int = 0,
    maximum: int = 10_000_000,
) -> float:
    """USD per hour below which no cover can be: the demand at the lowest cost, with unrounded numbers of replicas.

    Of it ``firm_demand`` at the lowest of firm options; what no firm option can cover is left to the rest. With more
    demand than ``maximum`` replicas cover, those count that cover most.

    With spare replicas the demand grows by what the largest replica in use covers; whichever that is, only options up
    to its size take part, and the cheapest case over all of them is a bound.
    """
    if demand <= 0 or not items:
        return 0.0

    def least(usable: Sequence[Item], need: float) -> float:
        any_ratio = min(item.cost / item.coverage for item in usable)
        firm_ratio = min((item.cost / item.coverage for item in usable if item.firm), default=any_ratio)
        firm = min(need, max(0.0, firm_demand))
        by_number = _Hull(usable).least(need, minimum, maximum)
        return max(firm * firm_ratio + (need - firm) * any_ratio, by_number) if by_number < math.inf else 0.0

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
    tries = sorted({item.coverage for item in items}, reverse=True) if spare and demand > 0 else [math.inf]
    for largest in tries:
        usable = [i for i, item in enumerate(items) if item.coverage <= largest + _SLACK]
        need = demand + (spare * largest if largest < math.inf else 0.0)
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
    order.sort(key=_first(_Hull([items[i] for i in order]), items, demand, replicas))
    sorted_items = [items[i] for i in order]
    count = len(sorted_items)
    hulls: dict[int, _Hull] = {}
    ratio_from = [math.inf] * (count + 1)  # best cost per coverage, cheapest replica, largest coverage from here on
    cheapest_from = [math.inf] * (count + 1)
    largest_from = [0.0] * (count + 1)
    mean_from = [1.0] * (count + 1)  # coverage of the one with the best cost per coverage
    firm_ratio_from = [math.inf] * (count + 1)
    firm_largest_from = [0.0] * (count + 1)
    for i in range(count - 1, -1, -1):
        item = sorted_items[i]
        ratio_from[i] = min(ratio_from[i + 1], item.cost / item.coverage)
        mean_from[i] = item.coverage if ratio_from[i] < ratio_from[i + 1] else mean_from[i + 1]
        cheapest_from[i] = min(cheapest_from[i + 1], item.cost)
        largest_from[i] = max(largest_from[i + 1], item.coverage)
        firm_ratio_from[i], firm_largest_from[i] = firm_ratio_from[i + 1], firm_largest_from[i + 1]
        if item.firm:
            firm_ratio_from[i] = min(firm_ratio_from[i], item.cost / item.coverage)
            firm_largest_from[i] = max(firm_largest_from[i], item.coverage)

    best_cost, visited = limit, 0
    best_counts: list[int] | None = None
    if not caps:
        best_cost, best_counts = _rounded(sorted_items, demand, firm_demand, replicas, limit)
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
        if not minimum - taken <= left / mean_from[index] <= maximum - taken:  # else that is the bound by load
            if index not in hulls:
                hulls[index] = _Hull(sorted_items[index:])
            if cost + hulls[index].least(left, max(0, minimum - taken), maximum - taken) >= best_cost - _SLACK:
                return
        item = sorted_items[index]
        need = max(left, firm) if item.firm else left
        most = max(_number(need, item.coverage), minimum - taken)
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


def _number(need: float, coverage: float) -> int:
    """Replicas that leave nothing of a need but what counts as nothing."""
    number = max(0, math.ceil(need / coverage - _SLACK))
    return number if need - number * coverage <= _SLACK else number + 1


def _rounded(
    items: Sequence[Item], demand: float, firm_demand: float, replicas: tuple[int, int], limit: float
) -> tuple[float, list[int] | None]:
    """A cover below ``limit`` near the unrounded optimum where the number of replicas binds, if there is one."""
    best_cost, best = limit, None
    fewest, most = replicas
    ends = _Hull(items).ends(max(0.0, demand), fewest, most)
    if ends is None:
        return best_cost, best
    one, two = (next(i for i, item in enumerate(items) if (item.coverage, item.cost) == end) for end in ends[:2])
    if any(items[i].multiple > 1 or (firm_demand > _SLACK and not items[i].firm) for i in (one, two)):
        return best_cost, best
    first, second = items[one], items[two]
    for n in range(max(0, math.floor(ends[2]) - 2), math.ceil(ends[2]) + 3):
        other = max(_number(demand - n * first.coverage, second.coverage), fewest - n)
        cost = n * first.cost + other * second.cost
        if n + other <= most and cost < best_cost - _SLACK:
            best_cost, best = cost, [0] * len(items)
            best[one] += n
            best[two] += other
    return best_cost, best


class _Hull:
    """What coverage costs at least by a number of replicas: the lower convex hull of (coverage, cost) of some items.

    ``h(x)``, the least mean cost of replicas that cover x each in the mean, is convex; N replicas that cover a load L
    together cost at least N * h(L / N), and that is least where the mean replica is the one with the best ratio.
    """

    __slots__ = ("_best", "_costs", "_covers")

    def __init__(self, items: Sequence[Item]) -> None:
        points = sorted({(one.coverage, one.cost) for one in items}, key=lambda point: (point[1], -point[0]))
        covers: list[float] = []
        costs: list[float] = []
        for cover, cost in points:  # from the cheapest on, as far as more coverage costs more
            if covers and cover <= covers[-1]:
                continue
            while len(covers) > 1 and (costs[-1] - costs[-2]) * (cover - covers[-1]) >= (cost - costs[-1]) * (
                covers[-1] - covers[-2]
            ):
                covers.pop()
                costs.pop()
            covers.append(cover)
            costs.append(cost)
        self._covers, self._costs = covers, costs
        self._best = min(zip(covers, costs, strict=True), key=lambda point: point[1] / point[0])

    def least(self, load: float, fewest: int, most: int) -> float:
        """What ``load`` costs at least with so many replicas."""
        if load <= _SLACK:
            return fewest * self._costs[0]
        cover, cost = self._best
        number = load / cover
        if fewest <= number <= most:
            return load * cost / cover
        number = fewest if number < fewest else most
        return number * self._at(load / number) if number else math.inf

    def _at(self, cover: float) -> float:
        covers, costs = self._covers, self._costs
        right = bisect_left(covers, cover)
        if right == 0:
            return costs[0]
        if right == len(covers):
            return costs[-1]  # what no replica covers is told apart elsewhere
        part = (cover - covers[right - 1]) / (covers[right] - covers[right - 1])
        return costs[right - 1] + part * (costs[right] - costs[right - 1])

    def ends(
        self, load: float, fewest: int, most: int
    ) -> tuple[tuple[float, float], tuple[float, float], float] | None:
        """The two items (coverage, cost) that the unrounded optimum mixes where the number of replicas binds, and how
        many there are of the first; ``None`` where it does not bind, or no number covers the load."""
        number = load / self._best[0]
        if fewest <= number <= most:
            return None
        number = fewest if number < fewest else most
        points = list(zip(self._covers, self._costs, strict=True))
        cover = load / number if number else math.inf
        right = bisect_left(self._covers, cover)
        if right == len(points):
            return None
        if right == 0:
            return points[0], points[0], number
        low, high = points[right - 1], points[right]
        return low, high, number * (high[0] - cover) / (high[0] - low[0])


def _first(
    hull: _Hull, items: Sequence[Item], demand: float, replicas: tuple[int, int]
) -> Callable[[int], tuple[float, float, float]]:
    """Which items to try first: those that cost least beyond what their coverage, and their number, is worth."""
    ends = hull.ends(max(0.0, demand), *replicas)
    slope, level = 0.0, 0.0
    if ends is not None:
        (cover, level), (more, cost), _ = ends
        slope = (cost - level) / (more - cover) if more > cover else 0.0
        level -= slope * cover

    def key(i: int) -> tuple[float, float, float]:
        item = items[i]
        beyond = 0.0 if ends is None else round(item.cost - slope * item.coverage - level, 9)
        return beyond, item.cost / item.coverage, -item.coverage

    return key


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
