"""What clients send to the OpenAI-compatible endpoints, and the shapes of what they get back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidefleet.emulator.capacity import BLOCK_TOKENS
from tidefleet.emulator.prefix import BYTES_PER_TOKEN, Prompt, prompt_of_ids, prompt_of_text, token_ids

DEFAULT_COMPLETION_TOKENS = 16
"""``max_tokens`` of /v1/completions when the client names none, as in the OpenAI API."""

DEFAULT_CHAT_TOKENS = 128
"""Length of a chat answer when the client sets no limit; a real model would decide."""

_WORDS = ("the ", "tide", " of ", "sea ", "runs", " in, ", "and ", "out ", "with", " the", " far", " one")
_WORDS_OF_A_TOKEN = tuple(word[:BYTES_PER_TOKEN] for word in _WORDS)


class RequestProblem(Exception):
    """A request that is answered with an error in OpenAI's shape."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.param = status, kind, message, param

    def body(self) -> dict[str, Any]:
        """The error object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}


def bad_request(message: str, param: str | None = None) -> RequestProblem:
    """400."""
    return RequestProblem(400, "BadRequestError", message, param)


@dataclass(frozen=True, slots=True)
class Generation:
    """A parsed request: what to generate and how to send it.

    Attributes:
        text: the prompt as text; empty when it came as token ids.
        finish_reason: ``length`` when the client set the limit, else ``stop``.
    """

    prompt: Prompt
    text: str
    max_tokens: int
    finish_reason: str
    is_chat: bool
    is_stream: bool
    include_usage: bool


def parse_body(raw: bytes) -> Mapping[str, Any]:
    """The JSON object of a body.

    Raises:
        RequestProblem: 400.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise bad_request(f"the body is {type(body).__name__}; expected an object")
    return body


def parse_generation(body: Mapping[str, Any], *, is_chat: bool, served_name: str, context_tokens: int) -> Generation:
    """The generation that a body asks for.

    Raises:
        RequestProblem: 400, or 404 for another model's name.
    """
    model = body.get("model", served_name)
    if model != served_name:
        raise RequestProblem(404, "NotFoundError", f"The model `{model}` does not exist.", "model")
    if body.get("n", 1) != 1:
        raise bad_request("n is not 1; this engine gives one answer", "n")
    text, prompt = _chat(body.get("messages")) if is_chat else _completion(body.get("prompt"))
    given = body.get("max_completion_tokens") if is_chat else None
    given = body.get("max_tokens") if given is None else given
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
        raise bad_request(f"max_tokens must be at least 1, got {given!r}", "max_tokens")
    if given is None:
        default = DEFAULT_CHAT_TOKENS if is_chat else DEFAULT_COMPLETION_TOKENS
        wanted, reason = min(default, max(1, context_tokens - prompt.tokens)), "stop" if is_chat else "length"
    else:
        wanted, reason = given, "length"
    if prompt.tokens + wanted > context_tokens:
        raise bad_request(
            f"This model's maximum context length is {context_tokens} tokens. However, you requested {wanted} output "
            f"tokens and your prompt contains {prompt.tokens} input tokens.",
            "max_tokens",
        )
    options = body.get("stream_options") or {}
    if not isinstance(options, Mapping):
        raise bad_request("stream_options is no object", "stream_options")
    is_stream = body.get("stream", False)
    if not isinstance(is_stream, bool | None):
        raise bad_request(f"stream is {is_stream!r}; expected true or false", "stream")
    return Generation(
        prompt=prompt,
        text=text,
        max_tokens=wanted,
        finish_reason=reason,
        is_chat=is_chat,
        is_stream=bool(is_stream),
        include_usage=bool(options.get("include_usage")),
    )


def prompt_text(body: Mapping[str, Any]) -> str:
    """The text that /tokenize counts: ``prompt``, or ``messages`` as the chat endpoint sees them."""
    if "messages" in body:
        return _chat(body["messages"])[0]
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        raise bad_request("prompt is missing; expected a string", "prompt")
    return prompt


def answer(start: int, tokens: int) -> str:
    """Text of the answer's tokens from ``start`` on: four bytes each, so that it counts as what it is."""
    words = _WORDS_OF_A_TOKEN
    return "".join(words[index % len(words)] for index in range(start, start + tokens))


def _chat(messages: object) -> tuple[str, Prompt]:
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages is empty or no list; expected at least one message", "messages")
    parts: list[str] = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise bad_request(f"messages[{index}] has no role", "messages")
        parts.append(f"<{message['role']}>{_content(index, message.get('content'))}</>")
    text = "".join(parts) + "<assistant>"
    return text, prompt_of_text(text)


def _content(index: int, content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    raise bad_request(f"messages[{index}].content is neither text nor a list of parts", "messages")


def _completion(prompt: object) -> tuple[str, Prompt]:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return prompt, prompt_of_text(prompt)
    if isinstance(prompt, list) and prompt and all(isinstance(one, int) for one in prompt):
        return "", prompt_of_ids(prompt)
    raise bad_request("prompt is missing or empty; expected one text or one list of token ids", "prompt")


def usage(generation: Generation, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """The usage object."""
    tokens = generation.prompt.tokens
    return {
        "prompt_tokens": tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def envelope(generation: Generation, identity: str, created: float, served_name: str) -> dict[str, Any]:
    """Fields that every answer and chunk begins with."""
    kind = "chat.completion" if generation.is_chat else "text_completion"
    if generation.is_chat and generation.is_stream:
        kind = "chat.completion.chunk"
    prefix = "chatcmpl" if generation.is_chat else "cmpl"
    return {"id": f"{prefix}-{identity}", "object": kind, "created": int(created), "model": served_name}


def choice(generation: Generation, text: str, finish_reason: str | None, *, first: bool = False) -> dict[str, Any]:
    """The one choice of an answer or chunk."""
    base: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
    if not generation.is_chat:
        return {**base, "text": text}
    content = {"role": "assistant", "content": text} if first or not generation.is_stream else {"content": text}
    return {**base, "delta" if generation.is_stream else "message": content}


def whole_prompt(generation: Generation, completion_tokens: int) -> Prompt | None:
    """Prompt and answer together, as the cache holds them afterwards; ``None`` after an answer of a few tokens."""
    if completion_tokens < BLOCK_TOKENS // 2:
        return None
    given = generation.prompt.content
    if isinstance(given, tuple):
        return prompt_of_ids([*given, *token_ids(answer(0, completion_tokens))])
    return prompt_of_text(generation.text + answer(0, completion_tokens))
