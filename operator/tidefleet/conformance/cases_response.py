"""The engine's response: answered, relayed as it comes, and left alone."""

from __future__ import annotations

from typing import Any

from tidefleet.conformance import build
from tidefleet.conformance.build import response_body, response_headers, response_trailers
from tidefleet.conformance.case import expect, registry
from tidefleet.conformance.exchange import Exchange
from tidefleet.conformance.target import Target, value_of

CASES, case = registry()
_SSE = ("content-type", "text/event-stream")
_JSON = ("content-type", "application/json")


def _under_way(target: Target, *headers: tuple[str, str], status: int = 200) -> Exchange:
    """A stream whose response headers were answered."""
    answer = target.ask(target.request()).chosen()
    exchange = answer.exchange
    exchange.send(response_headers(*headers, status=status, served=answer.addresses[0]))
    _kind(exchange.receive("the answer to the response headers"), "response_headers")
    return exchange


def _kind(message: Any, wanted: str) -> Any:
    kind = message.WhichOneof("response")
    expect(kind == wanted, f"a {kind}; expected {wanted}")
    return message


def _relayed(exchange: Exchange, piece: bytes, *, end: bool = False) -> list[tuple[bytes, bool]]:
    """Send one piece and read until as many bytes are back (and the end, if it is one)."""
    exchange.send(response_body(piece, end=end))
    got: list[tuple[bytes, bool]] = []
    while sum(len(one) for one, _ in got) < len(piece) or (end and not any(last for _, last in got)):
        message = _kind(exchange.receive("the response's piece, before the next one comes"), "response_body")
        streamed = message.response_body.response.body_mutation.streamed_response
        got.append((streamed.body, streamed.end_of_stream))
    body = b"".join(one for one, _ in got)
    expect(body == piece, f"{len(piece)} bytes of the response became {len(body)} others")
    return got


@case("response.headers")
def _headers(target: Target) -> None:
    """Response headers are answered at once, before any of the body comes."""
    _under_way(target, _JSON)


@case("response.no-internal-headers")
def _no_internal(target: Target) -> None:
    """No header of the picker's own is added to what the client gets."""
    answer = target.ask(target.request()).chosen()
    answer.exchange.send(response_headers(_JSON, served=answer.addresses[0]))
    message = _kind(answer.exchange.receive("the answer to the response headers"), "response_headers")
    mutation = message.response_headers.response.header_mutation
    added = {one.header.key.lower(): value_of(one.header) for one in mutation.set_headers}
    expect(not added, f"adds {added}")


@case("response.without-served")
def _without_served(target: Target) -> None:
    """A gateway that does not say which endpoint served is answered all the same."""
    exchange = target.ask(target.request()).chosen().exchange
    exchange.send(response_headers(_JSON))
    _kind(exchange.receive("the answer to the response headers"), "response_headers")


@case("response.served-elsewhere")
def _elsewhere(target: Target) -> None:
    """A served endpoint that was not chosen, or is no address, does no harm."""
    for served in ("203.0.113.9:9", "nonsense", ""):
        exchange = target.ask(target.request()).chosen().exchange
        exchange.send(response_headers(_JSON, served=served))
        _kind(exchange.receive("the answer to the response headers"), "response_headers")
    target.ask(target.request()).chosen()


@case("response.no-body")
def _no_body(target: Target) -> None:
    """A response that ends with its headers is answered, and the stream ends with OK."""
    answer = target.ask(target.request()).chosen()
    answer.exchange.send(response_headers(status=204, served=answer.addresses[0], end=True))
    _kind(answer.exchange.receive("the answer to the response headers"), "response_headers")
    answer.exchange.finish()


@case("response.events-at-once")
def _events(target: Target) -> None:
    """Each piece of a stream of events is relayed before the next one comes."""
    target.need_bodies()
    exchange = _under_way(target, _SSE)
    for number in range(20):
        _relayed(exchange, b'data: {"choices": [{"delta": {"content": "%d"}}]}\n\n' % number)
    _relayed(exchange, b"data: [DONE]\n\n", end=True)
    exchange.finish()


@case("response.json-at-once")
def _json(target: Target) -> None:
    """A JSON response is relayed piece by piece too, not held to its end."""
    target.need_bodies()
    exchange = _under_way(target, _JSON)
    _relayed(exchange, b'{"choices": [{"message": {"content": "hel')
    _relayed(exchange, b'lo"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}', end=True)
    exchange.finish()


@case("response.cut-anywhere")
def _cut(target: Target) -> None:
    """Pieces that cut events, lines and characters in two are relayed as they are."""
    target.need_bodies()
    exchange = _under_way(target, _SSE)
    for piece in (b"da", b"ta: caf\xc3", b"\xa9\n", b"\nda", b"ta: [DONE]\n\n"):
        _relayed(exchange, piece)
    _relayed(exchange, b"", end=True)


@case("response.large")
def _large(target: Target) -> None:
    """A response of 500 kB in large pieces is relayed whole, in pieces of at most 62,000 bytes."""
    target.need_bodies()
    exchange = _under_way(target, _JSON)
    got = [one for _ in range(4) for one in _relayed(exchange, b"x" * 125_000)]
    got += _relayed(exchange, b"y", end=True)
    largest = max(len(piece) for piece, _ in got)
    expect(largest <= 62_000, f"a piece of {largest} bytes")


@case("response.ends-once")
def _ends_once(target: Target) -> None:
    """end_of_stream is on the last piece and on no other, also where that one is large or empty."""
    target.need_bodies()
    for last in (b"z" * 150_000, b""):
        exchange = _under_way(target, _JSON)
        got = _relayed(exchange, b"{}") + _relayed(exchange, last, end=True)
        ends = [end for _, end in got]
        expect(ends.index(True) == len(ends) - 1, f"end_of_stream by piece: {ends}")
        exchange.finish()


@case("response.trailers")
def _trailers(target: Target) -> None:
    """Response trailers are answered, and the stream ends with OK."""
    target.need_bodies()
    exchange = _under_way(target, _SSE)
    _relayed(exchange, b"data: 1\n\n")
    exchange.send(response_trailers())
    _kind(exchange.receive("the answer to the response trailers"), "response_trailers")
    exchange.finish()


@case("response.error")
def _error(target: Target) -> None:
    """An engine's error is relayed as it is."""
    target.need_bodies()
    for status in (400, 404, 429, 500, 503):
        exchange = _under_way(target, _JSON, status=status)
        _relayed(exchange, b'{"error": "it is the engine that says so"}', end=True)
        exchange.finish()


@case("response.not-what-it-says")
def _not_json(target: Target) -> None:
    """A body that is not what its content-type says is relayed as it is."""
    target.need_bodies()
    for header in (_JSON, _SSE):
        exchange = _under_way(target, header)
        _relayed(exchange, bytes(range(256)), end=True)
        exchange.finish()


@case("response.status-text")
def _status_text(target: Target) -> None:
    """A :status that is no number does no harm."""
    exchange = target.ask(target.request()).chosen().exchange
    message = build.response_headers(_JSON)
    message.response_headers.headers.headers[0].raw_value = b"fine"
    exchange.send(message)
    _kind(exchange.receive("the answer to the response headers"), "response_headers")
