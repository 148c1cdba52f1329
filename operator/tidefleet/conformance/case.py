"""What a case is, and what may come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tidefleet.conformance.target import Target


class Level(StrEnum):
    """How much a case weighs."""

    MUST = "MUST"
    SHOULD = "SHOULD"


class Outcome(StrEnum):
    """What came of a case."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class Failed(Exception):
    """The picker did not do what the clause asks; the message says what it did."""


class Skipped(Exception):
    """The case cannot be judged with this target; the message says what it needs."""


@dataclass(frozen=True, slots=True)
class Case:
    """One clause and how it is tried."""

    name: str
    """``group.what``, e.g. ``subset.wrong-port``."""
    level: Level
    clause: str
    """The clause in one sentence."""
    try_it: Callable[[Target], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one case."""

    case: Case
    outcome: Outcome
    message: str
    """Why it failed or was skipped; empty if it passed."""
    seconds: float


Registry = dict[str, Case]


def registry() -> tuple[Registry, Callable[..., Callable[[Callable[[Target], None]], Callable[[Target], None]]]]:
    """A group's cases by name, and the decorator that adds one; the function's docstring is the clause."""
    known: Registry = {}

    def case(name: str, level: Level = Level.MUST) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
        def add(function: Callable[[Target], None]) -> Callable[[Target], None]:
            if name in known:
                raise ValueError(f"two cases are called {name}")
            known[name] = Case(name, level, " ".join((function.__doc__ or "").split()), function)
            return function

        return add

    return known, case


def fail(message: str) -> NoReturn:
    """End the case: the picker failed it."""
    raise Failed(message)


def expect(true: bool, message: str) -> None:
    """Fail with the message unless it is true."""
    if not true:
        raise Failed(message)
