"""From a raw object to a value of the API, or to everything that is wrong with it, in words for its user.

Nothing here raises on what a user wrote: a bad object is a value too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from tidefleet.api import second_look, wording
from tidefleet.api.accelerator_type import AcceleratorType
from tidefleet.api.base import API_VERSION, GOT_LIMIT, Broken, Metadata, describe, render
from tidefleet.api.inference_pool import InferencePool
from tidefleet.api.reasons import Reason
from tidefleet.api.schema import cached
from tidefleet.api.site import Site
from tidefleet.api.workload_class import WorkloadClass

Parsed = InferencePool | WorkloadClass | AcceleratorType | Site

KINDS: dict[str, type[InferencePool] | type[WorkloadClass] | type[AcceleratorType] | type[Site]] = {
    "InferencePool": InferencePool,
    "WorkloadClass": WorkloadClass,
    "AcceleratorType": AcceleratorType,
    "Site": Site,
}

PROBLEM_LIMIT = 200
"""At most so many problems are told of one object; the last then says that there are more."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an object.

    Attributes:
        object: The object as messages name it, e.g. `WorkloadClass prod/chat`.
        path: The field, e.g. `spec.objectives[0].milliseconds`.
        got: What came, at most 200 characters of it.
        expected: What was expected, e.g. `a positive integer`.
        example: A value that would do, e.g. `300`.
        reason: The reason it has on the condition Validated.
    """

    object: str
    path: str
    got: str
    expected: str
    example: str
    reason: Reason = Reason.INVALID_FIELD

    def __str__(self) -> str:
        """The problem in the form of the house."""
        return f"{self.object}: {self.path} is {self.got}; expected {self.expected}, e.g. {self.example}"


@dataclass(frozen=True, slots=True)
class Invalid:
    """An object that cannot be used, and everything that is wrong with it."""

    object: str
    metadata: Metadata
    problems: tuple[Problem, ...]

    @property
    def reason(self) -> Reason:
        """The reason for the condition Validated: that of the first problem."""
        return self.problems[0].reason

    def __str__(self) -> str:
        """Every problem on a line of its own."""
        return "\n".join(str(problem) for problem in self.problems)


def parse(raw: Mapping[str, Any], *, strict: bool = False) -> Parsed | Invalid:
    """The object behind a manifest, or everything that is wrong with it.

    Args:
        raw: The manifest, as JSON or YAML gives it.
        strict: Unknown fields are problems (as for a user at the CLI) instead of ignored (as in the cluster).

    Returns:
        A frozen value of one of the four kinds, or `Invalid`. Never raises.
    """
    return parse_schema(raw, strict=strict, further=True)


def parse_schema(raw: object, *, strict: bool = False, further: bool = False) -> Parsed | Invalid:
    """As `parse`, by the rules that the API server judges too; `further` adds those that only we judge."""
    if not isinstance(raw, Mapping):
        return _invalid("manifest", Metadata(), [Broken(("manifest",), render(raw), "an object", "{kind: ...}")])
    metadata = Metadata.read(raw.get("metadata"))
    kind = raw.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    version = raw.get("apiVersion")
    if model is None or version != API_VERSION:
        known = ", ".join(KINDS)
        found = []
        if version != API_VERSION:
            found.append(Broken(("apiVersion",), _seen(raw, "apiVersion"), API_VERSION, API_VERSION))
        if model is None:
            found.append(Broken(("kind",), _seen(raw, "kind"), f"one of {known}", "InferencePool"))
        name = kind if isinstance(kind, str) and kind.isascii() and kind.isalnum() else "object"
        return _invalid(describe(name, metadata.namespace, metadata.name), metadata, found)

    name = describe(model.KIND, metadata.namespace if model.NAMESPACED else "", metadata.name)
    body = {key: value for key, value in raw.items() if isinstance(key, str) and key not in ("apiVersion", "kind")}
    try:
        parsed = model.model_validate(body, by_alias=True, by_name=False, extra="forbid" if strict else "ignore")
    except ValidationError as error:
        root = cached(model)
        errors = error.errors(include_url=False)
        return _invalid(name, metadata, (each for found in errors for each in wording.explain(found, root)))
    except RecursionError:
        broken = Broken(("spec",), "nested too deep", "an object of reasonable depth", "at most 100 levels")
        return _invalid(name, metadata, [broken])
    if further:
        findings = list(second_look.look(parsed))
        if findings:
            return Invalid(name, metadata, tuple(problem(name, each) for each in findings[:PROBLEM_LIMIT]))
    return parsed


def implausible_prices(accelerator: AcceleratorType, known: Sequence[Decimal] = ()) -> tuple[Problem, ...]:
    """Prices of an AcceleratorType that look like a mistake of unit; empty where they are accepted as they are.

    They do not make the object invalid: the operator sets Validated=False with the reason PriceImplausible and plans
    without the type; `tidefleet validate` reports them as problems.

    Args:
        known: USD per chip-hour that the shipped catalogue lists for this type.
    """
    return tuple(problem(str(accelerator), each) for each in second_look.implausible_prices(accelerator, known))


def _seen(raw: Mapping[str, Any], key: str) -> str:
    return render(raw[key]) if raw.get(key) is not None else "missing"


def problem(name: str, finding: second_look.Finding) -> Problem:
    """A finding as a problem of the object with this name."""
    broken = finding.broken
    got = broken.got[:GOT_LIMIT]
    return Problem(name, wording.write(broken.path), got, broken.expected, broken.example, finding.reason)


def _invalid(name: str, metadata: Metadata, found: Iterable[Broken]) -> Invalid:
    problems = [problem(name, second_look.Finding(each)) for each in _limited(found)]
    return Invalid(name, metadata, tuple(problems))


def _limited(found: Iterable[Broken]) -> Iterator[Broken]:
    for index, each in enumerate(found):
        if index == PROBLEM_LIMIT:
            yield Broken(("spec",), "wrong in more places", "fewer problems", "these mended first")
            return
        yield each
