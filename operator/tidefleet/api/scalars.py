"""The named leaf types of the API, with their bounds, words and examples: amounts of money, names, times, counts."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Annotated

from tidefleet.api.base import Rule
from tidefleet.api.leaves import (
    DIGITS,
    LABEL_KEY,
    LABEL_VALUE,
    DateText,
    DecimalText,
    Integer,
    IntOrText,
    Labels,
    Text,
)


def _positive(what: str, example: str) -> tuple[Rule, ...]:
    return (Rule(cel="double(self) > 0.0", holds=lambda n: n > 0, expected=f"{what} above 0", example=f'"{example}"'),)


def _at_least_one(what: str, example: str) -> tuple[Rule, ...]:
    return (
        Rule(
            cel="double(self) >= 1.0", holds=lambda n: n >= 1, expected=f"{what} of 1 or more", example=f'"{example}"'
        ),
    )


USD = Annotated[Decimal, DecimalText(expected="an amount of USD as a decimal string", example="0.60")]
PositiveUSD = Annotated[
    Decimal,
    DecimalText(
        expected="an amount of USD as a decimal string", example="2.10", rules=_positive("an amount of USD", "2.10")
    ),
]
SignedUSD = Annotated[
    Decimal,
    DecimalText(pattern=f"^-?{DIGITS}$", expected="an amount of USD as a decimal string", example="-0.02"),
]
Number = Annotated[Decimal, DecimalText(expected="a number as a decimal string", example="3.5")]
SignedNumber = Annotated[
    Decimal, DecimalText(pattern=f"^-?{DIGITS}$", expected="a number as a decimal string", example="0.05")
]
PositiveNumber = Annotated[
    Decimal,
    DecimalText(expected="a number as a decimal string", example="3.5", rules=_positive("a number", "3.5")),
]
FactorFromOne = Annotated[
    Decimal,
    DecimalText(expected="a factor as a decimal string", example="1.25", rules=_at_least_one("a factor", "1.25")),
]
Share = Annotated[
    Decimal,
    DecimalText(
        pattern=r"^(0(\.[0-9]{1,9})?|1(\.0{1,9})?)$",
        expected="a share from 0 to 1 as a decimal string",
        example="0.4",
    ),
]
Availability = Annotated[
    Decimal,
    DecimalText(
        pattern=r"^(0(\.[0-9]{1,9})?|1(\.0{1,9})?)$",
        expected="a share of time from 0.05 to 1 as a decimal string",
        example="0.9",
        rules=(
            Rule(
                cel="double(self) >= 0.05",
                holds=lambda n: n >= Decimal("0.05"),
                expected="a share of time from 0.05 to 1",
                example='"0.9"',
            ),
        ),
    ),
]
Score = Annotated[
    Decimal,
    DecimalText(
        expected="a score relative to the unquantised model, as a decimal string",
        example="0.98",
        rules=(
            Rule(
                cel="double(self) <= 2.0",
                holds=lambda n: n <= 2,
                expected="a score relative to the unquantised model, 1 being equal (not a percentage)",
                example='"0.98"',
            ),
        ),
    ),
]

DNS_LABEL = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
Name = Annotated[
    str,
    Text(
        maximum=63,
        pattern=DNS_LABEL,
        expected="a name of lower-case letters, digits and hyphens, at most 63 characters",
        example="chat",
    ),
]
ModelName = Annotated[
    str,
    Text(
        maximum=128,
        pattern="^[A-Za-z0-9]([A-Za-z0-9._:/-]*[A-Za-z0-9])?$",
        expected="a model name of letters, digits and . _ : / -",
        example="llama-3.3-70b",
    ),
]
Word = Annotated[
    str,
    Text(
        maximum=63,
        pattern="^[A-Za-z0-9]([A-Za-z0-9._+-]*[A-Za-z0-9])?$",
        expected="a word of letters, digits and . _ + -",
        example="0.32.0",
    ),
]
OptionalWord = Annotated[
    str,
    Text(
        maximum=63,
        minimum=0,
        pattern="^([A-Za-z0-9]([A-Za-z0-9._+-]*[A-Za-z0-9])?)?$",
        expected="a word of letters, digits and . _ + -, or nothing",
        example="eu-central-1",
    ),
]
QualifiedName = Annotated[
    str,
    Text(
        maximum=317,
        pattern=LABEL_KEY,
        expected="a qualified name",
        example="nvidia.com/gpu",
    ),
]
HeaderName = Annotated[
    str,
    Text(
        maximum=128,
        pattern="^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
        expected="the name of an HTTP header",
        example="x-session-id",
    ),
]
Sentence = Annotated[str, Text(maximum=512, expected="a text of at most 512 characters", example="see the datasheet")]
Note = Annotated[str, Text(maximum=2048, minimum=0, expected="a text of at most 2048 characters", example="measured")]
TimeOfDay = Annotated[
    str,
    Text(
        maximum=5,
        pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$",
        expected="a time of day as a quoted string, HH:MM",
        example="22:00",
    ),
]
EndOfDay = Annotated[
    str,
    Text(
        maximum=5,
        pattern="^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$",
        expected="a time of day as a quoted string, HH:MM, up to 24:00",
        example="06:30",
    ),
]
TimeZone = Annotated[
    str,
    Text(
        maximum=64,
        pattern="^[A-Za-z][A-Za-z0-9_+/-]*$",
        expected="a time zone of the IANA database",
        example="Europe/Berlin",
    ),
]
Cron = Annotated[
    str,
    Text(
        maximum=128,
        expected="a cron expression of five fields: minute, hour, day of month, month, day of week",
        example="0 22 * * *",
    ),
]
Date = Annotated[datetime.date, DateText(expected="a date as a string, YYYY-MM-DD", example="2026-11-21")]
Milliseconds = Annotated[int, Integer(minimum=1, maximum=86_400_000, expected="a positive integer", example=300)]
PreciseMilliseconds = Annotated[
    Decimal,
    IntOrText(
        minimum=1,
        maximum=86_400_000,
        pattern=f"^{DIGITS}$",
        convert=Decimal,
        expected="milliseconds as an integer or a decimal string",
        example="12.5",
        rules=_positive("milliseconds", "12.5"),
    ),
]
Count = Annotated[int, Integer(minimum=0, maximum=1_000_000_000, example=1)]
PositiveCount = Annotated[int, Integer(minimum=1, maximum=1_000_000_000, expected="a positive integer", example=1)]
Tokens = Annotated[int, Integer(minimum=0, maximum=100_000_000, example=1800)]
ExactTokens = Annotated[int, Integer(minimum=0, maximum=100_000_000, exact=True, example=1800)]
PositiveTokens = Annotated[int, Integer(minimum=1, maximum=100_000_000, expected="a positive integer", example=1800)]
Quantity = Annotated[int, Integer(minimum=1, maximum=10**18, expected="a positive integer", example=85899345920)]
Watts = Annotated[int, Integer(minimum=1, maximum=10**9, expected="a positive integer of watts", example=700)]
ExactWatts = Annotated[
    int, Integer(minimum=1, maximum=10**9, exact=True, expected="a positive integer of watts", example=700)
]
Port = Annotated[int, Integer(minimum=1, maximum=65535, example=8000)]
LabelValue = Annotated[
    str, Text(maximum=63, minimum=0, pattern=LABEL_VALUE, expected="a label's value", example="research")
]
LabelMap = Annotated[
    dict[str, str], Labels(expected="a map of labels", example={"nvidia.com/gpu.product": "NVIDIA-L4"})
]
