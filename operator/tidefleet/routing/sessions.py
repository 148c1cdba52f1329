"""Hash states of sessions: a turn hashes what it adds; what is kept is bounded in bytes and in time.

A state keeps keys and one digest, never content. The identity of a session is the number that ``hashing.hashed``
gives.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from tidefleet.routing.hashing import Keys, text_keys, token_keys

_OVERHEAD_BYTES = 640
"""Of a kept session beside its keys: the state, its numbers, and its place in the store (measured: 600)."""
_TOKEN_BYTES = 4


@dataclass(slots=True)  # one for every request, where freezing takes thrice the time: not to be changed
class SessionState:
    """What a prompt left behind for the session's next one.

    Attributes:
        keys: of its whole blocks.
        digest: of the bytes that the keys cover.
        block_bytes: bytes of a block: ``chunk_bytes`` of text, or four times ``block_size`` of tokens.
        salt: that the keys were made with.
    """

    keys: Keys
    digest: int
    block_bytes: int
    salt: int

    @property
    def size_bytes(self) -> int:
        """Memory that the state takes in a store."""
        return self.keys.nbytes + _OVERHEAD_BYTES

    @classmethod
    def of_text(
        cls, text: bytes, chunk_bytes: int, *, salt: int = 0, before: "SessionState | None" = None
    ) -> "SessionState":
        """The state of a prompt in bytes; ``before`` is that of an earlier prompt, of use where this one extends it."""
        known = _known(memoryview(text), chunk_bytes, salt, before)
        if known is None:
            keys = text_keys(text, chunk_bytes, salt=salt)
        else:
            keys, done = known.keys, len(known.keys)
            if (done + 1) * chunk_bytes <= len(text):
                parent = int(keys[-1])
                fresh = text_keys(text[done * chunk_bytes :], chunk_bytes, salt=salt, parent=parent, start=done)
                keys = np.concatenate((keys, fresh))
        return _state(keys, memoryview(text), chunk_bytes, salt, known)

    @classmethod
    def of_tokens(
        cls, tokens: NDArray[np.uint32], block_size: int, *, salt: int = 0, before: "SessionState | None" = None
    ) -> "SessionState":
        """The state of a prompt in token ids."""
        block_bytes = block_size * _TOKEN_BYTES
        content = np.ascontiguousarray(tokens, np.uint32).view(np.uint8).data
        known = _known(content, block_bytes, salt, before)
        if known is None:
            keys = token_keys(tokens, block_size, salt=salt)
        else:
            keys, done = known.keys, len(known.keys)
            fresh = token_keys(tokens[done * block_size :], block_size, salt=salt, parent=int(keys[-1]), start=done)
            if len(fresh):
                keys = np.concatenate((keys, fresh))
        return _state(keys, content, block_bytes, salt, known)


def _known(content: memoryview, block_bytes: int, salt: int, before: SessionState | None) -> SessionState | None:
    """``before`` where the content starts with what it covers."""
    if before is None or not len(before.keys) or (before.block_bytes, before.salt) != (block_bytes, salt):
        return None
    covered = len(before.keys) * block_bytes
    if covered > len(content) or xxh3_64_intdigest(content[:covered], salt) != before.digest:
        return None
    return before


def _state(keys: Keys, content: memoryview, block_bytes: int, salt: int, known: SessionState | None) -> SessionState:
    if known is not None and keys is known.keys:
        return known
    return SessionState(keys, xxh3_64_intdigest(content[: len(keys) * block_bytes], salt), block_bytes, salt)


class SessionStore:
    """States by hashed session, least recently used first out, bounded by bytes and by time since the last use.

    Args:
        limit_bytes: of all states together; a state larger than an eighth of it is not kept.
        ttl_seconds: after which an unused state is dropped.
    """

    __slots__ = ("_limit_bytes", "_states", "_ttl_seconds", "evicted", "size_bytes")

    def __init__(self, *, limit_bytes: int, ttl_seconds: float) -> None:
        if limit_bytes < _OVERHEAD_BYTES or ttl_seconds <= 0:
            raise ValueError(
                f"SessionStore: limit_bytes {limit_bytes}, ttl_seconds {ttl_seconds}; expected e.g. 67108864 and 3600"
            )
        self._limit_bytes = limit_bytes
        self._ttl_seconds = ttl_seconds
        self._states: OrderedDict[int, tuple[float, SessionState]] = OrderedDict()
        self.size_bytes = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._states)

    def get(self, session: int, now: float) -> SessionState | None:
        """The state that the session left, unless it is too old; this counts as a use."""
        kept = self._states.get(session)
        if kept is None:
            return None
        if now - kept[0] > self._ttl_seconds:
            self.forget(session)
            return None
        self._states[session] = (now, kept[1])
        self._states.move_to_end(session)
        return kept[1]

    def put(self, session: int, state: SessionState, now: float) -> None:
        """Keep a state in place of the session's earlier one; others leave to make room."""
        self.forget(session)
        size = state.size_bytes
        if size > max(self._limit_bytes // 8, _OVERHEAD_BYTES):
            return
        while self._states:
            oldest, (used, gone) = next(iter(self._states.items()))
            if now - used <= self._ttl_seconds and self.size_bytes + size <= self._limit_bytes:
                break
            del self._states[oldest]
            self.size_bytes -= gone.size_bytes
            self.evicted += 1
        self._states[session] = (now, state)
        self.size_bytes += size

    def forget(self, session: int) -> None:
        """Drop a session's state, if there is one."""
        kept = self._states.pop(session, None)
        if kept is not None:
            self.size_bytes -= kept[1].size_bytes
