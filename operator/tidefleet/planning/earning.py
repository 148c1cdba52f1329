"""From what a WorkloadClass says of its revenue to what its tokens earn, and what plans leave of that."""

from __future__ import annotations

import math

from tidefleet.api import WorkloadClass
from tidefleet.economics.revenue import ChargedBack, Free, PaidBySeat, PaidByToken, Prices, Revenue, prices_of, seat_use
from tidefleet.planning.from_api import number


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
