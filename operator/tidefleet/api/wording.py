"""Words for problems: from what pydantic found, and the rich schema of the field, to expectation and example."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tidefleet.api import schema
from tidefleet.api.base import BROKEN_RULE, Broken, render
from tidefleet.api.leaves import EXPECTED

Path = tuple[str | int, ...]

PATH_LIMIT = 300
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_KINDS = {
    "array": "a list",
    "object": "an object",
    "string": "a string",
    "integer": "an integer",
    "boolean": "true or false",
}


def write(path: Path) -> str:
    """A path as messages write it, e.g. spec.objectives[0].milliseconds; bounded, hostile keys quoted."""
    parts: list[str] = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif _PLAIN.fullmatch(step) and len(step) <= 63:
            parts.append(f".{step}" if parts else step)
        else:
            parts.append(f"[{render(step[:63])}]")
    text = "".join(parts)
    return text if len(text) <= PATH_LIMIT else text[: PATH_LIMIT - 3] + "..."


def expectation(node: schema.Schema) -> str:
    """What a value of this schema is, to be read after the word "expected"."""
    if EXPECTED in node:
        return str(node[EXPECTED])
    if "enum" in node:
        return "one of " + ", ".join(str(word) for word in node["enum"])
    kind = node.get("type", "")
    if kind == "integer" and {"minimum", "maximum"} <= node.keys():
        return f"an integer from {node['minimum']} to {node['maximum']}"
    if kind == "string" and "maxLength" in node:
        return f"a string of at most {node['maxLength']} characters"
    return _KINDS.get(str(kind), "another value")


def example(node: schema.Schema) -> str:
    """A value that this schema takes, as one would write it in YAML."""
    if node.get("examples"):
        return _flow(node["examples"][0])
    if "enum" in node:
        return str(node["enum"][0])
    if "default" in node:
        return _flow(node["default"])
    match node.get("type"):
        case "array":
            return f"[{example(node.get('items', {}))}]"
        case "object":
            properties = node.get("properties", {})
            names = node.get("required", []) or list(properties)[:1]
            return "{" + ", ".join(f"{name}: {example(properties[name])}" for name in names) + "}"
        case "integer":
            return str(node.get("minimum", 1))
        case "string":
            return '"..."'
        case _:
            return "{}"


def _flow(value: Any) -> str:
    match value:
        case str():
            return f'"{value}"'
        case Mapping():
            return "{" + ", ".join(f"{key}: {_flow(below)}" for key, below in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_flow(below) for below in value) + "]"
        case _:
            return str(value)


def _bound(error_type: str, node: schema.Schema) -> str | None:
    """Words for a size that was exceeded, where they say more than what the value is."""
    match error_type:
        case "too_long" if node.get("type") == "object":
            return f"at most {node.get('maxProperties')} entries"
        case "too_long":
            return f"a list of at most {node.get('maxItems')} items"
        case "too_short":
            return f"a list of at least {node.get('minItems')} items"
        case "string_too_long":
            return f"at most {node.get('maxLength')} characters"
        case "less_than_equal":
            return f"a number of at most {node.get('maximum')}"
        case _:
            return None


def explain(error: Mapping[str, Any], root: schema.Schema) -> Iterator[Broken]:
    """What one pydantic error means; the paths of the results are whole, from the object's root."""
    location: Path = tuple(step for step in error["loc"] if step != "[key]")
    kind = str(error["type"])
    if kind == BROKEN_RULE:
        for each in error["ctx"]["broken"]:
            yield Broken((*location, *each.path), each.got, each.expected, each.example)
        return
    if kind == "extra_forbidden":
        known = list(schema.at(root, location[:-1]).get("properties", {}))
        near = difflib.get_close_matches(str(location[-1])[:63], known, n=1, cutoff=0.0)
        near = near or known[:1] or ["a field of the reference"]
        yield Broken(location, render(error["input"]), "a field that exists", near[0])
        return
    node = schema.at(root, location)
    got = "missing" if kind == "missing" else render(error["input"])
    yield Broken(location, got, _bound(kind, node) or expectation(node), example(node))
