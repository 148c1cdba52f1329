"""What goes wrong in a fleet, and what training keeps and loses by it."""

import numpy as np
import pytest
from sim_fleet_builders import DAY, a_fleet, a_pool, a_wave

from tidefleet.simulator.fleet.faults import Kind, drawn
from tidefleet.simulator.fleet.node import State
from tidefleet.simulator.fleet.run import run_fluid
from tidefleet.simulator.fleet.training import Trainers
from tidefleet.simulator.scenario import Faults, Training
from tidefleet.simulator.workload.training import TrainingJob


def draw(faults, *, nodes=20, spot=0, seed=1, days=30.0):
    spec = a_fleet(a_pool(nodes=nodes, spot=spot), faults=faults, days=days)
    return drawn(spec, [number < spot for number in range(nodes)], [1] * nodes, seed=seed)


# --- faults as they are drawn ----------------------------------------------------------------------------------------


def test_failures_come_as_often_as_their_mean_says_and_last_their_repair():
    found = draw(Faults(node_hours_between_failures=50.0, node_repair_seconds=600.0))
    assert len(found) == pytest.approx(20 * 720 / 50, abs=4 * np.sqrt(20 * 720 / 50))
    assert all(one.kind is Kind.FAILURE and one.until == one.at + 600.0 for one in found)
    assert [one.at for one in found] == sorted(one.at for one in found)


def test_a_larger_fleet_breaks_the_same_nodes_at_the_same_times():
    small, large = (draw(Faults(node_hours_between_failures=50.0), nodes=nodes) for nodes in (5, 9))
    assert list(small) == [one for one in large if one.node < 5]
    assert list(small) != list(draw(Faults(node_hours_between_failures=50.0), nodes=5, seed=2))


def test_reclaims_hit_spot_nodes_alone_and_a_storm_its_share_of_them_at_once():
    faults = Faults(spot_reclaims_per_hour=0.1, spot_storm_at_seconds=7200.0, spot_storm_share=0.5)
    found = draw(faults, spot=8)
    assert {one.node for one in found} <= set(range(8))
    assert sum(one.at == 7200.0 for one in found) == 4
    assert draw(faults, spot=0) == ()


# --- a fleet with faults ---------------------------------------------------------------------------------------------


def test_a_node_that_fails_serves_nothing_until_it_is_mended_and_loaded():
    faults = Faults(node_hours_between_failures=40.0, node_repair_seconds=3000.0)
    found = run_fluid(a_fleet(faults=faults), a_wave(), seed=2)
    down = [(name, one) for name, spans in zip(found.nodes, found.spans, strict=True) for one in spans
            if one.state is State.DOWN]  # fmt: skip
    kills = {(found.nodes[one.node], one.at) for one in found.changes(0.0, DAY) if one.what == "kill"}
    assert kills
    assert kills <= {(name, one.begin) for name, one in down}
    down = [(name, one) for name, one in down if one.end < DAY]
    assert all(one.end - one.begin >= 3000.0 - 1e-6 for _, one in down)
    for name, one in down:
        spans = found.spans[found.nodes.index(name)]
        after = next(each for each in spans if each.begin == one.end)
        assert after.state is not State.SERVING


def test_what_is_taken_back_is_not_paid_and_comes_back_with_nothing_on_it():
    faults = Faults(spot_storm_at_seconds=40_000.0, spot_storm_share=1.0, spot_return_seconds=5000.0)
    found = run_fluid(a_fleet(a_pool(nodes=12, spot=6), faults=faults), a_wave(mean=3.0), seed=2)
    gone = [one for spans in found.spans for one in spans if one.state is State.GONE]
    assert [(one.begin, one.end) for one in gone] == [(40_000.0, 45_000.0)] * 6
    assert found.paid == pytest.approx(12 * 8 * DAY - 6 * 8 * 5000.0)
    assert all(found.nodes.index(f"main-{number:02d}") not in found.serving(45_060.0) for number in range(6))
    assert sum(found.training_lost.get(cause, 0.0) for cause in ("reclaim", "restart")) > 0.0


def test_an_engine_that_crashes_costs_its_own_replica_alone():
    faults = Faults(engine_hours_between_failures=30.0, engine_restart_seconds=300.0)
    found = run_fluid(a_fleet(a_pool(nodes=4, replicas_per_node=4), faults=faults), a_wave(mean=6.0), seed=5)
    assert found.crashes
    at, node, until = next(one for one in found.crashes if node_is_up(found, one))
    assert until == at + 300.0
    assert found.replicas(at + 1.0) < found.replicas(at - 1.0)
    assert node in found.serving(at + 1.0)
    assert found.utilization().lost["down"] > 0.0


def node_is_up(found, crash):
    at, node, until = crash
    others = [
        one for one in found.crashes if one is not crash and one[1] == node and one[0] < until + 1 and one[2] > at
    ]
    same = found.changes(at - 300.0, at + 300.0)
    return not others and not same and node in found.serving(at - 1.0)


# --- training --------------------------------------------------------------------------------------------------------


def trainers(jobs, **terms):
    return Trainers.of(Training(**{"backlog": "philly", "checkpoint_every_seconds": 1000.0, **terms}), 20.0, jobs)


def a_job(gpus=8, seconds=10_000.0, arrives=0.0):
    return TrainingJob(arrives, gpus, seconds)


def test_a_recall_with_time_for_a_checkpoint_keeps_all_work():
    found = trainers([a_job()])
    found.offer("n1", 8, 0.0)
    assert found.withdraw("n1", 2500.0, saved=True, cause="recall")
    assert (found.kept, found.lost) == (8 * 2500.0, {})
    found.offer("n2", 8, 3000.0)
    assert found.next_end() == pytest.approx(3000.0 + 120.0 + 7500.0)
    found.advance(found.next_end())
    assert (found.kept, found.finished) == (8 * 10_000.0, 1)
    assert found.lost == {"restart": 8 * 120.0}


def test_a_fault_loses_what_was_done_since_the_last_checkpoint():
    found = trainers([a_job()])
    found.offer("n1", 8, 0.0)
    found.withdraw("n1", 2500.0, saved=False, cause="fault")
    assert (found.kept, found.lost) == (8 * 2000.0, {"fault": 8 * 500.0})


def test_a_gang_stops_on_all_its_nodes_when_one_goes():
    found = trainers([a_job(gpus=16), a_job(gpus=8, seconds=500.0)])
    for name in ("n1", "n2"):
        found.offer(name, 8, 0.0)
    assert found.on("n1")
    assert found.on("n2") or found.used() == {"n1": 8}
    found.withdraw("n1", 100.0, saved=True, cause="recall")
    assert not found.on("n1")
    assert found.stopped == 1


def test_jobs_that_fit_go_before_a_wide_one_that_does_not_yet():
    found = trainers([a_job(gpus=16), a_job(gpus=4, seconds=100.0), a_job(gpus=4, seconds=200.0)])
    found.offer("n1", 8, 0.0)
    assert found.used() == {"n1": 8}
    assert sorted(run.job.gpus for run in found.runs) == [4, 4]
    found.advance(100.0)
    assert found.finished == 1
    found.offer("n2", 8, 150.0)
    found.advance(200.0)
    assert [run.job.gpus for run in found.runs] == [16]


def test_jobs_wait_for_their_time_and_an_endless_backlog_fills_whole_nodes():
    found = trainers([a_job(arrives=500.0)])
    found.offer("n1", 8, 0.0)
    assert found.used() == {}
    found.fill(500.0)
    assert found.used() == {"n1": 8}
    endless = trainers([], backlog="endless")
    endless.offer("n1", 8, 0.0)
    endless.offer("n2", 4, 0.0)
    assert endless.used() == {"n1": 8, "n2": 4}
    nobody = trainers([], backlog="none")
    nobody.offer("n1", 8, 0.0)
    assert (nobody.used(), nobody.idle) == ({}, True)
