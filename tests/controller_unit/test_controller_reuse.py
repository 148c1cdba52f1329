"""How far apart prompts use the same blocks, from what a router exports to the curve of a pool."""

from __future__ import annotations

import math
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest

from tidefleet.cluster.clock import RealClock
from tidefleet.controller import collector as collector_module
from tidefleet.controller.collector import Collector
from tidefleet.controller.config import Router
from tidefleet.controller.reuse import curves_of, read_pages, read_vector
from tidefleet.router.discovery import ServedPool
from tidefleet.router.metrics import RouterMeter
from tidefleet.router.pool_state import Limits, PoolState
from tidefleet.telemetry import Telemetry

KEY = ("prod", "chat")
SERVED = ServedPool("prod", "chat", None, (), (), ())


def page(*requests: int) -> str:
    """A router's page after prompts of a million tokens, each of one of these numbers."""
    telemetry = Telemetry("router")
    state = PoolState(SERVED, Limits())
    for one in requests:
        keys = np.random.default_rng(one).integers(1, 2**63, 2**16, dtype=np.uint64)
        state.distances.used(keys, 16)
    RouterMeter(telemetry).gauges([state])
    return telemetry.render()[1].decode()


def test_what_the_router_exports_is_read_as_a_curve() -> None:
    curve = read_pages([page(1, 2, 1, 2)], routers=1)[KEY]
    assert curve.most == pytest.approx(0.5, abs=0.05)
    assert curve.share(2.0**18) < 0.05
    assert curve.share(2.0**22) == pytest.approx(0.5, abs=0.05)


def test_pages_of_several_routers_add_up_and_distances_are_those_of_all() -> None:
    curve = read_pages([page(1, 2, 1, 2), page(3, 4, 3, 4)], routers=2)[KEY]
    assert curve.share(2.0**22) < 0.3
    assert curve.share(2.0**23) == pytest.approx(0.5, abs=0.05)


def test_a_page_without_requests_tells_nothing() -> None:
    assert read_pages([page()], routers=1) == {}


def vector(**bins: Any) -> dict[str, Any]:
    own = {"namespace": "prod", "pool": "chat"}
    result = [{"metric": {**own, "within": within[1:]}, "value": [0, value]} for within, value in bins.items()]
    return {"data": {"result": [*result, {"metric": own, "value": [0, "8000000"]}]}}


def test_a_prometheus_answers_with_the_same_curve() -> None:
    curve = read_vector(vector(_16384="1000000", _65536="3000000", _new="4000000"), routers=1)[KEY]
    assert curve.share(16384) == pytest.approx(1 / 8)
    assert curve.share(65536) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    "body", [{}, {"data": None}, {"data": {"result": [{"metric": {}}]}}, {"data": {"result": [3]}}]
)
def test_an_answer_that_is_no_vector_is_refused(body: Any) -> None:
    with pytest.raises(ValueError, match="no vector"):
        read_vector(body, routers=1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_what_is_no_number_is_left_out(value: float) -> None:
    own = {"namespace": "prod", "pool": "chat"}
    bad = ("tidefleet_router_reuse_seen_tokens_total", own, value)
    assert curves_of([bad], routers=1, source="x") == {}
    good = ("tidefleet_router_reuse_tokens_total", {**own, "within": "16384"}, 5e6)
    assert curves_of([bad, good], routers=1, source="x") == {}  # nobody said how many were seen


@pytest.fixture
def served_page() -> Iterator[str]:
    """The address of a router's page."""
    text = page(1, 2, 1, 2).encode()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()


def test_the_collector_reads_routers_beside_engines(served_page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "PERIOD_SECONDS", 0.0)
    reader = Collector(
        dict, clock=RealClock(), period_seconds=0.05, telemetry=Telemetry(), router=Router(metrics_urls=(served_page,))
    )
    assert reader.reuse(KEY) is None
    reader.start()
    try:
        for _ in range(600):
            if reader.reuse(KEY) is not None:
                break
            reader._halt.wait(0.05)
    finally:
        reader.stop()
    found = reader.reuse(KEY)
    assert found is not None
    assert found.most == pytest.approx(0.5, abs=0.05)
