"""Prompts as this engine counts them, and a prefix cache of block hashes that tells what changes in it.

There is no tokenizer: a token is four bytes of UTF-8, so 1,000 bytes are 250 tokens whatever the language. Prompts
given as token ids keep their own count. That is wrong for any one text and right enough for load and cost.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tidefleet.emulator.capacity import BLOCK_TOKENS

BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt: its token count and the chained hash of each full block (equal prefixes give equal hashes).

    Attributes:
        content: the text as UTF-8, or the token ids.
    """

    tokens: int
    blocks: tuple[int, ...]
    content: bytes | tuple[int, ...] = field(default=b"", repr=False, compare=False)

    def token_ids(self, first: int, last: int) -> list[int]:
        """Token ids of the blocks from ``first`` up to before ``last``."""
        start, end = first * BLOCK_TOKENS, last * BLOCK_TOKENS
        if isinstance(self.content, bytes):
            return ids_of(self.content[start * BYTES_PER_TOKEN : end * BYTES_PER_TOKEN])
        return list(self.content[start:end])


def token_count(text: str) -> int:
    """Tokens of a text: a quarter of its bytes, rounded up."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def token_ids(text: str) -> list[int]:
    """One integer per token, the same for the same four bytes."""
    return ids_of(text.encode())


def ids_of(raw: bytes) -> list[int]:
    """Token ids of a text in UTF-8."""
    return [int.from_bytes(raw[at : at + BYTES_PER_TOKEN], "little") for at in range(0, len(raw), BYTES_PER_TOKEN)]


def prompt_of_text(text: str) -> Prompt:
    """The prompt that a text makes."""
    raw, step = text.encode(), BLOCK_TOKENS * BYTES_PER_TOKEN
    chain, blocks = 0, []
    for at in range(0, len(raw) - step + 1, step):
        chain = hash((chain, raw[at : at + step]))
        blocks.append(chain)
    return Prompt(-(-len(raw) // BYTES_PER_TOKEN), tuple(blocks), raw)


def prompt_of_ids(ids: Sequence[int]) -> Prompt:
    """The prompt that a list of token ids makes."""
    held, chain, blocks = tuple(ids), 0, []
    for at in range(0, len(held) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        chain = hash((chain, held[at : at + BLOCK_TOKENS]))
        blocks.append(chain)
    return Prompt(len(held), tuple(blocks), held)


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks ``first`` to before ``last`` of a prompt were taken in; the one before them is held."""

    prompt: Prompt
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Removed:
    """These blocks made room."""

    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cleared:
    """Nothing is held any more."""


Change = Stored | Removed | Cleared


class PrefixCache:
    """Blocks held, least recently used first; never more than ``capacity`` of them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = max(1, capacity)
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._told: Callable[[Change], None] | None = None

    def __len__(self) -> int:
        return len(self._blocks)

    def tell(self, told: Callable[[Change], None] | None) -> None:
        """Have every change told from now on, in order; None ends it."""
        self._told = told

    def cached_tokens(self, prompt: Prompt) -> int:
        """Tokens of the longest cached prefix; at least one token is always computed, as in vLLM."""
        count = 0
        for block in prompt.blocks:
            if block not in self._blocks:
                break
            count += 1
        while count and count * BLOCK_TOKENS >= prompt.tokens:
            count -= 1
        return count * BLOCK_TOKENS

    def store(self, prompt: Prompt) -> None:
        """Hold a prompt's blocks; its tail leaves before its head."""
        kept = prompt.blocks[: self._capacity]
        fresh = [at for at, block in enumerate(kept) if block not in self._blocks] if self._told is not None else []
        for block in reversed(kept):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        gone = []
        while len(self._blocks) > self._capacity:
            gone.append(self._blocks.popitem(last=False)[0])
        if self._told is None:
            return
        if gone:
            self._told(Removed(tuple(gone)))
        for first, last in _runs(fresh):
            self._told(Stored(prompt, first, last))

    def clear(self) -> None:
        """Forget all blocks."""
        self._blocks.clear()
        if self._told is not None:
            self._told(Cleared())


def _runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending places as runs ``(first, one past the last)``."""
    found: list[tuple[int, int]] = []
    for at in places:
        if found and found[-1][1] == at:
            found[-1] = (found[-1][0], at + 1)
        else:
            found.append((at, at + 1))
    return found
