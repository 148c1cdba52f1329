"""Demand from a real Prometheus that scrapes the emulated engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from operator_builders import WORKLOAD_CLASS, Engines, Place, a_class, a_pool, eventually
from prometheus_server import Prometheus

from tidefleet.cluster.clock import RealClock

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


@pytest.fixture
def prometheus(place: Place, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus without targets."""
    one = Prometheus(place, tmp_path)
    yield one
    one.end()


def total(place: Place) -> int:
    """Replicas asked for."""
    return sum(place.replicas().values())


def test_demand_comes_from_prometheus_and_is_held_when_it_stops(
    place, operator_in_process: Callable, prometheus: Prometheus
):
    clock = RealClock()
    with Engines(place, clock) as engines:
        place.create(a_pool(accelerators=[{"type": "l40s"}]), a_class(rate=None))
        op = operator_in_process(
            on=clock, periodSeconds=1, scaleDownWindowSeconds=5,
            prometheus={"url": prometheus.url, "windowSeconds": 30},
        )  # fmt: skip
        eventually(lambda: engines.count() == 1)
        engines.load(16.0)

        def measured() -> bool:
            prometheus.scrape_pods()
            return total(place) >= 2 and place.has("DemandKnown", "True", "Known")

        eventually(measured, "scaled up by what Prometheus says")
        engines.load(0.5)
        prometheus.end()
        before = total(place)
        eventually(lambda: place.has("DemandKnown", "False", "Unreachable"), str(place.condition("DemandKnown")))
        held = op.passes
        eventually(lambda: op.passes > held + 8 or total(place) < before)
        assert total(place) == before


def test_a_prometheus_that_knows_nothing_of_the_pods_is_not_zero_demand(place, operator_in_process, prometheus):
    place.create(a_pool(accelerators=[{"type": "l40s"}]), a_class(rate=9))
    op = operator_in_process()
    op.settle()
    before = total(place)
    assert before >= 2
    op.stop()
    place.delete(WORKLOAD_CLASS, "chat")
    place.create(a_class(rate=None))

    op = operator_in_process(prometheus={"url": prometheus.url})
    op.until(lambda: "Prometheus has nothing about" in place.condition("DemandKnown")[2], step=1)
    op.observe(1500)
    assert place.condition("DemandKnown")[0] == "False"
    assert total(place) == before
    assert op.metric("tidefleet_empty_answers_total", source="prometheus") > 0
