"""Replicas that a pool of several accelerator types needs in the day to come: the cheapest for what they carry stay."""

from __future__ import annotations

import numpy as np
import pytest
from controller_builders import NOW, a_pool, a_view

from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.flips.outlook import replicas_ahead
from tidefleet.controller.view import PoolMemory
from tidefleet.planning.demand import DemandHistory, Known
from tidefleet.planning.options import PLANNING_UTILISATION, Candidate, EstimateMemo


@pytest.fixture(scope="module")
def options() -> tuple[Candidate, Candidate]:
    """One on H100 and one on L40S, the cheaper for what it carries first."""
    view = a_view(a_pool(), reading=Known(NOW, 40.0, "Engines", 1000.0, 250.0))
    decision = decide(view, PoolMemory(DemandHistory(600.0)), OperatorConfiguration(), EstimateMemo())
    assert decision.market is not None
    one_each = {one.option.accelerator: one for one in reversed(decision.market.candidates)}
    assert len(one_each) == 2
    first, then = sorted(one_each.values(), key=lambda one: one.usd_per_hour / one.requests_per_second)
    return first, then


def each(one: Candidate) -> float:
    return one.requests_per_second * PLANNING_UTILISATION


def test_as_demand_falls_the_dearer_for_what_they_carry_go_first(options) -> None:
    first, then = options
    planned = {first.option: 4, then.option: 3}
    rates = np.array([4 * each(first) + 3 * each(then), 4 * each(first) + 0.1 * each(then), 1.5 * each(first), 0.0])
    found = replicas_ahead(planned, options, rates, spare=0, least=1)
    assert found[first.option].tolist() == [4, 4, 2, 1]
    assert found[then.option].tolist() == [3, 1, 0, 0]


def test_spare_replicas_and_the_least_of_the_pool_are_kept(options) -> None:
    first, then = options
    planned = {first.option: 4, then.option: 3}
    rates = np.array([1.5 * each(first), 0.0])
    assert replicas_ahead(planned, options, rates, spare=1, least=1)[first.option].tolist() == [3, 1]
    found = replicas_ahead(planned, options, rates, spare=0, least=5)
    assert found[first.option].tolist() == [4, 4]
    assert found[then.option].tolist() == [1, 1]


def test_beyond_what_the_plan_carries_all_grow_alike(options) -> None:
    first, then = options
    planned = {first.option: 4, then.option: 2}
    whole = 4 * each(first) + 2 * each(then)
    found = replicas_ahead(planned, options, np.array([whole, 1.5 * whole]), spare=0, least=1)
    assert found[first.option].tolist() == [4, 6]
    assert found[then.option].tolist() == [2, 3]


def test_one_option_alone_follows_the_demand_and_one_that_is_no_candidate_is_left_out(options) -> None:
    first, then = options
    rates = np.array([0.5 * each(first), 3.0 * each(first), 7.2 * each(first)])
    found = replicas_ahead({first.option: 5, then.option: 2}, [first], rates, spare=1, least=2)
    assert {option: row.tolist() for option, row in found.items()} == {first.option: [2, 4, 9]}
    assert replicas_ahead({then.option: 2}, [first], rates, spare=0, least=1) == {}
