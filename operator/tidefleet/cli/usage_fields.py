"""The fields of a file of usage, and what does not fit together between them."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tidefleet.api.base import render
from tidefleet.economics.personas import DAY_HOURS, SHAPE_SLACK
from tidefleet.planning.foreseen import FORECAST_FIELDS

Loc = tuple[str | int, ...]


def _same_for_all(value: Any) -> Any:
    """A number stands for one that is the same for all."""
    return {"mean": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, strict=True)


Name = Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
TokenCount = Annotated[float, Field(ge=0.0, le=1e8, allow_inf_nan=False)]
PositiveTokens = Annotated[float, Field(ge=1.0, le=1e8, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
PerDay = Annotated[float, Field(ge=0.0, le=1e6, allow_inf_nan=False)]
PerTask = Annotated[float, Field(gt=0.0, le=1e6, allow_inf_nan=False)]


class _Law(_Part):
    """A mean and a 95th percentile."""


class _Input(_Law):
    mean: PositiveTokens
    p95: TokenCount | None = None


class _Output(_Law):
    mean: TokenCount
    p95: TokenCount | None = None


class _Reasoning(_Output):
    cap: PositiveTokens | None = None


class _PerDay(_Law):
    mean: PerDay
    p95: PerDay | None = None


class _Requests(_Law):
    mean: PerTask
    p95: PerTask | None = None


class _Adoption(_Law):
    mean: Share
    p95: Share | None = None


class TokenFields(_Part):
    """Lengths of requests."""

    input: Annotated[_Input, BeforeValidator(_same_for_all)]
    output: Annotated[_Output, BeforeValidator(_same_for_all)]
    reasoning: Annotated[_Reasoning, BeforeValidator(_same_for_all)] | None = None
    cached_share: Share = 0.0


class _Use(_Part):
    feature: Name
    per_day: Annotated[_PerDay, BeforeValidator(_same_for_all)]
    adoption: Share = 1.0


class _Persona(_Part):
    name: Name
    users: Annotated[float, Field(ge=0.0, le=1e10, allow_inf_nan=False)]
    adoption: Annotated[_Adoption, BeforeValidator(_same_for_all)] = _Adoption(mean=1.0)
    ramp_months: Annotated[float, Field(ge=0.0, le=120.0, allow_inf_nan=False)] = 0.0
    growth_per_month: Annotated[float, Field(ge=-0.9, le=10.0, allow_inf_nan=False)] = 0.0
    time_zone: str = "UTC"
    shape: Name | None = None
    day_p95: Annotated[float, Field(ge=1.0, le=3.8, allow_inf_nan=False)] = 1.0
    uses: Annotated[list[_Use], Field(min_length=1, max_length=256)]


class _Feature(_Part):
    name: Name
    wclass: Name = Field(alias="class")
    tokens: TokenFields | None = None


class _Call(_Part):
    wclass: Name = Field(alias="class")
    per_task: PerTask


class _Class(_Part):
    name: Name
    pool: Name
    requests_per_task: Annotated[_Requests, BeforeValidator(_same_for_all)] = _Requests(mean=1.0)
    calls: Annotated[list[_Call], Field(max_length=32)] = []
    tokens: TokenFields | None = None
    spec: dict[str, Any] = {}


class _Shape(_Part):
    name: Name
    hours: Annotated[list[Share], Field(min_length=DAY_HOURS, max_length=DAY_HOURS)]
    weekdays: Annotated[
        list[Annotated[float, Field(ge=0.0, le=10.0, allow_inf_nan=False)]], Field(min_length=7, max_length=7)
    ] = [1.0] * 7


class UsageFields(_Part):
    """A whole file."""

    namespace: Name = "default"
    start: str | None = None
    personas: Annotated[list[_Persona], Field(min_length=1, max_length=256)]
    features: Annotated[list[_Feature], Field(min_length=1, max_length=256)]
    classes: Annotated[list[_Class], Field(min_length=1, max_length=64)]
    shapes: Annotated[list[_Shape], Field(max_length=256)] = []


def inconsistencies(parsed: UsageFields) -> Iterator[tuple[Loc, str]]:
    """Where single fields are right and do not fit together: the place, and what is wrong there, in words."""
    raw = json.loads(parsed.model_dump_json(by_alias=True))
    for field in ("personas", "features", "classes", "shapes"):
        names = [one["name"] for one in raw[field]]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield (field, index, "name"), f'is "{name}" a second time; expected each name once, e.g. {name}-2'
    if parsed.start is not None and not _is_day(parsed.start):
        yield ("start",), f"is {render(parsed.start)}; expected a day of the calendar, e.g. 2026-12-01"
    yield from _shapes(parsed)
    yield from _personas(parsed)
    yield from _classes(parsed)
    yield from _laws(raw, ())


def _shapes(parsed: UsageFields) -> Iterator[tuple[Loc, str]]:
    for index, shape in enumerate(parsed.shapes):
        total = math.fsum(shape.hours)
        if abs(total - 1.0) > SHAPE_SLACK:
            words = f"sums to {total:.4g}; expected shares of a day that sum to 1, e.g. 24 times 0.0417"
            yield ("shapes", index, "hours"), words
        if not any(shape.weekdays):
            yield ("shapes", index, "weekdays"), "are all 0; expected a day with uses, e.g. [1, 1, 1, 1, 1, 0, 0]"


def _personas(parsed: UsageFields) -> Iterator[tuple[Loc, str]]:
    shapes, features = [one.name for one in parsed.shapes], [one.name for one in parsed.features]
    for index, persona in enumerate(parsed.personas):
        if not _is_zone(persona.time_zone):
            words = f"is {render(persona.time_zone)}; expected a zone of the IANA database, e.g. Europe/Berlin"
            yield ("personas", index, "timeZone"), words
        if persona.shape is not None:
            yield from _among(("personas", index, "shape"), [persona.shape], shapes)
        for at, use in enumerate(persona.uses):
            before = [one.feature for one in persona.uses[:at]]
            yield from _among(("personas", index, "uses", at, "feature"), [use.feature, *before], features)


def _classes(parsed: UsageFields) -> Iterator[tuple[Loc, str]]:
    classes = [one.name for one in parsed.classes]
    for index, feature in enumerate(parsed.features):
        yield from _among(("features", index, "class"), [feature.wclass], classes)
    for index, wclass in enumerate(parsed.classes):
        for at, call in enumerate(wclass.calls):
            before = [one.wclass for one in wclass.calls[:at]]
            yield from _among(("classes", index, "calls", at, "class"), [call.wclass, *before], classes)
        for name in sorted(wclass.spec.keys() & set(FORECAST_FIELDS)):
            words = "is what the forecast says; expected other fields, e.g. {priority: 100}"
            yield ("classes", index, "spec", name), words


def _among(loc: Loc, name_and_before: Sequence[str], known: Sequence[str]) -> Iterator[tuple[Loc, str]]:
    """A name that leads nowhere, or that stands in the same list before."""
    name, *before = name_and_before
    if name not in known:
        expected = f"one of {', '.join(known[:10])}, e.g. {known[0]}" if known else "none, e.g. leave it out"
        yield loc, f"is {render(name)}; expected {expected}"
    elif name in before:
        yield loc, f"is {render(name)} a second time; expected each once, e.g. with the sum of both"


def _laws(value: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """Means above their p95 or their cap."""
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _laws(one, (*loc, index))
    elif isinstance(value, dict) and loc[-1:] != ("spec",):
        mean = value.get("mean")
        for other in ("p95", "cap"):
            limit = value.get(other)
            if isinstance(mean, float) and isinstance(limit, float) and mean > limit:
                yield (*loc, "mean"), f"is {mean:g}; expected at most its {other} of {limit:g}, e.g. {limit / 2:g}"
        for name, one in value.items():
            yield from _laws(one, (*loc, name))


def _is_day(text: str) -> bool:
    try:
        return 1990 <= datetime.date.fromisoformat(text).year <= 2150
    except ValueError:
        return False


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        return False
    return True
