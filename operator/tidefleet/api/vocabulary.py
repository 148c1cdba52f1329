"""Words that several kinds of the API share."""

from __future__ import annotations

from enum import StrEnum


class CapacityType(StrEnum):
    """How an accelerator is paid for."""

    ON_DEMAND = "OnDemand"
    SPOT = "Spot"
    RESERVED = "Reserved"
    OWNED = "Owned"


class Precision(StrEnum):
    """The number format in which weights or KV are stored."""

    BF16 = "Bf16"
    FP16 = "Fp16"
    FP8 = "Fp8"
    INT8 = "Int8"
    FP4 = "Fp4"
    MXFP4 = "Mxfp4"
    INT4 = "Int4"


class Role(StrEnum):
    """What a replica does of a request."""

    AGGREGATED = "Aggregated"
    PREFILL = "Prefill"
    DECODE = "Decode"


class Day(StrEnum):
    """A day of the week."""

    MON = "Mon"
    TUE = "Tue"
    WED = "Wed"
    THU = "Thu"
    FRI = "Fri"
    SAT = "Sat"
    SUN = "Sun"
