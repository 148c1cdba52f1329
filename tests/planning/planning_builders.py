"""Options with made-up rates and prices, and the pools that choose between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tidefleet.economics.shape import TokenShape
from tidefleet.planning.options import PLANNING_UTILISATION, Candidate, ClassDemand, Market, Option, Price, Rejected
from tidefleet.planning.pool import NothingFits, PoolPlan, PoolProblem, plan_pool

CHAT = ClassDemand("chat", 1.0, TokenShape(input_mean=900.0, output_mean=100.0))


def an_option(accelerator: str = "big", *, tp: int = 1, capacity: str = "OnDemand", weights: str = "Fp8") -> Option:
    return Option(accelerator, capacity, tp, weights, "Fp8")


def a_candidate(
    accelerator: str = "big",
    *,
    covers: float = 10.0,
    usd: float = 4.0,
    tp: int = 1,
    capacity: str = "OnDemand",
    multiple: int = 1,
) -> Candidate:
    """An option whose replica covers so many requests/s of planned demand at so many USD per chip-hour."""
    option = an_option(accelerator, tp=tp, capacity=capacity)
    return Candidate(option, Price(usd), covers / PLANNING_UTILISATION, usd * tp, (), multiple=multiple)


def a_market(*candidates: Candidate, unpriced: Iterable[Candidate] = (), rejected: Iterable[Rejected] = ()) -> Market:
    return Market(candidates, tuple(unpriced), tuple(rejected))


def a_problem(*candidates: Candidate, rate: float = 10.0, **changes: Any) -> PoolProblem:
    facts: dict[str, Any] = {
        "pool": "prod/chat",
        "classes": (CHAT,),
        "requests_per_second": rate,
        "market": a_market(*candidates),
        "minimum": 0,
    }
    return PoolProblem(**{**facts, **changes})


def planned(problem: PoolProblem) -> PoolPlan:
    plan = plan_pool(problem)
    assert not isinstance(plan, NothingFits), plan
    return plan


def counts(plan: PoolPlan) -> Mapping[str, int]:
    """Replicas by accelerator."""
    found: dict[str, int] = {}
    for one in plan.chosen:
        found[one.option.accelerator] = found.get(one.option.accelerator, 0) + one.replicas
    return found
