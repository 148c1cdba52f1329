"""Turns the pydantic types into the structural OpenAPI v3 schemas that a CustomResourceDefinition takes.

Pydantic's own output is not structural: it has `$ref`, nullable `anyOf`, `const`, titles and numeric exclusive bounds.
What is left after the rewriting here must be on an allow-list; anything else is an error that names the field, so
that a new pydantic feature cannot slip into the CRDs unseen.

There are two forms of a schema. The *rich* one also says in words what each value is and shows an example
(`x-expected`, `examples`), for messages and documentation; the *structural* one is what the API server gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from tidefleet.api.base import Model, Resource
from tidefleet.api.leaves import EXPECTED

Schema = dict[str, Any]

STRUCTURAL = frozenset(
    {
        "additionalProperties",
        "default",
        "description",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "pattern",
        "properties",
        "required",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
    }
)
"""The keywords that may reach a CRD."""

RICH = frozenset({EXPECTED, "examples"})
"""The keywords that only messages and documentation use."""

DESCRIPTION_LIMIT = 1024


class SchemaError(Exception):
    """A type of the API has no structural schema; the message names the field."""


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, with defaults written as a manifest would write them."""

    def encode_default(self, dft: Any) -> Any:
        """A default as JSON: models by their manifest form, decimals as strings."""
        match dft:
            case Model():
                return dft.dump()
            case Decimal():
                return format(dft, "f")
            case _:
                return super().encode_default(dft)


def _inline(node: Schema, definitions: Mapping[str, Schema], path: str, seen: tuple[str, ...]) -> Schema:
    """Replaces a reference by what it refers to; the keywords beside it win over those behind it."""
    reference = node.get("$ref")
    if reference is None:
        return node
    name = str(reference).removeprefix("#/$defs/")
    if name in seen:
        raise SchemaError(f"{path}: the type {name} contains itself; a structural schema cannot")
    rest = {key: value for key, value in node.items() if key != "$ref"}
    return {**_inline(definitions[name], definitions, path, (*seen, name)), **rest}


def _collapse_null(node: Schema, path: str) -> Schema:
    """The one alternative of `X | None` that is not null."""
    alternatives = node.get("anyOf")
    if alternatives is None:
        return node
    left = [each for each in alternatives if each != {"type": "null"}]
    if len(left) != 1:
        raise SchemaError(f"{path}: a union of {len(left)} types has no structural schema; use one type and rules")
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return {**left[0], **rest}


def _numbers(node: Schema) -> Schema:
    """`const` as an enum of one, numeric exclusive bounds as a bound and a flag."""
    result = dict(node)
    if "const" in result:
        result["enum"] = [result.pop("const")]
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in result and not isinstance(result[exclusive], bool):
            result[bound] = result[exclusive]
            result[exclusive] = True
    return result


def _unwrap(text: str) -> str:
    """A docstring as one paragraph a line."""
    return "\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _rewrite(node: Schema, definitions: Mapping[str, Schema], path: str, seen: tuple[str, ...] = ()) -> Schema:
    """The rich schema of one node and all below it."""
    reference = str(node.get("$ref", "")).removeprefix("#/$defs/")
    node = _inline(node, definitions, path, seen)
    seen = (*seen, reference) if reference else seen
    if "anyOf" in node:
        return _rewrite(_collapse_null(node, path), definitions, path, seen)
    node = _numbers(node)
    result: Schema = {}
    for key, value in node.items():
        match key:
            case "title":
                continue
            case "default" if value is None or value in ([], {}):
                continue
            case "additionalProperties" if isinstance(value, bool):
                continue
            case "description":
                result[key] = _unwrap(value)[:DESCRIPTION_LIMIT]
            case "properties":
                result[key] = {
                    name: _rewrite(below, definitions, f"{path}.{name}", seen) for name, below in value.items()
                }
            case "items":
                result[key] = _rewrite(value, definitions, f"{path}[]", seen)
            case "additionalProperties":
                result[key] = _rewrite(value, definitions, f"{path}{{}}", seen)
            case "x-kubernetes-validations":
                result[key] = [
                    {**rule, "message": f"{path}{rule.get('fieldPath', '')}: {rule['message']}"} for rule in value
                ]
            case _ if key in STRUCTURAL or key in RICH:
                result[key] = value
            case _:
                raise SchemaError(f"{path}: the keyword {key} is not structural")
    _require_bounds(result, path)
    return result


def _require_bounds(node: Schema, path: str) -> None:
    """Every string, list and map has a size: the API server's CEL budget is computed from the largest."""
    opaque = node.get("x-kubernetes-preserve-unknown-fields")
    kind = node.get("type")
    if kind is None and not node.get("x-kubernetes-int-or-string"):
        raise SchemaError(f"{path}: has no type")
    if kind == "number":
        raise SchemaError(f"{path}: is a float; use a decimal string")
    if kind == "string" and not {"maxLength", "enum"} & node.keys() and node.get("format") != "date-time":
        raise SchemaError(f"{path}: is a string without maxLength")
    if kind == "array" and "maxItems" not in node:
        raise SchemaError(f"{path}: is a list without maxItems")
    if kind == "object" and not opaque and "additionalProperties" in node and "maxProperties" not in node:
        raise SchemaError(f"{path}: is a map without maxProperties")


def rich(model: type[BaseModel], path: str) -> Schema:
    """The rich schema of a model; `path` is where it stands in the manifest, for errors.

    Raises:
        SchemaError: A field has no structural schema.
    """
    raw: JsonSchemaValue = model.model_json_schema(
        by_alias=True, mode="validation", schema_generator=_Generator, ref_template="#/$defs/{model}"
    )
    definitions = raw.pop("$defs", {})
    return _rewrite(raw, definitions, path)


def structural(node: Schema) -> Schema:
    """A rich schema without what only messages and documentation use."""
    result: Schema = {}
    for key, value in node.items():
        match key:
            case "properties":
                result[key] = {name: structural(below) for name, below in value.items()}
            case "items" | "additionalProperties":
                result[key] = structural(value)
            case _ if key not in RICH:
                result[key] = value
    return result


def resource(kind: type[Resource]) -> Schema:
    """The rich schema of a kind's whole object.

    Raises:
        SchemaError: A field has no structural schema.
    """
    description = _unwrap(kind.__doc__ or "")
    schema: Schema = {
        "description": description,
        "type": "object",
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the API: tidefleet.io/v1alpha1."},
            "kind": {"type": "string", "description": f"Kind of the object: {kind.KIND}."},
            "metadata": {"type": "object"},
        },
    }
    for part in ("spec", "status"):
        field = kind.model_fields[part]
        model = field.annotation
        if not isinstance(model, type) or not issubclass(model, Model):
            raise SchemaError(f"{kind.KIND}.{part}: is no model")
        below = rich(model, part)
        below["description"] = _unwrap(field.description or "")
        schema["properties"][part] = below
    if kind.RULES:
        schema["x-kubernetes-validations"] = [
            {**rule.validation(), "message": f"{rule.field}: {rule.validation()['message']}"} for rule in kind.RULES
        ]
    return schema


@cache
def cached(kind: type[Resource]) -> Schema:
    """`resource`, computed once for each kind. Read only: the value is shared."""
    return resource(kind)


def at(schema: Schema, path: tuple[str | int, ...]) -> Schema:
    """The part of a rich schema that describes the value at a path; empty where the schema knows none."""
    for step in path:
        if isinstance(step, int):
            schema = schema.get("items", {})
        else:
            schema = schema.get("properties", {}).get(step) or schema.get("additionalProperties") or {}
    return schema
