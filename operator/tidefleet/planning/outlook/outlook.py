"""Tokens, cost, revenue and cash by month and scenario, what they are worth today, and what it all rests on.

Month 0 is today: what is ordered at once. Month m's tokens are served, earned and paid for at its end; what is ordered
at the end of a month is in that month's cash. The horizon ends with the sale of all that is owned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tidefleet.economics.external import MILLION
from tidefleet.economics.investment import (
    NoReturn,
    Return,
    discount_factors,
    internal_rate_of_return,
    internal_rates_of_return,
    net_present_value,
    payback_months,
)
from tidefleet.economics.revenue import (
    ChargedBack,
    Free,
    PaidBySeat,
    PaidByToken,
    Revenue,
    month_revenue_usd,
)
from tidefleet.planning.capacity import CapacityPlan, Demand, booked_cost, least_usd, net_cash, plan_capacity
from tidefleet.planning.capacity.arcs import worth_of_holdings
from tidefleet.planning.capacity.market import Floats, Market
from tidefleet.planning.outlook.book import Book, ClassTerms
from tidefleet.planning.outlook.pricing import Facts, Pool, Scenarios, month_tokens, pools_of, scenarios_of, vector_of

POLICIES = ("plan", "buy_now", "wait", "rent_only")


@dataclass(frozen=True, slots=True, eq=False)
class PoolOutlook:
    """One pool; arrays have shape (scenarios, months + 1).

    Attributes:
        revenue: USD; ``None``: no class says what it earns.
        cost: USD of each month's tokens, depreciation included.
        cash: USD paid, purchases when they are ordered.
        flows: USD by scenario, kind of flow and month.
        baseline_usd: what renting alone costs, USD today; ``None`` where that cannot serve.
        brought_in_usd: what the chips owned today would fetch today. No cash, but what using them costs: prices and
            margins count it, so that selling them at once changes neither.
    """

    pool: Pool
    plan: CapacityPlan
    tokens: Floats
    revenue: Floats | None
    cost: Floats
    cash: Floats
    flows: Floats
    baseline_usd: float | None
    brought_in_usd: float

    @property
    def cost_usd(self) -> float:
        """What its tokens cost over the horizon, USD today, in the mean."""
        return self.plan.expected_usd + self.brought_in_usd


@dataclass(frozen=True, slots=True)
class PoolPrice:
    """What a pool's tokens cost, earn, and would cost outside: USD per million, over the horizon, in today's money.

    Attributes:
        hosted: on chips alone; ``None`` where they cannot serve it.
        external: the cheapest external API of each month; ``None`` where the book names none.
    """

    pool: str
    cost: float
    earned: float | None
    hosted: float | None
    external: float | None

    @property
    def margin(self) -> float | None:
        """Revenue over cost, less one."""
        return None if self.earned is None or self.cost <= 0.0 else self.earned / self.cost - 1.0

    @property
    def loss_making(self) -> bool | None:
        """Whether it earns less than it costs, bought outside where that is cheaper; ``None``: revenue unknown."""
        return None if self.earned is None else self.earned < self.cost

    @property
    def loss_making_hosted(self) -> bool | None:
        """Whether it earns less than it costs on chips; ``None`` where either is unknown."""
        return None if self.earned is None or self.hosted is None else self.earned < self.hosted

    @property
    def cheaper_bought(self) -> bool | None:
        """Whether an external API costs less than the chips; ``None`` where there is none."""
        return None if self.external is None else self.hosted is None or self.external < self.hosted


@dataclass(frozen=True, slots=True)
class ClassMargin:
    """Revenue and cost of a class over the horizon, USD today; its cost is its share of the pool's chip time."""

    wclass: str
    pool: str
    revenue_usd: float | None
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Response:
    """What demand does when the saving against renting lowers the price: Jevons.

    Attributes:
        price_ratio: USD per token of the plan over that of renting alone.
        tokens_ratio: demand after over before: price_ratio^-e.
        spend_usd_before, spend_usd_after: USD today over the horizon.
    """

    elasticity: float
    price_ratio: float
    tokens_ratio: float
    spend_usd_before: float
    spend_usd_after: float

    @property
    def spend_ratio(self) -> float:
        """Total spend after over before: below 1 for e < 1, above for e > 1, where the price falls."""
        return self.spend_usd_after / self.spend_usd_before


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """Everything over the horizon; arrays have shape (scenarios, months + 1), mean ones (months + 1,)."""

    book: Book
    months: int
    scenarios: Scenarios
    pools: tuple[PoolOutlook, ...]
    tokens: Floats
    revenue: Floats
    cost: Floats
    cash_flow: Floats
    notes: tuple[str, ...]

    def mean(self, values: Floats) -> Floats:
        """The mean over the scenarios."""
        return np.asarray(np.tensordot(self.scenarios.probability, values, 1))

    @property
    def npv(self) -> Floats:
        """USD today by scenario."""
        return net_present_value(self.cash_flow, self.book.discount_per_year)

    @property
    def npv_usd(self) -> float:
        """USD today, in the mean."""
        return float(self.scenarios.probability @ self.npv)

    @property
    def irr(self) -> Return | NoReturn:
        """Of the mean cash flow."""
        return internal_rate_of_return(self.mean(self.cash_flow))

    @property
    def irr_by_scenario(self) -> tuple[Return | NoReturn, ...]:
        """Of each scenario's."""
        return internal_rates_of_return(self.cash_flow)

    @property
    def payback(self) -> float:
        """Months until the mean cash flow has brought back what it took; ``nan``: not within the horizon."""
        return float(payback_months(self.mean(self.cash_flow)))

    @property
    def payback_by_scenario(self) -> Floats:
        """The same of each scenario's."""
        return payback_months(self.cash_flow)

    @property
    def cumulative_npv(self) -> Floats:
        """USD today that the mean cash flow sums to by each month."""
        factors = discount_factors(self.book.discount_per_year, self.months)
        return np.asarray(np.cumsum(self.mean(self.cash_flow) * factors))

    @property
    def users(self) -> float:
        """Users in the first month, as the classes state them."""
        return math.fsum(one.users or 0.0 for one in self.book.classes)

    @property
    def saved_by_orders(self) -> Floats | None:
        """Cash that the plan saves by month against renting alone, in the mean; ``None`` where that cannot serve."""
        total = np.zeros(self.months + 1)
        for one in self.pools:
            rented = one.plan.rent_only.solution
            if rented is None:
                return None
            total += self.mean(net_cash(rented.flows()) - one.cash)
        return total

    @property
    def fixed_usd(self) -> float:
        """What is paid whatever is served, USD today."""
        return self.book.fixed_usd_per_month * float(
            discount_factors(self.book.discount_per_year, self.months)[1:].sum()
        )

    def policy_usd(self, name: str) -> Floats | None:
        """What a policy costs by scenario, USD today, all pools together; ``None`` where one cannot serve so."""
        found = [getattr(one.plan, name).costs for one in self.pools]
        return None if any(one is None for one in found) else np.asarray(np.sum(found, axis=0))

    def regret(self, name: str) -> Floats | None:
        """USD today by scenario that a policy costs over foresight, all pools together."""
        found = [one.plan.regret(getattr(one.plan, name)) for one in self.pools]
        return None if any(one is None for one in found) else np.asarray(np.sum([x for x in found if x is not None], 0))

    def why_not(self, name: str) -> str:
        """Why a policy cannot serve; empty where it can."""
        return "; ".join(f"{one.pool.name}: {why}" for one in self.pools if (why := getattr(one.plan, name).why))


def outlook(book: Book, facts: Facts, months: int) -> Outlook:
    """The outlook of a book.

    Raises:
        ValueError: a number cannot be used, or nothing can serve a pool; the message names the pool.
    """
    scenarios = scenarios_of(book)
    found = []
    for pool in pools_of(book, facts, months):
        try:
            plan = plan_capacity(pool.market, pool.demand)
        except ValueError as error:
            more = f" ({'; '.join(pool.notes)})" if pool.notes else ""
            raise ValueError(f"pool {pool.name}: {error}{more}") from None
        found.append(_pool_outlook(pool, plan))
    fixed = np.full(months + 1, book.fixed_usd_per_month)
    fixed[0] = 0.0
    zero = np.zeros((len(scenarios.names), months + 1))
    tokens = sum((one.tokens for one in found), zero)
    revenue = sum((one.revenue for one in found if one.revenue is not None), zero)
    cost = sum((one.cost for one in found), zero) + fixed
    cash = revenue - sum((one.cash for one in found), zero) - fixed
    notes = [note for one in found for note in one.pool.notes]
    notes += [
        f"{one.name}: nothing says what it earns, so it counts as nothing"
        for one in book.classes
        if one.revenue is None
    ]
    return Outlook(book, months, scenarios, tuple(found), tokens, revenue, cost, cash, tuple(notes))


def _pool_outlook(pool: Pool, plan: CapacityPlan) -> PoolOutlook:
    flows = plan.solution.flows()
    tokens = np.pad(plan.demand.tokens, ((0, 0), (1, 0)))
    rented = plan.rent_only.costs
    held = worth_of_holdings(plan.market)
    return PoolOutlook(
        pool=pool,
        plan=plan,
        tokens=tokens,
        revenue=_earned(pool.classes, pool.factors),
        cost=booked_cost(flows),
        cash=net_cash(flows),
        flows=flows,
        baseline_usd=None if rented is None else float(plan.demand.probability @ rented) + held,
        brought_in_usd=held,
    )


def revenue_terms(wclass: ClassTerms) -> Revenue | None:
    """How a class is paid, with the users of the first month as seats; ``None`` where nothing says so."""
    told = wclass.revenue
    if told is None:
        return None
    if told.usage is not None:
        usage = told.usage
        return PaidByToken(
            usage.usd_per_million_input_tokens,
            usage.usd_per_million_output_tokens,
            usage.usd_per_million_cached_input_tokens,
            batch_discount=usage.batch_discount or 0.0,
        )
    if told.seat is not None:
        return PaidBySeat(told.seat.usd_per_month, wclass.users or 0.0)
    return Free() if told.internal is None else ChargedBack(told.internal.usd_per_million_tokens)


def first_month_revenue(wclass: ClassTerms) -> float | None:
    """USD that a class earns in the first month as stated; it grows with the demand, by tokens as by seats."""
    revenue = revenue_terms(wclass)
    if revenue is None:
        return None
    discounted = (
        wclass.revenue is not None and wclass.revenue.usage is not None and bool(wclass.revenue.usage.batch_discount)
    )
    return month_revenue_usd(revenue, vector_of(wclass, month_tokens(wclass)), batch=discounted)


def _earned(classes: Sequence[ClassTerms], factors: Floats) -> Floats | None:
    told = [usd for one in classes if (usd := first_month_revenue(one)) is not None]
    return np.pad(math.fsum(told) * factors, ((0, 0), (1, 0))) if told else None


# --- prices, margins, responses --------------------------------------------------------------------------------------


def pool_prices(found: Outlook) -> tuple[PoolPrice, ...]:
    """What each pool's tokens cost, earn and would cost outside."""
    return tuple(_pool_price(found, one) for one in found.pools)


def _pool_price(found: Outlook, one: PoolOutlook) -> PoolPrice:
    factors = discount_factors(found.book.discount_per_year, found.months)
    tokens = float(found.mean(one.tokens) @ factors)
    if tokens <= 0.0:
        return PoolPrice(one.pool.name, 0.0, None, None, None)
    market, hosts = one.pool.market, one.pool.hosts
    outside = [offer for offer in market.offers if offer.name not in hosts]
    hosted: float | None = one.cost_usd
    external = None
    if outside:
        alone = Market(
            market.months,
            market.types,
            tuple(offer for offer in market.offers if offer.name in hosts),
            market.known_from,
            market.discount_per_year,
        )
        try:
            hosted = least_usd(alone, one.plan.demand) + one.brought_in_usd
        except ValueError:
            hosted = None
        months = np.arange(found.months)
        prices = np.full(found.months, np.inf)
        for offer in outside:
            path = offer.usd_per_million_tokens * np.power(1.0 - offer.price_decline_per_year, months / 12.0)
            prices = np.minimum(prices, np.where(months >= offer.from_month, path, np.inf))
        if np.isfinite(prices).all():
            external = float(found.mean(one.tokens)[1:] @ (prices * factors[1:])) / tokens
    earned = None if one.revenue is None else float(found.mean(one.revenue) @ factors) / tokens * MILLION
    return PoolPrice(
        one.pool.name,
        one.cost_usd / tokens * MILLION,
        earned,
        None if hosted is None else hosted / tokens * MILLION,
        external,
    )


def class_margins(found: Outlook) -> tuple[ClassMargin, ...]:
    """What each class earns and costs; the costs of a pool's classes sum to the pool's."""
    factors = discount_factors(found.book.discount_per_year, found.months)
    answer = []
    for one in found.pools:
        scale = float(found.mean(one.pool.factors) @ factors[1:])
        for wclass in one.pool.classes:
            earned = first_month_revenue(wclass)
            revenue = None if earned is None else earned * scale
            cost = one.cost_usd * one.pool.times[wclass.name]
            answer.append(ClassMargin(wclass.name, one.pool.name, revenue, cost))
    return tuple(answer)


def responses(found: Outlook, elasticities: Iterable[float]) -> tuple[Response, ...]:
    """What demand and spend do when users pay what the plan saves against renting alone.

    D' = D (p'/p)^-e. Cost is proportional to demand but for what is owned already, so only a pool that owns chips is
    planned again.
    """
    usable = [(one, one.baseline_usd) for one in found.pools if one.baseline_usd]
    answer = []
    for elasticity in elasticities:
        before = after = paid = weight = 0.0
        for one, baseline in usable:
            ratio = one.cost_usd / baseline if baseline else 1.0
            factor = ratio**-elasticity if ratio > 0.0 else 1.0
            spend = one.cost_usd * factor
            if any(kind.holding is not None for kind in one.pool.market.types) and factor != 1.0:
                grown = Demand(one.plan.demand.tokens * factor, one.plan.demand.probability)
                spend = least_usd(one.pool.market, grown) + one.brought_in_usd
            before, after = before + (baseline or 0.0), after + spend
            paid, weight = paid + one.cost_usd, weight + factor * (baseline or 0.0)
        if before > 0.0:
            answer.append(Response(elasticity, paid / before, weight / before, before, after))
    return tuple(answer)
