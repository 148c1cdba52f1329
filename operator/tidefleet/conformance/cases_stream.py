"""Many streams on a connection, streams that end early, TLS, and how requests spread."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from tidefleet.conformance import build
from tidefleet.conformance.build import Request
from tidefleet.conformance.case import Level, Skipped, expect, fail, registry
from tidefleet.conformance.target import Target

CASES, case = registry()


def _goes_on(target: Target) -> None:
    """Requests are served, also after the picker has had time to notice what was cancelled."""
    for _ in range(3):
        target.ask(target.request()).chosen().exchange.finish()
        time.sleep(0.1)


@case("stream.ends-ok")
def _ends_ok(target: Target) -> None:
    """When the gateway has sent everything the stream ends with gRPC status OK."""
    target.ask(target.request()).chosen().exchange.finish()


@case("stream.sequential")
def _sequential(target: Target) -> None:
    """A hundred requests one after the other on one connection are all answered."""
    for _ in range(100):
        target.ask(target.request()).chosen().exchange.finish()


@case("stream.interleaved")
def _interleaved(target: Target) -> None:
    """Fifty requests whose messages interleave on one connection each get their own body back."""
    target.need_bodies()
    requests = [
        Request(pieces=build.cut(build.chat(target.model, f"number {number} " * 500), 1_500)) for number in range(50)
    ]
    exchanges = [target.open() for _ in requests]
    for exchange, request in zip(exchanges, requests, strict=True):
        exchange.send(build.request_headers(request))
    rest = [build.request_rest(request) for request in requests]
    for turn in range(max(map(len, rest))):
        for exchange, messages in zip(exchanges, rest, strict=True):
            exchange.send(*messages[turn : turn + 1])
    for exchange, request in reversed(list(zip(exchanges, requests, strict=True))):
        answer = target.read(exchange, request).chosen()
        expect(answer.body == request.body, "a stream got another body than its own")


@case("stream.many-connections")
def _connections(target: Target) -> None:
    """Ten connections at a time are served."""
    channels = [target.channel() for _ in range(10)]
    try:
        for channel in channels:
            target.ask(target.request(), channel=channel).chosen()
    finally:
        for channel in channels:
            channel.close()


@case("stream.waits-for-the-body")
def _waits(target: Target) -> None:
    """A stream whose body does not come yet holds up no other."""
    target.need_bodies()
    request = Request(pieces=build.cut(build.chat(target.model), 10))
    waiting = target.open()
    first, *rest = build.request_rest(request)
    waiting.send(build.request_headers(request), first)
    for _ in range(10):
        target.ask(target.request()).chosen()
    waiting.send(*rest)
    expect(target.read(waiting, request).chosen().body == request.body, "the body that waited came back changed")


@case("stream.cancelled-in-body")
def _cancelled(target: Target) -> None:
    """A hundred streams that are cancelled in mid-body leave the picker as it was."""
    request = target.request()
    for _ in range(5):
        exchanges = [target.open() for _ in range(20)]
        for exchange in exchanges:
            exchange.send(build.request_headers(request), *build.request_rest(request)[:-1])
        target.ask(target.request()).chosen().exchange.finish()  # by now they have arrived
        for exchange in exchanges:
            exchange.cancel()
    _goes_on(target)


@case("stream.cancelled-after-choice")
def _cancelled_late(target: Target) -> None:
    """A hundred streams that are cancelled after the choice leave the picker as it was."""
    for _ in range(100):
        target.ask(target.request()).chosen().exchange.cancel()
    target.ask(target.request()).chosen().exchange.finish()


@case("stream.connection-lost")
def _lost(target: Target) -> None:
    """A connection that is lost with open streams leaves the picker as it was."""
    channel = target.channel()
    exchanges = [target.open(channel) for _ in range(20)]
    for exchange in exchanges:
        exchange.send(build.request_headers(target.request()))
    target.ask(target.request(), channel=channel).chosen()
    channel.close()
    _goes_on(target)


@case("stream.half-closed-early")
def _half_closed(target: Target) -> None:
    """A stream that the gateway ends before the body's end is ended by the picker too."""
    target.need_bodies()
    exchange = target.open()
    request = Request(pieces=(build.chat(target.model), b""))
    exchange.send(build.request_headers(request), build.request_rest(request)[0])
    exchange.drain()
    target.ask(target.request()).chosen()


@case("stream.empty")
def _empty(target: Target) -> None:
    """A stream on which nothing comes ends when the gateway ends it."""
    target.open().finish()


@case("stream.not-understood")
def _not_understood(target: Target) -> None:
    """A message that says nothing ends that stream at most; the next one is served."""
    exchange = target.open()
    exchange.send(pb.ProcessingRequest())
    exchange.drain()
    target.ask(target.request()).chosen()


@case("stream.out-of-turn")
def _out_of_turn(target: Target) -> None:
    """A response without a request ends that stream at most; the next one is served."""
    exchange = target.open()
    exchange.send(build.response_body(b"x", end=True), build.response_headers())
    exchange.drain()
    target.ask(target.request()).chosen()


def _raw(target: Target, message: bytes) -> None:
    call: Any = target.connection.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Process")
    try:
        for _ in call(iter([message]), timeout=target.deadline_seconds):
            pass
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            fail("the stream stays open")


@case("stream.no-protobuf")
def _no_protobuf(target: Target) -> None:
    """Bytes that are no ProcessingRequest end that stream at once; the next one is served."""
    for message in (b"\xff" * 50, b"\x12\xff\xff\xff\xff\x0f", b"\x0a"):
        _raw(target, message)
    target.ask(target.request()).chosen()


@case("tls.served")
def _tls(target: Target) -> None:
    """With TLS the picker answers over HTTP/2 chosen by ALPN."""
    if target.credentials is None:
        raise Skipped("needs TLS (--tls)")
    channel = target.channel()
    try:
        target.ask(target.request(), channel=channel).chosen()
    finally:
        channel.close()


@case("tls.plain-refused")
def _plain(target: Target) -> None:
    """A TLS port does not answer plain text."""
    if target.credentials is None:
        raise Skipped("needs TLS (--tls)")
    channel = target.channel(plain=True)
    try:
        call = channel.unary_unary("/grpc.health.v1.Health/Check")
        answer = call(b"", timeout=min(2.0, target.deadline_seconds))
    except grpc.RpcError:
        return
    finally:
        channel.close()
    fail(f"plain text was answered with {answer!r}")


@case("spread.shared-system-prompt", Level.SHOULD)
def _spread(target: Target) -> None:
    """Sixty-four sessions that share a 1 kB system prompt spread over at least half of the endpoints."""
    target.need_bodies()
    endpoints = target.need_endpoints(4)
    system = {"role": "system", "content": "You are a helpful assistant. " * 36}
    used: Counter[str] = Counter()
    for number in range(64):
        user = {"role": "user", "content": f"question {number}: " + f"{number * 7919 % 997} " * 300}
        body = build.chat(target.model, messages=[system, user])
        headers = (("x-session-id", f"spread-{number}"),)
        answer = target.ask(Request(pieces=(body,), headers=headers))
        used[answer.addresses[0]] += 1
        answer.exchange.finish()
    expect(2 * len(used) >= len(endpoints), f"64 sessions went to {len(used)} of {len(endpoints)} endpoints")


@case("spread.prefix-beyond-16-kB", Level.SHOULD)
def _long_prefix(target: Target) -> None:
    """Prompts that differ only after 20 kB are told apart: a second turn goes where its first one went."""
    target.need_bodies()
    target.need_endpoints(2)
    common = "The same long document for everybody. " * 540
    homes: dict[int, str] = {}
    back = 0
    for turn in range(2):
        for number in range(8):
            own = f"reader {number} asks: " + f"{number * 7919 % 997} " * 4_000
            body = build.chat(target.model, common + own + " And then? " * turn)
            answer = target.ask(Request(pieces=build.cut(body, 16_384))).chosen()
            home = answer.addresses[0]
            answer.exchange.send(build.response_headers(("content-type", "application/json"), served=home, end=True))
            answer.exchange.receive("the answer to the response headers")
            answer.exchange.finish()
            if turn == 0:
                homes[number] = home
            else:
                back += homes[number] == home
    expect(back >= 7, f"{back} of 8 second turns went back to where the first one was served")
