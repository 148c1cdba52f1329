"""The parsers under random input: nothing but the documented outcomes, whatever comes.

The number of inputs of a test is TIDEFLEET_FUZZ_EXAMPLES (by default 300), each a stream of up to 40 parts.
"""

import asyncio
import os
import struct
from collections.abc import Callable

from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_client import CALL, Recorder, piece, request

from tidefleet.router.ext_proc import Options, methods
from tidefleet.router.frames import (
    DATA,
    END_HEADERS,
    FRAME_HEADER,
    HEADERS,
    PREFACE,
    SETTINGS,
    H2Error,
    HeaderBlocks,
    Limits,
    literal_headers,
)
from tidefleet.router.grpc_calls import Budget, GrpcError, Messages, accepting
from tidefleet.router.health import Health, service_name
from tidefleet.router.http2 import Connection
from tidefleet.router.subset import canonical

fuzz = settings(
    max_examples=int(os.environ.get("TIDEFLEET_FUZZ_EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

_KINDS = st.integers(0, 12)
_STREAMS = st.sampled_from((0, 1, 3, 5, 7, 2, 2**31 - 1))
_PROTO = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [request(), request(end=True), request(mode=0), request(mode=2), piece(b"x"), piece(b"y", end=True)]
    ),
    st.builds(
        lambda body, end: pb.ProcessingRequest(response_body=pb.HttpBody(body=body, end_of_stream=end)),
        st.binary(max_size=300),
        st.booleans(),
    ),
    st.sampled_from([pb.ProcessingRequest(response_headers=pb.HttpHeaders()), pb.ProcessingRequest()]),
    st.just(pb.ProcessingRequest(request_trailers=pb.HttpTrailers())),
)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return FRAME_HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def _message(stream: int, flags: int, message: object) -> bytes:
    raw = message if isinstance(message, bytes) else message.SerializeToString()  # type: ignore[attr-defined]
    return _frame(DATA, flags & 1, stream, struct.pack(">BI", 0, len(raw)) + raw)


_PARTS = st.one_of(
    st.builds(_frame, _KINDS, st.integers(0, 255), _STREAMS, st.binary(max_size=80)),
    st.builds(_message, _STREAMS, st.integers(0, 1), _PROTO),
    st.builds(lambda stream: _frame(HEADERS, END_HEADERS, stream, literal_headers(CALL)), _STREAMS),
    st.builds(lambda key, value: _frame(SETTINGS, 0, 0, struct.pack(">HI", key, value)), st.integers(0, 8),
              st.integers(0, 2**32 - 1)),
    st.binary(max_size=40),
)  # fmt: skip


class _Transport(asyncio.Transport):
    """Counts what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += len(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


def _feed(parts: list[bytes], cut: Callable[[bytes], list[bytes]]) -> None:
    """A connection that is fed the parts; it either goes on or ends, and holds nothing in the end."""

    async def main() -> None:
        errors: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        chooser, budget = Recorder(), Budget(10_000)
        accept = accepting(
            methods(chooser, Options(body_bytes=5_000), budget) | Health(ready=True).methods(), budget, 6_000
        )
        open_connections: set[Connection] = set()
        connection = Connection(accept, Limits(unsent_bytes=50_000, control_frames=40), open_connections)
        transport = _Transport()
        connection.connection_made(transport)
        for data in cut(PREFACE + _frame(SETTINGS, 0, 0, b"") + b"".join(parts)):
            if transport.closed:
                break
            connection.data_received(data)
        await asyncio.sleep(0)
        connection.connection_lost(None)
        await asyncio.sleep(0)
        assert errors == []
        assert (connection.streams, open_connections, budget.held_bytes) == ({}, set(), 0)
        tickets = [one for one in chooser.told if one[0] == "closed"]
        assert len(tickets) == len(chooser.asked)

    asyncio.run(main())


@fuzz
@given(st.lists(_PARTS, max_size=40))
def test_a_connection_survives_or_ends_whatever_comes(parts: list[bytes]) -> None:
    _feed(parts, lambda data: [data])


@fuzz
@given(st.lists(_PARTS, max_size=20), st.integers(1, 64))
def test_the_same_in_pieces(parts: list[bytes], size: int) -> None:
    _feed(parts, lambda data: [data[at : at + size] for at in range(0, len(data), size)])


@fuzz
@given(st.lists(_PROTO, max_size=15), st.integers(0, 1))
def test_a_stream_of_any_messages_survives_or_ends(messages: list[object], end: int) -> None:
    head = _frame(HEADERS, END_HEADERS, 1, literal_headers(CALL))
    _feed([head, *(_message(1, 0, one) for one in messages), _frame(DATA, end, 1, b"")], lambda data: [data])


@fuzz
@given(st.lists(st.binary(max_size=300), max_size=5))
def test_header_blocks_decode_or_end_the_connection(blocks: list[bytes]) -> None:
    headers = HeaderBlocks(2_000)
    for block in blocks:
        try:
            fields = headers.decode(block)
        except H2Error:
            return
        assert sum(len(name) + len(value) + 32 for name, value in fields) <= 2_000
        assert headers.decode(block) or not fields


@fuzz
@given(st.lists(st.binary(max_size=60), max_size=10))
def test_messages_are_cut_or_refused(chunks: list[bytes]) -> None:
    messages, whole = Messages(40), Messages(40)
    try:
        one = [message for chunk in chunks for message in messages.feed(chunk)]
        assert one == whole.feed(b"".join(chunks))
    except GrpcError as error:
        assert error.status in {8, 12, 13}  # noqa: PT017 - most inputs raise nothing
    assert messages.held_bytes <= 120


@fuzz
@given(st.binary(max_size=140))
def test_health_requests_are_read_or_refused(raw: bytes) -> None:
    try:
        assert len(service_name(raw)) <= 127
    except GrpcError as error:
        assert error.status == 3  # noqa: PT017 - some inputs raise nothing


@fuzz
@given(st.one_of(st.text(max_size=40), st.from_regex(r"\[?[0-9a-f:.]{0,20}\]?(:[0-9]{0,6})?")))
def test_addresses_are_read_the_same_twice_or_not_at_all(text: str) -> None:
    one = canonical(text)
    assert one is None or canonical(one) == one
