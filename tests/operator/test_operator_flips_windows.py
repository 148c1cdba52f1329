"""Windows by the clock on a wall: over midnight, and in nights that are an hour shorter or longer than others."""

from __future__ import annotations

import pytest
from flip_demand import QUICK, a_lender, lent, nightly, on, start_at, tick, wall
from operator_builders import a_class

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

HOUR = 3600.0
RECALL_SECONDS = 720.0


@pytest.mark.parametrize(
    "night",
    [
        ("Asia/Kolkata", "2027-06-01 23:10", 4.0),
        ("Europe/Berlin", "2027-03-27 23:10", 3.0),  # 02:00 is 03:00
        ("America/New_York", "2027-11-06 23:10", 5.0),  # 02:00 is 01:00 once more
    ],
    ids=["midnight", "skipped-hour", "repeated-hour"],
)
def test_nodes_are_lent_and_serve_again_by_the_clock_on_the_wall(flip_ground, place, clock, night):
    zone, evening, hours = night
    start_at(clock, zone, evening)
    opens = clock.now() + 20 * 60
    ground = flip_ground(nodes=3)
    place.create(a_lender(ground, flipping=nightly(zone, "23:30", "03:30")), a_class(rate=1))
    ground.start(flipping=QUICK)
    ground.serve(1)
    assert place.status()["nextFlip"] == f"23:30 {zone}: 1 node to training"
    while clock.now() < opens - 60:
        tick(ground, 240.0)
        assert on(ground, "Training") == []
    lent(ground, 1, step=60.0)
    assert opens <= clock.now() < opens + 900.0
    ends = opens + hours * HOUR
    (name,) = on(ground, "Training")
    index = ground.names.index(name)
    assert ends - 900.0 - RECALL_SECONDS <= ground.journal(index)["until"] <= ends - RECALL_SECONDS
    while clock.now() < ends - 1800.0 - RECALL_SECONDS:
        tick(ground, 900.0)
        assert ground.phase(index) == "Training", wall(clock, zone)
    assert place.status()["nextFlip"].endswith(f" {zone}: 1 node to serving")
    assert "02:" not in place.status()["nextFlip"]
    while ground.phase(index) == "Training":
        tick(ground, 60.0)
    ground.reaches("Serving", index, step=20.0)
    assert clock.now() <= ends
    assert wall(clock, zone)[:3] in ("03:",)
    for _ in range(8):
        tick(ground, 900.0)
        assert on(ground, "Serving") == ground.names  # neither lent in what is left of it, nor after it
    assert ground.sound()
