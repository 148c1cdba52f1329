"""Demand that goes up and down around what one replica carries, for a whole day."""

from __future__ import annotations

import itertools

import pytest
from flip_demand import a_lender, ask_for, tick
from operator_builders import a_class

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

HOUR = 3600.0
BELOW, ABOVE = 3.8, 7.6
"""Requests per second that one replica carries, and that take a second one."""

DWELL = 5 * HOUR
HALF = 2 * HOUR
"""How long demand stays on either side."""


@pytest.mark.long
def test_demand_that_oscillates_for_a_day_flips_no_node_oftener_than_its_dwell_allows(flip_ground, place, clock):
    ground = flip_ground(nodes=3)
    flipping = ground.flipping() | {"policy": "Forecast", "windows": []}
    place.create(a_lender(ground, flipping=flipping), a_class(rate=BELOW))
    ground.start(flipping={"dwellSeconds": DWELL}, dwellSeconds=0, scaleDownWindowSeconds=300)
    ground.serve(1)
    ends, needed, short = clock.now() + 24 * HOUR, 1, 0
    while clock.now() < ends:
        needed = 3 - needed
        ask_for(place, ABOVE if needed == 2 else BELOW)
        turn = clock.now() + HALF
        while clock.now() < turn:
            moving = set(ground.phases()) - {"Serving", "Training"}
            waits = sum(place.ready_replicas().values()) < needed
            tick(ground, 20.0 if moving or waits else 1800.0)
            short = max(short, int(clock.now() - turn + HALF)) if waits else short
        assert sum(place.ready_replicas().values()) >= needed
    loans = {name: passed.count("Training") for name, passed in ground.watcher.phases.items()}
    assert 1 <= max(loans.values()) <= 24 * HOUR / DWELL  # demand is low six times
    assert short <= 720.0
    for index in range(3):
        history = ground.journal(index).get("history", ())
        served = [after - at for (at, phase), (after, _) in itertools.pairwise(history) if phase == "Serving"]
        assert all(seconds >= DWELL for seconds in served)
    assert ground.sound()
