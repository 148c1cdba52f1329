"""Plans sought near those of a pool, and what one pool may take of a limit that all share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fleet_builders import a_fleet, planned
from test_fleet_narrow import tight

from tidefleet.planning.fleet import FleetProblem, nearby
from tidefleet.planning.fleet.largepool import own_limits
from tidefleet.planning.fleet.local import Flows
from tidefleet.planning.fleet.matrix import Floats
from tidefleet.planning.fleet.milp import build
from tidefleet.planning.fleet.nearby import Vicinity
from tidefleet.planning.fleet.proposals import Sparse

Found = list[tuple[Vicinity, Floats, list[Floats]]]


def two_pools(quota: float, chips: list[int]) -> FleetProblem:
    """Two pools of two options each on one scarce type; either pool can use up to five replicas of an option."""
    return a_fleet(
        type_price=[1.0],
        type_quota=[quota],
        type_site=[0],
        option_pool=[0, 0, 1, 1],
        option_type=[0] * 4,
        option_role=[0] * 4,
        option_fabric=[0] * 4,
        option_chips=[*chips, *chips],
        option_cost=[8.0, 15.0] * 2,
        option_kw=[1.0] * 4,
        option_spot=[False] * 4,
        option_capacity=[1.0] * 4,
        cell_class=[0, 1],
        cell_rate=[1.0, 1.0],
        cell_spill=[100.0, 100.0],
        arc_cell=[0, 0, 1, 1],
        arc_option=[0, 1, 2, 3],
        arc_load=[5.0, 2.5, 5.0, 2.5],
    )


@pytest.mark.parametrize(
    ("quota", "chips", "own"),
    [(19.0, [8, 16], 16.0), (19.0, [8, 12], 16.0), (19.0, [7, 12], 19.0), (15.0, [8, 8], 8.0)],
)
def test_a_pool_alone_takes_no_more_of_a_limit_than_there_is_in_whole_replicas(
    quota: float, chips: list[int], own: float
) -> None:
    matrix = build(two_pools(quota, chips)).matrix
    for pool in (0, 1):
        found = own_limits(matrix, pool)
        assert found.upper.tolist() == [own]
        assert sorted(found.value.tolist()) == sorted(float(one) for one in chips)


def test_a_limit_that_no_pool_reaches_alone_is_not_repeated() -> None:
    assert not len(own_limits(build(two_pools(500.0, [8, 16])).matrix, 0).upper)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Found:
    """What every search near a plan began from and found."""
    calls: Found = []
    near: Callable[[Vicinity, Floats], list[Sparse]] = Vicinity.near

    def noted(self: Vicinity, plan: Floats) -> list[Sparse]:
        found = near(self, plan)
        calls.append((self, plan, [one.dense() for one in found]))
        return found

    monkeypatch.setattr(Vicinity, "near", noted)
    return calls


@pytest.mark.parametrize("seed", range(4))
def test_plans_near_another_are_plans_of_the_pool_below_the_cost_asked_for(watched: Found, seed: int) -> None:
    planned(tight(seed))
    assert any(found for _, _, found in watched)
    for vicinity, plan, found in watched:
        matrix, n = vicinity.pool.matrix, vicinity.pool.n
        kinds = {one[n].tobytes() for one in found}
        assert len(kinds) == len(found)
        assert np.rint(plan[n]).tobytes() not in kinds
        for one in found:
            assert matrix.violation(one) <= 1e-6
            assert matrix.cost @ one <= vicinity.below + 1e-6
            assert np.abs(one[n] - np.rint(plan[n])).sum() <= 4


def test_with_plans_near_those_proposed_the_bound_of_a_tight_fleet_rises_and_the_plan_gets_no_dearer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_them = [planned(tight(seed)) for seed in range(4)]
    monkeypatch.setattr(nearby, "MOST", 0)
    without = [planned(tight(seed)) for seed in range(4)]
    for one, other in zip(with_them, without, strict=True):
        assert one.usd_per_hour <= other.usd_per_hour * (1 + 1e-6)
        assert one.bound <= other.usd_per_hour * (1 + 1e-6)


def test_no_plan_with_one_replica_moved_that_costs_less_is_overlooked(
    watched: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearby, "MOST", 10**6)
    monkeypatch.setattr(nearby, "WIDEST", 10**6)
    for seed in range(3):
        planned(tight(seed))
    first = {id(vicinity.known): (vicinity, plan, found) for vicinity, plan, found in reversed(watched)}
    cheap = 0
    for vicinity, plan, found in first.values():
        matrix, n = vicinity.pool.matrix, vicinity.pool.n
        at, seen = np.rint(plan[n]) + 0.0, {one[n].tobytes() for one in found}
        flows = Flows(matrix, n, lambda: 30.0)
        for less in [None, *np.flatnonzero(at > 0.5)]:
            for more in [None, *np.flatnonzero(at < matrix.upper[n] - 0.5)]:
                moved = at.copy()
                if less is not None:
                    moved[less] -= 1
                if more is not None:
                    moved[more] += 1
                if not np.array_equal(moved, at) and flows.cost(moved) < vicinity.below - 1e-6:
                    cheap += 1
                    assert moved.tobytes() in seen
        flows.close()
    assert cheap
