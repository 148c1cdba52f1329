"""What plans say of revenue: the margin of each class, and of its seats, in words and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from tidefleet.controller.decision import Decision
from tidefleet.economics.revenue import Margin
from tidefleet.planning.earning import Earning, earnings_of
from tidefleet.planning.words import brief


def earnings(decision: Decision) -> dict[str, Earning]:
    """What the classes of a decision earn, by name; empty without a plan, or where no class says how it is paid."""
    return {} if decision.plan is None else earnings_of(decision.plan, decision.classes, decision.view.classes)


def margin_words(margin: Margin) -> str:
    """``earns $61/h, costs $38/h: margin $23/h (61 %)``."""
    share = "" if margin.share is None else f" ({100.0 * margin.share:.0f} %)"
    left = f"{'-' if margin.usd < 0 else ''}${brief(abs(margin.usd))}/h"
    return f"earns ${brief(margin.revenue_usd)}/h, costs ${brief(margin.cost_usd)}/h: margin {left}{share}"


def lines(found: Mapping[str, Earning]) -> Iterator[str]:
    """A line for each class, and one for its seats."""
    for name, one in found.items():
        yield f"{name} {margin_words(one.per_hour)}"
        if one.break_even_seats and math.isfinite(one.break_even_seats):
            yield f"{name} breaks even at {one.break_even_seats:,.0f} seats for its share of the bill"
        seats = one.seats
        if seats is not None:
            words = f"{brief(100.0 * seats.loss_share)} % of its seats cost more than they pay"
            if math.isfinite(seats.break_even_tokens):
                words += f" (beyond {brief(seats.break_even_tokens, 3)} tokens a month)"
            if math.isfinite(seats.break_even_cap):
                words += f"; with a cap of {brief(seats.break_even_cap, 3)} tokens a mean seat costs what it pays"
            yield f"{name}: {words}"
        if one.note:
            yield f"{name}: spec.revenue.seat.tokensPerSeatMonth: {one.note}"


def as_json(one: Earning) -> dict[str, Any]:
    """A class's margin; an infinite value is null."""
    margin, seats = one.per_hour, one.seats
    answer: dict[str, Any] = {
        "revenueUsdPerHour": margin.revenue_usd,
        "costUsdPerHour": margin.cost_usd,
        "marginUsdPerHour": margin.usd,
        "marginShare": margin.share,
    }
    if one.break_even_seats:
        answer["breakEvenSeats"] = one.break_even_seats
    if seats is not None:
        answer["seat"] = {
            "revenueUsdPerMonth": seats.margin.revenue_usd,
            "costUsdPerMonth": seats.margin.cost_usd,
            "meanTokensPerMonth": seats.mean_tokens,
            "shareAtCap": seats.capped_share,
            "shareAtLoss": seats.loss_share,
            "lossUsdPerMonth": seats.loss_usd,
            "breakEvenTokensPerMonth": seats.break_even_tokens,
            "breakEvenCapTokensPerMonth": seats.break_even_cap,
        }
    return answer
