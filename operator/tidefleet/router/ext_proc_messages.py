"""The ext_proc messages that are sent, as bytes with their gRPC prefix, and what is read from those received.

Response headers and trailers are answered by constants. Body pieces are coded here, four nested length-delimited
fields, because they are most of the bytes; `envoy.service.ext_proc.v3` from `xds-protos` codes everything else.
"""

from __future__ import annotations

import json
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from tidefleet.router.chooser import WAIT_HEADER, WILL_WAIT, Choice, Refusal
from tidefleet.router.subset import canonical_all

DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
SUBSET = "x-gateway-destination-endpoint-subset"
METADATA, SUBSET_METADATA = "envoy.lb", "envoy.lb.subset_hint"
OWN_METADATA, WAIT = "tidefleet", "wait"

PIECE_BYTES = 62_000
"""The largest piece of a body that is sent back; Envoy takes no gRPC message of 64 KiB or more of it."""

_OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_REQUEST_BODY, _RESPONSE_BODY = b"\x1a", b"\x22"  # fields 3 and 4 of ProcessingResponse


def framed(message: bytes) -> bytes:
    """A message with its gRPC prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _constant(**fields: Any) -> bytes:
    return framed(pb.ProcessingResponse(**fields).SerializeToString())


REQUEST_HEADERS_AS_THEY_ARE = _constant(request_headers=pb.HeadersResponse())
RESPONSE_HEADERS_AS_THEY_ARE = _constant(response_headers=pb.HeadersResponse())
REQUEST_BODY_AS_IT_IS = _constant(request_body=pb.BodyResponse())
RESPONSE_BODY_AS_IT_IS = _constant(response_body=pb.BodyResponse())
REQUEST_TRAILERS_AS_THEY_ARE = _constant(request_trailers=pb.TrailersResponse())
RESPONSE_TRAILERS_AS_THEY_ARE = _constant(response_trailers=pb.TrailersResponse())


def _hold() -> pb.CommonResponse:
    common = pb.CommonResponse(clear_route_cache=True)
    _set(common.header_mutation, WAIT_HEADER, WILL_WAIT)
    return common


def request_pieces(body: bytes, *, end: bool) -> list[bytes]:
    """A request body as `streamed_response` pieces, the last with `end`; an empty body that ends is one piece."""
    return _pieces(_REQUEST_BODY, body, end)


def response_pieces(body: bytes, *, end: bool) -> list[bytes]:
    """The same for a response body."""
    return _pieces(_RESPONSE_BODY, body, end)


def _pieces(field: bytes, body: bytes, end: bool) -> list[bytes]:
    size = len(body)
    if size <= PIECE_BYTES:
        return [_piece(field, body, end)] if size or end else []
    starts = range(0, size, PIECE_BYTES)
    last = starts[-1]
    return [_piece(field, body[at : at + PIECE_BYTES], end and at == last) for at in starts]


def _piece(field: bytes, body: bytes, end: bool) -> bytes:
    # ProcessingResponse.{request,response}_body -> BodyResponse.response = 1 -> CommonResponse.body_mutation = 3
    # -> BodyMutation.streamed_response = 3 -> StreamedBodyResponse.body = 1, end_of_stream = 2
    tail = b"\x10\x01" if end else b""
    inner = (b"\x0a" + _varint(len(body))) if body else b""
    size = len(inner) + len(body) + len(tail)
    streamed = b"\x1a" + _varint(size)
    size += len(streamed)
    mutation = b"\x1a" + _varint(size)
    size += len(mutation)
    response = b"\x0a" + _varint(size)
    size += len(response)
    outer = field + _varint(size)
    size += len(outer)
    return b"".join((b"\0", size.to_bytes(4, "big"), outer, response, mutation, streamed, inner, body, tail))


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))


def choice_message(choice: Choice, addresses: str, *, to_body: bool = False, length: int | None = None) -> bytes:
    """The answer that sends a request on: the destination in a header and, the same, in dynamic metadata.

    Args:
        choice: Whose headers to set and remove.
        addresses: The destination's value.
        to_body: Whether it answers a buffered body instead of the headers.
        length: The new content-length, if the body is replaced.
    """
    message = pb.ProcessingResponse()
    answer = message.request_body if to_body else message.request_headers
    common = answer.response
    common.clear_route_cache = True
    mutation = common.header_mutation
    if length is not None:
        _set(mutation, "content-length", str(length))
    if to_body and choice.body is not None:
        common.body_mutation.body = choice.body
    for name, value in choice.set_headers:
        _set(mutation, name, value)
    _set(mutation, DESTINATION, addresses)
    if choice.remove_headers:
        mutation.remove_headers.extend(choice.remove_headers)
    fields = message.dynamic_metadata.fields[METADATA].struct_value.fields
    fields[DESTINATION].string_value = addresses
    return framed(message.SerializeToString())


def _set(mutation: Any, name: str, value: str) -> None:
    option = mutation.set_headers.add()
    option.header.key = name
    option.header.raw_value = value.encode()
    option.append_action = _OVERWRITE


HOLD = _constant(request_headers=pb.HeadersResponse(response=_hold()))
HOLD_TO_BODY = _constant(request_body=pb.BodyResponse(response=_hold()))


def refusal_message(refusal: Refusal) -> bytes:
    """An ImmediateResponse with the status and a JSON body in the form of the OpenAI API's errors."""
    message = pb.ProcessingResponse()
    answer = message.immediate_response
    answer.status.code = refusal.status
    kind = "invalid_request_error" if 400 <= refusal.status < 429 else "server_error"
    kind = "rate_limit_error" if refusal.status == 429 else kind
    error = {"message": refusal.reason, "type": kind, "code": refusal.status}
    answer.body = json.dumps({"error": error}).encode()
    _set(answer.headers, "content-type", "application/json")
    for name, value in refusal.headers:
        _set(answer.headers, name, value)
    answer.details = f"tidefleet_router_{refusal.status}"
    return framed(message.SerializeToString())


def headers_of(message: Any) -> dict[str, str]:
    """The fields of an HttpHeaders by lower-case name; repeated ones are joined as RFC 9110, 5.3 says."""
    fields: dict[str, str] = {}
    for header in message.headers.headers:
        name = header.key.lower()
        value = header.raw_value.decode("utf-8", "replace") or header.value
        known = fields.get(name)
        fields[name] = value if known is None else known + ("; " if name == "cookie" else ", ") + value
    return fields


def subset_of(request: Any) -> tuple[str, ...] | None:
    """The addresses that the gateway allows; None if it does not say.

    A list of strings is what the protocol asks for. One string with commas is read as the same list, and any other
    value as an empty one: a hint that cannot be read allows nothing rather than everything.
    """
    metadata = request.metadata_context.filter_metadata
    if SUBSET_METADATA not in metadata:
        return None
    fields = metadata[SUBSET_METADATA].fields
    if SUBSET not in fields:
        return None
    value = fields[SUBSET]
    match value.WhichOneof("kind"):
        case "list_value":
            return canonical_all(one.string_value for one in value.list_value.values)
        case "string_value":
            return canonical_all((value.string_value,))
        case _:
            return ()


def may_hold(request: Any, fields: dict[str, str]) -> bool:
    """Whether the gateway has a way for requests that wait, and this one did not come by it."""
    metadata = request.metadata_context.filter_metadata
    if OWN_METADATA not in metadata:
        return False
    told = metadata[OWN_METADATA].fields
    return WAIT in told and told[WAIT].bool_value and fields.get(WAIT_HEADER) != WILL_WAIT


def served_of(request: Any) -> str | None:
    """The endpoint that the gateway says it used."""
    metadata = request.metadata_context.filter_metadata
    if METADATA not in metadata:
        return None
    fields = metadata[METADATA].fields
    return (fields[SERVED].string_value or None) if SERVED in fields else None
