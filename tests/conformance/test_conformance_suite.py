"""The suite passes pickers that keep the protocol, and notices each fault; run on a picker of another make."""

import pytest
from other_picker import ENDPOINTS, OtherPicker
from picker_faults import FAULTS

from tidefleet import conformance
from tidefleet.conformance import Outcome, Target

ONLY_TLS = {"tls.served", "tls.plain-refused"}


def outcomes(fault: str, names: set[str], *, seconds: float = 1.5) -> dict[str, conformance.Result]:
    with OtherPicker(fault).serving() as port:
        target = Target(f"127.0.0.1:{port}", endpoints=ENDPOINTS, deadline_seconds=seconds)
        results = conformance.run(target, [case for case in conformance.cases() if case.name in names])
    return {result.case.name: result for result in results}


def test_a_picker_of_another_make_passes_every_case() -> None:
    names = {case.name for case in conformance.cases()}
    results = outcomes("", names, seconds=20)
    wrong = {name: result.message for name, result in results.items() if result.outcome is Outcome.FAILED}
    assert wrong == {}
    assert {name for name, result in results.items() if result.outcome is Outcome.SKIPPED} == ONLY_TLS


@pytest.mark.parametrize("fault", FAULTS)
def test_the_suite_notices_the_fault(fault: str) -> None:
    results = outcomes(fault, FAULTS[fault])
    assert {name: result.outcome for name, result in results.items()} == dict.fromkeys(FAULTS[fault], Outcome.FAILED)
    assert all(result.message for result in results.values())


def test_every_case_has_a_fault_that_it_notices() -> None:
    noticed = set().union(*FAULTS.values())
    assert {case.name for case in conformance.cases()} - noticed == ONLY_TLS


def test_the_suite_has_at_least_sixty_cases_each_with_its_clause() -> None:
    cases = conformance.cases()
    assert len(cases) >= 60
    assert len({case.name for case in cases}) == len(cases)
    assert all(case.clause.endswith(".") for case in cases)
