"""Statuses as they are written: valid for the API, rounded, and silent while nothing is said anew."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from controller_builders import NOW, a_class, a_pool, a_served, a_view, an_option
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.api import ConditionStatus, ConditionType, Reason
from tidefleet.api.inference_pool_status import InferencePoolStatus
from tidefleet.api.leaves import DIGITS
from tidefleet.controller.act import VOLATILE_SECONDS
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.decision import Decision, Verdict
from tidefleet.controller.readings import RecentWindow
from tidefleet.controller.status import conditions, decimal, differs, followed, pool_status, steady, timestamp
from tidefleet.controller.view import Fault, PoolMemory
from tidefleet.planning.demand import DemandHistory, Known, Reading, Stale
from tidefleet.planning.options import EstimateMemo


def a_decision(rate: float = 5.0, **changes: Any) -> Decision:
    pool = a_pool(costTarget={"usdPerMillionTokens": "0.60"})
    served = (a_served(pool, an_option("l40s"), replicas=3, ready=2),)
    reading: Reading = Known(NOW, rate, "Engines", 1000.0, 250.0, 0.4)
    view = a_view(pool, served=served, **{"reading": reading, "busy_ratio": 2 / 3, **changes})
    return decide(view, PoolMemory(DemandHistory(600.0)), OperatorConfiguration(), EstimateMemo())


def written(decision: Decision, before: dict[str, Any] | None = None, *, now: float = NOW) -> dict[str, Any]:
    return pool_status(decision, before=before or {}, generation=3, decision_id="e7-00001c", now=now)


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.0, "0"), (0.4234, "0.42"), (1234.0, "1200"), (38.12, "38"), (1e-12, "0"), (-3.14159, "-3.1"),
     (0.99999, "1"), (1e20, "990000000"), (float("inf"), "990000000"), (-1e20, "-990000000")],
)  # fmt: skip
def test_decimals_have_two_digits_and_no_exponent(value: float, text: str) -> None:
    assert decimal(value) == text


@settings(deadline=None, max_examples=200)
@given(st.floats(allow_nan=False))
def test_every_decimal_is_one_that_the_api_takes(value: float) -> None:
    text = decimal(value)
    assert re.fullmatch(f"-?{DIGITS}", text)
    if 1e-7 < abs(value) < 9e8:
        assert float(text) == pytest.approx(value, rel=0.051)


def test_a_plan_says_what_its_classes_earn_where_one_says_how_it_is_paid() -> None:
    usage = {"usdPerMillionInputTokens": "0.50", "usdPerMillionOutputTokens": "2"}
    plan = written(a_decision(classes=(a_class(revenue={"usage": usage}),)))["plan"]
    InferencePoolStatus.model_validate({"plan": plan})
    tokens = 5.0 * 3600.0 / 1e6
    assert float(plan["revenueUsdPerHour"]) == pytest.approx(tokens * (1000 * 0.5 + 250 * 2.0), rel=0.1)
    left = float(plan["revenueUsdPerHour"]) - float(plan["usdPerHour"])
    assert float(plan["marginUsdPerHour"]) == pytest.approx(left, abs=0.6)
    assert "marginUsdPerHour" not in written(a_decision())["plan"]


def test_times_are_rfc_3339_in_utc() -> None:
    assert timestamp(1_800_000_000.9) == "2027-01-15T08:00:00Z"


# --- conditions ------------------------------------------------------------------------------------------------------


def a_verdict(status: ConditionStatus, message: str = "") -> Verdict:
    return Verdict(ConditionType.READY, status, Reason.PLAN_AVAILABLE, message)


def test_the_transition_time_moves_only_with_the_status() -> None:
    def at(now: float, status: ConditionStatus, message: str, before: dict[str, Any]) -> dict[str, Any]:
        return {"conditions": conditions([a_verdict(status, message)], before=before, generation=2, now=now)}

    first = at(NOW, ConditionStatus.TRUE, "3 replicas are ready", {})
    second = at(NOW + 60, ConditionStatus.TRUE, "4 replicas are ready", first)
    third = at(NOW + 120, ConditionStatus.FALSE, "3 of 4", second)
    times = [one["conditions"][0]["lastTransitionTime"] for one in (first, second, third)]
    assert times == [timestamp(NOW), timestamp(NOW), timestamp(NOW + 120)]
    assert second["conditions"][0]["message"] == "4 replicas are ready"


@pytest.mark.parametrize("before", [{"conditions": None}, {"conditions": ["x", {"type": "Ready"}, {}]}, {}])
def test_nonsense_in_the_conditions_before_is_overwritten(before: dict[str, Any]) -> None:
    (one,) = conditions([a_verdict(ConditionStatus.TRUE)], before=before, generation=1, now=NOW)
    assert one["lastTransitionTime"] == timestamp(NOW)


# --- differences -----------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(json_values, json_values)
def test_statuses_differ_where_their_values_do(one: Any, other: Any) -> None:
    assert differs(one, other) == (one != other)
    assert not differs(one, one)
    wrapped = [{"conditions": [{"x": one, "lastTransitionTime": at}], "demand": {"asOf": at}} for at in ("a", "b")]
    assert not differs(*wrapped)


def test_a_field_that_appears_or_goes_is_a_difference() -> None:
    assert differs({"a": 1}, {})
    assert differs({}, {"a": {"b": 1}})
    assert differs([1], [1, 2])
    assert not differs({"lastTransitionTime": "x"}, {})


# --- the status of a pool --------------------------------------------------------------------------------------------


def test_a_pools_status_is_valid_and_tells_the_plan() -> None:
    decision = a_decision()
    status = written(decision)
    parsed = InferencePoolStatus.model_validate(status, by_alias=True, by_name=False, extra="forbid")
    assert parsed.plan is not None
    assert parsed.plan.reason == decision.reason
    assert parsed.plan.options
    assert parsed.accelerators == decision.summary
    assert parsed.replicas == 3
    assert parsed.decision_id == "e7-00001c"
    assert parsed.selector == "tidefleet.io/pool=chat"
    assert parsed.demand is not None
    assert parsed.demand.source == "Engines"
    assert str(parsed.busy_ratio) == "0.67"
    assert str(parsed.kv_hit_ratio) == "0.4"
    assert {one.type for one in parsed.conditions} == {str(kind.type) for kind in decision.verdicts}


@settings(deadline=None, max_examples=80)
@given(st.floats(0, 1e6) | st.floats(0, 1e-6), st.sampled_from(["Known", "Stale", "None"]), st.integers(0, 3))
def test_every_status_is_one_that_the_api_takes(rate: float, kind: str, classes: int) -> None:
    reading: Reading | None = {
        "Known": Known(NOW, rate, "Engines", 900.0, 100.0, 1.0),
        "Stale": Stale(NOW - 900, "Engines", "none of 3 engines can be read: x"),
        "None": None,
    }[kind]
    decision = a_decision(reading=reading, classes=tuple(a_class(f"c{i}") for i in range(classes)))
    status = written(decision)
    InferencePoolStatus.model_validate(status, by_alias=True, by_name=False, extra="forbid")
    assert not re.search(r"\d[eE][-+]?\d", status["plan"]["reason"])


def test_noise_in_the_demand_says_nothing_new() -> None:
    first = written(a_decision(5.0))
    again = written(a_decision(5.004), first, now=NOW + 15)
    assert not differs(first["plan"], again["plan"])


@pytest.mark.parametrize(
    ("before", "value", "count", "after"),
    [
        ("0.32", 0.29, math.inf, "0.32"),
        ("0.32", 0.27, math.inf, "0.27"),
        ("0.32", 0.27, 100.0, "0.32"),
        ("0.32", 0.10, 1.0, "0.1"),
        ("0.04", 0.06, math.inf, "0.04"),
        ("0.04", 0.07, math.inf, "0.07"),
        ("0.32", 0.0, 4.0, "0"),
        ("0", 0.01, math.inf, "0.01"),
        (None, 0.31, math.inf, "0.31"),
        ("many", 0.31, math.inf, "0.31"),
    ],
)
def test_a_measured_ratio_is_told_again_when_it_has_moved_by_more_than_noise(
    before: object, value: float, count: float, after: str
) -> None:
    assert followed(value, before, count=count) == after


@pytest.mark.parametrize("rate", [0.5, 3.0, 20.0])
def test_requests_that_come_at_random_at_a_steady_rate_write_hardly_any_status(rate: float) -> None:
    """Two hours of Poisson arrivals at four engines, read every 15 s; a load twice as high is told within a minute."""
    draw = random.Random(7)  # noqa: S311 - the same arrivals each time
    window, memory = RecentWindow(), PoolMemory(DemandHistory(600.0))
    pool, memo = a_pool(accelerators=[{"type": "l40s"}]), EstimateMemo()
    replicas, status, writes = 1, dict[str, Any](), list[float]()

    def look(second: float, load: float) -> None:
        nonlocal status, replicas
        counted = sum(1 for _ in itertools.takewhile(lambda at: at < 15.0, arrivals(draw, load)))
        now = NOW + second
        reading = window.with_median(Known(now, counted / 15.0, "Engines", 1000.0, 250.0, 0.4, 15.0))
        served = (a_served(pool, an_option("l40s"), replicas=replicas),)
        view = a_view(pool, served=served, reading=reading, busy_ratio=1.0, now=now)
        decision = decide(view, memory, OperatorConfiguration(), memo)
        replicas = max(1, sum(one.desired for one in decision.targets))
        found = written(decision, status, now=now)
        if differs(steady(status), steady(found)) or (
            differs(status, found) and (not writes or second - writes[-1] >= VOLATILE_SECONDS)
        ):
            writes.append(second)
            status = found

    for second in range(0, 7200, 15):
        look(second, rate)
    late = [at for at in writes if at > 1200]
    assert len(late) <= 12, late
    for second in range(7200, 7320, 15):
        look(second, 2.5 * rate)
    assert writes[-1] > 7200


def arrivals(draw: random.Random, rate: float) -> Iterator[float]:
    """Times of requests that come at random, in seconds."""
    at = 0.0
    while True:
        at += draw.expovariate(rate)
        yield at


def test_an_invalid_pool_keeps_what_was_said_of_its_plan() -> None:
    before = written(a_decision())
    fault = Fault(Reason.UNKNOWN_MODEL, "InferencePool prod/chat: spec.model.name is ...")
    after = written(a_decision(faults=(fault,)), before)
    assert after["plan"] == before["plan"]
    assert after["demand"] == before["demand"]
    InferencePoolStatus.model_validate(after, by_alias=True, by_name=False, extra="forbid")
    assert written(a_decision(faults=(fault,))).keys() & {"plan", "demand"} == set()


def test_long_words_are_cut_to_what_the_api_holds() -> None:
    decision = a_decision()
    assert decision.plan is not None
    plan = replace(decision.plan, reason="x" * 5000, runners_up=decision.plan.runners_up * 40)
    verdicts = tuple(replace(one, message="y" * 9000) for one in decision.verdicts)
    status = written(replace(decision, plan=plan, verdicts=verdicts, summary="z" * 5000))
    InferencePoolStatus.model_validate(status, by_alias=True, by_name=False, extra="forbid")
