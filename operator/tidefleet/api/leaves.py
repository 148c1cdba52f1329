"""How the leaf types of the API are made: strings, integers, decimal strings, dates, maps and lists, with bounds.

Each is a piece of `Annotated` metadata that makes the pydantic validator as strict as the API server is with the
schema it emits: no conversion between strings and numbers, integral floats taken for integers, every size bounded.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from tidefleet.api.base import Broken, Rule, broken, render

EXPECTED = "x-expected"
"""Key of the rich schema: what a value is, in words. Taken out of the CRD."""

DIGITS = r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?"
LABEL_VALUE = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"


def integral(value: Any) -> Any:
    """The integer that an integral float stands for, as the API server reads it; anything else unchanged."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    return value


def _judge(rules: tuple[Rule, ...], value: Any, raw: object) -> None:
    found = [
        Broken(path=(), got=render(raw), expected=rule.expected, example=rule.example)
        for rule in rules
        if rule.holds is not None and not rule.holds(value)
    ]
    if found:
        raise broken(found)


@dataclass(frozen=True, slots=True)
class _Leaf:
    """Shared by the leaf types: words and an example for messages and documentation, rules for both judges."""

    expected: str = ""
    example: Any = None
    rules: tuple[Rule, ...] = ()

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Adds the words, the example and the rules to the schema of the underlying type."""
        result = dict(self._schema(handler.resolve_ref_schema(handler(schema))))
        if self.expected:
            result[EXPECTED] = self.expected
        if self.example is not None:
            result["examples"] = [self.example]
        if self.rules:
            result["x-kubernetes-validations"] = [rule.validation() for rule in self.rules]
        return result

    def _schema(self, schema: JsonSchemaValue) -> JsonSchemaValue:
        return schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer(_Leaf):
    """An integer from `minimum` to `maximum`; 8.0 counts as 8, as on the API server.

    `exact` is for an integer that a rule of the object around it reads: CEL refuses to read 8.0 as an integer, so the
    API server would take it or not depending on which rules are evaluated. A rule of the field's own makes it refuse
    always, and so do we.
    """

    minimum: int
    maximum: int
    exact: bool = False

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """A strict integer within the bounds, integral floats converted first."""
        number = core_schema.int_schema(strict=True, ge=self.minimum, le=self.maximum)
        return number if self.exact else core_schema.no_info_before_validator_function(integral, number)

    def _schema(self, schema: JsonSchemaValue) -> JsonSchemaValue:
        result = {**schema, "format": "int64"}
        if self.exact:
            rule = Rule(cel="self == int(self)", expected="an integer without a decimal point", example="2")
            result["x-kubernetes-validations"] = [rule.validation()]
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(_Leaf):
    """A string of `minimum` to `maximum` characters that matches `pattern`, where one is given."""

    maximum: int
    minimum: int = 1
    pattern: str | None = None

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """A strict string with the bounds, then the rules."""
        text: CoreSchema = core_schema.str_schema(
            strict=True, min_length=self.minimum, max_length=self.maximum, pattern=self.pattern
        )
        if not self.rules:
            return text

        def check(value: str) -> str:
            _judge(self.rules, value, value)
            return value

        return core_schema.no_info_after_validator_function(check, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecimalText(_Leaf):
    """A decimal number written as a string; the attribute is a `Decimal` that keeps the user's digits."""

    pattern: str = f"^{DIGITS}$"

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """A strict string that matches the pattern, converted to Decimal and written back as it came."""

        def plain(value: Any) -> Any:
            return format(value, "f") if isinstance(value, Decimal) else value

        def convert(value: str) -> Decimal:
            number = Decimal(value)
            _judge(self.rules, number, value)
            return number

        text = core_schema.str_schema(strict=True, max_length=20, pattern=self.pattern)
        return core_schema.no_info_before_validator_function(
            plain,
            core_schema.no_info_after_validator_function(convert, text),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda number, info: format(number, "f") if info.mode == "json" else number, info_arg=True
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DateText(_Leaf):
    """A calendar date, YYYY-MM-DD, as a string; the attribute is a `datetime.date`."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """A strict string in ISO form, converted to a date."""

        def plain(value: Any) -> Any:
            return value.isoformat() if isinstance(value, datetime.date) else value

        def convert(value: str) -> datetime.date:
            try:
                return datetime.date.fromisoformat(value)
            except ValueError:
                raise PydanticCustomError("date", "not a day of the calendar") from None

        text = core_schema.str_schema(strict=True, max_length=10, pattern="^(19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}$")
        return core_schema.no_info_before_validator_function(
            plain,
            core_schema.no_info_after_validator_function(convert, text),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda day, info: day.isoformat() if info.mode == "json" else day, info_arg=True
            ),
        )

    def _schema(self, schema: JsonSchemaValue) -> JsonSchemaValue:
        return {**schema, "format": "date"}


@dataclass(frozen=True, slots=True, kw_only=True)
class IntOrText(_Leaf):
    """An integer from `minimum` to `maximum`, or a string of a form (`pattern`), as Kubernetes writes such fields."""

    minimum: int
    maximum: int
    pattern: str
    convert: Callable[[str], Any] = str

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """One function that judges both forms; the attribute is what `convert` makes of the written form."""

        def read(value: Any) -> Any:
            value = integral(value)
            if isinstance(value, Decimal):
                value = format(value, "f")
            if isinstance(value, bool) or not isinstance(value, int | str):
                raise PydanticCustomError("int_or_string", "neither an integer nor a string")
            if isinstance(value, int):
                if not self.minimum <= value <= self.maximum:
                    raise PydanticCustomError("int_or_string", "out of bounds")
            elif len(value) > 20 or not re.fullmatch(self.pattern.removeprefix("^").removesuffix("$"), value):
                raise PydanticCustomError("int_or_string", "not of the form")
            result = self.convert(str(value))
            _judge(self.rules, result, value)
            return result

        return core_schema.no_info_plain_validator_function(
            read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value, info: str(value) if info.mode == "json" else value, info_arg=True
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema by hand: there is no type, but x-kubernetes-int-or-string."""
        result = {
            "x-kubernetes-int-or-string": True,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "maxLength": 20,
            "pattern": self.pattern,
            EXPECTED: self.expected,
            "examples": [self.example],
        }
        if self.rules:
            result["x-kubernetes-validations"] = [rule.validation() for rule in self.rules]
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels(_Leaf):
    """A map of label keys to label values, at most `maximum` entries."""

    maximum: int = 32

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """A map from string to label value, nulls dropped, then the rule on keys."""

        def drop(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {key: text for key, text in value.items() if text is not None}
            return value

        def check(value: dict[str, str]) -> dict[str, str]:
            pattern = LABEL_KEY.removeprefix("^").removesuffix("$")
            bad = [key for key in value if not re.fullmatch(pattern, key)]
            if bad:
                raise broken([Broken((), render(bad[0]), "keys that are label keys", '"cloud.example.com/gpu"')])
            return value

        inner = core_schema.dict_schema(
            core_schema.str_schema(strict=True),
            core_schema.str_schema(strict=True, max_length=63, pattern=LABEL_VALUE),
            max_length=self.maximum,
        )
        return core_schema.no_info_before_validator_function(
            drop, core_schema.no_info_after_validator_function(check, inner)
        )

    def _schema(self, schema: JsonSchemaValue) -> JsonSchemaValue:
        rule = Rule(
            cel=f"self.all(key, size(key) <= 317 && key.matches('{LABEL_KEY}'))",
            expected="keys that are label keys",
            example='"cloud.example.com/gpu"',
        )
        return {**schema, "x-kubernetes-validations": [rule.validation()]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque(_Leaf):
    """An object that is passed on as it is: any fields, floats and nulls included."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Any map with string keys."""
        return core_schema.dict_schema(core_schema.str_schema(strict=True), core_schema.any_schema())

    def _schema(self, schema: JsonSchemaValue) -> JsonSchemaValue:
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


@dataclass(frozen=True, slots=True)
class Many:
    """Bounds of a list and how its items are told apart.

    Attributes:
        maximum: At most so many items.
        minimum: At least so many.
        keys: Names (in the manifest) that together identify an item: a list map. Each is required or has a default.
        unique: For scalars: a set.
    """

    maximum: int
    minimum: int = 0
    keys: tuple[str, ...] = ()
    unique: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A tuple of at most `maximum` items, then uniqueness."""
        items = handler(source)
        if items["type"] != "tuple":
            raise TypeError(f"Many goes with tuple[X, ...], not {source}")
        bounded = {**items, "max_length": self.maximum, "min_length": self.minimum}

        def only_lists(value: Any) -> Any:
            if not isinstance(value, list | tuple):
                raise PydanticCustomError("list_type", "not a list")
            return value

        def check(value: tuple[Any, ...]) -> tuple[Any, ...]:
            found: list[Broken] = []
            seen: set[Any] = set()
            for index, item in enumerate(value):
                key = tuple(getattr(item, item.attribute(alias)) for alias in self.keys) if self.keys else item
                if key in seen:
                    got = render(" ".join(str(part) for part in key)) if self.keys else render(item)
                    what = " and ".join(self.keys) or "value"
                    found.append(Broken((index,), got, f"each {what} once", "one entry less"))
                seen.add(key)
            if found:
                raise broken(found)
            return value

        schema: CoreSchema = bounded
        schema = core_schema.no_info_before_validator_function(only_lists, schema)
        if self.keys or self.unique:
            schema = core_schema.no_info_after_validator_function(check, schema)
        return schema

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The list's bounds and its Kubernetes list type."""
        result = dict(handler.resolve_ref_schema(handler(schema)))
        if self.keys:
            result["x-kubernetes-list-type"] = "map"
            result["x-kubernetes-list-map-keys"] = list(self.keys)
        else:
            result["x-kubernetes-list-type"] = "set" if self.unique else "atomic"
        return result
