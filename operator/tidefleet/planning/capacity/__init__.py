"""Buy, commit, rent, pay by the token or sell: capacity over months under several scenarios of demand. Pure."""

from tidefleet.planning.capacity.market import (
    ChipType,
    Demand,
    Holding,
    Market,
    Purchase,
    Term,
    TokenOffer,
)
from tidefleet.planning.capacity.policies import (
    Capacity,
    CapacityPlan,
    Decision,
    Policy,
    booked_cost,
    decisions,
    discounted,
    in_service,
    least_usd,
    net_cash,
    plan_capacity,
)
from tidefleet.planning.capacity.program import NoCapacity, Solution

__all__ = [
    "Capacity",
    "CapacityPlan",
    "ChipType",
    "Decision",
    "Demand",
    "Holding",
    "Market",
    "NoCapacity",
    "Policy",
    "Purchase",
    "Solution",
    "Term",
    "TokenOffer",
    "booked_cost",
    "decisions",
    "discounted",
    "in_service",
    "least_usd",
    "net_cash",
    "plan_capacity",
]
