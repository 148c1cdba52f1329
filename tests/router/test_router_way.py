"""Real Envoy, the router, and emulated engines: where requests go, and what happens when engines go."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from emulated_ground import Emulated, emulated
from router_ground import (
    MODEL,
    Way,
    a_class_object,
    a_fleet,
    a_pool_object,
    a_served_pod,
    a_way,
    eventually,
)
from typer.testing import CliRunner

from tidefleet.cli.main import app

pytestmark = [pytest.mark.envoy, pytest.mark.needs_local_pods]
COUNT = 4
WORDS = "the quick brown fox jumps over the lazy dog and runs "


@dataclass
class Ground:
    """Engines, and the way to them."""

    way: Way
    engines: Emulated

    @property
    def pods(self) -> list[dict[str, Any]]:
        return self.engines.pods

    @property
    def addresses(self) -> list[str]:
        return self.engines.addresses

    def ask(self, *contents: str, session: str = "", **more: Any) -> httpx.Response:
        """Post a chat."""
        turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": c} for i, c in enumerate(contents)]
        body = {"model": MODEL, "messages": turns, "max_tokens": 4, **more}
        return self.way.client.post(
            "/v1/chat/completions", json=body, headers={"x-session-id": session} if session else {}
        )


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with emulated(COUNT) as engines, a_way(a_fleet(engines.pods), engines.places) as way:
        yield Ground(way, engines)


@pytest.fixture(autouse=True)
def whole(ground: Ground) -> None:
    """Each test begins with all engines in place."""
    ground.way.update(a_fleet(ground.pods))
    eventually(lambda: all(one["state"] == "healthy" for one in ground.way.pool()["endpoints"]))


def test_a_session_stays_where_its_cache_is(ground: Ground) -> None:
    homes: dict[int, list[str]] = {}
    for turn in range(4):
        for number in range(8):
            said = [f"{number} {WORDS * 60}", *["go on"] * (2 * turn)]
            assert ground.ask(*said, session=f"spread-{number}").status_code == 200
            homes.setdefault(number, []).append(ground.way.picks()[0]["address"])
    assert all(len(set(one)) == 1 for one in homes.values()), homes


def test_the_cached_part_is_predicted_as_the_engine_counts_it(ground: Ground) -> None:
    said = [f"predict {WORDS * 200}"]
    ground.ask(*said, session="predict")
    for _ in range(3):
        said += ["yes", "and then " + WORDS]
        answer = ground.ask(*said, session="predict").json()
        told = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        predicted = ground.way.picks()[0]["chosen"]["hitTokens"]["device"]
        assert told > 1000
        assert abs(predicted - told) < 0.15 * told


def test_a_shared_system_prompt_does_not_draw_everybody_to_one_engine(ground: Ground) -> None:
    system = "You are helpful. " * 60

    def one(number: int) -> None:
        turns = [{"role": "system", "content": system}, {"role": "user", "content": f"{number} {WORDS * 200}"}]
        body = {"model": MODEL, "messages": turns, "max_tokens": 40}
        assert ground.way.client.post("/v1/chat/completions", json=body).status_code == 200

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(one, range(48)))
    used = Counter(pick["address"] for pick in ground.way.picks()[:48])
    assert len(used) == COUNT
    assert max(used.values()) <= 24


def test_an_engine_that_fails_costs_no_request_and_is_used_again_when_it_is_back(ground: Ground) -> None:
    ground.ask("x " + WORDS * 100, session="fails")
    home = ground.way.picks()[0]["address"]
    index = ground.addresses.index(home)
    ground.engines.fault(index, "crash")
    try:
        for turn in range(6):
            answer = ground.ask("x " + WORDS * 100, *["go"] * (2 * turn), session="fails")
            assert answer.status_code == 200, answer.text
        states = {one["address"]: one["state"] for one in ground.way.pool()["endpoints"]}
        assert states[home] == "ejected"
        assert home not in {pick["address"] for pick in ground.way.picks()[:5]}
    finally:
        ground.engines.fault(index, None)
    eventually(lambda: all(one["state"] == "healthy" for one in ground.way.pool()["endpoints"]))


def test_a_session_whose_home_leaves_is_moved_once_and_stays_there(ground: Ground) -> None:
    said = ["move " + WORDS * 100]
    ground.ask(*said, session="moves")
    home = ground.way.picks()[0]["address"]
    index = ground.addresses.index(home)
    leaving = a_served_pod(
        (home.rpartition(":")[0], int(home.rpartition(":")[2])),
        ground.pods[index]["metadata"]["name"],
        **{"tidefleet.io/routable": "false"},
    )
    ground.way.update(a_fleet([*ground.pods[:index], leaving, *ground.pods[index + 1 :]]))
    after = []
    for _ in range(3):
        said += ["yes", "more"]
        assert ground.ask(*said, session="moves").status_code == 200
        after.append(ground.way.picks()[0]["address"])
    assert home not in after
    assert len(set(after)) == 1
    assert "moved from" in ground.way.picks()[2]["reason"]
    assert ground.way.metric("tidefleet_router_moved_sessions_total") >= 1


def test_streams_pass_and_are_counted(ground: Ground) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi " * 50}], "max_tokens": 30, "stream": True}
    body["stream_options"] = {"include_usage": True}
    before = ground.way.metric("tidefleet_router_output_tokens_total")
    with ground.way.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data:")]
    assert lines[-1] == "data: [DONE]"
    eventually(lambda: ground.way.metric("tidefleet_router_output_tokens_total") >= before + 30)


@pytest.mark.parametrize(
    ("path", "content", "status", "words"),
    [
        ("/v1/chat/completions", b"{", 400, "no JSON"),
        ("/v1/chat/completions", b'{"messages": []}', 400, "model"),
        ("/v1/chat/completions", b'{"model": "nobody", "messages": []}', 404, "no pool serves this model"),
        ("/v1/completions", b'{"model": "llama-3.1-8b", "prompt": {}}', 400, "prompt"),
    ],
)
def test_bad_requests_get_a_status_and_words(
    ground: Ground, path: str, content: bytes, status: int, words: str
) -> None:
    answer = ground.way.client.post(path, content=content)
    assert answer.status_code == status
    assert words in answer.text


def test_a_class_is_told_by_its_header_and_counted_by_its_name(ground: Ground) -> None:
    gold = a_class_object("gold", match={"headers": [{"name": "x-plan", "value": "gold"}]}, priority=500)
    rest = a_class_object("rest", priority=1)
    ground.way.update(a_fleet(ground.pods, classes=[rest, gold]))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    ground.way.client.post("/v1/chat/completions", json=body, headers={"x-plan": "gold"})
    assert ground.way.picks()[0]["workloadClass"] == "gold"
    ground.way.client.post("/v1/chat/completions", json=body)
    assert ground.way.picks()[0]["workloadClass"] == "rest"
    eventually(lambda: ground.way.metric("tidefleet_router_requests_total", workload_class="gold", status="2xx") >= 1)


def test_an_adapter_is_asked_for_by_its_name(ground: Ground) -> None:
    pool = a_pool_object(model={"name": MODEL, "adapters": [{"name": "chat-legal"}]})
    ground.way.update(a_fleet(ground.pods, pool=pool))
    body = {"model": "chat-legal", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    ground.way.client.post("/v1/chat/completions", json=body)
    assert ground.way.picks()[0]["model"] == "chat-legal"


def test_a_pool_at_zero_lets_requests_wait_until_it_wakes(ground: Ground) -> None:
    ground.way.update(a_fleet([]))
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(ground.ask, f"wait {index}") for index in range(4)]
        eventually(lambda: ground.way.pool()["queueRequests"] == 4)
        ground.way.update(a_fleet(ground.pods))
        assert [one.result(30).status_code for one in waiting] == [200] * 4


def test_what_would_be_picked_is_explained_without_sending_anything(ground: Ground) -> None:
    before = ground.way.metric("tidefleet_router_decisions_total")
    body = {"model": MODEL, "messages": [{"role": "user", "content": WORDS * 50}]}
    found = ground.way.http.post("/explain", json=body).json()
    assert found["address"] in ground.addresses
    assert len(found["others"]) == COUNT - 1
    assert found["expectedTtftSeconds"] > 0
    assert ground.way.metric("tidefleet_router_decisions_total") == before
    refused = ground.way.http.post("/explain", json={"model": "nobody", "messages": []}).json()
    assert refused["status"] == 404


def test_nothing_of_a_request_reaches_metrics_logs_or_debug_pages(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    ground.ask("SECRETPROMPT " * 30, session="SECRETSESSION")
    pages = [ground.way.http.get(path).text for path in ("/metrics", "/debug/pools", "/debug/picks?limit=256")]
    for text in [*pages, caplog.text]:
        assert "SECRET" not in text


def tidefleet(way: Way, *arguments: str, stdin: str = "") -> tuple[int, str]:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "--router", str(way.http.base_url)], input=stdin)
    return done.exit_code, done.output


def test_the_command_explains_the_last_picks_and_a_request_of_ones_own(ground: Ground, tmp_path: Path) -> None:
    ground.ask("cli " + WORDS * 100, session="cli")
    status, said = tidefleet(ground.way, "route", "explain", "--limit", "1")
    assert status == 0, said
    assert "prod/chat" in said
    assert "first token in" in said
    assert "its KV until the next turn: device" in said
    body = {"model": MODEL, "messages": [{"role": "user", "content": "cli " + WORDS * 100}]}
    (tmp_path / "body.json").write_text(json.dumps(body))
    status, said = tidefleet(
        ground.way, "route", "explain", str(tmp_path / "body.json"), "-H", "x-session-id: cli", "-o", "json"
    )
    assert status == 0, said
    found = json.loads(said)
    assert max(one["hitTokens"]["device"] for one in (found["chosen"], *found["others"])) > 500
    assert found["afterwards"]["tier"] == "device", "there is no tier below"
    assert "there is no lower tier" in found["afterwards"]["reason"]
    status, said = tidefleet(ground.way, "route", "explain", "-", stdin='{"model": "nobody", "messages": []}')
    assert (status, "no pool serves this model" in said) == (1, True)
    status, said = tidefleet(ground.way, "route", "explain", "-", stdin="{")
    assert (status, "no JSON" in said) == (2, True)


def test_the_command_shows_pools_and_endpoints(ground: Ground) -> None:
    ground.ask("top")
    status, said = tidefleet(ground.way, "top", "--once")
    assert status == 0, said
    assert "max/mean load" in said
    assert all(one["metadata"]["name"] in said for one in ground.pods)
    status, said = tidefleet(ground.way, "top", "-o", "json")
    assert json.loads(said)[0]["pool"] == "prod/chat"


def test_a_router_that_is_not_there_is_told_with_what_to_do() -> None:
    done = CliRunner().invoke(app, ["top", "--router", "http://127.0.0.1:1"])
    assert done.exit_code == 1
    assert "port-forward" in done.output
