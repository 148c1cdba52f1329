"""From what a WorkloadClass says of its revenue to what its tokens earn, and what plans leave of that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tidefleet.api import WorkloadClass
from tidefleet.economics.external import TokenVector
from tidefleet.economics.owned import HOURS_PER_MONTH
from tidefleet.economics.revenue import (
    ChargedBack,
    Free,
    Margin,
    PaidBySeat,
    PaidByToken,
    Prices,
    Revenue,
    SeatMargin,
    break_even_users,
    month_revenue_usd,
    prices_of,
    seat_margin,
    seat_use,
)
from tidefleet.planning.from_api import is_deferrable, number
from tidefleet.planning.options import ClassDemand
from tidefleet.planning.pool import PoolPlan
from tidefleet.planning.tasks import rates_of, request_usd

SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600.0


def revenue_of(wclass: WorkloadClass) -> Revenue | None:
    """How a class is paid; ``None`` where it says nothing of that: unknown is not free.

    Raises:
        ValueError: what it says contradicts itself; the message names object and field.
    """
    told = wclass.spec.revenue
    if told is None:
        return None
    if told.usage is not None:
        usage = told.usage
        cached, written = usage.usd_per_million_cached_input_tokens, usage.usd_per_million_cache_write_tokens
        return PaidByToken(
            input=float(usage.usd_per_million_input_tokens),
            output=float(usage.usd_per_million_output_tokens),
            cached_input=None if cached is None else float(cached),
            cache_write=None if written is None else float(written),
            batch_discount=number(usage.batch_discount),
        )
    if told.seat is not None:
        seat, use = told.seat, None
        if seat.tokens_per_seat_month is not None:
            tokens, cap = seat.tokens_per_seat_month, seat.cap_tokens_per_month
            try:
                use = seat_use(float(tokens.mean), float(tokens.p95 or 0), math.inf if cap is None else float(cap))
            except ValueError as error:
                raise ValueError(f"{wclass}: spec.revenue.seat.{error}") from error
        return PaidBySeat(float(seat.usd_per_month), float(seat.seats), use)
    if told.internal is not None:
        return ChargedBack(float(told.internal.usd_per_million_tokens))
    return Free()


def prices_of_class(wclass: WorkloadClass) -> Prices | None:
    """What a token of a class earns, in USD by kind; ``None`` where nothing usable says so."""
    try:
        revenue = revenue_of(wclass)
        return None if revenue is None else prices_of(revenue)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Earning:
    """What a class earns under a plan, and what its share of the plan's bill is, idle time included.

    Attributes:
        per_hour: USD per hour.
        seats: what a mean seat leaves and which lose, where the class is paid by the seat and its use is known.
        break_even_seats: seats whose price is the class's share of the bill; 0 for a class that is not paid so.
        note: how the law of seats' use departs from what is stated; empty when it does not.
    """

    name: str
    per_hour: Margin
    seats: SeatMargin | None = None
    break_even_seats: float = 0.0
    note: str = ""


def earnings_of(plan: PoolPlan, classes: Sequence[ClassDemand], objects: Iterable[WorkloadClass]) -> dict[str, Earning]:
    """What the classes of a pool earn under its plan and cost, by name; of classes that say how they are paid.

    What a plan does not serve earns nothing, except seats, which are paid for. Empty where no demand is served.

    Args:
        classes: the mix that the plan is for.
        objects: their WorkloadClasses.
    """
    paid: dict[str, tuple[WorkloadClass, Revenue]] = {}
    for each in objects:
        try:
            revenue = revenue_of(each)
        except ValueError:  # what is stored contradicts itself; `validate` and the API server tell of it
            continue
        if revenue is not None:
            paid[each.name] = (each, revenue)
    rates = rates_of(plan, classes) if paid else {}
    served = plan.requests_per_second * (1.0 - plan.shortfall)
    found = {}
    for one in classes:
        if one.name not in rates or one.name not in paid:
            continue
        wclass, revenue = paid[one.name]
        per_second = served * one.share
        cost = per_second * 3600.0 * request_usd(one.shape, rates[one.name])
        month = TokenVector(one.shape.uncached, one.shape.cached, one.shape.output_mean, requests=1.0)
        month = month.times(per_second * SECONDS_PER_MONTH)
        earned = month_revenue_usd(revenue, month, batch=is_deferrable(wclass)) / HOURS_PER_MONTH
        seats, enough, note = None, 0.0, ""
        if isinstance(revenue, PaidBySeat):
            enough = break_even_users(cost * HOURS_PER_MONTH, revenue.usd_per_month)
            note = revenue.use.note if revenue.use is not None else ""
            if month.total > 0.0:
                seats = seat_margin(revenue, cost * HOURS_PER_MONTH / month.total)
        found[one.name] = Earning(one.name, Margin(earned, cost), seats, enough, note)
    return found


def pool_margin(plan: PoolPlan, earnings: Iterable[Earning]) -> Margin | None:
    """What a pool's classes earn against its whole bill, USD per hour; ``None`` where no class says how it is paid.

    A class that does not say so earns nothing here, and costs.
    """
    told = list(earnings)
    return Margin(math.fsum(one.per_hour.revenue_usd for one in told), plan.usd_per_hour) if told else None
