"""Properties over generated input: parsing never raises, and what is parsed survives a round trip."""

from __future__ import annotations

from typing import Any

from api_objects import BASES, GOOD
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidefleet.api import schema, second_look, validation
from tidefleet.api.validation import Invalid

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["0.60", "TTFT", "chat", "22:00", "Europe/Berlin", "Kueue", "-1", "1e9"])
)
JSON = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=12), below, max_size=4),
    max_leaves=20,
)


def from_schema(node: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that look like those of the schema, right and wrong ones."""
    match node.get("type"):
        case "object" if "properties" in node:
            fields = {name: from_schema(below) for name, below in node["properties"].items()}
            right = st.fixed_dictionaries({}, optional=fields)
        case "array":
            right = st.lists(from_schema(node["items"]), max_size=3)  # type: ignore[assignment]
        case "integer":
            right = st.integers(node.get("minimum", 0) - 1, node.get("maximum", 9) + 1)  # type: ignore[assignment]
        case "string" if "enum" in node:
            right = st.sampled_from(node["enum"])
        case _:
            right = st.sampled_from(node.get("examples") or ["x"])
    return right | JSON if node.get("type") != "object" else right


SPECS = st.one_of(
    [
        st.tuples(st.just(name), from_schema(schema.cached(validation.KINDS[raw["kind"]])["properties"]["spec"]))
        for name, raw in BASES.items()
    ]
)


@given(JSON, st.booleans())
def test_parsing_never_raises_on_any_json(raw: Any, strict: bool) -> None:
    assert validation.parse(raw, strict=strict) is not None


@given(st.sampled_from(sorted(validation.KINDS)), JSON, JSON, st.booleans())
def test_parsing_never_raises_on_any_spec(kind: str, metadata: Any, spec: Any, strict: bool) -> None:
    raw = {"apiVersion": "tidefleet.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec, "status": spec}
    result = validation.parse(raw, strict=strict)
    if isinstance(result, Invalid):
        assert result.problems
        for problem in result.problems:
            assert len(problem.got) <= 200
            assert "\n" not in str(problem)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(SPECS)
def test_what_is_parsed_survives_a_round_trip(case: tuple[str, Any]) -> None:
    name, spec = case
    raw = {**BASES[name], "spec": {**BASES[name]["spec"], **spec}}
    result = validation.parse_schema(raw)
    if not isinstance(result, Invalid):
        assert validation.parse_schema(result.dump(), strict=True) == result


@settings(max_examples=50)
@given(st.sampled_from(GOOD), st.data())
def test_one_field_spoilt_is_told_or_harmless(case: Any, data: st.DataObject) -> None:
    raw = case.raw
    place = raw["spec"]
    for _ in range(data.draw(st.integers(0, 3))):
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or not place[key]:
            break
        place = place[key]
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    validation.parse(raw, strict=True)


@given(st.text(max_size=40))
def test_zones_and_cron_expressions_never_raise(text: str) -> None:
    second_look.is_cron(text)
    second_look.is_time_zone(text)


def test_cron_expressions_are_read_as_cron_reads_them() -> None:
    steps = "0 0 1-15/2 JAN-MAR MON,WED,fri"
    for good in ("0 22 * * *", "*/15 * * * *", steps, "59 23 31 12 7", "0,30 8-18 * * 1-5"):
        assert second_look.is_cron(good), good
    short = ("", "* * * *", "* * * * * *", "@daily")
    for bad in (*short, "60 * * * *", "5-1 * * * *", "*/0 * * * *", "* * 0 * *", "a * * * *"):
        assert not second_look.is_cron(bad), bad
