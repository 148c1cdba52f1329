"""What an external API would take of a pool's demand, against every number of replicas."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_builders import a_candidate, a_problem, planned

from tidefleet.economics.external import ExternalOffer, PerToken
from tidefleet.planning.problem import PoolProblem, Spilled

CHIP = a_candidate("big", covers=10.0, usd=4.0)


def an_api(usd_per_million: float, *, per_minute: float = math.inf) -> ExternalOffer:
    """An API that charges as much for each of a request's 1,000 tokens."""
    return ExternalOffer(
        "example-ai", "llama", PerToken(usd_per_million, usd_per_million), requests_per_minute=per_minute
    )


def advice(problem: PoolProblem) -> Spilled | None:
    return planned(problem).spill


def test_a_last_replica_that_is_hardly_used_costs_more_than_an_api() -> None:
    # 10.5 requests/s need a second replica of $4/h for half a request/s: 1,800 requests an hour at $0.001.
    found = advice(a_problem(CHIP, rate=10.5, external=(an_api(1.0),)))
    assert found is not None
    assert found.share == pytest.approx(0.5 / 10.5)
    assert found.usd_per_hour == pytest.approx(1.8)
    assert found.saves_usd_per_hour == pytest.approx(4.0 - 1.8)
    assert str(found) == (
        "5% of the requests sent to example-ai/llama would cost $1.8/h and save $2.2/h; "
        "a gateway has to send them, this plan does not"
    )


def test_an_api_that_is_dearer_slower_or_not_needed_is_no_advice() -> None:
    for problem in (
        a_problem(CHIP, rate=10.5, external=(an_api(3.0),)),
        a_problem(CHIP, rate=10.5, external=(an_api(1.0, per_minute=29.0),)),
        a_problem(CHIP, rate=10.5, minimum=2, external=(an_api(1.0),)),
        a_problem(CHIP, rate=10.5, pinned=2, external=(an_api(1.0),)),
        a_problem(CHIP, rate=0.0, external=(an_api(1.0),)),
        a_problem(CHIP, rate=10.5),
    ):
        assert advice(problem) is None


def test_what_no_chips_can_serve_goes_to_the_api_as_far_as_its_limit_allows() -> None:
    found = advice(a_problem(CHIP, rate=20.0, maximum=1, external=(an_api(50.0),)))
    assert found is not None
    assert (found.share, found.saves_usd_per_hour) == (pytest.approx(0.5), 0.0)
    assert "no chips can be had for them" in str(found)
    limited = advice(a_problem(CHIP, rate=20.0, maximum=1, external=(an_api(50.0, per_minute=120.0),)))
    assert limited is not None
    assert limited.share == pytest.approx(0.1)


@settings(deadline=None, max_examples=60)
@given(st.floats(0.5, 45.0), st.floats(0.02, 2.0), st.integers(0, 1), st.sampled_from([math.inf, 300.0]))
def test_no_number_of_replicas_with_the_rest_sent_out_is_cheaper_than_what_is_advised(
    rate: float, usd: float, spare: int, per_minute: float
) -> None:
    problem = a_problem(CHIP, rate=rate, spare=spare, external=(an_api(usd, per_minute=per_minute),))
    plan, hourly = planned(problem), usd * 1e-3 * 3600.0
    best = math.inf
    for (n,) in itertools.product(range(12)):
        out = max(0.0, rate - max(0.0, 10.0 * (n - spare)))
        if out * 60.0 <= per_minute + 1e-9:
            best = min(best, 4.0 * n + out * hourly)
    saves = plan.spill.saves_usd_per_hour if plan.spill is not None else 0.0
    assert best <= plan.usd_per_hour - saves + 1e-6
    assert plan.usd_per_hour - saves <= best + 0.01 * plan.usd_per_hour + 1e-6
