"""Devices whose errors only a Prometheus tells of: nothing is lent with them, and what is lent comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from exporter_page import ExporterPage
from operator_builders import Place, a_class
from prometheus_server import Prometheus

from tidefleet.controller import process

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


class Exporter(ExporterPage):
    """A page as dcgm-exporter has it: the last XID of the first device of each node."""

    def __init__(self) -> None:
        self.xids: dict[str, int] = {}
        super().__init__(
            lambda: [
                f'DCGM_FI_DEV_XID_ERRORS{{gpu="0",UUID="GPU-1",Hostname="{node}"}} {xid}'
                for node, xid in self.xids.items()
            ]
        )


@pytest.fixture
def exporter(place: Place, tmp_path: Path) -> Iterator[tuple[Exporter, Prometheus]]:
    """An exporter that a Prometheus scrapes each second."""
    page, prometheus = Exporter(), Prometheus(place, tmp_path)
    prometheus.scrape(page.target)
    yield page, prometheus
    prometheus.end()
    page.end()


def test_a_device_with_a_fault_is_not_lent_and_one_that_is_lent_comes_back_and_waits(
    flip_ground, place, exporter, monkeypatch
):
    monkeypatch.setattr(process, "LOOK_AROUND_SECONDS", 0.5)
    page, prometheus = exporter
    ground = flip_ground(nodes=6)
    place.create(ground.a_pool(), a_class(rate=1))
    ground.start(prometheus={"url": prometheus.url})
    ground.serve(1)
    lent, sick, *_ = [index for index in range(6) if index not in ground.serving_on()]
    page.xids = {ground.names[lent]: 31, ground.names[sick]: 79}  # 31 is an application's own fault

    def ailing(index: int) -> str:
        return str(ground.op.loop.flips.ailing.get(ground.names[index], ""))

    ground.until(lambda: "XID (79)" in ailing(sick), "the fault is known")
    ground.ask(sick, "training")
    ground.until(lambda: any("device 0 of node" in one for one in ground.events("FlipRefused", sick)), "refused")
    ground.ask(lent, "training")
    ground.reaches("Training", lent, step=5.0)
    page.xids[ground.names[lent]] = 94
    ground.reaches("Quarantined", lent, step=20.0)
    assert "XID (94)" in ground.journal(lent)["why"]
    for _ in range(3):
        ground.step(60.0)
    assert ground.phase(lent) == "Quarantined"
    page.xids[ground.names[lent]] = 0
    ground.until(lambda: not ailing(lent), "it is well again")
    ground.reaches("Serving", lent, step=20.0)
    assert ground.sound()
