"""Demand from a real Prometheus that scrapes the emulated engines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from operator_builders import POD, WORKLOAD_CLASS, Engines, Place, a_class, a_pool, eventually

from localcluster import binaries
from localcluster.ports import free_ports
from tidefleet.cluster.clock import RealClock

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


class Prometheus:
    """A Prometheus of one test, with targets that the test writes."""

    def __init__(self, place: Place, directory: Path) -> None:
        self._place, self._targets = place, directory / "targets.json"
        self._name = f"prometheus-{place.namespace}"
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._targets.write_text("[]")
        file = directory / "prometheus.yml"
        discovery = [{"files": [str(self._targets)], "refresh_interval": "1s"}]
        file.write_text(yaml.safe_dump({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": "engines", "file_sd_configs": discovery}],
        }))  # fmt: skip
        place.cluster.run(self._name, [
            binaries.find("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
        ])  # fmt: skip

    def scrape_pods(self) -> int:
        """Scrape every pod that has an address, from now on; how many there are."""
        pods = [one for one in self._place.list(POD) if one["status"].get("podIP")]
        self._targets.write_text(json.dumps([
            {
                "targets": [f"{one['status']['podIP']}:8000"],
                "labels": {"namespace": self._place.namespace, "pod": one["metadata"]["name"]},
            }
            for one in pods
        ]))  # fmt: skip
        return len(pods)

    def end(self) -> None:
        """Stop it."""
        self._place.cluster.end(self._name)


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
