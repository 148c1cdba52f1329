"""What an operator says of itself: probes, metrics, log lines, and one id through all of them."""

from __future__ import annotations

import time

import httpx
import pytest
from operator_builders import a_class, a_pool, eventually

from localcluster import kubeconfig
from localcluster.ports import free_ports

pytestmark = pytest.mark.cluster


@pytest.mark.chart
def test_leader_and_follower_serve_probes_and_metrics(place, real_operator):
    place.create(a_pool(), a_class())
    first = real_operator()
    eventually(lambda: first.leads)
    second = real_operator()
    eventually(lambda: place.settled())
    for one, leads in ((first, 1.0), (second, 0.0)):
        assert one.get("/healthz") == (200, "ok\n")
        eventually(lambda one=one: one.get("/readyz") == (200, "ok\n"))
        status, page = one.get("/metrics")
        assert status == 200
        assert "tidefleet_build_info{version=" in page
        assert one.metric("tidefleet_leader") == leads
        assert one.get("/nothing")[0] == 404
    labels = f'namespace="{place.namespace}",pool="chat"'
    assert first.metric(f'tidefleet_pool_replicas{{{labels},state="ready"}}') == 1.0
    assert second.metric(f'tidefleet_pool_replicas{{{labels},state="ready"}}') == 0.0
    assert 'tidefleet_watch_last_sync_timestamp_seconds{resource="pods"}' in first.get("/metrics")[1]


@pytest.mark.chart
def test_one_decision_id_goes_through_log_event_status_and_deployment(place, real_operator, released):
    place.create(a_pool(), a_class())
    one = real_operator()
    eventually(lambda: place.settled())
    (event,) = eventually(lambda: place.events("Scaled"))
    one.end()

    lines = one.lines()
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    (told,) = [line for line in lines if line["message"] == "decision"]
    assert told["pool"] == f"{place.namespace}/chat"
    made = place.deployments()["l40s"]["metadata"]["annotations"]["tidefleet.io/decision-id"]
    noted = event["metadata"]["annotations"]["tidefleet.io/decision-id"]
    assert {told["decisionId"], made, noted, place.status()["decisionId"]} == {made}
    assert told["why"] in event["note"]
    assert event["reportingController"] == "tidefleet"


@pytest.mark.chart
def test_no_token_reaches_the_log(place, real_operator, released):
    place.create(a_pool(), a_class())
    one = real_operator("--log-level", "debug")
    eventually(lambda: place.settled())
    one.end()
    token = kubeconfig.read(released.kubeconfig).token
    assert token
    text = "\n".join(map(str, one.lines()))
    for part in (token, token.split(".")[1], token.split(".")[2]):
        assert part not in text


def test_healthz_fails_when_the_loop_is_stuck(place, operator_in_process):
    (port,) = free_ports(1)
    op = operator_in_process(metrics={"port": port})
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{url}/healthz", trust_env=False).text == "ok\n"

    op.loop.heartbeat = time.monotonic() - 3600.0  # the clock stands still, and with it the loop
    answer = httpx.get(f"{url}/healthz", trust_env=False)
    assert answer.status_code == 503
    assert "the fleet loop last moved 3600 s ago" in answer.text
    op.advance()
    assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200


def test_readyz_waits_for_the_first_pass(place, operator_in_process):
    (port,) = free_ports(1)
    seen: list[tuple[int, str]] = []

    def look(_: object) -> None:
        """The first write of the first pass."""
        if not seen:
            answer = httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False)
            seen.append((answer.status_code, answer.text))

    place.create(a_pool(), a_class())
    operator_in_process(metrics={"port": port}, before_write=look).settle()
    assert seen == [(503, "the first pass is not finished\n")]
    assert httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200


def test_dollars_and_tokens_of_a_pool_are_counted(place, operator_in_process):
    place.create(a_pool(accelerators=[{"type": "l40s"}]), a_class(rate=8))
    op = operator_in_process()
    op.settle()
    replicas = place.replicas()["l40s"]
    labels = {"namespace": place.namespace, "pool": "chat", "accelerator": "l40s", "capacity_type": "OnDemand"}
    before = op.metric("tidefleet_pool_cost_usd_total", **labels)
    op.advance(3600)
    spent = op.metric("tidefleet_pool_cost_usd_total", **labels) - before
    assert spent == pytest.approx(replicas * 1.861)
