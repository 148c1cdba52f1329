"""Request bodies in full duplex: all of it comes back, as it was, in pieces that Envoy takes."""

from __future__ import annotations

import json
import random

from tidefleet.conformance import build
from tidefleet.conformance.build import Request
from tidefleet.conformance.case import Level, expect, registry
from tidefleet.conformance.target import Answer, Target

CASES, case = registry()
LARGEST_PIECE = 62_000
"""Bytes of a streamed_response; with its framing it stays below Envoy's 64 KiB."""


def _returned(target: Target, body: bytes, *sizes: int, **fields: object) -> Answer:
    """Send a body in pieces of the sizes in turn, and see it come back."""
    target.need_bodies()
    pieces, at, turn = [], 0, 0
    while at < len(body):
        size = sizes[turn % len(sizes)] if sizes else len(body)
        pieces.append(body[at : at + size])
        at, turn = at + size, turn + 1
    answer = target.ask(Request(pieces=tuple(pieces), **fields)).chosen()  # type: ignore[arg-type]
    expect(answer.body == body, f"{len(body)} bytes went in and {_difference(body, answer.body)} came back")
    return answer


def _difference(one: bytes, other: bytes) -> str:
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            near = slice(max(0, at - 20), at + 20)
            return f"{len(other)} that differ at byte {at} ({one[near]!r} became {other[near]!r})"
    return f"{len(other)}"


def _text(size: int) -> str:
    source = random.Random(7)  # noqa: S311 - text that does not compress, the same each time
    return "".join(source.choices("abcdefghijklmnopqrstuvwxyz ", k=size))


@case("body.one-piece")
def _one(target: Target) -> None:
    """A body in one piece comes back whole."""
    _returned(target, build.chat(target.model))


@case("body.two-pieces")
def _two(target: Target) -> None:
    """A body in two pieces comes back whole."""
    body = build.chat(target.model)
    _returned(target, body, len(body) // 2, len(body))


@case("body.many-pieces")
def _many(target: Target) -> None:
    """A body in hundreds of small pieces comes back whole."""
    _returned(target, build.chat(target.model, _text(9_000)), 31)


@case("body.one-byte-pieces")
def _bytes(target: Target) -> None:
    """A body that comes byte by byte, characters cut in two included, comes back whole."""
    _returned(target, json.dumps({"model": target.model, "prompt": "é漢🙂"}, ensure_ascii=False).encode(), 1)


@case("body.128-kB")
def _large(target: Target) -> None:
    """A body of 128 kB comes back whole."""
    _returned(target, build.chat(target.model, _text(128_000)), 16_384)


@case("body.2-MB")
def _larger(target: Target) -> None:
    """A body of 2 MB, more than a default flow-control window, comes back whole."""
    _returned(target, build.chat(target.model, _text(2_000_000)), 65_536)


@case("body.piece-size")
def _piece_size(target: Target) -> None:
    """No piece that is sent back is larger than 62,000 bytes, however large those received are."""
    answer = _returned(target, build.chat(target.model, _text(300_000)), 150_000)
    largest = max(len(piece) for piece, _ in answer.pieces)
    expect(largest <= LARGEST_PIECE, f"a piece of {largest} bytes")


@case("body.ends-once")
def _ends_once(target: Target) -> None:
    """end_of_stream is on the last piece that is sent back and on no other."""
    answer = _returned(target, build.chat(target.model, _text(150_000)), 50_000)
    ends = [end for _, end in answer.pieces]
    expect(ends.index(True) == len(ends) - 1, f"end_of_stream by piece: {ends}")
    answer.exchange.finish()


@case("body.empty-last-piece")
def _empty_last(target: Target) -> None:
    """A body whose last piece is empty, as Envoy often sends it, comes back whole and ends."""
    target.need_bodies()
    body = build.chat(target.model)
    answer = target.ask(Request(pieces=(body, b""))).chosen()
    expect(answer.body == body, f"{len(answer.body)} bytes came back")


@case("body.headers-first")
def _headers_first(target: Target) -> None:
    """The headers are answered before the body comes back, and once."""
    answer = _returned(target, build.chat(target.model), 10)
    expect(answer.kinds[0] == "request_headers", f"the first answer is {answer.kinds[0]}")
    expect(answer.kinds.count("request_headers") == 1, f"the answers are {answer.kinds}")


@case("body.content-length")
def _content_length(target: Target) -> None:
    """Where the picker sets content-length it is the length of what it sends."""
    answer = _returned(target, build.chat(target.model))
    for name, value in answer.set_headers:
        if name == "content-length":
            expect(value == str(len(answer.body)), f"content-length {value} for {len(answer.body)} bytes")


@case("body.trailers")
def _trailers(target: Target) -> None:
    """A body that ends by trailers gets an answer, and comes back whole."""
    _returned(target, build.chat(target.model), trailers=True)


@case("body.trailers-answered-last")
def _trailers_last(target: Target) -> None:
    """Trailers are answered after the body, and no piece before them ends the stream."""
    answer = _returned(target, build.chat(target.model), 20, trailers=True)
    expect(answer.kinds[-1] == "request_trailers", f"the answers are {answer.kinds}")
    expect(not any(end for _, end in answer.pieces), "a piece has end_of_stream although trailers follow")


@case("body.trailers-after-headers")
def _trailers_only(target: Target) -> None:
    """Trailers that follow the headers without any body get a choice or a refusal, never a gRPC error."""
    target.need_bodies()
    answer = target.ask(Request(pieces=(), trailers=True))
    if answer.refused is not None:
        answer.refused_with(400, 422, 429, 503)


def _untouched(target: Target, inside: str) -> None:
    body = f'{{"model": {json.dumps(target.model)}, "messages": [{{"role": "user", "content": "x"}}], {inside}}}'
    _returned(target, body.encode())


@case("untouched.large-integer")
def _large_integer(target: Target) -> None:
    """A seed above 2^53 is not rounded."""
    _untouched(target, '"seed": 9007199254740993')


@case("untouched.float")
def _float(target: Target) -> None:
    """Numbers keep their spelling: 1.0, 1e-7, 0.30000000000000004."""
    _untouched(target, '"temperature": 1.0, "top_p": 1e-7, "min_p": 0.30000000000000004')


@case("untouched.white-space")
def _white_space(target: Target) -> None:
    """White space stays as it is."""
    _untouched(target, '  "stop" :\n\t[ "a" ,"b" ]  ')


@case("untouched.order")
def _order(target: Target) -> None:
    """The order of fields, and fields that nobody knows, stay as they are."""
    _untouched(target, '"zebra": {"b": 1, "a": {"d": null, "c": []}}, "alpha": true')


@case("untouched.escapes")
def _escapes(target: Target) -> None:
    r"""Escapes stay as they are: \u00e9, \/, <, a lone surrogate."""
    _untouched(target, r'"user": "caf\u00e9 \/ <b>&amp; \ud83d"')


@case("untouched.repeated-field")
def _repeated(target: Target) -> None:
    """A field that comes twice stays twice."""
    _untouched(target, '"n": 1, "n": 1')


@case("accepts.completions")
def _completions(target: Target) -> None:
    """A body of the completions API gets a choice."""
    _returned(target, json.dumps({"model": target.model, "prompt": "x"}).encode(), path="/v1/completions")


@case("accepts.parts")
def _parts(target: Target) -> None:
    """A chat message whose content is a list of parts gets a choice."""
    content = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    messages = [{"role": "user", "content": content}]
    _returned(target, json.dumps({"model": target.model, "messages": messages}).encode())


@case("accepts.tools")
def _tools(target: Target) -> None:
    """A chat with tool calls, whose content is null, gets a choice."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "y"},
    ]
    _returned(target, json.dumps({"model": target.model, "messages": messages}).encode())


@case("accepts.responses", Level.SHOULD)
def _responses(target: Target) -> None:
    """A body of the responses API gets a choice."""
    _returned(target, json.dumps({"model": target.model, "input": "x"}).encode(), path="/v1/responses")


@case("accepts.messages", Level.SHOULD)
def _messages(target: Target) -> None:
    """A body of the Anthropic messages API gets a choice."""
    body = {"model": target.model, "max_tokens": 9, "system": "s", "messages": [{"role": "user", "content": "x"}]}
    _returned(target, json.dumps(body).encode(), path="/v1/messages")


@case("accepts.token-ids", Level.SHOULD)
def _token_ids(target: Target) -> None:
    """A prompt of token ids gets a choice."""
    body = {"model": target.model, "prompt": list(range(2_000))}
    _returned(target, json.dumps(body).encode(), path="/v1/completions")
