"""Numbers of a book: written plainly or as a string, always finite and within bounds, and told in words when not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from tidefleet.api.leaves import EXPECTED, Integer

_LONGEST = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """A number from ``least`` to ``most``, above ``least`` where that is excluded; 0.9 and "0.9" are the same."""

    expected: str
    example: float
    least: float = 0.0
    most: float = 1e12
    above: bool = False

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """One function that judges every form; the attribute is a float."""

        def read(value: Any) -> float:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise PydanticCustomError("amount", "not a number")
            if isinstance(value, str) and (len(value) > _LONGEST or "_" in value):
                raise PydanticCustomError("amount", "not a number")
            try:
                number = float(value)
            except (ValueError, OverflowError):
                raise PydanticCustomError("amount", "not a number") from None
            if not (self.least < number if self.above else self.least <= number) or not number <= self.most:
                raise PydanticCustomError("amount", "out of bounds")
            return number

        return core_schema.no_info_plain_validator_function(read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """By hand: a number or a string, with the words for messages."""
        del schema, handler
        bounds = f"above {self.least:g}" if self.above else f"from {self.least:g}"
        most = "" if math.isinf(self.most) else f" to {self.most:g}"
        return {
            "x-kubernetes-int-or-string": True,
            "maxLength": _LONGEST,
            EXPECTED: f"{self.expected}, a number {bounds}{most}",
            "examples": [self.example],
        }


USD = Annotated[float, Amount(expected="an amount of USD", example=0.9)]
PaidUSD = Annotated[float, Amount(expected="an amount of USD", example=2.1, above=True)]
Share = Annotated[float, Amount(expected="a share", example=0.1, most=1.0)]
Load = Annotated[float, Amount(expected="mean load over capacity", example=0.6, most=1.0, above=True)]
Decline = Annotated[
    float, Amount(expected="a share a year, negative where it rises", example=0.2, least=-1.0, most=0.99)
]
Growth = Annotated[float, Amount(expected="a share a month", example=0.04, least=-0.9, most=10.0)]
Factor = Annotated[float, Amount(expected="a factor", example=1.3, most=1e6)]
Ratio = Annotated[float, Amount(expected="facility over IT power", example=1.25, least=1.0, most=10.0)]
Counted = Annotated[float, Amount(expected="a count", example=20000, most=1e12)]
Volume = Annotated[float, Amount(expected="tokens", example=1500000, most=1e21)]
Length = Annotated[float, Amount(expected="tokens of a request", example=1800, most=1e8)]
Speed = Annotated[float, Amount(expected="tokens of one chip in an hour when full", example=9e6, most=1e15, above=True)]
Seconds = Annotated[float, Amount(expected="seconds", example=0.8, most=1e6, above=True)]
Watts = Annotated[float, Amount(expected="watts", example=700, most=1e6)]
Month = Annotated[int, Integer(minimum=0, maximum=1200, expected="a month from 0 to 1200", example=6)]
Days = Annotated[int, Integer(minimum=1, maximum=36500, expected="days, from 1 to 36500", example=365)]
Scenarios = Annotated[int, Integer(minimum=1, maximum=500, expected="a count from 1 to 500", example=50)]
Seed = Annotated[int, Integer(minimum=0, maximum=2**31, expected="an integer from 0 to 2147483648", example=1)]
