"""Two real vLLM engines behind the router and a real Envoy: tokens, KV events, hits, a session that outlives one."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from router_ground import Way, a_fleet, a_pool_object, a_way, eventually

from localcluster.processes import Processes
from realengine import engine, environment, model
from tidefleet.cluster.labels import POOL_LABEL
from tidefleet.router.bodies import read
from tidefleet.router.discovery import Fleet
from tidefleet.router.tokens import PromptTokens

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]
NAME = "tiny"
WORDS = "the quick brown fox jumps over the lazy dog and runs. "
STORE_BYTES_PER_SECOND = 200_000_000


@dataclass
class Ground:
    """Engines and the way to them."""

    way: Way
    engines: list[engine.Engine]
    tokens: PromptTokens
    processes: Processes

    def ask(self, said: list[str], session: str) -> dict[str, Any]:
        """Post a chat through Envoy."""
        answer = self.way.client.post("/v1/chat/completions", json=body(said), headers={"x-session-id": session})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def counted(self, name: str, address: str) -> float:
        """A counter of an engine."""
        page = httpx.get(f"http://{address}/metrics", timeout=10).text
        return sum(float(one) for one in re.findall(rf"^{name}\{{.*\}} (\S+)$", page, re.MULTILINE))

    def hits(self) -> float:
        """Prompt tokens that the engines found in their own caches."""
        return sum(self.counted("vllm:prefix_cache_hits_total", one.address) for one in self.engines)


def body(said: list[str], tokens: int = 4) -> dict[str, Any]:
    turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": one} for i, one in enumerate(said)]
    return {"model": NAME, "messages": turns, "max_tokens": tokens, "temperature": 0}


def pods(engines: list[engine.Engine], config: dict[str, Any], leaving: int | None = None) -> Fleet:
    """The fleet of pods that these engines would be."""
    raws = []
    for index, one in enumerate(engines):
        routable = "false" if index == leaving else "true"
        facts = {"model": NAME, "accelerator": "cpu", "config": config, "port": one.port, "servedModelName": NAME}
        raws.append(
            {
                "metadata": {
                    "namespace": "prod",
                    "name": one.name,
                    "uid": one.name,
                    "labels": {POOL_LABEL: "chat", "tidefleet.io/option": "x", "tidefleet.io/routable": routable},
                    "annotations": {"tidefleet.io/engine": json.dumps(facts)},
                },
                "spec": {"containers": [{"name": "engine", "image": "e", "args": one.arguments}]},
                "status": {
                    "phase": "Running",
                    "podIP": "127.0.0.1",
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }
        )
    tier = {
        "medium": "Shared",
        "maxBytesPerReplica": 10**9,
        "bytesPerSecond": STORE_BYTES_PER_SECOND,
        "latencyMicroseconds": 1000,
    }
    pool = a_pool_object(model={"name": NAME, "architecture": config}, kvCache={"tiers": [tier]})
    return a_fleet(raws, pool=pool)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = model.write_model(tmp_path_factory.mktemp("model") / NAME)
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())
    found["_directory"] = str(directory)
    return found


@pytest.fixture(scope="module")
def ground(config: dict[str, Any]) -> Iterator[Ground]:
    environment.ensure()
    directory = Path(config.pop("_directory"))
    work = Path(tempfile.mkdtemp(prefix="tidefleet-engines-"))
    store = work / "store"
    store.mkdir()
    processes = Processes(work)
    try:
        engines = [
            engine.start(processes, f"vllm-{index}", directory, served_name=NAME, shared_store=store)
            for index in range(2)
        ]
        for one in engines:
            engine.wait(processes, one)
        addresses = [("127.0.0.1", one.port) for one in engines]
        with a_way(pods(engines, config), addresses, tokenizers=((NAME, directory),)) as way:
            yield Ground(way, engines, PromptTokens(directory), processes)
    finally:
        processes.close()


@pytest.fixture(autouse=True)
def both(ground: Ground, config: dict[str, Any]) -> None:
    """Each test begins with both engines."""
    ground.way.update(pods(ground.engines, config))


def test_prompts_are_the_engines_own_tokens(ground: Ground) -> None:
    address = ground.engines[0].address
    for said in (["hello"], [WORDS * 20, "yes,  it is\n\n", "\tgo on äöü 中文 🙂"], ["  spaces  "]):
        asked = {key: value for key, value in body(said).items() if key in ("model", "messages")}
        theirs = httpx.post(f"http://{address}/tokenize", json=asked, timeout=30).json()["tokens"]
        ours = ground.tokens.encode(read("/v1/chat/completions", json.dumps(body(said)).encode()))
        assert ours.tolist() == theirs
    theirs = httpx.post(f"http://{address}/tokenize", json={"model": NAME, "prompt": "plain text"}, timeout=30).json()
    ours = ground.tokens.encode(read("/v1/completions", b'{"model": "tiny", "prompt": "plain text"}'))
    assert ours.tolist() == theirs["tokens"]


def test_what_the_index_predicts_is_what_the_engines_count(ground: Ground) -> None:
    before, predicted, told = ground.hits(), 0, 0
    for turn in range(3):
        for number in range(4):
            said = [f"{number} {WORDS * (10 + 3 * number)}", *["well", f"more {WORDS * 2}"] * turn]
            usage = ground.ask(said, f"hits-{number}")["usage"]
            pick = ground.way.picks()[0]
            assert pick["tokensExact"]
            assert pick["promptTokens"] == usage["prompt_tokens"]
            predicted += pick["chosen"]["hitTokens"]["device"]
            told += (usage["prompt_tokens_details"] or {}).get("cached_tokens", 0)
            time.sleep(0.2)  # the events of this answer arrive before the session's next turn
    counted = ground.hits() - before
    assert counted > 3000
    assert abs(predicted - counted) <= 0.02 * counted
    assert abs(told - counted) <= 0.02 * counted


def test_a_session_outlives_its_replica_by_the_shared_store(ground: Ground, config: dict[str, Any]) -> None:
    said = ["outlive " + WORDS * 30]
    ground.ask(said, "outlives")
    home = ground.way.picks()[0]["address"]
    (index,) = (at for at, one in enumerate(ground.engines) if one.address == home)
    other = ground.engines[1 - index]
    eventually(lambda: ground.way.pool()["blocks"] > 0)
    time.sleep(0.5)
    ground.way.update(pods(ground.engines, config, leaving=index))
    before = ground.counted("vllm:external_prefix_cache_hits_total", other.address)
    aligned = (len(ground.tokens.encode(read("/v1/chat/completions", json.dumps(body(said)).encode()))) - 1) // 32 * 32
    said += ["yes", "and then"]
    ground.ask(said, "outlives")
    pick = ground.way.picks()[0]
    assert pick["address"] == other.address
    assert pick["chosen"]["hitTokens"]["shared"] >= 0.95 * (aligned - 32)
    assert pick["chosen"]["fetchSeconds"] > 0
    external = ground.counted("vllm:external_prefix_cache_hits_total", other.address) - before
    assert external >= 0.95 * (aligned - 32)


def test_an_engine_that_forgets_is_credited_no_more(ground: Ground) -> None:
    said = ["forget " + WORDS * 20]
    ground.ask(said, "forgets")
    home = ground.way.picks()[0]["address"]
    time.sleep(0.5)
    assert httpx.post(f"http://{home}/reset_prefix_cache", timeout=30).status_code == 200
    # vLLM 0.32 publishes events with the steps of its engine: the next request of any client brings the news.
    assert httpx.post(f"http://{home}/v1/chat/completions", json=body(["unrelated"]), timeout=30).status_code == 200
    time.sleep(0.5)
    ground.ask([*said, "yes", "more"], "forgets")
    assert ground.way.picks()[0]["chosen"]["hitTokens"]["device"] == 0
