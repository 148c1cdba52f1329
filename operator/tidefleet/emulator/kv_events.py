"""What an engine holds, told as vLLM tells it: numbered messages of events, of which the last ones can be replayed.

The form is vLLM's (``vllm/distributed/kv_events.py``): a msgpack array ``[timestamp, events, data-parallel rank]``,
events as maps with their kind under ``type``, as vLLM 0.32 sends them. Numbers begin at 0 with each start of an engine.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from tidefleet.emulator.capacity import BLOCK_TOKENS
from tidefleet.emulator.prefix import Change, Cleared, Removed, Stored

KEPT_MESSAGES = 10_000
"""Messages that can be replayed (``buffer_steps`` of vLLM's configuration, its default)."""
MOST_BLOCKS = 4096
"""Blocks of one event; a longer prompt is told in several."""
_NAME = (1 << 64) - 1


class Journal:
    """Messages of one engine from its start on."""

    def __init__(self, kept: int = KEPT_MESSAGES) -> None:
        self._messages: deque[tuple[int, bytes]] = deque(maxlen=kept)
        self._waiting: list[dict[str, Any]] = []
        self._next = 0

    def note(self, change: Change) -> None:
        """Take a change of the prefix cache; it goes into the next message."""
        match change:
            case Stored(prompt, first, last):
                for start in range(first, last, MOST_BLOCKS):
                    end = min(last, start + MOST_BLOCKS)
                    self._waiting.append(
                        {
                            "type": "BlockStored",
                            "block_hashes": [block & _NAME for block in prompt.blocks[start:end]],
                            "parent_block_hash": prompt.blocks[start - 1] & _NAME if start else None,
                            "token_ids": prompt.token_ids(start, end),
                            "block_size": BLOCK_TOKENS,
                            "lora_id": None,
                            "medium": "GPU",
                            "lora_name": None,
                            "extra_keys": None,
                            "group_idx": 0,
                            "kv_cache_spec_kind": "full_attention",
                        }
                    )
            case Removed(blocks):
                names = [block & _NAME for block in blocks]
                self._waiting.append({"type": "BlockRemoved", "block_hashes": names, "medium": "GPU", "group_idx": 0})
            case Cleared():
                self._waiting.append({"type": "AllBlocksCleared"})

    def message(self, timestamp: float) -> tuple[int, bytes] | None:
        """Number and payload of a message with all that was noted since the last; None where nothing was."""
        if not self._waiting:
            return None
        made = (self._next, msgspec.msgpack.encode([timestamp, self._waiting, None]))
        self._waiting = []
        self._next += 1
        self._messages.append(made)
        return made

    def since(self, number: int) -> list[tuple[int, bytes]]:
        """Messages from this number on that are still kept."""
        return [one for one in self._messages if one[0] >= number]
