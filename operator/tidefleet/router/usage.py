"""What a response says of the tokens it took, read while its bytes pass; they are never held back or changed.

A stream of server-sent events tells its usage in one of its last events (OpenAI with ``include_usage``, responses), or
the prompt's in its first and the answer's in its last (Anthropic); a plain response has it somewhere in its object.
Only the head and the tail are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

_USAGE = b'"usage"'
HEAD_BYTES, TAIL_BYTES = 8192, 16384
"""What is kept of a response; a usage object has a few hundred bytes."""
MOST_TOKENS = 100_000_000


@dataclass(slots=True)
class Usage:
    """Tokens of a request as its engine counted them; None where it did not say.

    Attributes:
        input_tokens: the whole prompt, cached part included.
        cached_tokens: the part of it that was found in a prefix cache.
        reasoning_tokens: the part of the output that nobody sees, where the engine tells it.
        counted: events of the stream that carry output, a stand-in for `output_tokens` where those are not told.
    """

    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    counted: int = 0
    reasoning_tokens: int | None = None

    @property
    def output(self) -> int:
        """Output tokens, told or counted."""
        return self.counted if self.output_tokens is None else self.output_tokens


class UsageReader:
    """Fed with the pieces of one response.

    Attributes:
        started: a byte of output has passed: the first event of a stream that is no mere greeting, or any byte else.
    """

    __slots__ = ("_counted", "_head", "_is_stream", "_size", "_tail", "ends_in_tool_call", "started")

    def __init__(self, *, is_stream: bool) -> None:
        self._is_stream = is_stream
        self._head, self._tail = b"", b""
        self._size, self._counted = 0, 0
        self.started = False
        self.ends_in_tool_call = False

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        if not piece:
            return
        self._size += len(piece)
        if len(self._head) < HEAD_BYTES:
            self._head += piece[: HEAD_BYTES - len(self._head)]
        self._tail = (self._tail + piece)[-TAIL_BYTES:] if len(piece) < TAIL_BYTES else piece[-TAIL_BYTES:]
        if self._is_stream:
            self._counted += _outputs(piece)
            self.started = self.started or self._counted > 0
        else:
            self.started = True
        if not self.ends_in_tool_call and (b"tool_use" in piece or b"tool_calls" in piece or b"function_call" in piece):
            self.ends_in_tool_call = self._calls_a_tool(piece)

    def _calls_a_tool(self, piece: bytes) -> bool:
        """Whether the answer stops to have a tool called, by the words of the formats."""
        plain = piece.replace(b" ", b"")
        return any(
            word in plain
            for word in (b'"finish_reason":"tool_calls"', b'"stop_reason":"tool_use"', b'"type":"function_call"')
        )

    def usage(self) -> Usage:
        """What is known so far."""
        if self._size == len(self._head) == len(self._tail) and self._head.count(_USAGE) == 1:
            merged = _usage(self._tail)
        else:
            first, last = _usage(self._head, first=True), _usage(self._tail)
            merged = {**first, **{name: value for name, value in last.items() if value}}
        prompt, cached = _prompt(merged)
        output = _count(merged.get("completion_tokens", merged.get("output_tokens")))
        details = merged.get("completion_tokens_details", merged.get("output_tokens_details"))
        reasoning = _count(details.get("reasoning_tokens")) if isinstance(details, dict) else None
        return Usage(prompt, cached, output, self._counted, reasoning)


_OUTPUT_WORDS = (
    b'"content":"',
    b'"content": "',
    b'"text":"',
    b'"text": "',
    b'"delta":"',
    b'"delta": "',
    b'"partial_json"',
    b'"arguments"',
    b'"reasoning_content":"',
    b'"thinking":"',
)


def _outputs(piece: bytes) -> int:
    """Events of a piece that carry output. Greetings (an empty content, a role alone, pings) are none."""
    count = 0
    for line in piece.split(b"\n"):
        if line.startswith(b"data:") and any(_filled(line, word) for word in _OUTPUT_WORDS):
            count += 1
    return count


def _filled(line: bytes, word: bytes) -> bool:
    at = line.find(word)
    if at < 0:
        return False
    return not word.endswith(b'"') or line[at + len(word) : at + len(word) + 1] != b'"' or word.startswith(b'"arg')


def _usage(text: bytes, *, first: bool = False) -> dict[str, Any]:
    """The first or the last whole usage object in a text; empty without one."""
    at = -1 if first else len(text)
    for _ in range(8):
        at = text.find(_USAGE, at + 1) if first else text.rfind(_USAGE, 0, at)
        if at < 0:
            return {}
        start = text.find(b"{", at, at + 16)
        found = _object(text, start) if start >= 0 else {}
        if found:
            return found
    return {}


def _object(text: bytes, start: int) -> dict[str, Any]:
    """The JSON object that begins at a place; usage objects hold no texts with braces."""
    depth, at, limit = 1, start + 1, min(len(text), start + 4096)
    while (closes := text.find(b"}", at, limit)) >= 0:
        depth += text.count(b"{", at, closes) - 1
        at = closes + 1
        if depth == 0:
            try:
                found = msgspec.json.decode(text[start:at])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return {}
            return found if isinstance(found, dict) else {}
    return {}


def _prompt(usage: dict[str, Any]) -> tuple[int | None, int | None]:
    """Prompt tokens and cached ones: OpenAI's prompt count includes the cached ones, Anthropic's does not."""
    details = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if "cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage:
        read = _count(usage.get("cache_read_input_tokens")) or 0
        written = _count(usage.get("cache_creation_input_tokens")) or 0
        own = _count(usage.get("input_tokens"))
        return (None if own is None else own + read + written), read
    return _count(usage.get("prompt_tokens", usage.get("input_tokens"))), cached


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS:
        return value
    return None
