"""A pool whose engines write their KV through to a shared store: what outlives the endpoint that computed it."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from router_ground import MODEL, a_fleet, a_pool_object, a_served_pod

from tidefleet.router.asking import ask_of
from tidefleet.router.bodies import Body, read
from tidefleet.router.chooser import Choice, RequestHead
from tidefleet.router.hearing import Ear
from tidefleet.router.picking import Picker
from tidefleet.router.pool_state import Limits, PoolState
from tidefleet.routing.hashing import Keys
from tidefleet.routing.pick import Pick, pick
from tidefleet.routing.request import Ask

ADDRESSES = [("10.0.0.1", 8000), ("10.0.0.2", 8000), ("10.0.0.3", 8000)]
FAST, SLOW = 50_000_000_000, 50_000_000
ROOM = 2**40
BLOCKS = 1000
PROMPT = np.random.default_rng(4).integers(0, 100_000, BLOCKS * 16, dtype=np.uint32)


def fleet_of(*leaving: int, rate: int | None = FAST, without: tuple[int, ...] = ()) -> Any:
    """Three pods of a pool; ``rate``: bytes per second of its shared store, None: it has none."""
    tier = {"medium": "Shared", "maxBytesPerReplica": ROOM, "bytesPerSecond": rate}
    spec: dict[str, Any] = {} if rate is None else {"kvCache": {"tiers": [tier]}}
    pods = [
        a_served_pod(address, f"engine-{at}", **({"tidefleet.io/routable": "false"} if at in leaving else {}))
        for at, address in enumerate(ADDRESSES)
        if at not in without
    ]
    return a_fleet(pods, pool=a_pool_object(**spec))


class Ground:
    """A pool's state as discovery and events make it."""

    def __init__(self, rate: int | None = FAST) -> None:
        self.rate = rate
        self.state = PoolState(fleet_of(rate=rate).pools[0], Limits(index_blocks=50_000), tokens=None)
        self.see()

    def see(self, *leaving: int, without: tuple[int, ...] = ()) -> None:
        fleet = fleet_of(*leaving, rate=self.rate, without=without)
        self.state.update(fleet.pools[0], fleet.accelerators, 0.0)

    def stores(self, which: int, adapter: str | None = None) -> Ear:
        """An endpoint tells that it holds the prompt."""
        address = self.address(which)
        slot = self.state.slot(address)
        assert slot is not None
        ear = Ear(self.state, address, slot)
        ear.batch([["BlockStored", list(range(1, BLOCKS + 1)), None, PROMPT.tolist(), 16, None, "GPU", adapter]], None)
        assert not self.state.take_faults()
        return ear

    @staticmethod
    def address(which: int) -> str:
        host, port = ADDRESSES[which]
        return f"{host}:{port}"

    def keys(self, adapter: str | None = None) -> Keys:
        return self.state.token_state(PROMPT, None, 0.0, adapter=adapter).keys

    def decide(self) -> Pick:
        hits = self.state.match(self.keys(), exact=True)
        ask = Ask(
            pool=self.state.served.key,
            model=MODEL,
            tokens=len(PROMPT) + 5,
            keys=self.keys(),
            block_size=16,
            token_exact=True,
        )
        found = pick(ask, self.state.table, hits, 1.0)
        assert isinstance(found, Pick), found
        return found

    def held(self, which: int, tier: int, adapter: str | None = None) -> int:
        hits = self.state.match(self.keys(adapter), exact=True)
        slot = self.state.slot(self.address(which))
        assert hits is not None
        assert slot is not None
        return int(hits.blocks[tier, slot])


def a_body(model: str, **more: str) -> Body:
    """A chat's."""
    turns = [{"role": "user", "content": "hello"}]
    return read("/v1/chat/completions", json.dumps({"model": model, "messages": turns, **more}).encode())


def test_what_one_endpoint_stores_all_others_can_fetch() -> None:
    ground = Ground()
    ground.stores(0)
    assert [ground.held(which, 0) for which in range(3)] == [BLOCKS, 0, 0]
    assert [ground.held(which, 3) for which in range(3)] == [BLOCKS] * 3


def test_without_a_shared_store_nobody_else_is_credited() -> None:
    ground = Ground(rate=None)
    ground.stores(0)
    assert [ground.held(which, 3) for which in range(3)] == [BLOCKS, 0, 0]


def test_the_endpoint_that_holds_a_prompt_on_its_device_is_picked_before_those_that_would_fetch_it() -> None:
    ground = Ground()
    ground.stores(1)
    assert ground.decide().address == ground.address(1)


@pytest.mark.parametrize("gone", [False, True], ids=["drained", "gone"])
def test_after_a_drain_another_endpoint_fetches_the_prompt_where_that_is_faster_than_computing_it(gone: bool) -> None:
    ground = Ground()
    ear = ground.stores(0)
    ground.see(0)
    if gone:
        ear.batch([["AllBlocksCleared"]], None)
        ground.see(without=(0,))
    found = ground.decide()
    row = ground.state.table.position(found.address)
    assert row is not None
    assert found.address != ground.address(0)
    assert found.chosen.hit_tokens == (0, 0, 0, BLOCKS * 16)
    assert found.chosen.fetch_seconds > 0.0
    assert found.chosen.prefill_seconds < found.chosen.fetch_seconds + 0.1


def test_a_store_slower_than_computing_is_not_fetched_from() -> None:
    ground = Ground(rate=SLOW)
    ground.stores(0)
    ground.see(without=(0,))
    found = ground.decide()
    assert found.chosen.fetch_seconds == 0.0
    assert found.chosen.prefill_seconds > 0.1


def test_what_an_endpoint_evicts_from_its_device_stays_in_the_store_until_the_store_says_otherwise() -> None:
    ground = Ground()
    ear = ground.stores(0)
    names = list(range(1, BLOCKS + 1))
    ear.batch([["BlockRemoved", names, "GPU"]], None)
    assert (ground.held(0, 0), ground.held(1, 3)) == (0, BLOCKS)
    ear.batch([["BlockRemoved", names[500:], "SHARED"]], None)
    assert ground.held(1, 3) == 500


def test_text_that_an_endpoint_was_sent_is_in_the_store_too() -> None:
    ground = Ground()
    keys = ground.state.text_keys(b"a prompt of some length " * 100, None, 0.0)
    ground.state.placed(ground.address(0), keys)
    ground.see(without=(0,))
    hits = ground.state.match(keys, exact=False)
    slot = ground.state.slot(ground.address(1))
    assert hits is not None
    assert hits.blocks[:, slot].tolist() == [0, 0, 0, len(keys)]


def test_a_store_is_credited_with_what_fits_into_the_room_of_its_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for 400 blocks of 16 tokens at each of three replicas: 1,200 together; a prompt has 1,000."""
    monkeypatch.setattr(sys.modules[__name__], "ROOM", 400 * 16 * 131_072)
    ground = Ground()
    ground.stores(0)
    assert ground.held(1, 3) == BLOCKS
    slot = ground.state.slot(ground.address(1))
    assert slot is not None
    other = [BLOCKS + one for one in range(1, BLOCKS + 1)]
    Ear(ground.state, ground.address(1), slot).batch(
        [["BlockStored", other, None, (PROMPT + 1).tolist(), 16, None, "GPU", None]], None
    )
    assert ground.held(2, 3) == 0, "the later prompt took its place"
    assert ground.held(0, 3) == BLOCKS, "it is on the device still"


def test_text_that_left_a_device_is_credited_to_its_host_tier_as_far_as_that_has_room() -> None:
    tier = {"medium": "Host", "bytesPerSecond": FAST}
    held = {}
    for gib in (1, 400):
        pool = a_pool_object(kvCache={"tiers": [{**tier, "maxBytesPerReplica": gib * 2**30}]})
        fleet = a_fleet([a_served_pod(ADDRESSES[0], "engine-0")], pool=pool)
        state = PoolState(fleet.pools[0], Limits(index_blocks=50_000))
        state.update(fleet.pools[0], fleet.accelerators, 0.0)
        state.kv_tokens[Ground.address(0)] = 64_000.0
        state.refresh(Ground.address(0))
        prompts = [state.text_keys(f"{number} prompt ".encode() * 12_000, None, 0.0) for number in range(8)]
        for keys in prompts:
            state.placed(Ground.address(0), keys)
        hits, slot = state.match(prompts[0], exact=False), state.slot(Ground.address(0))
        assert hits is not None
        assert slot is not None
        held[gib] = [int(one) for one in hits.blocks[:2, slot]]
    assert held == {1: [0, 0], 400: [0, len(prompts[0])]}


def test_a_store_that_a_pool_no_longer_has_is_forgotten() -> None:
    ground = Ground()
    ground.stores(0)
    ground.rate = None
    ground.see()
    assert ground.state.blocks.blocks == 0
    ground.rate = FAST
    ground.see()
    assert ground.held(1, 3) == 0


def test_a_pod_whose_container_was_restarted_is_credited_with_nothing() -> None:
    ground = Ground(rate=None)
    keys = ground.state.text_keys(b"a prompt of some length " * 100, None, 0.0)
    slots = [ground.state.slot(ground.address(which)) for which in range(2)]
    for which in range(2):
        ground.state.placed(ground.address(which), keys)
    fleet = fleet_of(rate=None)
    (pool,) = fleet.pools
    again = [replace(one, restarts=one.restarts + 1) if one.address == ground.address(0) else one for one in pool.ranks]
    ground.state.update(replace(pool, ranks=tuple(again)), fleet.accelerators, 1.0)
    hits = ground.state.match(keys, exact=False)
    assert hits is not None
    assert hits.blocks[0, slots[1]] == len(keys)
    slot = ground.state.slot(ground.address(0))
    assert slot is not None
    assert hits.blocks[0, slot] == 0


def test_a_pool_that_gets_a_shared_store_later_has_its_endpoints_read_it_and_events_are_asked_for_again() -> None:
    ground = Ground(rate=None)
    ear = ground.stores(0)
    assert ear.fits(ground.state)
    ground.rate = FAST
    ground.see()
    assert not ear.fits(ground.state)
    ground.stores(0)
    assert ground.held(2, 3) == BLOCKS


def test_prompts_for_an_adapter_share_no_hits_with_the_base_model() -> None:
    ground = Ground()
    ground.stores(0, adapter="poet")
    assert [ground.held(0, 0, adapter) for adapter in ("poet", None, "coder")] == [BLOCKS, 0, 0]


def test_a_request_that_names_an_adapter_is_compared_by_that_adapters_keys() -> None:
    ground = Ground()
    pool = a_pool_object(model={"name": "llama-3.1-8b", "adapters": [{"name": "poet"}]})
    fleet = a_fleet([a_served_pod(ADDRESSES[0], "engine-0")], pool=pool)
    ground.state.update(fleet.pools[0], fleet.accelerators, 0.0)
    ask = ask_of(ground.state, a_body("poet"), {}, tokens=PROMPT, secret=b"s", now=0.0)
    base = ask_of(ground.state, a_body("llama-3.1-8b"), {}, tokens=PROMPT, secret=b"s", now=0.0)
    assert (ask.lora, base.lora) == ("poet", None)
    np.testing.assert_array_equal(ask.keys, ground.keys("poet"))
    np.testing.assert_array_equal(base.keys, ground.keys())


def test_a_clients_cache_salt_sets_its_prompts_apart_as_it_does_in_the_engine() -> None:
    ground = Ground()
    slot = ground.state.slot(ground.address(0))
    assert slot is not None
    extra: list[Any] = [["pepper"], *[None] * (BLOCKS - 1)]
    names = list(range(BLOCKS))
    ear = Ear(ground.state, ground.address(0), slot)
    ear.batch([["BlockStored", names, None, PROMPT.tolist(), 16, None, "GPU", None, extra]], None)
    found = []
    for salt in ({"cache_salt": "pepper"}, {"cache_salt": "thyme"}, {}):
        ask = ask_of(ground.state, a_body(MODEL, **salt), {}, tokens=PROMPT, secret=b"s", now=0.0)
        hits = ground.state.match(ask.keys, exact=True)
        assert hits is not None
        found.append(int(hits.blocks[0, slot]))
    assert found == [BLOCKS, 0, 0]


def test_how_many_tokens_a_text_has_is_learned_by_its_bytes_in_any_script() -> None:
    ground = Ground()
    turns = [{"role": "user", "content": "今日は良い天気ですね" * 40}]
    body = read("/v1/chat/completions", json.dumps({"model": MODEL, "messages": turns}).encode())
    assert body.size > 2 * body.characters
    for _ in range(200):
        ground.state.learn_length(body.size, body.characters)  # a token for each character
    ask = ask_of(ground.state, body, {}, tokens=None, secret=b"s", now=0.0)
    assert abs(ask.tokens - body.characters) < 0.05 * body.characters


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
def test_an_answer_tells_whether_its_turn_ended_in_a_tool_call(finish: str) -> None:
    async def whole() -> bool:
        loop = asyncio.get_running_loop()
        picker = Picker(secret=b"s" * 16, now=loop.time)
        picker.update(fleet_of())
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}).encode()
        head = RequestHead("POST", "/v1/chat/completions", {"x-session-id": "one"}, None)
        choice = picker.choose(head, body)
        assert isinstance(choice, Choice)
        answer = {"choices": [{"finish_reason": finish}], "usage": {"prompt_tokens": 9, "completion_tokens": 5}}
        picker.served(choice.ticket, choice.addresses[0], 200, loop.time())
        picker.body(choice.ticket, json.dumps(answer).encode(), True, loop.time())
        picker.closed(choice.ticket, loop.time())
        homes = picker.pools["prod/chat"].table.sessions
        (found,) = homes.at(choice.addresses[0])
        return found[1].tool_call

    assert asyncio.run(whole()) is (finish == "tool_calls")
