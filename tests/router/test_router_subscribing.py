"""KV events over real sockets: order, gaps, restarts, and publishers that lie."""

import asyncio
import os
import random
import time
from collections import deque

import msgspec
import pytest
import zmq
import zmq.asyncio

from tidefleet.router import subscribing
from tidefleet.router.subscribing import END, Source, Subscription


class Publisher:
    """An engine's two sockets, on loopback; `kept` is what it can replay."""

    def __init__(self, context, kept=10_000):
        self.context = context
        self.open()
        ports = [one.bind_to_random_port("tcp://127.0.0.1") for one in (self.events, self.replay)]
        self.source = Source(*(f"tcp://127.0.0.1:{port}" for port in ports))
        self.kept = deque(maxlen=kept)
        self.next, self.asked, self.endless = 0, [], False
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def open(self):
        self.events, self.replay = self.context.socket(zmq.PUB), self.context.socket(zmq.ROUTER)
        for socket in (self.events, self.replay):
            socket.setsockopt(zmq.LINGER, 0)

    async def reconnect(self):
        """Close the sockets and bind others to the same ports."""
        self.close()
        self.open()
        for socket, where in ((self.events, self.source.events), (self.replay, self.source.replay)):
            while True:
                try:
                    socket.bind(where or "tcp://127.0.0.1:*")
                    break
                except zmq.ZMQError:
                    await asyncio.sleep(0.01)
        self.task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self):
        while True:
            client, _, start = await self.replay.recv_multipart()
            self.asked.append(int.from_bytes(start, "big"))
            for sequence, payload in list(self.kept):
                if sequence >= self.asked[-1]:
                    await self.replay.send_multipart([client, b"", sequence.to_bytes(8, "big"), payload])
            sequence = self.next
            while self.endless:
                await self.replay.send_multipart([client, b"", sequence.to_bytes(8, "big"), pack("more")])
                sequence += 1
                await asyncio.sleep(0)
            await self.replay.send_multipart([client, b"", END, b""])

    async def publish(self, *events, lost=False, raw=None):
        payload = pack(*events) if raw is None else raw
        self.kept.append((self.next, payload))
        if not lost:
            await self.events.send_multipart([b"anything", self.next.to_bytes(8, "big"), payload])
        self.next += 1

    def restart(self):
        self.next = 0
        self.kept.clear()

    def close(self):
        self.task.cancel()
        self.events.close()
        self.replay.close()


def pack(*events, rank=None):
    return msgspec.msgpack.encode([time.time(), list(events), *([] if rank is None else [rank])])


class Ear:
    def __init__(self):
        self.heard, self.losses, self.bad, self.ranks = [], [], [], []

    def batch(self, events, rank):
        self.heard += events
        self.ranks.append(rank)

    def lost(self, why):
        self.heard.clear()
        self.losses.append(why)

    def malformed(self, why):
        self.bad.append(why)


async def until(check, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


def on_sockets(scenario, *, kept=10_000, replay=True, **limits):
    """Run a scenario with a publisher and a subscription to it that has heard what was there."""

    async def run():
        context = zmq.asyncio.Context()
        publisher, ear = Publisher(context, kept), Ear()
        source = publisher.source if replay else Source(publisher.source.events)
        followed = Subscription(source, ear, context=context, now=time.monotonic, **limits)
        try:
            await scenario(publisher, ear, followed)
        finally:
            await followed.close()
            await followed.close()
            publisher.close()
            context.term()

    asyncio.run(run())


async def connected(publisher, ear, followed):
    """Publish until the subscription hears it live (a PUB socket drops what nobody has subscribed to yet)."""
    followed.start()
    await until(lambda: publisher.asked or not followed.source.replay)
    while followed._live is None:
        await publisher.publish("hello")
        await asyncio.sleep(0.02)


def test_what_was_stored_before_we_came_is_replayed_and_order_is_kept(monkeypatch):
    async def scenario(publisher, ear, followed):
        for index in range(50):
            await publisher.publish(index)
        await connected(publisher, ear, followed)
        await publisher.publish("last")
        await until(lambda: ear.heard and ear.heard[-1] == "last")
        assert ear.heard[:50] == list(range(50))
        assert ear.losses == []

    on_sockets(scenario)


def test_a_gap_is_filled_by_a_replay_of_what_is_missing(monkeypatch):
    monkeypatch.setattr(subscribing, "REPLAY_PAUSE_SECONDS", 0.0)

    async def scenario(publisher, ear, followed):
        await connected(publisher, ear, followed)
        first = publisher.next
        for index in range(5):
            await publisher.publish(index, lost=True)
        await publisher.publish(5)
        await until(lambda: ear.heard[-1] == 5)
        assert ear.heard[-6:] == list(range(6))
        assert publisher.asked[-1] == first - 1, "from the last one that is known, to see that it is the same"
        assert (followed.progress.gaps, ear.losses) == (1, [])

    on_sockets(scenario)


def test_a_gap_that_cannot_be_filled_forgets_the_endpoint_and_goes_on(monkeypatch):
    monkeypatch.setattr(subscribing, "REPLAY_PAUSE_SECONDS", 0.0)

    async def scenario(publisher, ear, followed):
        await connected(publisher, ear, followed)
        for index in range(50):
            await publisher.publish(index, lost=True)
        await publisher.publish("last")
        await until(lambda: ear.heard and ear.heard[-1] == "last")
        assert ear.losses
        assert 0 not in ear.heard

    on_sockets(scenario, kept=3)
    on_sockets(scenario, replay=False)


def test_an_engine_that_starts_afresh_is_forgotten_and_heard_from_its_start(monkeypatch):
    monkeypatch.setattr(subscribing, "REPLAY_PAUSE_SECONDS", 0.0)

    async def scenario(publisher, ear, followed):
        for index in range(20):
            await publisher.publish(index)
        await connected(publisher, ear, followed)
        publisher.restart()
        for word in ("a", "b", "c"):
            await publisher.publish(word)
        await until(lambda: ear.heard[-1:] == ["c"])
        assert ear.heard == ["a", "b", "c"]
        assert any("start" in one for one in ear.losses)

    on_sockets(scenario)


def test_an_engine_that_started_anew_is_noticed_though_its_first_message_found_nobody(monkeypatch):
    monkeypatch.setattr(subscribing, "REPLAY_PAUSE_SECONDS", 0.0)

    async def scenario(publisher, ear, followed):
        for index in range(20):
            await publisher.publish(index)
        await connected(publisher, ear, followed)
        publisher.restart()
        await publisher.reconnect()
        for index in range(60):  # more than the former one had sent
            await publisher.publish(("anew", index), lost=True)
        await until(lambda: ear.heard[-1:] == [["anew", 59]])
        assert ear.heard == [["anew", index] for index in range(60)]
        assert len(ear.losses) == 1

    on_sockets(scenario)


def test_an_engine_that_started_anew_and_replays_nothing_is_forgotten_with_its_connection(monkeypatch):
    monkeypatch.setattr(subscribing, "REPLAY_PAUSE_SECONDS", 0.0)

    async def scenario(publisher, ear, followed):
        await connected(publisher, ear, followed)
        publisher.restart()
        await publisher.reconnect()
        await until(lambda: ear.losses and not ear.heard)

    on_sockets(scenario, replay=False)


def test_a_connection_that_was_broken_costs_nothing_where_the_engine_is_the_same(monkeypatch):
    monkeypatch.setattr(subscribing, "REPLAY_PAUSE_SECONDS", 0.0)

    async def scenario(publisher, ear, followed):
        await connected(publisher, ear, followed)
        heard = len(ear.heard)
        await publisher.reconnect()
        for index in range(5):
            await publisher.publish(index, lost=True)
        await until(lambda: ear.heard[-1:] == [4])
        assert ear.heard[heard:] == list(range(5))
        assert ear.losses == []

    on_sockets(scenario)


def test_a_replay_that_never_ends_is_given_up_and_the_stream_goes_on():
    async def scenario(publisher, ear, followed):
        publisher.endless = True
        followed.start()
        await until(lambda: followed.progress.replays and followed.progress.messages >= 50)
        publisher.endless = False
        publisher.next = 1000
        while ear.heard[-1:] != ["live"]:
            await publisher.publish("live")
            await asyncio.sleep(0.02)

    on_sockets(scenario, most_replayed=50)


def test_a_replay_that_does_not_answer_is_given_up():
    async def scenario(publisher, ear, followed):
        publisher.task.cancel()
        followed.start()
        while ear.heard[-1:] != ["live"]:
            await publisher.publish("live")
            await asyncio.sleep(0.02)

    on_sockets(scenario, replay_seconds=0.2)


def test_rubbish_is_counted_and_what_follows_is_heard():
    async def scenario(publisher, ear, followed):
        await connected(publisher, ear, followed)
        rubbish = [b"", b"\xc1", os.urandom(64), pack()[:3], msgspec.msgpack.encode({"a": 1}), b"\x91" * 5000]
        rubbish += [msgspec.msgpack.encode([0.0]), msgspec.msgpack.encode([0.0, "x"]), msgspec.msgpack.encode(None)]
        for raw in rubbish:
            await publisher.publish(raw=raw)
        await publisher.events.send_multipart([b"alone"])
        await publisher.events.send_multipart([b"topic", b"short", pack("x")])
        await publisher.events.send_multipart([b"topic", (2**63).to_bytes(8, "big"), pack("x")])
        await publisher.publish(raw=msgspec.msgpack.encode([0.0, list(range(70_000))]))
        await publisher.publish("after")
        await until(lambda: ear.heard[-1:] == ["after"])
        assert len(ear.bad) >= len(rubbish) + 3
        assert any("70000 events" in one for one in ear.bad)

    on_sockets(scenario)


def test_a_rank_that_is_named_is_handed_on():
    async def scenario(publisher, ear, followed):
        await connected(publisher, ear, followed)
        await publisher.publish(raw=pack("x", rank=3))
        await until(lambda: ear.heard[-1:] == ["x"])
        assert ear.ranks[-1] == 3

    on_sockets(scenario)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_lost_what_was_heard_is_a_run_of_what_was_sent(monkeypatch, seed):
    """After each loss we have forgotten everything; what we hold is then a gapless run that ends with the last."""
    monkeypatch.setattr(subscribing, "REPLAY_PAUSE_SECONDS", 0.0)
    chance = random.Random(seed)  # noqa: S311 - a test chooses what is lost

    async def scenario(publisher, ear, followed):
        await connected(publisher, ear, followed)
        for index in range(300):
            await publisher.publish(("n", index), lost=chance.random() < 0.2)
            if chance.random() < 0.1:
                await asyncio.sleep(0.002)
        await publisher.publish(("n", 300))
        await until(lambda: ear.heard[-1:] == [["n", 300]])
        numbers = [one[1] for one in ear.heard if one[0] == "n"]
        assert numbers == list(range(numbers[0], 301))

    on_sockets(scenario, kept=8)
