"""When nothing changes nothing is written."""

from __future__ import annotations

from typing import Any

import pytest
from operator_builders import a_class, a_pool, a_workload, adopting

from tidefleet.cluster.writes import Write

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of a JSON value by their paths."""
    if isinstance(value, dict):
        return {key: leaf for name, inner in value.items() for key, leaf in flat(inner, f"{path}.{name}").items()}
    if isinstance(value, list):
        return {key: leaf for i, inner in enumerate(value) for key, leaf in flat(inner, f"{path}[{i}]").items()}
    return {path: value}


def differences(written: list[Write]) -> list[tuple[str, dict[str, tuple[Any, Any]]]]:
    """What each write changed against the one before it of the same object."""
    last: dict[str, dict[str, Any]] = {}
    found = []
    for one in written:
        name, now = f"{one.kind.kind} {one.name}", flat(getattr(one, "body", {}))
        before = last.get(name, {})
        changed = {key: (before.get(key), now.get(key)) for key in before.keys() | now.keys()}
        found.append((name, {key: pair for key, pair in changed.items() if pair[0] != pair[1] and before}))
        last[name] = now
    return found


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
    written: list[Write] = []
    op = operator_in_process(before_write=written.append)
    op.settle("measured", "declared", "adopter")
    op.until(lambda: place.has("DemandKnown", "False", "NotANumber", "held"))
    op.observe(1800)
    op.settle("measured", "declared", "adopter")

    written.clear()
    writes, passes = op.writes, op.passes
    op.observe(1500)
    assert op.passes >= passes + 20
    assert not written, differences(written)
    assert op.loop.actor.events.flush()
    assert op.writes == writes, "Events"


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
