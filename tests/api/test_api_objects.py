"""The pydantic side of the table of objects, and the words of the messages."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from api_objects import GOOD, OURS, SCHEMA_BAD, UNKNOWN_FIELDS, Case

from tidefleet import catalogue
from tidefleet.api import validation
from tidefleet.api.accelerator_type import AcceleratorType
from tidefleet.api.reasons import Reason
from tidefleet.api.validation import Invalid
from tidefleet.planning.prices import known_prices


def problems(raw: Any, **how: bool) -> list[str]:
    result = validation.parse(raw, **how)
    return [problem.path for problem in result.problems] if isinstance(result, Invalid) else []


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_a_good_object_is_taken_in_both_modes(case: Case) -> None:
    for strict in (False, True):
        result = validation.parse(case.raw, strict=strict)
        assert not isinstance(result, Invalid), str(result)


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_what_is_written_reads_back_as_the_same_value(case: Case) -> None:
    first = validation.parse(case.raw)
    assert not isinstance(first, Invalid)
    assert validation.parse(first.dump(), strict=True) == first


@pytest.mark.parametrize("case", [*SCHEMA_BAD, *OURS], ids=str)
def test_a_bad_object_is_blamed_on_its_field(case: Case) -> None:
    for strict in (False, True):
        result = validation.parse(case.raw, strict=strict)
        assert isinstance(result, Invalid), "taken"
        assert case.blamed in [problem.path for problem in result.problems], str(result)
        for problem in result.problems:
            assert problem.expected
            assert problem.example
            assert len(problem.got) <= 200


@pytest.mark.parametrize("case", OURS, ids=str)
def test_what_only_we_judge_is_left_out_where_the_schema_is_asked(case: Case) -> None:
    assert not isinstance(validation.parse_schema(case.raw), Invalid)


@pytest.mark.parametrize("case", UNKNOWN_FIELDS, ids=str)
def test_unknown_fields_are_ignored_in_the_cluster_and_refused_by_the_cli(case: Case) -> None:
    raw = case.raw
    strict = validation.parse(raw, strict=True)
    assert isinstance(strict, Invalid)
    assert case.blamed in [problem.path for problem in strict.problems]
    if case.blamed != "spec.replicas.minimum":
        assert not isinstance(validation.parse(raw), Invalid)


def test_a_problem_reads_as_the_house_says() -> None:
    raw = {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": "WorkloadClass",
        "metadata": {"name": "chat", "namespace": "prod"},
        "spec": {"poolRef": {"name": "chat"}, "objectives": [{"metric": "TTFT", "milliseconds": 0}]},
    }
    assert (
        str(validation.parse(raw))
        == "WorkloadClass prod/chat: spec.objectives[0].milliseconds is 0; expected a positive integer, e.g. 300"
    )


def test_every_problem_is_told_at_once() -> None:
    raw = Case(
        "class",
        (
            ("spec.trafficShare", "2"),
            ("spec.demand", {"requestsPerSecond": 1, "source": "x"}),
            ("spec.objectives", [{"metric": "TTFT", "milliseconds": 0}, {"metric": "Speed"}]),
        ),
    ).raw
    assert problems(raw) == [
        "spec.trafficShare",
        "spec.demand.requestsPerSecond",
        "spec.demand.source",
        "spec.objectives[0].milliseconds",
        "spec.objectives[1].metric",
        "spec.objectives[1].milliseconds",
    ]


def test_two_broken_rules_of_one_object_are_both_told() -> None:
    raw = Case("pool", (("spec.replicas", {"min": 9, "max": 2, "spare": 3}),)).raw
    assert problems(raw) == ["spec.replicas.min", "spec.replicas.spare"]


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, ["y" * 1000] * 1000, {"k" * 10**5: "v"}, 10**5000, "\x1b[2J" * 400],
    ids=["string", "list", "object", "number", "escapes"],
)
def test_what_came_is_cut_short_and_printable(value: Any) -> None:
    raw = Case("pool", (("spec.mode", value),)).raw
    result = validation.parse(raw)
    assert isinstance(result, Invalid)
    for problem in result.problems:
        assert len(problem.got) <= 200
        assert problem.got.isprintable()
        assert len(str(problem)) < 1000


def test_a_thousand_unknown_fields_give_a_bounded_answer() -> None:
    raw = Case("pool", (("spec", {f"field{number}": 1 for number in range(1000)}),)).raw
    result = validation.parse(raw, strict=True)
    assert isinstance(result, Invalid)
    assert len(result.problems) == validation.PROBLEM_LIMIT + 1


def test_a_template_nested_too_deep_is_refused_not_raised() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = {"a": deep}
    raw = Case("pool", (("spec.serving.template", {"spec": {"containers": [{"name": "engine"}]}}),)).raw
    raw["spec"]["serving"]["template"]["deep"] = deep
    assert isinstance(validation.parse(raw), Invalid)


@pytest.mark.parametrize("status", [5, [], {"conditions": 5}, {"plan": {"options": "x"}}, {"nextFlip": 1}])
def test_an_unreadable_status_is_an_empty_one(status: Any) -> None:
    raw = Case("pool", ()).raw
    raw["status"] = status
    result = validation.parse(raw)
    assert not isinstance(result, Invalid)
    assert result.status == type(result.status)()


@pytest.mark.parametrize(
    ("raw", "paths"),
    [
        ({}, ["apiVersion", "kind"]),
        ({"apiVersion": "tidefleet.io/v1", "kind": "InferencePool"}, ["apiVersion"]),
        ({"apiVersion": "tidefleet.io/v1alpha1", "kind": "InferencePools"}, ["kind"]),
        ({"apiVersion": "tidefleet.io/v1alpha1", "kind": "Site"}, ["spec"]),
        ([], ["manifest"]),
    ],
)
def test_what_is_no_object_of_ours_is_said_so(raw: Any, paths: list[str]) -> None:
    assert problems(raw) == paths


@pytest.mark.parametrize(
    ("memory_gib", "usd", "words"),
    [
        (80, "1533", "month"),
        (80, "6.88", ""),
        (16, "0.526", ""),
        (16, "12.62", "day"),
        (80, "55.04", "node"),
        (278, "17.802", ""),
        (80, "0.0006", "second"),
    ],
)
def test_a_price_of_another_unit_is_noticed(memory_gib: int, usd: str, words: str) -> None:
    raw = Case("accelerator", (("spec.memoryBytes", memory_gib * 2**30), ("spec.prices.0.usdPerChipHour", usd))).raw
    accelerator = validation.parse(raw)
    assert isinstance(accelerator, validation.AcceleratorType)
    found = validation.implausible_prices(accelerator)
    assert bool(found) == bool(words)
    if found:
        assert found[0].path == "spec.prices[0].usdPerChipHour"
        assert found[0].reason is Reason.PRICE_IMPLAUSIBLE
        assert words in found[0].expected


H100_PRICES = (Decimal("6.88"), Decimal("1.6"), Decimal("1.3"), Decimal("1.69"))
"""What the shipped catalogue lists for an H100, in all markets."""


@pytest.mark.parametrize(
    ("usd", "words"),
    [
        ("1.95", ""),
        ("6.88", ""),
        ("12.29", ""),
        ("0.10", ""),
        ("16", "whole node of 8"),
        ("31.2", "whole node of 8"),
        ("35", "day"),
        ("250", "month"),
        ("1460", "month"),
        ("17520", "month"),
        ("0.03", "minute"),
        ("0.0025", "minute"),
        ("0.01", "unit"),
    ],
)
def test_a_price_far_from_what_such_chips_are_known_to_cost_is_noticed(usd: str, words: str) -> None:
    raw = Case("accelerator", (("spec.chipsPerNode", 8), ("spec.prices.0.usdPerChipHour", usd))).raw
    accelerator = validation.parse(raw)
    assert isinstance(accelerator, validation.AcceleratorType)
    found = validation.implausible_prices(accelerator, H100_PRICES)
    assert bool(found) == bool(words)
    assert all(words in one.expected and "plausibility: Override" in one.expected for one in found)


def test_prices_of_the_shipped_catalogue_are_plausible_beside_each_other() -> None:
    parsed = [validation.parse(raw) for raw in catalogue.accelerator_manifests()]
    kinds = [kind for kind in parsed if isinstance(kind, AcceleratorType)]
    known = known_prices(kinds)
    assert len(kinds) > 20
    assert [one for kind in kinds for one in validation.implausible_prices(kind, known[kind.name])] == []


def test_an_annotation_an_override_or_a_disabled_price_silences_the_doubt() -> None:
    changes: tuple[tuple[str, Any], ...] = (("spec.prices.0.usdPerChipHour", "1533"),)
    annotated = {"tidefleet.io/accept-implausible-price": "true"}
    for extra in (
        ("metadata.annotations", annotated),
        ("spec.prices.0.state", "Disabled"),
        ("spec.prices.0.plausibility", "Override"),
    ):
        accelerator = validation.parse(Case("accelerator", (*changes, extra)).raw)
        assert isinstance(accelerator, validation.AcceleratorType)
        assert validation.implausible_prices(accelerator) == ()
