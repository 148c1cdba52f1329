"""When nothing changes nothing is written."""

from __future__ import annotations

import pytest
from operator_builders import a_class, a_pool, a_workload, adopting

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


def test_a_quiet_fleet_is_written_to_by_nobody(place, operator_in_process, engines):
    """Constant demand, measured and declared, adopted workloads, a held pool and an invalid one: no write at all."""
    place.create(a_pool("measured", accelerators=[{"type": "l40s"}]), a_class("measured", rate=None))
    place.create(a_pool("declared", deletionPolicy="Delete"), a_class("declared", rate=40))
    place.create(a_workload("mine"))
    place.create(a_pool("adopter", serving=adopting(("mine", "l40s")), accelerators=None), a_class("adopter", rate=5))
    place.create(a_pool("held"), a_class("held", rate=None))
    place.create(a_pool("invalid", model={"name": "nothing"}), a_class("invalid"), a_class("orphan"))
    engines.fault("nan-metrics", "held")
    engines.load(5.0, "measured")
    op = operator_in_process()
    op.settle("measured", "declared", "adopter")
    op.until(lambda: place.has("DemandKnown", "False", "NotANumber", "held"))
    op.observe(900)
    op.settle("measured", "declared", "adopter")

    writes, passes = op.writes, op.passes
    op.observe(1500)
    assert op.passes >= passes + 20
    assert op.writes == writes
    assert op.loop.actor.events.flush()


def test_a_restart_writes_no_more_than_its_epoch(place, operator_in_process):
    place.create(a_pool(), a_class(rate=40))
    op = operator_in_process()
    op.settle()
    op.stop()
    deployments = len(place.deployments())

    written: list = []
    op = operator_in_process(before_write=written.append)
    op.settle()
    op.advance(2000)
    epochs = [one for one in written if one.reason == "a new leader takes over"]
    assert len(epochs) == deployments
    rest = [one for one in written if one not in epochs and getattr(one, "subresource", "") != "status"]
    assert rest == []
