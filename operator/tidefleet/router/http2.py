"""The server side of HTTP/2 (RFC 9113) in one asyncio protocol: frames, flow control, and what bounds a peer.

Written for one job, many short gRPC streams on few connections, because framing is most of what an endpoint picker
does. HPACK decoding is the `hpack` package's; what is sent uses literals without indexing, so it needs no state.

A peer can make the server neither hold nor work without bound. Streams are refused above a limit; a header block is
bounded as it arrives (CONTINUATION flood) and as it unpacks (HPACK bomb); resets of streams that were not answered
(rapid reset), pings, settings, priorities and empty frames draw on one allowance per connection; a stream whose
answers are not read is credited no more bytes; a connection that holds too many unread bytes is ended.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

from tidefleet.router import frames
from tidefleet.router.frames import FRAME_HEADER, H2Error, Header, HeaderBlocks, Limits, Receiver, unpadded
from tidefleet.router.streams import Stream

Accept = Callable[[Stream, list[Header]], Receiver]
"""Called for each request; it may answer at once. Data follow unless `Stream.peer_ended`."""


class Connection(asyncio.Protocol):
    """One peer."""

    def __init__(self, accept: Accept, limits: Limits, connections: set[Connection]) -> None:
        self.streams: dict[int, Stream] = {}
        self.blocked: dict[int, Stream] = {}
        self._accept, self._limits, self._connections = accept, limits, connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._pending = bytearray()
        self._needed = len(frames.PREFACE)
        self._greeted = False
        self._headers = HeaderBlocks(limits.header_bytes)
        self._block: tuple[int, bool, bytearray] | None = None
        self._last_id = 0
        self._window = self._peer_window = frames.INITIAL_WINDOW
        self._peer_frame = 16_384
        self._credit = 0
        self._unsent = 0
        self._out: list[bytes | memoryview] = []
        self._flush_planned = self._paused = self._closing = self._failed = False
        self._control, self._control_time = float(limits.control_frames), self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send our settings at once; a server need not wait for the preface."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._connections.add(self)
        limits = self._limits
        settings = b"".join(
            struct.pack(">HI", key, value)
            for key, value in (
                (3, limits.concurrent_streams),
                (4, limits.stream_window_bytes),
                (5, limits.frame_bytes),
                (6, limits.header_bytes),
            )
        )
        self._flush_planned = True
        self.write_frame(frames.SETTINGS, 0, 0, settings)
        self.write_frame(
            frames.WINDOW_UPDATE, 0, 0, (limits.connection_window_bytes - frames.INITIAL_WINDOW).to_bytes(4, "big")
        )
        self.flush()
        self._timer = self._loop.call_later(limits.preface_seconds, self._no_preface)

    def connection_lost(self, exc: Exception | None) -> None:
        """Every stream is over."""
        self._closing = self._failed = True
        self._transport = None
        self._connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        for stream in list(self.streams.values()):
            self.drop(stream)

    def pause_writing(self) -> None:
        """The peer reads too slowly: data wait in their streams."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket takes bytes again."""
        self._paused = False
        self._unblock()

    def data_received(self, data: bytes) -> None:
        """Handle all whole frames, then write the answers in one piece."""
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return
            data = bytes(self._pending)
            self._pending.clear()
        self._flush_planned = True
        try:
            self._frames(data)
        except H2Error as error:
            self.fail(error.code, str(error))
        self.flush()

    # Sending

    def write_frame(self, kind: int, flags: int, stream: int, payload: bytes | memoryview) -> None:
        """Queue one frame and have it written soon."""
        self._out.append(FRAME_HEADER.pack(len(payload) << 8 | kind, flags, stream))
        self._out.append(payload)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self.flush)

    def write_small(self, stream: Stream, data: bytes) -> bool:
        """Queue data as one frame; whether it and both windows are of a size for that."""
        size = len(data)
        if self._paused or not 0 < size <= min(self._window, stream.window, self._peer_frame):
            return False
        self._window -= size
        stream.window -= size
        self._out += (FRAME_HEADER.pack(size << 8, 0, stream.id), data)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self.flush)
        return True

    def write_data(self, stream: Stream, data: memoryview) -> memoryview | None:
        """Write as many DATA frames as both windows allow; what is left, or None."""
        allowed = 0 if self._paused else max(0, min(len(data), self._window, stream.window))
        if allowed > 0:
            self._window -= allowed
            stream.window -= allowed
            for start in range(0, allowed, self._peer_frame):
                self.write_frame(frames.DATA, 0, stream.id, data[start : min(allowed, start + self._peer_frame)])
        return data[allowed:] if allowed < len(data) else None

    def flush(self) -> None:
        """Hand the queued frames to the transport."""
        self._flush_planned = False
        if self._out:
            out, self._out = self._out, []
            if self._transport is not None:
                self._transport.write(b"".join(out))

    def hold(self, count: int) -> None:
        """Account for bytes that wait for the peer's window; too many end the connection."""
        self._unsent += count
        if self._unsent > self._limits.unsent_bytes:
            self._loop.call_soon(self.fail, frames.ENHANCE_YOUR_CALM, "answers are not read")

    def _unblock(self) -> None:
        """Let each waiting stream send in turn, the one that waits longest first."""
        for stream in list(self.blocked.values()):
            if self._window <= 0 or self._paused:
                return
            self._drain(stream)

    def _drain(self, stream: Stream) -> None:
        queue = stream.unsent
        while queue:
            kind, payload, end = queue.popleft()
            if kind == frames.HEADERS:
                self.write_frame(
                    frames.HEADERS, frames.END_HEADERS | (frames.END_STREAM if end else 0), stream.id, payload
                )
                if end:
                    self.finished(stream)
                    return
                continue
            before = len(payload)
            rest = self.write_data(stream, memoryview(payload))
            sent = before - (len(rest) if rest else 0)
            stream.unsent_bytes -= sent
            self._unsent -= sent
            if rest:
                queue.appendleft((frames.DATA, rest, False))
                break
        if not queue:
            stream.unsent = None
            self.blocked.pop(stream.id, None)
        elif self.blocked.pop(stream.id, None) is not None:
            self.blocked[stream.id] = stream
        self._give_credit(stream)

    # The life of streams and of the connection

    def finished(self, stream: Stream) -> None:
        """Our side has ended; if the peer's has not, it need not go on (RFC 9113, 8.1)."""
        if not stream.peer_ended:
            self.write_frame(frames.RST_STREAM, 0, stream.id, frames.NO_ERROR.to_bytes(4, "big"))
        self.drop(stream)

    def drop(self, stream: Stream) -> None:
        """Forget the stream and tell its owner."""
        if self.streams.pop(stream.id, None) is None:
            return
        self.blocked.pop(stream.id, None)
        self._unsent -= stream.unsent_bytes
        stream.unsent_bytes = 0
        stream.unsent = None
        if stream.receiver is not None:
            stream.receiver.closed()
        if self._closing and not self.streams:
            self._loop.call_soon(self._end)

    def drain(self) -> None:
        """Take no more requests, finish those that run, then close (GOAWAY without an error)."""
        if not self._closing:
            self._closing = True
            self.write_frame(frames.GOAWAY, 0, 0, struct.pack(">II", self._last_id, frames.NO_ERROR))
            if not self.streams:
                self._loop.call_soon(self._end)

    def fail(self, code: int, reason: str) -> None:
        """End the connection with an error; every stream is over."""
        if self._failed:
            return
        self._failed = self._closing = True
        self.write_frame(frames.GOAWAY, 0, 0, struct.pack(">II", self._last_id, code) + reason.encode()[:200])
        self.flush()
        self._end()
        for stream in list(self.streams.values()):
            self.drop(stream)

    def _end(self) -> None:
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def _no_preface(self) -> None:
        if not self._greeted and self._transport is not None:
            self._transport.abort()

    def _spend(self) -> None:
        """Take one control frame from the allowance."""
        now = self._loop.time()
        limits = self._limits
        made_up = (now - self._control_time) * limits.control_frames_per_second
        self._control = min(float(limits.control_frames), self._control + made_up) - 1.0
        self._control_time = now
        if self._control < 0.0:
            raise H2Error(frames.ENHANCE_YOUR_CALM, "too many control frames or early resets")

    # Receiving

    def _frames(self, data: bytes) -> None:
        at, size = 0, len(data)
        if not self._greeted:
            if not frames.PREFACE.startswith(data[: len(frames.PREFACE)]):
                raise H2Error(frames.PROTOCOL_ERROR, "no HTTP/2 preface")
            if size < len(frames.PREFACE):
                self._pending += data
                return
            self._greeted, at, self._needed = True, len(frames.PREFACE), 9
        while not self._failed:
            if size - at < 9:
                self._needed = 9
                break
            word, flags, number = FRAME_HEADER.unpack_from(data, at)
            length, kind = word >> 8, word & 0xFF
            if length > self._limits.frame_bytes:
                raise H2Error(frames.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            end = at + 9 + length
            if end > size:
                self._needed = end - at
                break
            payload = data[at + 9 : end]
            at = end
            if not kind and self._block is None:  # DATA, which most are
                self._on_data(flags, number & frames.LARGEST_WINDOW, payload)
            else:
                self._frame(kind, flags, number & frames.LARGEST_WINDOW, payload)
        if at < size:
            self._pending += data[at:]

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise H2Error(frames.PROTOCOL_ERROR, "a header block is interrupted")
        match kind:
            case frames.DATA:
                self._on_data(flags, number, payload)
            case frames.HEADERS:
                self._on_headers(flags, number, payload)
            case frames.CONTINUATION:
                self._on_continuation(flags, number, payload)
            case frames.WINDOW_UPDATE:
                self._on_window_update(number, payload)
            case frames.RST_STREAM:
                self._on_reset(number, payload)
            case frames.SETTINGS:
                self._on_settings(flags, number, payload)
            case frames.PING:
                self._spend()
                if number or len(payload) != 8:
                    raise H2Error(frames.PROTOCOL_ERROR if number else frames.FRAME_SIZE_ERROR, "a malformed PING")
                if not flags & frames.ACK:
                    self.write_frame(frames.PING, frames.ACK, 0, payload)
            case frames.GOAWAY:  # the peer opens no more streams; those that run go on
                if number:
                    raise H2Error(frames.PROTOCOL_ERROR, "GOAWAY on a stream")
                self._closing = True
                if not self.streams:
                    self._loop.call_soon(self._end)
            case frames.PUSH_PROMISE:
                raise H2Error(frames.PROTOCOL_ERROR, "a client cannot push")
            case _:  # PRIORITY, and kinds that are not known here, are ignored (RFC 9113, 4.1)
                self._spend()
                if kind == frames.PRIORITY and (not number or len(payload) != 5):
                    raise H2Error(frames.PROTOCOL_ERROR, "a malformed PRIORITY")

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        if not number or number > self._last_id or not number & 1:
            raise H2Error(frames.PROTOCOL_ERROR, f"DATA on stream {number}, which is idle")
        if size:
            self._credit += size
            if self._credit * 2 > self._limits.connection_window_bytes:
                if self._credit > self._limits.connection_window_bytes:
                    raise H2Error(frames.FLOW_CONTROL_ERROR, "more data than the connection's window")
                self.write_frame(frames.WINDOW_UPDATE, 0, 0, self._credit.to_bytes(4, "big"))
                self._credit = 0
        elif not flags & frames.END_STREAM:
            self._spend()
        stream = self.streams.get(number)
        if stream is None:
            return  # of a stream that was reset or answered early
        if stream.peer_ended:
            raise H2Error(frames.STREAM_CLOSED, f"DATA on stream {number} after its end")
        if flags & frames.PADDED:
            payload = unpadded(payload)
        end = bool(flags & frames.END_STREAM)
        stream.peer_ended = end
        stream.credit += size
        if stream.credit * 2 > self._limits.stream_window_bytes:
            if stream.credit > self._limits.stream_window_bytes:
                raise H2Error(frames.FLOW_CONTROL_ERROR, f"more data than the window of stream {number}")
            self._give_credit(stream)
        if stream.receiver is not None:
            stream.receiver.data(payload, end)

    def _give_credit(self, stream: Stream) -> None:
        """Open the stream's window again, unless its answers pile up unread."""
        half = self._limits.stream_window_bytes // 2
        if stream.credit > half and stream.unsent_bytes <= half and not stream.peer_ended and stream.id in self.streams:
            self.write_frame(frames.WINDOW_UPDATE, 0, stream.id, stream.credit.to_bytes(4, "big"))
            stream.credit = 0

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number & 1:
            raise H2Error(frames.PROTOCOL_ERROR, f"HEADERS on stream {number}")
        if flags & frames.PADDED:
            payload = unpadded(payload)
        if flags & frames.WITH_PRIORITY:
            if len(payload) < 5:
                raise H2Error(frames.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            payload = payload[5:]
        if flags & frames.END_HEADERS:
            self._on_header_block(number, bool(flags & frames.END_STREAM), payload)
        else:
            self._block = (number, bool(flags & frames.END_STREAM), bytearray(payload))

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise H2Error(frames.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._spend()
        _, end, block = self._block
        block += payload
        if len(block) > self._limits.header_bytes:
            raise H2Error(frames.ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_header_block(number, end, bytes(block))

    def _on_header_block(self, number: int, end: bool, block: bytes) -> None:
        headers = self._headers.decode(block)
        stream = self.streams.get(number)
        if stream is not None:
            if not end or stream.peer_ended:
                raise H2Error(frames.PROTOCOL_ERROR, f"a second header block on stream {number}")
            stream.peer_ended = True
            if stream.receiver is not None:
                stream.receiver.data(b"", True)
            return
        if number <= self._last_id:
            return  # trailers of a stream that was reset or answered early
        self._last_id = number
        if self._closing or len(self.streams) >= self._limits.concurrent_streams:
            self._spend()
            self.write_frame(frames.RST_STREAM, 0, number, frames.REFUSED_STREAM.to_bytes(4, "big"))
            return
        stream = Stream(self, number, self._peer_window)
        stream.peer_ended = end
        self.streams[number] = stream
        receiver = self._accept(stream, headers)
        if number in self.streams:
            stream.receiver = receiver
        else:
            receiver.closed()

    def _on_window_update(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise H2Error(frames.FRAME_SIZE_ERROR, "a malformed WINDOW_UPDATE")
        more = int.from_bytes(payload, "big") & frames.LARGEST_WINDOW
        if not more:
            raise H2Error(frames.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        if not number:
            self._window += more
            if self._window > frames.LARGEST_WINDOW:
                raise H2Error(frames.FLOW_CONTROL_ERROR, "the connection's window overflows")
            self._unblock()
            return
        if number > self._last_id:
            raise H2Error(frames.PROTOCOL_ERROR, f"WINDOW_UPDATE on stream {number}, which is idle")
        stream = self.streams.get(number)
        if stream is not None:
            self._widen(stream, more)

    def _widen(self, stream: Stream, more: int) -> None:
        stream.window += more
        if stream.window > frames.LARGEST_WINDOW:
            raise H2Error(frames.FLOW_CONTROL_ERROR, f"the window of stream {stream.id} overflows")
        if stream.unsent is not None and not self._paused:
            self._drain(stream)

    def _on_reset(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise H2Error(frames.FRAME_SIZE_ERROR, "a malformed RST_STREAM")
        if not number or number > self._last_id:
            raise H2Error(frames.PROTOCOL_ERROR, f"RST_STREAM on stream {number}, which is idle")
        stream = self.streams.get(number)
        if stream is None or not stream.answered:
            self._spend()
        if stream is not None:
            self.drop(stream)

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        self._spend()
        if number or (flags & frames.ACK and payload) or len(payload) % 6:
            raise H2Error(frames.PROTOCOL_ERROR if number else frames.FRAME_SIZE_ERROR, "a malformed SETTINGS")
        if flags & frames.ACK:
            return
        for key, value in struct.iter_unpack(">HI", payload):
            if key == 4:  # SETTINGSINITIAL_WINDOW_SIZE holds for the streams that are open, too
                if value > frames.LARGEST_WINDOW:
                    raise H2Error(frames.FLOW_CONTROL_ERROR, f"an initial window of {value}")
                change, self._peer_window = value - self._peer_window, value
                for stream in list(self.streams.values()):
                    self._widen(stream, change)
            elif key == 5:
                if not 16_384 <= value < 1 << 24:
                    raise H2Error(frames.PROTOCOL_ERROR, f"a maximum frame size of {value}")
                self._peer_frame = min(value, 1 << 20)
        self.write_frame(frames.SETTINGS, frames.ACK, 0, b"")
