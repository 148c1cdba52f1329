"""What every type of the API is built on: frozen models, and rules that hold in Python and on the API server alike.

A `Rule` pairs a CEL expression with the Python predicate that must agree with it, so the two stand in one place and
one table of objects tests them against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

GROUP = "tidefleet.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

BROKEN_RULE = "broken_rule"
"""The pydantic error type that carries one or more `Broken` values in its context under the key `broken`."""

GOT_LIMIT = 200
"""At most so many characters of what a user sent are ever echoed back."""


def render(value: object) -> str:
    """One short line for any value a user sent; lists and objects by their size and first keys, never by content.

    Strings are quoted, so that the number 0.6 and the string "0.6" look different.
    """
    match value:
        case None:
            text = "null"
        case bool():
            text = "true" if value else "false"
        case str():
            text = '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in value[:GOT_LIMIT]) + '"'
        case int():
            text = str(value) if value.bit_length() < 1024 else f"a number of {value.bit_length()} bits"
        case Mapping():
            keys = [str(key)[:40] for key, _ in zip(value, range(5), strict=False)]
            more = ", ..." if len(value) > len(keys) else ""
            text = "an object with " + (", ".join(keys) + more if keys else "no fields")
            text = "".join(c if c.isprintable() else "?" for c in text)
        case list() | tuple() | set() | frozenset():
            text = f"a list of {len(value)} items" if len(value) != 1 else "a list of 1 item"
        case _:
            text = str(value)
    return text if len(text) <= GOT_LIMIT else text[: GOT_LIMIT - 3] + "..."


@dataclass(frozen=True, slots=True)
class Broken:
    """One rule that a value breaks: where below the value, what came, and what was expected.

    Attributes:
        path: Path below the value that was checked, as names and list indexes; empty for the value itself.
        got: What came, rendered.
        expected: What was expected, to be read after the words "expected".
        example: One value that would pass.
    """

    path: tuple[str | int, ...]
    got: str
    expected: str
    example: str


def broken(problems: Iterable[Broken]) -> PydanticCustomError:
    """The error a validator raises to report several broken rules at once."""
    found = tuple(problems)
    text = "; ".join(f"got {each.got}, expected {each.expected}, e.g. {each.example}" for each in found)
    return PydanticCustomError(BROKEN_RULE, "{text}", {"text": text, "broken": found})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule over several fields (or one scalar), judged by the API server as CEL and here by `holds`.

    Attributes:
        cel: The expression, `self` being the value; it may name `oldSelf`, and then runs on updates only.
        holds: The same in Python, over the parsed value. None for a transition rule: one object cannot break it.
        expected: What is expected, to be read after the words "expected".
        example: One value that would pass.
        field: The field to blame, in the spelling of the manifest, dotted; empty for the value itself.
        field_path: False where the API server does not take `field` as a path (below metadata).
    """

    cel: str
    expected: str
    example: str
    holds: Callable[[Any], bool] | None = None
    field: str = ""
    field_path: bool = True

    def validation(self) -> dict[str, str]:
        """This rule as one item of `x-kubernetes-validations`; the schema puts the path before the message."""
        item = {"rule": self.cel, "message": f"expected {self.expected}, e.g. {self.example}"}
        if self.field and self.field_path:
            item["fieldPath"] = "." + self.field
        return item


class Model(BaseModel):
    """Frozen value with camelCase names on the wire and snake_case attributes here.

    Unknown fields are ignored unless the caller of `validation.parse` asks for strictness; nulls are dropped, as the
    API server drops them; `RULES` hold after the fields are read.
    """

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        use_attribute_docstrings=True,
        validate_default=False,
        protected_namespaces=(),
    )

    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and any(value is None for value in data.values()):
            return {key: value for key, value in data.items() if value is not None}
        return data

    @model_validator(mode="after")
    def _hold_rules(self) -> Self:
        found = [
            Broken(
                path=tuple(rule.field.split(".")) if rule.field else (),
                got=render(self.value_at(rule.field)),
                expected=rule.expected,
                example=rule.example,
            )
            for rule in self.RULES
            if rule.holds is not None and not rule.holds(self)
        ]
        if found:
            raise broken(found)
        return self

    @model_serializer(mode="wrap")
    def _leave_out_the_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        body: dict[str, Any] = handler(self)
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, tuple | dict) and not value and value == info.default:
                body.pop(info.alias or name, None)
        return body

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Adds the class's rules to its schema."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        if cls.RULES:
            schema["x-kubernetes-validations"] = [rule.validation() for rule in cls.RULES]
        return schema

    @classmethod
    def attribute(cls, alias: str) -> str:
        """The attribute behind a field's name in the manifest.

        Raises:
            KeyError: No field has that name.
        """
        for name, info in cls.model_fields.items():
            if (info.alias or name) == alias:
                return name
        raise KeyError(alias)

    def value_at(self, path: str) -> object:
        """The value at a dotted path of manifest names, as the manifest would hold it; for "" its given fields."""
        if not path:
            given = {type(self).model_fields[name].alias or name: getattr(self, name) for name in self.model_fields_set}
            return dict(sorted(given.items()))
        value: object = self.dump()
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def dump(self) -> dict[str, Any]:
        """The manifest's form: camelCase, decimal strings, without absent fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {}
    return {key: text for key, text in value.items() if isinstance(key, str) and isinstance(text, str)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What we read of an object's metadata. Reading is lenient: what has another form than expected is left empty."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    deletion_timestamp: str = ""

    @classmethod
    def read(cls, raw: object) -> Metadata:
        """Reads the `metadata` of a manifest; never raises."""
        if isinstance(raw, Metadata):
            return raw
        if not isinstance(raw, Mapping):
            return cls()
        generation = raw.get("generation")
        finalizers = raw.get("finalizers")
        return cls(
            name=_text(raw.get("name")),
            namespace=_text(raw.get("namespace")),
            uid=_text(raw.get("uid")),
            resource_version=_text(raw.get("resourceVersion")),
            generation=generation if isinstance(generation, int) and not isinstance(generation, bool) else 0,
            annotations=_texts(raw.get("annotations")),
            labels=_texts(raw.get("labels")),
            finalizers=tuple(f for f in finalizers if isinstance(f, str)) if isinstance(finalizers, list) else (),
            deletion_timestamp=_text(raw.get("deletionTimestamp")),
        )

    def dump(self) -> dict[str, Any]:
        """The manifest's form, without what is empty."""
        raw = {
            "name": self.name,
            "namespace": self.namespace,
            "uid": self.uid,
            "resourceVersion": self.resource_version,
            "generation": self.generation,
            "annotations": dict(self.annotations),
            "labels": dict(self.labels),
            "finalizers": list(self.finalizers),
            "deletionTimestamp": self.deletion_timestamp,
        }
        return {key: value for key, value in raw.items() if value}


def name_rule(limit: int, why: str) -> Rule:
    """The rule for `metadata.name`: a DNS label of at most `limit` characters, because `why`."""
    pattern = f"^[a-z0-9]([-a-z0-9]{{0,{limit - 2}}}[a-z0-9])?$"

    def holds(resource: Any) -> bool:
        name: str = resource.metadata.name
        allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-")
        return 0 < len(name) <= limit and set(name) <= allowed and not name.startswith("-") and not name.endswith("-")

    return Rule(
        field="metadata.name",
        field_path=False,
        cel=f"self.metadata.name.matches('{pattern}')",
        holds=holds,
        expected=f"lower-case letters, digits and hyphens, at most {limit} characters ({why})",
        example='"chat"',
    )


class Resource(Model):
    """One object of the API: `metadata`, `spec` and `status`.

    A status that cannot be read is an empty status: what the operator wrote once never makes an object invalid.
    """

    KIND: ClassVar[str] = ""
    PLURAL: ClassVar[str] = ""
    SHORT_NAME: ClassVar[str] = ""
    NAMESPACED: ClassVar[bool] = True

    metadata: Metadata = Metadata()

    @field_validator("metadata", mode="wrap")
    @classmethod
    def _read_metadata(cls, value: Any, _handler: ValidatorFunctionWrapHandler) -> Metadata:
        return Metadata.read(value)

    @field_validator("status", mode="wrap", check_fields=False)
    @classmethod
    def _read_status(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except (ValidationError, RecursionError):
            return handler({})

    @property
    def name(self) -> str:
        """The object's name."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """The object's namespace; empty for a cluster-scoped kind."""
        return self.metadata.namespace if self.NAMESPACED else ""

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name

    def __str__(self) -> str:
        """The object as messages name it, e.g. `WorkloadClass prod/chat`."""
        return describe(self.KIND, self.namespace, self.name)

    def value_at(self, path: str) -> object:
        """The value at a dotted path of manifest names."""
        if path == "metadata.name":
            return self.metadata.name
        return super().value_at(path)

    def dump(self) -> dict[str, Any]:
        """The whole manifest, with apiVersion and kind; without status when that is empty."""
        body = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"metadata"})
        if not body.get("status"):
            body.pop("status", None)
        return {"apiVersion": API_VERSION, "kind": self.KIND, "metadata": self.metadata.dump(), **body}


def describe(kind: str, namespace: str, name: str) -> str:
    """An object as messages name it, e.g. `WorkloadClass prod/chat` or `AcceleratorType h100-sxm`."""
    place = f"{namespace}/{name}" if namespace else name or "(unnamed)"
    return f"{kind} {place}"[:GOT_LIMIT]
