"""A period from a real Prometheus, whose past is written by promtool."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from report_records import START, a_request, write
from typer.testing import CliRunner

from localcluster import binaries
from localcluster.ports import free_ports
from localcluster.processes import Processes
from tidefleet.cli.main import app
from tidefleet.reporting.period import Period
from tidefleet.reporting.prometheus import ASKED, add_bill, read_prometheus
from tidefleet.reporting.records import read_records
from tidefleet.reporting.report import Report, report_of
from tidefleet.reporting.values import By
from tidefleet.telemetry import METRICS, PREFIX
from tidefleet.telemetry.asking import Access, PrometheusError

TWO_HOURS = Period(START, START + 7200.0)
STEP = 30.0
CHAT = {"namespace": "ml", "pool": "chat"}
BATCH = {"namespace": "ml", "pool": "batch"}
H200, B200 = ({"accelerator": name, "capacity_type": "OnDemand"} for name in ("h200-sxm", "b200"))
TALK, CODE = {"workload_class": "talk"}, {"workload_class": "code"}
GAUGES = [
    ("plan_savings_usd_per_hour", CHAT, 77.0),
    ("plan_savings_usd_per_hour", BATCH, 0.25),
    ("pool_adopted_cost_usd_per_hour", CHAT, 11.5),
]
"""The pool chat costs 10.5 USD an hour, and 11.5 with the replicas that it adopted; batch adopted nothing."""

PER_HOUR: list[tuple[str, Mapping[str, str], float]] = [
    ("pool_cost_usd_total", CHAT | H200, 8.5),
    ("pool_cost_usd_total", CHAT | B200, 2.0),
    ("pool_cost_usd_total", BATCH | H200, 4.25),
    ("pool_kv_tier_cost_usd_total", CHAT | H200, 0.5),
    ("pool_kv_tier_cost_usd_total", BATCH | H200, 0.25),
    ("training_cost_usd_total", CHAT | H200, 3.0),
    ("fleet_idle_cost_usd_total", H200, 1.0),
    ("pool_tokens_total", CHAT | TALK | {"direction": "input"}, 4e6),
    ("pool_tokens_total", CHAT | TALK | {"direction": "cached"}, 6e6),
    ("pool_tokens_total", CHAT | TALK | {"direction": "output"}, 2e6),
    ("pool_tokens_total", CHAT | CODE | {"direction": "input"}, 1e6),
    ("pool_tokens_total", CHAT | CODE | {"direction": "output"}, 1e6),
    ("pool_tokens_total", BATCH | TALK | {"direction": "output"}, 1e6),
    ("router_requests_total", CHAT | TALK | {"status": "2xx"}, 900.0),
    ("router_requests_total", CHAT | TALK | {"status": "5xx"}, 90.0),
    ("router_requests_total", CHAT | TALK | {"status": "cut"}, 10.0),
    ("router_output_tokens_total", CHAT | TALK | {"slo": "met"}, 1.5e6),
    ("router_output_tokens_total", CHAT | TALK | {"slo": "missed"}, 0.5e6),
    ("request_cost_usd_sum", CHAT | TALK, 5.0),
    ("request_cost_usd_sum", CHAT | CODE, 1.0),
    ("pool_revenue_usd_total", CHAT | TALK, 20.0),
    ("pool_tasks_total", CHAT | {"outcome": "success"}, 50.0),
    ("pool_tasks_total", CHAT | {"outcome": "failure"}, 5.0),
    ("pool_needed_seconds_total", CHAT | {"work": "prefill"}, 600.0),
    ("pool_needed_seconds_total", CHAT | {"work": "decode"}, 1200.0),
    ("pool_needed_seconds_total", CHAT | {"work": "training"}, 88_888.0),
    ("pool_needed_seconds_total", BATCH | {"work": "decode"}, 900.0),
    ("pool_lost_seconds_total", CHAT | {"cause": "idle"}, 1200.0),
    ("pool_lost_seconds_total", CHAT | {"cause": "drain"}, 300.0),
    ("pool_lost_seconds_total", CHAT | {"cause": "warm"}, 100.0),
    ("pool_lost_seconds_total", CHAT | {"cause": "recompute"}, 200.0),
    ("pool_lost_seconds_total", CHAT | {"cause": "recall"}, 99_999.0),
    ("pool_lost_seconds_total", BATCH | {"cause": "idle"}, 2700.0),
    ("pool_recomputed_tokens_total", CHAT | {"cause": "evicted"}, 3e5),
    ("pool_recomputed_tokens_total", CHAT | {"cause": "misrouted"}, 1e5),
]
"""What each counter rises by in an hour."""


def openmetrics() -> str:
    """Three hours of counters that rise evenly, the period in their middle, and two gauges."""
    lines: list[str] = []

    def series(name: str, labels: Mapping[str, str], value: Any) -> None:
        told = ",".join(f'{key}="{one}"' for key, one in labels.items())
        at = START - 1800.0
        lines.extend(f"{name}{{{told}}} {value(n)} {at + STEP * n:.0f}" for n in range(round(10_800 / STEP)))

    for name in dict.fromkeys(name for name, _, _ in PER_HOUR):
        lines.append(f"# TYPE tidefleet_{name} unknown")
        for labels, rate in [(labels, rate) for each, labels, rate in PER_HOUR if each == name]:
            series(f"tidefleet_{name}", labels, lambda n, rate=rate: 100.0 + rate * STEP * n / 3600.0)
    for name, labels, value in GAUGES:
        if f"# TYPE tidefleet_{name} gauge" not in lines:
            lines.append(f"# TYPE tidefleet_{name} gauge")
        for replica in ("a", "b"):
            series(f"tidefleet_{name}", labels | {"instance": replica}, lambda _, value=value: value)
    return "\n".join([*lines, "# EOF\n"])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus with these three hours behind it."""
    place = tmp_path_factory.mktemp("prometheus")
    (place / "past.txt").write_text(openmetrics())
    (place / "prometheus.yml").write_text("{}\n")
    backfill = [binaries.find("promtool"), "tsdb", "create-blocks-from", "openmetrics", "past.txt", "data"]
    subprocess.run(backfill, cwd=place, check=True, capture_output=True)
    (port,) = free_ports(1)
    processes = Processes(place)
    try:
        processes.start("prometheus", [
            binaries.find("prometheus"), f"--config.file={place / 'prometheus.yml'}",
            f"--storage.tsdb.path={place / 'data'}", "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
        ])  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(address, processes)
        yield address
    finally:
        processes.close()


def wait_until_ready(address: str, processes: Processes) -> None:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{address}/-/ready", trust_env=False).is_success:
                return
        time.sleep(0.05)
    raise TimeoutError(processes.log_tail("prometheus"))


def report_by(url: str, by: By) -> Report:
    return report_of(read_prometheus(Access(url), by, TWO_HOURS))


def near(value: Any) -> Any:
    return pytest.approx(value, rel=2e-3)


def rows(report: Report) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report.as_json()["rows"]}


LINES = {"idle": 12.0, "drain": 1.5, "warm": 0.5, "training": 6.0, "capacity without a pool": 2.0}
"""The pool chat has 20 USD of chips and used 12; batch has 8 and needed a quarter of its seconds. Their KV tiers cost 1
and 0.5 USD beside that, and are no line, since both pools served."""


@pytest.mark.parametrize("by", [By.POOL, By.CLASS, By.ACCELERATOR])
def test_every_view_sums_to_the_one_bill(url: str, by: By) -> None:
    report = report_by(url, by)
    answer = report.as_json()
    assert answer["bill_usd"] == near(37.5)
    assert sum(row.allocated for row in report.bill.rows) + sum(report.bill.lines.values()) == report.bill.total
    assert {line["name"]: line["usd"] for line in answer["lines"]} == near(LINES)
    assert answer["savings_usd"] == near(2.5)
    assert answer["total"]["output_tokens"] == near(8e6)


def test_a_pool_has_what_its_counters_rose_by(url: str) -> None:
    found = rows(report_by(url, By.POOL))
    chat = {name: value for name, value in found["ml/chat"].items() if value is not None}
    expected = {
        "requests": 2000.0, "input_tokens": 1e7, "cached_tokens": 1.2e7, "output_tokens": 6e6, "good_tokens": 3e6,
        "usage_usd": 12.0, "allocated_usd": 13.0, "idle_usd": 8.0, "revenue_usd": 40.0, "margin_usd": 27.0,
        "slo_share": 0.75, "usd_per_million_tokens": 13.0 / 28.0, "usd_per_million_good_tokens": 13.0 / 3.0,
        "tasks_succeeded": 100.0, "tasks_failed": 10.0, "usd_per_successful_task": 0.12,
    }  # fmt: skip
    assert {name: chat[name] for name in expected} == near(expected)
    again = 20.0 * 200 / 3600
    assert chat["wasted_recomputed_usd"] == near({"evicted": 0.75 * again, "misrouted": 0.25 * again})
    assert found["ml/batch"]["allocated_usd"] == near(2.5)
    assert found["ml/batch"]["idle_usd"] == near(6.0)


def test_a_class_has_its_own_dollars_over_all_pools(url: str) -> None:
    found = rows(report_by(url, By.CLASS))
    assert {name: row["usage_usd"] for name, row in found.items()} == near({"ml/talk": 12.0, "ml/code": 2.0})


def test_a_type_has_its_share_of_what_its_pools_paid(url: str) -> None:
    report = report_by(url, By.ACCELERATOR)
    found = rows(report)
    assert {name: row["allocated_usd"] for name, row in found.items()} == near({"h200-sxm": 13.1, "b200": 2.4})
    assert any("pools of several types" in note for note in report.notes())


def test_an_idle_pool_is_told_with_its_dollars(url: str) -> None:
    (idle,) = [one for one in report_by(url, By.POOL).wasters if one.rule == "idle"]
    assert idle.where == "ml/batch"
    assert idle.usd == near(8.0 - 2.0 / 0.75)


def test_records_have_their_rows_and_prometheus_the_bill(url: str, tmp_path: Path) -> None:
    path = write(tmp_path / "usage.jsonl", a_request(usd=1.0), a_request(usd=3.0, tenant="b" * 16))
    found = read_records([path], By.TENANT, TWO_HOURS, top=9)
    add_bill(Access(url), found)
    report = report_of(found)
    answer = report.as_json()
    assert answer["bill_usd"] == near(37.5)
    assert {row["name"]: row["allocated_usd"] for row in answer["rows"]} == {
        "b" * 16: near(3.75),
        "9f86d081884c7d65": near(1.25),
    }
    assert {line["name"]: line["usd"] for line in answer["lines"]}["kv tiers"] == near(
        0.5
    )  # of batch: no record is of it
    assert sum(line["usd"] for line in answer["lines"]) == near(32.5)
    assert answer["savings_usd"] == near(2.5)


def test_every_metric_that_is_asked_for_is_exported_with_these_labels() -> None:
    for name, labels in ASKED.items():
        spec = METRICS.get(f"{PREFIX}{name}") or METRICS[f"{PREFIX}{name.removesuffix('_sum')}"]
        assert set(labels) <= set(spec.labels), name
        assert (spec.kind == "histogram") == name.endswith("_sum"), name


@pytest.mark.parametrize("by", [By.TENANT, By.TEAM, By.FEATURE])
def test_what_metrics_do_not_know_is_refused_and_records_are_pointed_at(url: str, by: By) -> None:
    with pytest.raises(PrometheusError, match=rf"has no {by}s, .* --records usage\.jsonl --by {by}"):
        read_prometheus(Access(url), by, TWO_HOURS)


def test_a_period_without_counters_is_a_clear_error(url: str) -> None:
    with pytest.raises(PrometheusError, match=r"no tidefleet_pool_cost_usd_total from 2025-10-.*is it kept that long"):
        read_prometheus(Access(url), By.POOL, Period(START - 40 * 86400.0, START - 39 * 86400.0))


def test_the_command_asks_a_prometheus(url: str) -> None:
    words = ["--prometheus", url, "--by", "pool", "--range", "2025-11-26T00:00..2025-11-26T02:00", "-o", "json"]
    told = CliRunner().invoke(app, ["report", *words])
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["bill_usd"] == near(37.5)


class Odd(BaseHTTPRequestHandler):
    """Answers what the test says."""

    answer: tuple[int, str, bytes] = (200, "application/json", b"")

    def do_POST(self) -> None:
        status, kind, body = self.answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.mark.parametrize(
    ("status", "kind", "body", "words"),
    [
        (404, "text/html", b"<html>", "answered 404: no answer of a Prometheus"),
        (200, "text/html", b"<html>", "answered 200: no answer of a Prometheus"),
        (200, "application/json", b"[]", "answered 200: no answer of a Prometheus"),
        (200, "application/json", b"{", "cannot be asked"),
        (422, "application/json", b'{"status":"error","error":"too many samples"}', "answered 422: too many samples"),
        (200, "application/json", b'{"status":"success","data":{"result":[{"value":1}]}}', "is no vector"),
        (200, "application/json", b'{"status":"success","data":7}', "holds no series"),
        (200, "application/json", b"[" * 100_000, "cannot be asked"),
        (200, "application/json", b'{"status":"success","data":{"result":[]}}', "no tidefleet_pool_cost_usd_total"),
    ],
)
def test_an_odd_answer_is_a_clear_error(status: int, kind: str, body: bytes, words: str) -> None:
    handler = type("Handler", (Odd,), {"answer": (status, kind, body)})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(PrometheusError, match=words):
            read_prometheus(Access(f"http://127.0.0.1:{server.server_port}"), By.POOL, TWO_HOURS)
        server.shutdown()


def test_no_address_and_nobody_there_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(PrometheusError, match=r"is no address; expected one like"):
        Access.with_file("prometheus:9090", None)
    with pytest.raises(PrometheusError, match=r"--prometheus-token-file .* cannot be read"):
        Access.with_file("http://prometheus:9090", tmp_path / "none")
    with pytest.raises(PrometheusError, match=r"cannot be asked"):
        read_prometheus(Access(f"http://127.0.0.1:{free_ports(1)[0]}"), By.POOL, TWO_HOURS)


def test_a_token_from_a_file_is_sent(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    seen: list[str | None] = []

    class Listening(Odd):
        answer = (200, "application/json", b'{"status":"success","data":{"result":[]}}')

        def do_POST(self) -> None:
            seen.append(self.headers["Authorization"])
            super().do_POST()

    with HTTPServer(("127.0.0.1", 0), Listening) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        access = Access.with_file(f"http://127.0.0.1:{server.server_port}/", tmp_path / "token")
        with pytest.raises(PrometheusError):
            read_prometheus(access, By.POOL, TWO_HOURS)
        server.shutdown()
    assert set(seen) == {"Bearer secret"}
