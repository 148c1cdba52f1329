"""ProcessingRequests as Envoy sends them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
SUBSET = "x-gateway-destination-endpoint-subset"
FULL_DUPLEX = processing_mode_pb2.ProcessingMode.FULL_DUPLEX_STREAMED
NONE = processing_mode_pb2.ProcessingMode.NONE

ANYWHERE = object()
"""No subset hint at all."""


@dataclass(frozen=True)
class Request:
    """A client's request: None for `pieces` is one without a body."""

    pieces: tuple[bytes, ...] | None = None
    method: str = "POST"
    path: str = "/v1/chat/completions"
    headers: tuple[tuple[str, str | bytes], ...] = ()
    subset: Any = ANYWHERE
    """What the hint's value is: a list, a string, or anything else that a Struct can hold."""
    trailers: bool = False
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    text_values: bool = False
    """Whether headers come in `value`, as from an old Envoy, instead of `raw_value`."""

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces or ())


def chat(model: str, text: str = "Say hello.", **more: Any) -> bytes:
    """A body of the chat completions API; `more` adds fields to it, or replaces them."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}]} | more).encode()


def cut(body: bytes, size: int) -> tuple[bytes, ...]:
    """The body in pieces of that size."""
    return tuple(body[at : at + size] for at in range(0, len(body), size)) or (b"",)


def request_headers(request: Request, *, body_mode: int = FULL_DUPLEX) -> Any:
    """The first message of a stream."""
    message = pb.ProcessingRequest()
    head = message.request_headers
    pseudo: list[tuple[str, str | bytes]] = [
        (":authority", "inference.example.com"),
        (":path", request.path),
        (":method", request.method),
        (":scheme", "http"),
        ("x-request-id", "5fb1a1e0-3f67-4d2c-8d5e-0c6f4d3a9b10"),
    ]
    if request.pieces is not None:
        pseudo.append(("content-type", "application/json"))
        if not request.trailers:
            pseudo.append(("content-length", str(len(request.body))))
    add_headers(head.headers, (*pseudo, *request.headers), text_values=request.text_values)
    head.end_of_stream = request.pieces is None and not request.trailers
    message.protocol_config.request_body_mode = body_mode
    message.protocol_config.response_body_mode = body_mode
    if request.subset is not ANYWHERE:
        message.metadata_context.filter_metadata["envoy.lb.subset_hint"].update({SUBSET: request.subset})
    for namespace, values in request.metadata.items():
        message.metadata_context.filter_metadata[namespace].update(values)
    return message


def request_rest(request: Request) -> list[Any]:
    """The messages after the first one."""
    messages = []
    pieces = request.pieces or ()
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1 and not request.trailers
        messages.append(pb.ProcessingRequest(request_body=pb.HttpBody(body=piece, end_of_stream=last)))
    if request.trailers:
        message = pb.ProcessingRequest()
        add_headers(message.request_trailers.trailers, [("x-checksum", "none")])
        messages.append(message)
    return messages


def response_headers(*headers: tuple[str, str], status: int = 200, served: str | None = None, end: bool = False) -> Any:
    """An engine's response headers, with the endpoint that the gateway used."""
    message = pb.ProcessingRequest()
    add_headers(message.response_headers.headers, [(":status", str(status)), *headers])
    message.response_headers.end_of_stream = end
    if served is not None:
        message.metadata_context.filter_metadata["envoy.lb"].update({SERVED: served})
    return message


def response_body(piece: bytes, *, end: bool = False) -> Any:
    """A piece of an engine's response."""
    return pb.ProcessingRequest(response_body=pb.HttpBody(body=piece, end_of_stream=end))


def response_trailers() -> Any:
    """An engine's response trailers."""
    message = pb.ProcessingRequest()
    add_headers(message.response_trailers.trailers, [("x-checksum", "none")])
    return message


def add_headers(to: Any, headers: Iterable[tuple[str, str | bytes]], *, text_values: bool = False) -> None:
    """Add headers to a HeaderMap."""
    for name, value in headers:
        one = to.headers.add()
        one.key = name
        if text_values and isinstance(value, str):
            one.value = value
        else:
            one.raw_value = value if isinstance(value, bytes) else value.encode()
