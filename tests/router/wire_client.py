"""A client that writes HTTP/2 frames by hand, polite or not, and a chooser that remembers what it was told."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import hpack
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from tidefleet.router import Answer, Choice, Health, Limits, RequestHead, Server, serve
from tidefleet.router.ext_proc import PATH, Options
from tidefleet.router.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    GOAWAY,
    HEADERS,
    PREFACE,
    SETTINGS,
    literal_headers,
)

CALL = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", PATH),
    (b":authority", b"picker"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
Frame = tuple[int, int, int, bytes]
"""Kind, flags, stream, payload."""


class Recorder:
    """Answers as told and remembers everything."""

    def __init__(self, answer: Callable[[RequestHead, bytes | None], Answer] | None = None) -> None:
        self._answer = answer or (lambda head, body: Choice(("10.0.0.1:8000", "10.0.0.2:8000"), ticket=head.path))
        self.asked: list[tuple[RequestHead, bytes | None]] = []
        self.told: list[tuple[object, ...]] = []
        self.gate: asyncio.Event | None = None

    def choose(self, head: RequestHead, body: bytes | None) -> Answer | Awaitable[Answer]:
        self.asked.append((head, body))
        return self._answer(head, body) if self.gate is None else self._later(head, body)

    async def _later(self, head: RequestHead, body: bytes | None) -> Answer:
        assert self.gate is not None
        await self.gate.wait()
        return self._answer(head, body)

    def served(self, ticket: object, address: str | None, status: int | None, now: float) -> None:
        self.told.append(("served", ticket, address, status))

    def body(self, ticket: object, chunk: bytes, end: bool, now: float) -> None:
        self.told.append(("body", ticket, chunk, end))

    def closed(self, ticket: object, now: float) -> None:
        self.told.append(("closed", ticket))


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._decoder = hpack.Decoder()

    def frame(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self._writer.write(FRAME_HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload)

    def raw(self, data: bytes) -> None:
        self._writer.write(data)

    def call(self, stream: int, *messages: object, end: bool = False, path: bytes = PATH) -> None:
        headers = [(name, path if name == b":path" else value) for name, value in CALL]
        self.frame(HEADERS, END_HEADERS, stream, literal_headers(headers))
        for message in messages:
            self.message(stream, message)
        if end:
            self.frame(DATA, END_STREAM, stream)

    def message(self, stream: int, message: object) -> None:
        raw = message.SerializeToString() if not isinstance(message, bytes) else message  # type: ignore[attr-defined]
        data = struct.pack(">BI", 0, len(raw)) + raw
        for at in range(0, len(data), 16_384):
            self.frame(DATA, 0, stream, data[at : at + 16_384])

    async def read(self, wanted: int | None = None, *, seconds: float = 10.0) -> Frame:
        """The next frame, or the next one of a kind; settings are acknowledged."""
        async with asyncio.timeout(seconds):
            while True:
                word, flags, stream = FRAME_HEADER.unpack(await self._reader.readexactly(9))
                kind, payload = word & 0xFF, await self._reader.readexactly(word >> 8)
                if kind == SETTINGS and not flags & ACK:
                    self.frame(SETTINGS, ACK, 0)
                if wanted is None or kind == wanted:
                    return kind, flags, stream, payload

    async def goaway(self) -> int:
        """The code that the server ends the connection with; it must close it, too."""
        code = struct.unpack(">II", (await self.read(GOAWAY))[3][:8])[1]
        with contextlib.suppress(ConnectionResetError):  # what we sent after it was not read
            async with asyncio.timeout(10):
                while await self._reader.read(65_536):
                    pass
        return int(code)

    async def answers(self, stream: int, count: int) -> list[object]:
        """That many ProcessingResponses of one stream."""
        data = b""
        found: list[object] = []
        while len(found) < count:
            _, _, number, payload = await self.read(DATA)
            if number != stream:
                continue
            data += payload
            while len(data) >= 5 and len(data) >= 5 + (size := int.from_bytes(data[1:5], "big")):
                found.append(pb.ProcessingResponse.FromString(data[5 : 5 + size]))
                data = data[5 + size :]
        return found

    async def status(self, stream: int) -> str:
        """The gRPC status in a stream's trailers."""
        while True:
            _, flags, number, block = await self.read(HEADERS)
            fields = dict(self._decoder.decode(block))
            if number == stream and flags & END_STREAM:
                return str(fields["grpc-status"])


@contextlib.asynccontextmanager
async def serving(
    chooser: Recorder | None = None,
    *,
    limits: Limits | None = None,
    options: Options | None = None,
    held_bytes: int = 1 << 28,
    health: Health | None = None,
) -> AsyncIterator[Server]:
    server = await serve(
        chooser or Recorder(), port=0, limits=limits, options=options, held_bytes=held_bytes, health=health
    )
    try:
        yield server
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def connected(server: Server, *settings: tuple[int, int]) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    client = Client(reader, writer)
    client.raw(PREFACE)
    client.frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *one) for one in settings))
    try:
        yield client
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def request(path: str = "/v1/chat", *, end: bool = False, mode: int | None = 4) -> pb.ProcessingRequest:
    """The first message of a stream."""
    message = pb.ProcessingRequest()
    for name, value in ((":method", "POST"), (":path", path), ("content-length", "5")):
        one = message.request_headers.headers.headers.add()
        one.key, one.raw_value = name, value.encode()
    message.request_headers.end_of_stream = end
    if mode is not None:
        kind = processing_mode_pb2.ProcessingMode.BodySendMode
        message.protocol_config.request_body_mode = kind.Name(mode)
        message.protocol_config.response_body_mode = kind.Name(mode)
    return message


def piece(body: bytes, *, end: bool = False) -> pb.ProcessingRequest:
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=end))


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
