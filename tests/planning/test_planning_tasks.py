"""From WorkloadClasses to what a task of theirs costs."""

from __future__ import annotations

from typing import Any

import pytest

from tidefleet import catalogue
from tidefleet.api import WorkloadClass
from tidefleet.api.validation import parse
from tidefleet.economics.shape import TokenShape
from tidefleet.economics.tasks import TokenRates, request_cost
from tidefleet.planning.from_api import offer_of
from tidefleet.planning.options import ClassDemand, EstimateMemo, find_candidates
from tidefleet.planning.pool import PoolProblem, plan_pool
from tidefleet.planning.problem import PoolPlan
from tidefleet.planning.tasks import call_class_of, lengths_of, rates_of, task_cost_of

RATES = TokenRates(1e-6, 1e-7, 4e-6)


def a_class(name: str = "chat", namespace: str = "prod", **spec: Any) -> WorkloadClass:
    body = {"poolRef": {"name": "chat"}, "demand": {"source": "Metrics"}, **spec}
    raw = {"apiVersion": "tidefleet.io/v1alpha1", "kind": "WorkloadClass",
           "metadata": {"name": name, "namespace": namespace}, "spec": body}  # fmt: skip
    found = parse(raw, strict=True)
    assert isinstance(found, WorkloadClass), found
    return found


TOKENS = {
    "input": {"mean": 1000, "p95": 3000},
    "output": {"mean": 200},
    "cachedShare": "0.4",
    "reasoning": {"mean": 500, "p95": 2000, "cap": 4000},
}


def test_lengths_of_a_class_keep_means_percentiles_and_the_cap_of_reasoning() -> None:
    found = lengths_of(a_class(tokens=TOKENS))
    assert (found.input.mean, found.input.quantile(0.95)) == (pytest.approx(1000), pytest.approx(3000))
    assert found.output.quantile(0.99) == pytest.approx(200)
    assert (found.reasoning.mean, found.reasoning.quantile(0.9999)) == (pytest.approx(500), 4000.0)
    assert found.cached_share == pytest.approx(0.4)
    assert lengths_of(a_class()).input.mean == pytest.approx(1000)


def test_a_task_costs_its_own_calls_and_those_of_the_classes_it_calls() -> None:
    agent = a_class(
        "agent", tokens=TOKENS, callsPerTask="6", turnsPerSession="6", calls=[{"class": "embed", "perTask": "2"}]
    )
    embed = a_class("embed", tokens={"input": {"mean": 500}, "output": {"mean": 0}})
    elsewhere = a_class("embed", "other", tokens={"input": {"mean": 9}, "output": {"mean": 9}})
    found = task_cost_of(agent, [embed, elsewhere], {"agent": RATES, "embed": TokenRates(1e-8, 1e-8, 0.0)})
    assert found is not None
    assert found.usd.mean == pytest.approx(6 * request_cost(lengths_of(agent), RATES).mean + 2 * 500e-8)
    assert found.tokens.requests == pytest.approx(8)


def test_a_class_whose_cost_is_not_known_makes_the_tasks_cost_unknown() -> None:
    agent = a_class("agent", tokens=TOKENS, calls=[{"class": "embed", "perTask": "2"}])
    embed = a_class("embed", tokens=TOKENS)
    assert task_cost_of(agent, [embed], {"agent": RATES}) is None
    assert task_cost_of(agent, [embed], {"embed": RATES}) is None
    with pytest.raises(ValueError, match="class agent calls 'embed'"):
        task_cost_of(agent, [], {"agent": RATES})
    circle = a_class("embed", tokens=TOKENS, calls=[{"class": "agent", "perTask": "1"}])
    with pytest.raises(ValueError, match="agent -> embed -> agent"):
        task_cost_of(agent, [circle], {"agent": RATES, "embed": RATES})


def test_turns_that_no_session_has_are_brought_into_range() -> None:
    assert call_class_of(a_class(tokens=TOKENS, turnsPerSession="0.2"), RATES).turns_per_session == 1.0
    assert call_class_of(a_class(tokens=TOKENS, turnsPerSession="99999"), RATES).turns_per_session == 1000.0


def test_tokens_of_all_classes_together_pay_what_the_plan_costs() -> None:
    classes = (
        ClassDemand("chat", 0.7, TokenShape(1000.0, 200.0, cached_share=0.4)),
        ClassDemand("docs", 0.3, TokenShape(6000.0, 400.0)),
    )
    offers = [
        offer_of(one, placeable=False)
        for name, one in catalogue.accelerator_types().items()
        if name in ("h100-sxm", "l40s")
    ]
    market = find_candidates(
        catalogue.models()["llama-3.1-8b"], offers, classes, {},
        default_weights="Bf16", default_kv="Bf16", memo=EstimateMemo(),
    )  # fmt: skip
    for problem in (
        PoolProblem("prod/chat", classes, 30.0, market),
        PoolProblem("prod/chat", classes, 3000.0, market, maximum=2),  # short: what is not served costs nothing
    ):
        plan = plan_pool(problem)
        assert isinstance(plan, PoolPlan)
        rates = rates_of(plan, classes)
        assert all(one.output > one.uncached_input > one.cached_input > 0 for one in (rates["chat"],))
        usd = sum(
            one.share
            * (shape.uncached * r.uncached_input + shape.cached * r.cached_input + shape.output_mean * r.output)
            for one in classes
            for shape, r in [(one.shape, rates[one.name])]
        )
        served = plan.requests_per_second * (1.0 - plan.shortfall)
        assert served * 3600 * usd == pytest.approx(plan.usd_per_hour)
    idle = plan_pool(PoolProblem("prod/chat", classes, 0.0, market))
    assert isinstance(idle, PoolPlan)
    assert rates_of(idle, classes) == {}
