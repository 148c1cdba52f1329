"""Prompts as the tokens that an engine will see: the model's chat template, then its tokenizer, what is known kept.

Tokenizers cut a text at the model's special tokens before anything else and encode the parts between them one by one
(`tokenizers`, added vocabulary). Chat templates put such tokens between the turns. So the tokens of a rendered prompt
are those of its parts in a row, each part of a session is encoded once, and a turn costs only its new text. Whether a
tokenizer keeps to that is tried when it is loaded; where it does not, whole prompts are encoded.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import xxhash
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as FastTokenizer

from tidefleet.router.bodies import Body, Format

Tokens = npt.NDArray[np.uint32]

CACHED_BYTES = 64 * 2**20
"""Tokens of parts that are kept for one model, in bytes."""
LARGEST_TEMPLATE = 256 * 1024
PROBE = "Hello,  world!\n\n\tIt's 1234567 \u00e4\u4e2d\u6587 \U0001f600 x"


class NoTokenizer(ValueError):
    """A model's files cannot be used; the text names the file, what it holds and what was expected."""


class CannotRender(ValueError):
    """The chat template refuses these turns; the prompt is then compared as text."""


class PromptTokens:
    """Encodes prompts of one model as its engines do.

    Args:
        directory: holds ``tokenizer.json`` and, for chats, ``tokenizer_config.json`` with a ``chat_template`` (or
            ``chat_template.jinja``), as models are published.
        cached_bytes: limit of the cache of encoded parts.

    Raises:
        NoTokenizer: there is no ``tokenizer.json``, or a file is none of the kind.
    """

    def __init__(self, directory: Path, *, cached_bytes: int = CACHED_BYTES) -> None:
        path = directory / "tokenizer.json"
        try:
            self._tokenizer = FastTokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for whatever is wrong
            raise NoTokenizer(
                f"{path}: {str(error)[:200]}; expected a tokenizer.json as models are published"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = _config(directory / "tokenizer_config.json")
        self._specials = {name: text for name in _SPECIALS if (text := _special(config.get(name)))}
        self._template = _template(directory, config)
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._marks = tuple(sorted({one.content for one in added if one.content}, key=len, reverse=True))
        self._parts = _Parts(cached_bytes)
        self._prefix, self._suffix = self._frame()
        self.by_parts = self._keeps_to_parts()

    def encode(self, body: Body) -> Tokens:
        """The tokens of a request's prompt.

        Raises:
            CannotRender: the model has no chat template, it refuses the turns, or they hold images.
        """
        if body.token_ids is not None:
            return np.asarray(body.token_ids, np.uint32)
        if body.images:
            raise CannotRender("the prompt holds images")
        if body.format is Format.COMPLETIONS:
            plain = self.text("".join(body.pieces))
            return (
                np.concatenate((self._prefix, plain, self._suffix)) if self._prefix.size or self._suffix.size else plain
            )
        return self.text(self.render(body.messages, body.tools))

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The text that the model's chat template makes of turns, with the opening of the answer.

        Raises:
            CannotRender: see there.
        """
        if self._template is None:
            raise CannotRender("the model has no chat template")
        try:
            return self._template.render(
                messages=[_turn(one) for one in messages],
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=True,
                **self._specials,
            )
        except Exception as error:  # a template is code of somebody else's: whatever it raises, it refused
            raise CannotRender(f"the chat template refuses these turns: {type(error).__name__}") from error

    def text(self, text: str) -> Tokens:
        """The tokens of a text as it stands, without the tokens that an engine adds around a plain prompt."""
        if not self.by_parts:
            return self._encoded(text)
        found = [self._part(part) for part in self._cut(text)]
        return np.concatenate(found) if found else np.empty(0, np.uint32)

    def _part(self, text: str) -> Tokens:
        key = xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass"))
        known = self._parts.get(key)
        if known is None:
            known = self._encoded(text)
            self._parts.put(key, known)
        return known

    def _encoded(self, text: str) -> Tokens:
        if any("\ud800" <= one <= "\udfff" for one in text):
            text = text.encode("utf-8", "replace").decode()
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.uint32)

    def _cut(self, text: str) -> list[str]:
        """Cut a text so that each part but the first opens with a special token; what is between two is one part."""
        cuts = sorted({at for mark in self._marks for at in _places(text, mark)} | {0, len(text)})
        return [text[start:end] for start, end in pairwise(cuts)]

    def _frame(self) -> tuple[Tokens, Tokens]:
        """The tokens that an engine puts before and behind a plain prompt (a begin-of-text, mostly)."""
        bare = self._tokenizer.encode("x", add_special_tokens=False).ids
        full = self._tokenizer.encode("x", add_special_tokens=True).ids
        at = next((i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare), None)
        if at is None:
            return np.empty(0, np.uint32), np.empty(0, np.uint32)
        return np.asarray(full[:at], np.uint32), np.asarray(full[at + len(bare) :], np.uint32)

    def _keeps_to_parts(self) -> bool:
        """Try whether the tokens of a text with special tokens are those of its parts."""
        if not self._marks:
            return False
        for mark in self._marks[-16:]:
            for text in (f"{mark}{PROBE}{mark}\n\n{PROBE}", f" {PROBE} {mark} {mark}{PROBE} "):
                whole = self._encoded(text)
                parts = [self._encoded(part) for part in self._cut(text)]
                if not np.array_equal(whole, np.concatenate(parts)):
                    return False
        return True


class _Parts:
    """Encoded parts by their hash, least recently used out first, bounded in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._tokens: OrderedDict[bytes, Tokens] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Tokens | None:
        with self._lock:
            found = self._tokens.get(key)
            if found is not None:
                self._tokens.move_to_end(key)
            return found

    def put(self, key: bytes, tokens: Tokens) -> None:
        with self._lock:
            if key in self._tokens:
                return
            self._tokens[key] = tokens
            self._held += tokens.nbytes + _OVERHEAD
            while self._held > self._limit:
                _, gone = self._tokens.popitem(last=False)
                self._held -= gone.nbytes + _OVERHEAD


_OVERHEAD = 250
"""Bytes of an entry beside its tokens: key, array and places in the map, as measured."""

_SPECIALS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def _places(text: str, mark: str) -> list[int]:
    found, at = [], text.find(mark)
    while at >= 0:
        found.append(at)
        at = text.find(mark, at + len(mark))
    return found


def _turn(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn as engines hand it to a template: text parts are joined, arguments of tool calls are objects."""
    own = dict(turn)
    content = own.get("content")
    if isinstance(content, list) and all(isinstance(one, dict) and isinstance(one.get("text"), str) for one in content):
        own["content"] = "\n".join(one["text"] for one in content)
    calls = own.get("tool_calls")
    if isinstance(calls, list):
        own["tool_calls"] = [_call(one) for one in calls]
    return own


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise NoTokenizer(f"{path}: {error}; expected a JSON object") from error
    if not isinstance(config, dict):
        raise NoTokenizer(f"{path}: holds a {type(config).__name__}; expected a JSON object")
    return config


def _special(value: object) -> str:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _template(directory: Path, config: Mapping[str, Any]) -> jinja2.Template | None:
    beside = directory / "chat_template.jinja"
    source = beside.read_text() if beside.exists() else config.get("chat_template")
    if isinstance(source, list):  # several, by name
        named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        source = named.get("default")
    if not isinstance(source, str):
        return None
    if len(source) > LARGEST_TEMPLATE:
        raise NoTokenizer(f"{directory}: the chat template has {len(source)} characters; at most {LARGEST_TEMPLATE}")
    # What templates of published models count on, as transformers and vLLM set it up.
    place = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    place.filters["tojson"] = _to_json
    place.globals["raise_exception"] = _refuse
    place.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
    try:
        return place.from_string(source)
    except jinja2.TemplateError as error:
        raise NoTokenizer(f"{directory}: the chat template cannot be read: {error}") from error


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
