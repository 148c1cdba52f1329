"""A pool at zero behind a real Envoy: requests wait for it for longer than Envoy waits for a picker that is silent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml
from router_ground import MODEL, Way, a_fleet, a_pool_object, a_served_pod, a_way, eventually
from wire_engines import engines

from localcluster.binaries import find
from localcluster.errors import LocalClusterError
from tidefleet.router.discovery import Fleet
from tidefleet.router.pool_state import Limits

pytestmark = pytest.mark.envoy

WAKE_SECONDS = 7.0
CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy/envoy/full-duplex.yaml"
PROMPT = "tell me " * 20_000


@contextlib.contextmanager
def a_ground(configuration: str) -> Iterator[tuple[Way, Fleet]]:
    try:
        find("envoy")
    except LocalClusterError as reason:
        pytest.skip(f"no Envoy here: {reason}")
    with engines(2) as places:
        awake = a_fleet([a_served_pod(one, f"chat-{index}") for index, one in enumerate(places)])
        limits = Limits(wake_seconds=WAKE_SECONDS)
        with a_way(awake, places, configuration=configuration, limits=limits) as way:
            yield way, awake


def silent_seconds() -> float:
    """For how long the shipped configuration waits for a picker that says nothing."""
    listeners = yaml.safe_load(CONFIGURATION.read_text())["static_resources"]["listeners"]
    (picked,) = (one for one in listeners if one["name"] == "picked")
    manager = picked["filter_chains"][0]["filters"][0]["typed_config"]
    return float(manager["route_config"]["virtual_hosts"][0]["routes"][-1]["route"]["idle_timeout"].rstrip("s"))


@pytest.fixture
def ground() -> Iterator[tuple[Way, Fleet]]:
    with a_ground("full-duplex") as found:
        yield found


def test_a_request_that_waits_long_is_served_once_an_endpoint_comes_and_gets_503_with_a_reason_when_none_does(
    ground: tuple[Way, Fleet],
) -> None:
    way, awake = ground
    (chat,) = awake.pools
    asleep = replace(chat, ranks=())
    other = replace(asleep, name="other", spec=a_pool_object(model={"name": "nobody-serves-it"}))
    assert silent_seconds() + 1.0 < WAKE_SECONDS
    way.update(replace(awake, pools=(asleep, other)))

    def ask(model: str = MODEL, **headers: str) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": PROMPT}]}
        return way.client.post("/v1/chat/completions", json=body, headers=headers)

    with ThreadPoolExecutor(8) as threads:
        waiting: list[Future[httpx.Response]] = [threads.submit(ask) for _ in range(3)]
        waiting.append(threads.submit(ask, **{"x-tidefleet-wait": "will"}))
        in_vain = threads.submit(ask, "nobody-serves-it")
        eventually(lambda: sum(one["queueRequests"] for one in way.http.get("/debug/pools").json()) == 5)
        time.sleep(silent_seconds() + 0.5)
        assert not any(one.done() for one in (*waiting, in_vain))
        way.update(replace(awake, pools=(chat, other)))
        for answer in (one.result(30) for one in waiting):
            assert answer.status_code == 200, answer.text
            assert answer.json()["body_bytes"] > len(PROMPT)
            assert "x-tidefleet-wait" not in answer.json()["headers"], "engines do not see it"
            assert "x-gateway-destination-endpoint" in answer.json()["headers"], "the picker chose"
        late = in_vain.result(30)
    assert late.status_code == 503, late.text
    assert "prod/other is at zero and did not wake up within 7 s" in late.json()["error"]["message"]
    assert "retry-after" in late.headers


def test_where_the_picker_sees_headers_only_a_request_waits_for_longer_than_a_message_may_take() -> None:
    with a_ground("headers-only") as (way, awake), ThreadPoolExecutor(1) as threads:
        (chat,) = awake.pools
        way.update(replace(awake, pools=(replace(chat, ranks=()),)))
        waiting = threads.submit(way.client.post, "/v1/chat/completions", content=b"{}")
        eventually(lambda: way.pool()["queueRequests"] == 1)
        time.sleep(1.5)
        assert not waiting.done()
        way.update(awake)
        answer = waiting.result(30)
        assert answer.status_code == 200, answer.text
        assert "x-gateway-destination-endpoint" in answer.json()["headers"]
        assert "x-tidefleet-wait" not in answer.json()["headers"]
