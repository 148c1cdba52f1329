"""KV events end to end: real Envoy, the router, and emulated engines that publish what they hold."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import msgspec
import pytest
import zmq
from emulated_ground import Emulated, emulated
from router_ground import MODEL, Way, a_fleet, a_way, eventually

from tidefleet.emulator.prefix import token_ids
from tidefleet.router.pool_state import Limits

pytestmark = [pytest.mark.envoy, pytest.mark.needs_local_pods]
COUNT, BLOCKS = 3, 160


@dataclass
class Ground:
    """Engines that publish, and the way to them."""

    way: Way
    engines: Emulated

    def ask(self, ids: list[int], session: str = "", tokens: int = 12) -> dict[str, Any]:
        """Post a prompt in token ids."""
        return ask(self.way, ids, session, tokens)

    def settle(self, way: Way | None = None) -> None:
        """Wait until the router knows as many blocks of each engine as it holds."""
        eventually(lambda: known(way or self.way) == self.engines.blocks())

    def counted(self) -> float:
        """Prompt tokens that the engines found in their caches."""
        pages = [httpx.get(f"http://{one}/metrics", timeout=30).text for one in self.engines.addresses]
        found = (re.search(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)$", page, re.MULTILINE) for page in pages)
        return sum(float(one[1]) for one in found if one)


def ask(way: Way, ids: list[int], session: str = "", tokens: int = 12) -> dict[str, Any]:
    body = {"model": MODEL, "prompt": ids, "max_tokens": tokens}
    headers = {"x-session-id": session} if session else {}
    answer = way.client.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def known(way: Way) -> dict[str, int]:
    return {one["address"]: one["blocks"] for one in way.pool()["endpoints"]}


def held(way: Way, ids: list[int]) -> dict[str, int]:
    """Tokens of a prompt that the router thinks each endpoint holds."""
    body = {"model": MODEL, "prompt": ids, "max_tokens": 4}
    found = way.http.post("/explain?path=/v1/completions", json=body).json()
    return {one["address"]: one["hitTokens"]["device"] for one in (found["chosen"], *found["others"])}


def cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with (
        emulated(COUNT, events=range(COUNT), numGpuBlocksOverride=BLOCKS) as engines,
        a_way(a_fleet(engines.pods), engines.places) as way,
    ):
        yield Ground(way, engines)


def test_hits_that_are_predicted_are_those_that_engines_count_while_caches_overflow(ground: Ground) -> None:
    """Sessions of uneven turns, more than the caches hold; each turn is its session's last prompt, answer and more."""
    chance = random.Random(3)  # noqa: S311 - lengths of a test
    sessions = {number: [number * 10_000 + at for at in range(16 * (6 + number % 5))] for number in range(14)}
    before, predicted, told, beside, last = ground.counted(), [], [], 0, None
    faults = ground.way.metric("tidefleet_router_kv_event_faults_total")
    for turn in range(4):
        if turn == 3:  # one that leaves no room for others where it goes
            sessions[99] = [9_000_000 + at for at in range(16 * (BLOCKS - 2))]
        for number, ids in sessions.items():
            for _ in range(2):  # at once again, before anything could make room
                ground.settle()
                answer = ground.ask(ids, f"s-{number}")
                pick = ground.way.picks()[0]
                if pick["at"] == last:  # a busy machine: Envoy's health check missed the router, and went on without it
                    beside += cached(answer)
                    continue
                last = pick["at"]
                assert pick["tokensExact"]
                assert pick["promptTokens"] == len(ids) == answer["usage"]["prompt_tokens"]
                predicted.append(pick["chosen"]["hitTokens"]["device"])
                told.append(cached(answer))
            ids += [*token_ids(answer["choices"][0]["text"]), *range(chance.randrange(40))]
    assert predicted == told
    assert len(predicted) > 80
    assert ground.counted() - before == sum(predicted) + beside
    assert sum(predicted) > 2000
    assert max(ground.engines.blocks().values()) == BLOCKS, "something had to make room"
    assert ground.way.metric("tidefleet_router_kv_event_faults_total") == faults
    assert ground.way.pool()["kvEvents"]


def test_a_router_that_starts_late_knows_what_was_stored_before(ground: Ground) -> None:
    ids = [77_000_000 + at for at in range(1000)]
    ground.ask(ids, "late")
    home = ground.way.picks()[0]["address"]
    with a_way(a_fleet(ground.engines.pods), ground.engines.places) as late:
        ground.settle(late)
        assert held(late, ids)[home] == 992
        answer = ask(late, [*ids, 1, 2, 3])
        pick = late.picks()[0]
        assert (pick["address"], pick["chosen"]["hitTokens"]["device"], cached(answer)) == (home, 992, 992)


def test_an_engine_that_starts_again_is_credited_with_nothing_of_its_former_life(ground: Ground) -> None:
    ids = [88_000_000 + at for at in range(800)]
    ground.ask(ids, "again")
    home = ground.way.picks()[0]["address"]
    ground.settle()
    assert held(ground.way, ids)[home] == 784
    index = ground.engines.addresses.index(home)
    pods = list(ground.engines.simulated)
    pods[index] = replace(pods[index], restarts=pods[index].restarts + 1)
    ground.engines.simulated[index] = pods[index]
    ground.engines.running.set_pods(pods)
    lost = ground.way.metric("tidefleet_router_kv_event_faults_total", fault="lost")
    body = {"model": MODEL, "prompt": [9] * 64, "max_tokens": 1}
    eventually(lambda: httpx.post(f"http://{home}/v1/completions", json=body, timeout=30).status_code == 200)
    eventually(lambda: ground.way.metric("tidefleet_router_kv_event_faults_total", fault="lost") > lost)
    ground.settle()
    assert held(ground.way, ids)[home] == 0
    assert held(ground.way, [9] * 65)[home] == 64
    answer = ground.ask([*ids, 1], "again")
    assert ground.way.picks()[0]["chosen"]["hitTokens"]["device"] == cached(answer)


# --- engines that lie ------------------------------------------------------------------------------------------------


class Liar:
    """Publishes on a pod's event socket whatever it likes, and does not replay."""

    def __init__(self, pod: dict[str, Any]) -> None:
        arguments = pod["spec"]["containers"][0]["args"]
        said = json.loads(arguments[arguments.index("--kv-events-config") + 1])
        self._context = zmq.Context()
        self._events = self._context.socket(zmq.PUB)
        self._events.bind(f"tcp://{pod['status']['podIP']}:{said['endpoint'].rpartition(':')[2]}")
        self._next = 0

    def say(self, *events: Any) -> None:
        """Publish events as one message."""
        payload = msgspec.msgpack.encode([0.0, list(events), None])
        self._events.send_multipart([b"liar", self._next.to_bytes(8, "big"), payload])
        self._next += 1

    def close(self) -> None:
        self._context.destroy(linger=0)


def stored(names: list[int], parent: int | None, tokens: list[int], size: int = 16) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": names,
        "parent_block_hash": parent,
        "token_ids": tokens,
        "block_size": size,
        "lora_id": None,
        "medium": "GPU",
    }


def test_engines_that_lie_cost_no_request_and_no_memory_beyond_the_index(ground: Ground) -> None:
    room = 20_000
    with emulated(2, events=[0, ~1]) as engines:
        arguments = engines.pods[1]["spec"]["containers"][0]["args"]
        arguments[-1] = json.dumps({"endpoint": json.loads(arguments[-1])["endpoint"]})
        liar = Liar(engines.pods[1])
        try:
            with a_way(a_fleet(engines.pods), engines.places, limits=Limits(index_blocks=room)) as way:
                faults = "tidefleet_router_kv_event_faults_total"
                ids = [5_000_000 + at for at in range(801)]

                def heard(fault: str, *events: Any) -> None:
                    before = way.metric(faults, fault=fault)

                    def grown() -> bool:
                        liar.say(*events)
                        return way.metric(faults, fault=fault) > before

                    eventually(grown, 90.0)

                honest, lying = engines.addresses
                bytes_before = way.pool()["indexBytes"]
                heard("mismatch", stored([1], None, [7] * 32, size=32))
                heard("mismatch", stored([1, 2], None, [7] * 16))
                heard("malformed", stored(list(range(70_000)), None, [7] * 16))
                heard("malformed", *range(70_000))
                heard("malformed", stored([1], None, [2**40] * 16))
                heard("orphan", stored([11], 12, [7] * 16), stored([12], 11, [8] * 16))
                liar.say(stored([21], None, [7] * 16), stored([22], 21, [8] * 16), stored([21], 22, [7] * 16))
                for first in range(0, 3 * room, 5_000):
                    names = list(range(10**6 + first, 10**6 + first + 5_000))
                    liar.say(stored(names, None, [first + at for at in range(5_000 * 16)]))
                liar.say(stored(list(range(50)), None, ids[:800]))
                eventually(lambda: held(way, ids)[lying] == 800)
                pool = way.pool()
                assert pool["blocks"] < 1.5 * room, "of 60,000 that it claims to hold"
                assert pool["indexBytes"] < 2 * bytes_before

                answer = ask(way, ids, "believed")
                assert way.picks()[0]["address"] == lying, "nobody can know that it lies"
                assert cached(answer) == 0
                for number in range(20):
                    ask(way, [number * 1000 + at for at in range(200)])
                assert {pick["address"] for pick in way.picks()} <= {honest, lying}
        finally:
            liar.close()
