"""Engines for tests of the wire: HTTP/1.1 servers on loopback that say who they are and what reached them."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def engines(count: int) -> Iterator[list[tuple[str, int]]]:
    """Addresses of `count` engines that run in a thread until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> list[asyncio.Server]:
        return [await asyncio.start_server(_serve, "127.0.0.1", 0) for _ in range(count)]

    servers = asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
    try:
        yield [server.sockets[0].getsockname()[:2] for server in servers]
    finally:

        async def finish() -> None:
            for server in servers:
                server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(finish(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            body = await _body(reader, headers)
            if lines[0].split()[1].startswith("/stream"):
                await _stream(writer)
                continue
            answer = json.dumps(
                {
                    "engine": "{}:{}".format(*writer.get_extra_info("sockname")),
                    "request": lines[0],
                    "headers": headers,
                    "body_bytes": len(body),
                    "body_sum": sum(body),
                }
            ).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
                + answer
            )
    writer.close()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") != "chunked":
        return b""
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    while (await reader.readline()).strip():
        pass  # trailers
    return body


async def _stream(writer: asyncio.StreamWriter) -> None:
    """Ten events, the next one only after a pause."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for number in range(10):
        event = b"data: %d\n\n" % number
        writer.write(b"%x\r\n" % len(event) + event + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.2)
    writer.write(b"0\r\n\r\n")
