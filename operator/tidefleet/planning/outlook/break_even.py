"""Users from which a book is worth something, all its demand growing or shrinking in proportion."""

from __future__ import annotations

import math

from tidefleet.economics.investment import discount_factors
from tidefleet.economics.revenue import break_even_users
from tidefleet.planning.capacity import Demand, least_usd
from tidefleet.planning.outlook.outlook import Outlook

_DOUBLINGS = 12
_STEPS = 40


def users_to_break_even(found: Outlook) -> tuple[float | None, str]:
    """Users in the first month from which the book is worth nothing or more, or why no number is.

    Cost is proportional to demand where nothing is owned yet, and users = fixed / (what one leaves). Where chips are
    owned, cost C(k) of k times the demand is convex in k (a linear program's value in its right side), so
    f(k) = k R - C(k) - F is concave: below 0 at first, it has one root up to its peak, found by regula falsi.
    """
    if found.users <= 0.0:
        return None, "no class of the book tells its users"
    if all(kind.holding is None for one in found.pools for kind in one.pool.market.types):
        left = (found.npv_usd + found.fixed_usd) / found.users
        users = break_even_users(found.fixed_usd, left)
        if math.isinf(users):
            return None, f"a user leaves ${left:,.2f} over the horizon, so no number of them pays what is fixed"
        return users, "" if found.fixed_usd else "nothing is paid that does not grow with users"
    low, high = 0.0, 1.0
    below, above = _worth(found, low), _worth(found, high)
    if below >= 0.0:
        return 0.0, "the chips owned today are worth more than what is fixed"
    for _ in range(_DOUBLINGS):
        if above >= 0.0:
            break
        more = _worth(found, high * 2.0)
        if more <= above:
            return None, "more users lose more: what one leaves over the horizon does not pay its cost"
        low, below, high, above = high, above, high * 2.0, more
    else:
        return None, f"not even {high * found.users:,.0f} users pay what is fixed"
    return math.ceil(_root(found, low, below, high, above) * found.users - 1e-6), ""


def _worth(found: Outlook, times: float) -> float:
    """USD today with so many times the demand; orders of any size."""
    factors = discount_factors(found.book.discount_per_year, found.months)
    earned = times * float(found.mean(found.revenue) @ factors)
    cost = math.fsum(
        least_usd(one.pool.market, Demand(one.plan.demand.tokens * times, one.plan.demand.probability))
        for one in found.pools
    )
    return earned - cost - found.fixed_usd


def _root(found: Outlook, low: float, below: float, high: float, above: float) -> float:
    """Where the worth is 0, to a tenth of a user: Illinois' regula falsi."""
    side = 0
    for _ in range(_STEPS):
        if (high - low) * found.users < 0.1 or above == 0.0:
            break
        middle = high - above * (high - low) / (above - below)
        value = _worth(found, middle)
        if abs(value) <= 1e-9 * max(1.0, found.fixed_usd):
            return middle
        if value < 0.0:
            low, below = middle, value
            above = above / 2.0 if side == -1 else above
            side = -1
        else:
            high, above = middle, value
            below = below / 2.0 if side == 1 else below
            side = 1
    return high
