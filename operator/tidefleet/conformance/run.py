"""Runs cases against a target, one after the other."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Iterable, Sequence

from tidefleet.conformance import (
    cases_body,
    cases_destination,
    cases_health,
    cases_refusal,
    cases_response,
    cases_stream,
    cases_subset,
)
from tidefleet.conformance.case import Case, Failed, Outcome, Result, Skipped
from tidefleet.conformance.target import Target

_GROUPS = (cases_health, cases_destination, cases_body, cases_refusal, cases_subset, cases_response, cases_stream)


def cases(only: Sequence[str] = ()) -> list[Case]:
    """The cases whose names match one of the patterns (``subset.*``), all of them without any.

    Raises:
        ValueError: A pattern matches no case.
    """
    every = [one for group in _GROUPS for one in group.CASES.values()]
    for pattern in only:
        if not any(fnmatch.fnmatchcase(one.name, pattern) for one in every):
            known = ", ".join(sorted({one.name.partition(".")[0] for one in every}))
            raise ValueError(f"no case is called {pattern!r}; expected e.g. 'subset.*', of the groups {known}")
    return [one for one in every if not only or any(fnmatch.fnmatchcase(one.name, pattern) for pattern in only)]


def run(
    target: Target, chosen: Iterable[Case], *, tell: Callable[[Result], None] = lambda result: None
) -> list[Result]:
    """Try each case; `tell` hears of each result as it comes. The target's connection is closed in the end."""
    results = []
    try:
        for one in chosen:
            result = _try(target, one)
            results.append(result)
            tell(result)
    finally:
        target.close()
    return results


def _try(target: Target, case: Case) -> Result:
    started = time.monotonic()
    outcome, message = Outcome.PASSED, ""
    try:
        case.try_it(target)
    except Failed as reason:
        outcome, message = Outcome.FAILED, str(reason)
    except Skipped as reason:
        outcome, message = Outcome.SKIPPED, str(reason)
    finally:
        target.release()
    return Result(case, outcome, message, time.monotonic() - started)
