"""How one engine answers HTTP: metrics, health, completions, and the development endpoints of vLLM."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any

from aiohttp import web

from tidefleet.emulator import openai
from tidefleet.emulator.engine import Engine, Stream
from tidefleet.emulator.faults import FaultKind, spoil
from tidefleet.emulator.fleet import Fleet, Slot
from tidefleet.emulator.metrics import CONTENT_TYPE, render
from tidefleet.emulator.prefix import token_ids

MOST_BODY_BYTES = 8 * 1024 * 1024
STEP_SECONDS = 0.005
"""Shortest real time between two pieces of a stream: on a fast clock several tokens go into one."""

FRESH_SECONDS = 0.02
"""Real time for which a pool's state counts as the present, so that a sweep over a pool's pods advances it once."""

Answer = web.StreamResponse
Handler = Callable[[web.BaseRequest], Awaitable[Answer]]


class EngineHandler:
    """Answers for one pod as long as it lives; faults of the moment come first."""

    def __init__(self, fleet: Fleet, slot: Slot) -> None:
        self._fleet, self._slot = fleet, slot
        self._routes: dict[tuple[str, str], Handler] = {
            ("GET", "/metrics"): self._metrics,
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("GET", "/version"): self._version,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/completions"): self._completions,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/sleep"): self._sleep,
            ("POST", "/wake_up"): self._wake,
            ("GET", "/is_sleeping"): self._is_sleeping,
            ("POST", "/reset_prefix_cache"): self._reset_prefix_cache,
        }

    async def __call__(self, request: web.BaseRequest) -> Answer:
        """The answer to a request, or none for ever while the pod hangs."""
        slot = self._slot
        await self._until_answering()
        if slot.has(FaultKind.ERROR_500):
            return web.json_response(
                openai.RequestProblem(500, "InternalServerError", "injected fault").body(), status=500
            )
        try:
            handler = self._routes.get((request.method, request.path))
            if handler is None:
                known = any(path == request.path for _, path in self._routes)
                words = "Method Not Allowed" if known else "Not Found"
                raise openai.RequestProblem(405 if known else 404, "NotFoundError", words)
            return await handler(request)
        except openai.RequestProblem as problem:
            return web.json_response(problem.body(), status=problem.status)
        except web.HTTPRequestEntityTooLarge:
            large = openai.RequestProblem(413, "BadRequestError", f"the body exceeds {MOST_BODY_BYTES} bytes")
            return web.json_response(large.body(), status=413)

    async def _until_answering(self) -> None:
        while self._slot.has(FaultKind.HANG):  # noqa: ASYNC110  faults are plain data: no event tells of their end
            await asyncio.sleep(0.05)

    def _engine(self) -> Engine:
        """The engine, brought to the present."""
        if self._slot.engine is None:
            raise openai.RequestProblem(503, "ServiceUnavailableError", "the engine is gone")
        self._fleet.touch(self._slot, FRESH_SECONDS * self._fleet.clock.scale)
        return self._slot.engine

    async def _metrics(self, _request: web.BaseRequest) -> Answer:
        page = render(self._engine())
        if self._slot.faults:
            page = spoil(page, self._slot.faults)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE})

    async def _health(self, _request: web.BaseRequest) -> Answer:
        return web.Response()

    async def _version(self, _request: web.BaseRequest) -> Answer:
        return web.json_response({"version": f"tidefleet-emulator-{metadata.version('tidefleet')}"})

    async def _models(self, _request: web.BaseRequest) -> Answer:
        engine = self._engine()
        served = engine.facts.served_name
        model = {
            "id": served,
            "object": "model",
            "created": int(engine.counters.started_at),
            "owned_by": "vllm",
            "root": served,
            "parent": None,
            "max_model_len": engine.context_tokens,
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _tokenize(self, request: web.BaseRequest) -> Answer:
        ids = token_ids(openai.prompt_text(openai.parse_body(await request.read())))
        length = self._engine().context_tokens
        return web.json_response({"count": len(ids), "max_model_len": length, "tokens": ids, "token_strs": None})

    async def _sleep(self, request: web.BaseRequest) -> Answer:
        level = request.query.get("level", "1")
        if level not in ("0", "1", "2"):
            raise openai.bad_request(f"level is {level!r}; expected 0, 1 or 2", "level")
        self._engine().sleep(int(level))
        return web.Response()

    async def _wake(self, _request: web.BaseRequest) -> Answer:
        self._engine().wake()
        return web.Response()

    async def _is_sleeping(self, _request: web.BaseRequest) -> Answer:
        return web.json_response({"is_sleeping": self._engine().sleep_level is not None})

    async def _reset_prefix_cache(self, _request: web.BaseRequest) -> Answer:
        self._engine().cache.clear()
        return web.Response()

    async def _completions(self, request: web.BaseRequest) -> Answer:
        return await self._generate(request, is_chat=False)

    async def _chat(self, request: web.BaseRequest) -> Answer:
        return await self._generate(request, is_chat=True)

    async def _generate(self, request: web.BaseRequest, *, is_chat: bool) -> Answer:
        body = openai.parse_body(await request.read())
        engine = self._engine()
        generation = openai.parse_generation(
            body, is_chat=is_chat, served_name=engine.facts.served_name, context_tokens=engine.context_tokens
        )
        stream = engine.open(self._fleet.clock.now(), generation.prompt, generation.max_tokens)
        reason = "abort"
        try:
            send = self._send_stream if generation.is_stream else self._send_whole
            response = await send(request, engine, stream, generation)
            reason = generation.finish_reason
            return response
        finally:
            done = openai.whole_prompt(generation, stream.tokens) if reason != "abort" else None
            engine.close(stream, reason, done)

    async def _send_whole(
        self, _request: web.BaseRequest, engine: Engine, stream: Stream, generation: openai.Generation
    ) -> Answer:
        while not stream.is_done:
            await self._next(engine, stream)
        head = openai.envelope(generation, uuid.uuid4().hex, stream.opened_at, engine.facts.served_name)
        text = openai.answer(0, stream.tokens)
        return web.json_response(
            {
                **head,
                "choices": [openai.choice(generation, text, generation.finish_reason)],
                "usage": openai.usage(generation, stream.tokens, stream.cached_tokens),
            }
        )

    async def _send_stream(
        self, request: web.BaseRequest, engine: Engine, stream: Stream, generation: openai.Generation
    ) -> Answer:
        head = openai.envelope(generation, uuid.uuid4().hex, stream.opened_at, engine.facts.served_name)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        sent = 0
        while not stream.is_done:
            await self._next(engine, stream)
            if stream.tokens > sent:
                fresh, finish = stream.tokens - sent, generation.finish_reason if stream.is_done else None
                piece = openai.choice(generation, openai.answer(sent, fresh), finish, first=sent == 0)
                await response.write(_event({**head, "choices": [piece]}))
                sent += fresh
        if generation.include_usage:
            counted = openai.usage(generation, stream.tokens, stream.cached_tokens)
            await response.write(_event({**head, "choices": [], "usage": counted}))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _next(self, engine: Engine, stream: Stream) -> None:
        """Sleep until the stream's next token is due, then bring the engine to the present."""
        if self._slot.engine is not engine:
            raise openai.RequestProblem(503, "ServiceUnavailableError", "the engine was restarted")
        clock = self._fleet.clock
        if engine.sleep_level is not None:
            due = STEP_SECONDS * 4 * clock.scale
        elif not stream.is_prefilled:
            due = stream.first_token_at - clock.now()
        else:
            due = (stream.tokens + 1 - stream.generated) * engine.tpot_seconds
        await asyncio.sleep(min(1.0, max(STEP_SECONDS, due / clock.scale)))
        await self._until_answering()
        self._fleet.touch(self._slot, 0.5 * STEP_SECONDS * clock.scale)
        engine.advance(clock.now())


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
