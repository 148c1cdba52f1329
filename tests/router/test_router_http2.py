"""What a peer may do on a connection, and what ends it: RFC 9113, and the attacks on HTTP/2 that are known."""

import asyncio
import contextlib
import struct
from collections.abc import Callable, Coroutine

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_client import Client, Recorder, connected, eventually, piece, request, serving

from tidefleet.router import Limits
from tidefleet.router.frames import (
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    H2Error,
    HeaderBlocks,
    literal_headers,
)

SMALL = Limits(control_frames=50, control_frames_per_second=1.0, concurrent_streams=4, unsent_bytes=4_000_000)


def ends_with(code: int, act: Callable[[Client], None], *, limits: Limits = SMALL) -> None:
    """The connection ends with that code, and another one is served."""

    async def main() -> None:
        async with serving(limits=limits) as server:
            async with connected(server) as client:
                act(client)
                assert await client.goaway() == code
            async with connected(server) as client:
                client.call(1, request(end=True))
                await client.answers(1, 1)

    asyncio.run(main())


def with_client(
    act: Callable[[Client, Recorder], Coroutine[None, None, None]],
    *settings: tuple[int, int],
    limits: Limits | None = None,
) -> Recorder:
    async def main() -> Recorder:
        chooser = Recorder()
        async with serving(chooser, limits=limits) as server, connected(server, *settings) as client:
            await act(client, chooser)
        return chooser

    return asyncio.run(main())


def test_rapid_resets_end_the_connection() -> None:
    def act(client: Client) -> None:
        for number in range(200):
            client.call(2 * number + 1)
            client.frame(RST_STREAM, 0, 2 * number + 1, CANCEL.to_bytes(4, "big"))

    ends_with(ENHANCE_YOUR_CALM, act)


def test_resets_of_answered_streams_cost_nothing() -> None:
    async def act(client: Client, chooser: Recorder) -> None:
        for number in range(1, 301, 2):
            client.call(number, request(end=True))
            await client.answers(number, 1)
            client.frame(RST_STREAM, 0, number, CANCEL.to_bytes(4, "big"))

    with_client(act, limits=SMALL)


@pytest.mark.parametrize(
    "frame",
    [(PING, 0, 0, bytes(8)), (SETTINGS, 0, 0, b""), (PRIORITY, 0, 1, bytes(5)), (77, 0, 0, b"x"), (DATA, 0, 1, b"")],
    ids=["pings", "settings", "priorities", "unknown frames", "empty data"],
)
def test_a_flood_of_frames_that_cost_nothing_ends_the_connection(frame: tuple[int, int, int, bytes]) -> None:
    def act(client: Client) -> None:
        client.call(1)
        for _ in range(100):
            client.frame(*frame)

    ends_with(ENHANCE_YOUR_CALM, act)


def test_a_flood_of_continuations_ends_the_connection() -> None:
    def act(client: Client) -> None:
        client.frame(HEADERS, 0, 1, b"")
        for _ in range(20):
            client.frame(CONTINUATION, 0, 1, bytes(10_000))

    ends_with(ENHANCE_YOUR_CALM, act)


def test_a_flood_of_tiny_continuations_ends_the_connection() -> None:
    def act(client: Client) -> None:
        client.frame(HEADERS, 0, 1, b"")
        for _ in range(100):
            client.frame(CONTINUATION, 0, 1, b"\x82")

    ends_with(ENHANCE_YOUR_CALM, act)


def test_an_hpack_bomb_ends_the_connection() -> None:
    def act(client: Client) -> None:
        entry = b"\x40" + b"\x01a" + b"\x7f\xa1\x1e" + b"v" * 4_000  # indexed, 4,000 bytes
        client.frame(HEADERS, END_HEADERS | END_STREAM, 1, entry + b"\xbe" * 10_000)

    ends_with(ENHANCE_YOUR_CALM, act)


@pytest.mark.parametrize(
    ("code", "frames"),
    [
        (PROTOCOL_ERROR, [(HEADERS, END_HEADERS, 2, b"")]),
        (PROTOCOL_ERROR, [(DATA, 0, 1, b"x")]),
        (PROTOCOL_ERROR, [(WINDOW_UPDATE, 0, 0, bytes(4))]),
        (PROTOCOL_ERROR, [(WINDOW_UPDATE, 0, 9, b"\0\0\0\1")]),
        (PROTOCOL_ERROR, [(RST_STREAM, 0, 9, bytes(4))]),
        (PROTOCOL_ERROR, [(PUSH_PROMISE, 0, 1, bytes(4))]),
        (PROTOCOL_ERROR, [(CONTINUATION, 0, 1, b"")]),
        (PROTOCOL_ERROR, [(HEADERS, 0, 1, b""), (PING, 0, 0, bytes(8))]),
        (PROTOCOL_ERROR, [(HEADERS, END_HEADERS | PADDED, 1, b"\x09abc")]),
        (PROTOCOL_ERROR, [(SETTINGS, 0, 0, struct.pack(">HI", 5, 100))]),
        (PROTOCOL_ERROR, [(GOAWAY, 0, 1, bytes(8))]),
        (FRAME_SIZE_ERROR, [(PING, 0, 0, bytes(7))]),
        (FRAME_SIZE_ERROR, [(SETTINGS, 0, 0, bytes(5))]),
        (FRAME_SIZE_ERROR, [(WINDOW_UPDATE, 0, 0, bytes(3))]),
        (FRAME_SIZE_ERROR, [(DATA, 0, 1, bytes(65_537))]),
        (FLOW_CONTROL_ERROR, [(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")]),
        (FLOW_CONTROL_ERROR, [(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31))]),
        (COMPRESSION_ERROR, [(HEADERS, END_HEADERS, 1, b"\x80")]),
        (COMPRESSION_ERROR, [(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff")]),
    ],
)
def test_a_broken_frame_ends_the_connection_with_its_code(code: int, frames: list[tuple[int, int, int, bytes]]) -> None:
    def act(client: Client) -> None:
        for frame in frames:
            client.frame(*frame)

    ends_with(code, act)


def test_late_data_of_a_stream_that_is_over_are_dropped() -> None:
    async def act(client: Client, chooser: Recorder) -> None:
        client.call(1, b"\xff no ProcessingRequest")
        assert await client.status(1) == "3"
        client.frame(DATA, 0, 1, b"x" * 1_000)
        client.frame(DATA, END_STREAM, 1)
        client.call(3, request(end=True))
        await client.answers(3, 1)

    with_client(act)


def test_data_on_a_half_closed_stream_ends_the_connection() -> None:
    async def main() -> None:
        chooser = Recorder()
        chooser.gate = asyncio.Event()
        async with serving(chooser) as server, connected(server) as client:
            client.call(1, request(end=True), end=True)
            client.frame(DATA, 0, 1, b"x")
            assert await client.goaway() == STREAM_CLOSED

    asyncio.run(main())


def test_anything_but_http2_is_turned_away() -> None:
    async def main() -> None:
        async with serving() as server:
            for text in (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + bytes(100), b"\x16\x03\x01" + bytes(100)):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(text)
                async with asyncio.timeout(10):
                    await reader.read(-1)
                writer.close()
            await eventually(lambda: server.connections == 0)

    asyncio.run(main())


def test_a_peer_that_says_nothing_is_dropped() -> None:
    async def main() -> None:
        async with serving(limits=Limits(preface_seconds=0.05)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            async with asyncio.timeout(10):
                await reader.read(-1)
            assert server.connections == 0
            writer.close()

    asyncio.run(main())


def test_streams_above_the_limit_are_refused_and_may_be_tried_again() -> None:
    async def act(client: Client, chooser: Recorder) -> None:
        for number in (1, 3, 5, 7, 9):
            client.call(number)
        _, _, stream, code = await client.read(RST_STREAM)
        assert (stream, int.from_bytes(code, "big")) == (9, REFUSED_STREAM)
        client.message(1, request(end=True))
        await client.answers(1, 1)
        client.frame(DATA, END_STREAM, 1)
        client.call(11, request(end=True))
        await client.answers(11, 1)

    with_client(act, limits=SMALL)


def test_bytes_may_come_one_at_a_time() -> None:
    async def main() -> None:
        async with serving() as server, connected(server) as client:
            sent: list[bytes] = []
            client.raw, write = sent.append, client.raw  # type: ignore[method-assign]
            client._writer, writer = _Collector(sent), client._writer  # type: ignore[assignment]
            client.call(1, request(), piece(b"hello", end=True))
            client._writer = writer
            for byte in b"".join(sent):
                write(bytes((byte,)))
                await asyncio.sleep(0)
            assert len(await client.answers(1, 2)) == 2

    asyncio.run(main())


class _Collector:
    def __init__(self, sent: list[bytes]) -> None:
        self.write = sent.append


def test_an_answer_waits_for_the_windows_of_its_stream_and_connection() -> None:
    body = bytes(range(256)) * 1_000

    async def act(client: Client, chooser: Recorder) -> None:
        client.call(1, request(), piece(body, end=True))
        got = 0
        while got < 1_000:
            got += len((await client.read(DATA))[3])
        assert got == 1_000
        with pytest.raises(TimeoutError):
            await client.read(DATA, seconds=0.1)
        client.frame(WINDOW_UPDATE, 0, 1, (1 << 20).to_bytes(4, "big"))
        while got < 65_535:
            got += len((await client.read(DATA))[3])
        with pytest.raises(TimeoutError):
            await client.read(DATA, seconds=0.1)
        client.frame(WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big"))
        while got < len(body):
            got += len((await client.read(DATA))[3])

    with_client(act, (4, 1_000))


def test_a_smaller_initial_window_holds_back_open_streams() -> None:
    async def act(client: Client, chooser: Recorder) -> None:
        client.call(1, request())
        client.frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
        client.message(1, piece(b"hello", end=True))
        with pytest.raises(TimeoutError):
            await client.read(DATA, seconds=0.2)
        client.frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535))
        assert len(await client.answers(1, 2)) == 2

    with_client(act)


def test_a_peer_that_reads_nothing_is_credited_no_more_bytes() -> None:
    async def act(client: Client, chooser: Recorder) -> None:
        client.call(1, request(end=True))
        credited = 0
        message = pb_response(60_000)
        for _ in range(20):  # 1.2 MB, of a window of 1 MiB
            client.message(1, message)
        with contextlib.suppress(TimeoutError):
            while True:
                _, _, stream, more = await client.read(WINDOW_UPDATE, seconds=0.3)
                credited += int.from_bytes(more, "big") if stream == 1 else 0
        assert credited <= 600_000

    with_client(act, (4, 0))


def pb_response(size: int) -> object:
    from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

    return pb.ProcessingRequest(response_body=pb.HttpBody(body=bytes(size)))


def test_answers_that_pile_up_unread_end_the_connection() -> None:
    async def main() -> None:
        async with serving(limits=Limits(unsent_bytes=100_000)) as server, connected(server, (4, 0)) as client:
            client.call(1, request(), piece(bytes(200_000), end=True))
            assert await client.goaway() == ENHANCE_YOUR_CALM
            await eventually(lambda: server.streams == 0)

    asyncio.run(main())


def test_a_drain_finishes_what_runs_and_refuses_the_rest() -> None:
    async def main() -> None:
        chooser = Recorder()
        chooser.gate = asyncio.Event()
        async with serving(chooser) as server, connected(server) as client:
            client.call(1, request(end=True), end=True)
            await eventually(lambda: len(chooser.asked) == 1)
            draining = asyncio.create_task(server.drain())
            _, _, _, goaway = await client.read(GOAWAY)
            assert struct.unpack(">II", goaway) == (1, 0)
            client.call(3, request(end=True), end=True)
            assert (await client.read(RST_STREAM))[2] == 3
            chooser.gate.set()
            await client.answers(1, 1)
            assert await client.status(1) == "0"
            await draining
            assert server.connections == 0
        assert len(chooser.asked) == 1

    asyncio.run(main())


def test_header_blocks_that_name_table_entries_follow_the_table() -> None:
    blocks = HeaderBlocks(10_000)
    assert blocks.decode(b"\x40\x01a\x01b") == [(b"a", b"b")]
    assert blocks.decode(b"\xbe") == [(b"a", b"b")]
    assert blocks.decode(b"\xbe") == [(b"a", b"b")]
    assert blocks.decode(b"\x40\x01c\x01d") == [(b"c", b"d")]
    assert blocks.decode(b"\xbe") == [(b"c", b"d")]


def test_equal_blocks_with_literals_follow_the_table_too() -> None:
    """A literal without indexing leaves the table; one with indexing, and a change of its size, do not."""
    blocks = HeaderBlocks(10_000)
    indexed, plain = b"\x40\x01a\x01b", b"\xbe\x04\x02/x\x00\x01n\x01v"
    blocks.decode(indexed)
    wanted = [(b"a", b"b"), (b":path", b"/x"), (b"n", b"v")]
    assert blocks.decode(plain) == blocks.decode(plain) == wanted
    blocks.decode(b"\x40\x01c" + b"\x7f\x01" + b"d" * 128)
    assert blocks.decode(plain)[0] == (b"c", b"d" * 128)
    blocks.decode(b"\x20")  # the table is emptied
    with pytest.raises(H2Error):
        blocks.decode(plain)


FIELDS = [
    b"\x40\x01a\x01b", b"\x20", b"\x3f\xe1\x1f", b"\x82", b"\xbe", b"\x0f\x10\x01v", b"\x10\x01s\x01t", b"\x50\x01z",
    b"\x04\x81\x1f",
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(FIELDS), st.binary(max_size=6)), max_size=12))
def test_blocks_decode_as_without_memory(blocks: list[bytes]) -> None:
    remembering, plain = HeaderBlocks(10_000), hpack.Decoder(max_header_list_size=10_000)
    for block in [one for one in blocks for _ in range(2)]:
        try:
            wanted = [(bytes(name), bytes(value)) for name, value in plain.decode(block, raw=True)]
        except (hpack.HPACKError, IndexError, ValueError):
            with pytest.raises(H2Error):
                remembering.decode(block)
            return
        assert remembering.decode(block) == wanted


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 20_000])
def test_literal_headers_decode_to_what_they_were(size: int) -> None:
    headers = [(b":status", b"200"), (b"x-name", b"v" * size), (b"n" * max(1, size), b"")]
    assert HeaderBlocks(100_000).decode(literal_headers(headers)) == headers
