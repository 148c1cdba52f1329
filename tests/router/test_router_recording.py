"""What chips are paid, minute by minute, whatever the clock does; and records at a real OpenTelemetry endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from router_ground import a_fleet, a_served_pod
from test_router_records import a_record

from tidefleet.planning.from_api import chosen_price
from tidefleet.router import exporting
from tidefleet.router.exporting import Collector, Exporter, headers_of
from tidefleet.router.paying import Payments, chips_of
from tidefleet.router.recording import Recording, RecordSettings
from tidefleet.router.records import FileSettings
from tidefleet.router.usage_values import PaidRecord

KEY = ("prod", "chat", "h100-sxm", "OnDemand")
START = 1_700_000_040.0  # a whole minute


def seconds(told: list[PaidRecord]) -> list[tuple[float, float, float]]:
    return [(one.start, one.end, one.accelerator_seconds) for one in told]


def test_chips_are_counted_by_pool_and_kind_with_their_rent() -> None:
    fleet = a_fleet([a_served_pod((f"10.0.0.{one}", 8000), f"engine-{one}") for one in range(1, 4)])
    ((key, (chips, usd)),) = chips_of(fleet).items()
    assert (key, chips) == (KEY, 3.0)
    price = chosen_price(fleet.accelerators["h100-sxm"], "OnDemand")
    assert price is not None
    assert usd == pytest.approx(3 * float(price.usd_per_chip_hour) / 3600)


def test_every_whole_minute_is_told_once_with_its_seconds_and_dollars() -> None:
    payments = Payments("r")
    assert payments.take({KEY: (4.0, 0.01)}, 500.0, START + 30) == []
    told = [one for step in range(150) for one in payments.pass_(501.0 + step, START + 31 + step)]
    assert seconds(told) == [(START + 60 * n, START + 60 * (n + 1), pytest.approx(240.0)) for n in range(3)]
    assert [one.usd for one in told] == [pytest.approx(0.6)] * 3
    last = payments.finish(650.0, START + 180)
    assert seconds(last) == []


def test_chips_that_come_and_go_are_paid_for_while_they_are_there() -> None:
    payments = Payments("r")
    payments.take({KEY: (1.0, 0.01)}, 0.0, START)
    payments.take({KEY: (3.0, 0.03)}, 20.0, START + 20)
    payments.take({}, 50.0, START + 50)
    told = payments.pass_(90.0, START + 90)
    assert seconds(told) == [(START, START + 60, pytest.approx(20 + 90))]
    assert told[0].usd == pytest.approx(1.1)
    assert payments.finish(100.0, START + 100) == []


def test_a_pass_that_comes_late_tells_all_minutes_between() -> None:
    payments = Payments("r")
    payments.take({KEY: (1.0, None)}, 0.0, START)
    told = payments.pass_(210.0, START + 210)
    assert [one.accelerator_seconds for one in told] == [pytest.approx(60.0)] * 3
    assert {one.usd for one in told} == {None}
    assert seconds(payments.finish(210.0, START + 210)) == [(START + 180, START + 210, pytest.approx(30.0))]


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0, 100.0, -3.0])
def test_a_jump_of_the_clock_is_paid_by_nobody(jump: float) -> None:
    payments, told = Payments("r"), []
    payments.take({KEY: (2.0, 0.5)}, 0.0, START)
    for step in range(600):
        wall = START + step + (jump if step >= 90 else 0.0)
        told += payments.pass_(float(step), wall)
    told += payments.finish(600.0, START + 600 + jump)
    assert sum(one.accelerator_seconds for one in told) == pytest.approx(1200.0)
    assert sum(one.usd or 0.0 for one in told) == pytest.approx(300.0)
    assert all(one.end > one.start for one in told)


# --- OpenTelemetry ----------------------------------------------------------------------------------------------------


class Collected:
    """A collector on a port of this machine."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.status, self.answer = 200, "{}"
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/json"
        self.headers.append(request.headers.get("authorization", ""))
        if self.status == 200:
            self.requests.append(await request.json())
        return web.Response(status=self.status, text=self.answer, content_type="application/json")

    def records(self) -> list[dict[str, Any]]:
        return [
            one
            for request in self.requests
            for resource in request["resourceLogs"]
            for scope in resource["scopeLogs"]
            for one in scope["logRecords"]
        ]


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[Collected]:
    found, app = Collected(), web.Application()
    app.router.add_post("/v1/logs", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.port = runner.addresses[0][1]
    try:
        yield found
    finally:
        await runner.cleanup()


async def eventually(check: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110 - of what other threads and processes do
            await asyncio.sleep(0.01)


def test_records_reach_a_collector_as_log_records() -> None:
    async def whole() -> None:
        async with collecting() as collector:
            where = Collector(f"http://127.0.0.1:{collector.port}", (("authorization", "Bearer x y"),))
            exporter = Exporter(where, source="router-1", period_seconds=0.01)
            exporter.start()
            for number in range(600):
                exporter.add(a_record(number, tenant="9f86d081884c7d65", usd=0.25))
            await eventually(lambda: exporter.written == 600)
            await exporter.close()
            records = collector.records()
            assert len(records) == 600
            assert max(len(one["resourceLogs"][0]["scopeLogs"][0]["logRecords"]) for one in collector.requests) <= 256
            first = records[7]
            said = {one["key"]: one["value"] for one in first["attributes"]}
            assert first["timeUnixNano"] == str(7 * 10**9)
            assert first["eventName"] == "tidefleet.usage.request"
            assert said["tidefleet.tenant"] == {"stringValue": "9f86d081884c7d65"}
            assert said["tidefleet.input_tokens"] == {"intValue": "7"}
            assert said["tidefleet.usd"] == {"doubleValue": 0.25}
            assert "tidefleet.slo" not in said
            resource = collector.requests[0]["resourceLogs"][0]["resource"]["attributes"]
            assert {"key": "service.instance.id", "value": {"stringValue": "router-1"}} in resource
            assert set(collector.headers) == {"Bearer x y"}

    asyncio.run(whole())


def test_a_collector_that_is_away_gets_all_of_them_later_and_one_that_refuses_loses_them() -> None:
    async def whole() -> None:
        async with collecting() as collector:
            collector.status = 503
            exporter = Exporter(
                Collector(f"http://127.0.0.1:{collector.port}/v1/logs"), source="r", period_seconds=0.01
            )
            exporter.start()
            for number in range(10):
                exporter.add(a_record(number))
            await eventually(lambda: collector.headers)
            assert (exporter.written, exporter.lost) == (0, 0)
            collector.status = 200
            await eventually(lambda: exporter.written == 10)
            collector.answer = json.dumps({"partialSuccess": {"rejectedLogRecords": "2"}})
            for number in range(5):
                exporter.add(a_record(number))
            await eventually(lambda: exporter.written == 13)
            assert exporter.lost == 2
            collector.status = 400
            exporter.add(a_record(0))
            await eventually(lambda: exporter.lost == 3)
            await exporter.close()

    asyncio.run(whole())


def test_without_a_collector_memory_is_bounded_and_what_is_left_at_the_end_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporting, "MOST_QUEUED", 100)
    monkeypatch.setattr(exporting, "END_SECONDS", 0.2)

    async def whole() -> None:
        exporter = Exporter(Collector("http://127.0.0.1:9"), source="r", period_seconds=0.01)
        exporter.start()
        for number in range(150):
            exporter.add(a_record(number))
        await asyncio.sleep(0.1)
        await exporter.close()
        assert (exporter.written, exporter.lost) == (0, 150)

    asyncio.run(whole())


def test_headers_are_read_as_opentelemetry_has_them() -> None:
    assert headers_of("authorization=Basic%20abc,x-scope = prod,,broken") == (
        ("authorization", "Basic abc"),
        ("x-scope", "prod"),
    )
    with pytest.raises(ValueError, match="expected a URL"):
        Collector("collector:4318")


def test_one_recording_feeds_file_and_collector_and_tells_what_was_paid(tmp_path: Any) -> None:
    async def whole() -> None:
        async with collecting() as collector:
            settings = RecordSettings(FileSettings(tmp_path), Collector(f"http://127.0.0.1:{collector.port}"))
            now = [START]
            recording = Recording(settings, worker=1, now=lambda: now[0], wall=lambda: now[0])
            recording.start()
            recording.take(a_fleet([a_served_pod(("10.0.0.1", 8000), "engine")]))
            recording.add(a_record(1))
            now[0] += 61.0
            await asyncio.sleep(0)
            await recording.close()
            (path,) = tmp_path.glob("*-1.jsonl")
            lines = [json.loads(one) for one in path.read_text().splitlines()]
            assert [one["type"] for one in lines] == ["request", "paid", "paid"]
            assert [one.get("accelerator_seconds") for one in lines[1:]] == [pytest.approx(60.0), pytest.approx(1.0)]
            assert len(collector.records()) == 3
            assert recording.counts() == [("file", 3, 0), ("otlp", 3, 0)]
            assert recording.counts() == [("file", 0, 0), ("otlp", 0, 0)]

    asyncio.run(whole())
