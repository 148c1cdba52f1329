"""OpenCost's bill of a model beside ours, from a Prometheus that scrapes it."""

from __future__ import annotations

import pytest
from exporter_page import ExporterPage
from operator_builders import a_class, a_pool, a_template, eventually
from prometheus_server import Prometheus

from tidefleet.controller import process

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


@pytest.fixture
def opencost(place, tmp_path, monkeypatch):
    """Figures by cost basis on a page like OpenCost's, and a Prometheus that scrapes it once it is told to."""
    monkeypatch.setattr(process, "LOOK_AROUND_SECONDS", 0.3)
    theirs = {}
    page = ExporterPage(
        lambda: [
            f'llm_total_cost{{model_name="org/Small-8B",model_version="unknown",namespace="{place.namespace}",'
            f'cost_basis="{basis}"}} {usd}'
            for basis, usd in theirs.items()
        ]
    )
    prometheus = Prometheus(place, tmp_path)
    yield theirs, page, prometheus
    prometheus.end()
    page.end()


def test_a_pool_is_compared_with_what_opencost_says_of_its_model(place, clock, operator_in_process, opencost):
    theirs, page, prometheus = opencost
    template = a_template()
    template["metadata"] = {"labels": {"llm-d.ai/model": "Small-8B"}}
    pool = a_pool(
        accelerators=[{"type": "l40s"}],
        replicas={"min": 2, "max": 2},
        serving={"template": template, "engine": {"type": "VLLM", "port": 8000}},
    )
    place.create(pool, a_class(rate=2))
    op = operator_in_process(prometheus={"url": prometheus.url})
    op.settle()
    price = op.metric(
        "tidefleet_accelerator_price_usd_per_hour", accelerator="l40s", capacity_type="OnDemand", source="Catalogue"
    )
    theirs["allocation"], theirs["usage"] = 2 * price * 1.05, 0.01
    prometheus.scrape(page.target)
    labels = {"namespace": place.namespace, "pool": "chat"}

    def ratio() -> float:
        clock.tick(30.0)
        return op.metric("tidefleet_pool_opencost_cost_ratio", **labels)

    assert eventually(ratio, "OpenCost is seen") == pytest.approx(1.05, rel=0.01)
    assert place.status()["plan"]["options"][0]["replicas"] == 2, "it is told, and changes nothing"
