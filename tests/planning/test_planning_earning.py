"""What classes earn under a plan, against the plan's bill."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from tidefleet import catalogue
from tidefleet.api import WorkloadClass
from tidefleet.api.validation import parse
from tidefleet.economics.revenue import ChargedBack, Free, PaidBySeat, PaidByToken
from tidefleet.planning.earning import earnings_of, pool_margin, prices_of_class, revenue_of
from tidefleet.planning.from_api import class_demands, offer_of
from tidefleet.planning.options import ClassDemand, EstimateMemo, Market, find_candidates
from tidefleet.planning.pool import PoolProblem, plan_pool
from tidefleet.planning.problem import PoolPlan

SEAT = {"usdPerMonth": "20", "seats": 400, "tokensPerSeatMonth": {"mean": 2_000_000, "p95": 7_000_000}}
USAGE = {
    "usdPerMillionInputTokens": "0.5",
    "usdPerMillionOutputTokens": "2",
    "usdPerMillionCachedInputTokens": "0.05",
    "batchDiscount": "0.5",
}


def a_class(name: str = "chat", revenue: dict[str, Any] | None = None) -> WorkloadClass:
    spec = {
        "poolRef": {"name": "chat"},
        "demand": {"requestsPerSecond": "10"},
        "tokens": {"input": {"mean": 1000}, "output": {"mean": 200}, "cachedShare": "0.4"},
        **({} if revenue is None else {"revenue": revenue}),
    }
    raw = {"apiVersion": "tidefleet.io/v1alpha1", "kind": "WorkloadClass", "spec": spec}
    found = parse({**raw, "metadata": {"name": name, "namespace": "prod"}}, strict=True)
    assert isinstance(found, WorkloadClass), found
    return found


@cache
def a_market(classes: tuple[ClassDemand, ...]) -> Market:
    offers = [
        offer_of(one, placeable=False)
        for name, one in catalogue.accelerator_types().items()
        if name in ("h100-sxm", "l40s")
    ]
    return find_candidates(
        catalogue.models()["llama-3.1-8b"], offers, classes, {},
        default_weights="Bf16", default_kv="Bf16", memo=EstimateMemo(),
    )  # fmt: skip


def a_plan(*objects: WorkloadClass, **limits: Any) -> tuple[PoolPlan, tuple[ClassDemand, ...]]:
    classes = class_demands(objects)
    plan = plan_pool(PoolProblem("prod/chat", classes, 10.0 * len(objects), a_market(classes), **limits))
    assert isinstance(plan, PoolPlan)
    return plan, classes


def test_a_class_is_paid_as_it_says() -> None:
    assert revenue_of(a_class(revenue={"usage": USAGE})) == PaidByToken(0.5, 2.0, 0.05, None, 0.5)
    assert revenue_of(a_class(revenue={"free": {}})) == Free()
    assert revenue_of(a_class(revenue={"internal": {"usdPerMillionTokens": "0.8"}})) == ChargedBack(0.8)
    seats = revenue_of(a_class(revenue={"seat": SEAT}))
    assert isinstance(seats, PaidBySeat)
    assert seats.use is not None
    assert (seats.usd_per_month, seats.seats, seats.use.mean) == (20.0, 400.0, pytest.approx(2e6))
    assert seats.use.quantile(0.95) == pytest.approx(7e6)
    assert revenue_of(a_class()) is None
    assert prices_of_class(a_class()) is None


def test_every_class_earns_its_tokens_and_all_of_them_pay_the_plan() -> None:
    objects = [
        a_class("chat", {"usage": USAGE}),
        a_class("team", {"internal": {"usdPerMillionTokens": "0.8"}}),
        a_class("tool", {"seat": SEAT}),
        a_class("gift", {"free": {}}),
    ]
    plan, classes = a_plan(*objects)
    found = earnings_of(plan, classes, objects)
    hour = 10.0 * 3600.0 / 1e6
    assert found["chat"].per_hour.revenue_usd == pytest.approx(hour * (600 * 0.5 + 400 * 0.05 + 200 * 2.0))
    assert found["team"].per_hour.revenue_usd == pytest.approx(hour * 1200 * 0.8)
    assert found["tool"].per_hour.revenue_usd == pytest.approx(400 * 20.0 / 730.0)
    assert found["gift"].per_hour.share == -1.0
    assert sum(one.per_hour.cost_usd for one in found.values()) == pytest.approx(plan.usd_per_hour)
    whole = pool_margin(plan, found.values())
    assert whole is not None
    assert whole.usd == pytest.approx(sum(one.per_hour.usd for one in found.values()))


def test_seats_cost_what_their_class_pays_for_a_token() -> None:
    objects = [a_class("tool", {"seat": SEAT})]
    plan, classes = a_plan(*objects)
    found = earnings_of(plan, classes, objects)["tool"]
    assert found.seats is not None
    per_token = plan.usd_per_hour / (10.0 * 3600.0 * 1200.0)
    assert found.seats.margin.cost_usd == pytest.approx(2e6 * per_token)
    assert found.seats.break_even_tokens == pytest.approx(20.0 / per_token)
    bill = plan.usd_per_hour * 730.0
    assert (found.break_even_seats - 1) * 20.0 < bill <= found.break_even_seats * 20.0


def test_a_class_that_says_nothing_of_revenue_still_costs_the_pool() -> None:
    objects = [a_class("chat", {"usage": USAGE}), a_class("other")]
    plan, classes = a_plan(*objects)
    found = earnings_of(plan, classes, objects)
    assert list(found) == ["chat"]
    whole = pool_margin(plan, found.values())
    assert whole is not None
    assert whole.cost_usd == plan.usd_per_hour
    assert found["chat"].per_hour.cost_usd < plan.usd_per_hour
    silent = [a_class("other")]
    plan, classes = a_plan(*silent)
    assert pool_margin(plan, earnings_of(plan, classes, silent).values()) is None


def test_what_is_not_served_earns_nothing_but_seats_are_paid_for() -> None:
    objects = [a_class("chat", {"usage": USAGE}), a_class("tool", {"seat": SEAT})]
    classes = class_demands(objects)
    short = plan_pool(PoolProblem("prod/chat", classes, 5000.0, a_market(classes), maximum=1))
    assert isinstance(short, PoolPlan)
    assert short.shortfall > 0.5
    found = earnings_of(short, classes, objects)
    served = 5000.0 * (1.0 - short.shortfall)
    assert found["chat"].per_hour.revenue_usd == pytest.approx(served / 2 * 3600 / 1e6 * (300 + 20 + 400))
    assert found["tool"].per_hour.revenue_usd == pytest.approx(400 * 20.0 / 730.0)
