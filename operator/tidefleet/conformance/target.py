"""The picker under test: how it is reached, what it may choose, and whole requests put to it."""

from __future__ import annotations

import ipaddress
import threading
from dataclasses import dataclass, field
from typing import Any

import grpc

from tidefleet.conformance import build
from tidefleet.conformance.build import Request
from tidefleet.conformance.case import Failed, Skipped, expect, fail
from tidefleet.conformance.exchange import Exchange


@dataclass
class Answer:
    """What a picker did with a request."""

    exchange: Exchange
    kinds: list[str] = field(default_factory=list)
    """The kinds of the answers in order, e.g. ``request_headers``, ``request_body``."""
    refused: Any = None
    """The ImmediateResponse, if it was one."""
    headers: Any = None
    """The whole ProcessingResponse that answered the headers."""
    pieces: list[tuple[bytes, bool]] = field(default_factory=list)
    trailers: bool = False

    @property
    def body(self) -> bytes:
        """The body that goes to the engine."""
        return b"".join(piece for piece, _ in self.pieces)

    @property
    def status(self) -> int | None:
        """The status of the refusal, None if there is none."""
        return None if self.refused is None else int(self.refused.status.code)

    @property
    def set_headers(self) -> list[tuple[str, str]]:
        """The headers that it sets on the request."""
        mutation = self.headers.request_headers.response.header_mutation
        return [(one.header.key.lower(), value_of(one.header)) for one in mutation.set_headers]

    @property
    def in_header(self) -> str:
        """The destination in the header."""
        values = [value for name, value in self.chosen().set_headers if name == build.DESTINATION]
        expect(len(values) == 1, f"the header {build.DESTINATION} is set {len(values)} times; expected once")
        return values[0]

    @property
    def in_metadata(self) -> str:
        """The destination in the dynamic metadata."""
        self.chosen()
        fields = self.headers.dynamic_metadata.fields
        expect("envoy.lb" in fields, f"dynamic metadata has {sorted(fields) or 'nothing'}; expected envoy.lb")
        inner = fields["envoy.lb"].struct_value.fields
        expect(build.DESTINATION in inner, f"metadata envoy.lb has {sorted(inner)}; expected {build.DESTINATION}")
        return str(inner[build.DESTINATION].string_value)

    @property
    def addresses(self) -> list[str]:
        """The destination's addresses in order."""
        return [one.strip() for one in self.in_header.split(",")]

    def chosen(self) -> Answer:
        """Itself, if it is a choice."""
        if self.refused is not None:
            text = self.refused.body.decode(errors="replace")[:200]
            fail(f"refused with {self.status} ({text}); expected a choice")
        return self

    def refused_with(self, *statuses: int) -> Answer:
        """Itself, if it is a refusal with one of these."""
        wanted = " or ".join(map(str, statuses))
        if self.refused is None:
            fail(f"chose {self.in_header!r}; expected an ImmediateResponse with {wanted}")
        expect(self.status in statuses, f"refused with {self.status}; expected {wanted}")
        return self


@dataclass
class Target:
    """A picker and what is known about it."""

    address: str
    endpoints: tuple[str, ...] = ()
    """Everything it may choose, as it writes it; learnt from its answers if not given."""
    model: str = "model"
    credentials: Any = None
    """grpc.ChannelCredentials for TLS; plain text if None."""
    server_name: str | None = None
    deadline_seconds: float = 10.0
    bodies: bool = True
    """Whether it is used in full duplex; False where it is set up for headers only."""
    told_endpoints: bool = False

    def __post_init__(self) -> None:
        self.told_endpoints = bool(self.endpoints)
        self._lock = threading.Lock()
        self._shared: Any = None
        self._open: list[Exchange] = []

    def channel(self, *, plain: bool = False) -> Any:
        """A connection of its own; the caller closes it."""
        options: list[tuple[str, Any]] = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ]
        if self.server_name:
            options.append(("grpc.ssl_target_name_override", self.server_name))
        if self.credentials is None or plain:
            return grpc.insecure_channel(self.address, options=options)
        return grpc.secure_channel(self.address, self.credentials, options=options)

    @property
    def connection(self) -> Any:
        """The connection that cases share."""
        with self._lock:
            if self._shared is None:
                self._shared = self.channel()
            return self._shared

    def close(self) -> None:
        """Close the shared connection."""
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def open(self, channel: Any = None) -> Exchange:
        """A stream."""
        exchange = Exchange(channel or self.connection, deadline_seconds=self.deadline_seconds)
        self._open.append(exchange)
        return exchange

    def release(self) -> None:
        """Reset every stream that a case left open."""
        for exchange in self._open:
            exchange.cancel()
        self._open.clear()

    def need_bodies(self) -> None:
        """Skip the case where the picker sees headers only."""
        if not self.bodies:
            raise Skipped("the picker is set up for headers only")

    def need_endpoints(self, count: int) -> tuple[str, ...]:
        """Endpoints to ask for; learns them from answers if they are not given."""
        if not self.told_endpoints:
            for _ in range(8):
                if len(self.endpoints) >= count:
                    break
                found = self.ask(self.request()).chosen().addresses
                self.endpoints = tuple(dict.fromkeys((*self.endpoints, *found)))
        if len(self.endpoints) < count:
            raise Skipped(f"needs {count} endpoints (--endpoints); {len(self.endpoints)} are known")
        return self.endpoints

    def request(self, text: str = "Say hello.", **fields: Any) -> Request:
        """A chat request with a body in one piece; without one where the picker sees headers only."""
        if not self.bodies:
            return Request(method="GET", path="/v1/models", **fields)
        return Request(pieces=(build.chat(self.model, text),), **fields)

    def ask(self, request: Request, *, channel: Any = None) -> Answer:
        """Put a whole request and read everything until it may go to the engine, or is refused."""
        exchange = self.open(channel)
        exchange.send(build.request_headers(request), *build.request_rest(request))
        return self.read(exchange, request)

    def read(self, exchange: Exchange, request: Request) -> Answer:
        """Read the answers to a request that was sent."""
        answer = Answer(exchange)
        while True:
            message = exchange.receive(_next_of(answer, request))
            kind = message.WhichOneof("response")
            answer.kinds.append(str(kind))
            match kind:
                case "immediate_response":
                    answer.refused = message.immediate_response
                    return answer
                case "request_headers":
                    answer.headers = message
                case "request_body":
                    streamed = message.request_body.response.body_mutation.streamed_response
                    answer.pieces.append((streamed.body, streamed.end_of_stream))
                case "request_trailers":
                    answer.trailers = True
                case other:
                    raise Failed(f"a {other} in answer to a request; expected {_next_of(answer, request)}")
            if answer.headers is not None and _whole(answer, request):
                return answer


def _whole(answer: Answer, request: Request) -> bool:
    if request.trailers:
        return answer.trailers
    return request.pieces is None or any(end for _, end in answer.pieces)


def _next_of(answer: Answer, request: Request) -> str:
    if answer.headers is None:
        return "the answer to the request headers"
    if request.trailers and not answer.trailers:
        return "the body's pieces and the answer to the trailers"
    return "the body's pieces up to end_of_stream"


def value_of(header: Any) -> str:
    """A header's value, wherever the picker put it."""
    return str(header.raw_value.decode(errors="replace") or header.value)


def address_of(text: str) -> tuple[str, int]:
    """Host and port of an ``ip:port``.

    Raises:
        Failed: It is none.
    """
    host, _, port = text.rpartition(":")
    try:
        bracketed = host.startswith("[") and host.endswith("]")
        ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
        number = int(port)
    except ValueError:
        raise Failed(f"the destination {text!r} is not ip:port, e.g. 10.0.0.1:8000 or [fd00::1]:8000") from None
    expect((ip.version == 6) == bracketed, f"the destination {text!r}: an IPv6 address, and only that, is in brackets")
    expect(0 < number < 65_536, f"the destination {text!r} has no port that exists")
    return str(ip), number
