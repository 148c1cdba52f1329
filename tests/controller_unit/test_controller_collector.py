"""One pool's trouble while engines are read stays that pool's, and is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tidefleet.cluster.clock import RealClock
from tidefleet.controller import collector as module
from tidefleet.controller.collector import Collector, PoolKey, Target
from tidefleet.planning.demand import Cause, Empty, Stale
from tidefleet.telemetry import Telemetry

PAGE = b"""\
vllm:prompt_tokens_total 100
vllm:generation_tokens_total 20
vllm:request_success_total 2
vllm:num_requests_running 1
vllm:num_requests_waiting 0
"""
GOOD, BAD = ("prod", "good"), ("prod", "bad")


class Engine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PAGE if "bad" not in self.path else b"poison\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def one_round(targets: dict[PoolKey, tuple[Target, ...]], telemetry: Telemetry) -> Collector:
    """A collector after its first round."""
    finished = threading.Event()
    collector = Collector(
        lambda: targets, clock=RealClock(), period_seconds=60.0, telemetry=telemetry, on_round=finished.set
    )
    collector.start()
    assert finished.wait(30)
    collector.stop()
    return collector


def an_engine(address: str, pool: PoolKey, name: str = "0") -> Target:
    return Target(f"{pool[1]}-{name}", f"prod/{pool[1]}-{name}", f"{address}/{pool[1]}")


def test_a_pool_whose_answers_cannot_be_taken_in_does_not_keep_others_from_being_read(address, monkeypatch) -> None:
    telemetry = Telemetry()
    taken_in = module.pool_reading

    def surprising(engines, **rest):
        if engines.fault is not None and "bad" in engines.fault.why:
            raise KeyError("a surprise")
        return taken_in(engines, **rest)

    monkeypatch.setattr(module, "pool_reading", surprising)
    found = one_round({BAD: (an_engine(address, BAD),), GOOD: (an_engine(address, GOOD),)}, telemetry)
    assert found.rounds == 1
    assert isinstance(found.reading(GOOD), Empty)  # a first sample, and nothing to compare it with yet
    reading = found.reading(BAD)
    assert isinstance(reading, Stale)
    assert (reading.cause, reading.why) == (
        Cause.UNREADABLE,
        "reading the engines failed: KeyError: 'a surprise'",
    )
    assert telemetry.value("tidefleet_reconcile_errors_total", kind="Collect", reason="KeyError") == 1.0


def test_an_engine_that_breaks_the_reader_counts_as_one_faulty_engine_of_its_pool(address, monkeypatch) -> None:
    telemetry = Telemetry()
    parse = module.sample_of

    def surprising(page, **rest):
        if page.startswith(b"poison"):
            raise RecursionError("too deep")
        return parse(page, **rest)

    monkeypatch.setattr(module, "sample_of", surprising)
    both = (an_engine(address, GOOD), Target("bad-0", "prod/bad-0", f"{address}/bad"))
    found = one_round({GOOD: both, BAD: (an_engine(address, BAD),)}, telemetry)
    reading = found.reading(BAD)
    assert isinstance(reading, Stale)
    assert reading.why == "none of 1 engines can be read: prod/bad-0 cannot be read: RecursionError: too deep"
    assert telemetry.value("tidefleet_reconcile_errors_total", kind="Collect", reason="RecursionError") == 2.0
    assert telemetry.value("tidefleet_empty_answers_total", source="engines") == 2.0


def test_targets_that_cannot_be_told_fail_one_round_and_are_counted() -> None:
    telemetry, finished, calls = Telemetry(), threading.Event(), list[None]()

    def targets() -> dict[PoolKey, tuple[Target, ...]]:
        calls.append(None)
        if len(calls) == 1:
            raise ZeroDivisionError
        return {}

    def after_a_round() -> None:
        if len(calls) > 1:
            finished.set()

    collector = Collector(targets, clock=RealClock(), period_seconds=0.01, telemetry=telemetry, on_round=after_a_round)
    collector.start()
    assert finished.wait(30)
    collector.stop()
    assert telemetry.value("tidefleet_reconcile_errors_total", kind="Collect", reason="ZeroDivisionError") == 1.0
