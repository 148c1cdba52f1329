"""gRPC over the HTTP/2 server: paths to methods, length-prefixed messages, status trailers.

Follows the gRPC-over-HTTP/2 protocol description. Messages are never compressed (none is offered), so a compressed
one is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Protocol

from tidefleet.router.frames import Header, Receiver, literal_headers
from tidefleet.router.streams import Stream

OK, INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 5, 8, 12, 13

_LENGTH = struct.Struct(">I").unpack_from

_HEADERS = literal_headers([(b":status", b"200"), (b"content-type", b"application/grpc")])
_TRAILERS_OK = literal_headers([(b"grpc-status", b"0")])


class GrpcError(Exception):
    """A call that ends with a status other than OK."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Budget:
    """Bytes that all calls of a process may hold at one time."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def take(self, count: int) -> bool:
        """Hold more; False, and nothing is held, where it would be too much. A negative count gives back."""
        if count > 0 and self.held_bytes + count > self.limit_bytes:
            return False
        self.held_bytes += count
        return True


class Messages:
    """Cuts a stream of bytes into gRPC messages."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._parts: list[bytes] = []
        self.held_bytes = 0
        """Bytes of a message that is not whole yet."""
        self._needed = 5

    def is_whole(self, chunk: bytes) -> bool:
        """Whether a chunk is one message from its first byte to its last, where none is begun: then feeding it is
        needless, and its message is what follows its first five bytes.
        """
        size = len(chunk) - 5
        return 0 <= size <= self._limit and not chunk[0] and _LENGTH(chunk, 1) == (size,) and not self._parts

    def feed(self, chunk: bytes) -> list[bytes]:
        """The messages that are whole with this chunk, in order.

        Raises:
            GrpcError: A message is compressed, has an unknown flag, or is larger than the limit.
        """
        if self._parts:
            self._parts.append(chunk)
            self.held_bytes += len(chunk)
            if self.held_bytes < self._needed:
                return []
            chunk = b"".join(self._parts)
            self._parts.clear()
        self.held_bytes = 0
        messages: list[bytes] = []
        at, size = 0, len(chunk)
        self._needed = 5
        while size - at >= 5:
            flag = chunk[at]
            if flag:
                if flag == 1:
                    raise GrpcError(UNIMPLEMENTED, "compressed messages are not accepted")
                raise GrpcError(INTERNAL, f"a message has the flag {flag}")
            length = int.from_bytes(chunk[at + 1 : at + 5], "big")
            if length > self._limit:
                raise GrpcError(RESOURCE_EXHAUSTED, f"a message of {length} bytes; at most {self._limit} are accepted")
            end = at + 5 + length
            if end > size:
                self._needed = end - at
                break
            messages.append(chunk[at + 5 : end])
            at = end
        if at < size:
            self._parts.append(chunk[at:])
            self.held_bytes = size - at
        return messages


class Method(Protocol):
    """One call of a method, as seen by its implementation."""

    def message(self, raw: bytes) -> None:
        """A message of the peer; a `GrpcError` ends the call with that status."""

    def ended(self) -> None:
        """The peer sends no more."""

    def closed(self) -> None:
        """The call is over; always the last word, once."""


class Call:
    """One call on the wire."""

    def __init__(self, stream: Stream, budget: Budget, message_bytes: int) -> None:
        self.method: Method | None = None
        self._stream = stream
        self._budget = budget
        self._messages = Messages(message_bytes)
        self._held = 0
        self._begun = False
        self.over = False

    def send(self, message: bytes) -> None:
        """Send one message."""
        self.send_framed(b"\0" + len(message).to_bytes(4, "big") + message)

    def send_framed(self, framed: bytes) -> None:
        """Send bytes that are whole messages with their five-byte prefixes."""
        if self.over:
            return
        if not self._begun:
            self._begun = True
            self._stream.send_headers(_HEADERS)
        self._stream.send_data(framed)

    def finish(self, status: int = OK, reason: str = "") -> None:
        """Send the status; nothing can be sent after it."""
        if self.over:
            return
        self.over = True
        if status == OK and self._begun:
            self._stream.send_headers(_TRAILERS_OK, end=True)
            return
        headers = [] if self._begun else [(b":status", b"200"), (b"content-type", b"application/grpc")]
        headers.append((b"grpc-status", str(status).encode()))
        if reason:
            headers.append((b"grpc-message", _percent_encoded(reason)))
        self._stream.send_headers(literal_headers(headers), end=True)

    # http2.Receiver

    def data(self, chunk: bytes, end: bool) -> None:
        """Hand whole messages to the method."""
        if self.over or self.method is None:
            return
        try:
            if not end and not self._held and self._messages.is_whole(chunk):
                self.method.message(chunk[5:])
                return
            for message in self._messages.feed(chunk) if chunk else ():
                self.method.message(message)
                if self.over:
                    return
            held = self._messages.held_bytes
            if held != self._held:
                if not self._budget.take(held - self._held):
                    raise GrpcError(RESOURCE_EXHAUSTED, "too many bytes are held; try again later")
                self._held = held
            if end:
                if held:
                    raise GrpcError(INTERNAL, "the stream ended inside a message")
                self.method.ended()
        except GrpcError as error:
            self.finish(error.status, str(error))

    def closed(self) -> None:
        """Tell the method."""
        self.over = True
        self._budget.take(-self._held)
        self._held = 0
        if self.method is not None:
            self.method.closed()


Open = Callable[[Call], Method]


def accepting(methods: Mapping[bytes, Open], budget: Budget, message_bytes: int) -> Callable[..., Receiver]:
    """What the HTTP/2 server calls for each request; `methods` by path, e.g. ``/grpc.health.v1.Health/Check``."""

    def accept(stream: Stream, headers: list[Header]) -> Receiver:
        call = Call(stream, budget, message_bytes)
        fields = dict(headers)
        if fields.get(b":method") != b"POST" or not fields.get(b"content-type", b"").startswith(b"application/grpc"):
            stream.send_headers(literal_headers([(b":status", b"415")]), end=True)
            return call
        found = methods.get(fields.get(b":path", b""))
        if found is None:
            call.finish(UNIMPLEMENTED, "no such method here")
            return call
        call.method = found(call)
        if stream.peer_ended:
            call.data(b"", True)
        return call

    return accept


def _percent_encoded(text: str) -> bytes:
    return b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in text.encode()
    )[:1024]
