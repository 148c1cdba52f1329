"""One stream of an HTTP/2 connection as its owner sees it: what is sent on it, now or once the peer's windows open."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tidefleet.router import frames
from tidefleet.router.frames import Receiver

if TYPE_CHECKING:
    from tidefleet.router.http2 import Connection


class Stream:
    """One request and its answer."""

    __slots__ = ("answered", "connection", "credit", "id", "peer_ended", "receiver", "unsent", "unsent_bytes", "window")

    def __init__(self, connection: Connection, number: int, window: int) -> None:
        self.connection = connection
        self.id = number
        self.window = window
        self.credit = 0
        """Bytes received and not given back to the peer's window yet."""
        self.peer_ended = False
        self.answered = False
        self.receiver: Receiver | None = None
        self.unsent: deque[tuple[int, memoryview | bytes, bool]] | None = None
        self.unsent_bytes = 0

    def send_headers(self, block: bytes, *, end: bool = False) -> None:
        """Send a header block (`literal_headers`) of at most 16,384 bytes; with `end` it closes our side."""
        self.answered = True
        if self.id not in self.connection.streams:
            return
        if self.unsent is not None:
            self.unsent.append((frames.HEADERS, block, end))
        else:
            self.connection.write_frame(
                frames.HEADERS, frames.END_HEADERS | (frames.END_STREAM if end else 0), self.id, block
            )
            if end:
                self.connection.finished(self)

    def send_data(self, data: bytes) -> None:
        """Send body bytes, as far as the peer's windows allow; the rest follows when they open."""
        self.answered = True
        connection = self.connection
        if self.id not in connection.streams:
            return
        if self.unsent is None and connection.write_small(self, data):
            return
        if self.unsent is not None:
            self.unsent.append((frames.DATA, data, False))
            self._held(len(data))
        else:
            rest = self.connection.write_data(self, memoryview(data))
            if rest:
                self.unsent = deque(((frames.DATA, rest, False),))
                self._held(len(rest))
                self.connection.blocked[self.id] = self

    def reset(self, code: int = frames.CANCEL) -> None:
        """End the stream at once, in both directions."""
        if self.id in self.connection.streams:
            self.connection.write_frame(frames.RST_STREAM, 0, self.id, code.to_bytes(4, "big"))
            self.connection.drop(self)

    def _held(self, count: int) -> None:
        self.unsent_bytes += count
        self.connection.hold(count)
