"""A real Envoy with each shipped configuration: it uses the picker, and answers when the picker does not."""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from wire_engines import engines

from localcluster import envoy
from localcluster.binaries import find
from localcluster.errors import LocalClusterError
from localcluster.ports import free_ports
from localcluster.processes import Processes

HERE = Path(__file__).parent
BODY = bytes(range(256)) * 12_000  # 3 MB, more than any window or chunk on the way

pytestmark = pytest.mark.envoy


@dataclass
class Gateway:
    """Envoy, its picker and three engines."""

    processes: Processes
    envoy: envoy.Envoy
    endpoints: list[str]
    picker_port: int
    client: httpx.Client
    answers_outlive_picker: bool

    def start_picker(self) -> None:
        argv = [sys.executable, HERE / "wire_picker.py", str(self.picker_port), ",".join(self.endpoints)]
        path = os.pathsep.join(sys.path)
        self.processes.start("picker", argv, env={**os.environ, "PYTHONPATH": path}, grace_seconds=0.1)

    def signal_picker(self, number: signal.Signals) -> None:
        self.processes.send("picker", number)

    def picker_log(self) -> list[str]:
        return self.processes.log_tail("picker", lines=10_000).splitlines()

    def wait_for_picker(self, *, used: bool) -> None:
        """Until Envoy sends requests to the picker, or past it."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            answer = self.client.get("/ready").json()
            if ("x-test-body-bytes" in answer["headers"]) == used:
                return
            time.sleep(0.1)
        raise AssertionError(f"the picker is {'not ' if used else 'still '}used; {self.processes.log_tail('envoy')}")


@pytest.fixture(scope="module", params=["full-duplex", "request-bodies", "headers-only"])
def started(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    try:
        find("envoy")
    except LocalClusterError as reason:
        pytest.skip(f"no Envoy here: {reason}")
    with contextlib.ExitStack() as stack:
        addresses = stack.enter_context(engines(3))
        processes = Processes(Path(tempfile.mkdtemp(prefix="tidefleet-envoy-")))
        stack.callback(processes.close)
        (picker_port,) = free_ports(1)
        bodies = request.param == "full-duplex"
        name = "headers-only" if request.param == "headers-only" else "full-duplex"
        running = envoy.start(
            processes, name, picker=("127.0.0.1", picker_port), endpoints=addresses, response_bodies=bodies
        )
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=30))
        endpoints = [f"{host}:{port}" for host, port in addresses]
        gateway = Gateway(processes, running, endpoints, picker_port, client, answers_outlive_picker=not bodies)
        gateway.start_picker()
        yield gateway


@pytest.fixture
def gateway(started: Gateway) -> Iterator[Gateway]:
    """The gateway with a picker that runs."""
    started.wait_for_picker(used=True)
    yield started
    if started.processes.exit_codes().get("picker", 0) is not None:
        started.start_picker()
    started.signal_picker(signal.SIGCONT)


def test_the_chosen_endpoint_serves_and_is_reported_back(gateway: Gateway) -> None:
    for endpoint in gateway.endpoints:
        answer = gateway.client.post("/v1/completions", content=b"{}", headers={"x-test-endpoint": endpoint})
        assert answer.status_code == 200
        assert answer.json()["engine"] == endpoint
    time.sleep(0.2)
    for endpoint in gateway.endpoints:
        assert f"served {endpoint} 200" in gateway.picker_log()


def test_a_large_body_arrives_byte_for_byte(gateway: Gateway) -> None:
    answer = gateway.client.post("/v1/completions", content=BODY).json()
    assert (answer["body_bytes"], answer["body_sum"]) == (len(BODY), sum(BODY))


def test_a_fallback_serves_where_the_first_choice_is_unknown(gateway: Gateway) -> None:
    answer = gateway.client.post("/v1/completions", content=b"{}", headers={"x-test-endpoint": "127.0.0.9:1"})
    assert answer.json()["engine"] == gateway.endpoints[0]


def test_a_clients_own_destination_header_is_ignored(gateway: Gateway) -> None:
    spoofed = {"x-gateway-destination-endpoint": gateway.endpoints[1]}
    for _ in range(4):
        answer = gateway.client.post("/v1/completions", content=b"{}", headers=spoofed).json()
        assert answer["engine"] == gateway.endpoints[-1]


def test_a_refusal_reaches_the_client_with_its_headers(gateway: Gateway) -> None:
    answer = gateway.client.post("/v1/completions", content=b"{}", headers={"x-test-refuse": "429"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"]["code"] == 429


def test_events_are_relayed_as_they_come(gateway: Gateway) -> None:
    """Ten events 0.2 s apart: a gateway or picker that held them would deliver all within one pause."""
    with gateway.client.stream("POST", "/stream", content=b"{}") as answer:
        arrivals = [time.monotonic() for line in answer.iter_lines() if line]
    assert len(arrivals) == 10
    assert arrivals[-1] - arrivals[0] > 1.0


def test_a_picker_that_is_down_costs_no_request(gateway: Gateway) -> None:
    gateway.processes.end("picker")
    assert_all_served(gateway)


def test_a_picker_that_hangs_costs_no_request(gateway: Gateway) -> None:
    gateway.signal_picker(signal.SIGSTOP)
    assert_all_served(gateway)


def test_a_spoofed_header_is_ignored_while_the_picker_is_down(gateway: Gateway) -> None:
    gateway.processes.end("picker")
    gateway.wait_for_picker(used=False)
    spoofed = {"x-gateway-destination-endpoint": gateway.endpoints[1]}
    engines_used = {gateway.client.post("/x", content=b"{}", headers=spoofed).json()["engine"] for _ in range(40)}
    assert len(engines_used) > 1


def test_a_picker_that_hangs_in_the_middle_of_a_body_costs_no_request(gateway: Gateway) -> None:
    def pieces() -> Iterator[bytes]:
        for at in range(0, len(BODY), 500_000):
            if at == 1_000_000:
                time.sleep(0.1)  # the first million bytes are with the picker
                gateway.signal_picker(signal.SIGSTOP)
            yield BODY[at : at + 500_000]

    answer = gateway.client.post("/v1/completions", content=pieces())
    assert answer.status_code == 200
    assert answer.json()["body_sum"] == sum(BODY)


def test_a_picker_that_dies_with_a_body_costs_no_request(gateway: Gateway) -> None:
    def pieces() -> Iterator[bytes]:
        yield BODY[:1_000_000]
        time.sleep(0.1)
        gateway.processes.end("picker")
        yield BODY[1_000_000:]

    answer = gateway.client.post("/v1/completions", content=pieces())
    assert answer.status_code == 200
    assert answer.json()["body_sum"] == sum(BODY)


@pytest.mark.parametrize("body", [b"", b"{}", BODY], ids=["none", "small", "large"])
def test_a_picker_that_is_slow_is_passed_by(gateway: Gateway, body: bytes) -> None:
    answer = gateway.client.post("/v1/completions", content=body, headers={"x-test-wait": "20"})
    assert answer.status_code == 200
    assert answer.json()["body_sum"] == sum(body)
    assert "x-test-body-bytes" not in answer.json()["headers"]
    assert answer.elapsed.total_seconds() < 10


def test_an_answer_that_is_under_way_outlives_a_picker_that_does_not_see_it(gateway: Gateway) -> None:
    if not gateway.answers_outlive_picker:
        pytest.skip("the picker passes the answer on, so it ends with the picker")
    with gateway.client.stream("POST", "/stream", content=b"{}") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: 0"
        gateway.processes.end("picker")
        assert [line for line in lines if line][-1] == "data: 9"


@pytest.mark.parametrize("configuration", ["full-duplex", "headers-only"])
def test_an_engine_that_is_down_costs_no_request_while_the_picker_is_down_too(configuration: str) -> None:
    try:
        find("envoy")
    except LocalClusterError as reason:
        pytest.skip(f"no Envoy here: {reason}")
    with contextlib.ExitStack() as stack:
        addresses = [*stack.enter_context(engines(2)), *(("127.0.0.1", port) for port in free_ports(2))]
        processes = Processes(Path(tempfile.mkdtemp(prefix="tidefleet-envoy-")))
        stack.callback(processes.close)
        nobody = ("127.0.0.1", free_ports(1)[0])
        running = envoy.start(processes, configuration, picker=nobody, endpoints=addresses)
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=30))
        found = [client.post("/v1/x", content=BODY[:100]).status_code for _ in range(40)]
        assert found == [200] * 40


def assert_all_served(gateway: Gateway) -> None:
    for _ in range(6):
        for body in (None, b"{}", BODY):
            answer = gateway.client.request("GET" if body is None else "POST", "/v1/x", content=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["body_bytes"] == len(body or b"")
    gateway.wait_for_picker(used=False)
