"""Rivals behave as they are named, and ours does not lose to them on a wave that repeats."""

import math

import numpy as np
import pytest
from sim_fleet_builders import DAY, a_fleet, a_pool, a_wave

from tidefleet.simulator.fleet.demand import Demand
from tidefleet.simulator.fleet.node import State
from tidefleet.simulator.fleet.rivals import RIVALS, queue_autoscaler
from tidefleet.simulator.fleet.run import foreseeing, ours, run_fluid
from tidefleet.simulator.scenario import Flips


@pytest.fixture(scope="module")
def day():
    spec, wave = a_fleet(), a_wave(mean=5.0)
    every = {"ours": ours, "foreseeing": foreseeing, **RIVALS}
    return {name: run_fluid(spec, wave, seed=1, planner=planner) for name, planner in every.items()}


def flat(level, bins=144):
    return Demand(np.stack([np.full(bins, level / 2.0), np.full(bins, level / 2.0)], axis=1))


def test_without_loans_every_node_serves_all_day(day):
    found = day["no-loans"]
    assert found.seconds_in(State.SERVING) == pytest.approx(found.paid)
    assert (found.kept, found.flips) == (0.0, ())
    assert found.utilization().ratio == pytest.approx(5.0 / 12.0)


def test_a_static_split_trains_on_what_the_busiest_hour_leaves_for_ever(day):
    found = day["static-split"]
    serving = math.ceil(found.demand["main"].busiest_hour() / 0.9) + 1
    assert all(len(found.serving(at)) == serving for at in np.arange(0.0, DAY, 3600.0))
    assert found.kept == pytest.approx((12 - serving) * 8 * DAY)
    assert found.flips == ()
    assert found.short_seconds["main"] == 0.0


def test_an_autoscaler_follows_the_queue_up_and_down_and_idle_nodes_train_nothing(day):
    found = day["queue-autoscaler"]
    counts = [found.replicas(at) for at in np.arange(7200.0, DAY, 600.0)]
    assert min(counts) < 5
    assert max(counts) > 7
    assert found.kept == 0.0
    assert found.seconds_in(State.IDLE) > 0.0
    assert found.utilization().lost["not lent"] > 0.1


def test_an_autoscaler_goes_down_no_sooner_than_five_minutes_after_it_asked_for_more(day):
    times, asked = day["queue-autoscaler"].planned["main"]
    steps = [(at, after - before) for at, before, after in zip(times[1:], asked, asked[1:], strict=False)]
    rises, falls = [at for at, by in steps if by > 0], [at for at, by in steps if by < 0]
    assert rises
    assert falls
    assert all(not fall - 300.0 < rise < fall for rise in rises for fall in falls)


def test_an_autoscaler_is_short_while_what_it_started_loads():
    bins = np.concatenate([np.full(72, 2.0), np.full(72, 9.0)])
    rise = Demand(np.stack([bins / 2.0, bins / 2.0], axis=1))
    found = run_fluid(a_fleet(a_pool(nodes=16)), rise, seed=1, planner=queue_autoscaler)
    loading = Flips().load_seconds + Flips().warm_seconds
    assert found.short(43_200.0 + loading - 20.0) > 0.0
    assert found.short(43_200.0 + 1800.0) == 0.0


def test_slices_keep_just_the_replicas_that_the_present_needs(day):
    found = day["slices"]
    for at in np.arange(1800.0, DAY, 900.0):
        needed = math.ceil(sum(found.demand["main"].at(at)) / 0.9)
        assert needed - 1 <= found.replicas(at) <= needed + 2
    assert found.kept == 0.0


def test_ours_trains_in_the_valleys_and_is_not_short(day):
    found = day["ours"]
    assert found.short_seconds["main"] == 0.0
    assert found.training_gpu_hours > day["static-split"].training_gpu_hours > 0.0
    assert {one.direction for one in found.flips} == {"serving", "training"}
    ratios = {name: one.utilization().ratio for name, one in day.items()}
    assert max(ratios[name] for name in RIVALS) < ratios["ours"] <= ratios["foreseeing"] + 0.03


def test_the_trough_trains_and_the_peak_serves(day):
    found = day["ours"]
    assert found.replicas(10_800.0) <= 5
    assert found.replicas(DAY / 2.0) >= 9


@pytest.mark.parametrize("name", ["no-loans", "slices", "static-split"])
def test_nobody_reacts_to_a_demand_that_never_changes(name):
    found = run_fluid(a_fleet(), flat(6.0), seed=1, planner=RIVALS[name])
    counts = {found.replicas(at) for at in np.arange(7200.0, DAY, 600.0)}
    assert len(counts) == 1
    assert min(counts) >= 6
