"""Prompts as this engine counts them, and a prefix cache of block hashes.

There is no tokenizer: a token is four bytes of UTF-8, so 1,000 bytes are 250 tokens whatever the language. Prompts
given as token ids keep their own count. That is wrong for any one text and right enough for load and cost.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from tidefleet.emulator.capacity import BLOCK_TOKENS

BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt: its token count and the chained hash of each full block (equal prefixes give equal hashes)."""

    tokens: int
    blocks: tuple[int, ...]


def token_count(text: str) -> int:
    """Tokens of a text: a quarter of its bytes, rounded up."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def token_ids(text: str) -> list[int]:
    """One integer per token, the same for the same four bytes."""
    raw = text.encode()
    return [int.from_bytes(raw[at : at + BYTES_PER_TOKEN], "little") for at in range(0, len(raw), BYTES_PER_TOKEN)]


def prompt_of_text(text: str) -> Prompt:
    """The prompt that a text makes."""
    raw, step = text.encode(), BLOCK_TOKENS * BYTES_PER_TOKEN
    chain, blocks = 0, []
    for at in range(0, len(raw) - step + 1, step):
        chain = hash((chain, raw[at : at + step]))
        blocks.append(chain)
    return Prompt(-(-len(raw) // BYTES_PER_TOKEN), tuple(blocks))


def prompt_of_ids(ids: Sequence[int]) -> Prompt:
    """The prompt that a list of token ids makes."""
    chain, blocks = 0, []
    for at in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        chain = hash((chain, tuple(ids[at : at + BLOCK_TOKENS])))
        blocks.append(chain)
    return Prompt(len(ids), tuple(blocks))


class PrefixCache:
    """Blocks held, least recently used first; never more than ``capacity`` of them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = max(1, capacity)
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

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
        for block in reversed(prompt.blocks[: self._capacity]):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        """Forget all blocks."""
        self._blocks.clear()
