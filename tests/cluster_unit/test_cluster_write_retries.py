"""Writes against an API server in trouble: what is repeated, for how long, and what never is."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kubernetes.client import ApiClient, Configuration

from tidefleet.cluster.kinds import CONFIG_MAP
from tidefleet.cluster.lease import Deposed, NoFence
from tidefleet.cluster.writes import Blocked, Conflict, Create, Evict, Failed, Fenced, Outcome, Writer, Written

WHY: dict[str, Any] = {"reason": "a test", "decision_id": "d-1"}


def a_config_map(namespace: str) -> dict[str, Any]:
    return {"metadata": {"namespace": namespace, "name": "one"}}


class Fenceable:
    def __init__(self) -> None:
        self.lost = False

    def check(self) -> None:
        if self.lost:
            raise Deposed("not the leader")


class Trouble:
    """An HTTP server that gives the answers it is told to give, then the last one for ever."""

    def __init__(self, *answers: tuple[int, dict[str, str], str]) -> None:
        self.requests: list[float] = []
        trouble = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, body = answers[min(len(trouble.requests), len(answers) - 1)]
                trouble.requests.append(time.monotonic())
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{self._server.server_port}"
        self.api = ApiClient(configuration)

    def close(self) -> None:
        self.api.close()
        self._server.shutdown()
        self._server.server_close()


CREATED = (201, {}, '{"metadata": {"name": "one"}}')


def try_create(*answers: tuple[int, dict[str, str], str], seconds: float = 3.0) -> tuple[Outcome, list[float]]:
    trouble = Trouble(*answers)
    try:
        writer = Writer(trouble.api, NoFence(), deadline_seconds=seconds)
        outcome = writer.execute(Create(kind=CONFIG_MAP, body=a_config_map("default"), **WHY))
        assert writer.writes_total == len(trouble.requests)
        return outcome, trouble.requests
    finally:
        trouble.close()


def test_a_short_storm_is_weathered() -> None:
    outcome, requests = try_create((500, {}, "oops"), (503, {}, ""), (429, {}, "{}"), CREATED)
    assert isinstance(outcome, Written), outcome
    assert len(requests) == 4


def test_retry_after_is_honoured() -> None:
    outcome, requests = try_create((429, {"Retry-After": "1"}, "{}"), CREATED)
    assert isinstance(outcome, Written), outcome
    assert requests[1] - requests[0] >= 1.0


def test_a_long_storm_ends_in_a_failure_worth_retrying() -> None:
    outcome, requests = try_create((500, {}, '{"reason": "InternalError", "message": "etcd is away"}'), seconds=1.0)
    assert isinstance(outcome, Failed), outcome
    assert outcome.retriable
    assert outcome.message == "500 InternalError: etcd is away"
    assert 2 <= len(requests) <= 10
    outcome, requests = try_create((429, {"Retry-After": "3600"}, "{}"), seconds=1.0)
    assert isinstance(outcome, Failed), outcome
    assert len(requests) == 1, "nobody waits longer than the deadline"


def test_a_server_that_is_away_is_a_failure_worth_retrying() -> None:
    trouble = Trouble(CREATED)
    trouble.close()
    writer = Writer(trouble.api, NoFence(), deadline_seconds=0.5)
    outcome = writer.execute(Create(kind=CONFIG_MAP, body=a_config_map("default"), **WHY))
    assert isinstance(outcome, Failed), outcome
    assert outcome.retriable


def test_a_conflict_is_never_retried() -> None:
    outcome, requests = try_create((409, {}, '{"reason": "Conflict", "message": "changed"}'))
    assert isinstance(outcome, Conflict), outcome
    assert len(requests) == 1


def test_a_write_stops_being_retried_when_we_are_deposed() -> None:
    trouble, fence = Trouble((500, {}, "")), Fenceable()
    writer = Writer(trouble.api, fence, deadline_seconds=30.0)
    threading.Timer(0.5, lambda: setattr(fence, "lost", True)).start()
    try:
        assert isinstance(writer.execute(Create(kind=CONFIG_MAP, body=a_config_map("default"), **WHY)), Fenced)
    finally:
        trouble.close()


def test_an_eviction_is_repeated_when_the_server_is_busy_and_not_when_a_budget_says_no() -> None:
    eviction = Evict(namespace="default", name="one", uid="u", resource_version="1", **WHY)
    blocked = '{"message": "no", "details": {"causes": [{"reason": "DisruptionBudget", "message": "one of one"}]}}'
    trouble = Trouble((429, {}, '{"message": "too many requests"}'), (429, {"Retry-After": "10"}, blocked))
    try:
        writer = Writer(trouble.api, NoFence(), deadline_seconds=3.0)
        assert writer.execute(eviction) == Blocked("429: no one of one")
        assert len(trouble.requests) == 2
    finally:
        trouble.close()
