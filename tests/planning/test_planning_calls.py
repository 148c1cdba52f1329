"""Demand that classes make of each other."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tidefleet.api import Reason, WorkloadClass
from tidefleet.api.validation import parse
from tidefleet.planning.calls import MOST_REQUESTS_PER_SECOND, Called, Calls, calls_between, with_called
from tidefleet.planning.from_api import declared_rate

TOKENS = {"input": {"mean": 1000}, "output": {"mean": 200}}


def a_class(name: str, rate: str | None = "1", *, namespace: str = "prod", calls: dict[str, str] | None = None,
            **spec: Any) -> WorkloadClass:  # fmt: skip
    demand = {"source": "Metrics"} if rate is None else {"requestsPerSecond": rate}
    made = [{"class": other, "perTask": per_task} for other, per_task in (calls or {}).items()]
    raw = {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": "WorkloadClass",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"poolRef": {"name": name}, "demand": demand, "calls": made, "tokens": TOKENS, **spec},
    }
    found = parse(raw, strict=True)
    assert isinstance(found, WorkloadClass), found
    return found


def rates(found: Calls) -> dict[str, float]:
    return {name: one.requests_per_second for (_, name), one in found.called.items()}


def test_a_tasks_calls_are_asked_of_the_classes_it_calls_and_of_those_they_call() -> None:
    agent = a_class("agent", "12", callsPerTask="6", calls={"embed": "2", "tool": "3"})  # two tasks a second
    found = calls_between([agent, a_class("tool", "1", calls={"embed": "1"}), a_class("embed", "5")])
    assert rates(found) == {"tool": pytest.approx(6.0), "embed": pytest.approx(4.0 + 7.0)}
    assert found.called["prod", "embed"].callers == ("agent", "tool")
    assert found.faults == {}


def test_each_call_is_as_many_requests_as_a_task_of_the_called_class() -> None:
    found = calls_between([a_class("agent", "1", calls={"search": "2"}), a_class("search", None, callsPerTask="5")])
    assert rates(found) == {"search": pytest.approx(10.0)}


def test_measured_demand_implies_nothing_and_classes_without_calls_cost_nothing() -> None:
    assert calls_between([a_class("agent", None, calls={"embed": "2"}), a_class("embed")]) == Calls()
    assert calls_between([a_class("agent"), a_class("embed")]) == Calls()


def test_calls_stay_in_their_namespace() -> None:
    found = calls_between([a_class("agent", calls={"embed": "2"}), a_class("embed", namespace="other")])
    assert found.called == {}
    (key,) = found.faults
    assert key == ("prod", "agent")


def test_a_circle_is_told_of_each_class_on_it_and_calls_elsewhere_still_count() -> None:
    classes = [
        a_class("a", calls={"b": "1"}),
        a_class("b", calls={"c": "1", "a": "1"}),
        a_class("c", calls={"d": "2"}),
        a_class("d"),
        a_class("outside", calls={"a": "3"}),
    ]
    found = calls_between(classes)
    assert {name: reason for (_, name), (reason, _) in found.faults.items()} == dict.fromkeys("ab", Reason.CALL_CYCLE)
    assert found.faults["prod", "a"][1] == (
        "WorkloadClass prod/a: spec.calls comes back to the class: a -> b -> a; expected calls that do not, e.g. one "
        "call less. Calls of these classes count for nothing"
    )
    assert rates(found) == {"a": pytest.approx(3.0), "d": pytest.approx(2.0)}


def test_a_class_that_does_not_exist_is_told_and_the_other_calls_count() -> None:
    found = calls_between([a_class("agent", calls={"embed": "2", "gone": "9"}), a_class("embed")])
    assert rates(found) == {"embed": pytest.approx(2.0)}
    reason, message = found.faults["prod", "agent"]
    assert reason is Reason.CLASS_NOT_FOUND
    assert message.startswith('WorkloadClass prod/agent: spec.calls[1].class is "gone"; expected a usable Workload')


def test_long_chains_of_huge_calls_stay_finite() -> None:
    chain = [a_class(f"c{i}", "1", calls={f"c{i + 1}": "999999999"}) for i in range(1500)]
    found = calls_between([*chain, a_class("c1500")])
    assert max(rates(found).values()) == MOST_REQUESTS_PER_SECOND - 1.0
    assert found.faults == {}


def test_a_declared_class_gets_what_is_asked_of_it_on_top_and_a_measured_one_is_as_it_was() -> None:
    asked = Called(2.5, ("agent",))
    declared, measured = a_class("embed", "1.5"), a_class("embed", None)
    assert declared_rate(with_called(declared, asked)) == 4.0
    assert declared.spec.demand.requests_per_second == Decimal("1.5")
    assert with_called(measured, asked) is measured
    assert with_called(declared, None) is declared


def test_a_class_that_only_others_call_declares_nothing_of_its_own() -> None:
    classes = [a_class("agent", "12", callsPerTask="6", calls={"embed": "2"}), a_class("embed", "0")]
    found = calls_between(classes)
    assert rates(found) == {"embed": pytest.approx(4.0)}
    assert declared_rate(with_called(classes[1], found.called["prod", "embed"])) == pytest.approx(4.0)
