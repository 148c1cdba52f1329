"""What an engine tells of its KV blocks, and what a router makes of it."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import zmq
import zmq.asyncio
from emulator_builders import ACCELERATORS, MODELS, a_pod, an_annotation
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.cluster.clock import RealClock
from tidefleet.emulator import Fleet, Running
from tidefleet.emulator.capacity import BLOCK_TOKENS
from tidefleet.emulator.kv_events import Journal
from tidefleet.emulator.pods import UnusableAnnotation, engine_facts
from tidefleet.emulator.prefix import PrefixCache, Prompt, prompt_of_ids, prompt_of_text, token_ids
from tidefleet.emulator.server import unbindable
from tidefleet.routing.events import EngineEvents
from tidefleet.routing.hashing import token_keys
from tidefleet.routing.index import PrefixIndex

HOST = "127.78.0.2"


class Follower:
    """A router's index of one engine, fed from its journal."""

    def __init__(self, cache: PrefixCache) -> None:
        self.journal, self.index = Journal(), PrefixIndex(capacity_blocks=10_000)
        self.slot = self.index.add_endpoint()
        self.events = EngineEvents(self.index, self.slot, block_tokens=BLOCK_TOKENS, salt_of=lambda _: 7)
        self.faults: dict[str, int] = {}
        cache.tell(self.journal.note)

    def hear(self) -> None:
        made = self.journal.message(0.0)
        if made is not None:
            self.faults |= self.events.apply(msgspec.msgpack.decode(made[1])[1])

    def held_tokens(self, prompt: Prompt) -> int:
        """As a router predicts it of a prompt whose last token is computed in any case."""
        ids = prompt.token_ids(0, len(prompt.blocks))
        keys = token_keys(np.asarray(ids, np.uint32), BLOCK_TOKENS, salt=7)
        blocks = int(self.index.match(keys).blocks[0, self.slot]) if len(keys) else 0
        return min(blocks, (prompt.tokens - 1) // BLOCK_TOKENS) * BLOCK_TOKENS


A_PROMPT = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(
    lambda parts: prompt_of_ids([part * 1000 + at for part in parts for at in range(BLOCK_TOKENS)] + [5])
)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.lists(st.one_of(A_PROMPT, st.none()), max_size=40))
def test_who_follows_the_events_knows_what_the_engine_holds(capacity: int, steps: list[Prompt | None]) -> None:
    cache = PrefixCache(capacity)
    follower, seen = Follower(cache), []
    for step in steps:
        if step is None:
            cache.clear()
        else:
            seen.append(step)
            cache.store(step)
        follower.hear()
        for prompt in seen:
            assert follower.held_tokens(prompt) == cache.cached_tokens(prompt)
    assert follower.faults == {}


def test_a_text_and_a_long_prompt_are_told_with_their_tokens() -> None:
    cache = PrefixCache(100_000)
    follower = Follower(cache)
    text = "All ships keep to starboard. " * 20_000
    cache.store(prompt_of_text(text))
    number, payload = follower.journal.message(1.5) or (None, b"")
    timestamp, events, rank = msgspec.msgpack.decode(payload)
    assert (number, timestamp, rank) == (0, 1.5, None)
    assert len(events) == 3
    assert [one["type"] for one in events] == ["BlockStored"] * 3
    ids = [token for one in events for token in one["token_ids"]]
    assert ids == token_ids(text)[: len(ids)]
    assert events[1]["parent_block_hash"] == events[0]["block_hashes"][-1]
    assert follower.journal.message(2.0) is None


def test_only_the_last_messages_can_be_replayed() -> None:
    journal, cache = Journal(kept=3), PrefixCache(100)
    cache.tell(journal.note)
    for number in range(5):
        cache.store(prompt_of_ids([number] * BLOCK_TOKENS))
        journal.message(0.0)
    assert [number for number, _ in journal.since(0)] == [2, 3, 4]
    assert [number for number, _ in journal.since(4)] == [4]


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        (5557, "expected e.g."),
        ({"port": 0}, "kvEvents.port is 0"),
        ({"port": 5557, "replayPort": "x"}, "kvEvents.replayPort is 'x'"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named(given_: Any, words: str) -> None:
    pod = a_pod(annotation=an_annotation(kvEvents=given_))
    with pytest.raises(UnusableAnnotation, match=words):
        engine_facts(pod, ACCELERATORS, MODELS)


def test_a_pod_that_says_nothing_publishes_as_the_fleet_is_told() -> None:
    from tidefleet.emulator import KvEvents

    own = a_pod("own", annotation=an_annotation(kvEvents={"port": 1111}, numGpuBlocksOverride=33))
    fleet = Fleet(ACCELERATORS, MODELS, RealClock(), kv_events=KvEvents(5557, 5558))
    fleet.set_pods([own, a_pod("other")])
    found = {slot.pod.name: slot for slot in fleet.slots.values()}
    assert found["own"].facts.kv_events == KvEvents(1111)
    assert found["other"].facts.kv_events == KvEvents(5557, 5558)
    assert found["own"].engine is not None
    assert found["own"].engine.blocks == 33


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


async def replayed(port: int) -> list[int]:
    """Numbers of the messages that an engine replays, up to its end mark."""
    context = zmq.asyncio.Context()
    asked = context.socket(zmq.DEALER)
    asked.connect(f"tcp://{HOST}:{port}")
    found: list[int] = []
    try:
        await asked.send_multipart([b"", (0).to_bytes(8, "big")])
        while not found or found[-1] >= 0:
            _, number, _ = await asyncio.wait_for(asked.recv_multipart(), 20)
            found.append(int.from_bytes(number, "big", signed=True))
    finally:
        asked.close(linger=0)
        context.term()
    return found[:-1]


def eventually(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.needs_local_pods
def test_sockets_publish_replay_and_begin_again_with_the_engine() -> None:
    if problem := unbindable(HOST):
        pytest.skip(problem)
    http, events, replay = free_ports(3)
    note = an_annotation(port=http, kvEvents={"port": events, "replayPort": replay})
    pod = a_pod(ip=HOST, annotation=note)
    context = zmq.Context()
    heard = context.socket(zmq.SUB)
    heard.setsockopt(zmq.SUBSCRIBE, b"")
    heard.setsockopt(zmq.RCVTIMEO, 20_000)
    try:
        with Running(Fleet(ACCELERATORS, MODELS, RealClock())) as emulator:
            emulator.set_pods([pod])
            heard.connect(f"tcp://{HOST}:{events}")

            def ask(first: int) -> None:
                body = {"model": "llama-3.1-8b", "prompt": [first] * 40, "max_tokens": 1}
                httpx.post(f"http://{HOST}:{http}/v1/completions", json=body, timeout=30).raise_for_status()

            asked = 0
            while not heard.poll(50):  # what is published before the subscription is there is lost
                ask(asked := asked + 1)
            topic, number, payload = heard.recv_multipart()
            assert topic.decode() == f"kv@{HOST}:{http}@llama-3.1-8b"
            (event,) = msgspec.msgpack.decode(payload)[1]
            assert event["token_ids"] == [int.from_bytes(number, "big") + 1] * 32
            assert asyncio.run(replayed(replay)) == list(range(asked))

            emulator.set_pods([a_pod(ip=HOST, annotation=note, restarts=1)])
            assert asyncio.run(replayed(replay)) == []
            ask(99)
            assert asyncio.run(replayed(replay)) == [0]
            httpx.post(f"http://{HOST}:{http}/reset_prefix_cache", timeout=30).raise_for_status()
            eventually(lambda: asyncio.run(replayed(replay)) == [0, 1])
            assert json.loads(httpx.get(f"http://{emulator.admin}/healthz", timeout=30).text)["problems"] == []
    finally:
        heard.close(linger=0)
        context.term()
