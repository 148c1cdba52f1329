"""The generated schemas: only what the API server takes, everything bounded, every field explained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any

import pytest
from pydantic.fields import FieldInfo

from tidefleet.api import KINDS, REASONS, ConditionType, Reason, crds, schema
from tidefleet.api.base import Model, Resource, Rule
from tidefleet.api.leaves import Many, Text
from tidefleet.api.schema import SchemaError

SPECS = [pytest.param(kind, id=kind.KIND) for kind in KINDS]


def nodes(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, below in node.get("properties", {}).items():
        yield from nodes(below, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from nodes(node[key], f"{path}[]")


def structural(kind: type[Resource]) -> dict[str, Any]:
    return schema.structural(schema.resource(kind))


def models(model: type[Model]) -> Iterator[tuple[type[Model], str, FieldInfo]]:
    """Every field of a model and of the models below it."""
    for name, info in model.model_fields.items():
        yield model, name, info
        pending: list[Any] = [info.annotation]
        while pending:
            each = pending.pop()
            if isinstance(each, type) and issubclass(each, Model):
                yield from models(each)
            else:
                pending.extend(getattr(each, "__args__", ()))


@pytest.mark.parametrize("kind", SPECS)
def test_only_structural_keywords_are_left(kind: type[Resource]) -> None:
    for path, node in nodes(structural(kind), kind.KIND):
        assert node.keys() <= schema.STRUCTURAL, path
    assert "$ref" not in json.dumps(structural(kind))


@pytest.mark.parametrize("kind", SPECS)
def test_every_string_list_and_map_has_a_size(kind: type[Resource]) -> None:
    for path, node in nodes(structural(kind)["properties"]["spec"], "spec"):
        match node.get("type"):
            case "string":
                assert "maxLength" in node or "enum" in node, path
            case "array":
                assert "maxItems" in node, path
                assert node["x-kubernetes-list-type"] in ("map", "set", "atomic"), path
            case "object" if "additionalProperties" in node:
                assert "maxProperties" in node, path
            case "integer":
                assert {"minimum", "maximum"} <= node.keys(), path


@pytest.mark.parametrize("kind", SPECS)
def test_keys_of_list_maps_are_required_or_have_a_default(kind: type[Resource]) -> None:
    for path, node in nodes(structural(kind), kind.KIND):
        for key in node.get("x-kubernetes-list-map-keys", ()):
            item = node["items"]
            assert key in item["required"] or "default" in item["properties"][key], f"{path}: {key}"


@pytest.mark.parametrize("kind", SPECS)
def test_every_field_is_explained_and_shows_an_example_or_its_parts(kind: type[Resource]) -> None:
    for path, node in nodes(schema.resource(kind)["properties"]["spec"], "spec"):
        if path.endswith("[]"):
            continue
        assert node.get("description", "").endswith((".", ")", "}.", "]")), path
        if node.get("type") in ("string", "integer") and "enum" not in node:
            assert "examples" in node, path
            assert "e.g." in node["description"], path


@pytest.mark.parametrize("kind", SPECS)
def test_patterns_know_no_digits_but_ours(kind: type[Resource]) -> None:
    assert r"\\d" not in json.dumps(structural(kind))
    for path, node in nodes(structural(kind), kind.KIND):
        if "pattern" in node:
            assert node["pattern"].startswith("^"), path
            assert node["pattern"].endswith("$"), path
            re.compile(node["pattern"])


@pytest.mark.parametrize("kind", SPECS)
def test_every_rule_names_field_expectation_and_example(kind: type[Resource]) -> None:
    for _, node in nodes(structural(kind), kind.KIND):
        for rule in node.get("x-kubernetes-validations", ()):
            assert re.match(r"(spec|metadata)[.\w\[\]{}]*: expected .+, e\.g\. .+", rule["message"]), rule


@pytest.mark.parametrize("kind", SPECS)
def test_examples_of_the_schema_are_good_values(kind: type[Resource]) -> None:
    """Otherwise the messages would advise what is refused."""
    for path, node in nodes(schema.resource(kind)["properties"]["spec"], "spec"):
        for example in node.get("examples", ()):
            match node.get("type"):
                case "integer":
                    assert node["minimum"] <= example <= node["maximum"], path
                case "object":
                    assert isinstance(example, dict), path
                case _ if "enum" in node:
                    assert example in node["enum"], path
                case _:
                    assert len(str(example)) <= node["maxLength"], path
                    if "pattern" in node and not isinstance(example, int):
                        assert re.fullmatch(node["pattern"], example), path


@pytest.mark.parametrize("kind", SPECS)
def test_defaults_are_written_out_whole(kind: type[Resource]) -> None:
    """The API server rejects a CRD whose default breaks its own schema, and pydantic writes no default_factory."""
    for model, name, info in models(kind):
        if not issubclass(model, Resource):
            assert info.default_factory is None, f"{model.__name__}.{name}"
    for path, node in nodes(structural(kind), kind.KIND):
        default = node.get("default")
        assert default not in ({}, []), path
        for name, below in node.get("properties", {}).items():
            if isinstance(default, dict) and "default" in below:
                assert default[name] == below["default"], f"{path}.{name}"


def test_reasons_belong_to_a_condition_each() -> None:
    assert set(REASONS) == set(ConditionType)
    assert {reason for reasons in REASONS.values() for reason in reasons} == set(Reason)
    for word in (*ConditionType, *Reason):
        assert re.fullmatch("[A-Z][A-Za-z]*", word)
        assert word.meaning.endswith(".")


def test_names_columns_and_subresources_are_as_documented() -> None:
    manifests = crds.manifests()
    names = {name: manifest["spec"]["names"]["shortNames"] for name, manifest in manifests.items()}
    assert names == {
        "inferencepools.tidefleet.io": ["tpool"],
        "workloadclasses.tidefleet.io": ["wclass"],
        "acceleratortypes.tidefleet.io": ["taccel"],
        "sites.tidefleet.io": ["tsite"],
    }
    for manifest in manifests.values():
        assert manifest["spec"]["names"]["categories"] == ["tidefleet"]
        assert manifest["spec"]["versions"][0]["subresources"]["status"] == {}
    pool = manifests["inferencepools.tidefleet.io"]["spec"]["versions"][0]
    assert pool["subresources"]["scale"] == {
        "specReplicasPath": ".spec.pinnedReplicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }


class WithFloat(Model):
    factor: float


class WithUnion(Model):
    value: int | str


class WithUnboundedText(Model):
    text: str


class WithItself(Model):
    below: Annotated[tuple[WithItself, ...], Many(maximum=2)] = ()


class WithUnboundedMap(Model):
    labels: dict[str, Annotated[str, Text(maximum=3)]]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (WithFloat, r"spec\.factor: is a float"),
        (WithUnion, r"spec\.value: a union of 2 types"),
        (WithUnboundedText, r"spec\.text: is a string without maxLength"),
        (WithItself, r"spec\.below\[\].*: the type WithItself contains itself"),
        (WithUnboundedMap, r"spec\.labels: is a map without maxProperties"),
    ],
)
def test_what_has_no_structural_schema_is_refused_by_name_of_the_field(model: type[Model], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        schema.rich(model, "spec")


def test_exclusive_bounds_and_constants_are_rewritten() -> None:
    node = schema._numbers({"type": "integer", "exclusiveMinimum": 0, "const": 5})
    assert node == {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "enum": [5]}


def test_a_transition_rule_is_no_rule_for_one_object() -> None:
    rule = Rule(cel="self == oldSelf", expected="no change", example="another object")
    assert rule.holds is None
    assert rule.validation() == {"rule": "self == oldSelf", "message": "expected no change, e.g. another object"}


def test_money_keeps_its_digits() -> None:
    from tidefleet.api.inference_pool import CostTarget

    target = CostTarget.model_validate({"usdPerMillionTokens": "0.600"})
    assert target.usd_per_million_tokens == Decimal("0.6")
    assert target.dump() == {"usdPerMillionTokens": "0.600"}
    assert CostTarget(usd_per_million_tokens=Decimal("1E-7")).dump() == {"usdPerMillionTokens": "0.0000001"}
