"""Work that may wait: done in what replicas leave idle, and never hurried before its deadline asks for it."""

import numpy as np
import pytest

from tidefleet.simulator.fleet.demand import Demand, with_history
from tidefleet.simulator.fleet.filler import Filler
from tidefleet.simulator.fleet.run import run_fluid
from tidefleet.simulator.load import load_scenario

DAY = 86_400.0
SLOT = 900.0


def test_nothing_is_added_while_what_is_idle_suffices_until_the_deadline():
    filler = Filler(DAY)
    filler.advance(0.0, 3600.0, rate=10.0, slack=0.0)
    slots = np.arange(192)
    idle_at_night = np.where(slots < 48, 0.0, 2.0)
    plan = filler.plan(np.full(192, 8.0), 8.0 - idle_at_night, now=3600.0, top=1.0, most=8)
    assert plan.sum() == 0.0


def test_replicas_are_added_where_there_are_some_and_not_because_a_peak_takes_all():
    filler = Filler(DAY)
    filler.advance(0.0, 3600.0, rate=10.0, slack=0.0)
    replicas = np.where(np.arange(192) < 24, 8.0, 4.0)
    plan = filler.plan(replicas, replicas, now=3600.0, top=1.0, most=8)
    assert plan[:24].sum() == 0.0
    assert 36_000.0 <= plan.sum() * SLOT < 45_000.0
    assert plan[24 : int(DAY / SLOT)].sum() == plan.sum()


@pytest.fixture(scope="module")
def timeline():
    at = np.arange(0.0, DAY, 600.0)
    needed = 16.0 * (0.65 + 0.27 * np.sin(2.0 * np.pi * at / DAY))
    demand = Demand(np.stack([0.4 * needed, 0.6 * needed], 1), np.full(len(at), 1.6))
    scenario = load_scenario("week", ["pools.0.replicas=16", f"seconds={DAY}", "training.backlog=endless"])
    return run_fluid(scenario, with_history(demand), seed=1)


def test_a_fleet_does_it_within_a_day_with_few_replicas_added(timeline):
    assert timeline.filler_late == 0.0
    assert timeline.filler + 8.0 * timeline.filler_left == pytest.approx(1.6 * 8.0 * DAY)
    assert timeline.figures["filler_units"] <= 6.0
