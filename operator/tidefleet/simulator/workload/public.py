"""Sources of the published traces: how each is read, and what of it is common to sessions."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.hashing import Keys, mix, token_keys
from tidefleet.simulator.workload.bodies import Pairs, Template, Templates, template
from tidefleet.simulator.workload.files import (
    LONGEST_TOKENS,
    Ints,
    TraceError,
    column,
    concatenated,
    in_order,
    needs,
    number,
    objects,
    rows,
    table,
    token_count,
    whole,
    whole_column,
)

MOONCAKE_BLOCK = 512
CLAUDE_BLOCK, CLAUDE_RUN = 64, 16
"""Tokens of a block of the trace, and how many are joined to one: 1,024 tokens."""
RAG_BLOCK, RAG_CHUNK = 128, 1024
"""Tokens of a block, and between the ids of two chunks at least."""
MOST_CHUNK_TOKENS = 1 << 20
RAG_ORDER = ("sys", "passages", "history", "web", "user")
RAG_NOON = 43200.0
"""Local time of day at the trace's second 0."""
SESSION_ENDS_SECONDS = 3600.0
"""A RAG session that rests for longer comes back as another."""


def mooncake(root: Path, name: str) -> Templates:
    """Families of Mooncake's requests with their own pauses. Blocks that several families have are common to all draws.

    The trace's block ids identify all content up to and with a block, so they are keys already; the last block of a
    prompt is not whole and has none.

    Raises:
        TraceError: the file does not hold what it should.
    """
    path = needs(root, f"{name}_trace.jsonl.zst")
    families: dict[int, list[tuple[float, int, int, Ints]]] = defaultdict(list)
    owners: dict[int, int] = {}
    common: set[int] = set()
    last = 0.0
    for line, one in objects(path, ("timestamp", "input_length", "output_length", "hash_ids", "family")):
        now = number(path, line, "timestamp", one["timestamp"], least=0, example="27482 (ms)") / 1e3
        in_order(path, line, last, now)
        last = now
        tokens = token_count(path, line, "input_length", one["input_length"], least=1, example="6758")
        output = token_count(path, line, "output_length", one["output_length"], least=0, example="500")
        ids = _ids(path, line, "hash_ids", one["hash_ids"])
        family = whole(path, line, "family", one["family"], least=0, example="3301589560")
        for block in ids.tolist():
            if owners.setdefault(block, family) != family:
                common.add(block)
        families[family].append((now, tokens, max(1, output), ids[: tokens // MOONCAKE_BLOCK]))
    shared = np.array(sorted(common), dtype=np.int64)
    found, begins = [], []
    for turns in families.values():
        begins.append(turns[0][0])
        before = turns[0][0]
        parts = []
        for now, tokens, output, ids in turns:
            parts.append((now - before, tokens, output, mix(ids.astype(np.uint64) + np.uint64(1)), False, 0.0))
            before = now
        found.append(template(parts, [~_among(np.concatenate([ids for _, _, _, ids in turns]), shared)]))
    return _templates(path, found, begins, last, MOONCAKE_BLOCK)


def claude_code(root: Path) -> Templates:
    """Claude Code sessions in a closed loop: the next request comes its think time after the last answer.

    Ids of blocks hold within a session. The leading ones are the tools (common to sessions with as many tokens of them
    on the same model) and the system prompt (likewise, with both alike).

    Raises:
        TraceError: the file does not hold what it should.
    """
    path = needs(root, "agentic_claude_code.jsonl.zst")
    found = [
        one
        for number_, (line, row) in enumerate(objects(path, ("model", "tool_tokens", "system_tokens", "requests")))
        if (one := _claude_session(path, line, row, number_)) is not None
    ]
    return _templates(path, found, [0.0] * len(found), 0.0, CLAUDE_BLOCK * CLAUDE_RUN, closed=True)


def _claude_session(path: Path, line: int, row: dict[str, Any], session: int) -> Template | None:
    tools = token_count(path, line, "tool_tokens", row["tool_tokens"], least=0, example="12974") // CLAUDE_BLOCK
    system = token_count(path, line, "system_tokens", row["system_tokens"], least=0, example="4243") // CLAUDE_BLOCK
    head = tools + system
    if not isinstance(row["requests"], list):
        raise TraceError(
            f"{path}:{line}: requests is {str(row['requests'])[:60]}; expected a list, one for each request"
        )
    first = zlib.crc32(f"{row['model']} {row['tool_tokens']}".encode()) & 0xFFF
    second = zlib.crc32(f"{row['model']} {row['tool_tokens']} {row['system_tokens']}".encode()) & 0xFFF
    places = np.arange(head, dtype=np.int64)
    standing = np.where(places < tools, (0xE00 << 20) + (first << 12), (0xF00 << 20) + (second << 12)) + places
    turns: list[tuple[float, int, int, Keys, bool, float]] = []
    private: list[NDArray[np.bool_]] = []
    for at, one in enumerate(row["requests"]):
        where = f"requests[{at}]"
        try:
            runs = [_run(path, line, where, begin, length) for begin, length in one["blocks"]]
            tokens = token_count(path, line, f"{where}.in", one["in"], least=0, example="71175")
            output = token_count(path, line, f"{where}.out", one["out"], least=0, example="169")
            pause = number(path, line, f"{where}.think", one["think"] or 0.0, least=0, example="12.0")
            took = number(path, line, f"{where}.api", one["api"] or 0.0, least=0, example="7.34")
            call = one["stop"] == "tool_use"
        except TraceError:
            raise
        except (KeyError, TypeError, ValueError) as broken:
            raise TraceError(
                f"{path}:{line}: {where} is {str(one)[:80]}; expected in, out, think, api, stop and blocks, "
                'e.g. {"in": 71175, "out": 169, "think": 12.0, "api": 7.34, "stop": "tool_use", "blocks": [[1, 1112]]}'
            ) from broken
        if not runs or not tokens:
            continue
        ids = np.concatenate(runs)
        own = ids + (session % 3500 + 1 << 20)
        alike = min(head, len(ids))
        own[:alike] = np.where(ids[:alike] == places[:alike] + 1, standing[:alike], own[:alike])
        keys = token_keys((own & 0xFFFFFFFF).astype(np.uint32), CLAUDE_RUN)
        same = int(np.argmin(np.append(ids[:alike] == places[:alike] + 1, False))) // CLAUDE_RUN
        turns.append((pause if turns else 0.0, tokens, max(1, output), keys, call, took))
        private.append(np.arange(len(keys)) >= same)
    return template(turns, private) if turns else None


def ragpulse(root: Path) -> Templates:
    """RAG sessions by half-hour of the day; a prompt is system, passages, history, web, user, in this order.

    A block is common to draws if more than one session of the trace has all up to it: in the trace 31.4 % of prompt
    tokens are such, nearly all of the system prompt; passages in the same order are 0.02 %.

    Raises:
        TraceError: a file does not hold what it should.
    """
    sizes = _chunk_sizes(root)
    stride = max(RAG_CHUNK, max(sizes.values()) + 1)
    path = needs(root, "ragpulse_trace.jsonl.zst")
    sessions: dict[tuple[int, int], list[tuple[float, int, int, Keys]]] = {}
    latest: dict[int, tuple[float, int]] = {}
    last = 0.0
    for line, one in objects(path, ("t", "session", "input_length", "output_length", *RAG_ORDER)):
        now = number(path, line, "t", one["t"], least=0, example="27.0")
        in_order(path, line, last, now)
        last = now
        name = whole(path, line, "session", one["session"], least=0, example="17")
        before, part = latest.get(name, (now, 0))
        part += now - before > SESSION_ENDS_SECONDS
        latest[name] = (now, part)
        tokens = token_count(path, line, "input_length", one["input_length"], least=1, example="2926")
        output = token_count(path, line, "output_length", one["output_length"], least=0, example="154")
        chunks = [chunk for part_ in RAG_ORDER for chunk in _ids(path, line, part_, one[part_]).tolist()]
        ids = concatenated(
            (np.arange(sizes.get(chunk, 0), dtype=np.int64) + chunk * stride for chunk in chunks), np.int64
        )
        keys = token_keys((ids[:tokens] & 0xFFFFFFFF).astype(np.uint32), RAG_BLOCK)
        sessions.setdefault((name, part), []).append((now, tokens, max(1, output), keys))
    seen: Counter[int] = Counter()
    for turns in sessions.values():
        seen.update({int(key) for _, _, _, keys in turns for key in keys})
    common = np.array(sorted(key for key, count in seen.items() if count > 1), dtype=np.uint64)
    found, begins = [], []
    for turns in sessions.values():
        begins.append(turns[0][0])
        before = turns[0][0]
        parts = []
        for now, tokens, output, keys in turns:
            parts.append((now - before, tokens, output, keys, False, 0.0))
            before = now
        found.append(template(parts, [~_among(np.concatenate([keys for _, _, _, keys in turns]), common)]))
    slots: list[list[int]] = [[] for _ in range(48)]
    for at, begin in enumerate(begins):
        slots[int((begin + RAG_NOON) // 1800) % 48].append(at)
    filled = [_nearest(slots, one) for one in range(48)]
    return _templates(path, found, begins, last, RAG_BLOCK, slots=filled)


def _chunk_sizes(root: Path) -> dict[int, int]:
    """Tokens of each chunk."""
    path = needs(root, "ragpulse_chunk_tokens.csv.zst")
    found: dict[int, int] = {}
    for line, (chunk, size) in rows(path, ("chunk_id", "tokens")):
        tokens = token_count(path, line, "tokens", size, least=0, example="512")
        if tokens > MOST_CHUNK_TOKENS:
            raise TraceError(f"{path}:{line}: tokens is {size}; expected at most {MOST_CHUNK_TOKENS:,}, e.g. 512")
        found[whole(path, line, "chunk_id", chunk, least=0, example="8302")] = tokens
    if not found:
        raise TraceError(f"{path}: no row; expected chunk_id and tokens of each chunk, e.g. 8302 and 512")
    return found


def _run(path: Path, line: int, where: str, begin: object, length: object) -> Ints:
    """Ids of a run of blocks."""
    first = whole(path, line, f"{where}.blocks", begin, least=0, example="[[1, 1112]]")
    count = whole(path, line, f"{where}.blocks", length, least=0, example="[[1, 1112]]")
    if first + count > LONGEST_TOKENS // CLAUDE_BLOCK:
        raise TraceError(
            f"{path}:{line}: {where}.blocks has [{first}, {count}]; expected ids below "
            f"{LONGEST_TOKENS // CLAUDE_BLOCK:,}, e.g. [[1, 1112]]"
        )
    return np.arange(first, first + count, dtype=np.int64)


def _nearest(slots: list[list[int]], wanted: int) -> Ints:
    """Sessions of a half-hour, or of the nearest that has any."""
    for away in range(25):
        for one in (wanted - away, wanted + away):
            if slots[one % 48]:
                return np.array(slots[one % 48], dtype=np.int64)
    return np.zeros(1, np.int64)


def azure(root: Path, service: str) -> Pairs:
    """Pairs of Azure's trace of 2023.

    Raises:
        TraceError: the file does not hold what it should.
    """
    path = needs(root, f"azure2023_{service}.parquet")
    found = table(path, ("t_s", "input", "output"))
    if not found.num_rows:
        raise TraceError(f"{path}: no row; expected requests with t_s, input and output, e.g. 0.052, 3180, 8")
    when = column(path, found, "t_s", least=0, example="4.315")
    tokens = whole_column(path, found, "input", least=1, example="3180")
    outputs = whole_column(path, found, "output", least=0, example="8")
    if (np.diff(when) < 0).any():
        at = int(np.argmax(np.diff(when) < 0)) + 1
        raise TraceError(f"{path}: row {at}: t_s {when[at]:g} after {when[at - 1]:g}; expected rows in order of time")
    return Pairs(tokens, np.maximum(outputs, 1), when, own_rate=len(when) / max(float(when[-1]), 1.0))


def _among(values: NDArray[Any], known: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the values are among known ones, which are sorted."""
    at = np.searchsorted(known, values)
    return (at < len(known)) & (known[np.minimum(at, len(known) - 1)] == values) if len(known) else at < 0


def _templates(
    path: Path,
    found: list[Template],
    begins: list[float],
    last: float,
    block_size: int,
    *,
    closed: bool = False,
    slots: list[Ints] | None = None,
) -> Templates:
    if not found:
        raise TraceError(f"{path}: no request; expected at least one, one object a line")
    rate = len(found) / last if last > 0 else 1.0
    return Templates(block_size, closed, rate, found, np.array(begins), slots or ())


def _ids(path: Path, line: int, name: str, came: Any) -> Ints:
    """A list of ids."""
    try:
        found = np.array(came, dtype=np.int64)
        right = found.ndim == 1 and bool((found >= 0).all()) and found.tolist() == came
    except (TypeError, ValueError, OverflowError):
        right = False
    if not right:
        raise TraceError(f"{path}:{line}: {name} is {str(came)[:60]}; expected a list of ids from 0 on, e.g. [0, 1, 2]")
    return found
