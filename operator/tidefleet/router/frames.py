"""What HTTP/2 frames and literal header blocks are made of (RFC 9113, RFC 7541), and the limits put on a peer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 5, 6, 7, 8, 9
ENHANCE_YOUR_CALM = 11
INITIAL_WINDOW = 65_535
LARGEST_WINDOW = 2**31 - 1
FRAME_HEADER = struct.Struct(">IBI")

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may ask of the server; bytes and seconds are in the names."""

    concurrent_streams: int = 1_000
    header_bytes: int = 65_536
    """Of one header block as it arrives, and of its names and values (plus 32 each) once unpacked."""
    frame_bytes: int = 65_536
    """The largest frame accepted; at least 16,384."""
    stream_window_bytes: int = 1_048_576
    connection_window_bytes: int = 16_777_216
    unsent_bytes: int = 268_435_456
    """Held for a peer that does not read; more ends the connection."""
    control_frames: int = 2_000
    """Frames that cost a peer nothing and are accepted at once: pings, settings, early resets, empty data."""
    control_frames_per_second: float = 500.0
    """How fast that allowance is made up again."""
    preface_seconds: float = 10.0


class H2Error(Exception):
    """The peer broke the protocol or a limit; the connection ends with this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def literal_headers(headers: Sequence[Header]) -> bytes:
    """A header block of literals without indexing and without Huffman coding (RFC 7541, 6.2.2)."""
    parts: list[bytes] = []
    for name, value in headers:
        if name == b":status" and value == b"200":
            parts.append(b"\x88")
            continue
        parts += (b"\x00", _length(name), name, _length(value), value)
    return b"".join(parts)


def _length(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes((size,))
    size -= 127
    out = bytearray(b"\x7f")
    while size >= 128:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


class Receiver(Protocol):
    """What a stream's owner is told; `closed` is always the last word, once."""

    def data(self, chunk: bytes, end: bool) -> None:
        """A piece of the body; `end` when the peer sends no more (its trailers included)."""

    def closed(self) -> None:
        """The stream is over: both sides ended it, or it was reset, or the connection is lost."""


class HeaderBlocks:
    """Decodes one peer's header blocks, which must come here in their order."""

    def __init__(self, limit_bytes: int) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=limit_bytes)
        self._known: dict[bytes, list[Header]] = {}

    def decode(self, block: bytes) -> list[Header]:
        """The fields of a block; not to be changed, since equal blocks may share them.

        A block that leaves the table as it is means the same until another one changes it, and is kept: a gateway's
        calls differ in nothing, and decoding them is dear.

        Raises:
            H2Error: It cannot be decoded, or holds more than the limit once unpacked.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            headers = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError:
            raise H2Error(ENHANCE_YOUR_CALM, "headers are too large") from None
        except (hpack.HPACKError, IndexError, ValueError) as error:
            raise H2Error(COMPRESSION_ERROR, f"HPACK: {type(error).__name__}") from None
        if _changes_table(block):
            self._known.clear()
        elif len(block) <= 1_024:
            if len(self._known) >= 64:
                self._known.clear()
            self._known[block] = headers
        return headers


def _changes_table(block: bytes) -> bool:
    """Whether a block that decodes has a literal with indexing or a change of the table's size (RFC 7541, 6)."""
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:
            _, at = _integer(block, at, 0x7F)
        elif first & 0x60:
            return True
        else:
            name, at = _integer(block, at, 0x0F)
            for _ in range(1 if name else 2):
                size, at = _integer(block, at, 0x7F)
                at += size
    return False


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """An integer with a prefix of that mask (RFC 7541, 5.1), and where it ends."""
    value = block[at] & prefix
    at += 1
    if value < prefix:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def unpadded(payload: bytes) -> bytes:
    """The payload of a padded frame without its padding."""
    padding = payload[0] if payload else 0
    if padding >= len(payload):
        raise H2Error(PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - padding]
