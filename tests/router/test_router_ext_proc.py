"""One ext_proc stream after another: what the chooser is asked and told, and what the gateway gets."""

import asyncio
import multiprocessing
import random
import socket

import grpc
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from wire_client import Client, Recorder, connected, eventually, piece, request, serving

from tidefleet.router import Choice, Health, Hold, Limits, Refusal, RequestHead, serve
from tidefleet.router.ext_proc import Options
from tidefleet.router.ext_proc_messages import request_pieces, response_pieces
from tidefleet.router.frames import DATA, END_STREAM, HEADERS
from tidefleet.router.grpc_calls import GrpcError, Messages
from tidefleet.router.health import EXT_PROC_SERVICE
from tidefleet.router.subset import allows, canonical, canonical_all

BODY = b'{"model": "m", "seed": 9007199254740993}'


def talk(
    chooser: Recorder, *messages: object, answers: int, options: Options | None = None
) -> list[pb.ProcessingResponse]:
    """Send messages on one stream and read that many answers; the stream is then ended."""

    async def main() -> list[pb.ProcessingResponse]:
        async with serving(chooser, options=options) as server:
            async with connected(server) as client:
                client.call(1, *messages)
                found = await client.answers(1, answers)
                client.frame(DATA, END_STREAM, 1)
                assert await client.status(1) == "0"
            await eventually(lambda: server.streams == 0)
            assert server.budget.held_bytes == 0
        return found  # type: ignore[return-value]

    return asyncio.run(main())


def response(status: bytes = b"200", served: str = "10.0.0.2:8000", *, end: bool = False) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    one = message.response_headers.headers.headers.add()
    one.key, one.raw_value = ":status", status
    message.response_headers.end_of_stream = end
    message.metadata_context.filter_metadata["envoy.lb"].update({"x-gateway-destination-endpoint-served": served})
    return message


def test_a_whole_exchange_is_told_to_the_chooser_in_order() -> None:
    chooser = Recorder()
    chunk = pb.ProcessingRequest(response_body=pb.HttpBody(body=b"data: 1\n\n"))
    last = pb.ProcessingRequest(response_body=pb.HttpBody(body=b"", end_of_stream=True))
    found = talk(chooser, request(), piece(BODY[:9]), piece(BODY[9:], end=True), response(), chunk, last, answers=5)
    kinds = [one.WhichOneof("response") for one in found]
    assert kinds == ["request_headers", "request_body", "response_headers", "response_body", "response_body"]
    assert [body for _, body in chooser.asked] == [BODY]
    assert chooser.told == [
        ("served", "/v1/chat", "10.0.0.2:8000", 200),
        ("body", "/v1/chat", b"data: 1\n\n", False),
        ("body", "/v1/chat", b"", True),
        ("closed", "/v1/chat"),
    ]


def test_the_choice_sets_and_removes_headers_and_replaces_the_body_only_where_it_says_so() -> None:
    choice = Choice(("[fd00::1]:80",), set_headers=(("x-a", "1"),), remove_headers=("x-b",), body=b"other")
    found = talk(Recorder(lambda head, body: choice), request(), piece(BODY, end=True), answers=2)
    common = found[0].request_headers.response
    headers = {one.header.key: one.header.raw_value for one in common.header_mutation.set_headers}
    assert headers == {"x-a": b"1", "content-length": b"5", "x-gateway-destination-endpoint": b"[fd00::1]:80"}
    assert list(common.header_mutation.remove_headers) == ["x-b"]
    assert found[1].request_body.response.body_mutation.streamed_response.body == b"other"


@pytest.mark.parametrize("mode", [0, 1], ids=["none", "streamed"])
def test_other_body_modes_are_chosen_for_at_the_headers_and_bodies_are_left_alone(mode: int) -> None:
    chooser = Recorder()
    messages = [request(mode=mode)] + ([piece(BODY, end=True)] if mode else [])
    found = talk(chooser, *messages, answers=len(messages))
    assert found[0].dynamic_metadata.fields["envoy.lb"].struct_value.fields
    assert chooser.asked[0][1] is None
    assert not any(one.request_body.response.HasField("body_mutation") for one in found[1:])


def test_a_buffered_body_is_answered_with_the_choice() -> None:
    chooser = Recorder()
    found = talk(chooser, request(mode=2), piece(BODY, end=True), answers=2)
    assert not found[0].request_headers.response.header_mutation.set_headers
    assert found[1].request_body.response.header_mutation.set_headers
    assert found[1].dynamic_metadata.fields["envoy.lb"].struct_value.fields
    assert chooser.asked[0][1] == BODY


def test_a_second_piece_of_a_buffered_body_is_a_grpc_error_and_the_ticket_is_closed() -> None:
    async def main() -> Recorder:
        chooser = Recorder()
        async with serving(chooser) as server, connected(server) as client:
            client.call(1, request(mode=2), piece(b"x"), piece(b"x"))
            assert await client.status(1) == "3"
        return chooser

    assert asyncio.run(main()).told == [("closed", "/v1/chat")]


def test_a_gateway_that_tells_no_mode_is_taken_as_configured() -> None:
    assert len(talk(Recorder(), request(mode=None), answers=1, options=Options(headers_only=True))) == 1
    chooser = Recorder()
    talk(chooser, request(mode=None), piece(BODY, end=True), answers=2)
    assert chooser.asked[0][1] == BODY


def test_a_body_over_the_limit_is_refused_with_413() -> None:
    found = talk_refused(Options(body_bytes=100), piece(bytes(101)))
    assert found.immediate_response.status.code == 413


def test_bodies_over_all_that_may_be_held_are_refused_with_503() -> None:
    found = talk_refused(Options(), piece(bytes(101)), held_bytes=100)
    assert found.immediate_response.status.code == 503


def talk_refused(options: Options, *messages: object, held_bytes: int = 1 << 20) -> pb.ProcessingResponse:
    async def main() -> pb.ProcessingResponse:
        chooser = Recorder()
        async with serving(chooser, options=options, held_bytes=held_bytes) as server, connected(server) as client:
            client.call(1, request(), *messages)
            (found,) = await client.answers(1, 1)
            assert await client.status(1) == "0"
            assert (chooser.asked, chooser.told, server.budget.held_bytes) == ([], [], 0)
            return found  # type: ignore[return-value]

    return asyncio.run(main())


def test_a_message_over_the_limit_is_a_grpc_error_before_it_is_held() -> None:
    async def main() -> None:
        async with serving(options=Options(body_bytes=1_000)) as server, connected(server) as client:
            client.call(1)
            client.frame(DATA, 0, 1, b"\0" + (1 << 30).to_bytes(4, "big"))
            assert await client.status(1) == "8"
            assert server.budget.held_bytes == 0

    asyncio.run(main())


@pytest.mark.parametrize("mode", [0, 2, 4], ids=["headers only", "buffered", "full duplex"])
def test_a_request_that_will_wait_goes_back_whole_with_a_header_that_says_so_and_no_destination(mode: int) -> None:
    chooser = Recorder(lambda head, body: Hold())
    body = [piece(BODY, end=True)] if mode else []
    found = talk(chooser, request(mode=mode), *body, answers=1 + len(body))
    said = found[1].request_body if mode == 2 else found[0].request_headers
    (told,) = said.response.header_mutation.set_headers
    assert (told.header.key, told.header.raw_value) == ("x-tidefleet-wait", b"will")
    assert said.response.clear_route_cache
    assert not found[0].HasField("dynamic_metadata")
    if mode == 4:
        assert found[1].request_body.response.body_mutation.streamed_response.body == BODY
    assert chooser.told == []


def test_only_a_gateways_metadata_say_that_a_request_may_be_held_and_only_until_it_waits() -> None:
    for told, header, expected in ((True, "", True), (False, "", False), (True, "will", False), (None, "may", False)):
        message = request()
        if told is not None:
            message.metadata_context.filter_metadata["tidefleet"].update({"wait": told})
        if header:
            one = message.request_headers.headers.headers.add()
            one.key, one.raw_value = "x-tidefleet-wait", header.encode()
        chooser = Recorder()
        talk(chooser, message, piece(BODY, end=True), answers=2)
        assert chooser.asked[0][0].may_hold is expected


def test_an_address_outside_the_subset_is_never_sent_whatever_the_chooser_says() -> None:
    message = request(end=True)
    hint = {"x-gateway-destination-endpoint-subset": ["10.0.0.2:8000", "[FD00:0::1]:80"]}
    message.metadata_context.filter_metadata["envoy.lb.subset_hint"].update(hint)
    chooser = Recorder()
    (found,) = talk(chooser, message, answers=1)
    assert chooser.asked[0][0].subset == ("10.0.0.2:8000", "[fd00::1]:80")
    (header,) = found.request_headers.response.header_mutation.set_headers
    assert header.header.raw_value == b"10.0.0.2:8000"


def test_a_chooser_that_names_nothing_in_the_subset_is_refused_and_still_closed() -> None:
    message = request(end=True)
    hint = {"x-gateway-destination-endpoint-subset": ["10.0.0.9:8000"]}
    message.metadata_context.filter_metadata["envoy.lb.subset_hint"].update(hint)
    chooser = Recorder()

    async def main() -> int:
        async with serving(chooser) as server, connected(server) as client:
            client.call(1, message)
            (found,) = await client.answers(1, 1)
            return int(found.immediate_response.status.code)  # type: ignore[attr-defined]

    assert asyncio.run(main()) == 503
    assert chooser.told == [("closed", "/v1/chat")]


def test_a_chooser_that_fails_is_a_503_and_says_nothing_of_the_request(caplog: pytest.LogCaptureFixture) -> None:
    def broken(head: RequestHead, body: bytes | None) -> Choice | Refusal:
        raise RuntimeError("a bug")

    async def main() -> int:
        async with serving(Recorder(broken)) as server, connected(server) as client:
            client.call(1, request("/secret-path"), piece(b"secret body", end=True))
            (found,) = await client.answers(1, 1)
            return int(found.immediate_response.status.code)  # type: ignore[attr-defined]

    assert asyncio.run(main()) == 503
    assert "a bug" in caplog.text
    assert "secret-path" not in caplog.text
    assert "secret body" not in caplog.text


@pytest.mark.parametrize("answered", [True, False])
def test_a_stream_that_is_reset_closes_its_ticket_once_and_cancels_a_pending_choice(answered: bool) -> None:
    async def main() -> Recorder:
        chooser = Recorder()
        if not answered:
            chooser.gate = asyncio.Event()
        async with serving(chooser) as server, connected(server) as client:
            client.call(1, request(end=True))
            await eventually(lambda: bool(chooser.asked))
            if answered:
                await client.answers(1, 1)
            client.frame(3, 0, 1, bytes(4))
            await eventually(lambda: server.streams == 0)
            await asyncio.sleep(0.01)
        return chooser

    assert asyncio.run(main()).told == ([("closed", "/v1/chat")] if answered else [])


def test_a_lost_connection_closes_every_ticket() -> None:
    async def main() -> Recorder:
        chooser = Recorder()
        async with serving(chooser) as server:
            async with connected(server) as client:
                for number in (1, 3, 5):
                    client.call(number, request(f"/{number}", end=True))
                    await client.answers(number, 1)
            await eventually(lambda: len(chooser.told) == 3)
        return chooser

    assert sorted(asyncio.run(main()).told) == [("closed", "/1"), ("closed", "/3"), ("closed", "/5")]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 61_999, 62_000, 62_001, 200_000])
@pytest.mark.parametrize("end", [True, False])
def test_pieces_are_what_protobuf_would_write(size: int, end: bool) -> None:
    body = random.Random(size).randbytes(size)  # noqa: S311 - the same each time
    for pieces, field in (
        (request_pieces(body, end=end), "request_body"),
        (response_pieces(body, end=end), "response_body"),
    ):
        parsed = [pb.ProcessingResponse.FromString(one[5:]) for one in pieces]
        streamed = [getattr(one, field).response.body_mutation.streamed_response for one in parsed]
        assert b"".join(one.body for one in streamed) == body
        assert all(len(one.body) <= 62_000 for one in streamed)
        assert [one.end_of_stream for one in streamed] == [False] * (len(streamed) - 1) + [end] * bool(streamed)
        assert [one[5:] for one in pieces] == [one.SerializeToString() for one in parsed]
        assert all(int.from_bytes(one[1:5], "big") == len(one) - 5 for one in pieces)


def test_messages_are_cut_wherever_the_bytes_are() -> None:
    wanted = [b"", b"a", bytes(300), b"last"]
    data = b"".join(b"\0" + len(one).to_bytes(4, "big") + one for one in wanted)
    for size in (1, 2, 3, 7, 100, len(data)):
        messages = Messages(1_000)
        found = [one for at in range(0, len(data), size) for one in messages.feed(data[at : at + size])]
        assert (found, messages.held_bytes) == (wanted, 0)


@pytest.mark.parametrize(("data", "status"), [(b"\1\0\0\0\0", 12), (b"\7\0\0\0\0", 13), (b"\0\0\0\x04\0", 8)])
def test_messages_that_are_compressed_unknown_or_too_large_are_refused(data: bytes, status: int) -> None:
    with pytest.raises(GrpcError) as raised:
        Messages(1_000).feed(data)
    assert raised.value.status == status


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10.0.0.1:8000", "10.0.0.1:8000"), (" 10.0.0.1:08000 ", "10.0.0.1:8000"), ("10.0.0.1", "10.0.0.1"),
        ("[FD00:0:0::1]:80", "[fd00::1]:80"), ("fd00::1", "fd00::1"), ("[fd00::1]", "fd00::1"),
        ("host:80", None), ("", None), ("10.0.0.1:", None), ("10.0.0.1:0", None), ("10.0.0.1:65536", None),
        ("[fd00::1", None), ("[fd00::1]80", None), ("10.0.0.1:8.0", None), ("10.0.0.1:\u0663", None),
        ("10.0.0.1:" + "9" * 5_000, None),
    ],
)  # fmt: skip
def test_addresses_have_one_spelling(text: str, wanted: str | None) -> None:
    assert canonical(text) == wanted


def test_a_subset_allows_by_port_or_by_address_and_none_allows_all() -> None:
    subset = canonical_all(["10.0.0.1:80,fd00::2", "no address", "10.0.0.1:80"])
    assert subset == ("10.0.0.1:80", "fd00::2")
    assert allows(subset, "10.0.0.1:80")
    assert not allows(subset, "10.0.0.1:81")
    assert allows(subset, "[fd00::2]:9")
    assert not allows((), "10.0.0.1:80")
    assert allows(None, "10.0.0.1:80")


def test_health_follows_readiness_and_watchers_hear_of_it() -> None:
    async def main() -> None:
        health = Health(ready=False)
        async with serving(health=health) as server:  # noqa: SIM117 - the channel needs its port
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                check = channel.unary_unary("/grpc.health.v1.Health/Check")
                name = EXT_PROC_SERVICE.encode()
                asked = b"\x0a" + bytes((len(name),)) + name
                watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(asked)
                assert await watch.read() == b"\x08\x02"
                assert (await check(asked), await check(b"\x0a\x08liveness")) == (b"\x08\x02", b"\x08\x01")
                health.ready = True
                assert await watch.read() == b"\x08\x01"
                assert (await check(asked), await check(b""), await check(b"\x0a\x09readiness")) == (b"\x08\x01",) * 3
                unknown = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\x0a\x01x")
                assert await unknown.read() == b"\x08\x03"
                for raw in (b"\x0a", b"\x0a\x05x", b"\x12\x01x", b"\x0a\x01\xff"):
                    with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
                        await check(raw)

    asyncio.run(main())


def test_a_call_that_is_no_grpc_is_answered_with_415() -> None:
    async def main() -> None:
        async with serving() as server, connected(server) as client:
            client.frame(HEADERS, 0x5, 1, b"\x82\x86\x84")  # GET http /
            _, flags, _, block = await client.read(HEADERS)
            assert flags & END_STREAM
            assert b"415" in block

    asyncio.run(main())


def _serve_on(port: int, ready: object) -> None:
    async def main() -> None:
        await serve(Recorder(), "127.0.0.1", port, reuse_port=True, limits=Limits())
        ready.set()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    asyncio.run(main())


def test_several_processes_share_one_port() -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        ready = [context.Event() for _ in range(2)]
        processes = [context.Process(target=_serve_on, args=(port, one), daemon=True) for one in ready]
        for process in processes:
            process.start()
        try:
            assert all(one.wait(30) for one in ready)
            asyncio.run(_ask_often(port, 20))
            processes[0].kill()
            processes[0].join()
            asyncio.run(_ask_often(port, 20))
        finally:
            for process in processes:
                process.kill()
                process.join()


async def _ask_often(port: int, times: int) -> None:
    for _ in range(times):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = Client(reader, writer)
        client.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        client.frame(4, 0, 0)
        client.call(1, request(end=True))
        assert len(await client.answers(1, 1)) == 1
        writer.close()
