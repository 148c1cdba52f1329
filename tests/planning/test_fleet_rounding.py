"""Quotas in whole replicas: no plan is lost by the rows that say so, and the bound rises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_fleet_nearby import two_pools

from tidefleet.planning.fleet.milp import FleetMilp, build
from tidefleet.planning.fleet.rounding import rounded
from tidefleet.planning.fleet.solver import Answer, solve


@given(quota=st.integers(1, 60), chips=st.lists(st.sampled_from([1, 2, 4, 8, 12, 16]), min_size=2, max_size=2))
def test_all_whole_replicas_within_a_quota_are_within_its_rounded_rows(quota: int, chips: list[int]) -> None:
    milp = build(two_pools(float(quota), chips))
    more = rounded(milp)
    matrix, n = more.matrix, more.columns.n
    extra = np.arange(len(milp.matrix.row_lower), len(matrix.row_lower))
    for counts in itertools.product(range(4), repeat=len(n)):
        values = np.zeros(len(matrix.cost))
        values[n] = counts
        if np.dot(counts, [*chips, *chips]) <= quota:
            assert (matrix.activity(values)[extra] <= matrix.row_upper[extra] + 1e-9).all()


@pytest.mark.parametrize(("quota", "chips", "rows"), [(37.0, [8, 16], 2), (32.0, [8, 16], 0), (500.0, [8, 16], 0)])
def test_only_sizes_of_replicas_that_do_not_divide_a_quota_which_can_bind_have_a_row(
    quota: float, chips: list[int], rows: int
) -> None:
    milp = build(two_pools(quota, chips))
    assert len(rounded(milp).matrix.row_lower) - len(milp.matrix.row_lower) == rows


def test_the_relaxation_with_rounded_quotas_costs_more() -> None:
    milp = build(two_pools(37.0, [8, 16]))

    def cost(one: FleetMilp) -> float:
        answer = solve(one.matrix.relaxed())
        assert isinstance(answer, Answer)
        return answer.objective

    assert cost(rounded(milp)) > 1.05 * cost(milp)
