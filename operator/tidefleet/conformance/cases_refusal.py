"""Requests that cannot go anywhere: an ImmediateResponse with the right status, and a picker that goes on."""

from __future__ import annotations

import json

from tidefleet.conformance import build
from tidefleet.conformance.build import Request
from tidefleet.conformance.case import Level, expect, registry
from tidefleet.conformance.target import Answer, Target

CASES, case = registry()
_BAD = (400, 404, 413, 422)
"""A client's mistake; 400 is what the protocol's reference uses."""


def _sent(target: Target, body: bytes) -> Answer:
    target.need_bodies()
    return target.ask(Request(pieces=build.cut(body, 60_000)))


@case("refusal.not-json")
def _not_json(target: Target) -> None:
    """A body that is no JSON is refused with 400 by an ImmediateResponse."""
    _sent(target, b"this is no JSON").refused_with(400)


@case("refusal.truncated")
def _truncated(target: Target) -> None:
    """JSON that is cut short is refused with 400."""
    _sent(target, build.chat(target.model)[:-5]).refused_with(400)


@case("refusal.not-utf-8")
def _not_utf8(target: Target) -> None:
    """A body of random bytes is refused with 400."""
    _sent(target, bytes(range(256)) * 8).refused_with(400)


@case("refusal.not-an-object")
def _not_an_object(target: Target) -> None:
    """JSON that is no object is refused as the client's mistake."""
    _sent(target, b"[1, 2, 3]").refused_with(*_BAD)


@case("refusal.no-model")
def _no_model(target: Target) -> None:
    """A body without a model is refused as the client's mistake."""
    _sent(target, json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode()).refused_with(*_BAD)


@case("refusal.model-no-text")
def _model_no_text(target: Target) -> None:
    """A model that is no text is refused as the client's mistake."""
    _sent(target, json.dumps({"model": 7, "messages": []}).encode()).refused_with(*_BAD)


@case("refusal.empty-body")
def _empty(target: Target) -> None:
    """A body without a byte is refused as the client's mistake."""
    _sent(target, b"").refused_with(*_BAD)


@case("refusal.last-word")
def _last_word(target: Target) -> None:
    """Nothing follows an ImmediateResponse, and the stream ends with OK."""
    _sent(target, b"this is no JSON").refused_with(400).exchange.finish()


@case("refusal.reason", Level.SHOULD)
def _reason(target: Target) -> None:
    """A refusal has a body that says why, without repeating the request."""
    answer = _sent(target, b"a secret that is no JSON").refused_with(400)
    text = answer.refused.body.decode(errors="replace")
    expect(bool(text.strip()), "the refusal has no body")
    expect("a secret" not in text, "the refusal repeats the request's body")


@case("refusal.goes-on")
def _goes_on(target: Target) -> None:
    """After refusals the same connection serves the next request."""
    for _ in range(20):
        _sent(target, b"{")
    target.ask(target.request()).chosen()


@case("hostile.20-MB")
def _huge(target: Target) -> None:
    """A body of 20 MB is refused or comes back whole, never a gRPC error, and the next request is served."""
    body = build.chat(target.model, "x" * 20_000_000)
    answer = _sent(target, body)
    if answer.refused is not None:
        answer.refused_with(400, 413, 429, 503)
    else:
        expect(answer.body == body, f"{len(body)} bytes went in and {len(answer.body)} came back")
    target.ask(target.request()).chosen()


@case("hostile.deep-json")
def _deep(target: Target) -> None:
    """JSON of 100,000 nested lists is refused or passed on, and the next request is served."""
    body = b'{"model": "m", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    answer = _sent(target, body)
    if answer.refused is not None:
        answer.refused_with(*_BAD)
    target.ask(target.request()).chosen()


@case("hostile.long-model")
def _long_model(target: Target) -> None:
    """A model name of 1 MB is refused or passed on, and the next request is served."""
    answer = _sent(target, build.chat("m" * 1_000_000))
    if answer.refused is not None:
        answer.refused_with(*_BAD, 503)
    target.ask(target.request()).chosen()


@case("hostile.session-flood")
def _sessions(target: Target) -> None:
    """A hundred and fifty session ids, some of them long, do no harm."""
    for number in range(150):
        text = f"session-{number}" * (200 if number % 50 == 0 else 1)
        target.ask(target.request(headers=(("x-session-id", text),))).chosen().exchange.finish()
