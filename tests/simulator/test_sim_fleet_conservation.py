"""A fleet's seconds and dollars: every one is paid once, goes somewhere, and comes out the same again."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from sim_fleet_builders import DAY, a_fleet, a_pool, a_wave, everything

from tidefleet.controller.config import OperatorConfiguration
from tidefleet.flipping.staircase import lead_slots
from tidefleet.simulator.fleet.node import State
from tidefleet.simulator.fleet.rivals import RIVALS
from tidefleet.simulator.fleet.run import foreseeing, ours, run_fluid
from tidefleet.simulator.fleet.timeline import CAUSES
from tidefleet.simulator.scenario import Faults, Flips, Training
from tidefleet.simulator.workload.training import TrainingJob

TROUBLE = Faults(
    node_hours_between_failures=60.0,
    node_repair_seconds=1800.0,
    engine_hours_between_failures=40.0,
    spot_reclaims_per_hour=0.05,
    spot_return_seconds=3600.0,
)
PLANNERS = {"ours": ours, "foreseeing": foreseeing, **RIVALS}


@pytest.fixture(scope="module", params=list(PLANNERS))
def troubled(request):
    wave = a_wave(mean=4.0)
    wave = replace(wave, deferrable=np.full(len(wave.online), 0.5), deadline_seconds=DAY / 4)
    spec = a_fleet(a_pool(nodes=6, replicas_per_node=2, spot=3), faults=TROUBLE, filler_top=0.95)
    return run_fluid(spec, wave, seed=4, planner=PLANNERS[request.param])


def test_every_nodes_day_is_covered_without_a_gap(troubled):
    for spans in troubled.spans:
        assert (spans[0].begin, spans[-1].end) == (0.0, DAY)
        assert all(one.end == after.begin for one, after in itertools.pairwise(spans))
        assert all(one.begin < one.end and one.state is not after.state for one, after in itertools.pairwise(spans))


def test_dollars_paid_are_the_sum_of_what_states_cost(troubled):
    by_state = {state: troubled.seconds_in(state) for state in State}
    assert sum(by_state.values()) == pytest.approx(6 * 8 * DAY)
    assert troubled.paid == pytest.approx(6 * 8 * DAY - by_state[State.GONE])
    assert troubled.usd == pytest.approx(troubled.paid / 8 * 40.0 / 3600.0)
    assert by_state[State.GONE] > 0.0


def test_chip_seconds_that_are_paid_are_needed_or_lost_to_a_named_cause(troubled):
    found = troubled.utilization()
    assert set(found.lost) == set(CAUSES)
    assert found.ratio + sum(found.lost.values()) == pytest.approx(1.0, abs=1e-9)
    assert min(found.lost.values()) >= -1e-12
    assert troubled.needed + troubled.filler + troubled.kept == pytest.approx(found.ratio * troubled.paid)
    assert found.ratio <= troubled.busy <= 1.0


def test_demand_is_served_or_short_and_nothing_else(troubled):
    asked = float(troubled.demand["main"].needed.sum()) * 600.0
    assert troubled.needed / 4 + troubled.short_seconds["main"] == pytest.approx(asked)
    work = troubled.filler / 4 + troubled.filler_left
    assert work == pytest.approx(0.5 * DAY)
    assert float(troubled.filler_rate["main"].sum()) * 600.0 == pytest.approx(troubled.filler / 4)


def test_training_time_is_kept_lost_or_idle(troubled):
    trained = troubled.seconds_in(State.TRAINING)
    worked = troubled.kept + sum(troubled.training_lost.values())
    assert worked + troubled.training_idle == pytest.approx(trained)
    assert troubled.training_gpu_hours == pytest.approx(troubled.kept / 3600.0)


def test_the_nodes_that_serve_are_those_that_count_as_capacity(troubled):
    crashed = [(begin, end) for begin, _, end in troubled.crashes]
    for at in np.arange(450.0, DAY, 1800.0):
        if not any(begin <= at <= end for begin, end in crashed):
            assert troubled.replicas(at) == 2 * len(troubled.serving(at))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_faults():
    spec = a_fleet(a_pool(spot=6), faults=TROUBLE)
    first, again, other = (everything(run_fluid(spec, a_wave(), seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_pools_that_share_a_site_add_up_to_it():
    pools = a_pool(name="a", nodes=4), a_pool(name="b", nodes=6, chips=4, usd_per_node_hour=10.0)
    waves = {"a": a_wave(mean=2.0), "b": a_wave(mean=3.0)}
    found = run_fluid(a_fleet(*pools), waves, seed=1)
    assert found.paid == pytest.approx((4 * 8 + 6 * 4) * DAY)
    assert found.usd == pytest.approx(24 * (4 * 40.0 + 6 * 10.0))
    lost = found.utilization()
    assert lost.ratio + sum(lost.lost.values()) == pytest.approx(1.0, abs=1e-9)
    with pytest.raises(ValueError, match=r"which pool\? expected one of a, b"):
        found.replicas(0.0)
    with pytest.raises(ValueError, match=r"demand is of pools \['a'\]; expected one for each of \['a', 'b'\]"):
        run_fluid(a_fleet(*pools), {"a": waves["a"]}, seed=1)


def test_a_backlog_that_ends_leaves_lent_nodes_idle_and_says_so():
    jobs = [TrainingJob(arrives=0.0, gpus=8, seconds=3600.0) for _ in range(3)]
    spec = a_fleet(training=Training(backlog="philly"))
    found = run_fluid(spec, a_wave(), seed=1, backlog=jobs)
    assert found.figures["jobs_finished"] == 3.0
    assert found.kept == pytest.approx(3 * 8 * 3600.0)
    assert found.utilization().lost["no training"] > 0.1


def test_nodes_come_home_as_early_as_the_operator_calls_them():
    operator = lead_slots(OperatorConfiguration().flipping.recall_seconds)
    assert a_fleet().lead_slots == operator
    assert a_fleet(flips=Flips(recall_seconds=2000.0)).lead_slots == 4
