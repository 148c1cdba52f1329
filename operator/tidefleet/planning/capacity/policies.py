"""What to buy, commit to, rent and sell over months, and what it costs to have bought at once or to have waited.

Five policies are priced on the same scenarios: the plan (orders before it is known what comes, and then the best for
what came); buying now (orders today, never again); waiting (no order until it is known); renting only; and foresight,
which knows the scenario from the start and which no policy can beat. The regret of one is its cost over foresight's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidefleet.economics.investment import discount_factors
from tidefleet.planning.capacity.arcs import (
    Arcs,
    Group,
    commitments,
    groups,
    joined,
    month_by_month,
    orders_known,
    owned,
)
from tidefleet.planning.capacity.market import Demand, Floats, Market, check
from tidefleet.planning.capacity.program import NoCapacity, Options, Solution, program

_LEAST_CHIPS = 1e-6
_ALMOST = 1e-9
"""Of an order, by which the solver may miss a whole one."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing that is done.

    Attributes:
        action: Buy, Reserve, Rent, External or Retire.
        month: point at which it is done: 0 is today, 3 the end of month 3.
        until: point at which it ends; of a purchase, of a commitment; for rent and external the last of the months.
        chips: 0 for tokens bought as such.
        tokens_per_month: capacity.
    """

    action: str
    name: str
    month: int
    until: int
    chips: float
    tokens_per_month: float


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """What one policy does and costs; ``solution`` is ``None`` where it cannot serve, and ``why`` tells."""

    name: str
    solution: Solution | None
    why: str = ""

    @property
    def costs(self) -> Floats | None:
        """USD today in each scenario."""
        return None if self.solution is None else self.solution.costs


@dataclass(frozen=True, slots=True, eq=False)
class CapacityPlan:
    """The plan and what it is measured by.

    Attributes:
        demand: what was planned for.
        plan, buy_now, wait, rent_only: policies.
        foresight_usd: least cost of each scenario, USD today.
        lower_bound_usd: no plan costs less in expectation, USD today.
    """

    market: Market
    demand: Demand
    plan: Policy
    buy_now: Policy
    wait: Policy
    rent_only: Policy
    foresight_usd: Floats
    lower_bound_usd: float

    @property
    def solution(self) -> Solution:
        """What the plan does."""
        if self.plan.solution is None:
            raise NoCapacity(self.plan.why)
        return self.plan.solution

    @property
    def expected_usd(self) -> float:
        """What the plan costs, USD today, in the mean of the scenarios."""
        return float(self.demand.probability @ self.solution.costs)

    def regret(self, policy: Policy) -> Floats | None:
        """USD today by scenario that a policy costs over foresight; ``None`` where it cannot serve."""
        costs = policy.costs
        return None if costs is None else np.maximum(0.0, costs - self.foresight_usd)


def plan_capacity(market: Market, demand: Demand) -> CapacityPlan:
    """The cheapest plan over the scenarios, and the policies beside it.

    Orders that are the same in all scenarios are made whole and what follows is decided anew, so the cost is that of
    whole orders; ``lower_bound_usd`` is without rounding. Orders of later are what each scenario would have: fractions.

    Raises:
        ValueError: a number cannot be used.
        NoCapacity: some demand cannot be met in any way.
    """
    check(market, demand)
    monthly = month_by_month(market)
    nothing = monthly.of([])
    rented = joined(nothing, monthly)
    planned = _planned(market)
    found = program(planned, demand)
    plan = Policy("plan", _rounded(found, demand))
    now = range(min(1, market.months))
    buy_now = _policy(
        "buy now", Options(groups(market, now), commitments(market, now), rented, market.known_from), demand
    )
    wait = _policy("wait", Options(owned(market), nothing, planned.recourse, market.known_from), demand)
    rent_only = _policy("rent only", Options(owned(market), nothing, rented, market.known_from), demand, whole=False)
    foresight = _foresight(market, demand, monthly)
    return CapacityPlan(market, demand, plan, buy_now, wait, rent_only, foresight, found.bound)


def least_usd(market: Market, demand: Demand) -> float:
    """What the plan costs in the mean of the scenarios, USD today, where orders may be of any size.

    Raises:
        ValueError: a number cannot be used.
        NoCapacity: some demand cannot be met in any way.
    """
    check(market, demand)
    return program(_planned(market), demand).bound


def _planned(market: Market) -> Options:
    before = range(market.known_from)
    later = joined(orders_known(market, range(market.known_from, market.months)), month_by_month(market))
    return Options(groups(market, before), commitments(market, before), later, market.known_from)


def _foresight(market: Market, demand: Demand, monthly: Arcs) -> Floats:
    options = Options(owned(market), monthly.of([]), joined(orders_known(market, range(market.months)), monthly), 0)
    costs = np.zeros(len(demand.probability))
    for s in range(len(costs)):
        one = Demand(demand.tokens[s : s + 1], np.ones(1))
        costs[s] = program(options, one).costs[0]
    return costs


def _policy(name: str, options: Options, demand: Demand, *, whole: bool = True) -> Policy:
    try:
        found = program(options, demand)
        return Policy(name, _rounded(found, demand) if whole else found)
    except NoCapacity as error:
        return Policy(name, None, str(error))


def _rounded(found: Solution, demand: Demand) -> Solution:
    """With whole orders: the cheapest of all rounded down, to the nearest, and up."""
    shared = found.options.shared
    steps = np.array([group.way.chips_per_order / group.chips for group in found.options.groups])
    multiples = np.array([shared.ways[i].chips_per_order for i in shared.way])
    shared_steps = multiples / np.where(shared.chips > 0, shared.chips, 1.0)
    tried: dict[bytes, Solution] = {}
    for shift in (0.0, 0.5, 1.0):
        orders, committed = _whole(found.ordered, steps, shift), _whole(found.committed, shared_steps, shift)
        if np.array_equal(orders, found.ordered) and np.array_equal(committed, found.committed):
            return found
        key = np.concatenate((orders, committed)).tobytes()
        if key not in tried:
            with contextlib.suppress(NoCapacity):
                tried[key] = program(found.options, demand, fixed=(orders, committed))
    return min(tried.values(), key=lambda one: float(demand.probability @ one.costs), default=found)


def _whole(amounts: Floats, steps: Floats, shift: float) -> Floats:
    """Multiples of the steps: down with a shift of 0, to the nearest with 0.5, up with 1. As is without a step."""
    sizes = np.where(steps > 0, steps, 1.0)
    nearly = -_ALMOST if shift == 1.0 else _ALMOST
    return np.where(steps > 0, np.floor(amounts / sizes + shift + nearly) * sizes, amounts)


# --- in words --------------------------------------------------------------------------------------------------------


def decisions(solution: Solution, scenario: int) -> tuple[Decision, ...]:
    """Everything that is done in a scenario, by month; rent and tokens bought as such are told by runs of months."""
    found: list[Decision] = []
    for group, x, ends in zip(solution.options.groups, solution.ordered, solution.ended, strict=True):
        if x * group.chips < _LEAST_CHIPS:
            continue
        start = int(group.ends.start[0])
        if group.held is None:
            last = int(group.ends.end[np.flatnonzero(ends[scenario] > 0)].max(initial=start))
            found.append(Decision("Buy", group.way.name, group.way.ordered, last, float(x * group.chips), float(x)))
        for end, tokens in zip(group.ends.end.tolist(), ends[scenario].tolist(), strict=True):
            if tokens * group.chips >= _LEAST_CHIPS and end < len(group.order[0]) - 1:
                found.append(Decision("Retire", group.way.name, end, end, tokens * group.chips, tokens))
    months: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for arcs, amounts in (
        (solution.options.shared, solution.committed),
        (solution.options.recourse, solution.recourse[scenario]),
    ):
        for i in np.flatnonzero(amounts > 0).tolist():
            way, tokens = arcs.ways[arcs.way[i]], float(amounts[i])
            chips, start, end = tokens * float(arcs.chips[i]), int(arcs.start[i]), int(arcs.end[i])
            if way.action in ("Rent", "External"):
                months.setdefault((way.action, way.name), []).append((start, chips, tokens))
                continue
            found.append(Decision(way.action, way.name, way.ordered, end, chips, tokens))
            if way.action == "Buy" and end < arcs.flows.shape[2] - 1:
                found.append(Decision("Retire", way.name, end, end, chips, tokens))
    for (action, name), each in months.items():
        found += _runs(action, name, sorted(each))
    return tuple(sorted(found, key=lambda one: (one.month, one.action, one.name)))


def _runs(action: str, name: str, months: Sequence[tuple[int, float, float]]) -> list[Decision]:
    """Months on end, told as one with the mean of what they take."""
    runs: list[list[tuple[int, float, float]]] = []
    for one in months:
        if runs and runs[-1][-1][0] + 1 == one[0]:
            runs[-1].append(one)
        else:
            runs.append([one])
    return [
        Decision(
            action,
            name,
            run[0][0],
            run[-1][0] + 1,
            sum(one[1] for one in run) / len(run),
            sum(one[2] for one in run) / len(run),
        )
        for run in runs
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Capacity:
    """What stands by in each month: chips (0 for tokens bought as such) and tokens."""

    chips: Floats
    tokens: Floats


def in_service(solution: Solution, months: int) -> dict[tuple[str, str], Capacity]:
    """What stands by, by type or offer and way, in arrays of shape (scenarios, months).

    The way is Own (bought or owned), Reserve, Rent or External.
    """
    found: dict[tuple[str, str], Capacity] = {}
    count = len(solution.recourse)

    def add(arcs: Arcs, amounts: Floats) -> None:
        for i in np.flatnonzero(amounts.any(axis=0)).tolist():
            way = arcs.ways[arcs.way[i]]
            key = (way.name, "Own" if way.action == "Buy" else way.action)
            one = found.setdefault(key, Capacity(np.zeros((count, months)), np.zeros((count, months))))
            stretch = slice(int(arcs.start[i]), int(arcs.end[i]))
            one.tokens[:, stretch] += amounts[:, i, None]
            one.chips[:, stretch] += amounts[:, i, None] * arcs.chips[i]

    for group, ends in zip(solution.options.groups, solution.ended, strict=True):
        add(group.ends, ends)
    add(solution.options.shared, np.broadcast_to(solution.committed, (count, len(solution.committed))))
    add(solution.options.recourse, solution.recourse)
    return found


def net_cash(flows: Floats) -> Floats:
    """Cash paid by month, USD, from flows by kind: what is sold counts against it."""
    return np.asarray(flows[..., [0, 2, 3, 4, 5], :].sum(axis=-2) - flows[..., 1, :])


def booked_cost(flows: Floats) -> Floats:
    """What the tokens of each month cost, USD: running cost, rents, tokens bought, and depreciation."""
    return np.asarray(flows[..., 2:7, :].sum(axis=-2))


def discounted(cash: Floats, discount_per_year: float) -> Floats:
    """USD today of cash by month."""
    return np.asarray(cash @ discount_factors(discount_per_year, cash.shape[-1] - 1))


__all__ = [
    "Capacity",
    "CapacityPlan",
    "Decision",
    "Group",
    "NoCapacity",
    "Policy",
    "decisions",
    "least_usd",
    "plan_capacity",
]
