"""What a request's body says that a pick needs: model, prompt, caps, session and cache hints. Bodies are only read.

Four formats are known: OpenAI chat completions, completions and responses, and Anthropic messages. Whatever the pick
does not need is skipped unparsed, and an odd value in it is the engine's to refuse, not ours.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

LARGEST_MODEL_NAME = 512
"""Characters of a model's name that are looked at; a longer one is no name of a model."""
MOST_OUTPUT_TOKENS = 10_000_000
LARGEST_TOKEN = 2**32 - 1
DEFAULT_CACHE_SECONDS, LONG_CACHE_SECONDS = 300.0, 3600.0
"""Lifetimes of Anthropic's ``cache_control`` without a ``ttl`` and with ``"ttl": "1h"`` (their documentation)."""


class BadBody(ValueError):
    """The body cannot be read; the text says what came and what was expected, and holds nothing of the prompt."""


class Format(enum.Enum):
    """The API that a path belongs to."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"


_SUFFIXES = {
    "/chat/completions": Format.CHAT,
    "/completions": Format.COMPLETIONS,
    "/responses": Format.RESPONSES,
    "/messages": Format.MESSAGES,
}


def format_of(path: str) -> Format | None:
    """The format of the bodies that are posted to a path (its query is left out); None for any other path."""
    plain = path.partition("?")[0].rstrip("/")
    return next((one for suffix, one in _SUFFIXES.items() if plain.endswith(suffix)), None)


@dataclass(frozen=True, slots=True)
class Body:
    """What a pick looks at.

    Attributes:
        pieces: the prompt as text in the order engines render it: tools, system, then turns, each opened by its role.
            A later turn of a session has the earlier one's pieces as a prefix. Empty when ``token_ids`` is given.
        messages: the turns as they came, for a chat template; empty for plain prompts.
        token_ids: the prompt as tokens, where the client sent those.
        output_cap: most output tokens that the client takes, if it says so.
        session: what in the body names the session (never to be logged); empty without.
        cache_seconds: how long the client wants its prefix kept, by its cache hints.
        after_tool: the last turn answers a tool call.
        cache_salt: the prompt shares KV blocks only with prompts of the same salt, as vLLM has it (never to be logged).
    """

    format: Format
    model: str
    pieces: tuple[str, ...]
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...]
    token_ids: tuple[int, ...] | None
    stream: bool
    output_cap: int | None
    session: str
    cache_seconds: float | None
    after_tool: bool
    images: int
    cache_salt: str = ""

    @property
    def characters(self) -> int:
        """Length of the prompt's text."""
        return sum(map(len, self.pieces))

    @property
    def size(self) -> int:
        """Bytes of the prompt's text in UTF-8."""
        return sum(len(one) if one.isascii() else len(one.encode("utf-8", "surrogatepass")) for one in self.pieces)


class _Wire(msgspec.Struct):
    """The fields that are read, of all formats; other fields are skipped. Types that vary stay open."""

    model: Any = None
    stream: Any = None
    messages: Any = None
    prompt: Any = None
    input: Any = None
    instructions: Any = None
    system: Any = None
    tools: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    metadata: Any = None
    prompt_cache_key: Any = None
    session_id: Any = None
    conversation: Any = None
    cache_control: Any = None
    cache_salt: Any = None


_decoder = msgspec.json.Decoder(_Wire)


def read(path: str, raw: bytes) -> Body:
    """Read a body that was posted to `path`.

    Raises:
        BadBody: it is not JSON, not an object, names no model, or its prompt has a shape that the format does not know.
    """
    kind = format_of(path)
    if kind is None:
        raise BadBody(
            f"nothing is known of requests to this path; expected one that ends in {', '.join(sorted(_SUFFIXES))}"
        )
    wire = _wire(raw)
    reader = _READERS[kind]
    found = reader(wire)
    return Body(
        format=kind,
        model=_model(wire.model),
        pieces=tuple(found.parts),
        messages=tuple(found.turns),
        tools=tuple(one for one in _list(wire.tools) if isinstance(one, dict)),
        token_ids=found.ids,
        stream=wire.stream is True,
        output_cap=_cap(wire, kind),
        session=_session(wire),
        cache_seconds=found.cache_seconds,
        after_tool=found.after_tool,
        images=found.images,
        cache_salt=wire.cache_salt if isinstance(wire.cache_salt, str) else "",
    )


def _wire(raw: bytes) -> _Wire:
    try:
        return _decoder.decode(raw)
    except msgspec.ValidationError:
        raise BadBody('the body is no JSON object; expected one such as {"model": "m", "messages": []}') from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # Half an emoji, which browsers send when they cut a text, is refused by this parser and taken by engines.
        if b"\\ud" not in raw and b"\\uD" not in raw:
            raise BadBody(f"the body is no JSON ({_where(error)}); expected an object with a model") from None
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadBody("the body is no JSON; expected an object with a model") from None
    if not isinstance(found, dict):
        raise BadBody('the body is no JSON object; expected one such as {"model": "m", "messages": []}')
    return _Wire(**{name: found.get(name) for name in _Wire.__struct_fields__})


def _where(error: Exception) -> str:
    """What the parser says of the place; its own words hold no content, only kinds and byte positions."""
    return str(error)[:120]


def _model(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise BadBody('"model" is missing or no text; expected the name of a model, e.g. "llama-3.3-70b"')
    if len(value) > LARGEST_MODEL_NAME:
        raise BadBody(f'"model" has {len(value)} characters; expected at most {LARGEST_MODEL_NAME}')
    return value


def _cap(wire: _Wire, kind: Format) -> int | None:
    values = {
        Format.CHAT: (wire.max_completion_tokens, wire.max_tokens),
        Format.COMPLETIONS: (wire.max_tokens,),
        Format.RESPONSES: (wire.max_output_tokens,),
        Format.MESSAGES: (wire.max_tokens,),
    }[kind]
    for one in values:
        if isinstance(one, int) and not isinstance(one, bool) and 0 < one <= MOST_OUTPUT_TOKENS:
            return one
    return None


def _session(wire: _Wire) -> str:
    """The session that a body names: Anthropic's ``metadata.user_id`` as coding agents fill it, or a cache key."""
    metadata = wire.metadata if isinstance(wire.metadata, dict) else {}
    user = metadata.get("user_id")
    if isinstance(user, str):
        if "_session_" in user:
            return user.rpartition("_session_")[2]
        if user.startswith("{"):
            try:
                inner = msgspec.json.decode(user)
            except (msgspec.DecodeError, RecursionError):
                inner = None
            if isinstance(inner, dict) and isinstance(inner.get("session_id"), str):
                return str(inner["session_id"])
    named = wire.conversation.get("id") if isinstance(wire.conversation, dict) else wire.conversation
    for one in (wire.session_id, metadata.get("session_id"), named, wire.prompt_cache_key):
        if isinstance(one, str) and one:
            return one
    return ""


@dataclass(slots=True)
class _Found:
    """What is gathered while the turns of a body are gone through."""

    parts: list[str]
    turns: list[dict[str, Any]]
    ids: tuple[int, ...] | None = None
    cache_seconds: float | None = None
    after_tool: bool = False
    images: int = 0

    def keep(self, hint: object) -> None:
        """Take a cache hint: the longest one counts."""
        if isinstance(hint, dict):
            seconds = LONG_CACHE_SECONDS if hint.get("ttl") == "1h" else DEFAULT_CACHE_SECONDS
            self.cache_seconds = max(seconds, self.cache_seconds or 0.0)


def _turns(wire: _Wire, found: _Found, turns: object, field: str) -> None:
    if not isinstance(turns, list):
        raise BadBody(
            f'"{field}" is {_kind(turns)}; expected a list of turns, e.g. [{{"role": "user", "content": ""}}]'
        )
    role = ""
    for index, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise BadBody(f'"{field}[{index}]" is {_kind(turn)}; expected an object with a role and a content')
        found.turns.append(turn)
        role = turn["role"] if isinstance(turn.get("role"), str) else str(turn.get("type", ""))[:64]
        found.parts.append(f"\n<{role}>\n")
        _content(found, turn)
    found.after_tool = found.after_tool or role in ("tool", "function", "function_call_output")


def _content(found: _Found, turn: dict[str, Any]) -> None:
    content = turn.get("content")
    if isinstance(content, str):
        found.parts.append(content)
    for part in _list(content):
        _part(found, part)
    for name in ("tool_calls", "arguments", "output", "reasoning_content", "summary"):
        value = turn.get(name)
        if isinstance(value, str):
            found.parts.append(value)
        elif value:
            found.parts.append(_text(value))
    found.keep(turn.get("cache_control"))


def _part(found: _Found, part: object) -> None:
    if isinstance(part, str):
        found.parts.append(part)
        return
    if not isinstance(part, dict):
        return
    found.after_tool = part.get("type") == "tool_result"
    found.keep(part.get("cache_control"))
    text = part.get("text")
    if isinstance(text, str):
        found.parts.append(text)
        return
    if str(part.get("type", "")).startswith(("image", "input_image", "input_audio", "video")):
        found.images += 1
    found.parts.append(_text({name: value for name, value in part.items() if name != "cache_control"}))


def _chat(wire: _Wire) -> _Found:
    found = _Found([], [])
    _tools(wire, found)
    _turns(wire, found, wire.messages, "messages")
    return found


def _messages(wire: _Wire) -> _Found:
    found = _Found([], [])
    _tools(wire, found)
    found.keep(wire.cache_control)
    if wire.system:
        found.parts.append("\n<system>\n")
        _content(found, {"content": wire.system})
        found.turns.append({"role": "system", "content": wire.system})
    _turns(wire, found, wire.messages, "messages")
    return found


def _responses(wire: _Wire) -> _Found:
    found = _Found([], [])
    _tools(wire, found)
    if isinstance(wire.instructions, str):
        found.parts += ["\n<system>\n", wire.instructions]
        found.turns.append({"role": "system", "content": wire.instructions})
    if isinstance(wire.input, str):
        found.parts += ["\n<user>\n", wire.input]
        found.turns.append({"role": "user", "content": wire.input})
    else:
        _turns(wire, found, wire.input, "input")
    return found


def _completions(wire: _Wire) -> _Found:
    prompt = wire.prompt
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        prompt = prompt[0]  # a batch of prompts goes to one endpoint; its first is what the pick looks at
    if isinstance(prompt, str):
        return _Found([prompt], [])
    if isinstance(prompt, list) and all(_is_token(one) for one in prompt):
        return _Found([], [], ids=tuple(prompt))
    raise BadBody(f'"prompt" is {_kind(prompt)}; expected a text, a list of texts or a list of token ids')


_READERS = {
    Format.CHAT: _chat,
    Format.COMPLETIONS: _completions,
    Format.RESPONSES: _responses,
    Format.MESSAGES: _messages,
}


def _tools(wire: _Wire, found: _Found) -> None:
    for one in _list(wire.tools):
        if isinstance(one, dict):
            found.keep(one.get("cache_control"))
            found.parts.append(_text({name: value for name, value in one.items() if name != "cache_control"}))


def _text(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(value)
    except (RecursionError, msgspec.MsgspecError):  # nested beyond what the encoder takes
        return ""


def _list(value: object) -> Iterator[Any]:
    return iter(value) if isinstance(value, list) else iter(())


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_TOKEN


def _kind(value: object) -> str:
    names = {type(None): "missing", dict: "an object", list: "a list", str: "a text", bool: "a boolean"}
    return names.get(type(value), "a number")
