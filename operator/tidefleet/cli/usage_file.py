"""Files of `tidefleet demand`: YAML that is checked field by field and becomes personas, features and classes."""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tidefleet.api.base import render
from tidefleet.cli.usage_fields import Loc, TokenFields, UsageFields, inconsistencies
from tidefleet.cli.validate import UnreadableError, documents, read
from tidefleet.economics.lognormal import ZERO, LengthLaw, law
from tidefleet.economics.personas import (
    DAY_HOURS,
    DemandClass,
    Feature,
    Persona,
    UsageModel,
    Use,
    WeekShape,
    requests_of_tasks,
)
from tidefleet.economics.tasks import RequestLengths

MOST_PROBLEMS = 8


class UsageError(ValueError):
    """A file that cannot be used: which object and field, what came, what was expected, an example; a line each."""


@dataclass(frozen=True, slots=True)
class UsageFile:
    """What a file says.

    Attributes:
        start: the day that numbers of users hold for; ``None``: today.
        pools: the pool of each class; ``specs``: further fields of its WorkloadClass.
        notes: where no lognormal law has both a mean and a p95 as they are stated.
    """

    namespace: str
    start: datetime.date | None
    usage: UsageModel
    pools: Mapping[str, str]
    specs: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]


_EXAMPLES: Mapping[str, Any] = {
    "name": "engineers",
    "namespace": "prod",
    "start": "2026-12-01",
    "users": 1200,
    "adoption": 0.4,
    "rampMonths": 6,
    "growthPerMonth": 0.03,
    "timeZone": "Europe/Berlin",
    "shape": "office",
    "dayP95": 1.3,
    "feature": "summarise",
    "perDay": "{mean: 12, p95: 40}",
    "class": "chat",
    "pool": "chat",
    "perTask": 2,
    "requestsPerTask": "{mean: 6, p95: 15}",
    "tokens": "{input: {mean: 1800, p95: 6000}, output: {mean: 300}}",
    "input": "{mean: 1800, p95: 6000}",
    "output": "{mean: 300, p95: 900}",
    "reasoning": "{mean: 2000, p95: 8000}",
    "mean": 300,
    "p95": 900,
    "cap": 16000,
    "cachedShare": 0.4,
    "hours": "[0, 0, 0, 0, 0, 0, 0.02, 0.06, ...], 24 shares of a day",
    "weekdays": "[1, 1, 1, 1, 0.9, 0.2, 0.1]",
    "uses": "[{feature: summarise, perDay: 12}]",
    "personas": "[{name: engineers, users: 1200, uses: [{feature: summarise, perDay: 12}]}]",
    "features": "[{name: summarise, class: chat}]",
    "classes": "[{name: chat, pool: chat}]",
    "spec": "{priority: 100}",
}
_EXAMPLES_BELOW: Mapping[str, Any] = {"perDay": 12, "adoption": 0.4, "requestsPerTask": 6}
"""Of the mean and the p95 below these fields."""


def load_usage(name: str) -> UsageFile:
    """What a file of usage says, or standard input for ``-``.

    Raises:
        UsageError: it cannot be read or used; the message names file, object, field, what came, what was expected and
            an example, a line for each problem.
    """
    try:
        found = list(documents(read(name), name))
    except UnreadableError as error:
        raise UsageError(f"{name}: {error}; expected a file of YAML, e.g. deploy/samples/demand/usage.yaml") from None
    bad = next((one for one in found if one.unreadable), None)
    if bad is not None:
        raise UsageError(f"{name}:{bad.line}: {bad.unreadable}; expected YAML, e.g. namespace: prod")
    if len(found) != 1 or not isinstance(found[0].content, dict):
        came = f"{len(found)} documents" if len(found) != 1 else render(found[0].content)
        raise UsageError(f"{name}: holds {came}; expected one mapping, e.g. personas: {_EXAMPLES['personas']}")
    return parse_usage(found[0].content, name)


def parse_usage(raw: Mapping[str, Any], where: str) -> UsageFile:
    """What the fields of a file say.

    Args:
        where: names the file in errors.

    Raises:
        UsageError: as ``load_usage``.
    """
    try:
        parsed = UsageFields.model_validate(dict(raw))
    except ValidationError as error:
        problems = [_problem(one, raw) for one in error.errors()]
    else:
        problems = [f"{_words(loc, raw)} {words}" for loc, words in inconsistencies(parsed)]
    if problems:
        more = [f"{where}: and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
        raise UsageError("\n".join([*(f"{where}: {one}" for one in problems[:MOST_PROBLEMS]), *more]))
    notes: list[str] = []
    usage = _usage(parsed, notes)
    try:
        requests_of_tasks(usage.classes)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    return UsageFile(
        namespace=parsed.namespace,
        start=None if parsed.start is None else datetime.date.fromisoformat(parsed.start),
        usage=usage,
        pools={one.name: one.pool for one in parsed.classes},
        specs={one.name: one.spec for one in parsed.classes},
        notes=tuple(notes),
    )


# --- what is wrong ---------------------------------------------------------------------------------------------------


def _words(loc: Loc, raw: Any) -> str:
    """``personas[0] (engineers).uses[1].perDay``."""
    text, here = "", raw
    for step in loc:
        if isinstance(step, int):
            here = here[step] if isinstance(here, list) and step < len(here) else None
            name = here.get("name") if isinstance(here, dict) else None
            text += f"[{step}]" + (f" ({name[:63]})" if isinstance(name, str) else "")
        else:
            here = here.get(step) if isinstance(here, dict) else None
            text += f".{step}"
    return text.lstrip(".") or "the file"


def _example(loc: Loc) -> Any:
    names = [one for one in loc if isinstance(one, str)]
    leaf = names[-1] if names else "personas"
    if leaf in ("mean", "p95"):
        return next((_EXAMPLES_BELOW[one] for one in reversed(names) if one in _EXAMPLES_BELOW), _EXAMPLES[leaf])
    return _EXAMPLES.get(leaf, 1)


def _problem(error: Any, raw: Mapping[str, Any]) -> str:
    loc = tuple(error["loc"])
    ctx, came = error.get("ctx", {}), render(error.get("input"))
    path, example = _words(loc, raw), _example(loc)
    leaf = next((str(one) for one in reversed(loc) if isinstance(one, str)), "")
    match error["type"]:
        case "extra_forbidden":
            fields = _fields_at(loc[:-1])
            near = difflib.get_close_matches(leaf, fields, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            return (
                f"{path} is no field; expected one of {', '.join(fields)}, e.g. {near[0] if near else fields[0]}{hint}"
            )
        case "missing":
            return f"{path} is missing; expected e.g. {leaf}: {example}"
        case "greater_than_equal":
            expected = f"a number of at least {ctx['ge']:g}"
        case "greater_than":
            expected = f"a number above {ctx['gt']:g}"
        case "less_than_equal":
            expected = f"a number of at most {ctx['le']:g}"
        case "float_type" | "finite_number":
            expected = "a finite number"
        case "string_pattern_mismatch" | "string_type":
            expected = "a name of lower-case letters, digits and hyphens, at most 63 characters"
        case "too_short" | "too_long":
            came = f"a list of {len(error['input'])}"
            sizes = {"hours": f"{DAY_HOURS} numbers", "weekdays": "7 numbers, from Monday on"}
            limit = f"at most {ctx['max_length']}" if error["type"] == "too_long" else "at least one"
            expected = sizes.get(leaf, limit)
        case "list_type":
            expected = "a list"
        case _:
            expected = "a mapping of fields"
    return f"{path} is {came}; expected {expected}, e.g. {example}"


def _fields_at(loc: Loc) -> list[str]:
    """The fields of the part of a file at this place."""
    model: type[BaseModel] = UsageFields
    for step in loc:
        for name, field in model.model_fields.items():
            if step in (name, field.alias):
                model = _model_in(field.annotation) or model
                break
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _model_in(one)) is not None), None)


# --- what it says ----------------------------------------------------------------------------------------------------


def _usage(parsed: UsageFields, notes: list[str]) -> UsageModel:
    shapes = {one.name: WeekShape(tuple(one.hours), tuple(one.weekdays)) for one in parsed.shapes}

    def lengths(tokens: TokenFields | None, place: str) -> RequestLengths | None:
        if tokens is None:
            return None
        thinking = tokens.reasoning
        return RequestLengths(
            input=_told(tokens.input, f"{place}.tokens.input", notes),
            output=_told(tokens.output, f"{place}.tokens.output", notes),
            reasoning=ZERO
            if thinking is None
            else _told(thinking, f"{place}.tokens.reasoning", notes, cap=thinking.cap or math.inf),
            cached_share=tokens.cached_share,
        )

    return UsageModel(
        personas=tuple(
            Persona(
                name=one.name,
                users=one.users,
                uses=tuple(
                    Use(use.feature, _told(use.per_day, f"{one.name}, {use.feature}: perDay", notes), use.adoption)
                    for use in one.uses
                ),
                adoption=_told(one.adoption, f"{one.name}: adoption", notes, cap=1.0),
                ramp_months=one.ramp_months,
                growth_per_month=one.growth_per_month,
                zone=one.time_zone,
                shape=shapes[one.shape] if one.shape is not None else WeekShape(),
                day=law(1.0, one.day_p95),
            )
            for one in parsed.personas
        ),
        features=tuple(Feature(one.name, one.wclass, lengths(one.tokens, one.name)) for one in parsed.features),
        classes=tuple(
            DemandClass(
                one.name,
                _told(one.requests_per_task, f"{one.name}: requestsPerTask", notes),
                tuple((call.wclass, call.per_task) for call in one.calls),
                lengths(one.tokens, one.name),
            )
            for one in parsed.classes
        ),
    )


def _told(one: Any, place: str, notes: list[str], cap: float = math.inf) -> LengthLaw:
    found = law(one.mean, one.p95 or 0.0, cap)
    if found.note:
        notes.append(f"{place}: {found.note}")
    return found
