"""Requests of public traces as the router's policies see them."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tidefleet.catalogue import accelerator_types, models
from tidefleet.economics.replica import Replica
from tidefleet.planning.from_api import accelerator_of
from tidefleet.routing.hashing import Keys, mix, token_keys

MOONCAKE_BLOCK = 512
CLAUDE_BLOCK, CLAUDE_RUN = 64, 16
LIVE_SESSIONS = 32
"""Claude Code sessions at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One request; ``pause`` is the time since the session's last answer, or the arrival in an open loop."""

    tokens: int
    output: int
    keys: Keys
    session: int
    pause: float
    tool_call: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """A trace at a rate. ``sessions`` are lists of turns; in an open loop one request each."""

    name: str
    block_size: int
    sessions: list[list[Turn]]
    closed: bool
    kv_tokens: int
    live: int = 0


def replica() -> Replica:
    """llama-3.3-70b, weights and KV in FP8, on four H200 chips."""
    return Replica(models()["llama-3.3-70b"], accelerator_of(accelerator_types()["h200-sxm"]), 4, "Fp8", "Fp8")


def mooncake(path: Path, speed: float) -> Scenario:
    turns = []
    for one in _lines(path):
        ids = np.array(one["hash_ids"], dtype=np.uint64) + np.uint64(1)
        tokens = int(one["input_length"])
        keys = mix(ids)[: tokens // MOONCAKE_BLOCK]
        turns.append(
            [Turn(tokens, max(1, int(one["output_length"])), keys, int(one["family"]), one["timestamp"] / 1e3 / speed)]
        )
    return Scenario(f"mooncake_x{speed:g}", MOONCAKE_BLOCK, turns, False, 1_020_000)


def claude(path: Path, count: int, kv_tokens: int, name: str) -> Scenario:
    """Sessions with the common tool and system prompt of their model; blocks of 1,024 tokens."""
    sessions = []
    for number, one in enumerate(_lines(path)):
        if number >= count:
            break
        common = (int(one["tool_tokens"]) + int(one["system_tokens"])) // CLAUDE_BLOCK
        origin = zlib.crc32(f"{one['model']} {one['tool_tokens']} {one['system_tokens']}".encode()) & 0xFFF
        turns = []
        for request in one["requests"]:
            runs = [np.arange(first, first + length, dtype=np.int64) for first, length in request["blocks"]]
            if not runs:
                continue
            ids = np.concatenate(runs) + (number << 19)
            ids[:common] = (0xF00 << 20) + (origin << 12) + np.arange(len(ids[:common]))
            keys = token_keys(ids.astype(np.uint32), CLAUDE_RUN)
            turns.append(
                Turn(
                    int(request["in"]),
                    max(1, int(request["out"])),
                    keys,
                    number,
                    float(request["think"] or 0.0),
                    request["stop"] == "tool_use",
                )
            )
        sessions.append(turns)
    return Scenario(name, CLAUDE_BLOCK * CLAUDE_RUN, sessions, True, kv_tokens, LIVE_SESSIONS)


def scenarios(root: Path, sessions: int) -> Iterator[Scenario]:
    conversation = root / "mooncake_conversation_trace.jsonl.zst"
    if conversation.exists():
        for speed in (1.0, 3.0, 6.0):
            yield mooncake(conversation, speed)
    code = root / "agentic_claude_code.jsonl.zst"
    if code.exists():
        yield claude(code, sessions, 307_000, "claude_307k")
        yield claude(code, sessions, 1_020_000, "claude_1020k")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa  # noqa: PLC0415

    with pa.input_stream(str(path), compression="zstd") as stream:
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            yield json.loads(line)
