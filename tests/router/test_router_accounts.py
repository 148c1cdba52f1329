"""Real Envoy, the router and emulated engines: every view of the requests of two tenants sums to one bill."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from emulated_ground import emulated
from router_ground import MODEL, Way, a_class_object, a_fleet, a_way, eventually

from tidefleet.router.recording import RecordSettings
from tidefleet.router.records import FileSettings

pytestmark = [pytest.mark.envoy, pytest.mark.needs_local_pods]
ENGINES = 2
LIMIT = 40_000
CLASSES = (
    a_class_object(
        "agents",
        match={"headers": [{"name": "x-class", "value": "agents"}]},
        tenantKey={"header": "x-tenant"},
        objectives=[{"metric": metric, "milliseconds": 60_000} for metric in ("TTFT", "TPOT")],
    ),
    a_class_object(
        "chat",
        match={"headers": [{"name": "x-class", "value": "chat"}]},
        tenantKey={"header": "x-tenant"},
        limits={"tokensPerMinutePerTenant": LIMIT},
        tokens={"input": {"mean": 200}, "output": {"mean": 20}},
        revenue={"usage": {"usdPerMillionInputTokens": "2", "usdPerMillionOutputTokens": "10"}},
    ),
)


def post(way: Way, tenant: str, wclass: str, words: int, number: int) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"{number} {'word ' * words}"}], "max_tokens": 20}
    headers = {"x-tenant": tenant, "x-class": wclass, "x-task-id": f"{tenant}-{number // 5}"}
    if number % 5 == 4:
        headers["x-task-outcome"] = "success"
    return way.client.post("/v1/chat/completions", json=body, headers=headers)


def test_records_of_tenants_and_classes_sum_to_the_counters_and_with_idle_to_what_was_paid(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    settings = RecordSettings(file=FileSettings(path))
    with (
        emulated(ENGINES) as engines,
        a_way(a_fleet(engines.pods, classes=CLASSES), engines.places, records=settings) as way,
        ThreadPoolExecutor(8) as threads,
    ):
        asked = [(tenant, wclass) for tenant in ("acme", "globex") for wclass in ("agents", "chat")]
        answers = list(threads.map(lambda number: post(way, *asked[number // 5 % 4], 100, number), range(80)))
        assert Counter(one.status_code for one in answers) == {200: 80}
        capped = None
        for number in range(80, 140):
            capped = post(way, "globex", "chat", 3000, number)
            if capped.status_code != 200:
                break
        assert capped is not None
        assert capped.status_code == 429
        assert f"{LIMIT:,} tokens a minute" in capped.text
        assert int(capped.headers["retry-after"]) >= 1
        assert post(way, "acme", "chat", 100, 200).status_code == 200
        assert post(way, "globex", "agents", 100, 201).status_code == 200, "the class without a limit"
        assert way.metric("tidefleet_router_decisions_total", outcome="capped") == 1
        answered = 80 + (number - 80) + 2
        eventually(lambda: way.metric("tidefleet_router_requests_total", workload_class="agents") == 41)
        eventually(lambda: way.metric("tidefleet_router_requests_total", workload_class="chat") == answered - 41)
        counted = {
            wclass: {
                name: way.metric(f"tidefleet_{name}", workload_class=wclass)
                for name in ("router_prompt_tokens_total", "router_output_tokens_total", "request_cost_usd_sum")
            }
            for wclass in ("agents", "chat")
        }
        tasks = way.metric("tidefleet_pool_tasks_total", outcome="success")
    records, paid = read(path)
    ok = [one for one in records if one["result"] == "ok" and one["workload_class"]]
    assert len(ok) == answered
    for wclass, sums in counted.items():
        own = [one for one in ok if one["workload_class"] == wclass]
        assert sum(one["input_tokens"] + one["cached_tokens"] for one in own) == sums["router_prompt_tokens_total"]
        assert sum(one["output_tokens"] for one in own) == sums["router_output_tokens_total"]
        assert sum(one["usd"] for one in own) == pytest.approx(sums["request_cost_usd_sum"], rel=1e-6)
        assert len({one["tenant"] for one in own}) == 2
        assert {one["slo"] for one in own} == {"met" if wclass == "agents" else None}
    assert tasks == len({one["task"] for one in ok if one["outcome"] == "success"})
    refused = [one for one in records if one["result"] == "refused"]
    heavy = Counter(one["tenant"] for one in ok if one["workload_class"] == "chat").most_common(1)[0][0]
    assert [one["tenant"] for one in refused] == [heavy]
    assert "acme" not in path.read_text()
    settles(records, paid)


def settles(records: list[dict[str, Any]], paid: list[dict[str, Any]]) -> None:
    """What records took and what was idle is what chips were paid for, and that is their number times the time."""
    whole = max(one["end"] for one in paid) - min(one["start"] for one in paid)
    assert sum(one["accelerator_seconds"] for one in paid) == pytest.approx(ENGINES * whole, rel=1e-3)
    bill = sum(one["usd"] for one in paid)
    rent = bill / sum(one["accelerator_seconds"] for one in paid)
    used = sum(one["usd"] for one in records)
    assert used == pytest.approx(rent * sum(one["accelerator_seconds"] for one in records), rel=1e-6)
    assert used > 0.0
    share = min(1.0, bill / used)
    by_tenant: Counter[str] = Counter()
    for one in records:
        by_tenant[one["tenant"] or ""] += one["usd"] * share
    idle = bill - used * share
    assert idle >= 0.0
    assert sum(by_tenant.values()) + idle == pytest.approx(bill, rel=1e-3)


def read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records of requests, and of paid minutes; none was lost."""
    lines = [json.loads(one) for one in path.read_text(encoding="utf-8").splitlines()]
    assert {one["v"] for one in lines} == {1}
    assert not [one for one in lines if one["type"] == "lost"]
    return [one for one in lines if one["type"] == "request"], [one for one in lines if one["type"] == "paid"]
