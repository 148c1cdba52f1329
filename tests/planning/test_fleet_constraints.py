"""Each kind of constraint on a fleet small enough to see by hand what it does when it binds."""

from __future__ import annotations

import numpy as np
import pytest
from fleet_builders import INF, a_fleet, planned

from tidefleet.planning.fleet import FleetPlan


def binding(plan: FleetPlan) -> set[tuple[str, int]]:
    return {(one.kind, one.index) for one in plan.binding}


def test_weak_replicas_fill_what_strong_ones_leave() -> None:
    plan = planned(a_fleet(arc_load=np.array([1.0, 2.5, 0.5, 0.9])))
    # 1 strong and 1 weak: 0.5 + 0.9 of a strong one does not fit, so the second cell goes to a weak replica.
    assert plan.replicas.tolist() == [0, 4]
    assert plan.usd_per_hour == pytest.approx(4.0)


def test_fractional_shares_of_a_cell_are_split_over_types() -> None:
    plan = planned(a_fleet(arc_load=np.array([1.0, 2.5, 0.3, 0.75])))
    # 1.3 strong replicas' worth: one strong (4) and one weak (1) serve it, where weak ones alone take 4 of 3.25.
    assert plan.usd_per_hour == pytest.approx(4.0)
    assert plan.replicas.tolist() == [0, 4]


def test_a_quota_moves_load_to_the_dearer_type_and_has_a_price() -> None:
    plan = planned(a_fleet(type_quota=np.array([INF, 2.0]), arc_load=np.array([1.0, 2.0, 1.0, 2.0])))
    assert plan.replicas.tolist() == [1, 2]
    assert plan.usd_per_hour == pytest.approx(6.0)
    assert ("quota", 1) in binding(plan)
    assert plan.quota_price[1] == pytest.approx(1.0)  # half a strong replica (2) less one weak (1)


def test_power_with_pue_limits_a_site() -> None:
    limited = a_fleet(site_limit_kw=np.array([2.6]), site_pue=np.array([1.25]))
    plan = planned(limited)  # weak ones alone need 2.5 kW * 1.25
    assert plan.replicas.tolist() == [2, 0]
    assert ("power", 0) in binding(plan)
    assert planned(a_fleet()).replicas.tolist() == [0, 5]


def test_at_most_the_allowed_share_of_a_class_runs_on_spot() -> None:
    plan = planned(a_fleet(option_spot=np.array([False, True]), class_spot_limit=np.array([0.5])))
    on_spot = plan.flow[[1, 3]].sum() / 2
    assert on_spot == pytest.approx(0.5, abs=1e-6)
    assert plan.replicas.tolist() == [1, 3]


def test_derated_spot_needs_more_replicas() -> None:
    assert planned(a_fleet(option_capacity=np.array([1.0, 0.8]))).replicas.tolist() == [0, 7]  # 5 / 0.8 = 6.25


def test_prefill_and_decode_carry_the_same_share_of_a_cell_within_a_fabric() -> None:
    problem = a_fleet(
        option_pool=np.zeros(4, dtype=np.int64),
        option_type=np.array([0, 0, 1, 1]),
        option_role=np.array([1, 2, 1, 2]),
        option_fabric=np.array([0, 0, 1, 1]),
        option_chips=np.ones(4, dtype=np.int64),
        option_cost=np.array([1.0, 5.0, 5.0, 1.0]),  # the cheap prefill and the cheap decode cannot hand over
        option_kw=np.ones(4),
        option_spot=np.zeros(4, dtype=np.bool_),
        option_capacity=np.ones(4),
        cell_class=np.array([0]),
        cell_rate=np.array([1.0]),
        cell_spill=np.array([INF]),
        arc_cell=np.zeros(4, dtype=np.int64),
        arc_option=np.arange(4),
        arc_load=np.array([0.5, 0.5, 0.5, 0.5]),
    )
    plan = planned(problem)
    assert plan.usd_per_hour == pytest.approx(6.0)
    assert plan.flow[0] == pytest.approx(plan.flow[1])
    assert plan.flow[2] == pytest.approx(plan.flow[3])


def test_spilling_wins_where_the_api_is_cheaper_than_the_next_replica() -> None:
    plan = planned(a_fleet(cell_spill=np.array([INF, 0.5])))
    # 3 weak replicas carry the first cell and, with the half that is left, 0.2 of the second.
    assert plan.spill.tolist() == pytest.approx([0.0, 0.8])
    assert plan.usd_per_hour == pytest.approx(3.4)


def test_what_may_stay_unserved_does_so_at_its_penalty() -> None:
    plan = planned(a_fleet(cell_penalty=np.array([INF, 0.25])))
    assert plan.shortfall.tolist() == pytest.approx([0.0, 0.8])
    assert plan.costs.shortfall == pytest.approx(0.2)


def test_running_replicas_are_kept_when_a_start_costs_more_than_it_saves() -> None:
    change = {"option_running": np.array([2, 0]), "option_stop_cost": np.array([0.5, 0.5])}
    dear = planned(a_fleet(option_start_cost=np.array([0.5, 0.5]), **change))
    cheap = planned(a_fleet(option_start_cost=np.array([0.1, 0.1]), **change))
    assert dear.replicas.tolist() == [2, 0]  # 5 weak ones: 5 + 5 * 0.5 + 2 * 0.5 = 8.5 against 8
    assert cheap.replicas.tolist() == [0, 5]  # 5 + 5 * 0.1 + 2 * 0.5 = 6.5
    assert cheap.costs.starts_and_stops == pytest.approx(1.5)


def test_reserved_chips_are_used_first_because_they_are_paid() -> None:
    plan = planned(a_fleet(type_reserved=np.array([1.0, 0.0])))
    assert plan.replicas.tolist() == [1, 3]  # 4 - 4 + 3 = 3, where 5 weak ones cost 5
    assert plan.usd_per_hour == pytest.approx(3.0)
    assert plan.costs.credits == pytest.approx(-4.0)


def test_spot_replicas_draw_nothing_from_a_reservation() -> None:
    plan = planned(a_fleet(type_reserved=np.array([0.0, 9.0]), option_spot=np.array([False, True])))
    assert plan.costs.credits == 0.0


def test_night_value_makes_a_dear_type_the_cheapest_up_to_its_chips() -> None:
    plan = planned(a_fleet(type_night_value=np.array([3.5, 0.0]), type_night_chips=np.array([1.0, 0.0])))
    assert plan.replicas.tolist() == [1, 3]  # 4 - 3.5 + 3 = 3.5
    assert plan.usd_per_hour == pytest.approx(3.5)


def test_night_value_buys_nothing_beyond_what_serves() -> None:
    everything = {"type_night_value": np.array([4.0, 1.0]), "type_night_chips": np.array([100.0, 100.0])}
    plan = planned(a_fleet(**everything))
    assert plan.usd_per_hour == pytest.approx(0.0, abs=1e-6)
    assert plan.replicas.sum() <= 10


def test_nodes_are_rented_whole() -> None:
    nodes = {"type_chips_per_node": np.array([0, 4]), "type_node_cost": np.array([0.0, 1.0])}
    plan = planned(a_fleet(**nodes))
    assert plan.replicas.tolist() == [0, 5]
    assert plan.nodes.tolist() == [0, 2]
    assert plan.usd_per_hour == pytest.approx(7.0)
    dear = {"type_chips_per_node": np.array([0, 4]), "type_node_cost": np.array([0.0, 3.0])}
    assert planned(a_fleet(**dear)).replicas.tolist() == [2, 0]  # 8 against 5 and 2 nodes of 3


def test_racks_come_whole() -> None:
    assert planned(a_fleet(option_multiple=np.array([1, 4]))).replicas.tolist() in ([2, 0], [0, 8])
    plan = planned(a_fleet(option_multiple=np.array([3, 4])))
    assert plan.replicas.tolist() == [0, 8]


def test_a_pool_has_its_least_and_most_replicas() -> None:
    few = planned(a_fleet(pool_max=np.array([3.0])))
    assert few.replicas.tolist() == [2, 0]
    assert few.usd_per_hour == pytest.approx(8.0)
    many = planned(a_fleet(pool_min=np.array([7.0])))
    assert many.replicas.tolist() == [0, 7]
    assert ("pool_min", 0) in binding(many)


def test_option_bounds_hold() -> None:
    plan = planned(a_fleet(option_min=np.array([1.0, 0.0]), option_max=np.array([INF, 2.0])))
    assert plan.replicas.tolist() == [2, 0]
    assert planned(a_fleet(option_min=np.array([1.0, 0.0]))).replicas.tolist() == [1, 3]


def test_a_spare_covers_the_loss_of_the_largest_replica() -> None:
    plan = planned(a_fleet(pool_spare=np.array([1])))
    assert plan.replicas.tolist() == [0, 6]
    two = planned(a_fleet(pool_spare=np.array([1]), option_max=np.array([INF, 2.0])))
    # At most 2 weak ones (0.8 of a strong one): 2 strong and a spare strong one; weak ones cannot replace it.
    assert two.replicas[0] == 3


def test_a_budget_is_kept_by_leaving_out_what_is_worth_less() -> None:
    free = a_fleet(cell_penalty=np.array([INF, 4.0]))
    assert planned(free).usd_per_hour == pytest.approx(5.0)
    plan = planned(a_fleet(cell_penalty=np.array([INF, 4.0]), pool_budget=np.array([3.0]), budget_penalty=9.0))
    assert plan.costs.replicas == pytest.approx(3.0)
    assert plan.costs.budget_penalty == 0.0
    assert ("pool_budget", 0) in binding(plan)


def test_a_budget_that_cannot_be_kept_is_exceeded_and_named() -> None:
    plan = planned(a_fleet(budget=3.0))
    assert plan.costs.replicas == pytest.approx(5.0)
    assert plan.costs.budget_penalty == pytest.approx(2.0)
    assert ("budget", 0) in binding(plan)


def test_a_larger_kv_tier_is_taken_where_its_hits_save_more_than_its_storage() -> None:
    """Two sizes of one pool: the larger one has options with smaller loads, and costs storage."""

    def fleet(storage: float) -> FleetPlan:
        return planned(
            a_fleet(
                option_pool=np.zeros(2, dtype=np.int64),
                option_type=np.array([0, 0]),
                option_cost=np.array([4.0, 4.0]),
                option_tier=np.array([0, 1]),
                tier_pool=np.array([0, 0]),
                tier_cost=np.array([0.0, storage]),
                arc_load=np.array([1.4, 0.8, 1.4, 0.8]),
            )
        )

    assert fleet(1.0).tier.tolist() == [1]
    assert fleet(1.0).replicas.tolist() == [0, 2]
    assert fleet(1.0).usd_per_hour == pytest.approx(9.0)
    assert fleet(5.0).tier.tolist() == [0]
    assert fleet(5.0).usd_per_hour == pytest.approx(12.0)
