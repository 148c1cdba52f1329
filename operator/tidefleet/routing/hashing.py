"""Keys of a prompt's blocks: one 64-bit number for all content up to and with a block.

A block is read as 64-bit lanes (two token ids, or eight bytes of text). Each lane is mixed by a bijection, multiplied
by an odd number drawn from the salt for its place in the block, and the sum is mixed again together with the block's
place in the prompt. A key is the running sum of these, so that a whole prompt is a handful of numpy calls, and a
longer prompt goes on from the last key of a shorter one.

Two different prompts share a key with a probability of about 2**-64 as long as the salt is unknown to those who write
prompts. A collision makes the router expect a hit that is none; it can never mix up what an engine computes.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

Keys = NDArray[np.uint64]
"""Shape (blocks,): element i identifies all content up to and with block i. 0 never occurs."""

_GOLDEN_NUMBER, _FIRST_NUMBER, _SECOND_NUMBER = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_GOLDEN, _FIRST, _SECOND = np.uint64(_GOLDEN_NUMBER), np.uint64(_FIRST_NUMBER), np.uint64(_SECOND_NUMBER)
_FEW = 16
_30, _27, _31, _32 = (np.uint64(bits) for bits in (30, 27, 31, 32))
_WORD = (1 << 64) - 1
_LANE_BYTES = 8
_EMPTY: Keys = np.empty(0, np.uint64)
_EMPTY.flags.writeable = False


def mix(values: Keys) -> Keys:
    """A bijection of 64-bit numbers whose output looks random (the finaliser of SplitMix64), in place."""
    values ^= values >> _30
    values *= _FIRST
    values ^= values >> _27
    values *= _SECOND
    values ^= values >> _31
    return values


@lru_cache(maxsize=256)
def _secrets(salt: int, lanes: int) -> tuple[Keys, int]:
    """Odd multipliers of a block's lanes, shape (lanes,), and the key before the first block."""
    seed = int.from_bytes(blake2b(salt.to_bytes(8, "little"), digest_size=8).digest(), "little")
    drawn = mix(np.arange(1, lanes + 2, dtype=np.uint64) * _GOLDEN + np.uint64(seed))
    drawn.flags.writeable = False
    multipliers = drawn[1:] | np.uint64(1)
    multipliers.flags.writeable = False
    return multipliers, int(drawn[0])


def _chained(lanes: Keys, salt: int, parent: int, start: int) -> Keys:
    """Keys of blocks given as lanes, shape (blocks, lanes of a block); ``lanes`` is overwritten."""
    multipliers, origin = _secrets(salt & _WORD, lanes.shape[1])
    lanes *= _GOLDEN
    lanes ^= lanes >> _32
    found = lanes @ multipliers
    if len(lanes) <= _FEW:
        return _few_chained(found.tolist(), parent or origin, start)
    found += np.arange(start + 1, start + 1 + len(lanes), dtype=np.uint64) * _GOLDEN
    mix(found)
    found[0] = (int(found[0]) + (parent or origin)) & _WORD
    np.cumsum(found, out=found)
    if not found.all():
        found[found == 0] = 1
    return found


def _few_chained(sums: list[int], key: int, start: int) -> Keys:
    """The same from the sums of few blocks on, in plain numbers, which are faster than a dozen array operations."""
    keys = []
    for place, one in enumerate(sums, start + 1):
        mixed = (one + place * _GOLDEN_NUMBER) & _WORD
        mixed = (mixed ^ mixed >> 30) * _FIRST_NUMBER & _WORD
        mixed = (mixed ^ mixed >> 27) * _SECOND_NUMBER & _WORD
        key = (key + (mixed ^ mixed >> 31)) & _WORD
        keys.append(key or 1)
    return np.array(keys, np.uint64)


def token_keys(
    tokens: Sequence[int] | NDArray[Any], block_size: int, *, salt: int = 0, parent: int = 0, start: int = 0
) -> Keys:
    """Keys of the whole blocks of a prompt in token ids.

    Args:
        tokens: token ids from 0 to 2**32 - 1; an array of uint32 is read as it is, other sequences are converted.
        block_size: tokens of a block, as the engine has it.
        salt: what sets prompts apart beside their content (secret of the process, model, adapter, tenant), 64 bits.
        parent: key of the block before ``tokens``; 0 for none.
        start: blocks before ``tokens``; with ``parent`` only.

    Returns:
        One key for each whole block; a rest that fills no block has none.

    Raises:
        ValueError: the block size is below 1, or an id is negative or above 2**32 - 1.
    """
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; expected a positive number of tokens, e.g. 16")
    blocks = len(tokens) // block_size
    if not blocks:
        return _EMPTY
    if isinstance(tokens, np.ndarray) and tokens.dtype == np.uint32:
        ids = tokens[: blocks * block_size]
    else:
        wide = np.asarray(tokens[: blocks * block_size])
        if wide.dtype.kind not in "iu" or wide.ndim != 1 or int(wide.min()) < 0 or int(wide.max()) > 0xFFFFFFFF:
            raise ValueError("tokens has an id that is no integer from 0 to 4294967295; expected ids, e.g. [1, 15043]")
        ids = wide.astype(np.uint32)
    if block_size % 2:
        lanes = ids.reshape(blocks, block_size).astype(np.uint64)
    else:
        lanes = np.ascontiguousarray(ids).view(np.uint64).reshape(blocks, block_size // 2).copy()
    return _chained(lanes, salt, parent, start)


def text_keys(text: bytes, chunk_bytes: int, *, salt: int = 0, parent: int = 0, start: int = 0) -> Keys:
    """Keys of the whole chunks of a prompt in bytes; as ``token_keys``, with ``chunk_bytes`` of a block.

    Raises:
        ValueError: ``chunk_bytes`` is no positive multiple of 8.
    """
    if chunk_bytes < _LANE_BYTES or chunk_bytes % _LANE_BYTES:
        raise ValueError(f"chunk_bytes is {chunk_bytes}; expected a positive multiple of 8, e.g. 64")
    chunks = len(text) // chunk_bytes
    if not chunks:
        return _EMPTY
    lanes = np.frombuffer(text, np.uint64, chunks * chunk_bytes // _LANE_BYTES)
    return _chained(lanes.reshape(chunks, -1).copy(), salt, parent, start)


def apart(keys: Keys, extra: Sequence[Sequence[object] | None]) -> Keys:
    """Keys set apart, from each block on that an engine hashes with more than its tokens, by what that is.

    Args:
        keys: of a chain of blocks, shape (blocks,).
        extra: of the leading blocks, what is hashed with each: plain values and lists of them.
    """
    added = np.zeros(len(keys), np.uint64)
    for at, one in enumerate(extra[: len(keys)]):
        if one:
            added[at] = xxh3_64_intdigest(repr(list(one)).encode("utf-8", "surrogatepass"))
    return keys + np.cumsum(added, dtype=np.uint64) if added.any() else keys


def hashed(identity: str | bytes, secret: bytes) -> int:
    """A session's or tenant's identity as a number from 1 to 2**64 - 1 that tells nothing without the secret.

    Raises:
        ValueError: the secret is longer than 64 bytes.
    """
    if len(secret) > 64:
        raise ValueError(f"secret has {len(secret)} bytes; expected at most 64")
    text = identity.encode("utf-8", "surrogatepass") if isinstance(identity, str) else identity
    return int.from_bytes(blake2b(text, digest_size=8, key=secret).digest(), "little") or 1
